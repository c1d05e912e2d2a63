package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/audit"
	"github.com/consilium-fl/consilium/internal/transport"
)

// queue hands a message to the round's sender and keeps it: it is sent again, byte for byte, when the
// coordinator restarts or the connection is replaced.
func (s *serving) queue(m aggregate.Signed) error {
	if drop := s.node.deps.Drop; drop != nil && drop(s.round.number, m.Kind) {
		return errDropped
	}
	s.round.sent = append(s.round.sent, m)
	s.enqueue(m)
	return nil
}

func (s *serving) enqueue(m aggregate.Signed) {
	if m.Kind == "upload" { // a vector may take long, and a vote must not wait behind it
		round := s.round
		s.wg.Go(func() { s.upload(round.ctx, round.number, m) })
		return
	}
	select {
	case s.round.outbox <- m:
	default: // five messages a round, sent at most once an epoch: a full outbox is a dead coordinator's
		s.log.Warn("message not sent: too many are waiting", "round", s.round.number, "kind", m.Kind)
	}
}

// resend starts the round's senders anew, over the connection at hand, with what was sent so far.
func (s *serving) resend(ctx context.Context) {
	if s.round == nil {
		return
	}
	s.round.cancel()
	s.round.ctx, s.round.cancel = context.WithCancel(ctx)
	s.round.outbox = make(chan aggregate.Signed, 16)
	rctx, number, outbox := s.round.ctx, s.round.number, s.round.outbox
	s.wg.Go(func() { s.send(rctx, number, outbox) })
	for _, m := range s.round.sent {
		s.enqueue(m)
	}
	if s.round.member.Phase() == aggregate.Gathering && s.round.vector == nil && len(s.round.sent) == 0 {
		// The training of this round was cancelled with the connection that the model came over.
		round, p := s.round, s.round.member.Plan()
		s.wg.Go(func() { s.train(rctx, round, p) })
	}
}

// send delivers messages in order, each until it is taken or refused.
func (s *serving) send(ctx context.Context, round uint64, outbox <-chan aggregate.Signed) {
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-outbox:
			err := s.retry(ctx, func() error { return s.conn.client.Send(ctx, s.digest, m) })
			if err != nil && ctx.Err() == nil {
				s.log.Warn("message not taken", "round", round, "kind", m.Kind, "error", err)
			}
		}
	}
}

// upload waits until no promise is overdue, sends the chunks that the coordinator lacks and then the
// signed Upload.
func (s *serving) upload(ctx context.Context, round uint64, m aggregate.Signed) {
	err := s.uploadOnce(ctx, round, m)
	if refused := (*transport.Refused)(nil); errors.As(err, &refused) && ctx.Err() == nil {
		err = s.uploadOnce(ctx, round, m) // the stored vector did not match: what is missing is sent again
	}
	if err != nil && ctx.Err() == nil {
		s.log.Warn("upload not taken", "round", round, "error", err)
		if errors.Is(err, audit.ErrForked) {
			s.post(ctx, func() error { return s.doubt(err) })
		}
	}
}

func (s *serving) uploadOnce(ctx context.Context, round uint64, m aggregate.Signed) error {
	msg, err := aggregate.Parse(m)
	if err != nil {
		return err
	}
	u, ok := msg.(aggregate.Upload)
	if !ok {
		return fmt.Errorf("the spooled message is a %T", msg)
	}
	if err := s.auditor.WaitDue(ctx, s.node.deps.Now()); err != nil {
		return fmt.Errorf("waiting for the log: %w", err)
	}
	f, size, err := s.spool.whole(round, u.Vector)
	if err != nil {
		return err
	}
	v := transport.Vector{Study: s.digest, Round: round, Roster: u.Roster}
	defer f.Close() //nolint:errcheck // only read
	if err := s.retry(ctx, func() error { return s.conn.client.Upload(ctx, v, f, size, nil) }); err != nil {
		return fmt.Errorf("sending the vector: %w", err)
	}
	return s.retry(ctx, func() error { return s.conn.client.Send(ctx, s.digest, m) })
}

// retry tries again while the coordinator cannot be reached; a refusal is an answer.
func (s *serving) retry(ctx context.Context, call func() error) error {
	wait := backoffMin
	for {
		err := call()
		if err == nil || !errors.Is(err, transport.ErrUnreachable) && !errors.Is(err, transport.ErrSessionOver) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		wait = min(2*wait, backoffMax)
	}
}

// restore takes up a round that a former process of this node was in: if its masked vector is whole it
// is sent again, and nothing else of that round is answered.
func (r *runner) restore() error {
	state, err := r.cells.state.Load()
	if err != nil {
		return err
	}
	r.restored = state
	return nil
}

// resume is restore's second half, once there is a connection to send over.
func (s *serving) resume(ctx context.Context) error {
	state := s.restored
	s.restored = nil
	if state == nil {
		return nil
	}
	m, err := aggregate.RestoreMember(s.memberConfig(), state)
	if err != nil {
		s.log.Warn("the stored round is given up", "error", err)
		return nil
	}
	s.begin(ctx, m)
	return s.step(ctx, aggregate.Begin{})
}
