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
	checkpoints chan []byte // the newest one only
	wg          sync.WaitGroup
}

// offer leaves a checkpoint for the audit, replacing one that it has not taken yet.
func (s *serving) offer(cp []byte) {
	for {
		select {
		case s.checkpoints <- cp:
			return
		default:
		}
		select {
		case <-s.checkpoints:
		default:
		}
	}
}

// audit checks and co-signs each new checkpoint, and learns which ones count. Rounds never wait for it but
// through promises that are due.
func (s *serving) audit(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case cp := <-s.checkpoints:
			if err := s.witness(ctx, cp); err != nil && ctx.Err() == nil {
				s.log.Warn("checking the log failed", "error", err)
				if errors.Is(err, audit.ErrForked) {
					s.post(ctx, func() error { return s.doubt(err) })
				}
			}
		}
	}
}

func (s *serving) witness(ctx context.Context, cp []byte) error {
	logs := s.conn.client.LogReader(s.digest)
	r := pushed{checkpoint: cp, Reader: logs}
	line, err := s.auditor.Advance(ctx, r)
	if err != nil {
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
