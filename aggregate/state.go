package aggregate

import (
	"crypto"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/consilium-fl/consilium/internal/signed"
)

// roundState is what Persist stores of a Round: signed messages, promises and the charge. No key, no
// share, no release is ever in it.
type roundState struct {
	Chain    []Signed       `cbor:"1,keyasint"`
	Uploads  []storedUpload `cbor:"2,keyasint"` // accepted, before the Proposal holds them
	Votes    []Signed       `cbor:"3,keyasint"` // before the Certificate holds them
	Charging bool           `cbor:"4,keyasint"` // the set is fixed, the coordinator's charge was asked for
	Excluded []MemberID     `cbor:"5,keyasint"`
	Revoked  []MemberID     `cbor:"6,keyasint"` // sorted
}

type storedUpload struct {
	Upload  Signed `cbor:"1,keyasint"`
	Promise []byte `cbor:"2,keyasint"`
}

func (r *Round) persist() {
	st := roundState{Chain: r.chain, Charging: r.at == stCharging, Excluded: r.excluded, Revoked: slices.Sorted(maps.Keys(r.revoked))}
	switch r.at {
	case stCollecting, stCharging:
		for _, id := range r.population(ofRoster) {
			if u, ok := r.uploads[id]; ok && u.accepted {
				st.Uploads = append(st.Uploads, storedUpload{Upload: u.signed, Promise: u.promise})
			}
		}
	case stVoting:
		for _, id := range r.population(ofRoster) {
			if v, ok := r.votes[id]; ok {
				st.Votes = append(st.Votes, v)
			}
		}
	}
	r.emit(Persist{State: encode(st)})
}

// RestoreRound reads what a Persist of the same coordinator stored. Stepped with Begin, the round goes
// on where it was before the certificate; with one it burns; ended, it sends its Result again.
// Everybody is taken as present until an Away.
func RestoreRound(state []byte, keys Keyring, s crypto.Signer, entropy io.Reader) (*Round, error) {
	r, err := restoreRound(state, keys, s, entropy)
	if err != nil {
		return nil, fmt.Errorf("restoring round: %w", err)
	}
	return r, nil
}

func restoreRound(state []byte, keys Keyring, s crypto.Signer, entropy io.Reader) (*Round, error) {
	r, err := emptyRound(keys, s, entropy)
	if err != nil {
		return nil, err
	}
	var st roundState
	if err := signed.Decode(state, &st); err != nil {
		return nil, err
	}
	if len(st.Chain) == 0 {
		return nil, fmt.Errorf("no plan")
	}
	if err := sortedMembers(st.Excluded); err != nil {
		return nil, fmt.Errorf("excluded: %w", err)
	}
	if err := sortedMembers(st.Revoked); err != nil {
		return nil, fmt.Errorf("revoked: %w", err)
	}
	for _, id := range st.Revoked {
		r.presence(Revoked{Member: id})
	}
	r.chain, r.excluded, r.restored = st.Chain, st.Excluded, true
	before := st.Chain
	if len(before) > 1 && r.last().Kind == (Result{}).kind() {
		before = before[:len(before)-1]
	}
	f, err := checkChain(before, keys)
	if err != nil {
		return nil, err
	}
	r.facts = *f
	if len(before) < len(st.Chain) {
		var seen [32]byte
		if f.certificate != nil {
			seen = f.certificate.digest
		}
		if _, err := checkResult(r.last(), f.terms, seen, keys); err != nil {
			return nil, err
		}
		r.at = stEnded
		return r, nil
	}
	return r, r.replay(st)
}

// StoredTranscript returns the Transcript of the round whose Persist that is. Nothing is verified.
func StoredTranscript(state []byte) ([]Signed, error) {
	var st roundState
	if err := signed.Decode(state, &st); err != nil {
		return nil, fmt.Errorf("reading a round's transcript: %w", err)
	}
	return st.Chain, nil
}

// replay puts the stored answers back through the checks that they passed when they came.
func (r *Round) replay(st roundState) error {
	r.at = [...]State{stGathering, stDealing, stCollecting, stVoting, stReleasing}[len(st.Chain)-1]
	if (len(st.Uploads) > 0 || st.Charging) && r.at != stCollecting {
		return fmt.Errorf("uploads or a charge stored while %s", r.at)
	}
	if len(st.Votes) > 0 && r.at != stVoting {
		return fmt.Errorf("votes stored while %s", r.at)
	}
	r.remember()
	for _, u := range st.Uploads {
		if u.Upload.Kind != (Upload{}).kind() || len(u.Promise) > maxPromise {
			return fmt.Errorf("stored upload is %s with a promise of %d bytes", quoted(u.Upload.Kind), len(u.Promise))
		}
		if err := r.store(u.Upload); err != nil {
			return err
		}
		kept := r.uploads[u.Upload.From]
		kept.accepted, kept.promise = true, u.Promise
		r.seen[taken{u.Upload.From, u.Upload.Digest()}] = true
	}
	for _, v := range st.Votes {
		if v.Kind != (Vote{}).kind() {
			return fmt.Errorf("stored vote is %s", quoted(v.Kind))
		}
		if err := r.store(v); err != nil {
			return err
		}
		r.seen[taken{v.From, v.Digest()}] = true
	}
	if st.Charging {
		if len(r.uploads) < r.facts.roster.quorum(r.facts.terms) {
			return fmt.Errorf("a charge stored for %d uploads", len(r.uploads))
		}
		r.at = stCharging
	}
	return nil
}

