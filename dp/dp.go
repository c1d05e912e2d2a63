// Package dp bounds what a released sum tells about one patient: it clips gradients on an integer
// grid, so that the L2 sensitivity is exact, draws rounded Gaussian noise without a float in the
// way, composes the releases into one (ε, δ), and keeps the ledger that is charged before anything
// leaves.
//
// A study of 30 rounds and 3 spare charges, of whose members at least two are honest:
//
//	grid := dp.Grid{Clip: 1, Bits: 14}
//	noise, err := dp.Calibrate(dp.Budget{Epsilon: 1, Delta: 1e-5}, 33, grid)
//	if err != nil { … }
//	share := noise.Share(2) // what each member adds
//
//	sum := make([]int64, dim)
//	for _, gradient := range patients {
//		grid.AddClipped(sum, gradient)
//	}
//	grid.Clamp(sum, maxPatients)
//	if _, err := ledger.Charge(charge); err != nil { … } // durable before a masked byte leaves
//	err = share.Keyed(key).Fill(draws)                   // a fresh key for each vector
//
//	spent := share.Event()
//	spent.Count = rounds
//	epsilon, err := dp.Epsilon(1e-5, spent)
//
// Neighbouring data sets differ by one patient, added or removed. Everything here errs to the side
// of more noise, a larger ε and more budget spent.
package dp

import (
	"fmt"
	"math"
)

// Budget is an (ε, δ) of differential privacy.
type Budget struct{ Epsilon, Delta float64 }

// minDelta is the least δ that the accountant takes. Its slack for sums of rounded Gaussians is
// relative to δ, and is shown to suffice from here up.
const minDelta = 1e-100

func checkDelta(delta float64) error {
	if !(delta >= minDelta && delta < 1) {
		return fmt.Errorf("delta %v, want at least %v and less than 1", delta, minDelta)
	}
	return nil
}

// check refuses what no study can be calibrated for or reserve.
func (b Budget) check() error {
	if !(b.Epsilon > 0) || math.IsInf(b.Epsilon, 1) {
		return fmt.Errorf("epsilon %v, want a finite number above 0", b.Epsilon)
	}
	return checkDelta(b.Delta)
}
