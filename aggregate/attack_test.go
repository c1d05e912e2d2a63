package aggregate

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/consilium-fl/consilium/internal/signed"
)

// Attacks A1 to A14 are those of the protocol's history. Each test plays the adversary to the end and
// fails if it wins; defence_test.go takes the defences out, one by one, and wants each to win then.

// stop makes a lying aggregator: the messages of a kind reach nobody, and the test sends its own.
func (w *world) stop(kind string) {
	w.tamper = func(from, _ MemberID, s Signed) *Signed {
		if from == "" && s.Kind == kind {
			return nil
		}
		return &s
	}
}

// show hands a message to a member and returns what it does.
func (w *world) show(id MemberID, s Signed) []Effect { return w.members[id].Step(Received{Message: s}) }

// wantRefused wants a Refuse alone, for the reason.
func wantRefused(t *testing.T, effects []Effect, reason string) {
	t.Helper()
	if len(effects) == 1 {
		if r, ok := effects[0].(Refuse); ok && strings.Contains(r.Reason, reason) {
			return
		}
	}
	t.Errorf("effects %+v, want a refusal with %q", effects, reason)
}

func wantSent(t *testing.T, effects []Effect, kind string) Signed {
	t.Helper()
	for _, e := range effects {
		if s, ok := e.(Send); ok && s.Message.Kind == kind {
			return s.Message
		}
	}
	t.Fatalf("effects %+v, want a %s sent", effects, kind)
	return Signed{}
}

// streamsAt keeps the streams of the Open: what a reader of the aggregator's memory has.
func (w *world) streamsAt() *[]stream {
	streams := new([]stream)
	w.log = func(_ MemberID, e Effect) {
		if o, ok := e.(Open); ok {
			*streams = slices.Clone(o.Opening.key.streams)
		}
	}
	return streams
}

// strip adds streams to masked words and reads them as signed.
func (w *world) strip(acc []uint64, streams ...stream) []int64 {
	acc = slices.Clone(acc)
	addStreams(acc, 0, w.plan.WordBits, streams)
	out, shift := make([]int64, len(acc)), 64-w.plan.WordBits
	for i, v := range acc {
		out[i] = int64(v<<shift) >> shift
	}
	return out
}

// TestA1CopiedMaskKey has a colluder between its victim's two neighbours by name: ba shows a key that
// agrees as ab's does, so that aba's streams with both are equal but for their derivation. One is added
// and one subtracted; zz is dropped, its stream falls with its key, and aba stands bare. The names
// are such that "ab"+"aba" and "aba"+"ba" are one string.
func TestA1CopiedMaskKey(t *testing.T) {
	for _, equivalent := range []bool{true, false} {
		w := newWorld(t, []MemberID{"ab", "aba", "ba", "zz"}, 32, Members)
		streams := w.streamsAt()
		w.dropAt["zz"] = "upload"
		w.tamper = func(from, _ MemberID, s Signed) *Signed {
			if from != "ba" || s.Kind != "ready" {
				return &s
			}
			r := message[Ready](t, s)
			r.MaskKey = [32]byte(w.members["ab"].mask.PublicKey().Bytes())
			if equivalent {
				r.MaskKey = inverse25519(r.MaskKey)
			}
			s = w.sign("ba", r)
			w.members["ba"].answers[r.Plan] = Send{Message: s}
			return &s
		}
		w.run()
		if !equivalent {
			if got := w.refused; len(got) == 0 || !strings.Contains(got[0].Reason, "shows a key that") {
				t.Errorf("a key shown twice: refused %v", got)
			}
			continue
		}
		if len(w.opens) != 1 {
			t.Fatalf("nothing was opened; refused %v", w.refused)
		}
		// In the roster's order: three self masks, then zz with ab, aba and ba.
		self, pair := (*streams)[1], (*streams)[4]
		if got := w.strip(words(w.vectors["aba"], 32), self, pair); slices.Equal(got, w.x["aba"]) {
			t.Error("one colluder and the aggregator read a member's vector")
		}
	}
}

// inverse25519 is 1/u: the point plus the one of order two, which every clamped scalar kills.
func inverse25519(u [32]byte) [32]byte {
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	b := slices.Clone(u[:])
	slices.Reverse(b)
	return littleEndian(new(big.Int).ModInverse(new(big.Int).SetBytes(b), p))
}

// TestA2DifferenceOfTwoRounds subtracts the sums of two rounds on one model, with a member and
// without. A reader of the aggregator's memory has both before central noise, and the member's vector
// exactly: that much is stated. The members' own noise hides it.
func TestA2DifferenceOfTwoRounds(t *testing.T) {
	for _, source := range []Source{Members, Aggregator} {
		w := newWorld(t, names(4), 64, source)
		w.spread = 50
		var sums [2][]int64
		for round := range sums {
			streams := w.streamsAt()
			w.plan.Round.Number = uint64(round + 1)
			if round == 1 {
				w.dropAt["lugano"] = "upload"
			}
			w.run()
			acc := make([]uint64, w.plan.Dim)
			for _, id := range w.opens[0].Set {
				addWords(acc, w.vectors[id], 64)
			}
			sums[round] = w.strip(acc, *streams...)
			w.reset()
		}
		difference := make([]int64, w.plan.Dim)
		for i := range difference {
			difference[i] = sums[0][i] - sums[1][i]
		}
		if exact := slices.Equal(difference, w.x["lugano"]); exact != (source == Aggregator) {
			t.Errorf("source %d: the difference is the member's vector: %t", source, exact)
		}
	}
}

