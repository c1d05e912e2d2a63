package simulation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/transport"
	"github.com/consilium-fl/consilium/internal/verify"
)

// ward is a small study of one's own, and rows for it: older patients are sick more often.
const ward = `version: consilium.study/v1
title: A study of its own
consortium: sha256:0000000000000000000000000000000000000000000000000000000000000000
lead: r.lead
members: [basel, bern, chur, genf]
approvals: 4
max_patients: 1000
valid: {from: 2026-01-01T00:00:00Z, until: 2046-01-01T00:00:00Z}
ethics: {board: Example IRB, reference: "1", until: 2046-01-01}
data:
  registry: cardiology
  patient: row
  missing: drop-row
  target: {column: sick, positive: "> 0"}
  features:
    age: {unit: a, typical: [44.5, 63.5], plausible: [0, 120], source: "a public range"}
    sex: {levels: [0, 1]}
model: {kind: logistic, intercept: true, l2: 0, init: zero}
strategy: {name: fedsgd, rounds: 2, learning_rate: 1, average_last: 2}
privacy: {unit: patient, neighbours: add-or-remove-one, epsilon: 1, delta: 1e-5, clip: 1, grid_bits: 14, noise: distributed, cohort: 100, spare: 3, hospitals_per_patient: 1}
aggregation: {mode: masked, word_bits: 32, minimum: 3, colluding: 1}
deadlines: {away: 2s, ready: 10m, deal: 30s, upload: 10m, vote: 30s, release: 30s}
release: {to: [r.lead], hospitals: true}
`

func rows(seed uint64, n int) string {
	rng := rand.New(rand.NewPCG(seed, 1))
	var b strings.Builder
	b.WriteString("age,sex,sick\n")
	for range n {
		age, sick := 30+rng.IntN(50), 0
		if rng.IntN(50) < age-30 {
			sick = 1
		}
		fmt.Fprintf(&b, "%d,%d,%d\n", age, rng.IntN(2), sick)
	}
	return b.String()
}

// wards are options for a study of one's own, whose files a test may change.
func wards(t testing.TB) Options {
	t.Helper()
	dir := t.TempDir()
	for i, h := range []string{"basel", "bern", "chur", "genf"} {
		put(t, filepath.Join(dir, h+".csv"), rows(uint64(i), 60))
	}
	return Options{Study: []byte(ward), StudyName: "ward.yaml", Data: dir, Out: filepath.Join(t.TempDir(), "out")}
}

