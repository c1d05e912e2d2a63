package report

import (
	"fmt"
	"math"
	"strconv"

	"github.com/consilium-fl/consilium/internal/simulation/summary"
)

// A lane shows at most this many columns, and its table at most that many: a page is for reading.
const (
	laneRows  = 64
	tableRows = 512
)

// lane is one bar for each column of the model. Lanes of one size stand beside one another on the same rows.
type lane struct {
	id, title string
	unit      string
	values    []float64
	texts     []string // written at the end of each row, of one length
	lo, hi    float64
}

func (v *view) saw(d Data) {
	s := d.Summary
	w := d.Saw
	words := maskedWords(w)
	n := max(len(w.Plain), len(words), len(w.Sum))
	columns := columnNames(w.Columns, n)
	v.Lanes = []figure{
		updateLane(w).figure(columns, figure{
			Class: "lane", Title: "One hospital's update", Badge: "Known only to this simulation", Seal: "secret",
			Words: []string{
				fmt.Sprintf("What the patients of %s add up to in round %d, before noise and masks: one number for each column of the model.", w.Hospital, w.Round),
				"It never left the hospital. It is here because a simulation holds everybody's data.",
			},
		}),
		maskedLane(w, words).figure(columns, figure{
			Class: "lane", Title: "The words received for it", Badge: "Seen by the coordinator", Seal: "seen",
			Words: []string{
				"The same numbers as they arrived, under the hospital's share of the noise and under masks that cancel only in the sum.",
				"A bar here says nothing about the bar beside it: behind the mask every word is as likely as any other.",
			},
		}),
		sumLane(w).figure(columns, sumFigure(w, s)),
	}
	v.Lanes[0].Table = lanesTable(w, columns, words)
	v.histogram(w)
}

func sumFigure(w summary.Saw, s summary.Summary) figure {
	f := figure{Class: "lane", Title: "The noised sum", Badge: "Opened by the coordinator", Seal: "seen"}
	if len(w.Sum) == 0 {
		f.Words = []string{fmt.Sprintf("Round %d ended without a sum: nothing was opened, and the words beside were never unmasked.", w.Round)}
		return f
	}
	over := "over all hospitals that answered"
	for _, r := range s.Rounds {
		if r.Number == w.Round && len(r.Set) > 0 {
			over = "over " + count(len(r.Set), "hospital")
		}
	}
	f.Words = []string{
		fmt.Sprintf("In the sum %s the masks cancel and the noise stays.", over),
		"This is all that the coordinator could read of the round, and all that moved the model.",
	}
	return f
}

// figure draws a lane beside the others, where there is something to draw.
func (l lane) figure(columns []string, f figure) figure {
	if len(l.values) == 0 {
		return f
	}
	if n := len(l.values); n > laneRows {
		f.Words = append(f.Words, fmt.Sprintf("The first %d of %s columns are drawn.", laneRows, grouped(n)))
	}
	wide := l.draw("wide", 350, nil)
	if l.id == "update" {
		wide = l.draw("wide", 460, columns)
	}
	f.Plots = []*plot{l.draw("narrow", 360, columns), wide}
	return f
}

func updateLane(w summary.Saw) lane {
	l := lane{id: "update", title: "Update of " + w.Hospital + " by column", unit: "grid units", values: floats(w.Plain)}
	l.lo, l.hi = around(l.values)
	return l
}

func sumLane(w summary.Saw) lane {
	l := lane{id: "sum", title: "Noised sum by column", unit: "grid units", values: floats(w.Sum)}
	l.lo, l.hi = around(l.values)
	return l
}

func maskedLane(w summary.Saw, words []uint64) lane {
	l := lane{
		id: "masked", title: "Masked words received for " + w.Hospital + ", by column",
		unit: fmt.Sprintf("word of %d bits", w.WordBits), hi: math.Ldexp(1, int(w.WordBits)),
	}
	for _, x := range words {
		l.values = append(l.values, float64(x))
		l.texts = append(l.texts, hex(x, w.WordBits))
	}
	return l
}

func hex(x uint64, bits uint8) string { return fmt.Sprintf("%0*x", int(bits)/4, x) }

