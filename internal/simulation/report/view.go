package report

import (
	"fmt"
	"html/template"
	"slices"
	"strings"

	"github.com/consilium-fl/consilium/internal/simulation/summary"
)

// view is what page.html reads: words, figures and tables, in the order of the page.
type view struct {
	Style  template.CSS
	Policy string

	Title, Digest string
	Simulated     string // what is simulated, in words; empty where nothing is
	Short         string // why the study ended before its last round
	Lead          string
	Facts         []fact

	Lanes     []figure // update, masked words, sum
	Histogram figure
	Flat      []string // what the histogram shows, and what it does not

	Scores, Spent figure

	Together []fact
	Compared []figure

	Epsilons figure
	Meanings []meaning
	Delta    []fact

	RoundFacts []fact
	Rounds     []figure

	Attested []attested

	Checked, Not []string
}

// fact is one figure with its name, and what to know about it.
type fact struct{ Label, Value, Note string }

// meaning says what one ε covers.
type meaning struct{ Name, Value, Odds, Words string }

// figure is a plot in its two sizes, with its words, its key and its numbers.
type figure struct {
	Class, Title string
	Badge, Seal  string // Seal marks the badge's kind for the style
	Words        []string
	Keys         []key
	Plots        []*plot
	Table        *grid
	Open         bool // the table is part of the figure, not folded away
	Note         string
}

// key is an entry of a legend: a mark drawn at (12, 8).
type key struct{ D, Class, Label string }

func markKey(form, class, label string) key {
	return key{D: markPath(form, 12, 8, 4.5), Class: class, Label: label}
}

func lineKey(class, label string) key {
	return key{D: polyline([][2]float64{{1, 8}, {23, 8}}), Class: class, Label: label}
}

func blockKey(class, label string) key {
	return key{D: polyline([][2]float64{{4, 2}, {20, 2}, {20, 14}, {4, 14}}) + "Z", Class: class, Label: label}
}

// grid is a table whose first column names the row.
type grid struct {
	Name  string
	Class string // words: the last column is prose; many: many narrow columns; masked: the third is hexadecimal
	Head  []string
	Rows  [][]string
	Foot  [][]string
}

// attested is one process's card.
type attested struct {
	summary.Attested
	Good bool
}

func newView(d Data) view {
	s := d.Summary
	v := view{Title: d.Title, Digest: s.Study, Checked: d.Checked, Not: d.Not}
	if v.Title == "" {
		v.Title = "A study without a title"
	}
	v.header(d)
	v.saw(d)
	v.curves(d)
	v.compared(s)
	v.privacy(s)
	v.rounds(s)
	for _, a := range d.Attested {
		v.Attested = append(v.Attested, attested{Attested: a, Good: a.Status == "affirming"})
	}
	return v
}

func (v *view) header(d Data) {
	s := d.Summary
	fake := 0
	for _, a := range d.Attested {
		if a.Simulated {
			fake++
		}
	}
	switch {
	case fake > 0 && fake == len(d.Attested):
		v.Simulated = "All hospitals ran on one computer, and every trusted machine was simulated. The messages, the masks, the noise and the log are the real ones; the evidence proves nothing about hardware."
	case fake > 0:
		v.Simulated = fmt.Sprintf("All hospitals ran on one computer, and %d of %d trusted machines were simulated: their evidence proves nothing about hardware.", fake, len(d.Attested))
	case s.Simulated:
		v.Simulated = "All hospitals ran on one computer. The messages, the masks, the noise and the log are the real ones."
	}
	closed := outcomes(s.Rounds)["closed"]
	v.Lead = fmt.Sprintf("%s trained one model in %s. The coordinator between them received masked words and opened noised sums.",
		capital(count(len(s.Hospitals), "hospital")), count(closed, "closed round"))
	if s.State == "short" {
		v.Short = "The study ended before its last round."
		if s.Why != "" {
			v.Short += " The reason given: " + s.Why
		}
	}
	v.Facts = []fact{
		{Label: "Time", Value: seconds(s.Seconds), Note: "from the command to the verified receipt"},
		{Label: "Memory", Value: size(float64(s.PeakBytes)), Note: "at most, of the one process that held all hospitals"},
		{Label: "Privacy", Value: "ε = " + epsilon(&s.Privacy.Epsilon), Note: "spent, of a budget of " + plain(s.Privacy.EpsilonBudget)},
		{Label: "Accuracy", Value: score(s.Federated.Accuracy), Note: "of the released model, on everybody's held-back patients"},
	}
}

func outcomes(rounds []summary.Round) map[string]int {
	n := map[string]int{}
	for _, r := range rounds {
		n[r.Outcome]++
	}
	return n
}

func capital(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// both draws a figure in its two sizes.
func both(draw func(class string, width float64) *plot) []*plot {
	return []*plot{draw("narrow", 360), draw("wide", 560)}
}

func names(hs []summary.Hospital) []string {
	var out []string
	for _, h := range hs {
		out = append(out, h.Name)
	}
	return out
}

// lastRound is the highest number that a plot by round has to show.
func lastRound(d Data) uint64 {
	var n uint64
	for _, r := range d.Summary.Rounds {
		n = max(n, r.Number)
	}
	for _, c := range d.Curve {
		n = max(n, c.Round)
	}
	return n
}

// set says in words who is in a round's set.
func set(in, all []string) string {
	var away []string
	for _, h := range all {
		if !slices.Contains(in, h) {
			away = append(away, h)
		}
	}
	switch {
	case len(in) == 0:
		return "none"
	case len(away) == 0:
		return "all " + grouped(len(in))
	case len(away) <= 3:
		return "all but " + list(away)
	}
	return fmt.Sprintf("%d of %d", len(in), len(all))
}
