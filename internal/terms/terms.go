// Package terms says what a study's text fixes for everyone: the plan of every round, the noise, the
// thresholds, who is appraised how. Coordinator, node, simulation and verifier each compute it from their
// own copy of study.yaml and consortium.yaml, so that none has to believe another.
//
//	t, err := terms.New(consortium, study)
//	want := t.Plan(round, model, ledgerHead) // a member refuses a Plan that differs in more than those
package terms

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/audit"
	"github.com/consilium-fl/consilium/dp"
	"github.com/consilium-fl/consilium/internal/study"
)

// Noise of a study, as study.yaml spells it.
const (
	Distributed = "distributed"
	Central     = "central"
)

// Terms are computed once from a study and its consortium.
type Terms struct {
	Study      *study.Study
	Consortium *study.Consortium

	Colluding int // c: how many members may collude
	Minimum   int // fewest members in a set
	Need      int // co-signatures that make a checkpoint count
	Charges   int // rounds + spare: what σ is calibrated for
	Grid      dp.Grid
	Full      dp.Mechanism // the noise that ε is about
	Share     dp.Mechanism // what one member adds; the zero Mechanism under central noise
	SumBound  uint64       // members·max_patients·2^grid_bits
	Bound     uint64       // what the noise may add to a sum, 14 standard deviations
}

// New computes the terms, or says which field of the study contradicts which.
func New(c *study.Consortium, s *study.Study) (*Terms, error) {
	n := len(s.Members)
	t := &Terms{
		Study: s, Consortium: c,
		Minimum: s.Aggregation.Minimum,
		Charges: s.Strategy.Rounds + s.Privacy.Spare,
		Grid:    dp.Grid{Clip: s.Privacy.Clip, Bits: s.Privacy.GridBits},
	}
	var err error
	if t.Colluding, _, err = aggregate.Thresholds(n, n, t.Minimum); err != nil {
		return nil, fmt.Errorf("computing the thresholds of study %s: %w", study.Short(s.Digest), err)
	}
	if t.Colluding != s.Aggregation.Colluding {
		return nil, fmt.Errorf("computing the thresholds of study %s: aggregation.colluding is %d, want %d for %d members", study.Short(s.Digest), s.Aggregation.Colluding, t.Colluding, n)
	}
	t.Need = audit.Quorum(n, t.Colluding)
	budget := dp.Budget{Epsilon: s.Privacy.Epsilon, Delta: s.Privacy.Delta}
	if t.Full, err = dp.Calibrate(budget, t.Charges, t.Grid); err != nil {
		return nil, fmt.Errorf("calibrating the noise of study %s: %w", study.Short(s.Digest), err)
	}
	t.SumBound = uint64(n) * uint64(s.MaxPatients) << s.Privacy.GridBits
	t.Bound = t.Full.Bound(1)
	if t.distributed() {
		t.Share = t.Full.Share(t.Minimum - t.Colluding)
		t.Bound = t.Share.Bound(n)
	}
	if limit := uint64(1) << (s.Aggregation.WordBits - 1); t.SumBound+t.Bound >= limit {
		return nil, fmt.Errorf("checking that sums of study %s do not wrap: members·max_patients·2^grid_bits is %d and the noise may add %d, want less than 2^%d together: lower max_patients or grid_bits, or raise word_bits",
			study.Short(s.Digest), t.SumBound, t.Bound, s.Aggregation.WordBits-1)
	}
	return t, nil
}

func (t *Terms) distributed() bool { return t.Study.Privacy.Noise == Distributed }

// Mechanism is what whoever adds noise draws from: a member its share, or the aggregator the whole.
func (t *Terms) Mechanism() dp.Mechanism {
	if t.distributed() {
		return t.Share
	}
	return t.Full
}

// Plan is the plan of a round: its number, model and ledger head are the coordinator's to say.
func (t *Terms) Plan(number uint64, model, ledger [32]byte) aggregate.Plan {
	noise := aggregate.Noise{Source: aggregate.Aggregator, Shares: 1, Mechanism: t.Full.Encode(), Bound: t.Bound}
	if t.distributed() {
		noise = aggregate.Noise{Source: aggregate.Members, Shares: t.Minimum - t.Colluding, Mechanism: t.Share.Encode(), Bound: t.Bound}
	}
	ms := func(d time.Duration) uint32 { return uint32(d / time.Millisecond) }
	d := t.Study.Deadlines
	return aggregate.Plan{
		Round: aggregate.RoundID{Study: t.Study.Digest, Number: number},
		Model: model, Dim: t.Study.Dim(), WordBits: t.Study.Aggregation.WordBits,
		Members: t.Members(), Minimum: t.Minimum, Colluding: t.Colluding,
		SumBound: t.SumBound, Noise: noise, Ledger: ledger,
		Deadlines: aggregate.Deadlines{Ready: ms(d.Ready), Deal: ms(d.Deal), Upload: ms(d.Upload), Vote: ms(d.Vote), Release: ms(d.Release)},
	}
}

// Members are the study's members, sorted.
func (t *Terms) Members() []aggregate.MemberID {
	m := make([]aggregate.MemberID, len(t.Study.Members))
	for i, s := range t.Study.Members {
		m[i] = aggregate.MemberID(s)
	}
	slices.Sort(m)
	return m
}

