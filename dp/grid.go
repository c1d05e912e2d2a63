package dp

import (
	"fmt"
	"math"
	"math/bits"
)

// Grid is the integer grid on which gradients are clipped and summed: 2^Bits grid units make one
// Clip, which is the L2 bound of one patient's gradient. The sensitivity of a sum of clipped
// gradients is exactly 2^Bits grid units, whatever the order of the patients.
type Grid struct {
	Clip float64
	Bits uint8
}

// maxBits keeps a coordinate and its square well inside 64 bits.
const maxBits = 30

// shrink is what a gradient loses each time that its norm on the grid is still over the bound:
// floats may round a norm up, integers decide.
const shrink = 1 - 1.0/(1<<20)

func (g Grid) check() error {
	if !(g.Clip > 0) || math.IsInf(g.Clip, 1) {
		return fmt.Errorf("clip %v, want a finite number above 0", g.Clip)
	}
	if g.Bits < 1 || g.Bits > maxBits {
		return fmt.Errorf("grid bits %d, want 1 to %d", g.Bits, maxBits)
	}
	return nil
}

// mustCheck panics on a grid that the study's check has to refuse long before a gradient is seen.
func (g Grid) mustCheck() {
	if err := g.check(); err != nil {
		panic("dp: a grid that Calibrate refuses reached the patients: " + err.Error())
	}
}

// AddClipped adds one patient's gradient to sum, clipped to an L2 norm of Clip and truncated toward
// zero on the grid. That its norm is at most 2^Bits grid units is checked in 128-bit integers
// (reference: Casacuberta et al. 2022 on what goes wrong otherwise). An entry that is not finite
// counts as zero, and so does a whole gradient of another length than sum: what one patient's rows
// look like must not stop a hospital.
func (g Grid) AddClipped(sum []int64, grad []float64) {
	g.mustCheck()
	if len(grad) != len(sum) {
		return
	}
	q := g.quantiser(grad)
	for !q.within(grad) {
		q.factor *= shrink
	}
	for i, x := range grad {
		sum[i] += q.grid(x)
	}
}

// quantiser takes one gradient to the grid: an entry is scaled by a power of two, so that neither
// huge nor tiny gradients overflow, divided by norm, and multiplied by 2^bits and factor.
type quantiser struct {
	down   [2]float64 // 2^-exponent as a product, since it may be over all floats; 2^exponent is just over the largest entry
	norm   float64    // what becomes 2^bits units, in units of 2^exponent
	bits   int
	unit   float64 // 2^bits
	factor float64
}

func (g Grid) quantiser(grad []float64) quantiser {
	_, exponent := math.Frexp(largest(grad))
	q := quantiser{
		down:   [2]float64{math.Ldexp(1, -exponent/2), math.Ldexp(1, -exponent+exponent/2)},
		bits:   int(g.Bits),
		unit:   math.Ldexp(1, int(g.Bits)),
		factor: 1,
	}
	norm := 0.0
	for _, x := range grad {
		r := q.scaled(x)
		norm += float64(r * r) // the conversion forbids a fused multiply-add, which not every machine has
	}
	clip := math.Ldexp(g.Clip, -exponent) // infinite for a gradient that is all but zero; an entry over it is zero
	q.norm = math.Max(math.Sqrt(norm), clip)
	return q
}

func (q *quantiser) scaled(x float64) float64 { return finite(x) * q.down[0] * q.down[1] }

// grid returns the entry x in grid units, truncated toward zero.
func (q *quantiser) grid(x float64) int64 {
	return int64(q.scaled(x) / q.norm * q.unit * q.factor)
}

// within tells whether Σv² ≤ 2^(2·bits), in exact integers.
func (q *quantiser) within(grad []float64) bool {
	var hi, lo uint64
	for _, x := range grad {
		v := q.grid(x)
		h, l := bits.Mul64(magnitude(v), magnitude(v))
		var carry uint64
		lo, carry = bits.Add64(lo, l, 0)
		hi, carry = bits.Add64(hi, h, carry)
		if carry != 0 {
			return false
		}
	}
	limit := uint64(1) << (2 * q.bits) // at most 2^60
	return hi == 0 && lo <= limit
}

func largest(grad []float64) float64 {
	m := 0.0
	for _, x := range grad {
		m = math.Max(m, math.Abs(finite(x)))
	}
	return m
}

func finite(x float64) float64 {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return 0
	}
	return x
}

func magnitude(v int64) uint64 {
	if v < 0 {
		return -uint64(v)
	}
	return uint64(v)
}

// Clamp projects a hospital's sum on the box of ±maxPatients·2^Bits a coordinate and returns how
// many coordinates moved, a number that never leaves the hospital. A projection on a box brings no
// two sums further apart, so the sensitivity stands.
func (g Grid) Clamp(sum []int64, maxPatients int) int {
	g.mustCheck()
	hi, limit := bits.Mul64(uint64(max(maxPatients, 0)), 1<<g.Bits)
	if hi != 0 || limit > math.MaxInt64 {
		limit = math.MaxInt64
	}
	bound, moved := int64(limit), 0
	for i, v := range sum {
		if c := min(max(v, -bound), bound); c != v {
			sum[i] = c
			moved++
		}
	}
	return moved
}

// Value is what v grid units are in the units of the gradient: (Clip/2^Bits)·v.
func (g Grid) Value(v int64) float64 {
	return math.Ldexp(g.Clip, -int(g.Bits)) * float64(v)
}
