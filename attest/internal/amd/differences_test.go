package amd

import (
	"bytes"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/proto/sevsnp"
	"github.com/google/go-sev-guest/verify"
	"github.com/google/go-sev-guest/verify/trust"
	"github.com/google/logger"

	"github.com/consilium-fl/consilium/attest"
	fake "github.com/consilium-fl/consilium/attest/testtee/amd"
)

var update = flag.Bool("update", false, "write testdata/differences.txt anew")

func TestMain(m *testing.M) {
	flag.Parse()
	logger.Init("", false, false, io.Discard)
	os.Exit(m.Run())
}

// world says by which roots a sample is verified.
type world int

const (
	worldAMD world = iota
	worldFake
)

// libraryRoots are those roots as go-sev-guest wants them.
func libraryRoots(t testing.TB, w world) map[string][]*trust.AMDRootCerts {
	t.Helper()
	out := map[string][]*trust.AMDRootCerts{}
	for _, line := range []string{milan, genoa, turin} {
		r := trust.AMDRootCertsProduct(line)
		r.ProductCerts = &trust.ProductCerts{}
		lower := strings.ToLower(line)
		files := fake.Shared().Files()
		for _, name := range []string{"ask_ark_" + lower + ".pem", "ask_ark_" + lower + "_vlek.pem"} {
			b := files[name]
			if w == worldAMD {
				if name == "ask_ark_turin.pem" {
					name = "ask_ark_turin_vcek.pem"
				}
				b = append(bytes.TrimSpace(evidence(t, name)), '\n')
			}
			if err := r.ProductCerts.FromKDSCertBytes(b); err != nil {
				t.Fatal(err)
			}
		}
		out[line] = []*trust.AMDRootCerts{r}
	}
	return out
}

// library is go-sev-guest's verdict.
func library(s sample, roots map[string][]*trust.AMDRootCerts) (verdict string) {
	defer func() {
		if p := recover(); p != nil {
			verdict = "panics"
		}
	}()
	r, err := abi.ReportToProto(s.report)
	if err != nil {
		return "refuses"
	}
	a := &sevsnp.Attestation{Report: r, CertificateChain: &sevsnp.CertificateChain{VcekCert: s.endorsements["vcek"], VlekCert: s.endorsements["vlek"]}}
	if verify.SnpAttestation(a, &verify.Options{DisableCertFetching: true, Now: s.in.Now, TrustedRoots: roots}) != nil {
		return "refuses"
	}
	return "takes it"
}

// mutations change a report after it was signed.
func mutations() map[string]func([]byte) []byte {
	out := map[string]func([]byte) []byte{
		"unchanged":              func(b []byte) []byte { return b },
		"one byte shorter":       func(b []byte) []byte { return b[:len(b)-1] },
		"without a signature":    func(b []byte) []byte { return b[:signedSize] },
		"empty":                  func([]byte) []byte { return nil },
		"a byte behind it":       func(b []byte) []byte { return append(b, 0) },
		"twenty bytes behind it": func(b []byte) []byte { return append(b, make([]byte, 20)...) },
		"the other s":            func(b []byte) []byte { return putScalar(b, offS, new(big.Int).Sub(order, getScalar(b, offS))) },
		"r and s zero":           func(b []byte) []byte { clear(b[offR : offS+scalarSize]); return b },
		"r the order":            func(b []byte) []byte { return putScalar(b, offR, order) },
		"s and the order":        func(b []byte) []byte { return putScalar(b, offS, new(big.Int).Add(order, getScalar(b, offS))) },
	}
	for _, at := range []int{
		0x00, 0x04, 0x08, 0x0a, 0x0b, 0x10, 0x20, 0x30, 0x34, 0x38, 0x3a, 0x40, 0x48, 0x49, 0x4c, 0x50, 0x90, 0xc0, 0xe0, 0x110, 0x140, 0x160, 0x180, 0x184, 0x188, 0x189, 0x18a,
		0x18b, 0x19f, 0x1a0, 0x1df, 0x1e0, 0x1e8, 0x1eb, 0x1ec, 0x1ef, 0x1f0, 0x1f8, 0x200, 0x208, 0x29f, offR, offR + 48, offS, offS + 71, 0x330, 0x49f,
	} {
		out[fmt.Sprintf("a bit at %#x", at)] = func(b []byte) []byte { b[at] ^= 1; return b }
	}
	return out
}

