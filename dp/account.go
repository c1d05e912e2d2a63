package dp

import (
	"cmp"
	"fmt"
	"math"
	"math/big"
	"slices"
)

// Event is what an accountant is told of Count equal releases. Multiplier is the noise's standard
// deviation over the sensitivity; Rate is the share of patients sampled, 0 or 1 meaning all of
// them; Neighbours empty means add-or-remove-one.
type Event struct {
	Kind       string  `json:"kind"`
	Multiplier float64 `json:"multiplier"`
	Rate       float64 `json:"rate,omitempty"`
	Count      uint64  `json:"count"`
	Neighbours string  `json:"neighbours,omitempty"`
}

const (
	// Gaussian is the kind of an event of Gaussian noise on a sum.
	Gaussian = "gaussian"
	// AddOrRemoveOne is the relation of data sets that differ by one patient.
	AddOrRemoveOne = "add-or-remove-one"
)

// maxEvents bounds the list of one query.
const maxEvents = 1 << 16

func (e Event) check() error {
	switch {
	case e.Kind != Gaussian:
		return fmt.Errorf("kind %q is not supported, want %q", e.Kind, Gaussian)
	case e.Rate != 0 && e.Rate != 1:
		return fmt.Errorf("sampling rate %v is not supported, want every patient: 1 or none stated", e.Rate)
	case e.Neighbours != "" && e.Neighbours != AddOrRemoveOne:
		return fmt.Errorf("neighbours %q are not supported, want %q", e.Neighbours, AddOrRemoveOne)
	case !(e.Multiplier >= 0) || math.IsInf(e.Multiplier, 1):
		return fmt.Errorf("multiplier %v, want a finite number of at least 0", e.Multiplier)
	case e.Count == 0:
		return fmt.Errorf("count 0, want at least 1")
	}
	return nil
}

// Epsilon is the least float64 ε for which the events together are shown to be (ε, delta)-DP; it is
// never below the true one. Releases may be chosen adaptively. Without events it is 0; with a
// multiplier of 0 it is +Inf. On an error, which is any event or delta outside what is proven here,
// it is +Inf too.
//
// Full-batch Gaussian releases of multipliers m_i compose exactly into one of
// μ = √Σ(count_i/m_i²) (Dong, Roth and Su 2019, Gaussian DP), of which
// δ(ε) = Φ(μ/2 - ε/μ) - e^ε·Φ(-μ/2 - ε/μ) (Balle and Wang 2018, theorem 8). It is evaluated in
// outward-rounded arithmetic of 160 bits. Sums of rounded Gaussians are covered
// (docs/decisions/sums-of-rounded-gaussians.md).
func Epsilon(delta float64, events ...Event) (float64, error) {
	epsilon, err := composeEpsilon(delta, events)
	if err != nil {
		return math.Inf(1), fmt.Errorf("computing epsilon: %w", err)
	}
	return epsilon, nil
}

func composeEpsilon(delta float64, events []Event) (float64, error) {
	if err := checkDelta(delta); err != nil {
		return 0, err
	}
	mu, err := compose(events)
	switch {
	case err != nil:
		return 0, err
	case mu.Sign() == 0:
		return 0, nil
	case mu.IsInf():
		return math.Inf(1), nil
	}
	return leastEpsilon(delta, mu)
}

// The range that is searched for ε; what it cannot reach is an error.
const (
	leastPositive = 0x1p-60
	mostEpsilon   = 0x1p40
)

// leastEpsilon bisects over the float64s in their order, which is that of their bits. A guess in
// float64 shortens the way; whether it was a good one is decided here.
func leastEpsilon(delta float64, mu *big.Float) (float64, error) {
	if within(0, delta, mu) {
		return 0, nil
	}
	if !within(mostEpsilon, delta, mu) {
		return 0, fmt.Errorf("it is over %v", mostEpsilon)
	}
	below, above := math.Float64bits(leastPositive)-1, math.Float64bits(mostEpsilon)
	guess := math.Float64bits(guessEpsilon(delta, mu))
	for span := uint64(1 << 12); below+span < guess && guess+span < above; span <<= 12 {
		low, high := guess-span, guess+span
		if within(math.Float64frombits(low), delta, mu) {
			above = low
		} else if below = low; within(math.Float64frombits(high), delta, mu) {
			above = high
			break
		} else {
			below = high
		}
	}
	for above-below > 1 {
		middle := below + (above-below)/2
		if within(math.Float64frombits(middle), delta, mu) {
			above = middle
		} else {
			below = middle
		}
	}
	return math.Float64frombits(above), nil
}

