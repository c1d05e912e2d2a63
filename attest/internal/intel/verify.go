// Package intel authenticates TD quotes of Intel TDX: the quote, the quoting enclave's report, the certificate of
// the platform, and Intel's collateral on its TCB. It judges nothing: what the collateral says comes out as claims.
//
// It goes by Intel's TDX DCAP Quoting Library API (quotes of versions 4 and 5), the SGX PCK Certificate and CRL
// Profile Specification, and version 4 of the Provisioning Certification Service's API.
package intel

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
)

// EndorsementCollateral names the collateral that came with the evidence: looked at where the snapshot has none.
const EndorsementCollateral = "collateral"

// NotCheckedPCKStart says that the PCK certificate begins after the time of the appraisal. Intel issues it anew for
// each recovery of the TCB, to a key as old as the platform, and its library judges a quote by collateral of the past
// without looking at the beginning.
const NotCheckedPCKStart = "pck_chain[0].not_before"

// verification is one quote on its way; reasons are all that speak against it.
type verification struct {
	in      attest.Inputs
	q       *quote
	indexes []*endorse.Index // the snapshot's, then that of what came with the evidence
	extra   []byte           // which is read when the snapshot lacks something
	claims  attest.Claims
	reasons []error

	leaf, ca, root *x509.Certificate // nil before they are known
	pck            *pck
	rootCRL        *x509.RevocationList
	issued         []*x509.Certificate // by the root, of those that sign collateral
	signers        []*x509.Certificate // of the collateral in use
}

// Verify authenticates one quote by in.Trust at in.Now. Claims that come with an error say what the quote would
// say if it were authentic.
func Verify(quote []byte, endorsements map[string][]byte, in attest.Inputs) (attest.Claims, error) {
	q, err := parseQuote(bytes.Clone(quote))
	if err != nil {
		return attest.Claims{}, err
	}
	v := &verification{in: in, q: q, claims: q.claims(), indexes: []*endorse.Index{in.Trust.Index()}, extra: endorsements[EndorsementCollateral]}
	v.claims.Dated = make([]attest.Dated, 0, 4) // two lists, two documents
	v.platform()
	v.signatures()
	if v.pck != nil && v.root != nil {
		v.revocation()
		v.tcb()
		v.quotingEnclave()
	}
	v.eventLog(endorsements[attest.CCEL])
	return v.claims, errors.Join(v.reasons...)
}

// Read returns what a quote says, with what it is bound to. Nobody has vouched for it.
func Read(quote []byte) (*attest.TDXClaims, [64]byte, error) {
	q, err := parseQuote(bytes.Clone(quote))
	if err != nil {
		return nil, [64]byte{}, err
	}
	v := &verification{q: q, claims: q.claims()}
	if c, err := parseChain(q.chain); err == nil {
		if v.pck, err = parsePCK(c.leaf); err == nil {
			v.describe()
		}
	}
	return v.claims.TDX, v.claims.ReportData, nil
}

func (v *verification) refuse(code, path, got, want string) {
	v.reasons = append(v.reasons, reason(code, path, got, want))
}

