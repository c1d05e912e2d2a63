package coordinator

import (
	"context"
	"errors"
	"fmt"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/audit"
	"github.com/consilium-fl/consilium/dp"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/transport"
)

// step feeds an event to the machine and does what it asks for, then what comes of that.
func (d *driver) step(ctx context.Context, e aggregate.Event) error {
	_, _, err := d.stepAll(ctx, e)
	return err
}

// stepAll also tells what the machine refused, and whose upload it wants compared.
func (d *driver) stepAll(ctx context.Context, e aggregate.Event) (refusals []aggregate.Refuse, accepts []aggregate.Accept, err error) {
	queue := []aggregate.Event{e}
	for len(queue) > 0 && d.round != nil {
		effects := d.round.Step(queue[0])
		queue = queue[1:]
		for _, x := range effects {
			switch x := x.(type) {
			case aggregate.Refuse:
				refusals = append(refusals, x)
			case aggregate.Accept:
				accepts = append(accepts, x)
				d.accept(x)
			default:
				next, err := d.do(ctx, x)
				if err != nil {
					return refusals, accepts, err
				}
				queue = append(queue, next...)
			}
		}
		d.enterPhase()
	}
	if d.round != nil {
		d.checkImpasse()
	}
	return refusals, accepts, nil
}

// do carries out one effect. What follows it in the machine's list happens only after it returned.
func (d *driver) do(ctx context.Context, x aggregate.Effect) ([]aggregate.Event, error) {
	if _, persist := x.(aggregate.Persist); !persist {
		if err := d.save(ctx); err != nil {
			return nil, err
		}
	}
	switch x := x.(type) {
	case aggregate.Persist:
		d.unsaved = x.State // saved before the next effect of any other sort, or once nothing else comes
		return nil, nil
	case aggregate.Record:
		d.record(ctx, audit.Kind(x.Kind), x.Member, x.Object)
		return nil, nil
	case aggregate.Send:
		return nil, d.send(ctx, x)
	case aggregate.ChargeLedger:
		return d.charge(x.Charge)
	case aggregate.Open:
		return d.open(x)
	case aggregate.Wait:
		d.expires = x.Phase
		d.deadline.stop()
		number := d.number
		d.deadline.Timer = d.after(x.For, func(ctx context.Context) error {
			if d.round == nil || d.number != number || d.expires != x.Phase {
				return nil
			}
			d.tellMissing("within " + x.For.String())
			return d.step(ctx, aggregate.Expired{Phase: x.Phase})
		})
		return nil, nil
	case aggregate.End:
		return nil, d.end(ctx, x.Result)
	}
	return nil, fmt.Errorf("doing %T: the aggregator's machine has no such effect", x)
}

// save stores the machine's last Persist. Until it returns, what the machine did last has not happened:
// nothing that follows it was sent. Persists that nothing follows (an upload or a vote was taken, and more
// are waited for) are saved together: a crash forgets those that were not, and their senders send again.
func (d *driver) save(ctx context.Context) error {
	if d.unsaved == nil {
		return nil
	}
	if err := d.machineCell.save(ctx, machineRecord{State: d.unsaved}); err != nil {
		return err
	}
	d.unsaved = nil
	return nil
}

// record starts an append; the next Send waits for it and carries its promise.
func (d *driver) record(ctx context.Context, kind audit.Kind, m aggregate.MemberID, object [32]byte) {
	subject := string(m)
	if subject == "" {
		subject = Subject
	}
	leaf := audit.Leaf{Kind: kind, Time: d.s.c.deps.Now(), Study: d.s.digest, Round: d.number, Subject: subject, Object: object}
	out := make(chan logged, 1)
	d.leaves = append(d.leaves, out)
	d.work.Go(func() {
		p, err := d.s.trail.Append(ctx, leaf)
		out <- logged{p, err}
	})
}

// Subject names the coordinator in the leaves of its own acts.
const Subject = "coordinator"

