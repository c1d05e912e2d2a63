package node

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/dp"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/terms"
)

// ledger is a registry's budget and the journal that holds it.
type ledger struct {
	*dp.Ledger
	journal io.Closer
}

// openLedgers opens one ledger a registry, named by the registry's name in the consortium file: a new
// extract of the data is not a new budget. After an error the caller closes those that are open.
func openLedgers(c Config, open func(path string) (Journal, error)) (map[string]ledger, error) {
	ls := map[string]ledger{}
	for name, r := range c.Registries {
		j, err := open(filepath.Join(c.State, "ledger-"+name+".journal"))
		if err != nil {
			return ls, fmt.Errorf("opening the ledger of registry %q: %w", name, err)
		}
		l, err := dp.OpenLedger(j, r.Budget)
		if err != nil {
			return ls, errors.Join(fmt.Errorf("opening the ledger of registry %q: %w", name, err), j.Close())
		}
		ls[name] = ledger{Ledger: l, journal: j}
	}
	return ls, nil
}

// charge makes the durable entry of a round and returns the encoded charge that the Upload carries.
//
// If the process dies after the entry and before the first masked byte leaves, the round's privacy is
// spent and nothing was released for it: spent ≥ released.
func charge(l *dp.Ledger, t *terms.Terms, c aggregate.Charge) ([]byte, error) {
	e, err := l.Charge(t.Charge(c))
	if err != nil {
		return nil, err
	}
	c.Head = e.Head
	return signed.Encode(c)
}

// charged lists the digests of a study's charges as its log shows them. Each holds the head of the
// ledger's chain, so that a ledger that was rolled back and charged again has others.
func charged(l *dp.Ledger, s [32]byte) (map[[32]byte]bool, error) {
	known := map[[32]byte]bool{}
	for _, e := range l.Entries(s) {
		b, err := signed.Encode(aggregate.Charge{Study: e.Charge.Study, Number: e.Charge.Number, Plan: e.Charge.Plan, Roster: e.Charge.Roster, Head: e.Head})
		if err != nil {
			return nil, err
		}
		known[signed.Digest(b)] = true
	}
	return known, nil
}

// forfeit closes a study whose charges this ledger does not know: its whole reservation counts as spent.
func forfeit(l *dp.Ledger, t *terms.Terms) error {
	c := t.Charge(aggregate.Charge{})
	return l.Forfeit(c.Registry, c.Study, c.Reserve)
}

// slack lets a sum of budgets be a rounding over the lifetime budget: the ledger counts in decimals, and
// decides.
const slack = 1 + 1e-9

// affords says whether the ledger still covers a charge of a study: the charge itself decides, this only
// lets the hospital say no before it trains.
func affords(l *dp.Ledger, lifetime dp.Budget, t *terms.Terms) bool {
	c := t.Charge(aggregate.Charge{})
	if n := l.Charges(c.Study); n > 0 {
		return n < c.Limit
	}
	used := l.Reserved()
	return used.Epsilon+c.Reserve.Epsilon <= lifetime.Epsilon*slack && used.Delta+c.Reserve.Delta <= lifetime.Delta*slack
}