func put(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// leavesNothing wants no output folder, whole or in part, and no temporary one, when the test ends.
func leavesNothing(t *testing.T, o *Options) {
	t.Helper()
	temp, parent := t.TempDir(), t.TempDir()
	t.Setenv("TMPDIR", temp)
	o.Out = filepath.Join(parent, "out")
	t.Cleanup(func() {
		for _, dir := range []string{temp, parent} {
			entries, err := os.ReadDir(dir)
			if err != nil || len(entries) > 0 {
				t.Errorf("%d files are left in %s (%v): %v", len(entries), dir, err, entries)
			}
		}
	})
}

// Whatever is wrong with an input is said before anything runs, with its place, and nothing is left behind.
func TestBadInput(t *testing.T) {
	data := func(name, text string) func(*testing.T, *Options) {
		return func(t *testing.T, o *Options) { put(t, filepath.Join(o.Data, name), text) }
	}
	field := func(name, value string) func(*testing.T, *Options) {
		return func(t *testing.T, o *Options) { o.Study = must(study.Override(o.Study, name, value))(t) }
	}
	replace := func(old, text string) func(*testing.T, *Options) {
		return func(t *testing.T, o *Options) {
			if !strings.Contains(string(o.Study), old) {
				t.Fatalf("the study has no %q", old)
			}
			o.Study = []byte(strings.Replace(string(o.Study), old, text, 1))
		}
	}
	inHeader := func(name string) string { return strings.Replace(rows(1, 60), "age,sex,sick", name, 1) }
	for name, x := range map[string]struct {
		change func(*testing.T, *Options)
		says   []string
	}{
		"empty hospital":         {data("bern.csv", ""), []string{"bern", "header"}},
		"header only":            {data("bern.csv", "age,sex,sick\n"), []string{"bern", "no row"}},
		"wrong units":            {data("bern.csv", strings.ReplaceAll(rows(1, 60), ",", "00,")), []string{"bern"}},
		"months for years":       {data("bern.csv", months(rows(1, 60))), []string{"bern", "age", "more than half", "plausible"}},
		"missing column":         {data("bern.csv", inHeader("years,sex,sick")), []string{"bern", "age"}},
		"column twice":           {data("bern.csv", inHeader("age,age,sick")), []string{"bern", "age"}},
		"text in numbers":        {data("bern.csv", rows(1, 60)+"old,1,1\n"), []string{"bern", ":62", "age"}},
		"NaN":                    {data("bern.csv", rows(1, 60)+"NaN,1,1\n"), []string{"bern", ":62", "age"}},
		"unlisted level":         {data("bern.csv", rows(1, 60)+"50,7,1\n"), []string{"bern", ":62", "sex"}},
		"field too many":         {data("bern.csv", rows(1, 60)+"50,1,1,1\n"), []string{"bern", ":62"}},
		"file of no member":      {data("zug.csv", rows(1, 60)), []string{"zug.csv", "not a member", "basel"}},
		"file missing":           {func(t *testing.T, o *Options) { o.Data = t.TempDir() }, []string{"basel.csv", "missing"}},
		"folder missing":         {func(_ *testing.T, o *Options) { o.Data += "-not" }, []string{"data folder"}},
		"two members":            {replace("[basel, bern, chur, genf]", "[basel, bern]"), []string{"ward.yaml", "members", "2 hospitals"}},
		"unknown key":            {replace("lead: r.lead", "lead: r.lead\nleads: r.lead"), []string{"ward.yaml:5", "leads"}},
		"key twice":              {replace("lead: r.lead", "lead: r.lead\nlead: r.lead"), []string{"ward.yaml:5", "lead"}},
		"delta too large":        {field("privacy.delta", "0.01"), []string{"privacy.delta", "1/(members·max_patients)"}},
		"epsilon zero":           {field("privacy.epsilon", "0"), []string{"privacy.epsilon", "above 0"}},
		"epsilon negative":       {field("privacy.epsilon", "-1"), []string{"privacy.epsilon", "above 0"}},
		"epsilon option":         {func(_ *testing.T, o *Options) { o.Epsilon = -1 }, []string{"epsilon"}},
		"rounds option":          {func(_ *testing.T, o *Options) { o.Rounds = -1 }, []string{"-1 rounds", "at least one"}},
		"expired":                {replace("valid: {from: 2026-01-01T00:00:00Z, until: 2046-01-01T00:00:00Z}", "valid: {from: 2020-01-01T00:00:00Z, until: 2021-01-01T00:00:00Z}"), []string{"valid", "2021"}},
		"too few approvals":      {field("approvals", "2"), []string{"approvals"}},
		"sums would wrap":        {field("aggregation.word_bits", "24"), []string{"word_bits"}},
		"more than max_patients": {field("max_patients", "10"), []string{"max_patients"}},
		"two hospitals":          {func(_ *testing.T, o *Options) { *o = Options{Hospitals: 2, Out: o.Out} }, []string{"2 hospitals", "at least three"}},
		"out exists":             {func(t *testing.T, o *Options) { o.Out = t.TempDir() }, []string{"exists already"}},
		"keep exists":            {func(t *testing.T, o *Options) { o.Keep = t.TempDir() }, []string{"exists already"}},
		"port in use":            {inUse, []string{"listening on", "--listen"}},
	} {
		t.Run(name, func(t *testing.T) {
			o := wards(t)
			leavesNothing(t, &o)
			x.change(t, &o)
			_, err := Run(t.Context(), o)
			if !errors.As(err, new(BadInput)) {
				t.Fatalf("got %v (%T), want a BadInput", err, err)
			}
			for _, s := range x.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("got %q, want it to say %q", err, s)
				}
			}
		})
	}
}

// months multiplies the ages.
func months(csv string) string {
	var b strings.Builder
	for i, line := range strings.Split(strings.TrimSpace(csv), "\n") {
		age, rest, _ := strings.Cut(line, ",")
		if i > 0 {
			var n int
			fmt.Sscan(age, &n) //nolint:errcheck // our own numbers
			age = fmt.Sprint(12 * n)
		}
		b.WriteString(age + "," + rest + "\n")
	}
	return b.String()
}

func inUse(t *testing.T, o *Options) {
	l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	t.Cleanup(func() { _ = l.Close() })
	o.Listen = l.Addr().String()
}

