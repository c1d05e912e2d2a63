// Package grounds holds what evidence is appraised by, as a process has it on disk: the trust folder, the manifests
// of reference values, and a hospital's own policy. It is read again from time to time, so that a revocation or a new
// image needs no restart; whoever appraises takes one moment's value and asks again when it has changed.
package grounds

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/attest/endorse/bundle"
	"github.com/consilium-fl/consilium/attest/endorse/roots"
	"github.com/consilium-fl/consilium/attest/reference"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/store"
	"github.com/consilium-fl/consilium/internal/study"
)

// Grounds are one moment's value. They are not changed once made.
type Grounds struct {
	Trust      *endorse.Snapshot
	References *reference.Shelf
	Own        *attest.Policy // which evidence has to pass too; nil where nobody adds one
}

// Policies are how a consortium has evidence of a role appraised at a moment: one of them has to take it. simulation
// is the process's own half of the agreement to simulated TEEs.
func (g *Grounds) Policies(c *study.Consortium, role attest.Role, simulation bool, at time.Time) ([]attest.Policy, error) {
	a := accepts(c, role)
	ps := []attest.Policy{inline(a, role)}
	if a.Reference != "" {
		var err error
		if ps, err = g.References.Policies(a.Reference, role, at); err != nil {
			return nil, err
		}
	}
	for i, p := range ps {
		p, err := narrowed(p, a, simulation)
		if err != nil {
			return nil, err
		}
		if g.Own != nil && g.Own.Role == role {
			p.Also = append(slices.Clone(p.Also), *g.Own)
		}
		ps[i] = p
	}
	return ps, nil
}

// Stated is a policy and where it stands, in words.
type Stated struct {
	Policy attest.Policy
	By     string
}

