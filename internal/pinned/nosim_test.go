//go:build nosim

package pinned

import (
	"strings"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
)

// TestNoSim is what TestWithoutSimulation runs.
func TestNoSim(t *testing.T) {
	if _, _, err := Attester(TEE{Kind: "sim", SimRoot: "x"}, attest.RoleNode, ""); err == nil || !strings.Contains(err.Error(), "without simulated TEEs") {
		t.Errorf("tee sim: %v", err)
	}
	trust, err := endorse.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	r := Verifiers().Check(attest.Evidence{Format: "sim/1", Statement: []byte("x")}, attest.Inputs{Now: time.Unix(1, 0), ReportData: &[64]byte{1}, Trust: trust},
		attest.Policy{Role: attest.RoleNode, Accept: []attest.Format{"sim/1"}, AllowSimulated: true, Simulation: true, Measurements: attest.AnySet(), Machines: attest.AnySet()})
	if r.OK() || len(r.Reasons) == 0 || r.Reasons[0].Code != attest.CodeFormatUnlisted {
		t.Errorf("sim/1 evidence: %s, %v", r.Status, r.Reasons)
	}
}
