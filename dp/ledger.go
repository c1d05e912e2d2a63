package dp

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"math/big"
	"strconv"
	"sync"
)

// Journal is an append-only file. An entry that Append has returned for is fsynced. A torn tail is
// dropped when the entries are read, a torn middle is an error of Entries. After an Append that
// failed the entry may be there or not, and the Ledger does not use the Journal again.
type Journal interface {
	Append([]byte) error
	Entries() iter.Seq2[[]byte, error]
}

// Charge asks a ledger for the worst case of one round: every patient, whether or not the round
// closes. Study, Number, Plan and Roster are its identity; a plan or roster that differs is
// another charge. Registry, Reserve and Limit are terms of the study and the same in all its
// charges.
type Charge struct {
	Registry string // the registry's name in the consortium file, never a file's name or digest
	Study    [32]byte
	Number   uint64 // of the round
	Plan     [32]byte
	Roster   [32]byte
	Reserve  Budget // the study's whole (ε, δ), reserved in the lifetime budget at its first charge
	Limit    uint64 // most charges of this study: rounds + spare
}

// Entry is a charge that is durable.
type Entry struct {
	Index  uint64
	Head   [32]byte // of the chain, this entry included
	Prev   [32]byte // of the chain before it
	Charge Charge
}

// ErrBudget says that a charge does not fit: the registry's lifetime budget or the study's charges
// are used up, or the study is closed here.
var ErrBudget = errors.New("privacy budget used up")

// Ledger is what a hospital, or the coordinator, has spent: a hash chain of charges in a Journal.
// A charge is durable before Charge returns, so whatever is released afterwards has been paid for;
// nothing is ever refunded. Budgets are kept for each registry, apart. Its methods may be called
// concurrently; a Journal serves one Ledger.
type Ledger struct {
	lifetime [2]*big.Rat // ε and δ; nil is unlimited

	mu         sync.Mutex // guards all below
	journal    Journal
	failed     error // of an Append: whether its entry is durable is unknown until the journal is opened again
	index      uint64
	head       [32]byte
	studies    map[[32]byte]*account
	registries map[string]*reservations
}

// account is what the ledger knows of a study.
type account struct {
	terms   terms
	charges map[identity]Entry
	last    Entry
	closed  bool
}

type terms struct {
	registry string
	reserve  Budget
	limit    uint64
}

type identity struct {
	number       uint64
	plan, roster [32]byte
}

func (c Charge) terms() terms       { return terms{c.Registry, c.Reserve, c.Limit} }
func (c Charge) identity() identity { return identity{c.Number, c.Plan, c.Roster} }

// reservations add up as the decimals that people wrote: ten of 1e-5 are 1e-4.
type reservations struct{ epsilon, delta *big.Rat }

// OpenLedger reads a ledger back. An entry that is not what was written, or does not follow from
// the one before it, is an error: a ledger in doubt pays for nothing. lifetime is the budget of
// each registry over all studies, by basic composition; a lifetime of +Inf is no limit, for the
// coordinator, which has studies but no patients. A lifetime under what is already reserved stops
// new studies and lets the reserved ones end.
func OpenLedger(j Journal, lifetime Budget) (*Ledger, error) {
	l, err := openLedger(j, lifetime)
	if err != nil {
		return nil, fmt.Errorf("opening privacy ledger: %w", err)
	}
	return l, nil
}

func openLedger(j Journal, lifetime Budget) (*Ledger, error) {
	l := &Ledger{
		journal:    j,
		studies:    make(map[[32]byte]*account),
		registries: make(map[string]*reservations),
	}
	for i, x := range []float64{lifetime.Epsilon, lifetime.Delta} {
		switch {
		case math.IsInf(x, 1):
		case x >= 0:
			l.lifetime[i] = decimal(x)
		default:
			return nil, fmt.Errorf("lifetime budget epsilon %v and delta %v, want at least 0", lifetime.Epsilon, lifetime.Delta)
		}
	}
	for b, err := range j.Entries() {
		if err != nil {
			return nil, fmt.Errorf("reading entry %d: %w", l.index, err)
		}
		if err := l.replay(b); err != nil {
			return nil, fmt.Errorf("replaying entry %d: %w", l.index, err)
		}
	}
	return l, nil
}

