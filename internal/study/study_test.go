package study

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSamples(t *testing.T) {
	c, err := ParseConsortium(sample(t, "consortium.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := Parse(heart(t, c))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Check(c, now); err != nil {
		t.Fatal(err)
	}
	if s.Dim() != 14 || s.Data.Columns() != 13 || s.Aggregation.Colluding != 1 || !s.Running(now) {
		t.Errorf("dim %d, columns %d, colluding %d", s.Dim(), s.Data.Columns(), s.Aggregation.Colluding)
	}
	want := []string{"age", "sex=1", "cp=2", "cp=3", "cp=4", "trestbps", "chol", "fbs=1", "restecg=1", "restecg=2", "thalach", "exang=1", "oldpeak"}
	if diff := cmp.Diff(want, s.Data.ColumnNames()); diff != "" {
		t.Error(diff)
	}
}

// Each mistake is found at its place. The text after the arrow is searched in the changed file for the place.
func TestProblems(t *testing.T) {
	c := testConsortium(t, four...)
	for _, tt := range []struct{ name, old, new, at, field, want string }{
		{"unknown key", "spare: 3", "spare: 3, spair: 3", "spair", "privacy.spair", `unknown key "spair"`},
		{"duplicate key", "lead: r.lead", "lead: r.lead\nlead: r.lead", "lead: r.lead\nmembers", "lead", "twice"},
		{"duplicate feature", "    sex:      {levels: [0, 1]}", "    age:      {levels: [0, 1]}", "age:      {levels", "data.features.age", "twice"},
		{"missing key", "title: Coronary disease from ten clinical features\n", "", "version", "title", "got nothing"},
		{"null", "title: Coronary disease from ten clinical features", "title: ~", "~", "title", "want one line"},
		{"control characters", "title: Coronary disease from ten clinical features", `title: "a\e[2Jb"`, `"a\e`, "title", "one line of text"},
		{"version", "consilium.study/v1", "consilium.study/v2", "consilium.study/v2", "version", `got "consilium.study/v2"`},
		{"digest", "consortium: sha256:", "consortium: sha512:", "sha512", "consortium", "sha256: and 64"},
		{"two members", "members: [cleveland, hungarian, switzerland, va]", "members: [cleveland, va]", "[cleveland, va]", "members", "got 2 hospitals, want 3"},
		{"member twice", "members: [cleveland, hungarian, switzerland, va]", "members: [cleveland, hungarian, va, va]", "va]\nappr", "members[3]", "twice"},
		{"upper case", "[cleveland, hungarian", "[Cleveland, hungarian", "Cleveland", "members[0]", "lower-case"},
		{"path in a name", "[cleveland, hungarian", "[../cleveland, hungarian", "../cleveland", "members[0]", "lower-case"},
		{"approvals", "approvals: 3", "approvals: 5", "5\nmax", "approvals", "from 3 to 4"},
		{"too few approvals", "approvals: 3", "approvals: 2", "2\nmax", "approvals", "from 3 to 4"},
		{"quoted number", "approvals: 3", `approvals: "3"`, `"3"`, "approvals", "whole number"},
		{"underscore", "max_patients: 1000", "max_patients: 1_000", "1_000", "max_patients", "whole number"},
		{"octal", "max_patients: 1000", "max_patients: 0o17", "0o17", "max_patients", "whole number"},
		{"epsilon 0", "epsilon: 1,", "epsilon: 0,", "0, delta", "privacy.epsilon", "above 0"},
		{"epsilon negative", "epsilon: 1,", "epsilon: -1,", "-1, delta", "privacy.epsilon", "above 0"},
		{"epsilon nan", "epsilon: 1,", "epsilon: .nan,", ".nan", "privacy.epsilon", "above 0"},
		{"epsilon inf", "epsilon: 1,", "epsilon: .inf,", ".inf", "privacy.epsilon", "above 0"},
		{"epsilon huge", "epsilon: 1,", "epsilon: 1e999,", "1e999", "privacy.epsilon", "above 0"},
		{"delta", "delta: 1e-5", "delta: 2.5e-4", "2.5e-4", "privacy.delta", "0.00025"},
		{"delta 0", "delta: 1e-5", "delta: 0", "0, clip", "privacy.delta", "above 0"},
		{"grid bits", "grid_bits: 14", "grid_bits: 25", "25, noise", "privacy.grid_bits", "8 to 24"},
		{"sums wrap", "word_bits: 32", "word_bits: 24", "24, min", "aggregation.word_bits", "raise word_bits"},
		{"word bits", "word_bits: 32", "word_bits: 33", "33", "aggregation.word_bits", "24 or 32 or 64"},
		{"minimum", "minimum: 3", "minimum: 2", "2, coll", "aggregation.minimum", "from 3 to 4"},
		{"minimum above members", "minimum: 3", "minimum: 5", "5, coll", "aggregation.minimum", "from 3 to 4"},
		{"colluding", "colluding: 1", "colluding: 2", "2}", "aggregation.colluding", "from 1 to 1"},
		{"spare", "spare: 3", "spare: 1", "1, hosp", "privacy.spare", "from 2 to"},
		{"average_last", "average_last: 15", "average_last: 31", "31}", "strategy.average_last", "1 to 30"},
		{"two hospitals a patient", "hospitals_per_patient: 1", "hospitals_per_patient: 2", "2}\n", "privacy.hospitals_per_patient", "1 to 1"},
		{"noise", "noise: distributed", "noise: none", "none", "privacy.noise", "distributed or central"},
		{"until before from", "until: 2046-01-01T00:00:00Z", "until: 2025-01-01T00:00:00Z", "2025-01-01T", "valid.until", "after from"},
		{"local time", "from: 2026-01-01T00:00:00Z", "from: 2026-01-01T00:00:00+01:00", "2026-01-01T00:00:00+01:00", "valid.from", "UTC"},
		{"ethics ends first", "until: 2046-01-01}", "until: 2045-01-01}", "2045", "ethics.until", "no earlier than"},
		{"deadline", "away: 5s", "away: 0s", "0s", "deadlines.away", "1ms to 168h"},
		{"typical turned", "[44.5, 63.5]", "[63.5, 44.5]", "[63.5", "data.features.age.typical", "low < high"},
		{"typical text", "[44.5, 63.5]", "[44.5, old]", "old", "data.features.age.typical[1]", "a number"},
		{"plausible inside", "[0, 120]", "[50, 120]", "[50, 120]", "data.features.age.plausible", "around typical"},
		{"one level", "levels: [0, 1, 2]", "levels: [0]", "[0]", "data.features.restecg.levels", "2 to 256"},
		{"level twice", "levels: [0, 1, 2]", "levels: [0, 1, 1.0]", "1.0]", "data.features.restecg.levels[2]", "once"},
		{"level twice, other order", "levels: [0, 1, 2]", "levels: [0, 1.0, 1]", "1]}\n    thal", "data.features.restecg.levels[2]", "once"},
		{"levels and unit", "levels: [0, 1, 2]", "levels: [0, 1, 2], unit: a", "unit: a}\n    thal", "data.features.restecg.unit", "unknown key"},
		{"target as feature", "    oldpeak:  {", "    num:  {", "num:  {unit", "data.features.num", "target column"},
		{"comparison", `"> 0"`, `"about 0"`, `"about`, "data.target.positive", "comparison"},
		{"patient", "patient: row", "patient: each", "each", "data.patient", "row, or"},
		{"missing rule", "missing: drop-row", "missing: mean", "mean", "data.missing", "drop-row"},
		{"anchor", "title: Coronary", "title: &a Coronary", "&a", "", "an anchor"},
		{"tag", "approvals: 3", "approvals: !!int 3", "!!int", "", "a tag"},
		{"bare tag", "approvals: 3", "approvals: ! 3", "! 3", "", "a tag"},
		{"merge key", "lead: r.lead", "lead: r.lead\n<<: {spare: 1}", "<<", "<<", "unknown key"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			raw := heart(t, c, tt.old, tt.new)
			_, err := Parse(raw)
			var p Problems
			if !errors.As(err, &p) {
				t.Fatalf("got %v, want Problems", err)
			}
			at := place(raw, tt.at)
			if tt.field != "" {
				at += tt.field + ": "
			}
			if len(p) != 1 || !strings.HasPrefix(p.Error(), at) || !strings.Contains(p.Error(), tt.want) {
				t.Errorf("got %q\nwant one that begins with %q and has %q", p, at, tt.want)
			}
		})
	}
}

