package report

import (
	"math"
	"math/big"
	"slices"
	"testing"

	"github.com/consilium-fl/consilium/internal/simulation/summary"
)

func TestTicks(t *testing.T) {
	for _, c := range []struct {
		lo, hi float64
		most   int
		want   []float64
	}{
		{0, 1, 6, []float64{0, .2, .4, .6, .8, 1}},
		{.7, 1, 6, []float64{.7, .8, .9, 1}},
		{-300, 300, 5, []float64{-200, 0, 200}},
		{-1000, 1000, 5, []float64{-1000, -500, 0, 500, 1000}},
		{0, 4294967296, 5, []float64{0, 1e9, 2e9, 3e9, 4e9}},
		{0, 31, 6, []float64{0, 10, 20, 30}},
		{0, .003, 5, []float64{0, .001, .002, .003}},
		{1, 1, 5, nil},
		{2, 1, 5, nil},
		{math.NaN(), 1, 5, nil},
		{0, math.Inf(1), 5, nil},
	} {
		if got := ticks(c.lo, c.hi, c.most); !slices.Equal(got, c.want) {
			t.Errorf("ticks(%v, %v, %d) = %v, want %v", c.lo, c.hi, c.most, got, c.want)
		}
	}
}

// TestTicksFit: for any range there are at most as many ticks as asked for, and at least two where four fit.
func TestTicksFit(t *testing.T) {
	for e := -9; e <= 19; e++ {
		for m := 1.0; m < 10; m += .37 {
			hi := m * math.Pow(10, float64(e))
			for most := 3; most <= 8; most++ {
				got := ticks(0, hi, most)
				if len(got) > most || len(got) < 2 || got[len(got)-1] > hi*(1+1e-9) {
					t.Fatalf("ticks(0, %v, %d) = %v", hi, most, got)
				}
			}
		}
	}
}

// TestBand compares with sums of exact binomial terms.
func TestBand(t *testing.T) {
	for _, n := range []uint64{1, 16, 100, 1000, 18_600} {
		lo, hi := band(n, 16, confidence)
		tail := new(big.Rat).SetFloat64((1 - confidence) / 32)
		wantLo, wantHi := exactBand(n, 16, tail)
		if lo != wantLo || hi != wantHi {
			t.Errorf("band(%d) is [%d, %d], want [%d, %d]", n, lo, hi, wantLo, wantHi)
		}
	}
}

// exactBand finds the least k with P(X ≤ k) > tail, and the least k with P(X > k) ≤ tail, in integers: the
// terms C(n,k)·15^(n−k) over 16^n.
func exactBand(n uint64, bins int64, tail *big.Rat) (lo, hi uint64) {
	whole := new(big.Int).Exp(big.NewInt(bins), new(big.Int).SetUint64(n), nil)
	limit := new(big.Int).Mul(whole, tail.Num())
	limit.Quo(limit, tail.Denom())
	term := new(big.Int).Exp(big.NewInt(bins-1), new(big.Int).SetUint64(n), nil)
	sum := new(big.Int).Set(term)
	foundLo := false
	for k := uint64(0); ; k++ {
		if !foundLo && sum.Cmp(limit) > 0 {
			lo, foundLo = k, true
		}
		if new(big.Int).Sub(whole, sum).Cmp(limit) <= 0 {
			return lo, k
		}
		term.Mul(term, new(big.Int).SetUint64(n-k))
		term.Quo(term, new(big.Int).SetUint64((k+1)*uint64(bins-1)))
		sum.Add(sum, term)
	}
}

// TestBandOfMany: for many bytes the band is that of the normal law.
func TestBandOfMany(t *testing.T) {
	const n = 1_000_000_000
	z := math.Sqrt2 * math.Erfinv(1-(1-confidence)/16)
	lo, hi := band(n, 16, confidence)
	mean, deviation := float64(n)/16, math.Sqrt(n*15.0/256)
	for _, side := range []float64{mean - float64(lo), float64(hi) - mean} {
		if r := side / deviation; math.Abs(r-z) > .02 {
			t.Errorf("a side of the band is %.3f deviations, want about %.3f", r, z)
		}
	}
}

func TestRanges(t *testing.T) {
	for v, want := range map[float64]float64{0: 1, .0021: .003, 1: 1, 1.2: 1.5, 620: 800, 81: 100, 282_000: 300_000} {
		if got := roundUp(v); got != want {
			t.Errorf("roundUp(%v) = %v, want %v", v, got, want)
		}
	}
	if lo, hi := around([]float64{3, -70, 12}); lo != -80 || hi != 80 {
		t.Errorf("around is [%v, %v], want [-80, 80]", lo, hi)
	}
	for _, c := range []struct {
		scores []float64
		want   float64
	}{{nil, .8}, {[]float64{.95}, .8}, {[]float64{.8}, .7}, {[]float64{.61, .9}, .6}, {[]float64{0}, 0}} {
		if got := floorOf(c.scores); got != c.want {
			t.Errorf("floorOf(%v) = %v, want %v", c.scores, got, c.want)
		}
	}
}

func TestWords(t *testing.T) {
	for got, want := range map[string]string{
		grouped(1234567):                       "1\u202f234\u202f567",
		grouped(-12):                           "−12",
		digits(-1234.5):                        "−1\u202f235",
		digits(.012345):                        "0.0123",
		seconds(.0047912):                      "4.79 ms",
		seconds(.034):                          "34 ms",
		seconds(3.914):                         "3.91 s",
		seconds(131.2):                         "2 min 11 s",
		size(171_200_000):                      "171 MB",
		size(620):                              "620 bytes",
		scientific(1e-5):                       "10⁻⁵",
		scientific(2.5e-6):                     "2.5 × 10⁻⁶",
		scientific(.01):                        "0.01",
		shorten("fractal_dimension_worst", 15): "fractal…n_worst",
		shorten("длинное имя", 5):              "дл…мя",
		list([]string{"a", "b", "c"}):          "a, b and c",
		set([]string{"a"}, []string{"a", "b"}): "all but b",
		set(nil, []string{"a", "b"}):           "none",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestMaskedWords reads the words of each width as the wire has them, least byte first.
func TestMaskedWords(t *testing.T) {
	b := []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	for bits, want := range map[uint8][]uint64{
		24: {0x030201, 0x060504, 0x090807, 0x0c0b0a},
		32: {0x04030201, 0x08070605, 0x0c0b0a09},
		64: {0x0807060504030201},
		0:  nil, 12: nil, 72: nil,
	} {
		if got := maskedWords(summary.Saw{Masked: b, WordBits: bits}); !slices.Equal(got, want) {
			t.Errorf("%d bits: got %x, want %x", bits, got, want)
		}
	}
}
