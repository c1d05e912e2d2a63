// Package intake recognises evidence in files by their content: raw reports, quotes and tokens, their hex and base64
// text, reports with certificates after them, the messages of Google's tools, our own records of sessions, and the JSON
// envelopes of the common tools, compressed too. It decides nothing: what it finds is for a verifier to authenticate, so a wrong guess is a
// refusal and never an acceptance.
package intake

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/internal/strict"
)

// MaxFile bounds a file, in bytes: evidence, and an event log.
const MaxFile = attest.MaxEvidence*4/3 + 2*attest.MaxEventLog

const reportSize = 1184

// kind of a piece that was recognised.
type kind int

const (
	nothing kind = iota
	snpReport
	tdxQuote
	hclReport
	token
	tpmAttestation
	evidence
	certificate
	eventLog
	collateral
)

var formats = map[kind]attest.Format{
	snpReport: attest.FormatSNP, tdxQuote: attest.FormatTDX, tpmAttestation: attest.FormatVTPM,
}

// piece is a recognised string of bytes, in its raw form.
type piece struct {
	kind  kind
	b     []byte
	whole attest.Evidence // of the kind evidence
}

// Read finds the evidence in a file, and says in words how it was found.
func Read(b []byte) (attest.Evidence, string, error) {
	if len(b) > MaxFile {
		return attest.Evidence{}, "", fmt.Errorf("recognising evidence: %d bytes, want at most %d", len(b), MaxFile)
	}
	e, how, err := read(b)
	if err != nil {
		return attest.Evidence{}, "", fmt.Errorf("recognising evidence: %w", err)
	}
	return e, how, nil
}

func read(b []byte) (attest.Evidence, string, error) {
	trimmed := bytes.TrimSpace(b)
	if len(trimmed) == 0 {
		return attest.Evidence{}, "", errors.New("the file is empty")
	}
	s := search{room: MaxFile}
	how := "raw"
	switch {
	case s.json(trimmed, 0):
		how = "a JSON envelope"
	case s.bytes(b, 0):
	case isToken(trimmed) && s.bytes(trimmed, 0):
	case s.bytes(text(trimmed), 0):
		how = "text"
	case s.textMessage(trimmed):
		how = "a message in text"
	}
	if s.err != nil {
		return attest.Evidence{}, "", s.err
	}
	e, err := assemble(s.pieces)
	if errors.Is(err, errNoStatement) {
		return e, "", fmt.Errorf("%s; known are %s", found(trimmed, s.pieces), shapes)
	}
	return e, describe(e, how), err
}

// shapes tells of what is recognised.
const shapes = "SNP reports, TDX quotes, HCL reports, Confidential Space tokens, records of sessions and the messages of go-sev-guest, go-tdx-guest and go-tpm-tools: raw, in hex or base64, with certificates after them, or in JSON"

// found says what is there in place of evidence.
func found(b []byte, ps []piece) string {
	n := map[kind]int{}
	for _, p := range ps {
		n[p.kind]++
	}
	var object map[string]json.RawMessage
	switch {
	case n[eventLog] > 0:
		return "an event log without the report, quote or TPM attestation whose registers it explains"
	case n[certificate] > 0:
		return fmt.Sprintf("%d certificates, which belong to the trust, and no report beside them", n[certificate])
	case n[collateral] > 0:
		return "collateral of Intel's, which belongs to the trust, and no quote beside it"
	case len(b) == 1024 && b[0] == 0x81:
		return "a TDREPORT, which its own machine alone can verify: a quote of it is wanted"
	case json.Unmarshal(b, &object) == nil:
		names := slices.Sorted(maps.Keys(object))
		return fmt.Sprintf("a JSON object with %.40q, which holds no report, quote or token", names[:min(len(names), 12)])
	case bytes.HasPrefix(b, []byte("-----BEGIN ")):
		kind, _, _ := bytes.Cut(b[len("-----BEGIN "):], []byte("-----"))
		return fmt.Sprintf("PEM of %.40q", kind)
	}
	return fmt.Sprintf("%d bytes that begin with %x", len(b), b[:min(len(b), 4)]) // and no more: it may be a secret
}

