package azure

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/internal/tpm"
)

// maxEnvelope bounds a JSON envelope: evidence in decimal numbers takes four bytes for one.
const maxEnvelope = 4 * attest.MaxEvidence

// FromHCL makes evidence of a bare HCL report. It judges nothing.
func FromHCL(b []byte) (attest.Evidence, error) {
	r, err := parseReport(b)
	if err != nil {
		return attest.Evidence{}, fmt.Errorf("reading an HCL report: %w", err)
	}
	return attest.Evidence{Format: r.format, Statement: b}, nil
}

// FromTrustee reads the evidence that the attesters az-snp-vtpm and az-tdx-vtpm of Confidential Containers make: the
// first form, in lists of numbers, and forms 1 and 2, in hex and base64. It judges nothing.
func FromTrustee(b []byte) (attest.Evidence, error) {
	e, err := fromTrustee(b)
	if err != nil {
		return attest.Evidence{}, fmt.Errorf("reading Azure evidence of Confidential Containers: %w", err)
	}
	return e, nil
}

func fromTrustee(b []byte) (attest.Evidence, error) {
	if len(b) > maxEnvelope {
		return attest.Evidence{}, fmt.Errorf("%d bytes, want at most %d", len(b), maxEnvelope)
	}
	o, err := object(b)
	if err != nil {
		return attest.Evidence{}, err
	}
	version := 0
	if o["version"] != nil {
		if err := value(o, "version", &version); err != nil || version < 1 || version > 2 {
			return attest.Evidence{}, fmt.Errorf("version %s, want none, 1 or 2", o["version"])
		}
		delete(o, "version")
	}
	quote, hcl := "tpm_quote", "hcl_report"
	if version == 0 && o["vcek"] != nil {
		quote, hcl = "quote", "report"
	}
	e := attest.Evidence{Format: attest.FormatAzureTDX, Endorsements: map[string][]byte{}}
	last := "td_quote"
	if o["vcek"] != nil {
		e.Format, last = attest.FormatAzureSNP, "vcek"
	}
	for name := range o {
		if name != quote && name != hcl && name != last {
			return attest.Evidence{}, fmt.Errorf("%q, want %s, %s and %s", name, quote, hcl, last)
		}
	}
	var errs [3]error
	e.Endorsements[strings.ReplaceAll(last, "_", "-")], errs[0] = blob(o[last])
	e.Statement, errs[1] = blob(o[hcl])
	errs[2] = readQuote(o[quote], e.Endorsements)
	return e, errors.Join(errs[:]...)
}

func readQuote(b json.RawMessage, to map[string][]byte) error {
	o, err := object(b)
	if err != nil {
		return fmt.Errorf("quote: %w", err)
	}
	var list []json.RawMessage
	if err := value(o, "pcrs", &list); err != nil || len(list) != 24 {
		return fmt.Errorf("quote: %d pcrs, want 24", len(list))
	}
	values := map[int][]byte{}
	for i, raw := range list {
		if values[i], err = octets(raw, hex.DecodeString); err != nil {
			return fmt.Errorf("quote: pcrs[%d]: %w", i, err)
		}
		if n := len(values[i]); n != 32 {
			return fmt.Errorf("quote: pcrs[%d]: %d bytes, want 32", i, n)
		}
	}
	to[tpmPCRs] = tpm.EncodePCRs(values)
	for field, name := range map[string]string{"message": tpmQuote, "signature": tpmSignature} {
		if to[name], err = octets(o[field], hex.DecodeString); err != nil {
			return fmt.Errorf("quote: %s: %w", field, err)
		}
	}
	return nil
}

// blob reads octets that forms 1 and 2 have in base64 for URLs, and the first form in PEM if they are a certificate.
func blob(b json.RawMessage) ([]byte, error) {
	return octets(b, func(s string) ([]byte, error) {
		if strings.HasPrefix(s, "-----BEGIN") {
			return []byte(s), nil
		}
		return base64.RawURLEncoding.DecodeString(strings.TrimRight(s, "="))
	})
}

// octets reads a text by decode, or a list of numbers.
func octets(b json.RawMessage, decode func(string) ([]byte, error)) ([]byte, error) {
	var text string
	if json.Unmarshal(b, &text) == nil {
		return decode(text)
	}
	var numbers []uint16
	if err := json.Unmarshal(b, &numbers); err != nil {
		return nil, errors.New("neither text nor a list of numbers")
	}
	out := make([]byte, len(numbers))
	for i, n := range numbers {
		if n > 0xff {
			return nil, fmt.Errorf("%d is no byte", n)
		}
		out[i] = byte(n)
	}
	return out, nil
}