// Stood are the policies by which a consortium could have had evidence of a role appraised at a moment that has passed,
// by what is here of it now: versions of reference values that were ended early may have held then.
func (g *Grounds) Stood(c *study.Consortium, role attest.Role, simulation bool, at time.Time) ([]Stated, error) {
	a := accepts(c, role)
	all := []Stated{{inline(a, role), "the consortium file"}}
	if a.Reference != "" {
		all = nil
		for _, m := range g.References.Versions(a.Reference, role, at) {
			all = append(all, Stated{m.Policy, fmt.Sprintf("reference values %s, serial %d", m.Name, m.Serial)})
		}
	}
	for i := range all {
		var err error
		if all[i].Policy, err = narrowed(all[i].Policy, a, simulation); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func accepts(c *study.Consortium, role attest.Role) study.Accept {
	if role == attest.RoleCoordinator {
		return c.Attestation.Coordinator
	}
	return c.Attestation.Node
}

// narrowed is what the consortium file adds to a policy that it states or names.
func narrowed(p attest.Policy, a study.Accept, simulation bool) (attest.Policy, error) {
	p.AllowSimulated = p.AllowSimulated && a.AllowSimulated
	p.Simulation = simulation
	if len(a.Machines) == 0 {
		return p, nil
	}
	return p.Narrow(attest.Policy{AllowSimulated: p.AllowSimulated, Simulation: simulation, Machines: attest.SetOf(a.Machines...)})
}

// inline is the policy that stands in the consortium file.
func inline(a study.Accept, role attest.Role) attest.Policy {
	p := attest.Policy{Role: role, AllowSimulated: a.AllowSimulated, Machines: attest.AnySet(), MaxAge: attest.MaxAge}
	for _, m := range a.Measurements {
		p.Measurements.Of = append(p.Measurements.Of, string(attest.SHA256Measurement(m)))
	}
	for _, f := range a.Formats {
		p.Accept = append(p.Accept, attest.Format(f))
	}
	return p
}

// Config names the files.
type Config struct {
	Trust      string // folder of anchors, certificates, revocation lists and collateral
	References string // folder of signed manifests; none where empty
	Own        string // policy file; none where empty. It has to be for the role that is appraised, or nobody asked it
	Role       attest.Role
	Bundle     Bundle
	Seen       string // file that remembers the highest serials of manifests
	// OwnRoots takes anchors that bear the name of a vendor's root and are not it: whoever has their keys makes evidence.
	OwnRoots bool
}

// Bundle is a signed trust bundle that was imported, whose files stand beside those of Config.Trust; none where Dir is empty.
type Bundle struct {
	Dir  string // as consilium attest bundle import keeps it
	Keys []ed25519.PublicKey
	Now  func() time.Time // against which its end is held
}

// ParseBundle reads what a configuration says under `bundle`.
func ParseBundle(dir string, keys []string) (Bundle, error) {
	b := Bundle{Dir: dir, Now: time.Now}
	if (dir == "") != (len(keys) == 0) {
		return Bundle{}, errors.New("bundle wants both dir and keys")
	}
	for _, text := range keys {
		k, err := signed.ParseKey(text)
		if err != nil {
			return Bundle{}, fmt.Errorf("bundle.keys: %w", err)
		}
		b.Keys = append(b.Keys, k)
	}
	return b, nil
}

// SeenFile is the usual name of Config.Seen, in the state folder.
const SeenFile = "reference-serials.json"

// Amenders says who signs a consortium's manifests.
func Amenders(c *study.Consortium) reference.Amenders {
	return reference.Amenders{Consortium: c.Name, Keys: c.Amenders(), Need: c.Amend}
}

// Fetched is what vendors gave, beside the trust of the files: attest/endorse/refresh.
type Fetched interface {
	Snapshot() *endorse.Snapshot // of both
	Changed() <-chan struct{}    // closed when another snapshot can turn a verdict
	Reload()                     // takes the files' part again, from Holder.Base
}

// Holder reads the files and holds the newest value that they made.
type Holder struct {
	config Config
	by     reference.Amenders

	mu      sync.Mutex
	base    *endorse.Snapshot // of the files
	fetched Fetched           // nil: nothing is
	now     *Grounds
	fixed   bool
	digest  [32]byte      // of what the files made
	turn    uint64        // how often changed was closed
	changed chan struct{} // closed when now is replaced
}

// Open reads the files for the first time; what is wrong with them then is an error.
func Open(c Config, by reference.Amenders) (*Holder, error) {
	h := &Holder{config: c, by: by, changed: make(chan struct{})}
	_, err := h.Reload()
	return h, err
}

// Fixed holds a value that does not change.
func Fixed(g *Grounds) *Holder {
	return &Holder{base: g.Trust, now: g, fixed: true, changed: make(chan struct{})}
}

// Base is the trust that the files make, without what was fetched.
func (h *Holder) Base() *endorse.Snapshot {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.base
}

// Add has what is fetched stand beside the files from now on. It is called before Watch and Heed.
func (h *Holder) Add(f Fetched) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fetched = f
}

// Current is the newest value, and a channel that is closed when there is another that may turn a verdict: a further
// chip's certificate is in the next value without it.
func (h *Holder) Current() (*Grounds, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fetched != nil {
		if s := h.fetched.Snapshot(); s != h.now.Trust {
			g := *h.now
			g.Trust = s
			h.now = &g
		}
	}
	return h.now, h.changed
}

// Reload reads the files again and says whether they differ. On an error the value before stays: manifests, lists and
// collateral in it end by their own dates. A bundle that has expired is the exception, [endorse.ErrExpired]: what it
// brought is gone.
func (h *Holder) Reload() (changed bool, err error) {
	h.mu.Lock()
	first := h.now == nil
	h.mu.Unlock()
	if h.fixed {
		return false, nil
	}
	g, digest, err := h.read()
	if err != nil && (first || !errors.Is(err, endorse.ErrExpired)) {
		return false, err
	}
	h.mu.Lock()
	same := !first && h.digest == digest
	h.base = g.Trust
	f := h.fetched
	h.mu.Unlock()
	if same {
		return false, err
	}
	if f != nil {
		f.Reload() // which asks for the base
		g.Trust = f.Snapshot()
	}
	h.mu.Lock()
	h.now, h.digest = g, digest
	h.mu.Unlock()
	h.tell()
	return true, err
}

// tell has everybody ask for the current value again.
func (h *Holder) tell() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.turn++
	close(h.changed)
	h.changed = make(chan struct{})
}