func TestProblemsAllAtOnce(t *testing.T) {
	c := testConsortium(t, four...)
	raw := heart(t, c, "epsilon: 1,", "epsilon: 0,", "noise: distributed", "noise: some", "kind: logistic", "kind: forest", "title: ", "tittle: ")
	_, err := Parse(raw)
	var p Problems
	if !errors.As(err, &p) || len(p) != 5 { // a renamed key is one missing and one unknown
		t.Fatalf("got %v, want five problems", err)
	}
	if !slices.IsSortedFunc(p, func(a, b Problem) int { return a.Line - b.Line }) {
		t.Errorf("not in the order of the file:\n%v", p)
	}
	if s := p.WithFile("study.yaml")[0].String(); !strings.HasPrefix(s, "study.yaml:") {
		t.Errorf("got %q, want the file's name", s)
	}
}

func TestNotYAML(t *testing.T) {
	for name, raw := range map[string]string{
		"nothing": "", "comment": "# x\n", "scalar": "x\n", "list": "[1]\n", "two": "a: 1\n---\nb: 2\n", "broken": "a: [\n", "latin1": "a: \xe9\n",
		"alias": "a: &x 1\nb: *x\n", "alias loop": "a: &x [*x]\n", "huge": strings.Repeat("#", MaxFile+1), "null key": "? [a]\n: b\n",
	} {
		if _, err := Parse([]byte(raw)); err == nil {
			t.Errorf("%s: got no error", name)
		}
		if _, err := ParseConsortium([]byte(raw)); err == nil {
			t.Errorf("%s: got no error from a consortium", name)
		}
	}
}

