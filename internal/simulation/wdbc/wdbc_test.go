package wdbc

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/dp"
	"github.com/consilium-fl/consilium/internal/simulation/newton"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/node/dataset"
	"github.com/consilium-fl/consilium/node/train"
)

func defaultStudy(t *testing.T) *study.Study {
	t.Helper()
	at := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
	s, err := study.Parse(Study([32]byte{1}, "r.lead", Hospitals, at, at.AddDate(1, 0, 0)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStudy(t *testing.T) {
	s := defaultStudy(t)
	if s.Dim() != 31 || s.Consortium != [32]byte{1} || !slices.Equal(s.Members, Hospitals) || s.Aggregation.Minimum != 4 || s.Approvals != 5 {
		t.Errorf("got %+v", s)
	}
	if _, err := study.Parse(template); err != nil {
		t.Error(err)
	}
	found, err := dataset.Check(bytes.NewReader(CSV), "breast_cancer.csv", s.Data, s.MaxPatients, dataset.Exclusion{})
	if err != nil || len(found) > 0 {
		t.Errorf("%v %v", found, err)
	}
	rows, labels := load(t, bytes.NewReader(CSV), s.Data)
	positive := 0
	for _, l := range labels {
		positive += int(l)
	}
	if len(rows) != 569 || positive != 212 {
		t.Errorf("%d patients, %d of them malignant, want 569 and 212", len(rows), positive)
	}
}

// The ranges are what the study file says they are: fractions of the documented minimum and maximum, to two digits.
func TestRangesAreAsTheFileSays(t *testing.T) {
	fractions := map[string][2]float64{"mean": {.15, .50}, "se": {.05, .25}, "worst": {.10, .45}}
	lines := strings.Split(strings.TrimSpace(string(CSV)), "\n")
	header := strings.Split(lines[0], ",")
	for _, f := range defaultStudy(t).Data.Features {
		column := slices.Index(header, f.Column)
		lo, hi := math.Inf(1), math.Inf(-1)
		for _, l := range lines[1:] {
			v, err := strconv.ParseFloat(strings.Split(l, ",")[column], 64)
			if err != nil {
				t.Fatal(err)
			}
			lo, hi = min(lo, v), max(hi, v)
		}
		for i, fraction := range fractions[f.Column[strings.LastIndex(f.Column, "_")+1:]] {
			want, err := strconv.ParseFloat(fmt.Sprintf("%.1e", lo+fraction*(hi-lo)), 64)
			if err != nil || f.Typical[i] != want {
				t.Errorf("%s: typical[%d] is %v, want %v", f.Column, i, f.Typical[i], want)
			}
		}
	}
}

func load(t *testing.T, r *bytes.Reader, d study.Data) (rows [][]float64, labels []float64) {
	t.Helper()
	ds, _, err := dataset.Load(r, "data", d, dataset.Exclusion{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range ds.Patients() {
		x, y := ds.Patient(i)
		rows, labels = append(rows, x...), append(labels, y...)
	}
	return rows, labels
}

// clippedSGD is the study's training without noise: the sum of clipped gradients on the integer grid, the server's step.
func clippedSGD(s *study.Study, rows [][]float64, labels []float64) []float64 {
	w := make([]float64, s.Dim())
	var iterates [][]float64
	grid := dp.Grid{Clip: s.Privacy.Clip, Bits: s.Privacy.GridBits}
	for range s.Strategy.Rounds {
		sum, g := make([]int64, len(w)), make([]float64, len(w))
		for i, x := range rows {
			e := train.Predict(w, x) - labels[i]
			for j, v := range x {
				g[j] = e * v
			}
			grid.AddClipped(sum, g)
		}
		w = s.Next(w, sum)
		iterates = append(iterates, w)
	}
	return s.Released(iterates)
}

func auc(w []float64, rows [][]float64, labels []float64) float64 {
	var p, n []float64
	for i, x := range rows {
		if labels[i] > 0 {
			p = append(p, train.Predict(w, x))
		} else {
			n = append(n, train.Predict(w, x))
		}
	}
	wins := 0.
	for _, a := range p {
		for _, b := range n {
			switch {
			case a > b:
				wins++
			case a == b:
				wins += .5
			}
		}
	}
	return wins / float64(len(p)*len(n))
}

func accuracy(w []float64, rows [][]float64, labels []float64) float64 {
	right := 0.
	for i, x := range rows {
		if (train.Predict(w, x) > .5) == (labels[i] > 0) {
			right++
		}
	}
	return right / float64(len(rows))
}

// The hyper-parameters reach nearly the converged model when nothing is noised: what ε then costs is measured by the
// simulation.
func TestSettingsReachTheConvergedModel(t *testing.T) {
	s := defaultStudy(t)
	rows, labels := load(t, bytes.NewReader(CSV), s.Data)
	gap, acc := compare(t, s, rows, labels, 0.001)
	t.Logf("WDBC, 20 splits: mean AUC below converged %.4f, accuracy %.4f", gap, acc)
	if gap > 0.005 || acc < 0.95 {
		t.Errorf("AUC %.4f below converged, accuracy %.4f, want at most 0.005 and at least 0.95", gap, acc)
	}
}

func TestHeartSettingsReachTheConvergedModel(t *testing.T) {
	shared := os.Getenv("CONSILIUM_SHARED")
	if shared == "" {
		shared = filepath.Join("..", "..", "..", "..", "shared")
	}
	raw, err := os.ReadFile(filepath.Join("..", "..", "..", "deploy", "samples", "heart", "study.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := study.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	var rows [][]float64
	var labels []float64
	for _, m := range s.Members {
		b, err := os.ReadFile(filepath.Join(shared, "data", "heart-disease", m+".csv"))
		if err != nil {
			t.Skipf("the heart data are absent, set CONSILIUM_SHARED: %v", err)
		}
		x, y := load(t, bytes.NewReader(b), s.Data)
		rows, labels = append(rows, x...), append(labels, y...)
	}
	gap, acc := compare(t, s, rows, labels, 0.01)
	t.Logf("hearts, 20 splits: mean AUC below converged %.4f, accuracy %.4f", gap, acc)
	if gap > 0.006 || acc < 0.78 {
		t.Errorf("AUC %.4f below converged, accuracy %.4f, want at most 0.006 and at least 0.78", gap, acc)
	}
}

// compare trains on two thirds and scores on the rest, 20 times.
func compare(t *testing.T, s *study.Study, rows [][]float64, labels []float64, l2 float64) (gap, acc float64) {
	t.Helper()
	const splits = 20
	for seed := range uint64(splits) {
		var trainX, testX [][]float64
		var trainY, testY []float64
		for k, i := range rand.New(rand.NewPCG(seed, 1)).Perm(len(rows)) {
			if k%3 == 0 {
				testX, testY = append(testX, rows[i]), append(testY, labels[i])
			} else {
				trainX, trainY = append(trainX, rows[i]), append(trainY, labels[i])
			}
		}
		w := clippedSGD(s, trainX, trainY)
		best, err := newton.Converged(trainX, trainY, l2, true)
		if err != nil {
			t.Fatal(err)
		}
		gap += (auc(best, testX, testY) - auc(w, testX, testY)) / splits
		acc += accuracy(w, testX, testY) / splits
	}
	return gap, acc
}
