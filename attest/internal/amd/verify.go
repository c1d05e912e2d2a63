// Package amd verifies SEV-SNP reports: for evidence that is one, and for evidence that contains one. It decides by
// itself what github.com/google/go-sev-guest cannot (Turin, Siena, Bergamo) or lets through (trailing bytes).
package amd

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"strings"

	"github.com/consilium-fl/consilium/attest"
)

// Verify authenticates a report of 1184 bytes. Of endorsements it takes "vcek" or "vlek", the certificate that AMD
// gave for the signing key, and "ask", its issuer's, both in DER; what is missing is looked for in the snapshot, and
// the root nowhere else. With an error come the claims as far as they could be read.
func Verify(report []byte, endorsements map[string][]byte, in attest.Inputs) (attest.Claims, error) {
	r, err := ParseReport(report)
	if err != nil {
		return attest.Claims{}, err
	}
	c := r.claims()
	k, err := r.findKey(endorsements, in)
	if err != nil {
		return c, err
	}
	c.SNP.Product, c.SNP.CSP = k.product, strings.TrimPrefix(k.csp, "CN=")
	c.Generation = generation(r.CPU, k.line)
	way, err := findChain(k, endorsements, in)
	if err != nil {
		return c, err
	}
	until, expired := way.checkTime(in.Now)
	if err := errors.Join(expired, way.checkRevoked(names[k.line].crl, in, &c), r.checkSignature(k), r.checkMask()); err != nil {
		return c, err
	}
	if err := r.checkCertificate(k); err != nil {
		return c, err
	}
	c.SNP.TCB.Reported = k.tcb()
	c.SNP.Advisories = c.SNP.OpenAdvisories()
	c.NotAfter = until
	return c, nil
}

// claims are the report's own words.
func (r *Report) claims() attest.Claims {
	c := attest.Claims{
		Format: attest.FormatSNP, Measurement: attest.SHA384Measurement(r.Measurement), Generation: generation(r.CPU, LineOf(r.CPU)),
		Debug: r.GuestPolicy.Debug(), ReportData: r.ReportData, SNP: &r.SNPClaims,
	}
	if !zero(r.ChipID) {
		c.Machine = "chip:" + r.ChipID.String()
	}
	return c
}

// findKey takes the certificate that the evidence brought, or else the chip's own from the snapshot. Where the snapshot
// has the chip's at other patch levels, or a single one of the kind, that is taken, and the reason says what is wrong
// with it.
func (r *Report) findKey(endorsements map[string][]byte, in attest.Inputs) (*key, error) {
	if der, ok := endorsements[r.Signer]; ok {
		k, err := parseKey(der, r.Signer)
		if err != nil {
			return nil, err
		}
		return k, r.fits(k)
	}
	for _, other := range []string{attest.SignerVCEK, attest.SignerVLEK} {
		if endorsements[other] != nil {
			return nil, attest.Reason{Code: attest.CodeCertKind, Path: "endorsements", Got: "a " + other, Want: "a " + r.Signer + ", which signed the report"}
		}
	}
	var own *key
	var others []*x509.Certificate
	for _, c := range in.Trust.Index().Certificates {
		if c.Subject.CommonName != subject(r.Signer) {
			continue
		}
		// A cache has the VCEKs of a thousand chips: those that do not mention this one are not taken apart.
		if r.Signer == attest.SignerVCEK && !bytes.Contains(c.Raw, r.ChipID[:turinHWID]) {
			others = append(others, c)
			continue
		}
		k, err := newKey(c, "trust")
		switch {
		case err != nil:
		case r.fits(k) == nil && r.checkCertificate(k) == nil:
			return k, nil
		case k.hwid != nil && k.is(r.ChipID):
			own = k
		default:
			others = append(others, c)
		}
	}
	if own == nil && len(others) == 1 {
		if k, err := newKey(others[0], "trust"); err == nil {
			own = k
		}
	}
	if own != nil {
		return own, r.fits(own)
	}
	return nil, attest.Reason{Code: attest.CodeChain, Path: "endorsements." + r.Signer, Got: "none, nor one of this chip and patch level in the snapshot", Want: "the certificate of the signing key"}
}

