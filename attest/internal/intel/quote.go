package intel

import (
	"encoding/binary"
	"fmt"

	"github.com/consilium-fl/consilium/attest"
)

// maxQuote is the most that a quote has, its padding included; the buffer that Linux gives the quoting enclave
// takes 8 KiB with its header.
const maxQuote = 8000

// Sizes of the parts of a quote (Intel TDX DCAP Quoting Library API, appendix A.3).
const (
	headerSize   = 48
	bodySize10   = 584
	bodySize15   = 648
	signatureLen = 64
	keyLen       = 64
	qeReportSize = 384
)

const (
	teeTDX      = 0x81
	keyP256     = 2 // attestation key type: ECDSA-256-with-P-256
	certQE      = 6 // certification data: QE report
	certChain   = 5 // certification data: PCK chain as PEM
	bodyTDX10   = 2
	bodyTDX15   = 3
	intelQEUUID = "\x93\x9a\x72\x33\xf7\x9c\x4c\xa9\x94\x0a\x0d\xb3\x95\x7f\x06\x07"
)

// quote points into the bytes it was read from.
type quote struct {
	version   int
	signed    []byte // header and body
	body      []byte
	signature []byte // r ‖ s by the attestation key
	key       []byte // x ‖ y
	qeReport  []byte
	qeSig     []byte // r ‖ s by the PCK
	qeAuth    []byte
	chain     []byte // PEM
}

// parser walks over b. Its errors name the field and where it begins.
type parser struct {
	b   []byte
	off int
}

func (p *parser) rest() int { return len(p.b) - p.off }

// take returns the next n bytes, which the caller has made sure of.
func (p *parser) take(n int) []byte {
	out := p.b[p.off : p.off+n : p.off+n]
	p.off += n
	return out
}

func (p *parser) u16() int { return int(binary.LittleEndian.Uint16(p.take(2))) }

func (p *parser) u32() int { return int(binary.LittleEndian.Uint32(p.take(4))) }

func reason(code, path, got, want string) attest.Reason {
	return attest.Reason{Code: code, Path: path, Got: got, Want: want}
}

// at is a reason about a field of size bytes that was just read.
func (p *parser) at(code, field string, size, got int, want string) error {
	return reason(code, "quote."+field, fmt.Sprintf("%d at offset 0x%x", got, p.off-size), want)
}

func (p *parser) need(code, field string, n int) error {
	if p.rest() < n {
		return reason(code, "quote."+field, fmt.Sprintf("%d bytes at offset 0x%x", p.rest(), p.off), fmt.Sprintf("at least %d", n))
	}
	return nil
}

// parseQuote takes a TD quote of version 4 or 5, strictly.
func parseQuote(b []byte) (*quote, error) {
	p := &parser{b: b}
	q := &quote{}
	for _, step := range []func(*parser) error{q.parseHeader, q.parseBody, q.parseSignature, parseTail} {
		if err := step(p); err != nil {
			return nil, err
		}
	}
	return q, nil
}

func (q *quote) parseHeader(p *parser) error {
	if err := p.need(attest.CodeParseLength, "version", 2); err != nil {
		return err
	}
	switch q.version = p.u16(); q.version {
	case 3: // which is for SGX alone
		return p.at(attest.CodeTEEType, "version", 2, q.version, "4 or 5, of a TD")
	case 4, 5:
	default:
		return p.at(attest.CodeParseVersion, "version", 2, q.version, "4 or 5")
	}
	if err := p.need(attest.CodeParseLength, "header", headerSize-2); err != nil {
		return err
	}
	keyType := p.u16()
	if tee := p.u32(); tee != teeTDX {
		return p.at(attest.CodeTEEType, "tee_type", 4, tee, "129, a TD")
	}
	if keyType != keyP256 {
		p.off -= 4
		return p.at(attest.CodeSigAlgo, "att_key_type", 2, keyType, "2, ECDSA with P-256")
	}
	p.take(4) // reserved, and signed
	if id := p.take(16); string(id) != intelQEUUID {
		return reason(attest.CodeParseSigner, "quote.qe_vendor_id", fmt.Sprintf("%x", id), fmt.Sprintf("%x", intelQEUUID))
	}
	p.take(20) // user data
	return nil
}

