package study

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
)

// DraftColumn is what a file shows about a column: its name, and its levels when it looks categorical.
type DraftColumn struct {
	Name   string
	Levels []string // nil: numeric
}

// Draft is what DraftStudy starts from.
type Draft struct {
	Members  []string // hospitals
	Registry string   // "" leaves it open
	Target   string   // column to predict; "" leaves it open
	Columns  []DraftColumn
}

// DraftStudy writes a study.yaml for a person to complete: names, types and levels are filled in, ranges, units
// and every decision are not, because ranges taken from the data are computed from patients and not covered by ε.
// Parse tells what is still open, line by line.
func DraftStudy(d Draft) []byte {
	var b bytes.Buffer
	p := func(format string, a ...any) { fmt.Fprintf(&b, format, a...) }
	members := slices.Clone(d.Members)
	slices.Sort(members)
	p("# A draft: what is empty is for a person to decide. `consilium study check` lists what is still open.\n")
	p("# Unit, typical and plausible come from guidelines or textbooks, with their source: never from the patients' rows.\n")
	p("# typical [low, high] becomes [-1, 1]. Levels were read from the files: compare them with the code book.\n")
	p("version: %s\ntitle:\nconsortium: sha256:%064d\nlead:\n", Version, 0)
	p("members: %s\napprovals: %d\n", flow(members), len(members))
	p("max_patients:            # a hospital, rounded up generously: it is public\n")
	p("valid: {from: , until: }\nethics: {board: , reference: , until: }\n")
	p("data:\n  registry: %s\n  patient: row           # or {column: NAME} where a patient has several rows\n  missing: drop-row\n", d.Registry)
	p("  target: {column: %s, positive: }    # as \"> 0\"\n  features:\n", quoteOrEmpty(d.Target))
	for _, c := range d.Columns {
		switch {
		case c.Name == d.Target:
		case c.Levels != nil:
			p("    %s: {levels: %s}\n", strconv.Quote(c.Name), flow(c.Levels))
		default:
			p("    %s: {unit: , typical: [ ], plausible: [ ], source: }\n", strconv.Quote(c.Name))
		}
	}
	p("model: {kind: logistic, intercept: true, l2: 0, init: zero}\n")
	p("strategy: {name: fedsgd, rounds: 30, learning_rate: , average_last: 15}      # fixed beforehand: choosing by results on patients is not covered by ε\n")
	p("privacy: {unit: patient, neighbours: add-or-remove-one, epsilon: 1, delta: 1e-5, clip: 1, grid_bits: 14, noise: distributed, cohort: , spare: 3, hospitals_per_patient: 1}\n")
	p("aggregation: {mode: masked, word_bits: 32}\n")
	p("deadlines: {away: 5s, ready: 10m, deal: 30s, upload: 10m, vote: 30s, release: 30s}\n")
	p("release: {to: [ ], hospitals: true}\n")
	return b.Bytes()
}

func quoteOrEmpty(s string) string {
	if s == "" {
		return ""
	}
	return strconv.Quote(s)
}
