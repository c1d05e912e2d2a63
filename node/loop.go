package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/audit"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/transport"
)

// serving is a runner with one connection.
type serving struct {
	*runner
	life     context.Context // the runner's: rounds live longer than a session
	during   context.Context // the session's
	conn     *connection
	items    chan transport.FollowItem
	ended    chan error // of one: how following ended
	joined   bool       // the first item has come
	clearing bool
	wg       sync.WaitGroup
}

// session serves one connection: over says that the study has ended. Without an error it is to be renewed.
func (r *runner) session(life context.Context) (over bool, err error) {
	c, err := r.connect(life)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancel(life)
	s := &serving{runner: r, life: life, during: ctx, conn: c, items: make(chan transport.FollowItem), ended: make(chan error, 1)}
	defer func() {
		cancel()
		s.wg.Wait() // nothing of this session runs when the next one begins
		err = errors.Join(err, c.client.Close())
	}()
	info, err := c.client.GetStudy(ctx, r.digest)
	if err != nil {
		return false, fmt.Errorf("asking for the study: %w", err)
	}
	switch info.State { // until the release is co-signed it still runs
	case transport.StateEnded, transport.StateShort, transport.StateCancelled:
		return true, nil
	}
	r.attested = c.attested()
	if r.protocol, err = protocolKey(r.attested); err != nil {
		return false, err
	}
	if err := r.prepare(info.File); err != nil {
		return false, err
	}
	return s.loop(ctx)
}

// loop is where everything that changes a runner's state happens, one thing at a time.
func (s *serving) loop(ctx context.Context) (over bool, err error) {
	position := transport.Position{Study: s.digest, Cursor: s.cursor, Boot: s.node.boot, Epoch: slices.Clone(s.epoch)}
	s.wg.Go(func() { s.ended <- s.follow(ctx, position) })
	s.wg.Go(func() { s.audit(ctx) })
	s.wg.Go(func() {
		d := s.node.deps
		d.Grounds.Heed(ctx, d.Consortium, attest.RoleCoordinator, d.Now, s.conn.creds.Reappraise)
	})
	s.startClearing(ctx)
	renew := time.NewTimer(renewIn(s.attested.Until.Sub(s.node.deps.Now())))
	defer renew.Stop()
	for err == nil {
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case it := <-s.items:
			err = s.item(ctx, it)
		case f := <-s.events:
			err = f(ctx, s)
		case err = <-s.ended:
			if errors.Is(err, transport.ErrNotFound) {
				return true, nil
			}
		case <-renew.C:
			return false, nil
		}
	}
	return false, err
}

