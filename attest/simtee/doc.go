// Package simtee is a TEE that is none: sim/1, for laptops and tests. Its evidence is a
// statement of its own form, signed by a root key that lies in a file; it imitates no vendor's,
// and everything it makes is marked simulated.
//
// A verifier takes it only where the policy says allow_simulated and the process says
// `insecure: {simulated_tee: true}`, and the verdict is never better than a warning:
//
//	root, err := simtee.NewRoot()
//	trust, err := endorse.New(map[string][]byte{simtee.AnchorFile: simtee.MarshalAnchor(&root.PublicKey)})
//	evidence, err := simtee.NewAttester(root, attest.RoleNode, "chip:laptop").Attest(ctx, binding)
//	result := attest.NewVerifiers(simtee.NewVerifier()).Check(evidence, inputs, policy)
//
// Whoever holds the root key can attest anything.
package simtee
