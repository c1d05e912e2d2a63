package dp

import (
	"fmt"
	"math/big"
	"sort"
)

// Calibrate finds the least integer σ, in grid units, with which `charges` releases of full-batch
// sums clipped on g stay within b. The Mechanism is the whole noise; see Share for a member's part.
func Calibrate(b Budget, charges int, g Grid) (Mechanism, error) {
	m, err := calibrate(b, charges, g)
	if err != nil {
		return Mechanism{}, fmt.Errorf("calibrating noise: %w", err)
	}
	return m, nil
}

func calibrate(b Budget, charges int, g Grid) (Mechanism, error) {
	if err := b.check(); err != nil {
		return Mechanism{}, err
	}
	if err := g.check(); err != nil {
		return Mechanism{}, err
	}
	if charges < 1 {
		return Mechanism{}, fmt.Errorf("%d charges, want at least 1", charges)
	}
	least := 1 + sort.Search(maxSigma, func(i int) bool { return g.enough(b, charges, int64(i)+1) })
	if least > maxSigma {
		return Mechanism{}, fmt.Errorf("epsilon %v, delta %v and %d charges need a sigma over %d grid units", b.Epsilon, b.Delta, charges, int64(maxSigma))
	}
	return Mechanism{sigma: int64(least), bits: g.Bits, shares: 1}, nil
}

// enough tells whether sigma grid units keep the charges within b.
func (g Grid) enough(b Budget, charges int, sigma int64) bool {
	e := gaussianEvent(new(big.Int).Mul(big.NewInt(sigma), big.NewInt(sigma)), g.Bits)
	e.Count = uint64(charges)
	mu, err := compose([]Event{e})
	if err != nil {
		panic("dp: a calibrated event is always valid: " + err.Error())
	}
	return within(b.Epsilon, b.Delta, mu)
}
