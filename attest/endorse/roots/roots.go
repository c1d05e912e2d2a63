// Package roots holds the certificates by which the vendors of TEEs vouch for their hardware, as they publish them,
// and the SHA-256 fingerprints of all, so that a root that was fetched can be told from one that bears its name.
//
// They are trusted by nobody until a steward installs them: a snapshot is made of them where one is wanted.
//
//	trust := roots.Snapshot()                 // or write roots.Files() into the trust folder
//	if err := roots.Check(trust.Index()); err != nil { … }
package roots

import (
	"crypto/sha256"
	"crypto/x509"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/consilium-fl/consilium/attest/endorse"
)

// The SHA-256 of each certificate's DER: what `openssl x509 -fingerprint -sha256` prints.
const (
	// AMD, of https://kdsintf.amd.com/vcek/v1/{Milan,Genoa,Turin}/cert_chain, and for the ASVKs of
	// https://kdsintf.amd.com/vlek/v1/{Milan,Genoa,Turin}/cert_chain.
	AMDMilanARK  = "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd"
	AMDMilanASK  = "67d303bd3905fd38db8b20e0793699870e7fa612eaad5dec358293fd8c0bac1b"
	AMDMilanASVK = "c5e081f59b7efab1fe2f8b505e159704e72f29cab7ef7cf628a05a42439082f5"
	AMDGenoaARK  = "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1"
	AMDGenoaASK  = "5464738c1546aed5f2cecf1dc98c5c960a92e8913238a61711bc90ec6e828521"
	AMDGenoaASVK = "197e610743a917d6b9bb982a5a9226ccc0a15b611be0619e626aca9151457372"
	AMDTurinARK  = "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a"
	AMDTurinASK  = "5b77ef5fe7a7a004fd9032668fba9d0fda22f88c4442069a479636a6ae3b3185"
	AMDTurinASVK = "104e10a8bd060a3c20a434261a57d0588fd65a88915b4f65b08bdecaf8df1a3c"

	// IntelSGX is Intel's root of SGX and TDX,
	// https://certificates.trustedservices.intel.com/Intel_SGX_Provisioning_Certification_RootCA.pem.
	IntelSGX = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"

	// Google's roots of the vTPMs of Compute Engine: that of the certificates of instances' keys since 2022, and that of
	// endorsement keys before.
	GoogleEKAK               = "594759594b9b61524f6c8ef668f7177f7b9066bc0674f2f49fe9e052be78beb2"
	GoogleEKAKIntermediate3  = "c84de8116dfaf5a908f21e810487791f5437e206d00ad8025050cca6bd2ff627"
	GoogleTPMEK              = "9bd5285f8fb18502a7947e621ffd470266f49fcd3b73e19a190f690ad32a7caf"
	GoogleTPMEKIntermediate2 = "5d8dbcf8c8053dd8ffad711b6219355032b7122c34cac0f90ccb49def69ec504"
	GoogleTPMEKIntermediate3 = "7132b6ea71101f6c51bb58f98c3798c19b65be510eca0344318900510b593178"

	// GoogleConfidentialSpace is the root of PKI tokens, whose place is named at
	// https://confidentialcomputing.googleapis.com/.well-known/attestation-pki-root. The certificate itself is not here.
	GoogleConfidentialSpace = "148b293821bb0c6a317f413c8ba475814091cb22d49b9e3c94198db8e8f86c39"
)

// Whose roots they are, in words.
const (
	AMD               = "AMD"
	Intel             = "Intel"
	GoogleTPM         = "Google's vTPMs"
	ConfidentialSpace = "Confidential Space"
)

// anchors are the pinned roots by the common name of their subject.
var anchors = map[string]struct{ whose, fingerprint string }{
	"ARK-Milan":         {AMD, AMDMilanARK},
	"ARK-Genoa":         {AMD, AMDGenoaARK},
	"ARK-Turin":         {AMD, AMDTurinARK},
	"Intel SGX Root CA": {Intel, IntelSGX},
	"EK/AK CA Root":     {GoogleTPM, GoogleEKAK},
	"tpm_ek_v1_cloud_host_root-signer-0-2018-04-06T10:58:26-07:00 K:1, 1:Pw003HsFYO4:0:18": {GoogleTPM, GoogleTPMEK},
	"Confidential Space Root CA": {ConfidentialSpace, GoogleConfidentialSpace},
}

//go:embed *.pem
var files embed.FS

// Files are the certificates as PEM, a file for each family: amd-milan.pem, intel-sgx.pem, google-ek-ak.pem.
func Files() map[string][]byte {
	entries, err := files.ReadDir(".")
	if err != nil {
		panic("roots: embedded files cannot be unreadable: " + err.Error())
	}
	out := make(map[string][]byte, len(entries))
	for _, e := range entries {
		if out[e.Name()], err = files.ReadFile(e.Name()); err != nil {
			panic("roots: embedded files cannot be unreadable: " + err.Error())
		}
	}
	return out
}

// Snapshot is a snapshot of Files alone.
func Snapshot() *endorse.Snapshot {
	s, err := endorse.New(Files())
	if err != nil {
		panic("roots: the embedded files are within the bounds: " + err.Error())
	}
	return s
}

// Fingerprint is the SHA-256 of a certificate in hex, as the constants have it.
func Fingerprint(c *x509.Certificate) string {
	h := sha256.Sum256(c.Raw)
	return hex.EncodeToString(h[:])
}

// Pinned reports whether a certificate is one of the vendors' roots.
func Pinned(c *x509.Certificate) bool {
	return anchors[c.Subject.CommonName].fingerprint == Fingerprint(c)
}

// Has reports whether an anchor bears the name of one of the roots of AMD, Intel, GoogleTPM or ConfidentialSpace. That it
// is that root, Check says.
func Has(x *endorse.Index, whose string) bool {
	return slices.ContainsFunc(x.Anchors(), func(c *x509.Certificate) bool { return anchors[c.Subject.CommonName].whose == whose })
}

// Check refuses anchors that bear the name of a vendor's root and are not it. A root of any other name is the
// steward's own affair. The error names every one.
func Check(x *endorse.Index) error {
	var errs []error
	for _, c := range x.Anchors() {
		if want := anchors[c.Subject.CommonName].fingerprint; want != "" && want != Fingerprint(c) {
			errs = append(errs, fmt.Errorf("checking anchors: %q has fingerprint %s, want %s", c.Subject.CommonName, Fingerprint(c), want))
		}
	}
	return errors.Join(errs...)
}