func (q *quote) parseBody(p *parser) error {
	size := bodySize10
	if q.version == 5 {
		if err := p.need(attest.CodeParseLength, "body_type", 6); err != nil {
			return err
		}
		kind := p.u16()
		switch kind {
		case bodyTDX10:
		case bodyTDX15:
			size = bodySize15
		default:
			return p.at(attest.CodeParseBody, "body_type", 2, kind, "2 or 3")
		}
		if n := p.u32(); n != size {
			return p.at(attest.CodeParseBounds, "body_size", 4, n, fmt.Sprint(size))
		}
	}
	if err := p.need(attest.CodeParseLength, "body", size); err != nil {
		return err
	}
	q.body = p.take(size)
	q.signed = p.b[:p.off:p.off]
	return nil
}

// parseSignature takes the signature with its certification data, each of which fills the one around it.
func (q *quote) parseSignature(p *parser) error {
	if err := p.need(attest.CodeParseLength, "signature_size", 4); err != nil {
		return err
	}
	n := p.u32()
	if n > p.rest() {
		return p.at(attest.CodeParseLength, "signature_size", 4, n, fmt.Sprintf("at most %d", p.rest()))
	}
	in := &parser{b: p.b[:p.off+n], off: p.off}
	p.off += n
	if err := in.need(attest.CodeParseBounds, "signature", signatureLen+keyLen+6); err != nil {
		return err
	}
	q.signature, q.key = in.take(signatureLen), in.take(keyLen)
	if err := in.certification("certification", certQE); err != nil {
		return err
	}
	if err := in.need(attest.CodeParseBounds, "qe_report", qeReportSize+signatureLen+2); err != nil {
		return err
	}
	q.qeReport, q.qeSig = in.take(qeReportSize), in.take(signatureLen)
	auth := in.u16()
	if auth > in.rest() {
		return in.at(attest.CodeParseBounds, "qe_auth_size", 2, auth, fmt.Sprintf("at most %d", in.rest()))
	}
	q.qeAuth = in.take(auth)
	if err := in.need(attest.CodeParseBounds, "pck_certification", 6); err != nil {
		return err
	}
	if err := in.certification("pck_certification", certChain); err != nil {
		return err
	}
	q.chain = in.take(in.rest())
	return nil
}

// certification reads the header of certification data that fills all that is left.
func (p *parser) certification(field string, want int) error {
	if kind := p.u16(); kind != want {
		return p.at(attest.CodeParseBody, field+"_type", 2, kind, fmt.Sprint(want))
	}
	if n := p.u32(); n != p.rest() {
		return p.at(attest.CodeParseBounds, field+"_size", 4, n, fmt.Sprint(p.rest()))
	}
	return nil
}

// parseTail takes the padding, which nobody signed.
func parseTail(p *parser) error {
	if len(p.b) > maxQuote {
		return reason(attest.CodeParseTail, "quote", fmt.Sprintf("%d bytes", len(p.b)), fmt.Sprintf("at most %d", maxQuote))
	}
	for i, b := range p.b[p.off:] {
		if b != 0 {
			return reason(attest.CodeParseTail, "quote.tail", fmt.Sprintf("0x%02x at offset 0x%x", b, p.off+i), "zeros")
		}
	}
	return nil
}

// claims are what the body says (appendix A.3.2); of version 1.5, two fields more.
func (q *quote) claims() attest.Claims {
	p := &parser{b: q.body}
	t := &attest.TDXClaims{QuoteVersion: q.version}
	t.TEETCBSVN = p.take(16)
	t.MRSEAM = p.take(48)
	t.MRSignerSEAM = p.take(48)
	t.SEAMAttributes = p.take(8)
	t.Attributes = p.take(8)
	t.XFAM = p.take(8)
	mrtd := [48]byte(p.take(48))
	t.MRConfigID = p.take(48)
	t.MROwner = p.take(48)
	t.MROwnerConfig = p.take(48)
	for i := range t.RTMR {
		t.RTMR[i] = p.take(48)
	}
	c := attest.Claims{Format: attest.FormatTDX, Measurement: attest.SHA384Measurement(mrtd), TDX: t}
	c.ReportData = [64]byte(p.take(64))
	if p.rest() > 0 {
		t.TEETCBSVN2 = p.take(16)
		t.MRServiceTD = p.take(48)
	}
	// Bits 0 to 7 are the group "TD under debug" (TDX module ABI, ATTRIBUTES): any of them opens the TD.
	c.Debug = t.Attributes[0] != 0
	return c
}

// moduleVersion is the major version of the TDX module; with 0 the platform's level covers it.
func (q *quote) moduleVersion() byte { return q.body[1] }

func (q *quote) moduleSVN() byte { return q.body[0] }
