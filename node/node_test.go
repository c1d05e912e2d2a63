package node_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/channel"
	"github.com/consilium-fl/consilium/attest/simtee"
	"github.com/consilium-fl/consilium/audit"
	"github.com/consilium-fl/consilium/dp"
	"github.com/consilium-fl/consilium/internal/grounds"
	"github.com/consilium-fl/consilium/internal/store"
	"github.com/consilium-fl/consilium/internal/terms"
	"github.com/consilium-fl/consilium/internal/transport"
	"github.com/consilium-fl/consilium/node"
	"github.com/consilium-fl/consilium/node/wire"
)

var answers = []string{"ready", "deal", "upload", "vote", "release"}

// closes runs an honest round to its end.
func (h *hub) closes(number uint64) {
	h.t.Helper()
	n := 0
	h.with(func() { n = len(h.ended); h.begin(number) })
	h.until(fmt.Sprintf("round %d ends", number), func() bool { return len(h.ended) > n })
	h.with(func() {
		if r := h.ended[n]; r.Outcome != aggregate.Closed {
			h.t.Errorf("round %d is %s: %s", number, r.Outcome, r.Why)
		}
	})
}

// agrees waits until the node has found its ledger in the log's favour.
func (h *hub) agrees(n int) {
	h.t.Helper()
	h.says(n, "log and the own ledger agree")
}

func (h *hub) wantHeard(want ...string) {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if got := h.kinds(); !slices.Equal(got, want) {
		h.t.Errorf("the node sent %v, want %v", got, want)
	}
}

// cosignedUpTo is the size of the newest checkpoint that the node co-signed.
func (h *hub) cosignedUpTo() uint64 {
	if len(h.cosigned) == 0 {
		return 0
	}
	return h.cosigned[len(h.cosigned)-1]
}

// ledger opens the node's ledger, which must have stopped.
func (w *world) ledger() *dp.Ledger {
	w.t.Helper()
	j := must(store.OpenJournal(w.path("state", "ledger-cardiology.journal")))(w.t)
	w.t.Cleanup(func() { _ = j.Close() })
	return must(dp.OpenLedger(j, dp.Budget{Epsilon: 8, Delta: 1e-4}))(w.t)
}

func TestRounds(t *testing.T) {
	w := newWorld(t)
	var plain [][]int64
	stop := w.start(func(d *node.Deps) {
		d.Observe = func(_ uint64, x []int64, _ []byte) { plain = append(plain, x) }
	})
	w.hub.closes(1)
	w.hub.closes(2)
	w.says(2, "round ended", "outcome=closed")
	h := w.hub
	h.with(func() {
		h.over = true
		h.kicked++
	})
	w.says(1, "study is over")
	stop()
	h.wantHeard(append(slices.Clone(answers), answers...)...)
	if len(plain) != 2 || slices.Equal(plain[0], make([]int64, 3)) || len(h.uploads) != 2 || bytes.Equal(h.uploads[0], h.uploads[1]) {
		t.Errorf("%d sums observed: %v; %d vectors sent", len(plain), plain, len(h.uploads))
	}
	if n := w.ledger().Charges(w.study.Digest); n != 2 {
		t.Errorf("%d charges, want 2", n)
	}
	if len(h.cosigned) == 0 {
		t.Error("no checkpoint was co-signed")
	}
	if left := must(filepath.Glob(w.path("state", "study-*", "*spool*")))(t); len(left) > 0 {
		t.Errorf("spools of rounds that are over: %v", left)
	}
	// What is in no log: the plain sum and the masked words.
	text, _ := w.logged.read()
	for _, x := range plain[0] {
		if x > 99 && strings.Contains(text, fmt.Sprint(x)) {
			t.Errorf("the log shows %d, which was computed from patients", x)
		}
	}
}

