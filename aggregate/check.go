package aggregate

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hpke"
	"fmt"
	"slices"

	"github.com/consilium-fl/consilium/internal/signed"
)

// The checks below are those of a member on what a coordinator sends. A restored Round and
// VerifyTranscript run the same ones: whoever reads a message believes it for the same reasons.

// terms are a plan that holds up, with the name by which messages answer it.
type terms struct {
	Plan
	signed Signed
	digest [32]byte
	own    own // of the member that reads; empty for the aggregator and for who reads a transcript
}

// own are the messages that a machine has signed itself. Byte for byte the same, they come back to a member
// in every list, and need no verification.
type own struct {
	key  ed25519.PublicKey
	sent []Signed
}

func (o own) holds(s Signed, key ed25519.PublicKey) bool {
	return o.key != nil && o.key.Equal(key) && slices.ContainsFunc(o.sent, func(x Signed) bool {
		return x.From == s.From && x.Kind == s.Kind && bytes.Equal(x.Payload, s.Payload) && bytes.Equal(x.Signature, s.Signature)
	})
}

// verify checks the signature of a member's message, unless it is an own one.
func (p *terms) verify(s Signed, key ed25519.PublicKey) error {
	if p.own.holds(s, key) {
		return nil
	}
	return signed.Verify(key, s.Kind, s.Payload, s.Signature)
}

func checkPlan(s Signed, keys Keyring) (*terms, error) {
	p, err := fromCoordinator[Plan](s, keys)
	if err != nil {
		return nil, err
	}
	return &terms{Plan: p, signed: s, digest: s.Digest()}, nil
}

func fromCoordinator[M Message](s Signed, keys Keyring) (M, error) {
	if s.From != "" {
		var none M
		return none, fmt.Errorf("%s from %s, want the coordinator's", none.kind(), quoted(string(s.From)))
	}
	return verify[M](s, keys.Coordinator())
}

// party is a member that is ready.
type party struct {
	id     MemberID
	key    ed25519.PublicKey // node key
	ready  Ready
	signed Signed
}

// checkReady checks a Ready on its own; checkParties compares it with the others.
func checkReady(s Signed, p *terms, keys Keyring) (party, error) {
	m, err := Parse(s)
	if err != nil {
		return party{}, err
	}
	r, ok := m.(Ready)
	if !ok {
		return party{}, fmt.Errorf("got %s, want a ready", quoted(s.Kind))
	}
	if !slices.Contains(p.Members, s.From) {
		return party{}, fmt.Errorf("ready from %s, who is no member", quoted(string(s.From)))
	}
	id, key, err := keys.Member(r.Enrolment)
	if err != nil {
		return party{}, fmt.Errorf("ready from %q: enrolment: %w", s.From, err)
	}
	if id != s.From {
		return party{}, fmt.Errorf("ready from %q with the enrolment of %s", s.From, quoted(string(id)))
	}
	if err := p.verify(s, key); err != nil {
		return party{}, fmt.Errorf("ready from %q: %w", s.From, err)
	}
	if r.Plan != p.digest {
		return party{}, fmt.Errorf("ready from %q answers another plan", s.From)
	}
	for _, k := range [][32]byte{r.MaskKey, r.SealKey} {
		if err := checkPublic(k); err != nil {
			return party{}, fmt.Errorf("ready from %q: %w", s.From, err)
		}
	}
	return party{id: id, key: key, ready: r, signed: s}, nil
}

// checkParties refuses a key that is there twice: of a round or of a node. From is not under a
// signature, so that one node key for two members would vote twice.
func checkParties(parties []party) error {
	owner := map[string]MemberID{}
	for _, p := range parties {
		for _, k := range [][]byte{p.ready.MaskKey[:], p.ready.SealKey[:], p.key} {
			if first, ok := owner[string(k)]; ok {
				return fmt.Errorf("ready from %q shows a key that %q shows too", p.id, first)
			}
			owner[string(k)] = p.id
		}
	}
	return nil
}

// committee is a Committee that holds up.
type committee struct {
	terms     *terms
	digest    [32]byte
	parties   []party // sorted
	threshold int
}

func checkCommittee(s Signed, p *terms, keys Keyring) (*committee, error) {
	m, err := fromCoordinator[Committee](s, keys)
	if err != nil {
		return nil, err
	}
	if m.Plan != p.digest {
		return nil, fmt.Errorf("committee answers another plan")
	}
	c, t, err := Thresholds(len(p.Members), len(m.Readys), p.Minimum)
	if err != nil {
		return nil, err
	}
	if m.Colluding != c || m.Threshold != t {
		return nil, fmt.Errorf("committee of %d with colluding %d and threshold %d, want %d and %d", len(m.Readys), m.Colluding, m.Threshold, c, t)
	}
	out := &committee{terms: p, digest: s.Digest(), threshold: t}
	for _, r := range m.Readys {
		party, err := checkReady(r, p, keys)
		if err != nil {
			return nil, err
		}
		out.parties = append(out.parties, party)
	}
	return out, checkParties(out.parties)
}

