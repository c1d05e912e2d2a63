// Package tpm verifies TPM 2.0 quotes and replays the firmware's event log. It takes the SHA-256 bank of registers
// and signatures over SHA-256, by RSASSA or ECDSA on P-256, and no others.
package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"strconv"

	"github.com/consilium-fl/consilium/attest"
)

// Bounds of the parts of a quote, in bytes. The TPM's own structures are smaller.
const (
	maxAttest = 1 << 10
	maxName   = 68 // of TPM2B_NAME: the longest digest with its algorithm
	maxNonce  = 66 // of TPM2B_DATA: a TPMT_HA
	pcrs      = 24 // registers of a PC
)

// Constants of the TPM 2.0 Library, part 2.
const (
	generated = 0xff544347 // TPM_GENERATED_VALUE: what a TPM puts before what it made itself, and signs for nobody else
	quoted    = 0x8018     // TPM_ST_ATTEST_QUOTE
	algSHA256 = 0x000b
	algRSASSA = 0x0014
	algECDSA  = 0x0018
)

// Quote is a TPM's statement about its registers, as it travels.
type Quote struct {
	Attest    []byte         // TPMS_ATTEST
	Signature []byte         // TPMT_SIGNATURE, or the bare signature of an RSA key
	PCRs      map[int][]byte // the SHA-256 bank: what the TPM signs is a digest of it
	EventLog  []byte         // empty for none
}

// Verify checks a quote by the attestation key that somebody else vouches for. The claims are set as soon as the quote
// parses; beside an error they are not to be trusted. The nonce is the caller's to compare.
func (q Quote) Verify(key crypto.PublicKey) (*attest.TPMClaims, error) {
	a, err := parse(q.Attest)
	if err != nil {
		return nil, errors.Join(err, verifySignature(key, q.Attest, q.Signature))
	}
	c := &attest.TPMClaims{Nonce: a.nonce, Firmware: fmt.Sprintf("%016x", a.firmware), Resets: a.resets, Restarts: a.restarts}
	errs := []error{verifySignature(key, q.Attest, q.Signature)}
	c.PCRs, err = a.registers(q.PCRs)
	errs = append(errs, err)
	if len(q.EventLog) > 0 {
		c.EventLog, err = replay(q.EventLog, c.PCRs)
		errs = append(errs, err)
	}
	return c, errors.Join(errs...)
}

// attestation is a TPMS_ATTEST of a quote (part 2, section 10.12.8).
type attestation struct {
	nonce            []byte
	resets, restarts uint32
	firmware         uint64
	selected         []int
	digest           []byte
}

func parse(b []byte) (attestation, error) {
	var a attestation
	r := reader{name: "tpm-quote", code: attest.CodeTPMParse, order: binary.BigEndian, rest: b}
	if len(b) > maxAttest {
		return a, r.bad("", fmt.Sprintf("%d bytes", len(b)), fmt.Sprintf("at most %d", maxAttest))
	}
	r.expect("magic", uint64(r.u32()), generated)
	r.expect("type", uint64(r.u16()), quoted)
	r.sized("qualified_signer", maxName)
	a.nonce = r.sized("extra_data", maxNonce)
	r.u64() // clock, in milliseconds
	a.resets, a.restarts = r.u32(), r.u32()
	if safe := r.u8(); safe > 1 {
		r.fail("clock_info.safe", strconv.Itoa(int(safe)), "0 or 1")
	}
	a.firmware = r.u64()
	a.selected = r.selection()
	a.digest = r.sized("pcr_digest", sha256.Size)
	return a, r.end()
}

// selection reads a TPML_PCR_SELECTION of one bank, SHA-256.
func (r *reader) selection() []int {
	if n := r.u32(); n != 1 {
		r.failWith(attest.CodeTPMPCRs, "pcr_select.count", strconv.Itoa(int(n)), "1, the SHA-256 bank")
		return nil
	}
	if alg := r.u16(); alg != algSHA256 {
		r.failWith(attest.CodeTPMPCRs, "pcr_select.hash", fmt.Sprintf("%#04x", alg), "0x000b, SHA-256")
		return nil
	}
	r.expect("pcr_select.size", uint64(r.u8()), pcrs/8)
	var out []int
	for i, bits := range r.take(pcrs / 8) {
		for bit := range 8 {
			if bits>>bit&1 == 1 {
				out = append(out, 8*i+bit)
			}
		}
	}
	return out
}

