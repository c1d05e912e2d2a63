// Package dataset turns a hospital's CSV file into vectors by a study's data contract.
//
//	d, report, err := dataset.LoadFile("/data/heart.csv", s.Data, exclude)
//	for i := range d.Patients() {
//		rows, labels := d.Patient(i)
//		…
//	}
//
// Rows decide nothing: after approval a row that cannot be read is left out and counted, and the report stays in
// the hospital. Only the header can fail the file. Check, before approval, reports every cell that cannot be read,
// by file, line, column and rule, never by its value.
package dataset

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/consilium-fl/consilium/internal/study"
)

// Exclusion lists values of an identifier column: patients who opted out. The zero value excludes nobody.
type Exclusion struct {
	Column string
	Values map[string]bool
}

// ReadExclusion reads one value a line; spaces around it and empty lines do not count.
func ReadExclusion(r io.Reader, column string) (Exclusion, error) {
	e := Exclusion{Column: column, Values: map[string]bool{}}
	b, err := io.ReadAll(io.LimitReader(r, MaxFile>>4))
	if err != nil {
		return Exclusion{}, fmt.Errorf("reading the values of %q to exclude: %w", column, err)
	}
	for line := range strings.Lines(strings.TrimPrefix(string(b), "\ufeff")) {
		if v := strings.TrimSpace(line); v != "" {
			e.Values[v] = true
		}
	}
	return e, nil
}

// ReadExclusionFile reads path; without a column nothing is read and nobody excluded.
func ReadExclusionFile(path, column string) (Exclusion, error) {
	if column == "" {
		return Exclusion{}, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return Exclusion{}, fmt.Errorf("reading the values of %q to exclude: %w", column, err)
	}
	defer f.Close() //nolint:errcheck // only read
	return ReadExclusion(f, column)
}

// Report counts what Load left out. It is computed from patients and never leaves the hospital.
type Report struct {
	Lines      int // below the header
	Rows       int // used
	Patients   int // used
	Damaged    int // rows: UTF-8, quotes, field count, length, no end
	Missing    int // rows with an empty cell
	Unreadable int // rows with a cell that is no number or no listed level
	Excluded   int // rows of patients who opted out
	Cut        int // cells cut at ±3
}

// Dataset is the patients of one hospital. Its size is a fact about patients: local only.
type Dataset struct {
	dim     int
	rows    [][]float64
	labels  []float64
	patient [][]int // indices of each patient's rows; nil: row i is patient i
}

// Dim is the length of a row: the study's columns and a last 1 for the intercept.
func (d *Dataset) Dim() int { return d.dim }

// Patients is how many patients there are.
func (d *Dataset) Patients() int {
	if d.patient == nil {
		return len(d.rows)
	}
	return len(d.patient)
}

// Patient returns the rows of patient i, each of Dim values, and their labels, 1 where the target is positive. The
// last value of a row is 1: a model without an intercept takes the row without it. The caller changes nothing.
func (d *Dataset) Patient(i int) (rows [][]float64, labels []float64) {
	if d.patient == nil {
		return d.rows[i : i+1], d.labels[i : i+1]
	}
	for _, r := range d.patient[i] {
		rows, labels = append(rows, d.rows[r]), append(labels, d.labels[r])
	}
	return rows, labels
}

// contract is a study's data contract laid over the header of one file.
type contract struct {
	data     study.Data
	fields   int
	target   int
	features []int
	patient  int // -1: one row is one patient
	exclude  int // -1: nobody
	excluded map[string]bool
}

func lay(header []string, d study.Data, e Exclusion) (contract, error) {
	c := contract{data: d, fields: len(header), patient: -1, exclude: -1, excluded: e.Values}
	var errs []error
	at := func(column string) int {
		i, err := find(header, column)
		if err != nil {
			errs = append(errs, err)
		}
		return i
	}
	for _, f := range d.Features {
		c.features = append(c.features, at(f.Column))
	}
	c.target = at(d.Target.Column)
	if d.Patient != "" {
		c.patient = at(d.Patient)
	}
	if e.Column != "" {
		c.exclude = at(e.Column)
	}
	return c, errors.Join(errs...)
}

// problem is one cell or row that breaks a rule.
type problem struct {
	column string // "" where the whole row is damaged
	cell   string
	rule   error
}

// row is what one line became.
type row struct {
	x        []float64
	label    float64
	patient  string
	excluded bool
	cut      int
	problems []problem
	fields   []string
}

