package roots

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/google/go-sev-guest/verify/trust"
)

// TestFingerprints recomputes each constant from the certificate that is embedded.
func TestFingerprints(t *testing.T) {
	want := map[string]string{
		"ARK-Milan": AMDMilanARK, "SEV-Milan": AMDMilanASK, "SEV-VLEK-Milan": AMDMilanASVK,
		"ARK-Genoa": AMDGenoaARK, "SEV-Genoa": AMDGenoaASK, "SEV-VLEK-Genoa": AMDGenoaASVK,
		"ARK-Turin": AMDTurinARK, "SEV-Turin": AMDTurinASK, "SEV-VLEK-Turin": AMDTurinASVK,
		"Intel SGX Root CA": IntelSGX, "EK/AK CA Root": GoogleEKAK, "EK/AK CA Intermediate": GoogleEKAKIntermediate3,
		"tpm_ek_v1_cloud_host_root-signer-0-2018-04-06T10:58:26-07:00 K:1, 1:Pw003HsFYO4:0:18": GoogleTPMEK,
		"tpm_ek_v1_cloud_host-signer-0-2020-10-22T14:02:08-07:00 K:1, 2:HBNpA3TPAbM:0:18":      GoogleTPMEKIntermediate2,
		"tpm_ek_v1_cloud_host-signer-0-2021-10-12T04:22:11-07:00 K:1, 3:nbvaGZFLcuc:0:18":      GoogleTPMEKIntermediate3,
	}
	x := Snapshot().Index()
	if len(x.Certificates) != len(want) || len(x.Unknown) != 0 {
		t.Errorf("%d certificates, want %d; unknown %q", len(x.Certificates), len(want), x.Unknown)
	}
	for _, c := range x.Certificates {
		if got := Fingerprint(c); got != want[c.Subject.CommonName] {
			t.Errorf("%s: %s, want %q", c.Subject.CommonName, got, want[c.Subject.CommonName])
		}
	}
	var names []string
	for _, c := range x.Anchors() {
		names = append(names, c.Subject.CommonName)
		if !Pinned(c) {
			t.Errorf("%s is not pinned", c.Subject.CommonName)
		}
	}
	if len(names) != len(anchors)-1 { // all but Confidential Space
		t.Errorf("anchors %q", names)
	}
	if err := Check(x); err != nil {
		t.Error(err)
	}
	for whose, want := range map[string]bool{AMD: true, Intel: true, GoogleTPM: true, ConfidentialSpace: false, "": false} {
		if got := Has(x, whose); got != want {
			t.Errorf("a root of %q: %t", whose, got)
		}
	}
}

// TestEachHasItsRoot: no certificate is here that no root here signed.
func TestEachHasItsRoot(t *testing.T) {
	x := Snapshot().Index()
	for _, c := range x.Certificates {
		if !slices.ContainsFunc(x.Anchors(), func(a *x509.Certificate) bool { return c.CheckSignatureFrom(a) == nil }) {
			t.Errorf("%s is signed by none of the roots", c.Subject.CommonName)
		}
	}
}

// TestSameAsOthers: the libraries of the trade hold the same bytes.
func TestSameAsOthers(t *testing.T) {
	theirs := map[string][]byte{}
	for _, b := range [][]byte{
		trust.AskArkMilanVcekBytes, trust.AskArkMilanVlekBytes, trust.AskArkGenoaVcekBytes, trust.AskArkGenoaVlekBytes,
		trust.AskArkTurinVcekBytes, trust.AskArkTurinVlekBytes, // the last has a CRLF at its end
		module(t, "github.com/google/go-tdx-guest", "verify/trusted_root.pem"),
		module(t, "github.com/google/go-tpm-tools", "server/ca-certs/gcp_ek_ak_ca_root.crt"),
		module(t, "github.com/google/go-tpm-tools", "server/ca-certs/gcp_ek_ak_ca_intermediate_v3.crt"),
		module(t, "github.com/google/go-tpm-tools", "server/ca-certs/tpm_ek_root_1.cer"),
		module(t, "github.com/google/go-tpm-tools", "server/ca-certs/tpm_ek_intermediate_2.crt"),
		module(t, "github.com/google/go-tpm-tools", "server/ca-certs/tpm_ek_intermediate_3.crt"),
	} {
		theirs[string(rune('a'+len(theirs)))] = b
	}
	s, err := endorse.New(theirs)
	if err != nil {
		t.Fatal(err)
	}
	if u := s.Index().Unknown; len(u) != 0 {
		t.Fatalf("unknown %q", u)
	}
	if a, b := fingerprints(s), fingerprints(Snapshot()); !slices.Equal(a, b) {
		t.Errorf("they have\n%s\nhere are\n%s", strings.Join(a, "\n"), strings.Join(b, "\n"))
	}
}

func fingerprints(s *endorse.Snapshot) []string {
	var out []string
	for _, c := range s.Index().Certificates {
		out = append(out, Fingerprint(c))
	}
	slices.Sort(out)
	return out
}

// module reads a file of a module that is in the build list.
func module(t *testing.T, path, file string) []byte {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), file))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestConfidentialSpace: its root is known by its fingerprint alone.
func TestConfidentialSpace(t *testing.T) {
	dir := os.Getenv("CONSILIUM_SHARED")
	if dir == "" {
		dir = "../../../../shared"
	}
	b, err := os.ReadFile(filepath.Join(dir, "evidence/confidential-space/root.crt"))
	if err != nil {
		t.Skipf("the evidence is absent, set CONSILIUM_SHARED: %v", err)
	}
	s, err := endorse.New(map[string][]byte{"a": b})
	if err != nil {
		t.Fatal(err)
	}
	if c := s.Index().Anchors()[0]; !Pinned(c) || Fingerprint(c) != GoogleConfidentialSpace || Check(s.Index()) != nil {
		t.Errorf("fingerprint %s", Fingerprint(c))
	}
}

// TestImpostors: a root that bears a vendor's name has to be the vendor's.
func TestImpostors(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	named := func(cn string) []byte {
		c := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: cn}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}
		der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	files := map[string][]byte{"own": named("Our own root")}
	check := func() error {
		s, err := endorse.New(files)
		if err != nil {
			t.Fatal(err)
		}
		return Check(s.Index())
	}
	if err := check(); err != nil {
		t.Errorf("an own root: %v", err)
	}
	for cn := range anchors {
		files["false"] = named(cn)
		if err := check(); err == nil || !strings.Contains(err.Error(), anchors[cn].fingerprint) {
			t.Errorf("a false %s: %v", cn, err)
		}
	}
	files["more"] = named("ARK-Milan")
	if err := check(); strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("two of them: %v", err)
	}
}

// TestFilesAreCopies: nobody changes what the next one gets.
func TestFilesAreCopies(t *testing.T) {
	for name, b := range Files() {
		clear(b)
		if block, _ := pem.Decode(Files()[name]); block == nil || bytes.Equal(b, Files()[name]) {
			t.Errorf("%s was changed", name)
		}
	}
}