// replay applies a stored entry under the rules that it was written under, the lifetime budget
// excepted: the steward may have lowered that since.
func (l *Ledger) replay(b []byte) error {
	r, head, err := parseRecord(b)
	if err != nil {
		return err
	}
	if r.Index != l.index || r.Prev != l.head {
		return fmt.Errorf("got entry %d after head %x, want entry %d after head %x", r.Index, r.Prev[:4], l.index, l.head[:4])
	}
	switch a := l.studies[r.Study]; {
	case r.Act == actForfeit && a != nil:
		return errors.New("a study that was charged is forfeited as one that was not")
	case r.Act == actClose && (a == nil || a.closed):
		return errors.New("a study that is not open is closed")
	case r.Act == actCharge && a != nil:
		if _, twice := a.charges[r.charge().identity()]; twice {
			return errors.New("the same charge twice")
		}
		if err := a.allows(r.charge()); err != nil {
			return err
		}
	}
	l.apply(r, head)
	return nil
}

// Charge makes the charge durable and returns its entry. The same identity again returns the
// entry it has. After any error nothing may be released; after one from the Journal the Ledger
// refuses everything until it is opened again, and the charge may by then stand.
func (l *Ledger) Charge(c Charge) (Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, err := l.charge(c)
	if err != nil {
		return Entry{}, fmt.Errorf("charging round %d of study %x: %w", c.Number, c.Study[:4], err)
	}
	return e, nil
}

func (l *Ledger) charge(c Charge) (Entry, error) {
	if err := c.check(); err != nil {
		return Entry{}, err
	}
	if l.failed != nil {
		return Entry{}, l.failed
	}
	if a := l.studies[c.Study]; a != nil {
		if e, ok := a.charges[c.identity()]; ok && c.terms() == a.terms && !a.closed {
			return e, nil
		}
		if err := a.allows(c); err != nil {
			return Entry{}, err
		}
	} else if err := l.affords(c.Registry, c.Reserve); err != nil {
		return Entry{}, err
	}
	if err := l.append(record{
		Act: actCharge, Study: c.Study, Registry: c.Registry, Epsilon: c.Reserve.Epsilon, Delta: c.Reserve.Delta,
		Limit: c.Limit, Number: c.Number, Plan: c.Plan, Roster: c.Roster,
	}); err != nil {
		return Entry{}, err
	}
	return l.studies[c.Study].last, nil
}

// allows tells whether a study that has been charged can take the charge c.
func (a *account) allows(c Charge) error {
	switch {
	case a.closed:
		return fmt.Errorf("the study is closed for this hospital: %w", ErrBudget)
	case c.terms() != a.terms:
		return fmt.Errorf("got registry %q, reserve %v and limit %d, want the study's %q, %v and %d",
			c.Registry, c.Reserve, c.Limit, a.terms.registry, a.terms.reserve, a.terms.limit)
	case uint64(len(a.charges)) >= a.terms.limit:
		return fmt.Errorf("%d charges of at most %d: %w", len(a.charges), a.terms.limit, ErrBudget)
	}
	return nil
}

// affords tells whether a new study's reservation fits the lifetime budget of its registry.
func (l *Ledger) affords(registry string, b Budget) error {
	sum := l.registries[registry].plus(b)
	for i, want := range []*big.Rat{sum.epsilon, sum.delta} {
		if l.lifetime[i] != nil && want.Cmp(l.lifetime[i]) > 0 {
			return fmt.Errorf("registry %q would have %v reserved of epsilon %v and delta %v: %w",
				registry, sum.budget(), ceilFloat(l.lifetime[0]), ceilFloat(l.lifetime[1]), ErrBudget)
		}
	}
	return nil
}

// append makes r the next entry: durable first, counted second. A crash between the two finds the
// entry when the ledger is opened; a crash before finds nothing, and nothing was released.
func (l *Ledger) append(r record) error {
	r.Index, r.Prev = l.index, l.head
	b, head := r.encode()
	if err := l.journal.Append(b); err != nil {
		l.failed = fmt.Errorf("appending entry %d: %w", r.Index, err)
		return l.failed
	}
	l.apply(r, head)
	return nil
}

