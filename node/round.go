package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/audit"
	"github.com/consilium-fl/consilium/dp"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/terms"
)

// farthest is how far ahead of the last round seen a number may be: a signed 2⁶⁴−1 would otherwise mute
// this node for ever.
const farthest = 1024

// message gives a message of the round to its machine; a Plan makes a new one.
func (s *serving) message(ctx context.Context, m aggregate.Signed, leaves []audit.Leaf) error {
	switch {
	case m.Kind == "plan":
		return s.plan(ctx, m, leaves)
	case m.Kind == "result" && s.held != nil:
		s.release(m)
		return nil
	case s.round == nil:
		return nil
	}
	return s.step(aggregate.Received{Message: m})
}

// release drops a held Plan whose round is over.
func (s *serving) release(m aggregate.Signed) {
	if msg, err := aggregate.Parse(m); err == nil {
		if r, ok := msg.(aggregate.Result); ok && r.Plan == s.held.message.Digest() {
			s.held = nil
		}
	}
}

// plan begins a round, unless its number was seen, its leaf was not promised, it is not what this node
// computes from its own study.yaml, or this hospital no longer consents.
func (s *serving) plan(ctx context.Context, m aggregate.Signed, leaves []audit.Leaf) error {
	msg, err := aggregate.Parse(m)
	if err != nil {
		s.log.Warn("plan refused", "error", err)
		return nil
	}
	p, ok := msg.(aggregate.Plan)
	if !ok {
		return nil
	}
	number := p.Round.Number
	if s.round != nil && number <= s.round.number {
		return nil // sent again over a new stream
	}
	if !s.cleared {
		s.held = &heldPlan{m, leaves}
		return nil
	}
	member, err := s.mayBegin(ctx, m, number, leaves)
	if err != nil {
		s.log.Warn("plan refused", "round", number, "error", err)
		if errors.Is(err, errVeto) {
			return err
		}
		return nil
	}
	s.endRound()
	s.begin(ctx, member)
	return s.step(aggregate.Begin{})
}

// mayBegin makes the machine of a plan that holds up. The consent is asked last, and before a patient is
// looked at.
func (s *serving) mayBegin(ctx context.Context, m aggregate.Signed, number uint64, leaves []audit.Leaf) (*aggregate.Member, error) {
	last := s.cells.seen()
	if number <= last || number > last+farthest {
		return nil, fmt.Errorf("its number is %d, want more than %d and at most %d", number, last, last+farthest)
	}
	if !slices.ContainsFunc(leaves, func(l audit.Leaf) bool {
		return l.Kind == audit.Plan && l.Round == number && l.Object == m.Digest()
	}) {
		return nil, errors.New("the log has not promised it")
	}
	member, err := aggregate.NewMember(s.memberConfig(), m)
	if err != nil {
		return nil, err
	}
	return member, s.consents(ctx)
}

// charges are the log's promises of the charge of every contribution to a proposed set; nil for another message.
// A voter holds them, so that a hospital whose ledger was rolled back finds its charge in the log.
func (s *serving) charges(m *aggregate.Signed) ([]audit.Promised, error) {
	if s.round == nil || m == nil || m.Kind != "proposal" {
		return nil, nil
	}
	msg, err := aggregate.Parse(*m)
	if err != nil {
		return nil, err
	}
	p, ok := msg.(aggregate.Proposal)
	if !ok {
		return nil, fmt.Errorf("got a %T", msg)
	}
	promises := make([]audit.Promised, 0, len(p.Contributions))
	for _, part := range p.Contributions {
		promise, leaf, err := audit.ParsePromised(part.Promise, s.origin(), s.node.deps.Consortium.Log)
		if err != nil {
			return nil, fmt.Errorf("the promise for %q: %w", part.Upload.From, err)
		}
		up, err := aggregate.Parse(part.Upload)
		if err != nil {
			return nil, fmt.Errorf("the upload of %q: %w", part.Upload.From, err)
		}
		u, ok := up.(aggregate.Upload)
		if !ok || leaf.Kind != audit.Charge || leaf.Subject != string(part.Upload.From) || leaf.Round != s.round.number || leaf.Object != signed.Digest(u.Charge) {
			return nil, fmt.Errorf("the promise for %q is not about its charge", part.Upload.From)
		}
		promises = append(promises, promise)
	}
	return promises, nil
}

func (s *serving) memberConfig() aggregate.MemberConfig {
	d := s.node.deps
	mechanism := s.terms.Share
	noise := func(key [32]byte) aggregate.Noiser { return mechanism.Keyed(key) }
	if d.Noise != nil {
		noise = func(key [32]byte) aggregate.Noiser { return d.Noise(mechanism, key) }
	}
	return aggregate.MemberConfig{
		Self:      aggregate.MemberID(s.node.config.Hospital),
		Enrolment: d.Enrolment,
		Want:      s.terms.Plan(0, [32]byte{}, [32]byte{}),
		Keys:      keyring{terms.Keyring{Consortium: d.Consortium, Protocol: s.protocol, At: d.Now}, s.node.newest},
		Signer:    d.NodeKey,
		Entropy:   d.Entropy,
		Noise:     noise,
	}
}

// begin makes the state of a new round.
func (s *serving) begin(ctx context.Context, m *aggregate.Member) {
	s.round = &roundState{member: m, number: m.Plan().Round.Number}
	s.round.ctx, s.round.cancel = context.WithCancel(s.life)
	s.startSending(ctx)
}