func (c *committee) find(id MemberID) (int, bool) {
	return slices.BinarySearchFunc(c.parties, id, func(p party, id MemberID) int {
		return bytes.Compare([]byte(p.id), []byte(id))
	})
}

// from checks that s is an M of a committee member.
func from[M Message](s Signed, c *committee) (M, error) {
	var none M
	i, ok := c.find(s.From)
	if !ok {
		return none, fmt.Errorf("%s from %s, who is not in the committee", none.kind(), quoted(string(s.From)))
	}
	m, err := verifyBy[M](s, func() error { return c.terms.verify(s, c.parties[i].key) })
	if err != nil {
		return none, fmt.Errorf("%s from %q: %w", none.kind(), s.From, err)
	}
	return m, nil
}

// dealt is a committee member's deal.
type dealt struct {
	id     MemberID
	party  int // index in the committee
	deal   Deal
	signed Signed
}

func checkDeal(s Signed, c *committee) (dealt, error) {
	m, err := from[Deal](s, c)
	if err != nil {
		return dealt{}, err
	}
	if m.Committee != c.digest {
		return dealt{}, fmt.Errorf("deal from %q answers another committee", s.From)
	}
	if len(m.Shares) != len(c.parties) {
		return dealt{}, fmt.Errorf("deal from %q has %d shares, want %d", s.From, len(m.Shares), len(c.parties))
	}
	for i, share := range m.Shares {
		if share.To != c.parties[i].id {
			return dealt{}, fmt.Errorf("deal from %q: share %d is for %s, want %q", s.From, i, quoted(string(share.To)), c.parties[i].id)
		}
		if own := share.To == s.From; own != (len(share.Box) == 0) {
			return dealt{}, fmt.Errorf("deal from %q: box for %q of %d bytes", s.From, share.To, len(share.Box))
		}
	}
	i, _ := c.find(s.From)
	return dealt{id: s.From, party: i, deal: m, signed: s}, nil
}

// roster is a Roster that holds up.
type roster struct {
	digest [32]byte
	*committee
	dealers []dealt // sorted
}

func checkRoster(s Signed, p *terms, c *committee, keys Keyring) (*roster, error) {
	m, err := fromCoordinator[Roster](s, keys)
	if err != nil {
		return nil, err
	}
	if m.Committee != c.digest {
		return nil, fmt.Errorf("roster answers another committee")
	}
	if len(m.Deals) < p.Minimum {
		return nil, fmt.Errorf("roster of %d, want at least %d", len(m.Deals), p.Minimum)
	}
	out := &roster{digest: s.Digest(), committee: c}
	for _, d := range m.Deals {
		deal, err := checkDeal(d, c)
		if err != nil {
			return nil, err
		}
		out.dealers = append(out.dealers, deal)
	}
	return out, nil
}

func (r *roster) dealer(id MemberID) (*dealt, bool) {
	i, ok := slices.BinarySearchFunc(r.dealers, id, func(d dealt, id MemberID) int {
		return bytes.Compare([]byte(d.id), []byte(id))
	})
	if !ok {
		return nil, false
	}
	return &r.dealers[i], true
}

// quorum is how small a surviving set may be.
func (r *roster) quorum(p *terms) int { return max(p.Minimum, r.threshold) }

// contribution is an upload of a roster member.
type contribution struct {
	id     MemberID
	upload Upload
	signed Signed
}

func checkUpload(s Signed, p *terms, r *roster) (contribution, error) {
	m, err := from[Upload](s, r.committee)
	if err != nil {
		return contribution{}, err
	}
	if _, ok := r.dealer(s.From); !ok {
		return contribution{}, fmt.Errorf("upload from %q, who did not deal", s.From)
	}
	if m.Roster != r.digest {
		return contribution{}, fmt.Errorf("upload from %q answers another roster", s.From)
	}
	if _, err := checkCharge(m.Charge, p, r); err != nil {
		return contribution{}, fmt.Errorf("upload from %q: %w", s.From, err)
	}
	for _, d := range m.Complaints {
		if _, ok := r.dealer(d); !ok || d == s.From {
			return contribution{}, fmt.Errorf("upload from %q complains about %q, want another dealer", s.From, d)
		}
	}
	return contribution{id: s.From, upload: m, signed: s}, nil
}

// checkCharge refuses a charge of anything but this round with this roster: were a charge its round
// number alone, one charge would pay for two uploads.
func checkCharge(b []byte, p *terms, r *roster) (Charge, error) {
	c, err := ParseCharge(b)
	if err != nil {
		return Charge{}, err
	}
	want := newCharge(p, r)
	want.Head = c.Head
	if c != want {
		return Charge{}, fmt.Errorf("charge is of another study, round, plan or roster")
	}
	return c, nil
}

// newCharge lacks its ledger's head.
func newCharge(p *terms, r *roster) Charge {
	return Charge{Study: p.Round.Study, Number: p.Round.Number, Plan: p.digest, Roster: r.digest}
}

