package tdx_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"testing"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/tdx"
	fake "github.com/consilium-fl/consilium/attest/testtee/intel"
)

// BenchmarkVerify puts verification with appraisal beside go-tdx-guest's verification and validation of the same
// quote with the same collateral.
func BenchmarkVerify(b *testing.B) {
	phala := reals(b)[0]
	b.Run("ours", func(b *testing.B) {
		verifiers := attest.NewVerifiers(tdx.NewVerifier())
		in := attest.Inputs{Now: phala.now, Trust: snapshot(b, phala.files), ReportData: &phala.want}
		b.ReportAllocs()
		for b.Loop() {
			if r := verifiers.Check(phala.evidence, in, phala.policy); !r.OK() {
				b.Fatal(r.Reasons)
			}
		}
	})
	b.Run("go-tdx-guest", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := phala.library(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("X.509 and ECDSA alone", func(b *testing.B) {
		x := newX509(b, phala.sample)
		b.ReportAllocs()
		for b.Loop() {
			x.run(b)
		}
	})
}

// x509Work is what of a verification is certificates, lists and signatures: the work that nobody can leave out.
type x509Work struct {
	chain            []byte // PEM
	root, signing    *x509.Certificate
	pckCRL, rootCRL  *x509.RevocationList
	key, digest, sig []byte
}

func newX509(t testing.TB, s sample) *x509Work {
	t.Helper()
	x := &x509Work{digest: make([]byte, 32)}
	x.chain = chain(s.evidence.Statement)
	var err error
	for _, c := range []struct {
		to   **x509.Certificate
		file string
	}{{&x.root, fake.RootFile}, {&x.signing, fake.SigningFile}} {
		if *c.to, err = x509.ParseCertificate(s.files[c.file]); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		to   **x509.RevocationList
		file string
	}{{&x.pckCRL, fake.PCKCRLFile}, {&x.rootCRL, fake.RootCRLFile}} {
		if *c.to, err = x509.ParseRevocationList(s.files[c.file]); err != nil {
			t.Fatal(err)
		}
	}
	x.key = append([]byte{4}, s.evidence.Statement[signatureAt+4+64:][:64]...)
	x.sig = []byte{0x30, 6, 2, 1, 1, 2, 1, 1}
	return x
}

func (x *x509Work) run(t testing.TB) {
	var certs [2]*x509.Certificate
	rest := x.chain
	for i := range 3 {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if i == 2 {
			continue // the root is compared
		}
		var err error
		if certs[i], err = x509.ParseCertificate(block.Bytes); err != nil {
			t.Fatal(err)
		}
	}
	leaf, ca := certs[0], certs[1]
	for _, err := range []error{
		leaf.CheckSignatureFrom(ca), ca.CheckSignatureFrom(x.root), x.signing.CheckSignatureFrom(x.root), x.pckCRL.CheckSignatureFrom(ca), x.rootCRL.CheckSignatureFrom(x.root),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), x.key)
	if err != nil {
		t.Fatal(err)
	}
	for range 4 { // quote, enclave's report, TCB info, identity
		ecdsa.VerifyASN1(key, x.digest, x.sig)
	}
}

// TestAllocations holds what verification and appraisal allocate beyond X.509 and ECDSA below 50.
func TestAllocations(t *testing.T) {
	phala := reals(t)[0]
	verifier := tdx.NewVerifier()
	verifiers := attest.NewVerifiers(verifier)
	in := attest.Inputs{Now: phala.now, Trust: snapshot(t, phala.files), ReportData: &phala.want}
	x := newX509(t, phala.sample)
	others := testing.AllocsPerRun(100, func() { x.run(t) })
	verify := testing.AllocsPerRun(100, func() { _, _ = verifier.Verify(phala.evidence, in) })
	check := testing.AllocsPerRun(100, func() { verifiers.Check(phala.evidence, in, phala.policy) })
	digest := testing.AllocsPerRun(100, func() { phala.policy.Digest() })
	t.Logf("%.0f of X.509 and ECDSA; %.0f more to verify, %.0f to appraise, %.0f for the policy's digest", others, verify-others, check-verify-digest, digest)
	if own := check - others; own > 50 {
		t.Errorf("%.0f allocations beyond X.509 and ECDSA, want at most 50", own)
	}
}
