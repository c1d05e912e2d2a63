package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/audit"
	"github.com/consilium-fl/consilium/dp"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/terms"
	"github.com/consilium-fl/consilium/internal/transport"
)

// A driver runs one study's rounds. Its loop owns every field below but vectors; handlers, timers and the
// log hand it functions over inbox. An error of such a function is ours (a disk, the store, the log): it
// ends the driver and with it the process, for whatever goes on after an effect was skipped is another
// protocol.
type driver struct {
	s     *dossier
	log   *slog.Logger
	inbox chan func(context.Context) error
	done  chan struct{} // closed when the loop has ended

	journal  dp.Journal
	ledger   *dp.Ledger
	progress progressRecord
	rounds   []roundRecord // that have ended, by rising number
	present  map[aggregate.MemberID]*presence
	boots    bootRecord

	progressCell *cell[progressRecord]
	machineCell  *cell[machineRecord] // of the running round
	bootCell     *cell[bootRecord]

	round      *aggregate.Round // nil between rounds
	number     uint64
	phase      aggregate.Phase
	unsaved    []byte // the machine's last Persist, while it is not stored
	expires    aggregate.Phase
	deadline   stopper
	hint       stopper
	impasse    stopper
	readied    map[aggregate.MemberID]bool
	revoked    map[aggregate.MemberID]bool            // whose machine was refused in this round
	answered   map[string]map[aggregate.MemberID]bool // by kind: whose message was taken
	leaves     []<-chan logged                        // on their way into the log
	newestLeaf uint64                                 // index of the last of them that got there
	senders    map[aggregate.MemberID][]chan<- error  // of Uploads that are being compared

	notBefore time.Time // a round that did not close delays the next
	failures  int
	gathered  bool      // enough members have been here once
	lacking   time.Time // since when too few members are here; zero while enough are
	said      string    // what was last told of who is missing between rounds
	wakeup    stopper

	work    sync.WaitGroup // what runs beside the loop
	mu      sync.Mutex
	vectors *vectors // of the running round, once it has a roster
}

// logged is the outcome of an append.
type logged struct {
	promised audit.Promised
	err      error
}

func newDriver(s *dossier) *driver {
	key := func(kind string) string { return kind + "/" + hexOf(s.digest) }
	return &driver{
		s: s, log: s.log, inbox: make(chan func(context.Context) error), done: make(chan struct{}),
		present:      map[aggregate.MemberID]*presence{},
		boots:        bootRecord{},
		progressCell: &cell[progressRecord]{store: s.c.deps.Store, key: key("progress")},
		bootCell:     &cell[bootRecord]{store: s.c.deps.Store, key: key("boots")},
	}
}

