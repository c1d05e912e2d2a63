package audit

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestHonestLogOfEverySize(t *testing.T) {
	l := newFakeLog(0)
	m := &fakeMemory{}
	a := auditor(t, "cleveland", m)
	advance(t, a, l)
	count(t, a, l, 0)
	late := noon.Add(time.Minute)
	// Across the edge of a tile, where partial tiles become full and level 1 begins.
	for _, step := range []int{1, 1, 5, 248, 1, 1, 2, 300, 256, 17, 1000} {
		var ps []Promised
		for range step {
			ps = append(ps, l.add(testLeaf(len(l.entries)).Encode()))
		}
		l.shown = uint64(len(l.entries))
		if err := a.Expect(ps...); err != nil {
			t.Fatal(err)
		}
		wantErr(t, "before the checkpoint", a.Due(late), ErrOverdue)
		if line := advance(t, a, l); !strings.HasPrefix(string(line), "\u2014 heart.example/hospital/cleveland ") {
			t.Fatalf("co-signature %q", line)
		}
		wantErr(t, "before it counts", a.Due(late), ErrOverdue)
		count(t, a, l, l.shown)
		if err := a.Due(late); err != nil {
			t.Fatalf("size %d: %v", l.shown, err)
		}
	}
	if got := a.CountedSize(); got != l.shown {
		t.Errorf("counted size %d, want %d", got, l.shown)
	}
	n := uint64(250)
	err := a.Leaves(t.Context(), l, 250, 1700, func(i uint64, got Leaf) error {
		if i != n || got != testLeaf(int(i)) {
			t.Fatalf("leaf %d is %+v", i, got)
		}
		n++
		return nil
	})
	if err != nil || n != 1700 {
		t.Errorf("read up to leaf %d, %v", n, err)
	}
	if err := a.Leaves(t.Context(), l, 0, l.shown+1, nil); err == nil {
		t.Error("leaves beyond the counted checkpoint were read")
	}
}

// TestForkNeverCountsTwice is attack A8: the log shows two histories, {cleveland, X} co-sign one and
// {va, X} the other, where X is the one hospital that colludes and signs anything.
func TestForkNeverCountsTwice(t *testing.T) {
	common := newFakeLog(5)
	left, right := common.fork(5), common.fork(5)
	left.grow(1)
	right.add(testLeaf(99).Encode())
	right.shown = 6
	honest := map[string]*fakeLog{"cleveland": left, "switzerland": left, "va": right}
	by := map[*fakeLog][]string{left: {"hungarian"}, right: {"hungarian"}}
	for h, l := range honest {
		a := auditor(t, h, &fakeMemory{})
		advance(t, a, common)
		if line := advance(t, a, l); line != nil {
			by[l] = append(by[l], h)
		}
		other := left
		if l == left {
			other = right
		}
		line, err := a.Advance(t.Context(), other)
		wantErr(t, h+" shown the other history", err, ErrForked)
		if line != nil {
			t.Errorf("%s co-signed two histories", h)
		}
	}
	counts := 0
	for l, hs := range by {
		c, err := ParseCheckpoint(l.counted(6, hs...), testOrigin, logPublic(), testWitnesses())
		if err != nil {
			t.Fatal(err)
		}
		if testWitnesses().Counts(c) {
			counts++
		}
	}
	if counts != 1 {
		t.Errorf("%d histories count, want one", counts)
	}
	// Under a bare majority both would have counted, had two hospitals been on each side.
	for members := 3; members <= 100; members++ {
		c := max(1, members/4)
		if q := Quorum(members, c); 2*q-members <= c {
			t.Errorf("%d members, %d collude: two sets of %d may share colluders alone", members, c, q)
		}
	}
}

