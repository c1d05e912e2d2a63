package dp

import (
	"errors"
	"fmt"
	"math"
	"math/big"

	"github.com/consilium-fl/consilium/internal/signed"
)

const (
	// minShare is the least standard deviation of a share, in grid units: from here up the sum of
	// any thousand shares is a Gaussian mechanism to within 1e-271
	// (docs/decisions/sums-of-rounded-gaussians.md).
	minShare = 8
	// maxSigma keeps a draw far inside an int64, and the sampler's arithmetic inside 64 bits.
	maxSigma = 1 << 40
	// maxShares bounds the honest shares of one sum, far above any federation.
	maxShares = 1 << 20
	// tail is the half-width of the noise, in standard deviations, that the no-wrap check allows for.
	tail = 14
)

// Mechanism adds rounded Gaussian noise round(N(0, σ²)), σ in grid units, to every coordinate of a
// sum. It is the sampler and the accountant's event in one value, so that the two cannot differ.
// The zero Mechanism adds nothing, so its Sampler refuses to draw and its event has an infinite ε.
type Mechanism struct {
	sigma  int64 // of one draw, grid units
	bits   uint8 // the sensitivity is 2^bits grid units
	shares int   // independent draws that together make the event
}

// Sigma is the standard deviation of the Gaussian that one draw rounds, in grid units.
func (m Mechanism) Sigma() int64 { return m.sigma }

// Share is what one member adds so that `honest` of them together make m, with
// σ_share = ⌈σ/√honest⌉ and at least 8 grid units. Its Event is that of `honest` shares together.
// Fewer than one honest member is taken as one. The share of a share for as many members is itself.
func (m Mechanism) Share(honest int) Mechanism {
	if m.sigma == 0 {
		return m
	}
	honest = min(max(honest, 1), maxShares)
	sigma := max(ceilSqrtQuo(m.variance(), honest), minShare)
	return Mechanism{sigma: sigma, bits: m.bits, shares: honest}
}

// variance of the whole noise before rounding, in grid units squared.
func (m Mechanism) variance() *big.Int {
	v := big.NewInt(m.sigma)
	v.Mul(v, v)
	return v.Mul(v, big.NewInt(int64(m.shares)))
}

// ceilSqrtQuo is the least integer r with r²·n ≥ v.
func ceilSqrtQuo(v *big.Int, n int) int64 {
	q, rest := new(big.Int).QuoRem(v, big.NewInt(int64(n)), new(big.Int))
	if rest.Sign() > 0 {
		q.Add(q, big.NewInt(1))
	}
	return ceilSqrt(q).Int64()
}

// ceilSqrt is the least integer r with r² ≥ v.
func ceilSqrt(v *big.Int) *big.Int {
	r := new(big.Int).Sqrt(v)
	if new(big.Int).Mul(r, r).Cmp(v) < 0 {
		r.Add(r, big.NewInt(1))
	}
	return r
}

// Event is one release under m: of all its honest shares together, where m is a share. Count is 1.
func (m Mechanism) Event() Event { return gaussianEvent(m.variance(), m.bits) }

// OwnEvent is one release hidden by a single draw of m: what is left of a member's protection when
// every other hospital colludes.
func (m Mechanism) OwnEvent() Event {
	m.shares = 1
	return m.Event()
}

func gaussianEvent(variance *big.Int, sensitivityBits uint8) Event {
	return Event{
		Kind:       Gaussian,
		Multiplier: floorMultiplier(variance, sensitivityBits),
		Count:      1,
		Neighbours: AddOrRemoveOne,
	}
}

// floorMultiplier is the largest float64 that is at most √variance/2^bits, to within the last place.
func floorMultiplier(variance *big.Int, sensitivityBits uint8) float64 {
	const extra = 64 // bits after the point, so that the integer root has more than a float64 holds
	r := new(big.Int).Lsh(variance, 2*extra)
	f := new(big.Float).SetPrec(53).SetMode(big.ToZero).SetInt(r.Sqrt(r))
	x, _ := f.Float64() // exact: 53 bits
	return math.Ldexp(x, -extra-int(sensitivityBits))
}

// Bound is ⌈14·σ·√draws⌉ grid units: what a coordinate of the sum of that many draws stays within
// but for a probability of 1e-43. No draw at all is a caller's mistake and has no bound.
func (m Mechanism) Bound(draws int) uint64 {
	if draws < 1 {
		return math.MaxUint64
	}
	v := big.NewInt(m.sigma * tail)
	v.Mul(v, v)
	b := ceilSqrt(v.Mul(v, big.NewInt(int64(draws))))
	if !b.IsUint64() {
		return math.MaxUint64
	}
	return b.Uint64()
}

// wireMechanism is the strict CBOR of a Mechanism.
type wireMechanism struct {
	Kind   string `cbor:"1,keyasint"`
	Sigma  int64  `cbor:"2,keyasint"`
	Bits   uint8  `cbor:"3,keyasint"`
	Shares int    `cbor:"4,keyasint"`
}

const wireKind = "rounded-gaussian"

// Encode is the one encoding of m: deterministic CBOR, at most 64 bytes. A plan carries it.
func (m Mechanism) Encode() []byte {
	b, err := signed.Encode(wireMechanism{wireKind, m.sigma, m.bits, m.shares})
	if err != nil {
		panic("dp: a string and three integers always encode: " + err.Error())
	}
	return b
}

// ParseMechanism reads what Encode wrote, and nothing else.
func ParseMechanism(b []byte) (Mechanism, error) {
	m, err := parseMechanism(b)
	if err != nil {
		return Mechanism{}, fmt.Errorf("parsing noise mechanism: %w", err)
	}
	return m, nil
}

func parseMechanism(b []byte) (Mechanism, error) {
	if len(b) > 64 {
		return Mechanism{}, fmt.Errorf("%d bytes, want at most 64", len(b))
	}
	var w wireMechanism
	if err := signed.Decode(b, &w); err != nil {
		return Mechanism{}, err
	}
	switch {
	case w.Kind != wireKind:
		return Mechanism{}, fmt.Errorf("kind %q, want %q", w.Kind, wireKind)
	case w.Sigma < 1 || w.Sigma > maxSigma:
		return Mechanism{}, fmt.Errorf("sigma %d, want 1 to %d", w.Sigma, int64(maxSigma))
	case w.Bits < 1 || w.Bits > maxBits:
		return Mechanism{}, fmt.Errorf("grid bits %d, want 1 to %d", w.Bits, maxBits)
	case w.Shares < 1 || w.Shares > maxShares:
		return Mechanism{}, fmt.Errorf("%d shares, want 1 to %d", w.Shares, maxShares)
	case w.Shares > 1 && w.Sigma < minShare:
		return Mechanism{}, fmt.Errorf("sigma %d of %d shares, want at least %d", w.Sigma, w.Shares, minShare)
	}
	m := Mechanism{sigma: w.Sigma, bits: w.Bits, shares: w.Shares}
	if string(m.Encode()) != string(b) {
		return Mechanism{}, errors.New("another encoding than the deterministic one")
	}
	return m, nil
}
