package aggregate

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hpke"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/consilium-fl/consilium/internal/signed"
)

// Round is the aggregator's machine for one round. It is not safe for concurrent use.
//
// A fresh or restored Round is first stepped with Begin. The opening key, the shares and the noise
// key are in memory only.
type Round struct {
	keys    Keyring
	signer  crypto.Signer
	entropy io.Reader

	at    State
	facts facts
	chain []Signed // Plan, Committee, Roster, Proposal, Certificate, Result: as far as it got
	draft *Plan    // of a fresh round, until Begin signs it

	away    map[MemberID]bool
	revoked map[MemberID]bool // nothing more of them is taken in this round
	leaving MemberID          // by the Revoked at hand
	seen    map[taken]bool    // what comes again is neither taken nor refused

	parties  map[MemberID]party
	deals    map[MemberID]dealt
	uploads  map[MemberID]*upload
	votes    map[MemberID]Signed
	releases map[MemberID]*releasedBy
	charge   []byte // the coordinator's own

	opening  hpke.PrivateKey
	unmask   *unmaskKey
	ending   Opened // what the driver made of the sum
	reason   string // of the driver, why there is nothing to make
	excluded []MemberID
	restored bool

	out []Effect
}

// taken names a message that was taken. The payload alone would not do: every Vote for one Proposal has the same.
type taken struct {
	from   MemberID
	digest [32]byte
}

// upload is a signed Upload; it counts once its vector was compared and its charge is in the log.
type upload struct {
	contribution
	accepted bool
	promise  []byte
}

// releasedBy are the shares of one holder, by dealer; those that match their commitments.
type releasedBy struct {
	seeds  map[MemberID][2]share // of the seed and of its opening
	keys   map[MemberID]share
	random [32]byte
}

// NewRound checks p and returns its machine. s is the coordinator's protocol key; entropy is
// crypto/rand.Reader outside of simulations.
func NewRound(p Plan, keys Keyring, s crypto.Signer, entropy io.Reader) (*Round, error) {
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("starting round %d: %w", p.Round.Number, err)
	}
	for _, d := range []uint32{p.Deadlines.Ready, p.Deadlines.Deal, p.Deadlines.Upload, p.Deadlines.Vote, p.Deadlines.Release} {
		if d == 0 {
			return nil, fmt.Errorf("starting round %d: deadline of 0 ms, want at least 1", p.Round.Number)
		}
	}
	r, err := emptyRound(keys, s, entropy)
	if err != nil {
		return nil, fmt.Errorf("starting round %d: %w", p.Round.Number, err)
	}
	r.at, r.draft = stCalled, &p
	return r, nil
}

func emptyRound(keys Keyring, s crypto.Signer, entropy io.Reader) (*Round, error) {
	pub, ok := s.Public().(ed25519.PublicKey)
	if !ok || !pub.Equal(keys.Coordinator()) {
		return nil, fmt.Errorf("the signer is not the coordinator's protocol key of the keyring")
	}
	return &Round{
		keys: keys, signer: s, entropy: entropy,
		away: map[MemberID]bool{}, revoked: map[MemberID]bool{}, seen: map[taken]bool{},
		parties: map[MemberID]party{}, deals: map[MemberID]dealt{}, uploads: map[MemberID]*upload{},
		votes: map[MemberID]Signed{}, releases: map[MemberID]*releasedBy{},
	}, nil
}

// Plan returns the plan of the round.
func (r *Round) Plan() Plan {
	if r.draft != nil {
		return *r.draft
	}
	return r.facts.terms.Plan
}

// Phase returns where the round stands.
func (r *Round) Phase() Phase { return phaseOf(aggregatorTable, r.at) }

// Transcript returns the signed messages of the round so far that a receipt keeps (Plan, Committee,
// Roster, Proposal, Certificate, Result), in order. VerifyTranscript reads it.
func (r *Round) Transcript() []Signed { return slices.Clone(r.chain) }

// Short reports that the phase cannot go on with those who have answered and those who are present:
// only somebody's return helps. A driver that expects nobody back steps Expired at once.
func (r *Round) Short() bool {
	row, ok := r.row()
	if !ok || row.Of == "" {
		return false
	}
	able := 0
	for _, id := range r.population(row.Of) {
		if r.answered(row.On, id) || !r.away[id] {
			able++
		}
	}
	return able < r.needs(row)
}

