package coordinator_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/reference"
	"github.com/consilium-fl/consilium/attest/simtee"
	"github.com/consilium-fl/consilium/coordinator"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/transport"
)

// manifest signs the next version of the nodes' reference values, which ends those before: machines is YAML.
func (f *federation) manifest(serial int, machines string) {
	f.t.Helper()
	now := time.Now().UTC()
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
  machines: %s
  max_age: 1h
  deny_generations: []
  warn_generations: []
  revocation: false
  endorsement_age: 0s
  grace: 0s
`, serial, serial, now.AddDate(0, 0, -1).Format(time.RFC3339), now.AddDate(0, 0, 1).Format(time.RFC3339), attest.SHA256Measurement(simtee.Measurement(attest.RoleNode)), machines)
	var e []byte
	for _, h := range f.hospitals {
		e = must(reference.Sign(payload, e, f.governance[h]))(f.t)
	}
	f.write(fmt.Sprintf("references/nodes-%d.json", serial), e)
}

// revocation is a study of four hospitals in whose first round basel's machine is taken from the list, once everybody but
// those who are told to keep silent has answered.
type revocation struct {
	*federation
	c   *coordinator.Coordinator
	s   *study.Study
	all map[string]*hospital
}

func newRevocation(t *testing.T, silent string, who ...string) *revocation {
	t.Helper()
	f := found(t, study.Accept{Reference: "nodes", AllowSimulated: true}, "basel", "cleveland", "hungarian", "va")
	f.manifest(1, "any")
	r := &revocation{federation: f, all: map[string]*hospital{}}
	r.c, _ = f.serve()
	r.s = f.propose("away: 2s", "away: 4s")
	f.approve(r.s)
	for _, name := range f.hospitals {
		h := f.newHospital(name, 1)
		if slices.Contains(who, name) {
			h.silence(silent)
		}
		r.all[name] = h
	}
	for _, h := range r.all {
		h.play(r.s)
	}
	return r
}

func (r *revocation) revoke() {
	r.t.Helper()
	r.all["basel"].silence("that it is refused")
	var machines []string
	for name, h := range r.all {
		if name != "basel" {
			machines = append(machines, fmt.Sprintf("%q", machineOf(h.key)))
		}
	}
	r.manifest(2, "["+strings.Join(machines, ", ")+"]")
	if changed, err := r.deps.Grounds.Reload(); err != nil || !changed {
		r.t.Fatalf("reading the grounds again: %t, %v", changed, err)
	}
	r.watch(r.s, func(e transport.WatchEvent) bool {
		return e.Kind == "refused" && e.Hospital == "basel" && strings.Contains(e.Text, "policy.changed, identity.chip")
	})
}

// release lets who kept silent say what they had to say.
func (r *revocation) release(who ...string) {
	for _, name := range who {
		h := r.all[name]
		h.silence()
		for _, m := range h.outbox() {
			h.deliver(r.t.Context(), m)
		}
	}
}

// set is who is in the certified set of a round of an output folder.
func (r *revocation) set(dir, round string) (set []aggregate.MemberID) {
	r.t.Helper()
	var m aggregate.Signed
	if err := signed.Decode(must(os.ReadFile(filepath.Join(dir, "rounds", round, "proposal.cbor")))(r.t), &m); err != nil {
		r.t.Fatal(err)
	}
	for _, c := range must(aggregate.Parse(m))(r.t).(aggregate.Proposal).Contributions {
		set = append(set, c.Upload.From)
	}
	return set
}

// TestRevoked over real connections: revoked before the certificate, a node is left out of the round; after it, the round
// burns. Either way it has no part in what follows, and the folder verifies by the two versions that held.
func TestRevoked(t *testing.T) {
	t.Run("while a round collects", func(t *testing.T) {
		r := newRevocation(t, "upload", "va")
		uploaded := map[string]bool{}
		r.watch(r.s, func(e transport.WatchEvent) bool {
			if e.Kind == "arrived" && strings.HasPrefix(e.Text, "upload of") {
				uploaded[e.Hospital] = true
			}
			return len(uploaded) == 3
		})
		r.revoke()
		r.release("va")
		state, why, dir := waitOver(t, r.c, r.s)
		if state != coordinator.Ended {
			t.Fatalf("state %q (%s)", state, why)
		}
		for _, round := range []string{"0001", "0002"} {
			if got := r.set(dir, round); !slices.Equal(got, []aggregate.MemberID{"cleveland", "hungarian", "va"}) {
				t.Errorf("round %s is of %v", round, got)
			}
		}
		verifies(t, r.federation, dir)
	})
	t.Run("while a round releases", func(t *testing.T) {
		r := newRevocation(t, "release", "hungarian", "va")
		r.watch(r.s, func(e transport.WatchEvent) bool { return e.Phase == string(aggregate.Releasing) })
		r.revoke()
		r.watch(r.s, func(e transport.WatchEvent) bool {
			return e.Kind == "burnt" && e.Round == 1 && strings.Contains(e.Text, "the machine of basel is not trusted any more: policy.changed, identity.chip")
		})
		r.release("hungarian", "va")
		state, why, dir := waitOver(t, r.c, r.s)
		if state != coordinator.Ended {
			t.Fatalf("state %q (%s)", state, why)
		}
		if got := r.set(dir, "0002"); slices.Contains(got, "basel") {
			t.Errorf("round 2 is of %v", got)
		}
		verifies(t, r.federation, dir)
	})
}
