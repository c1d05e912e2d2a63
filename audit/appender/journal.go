package appender

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/consilium-fl/consilium/audit"
)

// entry is a leaf and where it stands.
type entry struct {
	index uint64
	leaf  []byte
}

// A journal holds the leaves that are promised and may not be in Tessera's tree yet: one file, written
// from its start again whenever the tree has all of it. So a promise costs one synchronous write of bytes that
// the file has already, and Tessera's files, several for each batch, are not waited for.
//
// A record is the leaf's length (4 bytes) and index (8), both big endian, the leaf, and the SHA-256 of the
// record before's digest and all that: what an earlier pass left behind a torn record does not follow it.
type journal struct {
	f    *os.File
	at   int64
	last [sha256.Size]byte // digest of the record before; zero at the start
}

const (
	journalHead = 4 + 8
	journalSize = 256 << 10 // made at once, so that writing to it changes no metadata
	maxJournal  = 1 << 20   // what is written at once may pass the end
)

// openJournal returns what the journal at path holds, up to the first record that was cut short: that
// one's write did not return, so it was promised to nobody.
func openJournal(path string) (*journal, []entry, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_DSYNC, 0o600) // a write returns when it is on disk
	if err != nil {
		return nil, nil, err
	}
	j := &journal{f: f}
	es, err := j.open()
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("opening journal %q: %w", path, err), f.Close())
	}
	return j, es, nil
}

func (j *journal) open() ([]entry, error) {
	b, err := io.ReadAll(io.LimitReader(j.f, maxJournal+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxJournal {
		return nil, fmt.Errorf("more than %d bytes", maxJournal)
	}
	if len(b) < journalSize {
		if _, err := j.f.WriteAt(make([]byte, journalSize-len(b)), int64(len(b))); err != nil {
			return nil, err
		}
		if err := syncDir(filepath.Dir(j.f.Name())); err != nil {
			return nil, err
		}
	}
	return j.parse(b), nil
}

// parse reads records and leaves j behind the last whole one.
func (j *journal) parse(b []byte) []entry {
	var es []entry
	for {
		rest := b[j.at:]
		if len(rest) < journalHead {
			return es
		}
		n := int64(binary.BigEndian.Uint32(rest))
		if n == 0 || n > audit.MaxLeaf || int64(len(rest)) < journalHead+n+sha256.Size {
			return es
		}
		body, digest := rest[:journalHead+n], rest[journalHead+n:journalHead+n+sha256.Size]
		if sum := chained(j.last, body); !bytes.Equal(sum[:], digest) {
			return es
		}
		es = append(es, entry{binary.BigEndian.Uint64(body[4:]), bytes.Clone(body[journalHead:])})
		j.at, j.last = j.at+journalHead+n+sha256.Size, [sha256.Size]byte(digest)
	}
}

func chained(last [sha256.Size]byte, body []byte) (sum [sha256.Size]byte) {
	h := sha256.New()
	h.Write(last[:])
	h.Write(body)
	h.Sum(sum[:0])
	return sum
}

// write appends entries, durable when it returns nil.
func (j *journal) write(es []entry) error {
	var b []byte
	last := j.last
	for _, e := range es {
		start := len(b)
		b = binary.BigEndian.AppendUint32(b, uint32(len(e.leaf)))
		b = binary.BigEndian.AppendUint64(b, e.index)
		b = append(b, e.leaf...)
		last = chained(last, b[start:])
		b = append(b, last[:]...)
	}
	if _, err := j.f.WriteAt(b, j.at); err != nil {
		return err
	}
	j.at, j.last = j.at+int64(len(b)), last
	return nil
}

// full says that the journal has to start again.
func (j *journal) full() bool { return j.at > journalSize }

// rewind starts again. What if we crash after the next write? The tree has all that it overwrote, and what
// it left of it does not follow the new record.
func (j *journal) rewind() { j.at, j.last = 0, [sha256.Size]byte{} }

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