// A plan that is not what the node's own study.yaml and memory allow is not answered, and an honest one
// after it is.
func TestPlansRefused(t *testing.T) {
	w := newWorld(t)
	h := w.hub
	w.start()
	h.agrees(1)
	h.closes(3)
	alter := func(f func(*aggregate.Plan)) func() {
		return func() {
			p := h.plan(4)
			f(&p)
			h.sayPlan(p)
		}
	}
	attacks := []struct {
		name string
		say  func()
	}{
		{"no promise", func() { h.say(h.plan(4)) }},
		{"promise of another round", func() {
			s := must(aggregate.SignMessage("", h.plan(4), h.keys.protocol))(t)
			h.say(h.plan(4), h.leaf(audit.Plan, 5, "", s.Digest()))
		}},
		{"promise of another plan", func() { h.say(h.plan(4), h.leaf(audit.Plan, 4, "", [32]byte{1})) }},
		{"promise of another kind", func() {
			s := must(aggregate.SignMessage("", h.plan(4), h.keys.protocol))(t)
			h.say(h.plan(4), h.leaf(audit.Set, 4, "", s.Digest()))
		}},
		{"replayed", func() { h.sayPlan(h.plan(3)) }},
		{"older", func() { h.sayPlan(h.plan(2)) }},
		{"zero", func() { h.sayPlan(h.plan(0)) }},
		{"too far", func() { h.sayPlan(h.plan(3 + 1025)) }},
		{"farthest there is", func() { h.sayPlan(h.plan(1<<64 - 1)) }},
		{"another study", alter(func(p *aggregate.Plan) { p.Round.Study = [32]byte{9} })},
		{"dimension", alter(func(p *aggregate.Plan) { p.Dim++ })},
		{"word bits", alter(func(p *aggregate.Plan) { p.WordBits = 64 })},
		{"minimum", alter(func(p *aggregate.Plan) { p.Minimum = 4 })},
		{"colluding", alter(func(p *aggregate.Plan) { p.Colluding = 2 })},
		{"members", alter(func(p *aggregate.Plan) { p.Members = p.Members[:3] })},
		{"sum bound", alter(func(p *aggregate.Plan) { p.SumBound /= 2 })},
		{"noise shares", alter(func(p *aggregate.Plan) { p.Noise.Shares++ })},
		{"noise source", alter(func(p *aggregate.Plan) { p.Noise.Source = aggregate.Aggregator })},
		{"noise bound", alter(func(p *aggregate.Plan) { p.Noise.Bound-- })},
		{"less noise", alter(func(p *aggregate.Plan) { p.Noise.Mechanism = w.terms.Full.Share(64).Encode() })},
		{"another key", func() {
			s := must(aggregate.SignMessage("", h.plan(4), h.keys.log))(t)
			h.publishes(transport.FollowItem{Message: &s, Promises: [][]byte{h.leaf(audit.Plan, 4, "", s.Digest())}})
		}},
	}
	for i, a := range attacks {
		t.Run(a.name, func(*testing.T) {
			h.with(a.say)
			w.says(i+1, "plan refused")
		})
	}
	h.wantHeard(answers...)
	h.closes(3 + 1024) // as far as a number may be
}

// A round at hand survives a plan that is refused.
func TestPlanRefusedLeavesTheRound(t *testing.T) {
	w := newWorld(t)
	h := w.hub
	w.start()
	h.with(func() { h.mute["vote"] = true; h.begin(1) })
	h.until("the node votes", h.hears("vote", 1))
	h.with(func() {
		s := must(aggregate.SignMessage("", h.plan(2), h.keys.log))(t)
		h.publishes(transport.FollowItem{Message: &s, Promises: [][]byte{h.leaf(audit.Plan, 2, "", s.Digest())}})
	})
	w.says(1, "plan refused")
	h.with(h.unmute)
	h.until("the round ends", func() bool { return len(h.ended) == 1 })
	h.wantHeard(answers...)
}