// platform chains the PCK certificate to an anchor, and reads what it says.
func (v *verification) platform() {
	certs, err := parseChain(v.q.chain)
	if err != nil {
		v.refuse(attest.CodeParseEncoding, "quote.pck_chain", err.Error(), "")
		return
	}
	leaf, ca := certs.leaf, certs.ca
	root := v.anchor(ca)
	switch {
	case root == nil:
		v.refuse(attest.CodeChain, "pck_chain[1]", fmt.Sprintf("issuer %q", ca.Issuer.CommonName), "signed by an "+rootName+" of the snapshot")
	case certs.root != nil && !bytes.Equal(certs.root, root.Raw):
		v.refuse(attest.CodeChain, "pck_chain[2]", "another root", "the root of the snapshot")
		return
	}
	if !issued(leaf, ca) {
		v.refuse(attest.CodeChain, "pck_chain[0]", fmt.Sprintf("issuer %q", leaf.Issuer.CommonName), "signed by the certificate that follows")
		return
	}
	if name := ca.Subject.CommonName; name != platformName && name != processorName {
		v.refuse(attest.CodeCertKind, "pck_chain[1]", fmt.Sprintf("%q", name), fmt.Sprintf("%q or %q", platformName, processorName))
		return
	}
	if name := leaf.Subject.CommonName; name != leafName || leaf.IsCA {
		v.refuse(attest.CodeCertKind, "pck_chain[0]", fmt.Sprintf("%q", name), fmt.Sprintf("%q", leafName))
		return
	}
	p, err := parsePCK(leaf)
	if err != nil {
		v.refuse(attest.CodeParseEncoding, "pck_chain[0]", err.Error(), "")
		return
	}
	v.leaf, v.ca, v.root, v.pck = leaf, ca, root, p
	v.describe()
	v.expiry("pck_chain[0]", leaf)
	if v.in.Now.Before(leaf.NotBefore) {
		v.claims.NotChecked = append(v.claims.NotChecked, NotCheckedPCKStart)
	}
	v.current("pck_chain[1]", ca)
	if root != nil {
		v.current("pck_chain[2]", root)
	}
}

// anchor is the root of the snapshot that signed the intermediate certificate.
func (v *verification) anchor(ca *x509.Certificate) *x509.Certificate {
	for _, root := range v.in.Trust.Index().Anchors() {
		if root.Subject.CommonName == rootName && issued(ca, root) {
			return root
		}
	}
	return nil
}

// describe writes the PCK certificate's part of the claims.
func (v *verification) describe() {
	p, t := v.pck, v.claims.TDX
	t.FMSPC, t.PCEID, t.PPID, t.PIID = p.fmspc, p.pceID, p.ppid, p.piid
	t.Components, t.PCESVN = p.components[:], p.pceSVN
	v.claims.Generation = "fmspc:" + t.FMSPC.String()
	if t.PIID != nil {
		v.claims.Machine = "piid:" + t.PIID.String()
	} else {
		v.claims.Machine = "ppid:" + t.PPID.String()
	}
}

// current holds a certificate's window against the time.
func (v *verification) current(path string, c *x509.Certificate) {
	if v.in.Now.Before(c.NotBefore) {
		v.refuse(attest.CodeCertTime, path+".not_before", c.NotBefore.UTC().Format(time.RFC3339), "at most "+v.in.Now.UTC().Format(time.RFC3339))
	}
	v.expiry(path, c)
}

// expiry holds a certificate's end against the time, and shortens the claims' own.
func (v *verification) expiry(path string, c *x509.Certificate) {
	if v.in.Now.After(c.NotAfter) {
		v.refuse(attest.CodeCertExpired, path+".not_after", c.NotAfter.UTC().Format(time.RFC3339), "at least "+v.in.Now.UTC().Format(time.RFC3339))
	}
	if end := &v.claims.NotAfter; end.IsZero() || c.NotAfter.Before(*end) {
		*end = c.NotAfter
	}
}

// signatures checks the attestation key's over the quote, that the quoting enclave's report is about this key, and
// the platform's over this report.
func (v *verification) signatures() {
	q := v.q
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append([]byte{4}, q.key...))
	switch {
	case err != nil:
		v.refuse(attest.CodeSignature, "quote.attestation_key", "no point of P-256", "a public key")
	case !verifyRaw(key, sha256.Sum256(q.signed), q.signature):
		v.refuse(attest.CodeSignature, "quote.signature", "", "by the attestation key over header and body")
	}
	h := sha256.New()
	h.Write(q.key)
	h.Write(q.qeAuth)
	want := h.Sum(make([]byte, 0, 64))[:64] // the rest is zero
	if !bytes.Equal(q.qeReport[reportData:], want) {
		v.refuse(attest.CodeSignature, "qe_report.report_data", hex.EncodeToString(q.qeReport[reportData:][:8])+"…", hex.EncodeToString(want[:8])+"…, the digest of attestation key and QE data")
	}
	if v.leaf != nil && !verifyRaw(p256(v.leaf), sha256.Sum256(q.qeReport), q.qeSig) {
		v.refuse(attest.CodeQESignature, "qe_report.signature", "", "by the PCK of the chain")
	}
}

