package aggregate

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ed25519"
	"fmt"
	"io"
	"slices"
)

// MemberConfig is what a member's machine needs.
type MemberConfig struct {
	Self      MemberID
	Enrolment []byte // own enrolment file
	Want      Plan   // computed from the own study.yaml; Round.Number, Model, Ledger and Deadlines are not compared
	Keys      Keyring
	Signer    crypto.Signer             // node key
	Entropy   io.Reader                 // crypto/rand.Reader; a simulation's constructor may seed it
	Noise     func(key [32]byte) Noiser // dp.Mechanism.Keyed of the share; never nil under Members
}

func (c MemberConfig) check() error {
	id, key, err := c.Keys.Member(c.Enrolment)
	if err != nil {
		return fmt.Errorf("own enrolment: %w", err)
	}
	if id != c.Self {
		return fmt.Errorf("own enrolment is of %q, want %q", id, c.Self)
	}
	if pub, ok := c.Signer.Public().(ed25519.PublicKey); !ok || !pub.Equal(key) {
		return fmt.Errorf("the signer is not the node key of the own enrolment")
	}
	if c.Want.Noise.Source == Members && c.Noise == nil {
		return fmt.Errorf("no noise, where members add it")
	}
	return nil
}

// Member is a hospital's machine for one round. It is not safe for concurrent use, but Mask and Step
// may be called from different goroutines one after the other.
//
// A fresh or restored Member is first stepped with Begin. Mask key, seal key, seed, noise and shares
// are in memory only, and gone once they are used: what comes again after a restart gets no new answer.
type Member struct {
	cfg   MemberConfig
	at    State
	facts facts

	mask, seal *ecdh.PrivateKey    // one-time; the library's copies go with the collector
	agreed     map[MemberID][]byte // X25519 of the seal keys
	seed       [32]byte
	held       map[MemberID]*pieces // shares, by dealer; the own among them
	complaints []MemberID
	masker     masker
	charge     []byte
	vector     [32]byte
	ending     Result

	// What was answered, by the digest of the message it answers: sent again, never made again.
	answers map[[32]byte]Effect
	stored  memberState

	out []Effect
}

// NewMember checks the coordinator's Plan against the own study and returns a machine for its round.
// The caller has checked the round number (RoundID.After) and stored it.
func NewMember(c MemberConfig, plan Signed) (*Member, error) {
	m, err := newMember(c, plan)
	if err != nil {
		return nil, fmt.Errorf("taking a plan: %w", err)
	}
	m.at = stCalled
	return m, nil
}

func newMember(c MemberConfig, plan Signed) (*Member, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	p, err := checkPlan(plan, c.Keys)
	if err != nil {
		return nil, err
	}
	if err := p.agrees(c.Want); err != nil {
		return nil, err
	}
	if !slices.Contains(p.Members, c.Self) {
		return nil, fmt.Errorf("%q is no member of the study", c.Self)
	}
	p.own.key, _ = c.Signer.Public().(ed25519.PublicKey) // check has looked
	return &Member{
		cfg: c, facts: facts{terms: p}, stored: memberState{Plan: plan},
		agreed: map[MemberID][]byte{}, held: map[MemberID]*pieces{}, answers: map[[32]byte]Effect{},
	}, nil
}

// Plan returns the plan of the round.
func (m *Member) Plan() Plan { return m.facts.terms.Plan }

// Phase returns where the member stands.
func (m *Member) Phase() Phase { return phaseOf(memberTable, m.at) }

// Mask writes the masked words of x, which starts at word offset, little endian, adding the noise
// share where the plan says so. It works between FillSpool and Spooled; each word is masked once, in
// order: an offset masked twice is refused.
func (m *Member) Mask(dst []byte, offset int, x []int64) error {
	if m.at != stSpooling {
		return fmt.Errorf("masking from word %d: the member is %s, want %s", offset, m.at, stSpooling)
	}
	return m.masker.mask(dst, offset, x)
}

// Step takes an event and returns what is to be done, in order. It is total, as Round's is. Expired,
// whatever its phase, gives the round up.
func (m *Member) Step(e Event) []Effect {
	m.out = nil
	if m.at == stEnded {
		return nil
	}
	switch e := e.(type) {
	case Begin:
		m.event(onBegin)
	case Trained:
		m.event(onTrained)
	case Charged:
		m.charged(e)
	case ChargeRefused:
		m.event(onDeclined)
	case Spooled:
		m.spooled(e)
	case Received:
		m.receive(e.Message)
	case Expired:
		m.giveUp("given up by its driver")
	}
	return m.out
}

