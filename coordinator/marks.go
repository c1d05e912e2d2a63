package coordinator

import (
	"context"
	"fmt"
	"maps"
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
	lines    map[string][]byte // by hospital, as they came: verified once there are enough
	cosigned []string          // once it counts
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
			m.recent = append(m.recent, mark{size: c.Size, note: note, lines: map[string][]byte{}})
			m.recent = m.recent[max(0, len(m.recent)-keptMarks):]
		}
		m.mu.Unlock()
		m.s.feed.publish(feedItem{Checkpoint: note})
	}
	return nil
}

// cosign takes a hospital's co-signature. Once there are enough that are good, the checkpoint counts: it is
// stored and handed out. What comes after that is not needed.
//
// A crash before the save: the members co-sign again, or the next one. A counted checkpoint that was
// handed out is stored, so a restarted coordinator never knows an older one than its members.
func (m *marks) cosign(ctx context.Context, hospital string, size uint64, line []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if size <= m.counted.size {
		return nil
	}
	i := slices.IndexFunc(m.recent, func(x mark) bool { return x.size == size })
	if i < 0 {
		return fmt.Errorf("%w: no checkpoint of size %d is open for co-signatures", transport.ErrTooLate, size)
	}
	x := &m.recent[i]
	x.lines[hospital] = line
	if len(x.lines) < m.s.terms.Need {
		return nil
	}
	w, err := m.s.witnesses()
	if err != nil {
		return err
	}
	note, c, err := audit.MergeCosignatures(x.note, slices.Collect(maps.Values(x.lines)), m.s.origin(), m.s.c.deps.Consortium.Log, w)
	if err != nil {
		return err
	}
	if !w.Counts(c) {
		return nil // some line is no good; whose, the merge does not say, and the next one may be
	}
	if err := m.cell.save(ctx, note); err != nil {
		return err
	}
	x.note, x.cosigned = note, c.Cosigned
	m.counted = *x
	m.s.feed.publish(feedItem{Checkpoint: note, Counted: true})
	m.s.nudge()
	return nil
}

// newest is the newest published checkpoint, with its co-signatures once it counts.
func (m *marks) newest() ([]byte, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.recent) == 0 {
		return nil, false
	}
	return m.recent[len(m.recent)-1].note, true
}

// current is the newest checkpoint that counts, and who sent co-signatures of the newest published one.
func (m *marks) current() (counted mark, signers []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := len(m.recent); n > 0 {
		signers = slices.Sorted(maps.Keys(m.recent[n-1].lines))
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