// endRound forgets a round that is over, and voids its spool.
func (r *runner) endRound() {
	if r.round == nil {
		return
	}
	r.round.forget()
	r.reads.Wait() // an upload that has been stopped must not read anything but this round's words
	if err := r.spool.void(); err != nil {
		r.log.Warn("the spool of a round that is over still counts", "error", err)
	}
	r.round = nil
}

// step feeds the machine and does what it asks, in order; what it asks may bring further events.
func (s *serving) step(e aggregate.Event) error {
	queue := []aggregate.Event{e}
	for len(queue) > 0 && s.round != nil {
		e, queue = queue[0], queue[1:]
		for _, f := range s.round.member.Step(e) {
			next, err := s.do(f)
			if err != nil {
				return err
			}
			if next != nil {
				queue = append(queue, next)
			}
			if s.round == nil {
				return nil
			}
		}
	}
	return nil
}

// do carries out one effect; next is an event that answers it at once.
func (s *serving) do(f aggregate.Effect) (next aggregate.Event, err error) {
	switch f := f.(type) {
	case aggregate.Persist:
		s.cells.remember(f.State) // durable before what follows leaves: see queue
	case aggregate.Send:
		if f.Message.Kind == "ready" {
			s.cells.see(s.round.number) // the first answer of a round, of which none is given twice
		}
		return nil, s.queue(f.Message)
	case aggregate.StartTraining:
		s.startTraining()
	case aggregate.ChargeLedger:
		return s.charge(f.Charge), nil
	case aggregate.FillSpool:
		return s.fillSpool(), nil
	case aggregate.SendVector:
		return nil, s.queue(f.Upload)
	case aggregate.Refuse:
		s.log.Warn("message refused", "round", s.round.number, "from", f.From, "reason", f.Reason)
	case aggregate.End:
		s.log.Info("round ended", "round", s.round.number, "outcome", f.Result.Outcome, "why", f.Result.Why)
		s.endRound()
	default:
		return nil, fmt.Errorf("round %d: the machine asked for %T, which a member does not do", s.round.number, f)
	}
	return nil, nil
}

// durable gives the round up when what had to be durable may not be: no answer leaves that a restart
// could contradict.
func (s *serving) durable(err error) {
	if err == nil {
		return
	}
	s.log.Error("storing failed: the round is given up", "round", s.round.number, "error", err)
	s.endRound()
}

// startTraining downloads the model and trains beside the loop. The download ends with the connection,
// training with the round.
func (s *serving) startTraining() {
	round, p := s.round, s.round.member.Plan()
	round.training = true
	s.work.Go(func() {
		x, failed, err := s.trained(round.ctx, p)
		s.post(round.ctx, func(_ context.Context, now *serving) error {
			return now.trainingEnded(round, s, x, failed, err)
		})
	})
}

func (s *serving) trainingEnded(round *roundState, then *serving, x []int64, failed int, err error) error {
	if s.round != round {
		clear(x)
		return nil
	}
	round.training = false
	switch {
	case err != nil && s != then: // it was the old connection's
		s.startTraining()
		return nil
	case err != nil:
		s.log.Warn("training failed: not taking part in this round", "round", round.number, "error", err)
		return nil
	case failed > 0:
		s.log.Info("patients whose gradient failed count as zero", "round", round.number, "patients", failed)
	}
	round.vector = x
	return s.step(aggregate.Trained{})
}

func (s *serving) trained(ctx context.Context, p aggregate.Plan) ([]int64, int, error) {
	b, err := s.conn.client.Download(ctx, s.digest, p.Model)
	if err != nil {
		return nil, 0, fmt.Errorf("downloading the model: %w", err)
	}
	of, w, err := study.DecodeModel(b)
	if err != nil {
		return nil, 0, err
	}
	if of != s.digest {
		return nil, 0, fmt.Errorf("the model is of study %s", study.Short(of))
	}
	return gradientSum(ctx, s.trainer, s.terms.Grid, s.terms.Study.MaxPatients, w)
}

// charge charges the own ledger. If the process dies after it, the charge stands and nothing was released.
func (s *serving) charge(c aggregate.Charge) aggregate.Event {
	b, err := charge(s.ledger, s.terms, c)
	if err == nil {
		return aggregate.Charged{Charge: b}
	}
	if errors.Is(err, dp.ErrBudget) {
		s.log.Warn("not taking part in this round", "round", s.round.number, "error", err)
	} else {
		s.log.Error("charging the ledger failed: not taking part in this round", "round", s.round.number, "error", err)
	}
	return s.declined(err)
}

// declined forgets the plain vector; the round goes on without it.
func (s *serving) declined(err error) aggregate.Event {
	clear(s.round.vector)
	s.round.vector = nil
	return aggregate.ChargeRefused{Why: err.Error()}
}

// fillSpool writes the masked vector, whole, and forgets the plain one. A pass that failed is never made
// again: the masks are erased.
func (s *serving) fillSpool() aggregate.Event {
	digest, err := s.spool.fill(s.round.member, s.round.vector)
	if err == nil {
		err = s.observe()
	}
	if err != nil {
		s.log.Error("spooling failed: not taking part in this round", "round", s.round.number, "error", err)
		return s.declined(err)
	}
	clear(s.round.vector)
	s.round.vector = nil
	return aggregate.Spooled{Vector: digest}
}

// observe shows the simulation what it may see, since it owns the data.
func (s *serving) observe() error {
	if s.node.deps.Observe == nil {
		return nil
	}
	masked, err := os.ReadFile(s.spool.path())
	if err != nil {
		return err
	}
	s.node.deps.Observe(s.round.number, slices.Clone(s.round.vector), masked)
	return nil
}
