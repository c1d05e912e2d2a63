package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/consilium-fl/consilium/internal/person"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/simulation"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/transport"
)

// patience is how long a watcher tries a coordinator that it has lost.
const patience = time.Minute

func (a *app) studyWatch() *cobra.Command {
	c := &cobra.Command{
		Use:   "watch DIGEST|FILE",
		Short: "Watch a study until it is over",
		Long: `Shows who has answered in which phase of which round, and first of all who is missing. Nothing shown is computed from patients. It ends with the study:
exit code 0 when all rounds are done, 7 when it ended before. With --json every event is one line on stdout.`,
		Example: "  consilium study watch study.yaml --config consilium.yaml",
		Args:    takes("DIGEST|FILE"),
		RunE:    func(c *cobra.Command, args []string) error { return a.watch(c.Context(), args[0]) },
	}
	a.onlineFlags(c)
	return c
}

// eventResult is an event for machines.
type eventResult struct {
	Time     time.Time `json:"time"`
	Kind     string    `json:"kind"`
	Round    uint64    `json:"round,omitempty"`
	Phase    string    `json:"phase,omitempty"`
	Hospital string    `json:"hospital,omitempty"`
	Bytes    uint64    `json:"bytes,omitempty"`
	Text     string    `json:"text,omitempty"`
}

func (a *app) watch(ctx context.Context, arg string) error {
	digest, err := digestOf(arg)
	if err != nil {
		return err
	}
	return a.online(ctx, digest, func(_ *person.Person, client *transport.Client) error {
		w := &watcher{app: a, client: client, digest: digest, heard: a.now()}
		return w.run(ctx)
	})
}

// watcher follows a study over lost connections and restarts of the coordinator.
type watcher struct {
	*app
	client *transport.Client
	digest [32]byte
	cursor uint64
	heard  time.Time // when the coordinator last answered
	study  *study.Study
	screen *screen
}

func (w *watcher) run(ctx context.Context) error {
	defer func() {
		if w.screen != nil {
			w.screen.close()
		}
	}()
	for {
		r, err := w.look(ctx)
		switch {
		case err == nil && over(r.State):
			return w.end(r)
		case err == nil:
			err = w.client.WatchStudy(ctx, w.digest, w.cursor, w.take)
		}
		if err := w.forgive(err); err != nil {
			return err
		}
		if !pause(ctx, 200*time.Millisecond) {
			return ctx.Err()
		}
	}
}

// look asks how the study stands.
func (w *watcher) look(ctx context.Context) (statusResult, error) {
	i, err := w.client.GetStudy(ctx, w.digest)
	if err != nil {
		return statusResult{}, fmt.Errorf("asking for study %s: %w", study.Short(w.digest), err)
	}
	r, s, err := status(i)
	if err != nil {
		return statusResult{}, err
	}
	w.heard = w.now()
	if w.screen == nil {
		w.study, w.screen = s, newScreen(w.stderr, s.Members)
		w.tell("watching %s: %s", r.Study, r.Title)
	}
	return r, nil
}

func (w *watcher) take(e transport.WatchEvent) error {
	w.cursor, w.heard = e.Sequence, w.now()
	w.screen.show(simulation.Progress{
		Time: e.Time, Kind: e.Kind, Round: e.Round, Rounds: w.study.Strategy.Rounds,
		Phase: e.Phase, Hospital: e.Hospital, Bytes: e.Bytes, Text: e.Text,
	})
	if !w.json {
		return nil
	}
	return json.NewEncoder(w.stdout).Encode(eventResult{e.Time, e.Kind, e.Round, e.Phase, e.Hospital, e.Bytes, e.Text})
}

// forgive tells a coordinator that is away for a while from an answer.
func (w *watcher) forgive(err error) error {
	lost := errors.Is(err, transport.ErrUnreachable) || errors.Is(err, transport.ErrSessionOver)
	if lost && w.screen != nil && w.now().Sub(w.heard) < max(w.wait, patience) {
		return nil
	}
	return err
}

func over(state string) bool {
	return state == transport.StateEnded || state == transport.StateShort || state == transport.StateCancelled
}

func (w *watcher) end(r statusResult) error {
	w.screen.close()
	text := fmt.Sprintf("%s: %d of %d rounds closed, %d charged\n", r.says(), r.RoundsClosed, r.Rounds, r.RoundsCharged)
	if w.json {
		if err := json.NewEncoder(w.stdout).Encode(r); err != nil {
			return err
		}
	} else if _, err := fmt.Fprint(w.stdout, text); err != nil {
		return err
	}
	switch r.State {
	case transport.StateEnded:
		w.tell("next: `consilium model get %s --out DIR`", signed.DigestText(w.digest))
		return nil
	case transport.StateCancelled:
		return hint(fmt.Errorf("%w: %s", errShort, r.says()), "a cancelled study releases nothing")
	}
	return hint(fmt.Errorf("%w: %s", errShort, r.says()), "`consilium model get %s --out DIR` fetches the last released model, if there is one", signed.DigestText(w.digest))
}
