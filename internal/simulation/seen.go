package simulation

import (
	"slices"
	"sync"

	"github.com/consilium-fl/consilium/aggregate"
)

// seen collects, for the report, what the coordinator saw beside what it did not.
type seen struct {
	hospital string // whose update is shown: the first

	mu        sync.Mutex
	histogram [16]uint64
	first     uint64 // round of plain
	plain     []int64
	masked    []byte
}

func newSeen(f *federation) *seen { return &seen{hospital: f.sites[0].name} }

// arrived counts the bytes of masked words that reached the coordinator.
func (s *seen) arrived(_ uint64, _ aggregate.MemberID, words []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range words {
		s.histogram[b>>4]++
	}
}

// sent keeps the first vector of one hospital, plain and masked.
func (s *seen) sent(hospital string, round uint64, plain []int64, masked []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if hospital != s.hospital || s.plain != nil {
		return
	}
	s.first, s.plain, s.masked = round, slices.Clone(plain), slices.Clone(masked)
}
