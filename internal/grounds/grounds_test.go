package grounds

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/attest/endorse/bundle"
	"github.com/consilium-fl/consilium/attest/endorse/roots"
	"github.com/consilium-fl/consilium/attest/reference"
	"github.com/consilium-fl/consilium/attest/testtee/amd"
	"github.com/consilium-fl/consilium/internal/study"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func consortium(node study.Accept) (*study.Consortium, []ed25519.PrivateKey) {
	c := &study.Consortium{Name: "heart.example", Amend: 2, Hospitals: map[string]study.Hospital{}, Attestation: study.Attestation{Node: node}}
	var keys []ed25519.PrivateKey
	for i, name := range []string{"a", "b", "c"} {
		k := ed25519.NewKeyFromSeed(append(make([]byte, 31), byte(i+1)))
		keys = append(keys, k)
		c.Hospitals[name] = study.Hospital{Governance: k.Public().(ed25519.PublicKey)}
	}
	return c, keys
}

const policy = `role: node
serial: SERIAL
least: 1
valid: {from: 2026-11-01T00:00:00Z, until: 2026-12-01T00:00:00Z}
policy:
  accept: [sim/1]
  allow_simulated: true
  measurements: ["sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"]
  machines: any
  max_age: 30m
  deny_generations: []
  warn_generations: []
  revocation: false
  endorsement_age: 0s
  grace: 0s
`

func manifest(t *testing.T, dir, serial string, keys ...ed25519.PrivateKey) {
	t.Helper()
	payload := []byte("version: consilium.reference/v1\nname: nodes\nconsortium: heart.example\n" + strings.ReplaceAll(policy, "SERIAL", serial))
	var e []byte
	for _, k := range keys {
		var err error
		if e, err = reference.Sign(payload, e, k); err != nil {
			t.Fatal(err)
		}
	}
	put(t, filepath.Join(dir, "nodes-"+serial+".json"), e)
}

