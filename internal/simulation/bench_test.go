package simulation

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/audit"
	"github.com/consilium-fl/consilium/coordinator"
	"github.com/consilium-fl/consilium/internal/store"
	"github.com/consilium-fl/consilium/node"
)

// BenchmarkRound runs rounds of ten hospitals with fourteen parameters over loopback, as simulate does.
// round-ms is the median from one closed round to the next; fsyncs are those of all eleven processes'
// state in a round and fsync-ms is their time added up, though many run at once; inclusion-ms is the median from a
// leaf's promise to a co-signed checkpoint that covers it, which a round would take longer if it waited.
//
// CONSILIUM_BENCH_DIR is where the state lies: a folder on tmpfs shows what the disk costs.
func BenchmarkRound(b *testing.B) {
	rounds := benchRounds()
	for b.Loop() {
		o := clinics(b, 10, 13, rounds)
		o.Out = filepath.Join(b.TempDir(), "out")
		var closed []time.Time
		o.Progress = func(p Progress) {
			if p.Kind == "closed" {
				closed = append(closed, p.Time)
			}
		}
		if dir := os.Getenv("CONSILIUM_BENCH_DIR"); dir != "" {
			b.Setenv("TMPDIR", dir)
		}
		lag := &inclusion{promised: map[uint64]time.Time{}}
		r, err := simulate(b.Context(), o, wiring{coordinator: lag.wire, node: func(string, *node.Deps) {}})
		if err != nil {
			b.Fatal(err)
		}
		var gaps, own []float64
		for i := 1; i < len(closed); i++ {
			gaps = append(gaps, 1e3*closed[i].Sub(closed[i-1]).Seconds())
		}
		for _, x := range r.Summary.Rounds {
			own = append(own, 1e3*x.Seconds)
		}
		b.ReportMetric(middle(gaps), "round-ms")
		b.ReportMetric(middle(own), "own-ms")
		for _, phase := range []string{"gathering", "dealing", "collecting", "voting", "releasing"} {
			var of []float64
			for _, x := range r.Summary.Rounds {
				of = append(of, 1e3*x.Phases[phase])
			}
			b.ReportMetric(middle(of), phase+"-ms")
		}
		b.ReportMetric(middle(lag.took), "inclusion-ms")
	}
}

func middle(v []float64) float64 {
	slices.Sort(v)
	if len(v) == 0 {
		return 0
	}
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// clinics are options for hospitals with made-up rows of some features.
func clinics(t testing.TB, members, features, rounds int) Options {
	t.Helper()
	var names, columns []string
	for i := range members {
		names = append(names, fmt.Sprintf("clinic-%02d", i+1))
	}
	var fields strings.Builder
	for i := range features {
		columns = append(columns, fmt.Sprintf("x%d", i+1))
		fmt.Fprintf(&fields, "    x%d: {unit: a, typical: [-1, 1], plausible: [-9, 9], source: made up}\n", i+1)
	}
	text := strings.NewReplacer(
		"[basel, bern, chur, genf]", "["+strings.Join(names, ", ")+"]", "approvals: 4", fmt.Sprintf("approvals: %d", members),
		"    age: {unit: a, typical: [44.5, 63.5], plausible: [0, 120], source: \"a public range\"}\n    sex: {levels: [0, 1]}\n", fields.String(),
		"minimum: 3, colluding: 1", "", "{mode: masked, word_bits: 32, }", "{mode: masked, word_bits: 32}", "{mode: masked, word_bits: 32, minimum: 3, colluding: 1}", "{mode: masked, word_bits: 32}",
		"rounds: 2", fmt.Sprintf("rounds: %d", rounds),
	).Replace(ward)
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(1, 2))
	for _, n := range names {
		var b strings.Builder
		b.WriteString(strings.Join(columns, ",") + ",sick\n")
		for range 90 {
			sick := rng.IntN(2)
			for range features {
				b.WriteString(strconv.FormatFloat(rng.NormFloat64()+float64(sick), 'f', 3, 64) + ",")
			}
			b.WriteString(strconv.Itoa(sick) + "\n")
		}
		put(t, filepath.Join(dir, n+".csv"), b.String())
	}
	return Options{Study: []byte(text), StudyName: "clinics.yaml", Data: dir}
}

// inclusion measures how long a leaf waits for a checkpoint that counts.
type inclusion struct {
	mu       sync.Mutex
	promised map[uint64]time.Time
	took     []float64 // milliseconds
}

func (x *inclusion) wire(d *coordinator.Deps) {
	d.Store = countedStore{d.Store, x}
	open := d.OpenLog
	d.OpenLog = func(ctx context.Context, dir, origin string) (coordinator.Log, error) {
		l, err := open(ctx, dir, origin)
		if strings.HasSuffix(origin, "/log") {
			return l, err // the consortium's, on which no round waits
		}
		return promisedLog{l, x}, err
	}
}

type promisedLog struct {
	coordinator.Log
	x *inclusion
}

func (l promisedLog) Append(ctx context.Context, leaf audit.Leaf) (audit.Promised, error) {
	p, err := l.Log.Append(ctx, leaf)
	if err == nil {
		l.x.mu.Lock()
		l.x.promised[p.Promise.Index] = time.Now()
		l.x.mu.Unlock()
	}
	return p, err
}

type countedStore struct {
	coordinator.Store
	x *inclusion
}

func (s countedStore) SwapAll(ctx context.Context, changes ...store.Change) ([]int64, error) {
	for _, c := range changes {
		if !strings.HasPrefix(c.Key, "counted/") {
			continue
		}
		if lines := bytes.SplitN(c.Value, []byte("\n"), 3); len(lines) == 3 {
			if size, err := strconv.ParseUint(string(lines[1]), 10, 64); err == nil {
				s.x.covered(size)
			}
		}
	}
	return s.Store.SwapAll(ctx, changes...)
}

func (x *inclusion) covered(size uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i, at := range x.promised {
		if i < size {
			x.took = append(x.took, 1e3*time.Since(at).Seconds())
			delete(x.promised, i)
		}
	}
}

// benchRounds are 200, or as many as CONSILIUM_BENCH_ROUNDS says for a profile.
func benchRounds() int {
	if n, err := strconv.Atoi(os.Getenv("CONSILIUM_BENCH_ROUNDS")); err == nil {
		return n
	}
	return 200
}
