package attest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/internal/signed"
)

func measured(n byte) Measurement { return SHA256Measurement(fill(n)) }

func fill(n byte) (d [32]byte) {
	for i := range d {
		d[i] = n
	}
	return d
}

func binding() Binding {
	return Binding{
		Role: RoleNode, Nonce: fill(1), Exporter: fill(2), OwnKey: fill(3), PeerKey: fill(4),
		Study: fill(5), KeyList: fill(6), Config: fill(7),
	}
}

// vary returns a binding for every field, with only that field changed by set.
func vary(set func(field reflect.Value)) map[string]Binding {
	out := map[string]Binding{}
	for i := range reflect.TypeFor[Binding]().NumField() {
		b := binding()
		set(reflect.ValueOf(&b).Elem().Field(i))
		out[reflect.TypeFor[Binding]().Field(i).Name] = b
	}
	return out
}

// TestReportDataVector fixes the bytes: evidence outlives the code that made it.
func TestReportDataVector(t *testing.T) {
	enc := "a801646e6f6465"
	for i := byte(1); i <= 7; i++ {
		enc += fmt.Sprintf("%02x5820%s", i+1, strings.Repeat(fmt.Sprintf("%02x", i), 32))
	}
	raw, err := hex.DecodeString(enc)
	if err != nil {
		t.Fatal(err)
	}
	leaf := sha256.Sum256(append([]byte{0}, raw...))
	want := sha512.Sum512(append([]byte("consilium/binding/v1"), leaf[:]...))
	if got, err := binding().ReportData(nil); err != nil || got != want {
		t.Errorf("got %x, %v; want %x", got, err, want)
	}
	sibling := fill(0xee)
	pair := append(append([]byte{1}, leaf[:]...), sibling[:]...)
	if bytes.Compare(leaf[:], sibling[:]) > 0 {
		pair = append(append([]byte{1}, sibling[:]...), leaf[:]...)
	}
	root := sha256.Sum256(pair)
	want = sha512.Sum512(append([]byte("consilium/binding/v1"), root[:]...))
	if got, err := binding().ReportData([][32]byte{sibling}); err != nil || got != want {
		t.Errorf("with a path: got %x, %v; want %x", got, err, want)
	}
}

func TestEveryFieldOfABindingCounts(t *testing.T) {
	base, err := binding().ReportData(nil)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[[64]byte]string{base: "the base"}
	for name, b := range vary(func(f reflect.Value) {
		if f.Kind() == reflect.String {
			f.SetString(string(RoleCoordinator))
			return
		}
		f.Index(31).SetUint(0xaa)
	}) {
		got, err := b.ReportData(nil)
		if err != nil {
			t.Fatal(err)
		}
		if seen[got] != "" {
			t.Errorf("%s: the report data of %s", name, seen[got])
		}
		seen[got] = name
	}
	for name, b := range vary(func(f reflect.Value) { f.SetZero() }) {
		if _, err := b.ReportData(nil); err == nil {
			t.Errorf("%s zero: no error", name)
		}
		if _, _, err := Merkle([]Binding{binding(), b}); err == nil {
			t.Errorf("%s zero: no error in a tree", name)
		}
	}
	b := binding()
	b.Role = RolePerson
	if _, err := b.ReportData(nil); err == nil {
		t.Error("a person attested")
	}
	b = binding()
	b.OwnKey, b.PeerKey = b.PeerKey, b.OwnKey
	if got, _ := b.ReportData(nil); got == base {
		t.Error("the keys can be swapped")
	}
}

