// Bars holds one run of the main job to its bars.
//
//	consilium simulate --json | bars wdbc
//	consilium simulate --study … --data … --json | bars hearts
//
// It reads a consilium.summary/v1, prints each bar with its figure, and exits with 1 when one is missed.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
)

// score has null where a figure is not defined.
type score struct {
	AUC      *float64 `json:"auc"`
	Accuracy *float64 `json:"accuracy"`
}

type summary struct {
	Version         string  `json:"version"`
	Simulated       bool    `json:"simulated"`
	Seconds         float64 `json:"seconds"`
	Federated       score   `json:"federated"`
	Pooled          score   `json:"pooled"`
	MeanOfHospitals score   `json:"mean_of_hospitals"`
	Privacy         struct {
		Epsilon float64 `json:"epsilon"`
		Budget  float64 `json:"epsilon_budget"`
		Charges int     `json:"charges"`
	} `json:"privacy"`
	Rounds []struct {
		Outcome string `json:"outcome"`
	} `json:"rounds"`
}

// bar is met when got is at least least. Comparisons with NaN are not.
type bar struct {
	name       string
	got, least float64
}

func (b bar) met() bool { return b.got >= b.least }

// bars of one run; those over twenty seeds are in docs/benchmarks.md.
var bars = map[string]func(summary) []bar{
	"wdbc": func(s summary) []bar {
		return []bar{
			{"AUC, against pooled - 0.04", value(s.Federated.AUC), value(s.Pooled.AUC) - 0.04},
			{"accuracy", value(s.Federated.Accuracy), 0.88},
		}
	},
	"hearts": func(s summary) []bar {
		return []bar{
			{"mean accuracy of the four hospitals", value(s.MeanOfHospitals.Accuracy), 0.72},
			{"AUC, against pooled - 0.03", value(s.Federated.AUC), value(s.Pooled.AUC) - 0.03},
			{"AUC, not above pooled + 0.03", -value(s.Federated.AUC), -value(s.Pooled.AUC) - 0.03},
		}
	},
}

func value(f *float64) float64 {
	if f == nil {
		return math.NaN()
	}
	return *f
}

func main() {
	if len(os.Args) != 2 || bars[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: bars {wdbc,hearts} < summary.json")
		os.Exit(2)
	}
	ok, err := run(os.Args[1], os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bars:", err)
		os.Exit(1)
	}
	if !ok {
		os.Exit(1)
	}
}

func run(job string, in io.Reader, out io.Writer) (ok bool, err error) {
	var s summary
	if err := json.NewDecoder(in).Decode(&s); err != nil {
		return false, fmt.Errorf("reading a summary: %w", err)
	}
	if s.Version != "consilium.summary/v1" {
		return false, fmt.Errorf("reading a summary: version %q, want %q", s.Version, "consilium.summary/v1")
	}
	closed := 0
	for _, r := range s.Rounds {
		if r.Outcome == "closed" {
			closed++
		}
	}
	all := append(bars[job](s),
		bar{"rounds closed", float64(closed), 1},
		bar{"ε, within its budget", s.Privacy.Budget, s.Privacy.Epsilon},
		bar{"charges, one a closed round", float64(s.Privacy.Charges), float64(closed)},
	)
	ok = true
	for _, b := range all {
		word := "met"
		if !b.met() {
			word, ok = "MISSED", false
		}
		fmt.Fprintf(out, "%-8s %s: %.4g, bar %.4g\n", word, b.name, math.Abs(b.got), math.Abs(b.least))
	}
	fmt.Fprintf(out, "%s in %.1f s\n", job, s.Seconds)
	return ok, nil
}
