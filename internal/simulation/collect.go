package simulation

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/simtee"
	"github.com/consilium-fl/consilium/internal/person"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/simulation/newton"
	"github.com/consilium-fl/consilium/internal/simulation/report"
	"github.com/consilium-fl/consilium/internal/simulation/summary"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/terms"
	"github.com/consilium-fl/consilium/internal/transport"
	"github.com/consilium-fl/consilium/internal/verify"
	"github.com/consilium-fl/consilium/node/train"
)

// collect fetches what the study released, verifies it, adds the two views and moves the folder into
// place: until then nothing has its name.
func (r *run) collect(ctx context.Context, p *person.Person) (*Result, error) {
	if r.ended.RoundsClosed == 0 {
		return nil, fmt.Errorf("%w, before any round closed: %s", ErrShort, r.ended.Why)
	}
	out := r.options.Out
	if out == "" {
		out = filepath.Join("consilium-out", study.Short(r.study.Digest)+"-"+r.began.UTC().Format("20060102T150405Z"))
	}
	if _, err := os.Lstat(out); !errors.Is(err, fs.ErrNotExist) {
		return nil, badInput("writing the output folder: %s exists already, and nothing is overwritten", out)
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return nil, badInput("writing the output folder: %w", err)
	}
	draft, err := os.MkdirTemp(filepath.Dir(out), ".consilium-out-*")
	if err != nil {
		return nil, badInput("writing the output folder: %w", err)
	}
	defer os.RemoveAll(draft) //nolint:errcheck // it has been moved, or is of no use
	err = r.fetch(ctx, p, draft)
	if errors.Is(err, transport.ErrNotFound) && r.ended.State == transport.StateShort {
		// Rounds closed, and the hospitals that would have co-signed them were gone too soon.
		return nil, fmt.Errorf("%w, before any round that closed could be released: %s", ErrShort, r.ended.Why)
	}
	if err != nil {
		return nil, because(ctx, err)
	}
	checked, err := verify.Folder(ctx, draft, verify.Options{Consortium: &r.consortium.Digest})
	if err != nil {
		return nil, err
	}
	if !checked.OK {
		return nil, fmt.Errorf("verifying what the study released:\n%s", checked)
	}
	r.step("receipt verified")
	result, err := r.summarise(draft)
	if err != nil {
		return nil, err
	}
	result.Summary.Out, result.Out, result.Keep = out, out, r.options.Keep
	if err := r.views(ctx, draft, result, checked); err != nil {
		return nil, err
	}
	if err := os.Chmod(draft, 0o755); err != nil { //nolint:gosec // what was released is for everyone who is given the folder
		return nil, err
	}
	if err := os.Rename(draft, out); err != nil {
		return nil, fmt.Errorf("moving the output folder into place: %w", err)
	}
	if r.ended.State == transport.StateShort {
		return result, fmt.Errorf("%w: %s", ErrShort, r.ended.Why)
	}
	return result, nil
}

// views writes the two files of the folder that no receipt covers.
func (r *run) views(ctx context.Context, dir string, result *Result, checked *verify.Report) error {
	b, err := json.MarshalIndent(result.Summary, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the summary: %w", err)
	}
	if err := write(filepath.Join(dir, "summary.json"), append(b, '\n')); err != nil {
		return err
	}
	d := report.Data{Title: r.study.Title, Summary: result.Summary, Saw: result.Saw}
	if d.Curve, err = r.curve(dir, result.Summary.Rounds); err != nil {
		return err
	}
	if d.Attested, err = attested(ctx, dir); err != nil {
		return err
	}
	for _, l := range checked.Lines {
		d.Checked = append(d.Checked, l.Name+": "+l.Text)
	}
	for _, l := range checked.Limits {
		d.Not = append(d.Not, l.Name+": "+l.Text)
	}
	page, err := report.HTML(d)
	if err != nil {
		return err
	}
	return write(filepath.Join(dir, "report.html"), page)
}

