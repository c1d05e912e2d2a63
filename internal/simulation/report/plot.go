package report

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// plot is one picture: shapes in user units, which page.html writes out as SVG, so that every text in it
// passes the template's escaping. Classes carry all colour; style.css knows both themes.
type plot struct {
	ID, Title, Desc string
	Class           string // narrow or wide: the page shows the one that fits
	Width, Height   float64
	Shapes          []shape
}

// shape is a rect, a path or a text; numbers are already text. Tip is what a pointer resting on it shows.
type shape struct {
	Kind, Class       string
	X, Y, W, H        string
	D                 string
	Anchor, Text, Tip string
}

// newPlot is a drawing of one size. Texts are 12 units high, and the page never shows a unit much below a
// pixel.
func newPlot(id, class, title string, width, height float64) *plot {
	return &plot{ID: id + "-" + class, Class: class, Title: title, Width: width, Height: height}
}

func (p *plot) rect(class string, x, y, w, h float64, tip string) {
	p.Shapes = append(p.Shapes, shape{Kind: "rect", Class: class, X: num(x), Y: num(y), W: num(max(w, 0)), H: num(max(h, 0)), Tip: tip})
}

func (p *plot) path(class, d, tip string) {
	if d != "" {
		p.Shapes = append(p.Shapes, shape{Kind: "path", Class: class, D: d, Tip: tip})
	}
}

func (p *plot) line(class string, x1, y1, x2, y2 float64) {
	p.path(class, polyline([][2]float64{{x1, y1}, {x2, y2}}), "")
}

func (p *plot) text(class, anchor string, x, y float64, s string) {
	p.Shapes = append(p.Shapes, shape{Kind: "text", Class: class, X: num(x), Y: num(y), Anchor: anchor, Text: s})
}

// num writes a coordinate to a tenth of a unit.
func num(v float64) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return "0"
	}
	s := strconv.FormatFloat(v, 'f', 1, 64)
	s = strings.TrimSuffix(s, ".0")
	if s == "-0" {
		return "0"
	}
	return s
}

func polyline(points [][2]float64) string {
	var b strings.Builder
	for i, q := range points {
		b.WriteByte("ML"[min(i, 1)])
		b.WriteString(num(q[0]) + " " + num(q[1]))
	}
	return b.String()
}

// markPath outlines a mark around a point. The forms differ, so that no reading hangs on colour.
func markPath(form string, x, y, r float64) string {
	switch form {
	case "square":
		return polyline([][2]float64{{x - r, y - r}, {x + r, y - r}, {x + r, y + r}, {x - r, y + r}}) + "Z"
	case "diamond":
		q := r * 1.3
		return polyline([][2]float64{{x, y - q}, {x + q, y}, {x, y + q}, {x - q, y}}) + "Z"
	case "triangle":
		q := r * 1.2
		return polyline([][2]float64{{x, y - q}, {x + q, y + q*0.8}, {x - q, y + q*0.8}}) + "Z"
	case "cross":
		return polyline([][2]float64{{x - r, y - r}, {x + r, y + r}}) + polyline([][2]float64{{x - r, y + r}, {x + r, y - r}})
	case "dash":
		return polyline([][2]float64{{x - 2*r, y}, {x + 2*r, y}})
	default: // a circle
		return fmt.Sprintf("M%s %sa%[3]s %[3]s 0 1 0 %[4]s 0a%[3]s %[3]s 0 1 0 -%[4]s 0Z", num(x-r), num(y), num(r), num(2*r))
	}
}

// scale maps lo to from and hi to to, linearly.
type scale struct{ lo, hi, from, to float64 }

func (s scale) at(v float64) float64 {
	if s.hi == s.lo {
		return s.from
	}
	return s.from + (min(max(v, s.lo), s.hi)-s.lo)/(s.hi-s.lo)*(s.to-s.from)
}

// ticks are the multiples of 1, 2 or 5 times a power of ten in [lo, hi]: as many as fit into most.
func ticks(lo, hi float64, most int) []float64 {
	if !(hi > lo) || most < 1 || math.IsInf(hi-lo, 0) {
		return nil
	}
	step := math.Pow(10, math.Floor(math.Log10((hi-lo)/float64(most))))
	for i := 0; ; i++ {
		s := step * [...]float64{1, 2, 5, 10, 20, 50, 100}[i]
		first, last := math.Ceil(lo/s-1e-9), math.Floor(hi/s+1e-9)
		if int(last-first)+1 > most && i < 6 {
			continue
		}
		var out []float64
		for k := first; k <= last; k++ {
			out = append(out, tidy(k*s))
		}
		return out
	}
}

// tidy takes the last binary digits off: 3 times 0.1 is 0.3 on an axis.
func tidy(v float64) float64 {
	if t := rounded(v, 12); t != 0 {
		return t
	}
	return 0 // and never its negative
}

// around is the smallest symmetric range with round ends that holds all values.
func around(values []float64) (lo, hi float64) {
	var m float64
	for _, v := range values {
		m = max(m, math.Abs(v))
	}
	m = roundUp(m)
	return -m, m
}

// roundUp is the next of 1, 1.5, 2, 3, 4, 5, 6, 8 times a power of ten; 1 for zero.
func roundUp(v float64) float64 {
	if !(v > 0) || math.IsInf(v, 0) {
		return 1
	}
	p := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 1.5, 2, 3, 4, 5, 6, 8} {
		if v <= m*p*(1+1e-9) {
			return tidy(m * p)
		}
	}
	return tidy(10 * p)
}

// floorOf is where an axis of scores up to 1 begins: a tenth below the least, at most 0.8.
func floorOf(scores []float64) float64 {
	lo := 0.8
	for _, s := range scores {
		lo = min(lo, math.Floor(s*10-0.1)/10)
	}
	return max(tidy(lo), 0)
}

// horizontal draws an axis at the left with lines across, and says the unit above it.
func (p *plot) horizontal(s scale, left, right float64, most int, format func(float64) string, unit string) {
	for _, t := range ticks(s.lo, s.hi, most) {
		y := s.at(t)
		p.line("gridline", left, y, right, y)
		p.text("tick", "end", left-6, y+4, format(t))
	}
	p.text("unit", "start", 0, 12, unit)
}

// vertical draws an axis at the bottom with lines upward, and says the unit below it.
func (p *plot) vertical(s scale, top, bottom float64, at []float64, format func(float64) string, unit string) {
	for _, t := range at {
		x := s.at(t)
		p.line("gridline", x, top, x, bottom)
		p.text("tick", "middle", x, bottom+16, format(t))
	}
	p.text("unit", "middle", (s.from+s.to)/2, bottom+34, unit)
}

// rounds is the axis of round numbers 1 to n, whose marks stand in the middle of a step.
func (p *plot) rounds(n uint64, left, right, bottom float64) scale {
	s := scale{lo: 0.5, hi: float64(max(n, 1)) + 0.5, from: left, to: right}
	at := []float64{1}
	for _, t := range ticks(0, float64(n), 6) {
		if t >= 1 && t == math.Trunc(t) && (t-1)*(right-left)/float64(n) > 28 {
			at = append(at, t)
		}
	}
	p.line("axis", left, bottom, right, bottom)
	for _, t := range at {
		p.text("tick", "middle", s.at(t), bottom+16, strconv.FormatFloat(t, 'f', -1, 64))
	}
	p.text("unit", "middle", (left+right)/2, bottom+34, "round")
	return s
}
