package node

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/internal/store"
)

// A spool is a member's masked vector on disk, whole and synced before its first chunk leaves. Masked
// words are uniformly random to whoever lacks the keys, so the file needs no seal. A resend comes from
// here and from nowhere else: a vector computed twice under one mask key would be an attack on oneself.
//
// One file serves every round of a study, written over in place: a new file costs the disk several times as
// much. What is in it counts by its digest alone, which the stored Upload of its round names.
type spool struct {
	dir     string
	written *os.File // filled and not synced yet
}

func (s *spool) path() string { return filepath.Join(s.dir, "masked.spool") }

// fill writes the whole masked vector of x, over that of the round before, which is over. What was filled is not to leave
// before sync has returned: until then a process that dies leaves words that are not those of the stored Upload, if it
// was stored, and the round is given up.
func (s *spool) fill(m *aggregate.Member, x []int64) (digest [32]byte, err error) {
	p := m.Plan()
	f, err := s.open()
	if err != nil {
		return digest, fmt.Errorf("filling the spool: %w", err)
	}
	s.written = f
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("filling the spool of round %d: %w", p.Round.Number, err), s.remove())
		}
	}()
	width := int(p.WordBits) / 8
	if err := f.Truncate(int64(len(x) * width)); err != nil {
		return digest, err
	}
	h := aggregate.NewVectorHash()
	words := chunkWords(p.WordBits)
	buf := make([]byte, min(words, len(x))*width)
	for off := 0; off < len(x); off += words {
		part := x[off:min(off+words, len(x))]
		b := buf[:len(part)*width]
		if err := m.Mask(b, off, part); err != nil {
			return digest, err
		}
		if _, err := f.Write(b); err != nil {
			return digest, err
		}
		if _, err := h.Write(b); err != nil {
			return digest, err
		}
	}
	return h.Sum(), nil
}

// sync makes durable what was filled.
func (s *spool) sync() error {
	if s.written == nil {
		return nil
	}
	if err := errors.Join(store.Datasync(s.written), s.drop()); err != nil {
		return fmt.Errorf("syncing the spool: %w", err)
	}
	return nil
}

// drop closes what was filled.
func (s *spool) drop() error {
	if s.written == nil {
		return nil
	}
	defer func() { s.written = nil }()
	return s.written.Close()
}

// open opens the file, or makes it.
func (s *spool) open() (*os.File, error) {
	f, err := os.OpenFile(s.path(), os.O_WRONLY, 0)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	if f, err = os.OpenFile(s.path(), os.O_WRONLY|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	if err := store.SyncDir(s.dir); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// whole opens the spool if its bytes have that digest.
func (s *spool) whole(digest [32]byte) (*os.File, int64, error) {
	f, err := os.Open(s.path())
	if err != nil {
		return nil, 0, err
	}
	got, err := aggregate.VectorDigest(f)
	if err == nil && got != digest {
		err = errors.New("reading the spool: its digest differs from the one that was signed")
	}
	info, statErr := f.Stat()
	if err = errors.Join(err, statErr); err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

// void lets what is there count no more, for its round is over. It need not last: after a power cut the words
// may be sent once again, and are refused.
func (s *spool) void() error {
	dropped := s.drop()
	f, err := os.OpenFile(s.path(), os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return dropped
	}
	if err != nil {
		return fmt.Errorf("voiding the spool: %w", errors.Join(err, dropped))
	}
	info, err := f.Stat()
	if err == nil {
		_, err = f.WriteAt(make([]byte, min(info.Size(), 4<<10)), 0)
	}
	return errors.Join(err, f.Close(), dropped)
}

// remove removes it: no round needs it any more.
func (s *spool) remove() error {
	dropped := s.drop()
	if err := os.Remove(s.path()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the spool: %w", errors.Join(err, dropped))
	}
	return dropped
}

// chunkWords is the number of words of a whole chunk: 64 Ki, or 32 Ki of 64 bits.
func chunkWords(bits uint8) int {
	if bits == 64 {
		return 32 << 10
	}
	return 64 << 10
}

// newBoot is what tells one run of a node from the next.
func newBoot() (b [16]byte, err error) {
	_, err = rand.Read(b[:])
	return b, err
}