func floats(xs []int64) []float64 {
	out := make([]float64, len(xs))
	for i, x := range xs {
		out[i] = float64(x)
	}
	return out
}

// maskedWords reads the little-endian words; what does not fill a word is left out.
func maskedWords(w summary.Saw) []uint64 {
	width := int(w.WordBits) / 8
	if width < 1 || width > 8 || w.WordBits%8 != 0 {
		return nil
	}
	var out []uint64
	for b := w.Masked; len(b) >= width; b = b[width:] {
		var x uint64
		for i := width - 1; i >= 0; i-- {
			x = x<<8 | uint64(b[i])
		}
		out = append(out, x)
	}
	return out
}

// columnNames gives every row a name.
func columnNames(have []string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = "column " + strconv.Itoa(i+1)
		if i < len(have) {
			out[i] = have[i]
		}
	}
	return out
}

const (
	laneRow = 17.0
	laneTop = 4.0
)

// draw makes the lane with names at the left, or with none where the lane beside it has them.
func (l lane) draw(class string, width float64, columns []string) *plot {
	n := min(len(l.values), laneRows)
	bottom := laneTop + laneRow*float64(n)
	p := newPlot(l.id, class, l.title, width, bottom+42)
	left, right := 20.0, width-20
	if columns != nil {
		left = math.Round(width * 0.4)
	}
	if l.texts != nil {
		right = width - 14 - 7*float64(len(l.texts[0]))
	}
	for i := 0; i < n; i += 2 {
		p.rect("zebra", 0, laneTop+laneRow*float64(i), width, laneRow, "")
	}
	s := scale{lo: l.lo, hi: l.hi, from: left, to: right}
	divisor, unit := units(l.hi)
	if unit != "" {
		unit = ", " + unit
	}
	p.vertical(s, laneTop, bottom, ticks(l.lo, l.hi, 5), func(t float64) string { return plain(tidy(t / divisor)) }, l.unit+unit)
	zero := s.at(max(l.lo, 0))
	most := 0
	for i := range n {
		y, end := laneTop+laneRow*float64(i), s.at(l.values[i])
		tip := l.say(i)
		if columns != nil {
			p.text("name", "end", left-10, y+12.5, shorten(columns[i], int((left-12)/7.3)))
			tip = columns[i] + ": " + tip
		}
		p.rect("bar "+l.id, min(zero, end), y+3.5, max(math.Abs(end-zero), 0.6), laneRow-7, tip)
		if l.texts != nil {
			p.text("hex", "start", right+8, y+12.5, l.texts[i])
		}
		if math.Abs(l.values[i]) > math.Abs(l.values[most]) {
			most = i
		}
	}
	p.line("axis", zero, laneTop, zero, bottom)
	p.Desc = fmt.Sprintf("Horizontal bars in %s, one for each of %s. The longest is %s.", l.unit, count(n, "column"), l.say(most))
	if columns != nil {
		p.Desc = fmt.Sprintf("Horizontal bars in %s, one for each of %s. The longest, of %s, is %s.", l.unit, count(n, "column"), columns[most], l.say(most))
	}
	p.Desc += " All values are in the table of this panel."
	return p
}

func (l lane) say(i int) string {
	if l.texts != nil {
		return l.texts[i] + " in hexadecimal digits"
	}
	return grouped(int64(l.values[i]))
}

func lanesTable(w summary.Saw, columns []string, words []uint64) *grid {
	g := &grid{Name: "Update, masked words and sum, column by column", Class: "masked", Head: []string{"Column", "Update", "Masked word", "Noised sum"}}
	for i, c := range columns[:min(len(columns), tableRows)] {
		row := []string{c, "", "", ""}
		if i < len(w.Plain) {
			row[1] = grouped(w.Plain[i])
		}
		if i < len(words) {
			row[2] = hex(words[i], w.WordBits)
		}
		if i < len(w.Sum) {
			row[3] = grouped(w.Sum[i])
		}
		g.Rows = append(g.Rows, row)
	}
	if n := len(columns) - tableRows; n > 0 {
		g.Rows = append(g.Rows, []string{"and " + count(n, "more column"), "", "", ""})
	}
	return g
}

