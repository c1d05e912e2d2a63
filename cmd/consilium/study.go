package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/terms"
	"github.com/consilium-fl/consilium/node/dataset"
)

type draftFlags struct{ data, out, target, registry, consortium string }

func (a *app) studyNew() *cobra.Command {
	var f draftFlags
	c := &cobra.Command{
		Use:   "new --data DIR",
		Short: "Draft a study from the columns of CSV files",
		Long: `Drafts study.yaml from a folder with one <hospital>.csv each (UTF-8, comma, header): names, types and levels are filled in; ranges, units and every
decision are left to a person, because ranges taken from patients are computed from patients.`,
		Example: "  consilium study new --data data --target num --out study.yaml",
		Args:    takes(),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := required(c, "data"); err != nil {
				return err
			}
			return a.draft(f)
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.data, "data", "", "`DIR` with one <hospital>.csv each")
	fl.StringVar(&f.out, "out", "", "new study `FILE`; stdout by default")
	fl.StringVar(&f.target, "target", "", "`COLUMN` to predict")
	fl.StringVar(&f.registry, "registry", "", "`NAME` of the data set in the consortium file")
	fl.StringVar(&f.consortium, "consortium", "", "consortium `FILE` that the study names")
	return c
}

func (a *app) draft(f draftFlags) error {
	files, err := csvFiles(f.data)
	if err != nil {
		return err
	}
	var survey dataset.Survey
	d := study.Draft{Registry: f.registry, Target: f.target}
	for _, path := range files {
		if err := addFile(&survey, path); err != nil {
			return err
		}
		d.Members = append(d.Members, hospitalOf(path))
	}
	d.Columns = survey.Columns()
	if f.target != "" && !slices.ContainsFunc(d.Columns, func(c study.DraftColumn) bool { return c.Name == f.target }) {
		return bad("drafting: no column %q that all files have", f.target)
	}
	text := study.DraftStudy(d)
	if f.consortium != "" {
		c, err := readConsortium(f.consortium)
		if err != nil {
			return err
		}
		if text, err = study.WithConsortium(text, c.Digest); err != nil {
			return err
		}
	}
	if f.out == "" {
		return a.print(map[string]any{"members": d.Members, "study": string(text)}, string(text))
	}
	if err := writeNew(f.out, text); err != nil {
		return err
	}
	a.tell("next: fill in what is open, then `consilium study check %s --consortium consortium.yaml`", f.out)
	return a.print(map[string]any{"members": d.Members, "file": f.out}, fmt.Sprintf("%s: %d hospitals, %d columns\n", f.out, len(d.Members), len(d.Columns)))
}

// csvFiles lists the CSV files of a folder.
func csvFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, bad("reading the data folder: %w", err)
	}
	var files []string
	for _, e := range entries {
		if filepath.Ext(e.Name()) == ".csv" {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	if len(files) == 0 {
		return nil, bad("reading the data folder %s: no CSV file, want one <hospital>.csv each", dir)
	}
	return files, nil
}

func hospitalOf(path string) string { return strings.TrimSuffix(filepath.Base(path), ".csv") }

func addFile(s *dataset.Survey, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return badInput{err}
	}
	defer f.Close() //nolint:errcheck // only read
	if err := s.Add(f, path); err != nil {
		return badInput{err}
	}
	return nil
}

type checkFlags struct {
	consortium, data, approvals string
	showValues                  bool
}

