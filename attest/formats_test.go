package attest_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/azure"
	"github.com/consilium-fl/consilium/attest/confspace"
	"github.com/consilium-fl/consilium/attest/endorse"
	faketpm "github.com/consilium-fl/consilium/attest/internal/tpm"
	"github.com/consilium-fl/consilium/attest/snp"
	"github.com/consilium-fl/consilium/attest/tdx"
	"github.com/consilium-fl/consilium/attest/testtee/amd"
	"github.com/consilium-fl/consilium/attest/testtee/google"
	"github.com/consilium-fl/consilium/attest/testtee/intel"
	"github.com/consilium-fl/consilium/attest/testtee/tpm"
	"github.com/consilium-fl/consilium/attest/vtpm"
)

// positive is evidence of one format by a fake vendor, at a moment when it is affirming.
type positive struct {
	evidence attest.Evidence
	in       attest.Inputs
	signed   string // the endorsement that holds what is flipped; the statement where it is empty
	from, to int    // bytes of it
}

var audience = "https://coordinator.example"

// positives has one of each format.
var positives = sync.OnceValue(func() map[attest.Format]positive {
	data := [64]byte(bytes.Repeat([]byte{7}, 64))
	out := map[attest.Format]positive{}
	add := func(f attest.Format, now time.Time, files map[string][]byte, statement []byte, endorsements map[string][]byte, signed string, from, to int) {
		trust, err := endorse.New(files)
		if err != nil {
			panic(err)
		}
		out[f] = positive{attest.Evidence{Format: f, Statement: statement, Endorsements: endorsements}, attest.Inputs{Now: now, ReportData: &data, Trust: trust}, signed, from, to}
	}
	const reportSigned, quoteSigned = 0x2a0, 48 + 584 // AMD 56860, table 23; TDX DCAP quote 4, header and body
	report, endorsements := amd.Shared().Report(amd.Options{ReportData: data})
	add(attest.FormatSNP, intel.Now(), amd.Shared().Files(), report, endorsements, "", 0, reportSigned)

	x, m := intel.New(nil), intel.NewMachine()
	add(attest.FormatTDX, intel.Now(), x.Trust(m), x.Quote(x.PCK(m), intel.NewTD(data)), nil, "", 0, quoteSigned)

	key := tpm.Key()
	dev := tpm.New(key)
	dev.Boot(true)
	nonce := sha256.Sum256(data[:])
	q := dev.Quote(nonce[:]).Encode()
	quote := map[string][]byte{"tpm-quote": q, "tpm-signature": dev.Sign(q), "tpm-pcrs": faketpm.EncodePCRs(dev.Registers()), attest.EventLog: dev.Log}
	claims := tpm.Claims(&key.PublicKey, data[:], nil)
	over := maps.Clone(quote)
	hcl := tpm.NewHCL(2, claims, func(d [64]byte) []byte {
		report, endorsements := amd.Shared().Report(amd.Options{Line: amd.Milan, ReportData: d})
		maps.Copy(over, endorsements)
		return report
	}).Encode()
	add(attest.FormatAzureSNP, intel.Now(), amd.Shared().Files(), hcl, over, "", 32, 32+reportSigned)
	over = maps.Clone(quote)
	hcl = tpm.NewHCL(4, claims, func(d [64]byte) []byte {
		over["td-quote"] = x.Quote(x.PCK(m), intel.NewTD(d))
		return tpm.TDReport(d)
	}).Encode()
	add(attest.FormatAzureTDX, intel.Now(), x.Trust(m), hcl, over, "td-quote", 0, quoteSigned)

	g := tpm.NewGoogle()
	a := dev.Attestation(data[:32], g.Certify(key.Public(), tpm.Machine(), nil))
	message, err := proto.Marshal(a)
	if err != nil {
		panic(err)
	}
	at := bytes.Index(message, a.Quotes[1].Quote)
	add(attest.FormatVTPM, tpm.From.AddDate(1, 0, 0), g.Files(), message, nil, "", at, at+len(a.Quotes[1].Quote))

	pki := google.New(nil)
	files := pki.Trust()
	files["jwks.json"] = pki.JWKS()
	c := google.Claims(audience, attest.HexBytes(data[:32]).String())
	for f, token := range map[attest.Format][]byte{attest.FormatCSPKI: pki.Token(c), attest.FormatCSOIDC: pki.OIDC(c)} {
		add(f, google.Now().Add(time.Minute), files, token, nil, "", 0, bytes.LastIndexByte(token, '.'))
	}
	return out
})