// A node votes for a set only when it holds the log's promise for each charge in it.
func TestProposalsRefused(t *testing.T) {
	attacks := map[string]func(w *world, member string, honest []byte) []byte{
		"missing": func(*world, string, []byte) []byte { return nil },
		"about another hospital": func(w *world, _ string, honest []byte) []byte {
			_, l := parsed(w, honest)
			return w.hub.leaf(audit.Charge, l.Round, self, l.Object)
		},
		"about another charge": func(w *world, member string, _ []byte) []byte {
			return w.hub.leaf(audit.Charge, 1, member, [32]byte{1})
		},
		"about another round": func(w *world, member string, honest []byte) []byte {
			_, l := parsed(w, honest)
			return w.hub.leaf(audit.Charge, 2, member, l.Object)
		},
		"of another kind": func(w *world, member string, honest []byte) []byte {
			_, l := parsed(w, honest)
			return w.hub.leaf(audit.Result, 1, member, l.Object)
		},
		"by another key": func(w *world, _ string, honest []byte) []byte {
			p, _ := parsed(w, honest)
			return must(audit.MakePromise(w.hub.origin(), p.Promise.Index, p.Leaf, p.Promise.Due, w.keys.protocol))(w.t).Encode()
		},
		"of another log": func(w *world, _ string, honest []byte) []byte {
			p, _ := parsed(w, honest)
			return must(audit.MakePromise("heart.example/log", p.Promise.Index, p.Leaf, p.Promise.Due, w.keys.log))(w.t).Encode()
		},
	}
	for name, attack := range attacks {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			h := w.hub
			h.promise = func(member string, honest []byte) []byte {
				if member != "va" {
					return honest
				}
				return attack(w, member, honest)
			}
			w.start()
			h.with(func() { h.begin(1) })
			w.says(1, "proposal refused")
			h.wantHeard("ready", "deal", "upload")
			h.with(func() { h.promise = nil })
			h.closes(2)
		})
	}
}

func parsed(w *world, promise []byte) (audit.Promised, audit.Leaf) {
	p, l, err := audit.ParsePromised(promise, w.hub.origin(), public(w.keys.log))
	ok(w.t, err)
	return p, l
}

// stopsForGood checks that the node stopped, says why on disk, and stays stopped when it starts again.
func (w *world) stopsForGood(stop func()) {
	w.t.Helper()
	w.says(1, "study stopped", "stopped for good")
	stop()
	if files := must(filepath.Glob(w.path("state", "study-*", "stopped")))(w.t); len(files) != 1 {
		w.t.Fatalf("%d files say that it stopped, want one", len(files))
	}
	follows := 0
	w.hub.with(func() { follows = w.hub.follows })
	w.start()
	w.says(2, "study stopped", "stopped for good")
	w.hub.with(func() {
		if w.hub.follows != follows {
			w.t.Error("the node followed again after it had stopped for good")
		}
	})
	c := w.config()
	d := must(wire.Open(w.t.Context(), c, quiet()))(w.t)
	fs := must(node.Check(c, d, nil))(w.t)
	if !slices.ContainsFunc(fs, func(f node.Finding) bool { return strings.Contains(f.Text, "stopped for good") && !f.Hint }) {
		w.t.Errorf("check does not say that the node stopped: %v", fs)
	}
}

