package node

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/dp"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/store"
	"github.com/consilium-fl/consilium/internal/study"
)

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// trainer yields what it holds; an entry of nil is a patient whose gradient failed.
type trainer struct {
	dim   int
	grads [][]float64
	each  func(i int)
}

func (x trainer) Dim() int { return x.dim }

func (x trainer) Gradients(ctx context.Context, _ []float64) iter.Seq2[[]float64, error] {
	return func(yield func([]float64, error) bool) {
		for i, g := range x.grads {
			if ctx.Err() != nil {
				return // silently, as the built-in one does
			}
			var err error
			if g == nil {
				err = errors.New("a patient's own")
			}
			if !yield(g, err) {
				return
			}
			if x.each != nil {
				x.each(i)
			}
		}
	}
}

func TestGradientSum(t *testing.T) {
	g := dp.Grid{Clip: 1, Bits: 4}
	for _, c := range []struct {
		name   string
		grads  [][]float64
		max    int
		want   []int64
		failed int
	}{
		{"nobody", nil, 10, []int64{0, 0}, 0},
		{"two patients", [][]float64{{0.5, 0}, {0.25, -0.5}}, 10, []int64{12, -8}, 0},
		{"each is clipped", [][]float64{{100, 0}, {0, -1e300}}, 10, []int64{16, -16}, 0},
		{"an error counts as zero", [][]float64{{0.5, 0}, nil, {0.5, 0}}, 10, []int64{16, 0}, 1},
		{"so does another length", [][]float64{{1, 1, 1}, {1}, {0.5, 0}}, 10, []int64{8, 0}, 2},
		{"what is not finite counts as zero", [][]float64{{math.NaN(), 0.5}, {math.Inf(1), 0.5}}, 10, []int64{0, 16}, 0},
		{"clamped to the box, none left out by rank", [][]float64{{1, 0}, {1, 0}, {1, 0}, {0, 1}}, 2, []int64{32, 16}, 0},
	} {
		got, failed, err := gradientSum(t.Context(), trainer{dim: 2, grads: c.grads}, g, c.max, []float64{0, 0})
		if err != nil || !slices.Equal(got, c.want) || failed != c.failed {
			t.Errorf("%s: got %v, %d failed, error %v; want %v, %d failed", c.name, got, failed, err, c.want, c.failed)
		}
	}
	for name, model := range map[string][]float64{"short": {0}, "NaN": {0, math.NaN()}, "infinite": {math.Inf(-1), 0}} {
		if _, _, err := gradientSum(t.Context(), trainer{dim: 2}, g, 1, model); err == nil {
			t.Errorf("a model that is %s was trained on", name)
		}
	}
}

// A trainer that ends silently when its context does has summed some patients only.
func TestGradientSumCutShort(t *testing.T) {
	for at := range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		x := trainer{dim: 1, grads: [][]float64{{1}, {1}, {1}}, each: func(i int) {
			if i == at {
				cancel()
			}
		}}
		if sum, _, err := gradientSum(ctx, x, dp.Grid{Clip: 1, Bits: 4}, 10, []float64{0}); !errors.Is(err, context.Canceled) || sum != nil {
			t.Errorf("cut short after %d patients: got %v, error %v", at+1, sum, err)
		}
		cancel()
	}
}

func TestSampleConfig(t *testing.T) {
	c, err := ReadConfig("../deploy/samples/node.yaml")
	ok(t, err)
	r := c.Registries["cardiology"]
	if c.Hospital != "cleveland" || c.Node != "1" || c.Coordinator != "coordinator.heart.example:443" || c.State != "/var/lib/consilium" ||
		c.Enrolment != "/etc/consilium/enrolment.json" || c.Trust != "/etc/consilium/trust" || c.Approvals != "/etc/consilium/approvals" ||
		c.Consent != "/etc/consilium/consent.rego" || c.TEE != "sim" || c.SimRoot != "/etc/consilium/sim-root.key" || !c.Insecure.SimulatedTEE ||
		len(c.Consortia) != 1 || c.Consortia[0].File != "../deploy/samples/consortium.yaml" ||
		r != (Registry{File: "/data/heart.csv", Exclude: Exclude{Column: "pid", File: "/data/opt-out.txt"}, Budget: dp.Budget{Epsilon: 8, Delta: 1e-4}}) {
		t.Errorf("got %+v", c)
	}
	if len(c.Fetch.From) != 0 || c.OwnRoots {
		t.Errorf("without the keys: fetch %q, own roots %t", c.Fetch.From, c.OwnRoots)
	}
}