func TestForkIsForGood(t *testing.T) {
	l := newFakeLog(5)
	m := &fakeMemory{}
	a := auditor(t, "va", m)
	advance(t, a, l)
	f := l.fork(4)
	f.add(testLeaf(77).Encode())
	f.grow(300)
	_, err := a.Advance(t.Context(), f)
	wantErr(t, "a longer log with another leaf 4", err, ErrForked)
	_, err = a.Advance(t.Context(), l)
	wantErr(t, "the old history again", err, ErrForked)
	if len(a.Evidence()) != 2 {
		t.Errorf("%d pieces of evidence, want both checkpoints", len(a.Evidence()))
	}
	again := auditor(t, "va", m)
	wantErr(t, "after a restart", again.Due(noon), ErrForked)
	wantErr(t, "promise after a restart", again.Expect(l.add(testLeaf(5).Encode())), ErrForked)
	wantErr(t, "waiting after a restart", again.WaitCounted(t.Context(), 1), ErrForked)
	_, err = again.Counted(t.Context(), l.counted(5, hospitals...), l)
	wantErr(t, "counting after a restart", err, ErrForked)
}

func TestCountedFork(t *testing.T) {
	l := newFakeLog(300)
	f := l.fork(100)
	f.add(testLeaf(777).Encode())
	f.grow(300)
	for _, size := range []uint64{101, 300, 400} { // smaller, equal, larger than what was seen
		a := auditor(t, "va", &fakeMemory{})
		l.shown = 300
		advance(t, a, l)
		r := Reader(f)
		if size < 300 {
			r = l
		}
		_, err := a.Counted(t.Context(), f.counted(size, hospitals...), r)
		wantErr(t, "a counted checkpoint of another history", err, ErrForked)
		wantErr(t, "afterwards", a.Due(noon), ErrForked)
	}
}

func TestRewind(t *testing.T) {
	l := newFakeLog(10)
	m := &fakeMemory{}
	a := auditor(t, "va", m)
	advance(t, a, l)
	for _, a := range []*Auditor{a, auditor(t, "va", m)} {
		l.shown = 7
		line, err := a.Advance(t.Context(), l)
		wantErr(t, "an older checkpoint", err, ErrRewound)
		if line != nil {
			t.Error("an older checkpoint was co-signed")
		}
	}
	l.shown = 10
	advance(t, a, l) // nothing was proved: the log has come back
	// An old checkpoint that counts is true, and moves nothing back.
	count(t, a, l, 10)
	size, err := a.Counted(t.Context(), l.counted(6, hospitals...), l)
	if size != 10 || err != nil {
		t.Errorf("an older counted checkpoint: size %d, %v; want 10", size, err)
	}
}

func TestDroppedLeaf(t *testing.T) {
	l := newFakeLog(3)
	a := auditor(t, "va", &fakeMemory{})
	p := l.fork(3).add(testLeaf(500).Encode()) // promised, and never put in
	if err := a.Expect(p); err != nil {
		t.Fatal(err)
	}
	advance(t, a, l)
	count(t, a, l, 3)
	if err := a.Due(p.Promise.Due.Add(-time.Millisecond)); err != nil {
		t.Errorf("before it is due: %v", err)
	}
	wantErr(t, "when due", a.Due(p.Promise.Due), ErrOverdue)
	l.grow(1)
	_, err := a.Advance(t.Context(), l)
	wantErr(t, "another leaf stands there", err, ErrForked)
	wantErr(t, "from now on", a.Due(noon), ErrForked)
}

