package dp

import "math/big"

// interval holds a real number between two floats of 160 bits; each operation rounds outward, so
// what comes out of a formula contains the formula's true value. Only what the accountant's
// formula needs exists: operands of mul, quo and exp are not negative.
type interval struct{ lo, hi *big.Float }

const precision = 160

func down() *big.Float { return new(big.Float).SetPrec(precision).SetMode(big.ToNegativeInf) }
func up() *big.Float   { return new(big.Float).SetPrec(precision).SetMode(big.ToPositiveInf) }

func point(x *big.Float) interval { return interval{x, x} }

func (x interval) add(y interval) interval {
	return interval{down().Add(x.lo, y.lo), up().Add(x.hi, y.hi)}
}

func (x interval) sub(y interval) interval {
	return interval{down().Sub(x.lo, y.hi), up().Sub(x.hi, y.lo)}
}

func (x interval) mul(y interval) interval {
	return interval{down().Mul(x.lo, y.lo), up().Mul(x.hi, y.hi)}
}

func (x interval) quo(y interval) interval {
	return interval{down().Quo(x.lo, y.hi), up().Quo(x.hi, y.lo)}
}

// half of x, exactly.
func (x interval) half() interval { return x.shift(-1) }

// shift is x·2^n, exactly.
func (x interval) shift(n int) interval {
	return interval{down().SetMantExp(x.lo, n), up().SetMantExp(x.hi, n)}
}

func natural(n uint64) interval { return point(new(big.Float).SetPrec(64).SetUint64(n)) }

// bracket is the interval of the constant that a decimal, cut and not rounded, and the same with
// one more in the last place enclose.
func bracket(cut, next string) interval {
	lo, _, errLo := big.ParseFloat(cut, 10, precision, big.ToNegativeInf)
	hi, _, errHi := big.ParseFloat(next, 10, precision, big.ToPositiveInf)
	if errLo != nil || errHi != nil {
		panic("dp: a constant does not parse")
	}
	return interval{lo, hi}
}

// rootTwoPi is √(2π).
var rootTwoPi = bracket(
	"2.5066282746310005024157652848110452530069867406099383166299",
	"2.5066282746310005024157652848110452530069867406099383166300",
)

// exp is e^x, x ≥ 0: the Taylor series of x/2^k < 2^-8, squared k times.
func (x interval) exp() interval {
	k := max(x.hi.MantExp(nil)+8, 0)
	r := x.shift(-k)
	sum, term := natural(1), natural(1)
	for n := uint64(1); ; n++ {
		term = term.mul(r).quo(natural(n))
		sum = sum.add(term)
		if term.hi.Sign() == 0 || term.hi.MantExp(nil) < -precision-8 {
			break
		}
	}
	sum.hi = up().Add(sum.hi, term.hi) // the rest of the series is less than its last term taken
	for range k {
		sum = sum.mul(sum)
	}
	return sum
}

// mills is Mills' ratio of the standard normal, Φ(-x)/φ(x), at a point x ≥ 0.
func mills(x *big.Float) interval {
	if x.Cmp(millsSplit) < 0 {
		return millsSeries(point(x))
	}
	return millsFraction(point(x))
}

var millsSplit = big.NewFloat(5)

// millsSeries subtracts x + x³/3 + x⁵/15 + …, which is (Φ(x) - ½)/φ(x), from ½/φ(x)
// (Abramowitz and Stegun 26.2.11). Its terms are positive; for x < 5 the ratio of two is below ½
// from the 25th on, so that the rest is less than the last term taken.
func millsSeries(x interval) interval {
	square := x.mul(x)
	sum, term := x, x
	for n := uint64(1); ; n++ {
		term = term.mul(square).quo(natural(2*n + 1))
		sum = sum.add(term)
		if n > 25 && (term.hi.Sign() == 0 || term.hi.MantExp(nil) < -precision) {
			break
		}
	}
	sum.hi = up().Add(sum.hi, term.hi)
	return rootTwoPi.half().mul(square.half().exp()).sub(sum)
}

// millsDepth makes the continued fraction narrower than 2^-90 of its value from x = 5 on.
const millsDepth = 64

// millsFraction is Laplace's continued fraction 1/(x + 1/(x + 2/(x + 3/(x + …)))) (Abramowitz and
// Stegun 26.2.14). The denominator t_n = x + (n+1)/t_{n+1} is at least x, so at most x + (n+1)/x:
// started from that interval the steps back enclose the ratio.
func millsFraction(x interval) interval {
	t := interval{x.lo, x.add(natural(millsDepth + 1).quo(x)).hi}
	for n := uint64(millsDepth); n > 0; n-- {
		t = x.add(natural(n).quo(t))
	}
	return natural(1).quo(t)
}

// density is the standard normal density at a point x ≥ 0.
func density(x *big.Float) interval {
	square := point(x).mul(point(x))
	return natural(1).quo(rootTwoPi.mul(square.half().exp()))
}

// rootUp is at least √x, by at most 2^-150 of it.
func rootUp(x *big.Float) *big.Float {
	root := up().Sqrt(x)
	for down().Mul(root, root).Cmp(x) < 0 {
		root.Add(root, up().SetMantExp(root, -151))
	}
	return root
}