func TestMerkle(t *testing.T) {
	for n := 1; n <= 33; n++ {
		bs := make([]Binding, n)
		for i := range bs {
			bs[i] = binding()
			bs[i].Nonce = fill(byte(i + 1))
		}
		root, paths, err := Merkle(bs)
		if err != nil {
			t.Fatal(err)
		}
		want := reportData(root)
		for i, b := range bs {
			if got, err := b.ReportData(paths[i]); err != nil || got != want {
				t.Fatalf("binding %d of %d does not lead to the root: %v", i, n, err)
			}
			b.Nonce = fill(0xff)
			if got, _ := b.ReportData(paths[i]); got == want {
				t.Fatalf("another binding leads to the root by path %d of %d", i, n)
			}
			if j := (i + 1) % n; j != i {
				if got, _ := bs[i].ReportData(append(slices.Clone(paths[j]), fill(9))); got == want {
					t.Fatal("a longer path of another leads to the root")
				}
			}
		}
	}
	if _, _, err := Merkle(nil); err == nil {
		t.Error("a tree over nothing")
	}
	if _, _, err := Merkle(make([]Binding, 1<<maxPath+1)); err == nil {
		t.Error("a tree over too many")
	}
	if _, err := binding().ReportData(make([][32]byte, maxPath+1)); err == nil {
		t.Error("a path that is too long")
	}
}

// fake is a verifier that finds what it is told to find.
type fake struct {
	format Format
	verify func(Evidence, Inputs) (Unappraised, error)
}

func (f fake) Format() Format                                    { return f.format }
func (f fake) Verify(e Evidence, in Inputs) (Unappraised, error) { return f.verify(e, in) }

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func goodClaims(t testing.TB) Claims {
	t.Helper()
	data, err := binding().ReportData(nil)
	if err != nil {
		t.Fatal(err)
	}
	return Claims{Format: "hw/1", Measurement: measured(8), Machine: "chip:a", NotAfter: now.Add(30 * time.Minute), ReportData: data}
}

func goodPolicy() Policy {
	return Policy{Role: RoleNode, Accept: []Format{"hw/1"}, Measurements: SetOf(measured(8)), Machines: SetOf("chip:a")}
}

func goodInputs(t testing.TB) Inputs {
	t.Helper()
	data := goodClaims(t).ReportData
	trust, err := endorse.New(map[string][]byte{"a": {1}})
	if err != nil {
		t.Fatal(err)
	}
	return Inputs{Now: now, ReportData: &data, Trust: trust}
}

func finding(c Claims) Verifiers {
	return NewVerifiers(fake{"hw/1", func(Evidence, Inputs) (Unappraised, error) { return Unappraise(c), nil }})
}

var evidence = Evidence{Format: "hw/1", Statement: []byte{1}}

func codesOf(rs []Reason) []string {
	out := []string{}
	for _, r := range rs {
		out = append(out, r.Code)
	}
	return out
}

func TestCheck(t *testing.T) {
	r := finding(goodClaims(t)).Check(evidence, goodInputs(t), goodPolicy())
	if r.Status != Affirming || !r.OK() || len(r.Reasons) != 0 || len(r.NotChecked) != 0 {
		t.Fatalf("%+v", r)
	}
	if !r.Until.Equal(now.Add(30 * time.Minute)) {
		t.Errorf("until %s, want the end of the certificate", r.Until)
	}
	p := goodPolicy()
	p.MaxAge = time.Minute
	if r := finding(goodClaims(t)).Check(evidence, goodInputs(t), p); !r.Until.Equal(now.Add(time.Minute)) {
		t.Errorf("until %s, want the policy's minute", r.Until)
	}
	p.MaxAge = 100 * time.Hour
	c := goodClaims(t)
	c.NotAfter = now.Add(1000 * time.Hour)
	if r := finding(c).Check(evidence, goodInputs(t), p); !r.Until.Equal(now.Add(MaxAge)) {
		t.Errorf("until %s, want an hour at most", r.Until)
	}
}

