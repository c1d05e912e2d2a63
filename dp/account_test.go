package dp

import (
	"encoding/csv"
	"encoding/json"
	"math"
	"math/big"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
)

func gaussian(multiplier float64, count uint64) Event {
	return Event{Kind: Gaussian, Multiplier: multiplier, Count: count}
}

func mustEpsilon(t testing.TB, delta float64, events ...Event) float64 {
	t.Helper()
	e, err := Epsilon(delta, events...)
	if err != nil {
		t.Fatalf("Epsilon(%v, %v): %v", delta, events, err)
	}
	return e
}

// referenceRow is a line of the table that independent accountants agree on.
type referenceRow struct {
	id, group, query, neighbours string
	x, lo, hi                    float64
	events                       []struct {
		Type   string
		Sigma  float64
		Q      float64
		Count  uint64
		Target float64 `json:"target_epsilon"`
	}
}

func referenceRows(t *testing.T) []referenceRow {
	t.Helper()
	root := os.Getenv("CONSILIUM_SHARED")
	if root == "" {
		root = filepath.Join("..", "..", "shared")
	}
	f, err := os.Open(filepath.Join(root, "privacy", "reference.csv"))
	if err != nil {
		t.Skipf("the reference table is absent, set CONSILIUM_SHARED: %v", err)
	}
	defer f.Close() //nolint:errcheck // read only
	lines, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	column := func(line []string, name string) string { return line[slices.Index(lines[0], name)] }
	var rows []referenceRow
	for _, line := range lines[1:] {
		r := referenceRow{
			id: column(line, "id"), group: column(line, "group"), query: column(line, "query"),
			neighbours: column(line, "neighbouring"),
		}
		r.x, _ = strconv.ParseFloat(column(line, "x"), 64)
		r.lo, _ = strconv.ParseFloat(column(line, "ref_lo"), 64)
		r.hi, _ = strconv.ParseFloat(column(line, "ref_hi"), 64)
		if r.group == "A_gaussian_full" || r.group == "F_calibrate" || r.group == "G_replace_one" {
			if err := json.Unmarshal([]byte(column(line, "events")), &r.events); err != nil {
				t.Fatalf("%s: %v", r.id, err)
			}
		}
		rows = append(rows, r)
	}
	return rows
}

// TestReference holds every full-batch Gaussian row of the shared table: never below the bracket,
// and inside it.
func TestReference(t *testing.T) {
	seen := 0
	for _, r := range referenceRows(t) {
		if r.group != "A_gaussian_full" {
			continue
		}
		seen++
		var events []Event
		for _, e := range r.events {
			events = append(events, Event{Kind: e.Type, Multiplier: e.Sigma, Rate: e.Q, Count: e.Count})
		}
		var got float64
		switch r.query {
		case "epsilon":
			got = mustEpsilon(t, r.x, events...)
		case "delta":
			mu, err := compose(events)
			if err != nil {
				t.Fatal(err)
			}
			got = toFloat(deltaAbove(big.NewFloat(r.x), mu))
		default:
			t.Fatalf("%s: query %q", r.id, r.query)
		}
		if got < r.lo || got > r.hi {
			t.Errorf("%s: %s %v, want %v to %v", r.id, r.query, got, r.lo, r.hi)
		}
	}
	if seen < 10 {
		t.Errorf("%d rows of full-batch Gaussians, want at least 10", seen)
	}
}

// TestReferenceCalibration holds σ to the table's, on a grid fine enough to see its brackets.
func TestReferenceCalibration(t *testing.T) {
	seen := 0
	for _, r := range referenceRows(t) {
		if r.group != "F_calibrate" || r.events[0].Q != 1 {
			continue
		}
		seen++
		e := r.events[0]
		m, err := Calibrate(Budget{e.Target, r.x}, int(e.Count), Grid{Clip: 1, Bits: 28})
		if err != nil {
			t.Fatalf("%s: %v", r.id, err)
		}
		if got := float64(m.Sigma()) / (1 << 28); got < r.lo || got > r.hi {
			t.Errorf("%s: sigma %v, want %v to %v", r.id, got, r.lo, r.hi)
		}
	}
	if seen < 5 {
		t.Errorf("%d calibration rows, want at least 5", seen)
	}
}

// TestReplaceOneIsNotClaimed: the table's replace-one figures are about twice ours, so an event of
// that relation must not be answered with the figure of add-or-remove-one.
func TestReplaceOneIsNotClaimed(t *testing.T) {
	e := gaussian(1, 1)
	e.Neighbours = "replace-one"
	if got, err := Epsilon(1e-5, e); err == nil || !math.IsInf(got, 1) {
		t.Errorf("replace-one: got %v, %v, want +Inf and an error", got, err)
	}
}

