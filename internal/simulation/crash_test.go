package simulation

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/internal/transport"
)

// Every sum over TLS between separate processes, whoever is dropped.
func TestSumsAreExactBetweenProcesses(t *testing.T) {
	for _, drops := range [][]Drop{
		nil,
		{{Hospital: "hazel", Round: 2, Phase: "upload"}},
		{{Hospital: "alder", Round: 1, Phase: "release"}},
	} {
		name := "nobody dropped"
		if drops != nil {
			name = drops[0].String()
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fl := muster(t, Options{Hospitals: 4, Rounds: 3, Drops: drops}, map[string]string{"deadlines.away": "4s"})
			fl.launch()
			dir, rounds := fl.finish()
			if err := inexact(fl.federation, dir); err != nil {
				t.Error(err)
			}
			for _, r := range rounds {
				if want := remaining(fl.federation, drops, r.number); r.outcome != aggregate.Closed || !slices.Equal(r.set, want) {
					t.Errorf("round %d is %s over %v, want closed over %v", r.number, r.outcome, r.set, want)
				}
			}
		})
	}
}

// outcomes wants these rounds, in order, and every closed one exact. A set of nil is any set.
func (fl *fleet) outcomes(want []past) (dir string) {
	fl.t.Helper()
	dir, rounds := fl.finish()
	if err := inexact(fl.federation, dir); err != nil {
		fl.t.Error(err)
	}
	fl.compare(rounds, want)
	return dir
}

func (fl *fleet) compare(rounds, want []past) {
	fl.t.Helper()
	for i, r := range rounds {
		if i >= len(want) {
			fl.t.Errorf("round %d is one more than wanted: %s over %v (%s)", r.number, r.outcome, r.set, r.why)
			continue
		}
		w := want[i]
		if r.outcome != w.outcome || w.set != nil && !slices.Equal(r.set, w.set) || !strings.Contains(r.why, w.why) {
			fl.t.Errorf("round %d is %s over %v (%s), want %s over %v (%s)", r.number, r.outcome, r.set, r.why, w.outcome, w.set, w.why)
		}
	}
	if len(rounds) < len(want) {
		fl.t.Errorf("%d rounds, want %d", len(rounds), len(want))
	}
}

func closed(set ...string) past { return past{outcome: aggregate.Closed, set: set} }

var all4 = []string{"alder", "birch", "cedar", "hazel"}

// stored are the vectors of the round of alder's that a coordinator's disk holds whole, and when each was
// written: their trailers begin with the same roster.
func (fl *fleet) stored() map[string]time.Time {
	fl.t.Helper()
	roster := func(file string) string {
		b := must(os.ReadFile(file))(fl.t)
		return string(b[max(0, len(b)-64):max(0, len(b)-32)])
	}
	files := must(filepath.Glob(fl.path("coordinator", "state", "studies", "*", "rounds", "*.words")))(fl.t)
	written := map[string]time.Time{}
	for _, f := range files {
		if roster(f) == roster(filepath.Join(filepath.Dir(f), "alder.words")) {
			written[f] = must(os.Stat(f))(fl.t).ModTime()
		}
	}
	return written
}

// A coordinator that is killed while it collects goes on with the same round and the vectors it had.
func TestKillCoordinatorWhileCollecting(t *testing.T) {
	t.Parallel()
	fl := muster(t, Options{Hospitals: 4, Rounds: 3}, nil)
	free, held := fl.hold("hazel", "words", 2)
	freeEnd, heldEnd := fl.hold("birch", "vote", 2)
	fl.launch()
	held()
	for _, h := range all4[:3] {
		fl.await("the upload of "+h, arrived(2, "collecting", h))
	}
	fl.kill("")
	before := fl.stored()
	if len(before) != 3 {
		t.Errorf("%d vectors are whole, want three", len(before))
	}
	fl.start("")
	free()
	heldEnd() // voting: all four are stored
	after := fl.stored()
	if len(after) != 4 {
		t.Errorf("%d vectors are whole, want four", len(after))
	}
	for f, at := range before {
		if !after[f].Equal(at) {
			t.Errorf("%s was written again", filepath.Base(f))
		}
	}
	freeEnd()
	fl.outcomes([]past{closed(all4...), closed(all4...), closed(all4...)})
}

