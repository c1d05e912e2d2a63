// Package intake recognises evidence in files by their content: raw reports, quotes and tokens, their hex and base64
// text, reports with certificates after them, and the JSON envelopes of the common tools. It decides nothing: what it
// finds is for a verifier to authenticate, so a wrong guess is a refusal and never an acceptance.
package intake

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/consilium-fl/consilium/attest"
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
	certificate
	eventLog
)

var formats = map[kind]attest.Format{
	snpReport: attest.FormatSNP, tdxQuote: attest.FormatTDX, hclReport: attest.FormatAzureSNP, token: attest.FormatCSPKI, tpmAttestation: attest.FormatVTPM,
}

// piece is a recognised string of bytes, in its raw form.
type piece struct {
	kind kind
	b    []byte
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
	if trimmed[0] == '{' && json.Valid(trimmed) {
		return envelope(trimmed)
	}
	if ps := raw(b); ps != nil {
		return assemble(ps, "raw")
	}
	if decoded := text(trimmed); decoded != nil {
		if ps := raw(decoded); ps != nil {
			return assemble(ps, "text")
		}
	}
	return attest.Evidence{}, "", fmt.Errorf("%d bytes that are no report, quote, token or envelope known here", len(b))
}

// raw recognises bytes that begin with a statement.
func raw(b []byte) []piece {
	switch {
	case bytes.HasPrefix(b, []byte("HCLA")):
		return []piece{{hclReport, b}}
	case isToken(b):
		return []piece{{token, bytes.TrimRight(b, "\r\n")}} // of the file, not of the token
	case isQuote(b):
		return []piece{{tdxQuote, b}}
	case isReport(b):
		return report(b)
	case isTPMAttestation(b):
		return []piece{{tpmAttestation, b}}
	}
	return nil
}

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

// report splits what follows a report off, if that is certificates and nothing else.
func report(b []byte) []piece {
	if len(b) <= reportSize {
		return []piece{{snpReport, b}}
	}
	if certs := certificates(b[reportSize:]); certs != nil {
		return append([]piece{{snpReport, b[:reportSize]}}, certs...)
	}
	return []piece{{snpReport, b}}
}

// certificates reads a table of the host (GHCB specification, section 4.1.8.1), PEM blocks, or DER after DER.
func certificates(b []byte) []piece {
	if ps := table(b); ps != nil {
		return ps
	}
	var ps []piece
	for rest := bytes.TrimSpace(b); len(rest) > 0; {
		block, after := pem.Decode(rest)
		if block == nil || block.Type != "CERTIFICATE" || !bytes.HasPrefix(rest, []byte("-----BEGIN")) {
			ps = nil
			break
		}
		ps = append(ps, piece{certificate, block.Bytes})
		rest = bytes.TrimSpace(after)
	}
	if ps != nil {
		return ps
	}
	for len(b) > 0 {
		n := derLength(b)
		if n == 0 {
			return nil
		}
		ps = append(ps, piece{certificate, b[:n]})
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
		ps = append(ps, piece{certificate, c})
	}
	return nil
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

// assemble makes evidence of one statement and what came along.
func assemble(ps []piece, how string) (attest.Evidence, string, error) {
	var e attest.Evidence
	statements := 0
	var certs [][]byte
	var log []byte
	for _, p := range ps {
		switch p.kind {
		case certificate:
			certs = append(certs, p.b)
		case eventLog:
			log = p.b
		default:
			if e.Format == "" {
				e.Format, e.Statement = formats[p.kind], p.b
			}
			if !bytes.Equal(e.Statement, p.b) {
				statements++
			}
		}
	}
	switch {
	case e.Format == "":
		return e, "", errors.New("there is no report, quote or token in it")
	case statements > 0:
		return e, "", errors.New("there is more than one report, quote or token in it: one a file")
	}
	if e.Format == attest.FormatAzureSNP && overTDX(e.Statement) {
		e.Format = attest.FormatAzureTDX
	}
	e.Endorsements = map[string][]byte{}
	for _, der := range certs {
		if name := roleOf(der); name != "" {
			e.Endorsements[name] = der
		}
	}
	if log != nil {
		e.Endorsements[attest.CCEL] = log
	}
	return e, describe(e, how), nil
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
