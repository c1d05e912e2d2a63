package dataset

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/consilium-fl/consilium/internal/study"
)

// maxFindings bounds what Check lists one by one.
const maxFindings = 10_000

// Finding is one thing that Check found. Its text names file, line, column and rule, never the value.
type Finding struct {
	File   string
	Line   int    // from 1; 0: the whole file
	Column string // "": the whole row, or the file
	Rule   string // what is wrong
	Advice string // what is safe to do
	Hint   bool   // worth a look; a study can run all the same
	value  string
	cell   bool
}

// String is the finding without the value.
func (f Finding) String() string { return f.text(false) }

// Show is the finding with the cell's value, for a terminal inside the hospital.
func (f Finding) Show() string { return f.text(true) }

func (f Finding) text(show bool) string {
	var b strings.Builder
	b.WriteString(f.File)
	if f.Line > 0 {
		fmt.Fprintf(&b, ":%d", f.Line)
	}
	b.WriteString(": ")
	if f.Column != "" {
		fmt.Fprintf(&b, "column %q: ", f.Column)
	}
	b.WriteString(f.Rule)
	if show && f.cell {
		v := f.value
		if len(v) > 80 {
			v = strings.ToValidUTF8(v[:80], "") + "…"
		}
		fmt.Fprintf(&b, ": %s", strconv.Quote(v))
	}
	if f.Advice != "" {
		fmt.Fprintf(&b, " (%s)", f.Advice)
	}
	return b.String()
}

// Findings are in the order of the file, those about the whole file last.
type Findings []Finding

// Problems are the findings that are no hints.
func (f Findings) Problems() Findings {
	return slices.DeleteFunc(slices.Clone(f), func(x Finding) bool { return x.Hint })
}

// Error lists the problems without values, one a line, so that Problems can be returned as an error.
func (f Findings) Error() string {
	lines := make([]string, 0, len(f))
	for _, x := range f {
		lines = append(lines, x.String())
	}
	return strings.Join(lines, "\n")
}

const (
	adviceCell   = "correct it where it was recorded and export again; a row that stays unreadable is left out by itself"
	adviceRow    = "export the file again as UTF-8 CSV, one line a row; a row that stays unreadable is left out by itself"
	adviceLevel  = "compare the code book of the registry with the study's levels; a row with an unlisted level is left out by itself"
	adviceHeader = "compare the header with the study's columns"
	adviceUnit   = "compare the unit of the registry with the study's"
)

// Check reads a file before approval and reports every cell that cannot be read, what the file as a whole lacks, and
// hints. max is the study's max_patients. The error is that of reading; all else is in the findings.
func Check(r io.Reader, name string, d study.Data, maxPatients int, exclude Exclusion) (Findings, error) {
	k := &checker{name: name}
	if err := k.run(r, d, maxPatients, exclude); err != nil {
		return nil, fmt.Errorf("checking %s: %w", name, err)
	}
	return k.found, nil
}

// CheckFile checks the file at path.
func CheckFile(path string, d study.Data, maxPatients int, exclude Exclusion) (Findings, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("checking %s: %w", filepath.Base(path), err)
	}
	defer f.Close() //nolint:errcheck // only read
	return Check(f, filepath.Base(path), d, maxPatients, exclude)
}

type checker struct {
	name    string
	found   Findings
	dropped int
	rows    int
	empty   map[string]int // cells
	ranges  []ranges       // by feature
}

// ranges counts how the numbers of a feature lie to its plausible range.
type ranges struct{ inside, outside int }

func (k *checker) add(f Finding) {
	f.File = k.name
	if len(k.found) >= maxFindings {
		k.dropped++
		return
	}
	k.found = append(k.found, f)
}

