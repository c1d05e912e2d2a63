package dp

import (
	"fmt"
	"math/big"
	"testing"
)

// The theorem of docs/decisions/sums-of-rounded-gaussians.md, on exact laws: the sum of K shares
// round(N(0, σ_i²)) against round(G + V), G ~ N(0, Σσ_i²) and V a sum of K-1 uniforms on (-½, ½).

// law is the probabilities of -reach to reach.
type law struct {
	p     []*big.Float
	reach int
}

func roundedLaw(sigma float64, reach int) law {
	l := law{make([]*big.Float, 2*reach+1), reach}
	for v := 0; v <= reach; v++ {
		l.p[reach+v] = trueCell(v, sigma)
		l.p[reach-v] = l.p[reach+v]
	}
	return l
}

// convolved is the law of the sum, each value's probability exact but for what lies outside of both.
func (l law) convolved(m law) law {
	sum := law{make([]*big.Float, 2*l.reach+1), l.reach}
	for v := -l.reach; v <= l.reach; v++ {
		p := truth(0)
		for i := max(-l.reach, v-m.reach); i <= min(l.reach, v+m.reach); i++ {
			p = tAdd(p, tMul(l.p[l.reach+i], m.p[m.reach+v-i]))
		}
		sum.p[l.reach+v] = p
	}
	return sum
}

// smoothCell is P(round(G + V) = v): the density of N(0, s) convolved with k boxes of width 1, at
// v. It is the k-th central difference of the k-th repeated integral of the density's upper tail.
func smoothCell(v, k int, s *big.Float) *big.Float {
	root := truth(0).Sqrt(s)
	cell, binomial := truth(0), truth(1)
	for i := 0; i <= k; i++ {
		x := tQuo(truth(float64(v)-float64(k)/2+float64(i)), root)
		term := tMul(binomial, repeatedTail(k, x))
		if i%2 == 1 {
			term.Neg(term)
		}
		cell = tAdd(cell, term)
		binomial = tQuo(tMul(binomial, truth(float64(k-i))), truth(float64(i+1)))
	}
	for range k - 1 {
		cell = tMul(cell, root)
	}
	return cell
}

// repeatedTail is the n-th integral of φ from x to infinity: t_n = (t_{n-2} - x·t_{n-1})/(n-1)
// (Abramowitz and Stegun 7.2.5).
func repeatedTail(n int, x *big.Float) *big.Float {
	before, t := trueDensity(x), trueUpper(x)
	for i := 2; i <= n; i++ {
		before, t = t, tQuo(tSub(before, tMul(x, t)), truth(float64(i-1)))
	}
	return t
}

// eta is the theorem's sum over the lattice Z^(K-1) without 0, in a box that leaves out less than
// a thousandth of it; an underestimate, which only makes the test stricter.
func eta(sigmas []float64) *big.Float {
	const box = 3
	k := len(sigmas)
	total := truth(0)
	m := make([]int, k) // m[k-1] stays 0
	var walk func(int)
	walk = func(at int) {
		if at == k-1 {
			if form := quadratic(sigmas, m); form > 0 {
				total = tAdd(total, trueExp(tMul(tMul(truth(-2), tMul(truePi(), truePi())), truth(form))))
			}
			return
		}
		for m[at] = -box; m[at] <= box; m[at]++ {
			walk(at + 1)
		}
		m[at] = 0
	}
	walk(0)
	return total
}

// quadratic is min over t of Σσ_i²(m_i - t)².
func quadratic(sigmas []float64, m []int) float64 {
	var weight, mean, form float64
	for i, s := range sigmas {
		weight += s * s
		mean += s * s * float64(m[i])
	}
	mean /= weight
	for i, s := range sigmas {
		form += s * s * (float64(m[i]) - mean) * (float64(m[i]) - mean)
	}
	return form
}

// simpleBound is (Σ_n e^(-π²σ²n²))^K - 1.
func simpleBound(least float64, k int) *big.Float {
	sum := truth(1)
	for n := 1; n < 6; n++ {
		e := trueExp(tMul(tMul(truePi(), truePi()), truth(-least*least*float64(n*n))))
		sum = tAdd(sum, tMul(truth(2), e))
	}
	power := truth(1)
	for range k {
		power = tMul(power, sum)
	}
	return tSub(power, truth(1))
}

