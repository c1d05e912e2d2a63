package report

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/consilium-fl/consilium/internal/simulation/summary"
)

// phases in the order of a round; what else a round names comes after them.
var phases = []string{"gathering", "dealing", "collecting", "voting", "releasing", "opening"}

// shownHospitals bounds the rows of the plot of sets.
const shownHospitals = 40

func (v *view) rounds(s summary.Summary) {
	if len(s.Rounds) == 0 {
		v.RoundFacts = []fact{{Label: "Rounds", Value: "0", Note: "none was begun"}}
		return
	}
	n := outcomes(s.Rounds)
	var bytes float64
	var times []float64
	for _, r := range s.Rounds {
		bytes += float64(r.Bytes)
		times = append(times, r.Seconds)
	}
	v.RoundFacts = []fact{
		{Label: "Closed", Value: grouped(n["closed"]), Note: "the sum was opened and moved the model"},
		{Label: "Aborted", Value: grouped(n["aborted"]), Note: "nothing was opened"},
		{Label: "Burnt", Value: grouped(n["burnt"]), Note: "something may have been seen, so the charge stands"},
		{Label: "A round took", Value: seconds(median(times)), Note: "median, from plan to result"},
		{Label: "Masked words", Value: size(bytes), Note: "received in all rounds together"},
	}
	used := usedPhases(s.Rounds)
	v.Rounds = []figure{timeFigure(s.Rounds, used), setsFigure(s), bytesFigure(s.Rounds)}
	v.Rounds[1].Table = roundsTable(s)
}

func median(xs []float64) float64 {
	ys := slices.Sorted(slices.Values(xs))
	if len(ys) == 0 {
		return 0
	}
	return (ys[(len(ys)-1)/2] + ys[len(ys)/2]) / 2
}

func usedPhases(rounds []summary.Round) []string {
	seen := map[string]bool{}
	for _, r := range rounds {
		for p := range r.Phases {
			seen[p] = true
		}
	}
	var out []string
	for _, p := range phases {
		if seen[p] {
			out = append(out, p)
			delete(seen, p)
		}
	}
	return append(out, slices.Sorted(maps.Keys(seen))...)
}

// phaseClass is the style of a phase by its place in the order of all.
func phaseClass(p string) string {
	if i := slices.Index(phases, p); i >= 0 {
		return fmt.Sprintf("phase%d", i)
	}
	return "phase-other"
}

func timeFigure(rounds []summary.Round, used []string) figure {
	f := figure{Title: "Time of each round, by phase"}
	g := &grid{Name: "Time by round and phase, in ms", Class: "many", Head: append([]string{"Round"}, breakable(used)...)}
	for _, r := range rounds {
		row := []string{grouped(r.Number)}
		for _, p := range used {
			cell := ""
			if s, ok := r.Phases[p]; ok {
				cell = digits(s * 1e3)
			}
			row = append(row, cell)
		}
		g.Rows = append(g.Rows, row)
	}
	for _, p := range used {
		var times []float64
		for _, r := range rounds {
			if s, ok := r.Phases[p]; ok {
				times = append(times, s)
			}
		}
		f.Keys = append(f.Keys, blockKey("phase "+phaseClass(p), p+", "+seconds(median(times))))
	}
	f.Words = []string{"The key is in the order of a bar from its foot, with the median of each phase."}
	top, over := cut(rounds)
	if len(over) > 0 {
		var said []string
		for _, r := range over[:min(len(over), 3)] {
			said = append(said, fmt.Sprintf("round %d took %s", r.Number, seconds(r.Seconds)))
		}
		if n := len(over) - 3; n > 0 {
			said = append(said, count(n, "more round")+" took longer than is drawn")
		}
		f.Words = append(f.Words, "A bar with an arrow goes on: "+list(said)+".")
	}
	f.Plots = both(func(class string, width float64) *plot { return drawTimes(class, width, rounds, used, top) })
	f.Table = g
	return f
}

