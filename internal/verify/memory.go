package verify

import "iter"

// memory is a journal of a ledger that is made again and thrown away.
type memory struct{ entries [][]byte }

func (m *memory) Append(b []byte) error {
	m.entries = append(m.entries, b)
	return nil
}

func (m *memory) Entries() iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for _, e := range m.entries {
			if !yield(e, nil) {
				return
			}
		}
	}
}
