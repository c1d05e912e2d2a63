package attest_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/attest/simtee"
)

// A verifier builds the binding from its own view, and asks Check.
func ExampleVerifiers_Check() {
	root, err := simtee.NewRoot()
	if err != nil {
		log.Fatal(err)
	}
	trust, err := endorse.New(map[string][]byte{simtee.AnchorFile: simtee.MarshalAnchor(&root.PublicKey)})
	if err != nil {
		log.Fatal(err)
	}
	binding := attest.Binding{
		Role: attest.RoleNode, Nonce: [32]byte{1}, Exporter: [32]byte{2}, OwnKey: [32]byte{3}, PeerKey: [32]byte{4},
		Study: [32]byte{5}, KeyList: [32]byte{6}, Config: [32]byte{7},
	}
	evidence, err := simtee.NewAttester(root, attest.RoleNode, "chip:laptop").Attest(context.Background(), binding)
	if err != nil {
		log.Fatal(err)
	}

	verifiers := attest.NewVerifiers(simtee.NewVerifier())
	policy := attest.Policy{Role: attest.RoleNode, Accept: []attest.Format{simtee.Format}, Measurements: attest.SetOf(attest.SHA256Measurement(simtee.Measurement(attest.RoleNode))), Machines: attest.AnySet()}
	want, err := binding.ReportData(evidence.Path)
	if err != nil {
		log.Fatal(err)
	}
	in := attest.Inputs{Now: time.Now(), ReportData: &want, Trust: trust}

	r := verifiers.Check(evidence, in, policy)
	fmt.Println(r.Status, r.OK(), r.Reasons)
	policy.AllowSimulated, policy.Simulation = true, true
	r = verifiers.Check(evidence, in, policy)
	fmt.Println(r.Status, r.OK(), r.NotChecked)
	// Output:
	// contraindicated false [sim.denied: simulated, got allow_simulated false, insecure.simulated_tee false, want both true]
	// warning true [machine]
}
