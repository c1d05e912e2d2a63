package aggregate

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// subsets of the members that are dropped, the empty one first.
func subsets(ids []MemberID) [][]MemberID {
	all := make([][]MemberID, 1<<len(ids))
	for bits := range all {
		for i, id := range ids {
			if bits>>i&1 == 1 {
				all[bits] = append(all[bits], id)
			}
		}
	}
	return all
}

// TestExactForEverySurvivorSet drops every set of members before each of the three messages of a
// round's first half. Words of every size are summed over every set, under both kinds of noise.
func TestExactForEverySurvivorSet(t *testing.T) {
	for n := 3; n <= 6; n++ {
		for _, c := range []struct {
			wordBits uint8
			source   Source
			kind     string
		}{
			{24, Members, "upload"},
			{32, Aggregator, "upload"},
			{64, Members, "upload"},
			{32, Members, "ready"},
			{64, Aggregator, "deal"},
		} {
			if n == 6 && c.kind != "upload" {
				continue
			}
			t.Run(fmt.Sprintf("%d members, %d bits, source %d, before %s", n, c.wordBits, c.source, c.kind), func(t *testing.T) {
				t.Parallel()
				for _, dropped := range subsets(names(n)) {
					exactWithout(t, n, c.wordBits, c.source, dropped, c.kind)
				}
			})
		}
	}
}

func exactWithout(t *testing.T, n int, wordBits uint8, source Source, dropped []MemberID, kind string) {
	w := newWorld(t, names(n), wordBits, source)
	w.spread = 20
	for _, id := range dropped {
		w.dropAt[id] = kind
	}
	left := w.without(dropped...)
	need := w.plan.Minimum
	if kind == "upload" {
		_, threshold, err := Thresholds(n, n, w.plan.Minimum)
		if err != nil {
			t.Fatal(err)
		}
		need = max(need, threshold)
	}
	w.run()
	if len(left) >= need {
		w.checkClosed(left)
		return
	}
	if !w.round.Short() {
		t.Errorf("without %v before %s: not short", dropped, kind)
	}
	w.expire()
	w.checkOutcome(Aborted)
}

// TestDropAfterUpload loses members between their upload and their vote or release: they stay in the
// sum, and the round needs t of the others.
func TestDropAfterUpload(t *testing.T) {
	for _, kind := range []string{"vote", "release"} {
		for _, dropped := range subsets(names(5)) {
			w := newWorld(t, names(5), 32, Members)
			w.spread = 20
			for _, id := range dropped {
				w.dropAt[id] = kind
			}
			w.run()
			if len(w.without(dropped...)) >= 4 {
				w.checkClosed(w.ids)
				continue
			}
			if !w.round.Short() {
				t.Errorf("without %v before %s: not short", dropped, kind)
			}
			w.expire()
			w.checkOutcome(map[string]Outcome{"vote": Aborted, "release": Burnt}[kind])
		}
	}
}

// TestMixedDrops loses one member in each half at once.
func TestMixedDrops(t *testing.T) {
	w := newWorld(t, names(6), 64, Members)
	w.spread = 20
	w.dropAt["basel"], w.dropAt["switzerland"] = "upload", "release"
	w.run()
	w.checkClosed(w.without("basel"))
}

func TestMemberThatDeclinesStillVotes(t *testing.T) {
	w := newWorld(t, names(4), 32, Members)
	w.decline["basel"] = true
	w.dropAt["lugano"] = "vote"
	w.run()
	// Present and silent: only the deadline lets the phase go on without it.
	if got := w.round.Phase(); got != Collecting {
		t.Fatalf("phase %q, want %q", got, Collecting)
	}
	w.expire()
	w.checkClosed(w.without("basel"))
	if got, want := w.round.facts.certificate.voters, w.without("lugano"); !slices.Equal(got, want) {
		t.Errorf("voters %v, want %v", got, want)
	}
}

func TestAwayAndBack(t *testing.T) {
	w := newWorld(t, names(4), 32, Members)
	w.tamper = func(from, _ MemberID, s Signed) *Signed {
		if from == "basel" && s.Kind == "ready" {
			return nil
		}
		return &s
	}
	w.start()
	w.step("", Away{Member: "basel"})
	w.step("", Back{Member: "basel"})
	w.drain()
	if got := w.round.Phase(); got != Gathering {
		t.Fatalf("phase %q with a member back and silent, want %q", got, Gathering)
	}
	w.step("", Expired{Phase: Dealing})
	if got := w.round.Phase(); got != Gathering {
		t.Fatalf("phase %q after a deadline of another phase, want %q", got, Gathering)
	}
	w.step("", Away{Member: "basel"})
	w.drain()
	w.checkClosed(w.without("basel"))
}

func TestDeadlines(t *testing.T) {
	w := newWorld(t, names(4), 32, Members)
	w.run()
	w.checkClosed(w.ids)
	var got []string
	for _, wait := range w.waits {
		got = append(got, fmt.Sprint(wait.Phase, " ", wait.For))
	}
	want := []string{"gathering 10m0s", "dealing 30s", "collecting 10m0s", "voting 30s", "releasing 30s"}
	if !slices.Equal(got, want) {
		t.Errorf("waits %v, want %v", got, want)
	}
	if w.waits[0].For != 600*time.Second {
		t.Error("milliseconds")
	}
}