// A promise may arrive after the checkpoint that covers it.
func TestLatePromise(t *testing.T) {
	l := newFakeLog(600)
	good := func(i int) Promised { return l.fork(i).add(l.entries[i]) }
	bad := func(i int) Promised { return l.fork(i).add(testLeaf(9999).Encode()) }
	late := noon.Add(time.Hour)

	a := auditor(t, "va", &fakeMemory{})
	advance(t, a, l)
	count(t, a, l, 600)
	if err := a.Expect(good(599)); err != nil {
		t.Fatal(err)
	}
	if err := a.Due(late); err != nil {
		t.Errorf("a leaf at hand is not settled at once: %v", err)
	}
	if err := a.Expect(good(3)); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "a leaf that is not at hand", a.Due(late), ErrOverdue)
	advance(t, a, l)
	if err := a.Due(late); err != nil {
		t.Errorf("after Advance: %v", err)
	}
	wantErr(t, "another leaf there", a.Expect(bad(598)), ErrForked)

	a = auditor(t, "va", &fakeMemory{})
	advance(t, a, l)
	if err := a.Expect(bad(3)); err != nil {
		t.Fatal(err)
	}
	_, err := a.Advance(t.Context(), l)
	wantErr(t, "a leaf that is not at hand", err, ErrForked)

	l = newFakeLog(2000) // so that the bad one's tile is not kept at hand
	a = auditor(t, "va", &fakeMemory{})
	advance(t, a, l)
	if err := a.Expect(bad(3), good(300), good(600), good(900), good(1200), good(1500)); err != nil {
		t.Fatal(err)
	}
	_, err = a.Advance(t.Context(), l)
	wantErr(t, "one bad leaf of many", err, ErrForked)

	a = auditor(t, "va", &fakeMemory{})
	wantErr(t, "one index promised twice", errors.Join(a.Expect(good(3)), a.Expect(bad(3))), ErrForked)
}

// A promise may also arrive while the log is being read, or for a leaf settled long ago.
func TestPromiseInBetween(t *testing.T) {
	late := noon.Add(time.Hour)
	for _, bad := range []bool{false, true} {
		l := newFakeLog(300)
		p := l.fork(299).add(l.entries[299])
		if bad {
			p = l.fork(299).add(testLeaf(9999).Encode())
		}
		a := auditor(t, "va", &fakeMemory{})
		l.shown = 290
		advance(t, a, l)
		l.shown = 300
		r := readerFunc(func(ctx context.Context, name string) ([]byte, error) {
			if name == "tile/0/001.p/44" {
				if err := a.Expect(p); err != nil {
					t.Error(err)
				}
			}
			return l.Read(ctx, name)
		})
		_, err := a.Advance(t.Context(), r)
		if bad {
			wantErr(t, "a bad promise in between", err, ErrForked)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		count(t, a, l, 300)
		if err := a.Due(late); err != nil {
			t.Errorf("a good promise in between: %v", err)
		}
	}

	l := newFakeLog(2000)
	a := auditor(t, "va", &fakeMemory{})
	for _, i := range []int{3, 300, 600, 900, 1200, 1500} { // more tiles than are kept at hand
		if err := a.Expect(l.fork(i).add(l.entries[i])); err != nil {
			t.Fatal(err)
		}
	}
	advance(t, a, l)
	count(t, a, l, 2000)
	if err := a.Due(late); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "another leaf where one was settled", a.Expect(l.fork(3).add(testLeaf(9999).Encode())), ErrForked)
}

