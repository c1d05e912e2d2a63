package simulation

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sort"

	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/node/dataset"
)

// A site is one simulated hospital's data: a CSV file to train on, and the third that is held back and
// that only the simulation ever reads.
type site struct {
	name        string
	train, held []byte
}

// shares of patients, for any number of hospitals: 40, 25, 15, 12 and 8 % for the default five.
func shares(n int) []float64 {
	if n == 5 {
		return []float64{0.40, 0.25, 0.15, 0.12, 0.08}
	}
	s, total := make([]float64, n), 0.0
	for i := range s {
		s[i] = 1 / float64(i+2)
		total += s[i]
	}
	for i := range s {
		s[i] /= total
	}
	return s
}

// divide deals the rows of one CSV file out to hospitals: sizes by shares, the mix of classes drawn from
// a Dirichlet(½) a hospital and fitted to sizes and class totals by Sinkhorn's alternating scaling.
func divide(file []byte, d study.Data, names []string, rng *rand.Rand) ([]site, error) {
	header, rows := lines(file)
	classes := [2][][]byte{}
	for _, r := range rows {
		label, usable, err := labelOf(header, r, d)
		if err != nil {
			return nil, err
		}
		if usable {
			classes[label] = append(classes[label], r)
		}
	}
	total := len(classes[0]) + len(classes[1])
	sizes := apportion(shares(len(names)), total)
	positives := mix(sizes, len(classes[1]), rng)
	for c := range classes {
		rng.Shuffle(len(classes[c]), func(i, j int) { classes[c][i], classes[c][j] = classes[c][j], classes[c][i] })
	}
	sites := make([]site, len(names))
	for i, name := range names {
		negatives := sizes[i] - positives[i]
		mine := slices.Concat(classes[0][:negatives], classes[1][:positives[i]])
		classes[0], classes[1] = classes[0][negatives:], classes[1][positives[i]:]
		rng.Shuffle(len(mine), func(i, j int) { mine[i], mine[j] = mine[j], mine[i] })
		third := int(math.Round(float64(len(mine)) / 3))
		sites[i] = site{name: name, train: csv(header, mine[third:]), held: csv(header, mine[:third])}
	}
	return sites, nil
}

// holdBack splits one hospital's own file, a third of each class held back. Rows that cannot be used
// stay in the file to train on, where the node leaves them out itself.
func holdBack(name string, file []byte, d study.Data, rng *rand.Rand) (site, error) {
	header, rows := lines(file)
	var groups [2][]int
	for i, r := range rows {
		label, usable, err := labelOf(header, r, d)
		if err != nil {
			return site{}, fmt.Errorf("hospital %q: %w", name, err)
		}
		if usable {
			groups[label] = append(groups[label], i)
		}
	}
	held := map[int]bool{}
	for _, g := range groups {
		rng.Shuffle(len(g), func(i, j int) { g[i], g[j] = g[j], g[i] })
		for _, i := range g[:int(math.Round(float64(len(g))/3))] {
			held[i] = true
		}
	}
	var s [2][][]byte
	for i, r := range rows {
		if held[i] {
			s[1] = append(s[1], r)
		} else {
			s[0] = append(s[0], r)
		}
	}
	return site{name: name, train: csv(header, s[0]), held: csv(header, s[1])}, nil
}

// apportion turns shares into whole numbers that sum to total, by largest remainder.
func apportion(shares []float64, total int) []int {
	out, left := make([]int, len(shares)), total
	order := make([]int, len(shares))
	for i, s := range shares {
		out[i] = int(s * float64(total))
		left -= out[i]
		order[i] = i
	}
	sort.SliceStable(order, func(a, b int) bool {
		return remainder(shares[order[a]], total) > remainder(shares[order[b]], total)
	})
	for _, i := range order[:left] {
		out[i]++
	}
	return out
}

func remainder(share float64, total int) float64 {
	x := share * float64(total)
	return x - math.Floor(x)
}

// mix draws how many positives each hospital has: Dirichlet(½, ½) proportions, scaled to the sizes and
// to the class totals in turn until both hold, then rounded with both kept.
func mix(sizes []int, positives int, rng *rand.Rand) []int {
	n := len(sizes)
	total := 0
	m := make([][2]float64, n)
	for i := range m {
		// A Gamma(½) is half a squared normal; two of them in proportion are a Dirichlet(½, ½).
		a, b := rng.NormFloat64(), rng.NormFloat64()
		a, b = a*a+1e-3, b*b+1e-3
		m[i] = [2]float64{a / (a + b), b / (a + b)}
		total += sizes[i]
	}
	want := [2]float64{float64(total - positives), float64(positives)}
	for range 10_000 {
		for i := range m {
			scale := float64(sizes[i]) / (m[i][0] + m[i][1])
			m[i][0], m[i][1] = m[i][0]*scale, m[i][1]*scale
		}
		off := 0.0
		for c := range want {
			sum := 0.0
			for i := range m {
				sum += m[i][c]
			}
			off += math.Abs(sum - want[c])
			for i := range m {
				m[i][c] *= want[c] / sum
			}
		}
		if off < 1e-9 {
			break
		}
	}
	share := make([]float64, n)
	for i := range m {
		share[i] = m[i][1] / float64(positives)
	}
	return bounded(apportion(share, positives), sizes)
}

// bounded moves what a hospital cannot hold to those that can.
func bounded(counts, sizes []int) []int {
	over := 0
	for i := range counts {
		if d := counts[i] - sizes[i]; d > 0 {
			counts[i], over = sizes[i], over+d
		}
	}
	for i := range counts {
		d := min(over, sizes[i]-counts[i])
		counts[i], over = counts[i]+d, over-d
	}
	return counts
}

// lines cuts a file into its header and rows, each with its LF.
func lines(file []byte) (header []byte, rows [][]byte) {
	for line := range bytes.Lines(file) {
		switch {
		case header == nil:
			header = line
		case line[len(line)-1] == '\n':
			rows = append(rows, line)
		}
	}
	return header, rows
}

func csv(header []byte, rows [][]byte) []byte {
	return slices.Concat(header, bytes.Join(rows, nil))
}

// labelOf reads one row under the data contract; a row that cannot be used has no label.
func labelOf(header, row []byte, d study.Data) (label int, usable bool, err error) {
	set, _, err := dataset.Load(bytes.NewReader(slices.Concat(header, row)), "data", d, dataset.Exclusion{})
	if err != nil {
		return 0, false, err
	}
	if set.Patients() == 0 {
		return 0, false, nil
	}
	_, labels := set.Patient(0)
	return int(labels[0]), true, nil
}
