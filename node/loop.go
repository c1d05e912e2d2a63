package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/consilium-fl/consilium/audit"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/transport"
)

// session serves one connection: over says that the study has ended.
func (r *runner) session(ctx context.Context) (over bool, err error) {
	c, err := r.connect(ctx)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &serving{runner: r, conn: c, items: make(chan transport.FollowItem), ended: make(chan error, 2), checkpoints: newCheckpoints()}
	defer func() {
		cancel()
		s.wg.Wait() // nothing of this session runs when the next one begins
		err = errors.Join(err, c.client.Close())
	}()
	info, err := c.client.GetStudy(ctx, r.digest)
	if err != nil {
		return false, fmt.Errorf("asking for the study: %w", err)
	}
	if r.protocol, err = protocolKey(c.attested()); err != nil {
		return false, err
	}
	if err := r.prepare(info.File); err != nil {
		return false, err
	}
	return s.loop(ctx)
}

// loop is where everything that changes a runner's state happens, one thing at a time.
func (s *serving) loop(ctx context.Context) (over bool, err error) {
	s.wg.Go(func() { s.follow(ctx) })
	s.wg.Go(func() { s.audit(ctx) })
	if s.round != nil { // a round goes on over a new connection
		s.resend(ctx)
	}
	renew := time.NewTimer(s.conn.attested().Until.Sub(s.node.deps.Now()) - renewBefore)
	defer renew.Stop()
	for {
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case it := <-s.items:
			err = s.item(ctx, it)
		case f := <-s.events:
			err = f()
		case err = <-s.ended:
			if errors.Is(err, errOver) {
				return true, nil
			}
			if err == nil {
				err = errors.New("the coordinator ended the stream")
			}
		case <-renew.C:
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
}

// errOver says that the coordinator's study has ended.
var errOver = errors.New("the study is over")

// follow keeps a Follow stream open and hands its items to the loop.
func (s *serving) follow(ctx context.Context) {
	cursor, epoch := s.cursor, slices.Clone(s.epoch)
	for {
		err := s.conn.client.Follow(ctx, transport.Position{Study: s.digest, Cursor: cursor, Boot: s.node.boot, Epoch: epoch}, func(it transport.FollowItem) error {
			if !slices.Equal(it.Epoch, epoch) {
				cursor, epoch = 0, slices.Clone(it.Epoch)
			}
			cursor = max(cursor, it.Sequence)
			select {
			case s.items <- it:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		if err != nil {
			if errors.Is(err, transport.ErrNotFound) {
				err = errOver
			}
			s.ended <- err
			return
		}
	}
}

// item takes one item of the stream.
func (s *serving) item(ctx context.Context, it transport.FollowItem) error {
	if len(s.epoch) > 0 && !slices.Equal(it.Epoch, s.epoch) {
		s.log.Info("the coordinator restarted")
		s.resend(ctx)
	}
	s.epoch, s.cursor = it.Epoch, max(it.Sequence, 0)
	if err := s.enrolled(it.Enrolments); err != nil {
		return err
	}
	leaves, err := s.promised(ctx, it.Promises)
	if err != nil {
		return err
	}
	if it.Checkpoint != nil {
		s.checkpoints.offer(it.Checkpoint)
	}
	if it.Message == nil {
		return nil
	}
	return s.message(ctx, *it.Message, leaves)
}

// enrolled remembers members' enrolment files: their witness keys count checkpoints.
func (s *serving) enrolled(files [][]byte) error {
	before := len(s.enrolments)
	for _, f := range files {
		if !slices.ContainsFunc(s.enrolments, func(e []byte) bool { return string(e) == string(f) }) {
			s.enrolments = append(s.enrolments, f)
		}
	}
	if len(s.enrolments) == before {
		return nil
	}
	w, err := s.terms.Witnesses(s.enrolments, s.node.deps.Now())
	if err != nil {
		return fmt.Errorf("taking the members' enrolments: %w", err)
	}
	return s.auditor.SetWitnesses(w.Keys)
}

// promised remembers promises and returns their leaves; a boot promise starts the check of the own
// ledger against the log.
func (s *serving) promised(ctx context.Context, raw [][]byte) ([]audit.Leaf, error) {
	var ps []audit.Promised
	var leaves []audit.Leaf
	c := s.node.deps.Consortium
	for _, b := range raw {
		p, leaf, err := audit.ParsePromised(b, audit.Origin(c.Name, s.digest), c.Log)
		if err != nil {
			return nil, fmt.Errorf("reading a promise of the log: %w", err)
		}
		ps, leaves = append(ps, p), append(leaves, leaf)
		if leaf.Kind == audit.Boot && leaf.Subject == s.node.config.Hospital && leaf.Object == signed.Digest(s.node.boot[:]) && !s.cleared {
			s.wg.Go(func() { s.clear(ctx, p) })
		}
	}
	if err := s.auditor.Expect(ps...); err != nil {
		return nil, s.doubt(err)
	}
	return leaves, nil
}

// doubt turns a contradiction in the log into a stop for good, and leaves any other error alone.
func (s *serving) doubt(err error) error {
	if errors.Is(err, audit.ErrForked) {
		return s.stop(err)
	}
	return err
}

// clear waits until a counted checkpoint includes this process's boot leaf, and then compares the log
// with the own ledger: a ledger from an old disk lacks charges that the log has, and must not be spent
// from again.
func (s *serving) clear(ctx context.Context, boot audit.Promised) {
	err := s.auditor.WaitIncluded(ctx, boot)
	if err == nil {
		err = s.compareLedger(ctx)
	}
	s.post(ctx, func() error {
		if err != nil {
			return s.doubt(err)
		}
		if s.cleared {
			return nil
		}
		s.cleared = true
		s.log.Info("the log and the own ledger agree")
		if err := s.resume(ctx); err != nil {
			return err
		}
		if held := s.held; held != nil {
			s.held = nil
			return s.plan(ctx, *held, s.heldLeaves)
		}
		return nil
	})
}

func (s *serving) compareLedger(ctx context.Context) error {
	known, err := charged(s.ledger, s.digest)
	if err != nil {
		return err
	}
	return s.auditor.Leaves(ctx, s.conn.client.LogReader(s.digest), 0, s.auditor.CountedSize(), func(i uint64, l audit.Leaf) error {
		if l.Kind != audit.Charge || l.Subject != s.node.config.Hospital || known[l.Object] {
			return nil
		}
		return s.stop(fmt.Errorf("the log has a charge of this hospital for round %d (leaf %d) that its ledger lacks: the ledger is of an older disk or another machine; the study is closed for this hospital", l.Round, i))
	})
}

// post hands f to the loop; it is dropped when the session ends first.
func (s *serving) post(ctx context.Context, f func() error) {
	select {
	case s.events <- f:
	case <-ctx.Done():
	}
}
