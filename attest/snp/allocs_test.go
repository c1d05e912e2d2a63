package snp

import (
	"crypto/x509"
	"testing"

	"github.com/consilium-fl/consilium/attest"
)

// TestAllocations holds what is not X.509's to a number: one certificate is parsed, and it and its issuer are checked.
func TestAllocations(t *testing.T) {
	s := genoa(t)
	vs := attest.NewVerifiers(NewVerifier())
	whole := testing.AllocsPerRun(20, func() {
		if r := vs.Check(s.evidence, s.in, s.policy); !r.OK() {
			t.Fatal(r.Reasons)
		}
	})
	named := func(name string) *x509.Certificate {
		for _, c := range s.in.Trust.Index().Certificates {
			if c.Subject.CommonName == name {
				return c
			}
		}
		t.Fatalf("no %s", name)
		return nil
	}
	ask, ark := named("SEV-Genoa"), named("ARK-Genoa")
	x := testing.AllocsPerRun(20, func() {
		leaf, err := x509.ParseCertificate(s.evidence.Endorsements["vcek"])
		if err != nil || leaf.CheckSignatureFrom(ask) != nil || ask.CheckSignatureFrom(ark) != nil {
			t.Fatal(err)
		}
	})
	digest := testing.AllocsPerRun(20, func() { s.policy.Digest() })
	t.Logf("%v, of which X.509 %v and the digest of the policy %v", whole, x, digest)
	if rest := whole - x; rest > 50 {
		t.Errorf("%v allocations beyond X.509, want at most 50", rest)
	}
}
