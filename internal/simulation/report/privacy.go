package report

import (
	"fmt"
	"math"
	"strconv"

	"github.com/consilium-fl/consilium/internal/simulation/summary"
)

// epsilon writes an ε with four digits, as the commands do; the accountant has rounded it up.
func epsilon(e *float64) string {
	if e == nil || math.IsNaN(*e) {
		return "no bound"
	}
	if math.IsInf(*e, 0) {
		return "∞"
	}
	return plain(rounded(*e, 4))
}

// odds says in words what an ε bounds.
func odds(e *float64) string {
	if e == nil || math.IsNaN(*e) || *e > 700 {
		return "the exact sum would be seen, so nothing is bounded"
	}
	return "a factor of at most " + strconv.FormatFloat(math.Ceil(math.Exp(*e)*100-1e-9)/100, 'f', 2, 64)
}

func (v *view) privacy(s summary.Summary) {
	p := s.Privacy
	spent := &p.Epsilon
	v.Meanings = []meaning{
		{"Some hospitals collude", epsilon(spent), odds(spent), "Whoever sees all models and sums, with as many hospitals colluding as the study allows for."},
		{"The machine is broken too", epsilon(p.EpsilonIfBroken), odds(p.EpsilonIfBroken), "The same, when the coordinator's trusted machine is broken open and its software lies."},
		{"All others collude", epsilon(p.EpsilonOwnNoise), odds(p.EpsilonOwnNoise), "Every other hospital colludes too: only the noise of the patient's own hospital is left."},
	}
	v.Delta = []fact{
		{Label: "Budget", Value: "ε ≤ " + plain(p.EpsilonBudget), Note: "what the hospitals approved for this study"},
		{Label: "δ", Value: scientific(p.Delta), Note: "how far the bound may fail, as a probability"},
		{Label: "Charges", Value: grouped(p.Charges), Note: "rounds that count as spent, opened or not"},
	}
	v.Epsilons = figure{
		Title: "Three ε, and the budget", Words: []string{
			"ε bounds what anyone can learn about one patient: with or without that patient in the study, the odds of any conclusion differ by a factor of at most e to the ε.",
		},
		Keys:  []key{blockKey("bar eps", "ε"), lineKey("budget", "budget, ε = "+plain(p.EpsilonBudget))},
		Plots: both(func(class string, width float64) *plot { return drawEpsilons(class, width, v.Meanings, p) }),
	}
}

// scientific writes 1e-05 as print does.
func scientific(d float64) string {
	if d <= 0 || math.IsNaN(d) || math.IsInf(d, 0) || d >= 0.001 {
		return plain(d)
	}
	e := int(math.Floor(math.Log10(d) + 1e-9))
	m := rounded(d/math.Pow(10, float64(e)), 3)
	power := "10⁻" + superscript(-e)
	if m == 1 {
		return power
	}
	return plain(m) + " × " + power
}

func drawEpsilons(class string, width float64, ms []meaning, p summary.Privacy) *plot {
	values := []*float64{&p.Epsilon, p.EpsilonIfBroken, p.EpsilonOwnNoise}
	most := p.EpsilonBudget
	for _, e := range values {
		if e != nil && !math.IsInf(*e, 0) {
			most = max(most, *e)
		}
	}
	const row = 52.0
	bottom := 6 + row*float64(len(ms))
	out := newPlot("epsilons", class, "Three ε, and the budget", width, bottom+42)
	x := scale{lo: 0, hi: roundUp(most * 1.02), from: 8, to: width - 14}
	out.vertical(x, 6, bottom, ticks(0, x.hi, 6), plain, "ε")
	for i, m := range ms {
		y := 6 + row*float64(i)
		out.rect("ground", 0, y+1, width, 19, "")
		out.text("group", "start", 6, y+15, m.Name)
		out.text("count", "end", width-6, y+15, m.Value)
		end := x.to
		form := "bar eps open"
		if e := values[i]; e != nil && !math.IsInf(*e, 0) {
			end, form = x.at(*e), "bar eps"
		}
		out.rect(form, x.from, y+26, end-x.from, 18, m.Name+": "+m.Value)
		out.line("axis", x.from, y+22, x.from, y+row)
		out.line("budget", x.at(p.EpsilonBudget), y+22, x.at(p.EpsilonBudget), y+row)
	}
	out.Desc = fmt.Sprintf("Three bars: %s %s, %s %s, %s %s. A line marks the budget of %s.",
		ms[0].Name, ms[0].Value, ms[1].Name, ms[1].Value, ms[2].Name, ms[2].Value, plain(p.EpsilonBudget))
	return out
}
