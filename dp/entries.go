package dp

import (
	"cmp"
	"slices"
)

// Entries are a study's charges in the order they were made.
func (l *Ledger) Entries(study [32]byte) []Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.studies[study]
	if a == nil {
		return nil
	}
	es := make([]Entry, 0, len(a.charges))
	for _, e := range a.charges {
		es = append(es, e)
	}
	slices.SortFunc(es, func(x, y Entry) int { return cmp.Compare(x.Index, y.Index) })
	return es
}
