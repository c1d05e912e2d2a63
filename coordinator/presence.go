package coordinator

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/consilium-fl/consilium/aggregate"
)

// presence is what a driver knows of one member's process. A member is present while it follows, and away
// once it has not for the study's away time.
type presence struct {
	streams int
	away    bool
	gone    *time.Timer // runs while nobody follows
}

// expect gives every member the away time to come: at the start nobody follows yet.
func (d *driver) expect() {
	for _, m := range d.s.terms.Members() {
		p := &presence{}
		d.present[m] = p
		d.startGone(m, p)
	}
}

func (d *driver) startGone(m aggregate.MemberID, p *presence) {
	p.gone = d.after(d.s.study.Deadlines.Away, func(ctx context.Context) error {
		if p.streams > 0 || p.away {
			return nil
		}
		p.away = true
		d.s.events.tell(Event{Kind: "missing", Round: d.number, Hospital: string(m), Text: string(m) + " is away: not connected for " + d.s.study.Deadlines.Away.String()})
		if d.round == nil {
			return nil
		}
		return d.step(ctx, aggregate.Away{Member: m})
	})
}

// arrive begins a Follow stream.
func (d *driver) arrive(ctx context.Context, m aggregate.MemberID, boot []byte) error {
	p := d.present[m]
	p.streams++
	p.gone.Stop()
	if err := d.rebooted(ctx, m, boot); err != nil {
		return err
	}
	if !p.away {
		return nil
	}
	p.away = false
	d.s.events.tell(Event{Kind: "arrived", Round: d.number, Hospital: string(m), Text: string(m) + " is back"})
	if d.round == nil || d.useless(m) {
		return nil
	}
	return d.step(ctx, aggregate.Back{Member: m})
}

// leave ends one.
func (d *driver) leave(m aggregate.MemberID) {
	p := d.present[m]
	if p.streams--; p.streams == 0 {
		d.startGone(m, p)
	}
}

// rebooted notes a member's process. One that was restarted after its Ready has lost the one-time keys of
// this round: nobody waits for it again before the next, and what it had stored is still taken.
//
// A crash before the save forgets the boot as a whole, and the next Follow brings it again. A crash after
// it cannot make the member look unchanged.
func (d *driver) rebooted(ctx context.Context, m aggregate.MemberID, boot []byte) error {
	e := d.boots[string(m)]
	if slices.Equal(e.Boot, boot) {
		return nil
	}
	lost := e.Boot != nil && d.round != nil && d.readied[m]
	next := bootEntry{Boot: slices.Clone(boot), By: e.By}
	if lost {
		next.Lost = d.number
	}
	d.boots[string(m)] = next
	if err := d.bootCell.save(ctx, d.boots); err != nil {
		return err
	}
	if !lost {
		return nil
	}
	d.s.events.tell(Event{Kind: "missing", Round: d.number, Hospital: string(m), Text: string(m) + " restarted and has lost its keys of this round"})
	return d.step(ctx, aggregate.Away{Member: m})
}

func (d *driver) lost(m aggregate.MemberID) bool {
	return d.number != 0 && d.boots[string(m)].Lost == d.number
}

// leftOut says that a dealer's deals were bad: more than c hospitals said so, or the shares themselves did.
func (d *driver) leftOut(m aggregate.MemberID) bool {
	return slices.Contains(d.progress.LeftOut, string(m))
}

// useless says that nothing of a member is waited for in this round, connected or not.
func (d *driver) useless(m aggregate.MemberID) bool { return d.lost(m) || d.leftOut(m) || d.revoked[m] }

// revoke leaves a member whose machine does not pass any more out of the round, or ends that.
func (d *driver) revoke(ctx context.Context, m aggregate.MemberID, why string) error {
	d.s.events.tell(Event{Kind: "refused", Round: d.number, Hospital: string(m), Text: "the session of " + string(m) + " has ended: its machine is refused: " + why})
	if d.round == nil {
		return nil
	}
	d.revoked[m] = true
	return d.step(ctx, aggregate.Revoked{Member: m, Why: why})
}

func including(sorted []string, name string) []string {
	if i, found := slices.BinarySearch(sorted, name); !found {
		return slices.Insert(sorted, i, name)
	}
	return sorted
}

// roll counts who follows, and names who does not, those who may still come in time apart.
func (d *driver) roll() (connected int, pending, away []string) {
	for m, p := range d.present {
		switch {
		case d.leftOut(m):
		case p.streams > 0:
			connected++
		case p.away:
			away = append(away, string(m))
		default:
			pending = append(pending, string(m))
		}
	}
	slices.Sort(pending)
	slices.Sort(away)
	return connected, pending, away
}

// announceAbsent tells a machine that has just begun, or was restored, who is not there.
func (d *driver) announceAbsent(ctx context.Context) error {
	for _, m := range d.s.terms.Members() {
		if d.round == nil {
			return nil // an Away may end a round
		}
		if d.present[m].away || d.useless(m) {
			if err := d.step(ctx, aggregate.Away{Member: m}); err != nil {
				return err
			}
		}
	}
	return nil
}

// awaited are those whose answer a phase lacks: who answered the phase before and has not answered this
// one. Kind is the message they owe.
func (d *driver) awaited() (kind string, names []string) {
	kind, before := phaseMessage[d.phase], phaseBefore[d.phase]
	if kind == "" {
		return "", nil
	}
	for _, m := range d.s.terms.Members() {
		owes := before == "" && !d.leftOut(m) || d.answered[before][m]
		if owes && !d.answered[kind][m] {
			names = append(names, string(m))
		}
	}
	return kind, names
}

// phaseMessage is what each phase waits for; phaseBefore the message whose senders owe it.
var (
	phaseMessage = map[aggregate.Phase]string{
		aggregate.Gathering: "ready", aggregate.Dealing: "deal", aggregate.Collecting: "upload",
		aggregate.Voting: "vote", aggregate.Releasing: "release",
	}
	phaseBefore = map[aggregate.Phase]string{
		aggregate.Dealing: "ready", aggregate.Collecting: "deal", aggregate.Voting: "deal", aggregate.Releasing: "deal",
	}
)

// hint is after how long a phase says whom it waits for; the time doubles each time it says so.
const hint = 5 * time.Second

func (d *driver) startHint(wait time.Duration) {
	number, phase := d.number, d.phase
	d.hint.stop()
	d.hint.Timer = d.after(wait, func(context.Context) error {
		if d.round == nil || d.number != number || d.phase != phase {
			return nil
		}
		d.tellMissing("after " + wait.String())
		d.startHint(2 * wait)
		return nil
	})
}

// tellMissing says first and in words who is missing.
func (d *driver) tellMissing(when string) {
	kind, names := d.awaited()
	if len(names) == 0 {
		return
	}
	d.s.events.tell(Event{
		Kind: "missing", Round: d.number, Phase: string(d.phase),
		Text: "waiting for " + strings.Join(names, ", ") + ": no " + strings.ToUpper(kind[:1]) + kind[1:] + " " + when,
	})
}

// stopper is a timer that may not be there.
type stopper struct{ *time.Timer }

func (s stopper) stop() {
	if s.Timer != nil {
		s.Stop()
	}
}

func sortedMembers(set map[aggregate.MemberID]bool) []aggregate.MemberID {
	var ms []aggregate.MemberID
	for m, in := range set {
		if in {
			ms = append(ms, m)
		}
	}
	slices.SortFunc(ms, func(a, b aggregate.MemberID) int { return cmp.Compare(a, b) })
	return ms
}