// TestEpsilonAgainstTruth sweeps ε from 1e-3 to over 500 and δ from 1e-15 to 0.3: the answer holds
// by the 2048-bit truth, and an answer smaller by 1e-12 of it would not.
func TestEpsilonAgainstTruth(t *testing.T) {
	var least, most float64 = math.Inf(1), 0
	for _, delta := range []float64{1e-15, 1e-12, 1e-9, 1e-5, 1e-3, 0.1, 0.3} {
		for _, multiplier := range []float64{7000, 900, 100, 21.43, 5, 1, 0.3, 0.05, 0.0316} {
			got := mustEpsilon(t, delta, gaussian(multiplier, 1))
			mu := tQuo(truth(1), truth(multiplier))
			if trueDelta(got, mu).Cmp(truth(delta)) > 0 {
				t.Errorf("multiplier %v, delta %v: epsilon %v is below the truth", multiplier, delta, got)
			}
			if got == 0 {
				continue
			}
			least, most = min(least, got), max(most, got)
			if trueDelta(got*(1-1e-12), mu).Cmp(truth(delta)) <= 0 {
				t.Errorf("multiplier %v, delta %v: epsilon %v is not tight", multiplier, delta, got)
			}
		}
	}
	if least > 1.1e-3 || most < 500 {
		t.Errorf("the sweep covers %v to %v, want 1e-3 to 500", least, most)
	}
}

// TestDeltaAboveEncloses compares the upper bound with the truth at random points.
func TestDeltaAboveEncloses(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		m := math.Exp(r.Float64()*14 - 11)
		epsilon := max(m*m/2+m*(r.Float64()*14-2), 0)
		got := deltaAbove(big.NewFloat(epsilon), big.NewFloat(m))
		want := trueDelta(epsilon, truth(m))
		if want.Cmp(got) > 0 {
			t.Errorf("epsilon %v, mu %v: bound %v under the truth %v", epsilon, m, got, want)
		}
		if tMul(want, truth(1+1e-14)).Cmp(got) < 0 {
			t.Errorf("epsilon %v, mu %v: bound %v, truth %v", epsilon, m, got, want)
		}
	}
}

func TestIntervalsEnclose(t *testing.T) {
	inside := func(what string, x float64, got interval, want *big.Float) {
		t.Helper()
		if got.lo.Cmp(want) > 0 || got.hi.Cmp(want) < 0 {
			t.Errorf("%s(%v) in [%v, %v], want %v", what, x, got.lo, got.hi, want)
		}
		if width := up().Sub(got.hi, got.lo); width.Sign() != 0 && width.MantExp(nil) > got.hi.MantExp(nil)-90 {
			t.Errorf("%s(%v) has width %v of %v", what, x, width, got.hi)
		}
	}
	for _, x := range []float64{0, 1e-30, 1e-9, 0.1, 0.999, 1, 2.5, 4.9999, 5, 5.0001, 7, 15, 33} {
		b := big.NewFloat(x)
		inside("exp", x, point(b).exp(), trueExp(truth(x)))
		inside("density", x, density(b), trueDensity(truth(x)))
		inside("mills", x, mills(b), tQuo(trueUpper(truth(x)), trueDensity(truth(x))))
		root := rootUp(b)
		inside("root", x, interval{down().Sub(root, down().SetMantExp(root, -140)), root}, truth(0).Sqrt(truth(x)))
	}
	inside("root two pi", 0, rootTwoPi, truth(0).Sqrt(tMul(truth(2), truePi())))
}

// TestComposition is what composing must not depend on: a count is as many events, in any order,
// split and merged in any way. Other accountants have dropped counts.
func TestComposition(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 40 {
		var listed, counted []Event
		for range 1 + r.IntN(4) {
			m, n := math.Exp(r.Float64()*6-1), 1+r.IntN(6)
			counted = append(counted, gaussian(m, uint64(n)))
			for range n {
				listed = append(listed, gaussian(m, 1))
			}
		}
		r.Shuffle(len(listed), func(i, j int) { listed[i], listed[j] = listed[j], listed[i] })
		want := mustEpsilon(t, 1e-6, counted...)
		if got := mustEpsilon(t, 1e-6, listed...); got != want {
			t.Fatalf("%v: listed singly %v, counted %v", counted, got, want)
		}
		slices.Reverse(counted)
		if got := mustEpsilon(t, 1e-6, counted...); got != want {
			t.Fatalf("%v: reversed %v, want %v", counted, got, want)
		}
	}
	// 4·n releases of twice the noise are n releases.
	if a, b := mustEpsilon(t, 1e-5, gaussian(3, 7)), mustEpsilon(t, 1e-5, gaussian(6, 28)); a != b {
		t.Errorf("7 of multiplier 3: %v, 28 of multiplier 6: %v", a, b)
	}
}

