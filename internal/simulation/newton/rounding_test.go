package newton

import (
	"math/rand/v2"
	"testing"
)

// Newton ends on every draw of rows, penalised a little: near the optimum rounding makes a loss rise that
// falls.
func TestConvergedOnManyDraws(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 300 {
		n := 30 + rng.IntN(200)
		rows, labels := make([][]float64, n), make([]float64, n)
		for i := range rows {
			x := make([]float64, 14)
			for j := range x {
				x[j] = float64(2*rng.IntN(2) - 1)
				if j < 5 {
					x[j] = rng.NormFloat64()
				}
			}
			x[13] = 1
			if x[0]+x[1]-x[7]+rng.NormFloat64() > 0 {
				labels[i] = 1
			}
			rows[i] = x
		}
		if _, err := Converged(rows, labels, 0.01, true); err != nil {
			t.Fatal(err)
		}
	}
}
