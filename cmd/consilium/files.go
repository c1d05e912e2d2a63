package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/consilium-fl/consilium/internal/pinned"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/store"
	"github.com/consilium-fl/consilium/internal/study"
)

// readFile reads a small file that the command line names.
func readFile(what, path string) ([]byte, error) { return readBounded(what, path, signed.MaxEnvelope) }

// readBounded reads a file of at most that many bytes.
func readBounded(what, path string, limit int64) ([]byte, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, bad("reading %s: %w", what, err)
	}
	if fi.Size() > limit {
		return nil, bad("reading %s %s: %d bytes, want at most %d", what, path, fi.Size(), limit)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, bad("reading %s: %w", what, err)
	}
	return b, nil
}

// writeNew writes a file that is not there yet.
func writeNew(path string, b []byte) error {
	if err := absent(path); err != nil {
		return err
	}
	return store.WriteFile(path, b, 0o644)
}

func absent(path string) error {
	_, err := os.Lstat(path)
	switch {
	case err == nil:
		return bad("writing %s: it is there already, and nothing is overwritten", path)
	case !errors.Is(err, fs.ErrNotExist):
		return bad("writing %s: %w", path, err)
	}
	if dir, err := os.Stat(filepath.Dir(path)); err != nil || !dir.IsDir() {
		return bad("writing %s: there is no folder %s", path, filepath.Dir(path))
	}
	return nil
}

// place adds the file's name to every problem.
func place(path string, err error) error {
	if ps, ok := errors.AsType[study.Problems](err); ok {
		return ps.WithFile(path)
	}
	if err != nil {
		return badInput{fmt.Errorf("%s: %w", path, err)}
	}
	return nil
}

func readConsortium(path string) (*study.Consortium, error) {
	b, err := readFile("consortium", path)
	if err != nil {
		return nil, err
	}
	c, err := study.ParseConsortium(b)
	return c, place(path, err)
}

func readStudy(path string) (*study.Study, error) {
	b, err := readFile("study", path)
	if err != nil {
		return nil, err
	}
	s, err := study.Parse(b)
	return s, place(path, err)
}

// sigsBeside is where the signatures of a consortium file are looked for.
func sigsBeside(consortium string) string {
	return filepath.Join(filepath.Dir(consortium), pinned.SignaturesFile)
}

// digestOf reads "sha256:…", or digests the file of that name.
func digestOf(arg string) ([32]byte, error) {
	if strings.HasPrefix(arg, "sha256:") {
		d, err := signed.ParseDigest(arg)
		if err != nil {
			return d, badInput{err}
		}
		return d, nil
	}
	b, err := readFile("study", arg)
	return signed.Digest(b), err
}

// instant is a flag: a date, or a time in UTC.
type instant struct{ time.Time }

func (i *instant) String() string {
	if i.IsZero() {
		return ""
	}
	return i.UTC().Format(time.RFC3339)
}

func (i *instant) Set(s string) error {
	for _, form := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(form, s); err == nil {
			i.Time = t.UTC()
			return nil
		}
	}
	return fmt.Errorf("got %q, want a date such as 2027-05-01, or a time such as 2027-05-01T00:00:00Z", s)
}

func (i *instant) Type() string { return "time" }
