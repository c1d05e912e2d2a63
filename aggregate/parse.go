package aggregate

import (
	"crypto/ed25519"
	"fmt"

	"github.com/consilium-fl/consilium/internal/signed"
)

// Bounds on what a foreign message may hold, in bytes.
const (
	maxName      = 128
	maxMechanism = 4 << 10
	maxEnrolment = 32 << 10
	maxCharge    = 1 << 10
	maxPromise   = 16 << 10
	maxSealed    = 64 << 10
	maxWhy       = 1 << 10
)

// Parse checks form: it decodes the payload of s by its kind, within bounds, and returns the message.
// It checks neither signature nor sense; Verify does the first.
func Parse(s Signed) (Message, error) {
	m, err := parse(s)
	if err != nil {
		return nil, fmt.Errorf("parsing %s: %w", quoted(s.Kind), err)
	}
	return m, nil
}

// Verify checks the signature of s by pub and returns its message.
func Verify(s Signed, pub ed25519.PublicKey) (Message, error) {
	if err := signed.Verify(pub, s.Kind, s.Payload, s.Signature); err != nil {
		return nil, err
	}
	return Parse(s)
}

func parse(s Signed) (Message, error) {
	if len(s.From) > maxName || len(s.Signature) > 64 {
		return nil, fmt.Errorf("sender of %d bytes with a signature of %d, want at most %d and 64", len(s.From), len(s.Signature), maxName)
	}
	switch s.Kind {
	case "plan":
		return read(s.Payload, Plan.check)
	case "ready":
		return read(s.Payload, Ready.check)
	case "committee":
		return read(s.Payload, Committee.check)
	case "deal":
		return read(s.Payload, Deal.check)
	case "roster":
		return read(s.Payload, Roster.check)
	case "upload":
		return read(s.Payload, Upload.check)
	case "proposal":
		return read(s.Payload, Proposal.check)
	case "vote":
		return read(s.Payload, func(Vote) error { return nil })
	case "certificate":
		return read(s.Payload, Certificate.check)
	case "release":
		return read(s.Payload, Release.check)
	case "result":
		return read(s.Payload, Result.check)
	}
	return nil, fmt.Errorf("unknown kind")
}

func read[M Message](payload []byte, check func(M) error) (Message, error) {
	var m M
	if err := signed.Decode(payload, &m); err != nil {
		return nil, err
	}
	if err := check(m); err != nil {
		return nil, err
	}
	return m, nil
}

// verify reads s as an M signed by pub.
func verify[M Message](s Signed, pub ed25519.PublicKey) (M, error) {
	return verifyBy[M](s, func() error { return signed.Verify(pub, s.Kind, s.Payload, s.Signature) })
}

// verifyBy reads s as an M once its signature is found good.
func verifyBy[M Message](s Signed, good func() error) (M, error) {
	var none M
	if s.Kind != none.kind() {
		return none, fmt.Errorf("got %s, want %q", quoted(s.Kind), none.kind())
	}
	if err := good(); err != nil {
		return none, err
	}
	m, err := Parse(s)
	if err != nil {
		return none, err
	}
	return m.(M), nil
}

func (r Ready) check() error { return atMost("enrolment", len(r.Enrolment), maxEnrolment) }

func (c Committee) check() error { return sortedSigned(c.Readys, Ready{}.kind()) }

func (d Deal) check() error {
	if err := atMost("shares", len(d.Shares), maxMembers); err != nil {
		return err
	}
	to := make([]MemberID, len(d.Shares))
	for i, s := range d.Shares {
		to[i] = s.To
		if len(s.Box) != 0 && len(s.Box) != boxBytes {
			return fmt.Errorf("box %d of %d bytes, want %d, or none for the dealer's own", i, len(s.Box), boxBytes)
		}
	}
	return sortedMembers(to)
}

func (r Roster) check() error { return sortedSigned(r.Deals, Deal{}.kind()) }

func (u Upload) check() error {
	if err := atMost("charge", len(u.Charge), maxCharge); err != nil {
		return err
	}
	if err := atMost("complaints", len(u.Complaints), maxMembers); err != nil {
		return err
	}
	return sortedMembers(u.Complaints)
}

func (p Proposal) check() error {
	if err := atMost("charge", len(p.Charge), maxCharge); err != nil {
		return err
	}
	uploads := make([]Signed, len(p.Contributions))
	for i, c := range p.Contributions {
		if err := atMost("promise", len(c.Promise), maxPromise); err != nil {
			return err
		}
		uploads[i] = c.Upload
	}
	return sortedSigned(uploads, Upload{}.kind())
}

func (c Certificate) check() error {
	if len(c.Opening) != openingBytes {
		return fmt.Errorf("opening key of %d bytes, want %d", len(c.Opening), openingBytes)
	}
	return sortedSigned(c.Votes, Vote{}.kind())
}

func (r Release) check() error { return atMost("sealed shares", len(r.Sealed), maxSealed) }

func (r Result) check() error {
	switch r.Outcome {
	case Closed, Aborted, Burnt:
	default:
		return fmt.Errorf("outcome %s, want %q, %q or %q", quoted(string(r.Outcome)), Closed, Aborted, Burnt)
	}
	if r.Outcome == Aborted && r.Certificate != [32]byte{} {
		return fmt.Errorf("aborted with a certificate, want none")
	}
	if r.Outcome != Aborted && r.Certificate == [32]byte{} {
		return fmt.Errorf("%s without a certificate", r.Outcome)
	}
	if err := atMost("excluded", len(r.Excluded), maxMembers); err != nil {
		return err
	}
	if err := atMost("why", len(r.Why), maxWhy); err != nil {
		return err
	}
	return sortedMembers(r.Excluded)
}

func sortedSigned(list []Signed, kind string) error {
	if err := atMost(kind+"s", len(list), maxMembers); err != nil {
		return err
	}
	from := make([]MemberID, len(list))
	for i, s := range list {
		from[i] = s.From
		if s.Kind != kind {
			return fmt.Errorf("message %d is %s, want %q", i, quoted(s.Kind), kind)
		}
	}
	return sortedMembers(from)
}

func atMost(what string, got, want int) error {
	if got > want {
		return fmt.Errorf("%s: %d, want at most %d", what, got, want)
	}
	return nil
}

// quoted bounds a foreign string before it goes into an error.
func quoted(s string) string {
	if len(s) > 32 {
		s = s[:32]
	}
	return fmt.Sprintf("%q", s)
}
