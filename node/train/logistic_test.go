package train

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/node/dataset"
)

var contract = study.Data{
	Patient: "pid", Missing: "drop-row", Target: study.Target{Column: "y", Op: ">", Value: 0},
	Features: []study.Feature{{Column: "a", Typical: [2]float64{-1, 1}}, {Column: "b", Typical: [2]float64{-1, 1}}},
}

func load(t *testing.T, csv string) *dataset.Dataset {
	t.Helper()
	d, _, err := dataset.Load(strings.NewReader("pid,a,b,y\n"+csv), "h.csv", contract, dataset.Exclusion{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func collect(t *testing.T, l *Logistic, w []float64) [][]float64 {
	t.Helper()
	var out [][]float64
	for g, err := range l.Gradients(t.Context(), w) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, slices.Clone(g))
	}
	return out
}

// The gradient is that of the log-loss: central differences agree.
func TestGradientIsOfTheLoss(t *testing.T) {
	l := New(load(t, "p,0.5,-1,1\nq,0,1,0\np,2,0.25,0\n"), study.Model{Intercept: true})
	w := []float64{0.3, -0.7, 0.1}
	got := collect(t, l, w)
	if len(got) != 2 {
		t.Fatalf("%d gradients for two patients", len(got))
	}
	loss := func(w []float64) float64 {
		return -math.Log(Predict(w, []float64{0.5, -1, 1})) - math.Log(1-Predict(w, []float64{2, 0.25, 1}))
	}
	for i := range w {
		const h = 1e-6
		up, down := slices.Clone(w), slices.Clone(w)
		up[i] += h
		down[i] -= h
		if want := (loss(up) - loss(down)) / (2 * h); math.Abs(got[0][i]-want) > 1e-8 {
			t.Errorf("coordinate %d: %v, want %v", i, got[0][i], want)
		}
	}
}

// A patient's gradient is the same bits whoever else is in the hospital.
func TestGradientDependsOnThePatientAlone(t *testing.T) {
	const patient = "p,0.5,-1,1\np,2,0.25,0\n"
	w := []float64{0.3, -0.7, 0.1}
	alone := collect(t, New(load(t, patient), study.Model{Intercept: true}), w)[0]
	others := patient
	for i := range 100 {
		others = fmt.Sprintf("x%d,%d,1e300,1\n", i, i%7) + others
	}
	got := collect(t, New(load(t, others), study.Model{Intercept: true}), w)
	if last := got[len(got)-1]; !slices.Equal(last, alone) {
		t.Errorf("%v among others, %v alone", last, alone)
	}
}

func TestWithoutIntercept(t *testing.T) {
	l := New(load(t, "p,0.5,-1,1\n"), study.Model{})
	if g := collect(t, l, []float64{0, 0}); l.Dim() != 2 || !slices.Equal(g[0], []float64{-0.25, 0.5}) {
		t.Errorf("dim %d, %v", l.Dim(), g)
	}
}

func TestGradientsNeverCrash(t *testing.T) {
	l := New(load(t, "p,1,1,1\nq,1,1,0\n"), study.Model{Intercept: true})
	n := 0
	for g, err := range l.Gradients(t.Context(), []float64{1}) {
		if err == nil || g != nil {
			t.Errorf("got %v, %v for a model of one weight", g, err)
		}
		n++
	}
	if n != 2 {
		t.Errorf("%d errors, want one a patient", n)
	}
	for _, w := range [][]float64{{1e308, 1e308, 1e308}, {math.NaN(), 0, 0}, {math.Inf(1), math.Inf(-1), 0}} {
		collect(t, l, w) // whatever it is: the grid takes what is not finite as zero
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n = 0
	for _, err := range l.Gradients(ctx, make([]float64, 3)) {
		if err != nil {
			t.Fatal(err)
		}
		n++
		cancel()
	}
	if n != 1 {
		t.Errorf("%d gradients after the context ended, want none", n-1)
	}
	if got := len(collect(t, New(load(t, ""), study.Model{Intercept: true}), make([]float64, 3))); got != 0 {
		t.Errorf("%d gradients of an empty hospital", got)
	}
}

func TestPredictAtTheEnds(t *testing.T) {
	for z, want := range map[float64]float64{0: 0.5, 1e4: 1, -1e4: 0} {
		if got := Predict([]float64{z}, []float64{1}); got != want {
			t.Errorf("%v at %v, want %v", got, z, want)
		}
	}
}

func BenchmarkGradients(b *testing.B) {
	var csv strings.Builder
	csv.WriteString("pid,a,b,y\n")
	for i := range 500 {
		fmt.Fprintf(&csv, "p%d,0.1,0.2,%d\n", i, i%2)
	}
	d, _, err := dataset.Load(strings.NewReader(csv.String()), "h.csv", contract, dataset.Exclusion{})
	if err != nil {
		b.Fatal(err)
	}
	l := New(d, study.Model{Intercept: true})
	w := make([]float64, 3)
	for b.Loop() {
		for _, err := range l.Gradients(b.Context(), w) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}
