package amd

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-sev-guest/abi"
	sgtest "github.com/google/go-sev-guest/testing"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
	fake "github.com/consilium-fl/consilium/attest/testtee/amd"
	"github.com/consilium-fl/consilium/attest/testtee/shared"
)

func TestVerify(t *testing.T) {
	for _, s := range append(reals(t), fakes()...) {
		c, verdict := s.verify()
		if verdict != "takes it" {
			t.Errorf("%s: %s", s.name, verdict)
			continue
		}
		// What go-sev-guest reads of the same bytes.
		r, err := abi.ReportToProto(s.report)
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		snp := c.SNP
		if snp.Version != r.Version || snp.GuestSVN != r.GuestSvn || uint64(snp.GuestPolicy) != r.Policy || snp.VMPL != r.Vmpl || uint64(snp.Platform) != r.PlatformInfo ||
			uint32(snp.CurrentFirmware.Build) != r.CurrentBuild || uint32(snp.CommittedFirmware.Minor) != r.CommittedMinor || uint32(snp.CurrentFirmware.Major) != r.CurrentMajor ||
			uint64(snp.LaunchMitigations) != r.LaunchMitVector || uint64(snp.CurrentMitigations) != r.CurrentMitVector ||
			!bytes.Equal(snp.ChipID, r.ChipId) || !bytes.Equal(snp.HostData, r.HostData) || !bytes.Equal(snp.IDKeyDigest, r.IdKeyDigest) || !bytes.Equal(snp.AuthorKeyDigest, r.AuthorKeyDigest) ||
			!bytes.Equal(snp.FamilyID, r.FamilyId) || !bytes.Equal(snp.ImageID, r.ImageId) || !bytes.Equal(snp.ReportID, r.ReportId) || !bytes.Equal(snp.ReportIDMA, r.ReportIdMa) ||
			!bytes.Equal(c.ReportData[:], r.ReportData) || c.Measurement != attest.SHA384Measurement([48]byte(r.Measurement)) || c.Debug != (r.Policy>>19&1 == 1) {
			t.Errorf("%s: read as %+v, by go-sev-guest as %+v", s.name, snp, r)
		}
		if family, model, stepping := abi.FmsFromCpuid1Eax(r.Cpuid1EaxFms); snp.CPU != (attest.SNPCPU{Family: family, Model: model, Stepping: stepping}) {
			t.Errorf("%s: CPU %s", s.name, snp.CPU)
		}
		if c.NotAfter.IsZero() || c.Format != attest.FormatSNP {
			t.Errorf("%s: until %s, %s", s.name, c.NotAfter, c.Format)
		}
	}
}

func TestClaims(t *testing.T) {
	want := map[string]struct {
		generation, product, csp string
		reported                 attest.SNPTCB
		notChecked               []string
		dated                    int
	}{
		"Milan v2":                  {"milan", "Milan-B0", "", attest.SNPTCB{Bootloader: 3, SNP: 8, Ucode: 115}, []string{"crl:ark-milan"}, 0},
		"Milan v3, VLEK":            {"milan", "Milan", "cc-us-east-2.amazonaws.com", attest.SNPTCB{Bootloader: 4, SNP: 24, Ucode: 217}, []string{"crl:ark-milan"}, 0},
		"Siena v3":                  {"bergamo", "Genoa", "", attest.SNPTCB{Bootloader: 10, SNP: 23, Ucode: 25}, []string{"crl:ark-genoa"}, 0},
		"fake Turin v5, VLEK false": {"turin", "Turin", "", attest.SNPTCB{FMC: 1, Bootloader: 3, TEE: 2, SNP: 5, Ucode: 97}, nil, 1},
		"fake Turin v5, VLEK true":  {"turin", "Turin", "cc-test.example", attest.SNPTCB{FMC: 1, Bootloader: 3, TEE: 2, SNP: 5, Ucode: 97}, nil, 1},
	}
	for _, s := range append(reals(t), fakes()...) {
		w, ok := want[s.name]
		if !ok {
			continue
		}
		c, _ := s.verify()
		if c.Generation != w.generation || c.SNP.Product != w.product || c.SNP.CSP != w.csp || c.SNP.TCB.Reported != w.reported || !slices.Equal(c.NotChecked, w.notChecked) || len(c.Dated) != w.dated {
			t.Errorf("%s: %+v, %+v", s.name, c, c.SNP)
		}
		if open := len(c.SNP.Advisories) > 0; open != (w.generation != "turin") {
			t.Errorf("%s: open advisories %v", s.name, c.SNP.Advisories)
		}
		if machine := "chip:" + c.SNP.ChipID.String(); (c.Machine != machine) != zero(c.SNP.ChipID) {
			t.Errorf("%s: machine %q", s.name, c.Machine)
		}
		delete(want, s.name)
	}
	if len(want) > 0 && len(reals(t)) > 0 {
		t.Errorf("not seen: %v", want)
	}
}