// Step takes an event and returns what is to be done, in order. It is total: a foreign message that
// does not hold up is a Refuse, and an event that does not fit is nothing.
func (r *Round) Step(e Event) []Effect {
	r.out = nil
	if r.at == stEnded && !r.restored {
		return nil
	}
	if _, ok := e.(Begin); r.restored && !ok {
		r.presence(e)
		return nil
	}
	switch e := e.(type) {
	case Begin:
		r.begin()
	case Received:
		r.receive(e.Message)
	case Uploaded:
		r.accept(e)
	case Charged:
		r.charged(e)
	case ChargeRefused:
		r.reason = "the coordinator's ledger refused the charge: " + e.Why
		r.event(onDeclined)
	case Opened:
		r.ending = e
		r.event(onOpened)
	case Spoilt:
		r.reason = "the sum cannot be used: " + e.Why
		r.event(onSpoilt)
	case Away:
		r.presence(e)
		r.advance(false)
	case Back:
		r.presence(e)
	case Revoked:
		r.revoke(e)
	case Expired:
		r.expire(e.Phase)
	}
	return r.out
}

func (r *Round) presence(e Event) {
	switch e := e.(type) {
	case Away:
		r.away[e.Member] = true
	case Back:
		if !r.revoked[e.Member] {
			delete(r.away, e.Member)
		}
	case Revoked:
		r.away[e.Member], r.revoked[e.Member] = true, true
	}
}

// revoke leaves a member out. What is in a set that was proposed cannot be taken out of it: then the round ends.
func (r *Round) revoke(e Revoked) {
	if r.facts.terms == nil || r.revoked[e.Member] || !slices.Contains(r.facts.terms.Members, e.Member) {
		return
	}
	r.presence(e)
	r.leaving, r.reason = e.Member, fmt.Sprintf("the machine of %s is not trusted any more: %s", e.Member, e.Why)
	inSet := false
	if r.facts.survivors != nil {
		_, inSet = r.facts.survivors.find(e.Member)
	}
	for _, row := range aggregatorTable {
		if row.State == r.at && row.On == onRevoked && (row.Guard == always || row.Guard == guardInSet == inSet) {
			r.take(row)
			return
		}
	}
}

// leaveOut forgets what a member answered in this phase, as if it had gone away before. What others hold of it (its keys,
// its deal) stays, for they reckon with it. A crash before this Persist: the driver finds the machine untrusted again.
func (r *Round) leaveOut(id MemberID) {
	switch r.at {
	case stGathering:
		delete(r.parties, id)
	case stDealing:
		delete(r.deals, id)
	case stCollecting, stCharging:
		delete(r.uploads, id)
	case stVoting:
		delete(r.votes, id)
	case stReleasing:
		delete(r.releases, id)
	}
	if r.at == stCharging && r.accepted() < r.facts.roster.quorum(r.facts.terms) {
		r.finish(Aborted, fmt.Sprintf("%s; %d uploads are left, want %d", r.reason, r.accepted(), r.facts.roster.quorum(r.facts.terms)))
		return
	}
	if !r.advance(false) {
		r.persist()
	}
}

func (r *Round) emit(e ...Effect) { r.out = append(r.out, e...) }

func (r *Round) refuse(s Signed, reason string) {
	who := s.From
	if len(who) > maxName {
		who = who[:maxName]
	}
	r.emit(Refuse{From: who, Reason: reason})
}

// row is the transition that the state waits for: its first.
func (r *Round) row() (Transition, bool) {
	for _, row := range aggregatorTable {
		if row.State == r.at {
			return row, true
		}
	}
	return Transition{}, false
}

func (r *Round) begin() {
	if r.restored {
		r.resume()
		return
	}
	r.event(onBegin)
}

func (r *Round) event(on string) {
	for _, row := range aggregatorTable {
		if row.State == r.at && row.On == on {
			r.take(row)
			return
		}
	}
}

// advance takes the row of the state if its guard holds, and reports it.
func (r *Round) advance(deadline bool) bool {
	row, ok := r.row()
	if !ok || row.Of == "" || !r.holds(row, deadline) {
		return false
	}
	r.take(row)
	return true
}

func (r *Round) expire(p Phase) {
	row, ok := r.row()
	if !ok || row.Missed == "" || p != row.Phase || r.advance(true) {
		return // an old deadline, or the phase goes on with who is there
	}
	r.finish(row.Missed, fmt.Sprintf("%s: %d of %d needed answered in time; missing: %s", row.Phase, r.count(row), r.needs(row), r.missing(row)))
}