// TestFetchConfig: who is asked, and where the cache is.
func TestFetchConfig(t *testing.T) {
	b, err := os.ReadFile("../deploy/samples/node.yaml")
	ok(t, err)
	path := filepath.Join(t.TempDir(), "node.yaml")
	ok(t, os.WriteFile(path, append(b, "fetch: [amd, intel, azure]\nmirrors: {intel: \"https://pccs.hospital.example:8081\"}\nown_roots: true\n"...), 0o600))
	c, err := ReadConfig(path)
	ok(t, err)
	if f := c.Fetch; fmt.Sprintf("%v %v %s %t", f.From, f.Mirrors, f.Dir, c.OwnRoots) != "[amd intel azure] map[intel:https://pccs.hospital.example:8081] /var/lib/consilium/endorsements true" {
		t.Errorf("got %+v, own roots %t", f, c.OwnRoots)
	}
}

func TestConfigRefused(t *testing.T) {
	b, err := os.ReadFile("../deploy/samples/node.yaml")
	ok(t, err)
	for _, c := range []struct{ old, change, want string }{
		{"hospital: cleveland", "", `"hospital" is missing`},
		{"node: \"1\"", "", `"node" is missing`},
		{"coordinator: coordinator.heart.example:443", "", `"coordinator" is missing`},
		{"coordinator.heart.example:443", "coordinator.heart.example", "want host:port"},
		{"state: /var/lib/consilium ", "#", `"state" is missing`},
		{"consortia: [", "consortia: [] #", `"consortia" names 0 files`},
		{"file: /data/heart.csv, ", "", `"registries.cardiology.file" is missing`},
		{"epsilon: 8", "epsilon: 0", `"registries.cardiology.budget"`},
		{"epsilon: 8", "epsilon: .nan", `registries`},
		{"delta: 1e-4", "delta: 1", `"registries.cardiology.budget"`},
		{", file: /data/opt-out.txt", "", `"registries.cardiology.exclude"`},
		{"tee: sim", "tee: sgx", "tee is"},
		{"simulated_tee: true", "simulated_tee: false", "insecure.simulated_tee is not set"},
		{"sim_root: /etc", "#", "sim_root is missing"},
		{"tee: sim", "tee: sim\nseed: 1", "seed"},
		{"tee: sim", "tee: sim\nbundle: {dir: x}", "bundle wants both"},
		{"tee: sim", "tee: sim\nbundle: {dir: x, keys: [x]}", "bundle.keys"},
		{"tee: sim", "tee: sim\nfetch: [amd, sgx]", `reading configuration node.yaml: field "fetch" names "sgx", want some of`},
		{"tee: sim", "tee: sim\nfetch: [amd]\nmirrors: {amd: kds.hospital.example}", `node.yaml: field "mirrors.amd" is "kds.hospital.example", want https://host`},
		{"tee: sim", "tee: sim\nno_noise: true", "no_noise"},
		{"consilium.node/v1", "consilium.node/v2", "consilium.node/v2"},
	} {
		path := filepath.Join(t.TempDir(), "node.yaml")
		text := strings.Replace(string(b), c.old, c.change, 1)
		if text == string(b) {
			t.Fatalf("%q is not in the sample", c.old)
		}
		ok(t, os.WriteFile(path, []byte(text), 0o600))
		if _, err := ReadConfig(path); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q for %q: error %v, want one that says %q", c.change, c.old, err, c.want)
		}
	}
}

func TestInitIsDoneOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if _, err := LoadKeys(dir); err == nil || !strings.Contains(err.Error(), "consilium-node init makes it") {
		t.Errorf("keys before init: %v", err)
	}
	first, err := Init(dir)
	ok(t, err)
	ok(t, os.Remove(filepath.Join(dir, witnessKeyFile)))
	second, err := Init(dir) // a crash between the two keys
	ok(t, err)
	third, err := Init(dir)
	ok(t, err)
	if !first.Node.Equal(second.Node) || first.Witness.Equal(second.Witness) || !second.Witness.Equal(third.Witness) || first.Node.Equal(first.Witness) {
		t.Error("init replaced a key, or made one twice")
	}
	for _, f := range []string{nodeKeyFile, witnessKeyFile} {
		fi, err := os.Stat(filepath.Join(dir, f))
		ok(t, err)
		if fi.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", f, fi.Mode())
		}
	}
	ok(t, os.Chmod(filepath.Join(dir, nodeKeyFile), 0o644))
	if _, err := LoadKeys(dir); err == nil {
		t.Error("a key that others can read was taken")
	}
}

func TestSpoolWhole(t *testing.T) {
	s := spool{dir: t.TempDir()}
	words := make([]byte, aggregate.ChunkBytes+40)
	_, _ = rand.Read(words)
	digest, err := aggregate.VectorDigest(bytes.NewReader(words))
	ok(t, err)
	put := func(b []byte) { ok(t, os.WriteFile(s.path(), b, 0o600)) }
	if _, _, err := s.whole(digest); err == nil {
		t.Error("a spool that is not there is whole")
	}
	flipped := bytes.Clone(words)
	flipped[len(flipped)-1] ^= 1
	for name, b := range map[string][]byte{"empty": nil, "torn": words[:aggregate.ChunkBytes], "longer": append(bytes.Clone(words), 0), "altered": flipped} {
		put(b)
		if _, _, err := s.whole(digest); err == nil {
			t.Errorf("a spool that is %s is whole", name)
		}
	}
	put(words)
	f, size, err := s.whole(digest)
	ok(t, err)
	ok(t, f.Close())
	if size != int64(len(words)) {
		t.Errorf("%d bytes, want %d", size, len(words))
	}
	ok(t, s.void())
	if _, _, err := s.whole(digest); err == nil {
		t.Error("a spool whose round is over is whole")
	}
	ok(t, s.remove())
	ok(t, s.remove())
	ok(t, s.void())
}

// reopened is what another process would find.
func reopened(t *testing.T, dir string) *cells {
	t.Helper()
	c := &cells{}
	ok(t, c.open(dir))
	t.Cleanup(func() { c.close(slog.New(slog.DiscardHandler)) })
	return c
}

func TestCellsAreKept(t *testing.T) {
	dir := t.TempDir()
	for want := range uint64(3) {
		c := reopened(t, dir)
		if got := c.seen(); got != want {
			t.Errorf("last seen %d, want %d", got, want)
		}
		c.see(want + 1)
		if got := reopened(t, dir).seen(); got != want {
			t.Errorf("%d is durable before the commit", got)
		}
		ok(t, c.commit())
	}
	c := reopened(t, dir)
	c.see(7)
	c.remember([]byte("state"))
	ok(t, logMemory{c}.Store([]byte("log")))
	again := reopened(t, dir)
	b, err := logMemory{again}.Load()
	ok(t, err)
	if again.seen() != 7 || string(again.state()) != "state" || string(b) != "log" {
		t.Errorf("got round %d, state %q, log %q", again.seen(), again.state(), b)
	}
}

// TestNothingLeavesBeforeItIsDurable queues an answer while a promise, the machine's state and a spool are only written down.
func TestNothingLeavesBeforeItIsDurable(t *testing.T) {
	dir := t.TempDir()
	s := &serving{runner: &runner{node: &Node{}, log: slog.New(slog.DiscardHandler), round: &roundState{}, spool: spool{dir: dir}}}
	ok(t, s.cells.open(dir))
	t.Cleanup(func() { s.cells.close(s.log) })
	outbox := make(chan aggregate.Signed, 1)
	s.round.sending.outbox = outbox
	ok(t, logMemory{&s.cells}.Put([]byte("promise")))
	s.cells.remember([]byte("state"))
	var err error
	s.spool.written, err = s.spool.open()
	ok(t, err)
	ok(t, s.queue(aggregate.Signed{Kind: "deal"}))
	kept := reopened(t, dir)
	b, err := logMemory{kept}.Load()
	ok(t, err)
	if got := <-outbox; got.Kind != "deal" || string(b) != "promise" || string(kept.state()) != "state" || s.spool.written != nil {
		t.Errorf("a %s left while %q and %q were durable, spool %v", got.Kind, b, kept.state(), s.spool.written)
	}
}

