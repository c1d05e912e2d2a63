// Package tdx is about trust domains of Intel TDX: a Verifier of their quotes, and an Attester inside one.
//
//	verifiers := attest.NewVerifiers(tdx.NewVerifier())
//	result := verifiers.Check(evidence, attest.Inputs{Now: now, ReportData: &want, Trust: trust}, policy)
//
// The Statement is a quote of version 4 or 5. With it may come the firmware's event log ([attest.CCEL]), which the
// registers are replayed from, and collateral, which counts where the snapshot has none.
//
// A quote shows what was measured and nothing of what was not: a file, an environment or a table that the TD loads
// after its last measurement leaves no trace in it. [attest.TDXPolicy] can demand that events of a kind are there, ACPI
// tables and the kernel's command line among them. Of these the registers cover the digests. That a digest is of ACPI
// tables is the log's word, unless [attest.TDXEvents] says proven; what the tables say only a register's listed value
// pins.
package tdx

import (
	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/internal/intel"
)

type verifier struct{}

// NewVerifier makes the verifier of tdx/1. Of the snapshot it wants Intel's root, TCB info of the platform and the
// identity of its quoting enclave with the certificate that signed them, and the revocation lists of root and
// platform.
func NewVerifier() attest.Verifier { return verifier{} }

func (verifier) Format() attest.Format { return attest.FormatTDX }

// Verify authenticates one quote.
func (verifier) Verify(e attest.Evidence, in attest.Inputs) (attest.Unappraised, error) {
	c, err := intel.Verify(e.Statement, e.Endorsements, in)
	return attest.Unappraise(c), err
}