// each walks over the snapshot's index, and over that of the evidence's own collateral when the snapshot has
// nothing that look is content with.
func (v *verification) each(look func(*endorse.Index) bool) {
	for _, x := range v.indexes {
		if look(x) {
			return
		}
	}
	if v.extra == nil {
		return
	}
	s, err := endorse.New(map[string][]byte{EndorsementCollateral: v.extra})
	v.extra = nil
	if err != nil {
		return // a hint that is none
	}
	v.indexes = append(v.indexes, s.Index())
	look(s.Index())
}

// revocation looks the chain up in the lists of its issuers.
func (v *verification) revocation() {
	if v.rootCRL = v.list("crl:intel-root", v.root); v.rootCRL != nil {
		v.revoked(v.rootCRL, "pck_chain[1]", v.ca)
	}
	if crl := v.list("crl:intel-pck", v.ca); crl != nil {
		v.revoked(crl, "pck_chain[0]", v.leaf)
	}
}

// list finds the newest revocation list of an issuer that is not from the future.
func (v *verification) list(name string, issuer *x509.Certificate) *x509.RevocationList {
	var best *x509.RevocationList
	forged := false
	v.each(func(x *endorse.Index) bool {
		for _, crl := range x.CRLs {
			if !bytes.Equal(crl.RawIssuer, issuer.RawSubject) || best != nil && !v.newer(crl.ThisUpdate, best.ThisUpdate) {
				continue
			}
			if crl.CheckSignatureFrom(issuer) != nil || critical(crl) {
				forged = true
				continue
			}
			best = crl
		}
		return best != nil || forged
	})
	switch {
	case best != nil:
		v.claims.Dated = append(v.claims.Dated, attest.Dated{Name: name, Code: attest.CodeCRLStale, ThisUpdate: best.ThisUpdate, NextUpdate: best.NextUpdate})
	case forged:
		v.refuse(attest.CodeCollateralInvalid, name, "", "signed by its issuer")
	default:
		v.claims.NotChecked = append(v.claims.NotChecked, name)
	}
	return best
}

// newer says whether a document of time a is to be preferred to one of time b.
func (v *verification) newer(a, b time.Time) bool {
	if future := a.After(v.in.Now); future != b.After(v.in.Now) {
		return !future
	}
	return a.After(b)
}

// critical says whether a list has an extension that limits what it is about.
func critical(crl *x509.RevocationList) bool {
	for _, e := range crl.Extensions {
		if e.Critical {
			return true
		}
	}
	return false
}

func (v *verification) revoked(crl *x509.RevocationList, path string, c *x509.Certificate) {
	for i := range crl.RevokedCertificateEntries {
		if e := &crl.RevokedCertificateEntries[i]; e.SerialNumber.Cmp(c.SerialNumber) == 0 {
			v.refuse(attest.CodeRevoked, path, fmt.Sprintf("%q, serial %x, on %s", c.Subject.CommonName, c.SerialNumber, e.RevocationTime.UTC().Format(time.DateOnly)), "")
			return
		}
	}
}

// tcb finds TCB info of the platform and looks both halves up in it.
func (v *verification) tcb() {
	fmspc := hex.EncodeToString(v.pck.fmspc)
	best := choose(v, "collateral.tcb_info", func(x *endorse.Index) []endorse.SignedJSON { return x.TCBInfos }, func(s endorse.SignedJSON) (*tcbInfo, bool) {
		if s.Head.ID != "TDX" || s.Head.FMSPC != fmspc {
			return nil, false
		}
		info := parseTCBInfo(s.Body)
		return info, info == nil || bytes.Equal(info.fmspc[:], v.pck.fmspc) && bytes.Equal(info.pceID[:], v.pck.pceID)
	})
	if best == nil {
		return
	}
	t, teeSVN := v.claims.TDX, [16]byte(v.claims.TDX.TEETCBSVN)
	t.Platform = best.platform(v.pck, teeSVN)
	version := v.q.moduleVersion()
	m := best.moduleOf(version)
	switch {
	case m == nil: // no level of a module that Intel does not know
		t.Module = (*outcome)(nil).tcb(best.number)
		return
	case version > 0:
		t.Module = svnTCB(m.levels, m.id, int(v.q.moduleSVN()), best.number)
	}
	if err := m.check(t); err != nil {
		v.reasons = append(v.reasons, err)
	}
}