func (l *Ledger) apply(r record, head [32]byte) {
	l.index, l.head = r.Index+1, head
	a := l.studies[r.Study]
	if a == nil {
		a = &account{terms: r.charge().terms(), charges: make(map[identity]Entry)}
		l.studies[r.Study] = a
		l.registries[r.Registry] = l.registries[r.Registry].plus(a.terms.reserve)
	}
	if r.Act != actCharge {
		a.closed = true
		return
	}
	a.last = Entry{Index: r.Index, Head: head, Prev: r.Prev, Charge: r.charge()}
	a.charges[a.last.Charge.identity()] = a.last
}

// Close ends a study that this ledger has charged: no further charge, its reservation stays spent.
// Closing twice is closing once. A study that only a lost ledger charged is for Forfeit.
func (l *Ledger) Close(study [32]byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.close(study); err != nil {
		return fmt.Errorf("closing study %x: %w", study[:4], err)
	}
	return nil
}

func (l *Ledger) close(study [32]byte) error {
	a := l.studies[study]
	switch {
	case l.failed != nil:
		return l.failed
	case a == nil:
		return errors.New("no charge of it here, so what it reserved is unknown")
	case a.closed:
		return nil
	}
	return l.append(record{Act: actClose, Study: study})
}

// Forfeit closes a study that a ledger now lost may have charged: its whole reservation counts as
// spent, be it over the lifetime budget, and it is never charged here. A study that this ledger
// knows is closed as Close does.
func (l *Ledger) Forfeit(registry string, study [32]byte, reserve Budget) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.forfeit(registry, study, reserve); err != nil {
		return fmt.Errorf("forfeiting study %x: %w", study[:4], err)
	}
	return nil
}

func (l *Ledger) forfeit(registry string, study [32]byte, reserve Budget) error {
	c := Charge{Registry: registry, Study: study, Reserve: reserve, Limit: 1}
	if err := c.check(); err != nil {
		return err
	}
	if l.failed == nil && l.studies[study] == nil {
		return l.append(record{
			Act: actForfeit, Study: study, Registry: registry, Epsilon: reserve.Epsilon, Delta: reserve.Delta, Limit: 1,
		})
	}
	return l.close(study)
}

// Head is the chain's head, zero while there is no entry.
func (l *Ledger) Head() [32]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head
}

// Charges counts the charges of a study, each identity once.
func (l *Ledger) Charges(study [32]byte) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.studies[study]; a != nil {
		return uint64(len(a.charges))
	}
	return 0
}

// Last is a study's latest charge, false where it has none here.
func (l *Ledger) Last(study [32]byte) (Entry, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.studies[study]
	if a == nil || len(a.charges) == 0 {
		return Entry{}, false
	}
	return a.last, true
}

// Reserved is what all studies so far have reserved: of the registry that has most, ε and δ apart,
// where the ledger serves several.
func (l *Ledger) Reserved() Budget {
	l.mu.Lock()
	defer l.mu.Unlock()
	var most Budget
	for r := range maps.Values(l.registries) {
		b := r.budget()
		most = Budget{Epsilon: max(most.Epsilon, b.Epsilon), Delta: max(most.Delta, b.Delta)}
	}
	return most
}

func (r *reservations) plus(b Budget) *reservations {
	sum := &reservations{decimal(b.Epsilon), decimal(b.Delta)}
	if r != nil {
		sum.epsilon.Add(sum.epsilon, r.epsilon)
		sum.delta.Add(sum.delta, r.delta)
	}
	return sum
}

func (r *reservations) budget() Budget { return Budget{ceilFloat(r.epsilon), ceilFloat(r.delta)} }

// decimal is the shortest decimal that reads back as x, a finite number.
func decimal(x float64) *big.Rat {
	r, ok := new(big.Rat).SetString(strconv.FormatFloat(x, 'g', -1, 64))
	if !ok {
		panic("dp: a finite float is a decimal")
	}
	return r
}

// ceilFloat is the float64 whose decimal is the least that is not under r; +Inf for nil.
func ceilFloat(r *big.Rat) float64 {
	if r == nil {
		return math.Inf(1)
	}
	x, _ := r.Float64()
	for !math.IsInf(x, 0) && decimal(x).Cmp(r) < 0 {
		x = math.Nextafter(x, math.Inf(1))
	}
	return x
}
