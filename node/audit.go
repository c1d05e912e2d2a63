package node

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/consilium-fl/consilium/audit"
	"github.com/consilium-fl/consilium/internal/transport"
)

// inbox holds the newest published and the newest counted checkpoint that the audit has not dealt with.
// They are kept apart: a counted one in the place of a newer published one would leave that without this
// node's co-signature, perhaps the one that it waits for.
type inbox struct {
	mu                 sync.Mutex
	published, counted []byte
	wake               chan struct{} // of one
}

// offer leaves checkpoints, each in the place of an older one; nil changes nothing.
func (b *inbox) offer(published, counted []byte) {
	b.mu.Lock()
	if published != nil {
		b.published = published
	}
	if counted != nil {
		b.counted = counted
	}
	b.mu.Unlock()
	b.rouse()
}

// restore puts back what could not be dealt with, unless a newer one has come.
func (b *inbox) restore(published, counted []byte) {
	b.mu.Lock()
	if b.published == nil {
		b.published = published
	}
	if b.counted == nil {
		b.counted = counted
	}
	b.mu.Unlock()
	b.rouse()
}

func (b *inbox) rouse() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

func (b *inbox) take(ctx context.Context) (published, counted []byte, ok bool) {
	select {
	case <-ctx.Done():
		return nil, nil, false
	case <-b.wake:
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	published, counted = b.published, b.counted
	b.published, b.counted = nil, nil
	return published, counted, true
}

// checkpoint takes one of the coordinator's: with enough co-signatures it is one to count, else it was
// published just now. Whether they are good is for the auditor to say, when something hangs on it.
func (s *serving) checkpoint(b []byte) {
	c, err := s.auditor.Parse(b)
	switch {
	case err != nil:
		s.log.Warn("checkpoint refused", "error", err)
	case c.Ignored >= s.witnesses.Need:
		s.inbox.offer(nil, b)
	default:
		s.inbox.offer(b, nil)
	}
}

// audit checks and co-signs each new checkpoint, and learns which ones count. Rounds never wait for it but
// through promises that are due.
//
// A log that shows less than before proves nothing and may come back: it is not co-signed, promises stay
// overdue, and so uploads wait. One that contradicts itself stops this node for good.
func (s *serving) audit(ctx context.Context) {
	wait := shortestWait
	for {
		published, counted, ok := s.inbox.take(ctx)
		if !ok {
			return
		}
		err := s.witness(ctx, published) // first: one that counts may be newer, and is no rewind
		if err == nil {
			published = nil
			err = s.count(ctx, counted)
		}
		refused := (*transport.Refused)(nil)
		switch {
		case err == nil:
			wait = shortestWait
		case errors.Is(err, audit.ErrForked):
			s.post(ctx, func(_ context.Context, s *serving) error { return s.doubt(err) })
		case errors.Is(err, audit.ErrRewound), errors.As(err, &refused), errors.Is(err, transport.ErrTooLate):
			s.log.Warn("checkpoint not co-signed", "error", err)
			if published != nil && counted != nil {
				s.inbox.restore(nil, counted) // it came with one that was not taken, and is another matter
			}
		default: // no answer, or tiles that are not there yet
			s.inbox.restore(published, counted)
			if ctx.Err() != nil {
				return
			}
			s.log.Info("checking the log is put off", "error", err, "again_in", wait)
			if pause(ctx, wait) != nil {
				return
			}
			wait = min(2*wait, longestWait)
		}
	}
}

// witness checks a published checkpoint against all that was seen and promised, writes it down, and hands
// in the own co-signature; again when it comes again, for a coordinator that restarted has lost it.
func (s *serving) witness(ctx context.Context, published []byte) error {
	if published == nil {
		return nil
	}
	logs := s.conn.client.LogReader(s.digest)
	line, err := s.auditor.Advance(ctx, pushed{checkpoint: published, Reader: logs})
	if err != nil {
		return err
	}
	if line == nil {
		line = s.auditor.Cosignature()
	}
	c, err := s.auditor.Parse(published)
	if err != nil {
		return err
	}
	counted, err := s.conn.client.CosignCheckpoint(ctx, s.digest, c.Size, line)
	if err != nil {
		return fmt.Errorf("handing in a co-signature: %w", err)
	}
	return s.count(ctx, counted)
}

// count takes a checkpoint that has enough co-signatures.
func (s *serving) count(ctx context.Context, counted []byte) error {
	if len(counted) == 0 {
		return nil
	}
	_, err := s.auditor.Counted(ctx, counted, s.conn.client.LogReader(s.digest))
	return err
}

// due waits until every promise that is due is kept. What falls due while it waits is waited for too.
func (s *serving) due(ctx context.Context) error {
	for {
		if err := s.auditor.WaitDue(ctx, s.node.deps.Now()); err != nil {
			return err
		}
		if err := s.auditor.Due(s.node.deps.Now()); !errors.Is(err, audit.ErrOverdue) {
			return err
		}
	}
}

// pushed reads a log whose newest checkpoint the coordinator has just sent.
type pushed struct {
	checkpoint []byte
	audit.Reader
}

func (p pushed) Read(ctx context.Context, resource string) ([]byte, error) {
	if resource == "checkpoint" {
		return p.checkpoint, nil
	}
	return p.Reader.Read(ctx, resource)
}