func TestForeignPromise(t *testing.T) {
	a := auditor(t, "va", &fakeMemory{})
	leaf := testLeaf(1)
	other := sha256.Sum256([]byte("another study"))
	otherOrigin := Origin("heart.example", other)
	ofOther := leaf
	ofOther.Study = other
	must := func(p Promised, err error) Promised {
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	swapped := must(MakePromise(testOrigin, 1, leaf.Encode(), noon, testLogKey))
	swapped.Leaf = testLeaf(2).Encode()
	moved := must(MakePromise(testOrigin, 1, leaf.Encode(), noon, testLogKey))
	moved.Promise.Index = 2
	later := must(MakePromise(testOrigin, 1, leaf.Encode(), noon, testLogKey))
	later.Promise.Due = noon.Add(time.Hour)
	for what, p := range map[string]Promised{
		"another log's":         must(MakePromise(otherOrigin, 1, ofOther.Encode(), noon, testLogKey)),
		"the consortium log's":  must(MakePromise("heart.example/log", 1, leaf.Encode(), noon, testLogKey)),
		"a leaf of other study": must(MakePromise(testOrigin, 1, ofOther.Encode(), noon, testLogKey)),
		"by another key":        must(MakePromise(testOrigin, 1, leaf.Encode(), noon, testKey("va"))),
		"not about a leaf":      must(MakePromise(testOrigin, 1, []byte("{}"), noon, testLogKey)),
		"with another leaf":     swapped,
		"with another index":    moved,
		"with another due time": later,
	} {
		if err := a.Expect(p); err == nil {
			t.Errorf("%s promise is expected", what)
		}
		if _, _, err := ParsePromised(p.Encode(), testOrigin, logPublic()); err == nil {
			t.Errorf("%s promise is parsed", what)
		}
	}
}

func TestAlteredTileIsNoProof(t *testing.T) {
	l := newFakeLog(700)
	l.shown = 600
	a := auditor(t, "va", &fakeMemory{})
	advance(t, a, l)
	if err := a.Expect(l.fork(620).add(l.entries[620])); err != nil {
		t.Fatal(err)
	}
	l.shown = 700
	for _, name := range []string{"tile/0/002.p/188", "tile/1/000.p/2"} {
		b, err := l.Read(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		for _, forged := range [][]byte{flip(b, 40), b[:len(b)-1], nil} {
			l.forged = map[string][]byte{name: forged}
			if line, err := a.Advance(t.Context(), l); err == nil || errors.Is(err, ErrForked) || line != nil {
				t.Errorf("%s altered: %q, %v; want an error that proves nothing", name, line, err)
			}
		}
	}
	l.forged = map[string][]byte{}
	count(t, a, l, 700)
	l.forged["tile/entries/002.p/188"] = []byte("\x00\x02{}")
	if err := a.Leaves(t.Context(), l, 690, 700, func(uint64, Leaf) error { return nil }); err == nil {
		t.Error("an altered bundle is read")
	}
	b, _ := l.fork(700).Read(t.Context(), "tile/entries/002.p/188")
	l.forged["tile/entries/002.p/188"] = flip(b, 30)
	if err := a.Leaves(t.Context(), l, 512, 513, func(uint64, Leaf) error { return nil }); err == nil {
		t.Error("an altered entry is read")
	}
}

func flip(b []byte, at int) []byte {
	c := append([]byte(nil), b...)
	c[at] ^= 1
	return c
}

func TestNeverCosignsWhatIsNotWrittenDown(t *testing.T) {
	l := newFakeLog(5)
	m := &fakeMemory{fail: errors.New("disk full")}
	a := auditor(t, "va", m)
	if line, err := a.Advance(t.Context(), l); line != nil || !errors.Is(err, m.fail) {
		t.Fatalf("got %q, %v", line, err)
	}
	if _, err := a.Counted(t.Context(), l.counted(5, hospitals...), l); !errors.Is(err, m.fail) {
		t.Errorf("counted without memory: %v", err)
	}
	p := l.add(testLeaf(5).Encode())
	wantErr(t, "a promise", a.Expect(p), m.fail)
	if err := a.Due(noon.Add(time.Hour)); err != nil {
		t.Errorf("a refused promise is pending: %v", err)
	}
	m.fail = nil
	if err := a.Expect(p); err != nil || len(m.b) == 0 {
		t.Errorf("the promise is not stored the second time: %v", err)
	}
	if advance(t, a, l) == nil {
		t.Error("not co-signed once memory works")
	}
}

// What was co-signed before a crash binds the next process: it goes on with that history, and may
// sign the same checkpoint again, since its co-signature may never have arrived.
func TestRestart(t *testing.T) {
	l := newFakeLog(5)
	m := &fakeMemory{}
	a := auditor(t, "va", m)
	p := l.add(testLeaf(5).Encode())
	if err := a.Expect(p); err != nil {
		t.Fatal(err)
	}
	line := advance(t, a, l)
	if string(a.Cosignature()) != string(line) {
		t.Error("Cosignature is not what Advance returned")
	}
	if again := advance(t, a, l); again != nil {
		t.Error("the same checkpoint was co-signed twice by one process")
	}
	b := auditor(t, "va", m)
	if advance(t, b, l) == nil {
		t.Error("the last checkpoint is not co-signed again after a restart")
	}
	wantErr(t, "promise after a restart", b.Due(noon.Add(time.Hour)), ErrOverdue)
	f := l.fork(4)
	f.grow(9)
	f.entries[4] = nil
	g := l.fork(4)
	g.add(testLeaf(66).Encode())
	g.grow(3)
	_, err := b.Advance(t.Context(), g)
	wantErr(t, "another history after a restart", err, ErrForked)

	c := AuditorConfig{Origin: "heart.example/log", Log: logPublic(), Witnesses: testWitnesses(), Memory: m}
	if _, err := NewAuditor(c); err == nil {
		t.Error("the memory of another log is taken")
	}
}

// Members become known one by one; too few of them known means that nothing counts yet.
func TestSetWitnesses(t *testing.T) {
	w := testWitnesses()
	few := Witnesses{Keys: map[string]ed25519.PublicKey{"va": w.Keys["va"]}, Need: w.Need}
	a, err := NewAuditor(AuditorConfig{Origin: testOrigin, Log: logPublic(), Witnesses: few, Memory: &fakeMemory{}, Name: "va", Witness: testKey("va")})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.SetWitnesses(w.Keys); err != nil {
		t.Error(err)
	}
	if err := a.SetWitnesses(map[string]ed25519.PublicKey{"va": w.Keys["cleveland"]}); err == nil {
		t.Error("another key for the own witness: no error")
	}
	if err := a.SetWitnesses(withKey(withKey(withKey(w.Keys, "a", public(testKey("a"))), "b", public(testKey("b"))), "c", public(testKey("c")))); err == nil {
		t.Error("so many members that half of them are enough: no error")
	}
}

func TestAuditorConfig(t *testing.T) {
	good := AuditorConfig{Origin: testOrigin, Log: logPublic(), Witnesses: testWitnesses(), Memory: &fakeMemory{}, Name: "va", Witness: testKey("va")}
	for what, alter := range map[string]func(*AuditorConfig){
		"need of half":         func(c *AuditorConfig) { c.Witnesses.Need = 2 },
		"need beyond a note":   func(c *AuditorConfig) { c.Witnesses.Need = 100 },
		"another witness key":  func(c *AuditorConfig) { c.Witness = testKey("cleveland") },
		"no member":            func(c *AuditorConfig) { c.Name = "paris" },
		"bad origin":           func(c *AuditorConfig) { c.Origin = "heart.example/log/12" },
		"no log key":           func(c *AuditorConfig) { c.Log = nil },
		"no memory":            func(c *AuditorConfig) { c.Memory = nil },
		"one key, two names":   func(c *AuditorConfig) { c.Witnesses.Keys = withKey(c.Witnesses.Keys, "va2", public(testKey("va"))) },
		"the log as a witness": func(c *AuditorConfig) { c.Witnesses.Keys = withKey(c.Witnesses.Keys, "log", logPublic()) },
		"short key":            func(c *AuditorConfig) { c.Witnesses.Keys = withKey(c.Witnesses.Keys, "x", ed25519.PublicKey{1}) },
		"name with a slash":    func(c *AuditorConfig) { c.Witnesses.Keys = withKey(c.Witnesses.Keys, "x/y", public(testKey("x"))) },
	} {
		c := good
		alter(&c)
		if _, err := NewAuditor(c); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	if _, err := NewAuditor(good); err != nil {
		t.Error(err)
	}
}

// Co-signatures that nobody needs are not looked at, and those that somebody needs are.
func TestCosignaturesThatArePutOff(t *testing.T) {
	l := newFakeLog(5)
	a := auditor(t, "va", &fakeMemory{})
	p := l.add(testLeaf(5).Encode())
	if err := a.Expect(p); err != nil {
		t.Fatal(err)
	}
	l.shown = 6
	advance(t, a, l)
	forged := flipSignature(l.counted(6, hospitals[:3]...))
	late := noon.Add(time.Hour)
	for what, need := range map[string]func() error{
		"a promise that is due": func() error { return a.Due(late) },
		"who asks for the size": func() error { return sizeIs(a, 0) },
		"who asks for leaves":   func() error { return noLeaves(a, l) },
		"who waits":             func() error { return waitsInVain(t, a, late) },
	} {
		if _, err := a.Counted(t.Context(), forged, l); err != nil {
			t.Fatal(err)
		}
		if a.putOff == nil {
			t.Fatalf("%s: the co-signatures were not put off", what)
		}
		if err := need(); err != nil && !errors.Is(err, ErrOverdue) {
			t.Errorf("%s: %v", what, err)
		}
		if a.putOff != nil || a.counted.Size != 0 {
			t.Errorf("%s: forged co-signatures count, or were not looked at", what)
		}
	}
	wantErr(t, "a promise that forged co-signatures cover", a.Due(late), ErrOverdue)
	count(t, a, l, 6)
	if err := a.Due(late); err != nil || a.CountedSize() != 6 {
		t.Errorf("with good co-signatures %d leaves count, %v", a.CountedSize(), err)
	}
}

// Where many promises wait, their checkpoint is looked at when it comes.
func TestManyPromisesPutNothingOff(t *testing.T) {
	l := newFakeLog(5)
	a := auditor(t, "va", &fakeMemory{})
	for i := range maxPutOff + 1 {
		if err := a.Expect(l.add(testLeaf(5 + i).Encode())); err != nil {
			t.Fatal(err)
		}
	}
	size := uint64(5 + maxPutOff + 1)
	l.shown = size
	advance(t, a, l)
	if _, err := a.Counted(t.Context(), flipSignature(l.counted(size, hospitals[:3]...)), l); err == nil {
		t.Error("forged co-signatures were not looked at")
	}
	count(t, a, l, size)
	if a.counted.Size != size || len(a.pending) != 0 {
		t.Errorf("%d leaves count and %d promises wait", a.counted.Size, len(a.pending))
	}
}

func sizeIs(a *Auditor, want uint64) error {
	if got := a.CountedSize(); got != want {
		return fmt.Errorf("size %d, want %d", got, want)
	}
	return nil
}

func noLeaves(a *Auditor, r Reader) error {
	if err := a.Leaves(context.Background(), r, 0, 1, func(uint64, Leaf) error { return nil }); err == nil {
		return errors.New("leaves are read under a checkpoint that does not count")
	}
	return nil
}

func waitsInVain(t *testing.T, a *Auditor, due time.Time) error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.WaitDue(ctx, due); !errors.Is(err, context.Canceled) {
		return fmt.Errorf("waiting ended with %w", err)
	}
	return nil
}

// flipSignature alters a bit of the last signature of a note.
func flipSignature(note []byte) []byte {
	b := slices.Clone(note)
	at := len(b) - 10
	if b[at] == 'A' {
		b[at] = 'B'
	} else {
		b[at] = 'A'
	}
	return b
}

func TestTooFewCosignatures(t *testing.T) {
	l := newFakeLog(5)
	a := auditor(t, "va", &fakeMemory{})
	if _, err := a.Counted(t.Context(), l.counted(5, "va", "cleveland"), l); err == nil || a.CountedSize() != 0 {
		t.Errorf("two co-signatures of four count: %v", err)
	}
	count(t, a, l, 5)
	if string(a.CountedCheckpoint()) != string(l.counted(5, hospitals[:3]...)) {
		t.Error("CountedCheckpoint is not the one counted")
	}
}

func TestWaiting(t *testing.T) {
	l := newFakeLog(5)
	a := auditor(t, "va", &fakeMemory{})
	p := l.add(testLeaf(5).Encode())
	synctest.Test(t, func(t *testing.T) {
		errs := make(chan error, 3)
		go func() { errs <- a.WaitCounted(t.Context(), 6) }()
		go func() { errs <- a.WaitIncluded(t.Context(), p) }()
		synctest.Wait() // the promise is expected
		go func() { errs <- a.WaitDue(t.Context(), noon.Add(time.Hour)) }()
		synctest.Wait()
		l.shown = 6
		advance(t, a, l)
		synctest.Wait()
		if len(errs) != 0 {
			t.Fatalf("woken before the checkpoint counts: %v", <-errs)
		}
		count(t, a, l, 6)
		for range 3 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { errs <- a.WaitCounted(ctx, 7) }()
		synctest.Wait()
		cancel()
		wantErr(t, "cancelled", <-errs, context.Canceled)
		go func() { errs <- a.WaitCounted(t.Context(), 7) }()
		synctest.Wait()
		f := l.fork(5)
		f.add(testLeaf(8).Encode())
		f.shown = 6
		if _, err := a.Advance(t.Context(), f); err == nil {
			t.Error("a fork is taken")
		}
		wantErr(t, "woken by a fork", <-errs, ErrForked)
	})
}

// Run with -race.
func TestConcurrentUse(t *testing.T) {
	l := newFakeLog(1)
	a := auditor(t, "va", &fakeMemory{})
	var log sync.Mutex
	r := readerFunc(func(ctx context.Context, name string) ([]byte, error) {
		log.Lock()
		defer log.Unlock()
		return l.Read(ctx, name)
	})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 40 {
				log.Lock()
				p := l.add(testLeaf(len(l.entries)).Encode())
				l.shown = uint64(len(l.entries))
				c := l.counted(l.shown, hospitals[:3]...)
				log.Unlock()
				_, errAdvance := a.Advance(t.Context(), r)
				errExpect := a.Expect(p)
				_, errCounted := a.Counted(t.Context(), c, r)
				if err := errors.Join(errAdvance, errExpect, errCounted); err != nil {
					t.Error(err)
				}
				_ = a.Due(noon)
			}
		})
	}
	wg.Wait()
	if _, err := a.Counted(t.Context(), l.counted(l.shown, hospitals...), r); err != nil {
		t.Error(err)
	}
	if err := a.Due(noon.Add(time.Hour)); err != nil {
		t.Error(err)
	}
}