// follow keeps a Follow stream open and hands its items to the loop. The coordinator ends each stream
// within a minute; one that brings nothing is not asked for at once again.
func (s *serving) follow(ctx context.Context, p transport.Position) error {
	for {
		brought := false
		err := s.conn.client.Follow(ctx, p, func(it transport.FollowItem) error {
			if !slices.Equal(it.Epoch, p.Epoch) {
				p.Cursor, p.Epoch = 0, slices.Clone(it.Epoch)
			}
			p.Cursor = max(p.Cursor, it.Sequence)
			brought = brought || it.Sequence > 0
			select {
			case s.items <- it:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		if err == nil && !brought {
			err = pause(ctx, shortestWait)
		}
		if err != nil {
			return err
		}
	}
}

// item takes one item of the stream. One that fails comes again over the next session.
func (s *serving) item(ctx context.Context, it transport.FollowItem) error {
	restarted := !slices.Equal(it.Epoch, s.epoch)
	if restarted {
		s.log.Info("following anew")
		s.epoch, s.cursor = it.Epoch, 0
	}
	if restarted || !s.joined { // a round goes on over a new connection, or with a coordinator that was restored
		s.joined = true
		s.resend(ctx)
	}
	if err := s.enrolled(it.Enrolments); err != nil {
		return err
	}
	charges, unfit := s.charges(it.Message)
	leaves, err := s.promised(ctx, it.Promises, charges)
	if err != nil {
		return err
	}
	if unfit != nil {
		s.log.Warn("proposal refused", "round", s.round.number, "error", unfit)
		it.Message = nil
	}
	if it.Checkpoint != nil {
		s.checkpoint(it.Checkpoint)
	}
	if it.Message != nil {
		if err := s.message(ctx, *it.Message, leaves); err != nil {
			return err
		}
	}
	s.cursor = max(s.cursor, it.Sequence) // the preamble has none
	return nil
}

// enrolled takes members' enrolment files: their witness keys count checkpoints. What is wrong with one
// keeps that member out, not this node.
func (s *serving) enrolled(files [][]byte) error {
	for _, f := range files {
		e, err := s.node.newest.admit(f, s.node.deps.Now())
		switch {
		case err != nil:
			s.log.Warn("enrolment does not count", "error", err)
		case !slices.Contains(s.terms.Study.Members, e.Hospital):
			s.log.Warn("enrolment does not count: its hospital is no member of the study", "hospital", e.Hospital)
		case e.Serial == s.members[e.Hospital].Serial:
		case e.Hospital == s.node.config.Hospital:
			return fmt.Errorf("%w: node %q with serial %d has taken this one's place at hospital %q", errUnfit, e.Node, e.Serial, e.Hospital)
		default:
			s.cosigner(e)
		}
	}
	return nil
}

func (s *serving) cosigner(e study.Enrolment) {
	keys := maps.Clone(s.witnesses.Keys)
	keys[e.Hospital] = e.WitnessKey
	if err := s.auditor.SetWitnesses(keys); err != nil { // a key that is somebody else's
		s.log.Warn("enrolment does not count", "hospital", e.Hospital, "error", err)
		return
	}
	s.members[e.Hospital], s.witnesses.Keys = e, keys
}

func (s *serving) origin() string { return audit.Origin(s.node.deps.Consortium.Name, s.digest) }

// promised remembers promises, those of a proposal's charges with them, in one write, and returns the leaves of
// the others; that of the own boot leaf starts the check of the own ledger against the log.
func (s *serving) promised(ctx context.Context, raw [][]byte, charges []audit.Promised) ([]audit.Leaf, error) {
	ps := charges
	var leaves []audit.Leaf
	for _, b := range raw {
		p, leaf, err := audit.ParsePromised(b, s.origin(), s.node.deps.Consortium.Log)
		if err != nil {
			return nil, fmt.Errorf("reading a promise of the log: %w", err)
		}
		ps, leaves = append(ps, p), append(leaves, leaf)
		if s.bootLeaf == nil && leaf.Kind == audit.Boot && leaf.Subject == s.node.config.Hospital && leaf.Object == signed.Digest(s.node.boot[:]) {
			s.bootLeaf = &p
		}
	}
	if err := s.auditor.Expect(ps...); err != nil {
		return nil, s.doubt(err)
	}
	s.startClearing(ctx)
	return leaves, nil
}

// errBehind says that the log shows more charges of this hospital than its ledger.
var errBehind = errors.New("the ledger is of an older disk or another machine")

// doubt turns a contradiction in the log, or of the log and the own ledger, into a stop for good, and
// leaves any other error alone. A ledger that lacks charges closes the study first: dying between the two,
// the next start finds the same.
func (s *serving) doubt(err error) error {
	switch {
	case errors.Is(err, errBehind):
		return errors.Join(s.stop(err), forfeit(s.ledger, s.terms))
	case errors.Is(err, audit.ErrForked):
		return s.stop(err)
	}
	return err
}

func (s *serving) startClearing(ctx context.Context) {
	if s.cleared || s.clearing || s.bootLeaf == nil {
		return
	}
	s.clearing = true
	boot := *s.bootLeaf
	s.wg.Go(func() { s.clear(ctx, boot) })
}

// clear waits until a counted checkpoint includes this process's boot leaf, and then compares the log
// with the own ledger: a ledger from an old disk lacks charges that the log has, and must not be spent
// from again. The leaf is over fresh random bytes, so no checkpoint from before this start will do.
func (s *serving) clear(ctx context.Context, boot audit.Promised) {
	err := s.auditor.WaitIncluded(ctx, boot)
	if err == nil {
		err = s.compareLedger(ctx)
	}
	s.post(ctx, func(ctx context.Context, s *serving) error {
		if err != nil {
			return s.doubt(err)
		}
		s.cleared = true
		s.log.Info("the log and the own ledger agree")
		if err := s.resume(ctx); err != nil {
			return err
		}
		if held := s.held; held != nil {
			s.held = nil
			return s.plan(ctx, held.message, held.leaves)
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
		return fmt.Errorf("leaf %d of the log is a charge of this hospital for round %d that its ledger lacks: %w; the study is closed for this hospital", i, l.Round, errBehind)
	})
}

// post hands f to the loop of whichever session is at hand; it is dropped when ctx ends first.
func (r *runner) post(ctx context.Context, f func(context.Context, *serving) error) {
	select {
	case r.events <- f:
	case <-ctx.Done():
	}
}

// forget ends a round: what runs for it stops, and its machine erases its secrets.
func (r *roundState) forget() {
	r.cancel()
	r.member.Step(aggregate.Expired{})
	clear(r.vector)
	r.vector = nil
}