func TestMinimumFollowsTheTable(t *testing.T) {
	for _, tt := range []struct{ members, colluding, minimum int }{{3, 1, 3}, {4, 1, 3}, {5, 1, 4}, {6, 1, 4}, {10, 2, 7}, {100, 25, 63}} {
		names := make([]string, tt.members)
		for i := range names {
			names[i] = "h" + strings.Repeat("x", i%50) + string(rune('a'+i/50))
		}
		raw := heart(t, testConsortium(t, four...),
			"members: [cleveland, hungarian, switzerland, va]", "members: ["+strings.Join(names, ", ")+"]",
			", minimum: 3, colluding: 1", "", "approvals: 3", "approvals: "+itoa(tt.members), "max_patients: 1000", "max_patients: 100")
		s, err := Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if s.Aggregation.Minimum != tt.minimum || s.Aggregation.Colluding != tt.colluding {
			t.Errorf("%d members: minimum %d, colluding %d, want %d, %d", tt.members, s.Aggregation.Minimum, s.Aggregation.Colluding, tt.minimum, tt.colluding)
		}
	}
}

func itoa(n int) string { return strings.TrimSpace(strings.Replace(plural(n, ""), "s", "", 1)) }

func TestCheck(t *testing.T) {
	c := testConsortium(t, four...)
	other := testConsortium(t, "cleveland", "hungarian", "switzerland")
	s := heartStudy(t, c)
	for _, tt := range []struct {
		name  string
		study *Study
		c     *Consortium
		at    time.Time
		want  []string
	}{
		{"good", s, c, now, nil},
		{"before it begins", s, c, s.From.Add(-time.Hour), nil},
		{"another consortium", s, other, now, []string{"consortium: got sha256:", `members: got "va"`}},
		{"expired", s, c, s.Until, []string{"valid.until: ", "ethics.until: "}},
	} {
		err := tt.study.Check(tt.c, tt.at)
		var p Problems
		errors.As(err, &p)
		if len(p) != len(tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
			continue
		}
		for i, w := range tt.want {
			if !strings.Contains(p[i].String(), w) || p[i].Line == 0 {
				t.Errorf("%s: got %s, want %q with its line", tt.name, p[i], w)
			}
		}
	}
	for _, tt := range []struct{ old, new, want string }{
		{"lead: r.lead", "lead: a.auditor", "lead: got"},
		{"lead: r.lead", "lead: nobody", "lead: got"},
		{"to: [r.lead]", "to: [nobody]", "release.to: got"},
		{"registry: cardiology", "registry: oncology", "data.registry: got"},
		{"va]", "vb]", "members: got \"vb\""},
	} {
		s, err := Parse(heart(t, c, tt.old, tt.new))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Check(c, now); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.new, err, tt.want)
		}
	}
}

func TestOverride(t *testing.T) {
	raw := []byte("# ε\na: {b: 1, ü: é, c: 2} # end\nlist: [1]\n")
	got, err := Override(raw, "a.c", "35")
	if want := "# ε\na: {b: 1, ü: é, c: 35} # end\nlist: [1]\n"; err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	for _, field := range []string{"a", "list", "x", "a.x"} {
		if _, err := Override(raw, field, "1"); err == nil {
			t.Errorf("%s: got no error", field)
		}
	}
}

