package aggregate

import (
	"testing"

	"github.com/consilium-fl/consilium/internal/signed"
)

// messagesOfARound are one of each kind, with everything that was stored.
func messagesOfARound(t testing.TB) (*world, map[string]Signed, [][]byte) {
	w := newWorld(t, names(3), 32, Members)
	kinds, states := map[string]Signed{}, [][]byte{}
	w.tamper = func(_, _ MemberID, s Signed) *Signed {
		kinds[s.Kind] = s
		return &s
	}
	w.log = func(_ MemberID, e Effect) {
		if p, ok := e.(Persist); ok {
			states = append(states, p.State)
		}
	}
	w.run()
	w.checkClosed(w.ids)
	return w, kinds, states
}

func fuzzKind(f *testing.F, kind string) {
	w, kinds, _ := messagesOfARound(f)
	f.Add(kinds[kind].Payload)
	f.Add([]byte{0xa0})
	f.Fuzz(func(t *testing.T, payload []byte) {
		s := Signed{From: "basel", Kind: kind, Payload: payload}
		m, err := Parse(s)
		if err != nil {
			return
		}
		// What parses is encoded again without a failure, and parses again.
		again, err := signed.Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(Signed{From: "basel", Kind: kind, Payload: again}); err != nil {
			t.Fatalf("what was parsed does not parse again: %v", err)
		}
		// Properly signed by a colluder or a lying aggregator, it meets the checks of both machines.
		from := MemberID("basel")
		switch kind {
		case "plan", "committee", "roster", "proposal", "certificate", "result":
			from = ""
		}
		key := w.coord
		if from != "" {
			key = w.node[from]
		}
		sig, err := signed.Sign(key, kind, payload)
		if err != nil {
			t.Fatal(err)
		}
		s.From, s.Signature = from, sig
		meet(w, s)
	})
}

// meet shows a message to machines in every state that waits for its kind.
func meet(w *world, s Signed) {
	_, _ = NewMember(w.config("basel"), s)
	f := w.round.facts
	for _, row := range memberTable {
		if row.On != s.Kind {
			continue
		}
		m := &Member{
			cfg: w.config("basel"), at: row.State, facts: f, stored: w.members["basel"].stored,
			agreed: map[MemberID][]byte{}, held: map[MemberID]*pieces{}, answers: map[[32]byte]Effect{},
		}
		m.seal, _ = newKey(drbg("seal"))
		m.mask, _ = newKey(drbg("mask"))
		m.Step(Received{Message: s})
	}
	for _, row := range aggregatorTable {
		if row.On != s.Kind {
			continue
		}
		r, err := emptyRound(w.keys, w.coord, drbg("round"))
		if err != nil {
			panic(err)
		}
		r.at, r.facts, r.chain = row.State, f, w.round.chain[:1:1]
		r.opening, _ = newOpening(drbg("opening"))
		r.Step(Received{Message: s})
		r.Step(Uploaded{Member: "basel"})
		r.Step(Expired{Phase: row.Phase})
	}
}

func FuzzParsePlan(f *testing.F)        { fuzzKind(f, "plan") }
func FuzzParseReady(f *testing.F)       { fuzzKind(f, "ready") }
func FuzzParseCommittee(f *testing.F)   { fuzzKind(f, "committee") }
func FuzzParseDeal(f *testing.F)        { fuzzKind(f, "deal") }
func FuzzParseRoster(f *testing.F)      { fuzzKind(f, "roster") }
func FuzzParseUpload(f *testing.F)      { fuzzKind(f, "upload") }
func FuzzParseProposal(f *testing.F)    { fuzzKind(f, "proposal") }
func FuzzParseVote(f *testing.F)        { fuzzKind(f, "vote") }
func FuzzParseCertificate(f *testing.F) { fuzzKind(f, "certificate") }
func FuzzParseRelease(f *testing.F)     { fuzzKind(f, "release") }
func FuzzParseResult(f *testing.F)      { fuzzKind(f, "result") }

// FuzzRelease is what a holder may seal: the aggregator reads it after it opened.
func FuzzRelease(f *testing.F) {
	w, _, _ := messagesOfARound(f)
	f.Add(w.round.facts.writeRelease(map[MemberID]*pieces{"basel": {}}, [32]byte{1}))
	f.Fuzz(func(t *testing.T, plain []byte) {
		rel, err := w.round.facts.readRelease(plain, "basel")
		if err == nil && len(rel.seeds)+len(rel.keys) > 0 {
			t.Fatal("a share of nobody's making matches a commitment")
		}
	})
}

func FuzzCharge(f *testing.F) {
	f.Add(Charge{Number: 1}.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseCharge(b)
		if err != nil {
			return
		}
		if again, err := ParseCharge(c.Encode()); err != nil || again != c {
			t.Fatalf("charge %+v reads back as %+v, %v", c, again, err)
		}
	})
}

func FuzzRestoreRound(f *testing.F) {
	w, _, states := messagesOfARound(f)
	for _, s := range states {
		f.Add(s)
	}
	f.Fuzz(func(_ *testing.T, state []byte) {
		r, err := RestoreRound(state, w.keys, w.coord, drbg("fuzz"))
		if err != nil {
			return
		}
		r.Step(Away{Member: "basel"})
		r.Step(Begin{})
		r.Step(Received{Message: Signed{From: "basel", Kind: "vote"}})
		for range 6 {
			r.Step(Expired{Phase: r.Phase()})
		}
	})
}

func FuzzRestoreMember(f *testing.F) {
	w, kinds, states := messagesOfARound(f)
	for _, s := range states {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, state []byte) {
		m, err := RestoreMember(w.config("basel"), state)
		if err != nil {
			return
		}
		m.Step(Begin{})
		for _, kind := range []string{"plan", "committee", "roster", "proposal", "certificate"} {
			for _, e := range m.Step(Received{Message: kinds[kind]}) {
				if s, ok := e.(Send); ok {
					t.Fatalf("a restored member sends a %s", s.Message.Kind)
				}
			}
		}
	})
}