// TestA3OverlappingChunks masks zeros in chunks: any two equal words would show x[i] - x[j].
func TestA3OverlappingChunks(t *testing.T) {
	for _, wordBits := range []uint8{24, 32, 64} {
		const dim = 96
		width := int(wordBits) / 8
		k := masker{dim: dim, wordBits: wordBits, streams: benchStreams(3)}
		dst := make([]byte, dim*width)
		for _, part := range [][2]int{{0, 32}, {32, 33}, {33, 64}, {64, 96}} {
			if err := k.mask(dst[part[0]*width:part[1]*width], part[0], make([]int64, part[1]-part[0])); err != nil {
				t.Fatal(err)
			}
		}
		at := map[uint64]int{}
		for i, v := range words(dst, wordBits) {
			if j, ok := at[v]; ok {
				t.Fatalf("%d bits: words %d and %d have one mask", wordBits, j, i)
			}
			at[v] = i
		}
		if err := k.mask(dst[:width], 64, []int64{1}); err == nil {
			t.Errorf("%d bits: an offset was masked twice", wordBits)
		}
	}
}

// TestA4OneKeyForBothDirections adds two boxes up: were their keystreams one, the sum of the
// ciphertexts would be the sum of the shares.
func TestA4OneKeyForBothDirections(t *testing.T) {
	w := newWorld(t, names(3), 32, Members)
	w.stop("proposal")
	w.run()
	r := w.round.facts.roster
	ab, ba := r.dealers[0].deal.Shares[1].Box, r.dealers[1].deal.Shares[0].Box
	pab, pba := w.members["cleveland"].held["basel"], w.members["basel"].held["cleveland"]
	for i := range pab {
		if ab[i]^ba[i] != pab[i]^pba[i] {
			return
		}
	}
	t.Error("two boxes of a pair add up to the sum of their shares")
}

// TestA5OpeningKeyThatLives looks into the aggregator's memory at every moment, with all releases recorded.
func TestA5OpeningKeyThatLives(t *testing.T) {
	w := newWorld(t, names(3), 32, Aggregator)
	certified := false
	w.log = func(who MemberID, e Effect) {
		switch e := e.(type) {
		case Send:
			certified = certified || e.Message.Kind == "certificate"
		case Open:
			certified = false
		}
		// From the Certificate to the Open the key has to be there.
		if who == "" && !certified && w.round.opening != nil && w.round.at != stReleasing {
			t.Errorf("the opening key is in memory while %s", w.round.at)
		}
	}
	var first Release
	var firstCertificate [32]byte
	w.tamper = func(from, _ MemberID, s Signed) *Signed {
		if from == "basel" && s.Kind == "release" && first.Sealed == nil {
			first = message[Release](t, s)
			firstCertificate = first.Certificate
		}
		if from == "basel" && s.Kind == "release" && w.plan.Round.Number == 2 {
			if _, err := openRelease(w.round.opening, firstCertificate, "basel", first.Sealed); err == nil {
				t.Error("a later opening key opens an earlier release")
			}
		}
		return &s
	}
	w.run()
	w.checkClosed(w.ids)
	w.reset()
	w.plan.Round.Number = 2
	w.run()
	w.checkClosed(w.ids)
}

// TestA6RestoredNode votes and releases from an old disk, beside one colluder, at four members.
func TestA6RestoredNode(t *testing.T) {
	w := newWorld(t, names(4), 32, Members)
	var disks [][]byte
	w.log = func(who MemberID, e Effect) {
		if p, ok := e.(Persist); ok && who == "basel" {
			disks = append(disks, p.State)
		}
	}
	w.run()
	w.checkClosed(w.ids)
	if len(disks) != 3 {
		t.Fatalf("%d states, want three: upload, vote, release", len(disks))
	}
	// Another set, without the restored node's neighbour: its second vote would certify it.
	other := message[Proposal](t, w.sentKind("proposal"))
	other.Contributions = other.Contributions[:3]
	second := w.sign("", other)
	for i, disk := range disks {
		m, err := RestoreMember(w.config("basel"), disk)
		if err != nil {
			t.Fatal(err)
		}
		effects := m.Step(Begin{})
		for _, s := range []Signed{w.sentKind("plan"), w.sentKind("committee"), w.sentKind("roster"), second, w.sentKind("proposal"), w.sentKind("certificate")} {
			effects = append(effects, m.Step(Received{Message: s})...)
		}
		for _, e := range effects {
			switch e := e.(type) {
			case Send:
				t.Errorf("disk %d: the restored node sends a %s", i, e.Message.Kind)
			case Persist, ChargeLedger, FillSpool:
				t.Errorf("disk %d: the restored node does %T", i, e)
			case SendVector:
				if !bytes.Equal(e.Upload.Payload, m.stored.Upload.Payload) {
					t.Errorf("disk %d: the restored node sends a new upload", i)
				}
			}
		}
		if err := m.Mask(make([]byte, 4), 0, []int64{1}); err == nil {
			t.Errorf("disk %d: the restored node masks", i)
		}
	}
}

