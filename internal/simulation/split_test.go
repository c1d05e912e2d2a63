package simulation

import (
	"bytes"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/internal/simulation/wdbc"
	"github.com/consilium-fl/consilium/internal/study"
)

func wdbcStudy(t *testing.T) *study.Study {
	t.Helper()
	now := time.Now()
	s, err := study.Parse(wdbc.Study([32]byte{}, lead, wdbc.Hospitals, now, now.AddDate(1, 0, 0)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Every patient is in one hospital, either to train on or held back, and the totals are what was asked
// for: no draw loses or doubles a row.
func TestDivide(t *testing.T) {
	s := wdbcStudy(t)
	_, all := lines(wdbc.CSV)
	for seed := range uint64(30) {
		sites, err := divide(wdbc.CSV, s.Data, wdbc.Hospitals, rand.New(rand.NewPCG(seed, 1)))
		if err != nil {
			t.Fatal(err)
		}
		want := []int{228, 142, 85, 68, 46} // 40, 25, 15, 12 and 8 % of 569
		var got [][]byte
		for i, st := range sites {
			_, train := lines(st.train)
			_, held := lines(st.held)
			if n := len(train) + len(held); n != want[i] {
				t.Errorf("seed %d, %s: %d patients, want %d", seed, st.name, n, want[i])
			}
			if third := int(math.Round(float64(want[i]) / 3)); len(held) != third {
				t.Errorf("seed %d, %s: %d held back, want %d", seed, st.name, len(held), third)
			}
			got = append(append(got, train...), held...)
		}
		if !sameRows(got, all) {
			t.Fatalf("seed %d: the hospitals' rows are not the file's", seed)
		}
	}
}

func TestDivideIsTheSeeds(t *testing.T) {
	s := wdbcStudy(t)
	draw := func(seed uint64) []byte {
		sites, err := divide(wdbc.CSV, s.Data, wdbc.Hospitals, rand.New(rand.NewPCG(seed, 1)))
		if err != nil {
			t.Fatal(err)
		}
		return sites[2].train
	}
	if !bytes.Equal(draw(1), draw(1)) {
		t.Error("one seed gives two splits")
	}
	if bytes.Equal(draw(1), draw(2)) {
		t.Error("two seeds give one split")
	}
}

// However uneven the draw, sizes and class totals hold.
func TestMix(t *testing.T) {
	sizes := []int{228, 142, 85, 68, 46}
	for seed := range uint64(500) {
		for _, positives := range []int{212, 1, 560} {
			m := mix(sizes, positives, rand.New(rand.NewPCG(seed, 2)))
			total := 0
			for i := range m {
				total += m[i]
				if m[i] < 0 || m[i] > sizes[i] {
					t.Fatalf("seed %d: %v positives of %v", seed, m, sizes)
				}
			}
			if total != positives {
				t.Fatalf("seed %d: %v sum to %d, want %d", seed, m, total, positives)
			}
		}
	}
}

func sameRows(a, b [][]byte) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.SortFunc(a, bytes.Compare)
	slices.SortFunc(b, bytes.Compare)
	return slices.EqualFunc(a, b, bytes.Equal)
}

// A third of each class of the usable rows is held back; rows that cannot be used stay with the hospital,
// whose node leaves them out itself.
func TestHoldBackHearts(t *testing.T) {
	shared := os.Getenv("CONSILIUM_SHARED")
	if shared == "" {
		shared = "../../../shared"
	}
	text, err := os.ReadFile("../../deploy/samples/heart/study.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s, err := study.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct{ usable, held int }{
		"cleveland": {303, 101}, "hungarian": {261, 87}, "switzerland": {46, 15}, "va": {130, 43},
	} {
		file, err := os.ReadFile(filepath.Join(shared, "data", "heart-disease", name+".csv"))
		if err != nil {
			t.Skipf("the heart data are not here, set CONSILIUM_SHARED: %v", err)
		}
		st, err := holdBack(name, file, s.Data, rand.New(rand.NewPCG(1, 1)))
		if err != nil {
			t.Fatal(err)
		}
		tr, err := readTable(name, st.train, s)
		if err != nil {
			t.Fatal(err)
		}
		he, err := readTable(name, st.held, s)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(tr.rows) + len(he.rows); n != want.usable {
			t.Errorf("%s: %d usable patients, want %d", name, n, want.usable)
		}
		if d := len(he.rows) - want.held; d < -1 || d > 1 {
			t.Errorf("%s: %d held back, want %d", name, len(he.rows), want.held)
		}
		_, a := lines(st.train)
		_, b := lines(st.held)
		if _, all := lines(file); !sameRows(append(a, b...), all) {
			t.Errorf("%s: rows were lost or doubled", name)
		}
	}
}

// auc is compared with its definition: the share of pairs, one of each class, in the right order, ties half.
func TestAUC(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	for range 200 {
		n := 2 + rng.IntN(40)
		p, labels := make([]float64, n), make([]float64, n)
		for i := range p {
			p[i], labels[i] = float64(rng.IntN(6)), float64(rng.IntN(2))
		}
		var right, pairs float64
		for i := range p {
			for j := range p {
				if labels[i] == 1 && labels[j] == 0 {
					pairs++
					switch {
					case p[i] > p[j]:
						right++
					case p[i] == p[j]:
						right += 0.5
					}
				}
			}
		}
		got := auc(p, labels)
		if pairs == 0 {
			if got != nil {
				t.Fatalf("one class: got %v, want none", *got)
			}
			continue
		}
		if got == nil || math.Abs(*got-right/pairs) > 1e-12 {
			t.Fatalf("got %v, want %v", got, right/pairs)
		}
	}
}

func TestParseDrop(t *testing.T) {
	for in, want := range map[string]Drop{
		"va@3":                {Hospital: "va", Round: 3, Phase: "ready"},
		"va@1:upload":         {Hospital: "va", Round: 1, Phase: "upload"},
		"hospital-06@12:vote": {Hospital: "hospital-06", Round: 12, Phase: "vote"},
	} {
		if got, err := ParseDrop(in); err != nil || got != want {
			t.Errorf("%s: got %+v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "va", "va@", "va@0", "va@x", "@3", "va@3:", "va@3:train", "va@-1"} {
		if got, err := ParseDrop(in); err == nil {
			t.Errorf("%q: taken as %+v", in, got)
		}
	}
}