func TestCellsThatCannotBeStored(t *testing.T) {
	c := reopened(t, t.TempDir())
	ok(t, logMemory{c}.Store([]byte("log")))
	c.close(slog.New(slog.DiscardHandler)) // the disk is gone
	if (logMemory{c}).Store([]byte("newer")) == nil {
		t.Error("stored on a disk that is gone")
	}
	if b, err := (logMemory{c}).Load(); string(b) != "log" || err != nil {
		t.Errorf("after a failed store: %q, %v", b, err)
	}
	c.see(1)
	for range 2 {
		if c.commit() == nil {
			t.Error("committed on a disk that is gone")
		}
	}
}

func TestCellsOfAnotherShape(t *testing.T) {
	dir := t.TempDir()
	cell, err := store.OpenCell(filepath.Join(dir, "memory"))
	ok(t, err)
	ok(t, cell.Store([]byte("no sheet")))
	ok(t, cell.Close())
	var c cells
	if err := c.open(dir); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v, want the folder named", err)
	}
	c.close(slog.New(slog.DiscardHandler))
}

func TestInboxKeepsTheNewestOfEachSort(t *testing.T) {
	b := inbox{wake: make(chan struct{}, 1)}
	b.offer([]byte("published 38"), nil)
	b.offer([]byte("published 39"), nil)
	b.offer(nil, []byte("counted 38"))
	p, c, _ := b.take(t.Context())
	if string(p) != "published 39" || string(c) != "counted 38" {
		t.Errorf("got %q and %q", p, c)
	}
	b.restore(p, c)
	b.offer([]byte("published 40"), nil)
	b.restore([]byte("published 39"), nil)
	if p, c, _ = b.take(t.Context()); string(p) != "published 40" || string(c) != "counted 38" {
		t.Errorf("after putting back: got %q and %q", p, c)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, more := b.take(ctx); more {
		t.Error("something was taken twice")
	}
}

func TestRenewIn(t *testing.T) {
	for left, want := range map[time.Duration]time.Duration{
		time.Hour: 50 * time.Minute, 15 * time.Minute: 7*time.Minute + 30*time.Second, 4 * time.Second: 2 * time.Second, 0: time.Second, -time.Hour: time.Second,
	} {
		if got := renewIn(left); got != want {
			t.Errorf("a session of %v is renewed after %v, want %v", left, got, want)
		}
	}
}

// parties are a consortium of one hospital, whose governance key the test holds.
func parties(t *testing.T) (*study.Consortium, ed25519.PrivateKey) {
	t.Helper()
	_, governance, err := ed25519.GenerateKey(rand.Reader)
	ok(t, err)
	b, err := os.ReadFile("../deploy/samples/consortium.yaml")
	ok(t, err)
	c, err := study.ParseConsortium(b)
	ok(t, err)
	h := c.Hospitals["va"]
	h.Governance = governance.Public().(ed25519.PublicKey)
	c.Hospitals["va"] = h
	return c, governance
}

func enrolment(t *testing.T, c *study.Consortium, governance ed25519.PrivateKey, serial uint64, stop *study.Stop) []byte {
	t.Helper()
	n, _, err := ed25519.GenerateKey(rand.Reader)
	ok(t, err)
	w, _, err := ed25519.GenerateKey(rand.Reader)
	ok(t, err)
	b, err := study.Enrolment{
		Consortium: c.Name, Hospital: "va", Node: "1", NodeKey: n, WitnessKey: w, Serial: serial, Predecessor: stop,
		Until: time.Now().Add(time.Hour).Truncate(time.Second).UTC(),
	}.Sign(governance)
	ok(t, err)
	return b
}

// The highest serial wins, also after a restart.
func TestNewestEnrolment(t *testing.T) {
	c, governance := parties(t)
	path := filepath.Join(t.TempDir(), "enrolments")
	var files [][]byte
	for serial := range uint64(3) {
		files = append(files, enrolment(t, c, governance, serial+1, nil))
	}
	another := enrolment(t, c, governance, 2, nil)
	n, err := openNewest(path, c)
	ok(t, err)
	for _, f := range files[:2] {
		if _, err := n.admit(f, time.Now()); err != nil {
			t.Error(err)
		}
	}
	for range 2 {
		if _, err := n.admit(files[0], time.Now()); err == nil {
			t.Error("a lower serial was taken")
		}
		if _, err := n.admit(another, time.Now()); err == nil {
			t.Error("another file of the same serial was taken")
		}
		if _, err := n.admit(files[1], time.Now()); err != nil {
			t.Error(err)
		}
		if _, err := n.admit(files[1], time.Now().Add(2*time.Hour)); err == nil {
			t.Error("an enrolment that has ended was taken")
		}
		ok(t, n.cell.Close())
		n, err = openNewest(path, c)
		ok(t, err)
	}
	ok(t, n.cell.Close())
	if _, err := n.admit(files[2], time.Now()); err == nil {
		t.Error("an enrolment that could not be remembered was taken")
	}
}

// A node that its governance enrolled with the stop of the one before starts on that one's ledger alone.
func TestSuccessorNeedsTheLedger(t *testing.T) {
	dir := t.TempDir()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	ok(t, err)
	l := newLedger(t, dir)
	_, err = l.Charge(dp.Charge{Registry: "cardiology", Study: [32]byte{1}, Number: 1, Reserve: dp.Budget{Epsilon: 1, Delta: 1e-5}, Limit: 3})
	ok(t, err)
	start := func(head [32]byte) error {
		stop, err := study.NewStop("heart.example", "va", "1", 1, head, key)
		ok(t, err)
		n := &Node{config: Config{State: dir}, log: slog.New(slog.DiscardHandler), ledgers: map[string]ledger{"cardiology": {Ledger: l}}}
		return n.succeed(study.Enrolment{Serial: 2, Predecessor: &stop})
	}
	if err := start([32]byte{1}); err == nil || !strings.Contains(err.Error(), "no ledger in the state folder ends there") {
		t.Errorf("starting on another ledger: %v", err)
	}
	ok(t, start(l.Head()))
	stopped := l.Head()
	_, err = l.Charge(dp.Charge{Registry: "cardiology", Study: [32]byte{1}, Number: 2, Reserve: dp.Budget{Epsilon: 1, Delta: 1e-5}, Limit: 3})
	ok(t, err)
	ok(t, start(stopped)) // it has gone on since
}

func newLedger(t *testing.T, dir string) *dp.Ledger {
	t.Helper()
	j, err := store.OpenJournal(filepath.Join(dir, "ledger"))
	ok(t, err)
	t.Cleanup(func() { _ = j.Close() })
	l, err := dp.OpenLedger(j, dp.Budget{Epsilon: 8, Delta: 1e-4})
	ok(t, err)
	return l
}

// Charges are compared by the head after them: a ledger that was rolled back and charged again has others.
func TestChargedAgainIsAnother(t *testing.T) {
	c := dp.Charge{Registry: "cardiology", Study: [32]byte{1}, Number: 2, Reserve: dp.Budget{Epsilon: 1, Delta: 1e-5}, Limit: 3}
	first := c
	first.Number = 1
	honest, rolled := newLedger(t, t.TempDir()), newLedger(t, t.TempDir())
	for _, x := range []dp.Charge{first, c} {
		_, err := honest.Charge(x)
		ok(t, err)
	}
	_, err := rolled.Charge(c)
	ok(t, err)
	a, err := charged(honest, c.Study)
	ok(t, err)
	b, err := charged(rolled, c.Study)
	ok(t, err)
	if len(a) != 2 || len(b) != 1 {
		t.Fatalf("%d and %d charges, want 2 and 1", len(a), len(b))
	}
	for d := range b {
		if a[d] {
			t.Error("a charge after another head is the same charge")
		}
	}
	e, known := honest.Last(c.Study)
	if !known {
		t.Fatal("no charge")
	}
	enc, err := signed.Encode(aggregate.Charge{Study: c.Study, Number: c.Number, Plan: c.Plan, Roster: c.Roster, Head: e.Head})
	ok(t, err)
	if !a[signed.Digest(enc)] {
		t.Error("the charge of an upload is not found by its digest")
	}
}

// An approval counts for its study alone, while it holds, for this hospital and a registry it has.
func TestApprovals(t *testing.T) {
	c, governance := parties(t)
	dir := t.TempDir()
	now := time.Now().Truncate(time.Second).UTC()
	n := &Node{
		config: Config{Hospital: "va", Approvals: dir, Registries: map[string]Registry{"cardiology": {}}}, log: slog.New(slog.DiscardHandler),
		deps: Deps{Consortium: c, Now: func() time.Time { return now }}, complaints: map[string]string{},
	}
	put := func(name string, a study.Approval, key ed25519.PrivateKey) {
		a.Name, a.Role, a.Meaning = "D. Steward", "data steward", "approved"
		b, err := a.Sign(key)
		ok(t, err)
		ok(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
	}
	_, stranger, err := ed25519.GenerateKey(rand.Reader)
	ok(t, err)
	good := study.Approval{Study: [32]byte{1}, Hospital: "va", Dataset: "cardiology", Until: now.Add(time.Second)}
	put("good", good, governance)
	other := good
	other.Study, other.Hospital = [32]byte{2}, "hungarian"
	_, neighbour, err := ed25519.GenerateKey(rand.Reader)
	ok(t, err)
	h := c.Hospitals["hungarian"]
	h.Governance = neighbour.Public().(ed25519.PublicKey)
	c.Hospitals["hungarian"] = h
	put("other-hospital", other, neighbour)
	forged := good
	forged.Study = [32]byte{3}
	put("forged", forged, stranger)
	registry := good
	registry.Study, registry.Dataset = [32]byte{4}, "oncology"
	put("other-registry", registry, governance)
	ended := good
	ended.Study, ended.Until = [32]byte{5}, now
	put("ended", ended, governance)
	ok(t, os.WriteFile(filepath.Join(dir, "large"), make([]byte, maxApproval+1), 0o600))
	ok(t, os.WriteFile(filepath.Join(dir, ".hidden"), nil, 0o600))
	as, err := n.approvals()
	ok(t, err)
	if len(as) != 1 || as[[32]byte{1}].Hospital != "va" {
		t.Errorf("%d approvals count, want one: %v", len(as), as)
	}
	for _, f := range []string{"other-hospital", "forged", "other-registry", "ended", "large"} {
		if n.complaints[f] == "" {
			t.Errorf("nothing was said of %s", f)
		}
	}
	if len(n.complaints) != 5 {
		t.Errorf("complaints: %v", n.complaints)
	}
	now = now.Add(time.Second)
	if as, err = n.approvals(); err != nil || len(as) != 0 {
		t.Errorf("approvals that have ended: %v, error %v", as, err)
	}
}

// The folder is read for good at the start: without it nothing runs, and nothing hangs.
func TestRunWithoutApprovals(t *testing.T) {
	n := &Node{config: Config{Approvals: filepath.Join(t.TempDir(), "none")}, log: slog.New(slog.DiscardHandler), complaints: map[string]string{}}
	if err := n.Run(t.Context()); err == nil {
		t.Error("the node ran without an approvals folder")
	}
}

func TestChunkWords(t *testing.T) {
	for bits, want := range map[uint8]int{24: 64 << 10, 32: 64 << 10, 64: 32 << 10} {
		if got := chunkWords(bits); got != want {
			t.Errorf("a chunk of %d bits has %d words, want %d", bits, got, want)
		}
	}
}