// TestA7SecondNode offers a node that was enrolled without the stop of its predecessor, and one that
// has a successor: neither the aggregator nor a member takes either.
func TestA7SecondNode(t *testing.T) {
	for name, c := range map[string]struct {
		serial  uint64
		stopped bool
		highest uint64
		want    string
	}{
		"reinstalled without a stop": {2, false, 0, "no stop of the predecessor"},
		"older than its successor":   {1, false, 2, "serial 1"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, names(4), 32, Members)
			var forged Signed
			w.tamper = func(from, _ MemberID, s Signed) *Signed {
				if from == "lugano" && s.Kind == "ready" {
					r := message[Ready](t, s)
					r.Enrolment = enrol("lugano", w.node["lugano"], c.serial, c.stopped)
					forged = w.sign("lugano", r)
					w.keys.charged["lugano"], w.keys.highest["lugano"] = true, c.highest
					return &forged
				}
				if from == "" && s.Kind == "committee" {
					return nil
				}
				return &s
			}
			w.run()
			if len(w.refused) != 1 || !strings.Contains(w.refused[0].Reason, c.want) {
				t.Errorf("refused %v, want %q", w.refused, c.want)
			}
			w.expire()
			m := message[Committee](t, w.sentKind("committee"))
			m.Readys = append(m.Readys, forged)
			m.Threshold = 3
			wantRefused(t, w.show("basel", w.sign("", m)), c.want)
		})
	}
}

// TestA12PlanThatDiffers changes each field of a plan that a study fixes, and each that it does not.
func TestA12PlanThatDiffers(t *testing.T) {
	w := newWorld(t, names(5), 32, Members)
	for name, c := range map[string]struct {
		change func(p *Plan)
		taken  bool
	}{
		"study":             {change: func(p *Plan) { p.Round.Study[0]++ }},
		"dimension":         {change: func(p *Plan) { p.Dim++ }},
		"word bits":         {change: func(p *Plan) { p.WordBits = 64 }},
		"members":           {change: func(p *Plan) { p.Members = append(slices.Clone(p.Members[:4]), "zz") }},
		"minimum":           {change: func(p *Plan) { p.Minimum, p.Noise.Shares = 3, 2 }},
		"colluding":         {change: func(p *Plan) { p.Colluding = 0 }},
		"sum bound":         {change: func(p *Plan) { p.SumBound++ }},
		"noise source":      {change: func(p *Plan) { p.Noise.Source, p.Noise.Shares = Aggregator, 1 }},
		"noise shares":      {change: func(p *Plan) { p.Noise.Shares++ }},
		"noise mechanism":   {change: func(p *Plan) { p.Noise.Mechanism = []byte("less") }},
		"noise bound":       {change: func(p *Plan) { p.Noise.Bound-- }},
		"wrapping bound":    {change: func(p *Plan) { p.SumBound = 1<<31 - p.Noise.Bound }},
		"number":            {change: func(p *Plan) { p.Round.Number = 9 }, taken: true},
		"model":             {change: func(p *Plan) { p.Model[0]++ }, taken: true},
		"ledger":            {change: func(p *Plan) { p.Ledger[0]++ }, taken: true},
		"deadlines":         {change: func(p *Plan) { p.Deadlines.Vote++ }, taken: true},
		"nothing":           {change: func(*Plan) {}, taken: true},
		"round number of 0": {change: func(p *Plan) { p.Round.Number = 0 }},
	} {
		p := w.plan
		c.change(&p)
		_, err := NewMember(w.config("basel"), w.sign("", p))
		if (err == nil) != c.taken {
			t.Errorf("a plan with another %s: %v, want it taken: %t", name, err, c.taken)
		}
	}
	if _, err := NewMember(w.config("basel"), w.sign("basel", w.plan)); err == nil {
		t.Error("a plan signed by a member was taken")
	}
}

// TestA13NumbersAndCharges: a round number mutes nobody, and one charge pays for one upload.
func TestA13NumbersAndCharges(t *testing.T) {
	for number, ok := range map[uint64]bool{7: false, 8: true, 7 + 1024: true, 7 + 1025: false, 1<<64 - 1: false} {
		if err := (RoundID{Number: number}).After(7); (err == nil) != ok {
			t.Errorf("round %d after 7: %v, want %t", number, err, ok)
		}
	}
	w := newWorld(t, names(3), 32, Members)
	w.stop("proposal")
	w.run()
	u := message[Upload](t, *w.members["basel"].stored.Upload)
	charge, err := ParseCharge(u.Charge)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(c *Charge){
		"study":  func(c *Charge) { c.Study[0]++ },
		"number": func(c *Charge) { c.Number++ },
		"plan":   func(c *Charge) { c.Plan[0]++ },
		"roster": func(c *Charge) { c.Roster[0]++ },
	} {
		other := charge
		change(&other)
		v := u
		v.Charge = other.Encode()
		if _, err := checkUpload(w.sign("basel", v), w.round.facts.terms, w.round.facts.roster); err == nil {
			t.Errorf("an upload under a charge of another %s was taken", name)
		}
		p := message[Proposal](t, w.sentKind("proposal"))
		p.Charge = other.Encode()
		wantRefused(t, w.show("basel", w.sign("", p)), "charge is of another")
	}
}

