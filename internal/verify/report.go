package verify

import (
	"fmt"
	"strings"
	"unicode"
)

// ReportVersion is the version of a Report in JSON.
const ReportVersion = "consilium.verification/v1"

// Status is how a check ended.
type Status string

// The statuses. A report is good when no line has failed and every check that lacks nothing was made.
const (
	Checked    Status = "checked"
	Failed     Status = "failed"
	NotChecked Status = "not checked"
)

// Problem is one object that does not hold, by its path in the folder where it has one.
type Problem struct {
	Object string `json:"object"`
	Reason string `json:"reason"`
}

// Line is one check, or one thing that no check can tell.
type Line struct {
	Name     string    `json:"name"`
	Status   Status    `json:"status"`
	Text     string    `json:"text"`
	Problems []Problem `json:"problems,omitempty"`
	More     int       `json:"more,omitempty"` // problems that are not listed
}

// Report is what `consilium audit verify` prints.
type Report struct {
	Version    string `json:"version"`
	Folder     string `json:"folder"`
	OK         bool   `json:"ok"`
	Pinned     bool   `json:"pinned"`    // the consortium's digest was given from outside
	Simulated  bool   `json:"simulated"` // some evidence is of a simulated TEE
	Study      string `json:"study"`
	Consortium string `json:"consortium"`
	Root       string `json:"root"` // in words: what everything else hangs on
	Lines      []Line `json:"lines"`
	// Limits are what nothing in the folder can show. They are no fault of it.
	Limits []Line `json:"limits"`
}

// finish sums the lines up: what was not looked at never makes a report good.
func (r *Report) finish() {
	r.OK = true
	for _, l := range r.Lines {
		if l.Status != Checked {
			r.OK = false
		}
	}
}

// Failures are all problems of all lines, in order.
func (r *Report) Failures() []Problem {
	var ps []Problem
	for _, l := range r.Lines {
		ps = append(ps, l.Problems...)
	}
	return ps
}

// String is the report for a terminal.
func (r *Report) String() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	p("%s\n", r.Root)
	if r.Simulated {
		p("SIMULATED: the evidence is of simulated TEEs. It shows that the software worked, not on which machines it ran.\n")
	}
	p("\n")
	for _, l := range r.Lines {
		l.write(&b)
	}
	p("\nWhat this folder cannot show:\n")
	for _, l := range r.Limits {
		l.write(&b)
	}
	if r.OK {
		p("\nOK: every check holds.\n")
	} else {
		n, unseen := 0, 0
		for _, l := range r.Lines {
			n += len(l.Problems) + l.More
			if l.Status == NotChecked {
				unseen++
			}
		}
		p("\nFAILED: %s", count(n, "problem"))
		if unseen > 0 {
			p(", and %s could not be made", count(unseen, "check"))
		}
		p(".\n")
	}
	return b.String()
}

func (l Line) write(b *strings.Builder) {
	fmt.Fprintf(b, "  %-11s  %-13s  %s\n", l.Status, l.Name, plain(l.Text))
	for _, p := range l.Problems {
		fmt.Fprintf(b, "    %s: %s\n", plain(p.Object), plain(p.Reason))
	}
	if l.More > 0 {
		fmt.Fprintf(b, "    and %d more\n", l.More)
	}
}

// plain keeps what others wrote, a file's name for one, from acting on a terminal. Line breaks in an error of
// many parts stay, indented.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == '\n' || unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
	return strings.ReplaceAll(s, "\n", "\n      ")
}
