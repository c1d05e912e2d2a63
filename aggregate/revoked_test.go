package aggregate

import (
	"slices"
	"strings"
	"testing"
)

// TestRevoked refuses a hospital's machine after each event of a round. Before a set is proposed the round goes on without
// it, and nothing more of it is taken; from then on no sum is opened any more.
func TestRevoked(t *testing.T) {
	for _, restart := range []bool{false, true} {
		seen := map[State]int{}
		for at := 1; ; at++ {
			w := newWorld(t, names(4), 32, Members)
			w.spread = 20
			w.start()
			for range at {
				if len(w.queue) > 0 {
					w.next()
				}
			}
			if _, ended := w.results[""]; ended {
				break
			}
			state := w.round.at
			seen[state]++
			w.step("", Revoked{Member: "basel", Why: "policy.changed"})
			if restart && !slices.Contains([]State{stReleasing, stOpening}, state) {
				w.restart()
			}
			w.drain()
			if w.round.Phase() != Ended {
				w.expire()
			}
			switch state {
			case stVoting:
				w.checkOutcome(Aborted)
			case stReleasing, stOpening:
				w.checkOutcome(Burnt)
			default:
				w.checkClosed(w.without("basel"))
			}
			if why := w.results[""].Why; why != "" && !strings.Contains(why, "the machine of basel is not trusted any more: policy.changed") {
				t.Errorf("revoked while %s: %q", state, why)
			}
			if len(w.results[""].Excluded) > 0 {
				t.Errorf("revoked while %s: left out of the study", state)
			}
		}
		for _, s := range []State{stGathering, stDealing, stCollecting, stCharging, stVoting, stReleasing, stOpening} {
			if seen[s] == 0 {
				t.Errorf("never revoked while %s", s)
			}
		}
	}
}

// TestRevokedOfThree: where every hospital is needed, a round without one aborts, once its deadline has passed or its set
// is short.
func TestRevokedOfThree(t *testing.T) {
	w := newWorld(t, names(3), 32, Members)
	w.start()
	for w.round.at != stCharging {
		w.next()
	}
	w.step("", Revoked{Member: "basel", Why: "debug"})
	w.checkOutcome(Aborted)
	if why := w.results[""].Why; !strings.Contains(why, "2 uploads are left, want 3") {
		t.Error(why)
	}
}

// TestRevokedOutOfTheSet: one that votes and releases for the others and has no vector in the sum is no reason to end.
func TestRevokedOutOfTheSet(t *testing.T) {
	for _, state := range []State{stVoting, stReleasing} {
		w := newWorld(t, names(4), 32, Members)
		w.decline["basel"] = true
		w.start()
		for w.round.at != stCollecting {
			w.next()
		}
		w.drain()
		w.step("", Expired{Phase: Collecting})
		for w.round.at != state {
			w.next()
		}
		w.step("", Revoked{Member: "basel", Why: "debug"})
		w.drain()
		w.checkClosed(w.without("basel"))
	}
}

// TestRevokedTwice, and one who is nobody, change nothing.
func TestRevokedTwice(t *testing.T) {
	w := newWorld(t, names(4), 32, Members)
	if got := w.round; got != nil {
		t.Fatal("a round before its start")
	}
	w.start()
	first := w.round.Step(Revoked{Member: "basel", Why: "x"})
	if len(first) == 0 || len(w.round.Step(Revoked{Member: "basel", Why: "x"})) > 0 || len(w.round.Step(Revoked{Member: "nobody"})) > 0 {
		t.Errorf("effects %d", len(first))
	}
	w.step("", Back{Member: "basel"})
	w.drain()
	w.checkClosed(w.without("basel"))
	if !slices.ContainsFunc(w.refused, func(r Refuse) bool {
		return r.From == "basel" && strings.Contains(r.Reason, "whose machine was refused")
	}) {
		t.Errorf("its Ready was not refused: %v", w.refused)
	}
}
