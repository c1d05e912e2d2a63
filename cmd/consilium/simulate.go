package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/consilium-fl/consilium/internal/simulation"
	"github.com/consilium-fl/consilium/internal/study"
)

type simulateFlags struct {
	simulation.Options
	study  string
	drops  []string
	repeat int
}

func (a *app) simulate() *cobra.Command {
	var f simulateFlags
	c := &cobra.Command{
		Use:   "simulate",
		Short: "Run a whole federation on this computer, to a verified receipt",
		Long: `Starts one real coordinator and one real node a hospital in this process, which talk gRPC over attested TLS 1.3 on loopback, and runs one study from its
files to a verified receipt. Without flags it is the embedded study: breast cancer data (WDBC), five hospitals, ε = 1. The table at the end is computed by
the simulation, which owns all the data; in a real study nobody can.

--data takes one <hospital>.csv each (UTF-8, comma, header) for the members of --study.
--drop takes a hospital away from a message of a round on, to the end: ready, deal, upload, vote or release.`,
		Example: `  consilium simulate
  consilium simulate --drop alder@3:upload
  consilium simulate --study deploy/samples/heart/study.yaml --data heart-disease
  consilium simulate --keep federation   # the files that separate daemons start from`,
		Args: takes(),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := f.complete(c); err != nil {
				return err
			}
			if f.repeat > 1 {
				return a.runRepeat(c.Context(), f)
			}
			return a.runOnce(c.Context(), f)
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.study, "study", "", "study `FILE`; the embedded study by default")
	fl.StringVar(&f.Data, "data", "", "`DIR` with one <hospital>.csv each")
	fl.IntVar(&f.Hospitals, "hospitals", 0, "`N` hospitals of the embedded study; five by default")
	fl.IntVar(&f.Rounds, "rounds", 0, "`T` rounds; the study's by default")
	fl.Float64Var(&f.Epsilon, "epsilon", 0, "`E`; the study's by default")
	fl.Uint64Var(&f.Seed, "seed", 0, "`S` of the split and the order; no key or noise comes from it")
	fl.IntVar(&f.repeat, "repeat", 1, "`N` runs with other splits and noises, and their spread")
	fl.StringArrayVar(&f.drops, "drop", nil, "`HOSPITAL@ROUND[:PHASE]` goes away for good; may be repeated")
	fl.StringVar(&f.Out, "out", "", "new output `DIR`; consilium-out/<study>-<time> by default")
	fl.StringVar(&f.Keep, "keep", "", "new `DIR` for the files from which it starts")
	fl.StringVar(&f.Listen, "listen", "", "`ADDRESS` where the coordinator listens; a free port on loopback by default")
	fl.StringVar(&f.Coordinator, "coordinator", "", "`ADDRESS` where nodes and people find it; where it listens by default")
	return c
}

// complete checks what flags alone can tell and reads the study.
func (f *simulateFlags) complete(c *cobra.Command) error {
	given := c.Flags().Changed
	switch {
	case given("data") && !given("study"):
		return hint(usage(c, "--data without --study"), "`consilium study new --data %s --out study.yaml` drafts one", f.Data)
	case given("study") && !given("data"):
		return usage(c, "--study without --data: a study of your own needs one <hospital>.csv for each member")
	case given("hospitals") && given("study"):
		return usage(c, "--hospitals is for the embedded study; the members of %s are in the file", f.study)
	case f.repeat < 1:
		return usage(c, "--repeat %d, want at least 1", f.repeat)
	case f.repeat > 1 && given("keep"):
		return usage(c, "--keep is for one run, not for --repeat %d", f.repeat)
	case given("hospitals") && f.Hospitals < 3:
		return bad("--hospitals: got %d, want at least 3: with fewer, one that subtracts its own sees another's", f.Hospitals)
	case given("rounds") && f.Rounds < 1:
		return bad("--rounds: got %d, want at least 1", f.Rounds)
	case given("epsilon") && !(f.Epsilon > 0):
		return bad("--epsilon: got %v, want a number above 0", f.Epsilon)
	}
	for _, text := range f.drops {
		d, err := simulation.ParseDrop(text)
		if err != nil {
			return usage(c, "--drop: %w", err)
		}
		f.Drops = append(f.Drops, d)
	}
	for _, dir := range []string{f.Out, f.Keep} {
		if dir == "" {
			continue
		}
		if err := absent(dir); err != nil {
			return err
		}
	}
	if f.study == "" {
		return nil
	}
	s, err := readStudy(f.study)
	if err != nil {
		return err
	}
	f.Study, f.StudyName = s.Raw, f.study
	return checkSites(s, f.Data)
}