// breakable lets a narrow table break the names of phases before their ending.
func breakable(words []string) []string {
	var out []string
	for _, w := range words {
		if stem, ok := strings.CutSuffix(w, "ing"); ok {
			w = stem + "\u00ading"
		}
		out = append(out, capital(w))
	}
	return out
}

func phaseSum(r summary.Round) float64 {
	var t float64
	for _, p := range slices.Sorted(maps.Keys(r.Phases)) { // in one order: a sum of floats depends on it
		t += r.Phases[p]
	}
	return t
}

// cut is where the axis of times ends, in seconds, and the rounds that go on beyond it: one that waited for
// a missing hospital would leave the others flat.
func cut(rounds []summary.Round) (top float64, over []summary.Round) {
	var times []float64
	for _, r := range rounds {
		times = append(times, phaseSum(r))
	}
	slices.Sort(times)
	top = times[len(times)-1]
	if usual := times[(len(times)-1)*3/4]; usual > 0 && top > 4*usual {
		top = times[0]
		for _, t := range times {
			if t <= 2*usual {
				top = t
			}
		}
	}
	for _, r := range rounds {
		if phaseSum(r) > top {
			over = append(over, r)
		}
	}
	return top, over
}

func drawTimes(class string, width float64, rounds []summary.Round, used []string, top float64) *plot {
	p := newPlot("times", class, "Time of each round, by phase", width, curveHeight)
	left, right := 46.0, width-12
	factor, unit := 1e3, "ms"
	if top >= 5 {
		factor, unit = 1, "s"
	}
	y := scale{lo: 0, hi: roundUp(top * factor), from: curveBottom, to: curveTop}
	p.horizontal(y, left, right, 6, plain, unit)
	n := rounds[len(rounds)-1].Number
	x := p.rounds(n, left, right, curveBottom)
	step := x.at(2) - x.at(1)
	bar := min(step*0.74, 26)
	for _, r := range rounds {
		var foot float64
		for _, ph := range used {
			s := r.Phases[ph] * factor
			if s <= 0 || foot >= y.hi {
				continue
			}
			a, b := y.at(foot), y.at(foot+s)
			p.rect("phase "+phaseClass(ph), x.at(float64(r.Number))-bar/2, b, bar, a-b, fmt.Sprintf("round %d, %s: %s", r.Number, ph, seconds(r.Phases[ph])))
			foot += s
		}
		if foot > y.hi {
			p.path("mark over", markPath("triangle", x.at(float64(r.Number)), curveTop-7, min(4.5, step*0.5)), fmt.Sprintf("round %d: %s", r.Number, seconds(phaseSum(r))))
		}
	}
	p.Desc = fmt.Sprintf("Stacked bars in %s, one for each of %s, with the phases %s. The table below has every value.", unit, count(len(rounds), "round"), list(used))
	return p
}

func bytesFigure(rounds []summary.Round) figure {
	f := figure{Title: "Masked words received, by round", Words: []string{"The size depends on the model and on how many hospitals answer, never on a patient."}}
	f.Plots = both(func(class string, width float64) *plot { return drawBytes(class, width, rounds) })
	return f
}

func drawBytes(class string, width float64, rounds []summary.Round) *plot {
	p := newPlot("bytes", class, "Bytes of masked words by round", width, 200)
	const top, bottom = 28.0, 156.0
	left, right := 46.0, width-12
	var most float64
	for _, r := range rounds {
		most = max(most, float64(r.Bytes))
	}
	divisor, unit := 1.0, "bytes"
	for _, u := range []struct {
		of   float64
		name string
	}{{1e9, "GB"}, {1e6, "MB"}, {1e3, "kB"}} {
		if divisor == 1 && most >= 2*u.of {
			divisor, unit = u.of, u.name
		}
	}
	y := scale{lo: 0, hi: roundUp(most), from: bottom, to: top}
	p.horizontal(y, left, right, 5, func(t float64) string { return plain(tidy(t / divisor)) }, unit)
	x := p.rounds(rounds[len(rounds)-1].Number, left, right, bottom)
	bar := min((x.at(2)-x.at(1))*0.74, 26)
	for _, r := range rounds {
		h := bottom - y.at(float64(r.Bytes))
		p.rect("bar masked", x.at(float64(r.Number))-bar/2, bottom-h, bar, h, fmt.Sprintf("round %d: %s bytes", r.Number, grouped(r.Bytes)))
	}
	p.Desc = fmt.Sprintf("Bars of the bytes received in each of %s; at most %s in one round.", count(len(rounds), "round"), size(most))
	return p
}