// TestTurin is the whole way of a report with an 8-byte hardware id, FMC and platform bit 6.
func TestTurin(t *testing.T) {
	trust, err := endorse.New(fake.Shared().Files())
	if err != nil {
		t.Fatal(err)
	}
	in := attest.Inputs{Now: fakeDay, Trust: trust}
	for name, tc := range map[string]struct {
		o    fake.Options
		want string
	}{
		"bit 6":                 {fake.Options{Edit: func(b []byte) { b[0x40] = 0x64 }}, "takes it"},
		"Turin Dense":           {fake.Options{CPU: &attest.SNPCPU{Family: 0x1a, Model: 0x11}}, "takes it"},
		"version 2":             {fake.Options{Version: 2, TCB: &attest.SNPTCB{}}, "cert.product"},
		"FMC of another":        {fake.Options{Certificate: func(c *fake.Certificate) { c.TCB.FMC++ }}, "cert.tcb"},
		"chip of another":       {fake.Options{Certificate: func(c *fake.Certificate) { c.HWID = bytes.Repeat([]byte{9}, 8) }}, "identity.chip"},
		"a longer chip id":      {fake.Options{Edit: func(b []byte) { b[0x1a8] = 1 }}, "identity.chip"},
		"a 64-byte id":          {fake.Options{Certificate: func(c *fake.Certificate) { c.HWID = make([]byte, 64) }}, "parse.encoding"},
		"reserved TCB byte":     {fake.Options{Edit: func(b []byte) { b[0x184] = 1 }}, "parse.mbz"},
		"family after Turin":    {fake.Options{CPU: &attest.SNPCPU{Family: 0x1b}}, "cert.product"},
		"id in an octet string": {fake.Options{Certificate: func(c *fake.Certificate) { c.HWID = append([]byte{4, 8}, c.HWID...) }}, "takes it"},
	} {
		tc.o.Line = fake.Turin
		report, endorsements := fake.Shared().Report(tc.o)
		if _, got := (sample{report: report, endorsements: endorsements, in: in}).verify(); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}

// TestCertificates are those of which one thing is not as AMD makes it.
func TestCertificates(t *testing.T) {
	trust, err := endorse.New(fake.Shared().Files())
	if err != nil {
		t.Fatal(err)
	}
	in := attest.Inputs{Now: fakeDay, Trust: trust}
	extension := func(value []byte, arcs ...int) func(*fake.Certificate) {
		return func(c *fake.Certificate) { c.Extensions = append(c.Extensions, fake.Extension(value, arcs...)) }
	}
	critical := func(c *fake.Certificate) {
		e := fake.Extension([]byte{5, 0}, 6)
		e.Critical = true
		c.Extensions = append(c.Extensions, e)
	}
	for name, tc := range map[string]struct {
		change func(*fake.Certificate)
		want   string
	}{
		"an unknown extension":          {extension([]byte{5, 0}, 6), "takes it"},
		"one that is critical":          {critical, "chain"},
		"an unknown patch level":        {extension([]byte{2, 1, 0}, 3, 10), "parse.encoding"},
		"an FMC for Genoa":              {extension([]byte{2, 1, 0}, 3, 9), "cert.product"},
		"a patch level twice":           {extension([]byte{2, 1, 0}, 3, 1), "parse.encoding"},
		"a provider beside the chip":    {extension([]byte{22, 1, 'x'}, 5), "cert.kind"},
		"no hardware id":                {func(c *fake.Certificate) { c.HWID = nil }, "cert.kind"},
		"a short hardware id":           {func(c *fake.Certificate) { c.HWID = c.HWID[:63] }, "parse.encoding"},
		"a product that does not print": {func(c *fake.Certificate) { c.Product = "Genoa\x07" }, "parse.encoding"},
		"a product without a name":      {func(c *fake.Certificate) { c.Product = "" }, "parse.encoding"},
		"a product like Genoa":          {func(c *fake.Certificate) { c.Product = "Genoas" }, "cert.product"},
		"an issuer of no line":          {func(c *fake.Certificate) { c.Issuer = "SEV-Rome" }, "chain"},
		"an issuer of another line":     {func(c *fake.Certificate) { c.Issuer, c.Product = "SEV-Milan", "Milan-B0" }, "cert.product"},
		"a subject of the other kind":   {func(c *fake.Certificate) { c.Subject = "SEV-VLEK" }, "cert.kind"},
		"an issuer of the other kind":   {func(c *fake.Certificate) { c.Issuer = "SEV-VLEK-Genoa" }, "cert.kind"},
		"a key of another curve":        {func(c *fake.Certificate) { c.Key = p256 }, "parse.encoding"},
		"an expired one":                {func(c *fake.Certificate) { c.Until = fakeDay }, "cert.expired"},
		"one of tomorrow":               {func(c *fake.Certificate) { c.From = fakeDay.AddDate(0, 0, 1) }, "cert.time"},
		"a trailing byte":               {func(c *fake.Certificate) { c.Tamper = func(b []byte) []byte { return append(b, 0) } }, "parse.encoding"},
		"another signature algorithm":   {func(c *fake.Certificate) { c.Algorithm = x509.SHA256WithRSA }, "chain"},
		"a long form of a short length": {func(c *fake.Certificate) { c.Tamper = longForm }, "parse.encoding"},
		"reserved patch level 5":        {func(c *fake.Certificate) { c.Reserved = 1 }, "cert.tcb"},
	} {
		report, endorsements := fake.Shared().Report(fake.Options{Certificate: tc.change})
		if _, got := (sample{report: report, endorsements: endorsements, in: in}).verify(); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}

// TestCertificateFromSnapshot: evidence that brings no certificate is verified by the chip's own, if a steward has it.
func TestCertificateFromSnapshot(t *testing.T) {
	report, endorsements := fake.Shared().Report(fake.Options{})
	_, other := fake.Shared().Report(fake.Options{Certificate: func(c *fake.Certificate) { c.TCB.Ucode++ }})
	_, vlek := fake.Shared().Report(fake.Options{VLEK: true})
	_, third := fake.Shared().Report(fake.Options{Certificate: func(c *fake.Certificate) { c.HWID = bytes.Repeat([]byte{3}, 64) }})
	_, fourth := fake.Shared().Report(fake.Options{Certificate: func(c *fake.Certificate) { c.HWID = bytes.Repeat([]byte{4}, 64) }})
	for _, tc := range []struct {
		certificates map[string][]byte
		want         string
	}{
		{map[string][]byte{"vcek": endorsements["vcek"], "other": other["vcek"], "third": third["vcek"], "vlek": vlek["vlek"]}, "takes it"},
		{map[string][]byte{"other": other["vcek"], "third": third["vcek"]}, "cert.tcb"},
		{map[string][]byte{"third": third["vcek"], "vlek": vlek["vlek"]}, "identity.chip"},
		{map[string][]byte{"third": third["vcek"], "fourth": fourth["vcek"]}, "chain"},
		{map[string][]byte{"vlek": vlek["vlek"]}, "chain"},
	} {
		files := fake.Shared().Files()
		maps.Copy(files, tc.certificates)
		trust, err := endorse.New(files)
		if err != nil {
			t.Fatal(err)
		}
		if _, got := (sample{report: report, in: attest.Inputs{Now: fakeDay, Trust: trust}}).verify(); got != tc.want {
			t.Errorf("of %d certificates: %s, want %s", len(tc.certificates), got, tc.want)
		}
	}
}

// TestManyCertificates: those of other chips cost a report nothing but a look.
func TestManyCertificates(t *testing.T) {
	report, endorsements := fake.Shared().Report(fake.Options{})
	files := fake.Shared().Files()
	files["vcek"] = endorsements["vcek"]
	allocations := func() float64 {
		trust, err := endorse.New(files)
		if err != nil {
			t.Fatal(err)
		}
		s := sample{report: report, in: attest.Inputs{Now: fakeDay, Trust: trust}}
		return testing.AllocsPerRun(5, func() {
			if _, got := s.verify(); got != "takes it" {
				t.Fatal(got)
			}
		})
	}
	alone := allocations()
	const strangers = 40
	for i := range strangers {
		_, other := fake.Shared().Report(fake.Options{Certificate: func(c *fake.Certificate) { c.HWID = bytes.Repeat([]byte{byte(i + 1)}, 64) }})
		files[fmt.Sprintf("a stranger's %d", i)] = other["vcek"]
	}
	if all := allocations(); all > alone+strangers/2 {
		t.Errorf("%v allocations beside %d certificates of other chips, %v without them", all, strangers, alone)
	}
}

// TestIntermediate: the ASK may come with the evidence, the root may not.
func TestIntermediate(t *testing.T) {
	report, endorsements := fake.Shared().Report(fake.Options{})
	verdict := func(files map[string][]byte, change func(map[string][]byte)) string {
		trust, err := endorse.New(files)
		if err != nil {
			t.Fatal(err)
		}
		e := map[string][]byte{"vcek": endorsements["vcek"], "ask": endorsements["ask"], "ark": fake.Shared().ARK(fake.Genoa)}
		change(e)
		_, got := sample{report: report, endorsements: e, in: attest.Inputs{Now: fakeDay, Trust: trust}}.verify()
		return got
	}
	root := map[string][]byte{"ark.der": fake.Shared().ARK(fake.Genoa)}
	for name, tc := range map[string]struct {
		files  map[string][]byte
		change func(map[string][]byte)
		want   string
	}{
		"with the evidence":      {root, func(map[string][]byte) {}, "takes it"},
		"nowhere":                {root, func(e map[string][]byte) { delete(e, "ask") }, "chain"},
		"garbage":                {root, func(e map[string][]byte) { e["ask"] = []byte("garbage") }, "chain"},
		"of another line":        {root, func(e map[string][]byte) { e["ask"] = fake.Shared().ASK(fake.Milan) }, "chain"},
		"garbage, and installed": {fake.Shared().Files(), func(e map[string][]byte) { e["ask"] = []byte("garbage") }, "takes it"},
		"no root":                {map[string][]byte{"ask.der": endorsements["ask"]}, func(map[string][]byte) {}, "chain"},
		"another line's root":    {map[string][]byte{"ark.der": fake.Shared().ARK(fake.Milan)}, func(map[string][]byte) {}, "chain"},
	} {
		if got := verdict(tc.files, tc.change); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}

// TestUntil: claims hold until the first of the certificates ends.
func TestUntil(t *testing.T) {
	in := fakes()[0].in
	for end, want := range map[time.Time]time.Time{fakeDay.AddDate(1, 0, 0): fakeDay.AddDate(1, 0, 0), fake.Until.AddDate(1, 0, 0): fake.Until} {
		report, endorsements := fake.Shared().Report(fake.Options{Certificate: func(c *fake.Certificate) { c.Until = end }})
		if c, err := Verify(report, endorsements, in); err != nil || !c.NotAfter.Equal(want) {
			t.Errorf("until %s, %v; want %s", c.NotAfter, err, want)
		}
	}
}

// TestShortKeys: an authority whose key is short signs nothing.
func TestShortKeys(t *testing.T) {
	for _, bits := range []int{2048, 3072} {
		rsaKey, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		c := &x509.Certificate{SerialNumber: big.NewInt(1), SignatureAlgorithm: x509.SHA384WithRSAPSS, IsCA: true, BasicConstraintsValid: true, NotAfter: fake.Until}
		der, err := x509.CreateCertificate(rand.Reader, c, c, rsaKey.Public(), rsaKey)
		if err != nil {
			t.Fatal(err)
		}
		if c, err = x509.ParseCertificate(der); err != nil || c.CheckSignatureFrom(c) != nil || signedBy(c, c) {
			t.Errorf("%d bits sign, %v", bits, err)
		}
	}
}

// TestEverySignedBit flips each of the 5376 bits that a report's signature covers, and those of the signature; with
// -short some of them.
func TestEverySignedBit(t *testing.T) {
	step := 1
	if testing.Short() {
		step = 61
	}
	for _, s := range append(reals(t), fakes()...) {
		if strings.HasPrefix(s.name, "fake") && s.name != "fake Turin v5, VLEK false" || strings.Contains(s.name, "debug") {
			continue // no positive, or like one that is here
		}
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			if _, verdict := s.verify(); verdict != "takes it" {
				t.Fatal(verdict)
			}
			signer := attest.SignerVCEK
			if s.endorsements[attest.SignerVLEK] != nil {
				signer = attest.SignerVLEK
			}
			k, err := parseKey(s.endorsements[signer], signer)
			if err != nil {
				t.Fatal(err)
			}
			b := bytes.Clone(s.report)
			for bit := 0; bit < 8*ReportSize; bit += step {
				b[bit/8] ^= 1 << (bit % 8)
				if r, err := ParseReport(b); err == nil && r.checkSignature(k) == nil {
					t.Errorf("bit %d of byte %#x may be flipped", bit%8, bit/8)
				}
				if bit%67 == 0 { // the whole way, now and then
					flipped := s
					flipped.report = b
					if _, verdict := flipped.verify(); verdict == "takes it" {
						t.Errorf("bit %d of byte %#x may be flipped", bit%8, bit/8)
					}
				}
				b[bit/8] ^= 1 << (bit % 8)
			}
		})
	}
}

// TestClaimsBesideAnError: what could be read is handed over, for the policy to say more about; no certificate's word
// is among it.
func TestClaimsBesideAnError(t *testing.T) {
	report, endorsements := fake.Shared().Report(fake.Options{Edit: func(b []byte) { b[0x0a] |= 1 << 3 }})
	c, err := Verify(report, endorsements, attest.Inputs{Now: fakeDay})
	if err == nil || !c.Debug || c.SNP == nil || !c.NotAfter.IsZero() {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := Verify(report[1:], endorsements, attest.Inputs{Now: fakeDay}); err == nil || c.SNP != nil {
		t.Errorf("%+v, %v", c, err)
	}
}

// TestClaimsAreTheirOwn: whoever changes the evidence afterwards changes no claims.
func TestClaimsAreTheirOwn(t *testing.T) {
	s := fakes()[0]
	s.report = bytes.Clone(s.report)
	c, _ := s.verify()
	before := c.SNP.ChipID.String()
	clear(s.report)
	if c.SNP.ChipID.String() != before {
		t.Error("the claims lie in the evidence's bytes")
	}
}

// TestPublicTestKeys: the keys with which go-sev-guest tests are known to everybody.
func TestPublicTestKeys(t *testing.T) {
	signer, err := sgtest.DefaultTestOnlyCertChain("Milan-B1", fakeDay)
	if err != nil {
		t.Fatal(err)
	}
	report, _ := fake.Shared().Report(fake.Options{Line: fake.Milan, TCB: &attest.SNPTCB{}, Edit: func(b []byte) { copy(b[0x1a0:], signer.HWID[:]) }})
	fake.Sign(report, signer.Keys.Vcek)
	s := sample{report: report, endorsements: map[string][]byte{"vcek": signer.Vcek.Raw, "ask": signer.Ask.Raw, "ark": signer.Ark.Raw}, in: attest.Inputs{Now: fakeDay.AddDate(0, 0, 1), Trust: amdRoots(t)}}
	if _, got := s.verify(); got != "chain" {
		t.Errorf("%s, want chain", got)
	}
}

func TestParallel(t *testing.T) {
	for _, s := range append(reals(t), fakes()[0]) {
		want, verdict := s.verify()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				got, v := s.verify()
				if v != verdict || !sameClaims(got, want) {
					t.Errorf("%s: %s, %+v", s.name, v, got)
				}
			})
		}
		wg.Wait()
	}
}