func TestEveryReason(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*Evidence, *Claims, *Inputs, *Policy)
		codes  []string
	}{
		{"no time", func(_ *Evidence, _ *Claims, in *Inputs, _ *Policy) { in.Now = time.Time{} }, []string{CodeConfig}},
		{"no trust", func(_ *Evidence, _ *Claims, in *Inputs, _ *Policy) { in.Trust = nil }, []string{CodeConfig}},
		{"neither", func(_ *Evidence, _ *Claims, in *Inputs, _ *Policy) { in.Now, in.Trust = time.Time{}, nil }, []string{CodeConfig, CodeConfig}},
		{"a zero binding wanted", func(_ *Evidence, c *Claims, in *Inputs, _ *Policy) {
			*in.ReportData, c.ReportData = [64]byte{}, [64]byte{}
		}, []string{CodeBindingTrivial}},
		{"a hash of nothing wanted", func(_ *Evidence, c *Claims, in *Inputs, _ *Policy) {
			*in.ReportData, c.ReportData = sha512.Sum512(nil), sha512.Sum512(nil)
		}, []string{CodeBindingTrivial}},
		{"much evidence", func(e *Evidence, _ *Claims, _ *Inputs, _ *Policy) {
			e.Endorsements = map[string][]byte{"log": make([]byte, MaxEvidence)}
		}, []string{CodeParseLength}},
		{"a long path", func(e *Evidence, _ *Claims, _ *Inputs, _ *Policy) { e.Path = make([][32]byte, maxPath+1) }, []string{CodeParseLength}},
		{"no verifier", func(e *Evidence, _ *Claims, _ *Inputs, p *Policy) { e.Format, p.Accept = "snp/1", []Format{"snp/1"} }, []string{CodeFormatUnlisted}},
		{"a format not taken", func(_ *Evidence, _ *Claims, _ *Inputs, p *Policy) { p.Accept = []Format{"snp/1"} }, []string{CodeFormatUnlisted}},
		{"the zero policy", func(_ *Evidence, _ *Claims, _ *Inputs, p *Policy) { *p = Policy{} }, []string{CodeFormatUnlisted, CodeConfig}},
		{"a policy for people", func(_ *Evidence, _ *Claims, _ *Inputs, p *Policy) { p.Role = RolePerson }, []string{CodeConfig}},
		{"a negative age", func(_ *Evidence, _ *Claims, _ *Inputs, p *Policy) { p.MaxAge = -1 }, []string{CodeConfig}},
		{"no measurement taken", func(_ *Evidence, _ *Claims, _ *Inputs, p *Policy) { p.Measurements = Set{} }, []string{CodeMeasurementUnlisted}},
		{"measurement", func(_ *Evidence, c *Claims, _ *Inputs, _ *Policy) { c.Measurement = measured(9) }, []string{CodeMeasurementUnlisted}},
		{"machine", func(_ *Evidence, c *Claims, _ *Inputs, _ *Policy) { c.Machine = "chip:b" }, []string{CodeMachineUnlisted}},
		{"a machine without a name", func(_ *Evidence, c *Claims, _ *Inputs, _ *Policy) { c.Machine = "" }, []string{CodeMachineUnlisted}},
		{"debug", func(_ *Evidence, c *Claims, _ *Inputs, _ *Policy) { c.Debug = true }, []string{CodeDebug}},
		{"simulated", func(_ *Evidence, c *Claims, _ *Inputs, _ *Policy) { c.Simulated = true }, []string{CodeSimDenied}},
		{"simulated, and the policy alone allows", func(_ *Evidence, c *Claims, _ *Inputs, p *Policy) { c.Simulated, p.AllowSimulated = true, true }, []string{CodeSimDenied}},
		{"simulated, and the process alone allows", func(_ *Evidence, c *Claims, _ *Inputs, p *Policy) { c.Simulated, p.Simulation = true, true }, []string{CodeSimDenied}},
		{"expired", func(_ *Evidence, c *Claims, _ *Inputs, _ *Policy) { c.NotAfter = now }, []string{CodeCertExpired}},
		{"no end", func(_ *Evidence, c *Claims, _ *Inputs, _ *Policy) { c.NotAfter = time.Time{} }, []string{CodeCertExpired}},
		{"another binding", func(_ *Evidence, c *Claims, _ *Inputs, _ *Policy) { c.ReportData[63]++ }, []string{CodeBindingMismatch}},
		{"claims of another format", func(_ *Evidence, c *Claims, _ *Inputs, p *Policy) {
			c.Format, p.Accept = "snp/1", []Format{"hw/1", "snp/1"}
		}, []string{CodeVerifierError, CodeVerifierError}},
		{"everything", func(_ *Evidence, c *Claims, _ *Inputs, _ *Policy) {
			*c = Claims{Format: "hw/1", Debug: true, Simulated: true}
		}, []string{CodeDebug, CodeSimDenied, CodeMeasurementUnlisted, CodeMachineUnlisted, CodeCertExpired, CodeBindingTrivial, CodeBindingMismatch}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e, c, in, p := evidence, goodClaims(t), goodInputs(t), goodPolicy()
			tc.change(&e, &c, &in, &p)
			r := finding(c).Check(e, in, p)
			if got := codesOf(r.Reasons); !slices.Equal(got, tc.codes) {
				t.Errorf("refused for %q, want %q", got, tc.codes)
			}
			if r.Status != Contraindicated || r.OK() || !r.Until.IsZero() {
				t.Errorf("%q until %s: a refusal lasts no time", r.Status, r.Until)
			}
		})
	}
}