func TestNextStepsByHand(t *testing.T) {
	s := &Study{
		Data:     Data{Features: []Feature{{Column: "a"}}},
		Model:    Model{Intercept: true, L2: 0.5},
		Strategy: Strategy{LearningRate: 2, AverageLast: 2},
		Privacy:  Privacy{Clip: 4, GridBits: 2, Cohort: 8},
	}
	w := []float64{1, 1}
	got := s.Next(w, []int64{16, -16})
	// one grid unit is 1; the gradient is ±16/8; the penalty 0.5·1 for the first, none for the intercept
	if want := []float64{1 - 2*(2+0.5), 1 + 2*2}; !slices.Equal(got, want) || w[0] != 1 {
		t.Errorf("got %v, want %v, and w unchanged: %v", got, want, w)
	}
	if got := s.Released([][]float64{{9, 9}, {1, 2}, {3, 6}}); !slices.Equal(got, []float64{2, 4}) {
		t.Errorf("released %v, want the mean of the last two", got)
	}
	if got := s.Released(nil); !slices.Equal(got, []float64{0, 0}) {
		t.Errorf("released %v before the first round, want zero", got)
	}
}

func TestModelFile(t *testing.T) {
	w := []float64{0, -1.5, math.Pi, math.MaxFloat64, math.Copysign(0, -1)}
	b := EncodeModel([32]byte{7}, w)
	study, got, err := DecodeModel(b)
	if err != nil || study != [32]byte{7} || !slices.Equal(got, w) || !math.Signbit(got[4]) {
		t.Fatalf("got %v %v %v", study, got, err)
	}
	// a flipped bit is either refused or another model, never the same one
	for i := range b {
		for bit := range 8 {
			c := slices.Clone(b)
			c[i] ^= 1 << bit
			if s, v, err := DecodeModel(c); err == nil && s == study && slices.EqualFunc(v, w, func(a, b float64) bool { return math.Float64bits(a) == math.Float64bits(b) }) {
				t.Fatalf("bit %d of byte %d does not matter", bit, i)
			}
		}
	}
	for _, bad := range [][]byte{nil, b[:7], b[:len(b)-1], append(slices.Clone(b), 0), EncodeModel([32]byte{7}, []float64{math.NaN()}), EncodeModel([32]byte{7}, []float64{math.Inf(1)})} {
		if _, _, err := DecodeModel(bad); err == nil {
			t.Errorf("%d bytes: got no error", len(bad))
		}
	}
}

func TestDraftLeavesRangesOpen(t *testing.T) {
	raw := DraftStudy(Draft{
		Members: []string{"b", "a", "c"}, Registry: "cardiology", Target: "num",
		Columns: []DraftColumn{{Name: "age"}, {Name: "odd: name"}, {Name: "sex", Levels: []string{"0", "1"}}, {Name: "num", Levels: []string{"0", "1"}}},
	})
	_, err := Parse(raw)
	var p Problems
	if !errors.As(err, &p) {
		t.Fatalf("got %v, want Problems", err)
	}
	text := p.Error()
	for _, open := range []string{"title", "lead", "max_patients", "valid.from", "ethics.board", "data.target.positive", "data.features.age.unit", "data.features.age.typical", "data.features.odd: name.source", "strategy.learning_rate", "privacy.cohort"} {
		if !strings.Contains(text, " "+open+": ") {
			t.Errorf("%s is not reported as open:\n%s", open, text)
		}
	}
	for _, done := range []string{"sex", "members", "deadlines", "unknown key", "YAML"} {
		if strings.Contains(text, done) {
			t.Errorf("%s is a problem of the draft:\n%s", done, text)
		}
	}
}

func FuzzParse(f *testing.F) {
	raw := sample(f, "heart/study.yaml")
	f.Add(raw)
	f.Add([]byte("a: &a [*a]\n"))
	f.Add(DraftStudy(Draft{Members: []string{"a"}, Columns: []DraftColumn{{Name: "x"}}}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := Parse(raw)
		if err == nil && (s.Dim() < 1 || len(s.Members) < 3 || !(s.Privacy.Delta*float64(len(s.Members)*s.MaxPatients) < 1)) {
			t.Errorf("accepted %+v", s)
		}
		if err == nil {
			if err := s.Check(&Consortium{}, now); err == nil {
				t.Error("checked with an empty consortium")
			}
		}
	})
}

func FuzzDecodeModel(f *testing.F) {
	f.Add(EncodeModel([32]byte{1}, []float64{1, 2}))
	f.Add([]byte("\x02\x00\x00\x00\x00\x00\x00\x00{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		study, w, err := DecodeModel(b)
		if err == nil && string(EncodeModel(study, w)) != string(b) {
			t.Error("accepted a file in another form")
		}
	})
}