// An advance must be cheap: there may be ten a second, over the network.
func TestAdvanceReadsLittle(t *testing.T) {
	l := newFakeLog(70000)
	a := auditor(t, "va", &fakeMemory{})
	advance(t, a, l)
	l.add(testLeaf(1).Encode())
	p := l.add(testLeaf(2).Encode())
	l.shown = uint64(len(l.entries))
	if err := a.Expect(p); err != nil {
		t.Fatal(err)
	}
	l.reads = 0
	advance(t, a, l)
	if l.reads > 4 { // checkpoint, and the right edge: levels 0, 1 and 2
		t.Errorf("%d resources read, want at most 4", l.reads)
	}
	l.reads = 0
	count(t, a, l, l.shown)
	if l.reads != 0 {
		t.Errorf("%d resources read to count a checkpoint that was seen, want none", l.reads)
	}
}

func BenchmarkAdvance(b *testing.B) {
	l := newFakeLog(200)
	a, err := NewAuditor(AuditorConfig{Origin: testOrigin, Log: logPublic(), Witnesses: testWitnesses(), Memory: &fakeMemory{}, Name: "va", Witness: testKey("va")})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		b.StopTimer()
		p := l.add(testLeaf(len(l.entries)).Encode())
		l.shown++
		b.StartTimer()
		if err := a.Expect(p); err != nil {
			b.Fatal(err)
		}
		if _, err := a.Advance(b.Context(), l); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if _, err := a.Counted(b.Context(), l.counted(l.shown, hospitals[:3]...), l); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
