// Package vtpm is vtpm-gce/1: the quote of the virtual TPM of a Google Compute Engine machine, by a key that Google
// certified for that machine. Evidence.Statement is an attest.Attestation of github.com/google/go-tpm-tools, in
// protocol buffers.
//
// A quote says which firmware and which system were started, as far as they measured themselves, and in which
// machine of which project. It does not say that the machine is a confidential one: the TPM is Google's word, and
// reports of SEV-SNP or TDX that the message may carry beside the quote are not looked at, which Result.NotChecked
// then says. Whoever wants those asks for snp/1 or tdx/1.
package vtpm

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"errors"
	"fmt"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/internal/tpm"
)

type verifier struct{}

// NewVerifier makes the verifier of vtpm-gce/1. It finds Google's roots among the anchors of the snapshot.
func NewVerifier() attest.Verifier { return verifier{} }

func (verifier) Format() attest.Format { return attest.FormatVTPM }

// Verify authenticates the quote of the SHA-256 bank. Quotes of other banks are left unread.
func (verifier) Verify(e attest.Evidence, in attest.Inputs) (attest.Unappraised, error) {
	m, err := parseMessage(e.Statement)
	if err != nil {
		return attest.Unappraised{}, err
	}
	c := attest.Claims{Format: attest.FormatVTPM, NotChecked: m.unread}
	ak, err := m.attestationKey()
	if err != nil {
		return attest.Unappraised{}, err
	}
	q := m.quote
	if q.EventLog == nil {
		q.EventLog = e.Endorsements[attest.EventLog]
	}
	c.TPM, err = q.Verify(ak.PublicKey)
	if c.TPM == nil {
		return attest.Unappraised{}, err
	}
	errs := []error{err}
	if c.TPM.GCE, err = instanceOf(ak); err == nil {
		c.Machine = fmt.Sprintf("gce:%s/%s/%d", c.TPM.GCE.Project, c.TPM.GCE.Zone, c.TPM.GCE.ID)
	}
	errs = append(errs, err, certified(ak, m.intermediates, in, &c))
	c.ReportData, c.HalfBound, err = tpm.Bind(c.TPM.Nonce, in)
	errs = append(errs, err)
	return attest.Unappraise(c), errors.Join(errs...)
}

// samePublic compares keys of the two kinds that sign quotes.
func samePublic(a, b any) bool {
	switch a := a.(type) {
	case *rsa.PublicKey:
		b, ok := b.(*rsa.PublicKey)
		return ok && a.Equal(b)
	case *ecdsa.PublicKey:
		b, ok := b.(*ecdsa.PublicKey)
		return ok && a.Equal(b)
	}
	return false
}
