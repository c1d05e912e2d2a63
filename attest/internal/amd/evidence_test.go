package amd

import (
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
)

// evidence reads one file of the real evidence, in place; PEM becomes DER.
func evidence(t testing.TB, name string) []byte {
	t.Helper()
	shared := os.Getenv("CONSILIUM_SHARED")
	if shared == "" {
		shared = "../../../../shared"
	}
	b, err := os.ReadFile(filepath.Join(shared, "evidence", "snp", name))
	if os.IsNotExist(err) {
		t.Skipf("real evidence is absent, set CONSILIUM_SHARED: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if block, _ := pem.Decode(b); block != nil && filepath.Ext(name) == ".pem" && name[:3] != "ask" {
		return block.Bytes
	}
	return b
}

// amdRoots is a snapshot of AMD's own authorities.
func amdRoots(t testing.TB) *endorse.Snapshot {
	t.Helper()
	files := map[string][]byte{}
	for _, name := range []string{"ask_ark_genoa.pem", "ask_ark_genoa_vlek.pem", "ask_ark_milan.pem", "ask_ark_milan_vlek.pem", "ask_ark_turin_vcek.pem", "ask_ark_turin_vlek.pem"} {
		files[name] = evidence(t, name)
	}
	s, err := endorse.New(files)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func day(t testing.TB, s string) time.Time {
	t.Helper()
	d, err := time.Parse(time.DateOnly, s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestAuthentic(t *testing.T) {
	for _, tc := range []struct{ report, kind, cert, day string }{
		{"milan-v2-debug.report.bin", "vcek", "milan-v2-debug.vcek.der", "2025-01-01"},
		{"milan-v2-azure.report.bin", "vcek", "milan-v2-azure.vcek.der", "2025-01-01"},
		{"milan-v2-azure.report.bin", "vcek", "milan-v2-azure.vcek-forged.der", "2025-01-01"},
		{"milan-v3-aws-vlek.report.bin", "vlek", "milan-v3-aws-vlek.vlek.der", "2025-06-01"},
		{"genoa-v3.report.bin", "vcek", "genoa-v3.vcek.pem", "2026-01-01"},
		{"siena-v3.report.bin", "vcek", "siena-v3.vcek.der", "2026-01-01"},
	} {
		c, err := Verify(evidence(t, tc.report), map[string][]byte{tc.kind: evidence(t, tc.cert)}, attest.Inputs{Now: day(t, tc.day), Trust: amdRoots(t)})
		if forged := tc.cert == "milan-v2-azure.vcek-forged.der"; forged != (err != nil) {
			t.Errorf("%s with %s: %v", tc.report, tc.cert, err)
		}
		if c.SNP == nil {
			t.Errorf("%s: no claims", tc.report)
		}
	}
}
