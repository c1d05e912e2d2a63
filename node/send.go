package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/internal/transport"
)

// settling is how long a node that the simulation takes away waits for the log to count what it knows.
const settling = 3 * time.Second

// lastMessage is the last of a round: a hospital that is dropped in a round at all is dropped before it.
const lastMessage = "release"

// queue hands a message to the round's sender and keeps it: it is sent again, byte for byte, when the
// coordinator restarts or the connection is replaced. One that the machine repeats is kept once.
func (s *serving) queue(m aggregate.Signed) error {
	if s.round == nil { // given up
		return nil
	}
	// Dying before this line: nothing was answered, and what the answer is to comes again, its promises with it. After
	// it: the answer may have left, and the machine restored from here gives no other; a round whose first answer this is
	// is never begun again.
	s.durable(s.commit())
	if s.round == nil {
		return nil
	}
	if drop := s.node.deps.Drop; drop != nil {
		switch number := s.round.number; {
		case m.Kind == "ready" && drop(number, m.Kind):
			s.settle(func(context.Context, *serving) error { return errDropped })
			return nil
		case drop(number, m.Kind):
			return errDropped
		case m.Kind == "ready" && drop(number, lastMessage): // later in this round
			round := s.round
			s.settle(func(_ context.Context, now *serving) error {
				if now.round != round {
					return nil
				}
				return now.queueNow(m)
			})
			return nil
		}
	}
	return s.queueNow(m)
}

// commit makes durable, at the same time, all that an answer hangs on.
func (s *serving) commit() error {
	if s.spool.written == nil {
		return s.cells.commit()
	}
	var both errgroup.Group
	both.Go(s.spool.sync)
	both.Go(s.cells.commit)
	return both.Wait()
}

// queueNow is queue for a message that goes out.
func (s *serving) queueNow(m aggregate.Signed) error {
	if !slices.ContainsFunc(s.round.sent, func(x aggregate.Signed) bool { return x.Digest() == m.Digest() }) {
		s.round.sent = append(s.round.sent, m)
	}
	s.enqueue(m)
	return nil
}

// settle does then once the log has counted what this node knows of it. What closed so far is released only under a
// checkpoint that enough hospitals have co-signed, and when a hospital goes that must not be a matter of milliseconds in a
// simulation. It waits beside the loop, which brings the checkpoints.
func (s *serving) settle(then func(context.Context, *serving) error) {
	size := s.auditor.ExpectedSize()
	s.wg.Go(func() {
		ctx, cancel := context.WithTimeout(s.during, settling)
		defer cancel()
		if err := s.auditor.WaitCounted(ctx, size); err != nil {
			s.log.Info("going on before the log has counted all", "error", err)
		}
		s.post(s.during, then)
	})
}

func (s *serving) enqueue(m aggregate.Signed) {
	round, out := s.round, &s.round.sending
	if m.Kind == "upload" { // a vector may take long, and a vote must not wait behind it
		if !out.uploading {
			out.uploading = true
			ctx := out.ctx
			s.reads.Add(1)
			s.wg.Go(func() {
				defer s.reads.Done()
				s.upload(ctx, round.number, m)
			})
		}
		return
	}
	select {
	case out.outbox <- m:
	default: // five messages a round, and each once more a session: a full outbox is a dead coordinator's
		s.log.Warn("message not sent: too many are waiting", "round", round.number, "kind", m.Kind)
	}
}

// startSending makes the sender of the round at hand over the session at hand, in the place of another.
func (s *serving) startSending(ctx context.Context) {
	round := s.round
	if round.sending.stop != nil {
		round.sending.stop()
	}
	ctx, stop := context.WithCancel(ctx)
	context.AfterFunc(round.ctx, stop)
	outbox := make(chan aggregate.Signed, 16)
	round.sending = sending{ctx: ctx, stop: stop, outbox: outbox}
	s.wg.Go(func() { s.send(ctx, round.number, outbox) })
}