func (m *Member) emit(e ...Effect) { m.out = append(m.out, e...) }

func (m *Member) charged(e Charged) {
	if m.at != stCharging {
		return
	}
	if _, err := checkCharge(e.Charge, m.facts.terms, m.facts.roster); err != nil {
		m.giveUp("the own " + err.Error())
		return
	}
	m.charge = bytes.Clone(e.Charge)
	m.event(onCharged)
}

func (m *Member) spooled(e Spooled) {
	if m.at != stSpooling {
		return
	}
	if !m.masker.whole() {
		m.giveUp("the spool is not whole")
		return
	}
	m.vector = e.Vector
	m.event(onSpooled)
}

// event takes the row of an event, if the state has one and its guard holds.
func (m *Member) event(on string) {
	if row, ok := m.row(on); ok {
		m.take(row, Signed{})
	}
}

// row is the first transition of the state for a kind or an event whose guard holds.
func (m *Member) row(on string) (Transition, bool) {
	for _, row := range memberTable {
		if (row.State == m.at || row.State == stAny) && row.On == on && m.holds(row.Guard) {
			return row, true
		}
	}
	return Transition{}, false
}

func (m *Member) holds(g Guard) bool {
	switch g {
	case always:
		return true
	case guardWholePass:
		return m.masker.whole()
	case guardNamed, guardNotNamed:
		return m.named() == (g == guardNamed)
	}
	return false
}

// named says whether the newest of Committee and Roster lists the member.
func (m *Member) named() bool {
	if m.facts.roster != nil {
		_, ok := m.facts.roster.dealer(m.cfg.Self)
		return ok
	}
	_, ok := m.facts.committee.find(m.cfg.Self)
	return ok
}

// receive takes a message of the coordinator. One that was answered gets the same answer again: a
// coordinator that restarted may have lost it.
func (m *Member) receive(s Signed) {
	if answer, ok := m.answers[s.Digest()]; ok {
		if answer != nil {
			m.emit(answer)
		}
		return
	}
	if !m.expects(s.Kind) {
		m.refuse(s, fmt.Sprintf("%s while %s", quoted(s.Kind), m.at))
		return
	}
	if err := m.check(s); err != nil {
		m.refuse(s, err.Error())
		return
	}
	if row, ok := m.row(s.Kind); ok {
		m.answers[s.Digest()] = nil
		m.take(row, s)
	}
}

func (m *Member) expects(kind string) bool {
	return slices.ContainsFunc(memberTable, func(t Transition) bool {
		return (t.State == m.at || t.State == stAny) && t.On == kind
	})
}

func (m *Member) refuse(s Signed, reason string) {
	who := s.From
	if len(who) > maxName {
		who = who[:maxName]
	}
	m.emit(Refuse{From: who, Reason: reason})
}

// check believes a message or says why not; only a message that holds up changes the facts.
func (m *Member) check(s Signed) error {
	f, keys := &m.facts, m.cfg.Keys
	switch s.Kind {
	case "committee":
		c, err := checkCommittee(s, f.terms, keys)
		if err != nil {
			return err
		}
		if i, ok := c.find(m.cfg.Self); ok && c.parties[i].signed.Digest() != m.answer(f.terms.digest) {
			return fmt.Errorf("committee shows another ready of ours")
		}
		f.committee = c
	case "roster":
		r, err := checkRoster(s, f.terms, f.committee, keys)
		if err != nil {
			return err
		}
		if d, ok := r.dealer(m.cfg.Self); ok && d.signed.Digest() != m.answer(f.committee.digest) {
			return fmt.Errorf("roster shows another deal of ours")
		}
		f.roster = r
	case "proposal":
		v, err := checkProposal(s, f.terms, f.roster, keys)
		if err != nil {
			return err
		}
		if c, ok := v.find(m.cfg.Self); ok && (m.stored.Upload == nil || c.signed.Digest() != m.stored.Upload.Digest()) {
			return fmt.Errorf("proposal shows an upload of ours that we did not send")
		}
		f.survivors = v
	case "certificate":
		c, err := checkCertificate(s, f.roster, f.survivors, keys)
		if err != nil {
			return err
		}
		f.certificate = c
	case onResult:
		var seen [32]byte
		if f.certificate != nil {
			seen = f.certificate.digest
		}
		var err error
		m.ending, err = checkResult(s, f.terms, seen, keys)
		return err
	default:
		return fmt.Errorf("a member takes no %s", quoted(s.Kind))
	}
	return nil
}

