package confspace

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/consilium-fl/consilium/attest"
)

// RootName is the subject of Google's root of Confidential Space. In 2026 its certificate has the SHA-256
// 148b293821bb0c6a317f413c8ba475814091cb22d49b9e3c94198db8e8f86c39, and ends on 16 January 2034.
const RootName = "Confidential Space Root CA"

// Bounds of an RSA key, in bits: below the lower it is weak, above the upper a stranger's makes work.
const (
	minRSA = 2048
	maxRSA = 8192
)

// The places in x5c.
const (
	leafAt, intermediateAt, rootAt = 0, 1, 2
	chainLength                    = 3
)

// byChain checks a PKI token: x5c of exactly three, the root an anchor of the snapshot by its bytes, the chain valid
// now, the signature the leaf's.
func byChain(t token, in attest.Inputs, c *attest.Claims) []attest.Reason {
	certs, rs := t.certificates()
	if len(rs) == 0 {
		rs = anchored(certs, in)
	}
	if len(rs) > 0 {
		return rs
	}
	for _, cert := range certs {
		if cert.NotAfter.Before(c.NotAfter) {
			c.NotAfter = cert.NotAfter
		}
	}
	rs = append(rs, revoked(certs[leafAt], certs[intermediateAt], "crl:confidential-space-intermediate", in, c)...)
	rs = append(rs, revoked(certs[intermediateAt], certs[rootAt], "crl:confidential-space-root", in, c)...)
	if key, _ := rsaKey(certs[leafAt].PublicKey); !t.signedBy(key) {
		rs = append(rs, unsigned()...)
	}
	return rs
}

// certificates reads x5c (RFC 7515, section 4.1.6), each certificate of the form that Google's have.
func (t token) certificates() ([]*x509.Certificate, []attest.Reason) {
	bad := func(path, got, want string) ([]*x509.Certificate, []attest.Reason) {
		return nil, []attest.Reason{{Code: attest.CodeCSX5C, Path: path, Got: got, Want: want}}
	}
	list, ok := t.header.of["x5c"].([]any)
	if !ok || len(list) != chainLength {
		return bad("header.x5c", fmt.Sprintf("%d certificates", len(list)), "a leaf, an intermediate and a root")
	}
	certs := make([]*x509.Certificate, 0, chainLength)
	for i, v := range list {
		path := x5cPath(i)
		text, ok := v.(string)
		if !ok || strings.ContainsAny(text, "\r\n") { // which the decoder would skip
			return bad(path, fmt.Sprintf("%T", v), "base64 on one line")
		}
		der, err := base64.StdEncoding.Strict().DecodeString(text)
		if err != nil {
			return bad(path, err.Error(), "base64")
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return bad(path, err.Error(), "a certificate")
		}
		if got, want := formOf(cert), (form{authority: i != leafAt, key: true, algorithm: x509.SHA256WithRSA}); got != want {
			return bad(path, got.String(), want.String())
		}
		certs = append(certs, cert)
	}
	return certs, nil
}

func x5cPath(i int) string { return fmt.Sprintf("header.x5c[%d]", i) }

// form is what a certificate has to be at its place in the chain.
type form struct {
	authority bool
	key       bool // RSA of a size that is taken
	algorithm x509.SignatureAlgorithm
}

func formOf(c *x509.Certificate) form {
	_, ok := rsaKey(c.PublicKey)
	return form{c.BasicConstraintsValid && c.IsCA, ok, c.SignatureAlgorithm}
}

func (f form) String() string {
	return fmt.Sprintf("authority %t, RSA of %d to %d bits %t, signed by %s", f.authority, minRSA, maxRSA, f.key, f.algorithm)
}

func rsaKey(public any) (*rsa.PublicKey, bool) {
	k, ok := public.(*rsa.PublicKey)
	return k, ok && k.N.BitLen() >= minRSA && k.N.BitLen() <= maxRSA
}

// anchored wants the root to be an anchor under Google's name, and the chain to lead to it, all of it valid now.
func anchored(certs []*x509.Certificate, in attest.Inputs) (rs []attest.Reason) {
	root := certs[rootAt]
	if root.Subject.CommonName != RootName || !slices.ContainsFunc(in.Trust.Index().Anchors(), root.Equal) {
		return []attest.Reason{{Code: attest.CodeChain, Path: x5cPath(rootAt), Got: fmt.Sprintf("%.64q", root.Subject.CommonName), Want: fmt.Sprintf("an anchor of the snapshot that is %q", RootName)}}
	}
	for i, cert := range certs {
		rs = append(rs, inTime(cert, x5cPath(i), in.Now)...)
	}
	if len(rs) > 0 {
		return rs // which the library would call a broken chain
	}
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: in.Now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	opts.Roots.AddCert(root)
	opts.Intermediates.AddCert(certs[intermediateAt])
	chains, err := certs[leafAt].Verify(opts)
	if err != nil || len(chains[0]) != chainLength {
		return []attest.Reason{{Code: attest.CodeChain, Path: "header.x5c", Got: fmt.Sprint(err), Want: "each signed by the next"}}
	}
	return nil
}

func inTime(c *x509.Certificate, path string, now time.Time) []attest.Reason {
	at := now.UTC().Format(time.RFC3339)
	switch {
	case now.Before(c.NotBefore):
		return []attest.Reason{{Code: attest.CodeCertTime, Path: path, Got: c.NotBefore.UTC().Format(time.RFC3339), Want: "at most " + at}}
	case !now.Before(c.NotAfter):
		return []attest.Reason{{Code: attest.CodeCertExpired, Path: path, Got: c.NotAfter.UTC().Format(time.RFC3339), Want: "after " + at}}
	}
	return nil
}

// revoked looks for a certificate in the lists of its issuer. Where the certificate names a list and there is none,
// that is not checked. A list that is too old still revokes.
func revoked(c, issuer *x509.Certificate, name string, in attest.Inputs, claims *attest.Claims) (rs []attest.Reason) {
	var newest *x509.RevocationList
	for _, l := range in.Trust.Index().CRLs {
		if !bytes.Equal(l.RawIssuer, issuer.RawSubject) || l.CheckSignatureFrom(issuer) != nil {
			continue
		}
		if newest == nil || newest.ThisUpdate.Before(l.ThisUpdate) {
			newest = l
		}
		listed := func(e x509.RevocationListEntry) bool { return e.SerialNumber.Cmp(c.SerialNumber) == 0 }
		if slices.ContainsFunc(l.RevokedCertificateEntries, listed) {
			rs = append(rs, attest.Reason{Code: attest.CodeRevoked, Path: name, Got: "serial number " + c.SerialNumber.Text(16), Want: "one that is not listed"})
		}
	}
	if newest != nil {
		claims.Dated = append(claims.Dated, attest.Dated{Name: name, Code: attest.CodeCRLStale, ThisUpdate: newest.ThisUpdate, NextUpdate: newest.NextUpdate})
	} else if len(c.CRLDistributionPoints) > 0 {
		claims.NotChecked = append(claims.NotChecked, name)
	}
	return rs
}