// A coordinator that is killed while it releases burns the round: its charge stands, and the next one runs
// with new keys.
func TestKillCoordinatorWhileReleasing(t *testing.T) {
	t.Parallel()
	fl := muster(t, Options{Hospitals: 4, Rounds: 3}, nil)
	freeCedar, heldCedar := fl.hold("cedar", "release", 2)
	freeHazel, heldHazel := fl.hold("hazel", "release", 2)
	fl.launch()
	heldCedar()
	heldHazel()
	fl.await("the release of alder", arrived(2, "releasing", "alder"))
	fl.await("the release of birch", arrived(2, "releasing", "birch"))
	fl.kill("")
	fl.start("")
	freeCedar()
	freeHazel()
	dir := fl.outcomes([]past{closed(all4...), {outcome: aggregate.Burnt, set: all4}, closed(all4...), closed(all4...)})
	if exists(roundFile(dir, 2, "sum.bin")) {
		t.Error("a burnt round has a sum")
	}
	if got := fl.ledger("coordinator/state/studies/*/ledger").Charges(fl.study.Digest); got != 4 {
		t.Errorf("the coordinator has %d charges, want 4: three rounds closed and one burnt", got)
	}
}

// A node that is killed after its upload is in the set, answers nothing more in that round, and takes part
// in a later one. Then it is killed once more.
func TestKillNodeAfterUpload(t *testing.T) {
	t.Parallel()
	fl := muster(t, Options{Hospitals: 4, Rounds: 6}, nil)
	free, held := fl.hold("hazel", "words", 2)
	freeLater, heldLater := fl.hold("hazel", "words", 4)
	freeLast, heldLast := fl.hold("hazel", "ready", 6)
	fl.launch()
	held()
	fl.await("the upload of alder", arrived(2, "collecting", "alder"))
	fl.kill("alder")
	fl.start("alder")
	free()
	heldLater()
	fl.await("alder's second upload", func(e transport.WatchEvent) bool {
		return e.Kind == "arrived" && e.Phase == "collecting" && e.Hospital == "alder" && e.Round > 2
	})
	fl.kill("alder")
	fl.start("alder")
	freeLater()
	heldLast()
	fl.await("alder in the last round", arrived(6, "gathering", "alder"))
	freeLast()
	anybody := past{outcome: aggregate.Closed}
	dir := fl.outcomes([]past{closed(all4...), closed(all4...), anybody, anybody, anybody, closed(all4...)})
	for _, x := range fl.sent("alder") {
		if x.Kind != "vote" && x.Kind != "release" {
			continue
		}
		if answered(t, x) == must(readSigned(roundFile(dir, 2, map[string]string{"vote": "proposal.cbor", "release": "certificate.cbor"}[x.Kind])))(t).Digest() {
			t.Errorf("alder lost its keys of round 2 and sent a %s", x.Kind)
		}
	}
}

// A node that is killed between its charge and its upload has spent what it did not release.
func TestKillNodeAfterCharge(t *testing.T) {
	t.Parallel()
	fl := muster(t, Options{Hospitals: 4, Rounds: 4}, map[string]string{"deadlines.away": "4s"})
	free, held := fl.hold("birch", "ready", 2)
	freeLast, heldLast := fl.hold("birch", "ready", 4)
	freeAlder, heldAlder := fl.hold("alder", "ready", 4) // or the rounds would be over before birch is back
	fl.launch()
	held()
	dies := filepath.Join(fl.control, "birch.dies.charged")
	if err := os.WriteFile(dies, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	free()
	<-fl.procs["birch"].ended
	fl.await("round 2 without birch", func(e transport.WatchEvent) bool { return e.Kind == "closed" && e.Round == 2 })
	heldAlder()
	fl.start("birch")
	heldLast()
	freeLast()
	freeAlder()
	anybody := past{outcome: aggregate.Closed}
	fl.outcomes([]past{closed(all4...), closed("alder", "cedar", "hazel"), anybody, closed(all4...)})
	charged := map[uint64]bool{}
	for _, e := range fl.ledger("birch/state/ledger-*.journal").Entries(fl.study.Digest) {
		charged[e.Charge.Number] = true
	}
	if !charged[2] {
		t.Error("birch died after its charge of round 2 was durable, and its ledger lacks it")
	}
}
