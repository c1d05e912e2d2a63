// Package endorse holds what a verifier trusts at one moment: roots, certificates, revocation
// lists and collateral, as files in one flat folder.
//
// A [Snapshot] does not change once it is made, so an appraisal that names its digest can be
// made again later, offline, with the same answer:
//
//	trust, err := endorse.Load("/etc/consilium/trust")
//	if err != nil { … }
//	result := verifiers.Check(evidence, attest.Inputs{Now: now, ReportData: &want, Trust: trust}, policy)
//
// Nothing here reads the network. The vendors' roots are in attest/endorse/roots, attest/endorse/bundle brings a
// snapshot into a hospital that has no way out, and attest/endorse/refresh makes new ones from the vendors' services.
package endorse

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// Bounds of a snapshot; the largest real collateral is a revocation list of some 100 KiB.
const (
	MaxFiles = 512
	MaxFile  = 4 << 20  // bytes of one file
	MaxTotal = 16 << 20 // bytes of all files together
)

// ErrExpired says that what would have been trusted was to be trusted until a time that has passed.
var ErrExpired = errors.New("expired")

const maxName = 255 // bytes; what file systems take

// Snapshot is an immutable set of named files. A nil Snapshot is empty and its digest is zero.
type Snapshot struct {
	files  map[string][]byte
	digest [32]byte

	once  sync.Once // guards index, which is made of files when first asked for
	index *Index
}

// Load reads a trust folder. Every file in it is part of the digest, also one that no verifier
// knows. Names that begin with ".." are left out: Kubernetes keeps the versions of a mounted
// volume there, and the files beside them are links into it. Other folders are an error, for
// what lay in them would be trusted by nobody and noticed by nobody.
func Load(dir string) (*Snapshot, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("loading trust: %w", err)
	}
	files := make(map[string][]byte)
	total := 0
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		if len(files) == MaxFiles {
			return nil, fmt.Errorf("loading trust %q: more than %d files", dir, MaxFiles)
		}
		b, err := readFile(filepath.Join(dir, e.Name()), min(MaxFile, MaxTotal-total))
		if err != nil {
			return nil, fmt.Errorf("loading trust: %w", err)
		}
		files[e.Name()] = b
		total += len(b)
	}
	s, err := New(files)
	if err != nil {
		return nil, fmt.Errorf("loading trust %q: %w", dir, err)
	}
	return s, nil
}

func readFile(path string, limit int) (_ []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	// Ask the open file, not the path: a link may be swapped between the two.
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("reading %q: %s, want a regular file", path, info.Mode().Type())
	}
	b, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	if len(b) > limit {
		return nil, fmt.Errorf("reading %q: more than %d bytes", path, limit)
	}
	return b, nil
}

// New makes a snapshot of copies of files.
func New(files map[string][]byte) (*Snapshot, error) {
	if len(files) > MaxFiles {
		return nil, fmt.Errorf("making a trust snapshot: %d files, want at most %d", len(files), MaxFiles)
	}
	s := &Snapshot{files: make(map[string][]byte, len(files))}
	total := 0
	for name, b := range files {
		if err := checkName(name); err != nil {
			return nil, fmt.Errorf("making a trust snapshot: %w", err)
		}
		if len(b) > MaxFile {
			return nil, fmt.Errorf("making a trust snapshot: %q: %d bytes, want at most %d", name, len(b), MaxFile)
		}
		if total += len(b); total > MaxTotal {
			return nil, fmt.Errorf("making a trust snapshot: more than %d bytes in all", MaxTotal)
		}
		s.files[name] = bytes.Clone(b)
	}
	s.digest = s.hash()
	return s, nil
}

// Union is a snapshot of the files of all: a folder, an imported bundle, the vendors' roots. Two that give a file of one
// name other contents are an error, for one of the two would be left out.
func Union(all ...*Snapshot) (*Snapshot, error) {
	files := map[string][]byte{}
	for _, s := range all {
		for name, b := range s.Files() {
			if old, ok := files[name]; ok && !bytes.Equal(old, b) {
				return nil, fmt.Errorf("uniting trust snapshots: two files are named %q and differ", name)
			}
			files[name] = b
		}
	}
	return New(files)
}

// checkName keeps names flat, since an output folder writes the files out under them again.
func checkName(name string) error {
	switch {
	case name == "" || name == "." || strings.HasPrefix(name, ".."):
		return fmt.Errorf("file name %q: want a plain name", name)
	case len(name) > maxName:
		return fmt.Errorf("file name %q: %d bytes, want at most %d", name, len(name), maxName)
	case !utf8.ValidString(name) || strings.ContainsAny(name, `/\:`) || strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("file name %q: want a plain name", name)
	}
	return nil
}

// hash is SHA-256 over the sorted files, each name and content behind its length, so that no
// two sets of files run together into the same bytes.
func (s *Snapshot) hash() [32]byte {
	h := sha256.New()
	h.Write([]byte("consilium/trust/v1\x00"))
	field := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	for _, name := range slices.Sorted(maps.Keys(s.files)) {
		field([]byte(name))
		field(s.files[name])
	}
	return [32]byte(h.Sum(nil))
}

// Digest names the snapshot: SHA-256 over its sorted names and contents.
func (s *Snapshot) Digest() [32]byte {
	if s == nil {
		return [32]byte{}
	}
	return s.digest
}

// File returns a copy of one file.
func (s *Snapshot) File(name string) ([]byte, bool) {
	if s == nil {
		return nil, false
	}
	b, ok := s.files[name]
	return bytes.Clone(b), ok
}

// Files returns a copy of everything: what an output folder keeps under trust/.
func (s *Snapshot) Files() map[string][]byte {
	if s == nil {
		return nil
	}
	out := make(map[string][]byte, len(s.files))
	for name, b := range s.files {
		out[name] = bytes.Clone(b)
	}
	return out
}
