package simulation

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/reference"
	"github.com/consilium-fl/consilium/attest/simtee"
	"github.com/consilium-fl/consilium/coordinator"
	"github.com/consilium-fl/consilium/internal/grounds"
	"github.com/consilium-fl/consilium/internal/keyfile"
	"github.com/consilium-fl/consilium/internal/store"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/verify"
	"github.com/consilium-fl/consilium/node"
)

// manifest signs a version of the reference values of a role, by all hospitals, into the folder that every party reads.
func (f *federation) manifest(role attest.Role, serial int) error {
	now := time.Now().UTC()
	payload := fmt.Appendf(nil, `version: consilium.reference/v1
name: simulated-%ss
consortium: simulation.example
role: %[1]s
serial: %d
least: 1
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
`, role, serial, now.AddDate(0, 0, -1).Format(time.RFC3339), now.AddDate(0, 0, 1).Format(time.RFC3339), attest.SHA256Measurement(simtee.Measurement(role)), 60/serial)
	var e []byte
	for _, s := range f.sites {
		key, err := keyfile.Read(f.governance(s.name))
		if err == nil {
			e, err = reference.Sign(payload, e, key)
		}
		if err != nil {
			return err
		}
	}
	return store.WriteFile(f.path("references", fmt.Sprintf("simulated-%ss-%d.json", role, serial)), e, 0o600)
}

// TestReferences: a consortium that names reference values in place of measurements. Their next version arrives while the
// study runs, and holds beside the first: nobody is thrown out, and the receipt verifies by what held at each admission.
func TestReferences(t *testing.T) {
	t.Parallel()
	o := wards(t)
	o.Keep = filepath.Join(t.TempDir(), "kept")
	o.Rounds = 4
	var mu sync.Mutex
	var f *federation
	var held []*grounds.Holder
	hold := func(h *grounds.Holder) {
		mu.Lock()
		defer mu.Unlock()
		held = append(held, h)
	}
	arrived, refusals := 0, 0
	o.Progress = func(p Progress) {
		if p.Kind == "refused" {
			refusals++
		}
		if p.Kind != "closed" || p.Round != 1 {
			return
		}
		for _, role := range []attest.Role{attest.RoleNode, attest.RoleCoordinator} {
			if err := f.manifest(role, 2); err != nil {
				t.Error(err)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		for _, h := range held {
			if changed, err := h.Reload(); err != nil || !changed {
				t.Errorf("reading the references again: %t, %v", changed, err)
			}
			arrived++
		}
	}
	r, err := simulate(t.Context(), o, wiring{
		consortium: func(c *study.Consortium) {
			c.Attestation.Node = study.Accept{Reference: "simulated-nodes", AllowSimulated: true}
			c.Attestation.Coordinator = study.Accept{Reference: "simulated-coordinators", AllowSimulated: true}
		},
		built: func(built *federation) error {
			f = built
			if err := f.manifest(attest.RoleNode, 1); err != nil {
				return err
			}
			return f.manifest(attest.RoleCoordinator, 1)
		},
		coordinator: func(d *coordinator.Deps) { hold(d.Grounds) },
		node:        func(_ string, d *node.Deps) { hold(d.Grounds) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if arrived != 5 || refusals > 0 {
		t.Errorf("the second version arrived at %d of 5 parties, %d refusals", arrived, refusals)
	}
	report, err := verify.Folder(t.Context(), r.Out, verify.Options{})
	if err != nil || !report.OK {
		t.Fatalf("%v\n%s", err, report)
	}
	for _, want := range []string{"by reference values simulated-nodes, serial 1: basel, bern, chur, genf", "by reference values simulated-coordinators, serial 1: coordinator"} {
		if !strings.Contains(report.String(), want) {
			t.Errorf("the report does not say %q:\n%s", want, report)
		}
	}
	for _, file := range []string{
		filepath.Join(r.Out, "references", "simulated-nodes-1.json"), filepath.Join(r.Out, "references", "simulated-coordinators-1.json"),
		filepath.Join(r.Out, "references", "simulated-nodes-2.json"), filepath.Join(o.Keep, "references", "simulated-nodes-1.json"),
	} {
		if _, err := os.Stat(file); err != nil {
			t.Error(err)
		}
	}
}