// curve scores, after each closed round, the mean of the iterates that would have been released then.
func (r *run) curve(dir string, rounds []RoundSummary) ([]summary.Curve, error) {
	t, err := terms.New(r.consortium, r.study)
	if err != nil {
		return nil, err
	}
	var held []table
	for _, st := range r.sites {
		h, err := readTable(st.name, st.held, r.study)
		if err != nil {
			return nil, err
		}
		held = append(held, h)
	}
	everybody := join(held)
	w := make([]float64, r.study.Dim())
	var iterates [][]float64
	var curve []summary.Curve
	var charges uint64
	for _, round := range rounds {
		if round.Outcome == string(aggregate.Aborted) {
			continue
		}
		charges++
		if round.Outcome != string(aggregate.Closed) {
			continue
		}
		sum, err := releasedSum(dir, round.Number)
		if errors.Is(err, fs.ErrNotExist) {
			break // it closed too late for a checkpoint that counts, and is no part of what was released
		}
		if err != nil {
			return nil, err
		}
		w = r.study.Next(w, sum)
		iterates = append(iterates, w)
		f, err := t.Figures(charges)
		if err != nil {
			return nil, err
		}
		s := everybody.score(r.study.Released(iterates))
		curve = append(curve, summary.Curve{Round: round.Number, Accuracy: s.Accuracy, AUC: s.AUC, Epsilon: f.Epsilon})
	}
	return curve, nil
}

// attested says how each process was appraised, as the receipt has it.
func attested(ctx context.Context, dir string) ([]summary.Attested, error) {
	p, err := verify.Show(ctx, dir)
	if err != nil {
		return nil, err
	}
	sim := summary.Attested{Format: string(simtee.Format), Simulated: p.Simulated}
	c := sim
	c.Who, c.Status, c.Measurement = "coordinator", p.Coordinator.Status, p.Coordinator.Measurement
	all := []summary.Attested{c}
	for _, h := range p.Hospitals {
		n := sim
		n.Who, n.Status, n.Measurement = h.Name, h.Status, signed.DigestText(simtee.Measurement(attest.RoleNode))
		all = append(all, n)
	}
	return all, nil
}

// releasedSum reads the opened sum of a closed round.
func releasedSum(dir string, number uint64) ([]int64, error) {
	b, err := os.ReadFile(roundFile(dir, number, "sum.bin"))
	if err != nil {
		return nil, err
	}
	var sum []int64
	for ; len(b) >= 8; b = b[8:] {
		sum = append(sum, int64(binary.LittleEndian.Uint64(b)))
	}
	return sum, nil
}

// summarise scores the released model and those it is compared with.
func (r *run) summarise(dir string) (*Result, error) {
	b, err := os.ReadFile(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		return nil, err
	}
	_, model, err := study.DecodeModel(b)
	if err != nil {
		return nil, err
	}
	t, err := terms.New(r.consortium, r.study)
	if err != nil {
		return nil, err
	}
	s := Summary{
		Version: SummaryVersion, Simulated: true, Study: signed.DigestText(r.study.Digest),
		State: r.ended.State, Why: r.ended.Why,
	}
	if err := r.compare(&s, t, model); err != nil {
		return nil, err
	}
	if s.Privacy, err = privacy(t, r.ended.RoundsCharged); err != nil {
		return nil, err
	}
	if err := r.rounds(&s, dir); err != nil {
		return nil, err
	}
	saw, err := r.saw(dir, s.Rounds)
	if err != nil {
		return nil, err
	}
	s.Seconds = time.Since(r.began).Seconds()
	s.PeakBytes = peakBytes()
	return &Result{Summary: s, Saw: saw}, nil
}

func privacy(t *terms.Terms, charges uint64) (PrivacySummary, error) {
	f, err := t.Figures(charges)
	if err != nil {
		return PrivacySummary{}, err
	}
	return PrivacySummary{
		Epsilon: f.Epsilon, EpsilonBudget: t.Study.Privacy.Epsilon, EpsilonIfBroken: f.EpsilonIfBroken,
		EpsilonOwnNoise: f.EpsilonOwnNoise, Delta: t.Study.Privacy.Delta, Charges: charges,
	}, nil
}

// ridge is the penalty of the converged models: .001 on a study of many columns, .01 where there are few
// and categorical ones.
func ridge(s *study.Study) float64 {
	for _, f := range s.Data.Features {
		if len(f.Levels) > 0 {
			return 0.01
		}
	}
	return 0.001
}

// compare scores the federated model beside the pooled one and each hospital's own.
func (r *run) compare(s *Summary, t *terms.Terms, model []float64) error {
	var trains, helds []table
	for _, st := range r.sites {
		tr, err := readTable(st.name, st.train, r.study)
		if err != nil {
			return err
		}
		he, err := readTable(st.name, st.held, r.study)
		if err != nil {
			return err
		}
		trains, helds = append(trains, tr), append(helds, he)
	}
	everybody, l2 := join(helds), ridge(r.study)
	pooled, err := converged(join(trains), l2, r.study.Model.Intercept)
	if err != nil {
		return fmt.Errorf("fitting the pooled model: %w", err)
	}
	s.Federated, s.Pooled = everybody.score(model), everybody.score(pooled)
	var own []Score
	for i, st := range r.sites {
		alone, err := converged(trains[i], l2, r.study.Model.Intercept)
		if err != nil {
			return fmt.Errorf("fitting the model of %s alone: %w", st.name, err)
		}
		noised, err := aloneNoised(t, trains[i])
		if err != nil {
			return fmt.Errorf("fitting the noised model of %s alone: %w", st.name, err)
		}
		h := HospitalSummary{
			Name: st.name, Train: len(trains[i].rows), HeldBack: len(helds[i].rows),
			Federated: helds[i].score(model), Alone: helds[i].score(alone),
			AloneNoise: helds[i].score(noised), AloneOnAll: everybody.score(alone),
		}
		own = append(own, h.Federated)
		s.Hospitals = append(s.Hospitals, h)
	}
	s.MeanOfHospitals = mean(own)
	return nil
}

