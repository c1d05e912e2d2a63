package study

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/consilium-fl/consilium/internal/signed"
)

func TestRenderConsortium(t *testing.T) {
	c := testConsortium(t, four...)
	c.Serial, c.Previous = 2, [32]byte{9}
	got, err := ParseConsortium(RenderConsortium(c))
	if err != nil {
		t.Fatal(err)
	}
	c.Raw, c.Digest = got.Raw, got.Digest
	if diff := cmp.Diff(c, got); diff != "" {
		t.Error(diff)
	}
	nobody := &Consortium{Name: "x", Serial: 1, Amend: 1, Log: public("log"), Hospitals: map[string]Hospital{"a": {Governance: public("a")}}}
	if _, err := ParseConsortium(RenderConsortium(nobody)); err != nil {
		t.Error(err)
	}
}

func TestConsortiumProblems(t *testing.T) {
	raw := string(sample(t, "consortium.yaml"))
	c, err := ParseConsortium([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	va := signed.KeyText(c.Hospitals["va"].Governance)
	low := "ed25519:" + strings.Repeat("0", 64)
	for _, tt := range []struct{ name, old, new, want string }{
		{"one key for two", va, signed.KeyText(c.Hospitals["cleveland"].Governance), "hospitals.va.governance: got the key of hospitals.cleveland.governance"},
		{"a person's key", va, signed.KeyText(c.People["r.lead"].Key), "people.r.lead.key: got the key of hospitals.va.governance"},
		{"low order", va, low, "low order"},
		{"low order, sign", va, "ed25519:ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff", "low order"},
		{"key text", va, strings.ToUpper(va), "hospitals.va.governance: got"},
		{"minority amends", "amend: 3", "amend: 2", "amend: got \"2\", want a whole number from 3 to 4"},
		{"serial", "serial: 1", "serial: 0", "serial: got"},
		{"no previous", "serial: 1 ", "serial: 2 ", "previous: got nothing"},
		{"previous of the first", "serial: 1 ", "previous: " + signed.DigestText([32]byte{1}) + "\nserial: 1 ", "previous: got the digest of a file before the first"},
		{"role", "role: auditor", "role: admin", "people.a.auditor.role: got \"admin\", want lead or auditor"},
		{"hospital name", "  va: ", "  VA: ", "hospitals: got \"VA\" as a name"},
		{"unknown key", "contact: dpo@va.example", "contract: dpo@va.example", "hospitals.va.contract: got unknown key"},
		{"measurement", "sha256:b2c9", "sha256:B2c9", "attestation.node.measurements[0]: got"},
		{"yes", "  coordinator:\n    accept: [sim/1]\n    allow_simulated: true", "  coordinator:\n    accept: [sim/1]\n    allow_simulated: yes", "attestation.coordinator.allow_simulated: got \"yes\""},
	} {
		if strings.Count(raw, tt.old) != 1 {
			t.Fatalf("%s: %q is %d times in the sample", tt.name, tt.old, strings.Count(raw, tt.old))
		}
		_, err := ParseConsortium([]byte(strings.Replace(raw, tt.old, tt.new, 1)))
		var p Problems
		if !errors.As(err, &p) || len(p) != 1 || !strings.Contains(p.Error(), tt.want) {
			t.Errorf("%s: got %v, want one problem with %q", tt.name, err, tt.want)
		}
	}
}

// Anyone can sign for a key of low order: with S = 0 and R = the identity the equation holds for a good part of
// all messages. That is why ParseConsortium refuses the key.
func TestLowOrderKeysVerifyForgeries(t *testing.T) {
	for _, k := range lowOrder {
		forged := append(slices.Clone(lowOrder[0]), make([]byte, 32)...)
		for i := range 200 {
			if ed25519.Verify(k, []byte{byte(i)}, forged) {
				forged = nil
				break
			}
		}
		if forged != nil {
			t.Errorf("%x: no forgery verifies", k)
		}
	}
}

func sign(t *testing.T, c *Consortium, names ...string) []byte {
	t.Helper()
	var sigs []byte
	for _, n := range names {
		var err error
		if sigs, err = c.Sign(sigs, testKey(n)); err != nil {
			t.Fatal(err)
		}
	}
	return sigs
}

func TestFirstConsortiumNeedsEveryHospital(t *testing.T) {
	c := testConsortium(t, four...)
	all := sign(t, c, four...)
	if err := c.CheckSignatures(all, nil); err != nil {
		t.Fatal(err)
	}
	if !c.SignedBy(all, "va") || c.SignedBy(all, "mars") || c.SignedBy(sign(t, c, four[:3]...), "va") {
		t.Error("SignedBy does not tell who has signed")
	}
	changed := *c
	changed.Raw = append(slices.Clone(c.Raw), '\n')
	changed.Digest = signed.Digest(changed.Raw)
	twice, err := signed.ParseEnvelope(all, consortiumType)
	if err != nil {
		t.Fatal(err)
	}
	twice.Signatures = append(twice.Signatures, twice.Signatures[0])
	for name, err := range map[string]error{
		"one twice":     c.CheckSignatures(twice.Encode(), nil),
		"three of four": c.CheckSignatures(sign(t, c, four[:3]...), nil),
		"a stranger":    c.CheckSignatures(sign(t, c, append(slices.Clone(four), "mars")...), nil),
		"another file":  changed.CheckSignatures(all, nil),
		"nothing":       c.CheckSignatures(nil, nil),
	} {
		if err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	everyBit(t, all, func(b []byte) error { return c.CheckSignatures(b, nil) })
}

// everyBit flips each bit of a file: every one has to matter.
func everyBit(t *testing.T, file []byte, check func([]byte) error) {
	t.Helper()
	for i := range file {
		for bit := range 8 {
			b := slices.Clone(file)
			b[i] ^= 1 << bit
			if err := check(b); err == nil {
				t.Fatalf("bit %d of byte %d (%q) does not matter", bit, i, file[max(0, i-20):min(len(file), i+20)])
			}
		}
	}
}

func TestLaterConsortium(t *testing.T) {
	first := testConsortium(t, four...) // amend 3
	next := func(change func(c *Consortium)) *Consortium {
		c := *first
		c.Serial, c.Previous = 2, first.Digest
		c.Hospitals = maps.Clone(first.Hospitals)
		c.Hospitals["basel"] = Hospital{Governance: public("basel"), Registries: []string{"cardiology"}}
		if change != nil {
			change(&c)
		}
		return reparse(t, &c)
	}
	c := next(nil)
	if err := c.CheckSignatures(sign(t, c, "cleveland", "hungarian", "va", "basel"), first); err != nil {
		t.Fatal(err)
	}
	skipped := next(func(c *Consortium) { c.Serial = 3 })
	elsewhere := next(func(c *Consortium) { c.Previous = [32]byte{1} })
	renamed := next(func(c *Consortium) { c.Name = "lung.example" })
	seized := next(func(c *Consortium) {
		h := c.Hospitals["va"]
		h.Governance = public("thief")
		c.Hospitals["va"] = h
	})
	for _, tt := range []struct {
		name string
		c    *Consortium
		by   []string
		p    *Consortium
	}{
		{"two amenders", c, []string{"cleveland", "hungarian", "basel"}, first},
		{"the newcomer has not signed", c, []string{"cleveland", "hungarian", "va"}, first},
		{"a newcomer does not amend", c, []string{"cleveland", "hungarian", "basel"}, first},
		{"no predecessor", c, []string{"cleveland", "hungarian", "va", "basel"}, nil},
		{"serial skipped", skipped, []string{"cleveland", "hungarian", "va", "basel"}, first},
		{"another predecessor", elsewhere, []string{"cleveland", "hungarian", "va", "basel"}, first},
		{"another name", renamed, []string{"cleveland", "hungarian", "va", "basel"}, first},
		{"a new key that has not signed", seized, []string{"cleveland", "hungarian", "switzerland", "basel"}, first},
	} {
		if err := tt.c.CheckSignatures(sign(t, tt.c, tt.by...), tt.p); err == nil {
			t.Errorf("%s: got no error", tt.name)
		}
	}
	rotated := sign(t, seized, "cleveland", "hungarian", "switzerland", "basel", "thief")
	if err := seized.CheckSignatures(rotated, first); err != nil {
		t.Errorf("a rotated key that three amenders and itself signed: %v", err)
	}
}

func approval(s *Study, hospital string) Approval {
	return Approval{Study: s.Digest, Hospital: hospital, Dataset: "cardiology", Name: "Dr <A> & Söhne", Role: "data steward", Meaning: "approved", Until: now.Add(time.Hour)}
}

func signApproval(t *testing.T, a Approval, by string) []byte {
	t.Helper()
	f, err := a.Sign(testKey(by))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestApprovals(t *testing.T) {
	c := testConsortium(t, append([]string{"basel"}, four...)...)
	s := heartStudy(t, c)
	var files [][]byte
	for _, h := range []string{"va", "cleveland", "hungarian"} {
		files = append(files, signApproval(t, approval(s, h), h))
	}
	got, err := c.Approved(s, files, now)
	if err != nil || len(got) != 3 || got[0].Hospital != "cleveland" {
		t.Fatalf("got %v, %v", got, err)
	}
	want := approval(s, "va")
	if diff := cmp.Diff(want, got[2]); diff != "" {
		t.Error(diff)
	}
	everyBit(t, files[0], func(b []byte) error { _, err := c.ParseApproval(b); return err })

	other := approval(s, "hungarian")
	other.Study = [32]byte{1}
	registry := approval(s, "hungarian")
	registry.Dataset = "oncology"
	ended := approval(s, "hungarian")
	ended.Until = now
	for _, tt := range []struct {
		name  string
		third []byte
		why   string
	}{
		{"the same hospital again", signApproval(t, approval(s, "va"), "va"), "got 2, want 3"},
		{"signed by another hospital", signApproval(t, approval(s, "hungarian"), "va"), "is of key"},
		{"not a member", signApproval(t, approval(s, "basel"), "basel"), "not a member"},
		{"not a hospital", signApproval(t, approval(s, "mars"), "mars"), "not a hospital"},
		{"another study", signApproval(t, other, "hungarian"), "is for study"},
		{"another registry", signApproval(t, registry, "hungarian"), "oncology"},
		{"ended", signApproval(t, ended, "hungarian"), "ended at"},
		{"no signature", stripped(t, files[2]), "got 0 signatures"},
		{"junk", []byte("{}"), "DSSE"},
	} {
		got, err := c.Approved(s, [][]byte{files[0], files[1], tt.third}, now)
		if !errors.Is(err, ErrApprovals) || !strings.Contains(err.Error(), tt.why) || len(got) != 2 {
			t.Errorf("%s: got %d approvals, %v, want ErrApprovals with %q", tt.name, len(got), err, tt.why)
		}
	}
	if _, err := testConsortium(t, four...).Approved(s, files, now); err == nil {
		t.Error("counted under another consortium")
	}
}

func stripped(t *testing.T, file []byte) []byte {
	t.Helper()
	e, err := signed.ParseEnvelope(file, approvalType)
	if err != nil {
		t.Fatal(err)
	}
	e.Signatures = nil
	return e.Encode()
}

// A payload that says one thing to a lenient reader and another to a strict one is refused even when signed.
func TestSignedPayloadIsStrict(t *testing.T) {
	c := testConsortium(t, four...)
	s := heartStudy(t, c)
	e, err := signed.ParseEnvelope(signApproval(t, approval(s, "va"), "va"), approvalType)
	if err != nil {
		t.Fatal(err)
	}
	payload := string(e.Payload)
	for name, p := range map[string]string{
		"duplicate key":  strings.Replace(payload, `"dataset"`, `"hospital":"va","dataset"`, 1),
		"unknown key":    strings.Replace(payload, `"dataset"`, `"x":1,"dataset"`, 1),
		"other case":     strings.Replace(payload, `"dataset"`, `"Dataset"`, 1),
		"space":          strings.Replace(payload, `,"dataset"`, `, "dataset"`, 1),
		"local time":     strings.Replace(payload, `13:00:00Z`, `14:00:00+01:00`, 1),
		"version":        strings.Replace(payload, `approval/v1`, `approval/v2`, 1),
		"trailing bytes": payload + " ",
	} {
		if p == payload {
			t.Fatalf("%s: nothing changed", name)
		}
		bad, err := signed.SignEnvelope(approvalType, []byte(p), testKey("va"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.ParseApproval(bad.Encode()); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}

func enrolment(hospital string) Enrolment {
	return Enrolment{
		Consortium: "heart.example", Hospital: hospital, Node: "1", NodeKey: public(hospital + "/node"), WitnessKey: public(hospital + "/witness"),
		Serial: 1, Until: now.Add(time.Hour),
	}
}

func TestEnrolment(t *testing.T) {
	c := testConsortium(t, four...)
	stop, err := NewStop("heart.example", "va", "0", 1, [32]byte{5}, testKey("va/old"))
	if err != nil {
		t.Fatal(err)
	}
	if stop, err = ParseStop(stop.Encode()); err != nil {
		t.Fatal(err)
	}
	e := enrolment("va")
	e.Serial, e.Predecessor = 2, &stop
	file, err := e.Sign(testKey("va"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.ParseEnrolment(file, now)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(e, got); diff != "" {
		t.Error(diff)
	}
	hospital, key, err := c.Enrolled(file, now)
	if err != nil || hospital != "va" || !key.Equal(e.NodeKey) {
		t.Errorf("got %s %x %v", hospital, key, err)
	}
	if _, err := c.ParseEnrolment(file, e.Until); err == nil {
		t.Error("an enrolment that has ended counts")
	}
	everyBit(t, file, func(b []byte) error { _, err := c.ParseEnrolment(b, now); return err })
}

func TestEnrolmentRefused(t *testing.T) {
	c := testConsortium(t, four...)
	forged, err := NewStop("heart.example", "cleveland", "0", 1, [32]byte{5}, testKey("va/old")) // of another hospital
	if err != nil {
		t.Fatal(err)
	}
	later, err := NewStop("heart.example", "va", "0", 2, [32]byte{5}, testKey("va/old"))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(e *Enrolment){
		"stop of a later serial":   func(e *Enrolment) { e.Serial, e.Predecessor = 2, &later },
		"another consortium":       func(e *Enrolment) { e.Consortium = "lung.example" },
		"a hospital that is none":  func(e *Enrolment) { e.Hospital = "mars" },
		"one key for both":         func(e *Enrolment) { e.WitnessKey = e.NodeKey },
		"low order":                func(e *Enrolment) { e.NodeKey = make([]byte, 32) },
		"serial 0":                 func(e *Enrolment) { e.Serial = 0 },
		"stop of another hospital": func(e *Enrolment) { e.Serial, e.Predecessor = 2, &forged },
		"path in the node's name":  func(e *Enrolment) { e.Node = "../1" },
	} {
		e := enrolment("va")
		change(&e)
		j := enrolmentJSON{enrolmentVersion, e.Consortium, e.Hospital, e.Node, signed.KeyText(e.NodeKey), signed.KeyText(e.WitnessKey), e.Serial, nil, stamp(e.Until)}
		if e.Predecessor != nil {
			j.Predecessor = e.Predecessor.json()
		}
		file, err := signStatement(enrolmentType, j, testKey("va")) // past the checks of Sign
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.ParseEnrolment(file, now); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	minted, err := enrolment("va").Sign(testKey("coordinator"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ParseEnrolment(minted, now); err == nil {
		t.Error("a node that the coordinator minted is enrolled")
	}
	approvalAsEnrolment := signApproval(t, approval(heartStudy(t, c), "va"), "va")
	if _, err := c.ParseEnrolment(approvalAsEnrolment, now); err == nil {
		t.Error("an approval passes as an enrolment")
	}
}

func TestStudySignature(t *testing.T) {
	c := testConsortium(t, four...)
	s := heartStudy(t, c)
	sig, err := SignStudy(s.Raw, testKey("r.lead"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CheckStudySignature(s, sig); err != nil {
		t.Fatal(err)
	}
	auditor, err := SignStudy(s.Raw, testKey("a.auditor"))
	if err != nil {
		t.Fatal(err)
	}
	other := *s
	other.Raw = append(slices.Clone(s.Raw), '\n')
	if c.CheckStudySignature(s, auditor) == nil || c.CheckStudySignature(&other, sig) == nil || c.CheckStudySignature(s, bytes.TrimSpace(sig)) == nil {
		t.Error("a study that its lead has not signed passes")
	}
}

func FuzzParseConsortium(f *testing.F) {
	f.Add(sample(f, "consortium.yaml"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := ParseConsortium(raw)
		if err != nil {
			return
		}
		again, err := ParseConsortium(RenderConsortium(c))
		if err != nil {
			t.Fatalf("%v\n%s", err, RenderConsortium(c))
		}
		again.Raw, again.Digest = c.Raw, c.Digest
		for _, x := range []*Consortium{c, again} {
			if len(x.Attestation.Node.Formats) == 0 {
				x.Attestation.Node = Accept{}
			}
			if len(x.Attestation.Coordinator.Formats) == 0 {
				x.Attestation.Coordinator = Accept{}
			}
			for name, h := range x.Hospitals {
				if len(h.Registries) == 0 {
					h.Registries = nil
					x.Hospitals[name] = h
				}
			}
			if x.Serial == 1 {
				x.Previous = [32]byte{}
			}
		}
		if diff := cmp.Diff(c, again); diff != "" {
			t.Error(diff)
		}
	})
}

func FuzzStatements(f *testing.F) {
	c := &Consortium{Name: "heart.example", Hospitals: map[string]Hospital{"va": {Governance: public("va")}}}
	a := Approval{Hospital: "va", Dataset: "cardiology", Name: "n", Role: "r", Meaning: "m", Until: now}
	file, err := a.Sign(testKey("va"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(file)
	if file, err = enrolment("va").Sign(testKey("va")); err != nil {
		f.Fatal(err)
	}
	f.Add(file)
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := c.ParseApproval(b); err == nil && a.Hospital != "va" {
			t.Error("an approval of nobody")
		}
		if e, err := c.ParseEnrolment(b, now); err == nil && e.Hospital != "va" {
			t.Error("an enrolment of nobody")
		}
		_, _ = ParseStop(b)
	})
}
