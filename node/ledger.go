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
// extract of the data is not a new budget.
func openLedgers(c Config, open func(path string) (Journal, error)) (map[string]ledger, error) {
	ls := map[string]ledger{}
	for name, r := range c.Registries {
		j, err := open(filepath.Join(c.State, "ledger-"+name+".journal"))
		if err != nil {
			return nil, fmt.Errorf("opening the ledger of registry %q: %w", name, err)
		}
		l, err := dp.OpenLedger(j, r.Budget)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("opening the ledger of registry %q: %w", name, err), j.Close())
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

// charged lists the digests of a study's charges as its log shows them.
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