func (r *Round) missing(row Transition) string {
	var names []string
	for _, id := range r.population(row.Of) {
		if !r.answered(row.On, id) {
			names = append(names, string(id))
		}
	}
	if len(names) == 0 {
		return "nobody"
	}
	return strings.Join(names, ", ")
}

// holds evaluates a guard. One that needs no waiting holds as soon as its need is met.
func (r *Round) holds(row Transition, deadline bool) bool {
	switch row.Guard {
	case guardMinimum, guardQuorum:
		return r.count(row) >= r.needs(row) && (deadline || r.allPresent(row))
	case guardVotes:
		return r.count(row) >= r.needs(row)
	case guardShares:
		return r.enoughShares()
	}
	return false
}

func (r *Round) needs(row Transition) int {
	switch row.Guard {
	case guardMinimum:
		return r.facts.terms.Minimum
	case guardQuorum:
		return r.facts.roster.quorum(r.facts.terms)
	default:
		return r.facts.roster.threshold
	}
}

func (r *Round) count(row Transition) int {
	n := 0
	for _, id := range r.population(row.Of) {
		if r.answered(row.On, id) {
			n++
		}
	}
	return n
}

func (r *Round) allPresent(row Transition) bool {
	for _, id := range r.population(row.Of) {
		if !r.away[id] && !r.answered(row.On, id) {
			return false
		}
	}
	return true
}

func (r *Round) population(of Population) []MemberID {
	var ids []MemberID
	switch of {
	case ofMembers:
		ids = r.facts.terms.Members
	case ofCommittee:
		for _, p := range r.facts.committee.parties {
			ids = append(ids, p.id)
		}
	case ofRoster:
		for _, d := range r.facts.roster.dealers {
			ids = append(ids, d.id)
		}
	}
	return ids
}

func (r *Round) answered(kind string, id MemberID) bool {
	var ok bool
	switch kind {
	case "ready":
		_, ok = r.parties[id]
	case "deal":
		_, ok = r.deals[id]
	case "upload":
		u, found := r.uploads[id]
		ok = found && u.accepted
	case "vote":
		_, ok = r.votes[id]
	case "release":
		_, ok = r.releases[id]
	}
	return ok
}

// enoughShares wants t shares of every deal: t releases, and more where holders complained.
func (r *Round) enoughShares() bool {
	for _, d := range r.facts.roster.dealers {
		if len(r.holders(d.id)) < r.facts.roster.threshold {
			return false
		}
	}
	return true
}

// holders are those who released a good share of a dealer, sorted as the committee.
func (r *Round) holders(dealer MemberID) []MemberID {
	var ids []MemberID
	for _, d := range r.facts.roster.dealers {
		rel, ok := r.releases[d.id]
		if !ok {
			continue
		}
		_, seed := rel.seeds[dealer]
		_, key := rel.keys[dealer]
		if seed || key {
			ids = append(ids, d.id)
		}
	}
	return ids
}

// accepted counts the uploads that a proposal would hold.
func (r *Round) accepted() int {
	n := 0
	for _, u := range r.uploads {
		if u.accepted {
			n++
		}
	}
	return n
}

// receive takes a foreign message.
func (r *Round) receive(s Signed) {
	if r.revoked[s.From] {
		r.refuse(s, fmt.Sprintf("%s from %q, whose machine was refused in this round", s.Kind, s.From))
		return
	}
	if r.seen[taken{s.From, s.Digest()}] {
		r.again(s)
		return
	}
	if r.surplus(s.Kind) {
		return
	}
	row, ok := r.row()
	if !ok || row.Of == "" || row.On != s.Kind {
		r.refuse(s, fmt.Sprintf("%s while %s", quoted(s.Kind), r.at))
		return
	}
	if err := r.store(s); err != nil {
		r.refuse(s, err.Error())
		return
	}
	r.seen[taken{s.From, s.Digest()}] = true
	switch s.Kind {
	case "upload":
		r.askAccept(s.From)
	case "vote":
		if !r.advance(false) {
			r.persist()
		}
	default:
		r.advance(false)
	}
}

// surplus says that a kind was waited for until enough came, and the honest rest may still be on their way.
func (r *Round) surplus(kind string) bool {
	switch r.at {
	case stReleasing:
		return kind == "vote"
	case stOpening:
		return kind == "vote" || kind == "release"
	}
	return false
}