// answer is the digest of what we sent in answer to a message, zero if nothing.
func (m *Member) answer(to [32]byte) [32]byte {
	if s, ok := m.answers[to].(Send); ok {
		return s.Message.Digest()
	}
	return [32]byte{}
}

func (m *Member) take(row Transition, s Signed) {
	m.at = row.Next
	for _, a := range row.Then {
		if err := m.do(a, s); err != nil {
			m.giveUp(err.Error())
			return
		}
	}
}

// giveUp erases everything. The other side sees a member that no longer answers.
func (m *Member) giveUp(reason string) {
	res := Result{Plan: m.facts.terms.digest, Outcome: Aborted, Model: m.facts.terms.Model, Why: why(reason)}
	if m.facts.certificate != nil {
		res.Outcome, res.Certificate = Burnt, m.facts.certificate.digest
	}
	m.erase()
	m.at = stEnded
	m.emit(End{Result: res})
}

// do does an action; s is the message that moved the machine.
func (m *Member) do(a Action, s Signed) error {
	switch a {
	case doTrain:
		m.emit(StartTraining{Plan: m.facts.terms.Plan})
	case doReady:
		return m.makeReady()
	case doDeal:
		return m.makeDeal(s)
	case doOpenBoxes:
		m.openBoxes()
	case doMasks:
		return m.makeMasks()
	case doAskCharge:
		m.emit(ChargeLedger{Charge: newCharge(m.facts.terms, m.facts.roster)})
	case doFill:
		m.emit(FillSpool{})
	case doForgetMasks:
		m.forgetMasks()
	case doUpload:
		return m.makeUpload()
	case doSendVector:
		e := SendVector{Upload: *m.stored.Upload}
		if m.facts.roster != nil {
			m.answers[m.facts.roster.digest] = e
		}
		m.emit(e)
	case doVote:
		return m.makeVote(s)
	case doRelease:
		return m.makeRelease(s)
	case doPersist:
		m.emit(Persist{State: encode(m.stored)})
	case doSend:
		m.emit(m.latest())
	case doForgetShares:
		m.forgetShares()
	case doErase:
		m.erase()
	case doEnd:
		m.emit(End{Result: m.ending})
	default:
		return fmt.Errorf("no member does %q", a)
	}
	return nil
}

// sign makes the answer to a message. It is sent by the Send of its row, after what has to be durable.
func (m *Member) sign(to [32]byte, msg Message) (Signed, error) {
	s, err := SignMessage(m.cfg.Self, msg, m.cfg.Signer)
	if err != nil {
		return Signed{}, err
	}
	m.answers[to] = Send{Message: s}
	m.facts.terms.own.sent = append(m.facts.terms.own.sent, s)
	return s, nil
}

// latest is the newest answer.
func (m *Member) latest() Effect {
	f := m.facts
	switch {
	case f.certificate != nil:
		return m.answers[f.certificate.digest]
	case f.survivors != nil:
		return m.answers[f.survivors.digest]
	case f.committee != nil:
		return m.answers[f.committee.digest]
	}
	return m.answers[f.terms.digest]
}

func (m *Member) makeReady() error {
	var err error
	if m.mask, err = newKey(m.cfg.Entropy); err != nil {
		return err
	}
	if m.seal, err = newKey(m.cfg.Entropy); err != nil {
		return err
	}
	_, err = m.sign(m.facts.terms.digest, Ready{
		Plan: m.facts.terms.digest, Enrolment: m.cfg.Enrolment,
		MaskKey: [32]byte(m.mask.PublicKey().Bytes()), SealKey: [32]byte(m.seal.PublicKey().Bytes()),
	})
	return err
}