func TestContradictionsStopForGood(t *testing.T) {
	attacks := map[string]func(h *hub){
		"a promise for an index that has another leaf": func(h *hub) {
			entry := audit.Leaf{Kind: audit.Set, Time: time.Now(), Study: h.study.Digest, Round: 1, Object: [32]byte{1}}.Encode()
			p := must(audit.MakePromise(h.origin(), 1, entry, time.Now().Add(time.Hour), h.keys.log))(h.t)
			h.publishes(transport.FollowItem{Promises: [][]byte{p.Encode()}})
		},
		"a fork that all others co-signed": func(h *hub) {
			n := len(h.log.entries)
			h.log = h.log.prefix(n - 1)
			h.leaf(audit.Result, 7, "", [32]byte{1})
			h.leaf(audit.Result, 7, "", [32]byte{2})
		},
		"a promised leaf that is dropped": func(h *hub) {
			n := len(h.log.entries)
			entry := audit.Leaf{Kind: audit.Set, Time: time.Now(), Study: h.study.Digest, Round: 1, Object: [32]byte{1}}.Encode()
			p := must(audit.MakePromise(h.origin(), uint64(n), entry, time.Now().Add(time.Hour), h.keys.log))(h.t)
			h.publishes(transport.FollowItem{Promises: [][]byte{p.Encode()}})
			h.leaf(audit.Set, 1, "", [32]byte{2}) // in its place
		},
		"a proposal with a promise that contradicts one before": func(h *hub) {
			h.promise = func(member string, honest []byte) []byte {
				if member != "va" {
					return honest
				}
				p, _ := parsed(h.world, honest)
				return must(audit.MakePromise(h.origin(), 1, p.Leaf, p.Promise.Due, h.keys.log))(h.t).Encode()
			}
			h.begin(2)
		},
	}
	for name, attack := range attacks {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			stop := w.start()
			w.hub.closes(1)
			w.hub.with(func() { attack(w.hub) })
			w.stopsForGood(stop)
			w.hub.with(func() {
				if k := w.hub.kinds(); slices.Contains(k[5:], "vote") {
					t.Errorf("the node voted: it sent %v", k)
				}
			})
		})
	}
}

// A log that shows less than before is not co-signed and does not stop the node: it may come back.
func TestRewoundLogIsNotCosigned(t *testing.T) {
	w := newWorld(t)
	h := w.hub
	w.start()
	h.closes(1)
	var whole *memoryLog
	before := 0
	h.with(func() {
		before = len(h.cosigned)
		whole, h.log = h.log, h.log.prefix(3)
		h.withhold = true
		h.publish()
	})
	w.says(1, "not co-signed", "rewound")
	h.with(func() {
		if slices.Contains(h.cosigned[before:], 3) {
			t.Error("the rewound log was co-signed")
		}
		h.log, h.withhold = whole, false
	})
	h.closes(2)
}

// While a promise is overdue no vector leaves, and once it is kept the vector does.
func TestOverduePromiseHoldsUploads(t *testing.T) {
	w := newWorld(t)
	h := w.hub
	var kept, early atomic.Bool
	h.onUpload = func(context.Context) error {
		if !kept.Load() {
			early.Store(true)
		}
		return nil
	}
	spooled := make(chan struct{})
	w.start(func(d *node.Deps) { d.Observe = func(uint64, []int64, []byte) { close(spooled) } })
	h.agrees(1)
	h.with(func() {
		h.withhold, h.due = true, -time.Second
		h.begin(1)
	})
	<-spooled
	// The node goes on with all else: it co-signs a checkpoint that does not count yet, and another.
	var size uint64
	for range 2 {
		h.with(func() { h.leaf(audit.Refusal, 0, "", [32]byte{3}); size = uint64(len(h.log.entries)) })
		h.until("the node co-signs", func() bool { return h.cosignedUpTo() >= size })
	}
	h.wantHeard("ready", "deal")
	h.with(func() {
		h.withhold = false
		kept.Store(true)
		h.publish()
	})
	h.until("the round ends", func() bool { return len(h.ended) == 1 })
	if early.Load() {
		t.Error("a vector left while a promise was overdue")
	}
	h.wantHeard(answers...)
}

// Removing the approval is the veto: from the next plan on the hospital is away, and back with it.
func TestVeto(t *testing.T) {
	w := newWorld(t)
	h := w.hub
	w.start()
	h.closes(1)
	w.veto()
	h.with(func() { h.begin(2) })
	w.says(1, "plan refused", "approval")
	w.says(1, "away until the hospital consents")
	h.wantHeard(answers...)
	h.with(func() { h.alone = true; h.step(aggregate.Away{Member: self}) })
	h.until("the others close the round", func() bool { return len(h.ended) == 2 })
	follows := 0
	h.with(func() { follows = h.follows })
	h.with(func() { h.alone = false })
	w.approve()
	h.until("the node is back", func() bool { return h.follows > follows })
	h.closes(3)
	h.with(func() {
		if ks := h.kinds(); !slices.Equal(ks[len(ks)-5:], answers) {
			t.Errorf("back again, the node sent %v", ks[5:])
		}
	})
}

