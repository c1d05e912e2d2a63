package dp

import (
	"encoding/binary"
	"math"
	"math/big"
	"slices"
	"testing"
)

func samplerOf(sigma int64, key byte) *Sampler {
	return Mechanism{sigma: sigma, bits: 14, shares: 1}.Keyed([32]byte{key, 1, 2, 3})
}

func draws(t testing.TB, s *Sampler, n int) []int64 {
	t.Helper()
	dst := make([]int64, n)
	if err := s.Fill(dst); err != nil {
		t.Fatal(err)
	}
	return dst
}

func sampleSize() int {
	if testing.Short() {
		return 300_000
	}
	return 3_000_000
}

// scripted is a sampler that reads the given digits and then the stream of a key.
func scripted(sigma int64, words ...uint64) *Sampler {
	s := samplerOf(sigma, 99)
	script := make([]byte, 0, 8*len(words))
	for _, w := range words {
		script = binary.LittleEndian.AppendUint64(script, w)
	}
	s.next = 0
	s.word()
	s.buf, s.next = append(script, s.buf[8:]...), 0
	return s
}

// TestGolden pins the noise of a key: it is the same on every machine and in every release.
func TestGolden(t *testing.T) {
	var key [32]byte
	for i := range key {
		key[i] = byte(i)
	}
	for sigma, want := range golden {
		got := draws(t, Mechanism{sigma: sigma, bits: 14, shares: 1}.Keyed(key), 12)
		if !slices.Equal(got, want) {
			t.Errorf("sigma %d: got %#v, want %v", sigma, got, want)
		}
	}
}

// TestFillInPieces: the noise of a vector does not depend on how it is asked for.
func TestFillInPieces(t *testing.T) {
	want := draws(t, samplerOf(1000, 5), 5000)
	s, got := samplerOf(1000, 5), []int64(nil)
	for n := 1; len(got) < 5000; n = n*3%997 + 1 {
		got = append(got, draws(t, s, min(n, 5000-len(got)))...)
	}
	if !slices.Equal(got, want) {
		t.Error("pieces differ from the whole")
	}
	if other := draws(t, samplerOf(1000, 6), 5000); slices.Equal(other, want) {
		t.Error("another key gives the same noise")
	}
}

// TestLaw is a chi-square test of the small laws, cell by cell, against 2048-bit values.
func TestLaw(t *testing.T) {
	for i, sigma := range []int64{1, 2, 3, 8, 20} {
		n := sampleSize()
		width := int(5 * sigma)
		counts := make([]float64, 2*width+1)
		outside := 0.0
		for _, v := range draws(t, samplerOf(sigma, byte(10+i)), n) {
			if v < int64(-width) || v > int64(width) {
				outside++
				continue
			}
			counts[int(v)+width]++
		}
		chi, cells, rest, restSeen := 0.0, -1.0, 1.0, outside
		for j, seen := range counts {
			p := toFloat(trueCell(j-width, float64(sigma)))
			if want := p * float64(n); want >= 20 {
				chi += (seen - want) * (seen - want) / want
				cells++
				rest -= p
			} else {
				restSeen += seen
			}
		}
		if want := rest * float64(n); want >= 5 {
			chi += (restSeen - want) * (restSeen - want) / want
			cells++
		}
		if z := (chi - cells) / math.Sqrt(2*cells); math.Abs(z) > 4.5 {
			t.Errorf("sigma %d: chi-square %.1f with %v degrees of freedom, %.1f deviations off", sigma, chi, cells, z)
		}
	}
}

// TestWideLaw holds wide laws to the continuous one: Kolmogorov-Smirnov, moments, independence of
// neighbours, and the tails.
func TestWideLaw(t *testing.T) {
	for i, sigma := range []int64{1000, 351124, 1 << 31, 1 << 40} {
		n := sampleSize()
		x := make([]float64, n)
		for j, v := range draws(t, samplerOf(sigma, byte(20+i)), n) {
			x[j] = float64(v) / float64(sigma)
		}
		var m1, m2, m3, m4, lag float64
		for j, v := range x {
			m1, m2, m3, m4 = m1+v, m2+v*v, m3+v*v*v, m4+v*v*v*v
			if j > 0 {
				lag += v * x[j-1]
			}
		}
		root := math.Sqrt(float64(n))
		for name, z := range map[string]float64{
			"mean":      m1 / root,
			"variance":  (m2 - float64(n)) / root / math.Sqrt(2),
			"skew":      m3 / root / math.Sqrt(15),
			"kurtosis":  (m4 - 3*float64(n)) / root / math.Sqrt(96),
			"neighbour": lag / root,
		} {
			if math.Abs(z) > 4.5 {
				t.Errorf("sigma %d: %s is %.1f deviations off", sigma, name, z)
			}
		}
		for _, cut := range []float64{2, 3, 4, 4.5} {
			p := math.Erfc(cut / math.Sqrt2)
			seen := 0.0
			for _, v := range x {
				if math.Abs(v) > cut {
					seen++
				}
			}
			if want := p * float64(n); math.Abs(seen-want) > 5*math.Sqrt(want)+3 {
				t.Errorf("sigma %d: %v draws beyond %v sigma, want %.1f", sigma, seen, cut, want)
			}
		}
		slices.Sort(x)
		distance := 0.0
		for j, v := range x {
			cdf := math.Erfc(-v/math.Sqrt2) / 2
			distance = max(distance, math.Abs(cdf-float64(j)/float64(n)), math.Abs(cdf-float64(j+1)/float64(n)))
		}
		if distance*root > 2.3 { // once in 50,000
			t.Errorf("sigma %d: Kolmogorov-Smirnov distance %.2f/√n", sigma, distance*root)
		}
	}
}