// again answers a message that was taken before: only an upload whose vector was not accepted yet
// asks for something.
func (r *Round) again(s Signed) {
	if u, ok := r.uploads[s.From]; ok && r.at == stCollecting && !u.accepted && u.signed.Digest() == s.Digest() {
		r.askAccept(s.From)
	}
}

func (r *Round) askAccept(id MemberID) {
	u := r.uploads[id]
	r.emit(Accept{Member: id, Vector: u.upload.Vector, Charge: u.upload.Charge})
}

// store checks a message of a member and keeps the first of its kind: a second one is a second answer.
func (r *Round) store(s Signed) error {
	f := r.facts
	once := func(taken bool) error {
		if taken {
			return fmt.Errorf("a second %s from %q", s.Kind, s.From)
		}
		return nil
	}
	switch s.Kind {
	case "ready":
		p, err := checkReady(s, f.terms, r.keys)
		if err != nil {
			return err
		}
		_, taken := r.parties[p.id]
		if err := once(taken); err != nil {
			return err
		}
		return r.storeParty(p)
	case "deal":
		d, err := checkDeal(s, f.committee)
		if err != nil {
			return err
		}
		_, taken := r.deals[d.id]
		if err := once(taken); err != nil {
			return err
		}
		r.deals[d.id] = d
	case "upload":
		c, err := checkUpload(s, f.terms, f.roster)
		if err != nil {
			return err
		}
		_, taken := r.uploads[c.id]
		if err := once(taken); err != nil {
			return err
		}
		r.uploads[c.id] = &upload{contribution: c}
	case "vote":
		if err := checkVote(s, f.roster, f.survivors); err != nil {
			return err
		}
		_, taken := r.votes[s.From]
		if err := once(taken); err != nil {
			return err
		}
		r.votes[s.From] = s
	case "release":
		return r.storeRelease(s)
	}
	return nil
}

// storeParty keeps a Ready unless it shows a key that another shows: it would spoil the Committee for all.
func (r *Round) storeParty(p party) error {
	others := []party{p}
	for _, q := range r.parties {
		others = append(others, q)
	}
	slices.SortFunc(others[1:], func(a, b party) int { return strings.Compare(string(a.id), string(b.id)) })
	if err := checkParties(others); err != nil {
		return err
	}
	r.parties[p.id] = p
	return nil
}

func (r *Round) accept(e Uploaded) {
	u, ok := r.uploads[e.Member]
	if r.at != stCollecting || !ok || u.accepted || len(e.Promise) > maxPromise {
		return
	}
	u.accepted, u.promise = true, bytes.Clone(e.Promise)
	// A crash before this Persist costs nothing: the member sends its Upload again.
	if !r.advance(false) {
		r.persist()
	}
}

func (r *Round) charged(e Charged) {
	if r.at != stCharging {
		return
	}
	if _, err := checkCharge(e.Charge, r.facts.terms, r.facts.roster); err != nil {
		r.finish(Aborted, "the coordinator's own "+err.Error())
		return
	}
	r.charge = bytes.Clone(e.Charge)
	r.event(onCharged)
}

// take does the actions of a row. The state is the next one from here on, so that a Persist among
// the actions restores into it.
func (r *Round) take(row Transition) {
	r.at = row.Next
	for _, a := range row.Then {
		if err := r.do(a); err != nil {
			r.fail(err)
			return
		}
		if r.at != row.Next {
			return // the action ended the round
		}
	}
}

// fail ends the round for a reason of ours: no entropy, no signature.
func (r *Round) fail(err error) {
	if r.facts.terms == nil {
		r.at = stEnded
		r.emit(End{Result: Result{Outcome: Aborted, Why: why(err.Error())}})
		return
	}
	if r.facts.certificate != nil {
		r.finish(Burnt, err.Error())
		return
	}
	r.finish(Aborted, err.Error())
}