// Watch reads the files again every so often, and when asked, until ctx ends, and logs what came of it where it is news.
func (h *Holder) Watch(ctx context.Context, every time.Duration, asked <-chan os.Signal, log *slog.Logger) {
	t := time.NewTicker(every)
	defer t.Stop()
	said := ""
	var fetched <-chan struct{} // never, where nothing is
	if h.fetched != nil {
		fetched = h.fetched.Changed()
		h.tell() // of what came before
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-fetched:
			fetched = h.fetched.Changed() // before anybody asks for the value, so that no change is missed
			h.tell()
			log.Info("trust has changed by what was fetched")
			continue
		case <-t.C:
		case <-asked:
			said = ""
		}
		changed, err := h.Reload()
		switch {
		case err == nil && changed:
			log.Info("policy or trust was read anew")
			said = ""
		case err != nil && err.Error() != said:
			log.Error("policy and trust stay as they were read before", "error", err)
			said = err.Error()
		}
	}
}

// Heed calls f at once and then, until ctx ends, each time that a peer of a role may have to be appraised otherwise than
// before: when other files were read, and when a version of reference values begins or ends. Called at once, since what
// was appraised before Heed may have been by other files already.
func (h *Holder) Heed(ctx context.Context, c *study.Consortium, role attest.Role, now func() time.Time, f func()) {
	t := time.NewTicker(heedEvery)
	defer t.Stop()
	_, changed := h.Current()
	was := h.standing(c, role, now())
	for f(); ; {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-changed:
			_, changed = h.Current()
		}
		if is := h.standing(c, role, now()); is != was {
			was = is
			f()
		}
	}
}

// heedEvery is how late the begin or end of a version may be noticed in a session that runs.
const heedEvery = time.Minute

// standing tells one moment's trust and policies from another's.
func (h *Holder) standing(c *study.Consortium, role attest.Role, at time.Time) string {
	g, _ := h.Current()
	h.mu.Lock()
	text := fmt.Sprint(h.turn)
	h.mu.Unlock()
	ps, err := g.Policies(c, role, false, at)
	if err != nil {
		return text
	}
	for _, p := range ps {
		text += fmt.Sprintf(" %x", p.Digest())
	}
	return text
}

// needed are the vendors' roots by which evidence of a format is verified. A simulation's is the steward's own, and of
// who signs OIDC tokens there are keys alone.
var needed = map[attest.Format]string{
	attest.FormatSNP: roots.AMD, attest.FormatAzureSNP: roots.AMD, attest.FormatTDX: roots.Intel, attest.FormatAzureTDX: roots.Intel,
	attest.FormatVTPM: roots.GoogleTPM, attest.FormatCSPKI: roots.ConfidentialSpace,
}

// ErrNoRoot says that a vendor's root is not among the anchors.
var ErrNoRoot = errors.New("no root of the vendor is in the trust folder")

// Rooted names each format that a consortium takes from a role, and whose vendor's root is not there: evidence of it is
// refused. It is an error only where that holds for all of them, so that nobody could be admitted: a hospital may leave a
// vendor out.
func (h *Holder) Rooted(c *study.Consortium, role attest.Role, at time.Time) (without []attest.Format, err error) {
	g, _ := h.Current()
	ps, err := g.Policies(c, role, false, at)
	if err != nil {
		return nil, nil // it is said elsewhere, and mended without a restart
	}
	with := false
	for _, p := range ps {
		for _, f := range p.Accept {
			if whose := needed[f]; whose == "" || roots.Has(g.Trust.Index(), whose) {
				with = true
			} else if !slices.Contains(without, f) {
				without = append(without, f)
			}
		}
	}
	if with || len(without) == 0 {
		return without, nil
	}
	return without, fmt.Errorf("checking %s: %w of %q, all that the consortium takes from a %s: %s", h.config.Trust, ErrNoRoot, without, role, RootsFrom)
}

