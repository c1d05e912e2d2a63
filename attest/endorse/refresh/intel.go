package refresh

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/consilium-fl/consilium/attest/endorse"
)

// IntelPCS is where Intel's Provisioning Certification Service answers.
const IntelPCS = "https://api.trustedservices.intel.com"

// intelRootCRL is where the certificates say that the list of the root is.
const intelRootCRL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"

// PCS is Intel's Provisioning Certification Service (API v4), or a cache that speaks as it does: a hospital's own PCCS,
// or Azure's https://global.acccache.azure.net.
type PCS struct {
	client *client
	base   string
}

// NewPCS asks by a transport, http.DefaultTransport if nil, at an address to which the service's paths are
// added, IntelPCS if empty. now is time.Now.
func NewPCS(t http.RoundTripper, base string, now func() time.Time) *PCS {
	if base == "" {
		base = IntelPCS
	}
	return &PCS{newClient(t, now, time.Second, 4), base}
}

// TCBInfo is Intel's appraisal of the TCB of TDX platforms of an FMSPC, 12 digits of hex.
func (p *PCS) TCBInfo(fmspc string) (Source, error) {
	fmspc = strings.ToLower(fmspc)
	if b, err := hex.DecodeString(fmspc); err != nil || len(b) != 6 {
		return nil, fmt.Errorf("asking for TCB info: FMSPC %q, want 12 digits of hex", fmspc)
	}
	return p.source("intel-tcb-"+fmspc, p.base+"/tdx/certification/v4/tcb?fmspc="+fmspc, "TCB-Info-Issuer-Chain", func(x *endorse.Index) error {
		return one(len(x.TCBInfos), func() string { return x.TCBInfos[0].Head.ID + " " + x.TCBInfos[0].Head.FMSPC }, "TDX "+fmspc)
	}), nil
}

// QEIdentity is Intel's appraisal of the enclave that signs TDX quotes.
func (p *PCS) QEIdentity() Source {
	return p.source("intel-qe", p.base+"/tdx/certification/v4/qe/identity", "SGX-Enclave-Identity-Issuer-Chain", func(x *endorse.Index) error {
		return one(len(x.QEIdentities), func() string { return x.QEIdentities[0].Head.ID }, "TD_QE")
	})
}

// The authorities that issue PCK certificates.
const (
	CAPlatform  = "platform"
	CAProcessor = "processor"
)

// PCKCRL is the list of PCK certificates of one of the two authorities.
func (p *PCS) PCKCRL(ca string) (Source, error) {
	issuer := map[string]string{CAPlatform: "Intel SGX PCK Platform CA", CAProcessor: "Intel SGX PCK Processor CA"}[ca]
	if issuer == "" {
		return nil, fmt.Errorf("asking for a revocation list: authority %q, want %s or %s", ca, CAPlatform, CAProcessor)
	}
	return p.source("intel-crl-"+ca, p.base+"/sgx/certification/v4/pckcrl?ca="+ca+"&encoding=der", "SGX-PCK-CRL-Issuer-Chain", crlOf(issuer)), nil
}

// RootCRL is the list on which Intel's intermediates and signers would be.
func (p *PCS) RootCRL() Source {
	address := intelRootCRL
	if p.base != IntelPCS {
		address = p.base + "/sgx/certification/v4/rootcacrl"
	}
	return p.source("intel-crl-root", address, "", crlOf("Intel SGX Root CA"))
}

func crlOf(issuer string) func(*endorse.Index) error {
	return func(x *endorse.Index) error {
		return one(len(x.CRLs), func() string { return x.CRLs[0].Issuer.CommonName }, issuer)
	}
}

// source asks at an address, and takes the chain of who signed the answer from a header.
func (p *PCS) source(name, address, header string, check func(*endorse.Index) error) Source {
	return source{name: name, fetch: func(ctx context.Context) ([][]byte, error) {
		b, h, err := p.client.get(ctx, address)
		if err != nil {
			return nil, err
		}
		parts := [][]byte{b}
		if header != "" {
			c, err := chain(h, header)
			if err != nil {
				return nil, err
			}
			parts = append(parts, c)
		}
		return expect(check, parts...)
	}}
}

// ForQuote are the documents and lists by which a quote of SGX or TDX can be verified, as its PCK certificate names
// them. Nothing of the quote is believed: what it asks for is asked for.
func (p *PCS) ForQuote(quote []byte) ([]Source, error) {
	c, err := pckOf(quote)
	if err != nil {
		return nil, fmt.Errorf("reading what a quote needs: %w", err)
	}
	fmspc, err := fmspcOf(c)
	if err != nil {
		return nil, fmt.Errorf("reading what a quote needs: %w", err)
	}
	info, err := p.TCBInfo(fmspc)
	if err != nil {
		return nil, err
	}
	ca := CAPlatform
	if strings.Contains(c.Issuer.CommonName, "Processor") {
		ca = CAProcessor
	}
	crl, err := p.PCKCRL(ca)
	return []Source{info, p.QEIdentity(), crl, p.RootCRL()}, err
}

// pckOf finds the first certificate in a quote, which carries its chain as PEM.
func pckOf(quote []byte) (*x509.Certificate, error) {
	i := bytes.Index(quote, []byte("-----BEGIN CERTIFICATE-----"))
	if i < 0 || len(quote)-i > maxBody {
		return nil, errors.New("no certificate in it")
	}
	block, _ := pem.Decode(quote[i:])
	if block == nil {
		return nil, errors.New("no certificate in it that can be read")
	}
	return x509.ParseCertificate(block.Bytes)
}

var oidSGX = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}

// fmspcOf reads the family, model, stepping, platform and custom SKU of a PCK certificate (SGX PCK Certificate and CRL
// Profile Specification, section 1.4.1).
func fmspcOf(c *x509.Certificate) (string, error) {
	for _, e := range c.Extensions {
		var all []struct {
			ID    asn1.ObjectIdentifier
			Value asn1.RawValue
		}
		if !e.Id.Equal(oidSGX) {
			continue
		}
		if _, err := asn1.Unmarshal(e.Value, &all); err != nil {
			return "", err
		}
		for _, x := range all {
			if x.ID.Equal(append(oidSGX[:len(oidSGX):len(oidSGX)], 4)) && x.Value.Tag == asn1.TagOctetString && len(x.Value.Bytes) == 6 {
				return hex.EncodeToString(x.Value.Bytes), nil
			}
		}
	}
	return "", fmt.Errorf("certificate %q names no FMSPC", c.Subject.CommonName)
}