func TestWordsOutsideTheBoundBurn(t *testing.T) {
	w := newWorld(t, names(4), 32, Members)
	w.x["lugano"][3] = 1 << 20
	w.run()
	res := w.checkOutcome(Burnt)
	if !strings.Contains(res.Why, ErrBound.Error()) || len(res.Excluded) != 0 {
		t.Errorf("result %+v, want %q and nobody left out", res, ErrBound)
	}
	if res.Model != w.plan.Model {
		t.Error("a burnt round names another model")
	}
}

// TestVectorThatDiffersIsSentAgain changes words on the wire: the digest shows it.
func TestVectorThatDiffersIsSentAgain(t *testing.T) {
	w := newWorld(t, names(4), 32, Members)
	first := true
	w.spoil = func(from MemberID, words []byte) {
		if from == "lugano" && first {
			words[0] ^= 1
			first = false
		}
	}
	w.run()
	if got := w.round.Phase(); got != Collecting {
		t.Fatalf("phase %q, want %q", got, Collecting)
	}
	w.step("lugano", Received{Message: w.sentKind("roster")}) // a reconnect shows the roster again
	w.drain()
	w.checkClosed(w.ids)
}

// restart restores the aggregator from its newest state and begins it again.
func (w *world) restart() {
	w.t.Helper()
	r, err := RestoreRound(w.state[""], w.keys, w.coord, drbg("restarted aggregator"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.round = r
	w.queue = slices.DeleteFunc(w.queue, func(j job) bool { return j.of == "" })
	w.step("", Begin{})
	w.drain()
}

// TestAggregatorRestarts kills the aggregator after each of its steps: before the certificate the
// round goes on and closes, from it on the round burns.
func TestAggregatorRestarts(t *testing.T) {
	for kill := 1; ; kill++ {
		w := newWorld(t, names(4), 32, Members)
		w.spread = 20
		w.start()
		for range kill {
			if len(w.queue) > 0 {
				w.next()
			}
		}
		if _, ended := w.results[""]; ended {
			return
		}
		certified := w.round.facts.certificate != nil
		w.restart()
		if certified {
			w.checkOutcome(Burnt)
			continue
		}
		w.checkClosed(w.ids)
	}
}

func TestEndedRoundSendsItsResultAgain(t *testing.T) {
	w := newWorld(t, names(3), 32, Members)
	w.run()
	w.checkClosed(w.ids)
	want := w.results[""]
	w.sent = nil
	w.restart()
	if got := w.results[""]; got.Sum != want.Sum || got.Outcome != Closed {
		t.Errorf("restored result %+v, want %+v", got, want)
	}
	if s := w.sentKind("result"); len(w.sent) != 1 || message[Result](t, s).Model != want.Model {
		t.Errorf("sent %d messages, want the result", len(w.sent))
	}
	if w.round.Step(Expired{Phase: Releasing}) != nil {
		t.Error("an ended round acts")
	}
}

// restartMember restores a member, whose spool is whole.
func (w *world) restartMember(id MemberID) {
	w.t.Helper()
	m, err := RestoreMember(w.config(id), w.state[id])
	if err != nil {
		w.t.Fatal(err)
	}
	w.members[id] = m
	w.gone[id] = false
	w.step(id, Begin{})
}

// TestMemberRestartsAtItsUpload kills a member between its Persist and its first chunk. Of three all
// must upload: the round waits, takes the stored upload, and closes by the votes of the other two.
func TestMemberRestartsAtItsUpload(t *testing.T) {
	w := newWorld(t, names(3), 32, Members)
	w.spread = 20
	w.dropAt["hungarian"] = "upload"
	w.run()
	if got := w.round.Phase(); got != Collecting {
		t.Fatalf("phase %q, want %q", got, Collecting)
	}
	delete(w.dropAt, "hungarian")
	w.restartMember("hungarian")
	w.step("", Back{Member: "hungarian"})
	w.drain()
	w.checkClosed(w.ids)
	if slices.Contains(w.round.facts.certificate.voters, "hungarian") {
		t.Error("a restarted member voted")
	}
	if w.results["hungarian"].Outcome != Closed {
		t.Error("a restarted member does not end with the result")
	}
}

func TestMemberWithoutSpoolGivesUp(t *testing.T) {
	w := newWorld(t, names(4), 32, Members)
	w.decline["lugano"] = true
	w.run()
	w.expire()
	w.checkClosed(w.without("lugano"))
	if _, err := RestoreMember(w.config("lugano"), w.state["lugano"]); err == nil {
		t.Error("a member without an upload was restored")
	}
}

// TestNoSecretIsStored looks for every one-time secret in what machines persist and send.
func TestNoSecretIsStored(t *testing.T) {
	w := newWorld(t, names(4), 32, Aggregator)
	var secrets [][]byte
	var stored bytes.Buffer
	w.log = func(who MemberID, e Effect) {
		if p, ok := e.(Persist); ok {
			stored.Write(p.State)
		}
		if who == "" {
			if w.round.opening != nil {
				b, err := w.round.opening.Bytes()
				if err != nil {
					t.Fatal(err)
				}
				secrets = append(secrets, b)
			}
			if o, ok := e.(Open); ok {
				secrets = append(secrets, bytes.Clone(o.NoiseKey[:]))
			}
			return
		}
		m := w.members[who]
		if m.mask != nil {
			secrets = append(secrets, m.mask.Bytes())
		}
		if m.seal != nil {
			secrets = append(secrets, m.seal.Bytes())
		}
		if m.seed != [32]byte{} {
			secrets = append(secrets, bytes.Clone(m.seed[:]))
		}
		for _, p := range m.held {
			value, _ := p.seed()
			key, _ := p.key()
			secrets = append(secrets, bytes.Clone(value), bytes.Clone(key))
		}
	}
	w.run()
	w.checkClosed(w.ids)
	if len(secrets) < 40 || stored.Len() == 0 {
		t.Fatalf("%d secrets and %d bytes of state seen", len(secrets), stored.Len())
	}
	for _, s := range w.sent {
		stored.Write(s.Payload)
	}
	for _, s := range secrets {
		if bytes.Contains(stored.Bytes(), s) {
			t.Fatalf("a secret of %d bytes is in a stored state or a message", len(s))
		}
	}
}

// TestSecretsAreErased follows interfaces: masks at the spool, shares at the release, everything at the end.
func TestSecretsAreErased(t *testing.T) {
	w := newWorld(t, names(4), 32, Members)
	w.log = func(who MemberID, e Effect) {
		if who == "" {
			if _, ok := e.(End); ok && (w.round.opening != nil || w.round.unmask != nil || len(w.round.releases) != 0) {
				t.Error("the aggregator ends with secrets")
			}
			if _, ok := e.(Open); ok && w.round.opening != nil {
				t.Error("the opening key outlives the releases")
			}
			return
		}
		m := w.members[who]
		switch e.(type) {
		case SendVector:
			if m.mask != nil || m.seed != [32]byte{} || m.masker.streams != nil || m.masker.noise != nil || m.seal != nil {
				t.Errorf("%s sends its vector with masks in memory", who)
			}
			if err := m.Mask(make([]byte, 4), 0, []int64{1}); err == nil {
				t.Errorf("%s masks after its spool", who)
			}
		case End:
			if len(m.held) != 0 || m.seal != nil || len(m.agreed) != 0 {
				t.Errorf("%s ends with shares", who)
			}
		}
	}
	w.run()
	w.checkClosed(w.ids)
	for _, id := range w.ids {
		if w.results[id].Outcome != Closed {
			t.Errorf("%s ended %q", id, w.results[id].Outcome)
		}
	}
	if _, err := w.unmask(w.opens[0]); err == nil {
		t.Error("a sum was opened twice")
	}
}

// TestTableIsTotal finds a function for every guard and action of the tables.
func TestTableIsTotal(t *testing.T) {
	w := newWorld(t, names(3), 32, Members)
	w.run()
	aggregator, member := Table()
	for _, row := range aggregator {
		if row.State == stCalled {
			continue
		}
		for _, a := range row.Then {
			if _, err := actionKnown(func() error { return w.round.do(a) }); err != nil {
				t.Errorf("%s: %v", row.State, err)
			}
		}
	}
	m := w.members["basel"]
	for _, row := range member {
		for _, a := range row.Then {
			if _, err := actionKnown(func() error { return m.do(a, Signed{}) }); err != nil {
				t.Errorf("%s: %v", row.State, err)
			}
		}
	}
	for _, rows := range [][]Transition{aggregator, member} {
		for _, row := range rows {
			if row.Next != stEnded && phaseOf(rows, row.Next) == Ended {
				t.Errorf("%s goes to %q, which has no row", row.State, row.Next)
			}
		}
	}
}

// actionKnown reports only the error of an action that no machine has.
func actionKnown(do func() error) (ok bool, err error) {
	defer func() { _ = recover() }()
	if err := do(); err != nil && strings.Contains(err.Error(), " does ") {
		return false, err
	}
	return true, nil
}

// TestRandomTampering flips one byte of one message, any message: whatever the round does then, a closed
// one has the exact sum.
func TestRandomTampering(t *testing.T) {
	for at := range 150 {
		w := newWorld(t, names(4), 32, Members)
		count := 0
		w.tamper = func(_, _ MemberID, s Signed) *Signed {
			if count++; count != at%70+1 {
				return &s
			}
			s.Payload = bytes.Clone(s.Payload)
			s.Payload[(at*7919)%len(s.Payload)] ^= 1 << (at % 8)
			return &s
		}
		w.run()
		for range 5 {
			if _, ended := w.results[""]; !ended {
				w.expire()
			}
		}
		if res := w.results[""]; res.Outcome == Closed {
			w.checkClosed(w.opens[0].Set)
		}
	}
}
