package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/consilium-fl/consilium/internal/simulation"
)

// screen shows a person how a study goes: on a terminal a few lines that change in place, elsewhere a line a round.
// It is safe for concurrent use.
type screen struct {
	mu    sync.Mutex
	w     io.Writer
	live  bool
	width int
	now   func() time.Time

	round, rounds int
	phase         string
	began         time.Time         // of the round, by the events' clock
	missing       string            // who is missing in this phase, in words
	away          map[string]string // hospital: that it is not connected, in words
	members       []string
	did           map[string]string // hospital: its last word in this round
	bytes         map[string]uint64 // hospital: of its masked vector in this round
	outcomes      map[string]int

	drawn int // lines on the terminal that the next frame replaces
	last  time.Time
}

// frameEvery keeps a fast study from flooding a terminal.
const frameEvery = 50 * time.Millisecond

func newScreen(w io.Writer, members []string) *screen {
	s := &screen{w: w, now: time.Now, members: slices.Clone(members), outcomes: map[string]int{}, away: map[string]string{}}
	s.width, s.live = terminal(w)
	s.turn(0)
	return s
}

// terminal returns the width of a terminal, and false for anything else.
func terminal(w io.Writer) (int, bool) {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" {
		return 0, false
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, false
	}
	if size.Col == 0 { // it does not know
		return 80, true
	}
	return int(size.Col), true
}

// turn begins a round.
func (s *screen) turn(round int) {
	s.round, s.phase, s.missing = round, "", ""
	s.did, s.bytes = map[string]string{}, map[string]uint64{}
}

// show takes one event.
func (s *screen) show(p simulation.Progress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.Hospital != "" && !slices.Contains(s.members, p.Hospital) {
		s.members = append(s.members, p.Hospital)
		slices.Sort(s.members)
	}
	s.rounds = max(s.rounds, p.Rounds)
	urgent := s.note(p)
	if s.live && (urgent || s.now().Sub(s.last) >= frameEvery) {
		s.draw()
	}
}

// note remembers an event; what must be read at once is urgent.
func (s *screen) note(p simulation.Progress) (urgent bool) {
	switch p.Kind {
	case "step", "state", "log":
		if p.Text != "" {
			s.line("%s", p.Text)
		}
	case "round":
		s.turn(int(p.Round))
		s.began = p.Time
	case "phase":
		s.phase = p.Phase
	case "arrived":
		word, _, _ := strings.Cut(p.Text, " of ")
		if strings.Contains(word, " ") { // it came back
			word = "back"
			delete(s.away, p.Hospital)
			s.line("%s%s", s.where(), p.Text)
		}
		s.did[p.Hospital] = word
		s.bytes[p.Hospital] = max(s.bytes[p.Hospital], p.Bytes)
		if strings.Contains(s.missing, p.Hospital) {
			s.missing = ""
		}
	case "missing":
		if strings.Contains(p.Text, " is away") && p.Hospital != "" {
			s.away[p.Hospital] = p.Text
		} else {
			s.missing = p.Text
		}
		s.line("%s%s", s.where(), p.Text)
		return true
	case "refused":
		s.line("%srefused %s: %s", s.where(), p.Hospital, p.Text)
		return true
	case "closed", "aborted", "burnt":
		s.outcome(p)
		return p.Kind != "closed"
	}
	return false
}

func (s *screen) where() string {
	if s.round == 0 {
		return ""
	}
	return fmt.Sprintf("round %d of %d: ", s.round, s.rounds)
}

// outcome ends a round. On a terminal a round that closed needs no line of its own.
func (s *screen) outcome(p simulation.Progress) {
	s.outcomes[p.Kind]++
	s.phase = p.Kind
	switch {
	case p.Kind != "closed":
		s.line("%s", p.Text)
	case !s.live:
		took := ""
		if !s.began.IsZero() {
			took = " in " + seconds(p.Time.Sub(s.began).Seconds())
		}
		var who []string
		for _, m := range s.members {
			if n := s.bytes[m]; n > 0 {
				who = append(who, m+" "+size(n))
			}
		}
		s.line("%sclosed%s; %s", s.where(), took, strings.Join(who, ", "))
	}
}

// line is a line that stays.
func (s *screen) line(format string, args ...any) {
	s.clear()
	fmt.Fprintf(s.w, format+"\n", args...)
}

// clear removes the frame.
func (s *screen) clear() {
	if s.drawn > 0 {
		fmt.Fprintf(s.w, "\x1b[%dA\x1b[J", s.drawn)
		s.drawn = 0
	}
}

func (s *screen) draw() {
	if s.round == 0 {
		return
	}
	var lines []string
	for _, m := range s.members {
		if s.away[m] != "" {
			lines = append(lines, s.away[m])
		}
	}
	if s.missing != "" {
		lines = append(lines, s.missing)
	}
	lines = append(lines, fmt.Sprintf("round %d of %d  %s  (%s)", s.round, s.rounds, s.phase, s.counts()))
	t := grid{head: []string{"", "hospital", "last message", "masked bytes"}, right: 3}
	for _, m := range s.members {
		sent := ""
		if n := s.bytes[m]; n > 0 {
			sent = size(n)
		}
		word := s.did[m]
		if word == "" && s.away[m] != "" {
			word = "away"
		}
		t.add("", m, word, sent)
	}
	lines = append(lines, strings.Split(strings.TrimRight(t.String(), "\n"), "\n")...)
	s.clear()
	for _, l := range lines {
		fmt.Fprintln(s.w, cut(l, s.width-1))
	}
	s.drawn, s.last = len(lines), s.now()
}

func (s *screen) counts() string {
	parts := []string{fmt.Sprintf("%d closed", s.outcomes["closed"])}
	for _, k := range []string{"aborted", "burnt"} {
		if n := s.outcomes[k]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, k))
		}
	}
	return strings.Join(parts, ", ")
}

// cut keeps a line from wrapping, which would spoil the next frame.
func cut(l string, width int) string {
	if width < 1 || utf8.RuneCountInString(l) <= width {
		return l
	}
	return string([]rune(l)[:width-1]) + "…"
}

// close leaves the last frame, brought up to date, on the terminal.
func (s *screen) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live && s.drawn > 0 {
		s.draw()
		s.drawn = 0
	}
}
