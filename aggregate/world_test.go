package aggregate

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/consilium-fl/consilium/internal/signed"
)

// enrolment is the test's own chain: a governance key signs a node key.
type enrolment struct {
	Hospital MemberID `cbor:"1,keyasint"`
	Key      []byte   `cbor:"2,keyasint"`
	Serial   uint64   `cbor:"3,keyasint"`
	Stopped  bool     `cbor:"4,keyasint"` // holds the predecessor's signed stop and final ledger head
	Sig      []byte   `cbor:"5,keyasint"`
}

func (e enrolment) body() []byte {
	e.Sig = nil
	return encode(e)
}

// ring is a consortium: governance keys by hospital, and what its log knows.
type ring struct {
	coordinator ed25519.PublicKey
	governance  map[MemberID]ed25519.PublicKey
	charged     map[MemberID]bool   // hospitals with a charge in the study
	highest     map[MemberID]uint64 // serials in the consortium's log
	good        map[string]bool     // files whose signature was checked
}

func (k *ring) Coordinator() ed25519.PublicKey { return k.coordinator }

func (k *ring) Member(file []byte) (MemberID, ed25519.PublicKey, error) {
	var e enrolment
	if err := signed.Decode(file, &e); err != nil {
		return "", nil, err
	}
	if !k.good[string(file)] {
		if err := signed.Verify(k.governance[e.Hospital], "enrolment", e.body(), e.Sig); err != nil {
			return "", nil, err
		}
		k.good[string(file)] = true
	}
	if e.Serial < k.highest[e.Hospital] {
		return "", nil, fmt.Errorf("serial %d, want %d", e.Serial, k.highest[e.Hospital])
	}
	if e.Serial > 1 && !e.Stopped && k.charged[e.Hospital] {
		return "", nil, errors.New("no stop of the predecessor: the study is closed for this hospital")
	}
	if len(e.Key) != ed25519.PublicKeySize {
		return "", nil, errors.New("no key")
	}
	return e.Hospital, e.Key, nil
}

