package dp

import (
	"math/big"
	"sync"
)

// The truth that tests hold the accountant, the sampler and the theorem to: 2048-bit series that
// share nothing with interval.go but the textbook.

const truthBits = 2048

func truth(x float64) *big.Float { return new(big.Float).SetPrec(truthBits).SetFloat64(x) }

func tAdd(x, y *big.Float) *big.Float { return truth(0).Add(x, y) }
func tSub(x, y *big.Float) *big.Float { return truth(0).Sub(x, y) }
func tMul(x, y *big.Float) *big.Float { return truth(0).Mul(x, y) }
func tQuo(x, y *big.Float) *big.Float { return truth(0).Quo(x, y) }

func negligible(term, sum *big.Float) bool {
	return term.Sign() == 0 || term.MantExp(nil) < sum.MantExp(nil)-truthBits-8
}

// truePi is Machin's 16·atan(1/5) - 4·atan(1/239).
var truePi = sync.OnceValue(func() *big.Float {
	atan := func(inverse float64) *big.Float {
		power, sum := tQuo(truth(1), truth(inverse)), truth(0)
		for n := 0; ; n++ {
			term := tQuo(power, truth(float64(2*n+1)))
			if n%2 == 1 {
				term.Neg(term)
			}
			sum = tAdd(sum, term)
			power = tQuo(power, truth(inverse*inverse))
			if negligible(power, sum) {
				return sum
			}
		}
	}
	return tSub(tMul(truth(16), atan(5)), tMul(truth(4), atan(239)))
})

func trueExp(x *big.Float) *big.Float {
	if x.Sign() < 0 {
		return tQuo(truth(1), trueExp(truth(0).Neg(x)))
	}
	halvings := max(x.MantExp(nil), 0)
	r := truth(0).SetMantExp(x, -halvings)
	sum, term := truth(1), truth(1)
	for n := 1; !negligible(term, sum); n++ {
		term = tQuo(tMul(term, r), truth(float64(n)))
		sum = tAdd(sum, term)
	}
	for range halvings {
		sum = tMul(sum, sum)
	}
	return sum
}

// trueDensity is φ(x).
func trueDensity(x *big.Float) *big.Float {
	root := truth(0).Sqrt(tMul(truth(2), truePi()))
	return tQuo(trueExp(tMul(truth(-0.5), tMul(x, x))), root)
}

// trueUpper is Φ(-x), from the series of Φ(x) - ½; good for |x| up to 35 or so.
func trueUpper(x *big.Float) *big.Float {
	sum, term, square := truth(0).Set(x), truth(0).Set(x), tMul(x, x)
	for n := 1; !negligible(term, sum); n++ {
		term = tQuo(tMul(term, square), truth(float64(2*n+1)))
		sum = tAdd(sum, term)
	}
	return tSub(truth(0.5), tMul(trueDensity(x), sum))
}

// trueDelta is Balle and Wang's δ(ε) of a Gaussian mechanism of mu.
func trueDelta(epsilon float64, mu *big.Float) *big.Float {
	ratio, half := tQuo(truth(epsilon), mu), tQuo(mu, truth(2))
	return tSub(trueUpper(tSub(ratio, half)), tMul(trueExp(truth(epsilon)), trueUpper(tAdd(ratio, half))))
}

// trueCell is the law of the rounded Gaussian: the probability of v under σ.
func trueCell(v int, sigma float64) *big.Float {
	if v < 0 {
		v = -v
	}
	cut := func(x float64) *big.Float { return trueUpper(tQuo(truth(x), truth(sigma))) }
	return tSub(cut(float64(v)-0.5), cut(float64(v)+0.5))
}

func toFloat(x *big.Float) float64 {
	f, _ := x.Float64()
	return f
}
