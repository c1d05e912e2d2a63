package reference

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/consilium-fl/consilium/attest"
)

// Shelf is the manifests that an appraiser holds, as one moment's immutable value.
type Shelf struct {
	manifests map[string][]Manifest // by name; newest serial first
	files     map[string][]byte
}

// NewShelf opens signed manifests, by file name. One that does not open is an error, and so are two of one name and
// serial that differ: amenders who sign both could show each hospital another.
func NewShelf(files map[string][]byte, by Amenders) (*Shelf, error) {
	if len(files) > maxManifest {
		return nil, fmt.Errorf("reading reference values: %d files, want at most %d", len(files), maxManifest)
	}
	s := &Shelf{manifests: map[string][]Manifest{}, files: maps.Clone(files)}
	for _, file := range slices.Sorted(maps.Keys(files)) {
		m, err := Open(files[file], by)
		if err != nil {
			return nil, fmt.Errorf("reading reference values: %s: %w", file, err)
		}
		for _, other := range s.manifests[m.Name] {
			if other.Serial == m.Serial && other.Digest != m.Digest {
				return nil, fmt.Errorf("reading reference values: %s: another manifest %s of serial %d is there too", file, m.Name, m.Serial)
			}
			if other.Policy.Role != m.Policy.Role {
				return nil, fmt.Errorf("reading reference values: %s: manifest %s is for role %q here and for %q elsewhere", file, m.Name, m.Policy.Role, other.Policy.Role)
			}
		}
		s.manifests[m.Name] = append(s.manifests[m.Name], m)
	}
	for _, ms := range s.manifests {
		slices.SortFunc(ms, func(a, b Manifest) int { return cmp.Compare(b.Serial, a.Serial) })
	}
	return s, nil
}

// Load reads the manifests of a folder: its files that end in .json. A folder that is not there has none.
func Load(dir string, by Amenders) (*Shelf, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading reference values: %w", err)
	}
	files := map[string][]byte{}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".json") || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		info, err := os.Stat(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("reading reference values: %w", err)
		}
		if !info.Mode().IsRegular() || info.Size() > maxEnvelope {
			return nil, fmt.Errorf("reading reference values: %s: %s of %d bytes, want a file of at most %d", e.Name(), info.Mode().Type(), info.Size(), maxEnvelope)
		}
		if files[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			return nil, fmt.Errorf("reading reference values: %w", err)
		}
	}
	return NewShelf(files, by)
}

// Files are the signed manifests as they were read, so that evidence can be judged again by them.
func (s *Shelf) Files() map[string][]byte {
	if s == nil {
		return nil
	}
	return maps.Clone(s.files)
}

// Serials are the highest serial of each name: what an appraiser remembers, so that nobody can take it back.
func (s *Shelf) Serials() map[string]uint64 {
	out := map[string]uint64{}
	if s == nil {
		return out
	}
	for name, ms := range s.manifests {
		out[name] = ms[0].Serial
	}
	return out
}

// Since refuses a shelf on which a name's highest serial is lower than one that was seen before.
func (s *Shelf) Since(seen map[string]uint64) error {
	now := s.Serials()
	for _, name := range slices.Sorted(maps.Keys(seen)) {
		if now[name] < seen[name] {
			return fmt.Errorf("reading reference values: the newest %s has serial %d, and %d was seen before: put that back", name, now[name], seen[name])
		}
	}
	return nil
}

// Policies are those of a name and role that hold at a moment, the newest version first. None is an error that holds an
// [attest.Reason].
func (s *Shelf) Policies(name string, role attest.Role, at time.Time) ([]attest.Policy, error) {
	var counting []Manifest
	if s != nil {
		for _, m := range s.manifests[name] {
			if m.Serial >= s.manifests[name][0].Least && m.Policy.Role == role {
				counting = append(counting, m)
			}
		}
	}
	var out []attest.Policy
	for _, m := range counting {
		if !at.Before(m.From) && at.Before(m.Until) {
			out = append(out, m.Policy)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("taking reference values: %w", noneHolds(counting, name, role, at))
	}
	return out, nil
}

// noneHolds says why. A refused peer is told code and path, so neither has a name or a date.
func noneHolds(versions []Manifest, name string, role attest.Role, at time.Time) attest.Reason {
	var ended, begins *Manifest // the one that ended last, and that begins first
	for i := range versions {
		switch m := &versions[i]; {
		case at.Before(m.From) && (begins == nil || m.From.Before(begins.From)):
			begins = m
		case !at.Before(m.Until) && (ended == nil || m.Until.After(ended.Until)):
			ended = m
		}
	}
	r := attest.Reason{
		Code: attest.CodeReferenceMissing, Path: "reference", Got: fmt.Sprintf("no manifest %q for role %s", name, role),
		Want: "its newest serial, signed by the amenders, in the folder of references",
	}
	if ended != nil {
		r.Code, r.Got = attest.CodeReferenceExpired, fmt.Sprintf("manifest %q, whose serial %d ended at %s", name, ended.Serial, ended.Until.Format(time.RFC3339))
		r.Want = fmt.Sprintf("a serial that holds at %s: the amenders sign it with `consilium attest manifest sign`, and it goes into the folder of references", at.UTC().Format(time.RFC3339))
	}
	if begins != nil {
		if ended == nil {
			r.Code, r.Got = attest.CodeReferenceTime, fmt.Sprintf("manifest %q at %s", name, at.UTC().Format(time.RFC3339))
		}
		r.Want = fmt.Sprintf("to wait for serial %d, which holds from %s, or a serial that holds before", begins.Serial, begins.From.Format(time.RFC3339))
	}
	return r
}

// Versions are all those of a name and role whose span a moment lies in, the newest first: those too that a later version
// has ended early, for evidence may have been taken before that came.
func (s *Shelf) Versions(name string, role attest.Role, at time.Time) []Manifest {
	if s == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(s.manifests[name]), func(m Manifest) bool {
		return m.Policy.Role != role || at.Before(m.From) || !at.Before(m.Until)
	})
}
