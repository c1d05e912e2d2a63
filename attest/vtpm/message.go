package vtpm

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/internal/tpm"
)

// Bounds of a message.
const (
	maxQuotes = 8
	maxCerts  = 4
	sha256ID  = 0x0b // of tpm.HashAlgo
)

// message is an attest.Attestation.
type message struct {
	akPub, akCert []byte
	intermediates [][]byte
	quote         tpm.Quote // of the SHA-256 bank
	quotes        int       // of that bank
	unread        []string
}

// field is one field of a message: a number, or bytes.
type field struct {
	at, number int
	bytes      []byte
	value      uint64
	numeric    bool
}

// path names a field, for reasons.
func (f field) path() string { return fmt.Sprintf("statement, field %d at byte %d", f.number, f.at) }

func (f field) refuse(got, want string) error {
	return attest.Reason{Code: attest.CodeParseEncoding, Path: f.path(), Got: got, Want: want}
}

// fields reads a message into the two kinds of field that ours consist of. Fields in once may not come again.
func fields(b []byte, once ...int) ([]field, error) {
	var out []field
	for at := 0; at < len(b); {
		num, kind, n := protowire.ConsumeTag(b[at:])
		f := field{at: at, number: int(num)}
		if n < 0 {
			return nil, f.refuse("no tag", "protocol buffers")
		}
		m := 0
		switch kind {
		case protowire.BytesType:
			f.bytes, m = protowire.ConsumeBytes(b[at+n:])
		case protowire.VarintType:
			f.numeric = true
			f.value, m = protowire.ConsumeVarint(b[at+n:])
		default:
			m = -1
		}
		if m < 0 {
			return nil, f.refuse(fmt.Sprintf("wire type %d, cut off or of no use here", kind), "bytes or a number")
		}
		if slices.Contains(once, f.number) && slices.ContainsFunc(out, func(o field) bool { return o.number == f.number }) {
			return nil, f.refuse("again", "once")
		}
		out, at = append(out, f), at+n+m
	}
	return out, nil
}

func parseMessage(b []byte) (*message, error) {
	fs, err := fields(b, 1, 3, 4, 5, 6, 8, 9)
	if err != nil {
		return nil, err
	}
	m := &message{}
	for _, f := range fs {
		if f.numeric {
			return nil, f.refuse("a number", "bytes")
		}
		switch f.number {
		case 1:
			m.akPub = f.bytes
		case 2:
			if err := m.addQuote(f); err != nil {
				return nil, err
			}
		case 3:
			m.quote.EventLog = f.bytes
		case 4: // names the machine, unsigned: the certificate does it better
		case 5:
			m.unread = append(m.unread, "statement.canonical_event_log")
		case 6:
			m.akCert = f.bytes
		case 7:
			m.intermediates = append(m.intermediates, f.bytes)
		case 8, 9:
			m.unread = append(m.unread, "statement.tee_attestation")
		default:
			return nil, f.refuse("unknown", "a field of attest.Attestation")
		}
	}
	if len(m.intermediates) > maxCerts {
		return nil, attest.Reason{Code: attest.CodeParseBounds, Path: "statement.intermediate_certs", Got: fmt.Sprint(len(m.intermediates)), Want: fmt.Sprintf("at most %d", maxCerts)}
	}
	switch {
	case m.quotes == 0:
		return nil, attest.Reason{Code: attest.CodeTPMMissing, Path: "statement.quotes", Got: "none of the SHA-256 bank", Want: "one"}
	case m.quotes > 1:
		return nil, attest.Reason{Code: attest.CodeParseEncoding, Path: "statement.quotes", Got: fmt.Sprintf("%d of the SHA-256 bank", m.quotes), Want: "one"}
	}
	return m, nil
}

