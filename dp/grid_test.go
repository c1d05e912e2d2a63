package dp

import (
	"encoding/binary"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
)

// clipped is one patient's contribution alone.
func clipped(g Grid, grad []float64) []int64 {
	sum := make([]int64, len(grad))
	g.AddClipped(sum, grad)
	return sum
}

// squares is Σv², exactly.
func squares(v []int64) *big.Int {
	sum := new(big.Int)
	for _, x := range v {
		sum.Add(sum, new(big.Int).Mul(big.NewInt(x), big.NewInt(x)))
	}
	return sum
}

func limit(g Grid) *big.Int { return new(big.Int).Lsh(big.NewInt(1), 2*uint(g.Bits)) }

func testGrids() []Grid {
	return []Grid{{1, 14}, {1, 1}, {0.3, 20}, {1e-300, 22}, {1e300, 30}, {math.MaxFloat64, 14}, {math.SmallestNonzeroFloat64, 14}, {5, 30}, {0.5, 30}}
}

// hostile gradients: what a trainer may hand over, by mistake or on purpose.
func hostile() [][]float64 {
	huge, tiny := math.MaxFloat64, math.SmallestNonzeroFloat64
	return [][]float64{
		{},
		{0, 0, 0},
		{1e308, 1e308, -1e308},
		{huge, huge, huge, huge},
		{-huge},
		{tiny, -tiny},
		{huge, tiny},
		{math.NaN(), 1, math.Inf(1), math.Inf(-1)},
		{math.NaN()},
		{math.Inf(1), math.Inf(-1)},
		{0.5, 0.5, 0.5, 0.5},
		{3, 4},
		{3e200, 4e200},
		{3e-200, 4e-200},
		{1},
		{-1},
		{math.Nextafter(1, 2)},
		{1, 1},
		{1e-320, 1},
		{1, 0x1p-27},
		{1e154, 1e155},
		slices.Repeat([]float64{0x1p-10}, 1<<20), slices.Repeat([]float64{0.1}, 100_003),
	}
}

// TestSensitivityIsExact is the bound on which ε rests, in big integers.
func TestSensitivityIsExact(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for _, g := range testGrids() {
		cases := hostile()
		for range 400 {
			v := make([]float64, 1+r.IntN(40))
			scale := math.Ldexp(g.Clip, r.IntN(12)-6)
			for i := range v {
				v[i] = r.NormFloat64() * scale
			}
			cases = append(cases, v)
		}
		for _, v := range cases {
			if got := squares(clipped(g, v)); got.Cmp(limit(g)) > 0 {
				t.Fatalf("%+v, %d entries from %v: sum of squares %v over %v", g, len(v), v[:min(len(v), 3)], got, limit(g))
			}
		}
	}
}

// TestClippingIsClose: what is added is the clipped gradient, to the grid unit.
func TestClippingIsClose(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	for _, g := range []Grid{{1, 14}, {0.3, 20}, {1e300, 30}, {1e-300, 22}} {
		for range 300 {
			v := make([]float64, 1+r.IntN(20))
			for i := range v {
				v[i] = r.NormFloat64() * math.Ldexp(g.Clip, r.IntN(10)-7)
			}
			norm := new(big.Float).SetPrec(200)
			for _, x := range v {
				b := new(big.Float).SetPrec(200).SetFloat64(x)
				norm.Add(norm, b.Mul(b, b))
			}
			norm.Sqrt(norm)
			if clip := big.NewFloat(g.Clip); norm.Cmp(clip) < 0 {
				norm.Set(clip)
			}
			for i, got := range clipped(g, v) {
				want := new(big.Float).SetPrec(200).SetFloat64(v[i])
				want.Quo(want, norm).SetMantExp(want, int(g.Bits))
				exact, _ := want.Float64()
				if math.Abs(float64(got)) > math.Abs(exact)+1e-6 || math.Abs(float64(got)) < math.Abs(exact)-1-1e-6 {
					t.Fatalf("%+v: entry %v became %d units, want %v truncated", g, v[i], got, exact)
				}
			}
		}
	}
}

func TestClippingExamples(t *testing.T) {
	g := Grid{Clip: 1, Bits: 4}
	for _, c := range []struct {
		grad []float64
		want []int64
	}{
		{[]float64{0.5, -0.26}, []int64{8, -4}}, // inside: only truncated, toward zero
		{[]float64{3, 4}, []int64{9, 12}},       // 16·3/5 is 9.6
		{[]float64{-1e308, 0}, []int64{-16, 0}},
		{[]float64{math.NaN(), 0.5}, []int64{0, 8}},
		{[]float64{math.Inf(1), 0.5}, []int64{0, 8}},
		{[]float64{math.SmallestNonzeroFloat64, 0}, []int64{0, 0}},
	} {
		if got := clipped(g, c.grad); !slices.Equal(got, c.want) {
			t.Errorf("%v: got %v, want %v", c.grad, got, c.want)
		}
	}
	sum := []int64{1, 2}
	if g.AddClipped(sum, []float64{1, 2, 3}); !slices.Equal(sum, []int64{1, 2}) {
		t.Errorf("a gradient of another length: got %v, want nothing added", sum)
	}
}

