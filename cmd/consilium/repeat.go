package main

import (
	"context"
	"fmt"

	"github.com/consilium-fl/consilium/internal/simulation"
)

// runRepeat shows how much a result owes to one split and one draw of the noise.
func (a *app) runRepeat(ctx context.Context, f simulateFlags) error {
	view := newScreen(a.stderr, nil)
	f.Progress = func(p simulation.Progress) { // rounds are of no interest here; who is missing is
		if p.Kind == "missing" || p.Kind == "burnt" || p.Kind == "aborted" {
			view.show(p)
		}
	}
	spread, err := simulation.Repeat(ctx, f.Options, f.repeat, func(i int, s simulation.Summary) {
		a.tell("run %d of %d: accuracy / AUC %s federated, %s pooled, in %s", i+1, f.repeat, scoreText(s.Federated), scoreText(s.Pooled), seconds(s.Seconds))
	})
	if err != nil {
		return err
	}
	return a.print(spread, spreadText(spread))
}

func spreadText(s simulation.Spread) string {
	t := grid{right: 1, head: []string{fmt.Sprintf("%d runs", s.Runs), "median", "mean", "least", "most", "std dev"}}
	for _, row := range []struct {
		name string
		f    *simulation.Figures
	}{
		{"AUC, pooled less federated", s.Gap},
		{"accuracy, everybody's", s.Accuracy},
		{"accuracy, mean of hospitals", s.MeanOfHospitals},
	} {
		if row.f == nil {
			t.add(row.name, "n/a", "n/a", "n/a", "n/a", "n/a")
			continue
		}
		cells := []string{row.name}
		for _, v := range []float64{row.f.Median, row.f.Mean, row.f.Min, row.f.Max, row.f.StdDev} {
			cells = append(cells, fmt.Sprintf("%.4f", v))
		}
		t.add(cells...)
	}
	return "SIMULATED: the figures are computed by the simulation, which owns all the data, from released models.\n\n" + t.String()
}
