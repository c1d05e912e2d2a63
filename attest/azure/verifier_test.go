package azure

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
	faketpm "github.com/consilium-fl/consilium/attest/internal/tpm"
	"github.com/consilium-fl/consilium/attest/testtee/amd"
	"github.com/consilium-fl/consilium/attest/testtee/intel"
	"github.com/consilium-fl/consilium/attest/testtee/shared"
	"github.com/consilium-fl/consilium/attest/testtee/tpm"
)

func snapshot(t testing.TB, files map[string][]byte) *endorse.Snapshot {
	t.Helper()
	s, err := endorse.New(files)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// vendors is a snapshot of AMD's and Intel's own roots and collateral.
func vendors(t testing.TB) *endorse.Snapshot {
	files := map[string][]byte{}
	for _, name := range []string{
		"snp/ask_ark_milan.pem", "tdx/trusted_root.pem", "tdx/tcb-signing.der", "tdx/platform.crl.der", "tdx/v4-phala.collateral.json",
		"tdx/00806f050000-2025-07.tcbinfo.json", "tdx/00806f050000-2025-07.qeidentity.json",
	} {
		files[filepath.Base(name)] = shared.File(t, name)
	}
	return snapshot(t, files)
}

func day(t testing.TB, s string) time.Time {
	t.Helper()
	d, err := time.Parse(time.DateOnly, s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// anything is a policy that compares what a test is not about with nothing.
func anything() attest.Policy {
	every := attest.AnySet()
	rule := attest.SNPRule{Firmware: "0.0.0"}
	return attest.Policy{
		Role: attest.RoleNode, Accept: []attest.Format{attest.FormatAzureSNP, attest.FormatAzureTDX}, Measurements: every, Machines: every,
		Azure: &attest.AzurePolicy{SecureBoot: attest.Required, ConsoleOff: attest.Optional, TPMStateless: attest.Optional, UserData: attest.Optional, RootCerts: every},
		TPM:   &attest.TPMPolicy{PCRs: map[int]attest.Set{7: every}, EventLog: attest.Optional, SecureBoot: attest.Optional, Firmware: every, Projects: every},
		SNP: &attest.SNPPolicy{
			Signers: every, CSPs: every, VMPL: attest.SetOf("0"), GuestPolicy: attest.SNPBits{Allow: every}, MinABI: "0.0", Platform: attest.SNPBits{Allow: every}, Provisional: true,
			TCB: map[string]attest.SNPRule{"milan": rule, "19/01/01": rule, "19/11/01": rule}, IDKeys: every, AuthorKeys: every, HostData: every,
		},
		TDX: &attest.TDXPolicy{
			Platform: attest.SetOf(attest.TDXUpToDate), Module: attest.SetOf(attest.TDXUpToDate), QE: every, Advisories: every, MinTCBDate: "any",
			Attributes: every, XFAM: every, MRSEAM: every, MRConfigID: every, MROwner: every, MROwnerConfig: every, MRServiceTD: every,
			RTMR0: every, RTMR1: every, RTMR2: every, RTMR3: every, Replay: attest.Optional,
		},
	}
}

func check(e attest.Evidence, in attest.Inputs, p attest.Policy) attest.Result {
	return attest.NewVerifiers(NewSNPVerifier(), NewTDXVerifier()).Check(e, in, p)
}

func codes(r attest.Result) []string {
	out := []string{}
	for _, reason := range r.Reasons {
		out = append(out, reason.Code)
	}
	return slices.Compact(out)
}

func dataOf(t testing.TB, digits string) *[64]byte {
	t.Helper()
	b, err := hex.DecodeString(digits)
	if err != nil || len(b) > 64 {
		t.Fatal(digits, err)
	}
	var d [64]byte
	copy(d[:], b)
	return &d
}

const milanData = "982f5c6e45df0ed3f10b6f60b02f0c8390e281300f3805e2279c16168cd6ae9aa398f647caa2338748cd0fd9f5f819ef"

func milan(t testing.TB) (attest.Evidence, attest.Inputs) {
	t.Helper()
	e, err := FromTrustee(shared.File(t, "azure/snp-milan-v3.evidence.json"))
	if err != nil {
		t.Fatal(err)
	}
	return e, attest.Inputs{Now: day(t, "2026-01-01"), ReportData: dataOf(t, milanData), Trust: vendors(t)}
}

func outOfDate(t testing.TB) (attest.Evidence, attest.Inputs) {
	t.Helper()
	e, err := FromTrustee(shared.File(t, "azure/tdx-v4-outofdate.evidence.json"))
	if err != nil {
		t.Fatal(err)
	}
	return e, attest.Inputs{Now: day(t, "2025-07-10"), ReportData: dataOf(t, hex.EncodeToString([]byte("challenge"))), Trust: vendors(t)}
}

func TestEvidence(t *testing.T) {
	t.Run("snp-milan-v3", func(t *testing.T) {
		e, in := milan(t)
		r := check(e, in, anything())
		if r.Status != attest.Affirming || r.Claims.Machine != "azure:7DF7B373-B947-4AAA-96E5-C358F2A03D20" || r.Claims.Azure.TPMBound || r.Claims.Generation != "milan" {
			t.Errorf("%s for %v: %+v", r.Status, r.Reasons, r.Claims)
		}
		p, c := anything(), r.Claims // and by what the file itself says
		p.Measurements, p.Machines, p.SNP.IDKeys = attest.SetOf(c.Measurement), attest.SetOf(c.Machine), attest.SetOf(c.SNP.IDKeyDigest.String())
		for i, v := range c.TPM.PCRs {
			p.TPM.PCRs[i] = attest.SetOf(v.String())
		}
		p.Azure.UserData, p.Azure.RootCerts, p.TPM.Firmware = attest.Required, attest.SetOf("absent"), attest.SetOf(c.TPM.Firmware)
		if r := check(e, in, p); r.Status != attest.Affirming {
			t.Errorf("by its own values: %s for %v", r.Status, r.Reasons)
		}
		p.Azure.ConsoleOff, p.Azure.TPMStateless = attest.Required, attest.Required
		if r := check(e, in, p); !slices.Equal(codes(r), []string{"config.console", "config.tpm"}) {
			t.Errorf("row 54 console and TPM state: %v", r.Reasons)
		}
		in.ReportData = dataOf(t, "00"+milanData[2:])
		if r := check(e, in, anything()); !slices.Equal(codes(r), []string{"binding.mismatch"}) {
			t.Errorf("row 10 other report data: %v", r.Reasons)
		}
	})
	t.Run("tdx-v4-outofdate", func(t *testing.T) {
		e, in := outOfDate(t)
		r := check(e, in, anything())
		if !slices.Equal(codes(r), []string{"tcb.platform.out_of_date", "tcb.module.out_of_date"}) || r.Claims.Azure == nil {
			t.Errorf("%s for %v", r.Status, r.Reasons)
		}
		p := anything()
		p.TDX.Platform, p.TDX.Module = attest.AnySet(), attest.AnySet()
		r = check(e, in, p)
		if !r.OK() || !r.Claims.Azure.TPMBound || r.Claims.HalfBound {
			t.Errorf("with any patch level: %s for %v", r.Status, r.Reasons)
		}
		p.Azure.UserData = attest.Required
		if r := check(e, in, p); !slices.Equal(codes(r), []string{"config.user_data"}) {
			t.Errorf("with the binding under the hardware's signature: %v", r.Reasons)
		}
		in.ReportData = dataOf(t, "00")
		in.ReportData[63] = 1
		if r := check(e, in, p); !slices.Contains(codes(r), "tpm.nonce") || !slices.Contains(codes(r), "binding.mismatch") {
			t.Errorf("row 53 wrong nonce: %v", r.Reasons)
		}
	})
	t.Run("tdx-secureboot-off", func(t *testing.T) {
		e, err := FromHCL(shared.File(t, "azure/tdx-secureboot-off.hcl.bin"))
		if err != nil {
			t.Fatal(err)
		}
		r := check(e, attest.Inputs{Now: day(t, "2025-07-10"), Trust: vendors(t)}, anything())
		if got := codes(r); !slices.Contains(got, "config.secureboot") || !slices.Contains(got, "hcl.quote") || !slices.Contains(got, "tpm.missing") {
			t.Errorf("row 54: %v", r.Reasons)
		}
	})
	t.Run("snp-other-chip", func(t *testing.T) {
		e, err := FromHCL(shared.File(t, "azure/snp-other-chip.hcl.bin"))
		if err != nil {
			t.Fatal(err)
		}
		e.Endorsements = map[string][]byte{"vcek": shared.File(t, "azure/snp-other-chip.certs.pem")}
		r := check(e, attest.Inputs{Now: day(t, "2025-01-01"), Trust: vendors(t)}, anything())
		if got := codes(r); !slices.Contains(got, "sig.invalid") || !slices.Contains(got, "tpm.missing") {
			t.Errorf("row 28: %v", r.Reasons)
		}
	})
	t.Run("row 55 claims of another machine", func(t *testing.T) {
		e, in := outOfDate(t)
		e.Statement = shared.File(t, "azure/tdx-secureboot-off.hcl.bin")
		if r := check(e, in, anything()); !slices.Contains(codes(r), "hcl.binding") {
			t.Errorf("%v", r.Reasons)
		}
	})
}

// TestEveryBit turns what is signed: the hardware's report, the claims under it, the TD quote, and the TPM's.
func TestEveryBit(t *testing.T) {
	e, in := milan(t)
	tdx, tdxIn := outOfDate(t)
	pol := anything()
	pol.TDX.Platform, pol.TDX.Module = attest.AnySet(), attest.AnySet()
	turn := func(e attest.Evidence, in attest.Inputs, name string, from, to, step int) {
		t.Helper()
		if !check(e, in, pol).OK() {
			t.Fatalf("%s is refused as it is", e.Format)
		}
		for i := 8 * from; i < 8*to; i += step {
			f := e
			part := &f.Statement
			if name != "" {
				f.Endorsements = maps.Clone(e.Endorsements)
				b := f.Endorsements[name]
				part = &b
			}
			*part = bytes.Clone(*part)
			(*part)[i/8] ^= 1 << (i % 8)
			if name != "" {
				f.Endorsements[name] = *part
			}
			if r := check(f, in, pol); r.OK() {
				t.Fatalf("%s%s, bit %d of byte %d turned: %s", e.Format, name, i%8, i/8, r.Status)
			}
		}
	}
	step := 1
	if testing.Short() {
		step = 13
	}
	turn(e, in, "", 0, headerSize, 1) // nobody signs it, and it has one form
	turn(e, in, "", headerSize, headerSize+0x2a0, step)
	turn(e, in, "", headerSize+reportSize, claimsAt, 1)
	turn(e, in, tpmQuote, 0, len(e.Endorsements[tpmQuote]), 1)
	turn(e, in, tpmPCRs, 0, 768, 8)
	turn(e, in, "vcek", 0, len(e.Endorsements["vcek"]), 8)
	turn(tdx, tdxIn, tdQuote, 0, 632, 7)
	turn(tdx, tdxIn, tpmQuote, 0, len(tdx.Endorsements[tpmQuote]), 7)
	for _, e := range []attest.Evidence{e, tdx} {
		end := bytes.LastIndexByte(e.Statement, '}') + 1
		for i := 8 * claimsAt; i < 8*end; i++ {
			b := bytes.Clone(e.Statement)
			b[i/8] ^= 1 << (i % 8)
			if r, err := parseReport(b); err != nil || r.checkBinding() == nil {
				t.Fatalf("%s, bit %d of byte %d of the claims turned: %v", e.Format, i%8, i/8, err)
			}
		}
		turn(e, map[attest.Format]attest.Inputs{attest.FormatAzureSNP: in, attest.FormatAzureTDX: tdxIn}[e.Format], "", claimsAt, end, 101)
	}
}

func TestSameInParallel(t *testing.T) {
	e, in := milan(t)
	tdx, tdxIn := outOfDate(t)
	var wg sync.WaitGroup
	out := make([]string, 100)
	for i := range out {
		wg.Go(func() {
			b, err := json.Marshal([]attest.Result{check(e, in, anything()), check(tdx, tdxIn, anything())})
			if err != nil {
				t.Error(err)
			}
			out[i] = string(b)
		})
	}
	wg.Wait()
	if len(slices.Compact(out)) != 1 || !strings.Contains(out[0], `"affirming"`) {
		t.Error("100 runs differ")
	}
}

// lab is a machine of Azure's on a fake AMD or Intel.
type lab struct {
	dev    *tpm.TPM
	key    *rsa.PrivateKey
	user   []byte
	nonce  []byte
	change func(top, vm map[string]any) // of the claims
	hcl    func(*tpm.HCL)
	upper  byte // the last of the hardware's report data
	quote  func(*tpm.Quote)
	in     attest.Inputs
	pol    attest.Policy
}

var (
	theIntel   = sync.OnceValue(func() *intel.Intel { return intel.New(nil) })
	theMachine = sync.OnceValue(intel.NewMachine)
	theTrust   = sync.OnceValue(func() map[string][]byte {
		files := amd.Shared().Files()
		maps.Copy(files, theIntel().Trust(theMachine()))
		return files
	})
)

func newLab(t testing.TB) *lab {
	l := &lab{key: tpm.Key(), dev: tpm.New(tpm.Key()), user: bytes.Repeat([]byte{7}, 64)}
	l.dev.Boot(true)
	digest := sha256.Sum256(l.user)
	l.nonce = digest[:]
	data := [64]byte(l.user)
	l.in = attest.Inputs{Now: intel.Now(), ReportData: &data, Trust: snapshot(t, theTrust())}
	l.pol = anything()
	l.pol.Machines = attest.SetOf("azure:6332533D-5649-4D02-8AA7-8F64B7C3EE21")
	l.pol.Azure = &attest.AzurePolicy{SecureBoot: attest.Required, ConsoleOff: attest.Required, TPMStateless: attest.Required, UserData: attest.Required, RootCerts: attest.SetOf("absent")}
	l.pol.TPM.EventLog, l.pol.TPM.SecureBoot = attest.Required, attest.Required
	return l
}

// evidence is of SNP or of TDX.
func (l *lab) evidence(format attest.Format) attest.Evidence {
	e := attest.Evidence{Format: format, Endorsements: map[string][]byte{}}
	kind, hardware := uint32(typeSNP), func(data [64]byte) []byte {
		report, endorsements := amd.Shared().Report(amd.Options{Line: amd.Milan, ReportData: data})
		maps.Copy(e.Endorsements, endorsements)
		return report
	}
	if format == attest.FormatAzureTDX {
		kind, hardware = typeTDX, func(data [64]byte) []byte {
			e.Endorsements[tdQuote] = theIntel().Quote(theIntel().PCK(theMachine()), intel.NewTD(data))
			return tpm.TDReport(data)
		}
	}
	h := tpm.NewHCL(kind, tpm.Claims(&l.key.PublicKey, l.user, l.change), func(data [64]byte) []byte {
		data[63] = l.upper
		return hardware(data)
	})
	if l.hcl != nil {
		l.hcl(&h)
	}
	e.Statement = h.Encode()
	q := l.dev.Quote(l.nonce)
	if l.quote != nil {
		l.quote(&q)
	}
	b := q.Encode()
	e.Endorsements[tpmQuote], e.Endorsements[tpmSignature] = b, l.dev.Sign(b)
	e.Endorsements[tpmPCRs], e.Endorsements[attest.EventLog] = faketpm.EncodePCRs(l.dev.Registers()), l.dev.Log
	return e
}

func TestFake(t *testing.T) {
	for _, format := range []attest.Format{attest.FormatAzureSNP, attest.FormatAzureTDX} {
		for name, change := range map[string]func(*lab){
			"as our attester makes it": nil,
			"as Trustee's does":        func(l *lab) { clear(l.user[48:]); l.nonce = l.user[:48]; l.in.ReportData = (*[64]byte)(l.user) },
			"without user data": func(l *lab) {
				l.user = nil
				l.pol.Azure.UserData = attest.Optional
				copy(l.in.ReportData[:], l.nonce) // the rest of it is nowhere
			},
			"with names that are not known": func(l *lab) {
				l.change = func(top, vm map[string]any) { top["new"], vm["interactive-console-enabled"] = 1, false }
			},
			"behind more zeros": func(l *lab) { l.hcl = func(h *tpm.HCL) { h.Padding = 3000 } },
			"of version 1":      func(l *lab) { l.hcl = func(h *tpm.HCL) { h.Version, h.Padding = 1, 0 } },
		} {
			l := newLab(t)
			if change != nil {
				change(l)
			}
			if r := check(l.evidence(format), l.in, l.pol); r.Status != attest.Affirming || r.Claims.HalfBound != (l.user == nil) {
				t.Errorf("%s %s: %s for %v", format, name, r.Status, r.Reasons)
			}
		}
	}
}

// TestHCLRefused is row 52 and what belongs to it.
func TestHCLRefused(t *testing.T) {
	for _, tc := range []struct {
		name, code string
		change     func(*lab)
	}{
		{"row 52 claims edited", "hcl.binding", func(l *lab) {
			l.hcl = func(h *tpm.HCL) { h.Claims = bytes.Replace(h.Claims, []byte("6332533D"), []byte("6332533E"), 1) }
		}},
		{"row 52 huge claims", "hcl.size", func(l *lab) { l.hcl = sizes(func(_, _, claims *uint32) { *claims = 0xffffffff }) }},
		{"row 52 huge everything", "hcl.size", func(l *lab) {
			l.hcl = sizes(func(whole, data, claims *uint32) { *whole, *data, *claims = 0xffffffff, 0xffffffff, 0xffffffff })
		}},
		{"row 52 one byte of claims more", "hcl.size", func(l *lab) { l.hcl = sizes(func(_, _, claims *uint32) { *claims++ }) }},
		{"one byte of claims more everywhere", "hcl.claims", func(l *lab) {
			l.hcl = sizes(func(whole, data, claims *uint32) { *whole++; *data++; *claims++ })
		}},
		{"another size of the runtime data", "hcl.size", func(l *lab) { l.hcl = sizes(func(_, data, _ *uint32) { *data++ }) }},
		{"another size of the whole", "hcl.size", func(l *lab) { l.hcl = sizes(func(whole, _, _ *uint32) { *whole = 0 }) }},
		{"row 52 hash of no kind", "hcl.hash_type", func(l *lab) { l.hcl = func(h *tpm.HCL) { h.HashType = 0 } }},
		{"SHA-384", "hcl.hash_type", func(l *lab) { l.hcl = func(h *tpm.HCL) { h.HashType = 2 } }},
		{"row 52 the other TEE's type", "hcl.type", func(l *lab) { l.hcl = func(h *tpm.HCL) { h.ReportType = 6 - h.ReportType } }},
		{"a machine without a TEE", "hcl.type", func(l *lab) { l.hcl = func(h *tpm.HCL) { h.ReportType = 3 } }},
		{"row 52 magic", "hcl.magic", func(l *lab) { l.hcl = func(h *tpm.HCL) { h.Magic = "HCLB" } }},
		{"version 3", "hcl.header", func(l *lab) { l.hcl = func(h *tpm.HCL) { h.Version = 3 } }},
		{"another request", "hcl.header", func(l *lab) { l.hcl = func(h *tpm.HCL) { h.Request = 1 } }},
		{"a status", "hcl.header", func(l *lab) { l.hcl = func(h *tpm.HCL) { h.Status = 1 } }},
		{"another version of the data", "hcl.header", func(l *lab) { l.hcl = func(h *tpm.HCL) { h.DataVersion = 2 } }},
		{"not JSON", "hcl.claims", claims(func([]byte) []byte { return []byte("{") })},
		{"no object", "hcl.claims", claims(func([]byte) []byte { return []byte("[]") })},
		{"two objects", "hcl.claims", claims(func(b []byte) []byte { return append(b, "{}"...) })},
		{"user data twice", "hcl.claims", claims(func(b []byte) []byte {
			return append(b[:len(b)-1], `,"user-data":"`+strings.Repeat("00", 64)+`"}`...)
		})},
		{"user data of 63 bytes", "hcl.claims", claims(func(b []byte) []byte { return bytes.Replace(b, []byte(`"0707`), []byte(`"07`), 1) })},
		{"user data not in hex", "hcl.claims", claims(func(b []byte) []byte { return bytes.Replace(b, []byte(`"0707`), []byte(`"xx07`), 1) })},
		{"no keys", "hcl.claims", func(l *lab) { l.change = func(top, _ map[string]any) { delete(top, "keys") } }},
		{"another key's name", "hcl.claims", claims(func(b []byte) []byte { return bytes.Replace(b, []byte(akName), []byte("hclakpub"), 1) })},
		{"two attestation keys", "hcl.claims", claims(func(b []byte) []byte { return bytes.Replace(b, []byte("HCLEkPub"), []byte(akName), 1) })},
		{"an elliptic key", "hcl.claims", claims(func(b []byte) []byte { return bytes.Replace(b, []byte(`"RSA"`), []byte(`"EC"`), 1) })},
		{"exponent 3", "hcl.claims", claims(func(b []byte) []byte { return bytes.Replace(b, []byte("AQAB"), []byte("Aw"), 1) })},
		{"no machine", "hcl.claims", func(l *lab) { l.change = func(_, vm map[string]any) { delete(vm, "vmUniqueId") } }},
		{"no word on secure boot", "hcl.claims", func(l *lab) { l.change = func(_, vm map[string]any) { delete(vm, "secure-boot") } }},
		{"secure boot null", "hcl.claims", func(l *lab) { l.change = func(_, vm map[string]any) { vm["secure-boot"] = nil } }},
		{"secure boot in text", "hcl.claims", func(l *lab) { l.change = func(_, vm map[string]any) { vm["secure-boot"] = "true" } }},
		{"a long id", "hcl.claims", func(l *lab) {
			l.change = func(_, vm map[string]any) { vm["vmUniqueId"] = strings.Repeat("a", 129) }
		}},
	} {
		for _, format := range []attest.Format{attest.FormatAzureSNP, attest.FormatAzureTDX} {
			t.Run(tc.name+" "+string(format), func(t *testing.T) {
				l := newLab(t)
				tc.change(l)
				r := check(l.evidence(format), l.in, l.pol)
				if got := codes(r); r.OK() || got[0] != tc.code {
					t.Errorf("%s for %v, want %s", r.Status, r.Reasons, tc.code)
				}
			})
		}
	}
	for _, format := range []attest.Format{attest.FormatAzureSNP, attest.FormatAzureTDX} {
		l := newLab(t)
		good := l.evidence(format)
		for name, tc := range map[string]struct {
			code   string
			change func([]byte) []byte
		}{
			"row 52 tail":           {"hcl.tail", func(b []byte) []byte { b[len(b)-1] = 1; return b }},
			"row 52 truncated":      {"hcl.size", func(b []byte) []byte { return b[:len(b)-101] }},
			"row 52 truncated more": {"hcl.size", func(b []byte) []byte { return b[:1235] }},
			"nothing":               {"hcl.size", func([]byte) []byte { return nil }},
			"large":                 {"hcl.size", func(b []byte) []byte { return append(b, make([]byte, maxReport)...) }},
			"the other format":      {"hcl.type", nil},
		} {
			e := good
			if tc.change != nil {
				e.Statement = tc.change(bytes.Clone(good.Statement))
			} else if e.Format = attest.FormatAzureTDX; format == attest.FormatAzureTDX {
				e.Format = attest.FormatAzureSNP
			}
			if r := check(e, l.in, l.pol); r.OK() || codes(r)[0] != tc.code {
				t.Errorf("%s %s: %s for %v, want %s", format, name, r.Status, r.Reasons, tc.code)
			}
		}
	}
	for _, format := range []attest.Format{attest.FormatAzureSNP, attest.FormatAzureTDX} {
		l := newLab(t)
		l.upper = 1
		if got := codes(check(l.evidence(format), l.in, l.pol)); !slices.Equal(got, []string{"hcl.upper"}) {
			t.Errorf("%s row 52 upper half, as the hardware signs it: %q", format, got)
		}
	}
	l := newLab(t)
	l.hcl = func(h *tpm.HCL) { h.Hardware = append(h.Hardware, 1) } // after the TDREPORT
	if r := check(l.evidence(attest.FormatAzureTDX), l.in, l.pol); !slices.Contains(codes(r), "hcl.tail") {
		t.Errorf("more than a TDREPORT: %v", r.Reasons)
	}
}

func sizes(change func(whole, data, claims *uint32)) func(*tpm.HCL) {
	return func(h *tpm.HCL) { h.Sizes = change }
}

// claims alters the text of the claims before the hardware sees it.
func claims(change func([]byte) []byte) func(*lab) {
	return func(l *lab) {
		l.hcl = func(h *tpm.HCL) {
			before := sha256.Sum256(h.Claims)
			h.Claims = change(h.Claims)
			after := sha256.Sum256(h.Claims)
			h.Hardware = bytes.Replace(h.Hardware, before[:], after[:], 1)
		}
	}
}

// TestQuoteRefused is row 53, and the policy's part.
func TestQuoteRefused(t *testing.T) {
	for _, tc := range []struct {
		name   string
		codes  []string
		change func(*lab, *attest.Evidence)
	}{
		{"row 53 another attestation key", []string{"tpm.sig"}, func(l *lab, _ *attest.Evidence) { l.dev.Key = tpm.OtherKey() }},
		{"row 53 wrong nonce", []string{"tpm.nonce"}, func(l *lab, _ *attest.Evidence) { l.nonce = bytes.Repeat([]byte{1}, 32) }},
		{"no nonce", []string{"tpm.nonce"}, func(l *lab, _ *attest.Evidence) { l.nonce = nil }},
		{"half the user data", []string{"tpm.nonce"}, func(l *lab, _ *attest.Evidence) { l.nonce = l.user[:32] }},
		{"row 59 no nonce and no user data", []string{"freshness", "config.user_data"}, func(l *lab, _ *attest.Evidence) { l.nonce, l.user = nil, make([]byte, 64) }},
		{"row 59 the last one's answer", []string{"binding.mismatch"}, func(l *lab, _ *attest.Evidence) { l.in.ReportData = dataOf(t, "01") }},
		{"row 53 registers that were not quoted", []string{"tpm.pcrs", "tpm.event_log", "config.secureboot"}, func(_ *lab, e *attest.Evidence) { e.Endorsements[tpmPCRs][0] ^= 1 }},
		{"a short bank", []string{"tpm.pcrs"}, func(_ *lab, e *attest.Evidence) { e.Endorsements[tpmPCRs] = e.Endorsements[tpmPCRs][:767] }},
		{"row 53 PSS", []string{"tpm.sig"}, func(l *lab, e *attest.Evidence) {
			d := sha256.Sum256(e.Endorsements[tpmQuote])
			e.Endorsements[tpmSignature], _ = rsa.SignPSS(rand.Reader, l.key, crypto.SHA256, d[:], nil)
		}},
		{"row 53 SHA-1 registers", []string{"tpm.pcrs"}, func(l *lab, _ *attest.Evidence) { l.quote = func(q *tpm.Quote) { q.Banks[0].Hash = 4 } }},
		{"a short key", []string{"tpm.ak"}, func(l *lab, _ *attest.Evidence) { l.key, l.dev.Key = tpm.ShortKey(), tpm.ShortKey() }},
		{"no quote", []string{"tpm.missing"}, func(_ *lab, e *attest.Evidence) { delete(e.Endorsements, tpmQuote) }},
		{"a log of another start", []string{"tpm.event_log", "config.secureboot"}, func(_ *lab, e *attest.Evidence) { e.Endorsements[attest.EventLog] = tpm.New(tpm.Key()).Log }},
		{"no log", []string{"tpm.event_log", "config.secureboot"}, func(_ *lab, e *attest.Evidence) { delete(e.Endorsements, attest.EventLog) }},
		{"row 54 secure boot off", []string{"config.secureboot"}, vm("secure-boot", false)},
		{"row 54 a console", []string{"config.console"}, vm("console-enabled", true)},
		{"row 54 a TPM that keeps its state", []string{"config.tpm"}, vm("tpm-persisted", true)},
		{"no word on the TPM's state", []string{"config.tpm"}, vm("tpm-persisted", nil)},
		{"row 54 no TPM", []string{"config.tpm"}, vm("tpm-enabled", false)},
		{"a certificate of key release", []string{"config.root_cert"}, vm("root-cert-thumbprint", "6nZZnYaJc4KqUZ_yvA-mucFdYNouvlPnITnNMXsHl-0")},
		{"another machine", []string{"identity.chip"}, vm("vmUniqueId", "another")},
		{"a register of another value", []string{"pcr.unlisted"}, func(l *lab, _ *attest.Evidence) { l.pol.TPM.PCRs[11] = attest.SetOf(strings.Repeat("11", 32)) }},
		{"a policy that says nothing of Azure", []string{"config.error", "config.root_cert"}, func(l *lab, _ *attest.Evidence) { l.pol.Azure = &attest.AzurePolicy{} }},
	} {
		for _, format := range []attest.Format{attest.FormatAzureSNP, attest.FormatAzureTDX} {
			t.Run(tc.name+" "+string(format), func(t *testing.T) {
				l := newLab(t)
				tc.change(l, &attest.Evidence{Endorsements: map[string][]byte{tpmPCRs: make([]byte, 768)}}) // the machine, before it attests
				e := l.evidence(format)
				tc.change(&lab{dev: tpm.New(tpm.Key()), key: l.key, user: l.user, pol: anything()}, &e) // and what it made
				// Of a quote that does not parse there are no claims, which is said too.
				got := slices.DeleteFunc(codes(check(e, l.in, l.pol)), func(c string) bool { return c == attest.CodeVerifierError })
				if !slices.Equal(got, tc.codes) {
					t.Errorf("refused for %q, want %q", got, tc.codes)
				}
			})
		}
	}
}

func vm(name string, value any) func(*lab, *attest.Evidence) {
	return func(l *lab, _ *attest.Evidence) {
		l.change = func(_, vm map[string]any) {
			if vm[name] = value; value == nil {
				delete(vm, name)
			}
		}
	}
}

func TestHardwareRefused(t *testing.T) {
	l := newLab(t)
	for _, tc := range []struct {
		name, code string
		format     attest.Format
		change     func(*attest.Evidence)
	}{
		{"no certificate", "chain", attest.FormatAzureSNP, func(e *attest.Evidence) { delete(e.Endorsements, "vcek") }},
		{"a certificate that is none", "parse.encoding", attest.FormatAzureSNP, func(e *attest.Evidence) {
			e.Endorsements["vcek"] = []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
		}},
		{"row 55 the quote of another report", "hcl.binding", attest.FormatAzureTDX, func(e *attest.Evidence) {
			e.Endorsements[tdQuote] = theIntel().Quote(theIntel().PCK(theMachine()), intel.NewTD([64]byte{1}))
		}},
		{"row 55 no quote", "hcl.quote", attest.FormatAzureTDX, func(e *attest.Evidence) { delete(e.Endorsements, tdQuote) }},
		{"a quote cut off", "parse.length", attest.FormatAzureTDX, func(e *attest.Evidence) { e.Endorsements[tdQuote] = e.Endorsements[tdQuote][:100] }},
		{"a debug TD", "debug", attest.FormatAzureTDX, func(e *attest.Evidence) {
			td := intel.NewTD([64]byte(e.Statement[headerSize+128:]))
			td.Attributes[0] = 1
			e.Endorsements[tdQuote] = theIntel().Quote(theIntel().PCK(theMachine()), td)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := l.evidence(tc.format)
			tc.change(&e)
			if r := check(e, l.in, l.pol); r.OK() || codes(r)[0] != tc.code {
				t.Errorf("%s for %v, want %s", r.Status, r.Reasons, tc.code)
			}
		})
	}
}

func BenchmarkCheckSNP(b *testing.B) {
	e, in := milan(b)
	p := anything()
	b.ReportAllocs()
	for b.Loop() {
		if !check(e, in, p).OK() {
			b.Fatal("refused")
		}
	}
}

func BenchmarkCheckTDX(b *testing.B) {
	l := newLab(b)
	e := l.evidence(attest.FormatAzureTDX)
	b.ReportAllocs()
	for b.Loop() {
		if !check(e, l.in, l.pol).OK() {
			b.Fatal("refused")
		}
	}
}