func TestSimulatedIsAWarning(t *testing.T) {
	c, p := goodClaims(t), goodPolicy()
	c.Simulated, p.AllowSimulated, p.Simulation = true, true, true
	if r := finding(c).Check(evidence, goodInputs(t), p); r.Status != Warning || !r.OK() {
		t.Errorf("%q", r.Status)
	}
	if r := Appraise(c, p); r.Status != Warning {
		t.Errorf("appraised as %q", r.Status)
	}
}

func TestUncheckedBindingIsNeverOK(t *testing.T) {
	in := goodInputs(t)
	in.ReportData = nil
	r := finding(goodClaims(t)).Check(evidence, in, goodPolicy())
	if r.Status == Affirming || r.OK() || !slices.Equal(r.NotChecked, []string{NotCheckedBinding}) {
		t.Errorf("%q, OK %t, not checked %q", r.Status, r.OK(), r.NotChecked)
	}
}

func TestUnknownMachinesAreSaid(t *testing.T) {
	p := goodPolicy()
	p.Machines = AnySet()
	if r := finding(goodClaims(t)).Check(evidence, goodInputs(t), p); !r.OK() || !slices.Equal(r.NotChecked, []string{NotCheckedMachine}) {
		t.Errorf("%q, not checked %q", r.Status, r.NotChecked)
	}
}

func TestVerifierFailures(t *testing.T) {
	for name, tc := range map[string]struct {
		verify func(Evidence, Inputs) (Unappraised, error)
		codes  []string
	}{
		"a panic": {func(Evidence, Inputs) (Unappraised, error) { panic("foreign bytes") }, []string{CodeVerifierPanic}},
		"out of range": {func(e Evidence, _ Inputs) (Unappraised, error) {
			_ = e.Statement[len(e.Statement)]
			return Unappraised{}, nil
		}, []string{CodeVerifierPanic}},
		"a bare error": {func(Evidence, Inputs) (Unappraised, error) { return Unappraised{}, errors.New("no") }, []string{CodeVerifierError}},
		"a reason":     {func(Evidence, Inputs) (Unappraised, error) { return Unappraised{}, Reason{Code: "sig.invalid"} }, []string{"sig.invalid"}},
		"reasons": {func(Evidence, Inputs) (Unappraised, error) {
			return Unappraised{}, fmt.Errorf("verifying: %w", errors.Join(Reason{Code: "a"}, Reason{Code: "b"}))
		}, []string{"a", "b"}},
		"claims beside an error": {func(Evidence, Inputs) (Unappraised, error) { return Unappraise(goodClaims(t)), Reason{Code: "chain"} }, []string{"chain"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := NewVerifiers(fake{"hw/1", tc.verify}).Check(evidence, goodInputs(t), goodPolicy())
			if got := codesOf(r.Reasons); !slices.Equal(got, tc.codes) || r.OK() {
				t.Errorf("refused for %q, want %q", got, tc.codes)
			}
			if !reflect.DeepEqual(r.Claims, Claims{Format: "hw/1"}) {
				t.Errorf("claims %+v of evidence that did not verify", r.Claims)
			}
		})
	}
	for _, r := range NewVerifiers(fake{"hw/1", func(Evidence, Inputs) (Unappraised, error) { panic("patient 17") }}).Check(evidence, goodInputs(t), goodPolicy()).Reasons {
		if strings.Contains(r.Error(), "17") {
			t.Errorf("%v quotes what the parser saw", r)
		}
	}
}