func (r *Round) do(a Action) error {
	switch a {
	case doPlan:
		return r.signPlan()
	case doCommittee:
		return r.signCommittee()
	case doRoster:
		return r.signRoster()
	case doWeigh:
		r.weigh()
	case doAskCharge:
		r.emit(ChargeLedger{Charge: newCharge(r.facts.terms, r.facts.roster)})
	case doProposal:
		return r.signProposal()
	case doCertificate:
		return r.signCertificate()
	case doJoin:
		return r.join()
	case doOpen:
		return r.open()
	case doResult:
		return r.signResult(Result{
			Plan: r.facts.terms.digest, Certificate: r.facts.certificate.digest, Outcome: Closed,
			Model: r.ending.Model, Sum: r.ending.Sum, Excluded: r.excluded,
		})
	case doLeaveOut:
		r.leaveOut(r.leaving)
	case doAbort:
		r.finish(Aborted, r.reason)
	case doBurn:
		r.finish(Burnt, r.reason)
	case doPersist:
		r.persist()
	case doSend:
		r.emit(Send{Message: r.last()})
	case doWait:
		r.wait()
	case doRecordPlan:
		r.record("plan", r.last().Digest())
	case doRecordSpent:
		r.record("charge", signed.Digest(r.charge))
	case doRecordSet:
		r.record("set", r.last().Digest())
	case doRecordEnd:
		r.record("result", r.last().Digest())
	case doErase:
		r.erase()
	case doEnd:
		return r.end()
	default:
		return fmt.Errorf("no aggregator does %q", a)
	}
	return nil
}

func (r *Round) last() Signed { return r.chain[len(r.chain)-1] }

func (r *Round) record(kind string, object [32]byte) { r.emit(Record{Kind: kind, Object: object}) }

func (r *Round) wait() {
	d := r.facts.terms.Deadlines
	ms := map[Phase]uint32{Gathering: d.Ready, Dealing: d.Deal, Collecting: d.Upload, Voting: d.Vote, Releasing: d.Release}[r.Phase()]
	r.emit(Wait{Phase: r.Phase(), For: time.Duration(ms) * time.Millisecond})
}

func (r *Round) sign(m Message) (Signed, error) {
	s, err := SignMessage("", m, r.signer)
	if err != nil {
		return Signed{}, err
	}
	r.chain = append(r.chain, s)
	return s, nil
}

func (r *Round) signPlan() error {
	s, err := r.sign(*r.draft)
	if err != nil {
		return err
	}
	r.facts.terms = &terms{Plan: *r.draft, signed: s, digest: s.Digest()}
	r.draft = nil
	return nil
}

func (r *Round) signCommittee() error {
	p := r.facts.terms
	c, t, err := Thresholds(len(p.Members), len(r.parties), p.Minimum)
	if err != nil {
		return err
	}
	m, next := Committee{Plan: p.digest, Colluding: c, Threshold: t}, &committee{terms: p, threshold: t}
	for _, id := range p.Members {
		if q, ok := r.parties[id]; ok {
			m.Readys, next.parties = append(m.Readys, q.signed), append(next.parties, q)
		}
	}
	s, err := r.sign(m)
	next.digest = s.Digest()
	r.facts.committee = next
	return err
}

func (r *Round) signRoster() error {
	m, next := Roster{Committee: r.facts.committee.digest}, &roster{committee: r.facts.committee}
	for _, id := range r.facts.terms.Members {
		if d, ok := r.deals[id]; ok {
			m.Deals, next.dealers = append(m.Deals, d.signed), append(next.dealers, d)
		}
	}
	s, err := r.sign(m)
	next.digest = s.Digest()
	r.facts.roster = next
	return err
}

// weigh counts the complaints about each dealer. More than c of them cannot all be lies, so that
// dealer is left out of the study; up to c may be, and nobody is. Either way a deal that fewer than
// t members hold good shares of cannot be opened, and the round ends before anything is.
func (r *Round) weigh() {
	about := map[MemberID]int{}
	for _, u := range r.uploads {
		if u.accepted {
			for _, d := range u.upload.Complaints {
				about[d]++
			}
		}
	}
	var unopened []string
	for _, d := range r.facts.roster.dealers {
		if about[d.id] > r.facts.terms.Colluding {
			r.excluded = append(r.excluded, d.id)
		}
		if len(r.facts.roster.dealers)-about[d.id] < r.facts.roster.threshold {
			unopened = append(unopened, string(d.id))
		}
	}
	if len(unopened) > 0 {
		r.finish(Aborted, "too few hold good shares of the deals of "+strings.Join(unopened, ", "))
	}
}