// resend sends again what was sent so far in this round, in order, and trains again when the model's
// download was lost with a connection.
func (s *serving) resend(ctx context.Context) {
	round := s.round
	if round == nil {
		return
	}
	s.startSending(ctx)
	for _, m := range round.sent {
		s.enqueue(m)
	}
	if !round.training && len(round.sent) == 0 && round.vector == nil && round.member.Phase() == aggregate.Gathering {
		s.startTraining()
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
				s.log.Info("message not taken", "round", round, "kind", m.Kind, "error", err)
			}
		}
	}
}

// upload sends the spooled vector and its signed Upload, and once more where the coordinator says that what
// it stored is not what was signed.
func (s *serving) upload(ctx context.Context, round uint64, m aggregate.Signed) {
	err := s.uploadOnce(ctx, round, m)
	if refused := (*transport.Refused)(nil); errors.As(err, &refused) && ctx.Err() == nil {
		err = s.uploadOnce(ctx, round, m)
	}
	if err == nil || ctx.Err() != nil {
		return
	}
	s.log.Warn("upload not taken", "round", round, "error", err)
	s.post(ctx, func(_ context.Context, s *serving) error {
		if doubt := s.doubt(err); errors.Is(doubt, ErrStopped) {
			return doubt
		}
		return nil
	})
}

// uploadOnce waits until no promise is overdue, sends the chunks that the coordinator lacks and then the
// signed Upload. Nothing leaves but what was spooled and signed.
func (s *serving) uploadOnce(ctx context.Context, round uint64, m aggregate.Signed) error {
	msg, err := aggregate.Parse(m)
	if err != nil {
		return err
	}
	u, ok := msg.(aggregate.Upload)
	if !ok {
		return fmt.Errorf("the spooled message is a %T", msg)
	}
	if err := s.due(ctx); err != nil {
		return fmt.Errorf("waiting for the log: %w", err)
	}
	f, size, err := s.spool.whole(u.Vector)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	v := transport.Vector{Study: s.digest, Round: round, Roster: u.Roster}
	if err := s.retry(ctx, func() error { return s.conn.client.Upload(ctx, v, f, size, nil) }); err != nil {
		return fmt.Errorf("sending the vector: %w", err)
	}
	return s.retry(ctx, func() error { return s.conn.client.Send(ctx, s.digest, m) })
}

// retry tries again while the coordinator cannot be reached or has a fault; anything else is an answer.
func (s *serving) retry(ctx context.Context, call func() error) error {
	wait := shortestWait
	for {
		err := call()
		again := errors.Is(err, transport.ErrUnreachable) || errors.Is(err, transport.ErrSessionOver) || errors.Is(err, transport.ErrInternal)
		if !again || ctx.Err() != nil {
			return err
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
		wait = min(2*wait, longestWait)
	}
}

// resume takes up the round that a former process of this node was in: if its masked vector is whole it
// is sent again, and nothing else of that round is answered. Another spool is removed.
func (s *serving) resume(ctx context.Context) error {
	m, err := s.stored()
	if err != nil {
		s.log.Info("the stored round is given up", "error", err)
	}
	if m == nil {
		if err := s.spool.remove(); err != nil {
			s.log.Warn("the spool of a round that is over stays", "error", err)
		}
		return nil
	}
	s.begin(ctx, m)
	return s.step(aggregate.Begin{})
}

// stored restores the machine of the last round answered; nil without an error when there is none.
func (s *serving) stored() (*aggregate.Member, error) {
	state := s.cells.state()
	if state == nil {
		return nil, nil
	}
	id, u, err := aggregate.StoredUpload(state)
	if err != nil {
		return nil, err
	}
	if last := s.cells.seen(); id.Study != s.digest || id.Number != last {
		return nil, fmt.Errorf("it is round %d, and round %d was answered", id.Number, last)
	}
	f, _, err := s.spool.whole(u.Vector)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	return aggregate.RestoreMember(s.memberConfig(), state)
}
