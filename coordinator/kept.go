package coordinator

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/attest/reference"
	"github.com/consilium-fl/consilium/internal/grounds"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/store"
	"github.com/consilium-fl/consilium/internal/study"
)

// kept is what evidence was appraised by, on disk: a receipt names it, and who verifies that appraises again. Snapshots
// of trust lie in folders by digest, manifests of reference values by name and serial. What no receipt to come can name
// is removed at start and when a study is over; an output folder has copies of its own.
type kept struct {
	dir string
	of  *study.Consortium
	by  reference.Amenders

	mu     sync.Mutex
	recent []*grounds.Grounds             // that a handshake at hand may be appraised with, newest last; their manifests are on disk
	stored map[[32]byte]bool              // snapshots that this process has found or put on disk
	needed map[[32]byte]map[[32]byte]bool // by study: digests of snapshots and policies that its receipt may name
}

const (
	// recentTrust is more than come while one handshake lasts.
	recentTrust = 16
	// mostVersions of one name are written out: a shelf takes 64, and a consortium names two.
	mostVersions = 32
)

func newKept(dir string, of *study.Consortium) *kept {
	return &kept{dir: dir, of: of, by: grounds.Amenders(of), stored: map[[32]byte]bool{}, needed: map[[32]byte]map[[32]byte]bool{}}
}

func (k *kept) trustDir() string      { return filepath.Join(k.dir, "trust") }
func (k *kept) referencesDir() string { return filepath.Join(k.dir, "references") }

// see is called before anybody is appraised by g. Its manifests are durable when it returns.
func (k *kept) see(g *grounds.Grounds) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if n := len(k.recent); n > 0 && k.recent[n-1] == g {
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
	k.recent = append(k.recent, g)
	return nil
}

// need notes what the receipt of a study may name.
func (k *kept) need(study [32]byte, digests ...[32]byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.needed[study] == nil {
		k.needed[study] = map[[32]byte]bool{}
	}
	for _, d := range digests {
		k.needed[study][d] = true
	}
}

// keep makes a snapshot that was seen durable, and notes that a study's receipt may name it and a policy. A crash before
// the rename leaves a folder that counts for nothing and is written over.
func (k *kept) keep(study, digest, policy [32]byte) error {
	k.need(study, digest, policy) // first, so that it is not removed in between
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
	i := slices.IndexFunc(k.recent, func(g *grounds.Grounds) bool { return g.Trust.Digest() == digest })
	if i < 0 {
		return fmt.Errorf("keeping trust snapshot %x: it is not at hand", digest[:8])
	}
	part := final + ".part"
	if err := errors.Join(os.RemoveAll(part), store.PrivateDir(part)); err != nil {
		return err
	}
	for name, b := range k.recent[i].Trust.Files() {
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

// prune removes what no study that is not over may name, and no handshake at hand. A crash on any line leaves what is
// needed whole, and the rest to the next start.
func (k *kept) prune(over map[[32]byte]bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	needed := map[[32]byte]bool{}
	for s, digests := range k.needed {
		if over[s] {
			delete(k.needed, s)
			continue
		}
		maps.Copy(needed, digests)
	}
	return errors.Join(k.pruneTrust(needed), k.pruneReferences(needed))
}

func (k *kept) pruneTrust(needed map[[32]byte]bool) error {
	entries, err := os.ReadDir(k.trustDir())
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, isPart := strings.CutSuffix(e.Name(), ".part")
		b, err := hex.DecodeString(name)
		if err != nil || len(b) != 32 || !isPart && needed[[32]byte(b)] {
			continue
		}
		final := filepath.Join(k.trustDir(), name)
		if err := os.RemoveAll(final + ".part"); err != nil {
			return err
		}
		if isPart {
			continue
		}
		// A folder that is half empty must not have the name of a snapshot, not after a crash either.
		delete(k.stored, [32]byte(b))
		if err := errors.Join(os.Rename(final, final+".part"), store.SyncDir(k.trustDir())); err != nil {
			return err
		}
		if err := os.RemoveAll(final + ".part"); err != nil {
			return err
		}
	}
	return nil
}

func (k *kept) pruneReferences(needed map[[32]byte]bool) error {
	recent := map[[32]byte]bool{}
	for _, g := range k.recent {
		for _, b := range g.References.Files() {
			recent[signed.Digest(b)] = true
		}
	}
	entries, err := os.ReadDir(k.referencesDir())
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(k.referencesDir(), e.Name())
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if unfinished := strings.HasPrefix(e.Name(), "."); !unfinished { // what a crash left of store.WriteFile
			if recent[signed.Digest(b)] {
				continue
			}
			states, err := k.policies(b)
			if err != nil {
				return fmt.Errorf("reading the kept %s: %w", e.Name(), err)
			}
			if slices.ContainsFunc(states, func(p [32]byte) bool { return needed[p] }) {
				continue
			}
		}
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

// policies are those that a manifest states for the consortium, by digest.
func (k *kept) policies(manifest []byte) (digests [][32]byte, err error) {
	m, err := reference.Open(manifest, k.by)
	if err != nil {
		return nil, err
	}
	shelf, err := reference.NewShelf(map[string][]byte{"": manifest}, k.by)
	if err != nil {
		return nil, err
	}
	for role, name := range map[attest.Role]string{attest.RoleNode: k.of.Attestation.Node.Reference, attest.RoleCoordinator: k.of.Attestation.Coordinator.Reference} {
		if name != m.Name {
			continue
		}
		stood, err := (&grounds.Grounds{References: shelf}).Stood(k.of, role, false, m.From)
		if err != nil {
			return nil, err
		}
		for _, s := range stood {
			digests = append(digests, s.Policy.Digest())
		}
	}
	return digests, nil
}

// pruneKept removes what was kept for receipts that are written. What stays by mistake costs disk alone.
func (c *Coordinator) pruneKept() {
	over := map[[32]byte]bool{}
	for _, s := range c.all() {
		if s.state().over() {
			over[s.digest] = true
		}
	}
	if err := c.kept.prune(over); err != nil {
		c.log.Warn("what evidence was appraised by stays on disk", "error", err)
	}
}

// needKept notes what the process before kept for the receipts of studies that are not over, and removes the rest.
func (c *Coordinator) needKept(ctx context.Context) error {
	for _, s := range c.all() {
		if s.state().over() {
			continue
		}
		d := newDriver(s)
		progress, _, err := d.progressCell.load(ctx)
		if err != nil {
			return err
		}
		boots, _, err := d.bootCell.load(ctx)
		if err != nil {
			return err
		}
		shown, _, err := s.shown.load(ctx)
		if err != nil {
			return err
		}
		c.kept.need(s.digest, shown.Trust, shown.Policy)
		for _, by := range progress.Evidence {
			c.kept.need(s.digest, by.Trust, by.Policy)
		}
		for _, b := range boots {
			c.kept.need(s.digest, b.By.Trust, b.By.Policy)
		}
	}
	c.pruneKept()
	return nil
}

// references are the newest of the kept manifests that the consortium names, by file name.
func (k *kept) references() (map[string][]byte, error) {
	k.mu.Lock() // nothing is removed meanwhile
	defer k.mu.Unlock()
	c := k.of
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
	files, err := c.kept.references()
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