// Charge is the ledger charge of a round of this study; Plan and Roster complete its identity.
func (t *Terms) Charge(c aggregate.Charge) dp.Charge {
	return dp.Charge{
		Registry: t.Study.Data.Registry, Study: t.Study.Digest, Number: c.Number, Plan: c.Plan, Roster: c.Roster,
		Reserve: dp.Budget{Epsilon: t.Study.Privacy.Epsilon, Delta: t.Study.Privacy.Delta},
		Limit:   uint64(t.Charges),
	}
}

// Figures are the three privacy figures that leave with a model.
type Figures struct {
	Epsilon         float64  // up to c hospitals collude, whoever else
	EpsilonIfBroken *float64 // the same with a coordinator that lies and a broken TEE; nil under central noise: no bound
	EpsilonOwnNoise *float64 // every other hospital colludes too; nil under central noise
	Events          []dp.Event
	HonestShares    int
}

// Figures accounts for `charges` charged rounds.
func (t *Terms) Figures(charges uint64) (Figures, error) {
	delta := t.Study.Privacy.Delta
	e := t.Mechanism().Event()
	e.Count = charges
	f := Figures{Events: []dp.Event{e}, HonestShares: 1}
	var err error
	if f.Epsilon, err = dp.Epsilon(delta, e); err != nil {
		return Figures{}, fmt.Errorf("accounting for %d charges: %w", charges, err)
	}
	if !t.distributed() {
		return f, nil
	}
	f.HonestShares = t.Minimum - t.Colluding
	broken := f.Epsilon
	f.EpsilonIfBroken = &broken
	own := t.Share.OwnEvent()
	own.Count = charges
	alone, err := dp.Epsilon(delta, own)
	if err != nil {
		return Figures{}, fmt.Errorf("accounting for one share alone over %d charges: %w", charges, err)
	}
	f.EpsilonOwnNoise = &alone
	return f, nil
}

// Posture is what a peer of this consortium must show. Extra Rego may only refuse, so the policy digest is
// recorded in the evidence and not pinned here.
func Posture(c *study.Consortium, simulation bool) attest.PostureExpect {
	want := attest.PostureExpect{Consortium: c.Digest}
	for _, f := range attest.Formats() {
		want.TEE = append(want.TEE, f.TEE())
	}
	if simulation {
		want.Insecure = []string{SimulatedTEE}
		want.TEE = append(want.TEE, Simulated)
	}
	return want
}

// Simulated and Auto are the two words under `tee` in a configuration that name no hardware: Auto finds out which there is.
const (
	Simulated = "sim"
	Auto      = "auto"
)

// TEEs are the words under `tee`.
func TEEs() []string {
	kinds := []string{Simulated, Auto}
	for _, f := range attest.Formats() {
		kinds = append(kinds, f.TEE())
	}
	return kinds
}

// CheckTEE says what is missing beside the word under `tee`.
func CheckTEE(tee, simRoot, audience string, simulation bool) error {
	switch {
	case !slices.Contains(TEEs(), tee):
		return fmt.Errorf("tee is %q, want one of %q", tee, TEEs())
	case tee == Simulated && !simulation:
		return errors.New("tee is \"sim\" but insecure.simulated_tee is not set: a simulated TEE proves nothing about the machine and has to be allowed in so many words")
	case tee == Simulated && simRoot == "":
		return errors.New("sim_root is missing: the key that a simulated TEE signs with")
	case (tee == attest.FormatCSPKI.TEE() || tee == attest.FormatCSOIDC.TEE()) && audience == "":
		return errors.New("audience is missing: whom tokens of Confidential Space are for, as policies list it")
	}
	return nil
}

// OwnPosture is what a process of this consortium shows of itself: policy is the digest of all its Rego.
func OwnPosture(c *study.Consortium, policy [32]byte, tee string, simulation bool) attest.Posture {
	p := attest.Posture{Consortium: c.Digest, Policy: policy, TEE: tee}
	if simulation {
		p.Insecure = []string{SimulatedTEE}
	}
	return p
}

// SimulatedTEE is the insecure flag of a process that accepts simulated TEEs.
const SimulatedTEE = "simulated_tee"

// Witnesses are the co-signers of the study's log, from the enrolment files known so far: one a member,
// the highest serial wins.
func (t *Terms) Witnesses(enrolments [][]byte, at time.Time) (audit.Witnesses, error) {
	w := audit.Witnesses{Keys: map[string]ed25519.PublicKey{}, Need: t.Need}
	serial := map[string]uint64{}
	for _, f := range enrolments {
		e, err := t.Consortium.ParseEnrolment(f, at)
		if err != nil {
			return audit.Witnesses{}, fmt.Errorf("collecting witnesses: %w", err)
		}
		if !slices.Contains(t.Study.Members, e.Hospital) {
			return audit.Witnesses{}, fmt.Errorf("collecting witnesses: enrolment of %q, who is not a member of the study", e.Hospital)
		}
		if _, known := w.Keys[e.Hospital]; !known || e.Serial > serial[e.Hospital] {
			w.Keys[e.Hospital], serial[e.Hospital] = e.WitnessKey, e.Serial
		}
	}
	return w, nil
}
