package simulation

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/consilium-fl/consilium/internal/person"
	"github.com/consilium-fl/consilium/internal/transport"
)

// story is what the lead heard of a study, by round.
type story struct {
	rounds []*RoundSummary
	starts map[uint64]time.Time
	phase  map[uint64]phaseStart
}

type phaseStart struct {
	name string
	at   time.Time
}

// watch follows the study to its end, as consilium study watch does.
func (r *run) watch(ctx context.Context, p *person.Person) (err error) {
	client, err := p.Dial(r.study.Digest)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	r.story = story{starts: map[uint64]time.Time{}, phase: map[uint64]phaseStart{}}
	var cursor uint64
	for {
		err := client.WatchStudy(ctx, r.study.Digest, cursor, func(e transport.WatchEvent) error {
			cursor = e.Sequence
			r.story.hear(e)
			r.options.Progress(Progress{
				Time: e.Time, Kind: e.Kind, Round: e.Round, Rounds: r.study.Strategy.Rounds,
				Phase: e.Phase, Hospital: e.Hospital, Bytes: e.Bytes, Text: e.Text,
			})
			return nil
		})
		if err != nil {
			return fmt.Errorf("watching the study: %w", err)
		}
		if r.ended, err = client.GetStudy(ctx, r.study.Digest); err != nil {
			return fmt.Errorf("watching the study: %w", err)
		}
		switch r.ended.State {
		case transport.StateEnded, transport.StateShort:
			return nil
		case transport.StateCancelled:
			return fmt.Errorf("the study was cancelled: %s", r.ended.Why)
		}
	}
}

func (s *story) round(n uint64) *RoundSummary {
	for _, r := range s.rounds {
		if r.Number == n {
			return r
		}
	}
	r := &RoundSummary{Number: n, Phases: map[string]float64{}, Set: []string{}}
	s.rounds = append(s.rounds, r)
	return r
}

func (s *story) hear(e transport.WatchEvent) {
	if e.Round == 0 {
		return
	}
	r := s.round(e.Round)
	if _, ok := s.starts[e.Round]; !ok {
		s.starts[e.Round] = e.Time
	}
	switch e.Kind {
	case "phase":
		s.turn(r, e.Phase, e.Time)
	case "arrived":
		if e.Phase == "collecting" {
			r.Bytes += e.Bytes
		}
	case "closed", "aborted", "burnt":
		s.turn(r, "", e.Time)
		r.Outcome = e.Kind
		r.Seconds = e.Time.Sub(s.starts[e.Round]).Seconds()
	}
}

// turn ends the phase that a round was in.
func (s *story) turn(r *RoundSummary, next string, at time.Time) {
	if p, ok := s.phase[r.Number]; ok && p.name != "" {
		r.Phases[p.name] += at.Sub(p.at).Seconds()
	}
	s.phase[r.Number] = phaseStart{name: next, at: at}
}
