package dp

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
)

// memoryJournal keeps the Journal's contract, and fails as a disk does: before the entry is there
// or after it, or with part of it.
type memoryJournal struct {
	entries [][]byte
	torn    []byte
	fault   fault
	closed  bool // after a failed Append nothing may be appended through the same ledger
	t       testing.TB
}

type fault int

const (
	works fault = iota
	failsBefore
	failsAfter
	tears
)

var errDisk = errors.New("disk failed")

func (j *memoryJournal) Append(b []byte) error {
	if j.closed {
		j.t.Error("append after a failed append")
	}
	switch j.fault {
	case failsBefore:
		j.closed = true
		return errDisk
	case tears:
		j.torn, j.closed = b[:len(b)/2], true
		return errDisk
	case works, failsAfter:
	}
	j.entries = append(j.entries, append([]byte(nil), b...))
	if j.fault == failsAfter {
		j.closed = true
		return errDisk
	}
	return nil
}

func (j *memoryJournal) Entries() iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for _, b := range j.entries {
			if !yield(append([]byte(nil), b...), nil) {
				return
			}
		}
	}
}

// reopened is the journal after a crash: the torn tail is gone.
func (j *memoryJournal) reopened() *memoryJournal {
	return &memoryJournal{entries: j.entries, t: j.t}
}

var lifetime = Budget{Epsilon: 8, Delta: 1e-4}