func (v *view) histogram(w summary.Saw) {
	bins := len(w.Histogram)
	var n uint64
	for _, c := range w.Histogram {
		n += c
	}
	v.Histogram = figure{Title: "Bytes of all masked words, over all rounds"}
	if n == 0 {
		v.Flat = []string{"No masked word arrived, so there is nothing to count."}
		return
	}
	lo, hi := band(n, bins, confidence)
	expected := float64(n) / float64(bins)
	out := 0
	g := &grid{Name: "Bytes by value", Head: []string{"Byte values", "Bytes", "In the band"}}
	for i, c := range w.Histogram {
		in := "yes"
		if c < lo || c > hi {
			out, in = out+1, "no"
		}
		g.Rows = append(g.Rows, []string{fmt.Sprintf("%02x to %02x", i*16, i*16+15), grouped(c), in})
	}
	v.Histogram.Keys = []key{
		blockKey("bar masked", "bytes received"),
		blockKey("band", fmt.Sprintf("band of chance, %s to %s", grouped(lo), grouped(hi))),
		lineKey("expected", "expected, "+digits(expected)),
	}
	verdict := "All sixteen bars end in the band."
	if out > 0 {
		verdict = fmt.Sprintf("%s outside the band, which chance alone does in fewer than one run of a thousand.", map[bool]string{true: "1 bar ends", false: strconv.Itoa(out) + " bars end"}[out == 1])
	}
	v.Flat = []string{
		fmt.Sprintf("If the masks did not hide the updates, some byte values would be more frequent than others. Bytes that tell nothing are equally frequent, and in 999 of 1%s000 runs all sixteen bars end in the band.", thin),
		verdict + " This is a check that anyone can repeat, and no proof by itself: that the words hide the updates follows from the protocol.",
	}
	v.Histogram.Plots = both(func(class string, width float64) *plot {
		p := drawHistogram(class, width, w.Histogram[:], lo, hi, expected)
		p.Desc = fmt.Sprintf("Sixteen bars of the number of bytes by value, over %s bytes. The expected height is %s, the band goes from %s to %s. %s", grouped(n), digits(expected), grouped(lo), grouped(hi), verdict)
		return p
	})
	v.Histogram.Table = g
}

func drawHistogram(class string, width float64, bins []uint64, lo, hi uint64, expected float64) *plot {
	p := newPlot("histogram", class, "Histogram of the bytes of all masked words", width, 250)
	left, right, top, bottom := 56.0, width-14, 26.0, 206.0
	most := float64(hi)
	for _, c := range bins {
		most = max(most, float64(c))
	}
	y := scale{lo: 0, hi: roundUp(most * 1.02), from: bottom, to: top}
	divisor, unit := units(y.hi)
	if unit != "" {
		unit = ", " + unit
	}
	p.horizontal(y, left, right, 5, func(t float64) string { return plain(tidy(t / divisor)) }, "bytes"+unit)
	x := scale{lo: 0, hi: float64(len(bins)), from: left, to: right}
	for i, c := range bins {
		p.rect("bar masked", x.at(float64(i))+2, y.at(float64(c)), x.at(1)-x.at(0)-4, bottom-y.at(float64(c)),
			fmt.Sprintf("%02x to %02x: %s bytes", i*16, i*16+15, grouped(c)))
	}
	for i := 0; i <= len(bins); i += 2 {
		p.line("axis", x.at(float64(i)), bottom, x.at(float64(i)), bottom+4)
		p.text("tick", "middle", x.at(float64(i)), bottom+20, fmt.Sprintf("%02x", i*16))
	}
	p.rect("band", left, y.at(float64(hi)), right-left, y.at(float64(lo))-y.at(float64(hi)), "")
	p.line("expected", left, y.at(expected), right, y.at(expected))
	p.line("axis", left, bottom, right, bottom)
	p.text("unit", "middle", (left+right)/2, bottom+37, "byte value, hexadecimal, 16 bins of 16")
	return p
}