func TestMonotone(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 60 {
		m, n := math.Exp(r.Float64()*8-2), 1+r.Uint64N(1000)
		delta := math.Exp(-r.Float64() * 30)
		base := mustEpsilon(t, delta, gaussian(m, n))
		for name, other := range map[string]float64{
			"less noise":   mustEpsilon(t, delta, gaussian(m*0.999, n)),
			"one more":     mustEpsilon(t, delta, gaussian(m, n+1)),
			"less delta":   mustEpsilon(t, delta*0.999, gaussian(m, n)),
			"another kind": mustEpsilon(t, delta, gaussian(m, n), gaussian(1e6, 1)),
		} {
			if other < base {
				t.Errorf("multiplier %v, count %d, delta %v: %s has %v, less than %v", m, n, delta, name, other, base)
			}
		}
	}
}

// TestKnownFigures are figures that the reference states in words.
func TestKnownFigures(t *testing.T) {
	for _, c := range []struct {
		multiplier float64
		count      uint64
		want       float64
	}{
		{3.730632, 1, 1.00},  // one release at ε = 1
		{3.730632, 2, 1.465}, // re-released with fresh noise
		{3.730632, 5, 2.44},
		{3.730632, 10, 3.62},
		{21.431, 33, 1.000},
		{21.431, 30, 0.949},
		{20.434, 30, 1.000},
	} {
		if got := mustEpsilon(t, 1e-5, gaussian(c.multiplier, c.count)); math.Abs(got-c.want) > 6e-3 {
			t.Errorf("%d of multiplier %v: %v, want %v", c.count, c.multiplier, got, c.want)
		}
	}
}

func TestEpsilonEdges(t *testing.T) {
	if got := mustEpsilon(t, 1e-5); got != 0 {
		t.Errorf("no events: %v, want 0", got)
	}
	if got := mustEpsilon(t, 0.5, gaussian(1000, 1)); got != 0 {
		t.Errorf("a delta that covers all: %v, want 0 and nothing negative", got)
	}
	if got := mustEpsilon(t, 1e-5, gaussian(1, 1), gaussian(0, 1)); !math.IsInf(got, 1) {
		t.Errorf("a release without noise: %v, want +Inf", got)
	}
	// μ²/2 is 5e11 here, far beyond what exp holds in a float64.
	if got := mustEpsilon(t, 1e-15, gaussian(1e-3, 1_000_000)); got < 5e11 || got > 5.1e11 {
		t.Errorf("a million releases of multiplier 0.001: %v, want a little over 5e11", got)
	}
	if got := mustEpsilon(t, 1e-15, gaussian(1e-3, 1), gaussian(1e12, math.MaxUint64), gaussian(1e12, math.MaxUint64)); got < 5e5 || got > 5.1e5 {
		t.Errorf("counts that overflow together: %v, want a little over 5e5", got)
	}
}

func TestEpsilonRefuses(t *testing.T) {
	good := gaussian(1, 1)
	change := func(f func(*Event)) Event {
		e := good
		f(&e)
		return e
	}
	for name, c := range map[string]struct {
		delta float64
		event Event
	}{
		"delta 0":         {0, good},
		"delta 1":         {1, good},
		"delta NaN":       {math.NaN(), good},
		"negative delta":  {-1e-5, good},
		"tiny delta":      {1e-120, good},
		"kind":            {1e-5, change(func(e *Event) { e.Kind = "laplace" })},
		"no kind":         {1e-5, change(func(e *Event) { e.Kind = "" })},
		"sampled":         {1e-5, change(func(e *Event) { e.Rate = 0.5 })},
		"rate NaN":        {1e-5, change(func(e *Event) { e.Rate = math.NaN() })},
		"neighbours":      {1e-5, change(func(e *Event) { e.Neighbours = "replace-one" })},
		"no count":        {1e-5, change(func(e *Event) { e.Count = 0 })},
		"negative sigma":  {1e-5, change(func(e *Event) { e.Multiplier = -1 })},
		"multiplier NaN":  {1e-5, change(func(e *Event) { e.Multiplier = math.NaN() })},
		"multiplier +Inf": {1e-5, change(func(e *Event) { e.Multiplier = math.Inf(1) })},
		"beyond range":    {1e-5, gaussian(1e-9, 1)},
	} {
		if got, err := Epsilon(c.delta, c.event); err == nil || !math.IsInf(got, 1) {
			t.Errorf("%s: got %v, %v, want +Inf and an error", name, got, err)
		}
	}
}

// TestRowsOfSampledEventsAreRefused: a figure for a Poisson sample is not to be had by ignoring
// the rate, nor by the central limit theorem, which is below the truth in most sampled rows.
func TestRowsOfSampledEventsAreRefused(t *testing.T) {
	for _, rate := range []float64{1e-5, 0.01, 0.5, 0.999, 1.5, -1} {
		e := gaussian(1, 1)
		e.Rate = rate
		if _, err := Epsilon(1e-5, e); err == nil {
			t.Errorf("rate %v: no error", rate)
		}
	}
}

func BenchmarkEpsilon(b *testing.B) {
	for b.Loop() {
		mustEpsilon(b, 1e-5, gaussian(21.43, 33))
	}
}
