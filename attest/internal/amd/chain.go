package amd

import (
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/consilium-fl/consilium/attest"
)

// minimumRSA is what AMD's authorities have, in bits (KDS specification 57230, section 2.2).
const minimumRSA = 4096

// chain is a way from a VCEK or VLEK to a root that the steward installed.
type chain struct{ leaf, ask, ark *x509.Certificate }

// findChain looks for the intermediate in the snapshot and in what the evidence brought, for the root in the snapshot
// alone.
func findChain(k *key, endorsements map[string][]byte, in attest.Inputs) (chain, error) {
	want := names[k.line].ark
	index := in.Trust.Index()
	candidates := index.Certificates
	if der := endorsements["ask"]; der != nil {
		// One that does not parse is no candidate: the snapshot may have the right one.
		if c, err := x509.ParseCertificate(der); err == nil {
			candidates = append([]*x509.Certificate{c}, candidates...)
		}
	}
	found := "none"
	for _, ask := range candidates {
		if ask.Subject.CommonName != k.cert.Issuer.CommonName {
			continue
		}
		if found = "one that did not sign it"; !signedBy(k.cert, ask) {
			continue
		}
		found = "one that no root of the snapshot signed"
		for _, ark := range index.Anchors() {
			if ark.Subject.CommonName == want && signedBy(ask, ark) {
				return chain{k.cert, ask, ark}, nil
			}
		}
	}
	return chain{}, attest.Reason{Code: attest.CodeChain, Path: "certificate", Got: fmt.Sprintf("as issuer %q %s", k.cert.Issuer.CommonName, found), Want: "a chain to " + want}
}

// signedBy holds for RSA-PSS with SHA-384 by an authority with a long key.
func signedBy(c, issuer *x509.Certificate) bool {
	public, ok := issuer.PublicKey.(*rsa.PublicKey)
	return ok && public.N.BitLen() >= minimumRSA && c.SignatureAlgorithm == x509.SHA384WithRSAPSS &&
		len(c.UnhandledCriticalExtensions) == 0 && c.CheckSignatureFrom(issuer) == nil
}

// checkTime holds all three against the time, and returns the first end.
func (c chain) checkTime(now time.Time) (until time.Time, err error) {
	var errs []error
	until = c.leaf.NotAfter
	for _, x := range []*x509.Certificate{c.leaf, c.ask, c.ark} {
		if now.Before(x.NotBefore) {
			errs = append(errs, attest.Reason{Code: attest.CodeCertTime, Path: x.Subject.CommonName, Got: x.NotBefore.Format(time.RFC3339), Want: "at most " + now.UTC().Format(time.RFC3339)})
		}
		if !now.Before(x.NotAfter) {
			errs = append(errs, attest.Reason{Code: attest.CodeCertExpired, Path: x.Subject.CommonName, Got: x.NotAfter.Format(time.RFC3339), Want: "after " + now.UTC().Format(time.RFC3339)})
		}
		if x.NotAfter.Before(until) {
			until = x.NotAfter
		}
	}
	return until, errors.Join(errs...)
}

// checkRevoked looks for root and intermediate in every list that the root signed. The newest is the one whose age
// counts. Without one it says so in the claims.
func (c chain) checkRevoked(name string, in attest.Inputs, claims *attest.Claims) error {
	var newest *x509.RevocationList
	var revoked error
	for _, list := range in.Trust.Index().CRLs {
		if list.Issuer.CommonName != c.ark.Subject.CommonName || !understood(list) || list.CheckSignatureFrom(c.ark) != nil {
			continue
		}
		if newest == nil || list.ThisUpdate.After(newest.ThisUpdate) {
			newest = list
		}
		for _, x := range []*x509.Certificate{c.ask, c.ark} {
			if listed(list, x.SerialNumber) {
				revoked = attest.Reason{Code: attest.CodeRevoked, Path: name, Got: fmt.Sprintf("%s, serial %s", x.Subject.CommonName, x.SerialNumber), Want: "not listed"}
			}
		}
	}
	if newest == nil {
		claims.NotChecked = append(claims.NotChecked, name)
		return nil
	}
	claims.Dated = append(claims.Dated, attest.Dated{Name: name, Code: attest.CodeCRLStale, ThisUpdate: newest.ThisUpdate, NextUpdate: newest.NextUpdate})
	return revoked
}

// understood refuses a list that tells only part of the story: an indirect one, or a difference to another.
func understood(list *x509.RevocationList) bool {
	for _, e := range list.Extensions {
		if e.Critical {
			return false
		}
	}
	return true
}

func listed(list *x509.RevocationList, serial *big.Int) bool {
	for _, e := range list.RevokedCertificateEntries {
		if e.SerialNumber.Cmp(serial) == 0 {
			return true
		}
	}
	return false
}