func TestConsentRefuses(t *testing.T) {
	w := newWorld(t)
	w.write([]byte("package consilium.consent\n\nrefuse contains \"not this one\" if {\n\tinput.method == \"train\"\n\tinput.study.title == \"A small study\"\n}\n"), "consent.rego")
	w.start()
	w.hub.agrees(1)
	w.hub.with(func() { w.hub.begin(1) })
	w.says(1, "plan refused", "not this one")
	w.hub.wantHeard()
}

// copyTree keeps what a disk held.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	ok(t, os.RemoveAll(to))
	ok(t, os.CopyFS(to, os.DirFS(from)))
	ok(t, filepath.WalkDir(to, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		mode := os.FileMode(0o600)
		if d.IsDir() {
			mode = 0o700
		}
		return os.Chmod(path, mode)
	}))
}

// A11: a state folder from before a charge spends nothing again. It is found in the log, the study is
// closed here, and its reservation counts as spent.
func TestOldDiskStopsForGood(t *testing.T) {
	w := newWorld(t)
	stop := w.start()
	w.hub.agrees(1)
	stop()
	copyTree(t, w.path("state"), w.path("old"))
	stop = w.start()
	w.hub.closes(1)
	stop()
	copyTree(t, w.path("old"), w.path("state"))
	stop = w.start()
	w.hub.with(func() { w.hub.begin(2) })
	w.stopsForGood(stop)
	w.hub.wantHeard(answers...)
	w.t.Run("closed", func(t *testing.T) {
		// The second start of stopsForGood still runs; the ledger is read beside it.
		copyTree(t, w.path("state"), w.path("copy"))
		j := must(store.OpenJournal(w.path("copy", "ledger-cardiology.journal")))(t)
		defer j.Close()
		l := must(dp.OpenLedger(j, dp.Budget{Epsilon: 8, Delta: 1e-4}))(t)
		if got, want := l.Reserved(), (dp.Budget{Epsilon: 1, Delta: 1e-5}); got != want {
			t.Errorf("reserved %v, want %v", got, want)
		}
		if _, err := l.Charge(w.terms.Charge(aggregate.Charge{Number: 3})); !errors.Is(err, dp.ErrBudget) {
			t.Errorf("charging a closed study: %v", err)
		}
	})
}

// A11: an old checkpoint that is validly co-signed does not stand in for one with this start's own leaf.
func TestOldCheckpointClearsNothing(t *testing.T) {
	w := newWorld(t)
	h := w.hub
	stop := w.start()
	h.closes(1)
	w.says(1, "round ended") // a node stopped before it has heard so sends its upload again
	stop()
	h.with(func() { h.withhold = true })
	w.start()
	h.until("the node starts again", func() bool { return len(h.booted) == 2 })
	h.with(func() { h.begin(2) })
	// The node hears the plan, and co-signs what comes after it.
	var size uint64
	h.with(func() { h.leaf(audit.Refusal, 0, "", [32]byte{3}); size = uint64(len(h.log.entries)) })
	h.until("the node co-signs", func() bool { return h.cosignedUpTo() >= size })
	h.wantHeard(answers...)
	h.with(func() {
		h.withhold = false
		h.publish()
	})
	h.until("the round ends", func() bool { return len(h.ended) == 2 })
	h.wantHeard(append(slices.Clone(answers), answers...)...)
}