// checkSites checks the files as their owner knows them: the hospitals of the simulation check what is left of them
// after the split, in which a line has another number.
func checkSites(s *study.Study, dir string) error {
	found, problems, err := checkData(s, checkFlags{data: dir})
	if err != nil || problems == 0 {
		return err
	}
	lines := []string{"checking the data before anybody approves:"}
	for _, f := range found {
		if f.Kind == "problem" && len(lines) <= mostProblems {
			lines = append(lines, f.Text)
		}
	}
	if problems > mostProblems {
		lines = append(lines, fmt.Sprintf("and %d more", problems-mostProblems))
	}
	return hint(bad("%s", strings.Join(lines, "\n")), "`consilium study check FILE --data %s` lists all of them", dir)
}

// mostProblems is how many a person is shown at once.
const mostProblems = 20

func (a *app) runOnce(ctx context.Context, f simulateFlags) error {
	view := newScreen(a.stderr, nil)
	f.Progress = view.show
	r, err := simulation.Run(ctx, f.Options)
	view.close()
	if ps, ok := errors.AsType[study.Problems](err); ok && f.study != "" {
		err = ps.WithFile(f.study) // the same lines, under the name that the person gave
	}
	switch {
	case r == nil && errors.Is(err, simulation.ErrShort):
		return hint(err, "nothing was released; a study goes on while enough hospitals remain")
	case r == nil:
		return err
	}
	if a.json {
		return errors.Join(err, a.printJSON(r.Summary))
	}
	text := summaryText(r.Summary) + "\n"
	if r.Keep != "" {
		text += fmt.Sprintf("%s: the files from which it started, with keys (0600, SIMULATED)\n", r.Keep)
	}
	text += fmt.Sprintf("%s: verify it with `consilium audit verify %s`\n", r.Out, r.Out)
	return errors.Join(err, a.print(nil, text))
}

// summaryText is the table at the end, with what belongs to it.
func summaryText(s simulation.Summary) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	p("SIMULATED: no hardware attests anything here. The figures are computed by the simulation, which owns all the data, from released models.\n\n")
	b.WriteString(scores(s))
	v := s.Privacy
	p("\nprivacy   ε %.4g of %.4g for each patient, δ %v: against colluding hospitals as many as the study allows\n", v.Epsilon, v.EpsilonBudget, v.Delta)
	p("          ε %s with a broken TEE and a coordinator that lies too; ε %s with every other hospital colluding\n", orNone(v.EpsilonIfBroken), orNone(v.EpsilonOwnNoise))
	b.WriteString(roundsText(s))
	p("took      %s, at most %s of memory\n", seconds(s.Seconds), size(s.PeakBytes))
	if s.Why != "" {
		p("ended     %s: %s\n", s.State, s.Why)
	}
	return b.String()
}

// scores compares the federated model with what a hospital could do alone, and with pooled data.
func scores(s simulation.Summary) string {
	t := grid{right: 1, head: []string{
		"accuracy / AUC", "train", "held back", "federated", "alone, own", "alone, own, same ε", "alone, everybody's",
	}}
	for _, h := range s.Hospitals {
		t.add(h.Name, fmt.Sprint(h.Train), fmt.Sprint(h.HeldBack), scoreText(h.Federated), scoreText(h.Alone), scoreText(h.AloneNoise), scoreText(h.AloneOnAll))
	}
	t.add("mean of hospitals", "", "", scoreText(s.MeanOfHospitals), "", "", "")
	t.add("everybody's", "", "", scoreText(s.Federated), "", "", "")
	t.add("everybody's, pooled without privacy", "", "", scoreText(s.Pooled), "", "", "")
	return t.String()
}

func scoreText(s simulation.Score) string { return figure(s.Accuracy) + " / " + figure(s.AUC) }

func figure(v *float64) string {
	if v == nil {
		return "n/a  "
	}
	return fmt.Sprintf("%.3f", *v)
}

// roundsText counts rounds, bytes and the time that each phase took in the middle.
func roundsText(s simulation.Summary) string {
	count := map[string]int{}
	phases := map[string][]float64{}
	var bytes uint64
	var took []float64
	for _, r := range s.Rounds {
		count[r.Outcome]++
		bytes += r.Bytes
		took = append(took, r.Seconds)
		for name, t := range r.Phases {
			phases[name] = append(phases[name], t)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "rounds    %d closed, %d aborted, %d burnt, %d charged; %s of masked words; a round took %s (median)\n",
		count["closed"], count["aborted"], count["burnt"], s.Privacy.Charges, size(bytes), seconds(median(took)))
	var parts []string
	for _, name := range []string{"gathering", "dealing", "collecting", "voting", "releasing"} {
		if len(phases[name]) > 0 {
			parts = append(parts, name+" "+seconds(median(phases[name])))
		}
	}
	fmt.Fprintf(&b, "phases    %s (median)\n", strings.Join(parts, ", "))
	return b.String()
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}
