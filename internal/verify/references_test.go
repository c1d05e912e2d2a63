package verify

import (
	"crypto/ed25519"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/reference"
	"github.com/consilium-fl/consilium/attest/simtee"
	"github.com/consilium-fl/consilium/audit"
)

// manifest is a version of the nodes' reference values, valid for two days about a time. Serial is told by its max_age.
func (s *story) manifest(t testing.TB, serial, least int, about time.Time, signers ...string) []byte {
	t.Helper()
	payload := fmt.Appendf(nil, `version: consilium.reference/v1
name: nodes
consortium: heart.example
role: node
serial: %d
least: %d
valid: {from: %s, until: %s}
policy:
  accept: [sim/1]
  allow_simulated: true
  measurements: [%q]
  machines: any
  max_age: %dm
  deny_generations: []
  warn_generations: []
  revocation: false
  endorsement_age: 0s
  grace: 0s
`, serial, least, about.AddDate(0, 0, -1).Format(time.RFC3339), about.AddDate(0, 0, 1).Format(time.RFC3339),
		attest.SHA256Measurement(simtee.Measurement(attest.RoleNode)), 10*serial)
	var e []byte
	for _, h := range signers {
		var err error
		if e, err = reference.Sign(payload, e, key("governance "+h)); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

var tellReferenced = sync.OnceValues(func() (*story, error) {
	s := &story{files: map[string][]byte{}, cosigners: members, logKey: "log", reference: true, start: time.Now().UTC().Truncate(time.Millisecond)}
	return s, s.run()
})

// referenced is a story whose consortium names reference values, of which there are two versions: va was appraised by
// the first, which the second ended early, the others by the second.
func referenced(t *testing.T) *story {
	t.Helper()
	told, err := tellReferenced()
	if err != nil {
		t.Fatal(err)
	}
	s := told.clone()
	s.files["references/nodes-1.json"] = s.manifest(t, 1, 1, s.start, members...)
	s.files["references/nodes-2.json"] = s.manifest(t, 2, 2, s.start, members[:3]...)
	s.policies = map[string][32]byte{}
	for _, h := range members {
		s.policies[h] = s.version(t, "references/nodes-2.json")
	}
	s.policies["va"] = s.version(t, "references/nodes-1.json")
	return s
}

// version is the digest of the policy of one manifest.
func (s *story) version(t *testing.T, file string) [32]byte {
	t.Helper()
	m, err := reference.Open(s.files[file], reference.Amenders{
		Consortium: s.consortium.Name, Need: 1,
		Keys: []ed25519.PublicKey{public("governance cleveland")},
	})
	if err != nil {
		t.Fatal(err)
	}
	p := m.Policy
	p.Simulation = true
	return p.Digest()
}

func TestReferences(t *testing.T) {
	s := referenced(t)
	r := verified(t, s.write(t), Options{})
	if !r.OK {
		t.Fatal(r)
	}
	for _, want := range []string{"by reference values nodes, serial 1: va", "by reference values nodes, serial 2: cleveland, hungarian, switzerland", "by the consortium file: coordinator", "with 1 trust snapshot"} {
		if !strings.Contains(r.String(), want) {
			t.Errorf("the report does not say %q:\n%s", want, r)
		}
	}
}

// TestForgedReferences: a coordinator cannot make up what its nodes were appraised by.
func TestForgedReferences(t *testing.T) {
	for name, c := range map[string]struct {
		forge          func(s *story)
		object, reason string
	}{
		"a version that is not there": {func(s *story) { delete(s.files, "references/nodes-1.json") }, receiptFile, "for va, which is not what held at"},
		"none at all": {func(s *story) {
			delete(s.files, "references/nodes-1.json")
			delete(s.files, "references/nodes-2.json")
		}, receiptFile, "held at " + referenced(t).leafTime("va") + ": nothing"},
		"a version that had ended": {func(s *story) {
			s.files["references/nodes-1.json"] = s.manifest(t, 1, 1, s.start.AddDate(0, 0, -2), members...)
		}, receiptFile, "for va, which is not what held at"},
		"a version of too few amenders": {func(s *story) {
			s.files["references/nodes-2.json"] = s.manifest(t, 2, 2, s.start, members[:2]...)
		}, "references/nodes-2.json", "signed by 2 amenders, want 3"},
		"a version of one amender twice": {func(s *story) {
			s.files["references/nodes-2.json"] = s.manifest(t, 2, 2, s.start, "cleveland", "cleveland", "va")
		}, "references/nodes-2.json", "signed by 2 amenders, want 3"},
		"two of one serial": {func(s *story) {
			s.files["references/nodes-2b.json"] = s.manifest(t, 2, 1, s.start, members...)
		}, referencesFolder, "another manifest nodes of serial 2"},
		"something else":         {func(s *story) { s.files["references/x.json"] = []byte("{}") }, "references/x.json", "opening manifest"},
		"a policy of no version": {func(s *story) { s.policies["va"] = [32]byte{1} }, receiptFile, "for va, which is not what held at"},
	} {
		s := referenced(t)
		c.forge(s)
		if name == "a version of one amender twice" || name == "a version of too few amenders" || name == "a version that had ended" {
			for _, h := range members[:3] {
				s.policies[h] = s.version(t, "references/nodes-2.json")
			}
		}
		refused(t, verified(t, s.write(t), Options{}), c.object, c.reason)
	}
}

// leafTime is when a hospital was admitted, as a report says it.
func (s *story) leafTime(hospital string) string {
	for _, l := range s.leaves {
		if l.Kind == audit.Admission && l.Subject == hospital {
			return l.Time.Format(time.RFC3339)
		}
	}
	return ""
}