func TestSumsOfRoundedGaussians(t *testing.T) {
	for _, c := range []struct {
		sigmas []float64
		reach  int
		seen   float64 // the least total variation that must show, so that the test is known to look
	}{
		{[]float64{1, 1}, 18, 1e-5},
		{[]float64{1, 1, 1, 1}, 20, 5e-8},
		{[]float64{1, 2}, 30, 1e-9},
		{[]float64{1, 1, 2}, 30, 1e-10},
		{[]float64{0.5, 0.7, 1.3}, 18, 1e-4},
		{[]float64{2, 2}, 34, 1e-18},
	} {
		t.Run(fmt.Sprint(c.sigmas), func(t *testing.T) {
			if testing.Short() && c.reach > 20 {
				t.Skip("2048-bit convolutions of wide laws")
			}
			checkSum(t, c.sigmas, c.reach, c.seen)
		})
	}
}

func checkSum(t *testing.T, sigmas []float64, reach int, seen float64) {
	sum, square, least := roundedLaw(sigmas[0], reach), truth(0), sigmas[0]
	for i, s := range sigmas {
		square = tAdd(square, tMul(truth(s), truth(s)))
		least = min(least, s)
		if i > 0 {
			sum = sum.convolved(roundedLaw(s, reach))
		}
	}
	bound := eta(sigmas)
	if simple := simpleBound(least, len(sigmas)); simple.Cmp(bound) < 0 {
		t.Errorf("the simple bound %v is under the sum over the lattice %v", toFloat(simple), toFloat(bound))
	}
	worst, variation := truth(0), truth(0)
	for v := -reach / 2; v <= reach/2; v++ {
		smooth := smoothCell(v, len(sigmas), square)
		off := tSub(sum.p[sum.reach+v], smooth)
		off.Abs(off)
		variation = tAdd(variation, tQuo(off, truth(2)))
		if ratio := tQuo(off, smooth); ratio.Cmp(worst) > 0 {
			worst = ratio
		}
	}
	t.Logf("eta %.3g, worst ratio off by %.3g, total variation %.3g", toFloat(bound), toFloat(worst), toFloat(variation))
	if worst.Cmp(bound) > 0 {
		t.Errorf("a likelihood ratio is off by %v, the theorem allows %v", toFloat(worst), toFloat(bound))
	}
	if variation.Cmp(truth(seen)) < 0 {
		t.Errorf("total variation %v, want at least %v to be visible", toFloat(variation), seen)
	}
}

// TestRoundingIsPostProcessing is the step that makes one share the continuous mechanism: adding
// an integer and rounding commute.
func TestRoundingIsPostProcessing(t *testing.T) {
	for _, sigma := range []float64{1, 3} {
		for _, y := range []int{-5, 0, 2, 7} {
			cut := func(x float64) *big.Float { return trueUpper(tQuo(truth(x-float64(y)), truth(sigma))) }
			for v := y - 6; v <= y+6; v++ {
				want := tSub(cut(float64(v)-0.5), cut(float64(v)+0.5)) // round(N(y, σ²)) = v
				off := tSub(want, trueCell(v-y, sigma))
				if off.Abs(off).Cmp(truth(0x1p-1000)) > 0 {
					t.Fatalf("sigma %v, sum %d: P(%d) is off by %v", sigma, y, v, toFloat(off))
				}
			}
		}
	}
}

// TestSmallestShareIsEnough: at eight grid units the bound is what the accountant's slack allows for.
func TestSmallestShareIsEnough(t *testing.T) {
	if got := simpleBound(minShare, 1000); got.Cmp(tExp10(-271)) > 0 {
		t.Errorf("eta of 1000 shares: %v", got)
	}
	// 2·d·T·η for d·T = 2^60 and 2^20 shares, and e^ε of it at a δ of 1e-100.
	eta := simpleBound(minShare, maxShares)
	spent := tMul(eta, truth(0x1p61))
	if spent.Cmp(truth(0x1p-200)) > 0 {
		t.Errorf("the slack in epsilon is 2^-200, the theorem may take %v", spent)
	}
	if spent.Cmp(tMul(truth(0x1p-100), tExp10(-100))) > 0 {
		t.Errorf("the slack in delta is 2^-100 of 1e-100, the theorem may take %v", spent)
	}
}

func tExp10(n int) *big.Float {
	x := truth(1)
	for ; n < 0; n++ {
		x = tQuo(x, truth(10))
	}
	return x
}
