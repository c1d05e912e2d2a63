package refresh

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/attest/internal/amd"
)

// AMDKDS is where AMD's Key Distribution Service answers.
const AMDKDS = "https://kdsintf.amd.com"

// KDS is AMD's Key Distribution Service (AMD 57230, chapter 4), which takes one request in 10 seconds.
type KDS struct {
	client *client
	base   string
}

// NewKDS asks by a transport, http.DefaultTransport if nil, at an address to which the service's paths are added: AMDKDS
// if empty, or that of a mirror. now is time.Now.
func NewKDS(t http.RoundTripper, base string, now func() time.Time) *KDS {
	if base == "" {
		base = AMDKDS
	}
	return &KDS{newClient(t, now, 10*time.Second, 1), base}
}

// lines are AMD's product lines: Siena and Bergamo are certified as Genoa.
var lines = []string{"Milan", "Genoa", "Turin"}

func checkLine(line, signer string) error {
	if !slices.Contains(lines, line) || signer != attest.SignerVCEK && signer != attest.SignerVLEK {
		return fmt.Errorf("asking for what signs by a %q of %q: want a %s or %s of one of %q", signer, line, attest.SignerVCEK, attest.SignerVLEK, lines)
	}
	return nil
}

// CRL is the list on which a line's intermediates would be; signer is attest.SignerVCEK or attest.SignerVLEK.
func (k *KDS) CRL(line, signer string) (Source, error) {
	if err := checkLine(line, signer); err != nil {
		return nil, err
	}
	return k.source("amd-crl-"+signer+"-"+line, "/"+signer+"/v1/"+line+"/crl", func(x *endorse.Index) error {
		return one(len(x.CRLs), func() string { return x.CRLs[0].Issuer.CommonName }, "ARK-"+line)
	}), nil
}

// Chain is the intermediate that issues a line's VCEKs or VLEKs, with its root.
func (k *KDS) Chain(line, signer string) (Source, error) {
	if err := checkLine(line, signer); err != nil {
		return nil, err
	}
	return k.source("amd-chain-"+signer+"-"+line, "/"+signer+"/v1/"+line+"/cert_chain", func(x *endorse.Index) error {
		return one(len(x.Certificates)-1, func() string { return x.Certificates[1].Subject.CommonName }, "ARK-"+line)
	}), nil
}

// VCEK is the certificate of a chip at patch levels. chipID is as the report has it, 64 bytes.
func (k *KDS) VCEK(line string, chipID []byte, tcb attest.SNPTCB) (Source, error) {
	if err := checkLine(line, attest.SignerVCEK); err != nil {
		return nil, err
	}
	if len(chipID) != 64 || len(bytes.Trim(chipID, "\x00")) == 0 {
		return nil, fmt.Errorf("asking for a VCEK: chip id %x, want 64 bytes, not all zero", chipID)
	}
	levels := ""
	if line == "Turin" { // whose id is 8 bytes, and whose FMC has a level of its own
		chipID, levels = chipID[:8], fmt.Sprintf("fmcSPL=%02d&", tcb.FMC)
	}
	levels += fmt.Sprintf("blSPL=%02d&teeSPL=%02d&snpSPL=%02d&ucodeSPL=%02d", tcb.Bootloader, tcb.TEE, tcb.SNP, tcb.Ucode)
	path := fmt.Sprintf("/vcek/v1/%s/%x?%s", line, chipID, levels)
	id := sha256.Sum256([]byte(path))
	return k.source(fmt.Sprintf(chipPrefix+"%s-%x", line, id[:16]), path, func(x *endorse.Index) error {
		if len(x.Certificates) != 1 {
			return fmt.Errorf("%d certificates, want that of the chip", len(x.Certificates))
		}
		return checkVCEK(x.Certificates[0], line, chipID, tcb)
	}), nil
}

// ForReport are the certificate, the intermediate and the list by which a report can be verified. Before version 3 a
// report does not say of which line it is, and a VLEK is given to the cloud alone.
func (k *KDS) ForReport(report []byte) ([]Source, error) {
	r, err := amd.ParseReport(report)
	if err != nil {
		return nil, fmt.Errorf("reading what a report needs: %w", err)
	}
	line := amd.LineOf(r.CPU)
	if line == "" {
		return nil, fmt.Errorf("reading what a report needs: version %d of CPU %s, want the line of its product", r.Version, r.CPU)
	}
	crl, err := k.CRL(line, r.Signer)
	if err != nil {
		return nil, err
	}
	chain, err := k.Chain(line, r.Signer)
	if err != nil || r.Signer == attest.SignerVLEK {
		return []Source{chain, crl}, err
	}
	vcek, err := k.VCEK(line, r.ChipID, r.TCB.Reported)
	return []Source{vcek, chain, crl}, err
}

func (k *KDS) source(name, path string, check func(*endorse.Index) error) Source {
	return source{name: name, fetch: func(ctx context.Context) ([][]byte, error) {
		b, _, err := k.client.get(ctx, k.base+path)
		if err != nil {
			return nil, err
		}
		return expect(check, b)
	}}
}

// checkVCEK holds the extensions of a VCEK against what was asked for (AMD 57230, table 10).
func checkVCEK(c *x509.Certificate, line string, chipID []byte, tcb attest.SNPTCB) error {
	const hwid = "4"
	want := map[string]uint8{"3.1": tcb.Bootloader, "3.2": tcb.TEE, "3.3": tcb.SNP, "3.8": tcb.Ucode}
	if line == "Turin" {
		want["3.9"] = tcb.FMC
	}
	found := 0
	for _, e := range c.Extensions {
		arc, ok := strings.CutPrefix(e.Id.String(), "1.3.6.1.4.1.3704.1.")
		if !ok {
			continue
		}
		if level, ok := want[arc]; ok {
			var got int
			if rest, err := asn1.Unmarshal(e.Value, &got); err != nil || len(rest) > 0 || got != int(level) {
				return fmt.Errorf("a VCEK of level %s = %d, want %d", arc, got, level)
			}
			found++
		}
		if arc == hwid {
			if !bytes.Equal(e.Value, chipID) { // the bytes, or an OCTET STRING of them
				var got []byte
				if rest, err := asn1.Unmarshal(e.Value, &got); err != nil || len(rest) > 0 || !bytes.Equal(got, chipID) {
					return errors.New("a VCEK of another chip")
				}
			}
			found++
		}
	}
	if found != len(want)+1 {
		return fmt.Errorf("a VCEK with %d of %d extensions", found, len(want)+1)
	}
	return nil
}