// fits demands a certificate of the kind and of the product that the report names. Reports before version 3 name no
// product, and Turin makes none of those.
func (r *Report) fits(k *key) error {
	var errs []error
	if k.signer != r.Signer {
		errs = append(errs, attest.Reason{Code: attest.CodeCertKind, Path: r.Signer, Got: "a " + k.signer, Want: "a " + r.Signer})
	}
	line := LineOf(r.CPU)
	if r.Version < 3 {
		if k.line == turin {
			errs = append(errs, attest.Reason{Code: attest.CodeCertProduct, Path: "report[0x0:0x4]", Got: "version 2 for " + turin, Want: "version 3 or later"})
		}
	} else if line != k.line {
		errs = append(errs, attest.Reason{Code: attest.CodeCertProduct, Path: "report[0x188:0x18b]", Got: fmt.Sprintf("%s (%q)", r.CPU, line), Want: k.line + ", by the certificate"})
	}
	return errors.Join(errs...)
}

// checkSignature is ECDSA P-384 over SHA-384 of what precedes the signature.
func (r *Report) checkSignature(k *key) error {
	digest := sha512.Sum384(r.raw[:signedSize])
	der, ok := signatureDER(r.raw[offR:])
	if !ok || !ecdsa.VerifyASN1(k.public, digest[:], der) {
		return attest.Reason{Code: attest.CodeSignature, Path: "report[0x2a0:0x330]", Got: "no signature by the key of the certificate", Want: "one over report[0x0:0x2a0]"}
	}
	return nil
}

// signatureDER writes r and s as X9.62 has them. A report has them little endian and 72 bytes long; what P-384 does not
// need of those is zero.
func signatureDER(b []byte) ([]byte, bool) {
	const used = 48
	der := make([]byte, 2, 2+2*(2+1+used))
	for range 2 {
		if !zero(b[used:scalarSize]) {
			return nil, false
		}
		n := used
		for n > 1 && b[n-1] == 0 {
			n--
		}
		size := n
		if b[n-1] >= 0x80 {
			size++
		}
		der = append(der, asn1.TagInteger, byte(size))
		if size > n {
			der = append(der, 0)
		}
		for ; n > 0; n-- {
			der = append(der, b[n-1])
		}
		b = b[scalarSize:]
	}
	der[0], der[1] = asn1.TagSequence|0x20, byte(len(der)-2)
	return der, true
}

// checkMask refuses a chip that hides its name or its key and signs with its VCEK all the same: firmware that masks
// the key makes no signature.
func (r *Report) checkMask() error {
	if r.Signer == attest.SignerVLEK || !r.MaskChipKey && !zero(r.ChipID) {
		return nil
	}
	var flag error
	if r.MaskChipKey {
		flag = attest.Reason{Code: attest.CodeParseSigner, Path: "report[0x48]", Got: "mask_chip_key with a VCEK", Want: "one of them"}
	}
	return errors.Join(flag, attest.Reason{
		Code: attest.CodeIdentityMasked, Path: "report[0x1a0:0x1e0]", Got: fmt.Sprintf("mask_chip_key %t, chip id zero %t", r.MaskChipKey, zero(r.ChipID)), Want: "the id of the chip",
	})
}

// checkCertificate holds the report against the certificate: the same patch levels, the same chip. Levels that the
// host reports and no certificate vouches for are worth nothing.
func (r *Report) checkCertificate(k *key) error {
	var errs []error
	if k.tcb() != r.TCB.Reported || k.reservedSPL() {
		errs = append(errs, attest.Reason{Code: attest.CodeCertTCB, Path: "report[0x180:0x188]", Got: fmt.Sprintf("%+v", r.TCB.Reported), Want: fmt.Sprintf("%+v, by the certificate", k.tcb())})
	}
	if k.hwid != nil && !k.is(r.ChipID) {
		errs = append(errs, attest.Reason{Code: attest.CodeMachineUnlisted, Path: "report[0x1a0:0x1e0]", Got: r.ChipID.String(), Want: fmt.Sprintf("%x, by the certificate", k.hwid)})
	}
	return errors.Join(errs...)
}
