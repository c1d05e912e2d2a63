package aggregate

import (
	"fmt"

	"github.com/consilium-fl/consilium/internal/signed"
)

// Verified is what a transcript shows to whoever trusts only its keyring.
type Verified struct {
	Plan        Plan
	PlanDigest  [32]byte
	Roster      []MemberID // who dealt
	Proposal    Proposal   // zero if the round ended before it
	Set         []MemberID // the certified set, whose vectors were summed; empty without a certificate
	Voters      []MemberID
	Certificate [32]byte // digest; zero without one
	Result      Result
}

// VerifyTranscript checks what Round.Transcript returned of an ended round: each message against the
// one that it answers, every signature in it, thresholds, charges and the certificate. A closed or
// burnt round has to show all six messages; an aborted one its Plan, Result and what lay between.
func VerifyTranscript(messages []Signed, keys Keyring) (*Verified, error) {
	out, err := verifyTranscript(messages, keys)
	if err != nil {
		return nil, fmt.Errorf("verifying transcript: %w", err)
	}
	return out, nil
}

func verifyTranscript(messages []Signed, keys Keyring) (*Verified, error) {
	if len(messages) < 2 {
		return nil, fmt.Errorf("%d messages, want a plan to a result", len(messages))
	}
	last := len(messages) - 1
	f, err := checkChain(messages[:last], keys)
	if err != nil {
		return nil, err
	}
	out := &Verified{Plan: f.terms.Plan, PlanDigest: f.terms.digest}
	if f.roster != nil {
		for _, d := range f.roster.dealers {
			out.Roster = append(out.Roster, d.id)
		}
	}
	if f.certificate != nil {
		out.Set, out.Voters, out.Certificate = f.survivors.ids(), f.certificate.voters, f.certificate.digest
	}
	if f.survivors != nil {
		if err := signed.Decode(messages[3].Payload, &out.Proposal); err != nil {
			return nil, err
		}
	}
	if out.Result, err = checkResult(messages[last], f.terms, out.Certificate, keys); err != nil {
		return nil, err
	}
	if out.Result.Certificate != out.Certificate {
		return nil, fmt.Errorf("result %q names a certificate that the transcript lacks", out.Result.Outcome)
	}
	return out, nil
}

// VerifyPrefix checks the beginning of a transcript, from the Plan to a Certificate at most. Called with
// one message more at a time, it finds the first that does not hold up after those before it.
func VerifyPrefix(messages []Signed, keys Keyring) error {
	if _, err := checkChain(messages, keys); err != nil {
		return fmt.Errorf("verifying the start of a transcript: %w", err)
	}
	return nil
}
