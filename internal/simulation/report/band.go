package report

import (
	"math"
	"sort"

	"gonum.org/v1/gonum/mathext"
)

// confidence is the chance that uniform bytes keep all bins of a histogram inside its band.
const confidence = 0.999

// band is the range in which each bin of n uniform bytes lies, all bins together with the given chance: of
// the binomial law with p = 1/bins each tail gets its part of what is left (Bonferroni).
func band(n uint64, bins int, chance float64) (lo, hi uint64) {
	tail := (1 - chance) / float64(2*bins)
	p := 1 / float64(bins)
	lo = uint64(sort.Search(int(n), func(k int) bool { return atMost(n, p, k) > tail }))
	hi = uint64(sort.Search(int(n), func(k int) bool { return above(n, p, k) <= tail }))
	return lo, hi
}

// atMost is P(X ≤ k), and above P(X > k), of a binomial X, by the incomplete beta function (DLMF 8.17.5).
func atMost(n uint64, p float64, k int) float64 {
	if k < 0 {
		return 0
	}
	if uint64(k) >= n {
		return 1
	}
	return clamp(mathext.RegIncBeta(float64(n)-float64(k), float64(k)+1, 1-p))
}

func above(n uint64, p float64, k int) float64 {
	if k < 0 {
		return 1
	}
	if uint64(k) >= n {
		return 0
	}
	return clamp(mathext.RegIncBeta(float64(k)+1, float64(n)-float64(k), p))
}

func clamp(v float64) float64 { return math.Min(math.Max(v, 0), 1) }