// raw recognises bytes that begin with a statement, and a record of a session, as an output folder keeps it.
func raw(b []byte) []piece {
	if len(b) > 0 && b[0] == mapOfFive {
		if r, err := attest.ParseRecord(b); err == nil && r.Evidence.Format != "" {
			return []piece{{kind: evidence, whole: r.Evidence}}
		}
	}
	switch {
	case bytes.HasPrefix(b, []byte("HCLA")):
		return []piece{{kind: hclReport, b: b}}
	case isToken(b):
		return []piece{{kind: token, b: bytes.TrimRight(b, "\r\n")}} // of the file, not of the token
	case isQuote(b):
		return []piece{{kind: tdxQuote, b: b}}
	case isReport(b):
		return report(b)
	}
	return binaryMessage(b)
}

// mapOfFive is what a record begins with: a map of its five fields in CBOR (RFC 8949, section 3.1).
const mapOfFive = 0xa5

// isReport looks at version, signature algorithm and the guest policy's bit that is always one. A cut report is one
// too: the verifier says what is wrong with it.
func isReport(b []byte) bool {
	if len(b) < 0x38 {
		return false
	}
	version, algorithm := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[0x34:])
	return version >= 1 && version <= 9 && algorithm <= 2 && b[0x0a]&0x02 != 0 && b[0x0c]|b[0x0d]|b[0x0e]|b[0x0f] == 0
}

// isQuote looks at the header of an Intel quote: version, kind of key, kind of TEE.
func isQuote(b []byte) bool {
	if len(b) < 48 {
		return false
	}
	version, key, tee := binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint16(b[2:]), binary.LittleEndian.Uint32(b[4:])
	return version >= 3 && version <= 9 && (key == 2 || key == 3) && (tee == 0x81 || tee == 0 && bytes.Equal(b[12:28], intelQE))
}

// intelQE is the vendor id of Intel's quoting enclave.
var intelQE = []byte{0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07}

func isToken(b []byte) bool {
	b = bytes.TrimRight(b, "\r\n")
	if !bytes.HasPrefix(b, []byte("eyJ")) || bytes.Count(b, []byte(".")) != 2 {
		return false
	}
	return bytes.IndexFunc(b, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.=", r)
	}) < 0
}

// tokenFormat tells a token that names its key from one with certificates, which it is also where its header cannot be
// read.
func tokenFormat(b []byte) attest.Format {
	var header map[string]json.RawMessage
	head, _, _ := bytes.Cut(b, []byte("."))
	raw, err := base64.RawURLEncoding.DecodeString(string(head))
	if err == nil && json.Unmarshal(raw, &header) == nil && header["kid"] != nil && header["x5c"] == nil {
		return attest.FormatCSOIDC
	}
	return attest.FormatCSPKI
}

// report splits what follows a report off, if that is certificates and nothing else.
func report(b []byte) []piece {
	if len(b) <= reportSize {
		return []piece{{kind: snpReport, b: b}}
	}
	if certs := certificates(b[reportSize:]); certs != nil {
		return append([]piece{{kind: snpReport, b: b[:reportSize]}}, certs...)
	}
	return []piece{{kind: snpReport, b: b}}
}

// certificates reads a table of the host (GHCB specification, section 4.1.8.1), PEM blocks, or DER after DER.
func certificates(b []byte) []piece {
	if ps := table(b); ps != nil {
		return ps
	}
	var ps []piece
	for rest := bytes.TrimSpace(b); len(rest) > 0; {
		block, after, ok := strict.PEM(rest)
		if !ok || block.Type != "CERTIFICATE" || len(ps) == maxPieces {
			ps = nil
			break
		}
		ps = append(ps, piece{kind: certificate, b: block.Bytes})
		rest = bytes.TrimSpace(after)
	}
	if ps != nil {
		return ps
	}
	for len(b) > 0 {
		n := derLength(b)
		if n == 0 || len(ps) == maxPieces {
			return nil
		}
		ps = append(ps, piece{kind: certificate, b: b[:n]})
		b = b[n:]
	}
	return ps
}

// derLength is the length of the DER sequence of a certificate at the start of b, zero for anything else.
func derLength(b []byte) int {
	if len(b) < 4 || b[0] != 0x30 || b[1] != 0x82 {
		return 0
	}
	if n := 4 + int(binary.BigEndian.Uint16(b[2:])); n <= len(b) {
		return n
	}
	return 0
}