func put(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func folders(t *testing.T) Config {
	t.Helper()
	dir := t.TempDir()
	c := Config{Trust: filepath.Join(dir, "trust"), References: filepath.Join(dir, "references"), Seen: filepath.Join(dir, "seen.json")}
	for _, d := range []string{c.Trust, c.References} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// TestInline: what stands in the consortium file is the policy, and the simulation is two parties' agreement.
func TestInline(t *testing.T) {
	c, _ := consortium(study.Accept{Formats: []string{"sim/1"}, AllowSimulated: true, Measurements: [][32]byte{{1}}, Machines: []string{"chip:aa"}})
	ps, err := (&Grounds{}).Policies(c, attest.RoleNode, true, noon)
	if err != nil || len(ps) != 1 {
		t.Fatalf("%v, %v", ps, err)
	}
	if p := ps[0]; !p.AllowSimulated || !p.Simulation || p.Machines.Any || !p.Machines.Has("chip:aa") || !p.Measurements.Has("sha256:01"+strings.Repeat("00", 31)) {
		t.Errorf("%+v", p)
	}
	none, err := (&Grounds{}).Policies(c, attest.RoleCoordinator, true, noon)
	if err != nil || len(none) != 1 || len(none[0].Accept) != 0 {
		t.Errorf("a role of which nothing is said: %v, %v", none, err)
	}
}

func TestReference(t *testing.T) {
	c, keys := consortium(study.Accept{Reference: "nodes", AllowSimulated: true, Machines: []string{"chip:aa"}})
	files := folders(t)
	h, err := Open(files, Amenders(c))
	if err != nil {
		t.Fatal(err)
	}
	g, changed := h.Current()
	if _, err := g.Policies(c, attest.RoleNode, true, noon); err == nil {
		t.Error("no manifest, and there is a policy")
	}
	manifest(t, files.References, "1", keys[0], keys[2])
	if again, err := h.Reload(); err != nil || !again {
		t.Fatalf("reloading: %t, %v", again, err)
	}
	select {
	case <-changed:
	default:
		t.Error("nobody was told")
	}
	g, _ = h.Current()
	ps, err := g.Policies(c, attest.RoleNode, true, noon)
	if err != nil || len(ps) != 1 || ps[0].Machines.Any || !ps[0].Machines.Has("chip:aa") || ps[0].MaxAge != 30*time.Minute {
		t.Fatalf("%+v, %v", ps, err)
	}
	if again, err := h.Reload(); err != nil || again {
		t.Errorf("nothing changed: %t, %v", again, err)
	}
	strict, _ := consortium(study.Accept{Reference: "nodes"})
	if ps, err = g.Policies(strict, attest.RoleNode, true, noon); err != nil || ps[0].AllowSimulated {
		t.Errorf("the manifest allows what the consortium does not: %+v, %v", ps, err)
	}
	// One signature is too few: what was there stays.
	manifest(t, files.References, "2", keys[1])
	if _, err := h.Reload(); err == nil {
		t.Error("a manifest of one amender was taken")
	}
	if now, _ := h.Current(); now != g {
		t.Error("a failed reload replaced what was there")
	}
	manifest(t, files.References, "2", keys...)
	if _, err := h.Reload(); err != nil {
		t.Fatal(err)
	}
	// The newest version cannot be taken back, not even over a restart.
	if err := os.Remove(filepath.Join(files.References, "nodes-2.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(files, Amenders(c)); err == nil || !strings.Contains(err.Error(), "serial 1, and 2 was seen") {
		t.Errorf("an older shelf: %v", err)
	}
}

// TestOwnOnlyTightens: a hospital's own policy stands beside each of the consortium's.
func TestOwnOnlyTightens(t *testing.T) {
	c, _ := consortium(study.Accept{Formats: []string{"sim/1"}, AllowSimulated: true, Measurements: [][32]byte{{1}}})
	files := folders(t)
	files.Own, files.Role = filepath.Join(t.TempDir(), "own.yaml"), attest.RoleNode
	_, body, _ := strings.Cut(policy, "policy:\n")
	put(t, files.Own, []byte("version: consilium.policy/v1\nrole: node\n"+strings.ReplaceAll(body, "  ", "")))
	h, err := Open(files, Amenders(c))
	if err != nil {
		t.Fatal(err)
	}
	g, _ := h.Current()
	ps, err := g.Policies(c, attest.RoleNode, true, noon)
	if err != nil || len(ps) != 1 || len(ps[0].Also) != 1 {
		t.Fatalf("%+v, %v", ps, err)
	}
	claims := attest.Claims{Format: "sim/1", Simulated: true, Measurement: attest.SHA256Measurement([32]byte{1}), NotAfter: noon}
	r := attest.Appraise(claims, ps[0])
	if r.Status != attest.Contraindicated || len(r.Reasons) != 1 || r.Reasons[0].Code != attest.CodeMeasurementUnlisted {
		t.Errorf("a measurement that the hospital does not list: %v", r.Reasons)
	}
	co, err := g.Policies(c, attest.RoleCoordinator, true, noon)
	if err != nil || len(co[0].Also) != 0 {
		t.Errorf("a policy for nodes beside that for coordinators: %v", err)
	}
}

func TestWatch(t *testing.T) {
	c, keys := consortium(study.Accept{Reference: "nodes", AllowSimulated: true})
	files := folders(t)
	h, err := Open(files, Amenders(c))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	news, asked := make(chan struct{}, 1), make(chan os.Signal, 1)
	var wg sync.WaitGroup
	wg.Go(func() { h.Watch(ctx, time.Hour, asked, slog.New(slog.DiscardHandler)) })
	wg.Go(func() {
		h.Heed(ctx, c, attest.RoleNode, func() time.Time { return noon }, func() { news <- struct{}{} })
	})
	defer func() { cancel(); wg.Wait() }()
	<-news // it is called at once
	manifest(t, files.References, "1", keys...)
	asked <- os.Interrupt
	select {
	case <-news:
	case <-ctx.Done():
		t.Error("a new manifest was not seen")
	}
}

func TestBadFiles(t *testing.T) {
	c, _ := consortium(study.Accept{})
	for name, change := range map[string]func(*Config){
		"no trust":  func(f *Config) { f.Trust += "x" },
		"a bad own": func(f *Config) { f.Own = f.Seen; put(t, f.Own, []byte("version: x")) },
		"an own for another role": func(f *Config) {
			_, body, _ := strings.Cut(policy, "policy:\n")
			f.Own, f.Role = f.Seen, attest.RoleCoordinator
			put(t, f.Own, []byte("version: consilium.policy/v1\nrole: node\n"+strings.ReplaceAll(body, "  ", "")))
		},
		"no own":          func(f *Config) { f.Own = f.Seen + "x" },
		"a bad memory":    func(f *Config) { put(t, f.Seen, []byte("[")) },
		"a bad reference": func(f *Config) { put(t, filepath.Join(f.References, "a.json"), []byte("{}")) },
	} {
		files := folders(t)
		change(&files)
		if _, err := Open(files, Amenders(c)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// TestBundle: an imported bundle stands beside the trust folder until it ends.
func TestBundle(t *testing.T) {
	c, keys := consortium(study.Accept{})
	files := folders(t)
	put(t, filepath.Join(files.Trust, "a.pem"), []byte("a"))
	brought, err := endorse.New(map[string][]byte{"b.pem": []byte("b")})
	if err != nil {
		t.Fatal(err)
	}
	b, err := bundle.Export(brought, 1, noon.Add(-time.Hour), noon.Add(time.Hour), keys[0])
	if err != nil {
		t.Fatal(err)
	}
	now := noon
	files.Bundle = Bundle{Dir: t.TempDir(), Keys: []ed25519.PublicKey{keys[0].Public().(ed25519.PublicKey)}, Now: func() time.Time { return now }}
	if _, err := Open(files, Amenders(c)); err == nil {
		t.Error("a bundle that is not there was taken for an empty one")
	}
	if _, err := bundle.Import(files.Bundle.Dir, b, noon, files.Bundle.Keys...); err != nil {
		t.Fatal(err)
	}
	h, err := Open(files, Amenders(c))
	if err != nil {
		t.Fatal(err)
	}
	has := func() string {
		g, _ := h.Current()
		return strings.Join(slices.Sorted(maps.Keys(g.Trust.Files())), " ")
	}
	if got := has(); got != "a.pem b.pem" {
		t.Errorf("trust is of %q", got)
	}
	now = noon.Add(time.Hour)
	if changed, err := h.Reload(); !changed || !errors.Is(err, endorse.ErrExpired) || has() != "a.pem" {
		t.Errorf("past its end: %t, %v, %q", changed, err, has())
	}
	if changed, err := h.Reload(); changed || !errors.Is(err, endorse.ErrExpired) {
		t.Errorf("past its end, again: %t, %v", changed, err)
	}
	if _, err := Open(files, Amenders(c)); !errors.Is(err, endorse.ErrExpired) {
		t.Errorf("a start on an expired bundle: %v", err)
	}
	now = noon
	files.Bundle.Keys = []ed25519.PublicKey{keys[1].Public().(ed25519.PublicKey)}
	if _, err := Open(files, Amenders(c)); err == nil {
		t.Error("a bundle of another key was taken")
	}
	put(t, filepath.Join(files.Trust, "b.pem"), []byte("another"))
	if _, err := h.Reload(); err == nil || !strings.Contains(err.Error(), `two files are named "b.pem" and differ`) {
		t.Errorf("one name, two files: %v", err)
	}
}

// TestOwnRoots: a root that bears a vendor's name is the vendor's, unless the configuration says otherwise in so many
// words.
func TestOwnRoots(t *testing.T) {
	c, _ := consortium(study.Accept{})
	false1 := amd.PEM(amd.Shared().ARK(amd.Genoa))
	files := folders(t)
	h, err := Open(files, Amenders(c))
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(files.Trust, "ark.pem"), false1)
	if _, err := h.Reload(); err == nil || !strings.Contains(err.Error(), roots.AMDGenoaARK) || !strings.Contains(err.Error(), "own_roots: true") {
		t.Errorf("a false root, later: %v", err)
	}
	if g, _ := h.Current(); len(g.Trust.Files()) != 0 {
		t.Error("a false root is in force")
	}
	if _, err := Open(files, Amenders(c)); err == nil {
		t.Error("a false root was taken")
	}
	files.OwnRoots = true
	if _, err := Open(files, Amenders(c)); err != nil {
		t.Error(err)
	}
	for name, b := range roots.Files() {
		put(t, filepath.Join(files.Trust, name), b)
	}
	if err := os.Remove(filepath.Join(files.Trust, "ark.pem")); err != nil {
		t.Fatal(err)
	}
	files.OwnRoots = false
	if _, err := Open(files, Amenders(c)); err != nil {
		t.Errorf("the vendors': %v", err)
	}
}

// TestRooted: a hospital may leave a vendor out, and not all that are accepted.
func TestRooted(t *testing.T) {
	for _, x := range []struct {
		formats []string
		roots   []string // files
		without string
		bad     bool
	}{
		{[]string{"sim/1"}, nil, "[]", false},
		{[]string{"gcp-cs-oidc/1"}, nil, "[]", false},
		{[]string{"snp/1"}, nil, "[snp/1]", true},
		{[]string{"azure-snp/1", "azure-tdx/1"}, nil, "[azure-snp/1 azure-tdx/1]", true},
		{[]string{"snp/1"}, []string{"amd-turin.pem"}, "[]", false},
		{[]string{"snp/1", "tdx/1"}, []string{"intel-sgx.pem"}, "[snp/1]", false},
		{[]string{"tdx/1"}, []string{"amd-milan.pem"}, "[tdx/1]", true},
		{[]string{"vtpm-gce/1"}, []string{"google-ek-ak.pem"}, "[]", false},
		{[]string{"gcp-cs-pki/1"}, []string{"google-ek-ak.pem"}, "[gcp-cs-pki/1]", true},
		{nil, nil, "[]", false},
	} {
		c, _ := consortium(study.Accept{Formats: x.formats})
		files := folders(t)
		for _, name := range x.roots {
			put(t, filepath.Join(files.Trust, name), roots.Files()[name])
		}
		h, err := Open(files, Amenders(c))
		if err != nil {
			t.Fatal(err)
		}
		without, err := h.Rooted(c, attest.RoleNode, noon)
		if fmt.Sprint(without) != x.without || (err != nil) != x.bad || err != nil && (!errors.Is(err, ErrNoRoot) || !strings.Contains(err.Error(), files.Trust) || !strings.Contains(err.Error(), "cert_chain")) {
			t.Errorf("%q with %q: %v, %v", x.formats, x.roots, without, err)
		}
	}
	c, _ := consortium(study.Accept{Reference: "nodes"}) // of which no manifest is there
	h, err := Open(folders(t), Amenders(c))
	if err != nil {
		t.Fatal(err)
	}
	if without, err := h.Rooted(c, attest.RoleNode, noon); without != nil || err != nil {
		t.Errorf("no policy yet: %v, %v", without, err)
	}
}

// fetched is what a test says was fetched beside the base.
type fetched struct {
	h *Holder

	mu      sync.Mutex
	base    *endorse.Snapshot
	more    map[string][]byte
	now     *endorse.Snapshot
	changed chan struct{}
}

func (f *fetched) Snapshot() *endorse.Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

func (f *fetched) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

func (f *fetched) Reload() {
	base := f.h.Base()
	f.mu.Lock()
	f.base = base
	f.mu.Unlock()
	f.give("", nil, false)
}

func (f *fetched) give(name string, b []byte, turns bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if name != "" {
		f.more[name] = b
	}
	s, err := endorse.New(f.more)
	if err == nil {
		f.now, err = endorse.Union(f.base, s)
	}
	if err != nil {
		panic(err)
	}
	if turns {
		close(f.changed)
		f.changed = make(chan struct{})
	}
}

// TestFetched: what was fetched stands beside the files, whichever changes.
func TestFetched(t *testing.T) {
	c, _ := consortium(study.Accept{})
	files := folders(t)
	put(t, filepath.Join(files.Trust, "a.pem"), []byte("a"))
	h, err := Open(files, Amenders(c))
	if err != nil {
		t.Fatal(err)
	}
	f := &fetched{h: h, base: h.Base(), now: h.Base(), more: map[string][]byte{}, changed: make(chan struct{})}
	h.Add(f)
	has := func() string {
		g, _ := h.Current()
		return strings.Join(slices.Sorted(maps.Keys(g.Trust.Files())), " ")
	}
	before, changed := h.Current()
	f.give("chip", []byte("chip"), false)
	if again, _ := h.Current(); again == before || has() != "a.pem chip" || before.Trust.Digest() != h.Base().Digest() {
		t.Errorf("trust is of %q", has())
	}
	select {
	case <-changed:
		t.Error("a chip's certificate was told of")
	default:
	}
	put(t, filepath.Join(files.Trust, "b.pem"), []byte("b"))
	if changed, err := h.Reload(); err != nil || !changed || has() != "a.pem b.pem chip" {
		t.Errorf("%t, %v, %q", changed, err, has())
	}
	if changed, err := h.Reload(); err != nil || changed {
		t.Errorf("nothing changed: %t, %v", changed, err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	news := make(chan struct{}, 10)
	var wg sync.WaitGroup
	wg.Go(func() { h.Watch(ctx, time.Hour, nil, slog.New(slog.DiscardHandler)) })
	wg.Go(func() {
		h.Heed(ctx, c, attest.RoleNode, func() time.Time { return noon }, func() { news <- struct{}{} })
	})
	defer func() { cancel(); wg.Wait() }()
	<-news
	for _, name := range []string{"one.crl", "two.crl"} {
		for len(news) > 0 {
			<-news
		}
		f.give(name, []byte(name), true)
		select {
		case <-news:
		case <-ctx.Done():
			t.Fatalf("%s was not told of", name)
		}
		if !strings.Contains(has(), name) {
			t.Errorf("trust is of %q", has())
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.turn > 5 { // the files twice, what came before Watch, and the two
		t.Errorf("%d times told", h.turn)
	}
}