// forged are reports whose signature holds over something that no firmware writes, or that is rare.
func forged() map[string]fake.Options {
	poke := func(at int, v ...byte) func([]byte) { return func(b []byte) { copy(b[at:], v) } }
	out := map[string]fake.Options{
		"Siena":                          {CPU: &attest.SNPCPU{Family: 0x19, Model: 0xa0, Stepping: 2}},
		"Bergamo":                        {CPU: &attest.SNPCPU{Family: 0x19, Model: 0xa0, Stepping: 1}},
		"a CPU of no product":            {CPU: &attest.SNPCPU{Family: 0x19, Model: 0x30}},
		"Genoa by Milan":                 {Line: milan, CPU: &attest.SNPCPU{Family: 0x19, Model: 0x11, Stepping: 1}},
		"Turin, platform bit 6":          {Line: turin, Edit: poke(0x40, 0x64)},
		"Turin Dense":                    {Line: turin, CPU: &attest.SNPCPU{Family: 0x1a, Model: 0x11}},
		"mitigations in version 3":       {Edit: poke(0x1f8, 0x3f)},
		"reserved byte of a TCB":         {Edit: poke(0x1e3, 1)},
		"author key without digest":      {Edit: poke(0x48, 1)},
		"digest without author key":      {Edit: poke(0x110, 1)},
		"a masked key that signs":        {Edit: poke(0x48, 2)},
		"no chip id":                     {Edit: func(b []byte) { clear(b[0x1a0:0x1e0]) }},
		"levels of no certificate":       {Certificate: func(c *fake.Certificate) { c.TCB.Ucode-- }},
		"another chip":                   {Certificate: func(c *fake.Certificate) { c.HWID = make([]byte, 64) }},
		"a product with its stepping":    {Certificate: func(c *fake.Certificate) { c.Product = "Genoa-B1" }},
		"a product of another line":      {Certificate: func(c *fake.Certificate) { c.Product = "Milan-B1" }},
		"an extension of AMD's, unknown": {Certificate: func(c *fake.Certificate) { c.Extensions = append(c.Extensions, fake.Extension([]byte{5, 0}, 6)) }},
		"a byte behind the certificate":  {Certificate: func(c *fake.Certificate) { c.Tamper = func(b []byte) []byte { return append(b, 0) } }},
		"expired":                        {Certificate: func(c *fake.Certificate) { c.Until = fakeDay.AddDate(0, 0, -1) }},
		"expired this second":            {Certificate: func(c *fake.Certificate) { c.Until = fakeDay }},
		"not valid yet":                  {Certificate: func(c *fake.Certificate) { c.From = fakeDay.AddDate(1, 0, 0) }},
		"debug":                          {Edit: poke(0x0a, 0x0b)},
		"asked for by the host":          {Edit: poke(0x30, 0xff, 0xff, 0xff, 0xff)},
	}
	return out
}

// TestDifferences lists every input on which our verdict and go-sev-guest's differ. The list is checked in, so that
// a new version of the library, or of ours, that decides otherwise is noticed.
func TestDifferences(t *testing.T) {
	samples := append(reals(t), fakes()...)
	var all []sample
	for _, s := range samples {
		if strings.HasPrefix(s.name, "fake") && !strings.Contains(s.name, "v5") && !strings.Contains(s.name, "v2") {
			all = append(all, s)
			continue
		}
		for name, mutate := range mutations() {
			m := s
			m.name, m.report = s.name+": "+name, mutate(bytes.Clone(s.report))
			all = append(all, m)
		}
	}
	fakeIn := samples[len(samples)-1].in
	for name, o := range forged() {
		report, endorsements := fake.Shared().Report(o)
		all = append(all, sample{"fake: " + name, report, endorsements, fakeIn, worldFake})
	}
	for _, s := range reals(t)[1:3] {
		forgery := s
		forgery.name, forgery.endorsements = s.name+": forged certificate", map[string][]byte{"vcek": evidence(t, "milan-v2-azure.vcek-forged.der")}
		all = append(all, forgery)
	}
	block, _ := pem.Decode(evidence(t, "ask_ark_milan.pem"))
	asAVCEK := reals(t)[1]
	asAVCEK.name, asAVCEK.endorsements = "Milan v2: ASK for VCEK", map[string][]byte{"vcek": block.Bytes}
	all = append(all, asAVCEK)

	verdicts := make([]string, len(all))
	roots := map[world]map[string][]*trust.AMDRootCerts{worldAMD: libraryRoots(t, worldAMD), worldFake: libraryRoots(t, worldFake)}
	var wg sync.WaitGroup
	for half := range 2 {
		wg.Go(func() {
			for i := half; i < len(all); i += 2 {
				_, ours := all[i].verify()
				if theirs := library(all[i], roots[all[i].world]); (ours == "takes it") != (theirs == "takes it") {
					verdicts[i] = fmt.Sprintf("%s\n\tours: %s\n\tgo-sev-guest: %s\n", all[i].name, ours, theirs)
				}
			}
		})
	}
	wg.Wait()
	verdicts = slices.DeleteFunc(verdicts, func(v string) bool { return v == "" })
	slices.Sort(verdicts)
	got := fmt.Sprintf("Of %d inputs, those on which the verdicts differ. Make it anew with: go test ./attest/internal/amd -run Differences -update\n\n%s", len(all), strings.Join(verdicts, ""))
	golden := filepath.Join("testdata", "differences.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the differences are\n%s\nwant\n%s", got, want)
	}
}