// read turns one line into a row; x is where its vector goes. It looks at every column that the study names, so that Check
// can tell of all; what other columns hold does not matter.
func (c *contract) read(line []byte, damage error, x []float64, fields []string) row {
	r := row{x: x[:0], fields: fields}
	if damage == nil {
		r.fields, damage = split(line, fields)
	}
	if damage == nil && len(r.fields) != c.fields {
		damage = errFields
	}
	if damage != nil {
		r.problems = []problem{{rule: damage}}
		return r
	}
	if c.exclude >= 0 && c.excluded[trim(r.fields[c.exclude])] {
		r.excluded = true
		return r
	}
	for i, f := range c.data.Features {
		c.feature(&r, f, r.fields[c.features[i]])
	}
	if v, err := number(r.fields[c.target]); err != nil {
		r.fail(c.data.Target.Column, r.fields[c.target], err)
	} else if c.data.Target.Positive(v) {
		r.label = 1
	}
	if c.patient >= 0 {
		if r.patient = trim(r.fields[c.patient]); r.patient == "" {
			r.fail(c.data.Patient, "", errMissing)
		}
	}
	r.x = append(r.x, 1)
	return r
}

func (c *contract) feature(r *row, f study.Feature, cell string) {
	if f.Levels != nil {
		l, err := level(cell, f.Levels)
		if err != nil {
			r.fail(f.Column, cell, err)
		}
		for i := 1; i < len(f.Levels); i++ {
			code := -1.
			if i == l {
				code = 1
			}
			r.x = append(r.x, code)
		}
		return
	}
	v, err := number(cell)
	if err != nil {
		r.fail(f.Column, cell, err)
	}
	z, cut := scale(v, f.Typical)
	if cut {
		r.cut++
	}
	r.x = append(r.x, z)
}

func (r *row) fail(column, cell string, rule error) {
	r.problems = append(r.problems, problem{column, cell, rule})
}

// lost counts why a row is left out, by its first reason.
func (r *Report) lost(p []problem) {
	switch {
	case p[0].column == "":
		r.Damaged++
	case slices.ContainsFunc(p, func(p problem) bool { return !errors.Is(p.rule, errMissing) }):
		r.Unreadable++
	default:
		r.Missing++
	}
}

// Load reads the rows that can be read. The error is the file's (its header, its size, reading it) and never a row's.
// name is how errors call the file.
func Load(r io.Reader, name string, d study.Data, exclude Exclusion) (*Dataset, Report, error) {
	ds, report, err := load(r, d, exclude)
	if err != nil {
		return nil, Report{}, fmt.Errorf("reading %s: %w", name, err)
	}
	return ds, report, nil
}

func load(r io.Reader, d study.Data, exclude Exclusion) (*Dataset, Report, error) {
	l := newLines(r)
	header, err := l.header()
	if err != nil {
		return nil, Report{}, err
	}
	c, err := lay(header, d, exclude)
	if err != nil {
		return nil, Report{}, err
	}
	ds := &Dataset{dim: d.Columns() + 1}
	if c.patient >= 0 {
		ds.patient = [][]int{}
	}
	var report Report
	known := map[string]int{}
	scratch, fields := make([]float64, 0, ds.dim), []string(nil)
	for {
		line, damage, err := l.next()
		if errors.Is(err, io.EOF) {
			report.Rows, report.Patients = len(ds.rows), ds.Patients()
			return ds, report, nil
		}
		if err != nil {
			return nil, Report{}, err
		}
		if report.Lines++; report.Lines > MaxRows {
			return nil, Report{}, fmt.Errorf("more than %d rows", MaxRows)
		}
		row := c.read(line, damage, scratch, fields)
		fields = row.fields
		switch {
		case row.excluded:
			report.Excluded++
		case len(row.problems) > 0:
			report.lost(row.problems)
		default:
			report.Cut += row.cut
			ds.add(row, known)
		}
	}
}

func (d *Dataset) add(r row, known map[string]int) {
	i := len(d.rows)
	d.rows, d.labels = append(d.rows, slices.Clone(r.x)), append(d.labels, r.label)
	if d.patient == nil {
		return
	}
	p, ok := known[r.patient]
	if !ok {
		p = len(d.patient)
		known[strings.Clone(r.patient)] = p // a substring would keep the whole line
		d.patient = append(d.patient, nil)
	}
	d.patient[p] = append(d.patient[p], i)
}

// LoadFile loads the file at path.
func LoadFile(path string, d study.Data, exclude Exclusion) (*Dataset, Report, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, Report{}, fmt.Errorf("reading %s: %w", filepath.Base(path), err)
	}
	defer f.Close() //nolint:errcheck // only read
	return Load(f, filepath.Base(path), d, exclude)
}
