package tpm

import (
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/consilium-fl/consilium/attest"
)

// Bind takes the nonce of a quote for report data, where the quote is all that the binding is in. It has room for the
// first 32 bytes, which half then says, or for fewer where whoever asked sent fewer.
func Bind(nonce []byte, in attest.Inputs) (data [64]byte, half bool, err error) {
	switch {
	case len(nonce) == 0:
		return data, false, attest.Reason{Code: attest.CodeFreshness, Path: "tpm-quote.extra_data", Got: "none", Want: "a nonce"}
	case len(nonce) > len(data):
		return data, false, attest.Reason{Code: attest.CodeTPMNonce, Path: "tpm-quote.extra_data", Got: fmt.Sprintf("%d bytes", len(nonce)), Want: "at most 64"}
	}
	copy(data[:], nonce)
	half = len(nonce) == 32
	want := data
	if in.ReportData != nil {
		want = *in.ReportData
	}
	if half && [32]byte(want[:]) == [32]byte(data[:]) || want == data {
		return data, half, nil
	}
	// Check would say binding.mismatch alone; where the TPM holds the binding, the quote is what is wrong.
	got, wanted := hex.EncodeToString(data[:8])+"…", hex.EncodeToString(want[:8])+"…"
	return data, half, errors.Join(
		attest.Reason{Code: attest.CodeTPMNonce, Path: "tpm-quote.extra_data", Got: got, Want: wanted},
		attest.Reason{Code: attest.CodeBindingMismatch, Path: "report_data", Got: got, Want: wanted},
	)
}
