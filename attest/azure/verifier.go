// Package azure is azure-snp/1 and azure-tdx/1: confidential machines of Microsoft Azure. The hardware measures
// Microsoft's paravisor, which runs the guest and holds a virtual TPM for it; what was started in the guest is in the
// TPM's registers.
//
// Evidence.Statement is the HCL report of the TPM's index 0x01400001. The trust leads from AMD or Intel to the
// hardware's report, by its report data to the runtime claims, from the attestation key in those to the TPM's quote,
// and to the registers. Among Evidence.Endorsements are
//
//   - vcek, ask: certificates of the processor, DER or PEM, several in one PEM file too (SNP)
//   - td-quote: the quote of the TDREPORT (TDX), and collateral
//   - tpm-quote, tpm-signature: TPMS_ATTEST, and TPMT_SIGNATURE or the bare signature
//   - tpm-pcrs: the SHA-256 bank, 24 values of 32 bytes in order
//   - event-log: the firmware's log
//
// The binding is in the 64 bytes of user data that the guest has the paravisor put into the runtime claims, and the
// quote's nonce is SHA-256 of them or they themselves, so that the hardware signed it and the registers go with it.
// Where there is no user data, the nonce alone is the binding (AzureClaims.TPMBound).
package azure

import (
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"strings"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/internal/amd"
	"github.com/consilium-fl/consilium/attest/internal/intel"
	"github.com/consilium-fl/consilium/attest/internal/tpm"
)

// Names of endorsements that no other format has.
const (
	tdQuote      = "td-quote"
	tpmQuote     = "tpm-quote"
	tpmSignature = "tpm-signature"
	tpmPCRs      = "tpm-pcrs"
)

type verifier struct{ format attest.Format }

// NewSNPVerifier makes the verifier of azure-snp/1.
func NewSNPVerifier() attest.Verifier { return verifier{attest.FormatAzureSNP} }

// NewTDXVerifier makes the verifier of azure-tdx/1.
func NewTDXVerifier() attest.Verifier { return verifier{attest.FormatAzureTDX} }

func (v verifier) Format() attest.Format { return v.format }

// Verify authenticates the report, the claims and the quote. It gives all the reasons, and with them the claims as far
// as they could be read.
func (v verifier) Verify(e attest.Evidence, in attest.Inputs) (attest.Unappraised, error) {
	r, err := parseReport(e.Statement)
	if err != nil {
		return attest.Unappraised{}, err
	}
	if r.format != v.format {
		return attest.Unappraised{}, refuse(attest.CodeHCLType, "hcl", string(r.format), string(v.format))
	}
	vm, ak, err := parseClaims(r.claims)
	if err != nil {
		return attest.Unappraised{}, errors.Join(err, r.checkBinding())
	}
	c, err := r.verifyHardware(e.Endorsements, in)
	errs := []error{err, r.checkBinding()}
	c.Format, c.Machine, c.Azure, c.ReportData = v.format, "azure:"+vm.VM, vm, [64]byte{}
	c.TPM, err = verifyQuote(e.Endorsements, ak)
	errs = append(errs, err)
	if c.TPM != nil {
		errs = append(errs, bind(&c, in))
	}
	return attest.Unappraise(c), errors.Join(errs...)
}

// verifyHardware has the report verified as if it had come alone. A TDREPORT is worth nothing outside its machine, so
// a quote goes with it, over the same report data.
func (r *report) verifyHardware(endorsements map[string][]byte, in attest.Inputs) (attest.Claims, error) {
	if r.format == attest.FormatAzureSNP {
		return amd.Verify(r.hardware, certificates(endorsements), in)
	}
	quote := endorsements[tdQuote]
	if quote == nil {
		return attest.Claims{}, refuse(attest.CodeHCLQuote, "endorsements."+tdQuote, "none", "the quote of the TDREPORT")
	}
	c, err := intel.Verify(quote, map[string][]byte{intel.EndorsementCollateral: endorsements[intel.EndorsementCollateral]}, in)
	if c.TDX != nil && c.ReportData != r.reportData {
		err = errors.Join(err, refuse(attest.CodeHCLBinding, tdQuote+".report_data", hex.EncodeToString(c.ReportData[:]), hex.EncodeToString(r.reportData[:])+", the TDREPORT's"))
	}
	return c, err
}

func verifyQuote(endorsements map[string][]byte, ak *rsa.PublicKey) (*attest.TPMClaims, error) {
	q := tpm.Quote{Attest: endorsements[tpmQuote], Signature: endorsements[tpmSignature], EventLog: endorsements[attest.EventLog]}
	if q.Attest == nil {
		return nil, refuse(attest.CodeTPMMissing, "endorsements."+tpmQuote, "none", "a quote")
	}
	var err error
	if q.PCRs, err = tpm.DecodePCRs(endorsements[tpmPCRs]); err != nil {
		return nil, err
	}
	return q.Verify(ak)
}

// bind says what the evidence is bound to.
func bind(c *attest.Claims, in attest.Inputs) (err error) {
	user, nonce := c.Azure.UserData, c.TPM.Nonce
	if zero(user) {
		c.Azure.TPMBound = true
		c.ReportData, c.HalfBound, err = tpm.Bind(nonce, in)
		return err
	}
	c.ReportData = [64]byte(user)
	digest := sha256.Sum256(user)
	if string(nonce) == string(digest[:]) || len(nonce) > 0 && len(nonce) <= len(user) && string(nonce) == string(user[:len(nonce)]) && zero(user[len(nonce):]) {
		return nil
	}
	return refuse(attest.CodeTPMNonce, "tpm-quote.extra_data", nonce.String(), hex.EncodeToString(digest[:])+", SHA-256 of the user data, or the user data")
}

// certificates finds each certificate of AMD's by its subject, in PEM and out of it. What is no certificate stays what
// it was, for the verifier to refuse.
func certificates(endorsements map[string][]byte) map[string][]byte {
	out := map[string][]byte{}
	for _, name := range []string{attest.SignerVCEK, attest.SignerVLEK, "ask", "ark"} {
		b, ok := endorsements[name]
		if !ok {
			continue
		}
		block, rest := pem.Decode(b)
		if block == nil {
			out[name] = b
		}
		for ; block != nil; block, rest = pem.Decode(rest) {
			if c, err := x509.ParseCertificate(block.Bytes); err == nil {
				out[kindOf(c.Subject.CommonName)] = block.Bytes
			} else {
				out[name] = block.Bytes
			}
		}
	}
	return out
}

// kindOf is the name that a certificate of AMD's goes by (KDS specification 57230, sections 2 and 3).
func kindOf(subject string) string {
	switch {
	case subject == "SEV-VCEK":
		return attest.SignerVCEK
	case subject == "SEV-VLEK":
		return attest.SignerVLEK
	case strings.HasPrefix(subject, "ARK-"):
		return "ark"
	}
	return "ask"
}