// complain makes members complain about basel, by their own signature.
func (w *world) complain(about MemberID, by ...MemberID) {
	w.tamper = func(from, _ MemberID, s Signed) *Signed {
		if s.Kind == "upload" && slices.Contains(by, from) {
			u := message[Upload](w.t, s)
			u.Complaints = []MemberID{about}
			s = w.sign(from, u)
			w.members[from].stored.Upload = &s
		}
		return &s
	}
}

// TestA14FramedDealer: c complaints leave nobody out, even where they end the round; one more does.
func TestA14FramedDealer(t *testing.T) {
	liars := names(12)[1:]
	for _, c := range []struct {
		ready, complaints int
		outcome           Outcome
		excluded          []MemberID
	}{
		{9, 3, Aborted, nil},
		{9, 4, Aborted, []MemberID{"basel"}},
		{12, 3, Closed, nil},
		{12, 4, Closed, []MemberID{"basel"}},
	} {
		w := newWorld(t, names(12), 32, Members)
		w.complain("basel", liars[:c.complaints]...)
		for _, id := range names(12)[c.ready:] {
			w.dropAt[id] = "ready"
		}
		w.run()
		res := w.checkOutcome(c.outcome)
		if !slices.Equal(res.Excluded, c.excluded) {
			t.Errorf("%d ready, %d complaints: left out %v, want %v", c.ready, c.complaints, res.Excluded, c.excluded)
		}
		if c.outcome == Closed {
			w.checkClosed(w.ids)
		}
	}
}

// TestDealerOfBadBoxes seals garbage to one holder: the holder says so, is not asked, and the sum stands.
func TestDealerOfBadBoxes(t *testing.T) {
	w := newWorld(t, names(5), 32, Members)
	w.tamper = func(from, _ MemberID, s Signed) *Signed {
		if from == "basel" && s.Kind == "deal" {
			d := message[Deal](t, s)
			d.Shares[2].Box = make([]byte, boxBytes)
			s = w.sign("basel", d)
			w.members["basel"].answers[d.Committee] = Send{Message: s}
		}
		return &s
	}
	w.run()
	w.checkClosed(w.ids)
	u := message[Upload](t, *w.members["hungarian"].stored.Upload)
	if !slices.Equal(u.Complaints, []MemberID{"basel"}) || len(w.results[""].Excluded) != 0 {
		t.Errorf("complaints %v, left out %v, want basel and nobody", u.Complaints, w.results[""].Excluded)
	}
}

// TestDealerWhoseSharesDoNotOpen commits to another seed, or deals another mask key than it showed: the
// shares match their commitments, so it is the dealer's fault.
func TestDealerWhoseSharesDoNotOpen(t *testing.T) {
	for _, what := range []string{"seed", "mask key"} {
		w := newWorld(t, names(5), 32, Members)
		if what == "mask key" {
			w.dropAt["basel"] = "upload"
		}
		w.tamper = func(from, _ MemberID, s Signed) *Signed {
			if from == "basel" && s.Kind == "ready" && what == "mask key" {
				other, err := newKey(drbg("another key"))
				if err != nil {
					t.Fatal(err)
				}
				w.members["basel"].mask = other
			}
			if from == "basel" && s.Kind == "deal" && what == "seed" {
				d := message[Deal](t, s)
				d.Seed[0]++
				s = w.sign("basel", d)
				w.members["basel"].answers[d.Committee] = Send{Message: s}
			}
			return &s
		}
		w.run()
		if res := w.checkOutcome(Burnt); !slices.Equal(res.Excluded, []MemberID{"basel"}) {
			t.Errorf("%s: left out %v, want basel", what, res.Excluded)
		}
	}
}

// TestHolderThatReleasesGarbage is caught by the commitments: its release is refused, nobody is left
// out, and the others' shares open the sum.
func TestHolderThatReleasesGarbage(t *testing.T) {
	for name, spoil := range map[string]func(*releaseText){
		"share":   func(r *releaseText) { r.Shares[0].Value[0] ^= 1 },
		"opening": func(r *releaseText) { r.Shares[0].Opening[0] ^= 1 },
		"none":    func(r *releaseText) { r.Shares[0] = releasedShare{} },
		"fewer":   func(r *releaseText) { r.Shares = r.Shares[1:] },
		"outside the field": func(r *releaseText) {
			copy(r.Shares[0].Value, bytes.Repeat([]byte{0xff}, 8))
		},
	} {
		w := newWorld(t, names(5), 32, Members)
		w.tamper = func(from, _ MemberID, s Signed) *Signed {
			if from != "basel" || s.Kind != "release" {
				return &s
			}
			f := &w.members["basel"].facts
			r := message[Release](t, s)
			plain, err := openRelease(w.round.opening, r.Certificate, "basel", r.Sealed)
			if err != nil {
				t.Fatal(err)
			}
			var text releaseText
			if err := signed.Decode(plain, &text); err != nil {
				t.Fatal(err)
			}
			spoil(&text)
			if r.Sealed, err = sealRelease(f.certificate.opening, r.Certificate, "basel", encode(text)); err != nil {
				t.Fatal(err)
			}
			s = w.sign("basel", r)
			return &s
		}
		w.run()
		w.checkClosed(w.ids)
		if len(w.results[""].Excluded) != 0 || len(w.refused) != 1 || w.refused[0].From != "basel" {
			t.Errorf("%s: left out %v, refused %v, want basel refused", name, w.results[""].Excluded, w.refused)
		}
	}
}

