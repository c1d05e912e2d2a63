package node

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/consilium-fl/consilium/internal/store"
)

// cells are what a study's runner has to remember over a restart, each replaced durably and often.
type cells struct {
	round  *store.Cell // the last round seen, 8 bytes
	state  *store.Cell // of the last round's machine, once it has answered
	memory *store.Cell // the auditor's
}

func (c *cells) open(dir string) error {
	for name, to := range map[string]**store.Cell{"last-round": &c.round, "member-state": &c.state, "log-memory": &c.memory} {
		cell, err := store.OpenCell(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		*to = cell
	}
	return nil
}

func (c *cells) close(log *slog.Logger) {
	var errs []error
	for _, cell := range []*store.Cell{c.round, c.state, c.memory} {
		if cell != nil {
			errs = append(errs, cell.Close())
		}
	}
	if err := errors.Join(errs...); err != nil {
		log.Warn("closing the study's files failed", "error", err)
	}
}

// seen is the number of the last round that this node began.
func (c *cells) seen() (uint64, error) {
	b, err := c.round.Load()
	if err != nil || b == nil {
		return 0, err
	}
	if len(b) != 8 {
		return 0, fmt.Errorf("reading the last round seen: %d bytes, want 8", len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}

// see makes the number durable before anything of that round is answered.
func (c *cells) see(n uint64) error {
	return c.round.Store(binary.BigEndian.AppendUint64(nil, n))
}
