package snp

import (
	"bytes"
	"crypto/elliptic"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/attest/internal/amd"
	fake "github.com/consilium-fl/consilium/attest/testtee/amd"
	"github.com/consilium-fl/consilium/attest/testtee/shared"
)

// file reads one file of the real evidence, in place.
func file(t testing.TB, name string) []byte {
	t.Helper()
	return shared.File(t, "snp/"+name)
}

// der reads a certificate, of which one is in PEM.
func der(t testing.TB, name string) []byte {
	t.Helper()
	b := file(t, name)
	if block, _ := pem.Decode(b); block != nil {
		return block.Bytes
	}
	return b
}

func snapshot(t testing.TB, files map[string][]byte) *endorse.Snapshot {
	t.Helper()
	s, err := endorse.New(files)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func amdRoots(t testing.TB) *endorse.Snapshot {
	t.Helper()
	files := map[string][]byte{}
	for _, name := range []string{"genoa", "genoa_vlek", "milan", "milan_vlek", "turin_vcek", "turin_vlek"} {
		files[name] = file(t, "ask_ark_"+name+".pem")
	}
	return snapshot(t, files)
}

func fakeRoots(t testing.TB) *endorse.Snapshot { return snapshot(t, fake.Shared().Files()) }

func day(s string) time.Time {
	d, err := time.Parse(time.DateOnly, s)
	if err != nil {
		panic(err)
	}
	return d
}

// setting is everything that a verdict depends on.
type setting struct {
	t        testing.TB // of the one test that changes it
	evidence attest.Evidence
	in       attest.Inputs
	policy   attest.Policy
}

func (s setting) check() attest.Result {
	return attest.NewVerifiers(NewVerifier()).Check(s.evidence, s.in, s.policy)
}

// of is the setting in which a report is taken: the policy asks for what the report itself says.
func of(t testing.TB, report []byte, endorsements map[string][]byte, at time.Time, trust *endorse.Snapshot) setting {
	t.Helper()
	r, err := amd.ParseReport(report)
	if err != nil {
		t.Fatal(err)
	}
	cpu := r.CPU.String()
	if r.Version == 2 {
		cpu = "milan"
	}
	p := attest.Policy{
		Role: attest.RoleNode, Accept: []attest.Format{attest.FormatSNP}, Measurements: attest.SetOf(attest.SHA384Measurement(r.Measurement)),
		Machines: attest.SetOf("chip:" + r.ChipID.String()), MaxAge: time.Hour,
		SNP: &attest.SNPPolicy{
			Signers: attest.SetOf(r.Signer), CSPs: attest.SetOf("cc-us-east-2.amazonaws.com", "cc-test.example"), MinReportVersion: r.Version, VMPL: attest.SetOf(fmt.Sprint(r.VMPL)),
			GuestPolicy: attest.SNPBits{Allow: attest.SetOf("smt")}, MinABI: "0.0", Platform: attest.SNPBits{Allow: attest.SetOf("smt")},
			TCB:    map[string]attest.SNPRule{cpu: {Minimum: r.TCB.Reported, Launch: r.TCB.Launch, Firmware: r.CurrentFirmware.String()}},
			IDKeys: attest.SetOf(r.IDKeyDigest.String()), AuthorKeys: attest.SetOf("zero"), HostData: attest.SetOf("zero"), MinGuestSVN: r.GuestSVN,
		},
	}
	if bytes.Equal(r.ChipID, make([]byte, 64)) {
		p.Machines = attest.AnySet()
	}
	data := r.ReportData
	return setting{
		t,
		attest.Evidence{Format: attest.FormatSNP, Statement: report, Endorsements: endorsements},
		attest.Inputs{Now: at, ReportData: &data, Trust: trust},
		p,
	}
}

// The real positives.
func genoa(t testing.TB) setting {
	t.Helper()
	return of(t, file(t, "genoa-v3.report.bin"), map[string][]byte{"vcek": der(t, "genoa-v3.vcek.pem")}, day("2026-01-01"), amdRoots(t))
}

func siena(t testing.TB) setting {
	t.Helper()
	return of(t, file(t, "siena-v3.report.bin"), map[string][]byte{"vcek": der(t, "siena-v3.vcek.der")}, day("2026-01-01"), amdRoots(t))
}

func aws(t testing.TB) setting {
	t.Helper()
	s := of(t, file(t, "milan-v3-aws-vlek.report.bin"), map[string][]byte{"vlek": der(t, "milan-v3-aws-vlek.vlek.der")}, day("2025-06-01"), amdRoots(t))
	s.policy.SNP.Provisional = true
	return s
}

func azure(t testing.TB) setting {
	t.Helper()
	s := of(t, file(t, "milan-v2-azure.report.bin"), map[string][]byte{"vcek": der(t, "milan-v2-azure.vcek.der")}, day("2025-01-01"), amdRoots(t))
	s.policy.SNP.Provisional = true
	return s
}

func debug(t testing.TB) setting {
	t.Helper()
	return of(t, file(t, "milan-v2-debug.report.bin"), map[string][]byte{"vcek": der(t, "milan-v2-debug.vcek.der")}, day("2025-01-01"), amdRoots(t))
}

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// made is a report of the fake AMD, bound to something.
func made(t testing.TB, o fake.Options) setting {
	t.Helper()
	o.ReportData = [64]byte{1, 2, 3}
	report, endorsements := fake.Shared().Report(o)
	return of(t, report, endorsements, noon, fakeRoots(t))
}

func codes(rs []attest.Reason) []string {
	var out []string
	for _, r := range rs {
		out = append(out, r.Code)
	}
	return out
}

// TestRealEvidence gives every file of real evidence the verdict of its README.
func TestRealEvidence(t *testing.T) {
	for _, tc := range []struct {
		name   string
		of     func(testing.TB) setting
		change func(*setting)
		want   []string // codes; none is taken
	}{
		{"Genoa", genoa, nil, nil},
		{"Siena", siena, nil, nil},
		{"AWS, VLEK", aws, nil, nil},
		{"AWS, provisional firmware refused", aws, func(s *setting) { s.policy.SNP.Provisional = false }, []string{"tcb.provisional"}},
		{"AWS, expired", aws, func(s *setting) { s.in.Now = day("2026-01-01") }, []string{"cert.expired"}},
		{"Azure", azure, nil, nil},
		{"Azure, microcode", azure, func(s *setting) { minimum(s, func(m *attest.SNPTCB) { m.Ucode = 219 }) }, []string{"tcb.ucode.below_min"}},
		{"Azure, alias check", azure, func(s *setting) { s.policy.SNP.Platform.Require = attest.SetOf("alias_check") }, []string{"platform.alias"}},
		{"Azure, forged certificate", azure, func(s *setting) { s.evidence.Endorsements["vcek"] = der(s.t, "milan-v2-azure.vcek-forged.der") }, []string{"chain", "tcb.provisional"}},
		{"debug", debug, nil, []string{"debug"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := tc.of(t)
			if tc.change != nil {
				tc.change(&s)
			}
			if strings.Contains(tc.name, "forged") {
				s.policy.SNP.Provisional = false // what the policy finds is said beside it
			}
			r := s.check()
			if got := codes(r.Reasons); !slices.Equal(got, tc.want) {
				t.Errorf("refused for %v, want %q", r.Reasons, tc.want)
			}
			if r.OK() != (tc.want == nil) {
				t.Errorf("%s, not checked %q", r.Status, r.NotChecked)
			}
		})
	}
}

func minimum(s *setting, change func(*attest.SNPTCB)) {
	rules := maps.Clone(s.policy.SNP.TCB)
	for cpu, rule := range rules {
		change(&rule.Minimum)
		rules[cpu] = rule
	}
	s.policy.SNP.TCB = rules
}

// edit changes a setting's report, whose signature then no longer holds.
func edit(change func(report []byte)) func(*setting) {
	return func(s *setting) {
		s.evidence.Statement = bytes.Clone(s.evidence.Statement)
		change(s.evidence.Statement)
	}
}

func poke(at int, v ...byte) func([]byte) { return func(b []byte) { copy(b[at:], v) } }

var order = elliptic.P384().Params().N

func putScalar(b []byte, n *big.Int) {
	le := n.FillBytes(make([]byte, 72))
	slices.Reverse(le)
	copy(b, le)
}

func getScalar(b []byte) *big.Int {
	be := bytes.Clone(b[:72])
	slices.Reverse(be)
	return new(big.Int).SetBytes(be)
}

// TestRows are the kinds of negative case that concern SNP, by the numbers under which they are known.
func TestRows(t *testing.T) {
	vcek := fake.Options{}
	certificate := func(line string, change func(*fake.Certificate)) fake.Options {
		return fake.Options{Line: line, Certificate: change}
	}
	type row struct {
		name   string
		made   *fake.Options // nil: the real Genoa
		real   func(testing.TB) setting
		change func(*setting)
		want   []string // the codes; empty: taken
	}
	rows := []row{
		{name: "row 3 policy bit 17", change: edit(poke(0x0a, 0)), want: []string{"policy.reserved"}},
		{name: "row 3 policy bit 26", change: edit(poke(0x0b, 4)), want: []string{"policy.reserved"}},
		{name: "row 3 policy bit 63", change: edit(poke(0x0f, 0x80)), want: []string{"policy.reserved"}},
		{name: "row 4 version 1", change: edit(poke(0, 1)), want: []string{"parse.version"}},
		{name: "row 4 version 6", change: edit(poke(0, 6)), want: []string{"parse.version"}},
		{name: "row 5 algorithm 0", change: edit(poke(0x34, 0)), want: []string{"sig.algo"}},
		{name: "row 5 algorithm 2", change: edit(poke(0x34, 2)), want: []string{"sig.algo"}},
		{name: "row 6 r and s zero", change: edit(func(b []byte) { clear(b[0x2a0:0x330]) }), want: []string{"sig.invalid"}},
		{name: "row 6 r is the order", change: edit(func(b []byte) { putScalar(b[0x2a0:], order) }), want: []string{"sig.invalid"}},
		{name: "row 6 s above the order", change: edit(func(b []byte) { putScalar(b[0x2e8:], new(big.Int).Add(order, getScalar(b[0x2e8:]))) }), want: []string{"sig.invalid"}},
		{name: "row 6 r padded", change: edit(poke(0x2d0, 1)), want: []string{"sig.invalid"}},
		{name: "row 6 s padded", change: edit(poke(0x32f, 1)), want: []string{"sig.invalid"}},
		{name: "row 7 the other s", change: edit(func(b []byte) { putScalar(b[0x2e8:], new(big.Int).Sub(order, getScalar(b[0x2e8:]))) })},
		{name: "row 7 the other s, bound to another nonce", change: func(s *setting) {
			edit(func(b []byte) { putScalar(b[0x2e8:], new(big.Int).Sub(order, getScalar(b[0x2e8:]))) })(s)
			s.in.ReportData[0]++
		}, want: []string{"binding.mismatch"}},
		{name: "row 8 cut by one", change: func(s *setting) { s.evidence.Statement = s.evidence.Statement[:1183] }, want: []string{"parse.length"}},
		{name: "row 8 cut before the signature", change: func(s *setting) { s.evidence.Statement = s.evidence.Statement[:672] }, want: []string{"parse.length"}},
		{name: "row 8 nothing", change: func(s *setting) { s.evidence.Statement = nil }, want: []string{"parse.length"}},
		{name: "row 9 a trailing byte", change: tail(1), want: []string{"parse.length"}},
		{name: "row 9 twenty trailing bytes", change: tail(20), want: []string{"parse.length"}},
		{name: "row 9 a trailing megabyte", change: tail(1 << 20), want: []string{"parse.length"}},
		{name: "row 12 zero report data", made: &fake.Options{Edit: func(b []byte) { clear(b[0x50:0x90]) }}, want: []string{"binding.trivial"}, change: func(s *setting) { s.in.ReportData = nil }},
		{name: "row 14 debug", real: debug, want: []string{"debug"}},
		{name: "row 14 debug, and no chain", real: debug, change: func(s *setting) { s.in.Trust = snapshot(t, nil) }, want: []string{"chain", "debug"}},
		{name: "row 16 migration", made: &fake.Options{Edit: poke(0x0a, 0x07)}, want: []string{"migratable"}},
		{name: "row 17 single socket required", made: &vcek, change: func(s *setting) { s.policy.SNP.GuestPolicy.Require = attest.SetOf("single_socket") }, want: []string{"policy.bits"}},
		{name: "row 17 CXL", made: &fake.Options{Edit: poke(0x0a, 0x23)}, want: []string{"policy.bits"}},
		{name: "row 17 interface version", made: &vcek, change: func(s *setting) { s.policy.SNP.MinABI = "0.31" }, want: []string{"policy.bits"}},
		{name: "row 18 VMPL 1 where 0 is wanted", real: aws, change: func(s *setting) { s.policy.SNP.VMPL = attest.SetOf("0") }, want: []string{"vmpl"}},
		{name: "row 18 VMPL 0 where 1 is wanted", change: func(s *setting) { s.policy.SNP.VMPL = attest.SetOf("1") }, want: []string{"vmpl"}},
		{name: "row 18 asked for by the host", made: &fake.Options{Edit: poke(0x30, 0xff, 0xff, 0xff, 0xff)}, change: func(s *setting) { s.policy.SNP.VMPL = attest.AnySet() }, want: []string{"vmpl"}},
		{name: "row 19 old microcode", real: azure, change: func(s *setting) { minimum(s, func(m *attest.SNPTCB) { m.Ucode = 219 }) }, want: []string{"tcb.ucode.below_min"}},
		{name: "row 20 Siena by Siena's rule", real: siena, change: func(s *setting) {
			s.policy.SNP.TCB["19/11/01"] = attest.SNPRule{Minimum: attest.SNPTCB{Ucode: 84}, Firmware: "0.0.0"}
		}},
		{name: "row 20 Siena, and no rule but Genoa's", real: siena, change: func(s *setting) {
			s.policy.SNP.TCB = map[string]attest.SNPRule{"19/11/01": {Minimum: attest.SNPTCB{Ucode: 84}, Firmware: "0.0.0"}}
		}, want: []string{"tcb.unlisted"}},
		{name: "row 21 Turin's levels as Milan lays them out", made: &fake.Options{Line: fake.Turin, Edit: func(b []byte) {
			fake.PutTCB(b[0x180:], fake.Milan, attest.SNPTCB{Bootloader: 3, TEE: 2, SNP: 5, Ucode: 97})
		}}, want: []string{"parse.mbz"}},
		{name: "row 21 Milan's levels as Turin lays them out", made: &fake.Options{Line: fake.Milan, Edit: func(b []byte) {
			fake.PutTCB(b[0x180:], fake.Turin, attest.SNPTCB{FMC: 1, Bootloader: 3, TEE: 2, SNP: 5, Ucode: 97})
		}}, want: []string{"parse.mbz"}},
		{name: "row 22 provisional", real: azure, change: func(s *setting) { s.policy.SNP.Provisional = false }, want: []string{"tcb.provisional"}},
		{name: "row 23 started on old firmware", made: &fake.Options{Edit: func(b []byte) { b[0x1f7] = 83 }}, change: func(s *setting) {
			s.policy.SNP.TCB["19/11/01"] = attest.SNPRule{Minimum: attest.SNPTCB{Ucode: 84}, Launch: attest.SNPTCB{Ucode: 84}, Firmware: "0.0.0"}
		}, want: []string{"tcb.launch"}},
		{name: "row 24 no alias check", real: azure, change: func(s *setting) { s.policy.SNP.Platform.Require = attest.SetOf("alias_check") }, want: []string{"platform.alias"}},
		{name: "row 25 ciphertext not hidden", change: func(s *setting) { s.policy.SNP.Platform.Require = attest.SetOf("ciphertext_hiding") }, want: []string{"platform.ct_hiding"}},
		{name: "row 26 another machine", change: func(s *setting) { s.policy.Machines = attest.SetOf("chip:00") }, want: []string{"identity.chip"}},
		{name: "row 27 no chip id", made: &fake.Options{Edit: func(b []byte) { clear(b[0x1a0:0x1e0]) }}, change: func(s *setting) { s.policy.Machines = attest.AnySet() }, want: []string{"identity.masked"}},
		{name: "row 27 masked", made: &fake.Options{Edit: poke(0x48, 2)}, want: []string{"parse.signer", "identity.masked"}},
		{name: "row 28 certificate of another chip", real: azure, change: func(s *setting) { s.evidence.Endorsements["vcek"] = der(s.t, "milan-v2-debug.vcek.der") }, want: []string{"sig.invalid"}},
		{name: "row 28 certificate of another chip with the same key", made: ptr(certificate(fake.Genoa, func(c *fake.Certificate) { c.HWID = make([]byte, 64) })), want: []string{"identity.chip"}},
		{name: "row 29 certificate of other patch levels", made: ptr(certificate(fake.Genoa, func(c *fake.Certificate) { c.TCB.Ucode-- })), want: []string{"cert.tcb"}},
		{name: "row 30 certificate of another product", change: func(s *setting) { s.evidence.Endorsements["vcek"] = der(s.t, "milan-v2-azure.vcek.der") }, want: []string{"cert.product"}},
		{name: "row 30 and the reverse", made: &fake.Options{Line: fake.Milan}, change: func(s *setting) {
			_, s.evidence.Endorsements = fake.Shared().Report(fake.Options{Line: fake.Genoa})
		}, want: []string{"cert.product"}},
		{name: "row 30 product and issuer disagree", made: ptr(certificate(fake.Genoa, func(c *fake.Certificate) { c.Product = "Milan-B0" })), want: []string{"cert.product"}},
		{name: "row 30 a CPU of no known product", made: &fake.Options{CPU: &attest.SNPCPU{Family: 0x19, Model: 0x20}}, want: []string{"cert.product", "tcb.unlisted"}},
		{name: "row 31 forged", real: azure, change: func(s *setting) { s.evidence.Endorsements["vcek"] = der(s.t, "milan-v2-azure.vcek-forged.der") }, want: []string{"chain"}},
		{name: "row 31 a bit of its signature", change: func(s *setting) {
			c := s.evidence.Endorsements["vcek"]
			c[len(c)-1] ^= 1
		}, want: []string{"chain"}},
		{name: "row 32 VLEK for VCEK", change: func(s *setting) { s.evidence.Endorsements["vcek"] = der(s.t, "milan-v3-aws-vlek.vlek.der") }, want: []string{"cert.kind", "cert.product"}},
		{name: "row 32 VCEK for VLEK", real: aws, change: func(s *setting) { s.evidence.Endorsements["vlek"] = der(s.t, "milan-v2-azure.vcek.der") }, want: []string{"cert.kind"}},
		{name: "row 32 in the other's place", real: aws, change: func(s *setting) {
			s.evidence.Endorsements = map[string][]byte{"vcek": s.evidence.Endorsements["vlek"]}
		}, want: []string{"cert.kind"}},
		{name: "row 32 another cloud's VLEK", made: &fake.Options{VLEK: true}, change: func(s *setting) { s.policy.SNP.CSPs = attest.SetOf("cc-eu-west-1.amazonaws.com") }, want: []string{"identity.csp"}},
		{name: "row 33 expired VLEK", real: aws, change: func(s *setting) { s.in.Now = day("2026-01-01") }, want: []string{"cert.expired"}},
		{name: "row 34 not valid yet", change: func(s *setting) { s.in.Now = day("2020-01-01") }, want: []string{"cert.time", "cert.time", "cert.time"}},
		{name: "row 34 after its end", change: func(s *setting) { s.in.Now = day("2035-01-01") }, want: []string{"cert.expired"}},
		{name: "row 35 no clock", change: func(s *setting) { s.in.Now = time.Time{} }, want: []string{"config.error"}},
		{name: "row 36 roots of its own making", made: &vcek, change: func(s *setting) { s.in.Trust = amdRoots(s.t) }, want: []string{"chain"}},
		{name: "row 36 with its own ASK", made: &vcek, change: func(s *setting) {
			s.in.Trust = amdRoots(s.t)
			s.evidence.Endorsements["ark"] = fake.Shared().ARK(fake.Genoa)
		}, want: []string{"chain"}},
		{name: "row 37 ASK for VCEK", change: func(s *setting) {
			block, _ := pem.Decode(file(s.t, "ask_ark_genoa.pem"))
			s.evidence.Endorsements["vcek"] = block.Bytes
		}, want: []string{"chain"}},
		{name: "row 37 a byte after it", change: func(s *setting) { s.evidence.Endorsements["vcek"] = append(s.evidence.Endorsements["vcek"], 0) }, want: []string{"parse.encoding"}},
		{name: "row 37 garbage", change: func(s *setting) { s.evidence.Endorsements["vcek"] = []byte("garbage") }, want: []string{"parse.encoding"}},
		{name: "row 37 empty", change: func(s *setting) { s.evidence.Endorsements["vcek"] = []byte{} }, want: []string{"parse.encoding"}},
		{name: "row 37 none", change: func(s *setting) { s.evidence.Endorsements = nil }, want: []string{"chain"}},
		{name: "row 38 no signer", change: edit(poke(0x48, 7<<2)), want: []string{"parse.signer"}},
		{name: "row 38 reserved signer", change: edit(poke(0x48, 2<<2)), want: []string{"parse.signer"}},
		{name: "row 38 reserved flag", change: edit(poke(0x48, 1<<5)), want: []string{"parse.signer"}},
		{name: "row 38 author key flipped", change: edit(poke(0x48, 1)), want: []string{"parse.signer"}},
		{name: "row 38 mask flipped", change: edit(poke(0x48, 2)), want: []string{"sig.invalid", "parse.signer", "identity.masked"}},
		{name: "row 39 revoked ASK", made: &vcek, change: revoke(t, fake.Shared().ASK(fake.Genoa)), want: []string{"revoked"}},
		{name: "row 39 revoked ASVK", made: &fake.Options{VLEK: true}, change: revoke(t, fake.Shared().ASVK(fake.Genoa)), want: []string{"revoked"}},
		{name: "row 39 revoked ASVK, which the evidence keeps to itself", made: &fake.Options{VLEK: true}, change: func(s *setting) {
			revoke(t, fake.Shared().ASVK(fake.Genoa))(s)
			delete(s.evidence.Endorsements, "ask")
		}, want: []string{"revoked"}},
		{name: "row 39 half a list", made: &vcek, change: crl(t, fake.Shared().DeltaCRL(fake.Genoa, fake.From, fake.Until)), want: []string{"crl.missing"}},
		{name: "row 39 an old list and a new one", made: &vcek, change: crl(t, fake.Shared().CRL(fake.Genoa, fake.From, day("2026-11-01")), fake.Shared().CRL(fake.Genoa, day("2026-11-01"), fake.Until))},
		{name: "row 39 a new list and an old one", made: &vcek, change: crl(t, fake.Shared().CRL(fake.Genoa, day("2026-11-01"), fake.Until), fake.Shared().CRL(fake.Genoa, fake.From, day("2026-11-01")))},
		{name: "row 39 revoked by an old list", made: &vcek, change: crl(t, fake.Shared().CRL(fake.Genoa, day("2026-11-01"), fake.Until), fake.Shared().CRL(fake.Genoa, fake.From, day("2026-11-01"), fake.Shared().ASK(fake.Genoa))), want: []string{"revoked"}},
		{name: "row 39 ASVK revoked, VCEK used", made: &vcek, change: revoke(t, fake.Shared().ASVK(fake.Genoa))},
		{name: "row 39 revoked root", made: &vcek, change: revoke(t, fake.Shared().ARK(fake.Genoa)), want: []string{"revoked"}},
		{name: "row 39 stale", made: &vcek, change: crl(t, fake.Shared().CRL(fake.Genoa, fake.From, day("2026-11-01"))), want: []string{"crl.stale"}},
		{name: "row 39 of tomorrow", made: &vcek, change: crl(t, fake.Shared().CRL(fake.Genoa, day("2026-12-01"), fake.Until)), want: []string{"cert.time"}},
		{name: "row 39 of another line", made: &vcek, change: crl(t, fake.Shared().CRL(fake.Milan, fake.From, fake.Until, fake.Shared().ASK(fake.Genoa))), want: []string{"crl.missing"}},
		{name: "row 39 with another's signature", made: &vcek, change: crl(t, impostor().CRL(fake.Genoa, fake.From, fake.Until, fake.Shared().ASK(fake.Genoa))), want: []string{"crl.missing"}},
		{name: "patch levels that no certificate vouches for", made: ptr(fake.Options{TCB: &attest.SNPTCB{Bootloader: 10, SNP: 23, Ucode: 84}, Certificate: func(c *fake.Certificate) { c.TCB.Ucode = 25 }}), want: []string{"cert.tcb"}},
	}
	for _, f := range fields {
		rows = append(rows, row{name: "row 1 " + f.name, change: edit(func(b []byte) { b[f.at] ^= 0x10 }), want: []string{f.code, "and what the policy says"}})
	}
	for _, at := range []int{0x4c, 0x188, 0x18b, 0x19f, 0x1eb, 0x1ef, 0x1f8, 0x208, 0x29f, 0x330, 0x49f} {
		o := fake.Options{Line: fake.Milan, Version: 2, Edit: poke(at, 1)}
		r := row{name: fmt.Sprintf("row 2 reserved byte %#x", at), made: &o, want: []string{"parse.mbz"}}
		if at >= 0x330 { // behind the signature, which is made last
			o.Edit = nil
			r.change = edit(poke(at, 1))
		}
		rows = append(rows, r)
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			s := base(t, r.made, r.real)
			if r.change != nil {
				r.change(&s)
			}
			got := s.check()
			if len(r.want) == 2 && r.want[1] == "and what the policy says" {
				if cs := codes(got.Reasons); len(cs) == 0 || cs[0] != r.want[0] {
					t.Errorf("refused for %v, want %s first", got.Reasons, r.want[0])
				}
			} else if !slices.Equal(codes(got.Reasons), r.want) {
				t.Errorf("refused for %v, want %q", got.Reasons, r.want)
			}
			if got.OK() != (len(r.want) == 0) || (len(r.want) > 0) != (got.Status == attest.Contraindicated) {
				t.Errorf("%s", got.Status)
			}
		})
	}
}