// TestSteps holds each Bernoulli step of the algorithm to its probability.
func TestSteps(t *testing.T) {
	s := samplerOf(1, 30)
	n := sampleSize() / 3
	frequency := func(what string, want float64, trial func() bool) {
		t.Helper()
		seen := 0.0
		for range n {
			if trial() {
				seen++
			}
		}
		if z := (seen - want*float64(n)) / math.Sqrt(float64(n)*want*(1-want)); math.Abs(z) > 4.5 {
			t.Errorf("%s: frequency %v, want %v (%.1f deviations)", what, seen/float64(n), want, z)
		}
	}
	frequency("H", math.Exp(-0.5), s.half)
	for _, k := range []uint64{2, 3} {
		frequency("P", math.Exp(-float64(k*(k-1))/2), func() bool { return s.damp(k) })
	}
	for _, k := range []uint64{0, 1, 4} {
		frequency("G", math.Exp(-float64(k)/2)*(1-math.Exp(-0.5)), func() bool { return s.geometric() == k })
		for _, x := range []float64{0.001, 0.3, 0.98} {
			u := func() *uniform { return &uniform{head: uint64(math.Ldexp(x, 64))} }
			p := x * (2*float64(k) + x)
			frequency("T", (2*float64(k)+x)/(2*float64(k)+2), func() bool { return s.fraction(k, u()) })
			frequency("B", math.Exp(-p/(2*float64(k)+2)), func() bool { return s.try(k, u()) })
			frequency("B k+1 times", math.Exp(-p/2), func() bool { return s.accept(k, u()) })
		}
	}
	frequency("below 3", 1.0/3, func() bool { return s.below(3) == 1 })
}

// TestComparisonDrawsDigits: heads that agree are decided by digits drawn then, once, and kept.
func TestComparisonDrawsDigits(t *testing.T) {
	s := scripted(1, 7, 7, 9, 3)
	a, b := uniform{head: 42}, uniform{head: 42}
	if s.less(&a, &b) || !s.less(&b, &a) {
		t.Error("0.42.7.9 is less than 0.42.7.3")
	}
	if s.next != 32 || !slices.Equal(a.tail, []uint64{7, 9}) || !slices.Equal(b.tail, []uint64{7, 3}) {
		t.Errorf("tails %v and %v after %d bytes, want two digits each", a.tail, b.tail, s.next)
	}
}

// TestBelowRejects: 2^64 is not a multiple of 3, so one word in 2^64 has to be drawn again.
func TestBelowRejects(t *testing.T) {
	s := scripted(1, 0, math.MaxUint64)
	if got := s.below(3); got != 2 || s.next != 16 {
		t.Errorf("got %d after %d bytes, want 2 from the second word", got, s.next)
	}
}

// TestScale compares the rounding of a fraction with big rationals: at every half-integer, just
// under and over it, and exactly on it, with digits scripted so that the head leaves it open.
func TestScale(t *testing.T) {
	one := new(big.Int).Lsh(big.NewInt(1), 192) // a fraction is an integer over this: three digits
	for _, sigma := range []int64{1, 2, 3, 7, 8, 1000, 351124, 1<<31 - 1, 1 << 40, 1<<40 - 87} {
		for _, j := range []int64{0, 1, sigma / 2, sigma - 1} {
			// (2j+1)/(2σ), rounded down to three digits.
			tie := new(big.Int).Mul(one, big.NewInt(2*j+1))
			tie.Div(tie, big.NewInt(2*sigma))
			for _, step := range []*big.Int{
				big.NewInt(0), big.NewInt(1), big.NewInt(-1), big.NewInt(12345), big.NewInt(-98765),
				new(big.Int).Lsh(big.NewInt(1), 64), new(big.Int).Lsh(big.NewInt(-3), 64),
				new(big.Int).Lsh(big.NewInt(1), 128), new(big.Int).Lsh(big.NewInt(-1), 128),
			} {
				f := new(big.Int).Add(tie, step)
				if f.Sign() <= 0 || f.Cmp(one) >= 0 {
					continue
				}
				checkScale(t, sigma, f, one)
			}
		}
	}
}