func openTest(t testing.TB, j *memoryJournal, b Budget) *Ledger {
	t.Helper()
	j.t = t
	l, err := OpenLedger(j, b)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func chargeOf(study byte, number uint64) Charge {
	return Charge{
		Registry: "cardiology", Study: [32]byte{study}, Number: number, Plan: [32]byte{1, byte(number)},
		Roster: [32]byte{2, byte(number)}, Reserve: Budget{1, 1e-5}, Limit: 33,
	}
}

func mustCharge(t testing.TB, l *Ledger, c Charge) Entry {
	t.Helper()
	e, err := l.Charge(c)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestChargesChain(t *testing.T) {
	j := new(memoryJournal)
	l := openTest(t, j, lifetime)
	if l.Head() != [32]byte{} {
		t.Errorf("head of an empty ledger %x", l.Head())
	}
	var prev [32]byte
	for n := range uint64(5) {
		e := mustCharge(t, l, chargeOf(1, n+1))
		if e.Index != n || e.Prev != prev || e.Head == prev || e.Charge != chargeOf(1, n+1) {
			t.Errorf("entry %+v after head %x", e, prev)
		}
		prev = e.Head
	}
	again := openTest(t, j.reopened(), lifetime)
	for name, l := range map[string]*Ledger{"written": l, "read": again} {
		if last, ok := l.Last([32]byte{1}); !ok || last.Head != prev || l.Head() != prev || l.Charges([32]byte{1}) != 5 {
			t.Errorf("%s: last %+v, head %x, %d charges", name, last, l.Head(), l.Charges([32]byte{1}))
		}
		if got := l.Reserved(); got != (Budget{1, 1e-5}) {
			t.Errorf("%s: reserved %v", name, got)
		}
		if _, ok := l.Last([32]byte{9}); ok || l.Charges([32]byte{9}) != 0 {
			t.Errorf("%s: charges of a study never seen", name)
		}
	}
}

// TestIdentity: the same round, plan and roster are one charge, anything else is another.
func TestIdentity(t *testing.T) {
	j := new(memoryJournal)
	l := openTest(t, j, lifetime)
	c := chargeOf(1, 1)
	want := mustCharge(t, l, c)
	otherPlan, otherRoster := c, c
	otherPlan.Plan[31]++
	otherRoster.Roster[31]++
	mustCharge(t, l, otherPlan)
	mustCharge(t, l, otherRoster)
	for _, l := range []*Ledger{l, openTest(t, j.reopened(), lifetime)} {
		if got := mustCharge(t, l, c); got != want {
			t.Errorf("the same charge again: %+v, want %+v", got, want)
		}
		if got := l.Charges(c.Study); got != 3 {
			t.Errorf("%d charges, want 3", got)
		}
	}
	if len(j.entries) != 3 {
		t.Errorf("%d entries, want 3", len(j.entries))
	}
	if last, _ := l.Last(c.Study); last.Charge != otherRoster {
		t.Errorf("last charge %+v, want the last made", last.Charge)
	}
}

func TestStudyLimit(t *testing.T) {
	l := openTest(t, new(memoryJournal), lifetime)
	for n := range uint64(33) {
		mustCharge(t, l, chargeOf(1, n+1))
	}
	if _, err := l.Charge(chargeOf(1, 34)); !errors.Is(err, ErrBudget) {
		t.Errorf("charge 34 of 33: %v, want ErrBudget", err)
	}
	mustCharge(t, l, chargeOf(1, 33)) // a replay is no charge
	if got := l.Charges([32]byte{1}); got != 33 {
		t.Errorf("%d charges, want 33", got)
	}
}

// TestLifetime: reservations add as written, ten of 1e-5 in 1e-4 or three of 0.1 in 0.3, and a
// registry's neighbour does not pay.
func TestLifetime(t *testing.T) {
	for _, c := range []struct {
		reserve, lifetime Budget
		fits              int
	}{
		{Budget{1, 1e-5}, Budget{8, 1e-4}, 8},
		{Budget{0.1, 1e-5}, Budget{8, 1e-4}, 10},
		{Budget{0.1, 1e-6}, Budget{0.3, 1e-4}, 3},
		{Budget{8.000001, 1e-6}, Budget{8, 1e-4}, 0},
		{Budget{1, 1e-5}, Budget{0, 0}, 0},
		{Budget{100, 0.5}, Budget{math.Inf(1), math.Inf(1)}, 12},
	} {
		l := openTest(t, new(memoryJournal), c.lifetime)
		for n := range 12 {
			charge := chargeOf(byte(n+1), 1)
			charge.Reserve = c.reserve
			_, err := l.Charge(charge)
			if fits := n < c.fits; fits != (err == nil) || !fits && !errors.Is(err, ErrBudget) {
				t.Errorf("%v of %v, study %d: %v, want %d to fit", c.reserve, c.lifetime, n+1, err, c.fits)
			}
		}
		charge := chargeOf(99, 1)
		charge.Registry, charge.Reserve = "oncology", Budget{0.1, 1e-6}
		if _, err := l.Charge(charge); c.lifetime.Epsilon > 0 && err != nil {
			t.Errorf("another registry: %v", err)
		}
	}
}

// TestLoweredLifetime: what is reserved goes on, nothing new starts.
func TestLoweredLifetime(t *testing.T) {
	j := new(memoryJournal)
	mustCharge(t, openTest(t, j, lifetime), chargeOf(1, 1))
	l := openTest(t, j.reopened(), Budget{0.5, 1e-6})
	mustCharge(t, l, chargeOf(1, 2))
	if _, err := l.Charge(chargeOf(2, 1)); !errors.Is(err, ErrBudget) {
		t.Errorf("a new study over the lowered budget: %v, want ErrBudget", err)
	}
}

func TestChangedTermsAreRefused(t *testing.T) {
	l := openTest(t, new(memoryJournal), lifetime)
	mustCharge(t, l, chargeOf(1, 1))
	for name, change := range map[string]func(*Charge){
		"registry":     func(c *Charge) { c.Registry = "oncology" },
		"less epsilon": func(c *Charge) { c.Reserve.Epsilon = 0.1 },
		"less delta":   func(c *Charge) { c.Reserve.Delta = 1e-9 },
		"more charges": func(c *Charge) { c.Limit = 1000 },
	} {
		for _, number := range []uint64{1, 2} { // a replay and a new round
			c := chargeOf(1, number)
			change(&c)
			if _, err := l.Charge(c); err == nil || errors.Is(err, ErrBudget) {
				t.Errorf("%s changed at round %d: %v, want a refusal of its own", name, number, err)
			}
		}
	}
	if got := l.Charges([32]byte{1}); got != 1 {
		t.Errorf("%d charges, want 1", got)
	}
}

func TestMeaninglessCharges(t *testing.T) {
	j := new(memoryJournal)
	l := openTest(t, j, lifetime)
	for name, change := range map[string]func(*Charge){
		"no registry":      func(c *Charge) { c.Registry = "" },
		"long registry":    func(c *Charge) { c.Registry = string(make([]byte, 257)) },
		"registry bytes":   func(c *Charge) { c.Registry = "\xff" },
		"no study":         func(c *Charge) { c.Study = [32]byte{} },
		"no limit":         func(c *Charge) { c.Limit = 0 },
		"no epsilon":       func(c *Charge) { c.Reserve.Epsilon = 0 },
		"negative epsilon": func(c *Charge) { c.Reserve.Epsilon = -1 },
		"epsilon NaN":      func(c *Charge) { c.Reserve.Epsilon = math.NaN() },
		"infinite epsilon": func(c *Charge) { c.Reserve.Epsilon = math.Inf(1) },
		"no delta":         func(c *Charge) { c.Reserve.Delta = 0 },
		"delta NaN":        func(c *Charge) { c.Reserve.Delta = math.NaN() },
		"delta 1":          func(c *Charge) { c.Reserve.Delta = 1 },
	} {
		c := chargeOf(1, 1)
		change(&c)
		if _, err := l.Charge(c); err == nil {
			t.Errorf("%s: charged", name)
		}
	}
	for _, b := range []Budget{{-1, 1e-5}, {1, -1}, {math.NaN(), 1}, {1, math.NaN()}} {
		if _, err := OpenLedger(j, b); err == nil {
			t.Errorf("lifetime %v opens", b)
		}
	}
	if len(j.entries) != 0 {
		t.Errorf("%d entries", len(j.entries))
	}
}

// TestFailedAppend: whatever a failing disk did, what was released is at most what is charged, and
// the chain goes on after opening again.
func TestFailedAppend(t *testing.T) {
	for _, f := range []fault{failsBefore, failsAfter, tears} {
		t.Run(fmt.Sprint(f), func(t *testing.T) {
			j := new(memoryJournal)
			l := openTest(t, j, lifetime)
			mustCharge(t, l, chargeOf(1, 1))
			head := l.Head()
			j.fault = f
			if _, err := l.Charge(chargeOf(1, 2)); !errors.Is(err, errDisk) {
				t.Fatalf("charge on a failing disk: %v", err)
			}
			j.fault = works
			if _, err := l.Charge(chargeOf(1, 2)); !errors.Is(err, errDisk) {
				t.Errorf("the same charge, disk in doubt: %v", err)
			}
			if _, err := l.Charge(chargeOf(1, 1)); !errors.Is(err, errDisk) {
				t.Errorf("an old charge, disk in doubt: %v", err)
			}
			if err := l.Close([32]byte{1}); !errors.Is(err, errDisk) {
				t.Errorf("closing, disk in doubt: %v", err)
			}
			if l.Head() != head {
				t.Errorf("head %x moved from %x", l.Head(), head)
			}
			again := openTest(t, j.reopened(), lifetime)
			mustCharge(t, again, chargeOf(1, 2))
			mustCharge(t, again, chargeOf(1, 3))
			if got := openTest(t, again.journal.(*memoryJournal).reopened(), lifetime).Charges([32]byte{1}); got != 3 {
				t.Errorf("%d charges, want 3", got)
			}
		})
	}
}

// TestCrashes plays random charges, faults and restarts against a count of what was released.
func TestCrashes(t *testing.T) {
	r := rand.New(rand.NewPCG(15, 16))
	for range 200 {
		j := new(memoryJournal)
		l := openTest(t, j, Budget{3, 1e-4})
		released := map[Charge]Entry{}
		for range 60 {
			c := chargeOf(byte(1+r.IntN(5)), r.Uint64N(6))
			c.Limit = 5
			if r.IntN(4) == 0 {
				c.Roster[9] = byte(r.IntN(3))
			}
			j.fault = []fault{works, works, works, failsBefore, failsAfter, tears}[r.IntN(6)]
			e, err := l.Charge(c)
			switch {
			case err == nil:
				if old, ok := released[c]; ok && old != e {
					t.Fatalf("one charge, two entries: %+v and %+v", old, e)
				}
				released[c] = e
			case errors.Is(err, errDisk):
				j = j.reopened()
				l = openTest(t, j, Budget{3, 1e-4})
			case !errors.Is(err, ErrBudget):
				t.Fatal(err)
			}
			j.fault = works
			spent, studies := uint64(0), map[[32]byte]bool{}
			for c := range released {
				studies[c.Study] = true
			}
			for s := range studies {
				spent += l.Charges(s)
				if l.Charges(s) > 5 {
					t.Fatalf("%d charges of at most 5", l.Charges(s))
				}
			}
			if spent < uint64(len(released)) || l.Reserved().Epsilon < float64(len(studies)) || l.Reserved().Epsilon > 3 {
				t.Fatalf("spent %d and %v reserved, released %d of %d studies", spent, l.Reserved(), len(released), len(studies))
			}
		}
	}
}

// TestAlteredJournal: a bit flipped, an entry gone, doubled, moved or from another ledger: the
// ledger does not open. Only a whole entry missing at the end cannot be seen from inside, which is
// why hospitals compare heads with the log.
func TestAlteredJournal(t *testing.T) {
	j := new(memoryJournal)
	l := openTest(t, j, lifetime)
	for n := range uint64(4) {
		mustCharge(t, l, chargeOf(1, n+1))
	}
	refuse := func(what string, entries [][]byte) {
		t.Helper()
		if _, err := OpenLedger(&memoryJournal{entries: entries, t: t}, lifetime); err == nil {
			t.Errorf("%s: the ledger opens", what)
		}
	}
	copied := func() [][]byte {
		var c [][]byte
		for _, b := range j.entries {
			c = append(c, append([]byte(nil), b...))
		}
		return c
	}
	for i, b := range j.entries {
		for at := range b {
			c := copied()
			c[i][at] ^= 1 << (at % 8)
			refuse(fmt.Sprintf("entry %d, byte %d flipped", i, at), c)
		}
		c := copied()
		c[i] = c[i][:len(c[i])-1]
		refuse(fmt.Sprintf("entry %d cut", i), c)
		c = copied()
		c[i] = append(c[i], 0)
		refuse(fmt.Sprintf("entry %d longer", i), c)
		c = copied()
		refuse(fmt.Sprintf("entry %d doubled", i), append(c[:i+1:i+1], c[i:]...))
		if i < 3 {
			c = copied()
			refuse(fmt.Sprintf("entry %d gone", i), append(c[:i:i], c[i+1:]...))
			c = copied()
			c[i], c[i+1] = c[i+1], c[i]
			refuse(fmt.Sprintf("entry %d moved", i), c)
		}
	}
	other := new(memoryJournal)
	o := openTest(t, other, lifetime)
	for n := range uint64(4) {
		mustCharge(t, o, chargeOf(2, n+1))
	}
	refuse("an entry of another ledger", append(copied()[:2], other.entries[2]))
	refuse("an empty entry", [][]byte{{}})
}

// TestForgedJournal: entries that chain but break a rule of the ledger.
func TestForgedJournal(t *testing.T) {
	good := func(number uint64) record {
		c := chargeOf(1, number)
		return record{
			Act: actCharge, Study: c.Study, Registry: c.Registry, Epsilon: 1, Delta: 1e-5, Limit: 2,
			Number: number, Plan: c.Plan, Roster: c.Roster,
		}
	}
	changed := func(r record, f func(*record)) record { f(&r); return r }
	study := [32]byte{1}
	for name, records := range map[string][]record{
		"a charge twice":         {good(1), good(1)},
		"over the limit":         {good(1), good(2), good(3)},
		"other terms":            {good(1), changed(good(2), func(r *record) { r.Epsilon = 0.5 })},
		"another registry":       {good(1), changed(good(2), func(r *record) { r.Registry = "x" })},
		"a charge after closing": {good(1), {Act: actClose, Study: study}, good(2)},
		"closed twice":           {good(1), {Act: actClose, Study: study}, {Act: actClose, Study: study}},
		"closed before charged":  {{Act: actClose, Study: study}},
		"forfeited when charged": {good(1), {Act: actForfeit, Study: study, Registry: "x", Epsilon: 1, Delta: 1e-5, Limit: 1}},
		"forfeited with a round": {{Act: actForfeit, Study: study, Registry: "x", Epsilon: 1, Delta: 1e-5, Limit: 1, Number: 1}},
		"closing with a budget":  {good(1), {Act: actClose, Study: study, Epsilon: 1}},
		"an unknown act":         {changed(good(1), func(r *record) { r.Act = 4 })},
		"no act":                 {changed(good(1), func(r *record) { r.Act = 0 })},
		"a negative reserve":     {changed(good(1), func(r *record) { r.Epsilon = -1 })},
		"no limit":               {changed(good(1), func(r *record) { r.Limit = 0 })},
	} {
		j := &memoryJournal{t: t}
		var head [32]byte
		for i, r := range records {
			r.Index, r.Prev = uint64(i), head
			var b []byte
			b, head = r.encode()
			j.entries = append(j.entries, b)
		}
		if _, err := OpenLedger(j, lifetime); err == nil {
			t.Errorf("%s: the ledger opens", name)
		}
	}
}

func TestForgedIndex(t *testing.T) {
	r := record{Act: actCharge, Index: 1, Study: [32]byte{1}, Registry: "x", Epsilon: 1, Delta: 1e-5, Limit: 1}
	b, _ := r.encode()
	if _, err := OpenLedger(&memoryJournal{entries: [][]byte{b}, t: t}, lifetime); err == nil {
		t.Error("a ledger that starts with entry 1 opens")
	}
}

type brokenJournal struct{ memoryJournal }

func (*brokenJournal) Entries() iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) { yield(nil, errDisk) }
}