func (m *Member) makeDeal(s Signed) error {
	if _, err := io.ReadFull(m.cfg.Entropy, m.seed[:]); err != nil {
		return fmt.Errorf("making the self seed: %w", err)
	}
	for _, p := range m.facts.committee.parties {
		if p.id == m.cfg.Self {
			continue
		}
		shared, err := agree(m.seal, p.ready.SealKey)
		if err != nil {
			return fmt.Errorf("agreeing with %q: %w", p.id, err)
		}
		m.agreed[p.id] = shared
	}
	d := dealing{self: m.cfg.Self, committee: m.facts.committee, seed: m.seed, mask: m.mask, agreed: m.agreed, entropy: m.cfg.Entropy}
	deal, own, err := d.deal()
	clear(d.seed[:])
	if err != nil {
		return err
	}
	m.held[m.cfg.Self] = &own
	_, err = m.sign(s.Digest(), deal)
	return err
}

// openBoxes keeps the good shares and names the dealers of the others: they are not asked of us later.
func (m *Member) openBoxes() {
	r := m.facts.roster
	self, _ := r.find(m.cfg.Self)
	for _, d := range r.dealers {
		if d.id == m.cfg.Self {
			continue
		}
		p, err := openShare(m.agreed[d.id], m.facts.committee, d.id, m.cfg.Self, d.deal.Shares[self])
		if err != nil {
			m.complaints = append(m.complaints, d.id)
			continue
		}
		m.held[d.id] = &p
	}
	m.forgetSeal()
}

func (m *Member) forgetSeal() {
	for _, shared := range m.agreed {
		clear(shared)
	}
	clear(m.agreed)
	m.seal = nil
}

func (m *Member) makeMasks() error {
	p, r := m.facts.terms, m.facts.roster
	k := masker{dim: p.Dim, wordBits: p.WordBits, streams: []stream{{key: selfMask(m.seed[:], r.digest)}}}
	for _, d := range r.dealers {
		if d.id == m.cfg.Self {
			continue
		}
		shared, err := agree(m.mask, r.parties[d.party].ready.MaskKey)
		if err != nil {
			return fmt.Errorf("agreeing with %q: %w", d.id, err)
		}
		key := pairMask(shared, r.digest, m.cfg.Self, d.id, p)
		clear(shared)
		k.streams = append(k.streams, stream{key: key, minus: !adds(m.cfg.Self, d.id)})
	}
	if p.Noise.Source == Members {
		var key [32]byte
		defer clear(key[:])
		if _, err := io.ReadFull(m.cfg.Entropy, key[:]); err != nil {
			return fmt.Errorf("making the noise key: %w", err)
		}
		if k.noise = m.cfg.Noise(key); k.noise == nil {
			return fmt.Errorf("no noise, where members add it")
		}
	}
	m.masker = k
	return nil
}

func (m *Member) forgetMasks() {
	m.mask = nil
	clear(m.seed[:])
	m.masker.erase()
}

func (m *Member) makeUpload() error {
	s, err := SignMessage(m.cfg.Self, Upload{
		Roster: m.facts.roster.digest, Vector: m.vector, Charge: m.charge, Complaints: m.complaints,
	}, m.cfg.Signer)
	m.stored.Upload = &s
	m.facts.terms.own.sent = append(m.facts.terms.own.sent, s)
	return err
}

func (m *Member) makeVote(s Signed) error {
	v, err := m.sign(s.Digest(), Vote{Proposal: s.Digest()})
	m.stored.Vote = &v
	return err
}

func (m *Member) makeRelease(s Signed) error {
	var random [32]byte
	defer clear(random[:])
	if _, err := io.ReadFull(m.cfg.Entropy, random[:]); err != nil {
		return fmt.Errorf("releasing: %w", err)
	}
	plain := m.facts.writeRelease(m.held, random)
	defer clear(plain)
	sealed, err := sealRelease(m.facts.certificate.opening, s.Digest(), m.cfg.Self, plain)
	if err != nil {
		return fmt.Errorf("releasing: %w", err)
	}
	r, err := m.sign(s.Digest(), Release{Certificate: s.Digest(), Sealed: sealed})
	m.stored.Release = &r
	return err
}

func (m *Member) forgetShares() {
	for _, p := range m.held {
		clear(p[:])
	}
	clear(m.held)
}

func (m *Member) erase() {
	m.forgetMasks()
	m.forgetSeal()
	m.forgetShares()
}