// converged fits to convergence; a hospital without rows has no model.
func converged(t table, l2 float64, intercept bool) ([]float64, error) {
	if len(t.rows) == 0 {
		return nil, nil
	}
	return newton.Converged(t.rows, t.labels, l2, intercept)
}

// aloneNoised is what a hospital gets by itself at the study's ε: the same steps with the whole noise.
func aloneNoised(t *terms.Terms, data table) ([]float64, error) {
	if len(data.rows) == 0 {
		return nil, nil
	}
	s := *t.Study
	s.Privacy.Cohort = len(data.rows)
	w := make([]float64, s.Dim())
	var iterates [][]float64
	grad, noise := make([]float64, len(w)), make([]int64, len(w))
	for range s.Strategy.Rounds {
		key, err := freshKey()
		if err != nil {
			return nil, err
		}
		sum := make([]int64, len(w))
		for i, x := range data.rows {
			e := train.Predict(w, x) - data.labels[i]
			for j := range grad {
				grad[j] = e * x[j]
			}
			t.Grid.AddClipped(sum, grad)
		}
		if err := t.Full.Keyed(key).Fill(noise); err != nil {
			return nil, err
		}
		for j := range sum {
			sum[j] += noise[j]
		}
		w = s.Next(w, sum)
		iterates = append(iterates, w)
	}
	return s.Released(iterates), nil
}

// rounds completes what the lead heard with the sets of the released transcripts.
func (r *run) rounds(s *Summary, dir string) error {
	slices.SortFunc(r.story.rounds, func(a, b *RoundSummary) int { return int(a.Number) - int(b.Number) })
	for _, round := range r.story.rounds {
		set, err := releasedSet(dir, round.Number)
		if err != nil {
			return err
		}
		round.Set = set
		s.Rounds = append(s.Rounds, *round)
	}
	return nil
}

func roundFile(dir string, number uint64, name string) string {
	return filepath.Join(dir, "rounds", fmt.Sprintf("%04d", number), name)
}

// releasedSet reads the certified set of a round, none where there is no certificate.
func releasedSet(dir string, number uint64) ([]string, error) {
	set := []string{}
	if _, err := os.Stat(roundFile(dir, number, "certificate.cbor")); errors.Is(err, fs.ErrNotExist) {
		return set, nil
	}
	b, err := os.ReadFile(roundFile(dir, number, "proposal.cbor"))
	if err != nil {
		return nil, err
	}
	var m aggregate.Signed
	if err := signed.Decode(b, &m); err != nil {
		return nil, err
	}
	msg, err := aggregate.Parse(m)
	if err != nil {
		return nil, err
	}
	if p, ok := msg.(aggregate.Proposal); ok {
		for _, c := range p.Contributions {
			set = append(set, string(c.Upload.From))
		}
	}
	return set, nil
}

// saw puts together the first panel of the report.
func (r *run) saw(dir string, rounds []RoundSummary) (Saw, error) {
	r.seen.mu.Lock()
	defer r.seen.mu.Unlock()
	out := Saw{
		Round: r.seen.first, Hospital: r.seen.hospital, Plain: r.seen.plain, Masked: r.seen.masked,
		WordBits: r.study.Aggregation.WordBits, Columns: r.study.Data.ColumnNames(), Histogram: r.seen.histogram,
	}
	if r.study.Model.Intercept {
		out.Columns = append(out.Columns, "intercept")
	}
	for _, round := range rounds {
		if round.Number != r.seen.first || round.Outcome != string(aggregate.Closed) {
			continue
		}
		sum, err := releasedSum(dir, round.Number)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return Saw{}, err
		}
		out.Sum = sum
	}
	return out, nil
}

// peakBytes is the most memory that the process has had from the system.
func peakBytes() uint64 {
	if n, ok := maxResident(); ok {
		return n
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Sys
}
