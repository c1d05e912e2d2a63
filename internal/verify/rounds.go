package verify

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/audit"
	"github.com/consilium-fl/consilium/dp"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/terms"
)

// chain are the messages of a round that a folder keeps, in the order in which each answers the one before.
// A round that ended early has its result after as many as it got to.
var chain = []string{"plan", "committee", "roster", "proposal", "certificate", "result"}

const sumFile = "sum.bin"

// round is one round whose transcript holds.
type round struct {
	number   uint64
	dir      string // rounds/0001
	messages map[string]aggregate.Signed
	*aggregate.Verified
	uploads []contribution             // of the proposal
	charge  []byte                     // the coordinator's own; nil without a proposal
	nodes   map[string]study.Enrolment // of the committee
}

// contribution is a member's part of a proposed set.
type contribution struct {
	member   string
	charge   [32]byte
	promised uint64 // index in the log
}

// object is the path of a message.
func (r *round) object(kind string) string { return r.dir + "/" + kind + ".cbor" }

func (r *round) has(kind string) bool { _, ok := r.messages[kind]; return ok }

func (r *round) digest(kind string) [32]byte { return r.messages[kind].Digest() }

// set are the members whose vectors were summed, sorted.
func (r *round) set() []string {
	out := make([]string, len(r.Set))
	for i, m := range r.Set {
		out[i] = string(m)
	}
	return out
}

