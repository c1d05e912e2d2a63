package simulation

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
)

// Spread is how a figure varies over runs that differ in split and noise.
type Spread struct {
	Runs            int      `json:"runs"`
	Gap             *Figures `json:"auc_gap"`           // AUC on everybody's held-back patients: pooled less federated
	Accuracy        *Figures `json:"accuracy"`          // federated, on everybody's held-back patients
	MeanOfHospitals *Figures `json:"mean_of_hospitals"` // federated accuracy on each hospital's own, the mean of them
}

// Figures sum up one figure of several runs. StdDev is the sample's, zero for one run.
type Figures struct {
	Median float64 `json:"median"`
	Mean   float64 `json:"mean"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	StdDev float64 `json:"std_dev"`
}

// Repeat runs n simulations with the seeds from o.Seed on, each with fresh noise, and tells each of them
// as it ends. Each is verified like any other; its output folder stays only where o.Out names a folder
// for them, which must not exist. A run that ends short counts with what it released; any other error
// ends all.
func Repeat(ctx context.Context, o Options, n int, each func(i int, s Summary)) (Spread, error) {
	if n < 1 {
		return Spread{}, badInput("repeating %d times: want at least once", n)
	}
	if o.Keep != "" {
		return Spread{}, badInput("repeating: the files of one run can be kept, not those of %d", n)
	}
	parent := o.Out
	if parent == "" {
		dir, err := os.MkdirTemp("", "consilium-repeat-")
		if err != nil {
			return Spread{}, fmt.Errorf("repeating: %w", err)
		}
		defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
		parent = dir
	} else if _, err := os.Lstat(parent); err == nil {
		return Spread{}, badInput("writing the output folders: %s exists already, and nothing is overwritten", parent)
	}
	var all []Summary
	for i := range n {
		run := o
		run.Seed, run.Out = o.Seed+uint64(i), filepath.Join(parent, fmt.Sprintf("%03d", i+1))
		r, err := Run(ctx, run)
		if r == nil || err != nil && !errors.Is(err, ErrShort) {
			return Spread{}, fmt.Errorf("run %d of %d, seed %d: %w", i+1, n, run.Seed, err)
		}
		if o.Out == "" {
			if err := os.RemoveAll(run.Out); err != nil {
				return Spread{}, fmt.Errorf("run %d of %d: %w", i+1, n, err)
			}
			r.Summary.Out = ""
		}
		all = append(all, r.Summary)
		if each != nil {
			each(i, r.Summary)
		}
	}
	return spread(all), nil
}

func spread(all []Summary) Spread {
	return Spread{
		Runs: len(all),
		Gap: figures(all, func(s Summary) *float64 {
			if s.Pooled.AUC == nil || s.Federated.AUC == nil {
				return nil
			}
			gap := *s.Pooled.AUC - *s.Federated.AUC
			return &gap
		}),
		Accuracy:        figures(all, func(s Summary) *float64 { return s.Federated.Accuracy }),
		MeanOfHospitals: figures(all, func(s Summary) *float64 { return s.MeanOfHospitals.Accuracy }),
	}
}

// figures leave out runs in which the figure is not defined, and are nil where it is in none.
func figures(all []Summary, of func(Summary) *float64) *Figures {
	var v []float64
	for _, s := range all {
		if x := of(s); x != nil {
			v = append(v, *x)
		}
	}
	if len(v) == 0 {
		return nil
	}
	slices.Sort(v)
	f := &Figures{Min: v[0], Max: v[len(v)-1], Median: (v[(len(v)-1)/2] + v[len(v)/2]) / 2}
	for _, x := range v {
		f.Mean += x / float64(len(v))
	}
	if len(v) > 1 {
		var squares float64
		for _, x := range v {
			squares += (x - f.Mean) * (x - f.Mean)
		}
		f.StdDev = math.Sqrt(squares / float64(len(v)-1))
	}
	return f
}
