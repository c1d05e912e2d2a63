package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/channel"
	"github.com/consilium-fl/consilium/dp"
	"github.com/consilium-fl/consilium/internal/simulation"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/transport"
)

func TestExitCodes(t *testing.T) {
	unknown := &channel.Refused{Reasons: []attest.Reason{{Code: channel.CodeStudyUnknown}}}
	wrong := &channel.Refused{Reasons: []attest.Reason{{Code: "measurement"}}}
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, exitDone},
		{errors.New("a surprise"), exitOurs},
		{fmt.Errorf("x: %w", transport.ErrInternal), exitOurs},
		{usage(&cobra.Command{Use: "x"}, "no"), exitUsage},
		{hint(usage(&cobra.Command{Use: "x"}, "no"), "try"), exitUsage},
		{study.Problems{{Got: "a", Want: "b"}}, exitBadInput},
		{bad("no: %w", fs.ErrInvalid), exitBadInput},
		{fmt.Errorf("x: %w", simulation.BadInput{Err: fs.ErrInvalid}), exitBadInput},
		{fmt.Errorf("x: %w", transport.ErrNotFound), exitBadInput},
		{&transport.Refused{Cause: unknown}, exitBadInput},
		{&transport.Refused{Reasons: []string{"no consent"}}, exitRefused},
		{&transport.Refused{Cause: wrong}, exitRefused},
		{wrong, exitRefused},
		{fmt.Errorf("x: %w", dp.ErrBudget), exitRefused},
		{fmt.Errorf("x: %w", study.ErrApprovals), exitRefused},
		{fmt.Errorf("x: %w", transport.ErrConflict), exitRefused},
		{fmt.Errorf("%w: x", errUnverified), exitUnverified},
		{fmt.Errorf("%w: %w", errUnverified, fs.ErrNotExist), exitUnverified},
		{fmt.Errorf("x: %w", transport.ErrUnreachable), exitUnreachable},
		{fmt.Errorf("x: %w", transport.ErrTooLate), exitUnreachable},
		{context.DeadlineExceeded, exitUnreachable},
		{fmt.Errorf("x: %w", simulation.ErrShort), exitShort},
		{fmt.Errorf("%w: x", errShort), exitShort},
	} {
		if got, _ := judge(t.Context(), c.err); got != c.want {
			t.Errorf("%v: got %d, want %d", c.err, got, c.want)
		}
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	if got, _ := judge(stopped, errors.New("whatever followed")); got != exitInterrupted {
		t.Errorf("after a signal: got %d, want %d", got, exitInterrupted)
	}
	if got, _ := judge(stopped, nil); got != exitDone {
		t.Errorf("done before the signal: got %d, want %d", got, exitDone)
	}
}

// TestScreen: who is missing comes first, a frame replaces the one before, and no line wraps.
func TestScreen(t *testing.T) {
	var b bytes.Buffer
	s := newScreen(&b, []string{"alder", "birch"})
	s.live, s.width = true, 40
	at := time.Unix(0, 0)
	s.now = func() time.Time { at = at.Add(time.Second); return at }
	for _, p := range []simulation.Progress{
		{Kind: "step", Text: "coordinator started"},
		{Kind: "missing", Hospital: "cedar", Text: "cedar is away: not connected for 5s"},
		{Kind: "round", Round: 1, Rounds: 3},
		{Kind: "phase", Round: 1, Phase: "collecting"},
		{Kind: "arrived", Round: 1, Hospital: "alder", Text: "upload of alder", Bytes: 124},
		{Kind: "missing", Round: 1, Text: "waiting for birch: no Upload after 2s, and this is a long line"},
	} {
		s.show(p)
	}
	s.close()
	frames := strings.Split(b.String(), "\x1b[J")
	last := strings.Split(frames[len(frames)-1], "\n")
	want := []string{
		"cedar is away: not connected for 5s",
		"waiting for birch: no Upload after 2s,…",
		"round 1 of 3  collecting  (0 closed)",
		"  hospital  last message  masked bytes",
		"  alder     upload               124 B",
		"  birch",
		"  cedar     away",
		"",
	}
	if strings.Join(last, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(last, "\n"), strings.Join(want, "\n"))
	}
	if !strings.Contains(b.String(), "coordinator started\n") || !strings.Contains(b.String(), "round 1 of 3: waiting for birch") {
		t.Errorf("what stays is missing: %q", b.String())
	}
}

func TestScorePrintsUndefined(t *testing.T) {
	half := 0.5
	if got, want := scoreText(simulation.Score{Accuracy: &half}), "0.500 / n/a  "; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
