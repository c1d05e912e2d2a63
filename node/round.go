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
	case s.round == nil:
		return nil
	case m.Kind == "proposal":
		if err := s.chargesPromised(m); err != nil {
			s.log.Warn("proposal refused", "round", s.round.number, "error", err)
			return nil
		}
	}
	return s.step(ctx, aggregate.Received{Message: m})
}

// plan begins a round, unless its number was seen, its leaf was not promised, or this hospital no longer
// consents.
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
		s.held, s.heldLeaves = &m, leaves
		return nil
	}
	if err := s.mayBegin(ctx, m, number, leaves); err != nil {
		s.log.Warn("plan refused", "round", number, "error", err)
		return nil
	}
	s.endRound()
	if err := s.cells.see(number); err != nil {
		return err
	}
	member, err := aggregate.NewMember(s.memberConfig(), m)
	if err != nil {
		s.log.Warn("plan refused", "round", number, "error", err)
		return nil
	}
	s.begin(ctx, member)
	return s.step(ctx, aggregate.Begin{})
}

func (s *serving) mayBegin(ctx context.Context, m aggregate.Signed, number uint64, leaves []audit.Leaf) error {
	last, err := s.cells.seen()
	if err != nil {
		return err
	}
	if number <= last || number > last+farthest {
		return fmt.Errorf("its number is %d, want more than %d and at most %d", number, last, last+farthest)
	}
	if !slices.ContainsFunc(leaves, func(l audit.Leaf) bool {
		return l.Kind == audit.Plan && l.Round == number && l.Object == m.Digest()
	}) {
		return errors.New("the log has not promised it")
	}
	return s.consents(ctx)
}

// chargesPromised checks that the log has promised the charge of every contribution to a proposed set:
// a voter holds those promises, so that a hospital whose ledger was rolled back finds its charge in the log.
func (s *serving) chargesPromised(m aggregate.Signed) error {
	msg, err := aggregate.Parse(m)
	if err != nil {
		return err
	}
	p, ok := msg.(aggregate.Proposal)
	if !ok {
		return fmt.Errorf("got a %T", msg)
	}
	c := s.node.deps.Consortium
	promises := make([]audit.Promised, 0, len(p.Contributions))
	for _, part := range p.Contributions {
		promise, leaf, err := audit.ParsePromised(part.Promise, audit.Origin(c.Name, s.digest), c.Log)
		if err != nil {
			return fmt.Errorf("the promise for %q: %w", part.Upload.From, err)
		}
		up, err := aggregate.Parse(part.Upload)
		if err != nil {
			return fmt.Errorf("the upload of %q: %w", part.Upload.From, err)
		}
		u, ok := up.(aggregate.Upload)
		if !ok || leaf.Kind != audit.Charge || leaf.Subject != string(part.Upload.From) || leaf.Object != signed.Digest(u.Charge) {
			return fmt.Errorf("the promise for %q is not about its charge", part.Upload.From)
		}
		promises = append(promises, promise)
	}
	return s.auditor.Expect(promises...)
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
		Keys:      terms.Keyring{Consortium: d.Consortium, Protocol: s.protocol, At: d.Now, Known: &s.known},
		Signer:    d.NodeKey,
		Entropy:   d.Entropy,
		Noise:     noise,
	}
}

// begin makes the state of a new round; what ran for the one before has been cancelled.
func (s *serving) begin(ctx context.Context, m *aggregate.Member) {
	rctx, cancel := context.WithCancel(ctx)
	s.round = &roundState{member: m, number: m.Plan().Round.Number, ctx: rctx, cancel: cancel, outbox: make(chan aggregate.Signed, 16)}
	s.wg.Go(func() { s.send(rctx, s.round.number, s.round.outbox) })
}

// endRound forgets a round: its machine has erased its secrets, or dies with them.
func (r *runner) endRound() {
	if r.round == nil {
		return
	}
	r.round.cancel()
	clear(r.round.vector)
	if err := r.spool.drop(r.round.number); err != nil {
		r.log.Warn("dropping the spool failed", "error", err)
	}
	r.round = nil
}

// step feeds the machine and does what it asks, in order; what it asks may bring further events.
func (s *serving) step(ctx context.Context, e aggregate.Event) error {
	queue := []aggregate.Event{e}
	for len(queue) > 0 && s.round != nil {
		e, queue = queue[0], queue[1:]
		for _, f := range s.round.member.Step(e) {
			next, err := s.do(ctx, f)
			if err != nil {
				return fmt.Errorf("round %d: %w", s.round.number, err)
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
func (s *serving) do(ctx context.Context, f aggregate.Effect) (next aggregate.Event, err error) {
	switch f := f.(type) {
	case aggregate.Persist:
		// Dying before this line: nothing was answered. After it: the answer may have left, and the
		// machine restored from here gives no other.
		return nil, s.cells.state.Store(f.State)
	case aggregate.Send:
		return nil, s.queue(f.Message)
	case aggregate.StartTraining:
		s.wg.Go(func() { s.train(s.round.ctx, s.round, f.Plan) })
	case aggregate.ChargeLedger:
		return s.charge(f.Charge), nil
	case aggregate.FillSpool:
		return s.fillSpool()
	case aggregate.SendVector:
		return nil, s.queue(f.Upload)
	case aggregate.Refuse:
		s.log.Warn("message refused", "round", s.round.number, "from", f.From, "reason", f.Reason)
	case aggregate.End:
		s.log.Info("round ended", "round", s.round.number, "outcome", f.Result.Outcome, "why", f.Result.Why)
		s.endRound()
	default:
		return nil, fmt.Errorf("the machine asked for %T, which a member does not do", f)
	}
	return nil, nil
}

// train downloads the model and trains beside the loop.
func (s *serving) train(ctx context.Context, round *roundState, p aggregate.Plan) {
	x, failed, err := s.trained(ctx, p)
	s.post(ctx, func() error {
		if s.round != round {
			return nil
		}
		if err != nil {
			s.log.Warn("training failed: not taking part in this round", "round", round.number, "error", err)
			return nil
		}
		if failed > 0 {
			s.log.Info("patients whose gradient failed count as zero", "round", round.number, "patients", failed)
		}
		round.vector = x
		return s.step(ctx, aggregate.Trained{})
	})
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
	if err != nil {
		if !errors.Is(err, dp.ErrBudget) {
			s.log.Error("charging the ledger failed", "round", s.round.number, "error", err)
		}
		return aggregate.ChargeRefused{Why: err.Error()}
	}
	s.round.roster = c.Roster
	return aggregate.Charged{Charge: b}
}

// fillSpool writes the masked vector, whole, and forgets the plain one.
func (s *serving) fillSpool() (aggregate.Event, error) {
	digest, err := s.spool.fill(s.round.member, s.round.vector)
	if err != nil {
		return nil, err
	}
	if observe := s.node.deps.Observe; observe != nil {
		masked, err := os.ReadFile(s.spool.path(s.round.number))
		if err != nil {
			return nil, err
		}
		observe(s.round.number, slices.Clone(s.round.vector), masked)
	}
	clear(s.round.vector)
	s.round.vector = nil
	return aggregate.Spooled{Vector: digest}, nil
}