// guessEpsilon is about ε, where it is neither tiny nor huge.
func guessEpsilon(delta float64, mu *big.Float) float64 {
	m, _ := mu.Float64()
	low, high := 0.0, m*(m/2+40)
	for range 60 {
		e := (low + high) / 2
		a, b := (e/m-m/2)/math.Sqrt2, (e/m+m/2)/math.Sqrt2
		if (math.Erfc(a)-math.Exp(e)*math.Erfc(b))/2 <= delta {
			high = e
		} else {
			low = e
		}
	}
	return high
}

// compose is an upper bound of μ, +Inf where a release has no noise. Equal multipliers are counted
// together and the sum is taken in their order, so that neither the order of the events nor how
// they are split changes a bit of the result.
func compose(events []Event) (*big.Float, error) {
	if len(events) > maxEvents {
		return nil, fmt.Errorf("%d events, want at most %d", len(events), maxEvents)
	}
	counts := make(map[float64]*big.Int)
	for i, e := range events {
		if err := e.check(); err != nil {
			return nil, fmt.Errorf("event %d: %w", i, err)
		}
		if counts[e.Multiplier] == nil {
			counts[e.Multiplier] = new(big.Int)
		}
		counts[e.Multiplier].Add(counts[e.Multiplier], new(big.Int).SetUint64(e.Count))
	}
	if counts[0] != nil {
		return up().SetInf(false), nil
	}
	multipliers := make([]float64, 0, len(counts))
	for m := range counts {
		multipliers = append(multipliers, m)
	}
	slices.SortFunc(multipliers, cmp.Compare[float64])
	sum := up()
	for _, m := range multipliers {
		square := down().SetFloat64(m)
		square.Mul(square, square)
		sum.Add(sum, up().Quo(up().SetInt(counts[m]), square))
	}
	return rootUp(sum), nil
}

// Slack for what the theorem on sums of rounded Gaussians leaves: 2·d·T·η ≤ 1e-240 in ε and a
// factor of as much in δ, with η ≤ 1e-268 for up to 2^20 shares and d·T up to 1e27.
const (
	epsilonSlack = 200 // 2^-200, absolute
	deltaSlack   = 100 // 2^-100, relative
)

// within tells whether a Gaussian mechanism of μ ≤ mu is (epsilon, delta)-DP with the slack to
// spare. It may say no within 2^-80 or so of the border, never yes beyond it.
func within(epsilon, delta float64, mu *big.Float) bool {
	e := down().SetFloat64(epsilon)
	if e.Sub(e, up().SetMantExp(big.NewFloat(1), -epsilonSlack)); e.Sign() < 0 {
		e = down()
	}
	d := down().SetFloat64(delta)
	d.Sub(d, up().SetMantExp(d, -deltaSlack))
	return deltaAbove(e, mu).Cmp(d) <= 0
}

// deltaAbove is an upper bound of δ(e) of the Gaussian mechanism of mu, in a form that does not
// cancel: with a = e/μ - μ/2 and b = e/μ + μ/2, b² - a² = 2e, so e^e·φ(b) = φ(a) and
// δ = Φ(-a) - φ(a)·M(b), M being Mills' ratio.
func deltaAbove(e, mu *big.Float) *big.Float {
	m := point(mu)
	ratio := point(e).quo(m)
	a, b := ratio.sub(m.half()), ratio.add(m.half())
	switch {
	case a.lo.Cmp(far) > 0: // δ ≤ Φ(-40) < 1e-340
		return up().SetMantExp(big.NewFloat(1), -1000)
	case a.hi.Cmp(near) < 0: // Φ(15) > 1 - 2^-53: no delta below 1 is met
		return up().SetUint64(1)
	}
	outermost := down().Abs(a.lo)
	if hi := down().Abs(a.hi); hi.Cmp(outermost) > 0 {
		outermost = hi
	}
	return up().Sub(upperTail(a.lo), down().Mul(density(outermost).lo, mills(b.hi).lo))
}

var far, near = big.NewFloat(40), big.NewFloat(-15)

// upperTail is an upper bound of Φ(-x).
func upperTail(x *big.Float) *big.Float {
	magnitude := down().Abs(x)
	tail := density(magnitude).mul(mills(magnitude))
	if x.Sign() < 0 {
		return natural(1).sub(tail).hi
	}
	return tail.hi
}
