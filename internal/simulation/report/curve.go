package report

import (
	"fmt"
	"math"

	"github.com/consilium-fl/consilium/internal/simulation/summary"
)

// curves are what the released model scored and the privacy spent, round by round.
func (v *view) curves(d Data) {
	n := lastRound(d)
	lost := lostRounds(d.Summary.Rounds)
	v.Scores = figure{Title: "Accuracy and AUC by round", Words: []string{
		"The model as it would have been released after each round, on everybody's held-back patients. Both scores go from 0 to 1, and 1 is best.",
	}}
	v.Spent = figure{Title: "ε spent by round", Words: []string{
		"Each round that is charged spends some of the budget, whether or not its sum was opened. What is spent is never given back.",
	}}
	if len(d.Curve) == 0 {
		v.Scores.Words = []string{"No round closed, so no model was scored."}
		v.Spent.Words = []string{"No round closed."}
		return
	}
	v.Scores.Keys = []key{markKey("circle", "accuracy", "accuracy"), markKey("square", "auc", "AUC")}
	v.Spent.Keys = []key{markKey("circle", "spent", "ε spent"), lineKey("budget", "budget, ε = "+plain(d.Summary.Privacy.EpsilonBudget))}
	if len(lost) > 0 {
		k := markKey("cross", "lost", "round without a result")
		v.Scores.Keys, v.Spent.Keys = append(v.Scores.Keys, k), append(v.Spent.Keys, k)
	}
	v.Scores.Plots = both(func(class string, width float64) *plot { return drawScores(class, width, d.Curve, n, lost) })
	v.Spent.Plots = both(func(class string, width float64) *plot {
		return drawSpent(class, width, d.Curve, n, lost, d.Summary.Privacy.EpsilonBudget)
	})
	g := &grid{Name: "Accuracy, AUC and ε by round", Head: []string{"Round", "Accuracy", "AUC", "ε spent"}}
	for _, c := range d.Curve {
		g.Rows = append(g.Rows, []string{grouped(c.Round), score(c.Accuracy), score(c.AUC), epsilon(&c.Epsilon)})
	}
	v.Scores.Table = g
}

// lostRounds are the numbers of rounds that gave no sum.
func lostRounds(rounds []summary.Round) []uint64 {
	var out []uint64
	for _, r := range rounds {
		if r.Outcome != "closed" {
			out = append(out, r.Number)
		}
	}
	return out
}

const (
	curveHeight = 260.0
	curveTop    = 28.0
	curveBottom = 216.0
)

func drawScores(class string, width float64, curve []summary.Curve, n uint64, lost []uint64) *plot {
	p := newPlot("scores", class, "Accuracy and AUC by round", width, curveHeight)
	var all []float64
	for _, c := range curve {
		all = append(all, defined(c.Accuracy, c.AUC)...)
	}
	left, right := 42.0, width-12
	y := scale{lo: floorOf(all), hi: 1, from: curveBottom, to: curveTop}
	p.horizontal(y, left, right, 6, plain, "score")
	x := p.rounds(n, left, right, curveBottom)
	p.series("auc", "square", curve, x, y, func(c summary.Curve) *float64 { return c.AUC })
	p.series("accuracy", "circle", curve, x, y, func(c summary.Curve) *float64 { return c.Accuracy })
	p.lost(lost, x)
	last := curve[len(curve)-1]
	p.Desc = fmt.Sprintf("Two lines over %s. After round %d the accuracy is %s and the AUC %s. The table of this panel has every round.",
		count(int(n), "round"), last.Round, score(last.Accuracy), score(last.AUC))
	return p
}

// defined are the scores that are there.
func defined(scores ...*float64) []float64 {
	var out []float64
	for _, s := range scores {
		if s != nil && !math.IsNaN(*s) {
			out = append(out, *s)
		}
	}
	return out
}

// series joins the points that are defined; where one is not, the line has a gap.
func (p *plot) series(class, form string, curve []summary.Curve, x, y scale, of func(summary.Curve) *float64) {
	var run [][2]float64
	flush := func() {
		if len(run) > 1 {
			p.path("line "+class, polyline(run), "")
		}
		run = nil
	}
	r := min(3.2, 0.42*(x.at(2)-x.at(1)))
	for _, c := range curve {
		s := defined(of(c))
		if s == nil {
			flush()
			continue
		}
		run = append(run, [2]float64{x.at(float64(c.Round)), y.at(s[0])})
	}
	flush()
	for _, c := range curve {
		for _, s := range defined(of(c)) {
			p.path("mark "+class, markPath(form, x.at(float64(c.Round)), y.at(s), r), fmt.Sprintf("round %d: %s", c.Round, score(&s)))
		}
	}
}

// lost crosses out, on the axis, the rounds that gave nothing.
func (p *plot) lost(rounds []uint64, x scale) {
	for _, r := range rounds {
		p.path("mark lost", markPath("cross", x.at(float64(r)), curveBottom, 4), fmt.Sprintf("round %d: no result", r))
	}
}

func drawSpent(class string, width float64, curve []summary.Curve, n uint64, lost []uint64, budget float64) *plot {
	p := newPlot("spent", class, "ε spent by round", width, curveHeight)
	most := budget
	for _, c := range curve {
		most = max(most, c.Epsilon)
	}
	left, right := 42.0, width-12
	y := scale{lo: 0, hi: roundUp(most * 1.05), from: curveBottom, to: curveTop}
	p.horizontal(y, left, right, 6, plain, "ε")
	x := p.rounds(n, left, right, curveBottom)
	p.line("budget", left, y.at(budget), right, y.at(budget))
	p.series("spent", "circle", curve, x, y, func(c summary.Curve) *float64 { return &c.Epsilon })
	p.lost(lost, x)
	last := curve[len(curve)-1]
	p.Desc = fmt.Sprintf("A rising line over %s. After round %d ε is %s of a budget of %s. The table beside has every round.",
		count(int(n), "round"), last.Round, epsilon(&last.Epsilon), plain(budget))
	return p
}
