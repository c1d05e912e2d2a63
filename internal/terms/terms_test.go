package terms

import (
	"bytes"
	"crypto/ed25519"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/audit"
	"github.com/consilium-fl/consilium/dp"
	"github.com/consilium-fl/consilium/internal/study"
)

func sample(t *testing.T, overrides ...string) (*study.Consortium, *study.Study) {
	t.Helper()
	text := read(t, "../../deploy/samples/heart/study.yaml")
	for i := 0; i < len(overrides); i += 2 {
		var err error
		if text, err = study.Override(text, overrides[i], overrides[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	s, err := study.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	c, err := study.ParseConsortium(read(t, "../../deploy/samples/consortium.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return c, s
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustNew(t *testing.T, overrides ...string) *Terms {
	t.Helper()
	c, s := sample(t, overrides...)
	x, err := New(c, s)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// Whoever reads the text of a study computes the plan of its rounds; these figures are the design's.
func TestPlan(t *testing.T) {
	x := mustNew(t)
	p := x.Plan(7, [32]byte{1}, [32]byte{2})
	if p.Dim != 14 || p.WordBits != 32 || p.Minimum != 3 || p.Colluding != 1 || x.Need != 3 || x.Charges != 33 {
		t.Errorf("got %+v, need %d, %d charges", p, x.Need, x.Charges)
	}
	if want := uint64(4) * 1000 << 14; p.SumBound != want {
		t.Errorf("sum bound %d, want %d", p.SumBound, want)
	}
	z := float64(x.Full.Sigma()) / (1 << 14)
	if math.Abs(z-21.43) > 0.01 {
		t.Errorf("noise multiplier %.3f, want 21.43 for 33 charges", z)
	}
	if want := int64(math.Ceil(float64(x.Full.Sigma()) / math.Sqrt2)); x.Share.Sigma() != want {
		t.Errorf("σ of a share is %d, want %d", x.Share.Sigma(), want)
	}
	if p.Noise.Source != aggregate.Members || p.Noise.Shares != 2 || p.Noise.Bound != x.Share.Bound(4) {
		t.Errorf("noise %+v", p.Noise)
	}
	m, err := dp.ParseMechanism(p.Noise.Mechanism)
	if err != nil || m.Sigma() != x.Share.Sigma() {
		t.Errorf("the plan's mechanism has σ %d, %v", m.Sigma(), err)
	}
	if p.Deadlines.Ready != 600_000 || p.Deadlines.Deal != 30_000 {
		t.Errorf("deadlines %+v", p.Deadlines)
	}
}

func TestCentralNoise(t *testing.T) {
	x := mustNew(t, "privacy.noise", "central")
	p := x.Plan(1, [32]byte{1}, [32]byte{})
	if p.Noise.Source != aggregate.Aggregator || p.Noise.Shares != 1 || p.Noise.Bound != x.Full.Bound(1) {
		t.Errorf("noise %+v", p.Noise)
	}
	f, err := x.Figures(30)
	if err != nil {
		t.Fatal(err)
	}
	if f.EpsilonIfBroken != nil || f.EpsilonOwnNoise != nil || f.HonestShares != 1 {
		t.Errorf("under central noise a broken TEE leaves no bound, got %+v", f)
	}
}

func TestFigures(t *testing.T) {
	x := mustNew(t)
	f, err := x.Figures(30)
	if err != nil {
		t.Fatal(err)
	}
	if math.Abs(f.Epsilon-0.949) > 0.001 || *f.EpsilonIfBroken != f.Epsilon || math.Abs(*f.EpsilonOwnNoise-1.39) > 0.01 || f.HonestShares != 2 {
		t.Errorf("got ε %.4f, %.4f broken, %.4f alone, %d shares", f.Epsilon, *f.EpsilonIfBroken, *f.EpsilonOwnNoise, f.HonestShares)
	}
	whole, err := x.Figures(uint64(x.Charges))
	if err != nil || whole.Epsilon > 1 || whole.Epsilon < 0.999 {
		t.Errorf("all charges spend %.6f, %v, want just under 1", whole.Epsilon, err)
	}
}

func TestWrapIsRefused(t *testing.T) {
	c, s := sample(t)
	s.Aggregation.WordBits = 24
	if _, err := New(c, s); err == nil || !strings.Contains(err.Error(), "do not wrap") {
		t.Errorf("sums that wrap: %v", err)
	}
	c, s = sample(t)
	s.Aggregation.Colluding = 2
	if _, err := New(c, s); err == nil || !strings.Contains(err.Error(), "aggregation.colluding is 2, want 1") {
		t.Errorf("another c: %v", err)
	}
}

func TestNeed(t *testing.T) {
	for _, x := range [][3]int{{3, 1, 3}, {4, 1, 3}, {5, 1, 4}, {6, 1, 4}, {10, 2, 7}, {100, 25, 63}} {
		if got := audit.Quorum(x[0], x[1]); got != x[2] {
			t.Errorf("%d members, %d colluding: need %d, want %d", x[0], x[1], got, x[2])
		}
	}
}

// A remembered enrolment ends when it ends, and one that was refused is not remembered.
func TestKeyringForgetsNothingAndForgivesNothing(t *testing.T) {
	c, _ := sample(t)
	pub, governance, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	h := c.Hospitals["va"]
	h.Governance = pub
	c.Hospitals["va"] = h
	until := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	key, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	witness, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	file, err := study.Enrolment{Consortium: c.Name, Hospital: "va", Node: "1", NodeKey: key, WitnessKey: witness, Serial: 1, Until: until}.Sign(governance)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	k := Keyring{Consortium: c, At: func() time.Time { return now }, Known: &Known{}}
	for range 2 {
		id, got, err := k.Member(file)
		if err != nil || id != "va" || !got.Equal(key) {
			t.Fatalf("got %q, %v", id, err)
		}
	}
	now = until
	if _, _, err := k.Member(file); err == nil {
		t.Error("an enrolment that has ended was taken from memory")
	}
	now = time.Now()
	altered := bytes.Clone(file)
	altered[len(altered)/2] ^= 1
	for range 2 {
		if _, _, err := k.Member(altered); err == nil {
			t.Error("an altered enrolment was taken")
		}
	}
}

func TestPosture(t *testing.T) {
	c, _ := sample(t)
	if p := Posture(c, false); slices.Contains(p.TEE, Simulated) || len(p.TEE) != len(attest.Formats()) || len(p.Insecure) != 0 || p.Consortium != c.Digest {
		t.Errorf("without simulation nothing simulated is taken: %+v", p)
	}
	if p := Posture(c, true); !slices.Contains(p.TEE, Simulated) || len(p.Insecure) != 1 {
		t.Errorf("with simulation: %+v", p)
	}
}

func TestCheckTEE(t *testing.T) {
	for _, c := range []struct {
		tee, root, audience string
		simulation          bool
		want                string
	}{
		{"sim", "root", "", true, ""},
		{"sim", "root", "", false, "simulated_tee"},
		{"sim", "", "", true, "sim_root"},
		{"auto", "", "", false, ""},
		{"snp", "", "", true, ""},
		{"gcp-cs-pki", "", "", false, "audience"},
		{"gcp-cs-pki", "", "x", false, ""},
		{"gcp-cs-oidc", "", "", false, "audience"},
		{"gcp-cs-oidc", "", "x", false, ""},
		{"", "", "", false, "tee is"},
	} {
		err := CheckTEE(c.tee, c.root, c.audience, c.simulation)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
