package simulation

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/dp"
	"github.com/consilium-fl/consilium/node"
)

// impatient are the fields of a study that does not wait long for who is gone.
func impatient(more ...string) map[string]string {
	fields := map[string]string{"deadlines.away": "300ms"}
	for i := 0; i < len(more); i += 2 {
		fields[more[i]] = more[i+1]
	}
	return fields
}

// Without noise every round's sum is pooled clipped FedSGD on the grid, word for word, whoever is dropped
// at whichever message.
func TestSumsAreExact(t *testing.T) {
	type pattern struct {
		name      string
		hospitals int
		drops     []Drop
		fields    map[string]string
	}
	patterns := []pattern{
		{"nobody dropped", 5, nil, impatient()},
		{"central noise", 3, nil, impatient("privacy.noise", "central")},
		{"sums clamped", 4, nil, impatient("max_patients", "5")},
		{"members=4", 4, nil, impatient()},
	}
	phases := []string{"ready", "deal", "upload", "vote", "release"}
	for i, phase := range phases {
		for j, h := range []string{"alder", "birch", "cedar", "hazel", "rowan"} {
			if testing.Short() && i != j {
				continue
			}
			d := Drop{Hospital: h, Round: 2, Phase: phase}
			patterns = append(patterns, pattern{fmt.Sprintf("members=5 %s", d), 5, []Drop{d}, impatient()})
		}
		d := Drop{Hospital: []string{"hazel", "cedar", "birch", "alder", "hazel"}[i], Round: 1, Phase: phase}
		patterns = append(patterns, pattern{fmt.Sprintf("members=4 %s", d), 4, []Drop{d}, impatient()})
	}
	d := Drop{Hospital: "alder", Round: 2, Phase: "upload"}
	patterns = append(patterns, pattern{fmt.Sprintf("central noise %s", d), 4, []Drop{d}, impatient("privacy.noise", "central")})
	for _, p := range patterns {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			o := Options{Hospitals: p.hospitals, Rounds: 3, Drops: p.drops}
			f := federate(t, o, p.fields)
			r, err := played(t, f, o, together(quietly(), p.hospitals))
			if err != nil {
				t.Fatal(err)
			}
			if err := inexact(f, r.Out); err != nil {
				t.Error(err)
			}
			rounds := must(history(r.Out))(t)
			if len(rounds) != 3 {
				t.Errorf("%d rounds, want 3: %v", len(rounds), rounds)
			}
			for _, round := range rounds {
				if want := remaining(f, p.drops, round.number); round.outcome != aggregate.Closed || !slices.Equal(round.set, want) {
					t.Errorf("round %d is %s over %v (%s), want closed over %v", round.number, round.outcome, round.set, round.why, want)
				}
			}
		})
	}
}

// remaining are who is in the set of a round: a hospital that is dropped after its upload still is.
func remaining(f *federation, drops []Drop, round uint64) []string {
	var set []string
	for _, h := range f.study.Members {
		gone := slices.ContainsFunc(drops, func(d Drop) bool {
			uploaded := d.Phase == "vote" || d.Phase == "release"
			return d.Hospital == h && (round > d.Round || round == d.Round && !uploaded)
		})
		if !gone {
			set = append(set, h)
		}
	}
	return set
}

// spoiling adds to what a hospital sends in one round, after clipping and before the masks: no protocol can
// tell it from data, only the comparison of this test can.
type spoiling struct{ add func(dst []int64) }

func (s spoiling) Fill(dst []int64) error { clear(dst); s.add(dst); return nil }

// One unit on one word of one hospital is found.
func TestInexactSumIsFound(t *testing.T) {
	o := Options{Hospitals: 3, Rounds: 3}
	f := federate(t, o, nil)
	w := quietly()
	inner := w.node
	w.node = func(hospital string, d *node.Deps) {
		inner(hospital, d)
		if hospital != "birch" {
			return
		}
		made := 0
		d.Noise = func(dp.Mechanism, [32]byte) aggregate.Noiser {
			made++
			if made != 2 {
				return silent{}
			}
			return spoiling{func(dst []int64) { dst[7]++ }}
		}
	}
	r, err := played(t, f, o, w)
	if err != nil {
		t.Fatal(err)
	}
	err = inexact(f, r.Out)
	if err == nil || !strings.Contains(err.Error(), "round 2") || !strings.Contains(err.Error(), "word 7") {
		t.Errorf("got %v, want round 2, word 7 named", err)
	}
}
