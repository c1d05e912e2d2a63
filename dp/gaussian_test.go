package dp

import (
	"math"
	"math/big"
	"testing"
)

func mustCalibrate(t testing.TB, b Budget, charges int, g Grid) Mechanism {
	t.Helper()
	m, err := Calibrate(b, charges, g)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func times(e Event, n uint64) Event {
	e.Count = n
	return e
}

func TestCalibrateRecommended(t *testing.T) {
	for charges, want := range map[int]float64{33: 21.43, 30: 20.43} {
		m := mustCalibrate(t, Budget{1, 1e-5}, charges, Grid{1, 14})
		if got := m.Event().Multiplier; math.Abs(got-want) > 0.005 {
			t.Errorf("%d charges: multiplier %v, want %v", charges, got, want)
		}
	}
}

// TestCalibrateIsLeast: σ fits and σ-1 does not, by the accountant and by the truth.
func TestCalibrateIsLeast(t *testing.T) {
	for _, b := range []Budget{{1, 1e-5}, {0.1, 1e-6}, {0.01, 1e-12}, {8, 1e-9}, {500, 1e-15}, {1e-3, 1e-3}} {
		for _, charges := range []int{1, 33, 1000} {
			g := Grid{Clip: 1, Bits: 12}
			m := mustCalibrate(t, b, charges, g)
			if got := mustEpsilon(t, b.Delta, times(m.Event(), uint64(charges))); got > b.Epsilon {
				t.Errorf("%v, %d charges: epsilon %v", b, charges, got)
			}
			mu := func(sigma int64) *big.Float {
				return tQuo(tMul(truth(0).Sqrt(truth(float64(charges))), truth(1<<12)), truth(float64(sigma)))
			}
			if trueDelta(b.Epsilon, mu(m.Sigma())).Cmp(truth(b.Delta)) > 0 {
				t.Errorf("%v, %d charges: sigma %d is too small", b, charges, m.Sigma())
			}
			if m.Sigma() > 1 && trueDelta(b.Epsilon, mu(m.Sigma()-1)).Cmp(truth(b.Delta)) <= 0 {
				t.Errorf("%v, %d charges: sigma %d is not the least", b, charges, m.Sigma())
			}
		}
	}
}

func TestCalibrateRefuses(t *testing.T) {
	good := Budget{1, 1e-5}
	for name, c := range map[string]struct {
		b       Budget
		charges int
		g       Grid
	}{
		"no epsilon":       {Budget{0, 1e-5}, 1, Grid{1, 14}},
		"negative epsilon": {Budget{-1, 1e-5}, 1, Grid{1, 14}},
		"epsilon NaN":      {Budget{math.NaN(), 1e-5}, 1, Grid{1, 14}},
		"infinite epsilon": {Budget{math.Inf(1), 1e-5}, 1, Grid{1, 14}},
		"no delta":         {Budget{1, 0}, 1, Grid{1, 14}},
		"delta 1":          {Budget{1, 1}, 1, Grid{1, 14}},
		"no charges":       {good, 0, Grid{1, 14}},
		"negative charges": {good, -3, Grid{1, 14}},
		"no clip":          {good, 1, Grid{0, 14}},
		"no bits":          {good, 1, Grid{1, 0}},
		"too many bits":    {good, 1, Grid{1, 31}},
		"sigma over all":   {Budget{1e-9, 1e-30}, math.MaxInt32, Grid{1, 30}},
	} {
		if m, err := Calibrate(c.b, c.charges, c.g); err == nil || m != (Mechanism{}) {
			t.Errorf("%s: got %+v, %v, want an error", name, m, err)
		}
	}
}

// TestShares: any number of shares together is at least the noise that was asked for, one unit
// less a share would not be, and the figures agree with the integers.
func TestShares(t *testing.T) {
	whole := mustCalibrate(t, Budget{1, 1e-5}, 33, Grid{1, 14})
	all := new(big.Int).Mul(big.NewInt(whole.Sigma()), big.NewInt(whole.Sigma()))
	for _, honest := range []int{1, 2, 3, 5, 7, 62, 1000} {
		s := whole.Share(honest)
		together := func(sigma int64) *big.Int {
			v := new(big.Int).Mul(big.NewInt(sigma), big.NewInt(sigma))
			return v.Mul(v, big.NewInt(int64(honest)))
		}
		if together(s.Sigma()).Cmp(all) < 0 || together(s.Sigma()-1).Cmp(all) >= 0 {
			t.Errorf("%d shares of sigma %d for %d", honest, s.Sigma(), whole.Sigma())
		}
		if got, want := s.Event().Multiplier, whole.Event().Multiplier; got < want {
			t.Errorf("%d shares: multiplier %v under the whole's %v", honest, got, want)
		}
		square := tMul(truth(s.Event().Multiplier), truth(s.Event().Multiplier))
		exact := tQuo(truth(0).SetInt(together(s.Sigma())), truth(1<<28))
		if square.Cmp(exact) > 0 || tMul(square, truth(1+1e-15)).Cmp(exact) < 0 {
			t.Errorf("%d shares: multiplier %v, want the root of %v rounded down", honest, s.Event().Multiplier, exact)
		}
		if got := mustEpsilon(t, 1e-5, times(s.Event(), 33)); got > 1 {
			t.Errorf("%d shares: epsilon %v over the budget", honest, got)
		}
		if got, want := s.OwnEvent().Multiplier, float64(s.Sigma())/(1<<14); got != want {
			t.Errorf("own multiplier %v, want %v", got, want)
		}
		if again := s.Share(honest); again != s {
			t.Errorf("the share of a share is %+v, want %+v", again, s)
		}
	}
}

// TestOwnNoise are the figures of the reference: 1.00 becomes 1.47, 1.83 and 2.44.
func TestOwnNoise(t *testing.T) {
	whole := mustCalibrate(t, Budget{1, 1e-5}, 33, Grid{1, 14})
	for honest, want := range map[int]float64{1: 1.00, 2: 1.465, 3: 1.83, 5: 2.44} {
		if got := mustEpsilon(t, 1e-5, times(whole.Share(honest).OwnEvent(), 33)); math.Abs(got-want) > 6e-3 {
			t.Errorf("%d honest: epsilon of the own noise %v, want %v", honest, got, want)
		}
	}
}

// TestShareRoundsUp: 2·12² is 288, one short of 17².
func TestShareRoundsUp(t *testing.T) {
	if got := (Mechanism{sigma: 17, bits: 4, shares: 1}).Share(2).Sigma(); got != 13 {
		t.Errorf("one of two shares of sigma 17: %d, want 13", got)
	}
}

func TestShareFloor(t *testing.T) {
	m := mustCalibrate(t, Budget{8, 1e-3}, 1, Grid{1, 4})
	for _, honest := range []int{-1, 0, 1, 2, 100, math.MaxInt} {
		s := m.Share(honest)
		if s.Sigma() < minShare {
			t.Errorf("%d shares: sigma %d, want at least %d", honest, s.Sigma(), minShare)
		}
		if s.Event().Multiplier < m.Event().Multiplier {
			t.Errorf("%d shares: multiplier %v under %v", honest, s.Event().Multiplier, m.Event().Multiplier)
		}
	}
	for _, honest := range []int{-1, 0} {
		if got := m.Share(honest); got != m.Share(1) {
			t.Errorf("share for %d: %+v, want that for one", honest, got)
		}
	}
}

func TestBound(t *testing.T) {
	m := Mechanism{sigma: 100, bits: 14, shares: 1}
	for draws, want := range map[int]uint64{1: 1400, 2: 1980, 4: 2800, 0: math.MaxUint64, -1: math.MaxUint64} {
		if got := m.Bound(draws); got != want {
			t.Errorf("bound of %d draws: %d, want %d", draws, got, want)
		}
	}
	if got := (Mechanism{sigma: maxSigma, bits: 30, shares: 1}).Bound(math.MaxInt); got < math.MaxInt64 {
		t.Errorf("bound of everything: %d", got)
	}
}

func TestZeroMechanism(t *testing.T) {
	var m Mechanism
	if err := m.Keyed([32]byte{1}).Fill(make([]int64, 1)); err == nil {
		t.Error("the zero mechanism draws")
	}
	if err := m.Share(2).Keyed([32]byte{1}).Fill(make([]int64, 1)); err == nil {
		t.Error("a share of the zero mechanism draws")
	}
	if got := mustEpsilon(t, 1e-5, m.Event()); !math.IsInf(got, 1) {
		t.Errorf("epsilon of the zero mechanism: %v, want +Inf", got)
	}
	if _, err := ParseMechanism(m.Encode()); err == nil {
		t.Error("the zero mechanism parses")
	}
}

func TestMechanismEncoding(t *testing.T) {
	whole := mustCalibrate(t, Budget{1, 1e-5}, 33, Grid{1, 14})
	for _, m := range []Mechanism{whole, whole.Share(2), whole.Share(1000), {sigma: maxSigma, bits: 30, shares: maxShares}} {
		got, err := ParseMechanism(m.Encode())
		if err != nil || got != m {
			t.Errorf("%+v came back as %+v, %v", m, got, err)
		}
	}
	b := whole.Encode()
	for i := range b {
		for bit := range 8 {
			flipped := append([]byte(nil), b...)
			flipped[i] ^= 1 << bit
			if got, err := ParseMechanism(flipped); err == nil && got == whole {
				t.Errorf("byte %d, bit %d flipped still reads as the same mechanism", i, bit)
			}
		}
	}
	// The same map with its last 1 written in two bytes.
	if long := append(b[:len(b)-1:len(b)-1], 0x18, 1); b[len(b)-1] == 1 {
		if _, err := ParseMechanism(long); err == nil {
			t.Error("a second encoding of the same mechanism parses")
		}
	} else {
		t.Errorf("encoding %x does not end in one share", b)
	}
	for name, m := range map[string]Mechanism{
		"no sigma": {0, 14, 1}, "negative sigma": {-1, 14, 1}, "huge sigma": {maxSigma + 1, 14, 1}, "no bits": {100, 0, 1},
		"bits": {100, 31, 1}, "no shares": {100, 14, 0}, "shares": {100, 14, maxShares + 1}, "small shares": {7, 14, 2},
	} {
		if _, err := ParseMechanism(m.Encode()); err == nil {
			t.Errorf("%s: %+v parses", name, m)
		}
	}
}

func FuzzParseMechanism(f *testing.F) {
	f.Add(Mechanism{sigma: 351124, bits: 14, shares: 2}.Encode())
	f.Add([]byte{0xa0})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseMechanism(b)
		if err != nil {
			return
		}
		if string(m.Encode()) != string(b) {
			t.Errorf("%x reads as %+v, which is %x", b, m, m.Encode())
		}
		if m.Sigma() < 1 || math.IsNaN(m.Event().Multiplier) || m.Event().Multiplier <= 0 {
			t.Errorf("%x reads as %+v, which adds no noise", b, m)
		}
	})
}

func BenchmarkCalibrate(b *testing.B) {
	for b.Loop() {
		mustCalibrate(b, Budget{1, 1e-5}, 33, Grid{1, 14})
	}
}