// promises waits for the leaves recorded so far: whoever hears of a step can hold the log to it.
func (d *driver) promises(ctx context.Context) ([][]byte, error) {
	var ps [][]byte
	for _, ch := range d.leaves {
		select {
		case l := <-ch:
			if l.err != nil {
				return nil, l.err
			}
			ps = append(ps, l.promised.Encode())
			d.newestLeaf = l.promised.Promise.Index
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	d.leaves = nil
	return ps, nil
}

func (d *driver) send(ctx context.Context, x aggregate.Send) error {
	switch x.Message.Kind {
	case "roster":
		m, err := aggregate.Parse(x.Message)
		if err != nil {
			return err
		}
		if err := d.openVectors(x.Message.Digest(), m.(aggregate.Roster)); err != nil {
			return err
		}
	case "proposal":
		d.currentVectors().close()
	}
	ps, err := d.promises(ctx)
	if err != nil {
		return err
	}
	// A crash before this line: what is persisted is sent again by the restored machine.
	d.s.feed.publish(feedItem{To: x.To, Message: &x.Message, Promises: ps})
	return nil
}

func (d *driver) openVectors(roster [32]byte, m aggregate.Roster) error {
	if v := d.currentVectors(); v != nil {
		if v.roster == roster {
			return nil
		}
		return errors.New("a round has a second roster")
	}
	var members []aggregate.MemberID
	for _, x := range m.Deals {
		members = append(members, x.From)
	}
	v, err := openVectors(d.wordsDir(), d.round.Plan(), roster, members)
	if err != nil {
		return err
	}
	number, observe := d.number, d.s.c.deps.Observe
	if observe != nil {
		v.saw = func(m aggregate.MemberID, words []byte) { observe(number, m, words) }
	}
	d.setVectors(v)
	return nil
}

func (d *driver) setVectors(v *vectors) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.vectors = v
}

func (d *driver) currentVectors() *vectors {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.vectors
}

// charge spends from the coordinator's own ledger: before the proposal, so that spent ≥ released whenever
// the process dies. The machine asks again after a crash, and the same charge twice is one.
func (d *driver) charge(c aggregate.Charge) ([]aggregate.Event, error) {
	e, err := d.ledger.Charge(d.s.terms.Charge(c))
	if errors.Is(err, dp.ErrBudget) {
		return []aggregate.Event{aggregate.ChargeRefused{Why: err.Error()}}, nil
	}
	if err != nil {
		return nil, err
	}
	c.Head = e.Head
	b, err := signed.Encode(c)
	if err != nil {
		return nil, err
	}
	return []aggregate.Event{aggregate.Charged{Charge: b}}, nil
}

// accept compares a stored vector with its signed digest, beside the loop: reading it may take a while.
func (d *driver) accept(x aggregate.Accept) {
	number, v, leaf := d.number, d.currentVectors(), d.chargeLeaf(x)
	d.work.Go(func() {
		err := d.checkCharge(number, v, x)
		if err == nil {
			err = v.check(x.Member, x.Vector)
		}
		ctx, cancel := d.s.c.background()
		defer cancel()
		var promise []byte
		if err == nil {
			var p audit.Promised
			if p, err = d.s.trail.Append(ctx, leaf); err == nil {
				promise = p.Encode()
			}
		}
		d.post(ctx, func(ctx context.Context) error { return d.accepted(ctx, number, x, promise, err) })
	})
}

func (d *driver) chargeLeaf(x aggregate.Accept) audit.Leaf {
	return audit.Leaf{Kind: audit.Charge, Time: d.s.c.deps.Now(), Study: d.s.digest, Round: d.number, Subject: string(x.Member), Object: signed.Digest(x.Charge)}
}

// checkCharge wants a charge for this very round.
func (d *driver) checkCharge(number uint64, v *vectors, x aggregate.Accept) error {
	c, err := aggregate.ParseCharge(x.Charge)
	if err != nil {
		return refused("%v", err)
	}
	if v == nil || c.Study != d.s.digest || c.Number != number || c.Roster != v.roster {
		return refused("the charge of %q is not for round %d under its roster", x.Member, number)
	}
	return nil
}

func (d *driver) accepted(ctx context.Context, number uint64, x aggregate.Accept, promise []byte, err error) error {
	if d.round == nil || d.number != number {
		return nil // the round went on without it, and its senders were told
	}
	if err == nil {
		d.arrived(number, d.phase, "upload", x.Member)
		if err := d.step(ctx, aggregate.Uploaded{Member: x.Member, Promise: promise}); err != nil {
			return err
		}
	} else if !isForeign(err) {
		return err
	}
	for _, reply := range d.senders[x.Member] {
		reply <- err
	}
	delete(d.senders, x.Member)
	return nil
}

// receive gives a member's message to the machine. The answer to an Upload comes once it was compared.
func (d *driver) receive(ctx context.Context, m aggregate.Signed, by seenAs, reply chan<- error) error {
	if d.round == nil {
		reply <- fmt.Errorf("%w: no round is running", transport.ErrTooLate)
		return nil
	}
	if m.Kind == "ready" && d.leftOut(m.From) {
		reply <- refused("%q is left out for the rest of the study: its deal of an earlier round was bad", m.From)
		return nil
	}
	if m.Kind == "upload" && len(d.senders[m.From]) > 0 {
		d.senders[m.From] = append(d.senders[m.From], reply)
		return nil
	}
	if m.Kind == "upload" {
		if err := d.servedBy(ctx, m.From, by); err != nil {
			return err
		}
		d.senders[m.From] = append(d.senders[m.From], reply)
	}
	number, phase := d.number, d.phase
	refusals, accepts, err := d.stepAll(ctx, aggregate.Received{Message: m})
	if err != nil {
		return err
	}
	switch {
	case m.Kind == "upload" && len(accepts) > 0:
		return nil // accepted answers
	case len(refusals) > 0 && phaseMessage[phase] != m.Kind:
		err = fmt.Errorf("%w: %s", transport.ErrTooLate, refusals[0].Reason) // often one more than were needed
	case len(refusals) > 0:
		err = refused("%s", refusals[0].Reason)
		d.s.events.tell(Event{Kind: "refused", Round: number, Hospital: string(m.From), Text: refusals[0].Reason})
	case m.Kind != "upload":
		d.arrived(number, phase, m.Kind, m.From)
	}
	delete(d.senders, m.From)
	reply <- err
	return nil
}

// arrived tells of a message that was taken. It may have moved the round on, or ended it.
func (d *driver) arrived(number uint64, phase aggregate.Phase, kind string, m aggregate.MemberID) {
	if d.answered[kind][m] {
		return
	}
	d.noteAnswer(kind, m)
	e := Event{Kind: "arrived", Round: number, Phase: string(phase), Hospital: string(m), Text: kind + " of " + string(m)}
	if v := d.currentVectors(); kind == "upload" && v != nil {
		e.Bytes = uint64(v.size)
	}
	d.s.events.tell(e)
}

// enterPhase tells when the machine has moved on.
func (d *driver) enterPhase() {
	if d.round == nil || d.round.Phase() == d.phase {
		return
	}
	d.phase = d.round.Phase()
	d.s.events.tell(Event{Kind: "phase", Round: d.number, Phase: string(d.phase)})
	d.startHint(hint)
}

// checkImpasse ends a phase early that only an absent member could save, where the process knows that
// absent members stay away.
func (d *driver) checkImpasse() {
	patience := d.s.c.deps.Patience
	if patience == 0 || !d.round.Short() {
		d.impasse.stop()
		d.impasse = stopper{}
		return
	}
	if d.impasse.Timer != nil {
		return
	}
	number := d.number
	d.impasse.Timer = d.after(patience, func(ctx context.Context) error {
		d.impasse = stopper{}
		if d.round == nil || d.number != number || !d.round.Short() {
			return nil
		}
		d.tellMissing("and too few are left to go on")
		return d.step(ctx, aggregate.Expired{Phase: d.phase})
	})
}
