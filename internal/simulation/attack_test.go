package simulation

import (
	"strings"
	"testing"

	"github.com/consilium-fl/consilium/aggregate"
)

// What is altered on the wire, on the coordinator's disk or by a hospital itself never gets into a sum
// unseen: what was not signed so is refused, and asked for again where it may come again; a bad share is
// named by its holder; what cannot be opened burns the round. Every sum that comes out is exact.
//
// One thing only a comparison with the rows can find: a hospital that adds to its own vector before it
// masks. In the last round one adds a single unit to a single word.
func TestAlteredBytes(t *testing.T) {
	t.Parallel()
	without := func(h string) past {
		p := past{outcome: aggregate.Closed}
		for _, m := range all4 {
			if m != h {
				p.set = append(p.set, m)
			}
		}
		return p
	}
	burnt := func(why string) past { return past{outcome: aggregate.Burnt, set: all4, why: why} }
	cases := []struct {
		by   string // "" is the coordinator
		a    attack
		want past
	}{
		{"alder", attack{What: "ready"}, without("alder")},
		{"birch", attack{What: "deal"}, without("birch")},
		{"cedar", attack{What: "words", Once: true}, closed(all4...)}, // sent again
		{"cedar", attack{What: "words"}, without("cedar")},
		{"hazel", attack{What: "upload"}, without("hazel")},
		{"hazel", attack{What: "upload", Sign: true}, without("hazel")}, // another vector than the one that came
		{"alder", attack{What: "vote"}, closed(all4...)},
		{"birch", attack{What: "vote", Sign: true}, closed(all4...)}, // for another proposal
		{"cedar", attack{What: "release"}, closed(all4...)},
		{"hazel", attack{What: "release", Sign: true}, closed(all4...)}, // does not open
		{"alder birch", attack{What: "release", Sign: true}, burnt("")},
		{"birch", attack{What: "garbage"}, burnt("bound")},
		{"", attack{What: "stored early", Of: "cedar", Once: true}, closed(all4...)}, // sent again
		{"", attack{What: "stored late", Of: "alder", Once: true}, burnt("changed on disk")},
		{"hazel", attack{What: "deal", Sign: true}, past{outcome: aggregate.Aborted, set: []string{}, why: "hazel"}},
		{"", attack{}, without("hazel")}, // it is left out from now on
		{"birch", attack{What: "mask"}, without("hazel")},
	}
	closing := 1
	for _, c := range cases {
		if c.want.outcome == aggregate.Closed {
			closing++
		}
	}
	fl := muster(t, Options{Hospitals: 4, Rounds: closing}, map[string]string{
		"privacy.spare": "8", "deadlines.ready": "3s", "deadlines.deal": "3s", "deadlines.upload": "3s", "deadlines.vote": "3s", "deadlines.release": "3s",
	})
	want := []past{closed(all4...)}
	for i, c := range cases {
		want = append(want, c.want)
		c.a.Round = uint64(i) + 2
		if c.by == "" {
			fl.attacks[""] = append(fl.attacks[""], c.a)
			continue
		}
		for by := range strings.FieldsSeq(c.by) {
			fl.attacks[by] = append(fl.attacks[by], c.a)
		}
	}
	fl.launch()
	dir, rounds := fl.finish()
	fl.compare(rounds, want)
	err := inexact(fl.federation, dir)
	if err == nil || !strings.HasPrefix(err.Error(), "round 18 ") || !strings.Contains(err.Error(), "word 3 ") {
		t.Errorf("got %v, want the last round's word 3 to be the first that differs", err)
	}
}