func TestTwoCommittees(t *testing.T) {
	w := newWorld(t, names(4), 32, Members)
	w.stop("roster")
	w.run()
	m := message[Committee](t, w.sentKind("committee"))
	m.Readys, m.Threshold = m.Readys[:3], 2
	wantRefused(t, w.show("basel", w.sign("", m)), `"committee" while dealt`)
	// The same one again gets the same deal, byte for byte.
	again := wantSent(t, w.show("basel", w.sentKind("committee")), "deal")
	if first := w.round.deals["basel"].signed; !bytes.Equal(first.Payload, again.Payload) {
		t.Error("a committee shown twice got two deals")
	}
}

func TestTwoRosters(t *testing.T) {
	w := newWorld(t, names(5), 32, Members)
	w.stop("proposal")
	w.run()
	m := message[Roster](t, w.sentKind("roster"))
	m.Deals = m.Deals[:4]
	wantRefused(t, w.show("basel", w.sign("", m)), `"roster" while uploaded`)
	effects := w.show("basel", w.sentKind("roster"))
	if len(effects) != 1 {
		t.Fatalf("effects %+v, want the vector again", effects)
	}
	if e, ok := effects[0].(SendVector); !ok || e.Upload.Digest() != w.members["basel"].stored.Upload.Digest() {
		t.Errorf("effects %+v, want the same upload again", effects)
	}
}

// TestTwoSets equivocates at four members with one colluder, lugano, who votes on everything: only
// one set gets its three votes, and no member answers two.
func TestTwoSets(t *testing.T) {
	w := newWorld(t, names(4), 32, Members)
	w.stop("proposal")
	w.run()
	first := w.sentKind("proposal")
	p := message[Proposal](t, first)
	p.Contributions = p.Contributions[1:]
	second := w.sign("", p)
	votes := map[MemberID]Signed{
		"basel":     wantSent(t, w.show("basel", first), "vote"),
		"cleveland": wantSent(t, w.show("cleveland", first), "vote"),
		"hungarian": wantSent(t, w.show("hungarian", second), "vote"),
	}
	wantRefused(t, w.show("basel", second), `"proposal" while voted`)
	wantRefused(t, w.show("hungarian", first), `"proposal" while voted`)
	key, err := newOpening(drbg("lying aggregator"))
	if err != nil {
		t.Fatal(err)
	}
	certify := func(s Signed, votes ...Signed) Signed {
		return w.sign("", Certificate{Proposal: s.Digest(), Votes: votes, Opening: key.PublicKey().Bytes()})
	}
	one := certify(first, votes["basel"], votes["cleveland"], w.sign("lugano", Vote{Proposal: first.Digest()}))
	colluder := w.sign("lugano", Vote{Proposal: second.Digest()})
	for name, c := range map[string]struct {
		s    Signed
		want string
	}{
		"two votes":          {certify(second, votes["hungarian"], colluder), "certificate of 2 votes"},
		"a vote twice":       {certify(second, votes["hungarian"], votes["hungarian"], colluder), "each once"},
		"another's vote":     {certify(second, votes["basel"], votes["hungarian"], colluder), "for another proposal"},
		"under another name": {certify(second, renamed(votes["hungarian"], "cleveland"), votes["hungarian"], colluder), "does not verify"},
		"the other set":      {one, "for another proposal"},
	} {
		t.Log(name)
		wantRefused(t, w.show("hungarian", c.s), c.want)
	}
	release := wantSent(t, w.show("basel", one), "release")
	// A second certificate for the same set, for another opening key, gets nothing; the first again the same bytes.
	again := certify(first, votes["basel"], votes["cleveland"], w.sign("lugano", Vote{Proposal: first.Digest()}))
	again = w.sign("", func() Certificate {
		c := message[Certificate](t, again)
		c.Opening = bytes.Clone(c.Opening)
		c.Opening[1200] ^= 1
		return c
	}())
	wantRefused(t, w.show("basel", again), `"certificate" while released`)
	if s := wantSent(t, w.show("basel", one), "release"); !bytes.Equal(s.Payload, release.Payload) {
		t.Error("one certificate got two releases")
	}
}

func renamed(s Signed, from MemberID) Signed {
	s.From = from
	return s
}

// TestBothShares opens every release of a round with a dropped member: for each dealer a seed share
// or a key share, by the signed set, never both.
func TestBothShares(t *testing.T) {
	w := newWorld(t, names(5), 32, Members)
	w.dropAt["basel"] = "upload"
	seen := 0
	w.tamper = func(from, _ MemberID, s Signed) *Signed {
		if s.Kind != "release" {
			return &s
		}
		r := message[Release](t, s)
		plain, err := openRelease(w.round.opening, r.Certificate, from, r.Sealed)
		if err != nil {
			t.Fatal(err)
		}
		var text releaseText
		if err := signed.Decode(plain, &text); err != nil {
			t.Fatal(err)
		}
		for i, share := range text.Shares {
			seen++
			want := seedPieceBytes
			if i == 0 {
				want = keyPieceBytes
			}
			if len(share.Value) != want {
				t.Errorf("%s released %d bytes for dealer %d, want %d", from, len(share.Value), i, want)
			}
		}
		return &s
	}
	w.run()
	w.checkClosed(w.without("basel"))
	if seen < 4*5 {
		t.Errorf("%d shares were released", seen)
	}
}

