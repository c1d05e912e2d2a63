package study

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Data is the data contract: what every hospital's CSV holds and how a row becomes a vector.
type Data struct {
	Registry string
	Patient  string // "": one row is one patient; else the column that names the patient
	Missing  string // drop-row: a row with an empty cell in a column named here is left out
	Target   Target
	Features []Feature // in the order of study.yaml
}

// Target is the column to predict.
type Target struct {
	Column string
	Op     string // one of > >= < <= == !=
	Value  float64
}

// Positive says whether a cell's value is the positive class.
func (t Target) Positive(v float64) bool {
	switch t.Op {
	case ">":
		return v > t.Value
	case ">=":
		return v >= t.Value
	case "<":
		return v < t.Value
	case "<=":
		return v <= t.Value
	case "==":
		return v == t.Value
	default:
		return v != t.Value
	}
}

// Feature is one column: numeric with ranges, or categorical with levels.
type Feature struct {
	Column    string
	Unit      string
	Typical   [2]float64 // becomes [-1, 1]
	Plausible [2]float64 // outside of it more often than inside hints at the unit
	Source    string     // of the ranges
	Levels    []string   // nil for a numeric feature
}

// Columns is the number of vector columns: one a numeric feature, one a level after the first. The
// intercept is not among them.
func (d Data) Columns() int {
	n := 0
	for _, f := range d.Features {
		n += max(1, len(f.Levels)-1)
	}
	return n
}

// ColumnNames names the vector columns: "age", "cp=2".
func (d Data) ColumnNames() []string {
	var names []string
	for _, f := range d.Features {
		if f.Levels == nil {
			names = append(names, f.Column)
			continue
		}
		for _, l := range f.Levels[1:] {
			names = append(names, f.Column+"="+l)
		}
	}
	return names
}

const (
	maxFeatures = 4096
	maxLevels   = 256
)

var (
	columnForm   = regexp.MustCompile(`^[^\s,"'#]([^,"]{0,62}[^\s,"])?$`)
	wantColumn   = "the name of a column: at most 64 printable characters, no comma or quote"
	positiveForm = regexp.MustCompile(`^(>=|<=|==|!=|>|<) (-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)$`)
)

func isColumn(s string) bool { return columnForm.MatchString(s) && printable(s) }

func parseData(parent object) Data {
	o := parent.object("data", true)
	d := Data{
		Registry: o.match("registry", labelForm, wantLabel),
		Patient:  parsePatient(o),
		Missing:  o.choice("missing", "drop-row"),
		Target:   parseTarget(o),
	}
	features := o.object("features", true)
	for _, name := range features.keys {
		d.Features = append(d.Features, parseFeature(features, name, d))
	}
	features.done()
	if n := len(d.Features); features.fields != nil && (n < 1 || n > maxFeatures) {
		o.bad("features", strconv.Itoa(n), fmt.Sprintf("1 to %d", maxFeatures))
	}
	o.done()
	return d
}

// parsePatient reads `row` or {column: NAME}.
func parsePatient(parent object) string {
	want := "row, or {column: NAME} where a patient has several rows"
	n := parent.get("patient", true, want)
	switch {
	case n == nil:
		return ""
	case n.Value == "row":
		return ""
	case len(n.Content) == 0:
		parent.bad("patient", describe(n), want)
		return ""
	}
	o := parent.object("patient", true)
	c := o.column()
	o.done()
	return c
}

func (o object) column() string {
	c := o.text("column", true, 64)
	if c != "" && !isColumn(c) {
		o.bad("column", quote(c), wantColumn)
	}
	return c
}

func parseTarget(parent object) Target {
	o := parent.object("target", true)
	t := Target{Column: o.column()}
	p := o.match("positive", positiveForm, `a comparison such as "> 0"`)
	if m := positiveForm.FindStringSubmatch(p); m != nil {
		v, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			o.bad("positive", quote(p), "a finite number")
		}
		t.Op, t.Value = m[1], v
	}
	o.done()
	return t
}

func parseFeature(features object, name string, d Data) Feature {
	switch {
	case !isColumn(name):
		features.d.add(features.places[name], features.path, quote(name)+" as a column", wantColumn)
	case name == d.Target.Column:
		features.d.add(features.places[name], features.sub(name), "the target column", "another one")
	case name == d.Patient:
		features.d.add(features.places[name], features.sub(name), "the patient column", "another one")
	}
	o := features.object(name, true)
	f := Feature{Column: name}
	if o.has("levels") {
		f.Levels = parseLevels(o)
	} else {
		f.Unit, f.Typical, f.Plausible, f.Source = o.text("unit", true, 40), o.interval("typical"), o.interval("plausible"), o.text("source", true, 400)
		if f.Plausible != [2]float64{} && (f.Typical[0] < f.Plausible[0] || f.Typical[1] > f.Plausible[1]) {
			o.bad("plausible", fmt.Sprintf("[%v, %v]", f.Plausible[0], f.Plausible[1]), fmt.Sprintf("a range around typical, [%v, %v]", f.Typical[0], f.Typical[1]))
		}
	}
	o.done()
	return f
}

func parseLevels(o object) []string {
	var seen []string
	levels := o.list("levels", true, "a list of levels", func(text string) string {
		c := CanonicalLevel(text)
		switch {
		case text == "" || len(text) > 64 || !printable(text) || strings.TrimSpace(text) != text:
			return "a level: 1 to 64 printable characters"
		case slices.Contains(seen, c):
			return "each level once"
		}
		seen = append(seen, c)
		return ""
	})
	if n := len(levels); n < 2 || n > maxLevels {
		o.bad("levels", strconv.Itoa(n), fmt.Sprintf("2 to %d different levels", maxLevels))
		return []string{"", ""}
	}
	for i, l := range levels {
		levels[i] = CanonicalLevel(l)
	}
	return levels
}

var levelNumber = regexp.MustCompile(`^[-+]?[0-9]+(\.[0-9]+)?$`)

// CanonicalLevel is the text that stands for a level: 1, 1.0 and +1 are the same one, as programs that
// write CSV do not agree on it; other text stands for itself.
func CanonicalLevel(text string) string {
	if !levelNumber.MatchString(text) {
		return text
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return text
	}
	if v == 0 {
		return "0" // -0 too
	}
	return strconv.FormatFloat(v, 'f', -1, 64)
}