func verifiers() attest.Verifiers {
	return attest.NewVerifiers(snp.NewVerifier(), tdx.NewVerifier(), azure.NewSNPVerifier(), azure.NewTDXVerifier(), vtpm.NewVerifier(), confspace.NewVerifier(), confspace.NewOIDCVerifier())
}

// everything is a policy that takes whatever is authentic and bound.
func everything() attest.Policy {
	every, rule := attest.AnySet(), attest.SNPRule{Firmware: "0.0.0"}
	upToDate := attest.SetOf(attest.TDXUpToDate)
	return attest.Policy{
		Role: attest.RoleNode, Accept: attest.Formats(), Measurements: every, Machines: every,
		SNP: &attest.SNPPolicy{
			Signers: every, CSPs: every, VMPL: every, GuestPolicy: attest.SNPBits{Allow: every}, MinABI: "0.0", Platform: attest.SNPBits{Allow: every}, Provisional: true,
			TCB: map[string]attest.SNPRule{"19/01/01": rule, "19/11/01": rule}, IDKeys: every, AuthorKeys: every, HostData: every,
		},
		TDX: &attest.TDXPolicy{
			Platform: upToDate, Module: upToDate, QE: every, Advisories: every, MinTCBDate: "any", Attributes: every, XFAM: every, MRSEAM: every, MRConfigID: every, MROwner: every,
			MROwnerConfig: every, MRServiceTD: every, RTMR0: every, RTMR1: every, RTMR2: every, RTMR3: every, Replay: attest.Optional,
		},
		Azure: &attest.AzurePolicy{SecureBoot: attest.Required, ConsoleOff: attest.Optional, TPMStateless: attest.Optional, UserData: attest.Required, RootCerts: every},
		TPM:   &attest.TPMPolicy{PCRs: map[int]attest.Set{7: every}, EventLog: attest.Required, SecureBoot: attest.Required, Firmware: every, Projects: every},
		Workload: &attest.WorkloadPolicy{
			Issuers: every, Audiences: attest.SetOf(audience), HWModels: attest.SetOf(attest.HWModelTDX), SWNames: every, SecureBoot: attest.Required, Support: every,
			MonitoringOff: attest.Optional, Args: attest.List{Any: true}, Env: every, CmdOverride: attest.List{Any: true}, EnvOverride: every, Restart: every, SignedBy: every,
			Accounts: every, Projects: every, Zones: every, Instances: every,
		},
	}
}

// TestEveryFormat: the tests below have a positive of each format that there is, and what judges it is the moment that is
// given: none passes outside its certificates' or its token's time, whatever the day is.
func TestEveryFormat(t *testing.T) {
	vs, p := verifiers(), everything()
	if got := slices.Sorted(maps.Keys(positives())); !slices.Equal(got, attest.Formats()) {
		t.Fatalf("positives of %q, want of %q", got, attest.Formats())
	}
	for f, x := range positives() {
		if r := vs.Check(x.evidence, x.in, p); r.Status != attest.Affirming {
			t.Errorf("%s: %s for %v", f, r.Status, r.Reasons)
		}
		for _, year := range []int{1990, 2200} {
			in := x.in
			in.Now = time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)
			if r := vs.Check(x.evidence, in, p); r.OK() || !slices.ContainsFunc(r.Reasons, func(r attest.Reason) bool { return aboutTime[r.Code] }) {
				t.Errorf("%s in %d: %s for %v", f, year, r.Status, r.Reasons)
			}
		}
	}
}

var aboutTime = map[string]bool{attest.CodeCertExpired: true, attest.CodeCertTime: true, "cs.expired": true, "cs.not_before": true}

