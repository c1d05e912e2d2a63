package store

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"os"
	"path/filepath"
	"sync"
)

// MaxRecord bounds one record of a journal, in bytes.
const MaxRecord = 16 << 20

// A journal file is journalMagic and then records:
//
//	4 bytes  length of the payload, big endian
//	4 bytes  CRC-32C of the file offset of this record and of the length
//	32 bytes SHA-256 of the payload
//	payload
//
// The header has a sum of its own so that a flipped length in the middle is not mistaken for a
// record that runs past the end of the file, which would drop all that follows as a torn tail. The
// offset in it keeps a record from passing anywhere but where it was written.
const (
	journalMagic = "consilium journal 1\n"
	headerSize   = 4 + 4 + sha256.Size
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Journal is an append-only file. One process at a time holds it; its methods may be called from
// many goroutines.
type Journal struct {
	mu     sync.Mutex
	file   *os.File
	size   int64 // where the next record goes; everything before it is durable
	broken error // set for good when a write or an fsync failed
}

// OpenJournal opens or makes the journal at path, mode 0600. It reads the whole file: a last
// record that was never acknowledged and is not whole is cut off, durably; anything else that is
// not what was appended is ErrCorrupt, and the file is left as it is. A bit that flips in the very
// last record looks like a torn tail: what must not be lost is compared with the log. A journal
// that another process holds is ErrLocked.
func OpenJournal(path string) (*Journal, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening journal: %w", err)
	}
	j := &Journal{file: f}
	if err := j.open(path); err != nil {
		_ = f.Close() // the error at hand is the one to tell
		return nil, fmt.Errorf("opening journal %q: %w", path, err)
	}
	return j, nil
}

func (j *Journal) open(path string) error {
	if err := flock(j.file); err != nil {
		return err
	}
	whole, size, err := scan(j.file)
	if err != nil {
		return err
	}
	if whole == 0 {
		if err := j.start(); err != nil {
			return err
		}
		whole = int64(len(journalMagic))
	} else if whole < size {
		if err := j.file.Truncate(whole); err != nil {
			return fmt.Errorf("cutting the torn tail: %w", err)
		}
	}
	// Records that a killed process had written but not yet fsynced were just read as whole: they
	// become durable before anybody acts on them.
	if err := j.file.Sync(); err != nil {
		return err
	}
	j.size = whole
	return SyncDir(filepath.Dir(path))
}

// start writes the magic of a new journal, or over one that a crash left half made.
func (j *Journal) start() error {
	if err := j.file.Truncate(0); err != nil {
		return err
	}
	_, err := j.file.WriteAt([]byte(journalMagic), 0)
	return err
}

// scan returns where the whole records of f end and how long f is. whole is 0 where there is not
// even a magic.
func scan(f io.ReaderAt) (whole, size int64, err error) {
	size, err = sizeOf(f)
	if err != nil {
		return 0, 0, err
	}
	r := newReader(f, size)
	if err := r.magic(); err != nil {
		if errors.Is(err, errTorn) {
			return 0, size, nil
		}
		return 0, size, err
	}
	for {
		_, err := r.next()
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			return r.at, size, nil
		case errors.Is(err, errTorn):
			return r.at, size, refuseIfMore(f, r.at, size)
		default:
			return 0, size, err
		}
	}
}

func sizeOf(f io.ReaderAt) (int64, error) {
	switch f := f.(type) {
	case *os.File:
		fi, err := f.Stat()
		if err != nil {
			return 0, err
		}
		if !fi.Mode().IsRegular() {
			return 0, fmt.Errorf("it is %s, want a regular file", fi.Mode().Type())
		}
		return fi.Size(), nil
	case interface{ Size() int64 }:
		return f.Size(), nil
	}
	panic("store: a journal is read from a file, or in tests from bytes")
}

// errTorn says that a record is not whole; whether that is a torn tail depends on what follows.
var errTorn = errors.New("record is not whole")

type reader struct {
	r    *bufio.Reader
	at   int64 // of the next record
	size int64
}

func newReader(f io.ReaderAt, size int64) *reader {
	return &reader{r: bufio.NewReaderSize(io.NewSectionReader(f, 0, size), 64<<10), size: size}
}