// table reads entries of a GUID, an offset and a length, which end with zeros.
func table(b []byte) []piece {
	const entry = 24
	var ps []piece
	for at := 0; at+entry <= len(b); at += entry {
		e := b[at : at+entry]
		if bytes.Equal(e, make([]byte, entry)) {
			return ps
		}
		offset, length := uint64(binary.LittleEndian.Uint32(e[16:])), uint64(binary.LittleEndian.Uint32(e[20:]))
		if offset+length > uint64(len(b)) || length == 0 || len(ps) == 16 {
			return nil
		}
		c := b[offset : offset+length]
		if derLength(c) != len(c) {
			continue // a certificate revocation list, or what another vendor put there
		}
		ps = append(ps, piece{kind: certificate, b: c})
	}
	return nil
}

// isEventLog looks for the first event of a crypto-agile log, whose signature every log begins with (TCG PC Client
// Platform Firmware Profile, section 10.4.5.1).
func isEventLog(b []byte) bool {
	return len(b) > 48 && bytes.Equal(b[32:47], []byte("Spec ID Event03"))
}

// text decodes hex, or base64 of either alphabet. What is short is a name or a number.
func text(b []byte) []byte {
	const short = 64
	s := strings.Map(func(r rune) rune {
		if r == '\n' || r == '\r' || r == ' ' || r == '\t' {
			return -1
		}
		return r
	}, string(bytes.TrimPrefix(bytes.TrimPrefix(b, []byte("0x")), []byte("0X"))))
	if len(s) < short {
		return nil
	}
	if d, err := hex.DecodeString(s); err == nil {
		return d
	}
	s = strings.TrimRight(s, "=")
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if d, err := enc.DecodeString(s); err == nil {
			return d
		}
	}
	return nil
}

var errNoStatement = errors.New("no report, quote or token")

// assemble makes evidence of one statement and what came along.
func assemble(ps []piece) (attest.Evidence, error) {
	e := attest.Evidence{Endorsements: map[string][]byte{}}
	for _, p := range ps {
		s := p.statement()
		switch {
		case s.Format == "":
		case e.Format == "":
			e.Format, e.Statement = s.Format, s.Statement
			maps.Copy(e.Endorsements, s.Endorsements)
		case !bytes.Equal(e.Statement, s.Statement):
			return attest.Evidence{}, errors.New("there is more than one report, quote or token in it: one a file")
		}
	}
	if e.Format == "" {
		return e, errNoStatement
	}
	for _, p := range ps {
		if name := p.role(e.Format); name != "" && e.Endorsements[name] == nil {
			e.Endorsements[name] = p.b
		}
	}
	return e, nil
}

// statement is what a piece is evidence of, empty for what only comes along.
func (p piece) statement() attest.Evidence {
	switch p.kind {
	case evidence:
		return p.whole
	case hclReport:
		if overTDX(p.b) {
			return attest.Evidence{Format: attest.FormatAzureTDX, Statement: p.b}
		}
		return attest.Evidence{Format: attest.FormatAzureSNP, Statement: p.b}
	case token:
		return attest.Evidence{Format: tokenFormat(p.b), Statement: p.b}
	}
	return attest.Evidence{Format: formats[p.kind], Statement: p.b}
}

// role is the name among the endorsements of what came along with a statement.
func (p piece) role(f attest.Format) string {
	if f == attest.FormatCSPKI || f == attest.FormatCSOIDC {
		return "" // a token has all that it needs in it
	}
	switch p.kind {
	case certificate:
		return roleOf(p.b)
	case collateral:
		return "collateral"
	case eventLog:
		if f == attest.FormatTDX {
			return attest.CCEL
		}
		return attest.EventLog
	}
	return ""
}

// overTDX looks at the type of report in an HCL report's runtime data.
func overTDX(hcl []byte) bool {
	const at = 32 + reportSize + 8
	return len(hcl) >= at+4 && binary.LittleEndian.Uint32(hcl[at:]) == 4
}

// roleOf names a certificate of AMD's by its subject; others are in the snapshot or in the evidence itself.
func roleOf(der []byte) string {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return ""
	}
	switch cn := c.Subject.CommonName; {
	case cn == "SEV-VCEK":
		return "vcek"
	case cn == "SEV-VLEK":
		return "vlek"
	case strings.HasPrefix(cn, "SEV-"):
		return "ask"
	case strings.HasPrefix(cn, "ARK-"):
		return "ark"
	}
	return ""
}

func describe(e attest.Evidence, how string) string {
	names := slices.Sorted(maps.Keys(e.Endorsements))
	if len(names) == 0 {
		return how
	}
	return how + ", with " + strings.Join(names, ", ")
}