// TestShrinking plays floats that got the norm wrong by a thousandth: integers notice.
func TestShrinking(t *testing.T) {
	g := Grid{Clip: 1, Bits: 20}
	grad := []float64{0.6, 0.8}
	q := g.quantiser(grad)
	q.norm *= 0.999
	if q.within(grad) {
		t.Fatal("a norm a thousandth too long passes the integer check")
	}
	q = g.quantiser(grad)
	q.factor = 1 + 1.0/(1<<19)
	for steps := 0; !q.within(grad); steps++ {
		if steps > 3 {
			t.Fatal("shrinking does not end")
		}
		q.factor *= shrink
	}
}

func TestOrderOfPatients(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	g := Grid{Clip: 1, Bits: 14}
	patients := make([][]float64, 50)
	for i := range patients {
		patients[i] = []float64{r.NormFloat64() * 1e10, r.NormFloat64(), r.NormFloat64() * 1e-3}
	}
	want := make([]int64, 3)
	for _, p := range patients {
		g.AddClipped(want, p)
	}
	r.Shuffle(len(patients), func(i, j int) { patients[i], patients[j] = patients[j], patients[i] })
	got := make([]int64, 3)
	for _, p := range patients {
		g.AddClipped(got, p)
	}
	if !slices.Equal(got, want) {
		t.Errorf("shuffled sum %v, want %v", got, want)
	}
}

func TestClamp(t *testing.T) {
	g := Grid{Clip: 1, Bits: 4}
	sum := []int64{33, 32, -32, -33, 0, math.MaxInt64, math.MinInt64}
	if moved, want := g.Clamp(sum, 2), []int64{32, 32, -32, -32, 0, 32, -32}; moved != 4 || !slices.Equal(sum, want) {
		t.Errorf("got %v with %d moved, want %v with 4", sum, moved, want)
	}
	for _, n := range []int{0, -1} {
		sum := []int64{1, -1}
		if moved := g.Clamp(sum, n); moved != 2 || sum[0] != 0 || sum[1] != 0 {
			t.Errorf("%d patients: got %v with %d moved, want zeros", n, sum, moved)
		}
	}
	full := []int64{math.MaxInt64, math.MinInt64}
	if (Grid{1, 30}).Clamp(full, math.MaxInt); full[0] != math.MaxInt64 || full[1] != -math.MaxInt64 {
		t.Errorf("a box over the integers: got %v", full)
	}
}

// TestClampKeepsSensitivity: two sums that differ by one patient do so no more after the clamp.
func TestClampKeepsSensitivity(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 14))
	g := Grid{Clip: 1, Bits: 10}
	for range 500 {
		with, without := make([]int64, 6), make([]int64, 6)
		patient := make([]float64, 6)
		for i := range with {
			without[i] = r.Int64N(5000) - 2500
			patient[i] = r.NormFloat64()
		}
		copy(with, without)
		g.AddClipped(with, patient)
		g.Clamp(with, 2)
		g.Clamp(without, 2)
		for i := range with {
			with[i] -= without[i]
		}
		if got := squares(with); got.Cmp(limit(g)) > 0 {
			t.Fatalf("sums differ by %v squared, want at most %v", got, limit(g))
		}
	}
}

func TestValue(t *testing.T) {
	g := Grid{Clip: 0.5, Bits: 14}
	if got := g.Value(-3 << 14); got != -1.5 {
		t.Errorf("three negative clips of 0.5: %v, want -1.5", got)
	}
}

func TestUncheckedGridPanics(t *testing.T) {
	for _, g := range []Grid{{}, {1, 0}, {1, 31}, {-1, 14}, {math.NaN(), 14}, {math.Inf(1), 14}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%+v: no panic", g)
				}
			}()
			g.AddClipped(make([]int64, 1), []float64{1})
		}()
	}
}

func FuzzAddClipped(f *testing.F) {
	f.Add(uint8(14), 1.0, []byte{0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 1, 0, 0, 0, 0, 0, 0xe0, 0x3f})
	f.Add(uint8(30), 1e308, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xef, 0x7f})
	f.Fuzz(func(t *testing.T, bits uint8, clip float64, b []byte) {
		g := Grid{Clip: clip, Bits: bits}
		if g.check() != nil {
			return
		}
		var grad []float64
		for ; len(b) >= 8; b = b[8:] {
			grad = append(grad, math.Float64frombits(binary.LittleEndian.Uint64(b)))
		}
		if got := squares(clipped(g, grad)); got.Cmp(limit(g)) > 0 {
			t.Errorf("%+v, %v: sum of squares %v", g, grad, got)
		}
	})
}

func BenchmarkAddClipped(b *testing.B) {
	g, sum, grad := Grid{Clip: 1, Bits: 14}, make([]int64, 31), make([]float64, 31)
	for i := range grad {
		grad[i] = float64(i) - 10
	}
	for b.Loop() {
		g.AddClipped(sum, grad)
	}
}