func (a *app) studyCheck() *cobra.Command {
	var f checkFlags
	c := &cobra.Command{
		Use:   "check FILE",
		Short: "Check a study file, and the data and approvals for it",
		Long: `Lists every mistake of study.yaml with line, column and field. With --consortium it is compared with the file it names; with --data every cell that
cannot be read is listed (never its value); with --approvals the hospitals' signatures are counted.`,
		Example: "  consilium study check study.yaml --consortium consortium.yaml --data data",
		Args:    takes("FILE"),
		RunE: func(c *cobra.Command, args []string) error {
			if f.approvals != "" && f.consortium == "" {
				return usage(c, "--approvals needs --consortium, which has the keys")
			}
			return a.checkStudy(args[0], f)
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.consortium, "consortium", "", "consortium `FILE` that the study names")
	fl.StringVar(&f.data, "data", "", "`DIR` with one <hospital>.csv for each member here")
	fl.StringVar(&f.approvals, "approvals", "", "`DIR` with the signed approvals")
	fl.BoolVar(&f.showValues, "show-values", false, "show the values of cells that cannot be read, on this terminal only")
	return c
}

type checkResult struct {
	File      string          `json:"file"`
	Study     string          `json:"study"`
	Findings  []findingResult `json:"findings,omitempty"`
	Approvals []string        `json:"approvals,omitempty"`
	NotLooked []string        `json:"not_looked_at,omitempty"`
}

type findingResult struct {
	Kind string `json:"kind"` // problem or hint
	Text string `json:"text"`
}

func (a *app) checkStudy(file string, f checkFlags) error {
	s, err := readStudy(file)
	if err != nil {
		return err
	}
	r := checkResult{File: file, Study: signed.DigestText(s.Digest)}
	con := &study.Consortium{}
	if f.consortium == "" {
		r.NotLooked = append(r.NotLooked, "the consortium (--consortium FILE)")
	} else {
		if con, err = readConsortium(f.consortium); err != nil {
			return err
		}
		if err := s.Check(con, a.now()); err != nil {
			return place(file, err)
		}
	}
	if _, err := terms.New(con, s); err != nil {
		return place(file, err)
	}
	problems := 0
	if f.data == "" {
		r.NotLooked = append(r.NotLooked, "the data (--data DIR)")
	} else if r.Findings, problems, err = checkData(s, f); err != nil {
		return err
	}
	if f.approvals == "" {
		r.NotLooked = append(r.NotLooked, "the approvals (--approvals DIR)")
	} else if r.Approvals, err = countApprovals(con, s, f.approvals, a.now()); err != nil {
		return err
	}
	if err := a.print(r, r.text(problems)); err != nil {
		return err
	}
	if problems > 0 {
		return hint(bad("checking the data: %d problems, listed above", problems), "a study can only use rows that can be read; after approval the others are left out by themselves")
	}
	return nil
}

func (r checkResult) text(problems int) string {
	var b strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%-8s %s\n", f.Kind, f.Text)
	}
	if len(r.Approvals) > 0 {
		fmt.Fprintf(&b, "approved by %s\n", strings.Join(r.Approvals, ", "))
	}
	if problems == 0 {
		fmt.Fprintf(&b, "nothing to mend\n%s\n", r.Study)
	}
	if len(r.NotLooked) > 0 {
		fmt.Fprintf(&b, "not looked at: %s\n", strings.Join(r.NotLooked, ", "))
	}
	return b.String()
}

// checkData checks the files that are there: a hospital has its own alone.
func checkData(s *study.Study, f checkFlags) (found []findingResult, problems int, err error) {
	files, err := csvFiles(f.data)
	if err != nil {
		return nil, 0, err
	}
	for _, path := range files {
		if h := hospitalOf(path); !slices.Contains(s.Members, h) {
			return nil, 0, bad("checking %s: %q is not a member of the study, want one of %s", path, h, strings.Join(s.Members, ", "))
		}
		cells, err := dataset.CheckFile(path, s.Data, s.MaxPatients, dataset.Exclusion{})
		if err != nil {
			return nil, 0, badInput{err}
		}
		for _, c := range cells {
			r := findingResult{Kind: "problem", Text: c.String()}
			if f.showValues {
				r.Text = c.Show()
			}
			if c.Hint {
				r.Kind = "hint"
			} else {
				problems++
			}
			found = append(found, r)
		}
	}
	return found, problems, nil
}

func countApprovals(c *study.Consortium, s *study.Study, dir string, at time.Time) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, bad("reading approvals: %w", err)
	}
	var files [][]byte
	for _, e := range entries {
		if e.IsDir() || filepath.Ext(e.Name()) != ".json" {
			continue
		}
		b, err := readFile("approval", filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		files = append(files, b)
	}
	good, err := c.Approved(s, files, at)
	var names []string
	for _, g := range good {
		names = append(names, g.Hospital)
	}
	return names, err
}