func (k *checker) run(r io.Reader, d study.Data, maxPatients int, exclude Exclusion) error {
	l := newLines(r)
	header, err := l.header()
	if err != nil {
		k.add(Finding{Line: min(1, l.line), Rule: err.Error(), Advice: adviceHeader})
		return nil
	}
	c, err := lay(header, d, exclude)
	if err != nil {
		for _, e := range strings.Split(err.Error(), "\n") {
			k.add(Finding{Line: 1, Rule: e, Advice: adviceHeader})
		}
		return nil
	}
	k.empty, k.ranges = map[string]int{}, make([]ranges, len(d.Features))
	usable, patients := 0, map[string]bool{}
	for {
		line, damage, err := l.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		k.rows++
		row := c.read(line, damage, nil, nil)
		if row.excluded {
			continue
		}
		k.row(l.line, &c, row)
		if len(row.problems) == 0 {
			usable++
			patients[row.patient] = true
		}
	}
	if c.patient >= 0 {
		usable = len(patients)
	}
	k.whole(d, usable, maxPatients)
	return nil
}

func (k *checker) row(line int, c *contract, r row) {
	for _, p := range r.problems {
		switch {
		case errors.Is(p.rule, errMissing) && p.column != "":
			k.empty[p.column]++ // the study says what happens to them
		case p.column == "":
			k.add(Finding{Line: line, Rule: p.rule.Error(), Advice: adviceRow})
		case errors.Is(p.rule, errUnlisted):
			k.add(Finding{Line: line, Column: p.column, Rule: p.rule.Error(), Advice: adviceLevel, value: p.cell, cell: true})
		default:
			k.add(Finding{Line: line, Column: p.column, Rule: p.rule.Error(), Advice: adviceCell, value: p.cell, cell: true})
		}
	}
	if len(r.problems) > 0 && r.problems[0].column == "" {
		return
	}
	for i, f := range c.data.Features {
		if f.Levels != nil {
			continue
		}
		v, err := number(r.fields[c.features[i]])
		switch {
		case err != nil:
		case v < f.Plausible[0] || v > f.Plausible[1]:
			k.ranges[i].outside++
		default:
			k.ranges[i].inside++
		}
	}
}

// whole adds what concerns the file.
func (k *checker) whole(d study.Data, patients, maxPatients int) {
	if k.dropped > 0 {
		k.found = append(k.found, Finding{File: k.name, Rule: fmt.Sprintf("%d more findings of this kind are not listed", k.dropped)})
	}
	for i, f := range d.Features {
		r := k.ranges[i]
		switch {
		case r.outside > r.inside:
			k.wholeFile(Finding{Column: f.Column, Rule: fmt.Sprintf("more than half of the numbers are outside the plausible range [%v, %v] %s: another unit?", f.Plausible[0], f.Plausible[1], f.Unit), Advice: adviceUnit})
		case r.outside > 0:
			k.wholeFile(Finding{Column: f.Column, Rule: fmt.Sprintf("some numbers are outside the plausible range [%v, %v] %s", f.Plausible[0], f.Plausible[1], f.Unit), Advice: "they are cut, not lost", Hint: true})
		}
	}
	for _, column := range names(d) {
		if k.empty[column] > 0 {
			k.wholeFile(Finding{Column: column, Rule: "some cells are empty", Advice: "the study leaves such rows out by itself", Hint: true})
		}
	}
	switch {
	case patients == 0:
		k.wholeFile(Finding{Rule: "no row that the study can use", Advice: "compare the file with the study's columns; an empty hospital would send nothing but its noise"})
	case patients > maxPatients:
		k.wholeFile(Finding{Rule: "more patients than the study's max_patients", Advice: "ask the lead for a study with a higher bound; sums above it would be cut"})
	}
}

func (k *checker) wholeFile(f Finding) {
	f.File = k.name
	k.found = append(k.found, f)
}

// names are the columns that the study looks at.
func names(d study.Data) []string {
	var n []string
	for _, f := range d.Features {
		n = append(n, f.Column)
	}
	n = append(n, d.Target.Column)
	if d.Patient != "" {
		n = append(n, d.Patient)
	}
	return n
}