// fields are those of a report of version 3, by AMD's 56860, table 23, and why one that is changed is refused.
var fields = []struct {
	name string
	at   int
	code string
}{
	{"version", 0x00, "parse.version"},
	{"guest SVN", 0x04, "sig.invalid"},
	{"policy: ABI minor", 0x08, "sig.invalid"},
	{"policy: ABI major", 0x09, "sig.invalid"},
	{"policy: bits 16 to 23", 0x0a, "sig.invalid"},
	{"policy: reserved", 0x0f, "policy.reserved"},
	{"family id", 0x10, "sig.invalid"},
	{"family id, end", 0x1f, "sig.invalid"},
	{"image id", 0x20, "sig.invalid"},
	{"image id, end", 0x2f, "sig.invalid"},
	{"VMPL", 0x30, "sig.invalid"},
	{"signature algorithm", 0x34, "sig.algo"},
	{"current TCB: bootloader", 0x38, "sig.invalid"},
	{"current TCB: tee", 0x39, "sig.invalid"},
	{"current TCB: reserved", 0x3a, "parse.mbz"},
	{"current TCB: snp", 0x3e, "sig.invalid"},
	{"current TCB: microcode", 0x3f, "sig.invalid"},
	{"platform", 0x40, "sig.invalid"},
	{"platform, end", 0x47, "sig.invalid"},
	{"signing key", 0x48, "parse.signer"},
	{"reserved beside it", 0x4c, "parse.mbz"},
	{"report data", 0x50, "sig.invalid"},
	{"report data, end", 0x8f, "sig.invalid"},
	{"measurement", 0x90, "sig.invalid"},
	{"measurement, end", 0xbf, "sig.invalid"},
	{"host data", 0xc0, "sig.invalid"},
	{"host data, end", 0xdf, "sig.invalid"},
	{"id key digest", 0xe0, "sig.invalid"},
	{"id key digest, end", 0x10f, "sig.invalid"},
	{"author key digest", 0x110, "parse.signer"}, // without the flag that there is one,
	{"author key digest, end", 0x13f, "parse.signer"},
	{"report id", 0x140, "sig.invalid"},
	{"report id, end", 0x15f, "sig.invalid"},
	{"migration agent's report id", 0x160, "sig.invalid"},
	{"migration agent's report id, end", 0x17f, "sig.invalid"},
	{"reported TCB: bootloader", 0x180, "sig.invalid"},
	{"reported TCB: reserved", 0x182, "parse.mbz"},
	{"reported TCB: snp", 0x186, "sig.invalid"},
	{"reported TCB: microcode", 0x187, "sig.invalid"},
	{"CPU family", 0x188, "cert.product"},
	{"CPU model", 0x189, "cert.product"},
	{"CPU stepping", 0x18a, "sig.invalid"},
	{"reserved behind it", 0x18b, "parse.mbz"},
	{"reserved, end", 0x19f, "parse.mbz"},
	{"chip id", 0x1a0, "sig.invalid"},
	{"chip id, end", 0x1df, "sig.invalid"},
	{"committed TCB", 0x1e0, "sig.invalid"},
	{"committed TCB: reserved", 0x1e2, "parse.mbz"},
	{"current build", 0x1e8, "sig.invalid"},
	{"current minor", 0x1e9, "sig.invalid"},
	{"current major", 0x1ea, "sig.invalid"},
	{"reserved between", 0x1eb, "parse.mbz"},
	{"committed build", 0x1ec, "sig.invalid"},
	{"committed major", 0x1ee, "sig.invalid"},
	{"reserved before the launch TCB", 0x1ef, "parse.mbz"},
	{"launch TCB", 0x1f0, "sig.invalid"},
	{"launch TCB: microcode", 0x1f7, "sig.invalid"},
	{"launch mitigations, of version 5", 0x1f8, "parse.mbz"},
	{"current mitigations, of version 5", 0x200, "parse.mbz"},
	{"reserved to the end", 0x208, "parse.mbz"},
	{"reserved, last", 0x29f, "parse.mbz"},
	{"r", 0x2a0, "sig.invalid"},
	{"r, end", 0x2e7, "sig.invalid"},
	{"s", 0x2e8, "sig.invalid"},
	{"s, end", 0x32f, "sig.invalid"},
	{"behind the signature", 0x330, "parse.mbz"},
	{"the last byte", 0x49f, "parse.mbz"},
}

