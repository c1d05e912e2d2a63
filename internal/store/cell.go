package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// A Cell is one small value that is replaced often, durably: two files that take turns, so that a
// replacement neither creates nor renames anything and costs one fdatasync. A Store that was cut short
// leaves the value before it. One process at a time uses a Cell; its methods may be called concurrently.
type Cell struct {
	path string

	mu    sync.Mutex
	files [2]*os.File
	seq   uint64 // of the newest whole value; its file is files[seq&1]
	value []byte // nil: none
}

const (
	cellMagic  = "CONSCEL1"
	cellHeader = len(cellMagic) + 8 + 8 // and the sequence and the length
)

// OpenCell opens the value kept at path.0 and path.1, which it makes when they are not there.
func OpenCell(path string) (*Cell, error) {
	c := &Cell{path: path}
	if err := c.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("opening cell %q: %w", path, err), c.Close())
	}
	return c, nil
}

func (c *Cell) open() error {
	for i := range c.files {
		f, err := os.OpenFile(fmt.Sprintf("%s.%d", c.path, i), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		c.files[i] = f
	}
	if err := SyncDir(filepath.Dir(c.path)); err != nil {
		return err
	}
	for i, f := range c.files {
		seq, value, err := readCell(f)
		if err != nil {
			return err
		}
		if value != nil && seq&1 == uint64(i) && (c.value == nil || seq > c.seq) {
			c.seq, c.value = seq, value
		}
	}
	return nil
}

// readCell returns a nil value for a file that is empty or was cut short.
func readCell(f *os.File) (seq uint64, value []byte, err error) {
	b, err := io.ReadAll(io.LimitReader(f, int64(cellHeader+MaxValue+sha256.Size)))
	if err != nil {
		return 0, nil, err
	}
	seq, value = parseCell(b)
	return seq, value, nil
}

func parseCell(b []byte) (seq uint64, value []byte) {
	if len(b) < cellHeader+sha256.Size || string(b[:len(cellMagic)]) != cellMagic {
		return 0, nil
	}
	seq = binary.BigEndian.Uint64(b[len(cellMagic):])
	n := binary.BigEndian.Uint64(b[len(cellMagic)+8:])
	if n > uint64(len(b)-cellHeader-sha256.Size) {
		return 0, nil
	}
	end := cellHeader + int(n)
	if sum := sha256.Sum256(b[:end]); !bytes.Equal(sum[:], b[end:end+sha256.Size]) {
		return 0, nil
	}
	return seq, append([]byte{}, b[cellHeader:end]...)
}

// Load returns the value, nil when none was stored.
func (c *Cell) Load() ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Clone(c.value), nil
}

// Store replaces the value. When it returns nil the new one is on disk; after an error, or a crash inside
// it, the old one is or the new one is, whole.
func (c *Cell) Store(value []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.store(value); err != nil {
		return fmt.Errorf("storing cell %q: %w", c.path, err)
	}
	return nil
}

func (c *Cell) store(value []byte) error {
	if len(value) > MaxValue {
		return fmt.Errorf("%d bytes, want at most %d", len(value), MaxValue)
	}
	seq := c.seq + 1
	f := c.files[seq&1]
	if f == nil {
		return fs.ErrClosed
	}
	b := make([]byte, 0, cellHeader+len(value)+sha256.Size)
	b = append(b, cellMagic...)
	b = binary.BigEndian.AppendUint64(b, seq)
	b = binary.BigEndian.AppendUint64(b, uint64(len(value)))
	b = append(b, value...)
	sum := sha256.Sum256(b)
	b = append(b, sum[:]...)
	// Dying between here and the end of the fdatasync leaves this file torn, or whole, and the other one,
	// with the value before, untouched.
	if _, err := f.WriteAt(b, 0); err != nil {
		return err
	}
	if err := Datasync(f); err != nil {
		return err
	}
	c.seq, c.value = seq, append([]byte{}, value...)
	return nil
}

// Close closes the files.
func (c *Cell) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for i, f := range c.files {
		if f != nil {
			errs = append(errs, f.Close())
			c.files[i] = nil
		}
	}
	return errors.Join(errs...)
}