// addQuote reads a tpm.Quote, and keeps that of SHA-256.
func (m *message) addQuote(outer field) error {
	fs, err := fields(outer.bytes, 1, 2, 3)
	if err != nil {
		return err
	}
	q, bank := tpm.Quote{}, uint64(0)
	for _, f := range fs {
		switch {
		case f.number == 1 && !f.numeric:
			q.Attest = f.bytes
		case f.number == 2 && !f.numeric:
			q.Signature = f.bytes
		case f.number == 3 && !f.numeric:
			if q.PCRs, bank, err = parsePCRs(f.bytes); err != nil {
				return err
			}
		default:
			return f.refuse("unknown", "a field of tpm.Quote")
		}
	}
	if bank == sha256ID {
		q.EventLog = m.quote.EventLog
		m.quote, m.quotes = q, m.quotes+1
	}
	return nil
}

// parsePCRs reads a tpm.PCRs: the algorithm and a map.
func parsePCRs(b []byte) (map[int][]byte, uint64, error) {
	fs, err := fields(b, 1)
	if err != nil {
		return nil, 0, err
	}
	values, bank := map[int][]byte{}, uint64(0)
	for _, f := range fs {
		switch {
		case f.number == 1 && f.numeric:
			bank = f.value
		case f.number == 2 && !f.numeric:
			index, value, err := parseEntry(f.bytes)
			if err != nil {
				return nil, 0, err
			}
			if _, again := values[index]; again || index > 23 {
				return nil, 0, f.refuse(fmt.Sprintf("register %d", index), "0 to 23, each once")
			}
			values[index] = value
		default:
			return nil, 0, f.refuse("unknown", "a field of tpm.PCRs")
		}
	}
	return values, bank, nil
}

// parseEntry reads an entry of a map; a zero index may be left out.
func parseEntry(b []byte) (index int, value []byte, err error) {
	fs, err := fields(b, 1, 2)
	if err != nil {
		return 0, nil, err
	}
	for _, f := range fs {
		switch {
		case f.number == 1 && f.numeric && f.value < 1<<16:
			index = int(f.value)
		case f.number == 2 && !f.numeric:
			value = f.bytes
		default:
			return 0, nil, f.refuse("unknown or out of bounds", "an index and a value")
		}
	}
	return index, value, nil
}

// attestationKey is the certificate of the key, which has to be the key that the TPM shows beside it, if it shows one.
func (m *message) attestationKey() (*x509.Certificate, error) {
	if len(m.akCert) == 0 {
		return nil, attest.Reason{Code: attest.CodeTPMKey, Path: "statement.ak_cert", Got: "none", Want: "a certificate by Google"}
	}
	c, err := x509.ParseCertificate(m.akCert)
	if err != nil {
		return nil, attest.Reason{Code: attest.CodeTPMKey, Path: "statement.ak_cert", Got: err.Error(), Want: "a certificate"}
	}
	if len(m.akPub) == 0 {
		return c, nil
	}
	shown, err := publicKey(m.akPub)
	if err != nil {
		return nil, attest.Reason{Code: attest.CodeTPMKey, Path: "statement.ak_pub", Got: err.Error(), Want: "a restricted signing key"}
	}
	if !samePublic(c.PublicKey, shown) {
		return nil, attest.Reason{Code: attest.CodeTPMKey, Path: "statement.ak_pub", Got: "another key", Want: "the certificate's"}
	}
	return c, nil
}

// publicKey reads a TPMT_PUBLIC of a key that signs nothing but what the TPM made itself, and that never left it.
func publicKey(b []byte) (key crypto.PublicKey, err error) {
	defer func() {
		if p := recover(); p != nil { // the library walks foreign bytes by reflection
			key, err = nil, fmt.Errorf("not a TPMT_PUBLIC: %T", p)
		}
	}()
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](b)
	if err != nil {
		return nil, err
	}
	if a := public.ObjectAttributes; !a.Restricted || !a.SignEncrypt || a.Decrypt || !a.FixedTPM || !a.FixedParent || !a.SensitiveDataOrigin {
		return nil, fmt.Errorf("attributes %+v", a)
	}
	return tpm2.Pub(*public)
}
