package vtpm

import (
	"context"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"

	"github.com/google/go-tpm/tpm2/transport"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/internal/tpm"
	"github.com/consilium-fl/consilium/attest/window"
)

// keys are the NV indices at which Google Compute Engine keeps the certificate of an attestation key, and the template
// that the key is made from: RSA, then P-256.
var keys = [...]struct{ certificate, template uint32 }{{0x01c10000, 0x01c10001}, {0x01c10002, 0x01c10003}}

type attester struct {
	open func() (transport.TPMCloser, error)
	log  string // path
	busy chan struct{}
}

// NewAttester finds the virtual TPM of a machine of Google Compute Engine; on other machines it is an error.
func NewAttester() (attest.Attester, error) {
	a := newAttester(tpm.Open, tpm.EventLogPath)
	t, err := a.open()
	if err != nil {
		return nil, err
	}
	defer t.Close()
	if _, _, err := certificate(t); err != nil {
		return nil, err
	}
	return window.New(a.over), nil
}

func newAttester(open func() (transport.TPMCloser, error), log string) attester {
	return attester{open: open, log: log, busy: make(chan struct{}, 1)}
}

// over makes one quote. The nonce has room for half of the report data.
func (a attester) over(ctx context.Context, data [64]byte) (attest.Evidence, error) {
	e, err := a.attest(ctx, data)
	if err != nil {
		return attest.Evidence{}, fmt.Errorf("attesting by the virtual TPM: %w", err)
	}
	return e, nil
}

func (a attester) attest(ctx context.Context, data [64]byte) (attest.Evidence, error) {
	select {
	case a.busy <- struct{}{}: // a TPM does one thing at a time, and has room for few keys
		defer func() { <-a.busy }()
	case <-ctx.Done():
		return attest.Evidence{}, ctx.Err()
	}
	m, err := a.quote(data[:32])
	if err != nil {
		return attest.Evidence{}, err
	}
	log, err := tpm.ReadEventLog(a.log)
	if err != nil {
		return attest.Evidence{}, err
	}
	e := attest.Evidence{Format: attest.FormatVTPM, Statement: m.encode()}
	if len(log) > 0 {
		e.Endorsements = map[string][]byte{attest.EventLog: log}
	}
	return e, nil
}

func (a attester) quote(nonce []byte) (m *message, err error) {
	t, err := a.open()
	if err != nil {
		return nil, err
	}
	defer t.Close()
	cert, template, err := certificate(t)
	if err != nil {
		return nil, err
	}
	key, err := tpm.PrimaryKey(t, template)
	if err != nil {
		return nil, err
	}
	defer func() {
		if ferr := key.Flush(t); err == nil {
			err = ferr
		}
	}()
	m = &message{akPub: key.Public, akCert: cert}
	if _, err := m.attestationKey(); err != nil {
		return nil, err
	}
	m.quote, err = key.Quote(t, nonce)
	return m, err
}

// certificate reads the first that there is, and the template of its key.
func certificate(t transport.TPM) (cert, template []byte, err error) {
	for _, k := range keys {
		if template, err = tpm.ReadNV(t, k.template); err != nil {
			continue
		}
		if cert, err = tpm.ReadNV(t, k.certificate); err != nil {
			continue
		}
		if _, err = x509.ParseCertificate(cert); err == nil {
			return cert, template, nil
		}
	}
	return nil, nil, fmt.Errorf("finding Google's certificate of an attestation key: %w", err)
}

// encode writes an attest.Attestation. The log travels beside it, for it may be longer than a statement.
func (m *message) encode() []byte {
	var pcrs, quote, out []byte
	field := func(b []byte, number protowire.Number, value []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(b, number, protowire.BytesType), value)
	}
	number := func(b []byte, n protowire.Number, value uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), value)
	}
	pcrs = number(pcrs, 1, sha256ID)
	for _, i := range slices.Sorted(maps.Keys(m.quote.PCRs)) {
		pcrs = field(pcrs, 2, field(number(nil, 1, uint64(i)), 2, m.quote.PCRs[i]))
	}
	quote = field(field(field(quote, 1, m.quote.Attest), 2, m.quote.Signature), 3, pcrs)
	out = field(field(out, 1, m.akPub), 2, quote)
	return field(out, 6, m.akCert)
}