func TestTinyCohort(t *testing.T) {
	for _, c := range [][3]int{{3, 3, 2}, {8, 8, 3}, {2, 2, 2}, {12, 12, 4}} {
		if _, _, err := Thresholds(c[0], c[1], c[2]); err == nil {
			t.Errorf("thresholds of %v, want an error", c)
		}
	}
	w := newWorld(t, names(4), 32, Members)
	w.stop("proposal")
	w.run()
	p := message[Proposal](t, w.sentKind("proposal"))
	p.Contributions = p.Contributions[:2]
	wantRefused(t, w.show("basel", w.sign("", p)), "proposal of a set of 2")

	w = newWorld(t, names(4), 32, Members)
	w.stop("committee")
	w.run()
	m := message[Committee](t, w.sentKind("committee"))
	short := m
	short.Readys = m.Readys[:2]
	wantRefused(t, w.show("basel", w.sign("", short)), "committee of 2")
	m.Threshold = 2
	wantRefused(t, w.show("basel", w.sign("", m)), "want 1 and 3")
}

// An own message comes back byte for byte or is verified like any other.
func TestOwnMessages(t *testing.T) {
	key, other := testKey("chur"), testKey("zug")
	s, err := SignMessage("chur", Vote{Proposal: [32]byte{1}}, key)
	if err != nil {
		t.Fatal(err)
	}
	p := &terms{own: own{key: key.Public().(ed25519.PublicKey), sent: []Signed{s}}}
	altered := func(change func(*Signed)) Signed {
		x := Signed{From: s.From, Kind: s.Kind, Payload: bytes.Clone(s.Payload), Signature: bytes.Clone(s.Signature)}
		change(&x)
		return x
	}
	if err := p.verify(altered(func(*Signed) {}), key.Public().(ed25519.PublicKey)); err != nil {
		t.Errorf("an own message: %v", err)
	}
	if err := p.verify(s, other.Public().(ed25519.PublicKey)); err == nil {
		t.Error("an own message is taken as another's")
	}
	for name, x := range map[string]Signed{
		"payload":   altered(func(x *Signed) { x.Payload[len(x.Payload)-1] ^= 1 }),
		"signature": altered(func(x *Signed) { x.Signature[5] ^= 1 }),
		"kind":      altered(func(x *Signed) { x.Kind = "release" }),
	} {
		if err := p.verify(x, key.Public().(ed25519.PublicKey)); err == nil {
			t.Errorf("an own message with another %s is taken", name)
		}
	}
}