func sameClaims(a, b attest.Claims) bool {
	x, errX := a.MarshalJSON()
	y, errY := b.MarshalJSON()
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// seeds are the samples that are here.
func seeds(f *testing.F) []sample {
	f.Helper()
	if !shared.Here(f) {
		return fakes()
	}
	return append(reals(f), fakes()...)
}

func FuzzParseReport(f *testing.F) {
	for _, s := range seeds(f) {
		f.Add(s.report)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseReport(b)
		if err != nil {
			return
		}
		// What we take, go-sev-guest takes: ours is the stricter.
		if _, err := abi.ReportToProto(b); err != nil {
			t.Fatalf("go-sev-guest refuses %x: %v", b, err)
		}
		c := r.claims()
		if _, err := c.MarshalJSON(); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzExtensions gives an extension of every arc a value from outside.
func FuzzExtensions(f *testing.F) {
	for _, s := range seeds(f) {
		for kind, der := range s.endorsements {
			if kind == "ask" {
				continue
			}
			c, err := x509.ParseCertificate(der)
			if err != nil {
				f.Fatal(err)
			}
			for _, e := range c.Extensions {
				if len(e.Id) > len(amdArc) {
					f.Add(c.Issuer.CommonName, e.Id[len(amdArc):].String(), e.Value)
				}
			}
		}
	}
	f.Fuzz(func(t *testing.T, issuer, arcs string, value []byte) {
		c := &x509.Certificate{}
		c.Issuer.CommonName = issuer
		k := &key{cert: c}
		_ = k.readNames("fuzz")
		id := slices.Clone(amdArc)
		for a := range strings.SplitSeq(arcs, ".") {
			n, err := strconv.Atoi(a)
			if err != nil || n < 0 {
				return
			}
			id = append(id, n)
		}
		e := fake.Extension(value)
		e.Id = id
		for i := range 9 {
			c.Extensions = append(c.Extensions, fake.Extension([]byte{2, 1, 1}, arcSPL, i+1))
		}
		c.Extensions = append(c.Extensions, e)
		if k.readExtensions("fuzz") == nil {
			if n := len(k.hwid); n != 0 && n != 8 && n != 64 || len(k.product) > 127 {
				t.Fatalf("hardware id of %d bytes, product %q", n, k.product)
			}
		}
	})
}

// FuzzParseKey reads certificates.
func FuzzParseKey(f *testing.F) {
	for _, s := range seeds(f) {
		for _, der := range s.endorsements {
			f.Add(der)
		}
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		k, err := parseKey(der, "fuzz")
		if err == nil && (k.public == nil || k.line == "" || k.signer == "" || (k.hwid == nil) == (k.csp == "")) {
			t.Fatalf("%+v", k)
		}
	})
}