// Killed after its spool, a node sends what it stored, byte for byte, and answers nothing else of that round.
func TestKilledAfterSpool(t *testing.T) {
	w := newWorld(t)
	h := w.hub
	h.onUpload = func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}
	stop := w.start()
	h.with(func() { h.alone, h.mute["vote"] = true, true; h.begin(1) })
	h.until("the vector comes", func() bool { return len(h.uploads) == 1 })
	stop()
	h.with(func() { h.onUpload = nil })
	w.start()
	h.until("the upload comes", h.hears("upload", 1))
	h.with(func() {
		if len(h.uploads) != 2 || !bytes.Equal(h.uploads[0], h.uploads[1]) {
			t.Error("another vector than the one spooled was sent")
		}
		u := must(aggregate.Parse(h.heard[len(h.heard)-1]))(t).(aggregate.Upload)
		if u.Vector != must(aggregate.VectorDigest(bytes.NewReader(h.uploads[0])))(t) {
			t.Error("the upload is about another vector")
		}
	})
	h.until("the proposal is out", func() bool { return h.round.Phase() == aggregate.Voting })
	w.says(1, "message refused", "while restored")
	h.with(h.unmute)
	h.until("the round ends", func() bool { return len(h.ended) == 1 })
	h.wantHeard("ready", "deal", "upload")
	h.with(func() { h.alone = false })
	h.closes(2)
}

// A spool that is not what was signed is given up, never computed again.
func TestAlteredSpoolIsGivenUp(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"a bit": func(p string) error {
			b, err := os.ReadFile(p)
			b[3] ^= 1
			return errors.Join(err, os.WriteFile(p, b, 0o600))
		},
		"short":   func(p string) error { return os.Truncate(p, 4) },
		"missing": os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			h := w.hub
			h.onUpload = func(ctx context.Context) error {
				<-ctx.Done()
				return ctx.Err()
			}
			stop := w.start()
			h.with(func() { h.begin(1) })
			h.until("the vector comes", func() bool { return len(h.uploads) == 1 })
			stop()
			ok(t, spoil(must(filepath.Glob(w.path("state", "study-*", "masked.spool")))(t)[0]))
			h.with(func() { h.onUpload = nil })
			w.start()
			w.says(1, "stored round is given up")
			h.with(func() { h.alone = true; h.step(aggregate.Away{Member: self}) })
			h.until("the round ends", func() bool { return len(h.ended) == 1 })
			h.with(func() { h.alone = false })
			h.closes(2)
			h.wantHeard(append([]string{"ready", "deal"}, answers...)...)
		})
	}
}

// Killed after its Ready and before its spool, a node gives the round up; killed before its Ready it has
// answered nothing, and takes part.
func TestKilledBeforeSpool(t *testing.T) {
	w := newWorld(t)
	h := w.hub
	stop := w.start()
	h.with(func() { h.mute["ready"] = true; h.begin(1) })
	h.until("the node is ready", h.hears("ready", 1))
	stop()
	w.start()
	w.says(1, "plan refused")
	h.with(func() { h.alone = true; h.unmute(); h.step(aggregate.Away{Member: self}) })
	h.until("the round ends", func() bool { return len(h.ended) == 1 })
	h.wantHeard("ready")
	h.with(func() { h.alone = false })
	h.closes(2)
}

// A coordinator that was killed and restored gets what was sent, byte for byte and in order.
func TestCoordinatorRestarts(t *testing.T) {
	w := newWorld(t)
	h := w.hub
	h.mute["vote"] = true
	w.start()
	h.with(func() { h.begin(1) })
	h.until("the node votes", h.hears("vote", 1))
	var before []aggregate.Signed
	h.with(func() { before, h.heard = h.heard, nil })
	h.restart()
	h.until("the node votes again", func() bool { return h.hears("vote", 1)() && h.hears("upload", 1)() })
	h.with(func() {
		// The upload goes beside the rest.
		order := func(ms []aggregate.Signed) (ds [][32]byte) {
			for _, m := range ms {
				if m.Kind != "upload" {
					ds = append(ds, m.Digest())
				}
			}
			return ds
		}
		want, got := order(before), order(h.heard)
		if len(got) < len(want) || !slices.Equal(got[:len(want)], want) {
			t.Errorf("sent again: %v", h.kinds())
		}
		for _, m := range h.heard {
			if !slices.ContainsFunc(before, func(x aggregate.Signed) bool { return x.Digest() == m.Digest() }) {
				t.Errorf("a new %s was made", m.Kind)
			}
		}
		for _, v := range h.uploads {
			if !bytes.Equal(v, h.uploads[0]) {
				t.Error("another vector was sent")
			}
		}
		h.unmute()
	})
	h.until("the round ends", func() bool { return len(h.ended) == 1 })
	h.closes(2)
}