// registers are those that were quoted, if their digest is the one that was signed.
func (a attestation) registers(shown map[int][]byte) (map[int]attest.HexBytes, error) {
	out := make(map[int]attest.HexBytes, len(a.selected))
	h := sha256.New()
	for _, i := range a.selected {
		v := shown[i]
		if len(v) != sha256.Size {
			return nil, attest.Reason{Code: attest.CodeTPMPCRs, Path: fmt.Sprintf("tpm-pcrs[%d]", i), Got: fmt.Sprintf("%d bytes", len(v)), Want: "32"}
		}
		h.Write(v)
		out[i] = v
	}
	if got := h.Sum(nil); !bytes.Equal(got, a.digest) {
		return out, attest.Reason{Code: attest.CodeTPMPCRs, Path: "tpm-pcrs", Got: hex.EncodeToString(got), Want: hex.EncodeToString(a.digest) + ", which was quoted"}
	}
	return out, nil
}

// verifySignature takes RSA of 2048 to 4096 bits and P-256.
func verifySignature(key crypto.PublicKey, signed, sig []byte) error {
	digest := sha256.Sum256(signed)
	switch k := key.(type) {
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < 2048 || bits > 4096 {
			return attest.Reason{Code: attest.CodeTPMKey, Path: "ak", Got: fmt.Sprintf("RSA of %d bits", bits), Want: "2048 to 4096"}
		}
		raw, err := rsaSignature(sig, k.Size())
		if err != nil {
			return err
		}
		if rsa.VerifyPKCS1v15(k, crypto.SHA256, digest[:], raw) != nil {
			return attest.Reason{Code: attest.CodeTPMSignature, Path: "tpm-signature", Got: "not by the attestation key"}
		}
		return nil
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return attest.Reason{Code: attest.CodeTPMKey, Path: "ak", Got: k.Params().Name, Want: "P-256"}
		}
		der, err := ecdsaSignature(sig)
		if err != nil {
			return err
		}
		if !ecdsa.VerifyASN1(k, digest[:], der) {
			return attest.Reason{Code: attest.CodeTPMSignature, Path: "tpm-signature", Got: "not by the attestation key"}
		}
		return nil
	}
	return attest.Reason{Code: attest.CodeTPMKey, Path: "ak", Got: fmt.Sprintf("%T", key), Want: "RSA or ECDSA"}
}

// rsaSignature takes a TPMT_SIGNATURE apart (part 2, section 11.3.4), or leaves a bare signature as it is: the
// attestation key's length tells them apart.
func rsaSignature(sig []byte, size int) ([]byte, error) {
	if len(sig) == size {
		return sig, nil
	}
	r := reader{name: "tpm-signature", code: attest.CodeTPMSignature, order: binary.BigEndian, rest: sig}
	r.expect("scheme", uint64(r.u16()), algRSASSA)
	r.expect("hash", uint64(r.u16()), algSHA256)
	raw := r.sized("sig", size)
	if len(raw) != size {
		r.fail("sig", fmt.Sprintf("%d bytes", len(raw)), strconv.Itoa(size))
	}
	return raw, r.end()
}

// ecdsaSignature turns a TPMT_SIGNATURE into DER.
func ecdsaSignature(sig []byte) ([]byte, error) {
	r := reader{name: "tpm-signature", code: attest.CodeTPMSignature, order: binary.BigEndian, rest: sig}
	r.expect("scheme", uint64(r.u16()), algECDSA)
	r.expect("hash", uint64(r.u16()), algSHA256)
	x, y := r.sized("r", 32), r.sized("s", 32)
	if err := r.end(); err != nil {
		return nil, err
	}
	return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(x), new(big.Int).SetBytes(y)})
}

// EncodePCRs writes a bank whole: 24 values of 32 bytes in order, zeros for a register that is absent.
func EncodePCRs(values map[int][]byte) []byte {
	out := make([]byte, pcrs*sha256.Size)
	for i, v := range values {
		if i >= 0 && i < pcrs {
			copy(out[i*sha256.Size:(i+1)*sha256.Size], v)
		}
	}
	return out
}

// DecodePCRs reads what EncodePCRs wrote.
func DecodePCRs(b []byte) (map[int][]byte, error) {
	if len(b) != pcrs*sha256.Size {
		return nil, attest.Reason{Code: attest.CodeTPMPCRs, Path: "tpm-pcrs", Got: fmt.Sprintf("%d bytes", len(b)), Want: strconv.Itoa(pcrs * sha256.Size)}
	}
	out := make(map[int][]byte, pcrs)
	for i := range pcrs {
		out[i] = b[i*sha256.Size : (i+1)*sha256.Size]
	}
	return out, nil
}