// TestVerifierCannotMoveTheGoal: what it writes through the pointer it was given changes nothing.
func TestVerifierCannotMoveTheGoal(t *testing.T) {
	in := goodInputs(t)
	want := *in.ReportData
	c := goodClaims(t)
	c.ReportData = [64]byte{1}
	r := NewVerifiers(fake{"hw/1", func(_ Evidence, in Inputs) (Unappraised, error) {
		*in.ReportData = c.ReportData
		return Unappraise(c), nil
	}}).Check(evidence, in, goodPolicy())
	if r.OK() || *in.ReportData != want {
		t.Errorf("%q for %v", r.Status, r.Reasons)
	}
}

// TestCheckIsAFunction: the same in, the same out, also at once.
func TestCheckIsAFunction(t *testing.T) {
	c := goodClaims(t)
	c.Debug, c.Machine = true, "chip:z"
	vs, in, p := finding(c), goodInputs(t), goodPolicy()
	want := vs.Check(evidence, in, p)
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if got := vs.Check(evidence, in, p); !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
	wg.Wait()
}

func TestTwoVerifiersOfOneFormat(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("both were taken")
		}
	}()
	NewVerifiers(fake{format: "hw/1"}, fake{format: "hw/1"})
}

func TestNarrow(t *testing.T) {
	p := Policy{
		Role: RoleNode, Accept: []Format{"hw/1", "sim/1"}, AllowSimulated: true, Simulation: true,
		Measurements: SetOf(measured(1), measured(2)), Machines: SetOf("chip:a", "chip:b"), MaxAge: 30 * time.Minute,
	}
	q := Policy{Accept: []Format{"hw/1"}, Measurements: SetOf(measured(2)), Machines: SetOf("chip:b"), MaxAge: time.Minute}
	got, err := p.Narrow(q)
	want := Policy{Role: RoleNode, Accept: q.Accept, Simulation: true, Measurements: q.Measurements, Machines: q.Machines, MaxAge: time.Minute}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	if got, err := p.Narrow(Policy{AllowSimulated: true}); err != nil || !reflect.DeepEqual(got, p) {
		t.Errorf("by nothing: got %+v, %v; want %+v", got, err, p)
	}
	anywhere := p
	anywhere.Machines = AnySet()
	if got, err := anywhere.Narrow(Policy{Machines: SetOf("chip:z")}); err != nil || !slices.Equal(got.Machines.Of, []string{"chip:z"}) {
		t.Errorf("machines where any was taken: %q, %v", got.Machines, err)
	}
	plain := Policy{Role: RoleNode}
	for field, pair := range map[string][2]Policy{
		"role":            {p, {Role: RoleCoordinator}},
		"accept":          {p, {Accept: []Format{"hw/1", "tdx/1"}}},
		"allow_simulated": {plain, {AllowSimulated: true}},
		"simulation":      {plain, {Simulation: true}},
		"measurements":    {p, {Measurements: SetOf(measured(3))}},
		"machines":        {p, {Machines: SetOf("chip:c")}},
		"max_age":         {p, {MaxAge: time.Hour}},
	} {
		got, err := pair[0].Narrow(pair[1])
		if err == nil || !strings.Contains(err.Error(), "narrowing policy: "+field+":") || !reflect.DeepEqual(got, Policy{}) {
			t.Errorf("%s: got %+v, %v", field, got, err)
		}
	}
	if _, err := plain.Narrow(Policy{MaxAge: 2 * time.Hour}); err == nil {
		t.Error("two hours where one is the most")
	}
}