// checkRounds reads every round: each message against the one that it answers, every signature by the key that
// may make it, each plan against what the study says.
func (c *checker) checkRounds(s *section) {
	var dirs []string
	for _, p := range c.folder.under("rounds") {
		dir, file, ok := strings.Cut(strings.TrimPrefix(p, "rounds/"), "/")
		kind, cbor := strings.CutSuffix(file, ".cbor")
		if !ok || file != sumFile && (!cbor || !slices.Contains(chain, kind)) {
			s.fail(p, "is no file of a round")
			continue
		}
		if !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	found := []*round{}
	for _, dir := range dirs {
		r, object, err := c.readRound("rounds/" + dir)
		if err != nil {
			s.fail(object, "%v", err)
			continue
		}
		found = append(found, r)
	}
	slices.SortFunc(found, func(a, b *round) int { return cmp.Compare(a.number, b.number) })
	outcomes := map[aggregate.Outcome]int{}
	for _, r := range found {
		outcomes[r.Result.Outcome]++
		for _, h := range r.set() {
			c.served[h] = r.nodes[h]
		}
	}
	if !s.ok() {
		return
	}
	c.rounds = found
	s.say("%d closed, %d burnt, %d aborted; every message is signed and answers the one before; every set that was opened has the votes it needs", outcomes[aggregate.Closed], outcomes[aggregate.Burnt], outcomes[aggregate.Aborted])
}

// readRound reads one folder of rounds/. The object is the file at fault.
func (c *checker) readRound(dir string) (*round, string, error) {
	number, err := strconv.ParseUint(strings.TrimPrefix(dir, "rounds/"), 10, 64)
	if err != nil || dir != fmt.Sprintf("rounds/%04d", number) {
		return nil, dir, fmt.Errorf("is not named as round %d is", number)
	}
	r := &round{number: number, dir: dir, messages: map[string]aggregate.Signed{}, nodes: map[string]study.Enrolment{}}
	var transcript []aggregate.Signed
	missing := ""
	for _, kind := range chain {
		if _, ok := c.folder.files[r.object(kind)]; !ok {
			if kind == "plan" || kind == "result" {
				return nil, r.object(kind), errAbsent
			}
			missing = kind
			continue
		}
		if missing != "" && kind != "result" {
			return nil, r.object(missing), fmt.Errorf("is missing, and %s.cbor, which answers it, is there", kind)
		}
		m, err := c.readMessage(r.object(kind), kind)
		if err != nil {
			return nil, r.object(kind), err
		}
		r.messages[kind] = m
		transcript = append(transcript, m)
	}
	at, err := c.planned(r)
	if err != nil {
		return nil, r.object("plan"), err
	}
	keys := terms.Keyring{Consortium: c.consortium, Protocol: c.keys.protocol, At: func() time.Time { return at }}
	if r.Verified, err = aggregate.VerifyTranscript(transcript, keys); err != nil {
		return nil, r.culprit(transcript, keys), err
	}
	if err := c.checkPlan(r, at); err != nil {
		return nil, r.object("plan"), err
	}
	if err := c.checkCommittee(r, at); err != nil {
		return nil, r.object("committee"), err
	}
	if err := c.readProposal(r); err != nil {
		return nil, r.object("proposal"), err
	}
	return r, "", nil
}

func (c *checker) readMessage(path, kind string) (aggregate.Signed, error) {
	b, err := c.folder.read(path, signed.MaxMessage)
	if err != nil {
		return aggregate.Signed{}, err
	}
	return parseMessage(b, kind)
}

// parseMessage reads one signed message, in its only encoding. Its payload is for package aggregate to read.
func parseMessage(b []byte, kind string) (aggregate.Signed, error) {
	var m aggregate.Signed
	if err := signed.Decode(b, &m); err != nil {
		return aggregate.Signed{}, err
	}
	if again, err := signed.Encode(m); err != nil || !bytes.Equal(again, b) {
		return aggregate.Signed{}, errors.New("is not in canonical form")
	}
	if m.Kind != kind {
		return aggregate.Signed{}, fmt.Errorf("holds a message of kind %.16q", m.Kind)
	}
	return m, nil
}

// culprit is the first message that fails with those before it.
func (r *round) culprit(transcript []aggregate.Signed, keys aggregate.Keyring) string {
	for i, m := range transcript[:len(transcript)-1] {
		if err := aggregate.VerifyPrefix(transcript[:i+1], keys); err != nil {
			return r.object(m.Kind)
		}
	}
	return r.object("result")
}

// planned is when the round's plan was logged: the moment at which its enrolments have to hold.
func (c *checker) planned(r *round) (time.Time, error) {
	i, ok := c.log.find(audit.Plan, r.number, coordinatorSubject, r.digest("plan"))
	if !ok {
		return time.Time{}, fmt.Errorf("has no leaf of kind %q in the log", audit.Plan)
	}
	return c.log.leaves[i].Time, nil
}

// checkPlan compares a plan with what the study fixes: all but number, model, ledger and deadlines.
func (c *checker) checkPlan(r *round, at time.Time) error {
	if !c.study.Running(at) {
		return fmt.Errorf("is of %s, and the study runs from %s to %s", at.Format(time.RFC3339), c.study.From.Format(time.RFC3339), c.study.Until.Format(time.RFC3339))
	}
	if r.Plan.Round.Number != r.number {
		return fmt.Errorf("is of round %d", r.Plan.Round.Number)
	}
	want := c.terms.Plan(r.number, r.Plan.Model, r.Plan.Ledger)
	want.Deadlines = r.Plan.Deadlines
	a, errA := signed.Encode(r.Plan)
	b, errB := signed.Encode(want)
	if errA != nil || errB != nil || !bytes.Equal(a, b) {
		return fmt.Errorf("differs from what the study says: got %+v, want %+v", r.Plan, want)
	}
	return nil
}

// checkCommittee holds the nodes that took part to the enrolments of the folder.
func (c *checker) checkCommittee(r *round, at time.Time) error {
	if !r.has("committee") {
		return nil
	}
	m, err := aggregate.Parse(r.messages["committee"])
	if err != nil {
		return err
	}
	for _, s := range m.(aggregate.Committee).Readys {
		x, err := aggregate.Parse(s)
		if err != nil {
			return err
		}
		file := x.(aggregate.Ready).Enrolment
		if err := c.checkNewest(string(s.From), file, at); err != nil {
			return err
		}
		e, err := c.consortium.ParseEnrolment(file, at)
		if err != nil {
			return err
		}
		r.nodes[e.Hospital] = e
	}
	return nil
}

// readProposal takes the charges of a proposed set, each with the log's promise for it.
func (c *checker) readProposal(r *round) error {
	if !r.has("proposal") {
		return nil
	}
	r.charge = r.Proposal.Charge
	for _, x := range r.Proposal.Contributions {
		m, err := aggregate.Parse(x.Upload)
		if err != nil {
			return err
		}
		u := contribution{member: string(x.Upload.From), charge: signed.Digest(m.(aggregate.Upload).Charge)}
		p, leaf, err := audit.ParsePromised(x.Promise, c.log.origin, c.consortium.Log)
		if err != nil {
			return fmt.Errorf("the promise for %q: %w", u.member, err)
		}
		if keyOf(leaf) != (leafKey{audit.Charge, r.number, u.member, u.charge}) {
			return fmt.Errorf("the promise for %q is not about its charge", u.member)
		}
		u.promised = p.Promise.Index
		r.uploads = append(r.uploads, u)
	}
	return nil
}

// checkModel makes every model again from the opened sums, the released one too.
func (c *checker) checkModel(s *section) {
	w := make([]float64, c.study.Dim())
	model := signed.Digest(study.EncodeModel(c.study.Digest, w))
	var iterates [][]float64 // the last that the mean is of
	closed := 0
	for _, r := range c.rounds {
		if r.Plan.Model != model {
			s.fail(r.object("plan"), "trains on model %s, want %s, which the rounds before made", short(r.Plan.Model), short(model))
			return
		}
		path := r.dir + "/" + sumFile
		if r.Result.Outcome != aggregate.Closed {
			if _, there := c.folder.files[path]; there {
				s.add("the sum of round %d was opened before the round burnt: no result names it", r.number)
			}
			continue
		}
		sum, err := c.readSum(r, path)
		if err != nil {
			s.fail(path, "%v", err)
			return
		}
		w = c.study.Next(w, sum)
		model = signed.Digest(study.EncodeModel(c.study.Digest, w))
		if r.Result.Model != model {
			s.fail(r.object("result"), "names model %s, and the opened sum makes %s", short(r.Result.Model), short(model))
			return
		}
		iterates = append(iterates, w)
		iterates = iterates[max(0, len(iterates)-c.study.Strategy.AverageLast):]
		closed++
	}
	c.checkReleased(s, iterates, closed)
}

// readSum reads the opened sum of a closed round: as its result names it, and no larger than an honest one.
func (c *checker) readSum(r *round, path string) ([]int64, error) {
	b, err := c.folder.read(path, 8*int64(r.Plan.Dim))
	if err != nil {
		return nil, err
	}
	sum, err := parseSum(b, r.Plan.Dim, r.Plan.SumBound+r.Plan.Noise.Bound) // no wrap: the terms checked it
	if err != nil {
		return nil, err
	}
	if got := aggregate.SumDigest(sum); got != r.Result.Sum {
		return nil, fmt.Errorf("has digest %s, the result says %s", short(got), short(r.Result.Sum))
	}
	return sum, nil
}

// parseSum reads dim words of 8 bytes, little endian, each at most bound in size.
func parseSum(b []byte, dim int, bound uint64) ([]int64, error) {
	if len(b) != 8*dim {
		return nil, fmt.Errorf("has %d bytes, want %d words of 8", len(b), dim)
	}
	sum := make([]int64, dim)
	for i := range sum {
		sum[i] = int64(binary.LittleEndian.Uint64(b[8*i:]))
		if v := sum[i]; v == math.MinInt64 || uint64(max(v, -v)) > bound {
			return nil, fmt.Errorf("word %d is %d, want at most %d in size", i, v, bound)
		}
	}
	return sum, nil
}

// checkReleased takes the last models of closed rounds, as many as the mean is of at most.
func (c *checker) checkReleased(s *section, iterates [][]float64, closed int) {
	want := signed.Digest(study.EncodeModel(c.study.Digest, c.study.Released(iterates)))
	got, ok := c.folder.files[modelFile]
	switch {
	case !ok:
		s.fail(modelFile, "%v", errAbsent)
		return
	case closed == 0:
		s.fail(modelFile, "is released, and no round closed")
		return
	case closed > c.study.Strategy.Rounds:
		s.fail("rounds", "%d closed, the study has %d", closed, c.study.Strategy.Rounds)
		return
	case got.digest != want:
		s.fail(modelFile, "is %s, and the mean of the last %d of %d models is %s", short(got.digest), len(iterates), closed, short(want))
		return
	}
	s.add("made again from the %d opened sums, each within its bound: model.safetensors is the mean of the last %d", closed, len(iterates))
	if n := c.study.Strategy.Rounds; closed < n {
		s.add("the study ended short, it was to have %d rounds", n)
	}
	c.checkReleaseLeaf(s, want, closed)
}

// checkReleaseLeaf wants the release in the log, after all rounds and once. A study that ended short may lack it:
// when too few hospitals are left, no later checkpoint can be co-signed by enough. The rounds that the model is
// made of are covered all the same.
func (c *checker) checkReleaseLeaf(s *section, model [32]byte, closed int) {
	i, logged := c.log.find(audit.Release, 0, coordinatorSubject, model)
	_, named := c.receiptLeaf(audit.Release)
	if !logged && (named || closed == c.study.Strategy.Rounds) {
		s.fail(modelFile, "has no leaf of kind %q in the log", audit.Release)
		return
	}
	if !logged {
		s.add("its release is in no checkpoint that counts: too few hospitals were left to co-sign one")
	}
	last := c.rounds[len(c.rounds)-1]
	if before, ok := c.log.find(audit.Result, last.number, coordinatorSubject, last.digest("result")); ok && logged && before > i {
		s.fail(modelFile, "was released at leaf %d, before the last round ended at leaf %d", i, before)
	}
	for i, l := range c.log.leaves {
		if l.Kind == audit.Release && l.Object != model {
			s.fail(leafName(i), "releases another model, %s", short(l.Object))
		}
	}
}

// receiptLeaf is where the receipt says that a leaf stands.
func (c *checker) receiptLeaf(kind audit.Kind) (uint64, bool) {
	if c.receipt == nil {
		return 0, false
	}
	i, ok := c.receipt.Predicate.Log.Leaves[string(kind)]
	return i, ok
}

func leafName(i int) string { return "log: leaf " + strconv.Itoa(i) }

// checkPrivacy accounts again for what was charged. The receipt may overstate, which costs nobody anything; it
// may not understate.
func (c *checker) checkPrivacy(s *section) {
	p := c.receipt.Predicate.Privacy
	if len(p.Events) != 1 {
		s.fail(receiptFile, "privacy.events has %d entries, want one", len(p.Events))
		return
	}
	counted := p.Events[0].Count
	spent := c.spentByHospital()[coordinatorSubject]
	if counted < spent {
		s.fail(receiptFile, "privacy.events counts %d rounds, the coordinator charged %d in the log", counted, spent)
	}
	if most := uint64(c.terms.Charges); counted > most {
		s.fail(receiptFile, "privacy.events counts %d rounds, the study may charge %d", counted, most)
		return
	}
	f, err := c.terms.Figures(counted)
	if err != nil {
		s.fail(receiptFile, "privacy: %v", err)
		return
	}
	w := c.study.Privacy
	want := audit.ReceiptPrivacy{
		Unit: w.Unit, Neighbours: w.Neighbours, Epsilon: f.Epsilon, EpsilonBudget: w.Epsilon,
		EpsilonIfTEEBroken: f.EpsilonIfBroken, EpsilonOwnNoise: f.EpsilonOwnNoise,
		Delta: w.Delta, Noise: w.Noise, HonestShares: f.HonestShares, Ledger: p.Ledger,
	}
	for _, e := range f.Events {
		want.Events = append(want.Events, audit.ReceiptEvent{Kind: e.Kind, Multiplier: e.Multiplier, Count: e.Count})
	}
	c.same(s, "privacy", p, want)
	c.checkLedger(s, counted)
	s.say("ε = %.4g of %g at δ = %g from %s of noise multiplier %.4g", f.Epsilon, w.Epsilon, w.Delta, count(int(counted), "round"), p.Events[0].Multiplier)
	if f.EpsilonIfBroken != nil && f.EpsilonOwnNoise != nil {
		s.add("%.4g with a broken TEE and a lying coordinator, %.4g with every other hospital colluding", *f.EpsilonIfBroken, *f.EpsilonOwnNoise)
	} else {
		s.add("no bound with a broken TEE: the noise is the aggregator's alone")
	}
	c.remarkUnopened(s, counted)
	if counted > spent {
		s.add("%d of these rounds have no charge in the log, so that ε is overstated", counted-spent)
	}
}

// remarkUnopened tells of a hospital that charged more rounds than were opened: nobody but a coordinator that
// lies could have opened one of those, and then more was spent.
func (c *checker) remarkUnopened(s *section, counted uint64) {
	most, who := counted, ""
	for h, n := range c.spentByHospital() {
		if n > most {
			most, who = n, h
		}
	}
	if who == "" {
		return
	}
	if f, err := c.terms.Figures(most); err == nil {
		s.add("%s charged %d rounds, more than were opened: had a lying coordinator opened them all, ε would be %.4g", who, most, f.Epsilon)
	}
}

// checkLedger makes the coordinator's ledger again: it is a hash chain over its charges, so its heads show that
// none was left out.
func (c *checker) checkLedger(s *section, counted uint64) {
	shown := uint64(0)
	for _, r := range c.rounds {
		if r.charge != nil {
			shown++
		}
	}
	if counted > shown {
		s.add("the coordinator's ledger has charges of rounds that are not kept, so its heads were not compared")
		return
	}
	l, err := dp.OpenLedger(&memory{}, dp.Budget{Epsilon: math.Inf(1), Delta: math.Inf(1)})
	if err != nil {
		s.fail(receiptFile, "privacy.ledger: %v", err)
		return
	}
	for _, r := range c.rounds {
		if r.Plan.Ledger != l.Head() {
			s.fail(r.object("plan"), "names ledger head %s, want %s", short(r.Plan.Ledger), short(l.Head()))
			return
		}
		if r.charge == nil {
			continue
		}
		x, err := aggregate.ParseCharge(r.charge)
		if err == nil {
			_, err = l.Charge(c.terms.Charge(x))
		}
		if err != nil {
			s.fail(r.object("proposal"), "the coordinator's charge: %v", err)
			return
		}
		if x.Head != l.Head() {
			s.fail(r.object("proposal"), "the coordinator's charge gives ledger head %s, want %s", short(x.Head), short(l.Head()))
			return
		}
	}
	if got := [32]byte(c.receipt.Predicate.Privacy.Ledger); got != l.Head() {
		s.fail(receiptFile, "privacy.ledger is %s, and the charges give %s", short(got), short(l.Head()))
	}
}