// TestExpectation is rows 10 and 11 of the negative cases, for every format: what is expected of the report data is compared
// with it whole, nobody can expect nothing at all, and where nothing is said the verdict is never affirming.
func TestExpectation(t *testing.T) {
	vs, p := verifiers(), everything()
	for f, x := range positives() {
		half := vs.Check(x.evidence, x.in, p).Claims.HalfBound
		for name, tc := range map[string]struct {
			expect func(d *[64]byte)
			code   string
		}{
			"row 10 the first bit differs": {func(d *[64]byte) { d[0] ^= 0x80 }, attest.CodeBindingMismatch},
			"row 10 the bit of the middle": {func(d *[64]byte) { d[31] ^= 1 }, attest.CodeBindingMismatch},
			"row 10 the last bit differs":  {func(d *[64]byte) { d[63] ^= 1 }, attest.CodeBindingMismatch},
			"row 10 32 bytes of it":        {func(d *[64]byte) { clear(d[32:]) }, attest.CodeBindingMismatch},
			"row 10 zero":                  {func(d *[64]byte) { clear(d[:]) }, attest.CodeBindingTrivial},
			"row 10 the digest of nothing": {func(d *[64]byte) { *d = sha512.Sum512(nil) }, attest.CodeBindingTrivial},
		} {
			in := x.in
			d := *x.in.ReportData
			tc.expect(&d)
			in.ReportData = &d
			r := vs.Check(x.evidence, in, p)
			if half && ([32]byte(d[:32]) == [32]byte(x.in.ReportData[:32])) { // a nonce has no room for the rest
				if !r.OK() {
					t.Errorf("%s: %s: %v", f, name, r.Reasons)
				}
				continue
			}
			if r.OK() || r.Status != attest.Contraindicated || !slices.ContainsFunc(r.Reasons, func(r attest.Reason) bool { return r.Code == tc.code }) {
				t.Errorf("%s: %s: %s for %v, want %s", f, name, r.Status, r.Reasons, tc.code)
			}
		}
		in := x.in
		in.ReportData = nil
		if r := vs.Check(x.evidence, in, p); r.OK() || r.Status != attest.Warning || !slices.Contains(r.NotChecked, attest.NotCheckedBinding) {
			t.Errorf("%s: row 11 nothing is expected: %s, not checked %q", f, r.Status, r.NotChecked)
		}
	}
}

// TestVerdictIsAFunction: a hundred at once, by the same verifiers, agree on every format, good and bad.
func TestVerdictIsAFunction(t *testing.T) {
	vs, p := verifiers(), everything()
	judge := func() string {
		all := map[attest.Format][2]attest.Result{}
		for f, x := range positives() {
			other := x.in
			other.ReportData = new([64]byte)
			other.ReportData[0] = 1
			all[f] = [2]attest.Result{vs.Check(x.evidence, x.in, p), vs.Check(x.evidence, other, p)}
		}
		b, err := json.Marshal(all)
		if err != nil {
			t.Error(err)
		}
		return string(b)
	}
	want := judge()
	if n := len(attest.Formats()); strings.Count(want, `"ear.status":"affirming"`) != n || strings.Count(want, `"ear.status":"contraindicated"`) != n {
		t.Fatalf("want %d verdicts of each kind: %s", n, want)
	}
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if got := judge(); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
	wg.Wait()
}

// TestEverySignedBit: of each format's positive no bit of what is signed can be flipped. Of those formats whose own tests
// ask for a verdict on every bit, and with -short, some are asked for here.
func TestEverySignedBit(t *testing.T) {
	vs, p := verifiers(), everything()
	for f, x := range positives() {
		step := 34
		if f == attest.FormatSNP || f == attest.FormatAzureTDX {
			step = 2
		}
		if testing.Short() {
			step = 134
		}
		t.Run(string(f), func(t *testing.T) {
			var wg sync.WaitGroup
			for part := range 2 {
				wg.Go(func() {
					for i := 8*x.from + part; i < 8*x.to; i += step {
						e := x.evidence
						what := &e.Statement
						if x.signed != "" {
							e.Endorsements = maps.Clone(e.Endorsements)
							b := e.Endorsements[x.signed]
							what = &b
						}
						*what = bytes.Clone(*what)
						(*what)[i/8] ^= 1 << (i % 8)
						if x.signed != "" {
							e.Endorsements[x.signed] = *what
						}
						if r := vs.Check(e, x.in, p); r.Status != attest.Contraindicated {
							t.Errorf("bit %d of byte %#x flipped: %s", i%8, i/8, r.Status)
						}
					}
				})
			}
			wg.Wait()
		})
	}
}