// survivors are a Proposal that holds up: who uploaded, and by it who did not.
type survivors struct {
	digest        [32]byte
	contributions []contribution // sorted
}

func checkProposal(s Signed, p *terms, r *roster, keys Keyring) (*survivors, error) {
	m, err := fromCoordinator[Proposal](s, keys)
	if err != nil {
		return nil, err
	}
	if m.Roster != r.digest {
		return nil, fmt.Errorf("proposal answers another roster")
	}
	if len(m.Contributions) < r.quorum(p) {
		return nil, fmt.Errorf("proposal of a set of %d, want at least %d", len(m.Contributions), r.quorum(p))
	}
	if _, err := checkCharge(m.Charge, p, r); err != nil {
		return nil, fmt.Errorf("proposal: coordinator's %w", err)
	}
	out := &survivors{digest: s.Digest()}
	for _, c := range m.Contributions {
		u, err := checkUpload(c.Upload, p, r)
		if err != nil {
			return nil, err
		}
		out.contributions = append(out.contributions, u)
	}
	return out, nil
}

func (v *survivors) ids() []MemberID {
	ids := make([]MemberID, len(v.contributions))
	for i, c := range v.contributions {
		ids[i] = c.id
	}
	return ids
}

func (v *survivors) find(id MemberID) (*contribution, bool) {
	i, ok := slices.BinarySearchFunc(v.contributions, id, func(c contribution, id MemberID) int {
		return bytes.Compare([]byte(c.id), []byte(id))
	})
	if !ok {
		return nil, false
	}
	return &v.contributions[i], true
}

func checkVote(s Signed, r *roster, v *survivors) error {
	m, err := from[Vote](s, r.committee)
	if err != nil {
		return err
	}
	if _, ok := r.dealer(s.From); !ok {
		return fmt.Errorf("vote from %q, who did not deal", s.From)
	}
	if m.Proposal != v.digest {
		return fmt.Errorf("vote from %q is for another proposal", s.From)
	}
	return nil
}

// certificate is a Certificate that holds up.
type certificate struct {
	digest  [32]byte
	opening hpke.PublicKey
	voters  []MemberID
}

func checkCertificate(s Signed, r *roster, v *survivors, keys Keyring) (*certificate, error) {
	m, err := fromCoordinator[Certificate](s, keys)
	if err != nil {
		return nil, err
	}
	if m.Proposal != v.digest {
		return nil, fmt.Errorf("certificate is for another proposal")
	}
	if len(m.Votes) < r.threshold {
		return nil, fmt.Errorf("certificate of %d votes, want at least %d", len(m.Votes), r.threshold)
	}
	out := &certificate{digest: s.Digest()}
	for _, vote := range m.Votes {
		if err := checkVote(vote, r, v); err != nil {
			return nil, err
		}
		out.voters = append(out.voters, vote.From)
	}
	if out.opening, err = hpke.MLKEM768X25519().NewPublicKey(m.Opening); err != nil {
		return nil, fmt.Errorf("certificate: opening key: %w", err)
	}
	return out, nil
}

// checkResult takes the digest of the certificate that the reader saw, zero if none.
func checkResult(s Signed, p *terms, seen [32]byte, keys Keyring) (Result, error) {
	m, err := fromCoordinator[Result](s, keys)
	if err != nil {
		return Result{}, err
	}
	if m.Plan != p.digest {
		return Result{}, fmt.Errorf("result answers another plan")
	}
	if seen != [32]byte{} && m.Certificate != seen {
		return Result{}, fmt.Errorf("result %q answers another certificate than the one seen", m.Outcome)
	}
	if m.Outcome != Closed && (m.Sum != [32]byte{} || m.Model != p.Model) {
		return Result{}, fmt.Errorf("result %q with a sum or a model of its own", m.Outcome)
	}
	return m, nil
}

// facts are what a chain of coordinator's messages, from the Plan on, has fixed.
type facts struct {
	terms       *terms
	committee   *committee
	roster      *roster
	survivors   *survivors
	certificate *certificate
}

// checkChain reads a Plan, Committee, Roster, Proposal and Certificate, or as many as there are.
func checkChain(chain []Signed, keys Keyring) (*facts, error) {
	var f facts
	var err error
	for i, s := range chain {
		switch i {
		case 0:
			f.terms, err = checkPlan(s, keys)
		case 1:
			f.committee, err = checkCommittee(s, f.terms, keys)
		case 2:
			f.roster, err = checkRoster(s, f.terms, f.committee, keys)
		case 3:
			f.survivors, err = checkProposal(s, f.terms, f.roster, keys)
		case 4:
			f.certificate, err = checkCertificate(s, f.roster, f.survivors, keys)
		default:
			err = fmt.Errorf("want at most five messages before a result")
		}
		if err != nil {
			return nil, fmt.Errorf("message %d: %w", i, err)
		}
	}
	if f.terms == nil {
		return nil, fmt.Errorf("no plan")
	}
	return &f, nil
}