func (r *Round) signProposal() error {
	m, next := Proposal{Roster: r.facts.roster.digest, Charge: r.charge}, &survivors{}
	for _, d := range r.facts.roster.dealers {
		if u, ok := r.uploads[d.id]; ok && u.accepted {
			m.Contributions = append(m.Contributions, Contribution{Upload: u.signed, Promise: u.promise})
			next.contributions = append(next.contributions, u.contribution)
		}
	}
	s, err := r.sign(m)
	next.digest = s.Digest()
	r.facts.survivors = next
	return err
}

// signCertificate makes the opening key: one that lived longer would let a later look into the
// coordinator's memory strip the noise from every recorded round.
func (r *Round) signCertificate() error {
	key, err := newOpening(r.entropy)
	if err != nil {
		return err
	}
	m := Certificate{Proposal: r.facts.survivors.digest, Opening: key.PublicKey().Bytes()}
	next := &certificate{opening: key.PublicKey()}
	for _, d := range r.facts.roster.dealers {
		if v, ok := r.votes[d.id]; ok {
			m.Votes, next.voters = append(m.Votes, v), append(next.voters, d.id)
		}
	}
	s, err := r.sign(m)
	if err != nil {
		return err
	}
	next.digest = s.Digest()
	r.facts.certificate, r.opening = next, key
	return nil
}

// storeRelease opens a Release and checks every share against the commitment of its dealer's Deal.
// A share that does not match is its holder's fault: an honest holder has none to release.
func (r *Round) storeRelease(s Signed) error {
	f := r.facts
	m, err := from[Release](s, f.committee)
	if err != nil {
		return err
	}
	if _, ok := f.roster.dealer(s.From); !ok {
		return fmt.Errorf("release from %q, who did not deal", s.From)
	}
	if m.Certificate != f.certificate.digest {
		return fmt.Errorf("release from %q answers another certificate", s.From)
	}
	if _, taken := r.releases[s.From]; taken {
		return fmt.Errorf("a second release from %q", s.From)
	}
	plain, err := openRelease(r.opening, f.certificate.digest, s.From, m.Sealed)
	if err != nil {
		return fmt.Errorf("release from %q does not open", s.From)
	}
	defer clear(plain)
	rel, err := f.readRelease(plain, s.From)
	if err != nil {
		return fmt.Errorf("release from %q: %w", s.From, err)
	}
	r.releases[s.From] = rel
	return nil
}

// join restores every secret that the certified set allows: the seed of who uploaded, the mask key of
// who did not. The opening key has done its work then.
func (r *Round) join() error {
	defer func() { r.opening = nil }()
	f := r.facts
	key := &unmaskKey{plan: f.terms.digest, set: len(f.survivors.contributions)}
	var j joiner
	var culprits []string
	for i := range f.roster.dealers {
		d := &f.roster.dealers[i]
		streams, err := r.streamsOf(d, &j)
		if err != nil {
			r.excluded = append(r.excluded, d.id)
			culprits = append(culprits, string(d.id))
			continue
		}
		key.streams = append(key.streams, streams...)
	}
	if len(culprits) > 0 {
		key.erase()
		slices.Sort(r.excluded)
		r.excluded = slices.Compact(r.excluded)
		r.finish(Burnt, "shares that match their commitments do not open the deals of "+strings.Join(culprits, ", "))
		return nil
	}
	r.unmask = key
	return nil
}

// joiner keeps the weights of the last set of holders: it is the same for most dealers.
type joiner struct {
	holders []MemberID
	weights []uint64
}

func (j *joiner) of(holders []MemberID, c *committee) []uint64 {
	if !slices.Equal(j.holders, holders) {
		points := make([]uint64, len(holders))
		for i, id := range holders {
			at, _ := c.find(id)
			points[i] = uint64(at + 1)
		}
		j.holders, j.weights = holders, weights(points)
	}
	return j.weights
}

// streamsOf are the streams to add so that what dealer d brought into the sum is gone.
func (r *Round) streamsOf(d *dealt, j *joiner) ([]stream, error) {
	holders := r.holders(d.id)[:r.facts.roster.threshold]
	w := j.of(holders, r.facts.committee)
	if _, ok := r.facts.survivors.find(d.id); ok {
		return r.seedStream(d, holders, w)
	}
	return r.pairStreams(d, holders, w)
}