// The Follow stream ends by itself every minute; the node goes on where it was.
func TestFollowResumes(t *testing.T) {
	w := newWorld(t)
	h := w.hub
	w.start()
	h.closes(1)
	h.with(func() { h.kicked++ })
	h.until("the node follows again", func() bool { return h.follows >= 2 })
	h.closes(2)
	h.wantHeard(append(slices.Clone(answers), answers...)...)
	h.with(func() {
		h.over = true
		h.kicked++
	})
	w.says(1, "study is over")
}

// Before a session ends the node attests anew, and a round goes on over the new connection.
func TestSessionIsRenewed(t *testing.T) {
	w := newWorld(t)
	h := w.hub
	h.svidLife = 4 * time.Second
	w.start()
	h.with(func() { h.mute["vote"] = true; h.begin(1) })
	h.until("the node votes", h.hears("vote", 1))
	svids := 0
	h.with(func() { svids = h.svids })
	h.until("the node attests anew", func() bool { return h.svids > svids && h.hears("vote", 2)() })
	h.with(h.unmute)
	h.until("the round ends", func() bool { return len(h.ended) == 1 })
	h.closes(2)
}

// TestCoordinatorIsRefusedMeanwhile: a coordinator that does not pass any more loses its connection at once, and gets none
// until it passes again; the round goes on where it was.
func TestCoordinatorIsRefusedMeanwhile(t *testing.T) {
	w := newWorld(t)
	h := w.hub
	own := func(measurement string) {
		w.write(fmt.Appendf(nil, `version: consilium.policy/v1
role: coordinator
accept: [sim/1]
allow_simulated: true
measurements: [%q]
machines: any
max_age: 1h
deny_generations: []
warn_generations: []
revocation: false
endorsement_age: 0s
grace: 0s
`, measurement), "own.yaml")
	}
	good := string(attest.SHA256Measurement(simtee.Measurement(attest.RoleCoordinator)))
	own(good)
	w.own = "attestation: own.yaml\n"
	var held *grounds.Holder
	w.start(func(d *node.Deps) { held = d.Grounds })
	h.with(func() { h.mute["vote"] = true; h.begin(1) })
	h.until("the node votes", h.hears("vote", 1))
	own("sha256:" + strings.Repeat("0", 64))
	if changed, err := held.Reload(); err != nil || !changed {
		t.Fatal(changed, err)
	}
	w.says(1, "the coordinator does not pass any more", "policy.changed", "measurement.unlisted")
	w.says(1, "connection ended", "measurement.unlisted")
	own(good)
	if changed, err := held.Reload(); err != nil || !changed {
		t.Fatal(changed, err)
	}
	h.until("the node votes again", h.hears("vote", 2))
	h.with(h.unmute)
	h.until("the round ends", func() bool { return len(h.ended) == 1 })
	h.closes(2)
}

func TestStateFolderIsLocked(t *testing.T) {
	w := newWorld(t)
	w.start()
	c := w.config()
	n, err := node.New(c, must(wire.Open(t.Context(), c, quiet()))(t))
	if !errors.Is(err, store.ErrLocked) {
		t.Fatalf("a second node on one state folder: %v, %v", n, err)
	}
}

