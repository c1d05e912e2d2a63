package snp

import (
	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/internal/amd"
)

type verifier struct{}

// NewVerifier makes the verifier of snp/1. It takes roots, revocation lists and, where the evidence brings none,
// certificates from the snapshot.
func NewVerifier() attest.Verifier { return verifier{} }

func (verifier) Format() attest.Format { return attest.FormatSNP }

// Verify authenticates a report.
func (verifier) Verify(e attest.Evidence, in attest.Inputs) (attest.Unappraised, error) {
	c, err := amd.Verify(e.Statement, e.Endorsements, in)
	return attest.Unappraise(c), err
}