func checkScale(t *testing.T, sigma int64, f, one *big.Int) {
	t.Helper()
	var digits [24]byte
	f.FillBytes(digits[:])
	x := uniform{head: binary.BigEndian.Uint64(digits[:])}
	s := scripted(sigma, binary.BigEndian.Uint64(digits[8:]), binary.BigEndian.Uint64(digits[16:]), 1<<63)
	got := s.scale(&x)
	// floor(σ·f + 1/2), taking the digits after the third for what they are: over zero.
	want := new(big.Int).Mul(f, big.NewInt(2*sigma))
	want.Add(want, one)
	want.Div(want, new(big.Int).Lsh(one, 1))
	above := new(big.Int).Add(f, big.NewInt(1))
	above.Mul(above, big.NewInt(2*sigma)).Add(above, one)
	above.Sub(above, big.NewInt(1)).Div(above, new(big.Int).Lsh(one, 1))
	if v := new(big.Int).SetUint64(got); v.Cmp(want) != 0 && v.Cmp(above) != 0 {
		t.Errorf("sigma %d, fraction %x: got %d, want %v or %v", sigma, digits, got, want, above)
	}
	if want.Cmp(above) == 0 && want.Uint64() != got {
		t.Errorf("sigma %d, fraction %x: got %d, want %v", sigma, digits, got, want)
	}
}

// TestScaleAtTheTie: 1/2 under σ = 1 is a tie, and x is over it whatever comes.
func TestScaleAtTheTie(t *testing.T) {
	for sigma, c := range map[int64]struct {
		head uint64
		want uint64
	}{
		1: {1 << 63, 1},
		2: {1 << 62, 1},
		4: {3 << 61, 2},
	} {
		if got := scripted(sigma).scale(&uniform{head: c.head}); got != c.want {
			t.Errorf("sigma %d: a tie rounds to %d, want %d", sigma, got, c.want)
		}
		if got := scripted(sigma, math.MaxUint64).scale(&uniform{head: c.head - 1}); got != c.want-1 {
			t.Errorf("sigma %d: just under a tie rounds to %d, want %d", sigma, got, c.want-1)
		}
	}
	// 1/6 has no end in base 2^64: σ = 3 asks for one digit after the head, and here for two.
	sixth := uint64(math.MaxUint64 / 6)
	for _, c := range []struct {
		words []uint64
		want  uint64
		drawn int
	}{
		{[]uint64{0xaaaaaaaaaaaaaaaa, 0xaaaaaaaaaaaaaaab}, 1, 16},
		{[]uint64{0xaaaaaaaaaaaaaaaa, 0xaaaaaaaaaaaaaaa9}, 0, 16},
		{[]uint64{0xaaaaaaaaaaaaaaab}, 1, 8},
		{[]uint64{0xaaaaaaaaaaaaaaa9}, 0, 8},
	} {
		s := scripted(3, c.words...)
		if got := s.scale(&uniform{head: sixth}); got != c.want || s.next != c.drawn {
			t.Errorf("a sixth and digits %x: %d after %d bytes, want %d after %d", c.words, got, s.next, c.want, c.drawn)
		}
	}
}

// TestNoAllocation: the digits beyond the heads are the only thing that may allocate.
func TestNoAllocation(t *testing.T) {
	s, dst := samplerOf(351124, 40), make([]int64, 1000)
	if n := testing.AllocsPerRun(20, func() { _ = s.Fill(dst) }); n > 1 {
		t.Errorf("%v allocations for a thousand draws", n)
	}
}

func BenchmarkSampler(b *testing.B) {
	for name, sigma := range map[string]int64{"8": 8, "2^18": 1 << 18, "2^31": 1 << 31} {
		b.Run("sigma="+name, func(b *testing.B) {
			s, dst := samplerOf(sigma, 50), make([]int64, 4096)
			n := 0
			for b.Loop() {
				if err := s.Fill(dst); err != nil {
					b.Fatal(err)
				}
				n += len(dst)
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds()/1e6, "Msamples/s")
		})
	}
}
