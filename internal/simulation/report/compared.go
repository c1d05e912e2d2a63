package report

import (
	"fmt"
	"strings"

	"github.com/consilium-fl/consilium/internal/simulation/summary"
)

// contender is one way to come by a model, scored for each hospital.
type contender struct {
	class, form, name, head string
	of                      func(summary.Hospital) summary.Score
}

var contenders = []contender{
	{"federated", "circle", "federated, on its own patients", "Federated", func(h summary.Hospital) summary.Score { return h.Federated }},
	{"alone", "diamond", "alone, on its own patients", "Alone", func(h summary.Hospital) summary.Score { return h.Alone }},
	{"noised", "cross", "alone at the same ε, on its own patients", "Alone at the same ε", func(h summary.Hospital) summary.Score { return h.AloneNoise }},
	{"everyone", "triangle", "alone, on everybody's patients", "Alone, on all", func(h summary.Hospital) summary.Score { return h.AloneOnAll }},
}

// measure is one of the two scores.
type measure struct {
	id, name string
	of       func(summary.Score) *float64
}

var measures = []measure{
	{"compare-accuracy", "Accuracy", func(s summary.Score) *float64 { return s.Accuracy }},
	{"compare-auc", "AUC", func(s summary.Score) *float64 { return s.AUC }},
}

func (v *view) compared(s summary.Summary) {
	pair := func(x summary.Score) string { return score(x.Accuracy) + " / " + score(x.AUC) }
	v.Together = []fact{
		{Label: "Federated", Value: pair(s.Federated), Note: "accuracy / AUC of the released model on everybody's held-back patients"},
		{Label: "Pooled", Value: pair(s.Pooled), Note: "a model fitted on all patients in one place, without privacy, on the same patients"},
		{Label: "Mean of hospitals", Value: pair(s.MeanOfHospitals), Note: "the released model at each hospital, every hospital counted alike"},
	}
	for _, m := range measures {
		v.Compared = append(v.Compared, m.figure(s))
	}
}

func (m measure) figure(s summary.Summary) figure {
	f := figure{Title: m.name + " by hospital", Open: true}
	for _, c := range contenders {
		f.Keys = append(f.Keys, markKey(c.form, c.class, c.name))
	}
	if len(defined(m.of(s.Pooled))) > 0 {
		f.Keys = append(f.Keys, lineKey("pooled", "pooled data, on everybody's patients"))
	}
	if len(s.Hospitals) > 0 {
		f.Plots = both(func(class string, width float64) *plot { return m.draw(class, width, s) })
	}
	g := &grid{Name: m.name + " by hospital, on held-back patients", Head: []string{"Hospital"}}
	for _, c := range contenders {
		g.Head = append(g.Head, c.head)
	}
	for _, h := range s.Hospitals {
		row := []string{h.Name}
		for _, c := range contenders {
			row = append(row, score(m.of(c.of(h))))
		}
		g.Rows = append(g.Rows, row)
	}
	g.Foot = [][]string{
		{"Everybody's patients", score(m.of(s.Federated)), "", "", ""},
		{"Mean of hospitals", score(m.of(s.MeanOfHospitals)), "", "", ""},
		{"Pooled data", score(m.of(s.Pooled)), "", "", ""},
	}
	f.Table = g
	f.Note = undefined(m, s)
	return f
}

// undefined says where a score cannot be.
func undefined(m measure, s summary.Summary) string {
	var where []string
	for _, h := range s.Hospitals {
		if len(defined(m.of(h.Federated))) == 0 {
			where = append(where, h.Name)
		}
	}
	if len(where) == 0 {
		return ""
	}
	why := "it has no held-back patient that could be scored"
	if m.name == "AUC" {
		why = "its held-back patients are all of one class, so there are no two to tell apart"
	}
	return fmt.Sprintf("n/a at %s: %s.", list(where), why)
}

const (
	subline  = 14.0 // height of one contender's line
	groupGap = 26.0 // the hospital's name above its lines
	dotTop   = 6.0
)

// draw is a dot plot: for each hospital a line for each contender, so that no two marks share a place.
func (m measure) draw(class string, width float64, s summary.Summary) *plot {
	group := groupGap + subline*float64(len(contenders))
	bottom := dotTop + group*float64(len(s.Hospitals)) + 8
	p := newPlot(m.id, class, m.name+" by hospital", width, bottom+42)
	var all []float64
	for _, h := range s.Hospitals {
		for _, c := range contenders {
			all = append(all, defined(m.of(c.of(h)))...)
		}
	}
	all = append(all, defined(m.of(s.Pooled))...)
	x := scale{lo: floorOf(all), hi: 1, from: 14, to: width - 14}
	at := ticks(x.lo, 1, 6)
	p.vertical(x, dotTop, bottom, at, plain, strings.ToLower(m.name[:1])+m.name[1:]+", from 0 to 1")
	if m.name == "AUC" {
		p.Shapes[len(p.Shapes)-1].Text = "AUC, from 0 to 1"
	}
	for i, h := range s.Hospitals {
		y := dotTop + group*float64(i)
		p.rect("ground", 0, y+2, width, 19, "")
		p.text("group", "start", 6, y+16, shorten(h.Name, int(width*0.5/7.6)))
		p.text("count", "end", width-6, y+16, fmt.Sprintf("%s trained, %s held back", grouped(h.Train), grouped(h.HeldBack)))
		for k, c := range contenders {
			m.dot(p, c, h, x, y+groupGap+subline*(float64(k)+0.5))
		}
	}
	for _, pooled := range defined(m.of(s.Pooled)) {
		for i := range s.Hospitals {
			y := dotTop + group*float64(i)
			p.line("pooled", x.at(pooled), y+groupGap-3, x.at(pooled), y+group+1)
		}
	}
	p.line("axis", x.from, bottom, x.to, bottom)
	p.Desc = fmt.Sprintf("For each of %s, marks on a scale up to 1: %s. A line marks pooled data at %s. The table below has every value.",
		count(len(s.Hospitals), "hospital"), list(contenderNames()), score(m.of(s.Pooled)))
	return p
}

func (m measure) dot(p *plot, c contender, h summary.Hospital, x scale, y float64) {
	p.line("guide", x.from, y, x.to, y)
	value := m.of(c.of(h))
	if len(defined(value)) == 0 {
		p.path("mark "+c.class, markPath(c.form, x.from+4, y, 4), "")
		p.text("none", "start", x.from+14, y+4, absent)
		return
	}
	p.path("mark "+c.class, markPath(c.form, x.at(*value), y, 4.2), h.Name+", "+c.name+": "+score(value))
}

func contenderNames() []string {
	var out []string
	for _, c := range contenders {
		out = append(out, c.name)
	}
	return out
}
