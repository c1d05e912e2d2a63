package aggregate

import (
	"errors"
	"fmt"
	"math"

	"github.com/consilium-fl/consilium/internal/signed"
)

// UnmaskKey removes the masks of one sum, once. Only a Round makes one, after a certificate, t
// releases and a charge.
type UnmaskKey struct{ key *unmaskKey }

type unmaskKey struct {
	plan    [32]byte // digest of the signed plan
	set     int
	streams []stream
}

func (k *unmaskKey) erase() {
	clear(k.streams)
	*k = unmaskKey{}
}

// MaskedSum adds up masked vectors. It can only be unmasked after it was noised, by one of two
// methods that consume it: a caller cannot forget the noise.
type MaskedSum struct {
	plan  Plan
	acc   []uint64 // modulo 2^64, which WordBits divide
	added uint64   // words
}

// NewMaskedSum returns an empty sum for a plan.
func NewMaskedSum(p Plan) (*MaskedSum, error) {
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("starting a sum: %w", err)
	}
	return &MaskedSum{plan: p, acc: make([]uint64, p.Dim)}, nil
}

// errConsumed says that a sum was noised or unmasked before.
var errConsumed = errors.New("the sum was consumed")

// Add adds words, as Member.Mask wrote them, from a word offset on; modulo 2^WordBits, in any order.
func (s *MaskedSum) Add(offset int, words []byte) error {
	width := s.plan.WordBytes()
	switch {
	case s.acc == nil:
		return fmt.Errorf("adding words: %w", errConsumed)
	case len(words)%width != 0:
		return fmt.Errorf("adding %d bytes: want a multiple of %d", len(words), width)
	case offset < 0 || offset > s.plan.Dim || len(words)/width > s.plan.Dim-offset:
		return fmt.Errorf("adding %d words from word %d: want within %d", len(words)/width, offset, s.plan.Dim)
	}
	n := len(words) / width
	addWords(s.acc[offset:offset+n], words, s.plan.WordBits)
	s.added += uint64(n)
	return nil
}

// Noise adds the aggregator's vector of noise to the masked words and consumes s. It is refused
// unless the plan says that the aggregator adds the noise.
func (s *MaskedSum) Noise(n Noiser) (*NoisedMaskedSum, error) {
	if s.plan.Noise.Source != Aggregator {
		return nil, fmt.Errorf("adding central noise: the plan's members add it")
	}
	if s.acc == nil {
		return nil, fmt.Errorf("adding central noise: %w", errConsumed)
	}
	acc := s.acc
	s.acc = nil
	if err := addNoise(acc, n); err != nil {
		return nil, fmt.Errorf("adding central noise: %w", err)
	}
	return &NoisedMaskedSum{plan: s.plan, acc: acc, added: s.added}, nil
}

// NoisedByMembers consumes s, whose members have added their shares of the noise n. It is refused
// unless that is what the plan says.
func (s *MaskedSum) NoisedByMembers(n Noise) (*NoisedMaskedSum, error) {
	if n.Source != Members || !n.equal(s.plan.Noise) {
		return nil, fmt.Errorf("taking a sum as noised by members: the plan says otherwise")
	}
	if s.acc == nil {
		return nil, fmt.Errorf("taking a sum as noised by members: %w", errConsumed)
	}
	acc := s.acc
	s.acc = nil
	return &NoisedMaskedSum{plan: s.plan, acc: acc, added: s.added}, nil
}

// NoisedMaskedSum is a sum that may be unmasked.
type NoisedMaskedSum struct {
	plan  Plan
	acc   []uint64
	added uint64
}

// Unmask removes the masks and consumes both s and k. The error is ErrBound if the sum lies outside
// SumBound + Noise.Bound; nothing is returned then.
func (s *NoisedMaskedSum) Unmask(k UnmaskKey) ([]int64, error) {
	switch {
	case s.acc == nil:
		return nil, fmt.Errorf("unmasking: %w", errConsumed)
	case k.key == nil || k.key.streams == nil:
		return nil, fmt.Errorf("unmasking: the key is used or empty")
	case k.key.plan != signed.Digest(encode(s.plan)):
		return nil, fmt.Errorf("unmasking: the key is of another plan")
	case s.added != uint64(k.key.set)*uint64(s.plan.Dim):
		return nil, fmt.Errorf("unmasking: %d words were added, want %d of %d members", s.added, k.key.set*s.plan.Dim, k.key.set)
	}
	acc := s.acc
	s.acc = nil
	defer clear(acc)
	addStreams(acc, 0, s.plan.WordBits, k.key.streams)
	k.key.erase()
	return readSum(acc, s.plan)
}

func readSum(acc []uint64, p Plan) ([]int64, error) {
	bound, shift := p.SumBound+p.Noise.Bound, 64-p.WordBits
	sum := make([]int64, len(acc))
	for i, w := range acc {
		v := int64(w<<shift) >> shift
		if v == math.MinInt64 || uint64(max(v, -v)) > bound {
			return nil, fmt.Errorf("unmasking: word %d: %w of %d", i, ErrBound, bound)
		}
		sum[i] = v
	}
	return sum, nil
}
