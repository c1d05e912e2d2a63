package node

import (
	"bytes"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"

	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/store"
)

// cells are what a study's runner has to remember over a restart. They change together and lie in one cell, so that
// an answer costs one write: what is put down becomes durable with the next commit, and nothing leaves before that.
type cells struct {
	mu    sync.Mutex
	cell  *store.Cell
	now   sheet
	dirty bool // now is not what the cell holds
}

type sheet struct {
	Round uint64 `cbor:"1,keyasint"` // the last one seen
	State []byte `cbor:"2,keyasint"` // of the last round's machine, once it has answered
	Log   []byte `cbor:"3,keyasint"` // the auditor's
}

func (c *cells) open(dir string) error {
	cell, err := store.OpenCell(filepath.Join(dir, "memory"))
	if err != nil {
		return err
	}
	c.cell = cell
	b, err := cell.Load()
	if err == nil && b != nil {
		err = signed.Decode(b, &c.now)
	}
	if err != nil {
		return fmt.Errorf("reading the study's memory in %q: %w", dir, err)
	}
	return nil
}

func (c *cells) close(log *slog.Logger) {
	if c.cell == nil {
		return
	}
	if err := c.cell.Close(); err != nil {
		log.Warn("closing the study's memory failed", "error", err)
	}
}

// seen is the number of the last round that this node began.
func (c *cells) seen() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now.Round
}

// state is that of the last round's machine; nil: it has not answered.
func (c *cells) state() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Clone(c.now.State)
}

// see puts down that a round has begun.
func (c *cells) see(n uint64) { c.put(func(s *sheet) { s.Round = n }) }

// remember puts down a machine's state.
func (c *cells) remember(state []byte) { c.put(func(s *sheet) { s.State = state }) }

func (c *cells) put(change func(*sheet)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.now)
	c.dirty = true
}

// commit makes durable what was only put down.
func (c *cells) commit() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.dirty {
		return nil
	}
	return c.store(c.now)
}

// store is called with mu held. When it fails nothing has changed.
func (c *cells) store(next sheet) error {
	b, err := signed.Encode(next)
	if err == nil {
		err = c.cell.Store(b)
	}
	if err != nil {
		return err
	}
	c.now, c.dirty = next, false
	return nil
}

// logMemory is the auditor's part.
type logMemory struct{ *cells }

func (m logMemory) Load() ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.Clone(m.now.Log), nil
}

// Store is Put and a commit. When that fails nothing has changed.
func (m logMemory) Store(b []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := m.now
	next.Log = b
	return m.store(next)
}

func (m logMemory) Put(b []byte) error {
	m.put(func(s *sheet) { s.Log = b })
	return nil
}