// quotingEnclave holds the enclave that signed against Intel's identity of it.
func (v *verification) quotingEnclave() {
	best := choose(v, "collateral.qe_identity", func(x *endorse.Index) []endorse.SignedJSON { return x.QEIdentities }, func(s endorse.SignedJSON) (*qeIdentity, bool) {
		if s.Head.ID != "TD_QE" {
			return nil, false
		}
		return parseQEIdentity(s.Body), true
	})
	if best == nil {
		return
	}
	report := v.q.qeReport
	svn := int(report[reportSVN]) | int(report[reportSVN+1])<<8
	v.claims.TDX.QE = svnTCB(best.levels, []byte("isvsvn"), svn, best.number)
	if err := best.check(report); err != nil {
		v.reasons = append(v.reasons, err)
	}
}

// choose finds the best document of one kind that Intel signed, and dates it. parse says whether the document is
// about this platform at all. Documents of which none can be read, or nobody signed any, are a reason; with none at
// all it is for the policy to say that one is missing.
func choose[T any, D interface {
	*T
	date() *dated
}](v *verification, name string, of func(*endorse.Index) []endorse.SignedJSON, parse func(endorse.SignedJSON) (_ D, relevant bool),
) D {
	var best D
	var signer *x509.Certificate
	invalid := ""
	v.each(func(x *endorse.Index) bool {
		for _, s := range of(x) {
			d, relevant := parse(s)
			switch {
			case !relevant || d != nil && best != nil && !v.better(d.date(), best.date()):
			case d == nil:
				invalid = "not as its specification says"
			default:
				if c := v.signer(s); c != nil {
					best, signer = d, c
				} else {
					invalid = "no valid signature"
				}
			}
		}
		return best != nil || invalid != ""
	})
	if best == nil {
		if invalid != "" {
			v.refuse(attest.CodeCollateralInvalid, name, invalid, "signed by an "+signingName+" of the root")
		}
		return nil
	}
	v.claims.Dated = append(v.claims.Dated, attest.Dated{Name: name, Code: attest.CodeCollateralExpired, ThisUpdate: best.date().issued, NextUpdate: best.date().next})
	if !slices.Contains(v.signers, signer) {
		v.signers = append(v.signers, signer)
		v.current("tcb_signing", signer)
		if v.rootCRL != nil {
			v.revoked(v.rootCRL, "tcb_signing", signer)
		}
	}
	return best
}

// better prefers what is not from the future, then the higher evaluation number, then the younger.
func (v *verification) better(a, b *dated) bool {
	if future := a.issued.After(v.in.Now); future != b.issued.After(v.in.Now) {
		return !future
	}
	if a.number != b.number {
		return a.number > b.number
	}
	return a.issued.After(b.issued)
}

// signer is the certificate of the root by whose key Intel signed a document; of several, one that is valid now.
func (v *verification) signer(s endorse.SignedJSON) (found *x509.Certificate) {
	digest := sha256.Sum256(s.Body)
	for _, x := range v.indexes {
		for _, c := range x.Certificates {
			if c.Subject.CommonName != signingName || c.IsCA || !verifyRaw(p256(c), digest, s.Signature) || !v.fromRoot(c) {
				continue
			}
			if found = c; !v.in.Now.Before(c.NotBefore) && !v.in.Now.After(c.NotAfter) {
				return found
			}
		}
	}
	return found
}

func (v *verification) fromRoot(c *x509.Certificate) bool {
	if slices.Contains(v.issued, c) {
		return true
	}
	ok := issued(c, v.root)
	if ok {
		v.issued = append(v.issued, c)
	}
	return ok
}