func setsFigure(s summary.Summary) figure {
	f := figure{
		Title: "Who was in each round's set, and how it ended",
		Keys: []key{
			blockKey("in", "in the set"), markKey("dash", "out", "not in it"),
			markKey("circle", "closed", "closed"), markKey("cross", "lost", "aborted"), markKey("triangle", "burnt", "burnt"),
		},
		Plots: both(func(class string, width float64) *plot { return drawSets(class, width, s) }),
	}
	if n := len(s.Hospitals) - shownHospitals; n > 0 {
		f.Words = []string{fmt.Sprintf("The first %d hospitals are drawn; %s in the table.", shownHospitals, count(n, "more"))}
	}
	return f
}

func drawSets(class string, width float64, s summary.Summary) *plot {
	p := newPlot("sets", class, "Sets and outcomes by round", width, 0)
	const top, row = 6.0, 22.0
	left, right := math.Round(width*0.32), width-12
	hospitals := names(s.Hospitals)
	hospitals = hospitals[:min(len(hospitals), shownHospitals)]
	ends := top + row*float64(len(hospitals)) + 8
	bottom := ends + row
	p.Height = bottom + 42
	x := p.rounds(s.Rounds[len(s.Rounds)-1].Number, left, right, bottom)
	step := x.at(2) - x.at(1)
	w := min(step*0.74, 18)
	for i, h := range hospitals {
		y := top + row*float64(i)
		var in, out strings.Builder
		for _, r := range s.Rounds {
			c := x.at(float64(r.Number))
			if slices.Contains(r.Set, h) {
				fmt.Fprintf(&in, "M%s %sh%sv%dh-%sz", num(c-w/2), num(y+3), num(w), int(row)-6, num(w))
			} else {
				fmt.Fprintf(&out, "M%s %sh%s", num(c-w/3), num(y+row/2), num(w*2/3))
			}
		}
		p.path("in", in.String(), "")
		p.path("out", out.String(), "")
		p.text("name", "end", left-8, y+15, shorten(h, int((left-10)/7.4)))
	}
	p.line("gridline", 0, ends-4, right, ends-4)
	p.text("name", "end", left-8, ends+15, "outcome")
	for _, r := range s.Rounds {
		form, mark := "circle", "closed"
		switch r.Outcome {
		case "closed":
		case "burnt":
			form, mark = "triangle", "burnt"
		default:
			form, mark = "cross", "lost"
		}
		p.path("mark "+mark, markPath(form, x.at(float64(r.Number)), ends+row/2, min(4, step*0.4)), fmt.Sprintf("round %d: %s", r.Number, r.Outcome))
	}
	n := outcomes(s.Rounds)
	p.Desc = fmt.Sprintf("A grid of %s and %s. %d closed, %d aborted, %d burnt. The table below names each round's set.",
		count(len(hospitals), "hospital"), count(len(s.Rounds), "round"), n["closed"], n["aborted"], n["burnt"])
	return p
}

func roundsTable(s summary.Summary) *grid {
	g := &grid{Name: "Every round", Class: "words", Head: []string{"Round", "Outcome", "Time", "Bytes", "Set"}}
	all := names(s.Hospitals)
	for _, r := range s.Rounds {
		g.Rows = append(g.Rows, []string{grouped(r.Number), r.Outcome, seconds(r.Seconds), grouped(r.Bytes), set(r.Set, all)})
	}
	return g
}
