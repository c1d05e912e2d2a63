package node

import (
	"context"
	"errors"
	"sync"

	"github.com/consilium-fl/consilium/audit"
	"github.com/consilium-fl/consilium/internal/transport"
)

// serving is a runner with one connection.
type serving struct {
	*runner
	conn        *connection
	items       chan transport.FollowItem
	ended       chan error
	checkpoints checkpoints
	wg          sync.WaitGroup
}

// mostWaiting bounds the checkpoints that wait for the audit; of an honest log two are of use.
const mostWaiting = 16

// checkpoints wait for the audit. The newest one that the log published and the newest that counts come
// over one stream and in any order of their sizes, so that neither may push the other out.
type checkpoints struct {
	mu      sync.Mutex
	waiting [][]byte
	arrived chan struct{} // holds one token when there may be some
}

func newCheckpoints() checkpoints { return checkpoints{arrived: make(chan struct{}, 1)} }

func (c *checkpoints) offer(cp []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = append(c.waiting, cp)
	c.waiting = c.waiting[max(0, len(c.waiting)-mostWaiting):]
	select {
	case c.arrived <- struct{}{}:
	default:
	}
}

func (c *checkpoints) take() [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.waiting
	c.waiting = nil
	return all
}

// audit checks and co-signs each new checkpoint, and learns which ones count. Rounds never wait for it but
// through promises that are due.
func (s *serving) audit(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.checkpoints.arrived:
			for _, cp := range s.checkpoints.take() {
				if err := s.witness(ctx, cp); err != nil && ctx.Err() == nil {
					s.log.Warn("checking the log failed", "error", err)
					if errors.Is(err, audit.ErrForked) {
						s.post(ctx, func() error { return s.doubt(err) })
					}
				}
			}
		}
	}
}

// witness takes one checkpoint: one that is newer than the last is co-signed, and one that counts is
// noted. A checkpoint that counts may be older than the last one seen: members sign while the log grows.
func (s *serving) witness(ctx context.Context, cp []byte) error {
	logs := s.conn.client.LogReader(s.digest)
	line, err := s.auditor.Advance(ctx, pushed{checkpoint: cp, Reader: logs})
	switch {
	case errors.Is(err, audit.ErrRewound):
		if _, late := s.auditor.Counted(ctx, cp, logs); late != nil {
			return errors.Join(err, late)
		}
		return nil
	case err != nil:
		return err
	}
	counted := cp
	if line != nil {
		c, err := audit.ParseCheckpoint(cp, audit.Origin(s.node.deps.Consortium.Name, s.digest), s.node.deps.Consortium.Log, audit.Witnesses{})
		if err != nil {
			return err
		}
		if counted, err = s.conn.client.CosignCheckpoint(ctx, s.digest, c.Size, line); err != nil {
			return err
		}
	}
	if len(counted) == 0 {
		return nil
	}
	_, err = s.auditor.Counted(ctx, counted, logs)
	if line == nil && !errors.Is(err, audit.ErrForked) {
		return nil // a published one that came again: it need not count yet
	}
	return err
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