// A coordinator that is not the pinned one gets no evidence.
func TestImpostorsGetNoEvidence(t *testing.T) {
	posture := func(c [32]byte, flags bool) func(*channel.Config) {
		return func(x *channel.Config) {
			x.Posture = func([32]byte) (attest.Posture, error) {
				p := attest.Posture{Consortium: c, TEE: "sim", Insecure: []string{terms.SimulatedTEE}}
				if flags {
					p.Insecure = append(p.Insecure, "no_noise")
				}
				return p, nil
			}
		}
	}
	impostors := map[string]func(w *world) func(*channel.Config){
		"another log key": func(w *world) func(*channel.Config) {
			return func(x *channel.Config) { x.LogSigner = binder{newKey(w.t)} }
		},
		"another consortium": func(*world) func(*channel.Config) { return posture([32]byte{1}, false) },
		"an insecure flag":   func(w *world) func(*channel.Config) { return posture(w.consortium.Digest, true) },
		"another measurement": func(w *world) func(*channel.Config) {
			return func(x *channel.Config) { x.Attester = simtee.NewAttester(w.root, attest.RoleNode, "chip:hub") }
		},
	}
	for name, impostor := range impostors {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.hub.down()
			w.hub.channel = impostor(w)
			w.hub.serve()
			var shown atomic.Int32
			w.start(func(d *node.Deps) { d.Attester = counting{d.Attester, &shown} })
			w.says(2, "connection ended", "refused")
			w.hub.with(func() {
				if shown.Load() != 0 || w.hub.svids != 0 || w.hub.follows != 0 {
					t.Errorf("evidence shown %d times, %d SVIDs asked for", shown.Load(), w.hub.svids)
				}
			})
		})
	}
}

type counting struct {
	attest.Attester
	n *atomic.Int32
}

func (c counting) Attest(ctx context.Context, b attest.Binding) (attest.Evidence, error) {
	c.n.Add(1)
	return c.Attester.Attest(ctx, b)
}

// The highest serial wins: a peer's older node, brought back by the coordinator, is not dealt with.
func TestOlderEnrolmentIsRefused(t *testing.T) {
	w := newWorld(t)
	h := w.hub
	w.start()
	h.closes(1)
	va := h.peers[2]
	h.with(func() {
		lost := &peer{name: va.name, node: newKey(t), witness: va.witness}
		lost.enrolment = w.enrol("va", 1, node.PublicKeys{Node: public(lost.node), Witness: public(newKey(t))})
		h.peers[2] = lost
		h.begin(2)
	})
	w.says(1, "message refused", "another node has taken its place")
	h.wantHeard(append(slices.Clone(answers), "ready")...)
	h.with(func() { h.peers[2] = va })
	h.closes(3)
}

// A node whose hospital has enrolled another one stops answering, and does not start again.
func TestReplacedNodeStops(t *testing.T) {
	w := newWorld(t)
	h := w.hub
	next := w.enrol(self, 2, node.PublicKeys{Node: public(newKey(t)), Witness: public(newKey(t))})
	stop := w.start()
	h.closes(1)
	h.with(func() { h.publishes(transport.FollowItem{Enrolments: [][]byte{next}}); h.begin(2) })
	w.says(1, "not taking part", "taken this one's place")
	stop()
	h.wantHeard(answers...)
	c := w.config()
	if _, err := node.New(c, must(wire.Open(t.Context(), c, quiet()))(t)); err == nil || !strings.Contains(err.Error(), "another node has taken its place") {
		t.Errorf("starting a replaced node: %v", err)
	}
}

// What is wrong with one member's enrolment keeps that member out and nobody else.
func TestBadEnrolmentIsolatesOne(t *testing.T) {
	w := newWorld(t)
	h := w.hub
	h.enrolled = func(files [][]byte) [][]byte {
		same := w.enrol("switzerland", 3, node.PublicKeys{Node: public(newKey(t)), Witness: public(h.peers[0].witness)})
		return append([][]byte{[]byte("{}"), same}, files...)
	}
	w.start()
	w.says(1, "enrolment does not count", "same key")
	w.says(1, "enrolment does not count", "parsing enrolment")
	h.until("checkpoints are co-signed", func() bool { return len(h.cosigned) > 0 })
}

// Nothing is charged, and so nothing sent, where the lifetime budget does not cover the study.
func TestBudgetIsShort(t *testing.T) {
	w := newWorld(t)
	w.budget = "{epsilon: 0.5, delta: 1e-4}"
	w.start()
	w.hub.agrees(1)
	w.hub.with(func() { w.hub.begin(1) })
	w.says(1, "plan refused", "budget")
	w.hub.wantHeard()
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