// run drives until the study is over or ctx ends. It waits for all that it started.
func (d *driver) run(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		close(d.done)
		for _, t := range []stopper{d.deadline, d.hint, d.impasse, d.wakeup} {
			t.stop()
		}
		for _, p := range d.present {
			p.gone.Stop()
		}
		d.work.Wait()
		if v := d.currentVectors(); v != nil {
			v.close()
		}
		if c, ok := d.journal.(io.Closer); ok {
			err = errors.Join(err, c.Close())
		}
	}()
	d.expect()
	if err := d.restore(ctx); err != nil {
		return fmt.Errorf("driving study %s: %w", study.Short(d.s.digest), err)
	}
	for {
		if over, err := d.consider(ctx); err != nil {
			return fmt.Errorf("driving study %s: %w", study.Short(d.s.digest), err)
		} else if over {
			return nil
		}
		if err := d.next(ctx); err != nil && ctx.Err() == nil {
			return fmt.Errorf("driving study %s: %w", study.Short(d.s.digest), err)
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

// saveWithin is how long a Persist that nothing follows is put off: the answers of a phase come together.
const saveWithin = 50 * time.Millisecond

// next runs what comes, and saves what was put off when nothing does.
func (d *driver) next(ctx context.Context) error {
	var quiet <-chan time.Time
	if d.unsaved != nil {
		t := time.NewTimer(saveWithin)
		defer t.Stop()
		quiet = t.C
	}
	select {
	case f := <-d.inbox:
		return f(ctx)
	case <-quiet:
		return d.save(ctx)
	case <-ctx.Done():
		return nil
	}
}

// post hands f to the loop. It is false when the loop has ended, and then f does not run.
func (d *driver) post(ctx context.Context, f func(context.Context) error) bool {
	select {
	case d.inbox <- f:
		return true
	case <-d.done:
		return false
	case <-ctx.Done():
		return false
	}
}

// call runs f in the loop and waits for it.
func (d *driver) call(ctx context.Context, f func(context.Context) error) error {
	ran := make(chan struct{})
	if !d.post(ctx, func(ctx context.Context) error {
		defer close(ran)
		return f(ctx)
	}) {
		if err := ctx.Err(); err != nil {
			return err
		}
		return fmt.Errorf("%w: study %s is over or the coordinator is stopping", transport.ErrTooLate, study.Short(d.s.digest))
	}
	<-ran
	return nil
}

// after runs f in the loop once wait has passed.
func (d *driver) after(wait time.Duration, f func(context.Context) error) *time.Timer {
	return time.AfterFunc(wait, func() { d.post(context.Background(), f) })
}

// restore reads what the process before left.
func (d *driver) restore(ctx context.Context) (err error) {
	if d.journal, err = d.s.c.deps.Journal(filepath.Join(d.s.dir, "ledger")); err != nil {
		return err
	}
	p := d.s.study.Privacy
	if d.ledger, err = dp.OpenLedger(d.journal, dp.Budget{Epsilon: p.Epsilon, Delta: p.Delta}); err != nil {
		return err
	}
	var found bool
	if d.progress, found, err = d.progressCell.load(ctx); err != nil {
		return err
	}
	if !found {
		zero := study.EncodeModel(d.s.digest, make([]float64, d.s.study.Dim()))
		if d.progress.Model, err = d.s.writeModel(zero); err != nil {
			return err
		}
	}
	if err := d.s.c.deps.Store.List(ctx, d.s.endedKey(""), func(key string, b []byte, _ int64) error {
		var r roundRecord
		if err := signed.Decode(b, &r); err != nil {
			return fmt.Errorf("loading %q: %w", key, err)
		}
		d.rounds = append(d.rounds, r)
		return nil
	}); err != nil {
		return err
	}
	d.s.setFigures(d.progress, d.ledger.Charges(d.s.digest))
	if boots, found, err := d.bootCell.load(ctx); err != nil {
		return err
	} else if found {
		d.boots = boots
	}
	d.pin()
	return d.restoreRound(ctx)
}

// restoreRound goes on with a round that was running when the process before died: before its certificate
// it continues, from then on it burns. Its machine knows which.
func (d *driver) restoreRound(ctx context.Context) error {
	number := d.progress.Last + 1
	cell := d.s.machineCell(number)
	m, found, err := cell.load(ctx)
	if err != nil || !found {
		return err
	}
	round, err := aggregate.RestoreRound(m.State, d.s.keyring(), d.s.c.deps.Keys.Protocol, d.s.c.deps.Entropy)
	if err != nil {
		// An enrolment that ran out meanwhile, say. The number stays used and the charge stands.
		d.log.Error("a round cannot be gone on with and is given up", "round", number, "error", err)
		d.progress.Last = number
		return d.progressCell.save(ctx, d.progress)
	}
	d.log.Info("going on with a round", "round", number, "phase", string(round.Phase()))
	d.startRound(round, number)
	d.machineCell = cell
	transcript := round.Transcript()
	for _, s := range transcript {
		if err := d.recall(s); err != nil {
			return err
		}
	}
	if err := d.recordAgain(ctx, transcript[len(transcript)-1]); err != nil {
		return err
	}
	if err := d.step(ctx, aggregate.Begin{}); err != nil {
		return err
	}
	return d.announceAbsent(ctx)
}

// recall takes from a stored message what the driver itself knew of the round.
func (d *driver) recall(s aggregate.Signed) error {
	m, err := aggregate.Parse(s)
	if err != nil {
		return err
	}
	switch m := m.(type) {
	case aggregate.Committee:
		for _, r := range m.Readys {
			d.noteAnswer("ready", r.From)
		}
	case aggregate.Roster:
		for _, x := range m.Deals {
			d.noteAnswer("deal", x.From)
		}
		return d.openVectors(s.Digest(), m)
	case aggregate.Proposal:
		d.currentVectors().close()
	}
	return nil
}

// recordAgain logs the leaf of the last stored message, for the process may have died between the store
// and the log. The same leaf twice says nothing new.
func (d *driver) recordAgain(ctx context.Context, s aggregate.Signed) error {
	m, err := aggregate.Parse(s)
	if err != nil {
		return err
	}
	switch m := m.(type) {
	case aggregate.Plan:
		d.record(ctx, audit.Plan, "", s.Digest())
	case aggregate.Proposal:
		d.record(ctx, audit.Charge, "", signed.Digest(m.Charge))
	case aggregate.Certificate:
		d.record(ctx, audit.Set, "", s.Digest())
	case aggregate.Result:
		d.record(ctx, audit.Result, "", s.Digest())
	}
	return nil
}

// Waits between a round that did not close and the next.
const (
	pauseFirst = 100 * time.Millisecond
	pauseMost  = 30 * time.Second
)

// consider decides between rounds what comes next: another round, the end, or nothing yet.
func (d *driver) consider(ctx context.Context) (over bool, err error) {
	if d.progress.Finish != nil {
		return d.tryRelease(ctx)
	}
	if d.round != nil {
		return false, nil
	}
	s, now, closed := d.s.study, d.s.c.deps.Now(), int(d.progress.Closed)
	charges := d.ledger.Charges(d.s.digest)
	switch {
	case closed >= s.Strategy.Rounds:
		return d.finish(ctx, Ended, "")
	case charges >= uint64(d.s.terms.Charges):
		return d.finish(ctx, Short, fmt.Sprintf("%d of %d rounds closed, and all %d charges, spare ones included, are used", closed, s.Strategy.Rounds, charges))
	case len(s.Members)-len(d.progress.LeftOut) < d.s.terms.Minimum:
		return d.finish(ctx, Short, fmt.Sprintf("%d of %d rounds closed when too few hospitals were left: the deals of %s were bad", closed, s.Strategy.Rounds, strings.Join(d.progress.LeftOut, ", ")))
	case !now.Before(s.Until):
		return d.finish(ctx, Short, fmt.Sprintf("%d of %d rounds closed when the study expired", closed, s.Strategy.Rounds))
	case now.Before(s.From):
		d.sleep(s.From.Sub(now))
		return false, nil
	case now.Before(d.notBefore):
		d.sleep(d.notBefore.Sub(now))
		return false, nil
	}
	connected, pending, away := d.roll()
	d.gathered = d.gathered || connected >= d.s.terms.Minimum
	if connected >= d.s.terms.Minimum && len(pending) == 0 {
		d.lacking, d.said = time.Time{}, ""
		return false, d.begin(ctx)
	}
	return d.lack(ctx, connected, pending, away, closed)
}

// lack waits for members. With Patience, and once enough were here, it gives up in the end.
func (d *driver) lack(ctx context.Context, connected int, pending, away []string, closed int) (over bool, err error) {
	now, patience := d.s.c.deps.Now(), d.s.c.deps.Patience
	names := strings.Join(slices.Concat(pending, away), ", ")
	if text := fmt.Sprintf("waiting for %s: not connected; %d are, %d are needed", names, connected, d.s.terms.Minimum); len(pending) == 0 && text != d.said {
		d.said = text
		d.s.events.tell(Event{Kind: "missing", Text: text})
		d.s.setWhy(text)
	}
	if connected >= d.s.terms.Minimum || len(pending) > 0 {
		d.lacking = time.Time{} // a timer of presence will tell
		return false, nil
	}
	if d.lacking.IsZero() {
		d.lacking = now
	}
	switch waited := now.Sub(d.lacking); {
	case patience == 0 || !d.gathered:
		d.sleep(d.s.study.Until.Sub(now))
	case waited >= patience:
		return d.finish(ctx, Short, fmt.Sprintf("%d of %d rounds closed when too few hospitals were left: %d, %d are needed; missing: %s", closed, d.s.study.Strategy.Rounds, connected, d.s.terms.Minimum, names))
	default:
		d.sleep(patience - waited)
	}
	return false, nil
}

// sleep lets consider look again after a while.
func (d *driver) sleep(wait time.Duration) {
	d.wakeup.stop()
	d.wakeup.Timer = d.after(min(wait, time.Hour), func(context.Context) error { return nil })
}

// begin starts the next round.
//
// A crash before the machine's first Persist leaves no trace of it, and its Plan has not left; after it
// the round is restored. So a number is used for one Plan.
func (d *driver) begin(ctx context.Context) error {
	number := d.progress.Last + 1
	plan := d.s.terms.Plan(number, d.progress.Model, d.ledger.Head())
	round, err := aggregate.NewRound(plan, d.s.keyring(), d.s.c.deps.Keys.Protocol, d.s.c.deps.Entropy)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(d.roundDir(number), 0o700); err != nil {
		return err
	}
	d.s.feed.turn()
	d.startRound(round, number)
	d.s.setWhy("")
	d.s.events.tell(Event{Kind: "round", Round: number, Text: fmt.Sprintf("round %d begins", number)})
	if err := d.step(ctx, aggregate.Begin{}); err != nil {
		return err
	}
	if err := d.announceAbsent(ctx); err != nil {
		return err
	}
	if d.round == nil {
		d.sleep(pauseFirst) // it ended at once: look again
	}
	return nil
}

func (d *driver) startRound(r *aggregate.Round, number uint64) {
	d.round, d.number, d.phase = r, number, ""
	d.machineCell = d.s.machineCell(number)
	d.readied, d.revoked = map[aggregate.MemberID]bool{}, map[aggregate.MemberID]bool{}
	d.answered = map[string]map[aggregate.MemberID]bool{}
	d.senders = map[aggregate.MemberID][]chan<- error{}
	d.setVectors(nil)
}

func (d *driver) roundDir(number uint64) string {
	return filepath.Join(d.s.dir, "rounds", fmt.Sprintf("%04d", number))
}

// wordsDir holds the vectors of the round at hand.
func (d *driver) wordsDir() string { return filepath.Join(d.s.dir, "rounds") }

func (d *driver) noteAnswer(kind string, m aggregate.MemberID) {
	if d.answered[kind] == nil {
		d.answered[kind] = map[aggregate.MemberID]bool{}
	}
	d.answered[kind][m] = true
	if kind == "ready" {
		d.readied[m] = true
	}
}

// end closes the books of a round.
//
// Until the progress is saved the restored machine, which is ended, sends its Result and ends again; from
// then on the round is history, and its number is never used again.
func (d *driver) end(ctx context.Context, r aggregate.Result) error {
	if _, err := d.promises(ctx); err != nil {
		return err
	}
	rec, err := d.recordOf(r)
	if err != nil {
		return err
	}
	rec.Leaf = d.newestLeaf // the machine records a Result last of all
	d.progress.Last = d.number
	d.progress.Charged = d.ledger.Charges(d.s.digest)
	if r.Outcome == aggregate.Closed {
		d.progress.Closed++
		d.progress.Model = r.Model
		d.failures, d.notBefore = 0, time.Time{}
	} else {
		d.failures++
		d.notBefore = d.s.c.deps.Now().Add(min(pauseFirst<<min(d.failures-1, 20), pauseMost))
	}
	if d.progress.Evidence == nil {
		d.progress.Evidence = map[string]seenAs{}
	}
	for _, h := range rec.Set {
		d.progress.Evidence[h] = d.boots[h].By
	}
	d.pin()
	for _, m := range sortedMembers(d.answered["upload"]) {
		d.progress.Spent = including(d.progress.Spent, string(m))
	}
	for _, m := range r.Excluded {
		d.progress.LeftOut = including(d.progress.LeftOut, string(m))
	}
	ended := &cell[roundRecord]{store: d.s.c.deps.Store, key: d.s.endedKey(fmt.Sprintf("%020d", d.number))}
	if err := saveAll(ctx, d.s.c.deps.Store, d.progressCell.with(d.progress), ended.with(rec)); err != nil {
		return err
	}
	d.rounds = append(d.rounds, rec)
	d.s.setFigures(d.progress, d.progress.Charged)
	for _, t := range []*stopper{&d.deadline, &d.hint, &d.impasse} {
		t.stop()
		*t = stopper{}
	}
	for m, replies := range d.senders {
		for _, reply := range replies {
			reply <- fmt.Errorf("%w: round %d has ended", transport.ErrTooLate, d.number)
		}
		delete(d.senders, m)
	}
	if v := d.currentVectors(); v != nil {
		v.close()
		d.setVectors(nil)
	}
	text := fmt.Sprintf("round %d is %s", d.number, r.Outcome)
	if r.Why != "" {
		text += ": " + r.Why
	}
	d.s.events.tell(Event{Kind: string(r.Outcome), Round: d.number, Text: text})
	d.log.Info("round ended", "round", d.number, "outcome", string(r.Outcome), "why", r.Why)
	d.round, d.phase = nil, ""
	return nil
}

// servedBy notes by which session a member uploads: a receipt names that evidence.
func (d *driver) servedBy(ctx context.Context, m aggregate.MemberID, by seenAs) error {
	e := d.boots[string(m)]
	if e.By == by {
		return nil
	}
	e.By = by
	d.boots[string(m)] = e
	d.pin()
	return d.bootCell.save(ctx, d.boots)
}

// pin says which records the evidence folder has to keep.
func (d *driver) pin() {
	pinned := map[[32]byte]bool{}
	for _, e := range d.boots {
		pinned[e.By.Record] = true
	}
	for _, e := range d.progress.Evidence {
		pinned[e.Record] = true
	}
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	d.s.pinned = pinned
}

// recordOf sums up a round.
func (d *driver) recordOf(r aggregate.Result) (roundRecord, error) {
	rec := roundRecord{Number: d.number, Outcome: string(r.Outcome), Plan: r.Plan, Certificate: r.Certificate, Model: r.Model, Sum: r.Sum, Why: r.Why}
	for _, s := range d.round.Transcript() {
		if s.Kind != "proposal" || r.Certificate == [32]byte{} {
			continue
		}
		m, err := aggregate.Parse(s)
		if err != nil {
			return rec, err
		}
		for _, c := range m.(aggregate.Proposal).Contributions {
			rec.Set = append(rec.Set, string(c.Upload.From))
		}
	}
	return rec, nil
}

func (s *dossier) machineCell(number uint64) *cell[machineRecord] {
	return &cell[machineRecord]{store: s.c.deps.Store, key: fmt.Sprintf("round/%s/%d", hexOf(s.digest), number)}
}

func (s *dossier) endedKey(number string) string { return "ended/" + hexOf(s.digest) + "/" + number }

// transcript is the signed messages of a round that has ended.
func (s *dossier) transcript(ctx context.Context, number uint64) ([]aggregate.Signed, error) {
	m, found, err := s.machineCell(number).load(ctx)
	if err == nil && !found {
		err = fmt.Errorf("round %d: nothing is stored of it", number)
	}
	if err != nil {
		return nil, err
	}
	return aggregate.StoredTranscript(m.State)
}

// keyring is whose signatures count in this study's rounds. That a member shows its newest enrolment is
// checked at the door, for each request.
func (s *dossier) keyring() aggregate.Keyring {
	return terms.Keyring{Consortium: s.c.deps.Consortium, Protocol: s.c.protocol, At: s.c.deps.Now, Known: &s.known}
}
