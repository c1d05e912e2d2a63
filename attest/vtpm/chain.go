package vtpm

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/consilium-fl/consilium/attest"
)

// Object identifiers of the certificates.
var (
	oidInstance       = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 1, 21}
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidEKCertificate  = asn1.ObjectIdentifier{2, 23, 133, 8, 1} // tcg-kp-EKCertificate, which Google puts on keys of both kinds
	oidAIKCertificate = asn1.ObjectIdentifier{2, 23, 133, 8, 3}
)

// authority knows the names of Google's certification authorities for virtual TPMs: those of 2022 and, by the beginning
// of their names, those before.
type authority struct{ unit, name, before, crl string }

var (
	root         = authority{"Google Cloud", "EK/AK CA Root", "tpm_ek_v1_cloud_host_root-signer-", "crl:gce-tpm-root"}
	intermediate = authority{"Google Cloud", "EK/AK CA Intermediate", "tpm_ek_v1_cloud_host-signer-", "crl:gce-tpm-intermediate"}
)

func (a authority) is(n pkix.Name) bool {
	if !slices.Equal(n.Organization, []string{"Google LLC"}) {
		return false
	}
	return n.CommonName == a.name && slices.Equal(n.OrganizationalUnit, []string{a.unit}) ||
		strings.HasPrefix(n.CommonName, a.before) && slices.Equal(n.OrganizationalUnit, []string{"Cloud"})
}

// certified chains the key's certificate over an intermediate of Google's to a root of Google's among the anchors,
// at in.Now.
func certified(ak *x509.Certificate, brought [][]byte, in attest.Inputs, c *attest.Claims) error {
	opts := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: in.Now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}
	index := in.Trust.Index()
	for _, a := range index.Anchors() {
		if root.is(a.Subject) {
			opts.Roots.AddCert(a)
		}
	}
	for _, x := range index.Certificates {
		if intermediate.is(x.Subject) {
			opts.Intermediates.AddCert(x)
		}
	}
	for i, der := range brought {
		x, err := x509.ParseCertificate(der)
		if err != nil {
			return attest.Reason{Code: attest.CodeChain, Path: fmt.Sprintf("statement.intermediate_certs[%d]", i), Got: err.Error(), Want: "a certificate"}
		}
		if intermediate.is(x.Subject) {
			opts.Intermediates.AddCert(x)
		}
	}
	if err := endEntity(ak); err != nil {
		return err
	}
	// The name of the TPM's maker is a critical extension that crypto/x509 does not know.
	leaf := *ak
	leaf.UnhandledCriticalExtensions = slices.DeleteFunc(slices.Clone(leaf.UnhandledCriticalExtensions), oidSubjectAltName.Equal)
	chains, err := leaf.Verify(opts)
	if err != nil {
		return chainReason(err, in.Now)
	}
	chain := chains[0]
	if len(chain) != 3 {
		return attest.Reason{Code: attest.CodeChain, Path: "statement.ak_cert", Got: fmt.Sprintf("%d certificates to the root", len(chain)), Want: "3"}
	}
	c.NotAfter = chain[0].NotAfter
	for _, x := range chain[1:] {
		if x.NotAfter.Before(c.NotAfter) {
			c.NotAfter = x.NotAfter
		}
	}
	return errors.Join(
		revoked(chain[0], chain[1], intermediate.crl, in, c),
		revoked(chain[1], chain[2], root.crl, in, c),
	)
}

// endEntity demands a certificate of a key that signs, and not of an authority or of a key that encrypts.
func endEntity(ak *x509.Certificate) error {
	const other = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageKeyEncipherment | x509.KeyUsageDataEncipherment | x509.KeyUsageKeyAgreement
	if ak.IsCA || !ak.BasicConstraintsValid {
		return attest.Reason{Code: attest.CodeTPMKey, Path: "statement.ak_cert", Got: "an authority's", Want: "a key's"}
	}
	if ak.KeyUsage&x509.KeyUsageDigitalSignature == 0 || ak.KeyUsage&other != 0 {
		return attest.Reason{Code: attest.CodeTPMKey, Path: "statement.ak_cert.key_usage", Got: fmt.Sprintf("%#x", int(ak.KeyUsage)), Want: "signatures alone"}
	}
	if !slices.ContainsFunc(ak.UnknownExtKeyUsage, func(o asn1.ObjectIdentifier) bool { return o.Equal(oidEKCertificate) || o.Equal(oidAIKCertificate) }) {
		return attest.Reason{Code: attest.CodeTPMKey, Path: "statement.ak_cert.extended_key_usage", Got: fmt.Sprint(ak.UnknownExtKeyUsage), Want: "a TPM's key"}
	}
	return nil
}

