package simulation

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/coordinator"
	"github.com/consilium-fl/consilium/dp"
	"github.com/consilium-fl/consilium/internal/person"
	"github.com/consilium-fl/consilium/internal/policy"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/terms"
	"github.com/consilium-fl/consilium/node"
	"github.com/consilium-fl/consilium/node/train"
)

func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// silent is a sampler of nothing.
type silent struct{}

func (silent) Fill(dst []int64) error { clear(dst); return nil }

func noNoise(dp.Mechanism, [32]byte) aggregate.Noiser { return silent{} }

// federate writes a federation of the embedded study with other values in some fields.
func federate(t testing.TB, o Options, fields map[string]string) *federation {
	t.Helper()
	text, sites, err := prepare(o)
	if err != nil {
		t.Fatal(err)
	}
	for field, value := range fields {
		text = must(study.Override(text, field, value))(t)
	}
	return must(build(filepath.Join(workFolder(t), "federation"), text, sites, o, nil))(t)
}

// workFolder is a folder for a federation that runs, removed as Run removes its own.
func workFolder(t testing.TB) string {
	t.Helper()
	dir := must(os.MkdirTemp("", "consilium-test-"))(t)
	t.Cleanup(func() {
		if err := removeAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// logger writes to the test's output when CONSILIUM_TEST_LOG is set.
func logger(t testing.TB) *slog.Logger {
	if os.Getenv("CONSILIUM_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

// played is a study of a federation in this process.
func played(t testing.TB, f *federation, o Options, w wiring) (*Result, error) {
	t.Helper()
	if o.Out == "" {
		o.Out = filepath.Join(t.TempDir(), "out")
	}
	o.Logger = logger(t)
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	r := &run{federation: f, options: o, began: time.Now(), wiring: w, seen: newSeen(f)}
	return r.run(ctx)
}

// quietly takes the noise away on both sides.
func quietly() wiring {
	return wiring{
		coordinator: func(d *coordinator.Deps) { d.Noise = noNoise },
		node:        func(_ string, d *node.Deps) { d.Noise = noNoise },
	}
}

// together holds the first round until every member has asked for its model. A study may then call a member
// away soon without one that was slow to start missing a round.
func together(w wiring, members int) wiring {
	inner := w.coordinator
	w.coordinator = func(d *coordinator.Deps) {
		inner(d)
		d.Gate = &gathering{Gate: d.Gate, missing: members, asked: map[string]bool{}, all: make(chan struct{})}
	}
	return w
}

type gathering struct {
	coordinator.Gate
	mu      sync.Mutex
	missing int
	asked   map[string]bool
	all     chan struct{} // closed when nobody is missing
}

func (g *gathering) Decide(ctx context.Context, r policy.Request) (policy.Decision, error) {
	if strings.HasSuffix(r.Method, "/Download") {
		g.mu.Lock()
		if !g.asked[r.Peer.Hospital] {
			g.asked[r.Peer.Hospital] = true
			if g.missing--; g.missing == 0 {
				close(g.all)
			}
		}
		g.mu.Unlock()
		select {
		case <-g.all:
		case <-ctx.Done():
			return policy.Decision{}, ctx.Err()
		}
	}
	return g.Gate.Decide(ctx, r)
}

// A pooled is clipped FedSGD on all rows at once, without a federation: what a study without noise has to
// equal word for word.
type pooled struct {
	study *study.Study
	grid  dp.Grid
	data  map[string]table
	w     []float64
}

func newPooled(f *federation) (*pooled, error) {
	t, err := terms.New(f.consortium, f.study)
	if err != nil {
		return nil, err
	}
	p := &pooled{study: f.study, grid: t.Grid, data: map[string]table{}, w: make([]float64, f.study.Dim())}
	for _, s := range f.sites {
		if p.data[s.name], err = readTable(s.name, s.train, f.study); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// sum is what the hospitals of a set add up to on the model at hand.
func (p *pooled) sum(set []string) []int64 {
	total, grad := make([]int64, len(p.w)), make([]float64, len(p.w))
	for _, h := range set {
		own, d := make([]int64, len(p.w)), p.data[h]
		for i, x := range d.rows {
			e := train.Predict(p.w, x) - d.labels[i]
			for j := range grad {
				grad[j] = e * x[j]
			}
			p.grid.AddClipped(own, grad)
		}
		p.grid.Clamp(own, p.study.MaxPatients)
		for j := range total {
			total[j] += own[j]
		}
	}
	return total
}

// A past is a round as an output folder or a coordinator's state tells it.
type past struct {
	number  uint64
	outcome aggregate.Outcome
	why     string
	set     []string
}

// history reads the rounds of a folder, by number.
func history(dir string) ([]past, error) {
	entries, err := os.ReadDir(filepath.Join(dir, "rounds"))
	if err != nil {
		return nil, err
	}
	var all []past
	for _, e := range entries {
		number, err := strconv.ParseUint(e.Name(), 10, 64)
		if err != nil {
			return nil, err
		}
		m, err := readMessage(roundFile(dir, number, "result.cbor"))
		if err != nil {
			return nil, err
		}
		r := m.(aggregate.Result)
		set, err := releasedSet(dir, number)
		if err != nil {
			return nil, err
		}
		all = append(all, past{number: number, outcome: r.Outcome, why: r.Why, set: set})
	}
	return all, nil
}

func readMessage(path string) (aggregate.Message, error) {
	s, err := readSigned(path)
	if err != nil {
		return nil, err
	}
	return aggregate.Parse(s)
}

func readSigned(path string) (s aggregate.Signed, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return s, err
	}
	return s, signed.Decode(b, &s)
}

// inexact says which word of which round differs from pooled clipped FedSGD; nil when none does, the
// released model included.
func inexact(f *federation, dir string) error {
	p, err := newPooled(f)
	if err != nil {
		return err
	}
	rounds, err := history(dir)
	if err != nil {
		return err
	}
	var iterates [][]float64
	for _, r := range rounds {
		got, err := releasedSum(dir, r.number)
		if r.outcome != aggregate.Closed {
			if !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("round %d is %s and has a sum: %w", r.number, r.outcome, err)
			}
			continue
		}
		if err != nil {
			return err
		}
		want := p.sum(r.set)
		for i := range want {
			if i >= len(got) || got[i] != want[i] {
				return fmt.Errorf("round %d over %v: word %d is %v, want %d", r.number, r.set, i, got[min(i, len(got)):min(i+1, len(got))], want[i])
			}
		}
		p.w = p.study.Next(p.w, got)
		iterates = append(iterates, p.w)
	}
	if len(iterates) == 0 {
		return errors.New("no round closed")
	}
	b, err := os.ReadFile(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		return err
	}
	_, model, err := study.DecodeModel(b)
	if err != nil {
		return err
	}
	if want := p.study.Released(iterates); !slices.Equal(model, want) {
		return errors.New("the released model is not the mean of the pooled iterates")
	}
	return nil
}

// asLead is the study's lead.
func (f *federation) asLead(t testing.TB) *person.Person {
	t.Helper()
	return must(person.Open(must(person.ReadConfig(f.path("consilium.yaml")))(t)))(t)
}