func (r *Round) seedStream(d *dealt, holders []MemberID, w []uint64) ([]stream, error) {
	var parts [2][]share
	for _, h := range holders {
		s := r.releases[h].seeds[d.id]
		parts[0], parts[1] = append(parts[0], s[0]), append(parts[1], s[1])
	}
	seed, err := join(w, parts[0])
	if err != nil {
		return nil, err
	}
	defer clear(seed[:])
	opening, err := join(w, parts[1])
	if err != nil {
		return nil, err
	}
	if seedCommitment(r.facts.committee.digest, d.id, seed, opening) != d.deal.Seed {
		return nil, fmt.Errorf("shares of %q do not open to its seed", d.id)
	}
	return []stream{{key: selfMask(seed[:], r.facts.roster.digest), minus: true}}, nil
}

// pairStreams are a dropped dealer's streams with each survivor, in whose words they are left over.
func (r *Round) pairStreams(d *dealt, holders []MemberID, w []uint64) ([]stream, error) {
	shares := make([]share, len(holders))
	for i, h := range holders {
		shares[i] = r.releases[h].keys[d.id]
	}
	secret, err := join(w, shares)
	if err != nil {
		return nil, err
	}
	defer clear(secret[:])
	own, err := ecdh.X25519().NewPrivateKey(secret[:])
	if err != nil {
		return nil, err
	}
	if dealer := r.facts.committee.parties[d.party]; !bytes.Equal(own.PublicKey().Bytes(), dealer.ready.MaskKey[:]) {
		return nil, fmt.Errorf("shares of %q do not open to its mask key", d.id)
	}
	var streams []stream
	for _, u := range r.facts.survivors.contributions {
		i, _ := r.facts.committee.find(u.id)
		shared, err := agree(own, r.facts.committee.parties[i].ready.MaskKey)
		if err != nil {
			return nil, err
		}
		key := pairMask(shared, r.facts.roster.digest, u.id, d.id, r.facts.terms)
		clear(shared)
		streams = append(streams, stream{key: key, minus: adds(u.id, d.id)})
	}
	return streams, nil
}

// adds says whether a member adds its stream with a peer: the lower of two names does, the higher subtracts.
func adds(self, peer MemberID) bool { return self < peer }

// open hands the driver the sum. Under central noise its key comes from fresh entropy and from every release that opened.
func (r *Round) open() error {
	e := Open{Set: r.facts.survivors.ids(), Opening: UnmaskKey{key: r.unmask}}
	if r.facts.terms.Noise.Source == Aggregator {
		var entropy [32]byte
		defer clear(entropy[:])
		if _, err := io.ReadFull(r.entropy, entropy[:]); err != nil {
			return fmt.Errorf("making the noise key: %w", err)
		}
		var random [][32]byte
		for _, d := range r.facts.roster.dealers {
			if rel, ok := r.releases[d.id]; ok {
				random = append(random, rel.random)
			}
		}
		e.NoiseKey = centralNoiseKey(entropy[:], random, r.facts.certificate.digest, r.facts.terms.Round)
		clear(random)
	}
	r.forgetReleases()
	r.emit(e)
	return nil
}

func (r *Round) signResult(m Result) error {
	_, err := r.sign(m)
	return err
}

// finish ends a round that did not close.
func (r *Round) finish(outcome Outcome, reason string) {
	m := Result{Plan: r.facts.terms.digest, Outcome: outcome, Model: r.facts.terms.Model, Excluded: r.excluded, Why: why(reason)}
	if outcome == Burnt {
		m.Certificate = r.facts.certificate.digest
	}
	r.at = stEnded
	if err := r.signResult(m); err != nil {
		m.Why = why(reason + "; " + err.Error())
		r.erase()
		r.emit(End{Result: m})
		return
	}
	r.persist()
	r.record("result", r.last().Digest())
	r.emit(Send{Message: r.last()})
	r.erase()
	r.emit(End{Result: m})
}

func why(s string) string {
	s = strings.ToValidUTF8(s, "")
	if len(s) > maxWhy {
		s = strings.ToValidUTF8(s[:maxWhy], "")
	}
	return s
}

func (r *Round) end() error {
	m, err := verify[Result](r.last(), r.keys.Coordinator())
	if err != nil {
		return err
	}
	r.emit(End{Result: m})
	return nil
}

func (r *Round) erase() {
	if r.unmask != nil {
		r.unmask.erase()
	}
	r.unmask, r.opening = nil, nil
	r.forgetReleases()
}

func (r *Round) forgetReleases() {
	for _, rel := range r.releases {
		clear(rel.seeds)
		clear(rel.keys)
		clear(rel.random[:])
	}
	clear(r.releases)
}