func TestTornMiddle(t *testing.T) {
	if _, err := OpenLedger(new(brokenJournal), lifetime); !errors.Is(err, errDisk) {
		t.Errorf("opening a torn journal: %v", err)
	}
}

func TestClose(t *testing.T) {
	j := new(memoryJournal)
	l := openTest(t, j, lifetime)
	study := [32]byte{1}
	if err := l.Close(study); err == nil {
		t.Error("closing a study of which the reservation is unknown")
	}
	want := mustCharge(t, l, chargeOf(1, 1))
	for range 2 {
		if err := l.Close(study); err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range []*Ledger{l, openTest(t, j.reopened(), lifetime)} {
		for _, number := range []uint64{1, 2} {
			if _, err := l.Charge(chargeOf(1, number)); !errors.Is(err, ErrBudget) {
				t.Errorf("round %d of a closed study: %v, want ErrBudget", number, err)
			}
		}
		if got := l.Reserved(); got != (Budget{1, 1e-5}) {
			t.Errorf("reserved %v after closing", got)
		}
		if last, ok := l.Last(study); !ok || last != want {
			t.Errorf("last charge %+v, want %+v", last, want)
		}
	}
	if len(j.entries) != 2 {
		t.Errorf("%d entries, want 2", len(j.entries))
	}
}

// TestForfeit: after a lost machine what it may have spent is spent, over the budget or not.
func TestForfeit(t *testing.T) {
	j := new(memoryJournal)
	l := openTest(t, j, Budget{1.5, 1e-4})
	for range 2 {
		for s := byte(1); s <= 2; s++ {
			if err := l.Forfeit("cardiology", [32]byte{s}, Budget{1, 1e-5}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := l.Forfeit("cardiology", [32]byte{3}, Budget{}); err == nil {
		t.Error("forfeiting nothing")
	}
	for _, l := range []*Ledger{l, openTest(t, j.reopened(), Budget{1.5, 1e-4})} {
		if got := l.Reserved(); got != (Budget{2, 2e-5}) {
			t.Errorf("reserved %v", got)
		}
		if _, ok := l.Last([32]byte{1}); ok || l.Charges([32]byte{1}) != 0 {
			t.Error("a forfeited study has charges")
		}
		c := chargeOf(1, 1)
		c.Limit = 1
		for _, c := range []Charge{c, chargeOf(1, 1)} {
			if _, err := l.Charge(c); !errors.Is(err, ErrBudget) {
				t.Errorf("charging a forfeited study: %v, want ErrBudget", err)
			}
		}
		if _, err := l.Charge(chargeOf(4, 1)); !errors.Is(err, ErrBudget) {
			t.Errorf("a study after the budget was forfeited: %v, want ErrBudget", err)
		}
	}
	// A study that is known here is closed.
	l = openTest(t, new(memoryJournal), lifetime)
	mustCharge(t, l, chargeOf(1, 1))
	if err := l.Forfeit("cardiology", [32]byte{1}, Budget{1, 1e-5}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Charge(chargeOf(1, 2)); !errors.Is(err, ErrBudget) {
		t.Errorf("charging a study forfeited here: %v, want ErrBudget", err)
	}
}

// TestConcurrentCharges: eight goroutines ask for the same rounds and each round is one entry.
func TestConcurrentCharges(t *testing.T) {
	j := new(memoryJournal)
	l := openTest(t, j, lifetime)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for n := range uint64(20) {
				if _, err := l.Charge(chargeOf(1, n)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := openTest(t, j.reopened(), lifetime).Charges([32]byte{1}); got != 20 || len(j.entries) != 20 {
		t.Errorf("%d charges in %d entries, want 20", got, len(j.entries))
	}
}

func FuzzParseRecord(f *testing.F) {
	b, _ := record{Act: actCharge, Study: [32]byte{1}, Registry: "r", Epsilon: 1, Delta: 1e-5, Limit: 3}.encode()
	f.Add(b[32:])
	b, _ = record{Act: actClose, Study: [32]byte{1}}.encode()
	f.Add(b[32:])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, payload []byte) {
		head := recordHead(payload) // so that what is behind the digest is reached
		for _, b := range [][]byte{payload, append(head[:], payload...)} {
			r, got, err := parseRecord(b)
			if err != nil {
				continue
			}
			if again, want := r.encode(); string(again) != string(b) || got != want {
				t.Errorf("%x reads as %+v, which is %x", b, r, again)
			}
		}
	})
}