// Interrupted in the middle of a round: no folder, and the error is the context's.
func TestInterrupted(t *testing.T) {
	o := wards(t)
	leavesNothing(t, &o)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o.Progress = func(p Progress) {
		if p.Kind == "arrived" && p.Round == 2 {
			cancel()
		}
	}
	if _, err := Run(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

// A hospital with one class trains as any other; where an AUC is not defined it is absent.
func TestOneClassHospital(t *testing.T) {
	t.Parallel()
	o := wards(t)
	path := filepath.Join(o.Data, "chur.csv")
	b := strings.ReplaceAll(string(must(os.ReadFile(path))(t)), ",1\n", ",0\n")
	put(t, path, b)
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range r.Summary.Hospitals {
		if undefined := h.Federated.AUC == nil; undefined != (h.Name == "chur") {
			t.Errorf("%s: AUC %v", h.Name, h.Federated.AUC)
		}
		if h.Federated.Accuracy == nil {
			t.Errorf("%s has no accuracy", h.Name)
		}
	}
	for _, round := range r.Summary.Rounds {
		if !slices.Contains(round.Set, "chur") {
			t.Errorf("round %d is over %v, without chur", round.Number, round.Set)
		}
	}
	if !strings.Contains(string(must(os.ReadFile(filepath.Join(r.Out, "summary.json")))(t)), `"auc": null`) {
		t.Error("summary.json has no null AUC")
	}
}

// With too few left the study ends short and hands over what closed, and a round that cannot end does not
// take as long as its deadline.
func TestDrops(t *testing.T) {
	for _, x := range []struct {
		drops  string
		state  string
		closed int
	}{
		{"basel@1", transport.StateEnded, 4},
		{"bern@2:deal", transport.StateEnded, 4},
		{"chur@1:upload", transport.StateEnded, 4},
		{"genf@1:vote", transport.StateEnded, 4},
		{"basel@4:release", transport.StateEnded, 4},
		{"basel@4 bern@4", transport.StateShort, 3},
		{"basel@4:deal bern@4:upload", transport.StateShort, 3},
		{"basel@4:upload chur@4:upload", transport.StateShort, 3},
		{"bern@4:vote genf@4:release", transport.StateShort, 3},
		{"bern@4:release genf@4:release", transport.StateShort, 3},
		{"bern@1 genf@1:deal", transport.StateShort, 0},
	} {
		t.Run(x.drops, func(t *testing.T) {
			t.Parallel()
			o := wards(t)
			o.Rounds = 4
			for d := range strings.FieldsSeq(x.drops) {
				o.Drops = append(o.Drops, must(ParseDrop(d))(t))
			}
			ctx, cancel := context.WithTimeoutCause(t.Context(), 5*time.Minute, errors.New("it went on and on"))
			defer cancel()
			r, err := Run(ctx, o)
			if want := x.state == transport.StateShort; errors.Is(err, ErrShort) != want || err != nil && !want {
				t.Fatalf("got %v, want a study that is %s", err, x.state)
			}
			if r == nil {
				// What closed right before two left may be co-signed by too few to be released.
				if x.closed > 0 && !strings.Contains(err.Error(), "co-signed") || exists(o.Out) {
					t.Errorf("got %v without a result, want what closed", err)
				}
				return
			}
			if r.Summary.State != x.state {
				t.Errorf("the study is %s (%s), want %s", r.Summary.State, r.Summary.Why, x.state)
			}
			closed := 0
			for _, round := range r.Summary.Rounds {
				if round.Outcome == "closed" {
					closed++
				}
			}
			if closed != x.closed {
				t.Errorf("%d rounds closed, want %d", closed, x.closed)
			}
			if report := must(verify.Folder(t.Context(), r.Out, verify.Options{}))(t); !report.OK {
				t.Errorf("the folder does not verify:\n%s", report)
			}
		})
	}
}

// What is kept are the files of a federation that has not run yet, for no other eyes.
func TestKeep(t *testing.T) {
	t.Parallel()
	o := wards(t)
	o.Keep = filepath.Join(t.TempDir(), "kept")
	if _, err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"consortium.yaml", "consortium.sigs.json", "study.yaml", "consilium.yaml", "coordinator/coordinator.yaml", "bern/node.yaml", "bern/enrolment.json", "keys/sim-root.key", "keys/bern.governance.key", "keys/r.lead.key"} {
		fi, err := os.Stat(filepath.Join(o.Keep, filepath.FromSlash(name)))
		if err != nil {
			t.Error(err)
		} else if fi.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, want 0600", name, fi.Mode())
		}
	}
	for _, pattern := range []string{"*/state/ledger-*", "*/state/study-*", "coordinator/state/studies", "coordinator/state/coordinator.db"} {
		if found := must(filepath.Glob(filepath.Join(o.Keep, filepath.FromSlash(pattern))))(t); len(found) > 0 {
			t.Errorf("state of a run is kept: %v", found)
		}
	}
}