// TestCheckIsAFunction: the same in, the same out, also at once.
func TestCheckIsAFunction(t *testing.T) {
	old := azure(t)
	minimum(&old, func(m *attest.SNPTCB) { m.Ucode = 219 })
	for _, s := range []setting{genoa(t), old, debug(t)} {
		want := s.check()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if got := s.check(); !reflect.DeepEqual(got, want) {
					t.Errorf("got %+v, want %+v", got, want)
				}
			})
		}
		wg.Wait()
	}
}

func ptr[T any](v T) *T { return &v }

// base is a setting that is taken; that of a fake is built from a good report and then shown the one wanted.
func base(t *testing.T, o *fake.Options, realOne func(testing.TB) setting) setting {
	t.Helper()
	if realOne != nil {
		return realOne(t)
	}
	if o == nil {
		return genoa(t)
	}
	good := *o
	good.Edit, good.Certificate = nil, nil
	if o.CPU != nil {
		good.CPU = nil
	}
	s := made(t, good)
	opts := *o
	opts.ReportData = *s.in.ReportData
	s.evidence.Statement, s.evidence.Endorsements = fake.Shared().Report(opts)
	return s
}

func tail(n int) func(*setting) {
	return func(s *setting) { s.evidence.Statement = append(bytes.Clone(s.evidence.Statement), make([]byte, n)...) }
}

var impostor = sync.OnceValue(fake.New)

func crl(t *testing.T, lists ...[]byte) func(*setting) {
	t.Helper()
	return func(s *setting) {
		files := fake.Shared().Files()
		delete(files, "crl_genoa.der")
		for i, list := range lists {
			files[fmt.Sprintf("crl_%d.der", i)] = list
		}
		s.in.Trust, s.policy.Revocation = snapshot(t, files), true
	}
}

func revoke(t *testing.T, authority []byte) func(*setting) {
	t.Helper()
	return crl(t, fake.Shared().CRL(fake.Genoa, fake.From, fake.Until, authority))
}