func (r *reader) magic() error {
	b := make([]byte, min(int64(len(journalMagic)), r.size))
	if _, err := io.ReadFull(r.r, b); err != nil {
		return err
	}
	if string(b) != journalMagic[:len(b)] && !zero(b) {
		return fmt.Errorf("it begins with %q, want %q: not a journal", b, journalMagic)
	}
	if string(b) != journalMagic {
		if r.size > int64(len(b)) {
			return fmt.Errorf("%w: no magic before its records", ErrCorrupt)
		}
		return errTorn
	}
	r.at = int64(len(b))
	return nil
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// next returns the payload of the next record, io.EOF behind the last one, or errTorn.
func (r *reader) next() ([]byte, error) {
	left := r.size - r.at
	if left == 0 {
		return nil, io.EOF
	}
	var h [headerSize]byte
	if left < headerSize {
		return nil, errTorn
	}
	if _, err := io.ReadFull(r.r, h[:]); err != nil {
		return nil, err
	}
	n, ok := length(h[:], r.at)
	if !ok || int64(n) > left-headerSize {
		return nil, errTorn
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r.r, b); err != nil {
		return nil, err
	}
	if sha256.Sum256(b) != [sha256.Size]byte(h[8:]) {
		return nil, errTorn
	}
	r.at += headerSize + int64(n)
	return b, nil
}

// length returns the payload length in a header that was written at offset at.
func length(h []byte, at int64) (n uint32, ok bool) {
	n = binary.BigEndian.Uint32(h)
	return n, n <= MaxRecord && binary.BigEndian.Uint32(h[4:]) == headerSum(n, at)
}

func headerSum(n uint32, at int64) uint32 {
	var b [12]byte
	binary.BigEndian.PutUint64(b[:], uint64(at))
	binary.BigEndian.PutUint32(b[8:], n)
	return crc32.Checksum(b[:], castagnoli)
}

// refuseIfMore tells a torn tail from a damaged middle. Append begins a record only when the one
// before it is durable, so behind a torn record there is never another whole one.
func refuseIfMore(f io.ReaderAt, at, size int64) error {
	tail := size - at
	if tail > headerSize+MaxRecord {
		return fmt.Errorf("%w: at byte %d, %d bytes before the end", ErrCorrupt, at, tail)
	}
	b := make([]byte, tail)
	if _, err := f.ReadAt(b, at); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	for i := int64(1); i+headerSize <= tail; i++ {
		n, ok := length(b[i:], at+i)
		if end := i + headerSize + int64(n); ok && end <= tail && sha256.Sum256(b[i+headerSize:end]) == [sha256.Size]byte(b[i+8:i+headerSize]) {
			return fmt.Errorf("%w: the record at byte %d is not what was appended, the one at byte %d is whole", ErrCorrupt, at, at+i)
		}
	}
	return nil
}

// Append adds a record and returns once it is on disk. After an error the record may or may not be
// there when the journal is opened again, and this Journal takes no more: what the kernel still
// holds after a failed fsync is unknown.
func (j *Journal) Append(b []byte) error {
	if len(b) > MaxRecord {
		return fmt.Errorf("appending to journal: %d bytes, want at most %d", len(b), MaxRecord)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.broken != nil {
		return fmt.Errorf("appending to journal: it failed before: %w", j.broken)
	}
	if err := j.write(encodeRecord(b, j.size)); err != nil {
		j.broken = err
		return fmt.Errorf("appending to journal: %w", err)
	}
	return nil
}

// write is one write and one fsync: a crash before the fsync leaves a torn tail or a whole record
// that nobody was told of; both are what OpenJournal expects.
func (j *Journal) write(rec []byte) error {
	if _, err := j.file.WriteAt(rec, j.size); err != nil {
		return err
	}
	if err := j.file.Sync(); err != nil {
		return err
	}
	j.size += int64(len(rec))
	return nil
}

func encodeRecord(b []byte, at int64) []byte {
	rec := make([]byte, headerSize, headerSize+len(b))
	n := uint32(len(b)) //nolint:gosec // at most MaxRecord
	binary.BigEndian.PutUint32(rec, n)
	binary.BigEndian.PutUint32(rec[4:], headerSum(n, at))
	sum := sha256.Sum256(b)
	copy(rec[8:], sum[:])
	return append(rec, b...)
}

// Entries yields every record in order, as of the moment it starts; each slice is the caller's own.
// A record that has changed on disk since OpenJournal is an error, and the last pair.
func (j *Journal) Entries() iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		j.mu.Lock()
		size := j.size
		j.mu.Unlock()
		r := newReader(j.file, size)
		err := r.magic()
		for err == nil {
			var b []byte
			if b, err = r.next(); err == nil && !yield(b, nil) {
				return
			}
		}
		if !errors.Is(err, io.EOF) || r.at != size {
			yield(nil, fmt.Errorf("reading journal at byte %d: %w", r.at, errors.Join(ErrCorrupt, err)))
		}
	}
}

// Close lets another process open the journal.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.broken = os.ErrClosed
	return j.file.Close()
}