// hearts are options for the four hospitals of the heart study.
func hearts(t testing.TB) Options {
	t.Helper()
	shared := os.Getenv("CONSILIUM_SHARED")
	if shared == "" {
		shared = "../../../shared"
	}
	dir := filepath.Join(shared, "data", "heart-disease")
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("the heart data are absent, set CONSILIUM_SHARED: %v", err)
	}
	return Options{
		Study: must(os.ReadFile("../../deploy/samples/heart/study.yaml"))(t), StudyName: "study.yaml", Data: dir,
		Out: filepath.Join(t.TempDir(), "out"),
	}
}

// One run of each study is about as good as a model without privacy.
func TestBars(t *testing.T) {
	for name, x := range map[string]struct {
		options       func(testing.TB) Options
		gap, accuracy float64
		of            func(Summary) Score
	}{
		"breast cancer":    {func(t testing.TB) Options { return Options{Out: filepath.Join(t.TempDir(), "out")} }, 0.04, 0.88, func(s Summary) Score { return s.Federated }},
		"four real hearts": {hearts, 0.03, 0.72, func(s Summary) Score { return s.MeanOfHospitals }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := Run(t.Context(), x.options(t))
			if err != nil {
				t.Fatal(err)
			}
			s := r.Summary
			t.Logf("AUC %.4f against %.4f pooled, accuracy %.4f, mean of hospitals %.4f, %.1f s", *s.Federated.AUC, *s.Pooled.AUC, *s.Federated.Accuracy, *s.MeanOfHospitals.Accuracy, s.Seconds)
			if gap := *s.Pooled.AUC - *s.Federated.AUC; gap > x.gap {
				t.Errorf("the AUC is %.4f under pooled, want at most %v", gap, x.gap)
			}
			if got := *x.of(s).Accuracy; got < x.accuracy {
				t.Errorf("accuracy %.4f, want at least %v", got, x.accuracy)
			}
		})
	}
}

// Repeated runs differ in split and noise, and leave folders only where they are asked to.
func TestRepeat(t *testing.T) {
	o := wards(t)
	leavesNothing(t, &o)
	o.Out = ""
	var mu sync.Mutex
	var models []Summary
	got, err := Repeat(t.Context(), o, 3, func(i int, s Summary) {
		mu.Lock()
		defer mu.Unlock()
		if i != len(models) {
			t.Errorf("run %d is told as number %d", i, len(models))
		}
		models = append(models, s)
	})
	if err != nil {
		t.Fatal(err)
	}
	if got.Runs != 3 || len(models) != 3 || got.Accuracy == nil || got.Gap == nil || got.MeanOfHospitals == nil {
		t.Fatalf("got %+v after %d runs, want three and all figures", got, len(models))
	}
	for name, f := range map[string]*Figures{"gap": got.Gap, "accuracy": got.Accuracy, "mean of hospitals": got.MeanOfHospitals} {
		if !(f.Min <= f.Median && f.Median <= f.Max && f.Min <= f.Mean && f.Mean <= f.Max && f.StdDev >= 0) {
			t.Errorf("%s: %+v is out of order", name, *f)
		}
	}
	if _, err := Repeat(t.Context(), o, 0, nil); !errors.As(err, new(BadInput)) {
		t.Errorf("no runs: got %v, want a BadInput", err)
	}
}

func TestFigures(t *testing.T) {
	score := func(v float64) Summary { return Summary{Federated: Score{Accuracy: &v}} }
	got := figures([]Summary{score(4), {}, score(1), score(3), score(2)}, func(s Summary) *float64 { return s.Federated.Accuracy })
	want := Figures{Median: 2.5, Mean: 2.5, Min: 1, Max: 4, StdDev: 1.2909944487358056}
	if got == nil || *got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := figures([]Summary{{}}, func(s Summary) *float64 { return s.Federated.Accuracy }); got != nil {
		t.Errorf("no defined figure: got %+v", *got)
	}
}