// remember takes what the chain holds as seen: members send it again after a restart.
func (r *Round) remember() {
	if c := r.facts.committee; c != nil {
		for _, p := range c.parties {
			r.seen[taken{p.id, p.signed.Digest()}] = true
		}
	}
	if c := r.facts.roster; c != nil {
		for _, d := range c.dealers {
			r.seen[taken{d.id, d.signed.Digest()}] = true
		}
	}
	if v := r.facts.survivors; v != nil {
		for _, c := range v.contributions {
			r.seen[taken{c.id, c.signed.Digest()}] = true
		}
	}
}

// resume is the Begin of a restored round, once.
func (r *Round) resume() {
	r.restored = false
	switch row, _ := r.row(); {
	case r.at == stEnded:
		// The Result was durable; whether it was sent, nobody knows.
		r.emit(Send{Message: r.last()})
		if err := r.end(); err != nil {
			r.emit(End{Result: Result{Plan: r.facts.terms.digest, Outcome: Aborted, Why: why(err.Error())}})
		}
	case row.Crash == burns:
		r.finish(Burnt, "the coordinator restarted after the certificate")
	case row.Crash == asksAgain:
		r.emit(ChargeLedger{Charge: newCharge(r.facts.terms, r.facts.roster)})
	default:
		// Members answer what they answered before with what they stored, and the rest for the first time.
		r.emit(Send{Message: r.last()})
		r.wait()
		if row.Guard == guardVotes {
			r.advance(false)
		}
	}
}

// memberState is what Persist stores of a Member: what it was asked and what it answered, signed. No
// one-time secret is ever in it.
type memberState struct {
	Plan    Signed  `cbor:"1,keyasint"`
	Upload  *Signed `cbor:"2,keyasint"`
	Vote    *Signed `cbor:"3,keyasint"`
	Release *Signed `cbor:"4,keyasint"`
}

// RestoreMember reads what a Persist of the same member stored, for a member whose spool is whole: the
// caller has compared it with the vector digest of the stored Upload (StoredUpload). Stepped with
// Begin it sends vector and Upload again; it votes on nothing and releases nothing, since an old disk
// must not answer twice. State without an Upload is an error: that round is given up.
func RestoreMember(c MemberConfig, state []byte) (*Member, error) {
	m, err := restoreMember(c, state)
	if err != nil {
		return nil, fmt.Errorf("restoring member: %w", err)
	}
	return m, nil
}

func restoreMember(c MemberConfig, state []byte) (*Member, error) {
	st, u, err := readMemberState(state)
	if err != nil {
		return nil, err
	}
	m, err := newMember(c, st.Plan)
	if err != nil {
		return nil, err
	}
	if st.Upload.From != c.Self {
		return nil, fmt.Errorf("stored upload is from %s, want %q", quoted(string(st.Upload.From)), c.Self)
	}
	_, key, err := c.Keys.Member(c.Enrolment)
	if err != nil {
		return nil, err
	}
	if _, err := verify[Upload](*st.Upload, key); err != nil {
		return nil, err
	}
	charge, err := ParseCharge(u.Charge)
	if err != nil {
		return nil, err
	}
	if charge.Plan != m.facts.terms.digest || charge.Roster != u.Roster {
		return nil, fmt.Errorf("stored upload is of another plan or roster")
	}
	m.at, m.stored = stRestored, st
	m.answers[m.facts.terms.digest] = nil
	m.answers[u.Roster] = SendVector{Upload: *st.Upload}
	return m, nil
}

func readMemberState(state []byte) (memberState, Upload, error) {
	var st memberState
	if err := signed.Decode(state, &st); err != nil {
		return st, Upload{}, err
	}
	if st.Upload == nil || st.Upload.Kind != (Upload{}).kind() {
		return st, Upload{}, fmt.Errorf("no upload is stored: the round is given up")
	}
	msg, err := Parse(*st.Upload)
	if err != nil {
		return st, Upload{}, err
	}
	return st, msg.(Upload), nil
}

// StoredUpload returns the round and the Upload that a member's state holds, so that its driver can
// compare the spool with Upload.Vector before it restores. Nothing is verified.
func StoredUpload(state []byte) (RoundID, Upload, error) {
	st, u, err := readMemberState(state)
	if err != nil {
		return RoundID{}, Upload{}, fmt.Errorf("reading a member's state: %w", err)
	}
	p, err := Parse(st.Plan)
	if err != nil {
		return RoundID{}, Upload{}, fmt.Errorf("reading a member's state: %w", err)
	}
	plan, ok := p.(Plan)
	if !ok {
		return RoundID{}, Upload{}, fmt.Errorf("reading a member's state: it starts with %s", quoted(st.Plan.Kind))
	}
	return plan.Round, u, nil
}
