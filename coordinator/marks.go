package coordinator

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/consilium-fl/consilium/audit"
	"github.com/consilium-fl/consilium/internal/transport"
)

// keptMarks is how many published checkpoints can still be co-signed.
const keptMarks = 64

// marks are the checkpoints of a study's log: those published, with the co-signatures that came in, and
// the newest that counts.
type marks struct {
	s    *dossier
	cell *cell[[]byte] // the newest counted, under "counted/<hex>"

	mu      sync.Mutex
	recent  []mark // by rising size
	counted mark
}

type mark struct {
	size     uint64
	note     []byte
	cosigned []string
}

func newMarks(s *dossier) *marks {
	return &marks{s: s, cell: &cell[[]byte]{store: s.c.deps.Store, key: "counted/" + hexOf(s.digest)}}
}

func (m *marks) parse(note []byte) (audit.Checkpoint, audit.Witnesses, error) {
	w, err := m.s.witnesses()
	if err != nil {
		return audit.Checkpoint{}, w, err
	}
	c, err := audit.ParseCheckpoint(note, m.s.origin(), m.s.c.deps.Consortium.Log, w)
	return c, w, err
}

// load takes up what the process before knew to count.
func (m *marks) load(ctx context.Context) error {
	note, found, err := m.cell.load(ctx)
	if err != nil || !found {
		return err
	}
	c, _, err := m.parse(note)
	if err != nil {
		return err
	}
	m.counted = mark{size: c.Size, note: note, cosigned: c.Cosigned}
	m.s.feed.publish(feedItem{Checkpoint: note, Counted: true})
	return nil
}

// run hands each checkpoint to the followers as it is published.
func (m *marks) run(ctx context.Context) error {
	for note := range m.s.trail.Checkpoints(ctx) {
		c, _, err := m.parse(note)
		if err != nil {
			return fmt.Errorf("reading an own checkpoint: %w", err)
		}
		m.mu.Lock()
		if n := len(m.recent); n == 0 || c.Size > m.recent[n-1].size {
			m.recent = append(m.recent, mark{size: c.Size, note: note})
			m.recent = m.recent[max(0, len(m.recent)-keptMarks):]
		}
		m.mu.Unlock()
		m.s.feed.publish(feedItem{Checkpoint: note})
	}
	return nil
}

// cosign merges a co-signature. A checkpoint that counts by it is stored and handed out.
//
// A crash before the save: the members co-sign again, or the next one. A counted checkpoint that was
// handed out is stored, so a restarted coordinator never knows an older one than its members.
func (m *marks) cosign(ctx context.Context, size uint64, line []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := slices.IndexFunc(m.recent, func(x mark) bool { return x.size == size })
	if i < 0 {
		return fmt.Errorf("%w: no checkpoint of size %d is open for co-signatures", transport.ErrTooLate, size)
	}
	x := &m.recent[i]
	w, err := m.s.witnesses()
	if err != nil {
		return err
	}
	note, c, err := audit.MergeCosignatures(x.note, [][]byte{line}, m.s.origin(), m.s.c.deps.Consortium.Log, w)
	if err != nil {
		return err
	}
	if len(c.Cosigned) == len(x.cosigned) {
		if slices.Equal(note, x.note) {
			return nil // it had signed before, or the line is no good
		}
	}
	x.note, x.cosigned = note, c.Cosigned
	if !w.Counts(c) || c.Size < m.counted.size {
		return nil
	}
	newer := c.Size > m.counted.size
	m.counted = *x
	if !newer {
		return nil // one more co-signature of the same: it is kept for the receipt
	}
	if err := m.cell.save(ctx, note); err != nil {
		return err
	}
	m.s.feed.publish(feedItem{Checkpoint: note, Counted: true})
	m.s.nudge()
	return nil
}

// newest is the newest published checkpoint with the co-signatures collected so far.
func (m *marks) newest() ([]byte, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.recent) == 0 {
		return nil, false
	}
	return m.recent[len(m.recent)-1].note, true
}

// current is the newest checkpoint that counts, and who co-signed the newest published one.
func (m *marks) current() (counted mark, signers []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := len(m.recent); n > 0 {
		signers = m.recent[n-1].cosigned
	}
	return m.counted, signers
}

// nudge lets the driver look whether what it waits for has come.
func (s *dossier) nudge() {
	s.mu.Lock()
	d := s.driver
	s.mu.Unlock()
	if d != nil {
		go d.post(context.Background(), func(context.Context) error { return nil })
	}
}
