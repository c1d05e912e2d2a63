package node

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/internal/store"
)

// A spool is a member's masked vector on disk, whole and fsynced before its first chunk leaves. Masked
// words are uniformly random to whoever lacks the keys, so the file needs no seal. A resend comes from
// here and from nowhere else: a vector computed twice under one mask key would be an attack on oneself.
type spool struct{ dir string }

func (s spool) path(round uint64) string {
	return filepath.Join(s.dir, fmt.Sprintf("round-%d.spool", round))
}

// fill writes the whole masked vector of x. If the process dies before the rename there is no spool and
// the round is given up; after it, there is a whole one.
func (s spool) fill(m *aggregate.Member, x []int64) (digest [32]byte, err error) {
	p := m.Plan()
	width := int(p.WordBits) / 8
	f, err := os.CreateTemp(s.dir, ".spool-*")
	if err != nil {
		return digest, fmt.Errorf("filling the spool: %w", err)
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			err = errors.Join(fmt.Errorf("filling the spool of round %d: %w", p.Round.Number, err), os.Remove(f.Name()))
		}
	}()
	words := chunkWords(p.WordBits)
	buf := make([]byte, words*width)
	for off := 0; off < len(x); off += words {
		part := x[off:min(off+words, len(x))]
		b := buf[:len(part)*width]
		if err := m.Mask(b, off, part); err != nil {
			return digest, err
		}
		if _, err := f.Write(b); err != nil {
			return digest, err
		}
	}
	if err := f.Sync(); err != nil {
		return digest, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return digest, err
	}
	if digest, err = aggregate.VectorDigest(f); err != nil {
		return digest, err
	}
	if err := os.Rename(f.Name(), s.path(p.Round.Number)); err != nil {
		return digest, err
	}
	return digest, store.SyncDir(s.dir)
}

// whole opens the spool of a round if its bytes have that digest.
func (s spool) whole(round uint64, digest [32]byte) (*os.File, int64, error) {
	f, err := os.Open(s.path(round))
	if err != nil {
		return nil, 0, err
	}
	got, err := aggregate.VectorDigest(f)
	if err == nil && got != digest {
		err = fmt.Errorf("reading the spool of round %d: its digest differs from the one that was signed", round)
	}
	info, statErr := f.Stat()
	if err = errors.Join(err, statErr); err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

// drop removes the spool of a round that is over.
func (s spool) drop(round uint64) error {
	if err := os.Remove(s.path(round)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("dropping the spool: %w", err)
	}
	return nil
}

// clean removes what is left of rounds other than keep: spools, and those that were never finished.
func (s spool) clean(keep uint64) error {
	var errs []error
	for _, pattern := range []string{"round-*.spool", ".spool-*"} {
		files, err := filepath.Glob(filepath.Join(s.dir, pattern))
		errs = append(errs, err)
		for _, f := range files {
			if f != s.path(keep) {
				errs = append(errs, os.Remove(f))
			}
		}
	}
	return errors.Join(errs...)
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