// TestNarrowNeverWidens: whatever the narrowed policy takes, the wider one takes too.
func TestNarrowNeverWidens(t *testing.T) {
	formats := [][]Format{nil, {"hw/1"}, {"sim/1"}, {"hw/1", "sim/1"}}
	machines := []Set{{}, AnySet(), SetOf("chip:a"), SetOf("chip:a", "chip:b")}
	var ps []Policy
	for _, f := range formats {
		for _, m := range machines {
			for _, sim := range []bool{false, true} {
				ps = append(ps, Policy{Role: RoleNode, Accept: f, Machines: m, AllowSimulated: sim, Simulation: true, Measurements: SetOf(measured(8))})
			}
		}
	}
	for _, p := range ps {
		for _, q := range ps {
			n, err := p.Narrow(q)
			if err != nil {
				continue
			}
			for _, c := range []Claims{
				{Format: "hw/1", Machine: "chip:a"}, {Format: "hw/1", Machine: "chip:b"}, {Format: "hw/1", Machine: "chip:c"}, {Format: "sim/1", Machine: "chip:a", Simulated: true},
			} {
				c.Measurement = measured(8)
				if Appraise(c, n).OK() && !Appraise(c, p).OK() {
					t.Fatalf("%+v takes %+v, which %+v does not", n, c, p)
				}
			}
		}
	}
}

func TestPolicyDigest(t *testing.T) {
	base := goodPolicy()
	base.Accept = []Format{"hw/1", "sim/1"}
	same := base
	same.Accept, same.MaxAge, same.Simulation = []Format{"sim/1", "hw/1", "hw/1"}, time.Hour, true
	if same.Digest() != base.Digest() {
		t.Error("order, repeats, the default age or the process count")
	}
	for name, change := range map[string]func(*Policy){
		"role": func(p *Policy) { p.Role = RoleCoordinator }, "accept": func(p *Policy) { p.Accept = p.Accept[:1] },
		"simulated": func(p *Policy) { p.AllowSimulated = true }, "measurements": func(p *Policy) { p.Measurements = Set{} },
		"machines": func(p *Policy) { p.Machines = SetOf("chip:b") }, "age": func(p *Policy) { p.MaxAge = time.Minute },
	} {
		p := base
		change(&p)
		if p.Digest() == base.Digest() {
			t.Errorf("%s does not count", name)
		}
	}
}

