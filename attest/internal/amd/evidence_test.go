package amd

import (
	"encoding/pem"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
	fake "github.com/consilium-fl/consilium/attest/testtee/amd"
	"github.com/consilium-fl/consilium/attest/testtee/shared"
)

// evidence reads one file of the real evidence, in place; PEM becomes DER.
func evidence(t testing.TB, name string) []byte {
	t.Helper()
	b := shared.File(t, "snp/"+name)
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

// sample is a report that verifies, with what it verifies by.
type sample struct {
	name         string
	report       []byte
	endorsements map[string][]byte
	in           attest.Inputs
	world        world
}

// reals are the real reports, all of which are authentic.
func reals(t testing.TB) []sample {
	t.Helper()
	var out []sample
	trust := amdRoots(t)
	for _, f := range []struct{ name, report, kind, cert, day string }{
		{"Milan v2, debug", "milan-v2-debug.report.bin", "vcek", "milan-v2-debug.vcek.der", "2025-01-01"},
		{"Milan v2", "milan-v2-azure.report.bin", "vcek", "milan-v2-azure.vcek.der", "2025-01-01"},
		{"Milan v3, VLEK", "milan-v3-aws-vlek.report.bin", "vlek", "milan-v3-aws-vlek.vlek.der", "2025-06-01"},
		{"Genoa v3", "genoa-v3.report.bin", "vcek", "genoa-v3.vcek.pem", "2026-01-01"},
		{"Siena v3", "siena-v3.report.bin", "vcek", "siena-v3.vcek.der", "2026-01-01"},
	} {
		out = append(out, sample{f.name, evidence(t, f.report), map[string][]byte{f.kind: evidence(t, f.cert)}, attest.Inputs{Now: day(t, f.day), Trust: trust}, worldAMD})
	}
	return out
}

// fakes are reports of every line and version by the fake AMD, made once.
var fakes = sync.OnceValue(func() []sample {
	trust, err := endorse.New(fake.Shared().Files())
	if err != nil {
		panic(err)
	}
	var out []sample
	for _, line := range []string{fake.Milan, fake.Genoa, fake.Turin} {
		for version := uint32(2); version <= 5; version++ {
			if line == fake.Turin && version == 2 {
				continue
			}
			for _, vlek := range []bool{false, true} {
				report, endorsements := fake.Shared().Report(fake.Options{Line: line, Version: version, VLEK: vlek, ReportData: [64]byte{7}})
				out = append(out, sample{fmt.Sprintf("fake %s v%d, VLEK %t", line, version, vlek), report, endorsements, attest.Inputs{Now: fakeDay, Trust: trust}, worldFake})
			}
		}
	}
	return out
})

var fakeDay = time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)

// verify is the verdict: no error, or the codes of all reasons.
func (s sample) verify() (attest.Claims, string) {
	c, err := Verify(s.report, s.endorsements, s.in)
	if err == nil {
		return c, "takes it"
	}
	var codes []string
	var walk func(error)
	walk = func(err error) {
		var r attest.Reason
		if joined, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // the walk is the point
			for _, e := range joined.Unwrap() {
				walk(e)
			}
		} else if errors.As(err, &r) {
			codes = append(codes, r.Code)
		} else {
			codes = append(codes, "NO REASON: "+err.Error())
		}
	}
	walk(err)
	return c, strings.Join(codes, ", ")
}
