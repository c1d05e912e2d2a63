package vtpm

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	pb "github.com/google/go-tpm-tools/proto/attest"
	tpmpb "github.com/google/go-tpm-tools/proto/tpm"
	"github.com/google/go-tpm-tools/server"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/attest/testtee/shared"
	"github.com/consilium-fl/consilium/attest/testtee/tpm"
)

// evidence reads a file of real evidence in place.
func evidence(t testing.TB, name string) []byte {
	t.Helper()
	return shared.File(t, "vtpm/"+name)
}

func snapshot(t testing.TB, files map[string][]byte) *endorse.Snapshot {
	t.Helper()
	s, err := endorse.New(files)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// google is Google's own snapshot.
func google(t testing.TB) *endorse.Snapshot {
	files := map[string][]byte{}
	for _, name := range []string{"gcp_ek_ak_ca_intermediate_v3.crt", "gcp_ek_ak_ca_root.crt", "tpm_ek_intermediate_2.crt", "tpm_ek_intermediate_3.crt", "tpm_ek_root_1.cer"} {
		files[name] = evidence(t, name)
	}
	return snapshot(t, files)
}

// policyOf takes what a file itself carries.
func policyOf(p7 string) attest.Policy {
	return attest.Policy{
		Role: attest.RoleNode, Accept: []attest.Format{attest.FormatVTPM}, Machines: attest.AnySet(),
		TPM: &attest.TPMPolicy{
			PCRs: map[int]attest.Set{7: attest.SetOf(p7)}, EventLog: attest.Required, SecureBoot: attest.Required,
			Firmware: attest.AnySet(), Projects: attest.AnySet(),
		},
	}
}

func dataOf(nonce ...byte) *[64]byte {
	var d [64]byte
	copy(d[:], nonce)
	return &d
}

func codes(r attest.Result) []string {
	out := []string{}
	for _, reason := range r.Reasons {
		out = append(out, reason.Code)
	}
	return out
}

func check(statement []byte, in attest.Inputs, p attest.Policy) attest.Result {
	return attest.NewVerifiers(NewVerifier()).Check(attest.Evidence{Format: attest.FormatVTPM, Statement: statement}, in, p)
}

const cosPCR7 = "3365d7fa2b024c852913c06e04ffbfa6ea5289f743bbf1a76f7ffdf21ed84793"

var cosDay = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

func TestEvidence(t *testing.T) {
	good, none := evidence(t, "gce-cos-85-nonce9009.pb"), evidence(t, "gce-cos-85-no-nonce.pb")
	in := attest.Inputs{Now: cosDay, ReportData: dataOf(0x90, 0x09), Trust: google(t)}
	r := check(good, in, policyOf(cosPCR7))
	if r.Status != attest.Affirming || !r.OK() {
		t.Fatalf("%s for %v", r.Status, r.Reasons)
	}
	if r.Claims.Machine != "gce:google.com:wuale-gcp-testing/us-central1-a/6797026933021542085" || r.Claims.TPM.GCE.Name != "cos-test" || r.Claims.TPM.EventLog.Firmware != "GCE Virtual Firmware v1" {
		t.Errorf("%+v", r.Claims.TPM)
	}
	if want := []string{"crl:gce-tpm-intermediate", "crl:gce-tpm-root", "machine", "tpm.firmware", "tpm.gce.project"}; !slices.Equal(slices.Sorted(slices.Values(r.NotChecked)), want) {
		t.Errorf("not checked: %q", r.NotChecked)
	}
	for _, tc := range []struct {
		name      string
		statement []byte
		change    func(*attest.Inputs, *attest.Policy)
		codes     []string
	}{
		{"row 58 wrong nonce", good, func(in *attest.Inputs, _ *attest.Policy) { in.ReportData = dataOf(0x90, 0x08) }, []string{"tpm.nonce", "binding.mismatch"}},
		{"a longer nonce", good, func(in *attest.Inputs, _ *attest.Policy) { in.ReportData = dataOf(0x90, 0x09, 1) }, []string{"tpm.nonce", "binding.mismatch"}},
		{"row 59 no nonce", none, nil, []string{"freshness"}},
		{"row 59 no nonce, unbound", none, func(in *attest.Inputs, _ *attest.Policy) { in.ReportData = nil }, []string{"freshness"}},
		{"no roots", good, func(in *attest.Inputs, _ *attest.Policy) { in.Trust = snapshot(t, nil) }, []string{"chain"}},
		{"the newer root alone", good, func(in *attest.Inputs, _ *attest.Policy) {
			in.Trust = snapshot(t, map[string][]byte{"root": evidence(t, "gcp_ek_ak_ca_root.crt"), "2": evidence(t, "tpm_ek_intermediate_2.crt")})
		}, []string{"chain"}},
		{"the other intermediate", good, func(in *attest.Inputs, _ *attest.Policy) {
			in.Trust = snapshot(t, map[string][]byte{"root": evidence(t, "tpm_ek_root_1.cer"), "3": evidence(t, "tpm_ek_intermediate_3.crt")})
		}, []string{"chain"}},
		{"before the certificate", good, func(in *attest.Inputs, _ *attest.Policy) { in.Now = in.Now.AddDate(-5, 0, 0) }, []string{"cert.time"}},
		{"after the certificate", good, func(in *attest.Inputs, _ *attest.Policy) { in.Now = in.Now.AddDate(30, 0, 0) }, []string{"cert.expired"}},
		{"revocation demanded", good, func(_ *attest.Inputs, p *attest.Policy) { p.Revocation = true }, []string{"crl.missing", "crl.missing"}},
		{"another machine", good, func(_ *attest.Inputs, p *attest.Policy) { p.Machines = attest.SetOf("gce:a/b/1") }, []string{"identity.chip"}},
		{"row 58 another project", good, func(_ *attest.Inputs, p *attest.Policy) { p.TPM.Projects = attest.SetOf("heart") }, []string{"tpm.project"}},
		{"another register", good, func(_ *attest.Inputs, p *attest.Policy) {
			p.TPM.PCRs = map[int]attest.Set{7: attest.SetOf("zero"), 4: {}}
		}, []string{"pcr.unlisted", "pcr.unlisted"}},
		{"no register", good, func(_ *attest.Inputs, p *attest.Policy) { p.TPM.PCRs = nil }, []string{"config.error"}},
		{"a register that is not", good, func(_ *attest.Inputs, p *attest.Policy) { p.TPM.PCRs = map[int]attest.Set{24: attest.AnySet()} }, []string{"config.error", "pcr.unlisted"}},
		{"a value that is none", good, func(_ *attest.Inputs, p *attest.Policy) {
			p.TPM.PCRs = map[int]attest.Set{7: attest.SetOf(strings.ToUpper(cosPCR7))}
		}, []string{"config.error", "pcr.unlisted"}},
		{"other firmware", good, func(_ *attest.Inputs, p *attest.Policy) { p.TPM.Firmware = attest.SetOf("00") }, []string{"tpm.firmware"}},
		{"the zero policy", good, func(_ *attest.Inputs, p *attest.Policy) { p.TPM = &attest.TPMPolicy{} }, []string{"config.error", "config.error", "config.error", "tpm.firmware", "tpm.project"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in, p := in, policyOf(cosPCR7)
			if tc.change != nil {
				tc.change(&in, &p)
			}
			if r := check(tc.statement, in, p); !slices.Equal(codes(r), tc.codes) || r.OK() {
				t.Errorf("%s for %v, want %q", r.Status, r.Reasons, tc.codes)
			}
		})
	}
}

// TestEveryBitOfTheQuote turns every bit that the TPM signed, and every byte of the certificate and of the bank.
func TestEveryBitOfTheQuote(t *testing.T) {
	good := evidence(t, "gce-cos-85-nonce9009.pb")
	in := attest.Inputs{Now: cosDay, ReportData: dataOf(0x90, 0x09), Trust: google(t)}
	var a pb.Attestation
	if err := proto.Unmarshal(good, &a); err != nil {
		t.Fatal(err)
	}
	turn := func(part []byte, mask byte) {
		t.Helper()
		at := bytes.Index(good, part)
		for i := range part {
			b := bytes.Clone(good)
			b[at+i] ^= mask
			if r := check(b, in, policyOf(cosPCR7)); r.OK() {
				t.Fatalf("byte %d turned by %#x: %s", at+i, mask, r.Status)
			}
		}
	}
	for bit := range 8 {
		turn(a.Quotes[1].Quote, 1<<bit)
	}
	turn(a.Quotes[1].RawSig, 1)
	turn(a.AkCert, 1)
	turn(a.Quotes[1].Pcrs.Pcrs[7], 1)
}

// TestSameInParallel: a verdict is a function of its inputs.
func TestSameInParallel(t *testing.T) {
	good := evidence(t, "gce-cos-85-nonce9009.pb")
	in := attest.Inputs{Now: cosDay, ReportData: dataOf(0x90, 0x09), Trust: google(t)}
	var wg sync.WaitGroup
	out := make([]string, 100)
	for i := range out {
		wg.Go(func() {
			b, err := json.Marshal(check(good, in, policyOf(cosPCR7)))
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

// lab is a machine of a Google of its own.
type lab struct {
	google *tpm.Google
	dev    *tpm.TPM
	nonce  []byte
	cert   []byte
	in     attest.Inputs
	pol    attest.Policy
}

var theGoogle = sync.OnceValue(tpm.NewGoogle)

func newLab(t testing.TB, key crypto.Signer) lab {
	l := lab{google: theGoogle(), dev: tpm.New(key), nonce: bytes.Repeat([]byte{7}, 32)}
	l.dev.Boot(true)
	l.cert = l.google.Certify(key.Public(), tpm.Machine(), nil)
	data := [64]byte(append(bytes.Clone(l.nonce), bytes.Repeat([]byte{8}, 32)...)) // of which the TPM holds half
	l.in = attest.Inputs{Now: tpm.From.AddDate(1, 0, 0), ReportData: &data, Trust: snapshot(t, l.google.Files())}
	l.pol = attest.Policy{
		Role: attest.RoleNode, Accept: []attest.Format{attest.FormatVTPM}, Machines: attest.SetOf("gce:heart/europe-west4-a/9223372036854775809"),
		TPM: &attest.TPMPolicy{
			PCRs:     map[int]attest.Set{4: attest.SetOf(attest.HexBytes(l.dev.Values[4][:]).String()), 11: attest.SetOf("zero")},
			EventLog: attest.Required, SecureBoot: attest.Required, Firmware: attest.SetOf("2020031200120003"), Projects: attest.SetOf("heart"),
		},
	}
	return l
}

func marshal(t testing.TB, a *pb.Attestation) []byte {
	t.Helper()
	b, err := proto.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFake(t *testing.T) {
	for name, key := range map[string]crypto.Signer{"RSA": tpm.Key(), "ECDSA": tpm.ECKey()} {
		l := newLab(t, key)
		r := check(marshal(t, l.dev.Attestation(l.nonce, l.cert)), l.in, l.pol)
		if r.Status != attest.Affirming || !r.Claims.HalfBound {
			t.Errorf("%s: %s for %v", name, r.Status, r.Reasons)
		}
	}
	l := newLab(t, tpm.Key())
	l.cert = l.google.Certify(tpm.Key().Public(), tpm.Machine(), func(c *x509.Certificate) { c.NotAfter = tpm.Until.AddDate(1, 0, 0) })
	if r := check(marshal(t, l.dev.Attestation(l.nonce, l.cert)), l.in, l.pol); !r.Claims.NotAfter.Equal(tpm.Until) {
		t.Errorf("a certificate that outlives its issuer's holds until %s", r.Claims.NotAfter)
	}
	l.in.Trust = snapshot(t, map[string][]byte{"root": l.google.Root.Raw, "1": l.google.CRL(true), "2": l.google.CRL(false)})
	l.pol.Revocation = true
	a := l.dev.Attestation(l.nonce, l.cert)
	a.IntermediateCerts = [][]byte{l.google.Intermediate.Raw}
	a.CanonicalEventLog = []byte{1}
	a.InstanceInfo = &pb.GCEInstanceInfo{ProjectId: "somebody else's"}
	if r := check(marshal(t, a), l.in, l.pol); r.Status != attest.Affirming || !slices.Equal(r.NotChecked, []string{"statement.canonical_event_log"}) || len(r.Claims.Dated) != 2 {
		t.Errorf("with lists, and the intermediate in the message: %s for %v, not checked %q", r.Status, r.Reasons, r.NotChecked)
	}
}

func TestRefusals(t *testing.T) {
	stranger := tpm.NewAuthority("Google LLC", "EK/AK CA Root", "EK/AK CA Intermediate")
	other := tpm.NewAuthority("Gogle LLC", "EK/AK CA Root", "EK/AK CA Intermediate")
	mixed := tpm.NewAuthority("Google LLC", "EK/AK CA Root", "Another Intermediate")
	web := tpm.NewAuthority("Google LLC", "Web Root", "EK/AK CA Intermediate")
	key := tpm.Key().Public()
	for _, tc := range []struct {
		name   string
		codes  []string
		change func(*lab, *pb.Attestation)
	}{
		{"row 58 another key", []string{"tpm.sig"}, func(_ *lab, a *pb.Attestation) { q := a.Quotes[1]; q.RawSig = tpm.New(tpm.OtherKey()).Sign(q.Quote) }},
		{"row 58 another key in the message", []string{"tpm.ak"}, func(_ *lab, a *pb.Attestation) { a.AkPub = tpm.Public(tpm.OtherKey().Public(), 0x50472) }},
		{"row 58 another machine's certificate", []string{"tpm.ak"}, func(l *lab, a *pb.Attestation) {
			a.AkCert = l.google.Certify(tpm.OtherKey().Public(), tpm.Machine(), nil)
		}},
		{"row 58 another project's certificate", []string{"identity.chip", "tpm.project"}, func(l *lab, a *pb.Attestation) {
			m := tpm.Machine()
			m.Project = "lungs"
			a.AkCert = l.google.Certify(key, m, nil)
		}},
		{"row 58 log cut", []string{"tpm.event_log"}, func(_ *lab, a *pb.Attestation) { a.EventLog = a.EventLog[:len(a.EventLog)-62] }},
		{"row 58 log of another start", []string{"tpm.event_log"}, func(_ *lab, a *pb.Attestation) { d := tpm.New(tpm.Key()); d.Boot(false); a.EventLog = d.Log }},
		{"no log", []string{"tpm.event_log", "config.secureboot"}, func(_ *lab, a *pb.Attestation) { a.EventLog = nil }},
		{"secure boot off", []string{"pcr.unlisted", "config.secureboot"}, func(l *lab, a *pb.Attestation) {
			d := tpm.New(tpm.Key())
			d.Boot(false)
			l.pol.TPM.PCRs[7] = attest.SetOf(attest.HexBytes(l.dev.Values[7][:]).String())
			proto.Reset(a)
			proto.Merge(a, d.Attestation(l.nonce, l.cert))
		}},
		{"an unrestricted key", []string{"tpm.ak"}, func(_ *lab, a *pb.Attestation) { a.AkPub = tpm.Public(key, 0x40472) }},
		{"a public area that is none", []string{"tpm.ak"}, func(_ *lab, a *pb.Attestation) { a.AkPub = a.AkPub[:20] }},
		{"no certificate", []string{"tpm.ak"}, func(_ *lab, a *pb.Attestation) { a.AkCert = nil }},
		{"a certificate that is none", []string{"tpm.ak"}, func(_ *lab, a *pb.Attestation) { a.AkCert = a.AkCert[1:] }},
		{"an authority's certificate", []string{"tpm.ak"}, func(l *lab, a *pb.Attestation) {
			a.AkCert = l.google.Certify(key, tpm.Machine(), func(c *x509.Certificate) { c.IsCA = true })
		}},
		{"a key that encrypts", []string{"tpm.ak"}, func(l *lab, a *pb.Attestation) {
			a.AkCert = l.google.Certify(key, tpm.Machine(), func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment })
		}},
		{"a web server's key", []string{"tpm.ak"}, func(l *lab, a *pb.Attestation) {
			a.AkCert = l.google.Certify(key, tpm.Machine(), func(c *x509.Certificate) {
				c.UnknownExtKeyUsage, c.ExtKeyUsage = nil, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
			})
		}},
		{"no machine in the certificate", []string{"tpm.ak", "identity.chip"}, func(l *lab, a *pb.Attestation) {
			a.AkCert = l.google.Certify(key, tpm.Machine(), func(c *x509.Certificate) { c.ExtraExtensions = c.ExtraExtensions[1:] })
		}},
		{"a machine under development", []string{"tpm.ak", "identity.chip"}, func(l *lab, a *pb.Attestation) {
			m := tpm.Machine()
			m.Production = false
			a.AkCert = l.google.Certify(key, m, nil)
		}},
		{"an unknown critical extension", []string{"chain"}, func(l *lab, a *pb.Attestation) {
			a.AkCert = l.google.Certify(key, tpm.Machine(), func(c *x509.Certificate) {
				e := c.ExtraExtensions[0]
				e.Id, e.Critical = []int{1, 2, 3}, true
				c.ExtraExtensions = append(c.ExtraExtensions, e)
			})
		}},
		{"expired", []string{"cert.expired"}, func(l *lab, _ *pb.Attestation) { l.in.Now = tpm.Until.Add(time.Second) }},
		{"not valid yet", []string{"cert.time"}, func(l *lab, _ *pb.Attestation) { l.in.Now = tpm.From.Add(-time.Second) }},
		{"an authority of Google's names", []string{"chain"}, func(_ *lab, a *pb.Attestation) {
			a.AkCert = stranger.Certify(key, tpm.Machine(), nil)
			a.IntermediateCerts = [][]byte{stranger.Intermediate.Raw, stranger.Root.Raw}
		}},
		{"another authority, trusted for something else", []string{"chain"}, func(l *lab, a *pb.Attestation) {
			a.AkCert = other.Certify(key, tpm.Machine(), nil)
			l.in.Trust = snapshot(t, other.Files())
		}},
		{"another intermediate of Google's", []string{"chain"}, func(l *lab, a *pb.Attestation) {
			a.AkCert = mixed.Certify(key, tpm.Machine(), nil)
			a.IntermediateCerts = [][]byte{mixed.Intermediate.Raw}
			l.in.Trust = snapshot(t, mixed.Files())
		}},
		{"another root of Google's", []string{"chain"}, func(l *lab, a *pb.Attestation) {
			a.AkCert = web.Certify(key, tpm.Machine(), nil)
			l.in.Trust = snapshot(t, web.Files())
		}},
		{"by the root itself", []string{"chain"}, func(l *lab, a *pb.Attestation) { a.AkCert = l.google.Flat().Certify(key, tpm.Machine(), nil) }},
		{"more than a machine in the certificate", []string{"tpm.ak", "identity.chip"}, func(l *lab, a *pb.Attestation) {
			a.AkCert = l.google.Certify(key, tpm.Machine(), func(c *x509.Certificate) { c.ExtraExtensions[0].Value = append(c.ExtraExtensions[0].Value, 0) })
		}},
		{"an intermediate that is none", []string{"chain"}, func(_ *lab, a *pb.Attestation) { a.IntermediateCerts = [][]byte{{1}} }},
		{"many intermediates", []string{"parse.bounds"}, func(_ *lab, a *pb.Attestation) { a.IntermediateCerts = make([][]byte, 5) }},
		{"a revoked key", []string{"revoked"}, func(l *lab, _ *pb.Attestation) { l.trust(t, l.google.CRL(false, 3)) }},
		{"a revoked intermediate", []string{"revoked"}, func(l *lab, _ *pb.Attestation) { l.trust(t, l.google.CRL(true, 2)) }},
		{"a stale list", []string{"crl.stale"}, func(l *lab, _ *pb.Attestation) { l.trust(t, l.google.CRL(false)); l.pol.EndorsementAge = time.Hour }},
		{"the SHA-1 bank alone", []string{"tpm.missing"}, func(_ *lab, a *pb.Attestation) { a.Quotes = a.Quotes[:1] }},
		{"the SHA-1 bank called SHA-256", []string{"tpm.pcrs"}, func(l *lab, a *pb.Attestation) {
			q := l.dev.Quote(l.nonce)
			q.Banks[0].Hash = 4
			b := q.Encode()
			a.Quotes[1].Quote, a.Quotes[1].RawSig = b, l.dev.Sign(b)
		}},
		{"two quotes", []string{"parse.encoding"}, func(_ *lab, a *pb.Attestation) { a.Quotes = append(a.Quotes, a.Quotes[1]) }},
		{"a bank with a register more", []string{"parse.encoding"}, func(_ *lab, a *pb.Attestation) { a.Quotes[1].Pcrs.Pcrs[24] = make([]byte, 32) }},
		{"a bank with a register less", []string{"tpm.pcrs"}, func(_ *lab, a *pb.Attestation) { delete(a.Quotes[1].Pcrs.Pcrs, 23) }},
		{"another bank", []string{"tpm.pcrs"}, func(_ *lab, a *pb.Attestation) { a.Quotes[1].Pcrs.Pcrs[23] = bytes.Repeat([]byte{1}, 32) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLab(t, tpm.Key())
			a := l.dev.Attestation(l.nonce, l.cert)
			tc.change(&l, a)
			got := codes(check(marshal(t, a), l.in, l.pol))
			for _, want := range tc.codes {
				if !slices.Contains(got, want) {
					t.Errorf("refused for %q, want %q", got, tc.codes)
				}
			}
			if len(got) == 0 || got[0] != tc.codes[0] {
				t.Errorf("refused for %q, want %q first", got, tc.codes[0])
			}
		})
	}
}

// trust adds a revocation list.
func (l *lab) trust(t *testing.T, list []byte) {
	files := l.google.Files()
	files["list.crl"] = list
	l.in.Trust = snapshot(t, files)
}

func TestMessage(t *testing.T) {
	l := newLab(t, tpm.Key())
	good := marshal(t, l.dev.Attestation(l.nonce, l.cert))
	for name, b := range map[string][]byte{
		"nothing":                nil,
		"cut":                    good[:len(good)-1],
		"a tail":                 append(bytes.Clone(good), 0),
		"an unknown field":       append(bytes.Clone(good), 0x52, 0),
		"a number for bytes":     append(bytes.Clone(good), 0x38, 0),
		"a fixed number":         append(bytes.Clone(good), 0x39, 0, 0, 0, 0, 0, 0, 0, 0),
		"a group":                append(bytes.Clone(good), 0x3b, 0x3c),
		"a certificate again":    append(bytes.Clone(good), 0x32, 0),
		"a quote that is none":   append(bytes.Clone(good), 0x12, 1, 0xff),
		"a quote of a number":    append(bytes.Clone(good), 0x12, 2, 0x08, 1),
		"a bank that is none":    append(bytes.Clone(good), 0x12, 3, 0x1a, 1, 0xff),
		"an entry that is none":  append(bytes.Clone(good), 0x12, 5, 0x1a, 3, 0x12, 1, 0xff),
		"an index out of bounds": append(bytes.Clone(good), 0x12, 9, 0x1a, 7, 0x12, 5, 0x08, 0xff, 0xff, 0xff, 0x7f),
		"text":                   []byte("consilium"),
	} {
		if r := check(b, l.in, l.pol); r.OK() || len(r.Reasons) == 0 {
			t.Errorf("%s: %s", name, r.Status)
		}
	}
}

func FuzzMessage(f *testing.F) {
	l := newLab(f, tpm.Key())
	f.Add(marshal(f, l.dev.Attestation(l.nonce, l.cert)))
	f.Add(marshal(f, &pb.Attestation{Quotes: []*tpmpb.Quote{{Pcrs: &tpmpb.PCRs{Hash: tpmpb.HashAlgo_SHA256, Pcrs: map[uint32][]byte{0: {}}}}}}))
	l.in.Trust = snapshot(f, nil) // nobody is trusted
	f.Fuzz(func(t *testing.T, b []byte) {
		r := check(b, l.in, l.pol)
		if r.OK() || slices.Contains(codes(r), attest.CodeVerifierPanic) {
			t.Fatalf("%s for %v", r.Status, r.Reasons)
		}
		m, err := parseMessage(b)
		var a pb.Attestation
		if err == nil && proto.Unmarshal(read(t, b), &a) != nil {
			t.Fatalf("taken here and not by the library: %+v", m)
		}
	})
}

// read is a message without the parts that nobody reads here, and whose inside is therefore not looked at: the unsigned
// name of the machine, and what of another TEE came along.
func read(t *testing.T, b []byte) []byte {
	t.Helper()
	fs, err := fields(b)
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for _, f := range fs {
		if f.number != 4 && f.number != 8 && f.number != 9 {
			out = protowire.AppendBytes(protowire.AppendTag(out, protowire.Number(f.number), protowire.BytesType), f.bytes)
		}
	}
	return out
}

func BenchmarkCheck(b *testing.B) {
	good := evidence(b, "gce-cos-85-nonce9009.pb")
	in := attest.Inputs{Now: cosDay, ReportData: dataOf(0x90, 0x09), Trust: google(b)}
	p := policyOf(cosPCR7)
	b.ReportAllocs()
	for b.Loop() {
		if !check(good, in, p).OK() {
			b.Fatal("refused")
		}
	}
}

// BenchmarkLibrary is the same by go-tpm-tools, which judges no machine and reads the wall clock.
func BenchmarkLibrary(b *testing.B) {
	good := evidence(b, "gce-cos-85-nonce9009.pb")
	var opts server.VerifyOpts
	for name, to := range map[string]*[]*x509.Certificate{"tpm_ek_root_1.cer": &opts.TrustedRootCerts, "tpm_ek_intermediate_2.crt": &opts.IntermediateCerts} {
		s := snapshot(b, map[string][]byte{"c": evidence(b, name)})
		*to = s.Index().Certificates
	}
	opts.Nonce = []byte{0x90, 0x09}
	b.ReportAllocs()
	for b.Loop() {
		var a pb.Attestation
		if err := proto.Unmarshal(good, &a); err != nil {
			b.Fatal(err)
		}
		if _, err := server.VerifyAttestation(&a, opts); err != nil {
			b.Fatal(err)
		}
	}
}
