// Package attest turns bytes of evidence into a verdict: which code runs at the other end,
// on which kind of machine, and whether a policy takes it. It has no clock and no network.
//
// A prover binds one conversation into its evidence. The verifier builds the same [Binding]
// from what it sees itself, never from what the prover says it saw:
//
//	want, err := binding.ReportData(evidence.Path)
//	result := attest.NewVerifiers(simtee.NewVerifier()).Check(evidence,
//		attest.Inputs{Now: now, ReportData: &want, Trust: trust}, policy)
//	if !result.OK() { refuse(result.Reasons) }
//
// [Verifiers.Check] is the only way from evidence to claims: a verifier of one format hands its
// claims over wrapped ([Unappraised]), so that a good signature alone can be mistaken for a good
// machine nowhere. Absence refuses: the zero [Policy] admits nobody, no time and no trust are
// errors, and evidence whose binding was not compared is never OK.
//
// What the measured code was told to enforce travels beside the evidence as a [Posture], which
// the binding covers. A [Record] holds all of it, so that an auditor can appraise the same
// evidence again years later ([Verifiers.Recheck]).
//
// The formats live in packages below this one; attest/channel runs the exchange on a
// connection.
package attest