// RootsFrom is the next step after ErrNoRoot.
const RootsFrom = "put the root there (https://kdsintf.amd.com/vcek/v1/Genoa/cert_chain; " +
	"https://certificates.trustedservices.intel.com/Intel_SGX_Provisioning_Certification_RootCA.pem), or name a bundle: `consilium attest bundle fetch` signs one that has them"

// trust is the folder with the bundle. Where that has expired it is the folder alone, beside the error.
func (h *Holder) trust() (*endorse.Snapshot, error) {
	s, err := endorse.Load(h.config.Trust)
	if err == nil && !h.config.OwnRoots {
		if err = roots.Check(s.Index()); err != nil {
			err = fmt.Errorf("%w: put the vendor's there; own_roots: true in the configuration takes one of your own", err)
		}
	}
	if err != nil || h.config.Bundle.Dir == "" {
		return s, err
	}
	b, err := bundle.Load(h.config.Bundle.Dir, h.config.Bundle.Now(), h.config.Bundle.Keys...)
	if err != nil {
		return s, err
	}
	if s, err = endorse.Union(s, b); err != nil {
		return nil, fmt.Errorf("reading trust folder and bundle: %w", err)
	}
	return s, nil
}

// read makes a value of the files. Beside [endorse.ErrExpired] it is one without what has expired.
func (h *Holder) read() (_ *Grounds, _ [32]byte, err error) {
	var g Grounds
	var expired error
	if g.Trust, err = h.trust(); errors.Is(err, endorse.ErrExpired) {
		expired = err
	} else if err != nil {
		return nil, [32]byte{}, err
	}
	if h.config.References != "" {
		if g.References, err = reference.Load(h.config.References, h.by); err != nil {
			return nil, [32]byte{}, err
		}
	}
	if err := h.remember(g.References); err != nil {
		return nil, [32]byte{}, err
	}
	if h.config.Own != "" {
		b, err := os.ReadFile(h.config.Own)
		if err != nil {
			return nil, [32]byte{}, fmt.Errorf("reading the own policy: %w", err)
		}
		p, err := reference.ParsePolicy(b)
		if err != nil {
			return nil, [32]byte{}, fmt.Errorf("reading the own policy: %w", err)
		}
		if p.Role != h.config.Role {
			return nil, [32]byte{}, fmt.Errorf("reading the own policy: it is for role %q, want %q", p.Role, h.config.Role)
		}
		g.Own = &p
	}
	digest, err := g.digest()
	return &g, digest, errors.Join(err, expired)
}

// remember refuses manifests older than those that were here before, and keeps the highest serials. If the process
// dies before the file is replaced, the older memory stands and the same manifests raise it again.
func (h *Holder) remember(s *reference.Shelf) error {
	if h.config.Seen == "" {
		return nil
	}
	seen := map[string]uint64{}
	b, err := os.ReadFile(h.config.Seen)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("reading the serials of reference values: %w", err)
	default:
		if err := json.Unmarshal(b, &seen); err != nil {
			return fmt.Errorf("reading the serials of reference values %s: %w", h.config.Seen, err)
		}
	}
	if err := s.Since(seen); err != nil {
		return err
	}
	risen := false
	for name, n := range s.Serials() {
		if n > seen[name] {
			seen[name], risen = n, true
		}
	}
	if !risen {
		return nil
	}
	if b, err = json.Marshal(seen); err != nil {
		return err
	}
	return store.WriteFile(h.config.Seen, b, 0o600)
}

// digest tells one value from another.
func (g *Grounds) digest() ([32]byte, error) {
	files := map[string][]byte{"trust": digestOf(g.Trust.Digest())}
	for name, b := range g.References.Files() {
		files["reference-"+name] = b
	}
	if g.Own != nil {
		files["own"] = digestOf(g.Own.Digest())
	}
	s, err := endorse.New(files)
	return s.Digest(), err
}

func digestOf(d [32]byte) []byte { return d[:] }
