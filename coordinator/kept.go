package coordinator

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/attest/reference"
	"github.com/consilium-fl/consilium/internal/grounds"
	"github.com/consilium-fl/consilium/internal/store"
	"github.com/consilium-fl/consilium/internal/study"
)

// kept is what evidence was appraised by, on disk: a receipt names it, and who verifies that appraises again. Snapshots
// of trust lie in folders by digest, manifests of reference values by name and serial.
type kept struct {
	dir string
	by  reference.Amenders

	mu     sync.Mutex
	last   *grounds.Grounds    // whose manifests are on disk
	recent []*endorse.Snapshot // that a handshake at hand may be appraised with, newest last
	stored map[[32]byte]bool   // that this process has found or put on disk
}

const (
	// recentTrust is more than come while one handshake lasts.
	recentTrust = 16
	// mostVersions of one name are written out: a shelf takes 64, and a consortium names two.
	mostVersions = 32
)

func newKept(dir string, by reference.Amenders) *kept {
	return &kept{dir: dir, by: by, stored: map[[32]byte]bool{}}
}

func (k *kept) trustDir() string      { return filepath.Join(k.dir, "trust") }
func (k *kept) referencesDir() string { return filepath.Join(k.dir, "references") }

// see is called before anybody is appraised by g. Its manifests are durable when it returns.
func (k *kept) see(g *grounds.Grounds) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.last == g {
		return nil
	}
	for _, b := range g.References.Files() {
		m, err := reference.Open(b, k.by)
		if err != nil {
			return err
		}
		if err := store.WriteFile(filepath.Join(k.referencesDir(), fmt.Sprintf("%s-%d.json", m.Name, m.Serial)), b, 0); err != nil {
			return err
		}
	}
	if len(k.recent) == recentTrust {
		k.recent = slices.Delete(k.recent, 0, 1)
	}
	k.last, k.recent = g, append(k.recent, g.Trust)
	return nil
}

// keep makes a snapshot that was seen durable. A crash before the rename leaves a folder that counts for nothing and is
// written over.
func (k *kept) keep(digest [32]byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	final := filepath.Join(k.trustDir(), hexOf(digest))
	if k.stored[digest] {
		return nil
	}
	if _, err := os.Stat(final); err == nil {
		k.stored[digest] = true
		return nil
	}
	i := slices.IndexFunc(k.recent, func(s *endorse.Snapshot) bool { return s.Digest() == digest })
	if i < 0 {
		return fmt.Errorf("keeping trust snapshot %x: it is not at hand", digest[:8])
	}
	part := final + ".part"
	if err := errors.Join(os.RemoveAll(part), store.PrivateDir(part)); err != nil {
		return err
	}
	for name, b := range k.recent[i].Files() {
		if err := store.WriteFile(filepath.Join(part, name), b, 0); err != nil {
			return err
		}
	}
	if err := os.Rename(part, final); err != nil {
		return err
	}
	k.stored[digest] = true
	return store.SyncDir(k.trustDir())
}

// snapshot reads one that was kept.
func (k *kept) snapshot(digest [32]byte) (*endorse.Snapshot, error) {
	s, err := endorse.Load(filepath.Join(k.trustDir(), hexOf(digest)))
	if err == nil && s.Digest() != digest {
		err = fmt.Errorf("reading trust snapshot %x: the folder has changed", digest[:8])
	}
	return s, err
}

// references are the newest of the kept manifests that a consortium names, by file name.
func (k *kept) references(c *study.Consortium) (map[string][]byte, error) {
	entries, err := os.ReadDir(k.referencesDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	type version struct {
		serial uint64
		file   string
		b      []byte
	}
	versions := map[string][]version{c.Attestation.Node.Reference: nil, c.Attestation.Coordinator.Reference: nil}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(k.referencesDir(), e.Name()))
		if err != nil {
			return nil, err
		}
		m, err := reference.Open(b, k.by)
		if err != nil {
			return nil, fmt.Errorf("reading the kept %s: %w", e.Name(), err)
		}
		if vs, named := versions[m.Name]; named {
			versions[m.Name] = append(vs, version{m.Serial, e.Name(), b})
		}
	}
	out := map[string][]byte{}
	for _, vs := range versions {
		slices.SortFunc(vs, func(a, b version) int { return cmp.Compare(b.serial, a.serial) })
		for _, v := range vs[:min(len(vs), mostVersions)] {
			out[v.file] = v.b
		}
	}
	return out, nil
}

// stood finds the policy of a digest among those by which a role could have been appraised at a moment that has passed.
func (c *Coordinator) stood(role attest.Role, at time.Time, digest [32]byte) (attest.Policy, error) {
	files, err := c.kept.references(c.deps.Consortium)
	if err != nil {
		return attest.Policy{}, err
	}
	shelf, err := reference.NewShelf(files, c.kept.by)
	if err != nil {
		return attest.Policy{}, err
	}
	all, err := (&grounds.Grounds{References: shelf}).Stood(c.deps.Consortium, role, c.config.Insecure.SimulatedTEE, at)
	if err != nil {
		return attest.Policy{}, err
	}
	for _, p := range all {
		if p.Policy.Digest() == digest {
			return p.Policy, nil
		}
	}
	return attest.Policy{}, fmt.Errorf("policy %x of the own evidence is not kept", digest[:8])
}