func (a *app) studyShow() *cobra.Command {
	c := &cobra.Command{
		Use:     "show FILE|DIGEST",
		Short:   "Show what a study does, or how the coordinator says that it stands",
		Long:    "A file is read offline. A digest (sha256:…) asks the coordinator of --config.",
		Example: "  consilium study show study.yaml\n  consilium study show sha256:… --config consilium.yaml",
		Args:    takes("FILE|DIGEST"),
	}
	a.onlineFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		_, err := os.Stat(args[0])
		if errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(args[0], "sha256:") {
			return a.showOnline(c.Context(), args[0])
		}
		s, err := readStudy(args[0])
		if err != nil {
			return err
		}
		r, err := describeStudy(s)
		if err != nil {
			return place(args[0], err)
		}
		return a.print(r, r.String())
	}
	return c
}

type studyResult struct {
	Study           string   `json:"study"`
	Title           string   `json:"title"`
	Consortium      string   `json:"consortium"`
	Lead            string   `json:"lead"`
	Members         []string `json:"members"`
	Approvals       int      `json:"approvals"`
	From            string   `json:"from"`
	Until           string   `json:"until"`
	Registry        string   `json:"registry"`
	Columns         []string `json:"columns"`
	Model           string   `json:"model"`
	Rounds          int      `json:"rounds"`
	Minimum         int      `json:"minimum"`
	Colluding       int      `json:"colluding"`
	Noise           string   `json:"noise"`
	Epsilon         float64  `json:"epsilon"`
	EpsilonIfBroken *float64 `json:"epsilon_if_tee_broken"`
	EpsilonOwnNoise *float64 `json:"epsilon_own_noise"`
	Delta           float64  `json:"delta"`
	Release         []string `json:"release"`
	ethics          string
	hospitals       bool
}

func describeStudy(s *study.Study) (studyResult, error) {
	t, err := terms.New(&study.Consortium{Digest: s.Consortium}, s)
	if err != nil {
		return studyResult{}, err
	}
	f, err := t.Figures(uint64(t.Charges))
	if err != nil {
		return studyResult{}, err
	}
	return studyResult{
		Study: signed.DigestText(s.Digest), Title: s.Title, Consortium: signed.DigestText(s.Consortium), Lead: s.Lead,
		Members: s.Members, Approvals: s.Approvals, From: s.From.Format(time.RFC3339), Until: s.Until.Format(time.RFC3339),
		Registry: s.Data.Registry, Columns: s.Data.ColumnNames(), Model: s.Model.Kind, Rounds: s.Strategy.Rounds,
		Minimum: t.Minimum, Colluding: t.Colluding, Noise: s.Privacy.Noise,
		Epsilon: f.Epsilon, EpsilonIfBroken: f.EpsilonIfBroken, EpsilonOwnNoise: f.EpsilonOwnNoise, Delta: s.Privacy.Delta,
		Release: s.Release.To, hospitals: s.Release.Hospitals,
		ethics: fmt.Sprintf("%s, %s, until %s", s.Ethics.Board, s.Ethics.Reference, s.Ethics.Until.Format(time.DateOnly)),
	}, nil
}

func (r studyResult) String() string {
	var b strings.Builder
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-12s%s\n", name, fmt.Sprintf(format, args...))
	}
	row("study", "%s", r.Title)
	row("digest", "%s", r.Study)
	row("consortium", "%s", r.Consortium)
	row("lead", "%s", r.Lead)
	row("members", "%s; %d have to approve", strings.Join(r.Members, ", "), r.Approvals)
	row("valid", "%s to %s", r.From, r.Until)
	row("ethics", "%s", r.ethics)
	row("data", "registry %s, %d columns: %s", r.Registry, len(r.Columns), strings.Join(r.Columns, ", "))
	row("model", "%s, %d rounds", r.Model, r.Rounds)
	row("sums", "of at least %d hospitals; up to %d may collude", r.Minimum, r.Colluding)
	row("privacy", "%s noise; at most, for each patient, δ %v and", r.Noise, r.Delta)
	row("", "ε %.4g against up to %d colluding hospitals", r.Epsilon, r.Colluding)
	row("", "ε %s with a broken TEE and a coordinator that lies too", orNone(r.EpsilonIfBroken))
	row("", "ε %s with every other hospital colluding", orNone(r.EpsilonOwnNoise))
	to := slices.Clone(r.Release)
	if r.hospitals {
		to = append(to, "every member")
	}
	row("release", "to %s", strings.Join(to, ", "))
	return b.String()
}

func orNone(v *float64) string {
	if v == nil {
		return "without bound"
	}
	return fmt.Sprintf("%.4g", *v)
}