// TestMintedNode shows peers under the coordinator's own authority, a victim's Ready with a key
// swapped, one node for two hospitals, and keys that are no keys.
func TestMintedNode(t *testing.T) {
	w := newWorld(t, names(4), 32, Members)
	w.stop("committee")
	w.run()
	m := message[Committee](t, w.sentKind("committee"))
	lugano := message[Ready](t, m.Readys[3])
	minted := testKey("minted by the coordinator")
	signAs := func(r Ready, key ed25519.PrivateKey) Signed {
		s, err := SignMessage("lugano", r, key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	with := func(change func(*Ready)) Ready {
		r := lugano
		change(&r)
		return r
	}
	forged := enrolment{Hospital: "lugano", Key: minted.Public().(ed25519.PublicKey), Serial: 1}
	var err error
	if forged.Sig, err = signed.Sign(w.coord, "enrolment", forged.body()); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		s    Signed
		want string
	}{
		"minted node":          {signAs(with(func(r *Ready) { r.Enrolment = encode(forged) }), minted), "does not verify"},
		"key swapped":          {signAs(with(func(r *Ready) { r.MaskKey = [32]byte{9} }), minted), "does not verify"},
		"stranger":             {renamed(m.Readys[3], "nobody"), "who is no member"},
		"another's enrolment":  {signAs(with(func(r *Ready) { r.Enrolment = message[Ready](t, m.Readys[0]).Enrolment }), w.node["lugano"]), "with the enrolment of"},
		"node of two":          {signAs(with(func(r *Ready) { r.Enrolment = enrol("lugano", w.node["basel"], 1, false) }), w.node["basel"]), "shows a key that"},
		"mask key of another":  {signAs(with(func(r *Ready) { r.MaskKey = message[Ready](t, m.Readys[1]).MaskKey }), w.node["lugano"]), "shows a key that"},
		"mask key as seal key": {signAs(with(func(r *Ready) { r.SealKey = r.MaskKey }), w.node["lugano"]), "shows a key that"},
		"zero key":             {signAs(with(func(r *Ready) { r.SealKey = [32]byte{} }), w.node["lugano"]), "low order"},
		"order eight":          {signAs(with(func(r *Ready) { r.SealKey = lowOrder[2] }), w.node["lugano"]), "low order"},
		"not canonical":        {signAs(with(func(r *Ready) { r.SealKey = prime25519 }), w.node["lugano"]), "not canonical"},
		"top bit":              {signAs(with(func(r *Ready) { r.SealKey[31] |= 0x80 }), w.node["lugano"]), "not canonical"},
		"another plan":         {signAs(with(func(r *Ready) { r.Plan[0]++ }), w.node["lugano"]), "answers another plan"},
	} {
		t.Run(name, func(t *testing.T) {
			c2 := m
			c2.Readys = slices.Clone(m.Readys)
			c2.Readys[3] = c.s
			wantRefused(t, w.show("basel", w.sign("", c2)), c.want)
		})
	}
	// A Ready of ours that we did not make, signed with our own stolen key.
	c2 := m
	c2.Readys = slices.Clone(m.Readys)
	ours := message[Ready](t, m.Readys[0])
	ours.MaskKey = [32]byte{9}
	c2.Readys[0] = w.sign("basel", ours)
	wantRefused(t, w.show("basel", w.sign("", c2)), "another ready of ours")
}

// TestReplayedRound shows every message of one round in the next, to a member and to the aggregator.
func TestReplayedRound(t *testing.T) {
	w := newWorld(t, names(4), 32, Members)
	var old []Signed
	w.tamper = func(_, _ MemberID, s Signed) *Signed {
		old = append(old, s)
		return &s
	}
	w.run()
	w.checkClosed(w.ids)
	w.reset()
	w.plan.Round.Number = 2
	replayed := map[MemberID]bool{}
	w.tamper = func(_, to MemberID, s Signed) *Signed {
		if s.Kind != "plan" && !replayed[to] || s.Kind == "vote" {
			replayed[to] = true
			for _, o := range old {
				var effects []Effect
				if to == "" {
					effects = w.round.Step(Received{Message: o})
				} else if m, ok := w.members[to]; ok && o.Kind != "plan" {
					effects = m.Step(Received{Message: o})
				}
				for _, e := range effects {
					if _, ok := e.(Refuse); !ok {
						t.Errorf("an old %s made %s do %T", o.Kind, to, e)
					}
				}
			}
		}
		return &s
	}
	w.run()
	w.checkClosed(w.ids)
	if !replayed[""] || !replayed["basel"] {
		t.Error("nothing was replayed")
	}
}

// TestAnotherStudysDeal puts a deal that the same hospital made in a study that runs at once into a roster.
func TestAnotherStudysDeal(t *testing.T) {
	w, other := newWorld(t, names(4), 32, Members), newWorld(t, names(4), 32, Members)
	other.plan.Round.Study = signed.Digest([]byte("another study"))
	for _, v := range []*world{w, other} {
		v.stop("roster")
		v.run()
	}
	m := message[Roster](t, w.sentKind("roster"))
	m.Deals[3] = message[Roster](t, other.sentKind("roster")).Deals[3]
	wantRefused(t, w.show("basel", w.sign("", m)), "answers another committee")
	effects := w.round.Step(Received{Message: m.Deals[3]})
	wantRefused(t, effects, "while collecting")
}

// TestMessagesOfTheWrongSender signs the aggregator's messages with a member's key, and the other way round.
func TestMessagesOfTheWrongSender(t *testing.T) {
	w := newWorld(t, names(4), 32, Members)
	w.stop("committee")
	w.run()
	m := message[Committee](t, w.sentKind("committee"))
	wantRefused(t, w.show("basel", w.sign("lugano", m)), "want the coordinator's")
	wantRefused(t, w.show("basel", renamed(w.sign("lugano", m), "")), "does not verify")
	wantRefused(t, w.show("basel", w.sign("", Result{Plan: m.Plan, Outcome: Closed, Certificate: [32]byte{1}, Excluded: []MemberID{"b", "a"}})), "each once")
	as := w.sentKind("committee")
	as.Kind = "roster" // the kind is under the signature
	wantRefused(t, w.show("basel", as), "while ready")
}

// TestSecondAnswers gives the aggregator two different answers of one member: the first counts.
func TestSecondAnswers(t *testing.T) {
	w := newWorld(t, names(4), 32, Members)
	counts := map[string]int{}
	w.tamper = func(from, _ MemberID, s Signed) *Signed {
		if from != "basel" {
			return &s
		}
		var second Message
		switch s.Kind {
		case "ready":
			r := message[Ready](t, s)
			r.MaskKey = [32]byte{9}
			second = r
		case "deal":
			d := message[Deal](t, s)
			d.Seed[0]++
			second = d
		case "upload":
			u := message[Upload](t, s)
			u.Vector[0]++
			second = u
		default:
			return &s
		}
		counts[s.Kind]++
		again := w.sign("basel", second)
		w.later("", func() {
			effects := w.round.Step(Received{Message: again})
			wantRefused(t, effects, fmt.Sprintf("a second %s", again.Kind))
		})
		return &s
	}
	w.tamperOrder()
	w.run()
	w.checkClosed(w.ids)
	if len(counts) != 3 {
		t.Errorf("second answers %v", counts)
	}
}

// tamperOrder delivers what a tamper sends in addition after the message itself.
func (w *world) tamperOrder() {
	tamper := w.tamper
	w.tamper = func(from, to MemberID, s Signed) *Signed {
		before := len(w.queue)
		out := tamper(from, to, s)
		extra := slices.Clone(w.queue[before:])
		w.queue = w.queue[:before]
		if out != nil && to == "" {
			first := *out
			w.later("", func() { w.step("", Received{Message: first}) })
			w.queue = append(w.queue, extra...)
			return nil
		}
		w.queue = append(w.queue, extra...)
		return out
	}
}

// TestResultThatLies ends a certified round as aborted, or with another certificate.
func TestResultThatLies(t *testing.T) {
	w := newWorld(t, names(4), 32, Members)
	w.stop("result")
	w.run()
	r := message[Result](t, w.sentKind("result"))
	for name, c := range map[string]struct {
		change func(*Result)
		want   string
	}{
		"aborted":             {func(r *Result) { *r = Result{Plan: r.Plan, Outcome: Aborted, Model: w.plan.Model} }, "answers another certificate"},
		"another certificate": {func(r *Result) { r.Certificate[0]++ }, "answers another certificate"},
		"another plan":        {func(r *Result) { r.Plan[0]++ }, "answers another plan"},
		"burnt with a sum":    {func(r *Result) { r.Outcome = Burnt }, "with a sum"},
	} {
		t.Log(name)
		lie := r
		c.change(&lie)
		wantRefused(t, w.show("basel", w.sign("", lie)), c.want)
	}
	effects := w.show("basel", w.sentKind("result"))
	if e, ok := effects[0].(End); !ok || e.Result.Outcome != Closed {
		t.Errorf("effects %+v, want the end", effects)
	}
	if w.show("basel", w.sentKind("result")) != nil {
		t.Error("an ended member acts")
	}
}

// TestForgedTranscript changes a transcript in ways that a coordinator with its own keys can.
func TestForgedTranscript(t *testing.T) {
	w := newWorld(t, names(4), 32, Members)
	w.run()
	w.checkClosed(w.ids)
	good := w.round.Transcript()
	v, err := VerifyTranscript(good, w.keys)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(v.Set, w.ids) || len(v.Voters) != 3 || v.Result.Outcome != Closed || len(v.Proposal.Contributions) != 4 {
		t.Errorf("verified %+v", v)
	}
	result := func(change func(*Result)) Signed {
		r := message[Result](t, good[5])
		change(&r)
		return w.sign("", r)
	}
	fewer := message[Certificate](t, good[4])
	fewer.Votes = fewer.Votes[:2]
	uncertified := w.sign("", fewer)
	for name, forged := range map[string][]Signed{
		"no certificate":   append(slices.Clone(good[:4]), good[5]),
		"too few votes":    append(slices.Clone(good[:4]), uncertified, result(func(r *Result) { r.Certificate = uncertified.Digest() })),
		"two results":      append(slices.Clone(good), good[5]),
		"aborted":          append(slices.Clone(good[:5]), result(func(r *Result) { *r = Result{Plan: r.Plan, Outcome: Aborted, Model: w.plan.Model} })),
		"plan alone":       good[:1],
		"nothing":          nil,
		"wrong order":      {good[0], good[2], good[1], good[3], good[4], good[5]},
		"another's result": append(slices.Clone(good[:5]), w.sign("basel", message[Result](t, good[5]))),
	} {
		if _, err := VerifyTranscript(forged, w.keys); err == nil {
			t.Errorf("%s: verified", name)
		}
	}
	for i := range good {
		for _, at := range []int{0, len(good[i].Payload) / 2, len(good[i].Payload) - 1} {
			forged := slices.Clone(good)
			forged[i].Payload = bytes.Clone(good[i].Payload)
			forged[i].Payload[at] ^= 1
			if _, err := VerifyTranscript(forged, w.keys); err == nil {
				t.Errorf("message %d with byte %d flipped verifies", i, at)
			}
			if i < 5 && (VerifyPrefix(forged[:i], w.keys) != nil) != (i == 0) || i < 5 && VerifyPrefix(forged[:i+1], w.keys) == nil {
				t.Errorf("message %d with byte %d flipped: the prefixes do not find it", i, at)
			}
		}
	}
}

// TestEquivalentKeyAgreesAlike is the fact behind A1: a distinct, canonical key with the same agreements.
func TestEquivalentKeyAgreesAlike(t *testing.T) {
	a, err := newKey(drbg("a"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := newKey(drbg("b"))
	if err != nil {
		t.Fatal(err)
	}
	pub := [32]byte(b.PublicKey().Bytes())
	other := inverse25519(pub)
	if err := checkPublic(other); err != nil || other == pub {
		t.Fatalf("the equivalent key: %v", err)
	}
	one, err := agree(a, pub)
	if err != nil {
		t.Fatal(err)
	}
	two, err := agree(a, other)
	if err != nil || !bytes.Equal(one, two) {
		t.Errorf("agreements differ: %v", err)
	}
	for _, k := range lowOrder {
		p, err := ecdh.X25519().NewPublicKey(k[:])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.ECDH(p); err == nil {
			t.Errorf("key %x has no low order", k)
		}
	}
}