func testKey(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func enrol(id MemberID, node ed25519.PrivateKey, serial uint64, stopped bool) []byte {
	e := enrolment{Hospital: id, Key: node.Public().(ed25519.PublicKey), Serial: serial, Stopped: stopped}
	sig, err := signed.Sign(testKey("governance "+string(id)), "enrolment", e.body())
	if err != nil {
		panic(err)
	}
	e.Sig = sig
	return encode(e)
}

func drbg(name string) io.Reader { return rand.NewChaCha8(sha256.Sum256([]byte(name))) }

// noise draws small integers from its key; with a zero spread it is no noise.
type noise struct {
	r      *rand.Rand
	spread int64
}

func (n *noise) Fill(dst []int64) error {
	for i := range dst {
		if n.spread > 0 {
			dst[i] = n.r.Int64N(2*n.spread+1) - n.spread
		} else {
			dst[i] = 0
		}
	}
	return nil
}

func keyedNoise(spread int64) func([32]byte) Noiser {
	return func(key [32]byte) Noiser { return &noise{rand.New(rand.NewChaCha8(key)), spread} }
}

// job is something a process has still to do; it dies with it. The aggregator's name is empty.
type job struct {
	of MemberID
	do func()
}

// world is a study in memory: an aggregator, its members and a driver that delivers in order. It is
// deterministic but for the encapsulations of releases.
type world struct {
	t       testing.TB
	ids     []MemberID
	keys    *ring
	coord   ed25519.PrivateKey
	node    map[MemberID]ed25519.PrivateKey
	plan    Plan
	spread  int64 // of every noise
	round   *Round
	members map[MemberID]*Member
	x       map[MemberID][]int64
	noised  map[MemberID][]int64 // x with the member's noise share
	spool   map[MemberID][]byte
	vectors map[MemberID][]byte // what the aggregator stores
	state   map[MemberID][]byte // newest Persist; "" is the aggregator
	gone    map[MemberID]bool
	decline map[MemberID]bool

	// dropAt silences a member when it is about to send a message of this kind.
	dropAt map[MemberID]string
	// tamper may change or swallow (nil) what is sent; from is empty for the aggregator.
	tamper func(from, to MemberID, s Signed) *Signed
	// spoil may change the vector on the wire.
	spoil func(from MemberID, words []byte)

	queue   []job
	sum     []int64
	central []int64 // noise that the aggregator added
	opens   []Open
	results map[MemberID]Result
	refused []Refuse
	records []Record
	sent    []Signed
	waits   []Wait
	log     func(who MemberID, e Effect)
}

func names(n int) []MemberID {
	ids := []MemberID{"basel", "cleveland", "hungarian", "lugano", "switzerland", "va", "wien", "york", "zagreb", "zurich", "zz11", "zz12"}[:n:n]
	return ids
}

func newWorld(t testing.TB, ids []MemberID, wordBits uint8, source Source) *world {
	t.Helper()
	slices.Sort(ids)
	w := &world{
		t: t, ids: ids, coord: testKey("coordinator"), node: map[MemberID]ed25519.PrivateKey{}, dropAt: map[MemberID]string{},
		keys:    &ring{governance: map[MemberID]ed25519.PublicKey{}, charged: map[MemberID]bool{}, highest: map[MemberID]uint64{}, good: map[string]bool{}},
		x:       map[MemberID][]int64{},
		decline: map[MemberID]bool{},
	}
	w.keys.coordinator = w.coord.Public().(ed25519.PublicKey)
	for _, id := range ids {
		w.node[id] = testKey("node " + string(id))
		w.keys.governance[id] = testKey("governance " + string(id)).Public().(ed25519.PublicKey)
	}
	n := len(ids)
	c := max(1, n/4)
	minimum := max(3, c+2, (n+c)/2+1)
	w.plan = Plan{
		Round: RoundID{Study: signed.Digest([]byte("study")), Number: 1}, Model: signed.Digest([]byte("model")),
		Dim: 14, WordBits: wordBits, Members: ids, Minimum: minimum, Colluding: c, SumBound: uint64(n) * 1000,
		Noise:     Noise{Source: source, Shares: 1, Mechanism: []byte("test"), Bound: 1000},
		Deadlines: Deadlines{Ready: 600_000, Deal: 30_000, Upload: 600_000, Vote: 30_000, Release: 30_000},
	}
	if source == Members {
		w.plan.Noise.Shares = minimum - c
	}
	for k, id := range ids {
		w.x[id] = make([]int64, w.plan.Dim)
		r := rand.New(rand.NewPCG(uint64(k), 7))
		for i := range w.x[id] {
			w.x[id][i] = r.Int64N(2001) - 1000
		}
	}
	w.reset()
	return w
}

// reset forgets a round, and begins the next one at start.
func (w *world) reset() {
	w.members, w.noised, w.spool, w.vectors = map[MemberID]*Member{}, map[MemberID][]int64{}, map[MemberID][]byte{}, map[MemberID][]byte{}
	w.state, w.gone, w.results = map[MemberID][]byte{}, map[MemberID]bool{}, map[MemberID]Result{}
	w.queue, w.sum, w.central, w.opens, w.refused, w.records, w.sent, w.waits = nil, nil, nil, nil, nil, nil, nil, nil
	w.round = nil
}

func (w *world) config(id MemberID) MemberConfig {
	want := w.plan
	want.Round.Number, want.Model, want.Ledger, want.Deadlines = 0, [32]byte{}, [32]byte{}, Deadlines{}
	return MemberConfig{
		Self: id, Enrolment: enrol(id, w.node[id], 1, false), Want: want, Keys: w.keys, Signer: w.node[id],
		Entropy: drbg(fmt.Sprintf("entropy of %s in round %d", id, w.plan.Round.Number)), Noise: w.recordedNoise(id),
	}
}

// recordedNoise lets a test know the noise that a member added.
func (w *world) recordedNoise(id MemberID) func([32]byte) Noiser {
	return func(key [32]byte) Noiser {
		w.noised[id] = slices.Clone(w.x[id])
		again := make([]int64, w.plan.Dim)
		if err := keyedNoise(w.spread)(key).Fill(again); err != nil {
			w.t.Fatal(err)
		}
		for i, v := range again {
			w.noised[id][i] += v
		}
		return keyedNoise(w.spread)(key)
	}
}

func (w *world) start() {
	w.t.Helper()
	var err error
	if w.round, err = NewRound(w.plan, w.keys, w.coord, drbg(fmt.Sprintf("aggregator %d", w.plan.Round.Number))); err != nil {
		w.t.Fatal(err)
	}
	w.step("", Begin{})
}

// run starts the round and delivers until nothing is left.
func (w *world) run() {
	w.t.Helper()
	w.start()
	w.drain()
}

func (w *world) drain() {
	for len(w.queue) > 0 {
		w.next()
	}
}

func (w *world) next() {
	job := w.queue[0]
	w.queue = w.queue[1:]
	job.do()
}

// expire passes the deadline of the aggregator's phase.
func (w *world) expire() {
	w.step("", Expired{Phase: w.round.Phase()})
	w.drain()
}

func (w *world) later(of MemberID, do func()) { w.queue = append(w.queue, job{of, do}) }

func (w *world) step(who MemberID, e Event) {
	if who == "" {
		w.aggregator(w.round.Step(e))
		return
	}
	if m, ok := w.members[who]; ok && !w.gone[who] {
		w.member(who, m.Step(e))
	}
}

func (w *world) drop(id MemberID) {
	w.gone[id] = true
	w.later("", func() { w.step("", Away{Member: id}) })
}

func (w *world) note(who MemberID, e Effect) {
	if w.log != nil {
		w.log(who, e)
	}
}

func (w *world) aggregator(effects []Effect) {
	for _, e := range effects {
		w.note("", e)
		switch e := e.(type) {
		case Persist:
			w.state[""] = e.State
		case Send:
			w.sent = append(w.sent, e.Message)
			for _, id := range w.ids {
				if len(e.To) == 0 || slices.Contains(e.To, id) {
					w.deliver(id, e.Message)
				}
			}
		case Accept:
			w.later("", func() { w.accept(e) })
		case ChargeLedger:
			e.Charge.Head = signed.Digest([]byte("coordinator's head"))
			w.later("", func() { w.step("", Charged{Charge: e.Charge.Encode()}) })
		case Open:
			w.opens = append(w.opens, e)
			w.later("", func() { w.open(e) })
		case Record:
			w.records = append(w.records, e)
		case Refuse:
			w.refused = append(w.refused, e)
		case Wait:
			w.waits = append(w.waits, e)
		case End:
			w.results[""] = e.Result
		}
	}
}

func (w *world) accept(e Accept) {
	got, err := VectorDigest(bytes.NewReader(w.vectors[e.Member]))
	if err != nil || got != e.Vector {
		return
	}
	w.step("", Uploaded{Member: e.Member, Promise: []byte("promise for " + string(e.Member))})
}

func (w *world) open(e Open) {
	sum, err := w.unmask(e)
	if err != nil {
		w.step("", Spoilt{Why: err.Error()})
		return
	}
	w.sum = sum
	w.step("", Opened{Sum: SumDigest(sum), Model: signed.Digest([]byte("next model"))})
}

func (w *world) unmask(e Open) ([]int64, error) {
	sum, err := NewMaskedSum(w.plan)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, id := range e.Set {
		if err := sum.Add(0, w.vectors[id]); err != nil {
			w.t.Fatal(err)
		}
	}
	var noised *NoisedMaskedSum
	if w.plan.Noise.Source == Aggregator {
		w.central = make([]int64, w.plan.Dim)
		if err := keyedNoise(w.spread)(e.NoiseKey).Fill(w.central); err != nil {
			w.t.Fatal(err)
		}
		noised, err = sum.Noise(keyedNoise(w.spread)(e.NoiseKey))
	} else {
		noised, err = sum.NoisedByMembers(w.plan.Noise)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return noised.Unmask(e.Opening)
}

func (w *world) deliver(id MemberID, s Signed) {
	if w.tamper != nil {
		changed := w.tamper("", id, s)
		if changed == nil {
			return
		}
		s = *changed
	}
	w.later(id, func() { w.receive(id, s) })
}

// receive is a node's driver: a Plan makes a machine.
func (w *world) receive(id MemberID, s Signed) {
	if w.gone[id] {
		return
	}
	if _, ok := w.members[id]; !ok && s.Kind == "plan" {
		m, err := NewMember(w.config(id), s)
		if err != nil {
			w.refused = append(w.refused, Refuse{Reason: string(id) + ": " + err.Error()})
			return
		}
		w.members[id] = m
		w.step(id, Begin{})
		return
	}
	w.step(id, Received{Message: s})
}

func (w *world) member(id MemberID, effects []Effect) {
	for _, e := range effects {
		w.note(id, e)
		switch e := e.(type) {
		case Persist:
			w.state[id] = e.State
		case StartTraining:
			w.later(id, func() { w.step(id, Trained{}) })
		case ChargeLedger:
			if w.decline[id] {
				w.later(id, func() { w.step(id, ChargeRefused{Why: "budget"}) })
				continue
			}
			e.Charge.Head = signed.Digest([]byte("head of " + string(id)))
			w.later(id, func() { w.step(id, Charged{Charge: e.Charge.Encode()}) })
		case FillSpool:
			w.later(id, func() { w.fill(id) })
		case SendVector:
			if !w.silenced(id, "upload") {
				w.upload(id, e.Upload)
			}
		case Send:
			if !w.silenced(id, e.Message.Kind) {
				w.toAggregator(id, e.Message)
			}
		case Refuse:
			w.refused = append(w.refused, Refuse{From: id, Reason: e.Reason})
		case End:
			w.results[id] = e.Result
		}
	}
}

func (w *world) silenced(id MemberID, kind string) bool {
	if w.dropAt[id] == kind {
		w.drop(id)
	}
	return w.gone[id]
}

// fill masks in two chunks, as a node does for a long vector.
func (w *world) fill(id MemberID) {
	m, ok := w.members[id]
	if !ok || w.gone[id] || m.at != stSpooling {
		return
	}
	width, half := int(w.plan.WordBits)/8, w.plan.Dim/2
	words := make([]byte, w.plan.Dim*width)
	for _, part := range [][2]int{{0, half}, {half, w.plan.Dim}} {
		if err := m.Mask(words[part[0]*width:part[1]*width], part[0], w.x[id][part[0]:part[1]]); err != nil {
			w.t.Fatal(err)
		}
	}
	w.spool[id] = words
	d, err := VectorDigest(bytes.NewReader(words))
	if err != nil {
		w.t.Fatal(err)
	}
	w.step(id, Spooled{Vector: d})
}

func (w *world) upload(id MemberID, s Signed) {
	words := bytes.Clone(w.spool[id])
	if w.spoil != nil {
		w.spoil(id, words)
	}
	w.vectors[id] = words
	w.toAggregator(id, s)
}

func (w *world) toAggregator(id MemberID, s Signed) {
	if w.tamper != nil {
		changed := w.tamper(id, "", s)
		if changed == nil {
			return
		}
		s = *changed
	}
	w.later("", func() { w.step("", Received{Message: s}) })
}

// sign signs as a member, or as the coordinator.
func (w *world) sign(from MemberID, m Message) Signed {
	key := w.coord
	if from != "" {
		key = w.node[from]
	}
	s, err := SignMessage(from, m, key)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// message decodes what a test made or saw.
func message[M Message](t testing.TB, s Signed) M {
	t.Helper()
	m, err := Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return m.(M)
}

// sentKind is the aggregator's newest message of a kind.
func (w *world) sentKind(kind string) Signed {
	w.t.Helper()
	for _, s := range slices.Backward(w.sent) {
		if s.Kind == kind {
			return s
		}
	}
	w.t.Fatalf("no %s was sent", kind)
	return Signed{}
}

// want is the exact sum of a set with its noise.
func (w *world) want(set []MemberID) []int64 {
	sum := make([]int64, w.plan.Dim)
	for _, id := range set {
		x := w.x[id]
		if w.plan.Noise.Source == Members {
			x = w.noised[id]
		}
		for i, v := range x {
			sum[i] += v
		}
	}
	for i, v := range w.central {
		sum[i] += v
	}
	return sum
}

// checkClosed wants a closed round with exactly this set, summed exactly.
func (w *world) checkClosed(set []MemberID) {
	w.t.Helper()
	res, ok := w.results[""]
	if !ok || res.Outcome != Closed {
		w.t.Fatalf("round ended %q (%s), refused %v, want closed", res.Outcome, res.Why, w.refused)
	}
	if got := w.opens[0].Set; !slices.Equal(got, set) {
		w.t.Fatalf("set %v, want %v", got, set)
	}
	if want := w.want(set); !slices.Equal(w.sum, want) {
		w.t.Errorf("sum %v, want %v", w.sum, want)
	}
	if _, err := VerifyTranscript(w.round.Transcript(), w.keys); err != nil {
		w.t.Error(err)
	}
}

func (w *world) checkOutcome(want Outcome) Result {
	w.t.Helper()
	res, ok := w.results[""]
	if !ok || res.Outcome != want {
		w.t.Fatalf("round ended %q (%s), refused %v, want %q", res.Outcome, res.Why, w.refused, want)
	}
	if w.sum != nil && want != Closed {
		w.t.Fatalf("a sum was opened in a round that is %q", want)
	}
	return res
}

func (w *world) without(dropped ...MemberID) []MemberID {
	var left []MemberID
	for _, id := range w.ids {
		if !slices.Contains(dropped, id) {
			left = append(left, id)
		}
	}
	return left
}

// words reads masked words as unsigned numbers.
func words(b []byte, wordBits uint8) []uint64 {
	out := make([]uint64, len(b)*8/int(wordBits))
	addWords(out, b, wordBits)
	return out
}