func chainReason(err error, now time.Time) error {
	invalid, ok := errors.AsType[x509.CertificateInvalidError](err)
	at := now.UTC().Format(time.RFC3339)
	switch {
	case ok && invalid.Reason == x509.Expired && now.Before(invalid.Cert.NotBefore):
		return attest.Reason{Code: attest.CodeCertTime, Path: "statement.ak_cert", Got: invalid.Cert.NotBefore.Format(time.RFC3339), Want: "at most " + at}
	case ok && invalid.Reason == x509.Expired:
		return attest.Reason{Code: attest.CodeCertExpired, Path: "statement.ak_cert", Got: invalid.Cert.NotAfter.Format(time.RFC3339), Want: "after " + at}
	}
	return attest.Reason{Code: attest.CodeChain, Path: "statement.ak_cert", Got: err.Error(), Want: "a chain to Google's root of virtual TPMs in the snapshot"}
}

// revoked looks for x in the newest list of its issuer, and says so where the snapshot has none.
func revoked(x, issuer *x509.Certificate, name string, in attest.Inputs, c *attest.Claims) error {
	var newest *x509.RevocationList
	var found error
	for _, list := range in.Trust.Index().CRLs {
		if string(list.RawIssuer) != string(issuer.RawSubject) || list.CheckSignatureFrom(issuer) != nil || slices.ContainsFunc(list.Extensions, func(e pkix.Extension) bool { return e.Critical }) {
			continue
		}
		if newest == nil || list.ThisUpdate.After(newest.ThisUpdate) {
			newest = list
		}
		if slices.ContainsFunc(list.RevokedCertificateEntries, func(e x509.RevocationListEntry) bool { return e.SerialNumber.Cmp(x.SerialNumber) == 0 }) {
			found = attest.Reason{Code: attest.CodeRevoked, Path: name, Got: "serial " + x.SerialNumber.Text(16), Want: "not listed"}
		}
	}
	if newest == nil {
		c.NotChecked = append(c.NotChecked, name)
		return nil
	}
	c.Dated = append(c.Dated, attest.Dated{Name: name, Code: attest.CodeCRLStale, ThisUpdate: newest.ThisUpdate, NextUpdate: newest.NextUpdate})
	return found
}

// instance is the extension's value.
type instance struct {
	Zone               string `asn1:"utf8"`
	ProjectNumber      *big.Int
	ProjectID          string `asn1:"utf8"`
	InstanceID         *big.Int
	InstanceName       string `asn1:"utf8"`
	SecurityProperties struct {
		SecurityVersion int64 `asn1:"explicit,tag:0,optional"`
		IsProduction    bool  `asn1:"explicit,tag:1,optional"`
	} `asn1:"explicit,tag:0,optional"`
}

// instanceOf reads which machine the key is of.
func instanceOf(ak *x509.Certificate) (*attest.GCEInstance, error) {
	refuse := func(got string) error {
		return attest.Reason{Code: attest.CodeTPMKey, Path: "statement.ak_cert, extension " + oidInstance.String(), Got: got, Want: "a machine of Google's production"}
	}
	i := slices.IndexFunc(ak.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidInstance) })
	if i < 0 {
		return nil, refuse("none")
	}
	var v instance
	rest, err := asn1.Unmarshal(ak.Extensions[i].Value, &v)
	switch {
	case err != nil:
		return nil, refuse(err.Error())
	case len(rest) > 0:
		return nil, refuse(fmt.Sprintf("%d bytes more", len(rest)))
	case !v.ProjectNumber.IsUint64() || !v.InstanceID.IsUint64():
		return nil, refuse("numbers out of bounds")
	case !v.SecurityProperties.IsProduction:
		return nil, refuse("a machine under development")
	}
	return &attest.GCEInstance{Project: v.ProjectID, ProjectNumber: v.ProjectNumber.Uint64(), Zone: v.Zone, ID: v.InstanceID.Uint64(), Name: v.InstanceName}, nil
}
