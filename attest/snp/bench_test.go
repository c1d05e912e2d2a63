package snp

import (
	"bytes"
	"flag"
	"io"
	"os"
	"testing"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/proto/sevsnp"
	"github.com/google/go-sev-guest/verify"
	"github.com/google/go-sev-guest/verify/trust"
	"github.com/google/logger"

	"github.com/consilium-fl/consilium/attest"
)

func TestMain(m *testing.M) {
	flag.Parse()
	logger.Init("", false, false, io.Discard)
	os.Exit(m.Run())
}

// BenchmarkCheck verifies and appraises the real Genoa report: by us, policy and all, and by go-sev-guest, which does
// not appraise here.
func BenchmarkCheck(b *testing.B) {
	s := genoa(b)
	b.Run("verify and appraise", func(b *testing.B) {
		b.ReportAllocs()
		vs := attest.NewVerifiers(NewVerifier())
		for b.Loop() {
			if r := vs.Check(s.evidence, s.in, s.policy); !r.OK() {
				b.Fatal(r.Reasons)
			}
		}
	})
	b.Run("go-sev-guest", func(b *testing.B) {
		roots := trust.AMDRootCertsProduct("Genoa")
		roots.ProductCerts = &trust.ProductCerts{}
		if err := roots.ProductCerts.FromKDSCertBytes(append(bytes.TrimSpace(file(b, "ask_ark_genoa.pem")), '\n')); err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			r, err := abi.ReportToProto(s.evidence.Statement)
			if err != nil {
				b.Fatal(err)
			}
			a := &sevsnp.Attestation{Report: r, CertificateChain: &sevsnp.CertificateChain{VcekCert: s.evidence.Endorsements["vcek"]}}
			err = verify.SnpAttestation(a, &verify.Options{DisableCertFetching: true, Now: s.in.Now, TrustedRoots: map[string][]*trust.AMDRootCerts{"Genoa": {roots}}})
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}