func TestPosture(t *testing.T) {
	p := Posture{Consortium: fill(1), Policy: fill(2), Insecure: []string{"simulated_tee"}, TEE: "sim"}
	want := PostureExpect{Consortium: fill(1), Policy: fill(2), Insecure: []string{"simulated_tee", "other"}, TEE: []string{"sim", "snp"}}
	if rs := CheckPosture(p, want); len(rs) != 0 {
		t.Errorf("refused for %v", rs)
	}
	unpinned := want
	unpinned.Policy = [32]byte{}
	if rs := CheckPosture(p, unpinned); len(rs) != 0 {
		t.Errorf("a policy that nobody pinned: %v", rs)
	}
	if got, want := codesOf(CheckPosture(p, PostureExpect{})), []string{CodePostureConsortium, CodePostureInsecure, CodePostureTEE}; !slices.Equal(got, want) {
		t.Errorf("by no expectation refused for %q, want %q", got, want)
	}
	if got := codesOf(CheckPosture(Posture{}, PostureExpect{TEE: []string{""}})); !slices.Equal(got, []string{CodePostureConsortium}) {
		t.Errorf("two zeroes agree: %q", got)
	}
	enc, err := Posture{Consortium: fill(1), Policy: fill(2), Insecure: []string{"b", "a", "b"}, TEE: "sim"}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParsePosture(enc)
	if err != nil || !slices.Equal(got.Insecure, []string{"a", "b"}) {
		t.Errorf("%+v, %v", got, err)
	}
	unsorted, err := signed.Encode(Posture{Insecure: []string{"b", "a"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"unsorted": unsorted, "nothing": nil, "trailing": append(enc, 0), "long": make([]byte, maxPosture+1)} {
		if _, err := ParsePosture(b); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func record(t testing.TB) Record {
	t.Helper()
	posture, err := Posture{Consortium: fill(1), TEE: "hw"}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	r := Record{Evidence: evidence, Binding: binding(), Keys: [][]byte{{1}, {2}}, Posture: posture, LogSignature: []byte{}}
	r.Evidence.Endorsements = map[string][]byte{"vcek": {1}, "ask": {2}}
	r.Evidence.Path = [][32]byte{fill(1)}
	r.Binding.KeyList, r.Binding.Config = KeyListDigest(r.Keys), sha256.Sum256(posture)
	return r
}

func recheck(t testing.TB, r Record) Result {
	t.Helper()
	vs := NewVerifiers(fake{"hw/1", func(e Evidence, _ Inputs) (Unappraised, error) {
		c := goodClaims(t)
		var err error
		c.ReportData, err = record(t).Binding.ReportData(e.Path)
		return Unappraise(c), err
	}})
	return vs.Recheck(r, now, goodInputs(t).Trust, PostureExpect{Consortium: fill(1), TEE: []string{"hw"}}, goodPolicy())
}

func TestRecheck(t *testing.T) {
	enc, err := record(t).Encode()
	if err != nil {
		t.Fatal(err)
	}
	r, err := ParseRecord(enc)
	if err != nil || !reflect.DeepEqual(r, record(t)) {
		t.Fatalf("read %+v, %v", r, err)
	}
	if got := recheck(t, r); !got.OK() {
		t.Fatalf("refused for %v", got.Reasons)
	}
	for name, tc := range map[string]struct {
		change func(*Record)
		codes  []string
	}{
		"a key swapped":     {func(r *Record) { r.Keys = [][]byte{{2}, {1}} }, []string{CodeBindingKeyList}},
		"keys run together": {func(r *Record) { r.Keys = [][]byte{{1, 2}} }, []string{CodeBindingKeyList}},
		"another posture": {func(r *Record) {
			r.Posture, _ = Posture{Consortium: fill(1), TEE: "hw", Insecure: []string{"x"}}.Encode()
		}, []string{CodePostureInsecure, CodeBindingConfig}},
		"no posture":          {func(r *Record) { r.Posture = nil }, []string{CodeParsePosture, CodeBindingConfig}},
		"another nonce":       {func(r *Record) { r.Binding.Nonce = fill(9) }, []string{CodeBindingMismatch}},
		"a zero field":        {func(r *Record) { r.Binding.Nonce = [32]byte{} }, []string{CodeBindingZero}},
		"another role":        {func(r *Record) { r.Binding.Role = RoleCoordinator }, []string{CodeConfig, CodeBindingMismatch}},
		"an unlisted format":  {func(r *Record) { r.Evidence.Format = "snp/1" }, []string{CodeFormatUnlisted, CodePostureTEE}},
		"a path that is long": {func(r *Record) { r.Evidence.Path = make([][32]byte, maxPath+1) }, []string{CodeBindingZero}},
	} {
		r := record(t)
		tc.change(&r)
		got := codesOf(recheck(t, r).Reasons)
		slices.Sort(got)
		slices.Sort(tc.codes)
		if !slices.Equal(got, tc.codes) {
			t.Errorf("%s: refused for %q, want %q", name, got, tc.codes)
		}
	}
}

func TestLogSignature(t *testing.T) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r := record(t)
	b, err := r.Binding.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if r.LogSignature, err = signed.Sign(key, KindBinding, b); err != nil {
		t.Fatal(err)
	}
	if rs := r.SignedBy(pub); len(rs) != 0 {
		t.Errorf("refused for %v", rs)
	}
	if rs := r.SignedBy(nil); len(rs) != 1 {
		t.Error("no key signed it")
	}
	for name, b := range vary(func(f reflect.Value) {
		if f.Kind() == reflect.String {
			f.SetString(string(RoleCoordinator))
			return
		}
		f.Index(31).SetUint(0xaa)
	}) {
		altered := r
		altered.Binding = b
		if rs := altered.SignedBy(pub); len(rs) != 1 {
			t.Errorf("%s is not signed", name)
		}
	}
	if r.LogSignature, err = signed.Sign(key, "checkpoint", b); err != nil {
		t.Fatal(err)
	}
	if rs := r.SignedBy(pub); len(rs) != 1 {
		t.Error("a signature of another kind passes")
	}
}

func TestRecordBounds(t *testing.T) {
	r := record(t)
	r.Keys = make([][]byte, MaxKeys+1)
	if _, err := r.Encode(); err == nil {
		t.Error("many keys were written")
	}
	b, err := signed.Encode(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseRecord(b); err == nil {
		t.Error("many keys were read")
	}
	r = record(t)
	r.Evidence.Statement = make([]byte, MaxRecord)
	if _, err := r.Encode(); err == nil {
		t.Error("a long record was written")
	}
	enc, err := record(t).Encode()
	if err != nil {
		t.Fatal(err)
	}
	for i := range enc { // also every cut
		if _, err := ParseRecord(enc[:i]); err == nil {
			t.Errorf("%d of %d bytes were read", i, len(enc))
		}
	}
	if _, err := ParseRecord(append(enc, 0)); err == nil {
		t.Error("a trailing byte was read")
	}
}

func TestKeyListDigest(t *testing.T) {
	if KeyListDigest(nil) != KeyListDigest([][]byte{}) {
		t.Error("two empty lists differ")
	}
	seen := map[[32]byte]bool{}
	for _, keys := range [][][]byte{nil, {{}}, {{1, 2}}, {{1}, {2}}, {{2}, {1}}, {{1}, {2}, {}}} {
		if d := KeyListDigest(keys); seen[d] {
			t.Errorf("%v has the digest of another list", keys)
		} else {
			seen[d] = true
		}
	}
}

func TestClaimsJSON(t *testing.T) {
	b, err := json.Marshal(goodClaims(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"measurement":"sha256:0808`, `"simulated":false`, `"not_after":"2026-11-24T12:30:00Z"`, `"machine":"chip:a"`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%s lacks %s", b, want)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	enc, err := record(f).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(enc)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRecord(b)
		if err != nil {
			return
		}
		again, err := r.Encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x is written as %x, %v", b, again, err)
		}
		if got := recheck(t, r); got.OK() && r.Binding != record(t).Binding {
			t.Fatalf("another binding passed: %+v", r.Binding)
		}
		_ = r.SignedBy(make(ed25519.PublicKey, 32))
	})
}

func FuzzParsePosture(f *testing.F) {
	f.Add(record(f).Posture)
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePosture(b)
		if err != nil {
			return
		}
		if again, err := p.Encode(); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x is written as %x, %v", b, again, err)
		}
		CheckPosture(p, PostureExpect{})
	})
}
