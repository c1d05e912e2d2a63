package node_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/channel"
	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/attest/simtee"
	"github.com/consilium-fl/consilium/audit"
	"github.com/consilium-fl/consilium/internal/grounds"
	"github.com/consilium-fl/consilium/internal/identity"
	"github.com/consilium-fl/consilium/internal/policy"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/terms"
	"github.com/consilium-fl/consilium/internal/transport"
	"github.com/consilium-fl/consilium/node"
	"github.com/consilium-fl/consilium/node/wire"
)

// patience bounds what a test waits for; nothing is measured by it.
const patience = time.Minute

func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newKey(t testing.TB) ed25519.PrivateKey {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return must(key, err)(t)
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

func soon() time.Time { return time.Now().Add(24 * time.Hour).Truncate(time.Second).UTC() }

// self is the hospital whose node is tested; the others are machines in the coordinator's process.
const self = "cleveland"

var members = []string{self, "hungarian", "switzerland", "va"}

const studyText = `version: consilium.study/v1
title: A small study
consortium: %s
lead: r.lead
members: [cleveland, hungarian, switzerland, va]
approvals: 4
max_patients: 1000
valid: {from: 2020-01-01T00:00:00Z, until: 2046-01-01T00:00:00Z}
ethics: {board: Example IRB, reference: "1", until: 2046-01-01}
data:
  registry: cardiology
  patient: row
  missing: drop-row
  target: {column: num, positive: "> 0"}
  features:
    age:  {unit: a, typical: [44.5, 63.5], plausible: [0, 120], source: "public clinical range"}
    chol: {unit: mg/dL, typical: [120, 320], plausible: [0, 700], source: "public clinical range"}
model: {kind: logistic, intercept: true, l2: 0, init: zero}
strategy: {name: fedsgd, rounds: 4, learning_rate: 0.25, average_last: 2}
privacy: {unit: patient, neighbours: add-or-remove-one, epsilon: 1, delta: 1e-5, clip: 1, grid_bits: 14, noise: distributed, cohort: 100, spare: 2, hospitals_per_patient: 1}
aggregation: {mode: masked, word_bits: 32}
deadlines: {away: 2s, ready: 20s, deal: 20s, upload: 20s, vote: 20s, release: 20s}
release: {to: [r.lead], hospitals: true}
`

// world is a consortium, a study and one hospital's files on disk, and the coordinator that its node
// talks to. It answers as an honest one would but where a test says otherwise.
type world struct {
	t          *testing.T
	dir        string
	governance map[string]ed25519.PrivateKey
	consortium *study.Consortium
	study      *study.Study
	terms      *terms.Terms
	root       *ecdsa.PrivateKey
	trust      *endorse.Snapshot
	keys       struct{ log, protocol, issuer ed25519.PrivateKey }
	enrolment  []byte // of the node
	logged     buffer
	budget     string
	own        string // more lines of node.yaml
	hub        *hub
}

func (w *world) path(parts ...string) string {
	return filepath.Join(append([]string{w.dir}, parts...)...)
}

func (w *world) write(b []byte, parts ...string) {
	w.t.Helper()
	ok(w.t, errors.Join(os.MkdirAll(filepath.Dir(w.path(parts...)), 0o700), os.WriteFile(w.path(parts...), b, 0o600)))
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), governance: map[string]ed25519.PrivateKey{}, budget: "{epsilon: 8, delta: 1e-4}"}
	w.logged.changed = make(chan struct{})
	w.keys.log, w.keys.protocol, w.keys.issuer = newKey(t), newKey(t), newKey(t)
	c := &study.Consortium{
		Name: "heart.example", Serial: 1, Amend: 3, Log: public(w.keys.log),
		Hospitals: map[string]study.Hospital{}, People: map[string]study.Person{"r.lead": {Role: study.RoleLead, Key: public(newKey(t))}},
		Attestation: study.Attestation{Node: accept(attest.RoleNode), Coordinator: accept(attest.RoleCoordinator)},
	}
	for _, h := range members {
		w.governance[h] = newKey(t)
		c.Hospitals[h] = study.Hospital{Governance: public(w.governance[h]), Registries: []string{"cardiology"}}
	}
	w.consortium = must(study.ParseConsortium(study.RenderConsortium(c)))(t)
	var sigs []byte
	for _, h := range members {
		sigs = must(w.consortium.Sign(sigs, w.governance[h]))(t)
	}
	w.study = must(study.Parse(fmt.Appendf(nil, studyText, signed.DigestText(w.consortium.Digest))))(t)
	w.terms = must(terms.New(w.consortium, w.study))(t)
	w.root = must(simtee.NewRoot())(t)
	keys := must(node.Init(w.path("state")))(t)
	w.enrolment = w.enrol(self, 1, keys.Public())
	w.write(w.consortium.Raw, "consortium.yaml")
	w.write(sigs, "consortium.sigs.json")
	w.write(simtee.MarshalAnchor(&w.root.PublicKey), "trust", simtee.AnchorFile)
	w.trust = must(endorse.Load(w.path("trust")))(t)
	w.write(simtee.MarshalRoot(w.root), "sim-root.key")
	w.write(w.enrolment, "enrolment.json")
	w.write([]byte("package consilium.consent\n\nrefuse contains \"never\" if input.study.epsilon > 100\n"), "consent.rego")
	w.write([]byte("age,chol,num\n50,200,0\n61,240,1\n43,n/a,1\n70,310,2\n39,180,0\n"), "data.csv")
	w.approve()
	w.hub = newHub(w)
	w.hub.serve()
	return w
}

func accept(r attest.Role) study.Accept {
	return study.Accept{Formats: []string{"sim/1"}, AllowSimulated: true, Measurements: [][32]byte{simtee.Measurement(r)}}
}

func (w *world) enrol(hospital string, serial uint64, k node.PublicKeys) []byte {
	w.t.Helper()
	return must(study.Enrolment{
		Consortium: w.consortium.Name, Hospital: hospital, Node: "1", NodeKey: k.Node, WitnessKey: k.Witness, Serial: serial, Until: soon(),
	}.Sign(w.governance[hospital]))(w.t)
}

func (w *world) approve() {
	w.write(must(study.Approval{
		Study: w.study.Digest, Hospital: self, Dataset: "cardiology", Name: "D. Steward", Role: "data steward", Meaning: "approved", Until: soon(),
	}.Sign(w.governance[self]))(w.t), "approvals", "small.json")
}

func (w *world) veto() { ok(w.t, os.Remove(w.path("approvals", "small.json"))) }

func (w *world) config() node.Config {
	w.t.Helper()
	w.write(fmt.Appendf(nil, `version: consilium.node/v1
hospital: cleveland
node: "1"
coordinator: %q
consortia: [{file: consortium.yaml, digest: %q}]
state: state
enrolment: enrolment.json
trust: trust
approvals: approvals
consent: consent.rego
registries: {cardiology: {file: data.csv, budget: %s}}
tee: sim
sim_root: sim-root.key
insecure: {simulated_tee: true}
%s`, w.hub.address, signed.DigestText(w.consortium.Digest), w.budget, w.own), "node.yaml")
	return must(node.ReadConfig(w.path("node.yaml")))(w.t)
}

// start runs the node until stop, which returns once all of it has ended: what a kill leaves, the disk,
// is what the next start finds.
func (w *world) start(change ...func(*node.Deps)) (stop func()) {
	w.t.Helper()
	c := w.config()
	d := must(wire.Open(w.t.Context(), c, slog.New(slog.NewTextHandler(&w.logged, nil))))(w.t)
	for _, f := range change {
		f(&d)
	}
	n := must(node.New(c, d))(w.t)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- errors.Join(n.Run(ctx), n.Close()) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Errorf("running the node: %v", err)
		}
	})
	w.t.Cleanup(stop)
	return stop
}

// says waits for n lines of the node's log that hold all the words.
func (w *world) says(n int, words ...string) {
	w.t.Helper()
	late := time.After(patience)
	for {
		text, changed := w.logged.read()
		found := 0
		for line := range strings.Lines(text) {
			if !slices.ContainsFunc(words, func(s string) bool { return !strings.Contains(line, s) }) {
				found++
			}
		}
		if found >= n {
			return
		}
		select {
		case <-changed:
		case <-late:
			w.t.Fatalf("the node's log says %q %d times, want %d:\n%s", words, found, n, text)
		}
	}
}

// buffer is a log that can be waited on.
type buffer struct {
	mu      sync.Mutex
	b       bytes.Buffer
	changed chan struct{}
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.changed)
	b.changed = make(chan struct{})
	return b.b.Write(p)
}

func (b *buffer) read() (string, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String(), b.changed
}

// memoryLog will sign anything.
type memoryLog struct {
	hashes  []tlog.Hash
	entries [][]byte
}

func (l *memoryLog) ReadHashes(at []int64) (hs []tlog.Hash, err error) {
	for _, i := range at {
		hs = append(hs, l.hashes[i])
	}
	return hs, nil
}

func (l *memoryLog) push(entry []byte) {
	hs, err := tlog.StoredHashes(int64(len(l.entries)), entry, l)
	if err != nil {
		panic(err)
	}
	l.hashes, l.entries = append(l.hashes, hs...), append(l.entries, entry)
}

// prefix is another log with the same first n leaves.
func (l *memoryLog) prefix(n int) *memoryLog {
	f := &memoryLog{}
	for _, e := range l.entries[:n] {
		f.push(e)
	}
	return f
}

func (l *memoryLog) Read(_ context.Context, name string) ([]byte, error) {
	path := strings.Replace(strings.Replace(name, "tile/entries/", "tile/data/", 1), "tile/", "tile/8/", 1)
	t, err := tlog.ParseTilePath(path)
	if err != nil {
		return nil, fmt.Errorf("resource %q: %w", name, fs.ErrNotExist)
	}
	if t.L >= 0 {
		return tlog.ReadTileData(t, l)
	}
	var b []byte
	for _, e := range l.entries[t.N*256:][:t.W] {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(e))), e...)
	}
	return b, nil
}

// memory is an auditor's, forgotten at once.
type memory struct{}

func (memory) Load() ([]byte, error) { return nil, nil }
func (memory) Store([]byte) error    { return nil }
func (memory) Put([]byte) error      { return nil }

// peer is another hospital: its machine is real.
type peer struct {
	name          aggregate.MemberID
	node, witness ed25519.PrivateKey
	enrolment     []byte
	member        *aggregate.Member
	vector        []byte
}

// hub is the coordinator: a real round, three hospitals and a log, all in memory and behind one lock.
type hub struct {
	*world
	address string
	issuer  *identity.Issuer

	mu       sync.Mutex
	changed  chan struct{} // closed at each change
	epoch    []byte
	items    []transport.FollowItem
	sequence uint64
	counting map[uint64]bool // items with a checkpoint that counts
	kicked   int             // how often all Follow streams were ended
	down     func()          // ends what serve started
	log      *memoryLog
	counted  []byte
	booted   map[[16]byte][]byte // promises
	peers    []*peer
	round    *aggregate.Round
	state    []byte // its last Persist
	queue    []func()
	waiting  [][]byte // promises that the next message carries
	ended    []aggregate.Result
	held     []aggregate.Signed // of peers, while their kind is mute

	heard    []aggregate.Signed // from the node, each time
	uploads  [][]byte           // vectors of the node, each attempt
	vector   []byte
	svids    int
	follows  int
	cosigned []uint64 // sizes that the node co-signed

	// What a test may change. Guarded by mu once the node runs.
	due      time.Duration                             // of promises
	withhold bool                                      // no checkpoint is counted
	alone    bool                                      // the others close a round without the node
	mute     map[string]bool                           // kinds that peers do not send
	promise  func(member string, honest []byte) []byte // for a charge
	tamper   func(*transport.FollowItem)               // each item as it is made
	onUpload func(ctx context.Context) error           // before a vector is taken
	svidLife time.Duration                             // zero: an hour
	channel  func(*channel.Config)                     // of the listener
	enrolled func([][]byte) [][]byte                   // what the preamble shows
	over     bool
}

func newHub(w *world) *hub {
	h := &hub{
		world: w, changed: make(chan struct{}), log: &memoryLog{}, booted: map[[16]byte][]byte{}, counting: map[uint64]bool{},
		epoch: []byte("epoch 1"), due: time.Second, mute: map[string]bool{},
		issuer: must(identity.NewIssuer(w.consortium.Name, w.keys.issuer, time.Now()))(w.t),
	}
	for _, m := range members[1:] {
		p := &peer{name: aggregate.MemberID(m), node: newKey(w.t), witness: newKey(w.t)}
		p.enrolment = w.enrol(m, 2, node.PublicKeys{Node: public(p.node), Witness: public(p.witness)})
		h.peers = append(h.peers, p)
	}
	h.leaf(audit.Study, 0, "r.lead", w.study.Digest)
	return h
}

// serve starts to listen, at the address of before if there was one.
func (h *hub) serve() {
	h.t.Helper()
	spki := func(k ed25519.PrivateKey) []byte { return must(x509.MarshalPKIXPublicKey(k.Public()))(h.t) }
	leaf := must(identity.SelfSigned("coordinator", newKey(h.t), time.Now()))(h.t)
	config := channel.Config{
		Role: attest.RoleCoordinator, Certificate: func() (*tls.Certificate, error) { return leaf, nil },
		Attester: simtee.NewAttester(h.root, attest.RoleCoordinator, "chip:hub"),
		Keys:     [][]byte{spki(h.keys.protocol), spki(newKey(h.t)), spki(h.keys.issuer)},
		Posture: func([32]byte) (attest.Posture, error) {
			return terms.OwnPosture(h.consortium, [32]byte{1}, "sim", true), nil
		},
		Verifiers: attest.NewVerifiers(simtee.NewVerifier()),
		Peer: func([32]byte) (channel.Expect, error) {
			policies, err := (&grounds.Grounds{}).Policies(h.consortium, attest.RoleNode, true, time.Now())
			return channel.Expect{Policies: policies, Posture: terms.Posture(h.consortium, true), Trust: h.trust}, err
		},
		LogSigner: binder{h.keys.log},
	}
	if h.channel != nil {
		h.channel(&config)
	}
	s := must(transport.NewServer(must(channel.NewServer(config))(h.t), transport.Handlers{Identity: h, Study: h, Round: h, Release: h, Audit: h}, transport.Options{Facts: h, Gate: h}))(h.t)
	at := h.address
	if at == "" {
		at = "127.0.0.1:0"
	}
	l := must(net.Listen("tcp", at))(h.t)
	h.address = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	h.down = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			h.t.Errorf("serving: %v", err)
		}
	})
	h.t.Cleanup(h.down)
}

type binder struct{ key ed25519.PrivateKey }

func (b binder) SignBinding(x []byte) ([]byte, error) {
	return signed.Sign(b.key, attest.KindBinding, x)
}

// with runs f behind the lock, and then what f made the machines do.
func (h *hub) with(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
	h.settle()
}

func (h *hub) settle() {
	for len(h.queue) > 0 {
		f := h.queue[0]
		h.queue = h.queue[1:]
		f()
	}
	close(h.changed)
	h.changed = make(chan struct{})
}

// until waits for a condition, which is asked behind the lock.
func (h *hub) until(what string, cond func() bool) {
	h.t.Helper()
	late := time.After(patience)
	for {
		h.mu.Lock()
		yes, changed := cond(), h.changed
		h.mu.Unlock()
		if yes {
			return
		}
		select {
		case <-changed:
		case <-late:
			text, _ := h.logged.read()
			h.t.Fatalf("waited in vain until %s; heard %v; the node's log:\n%s", what, h.kinds(), text)
		}
	}
}

// kinds are the kinds of what the node sent, in order.
func (h *hub) kinds() (ks []string) {
	for _, m := range h.heard {
		ks = append(ks, m.Kind)
	}
	return ks
}

func (h *hub) hears(kind string, n int) func() bool {
	return func() bool {
		found := 0
		for _, k := range h.kinds() {
			if k == kind {
				found++
			}
		}
		return found >= n
	}
}

func (h *hub) origin() string { return audit.Origin(h.consortium.Name, h.study.Digest) }

// leaf appends to the log, promises, and publishes.
func (h *hub) leaf(kind audit.Kind, round uint64, subject string, object [32]byte) []byte {
	return h.append(audit.Leaf{Kind: kind, Time: time.Now(), Study: h.study.Digest, Round: round, Subject: subject, Object: object}.Encode())
}

func (h *hub) append(entry []byte) []byte {
	i := uint64(len(h.log.entries))
	h.log.push(entry)
	h.publish()
	return must(audit.MakePromise(h.origin(), i, entry, time.Now().Add(h.due), h.keys.log))(h.t).Encode()
}

// publish shows a checkpoint of all leaves, and one that the three others co-signed, whatever they saw before.
func (h *hub) publish() {
	size := len(h.log.entries)
	root := must(tlog.TreeHash(int64(size), h.log))(h.t)
	cp := must(audit.SignCheckpoint(audit.Checkpoint{Origin: h.origin(), Size: uint64(size), Root: root}, h.keys.log))(h.t)
	h.publishes(transport.FollowItem{Checkpoint: cp})
	if h.withhold || len(h.peers) == 0 {
		return
	}
	w := audit.Witnesses{Keys: map[string]ed25519.PublicKey{}, Need: h.terms.Need}
	for _, p := range h.peers {
		w.Keys[string(p.name)] = public(p.witness)
	}
	var lines [][]byte
	for _, p := range h.peers {
		a := must(audit.NewAuditor(audit.AuditorConfig{Origin: h.origin(), Log: public(h.keys.log), Witnesses: w, Witness: p.witness, Name: string(p.name), Memory: memory{}}))(h.t)
		lines = append(lines, must(a.Advance(context.Background(), showing{cp, h.log}))(h.t))
	}
	counted, _, err := audit.MergeCosignatures(cp, lines, h.origin(), public(h.keys.log), w)
	ok(h.t, err)
	h.counted = counted
	h.publishes(transport.FollowItem{Checkpoint: counted})
}

type showing struct {
	checkpoint []byte
	audit.Reader
}

func (s showing) Read(ctx context.Context, name string) ([]byte, error) {
	if name == "checkpoint" {
		return s.checkpoint, nil
	}
	return s.Reader.Read(ctx, name)
}

func (h *hub) publishes(it transport.FollowItem) {
	h.sequence++
	it.Sequence, it.Epoch = h.sequence, h.epoch
	if it.Checkpoint != nil { // of each sort the newest one is kept
		counts := bytes.Equal(it.Checkpoint, h.counted)
		h.items = slices.DeleteFunc(h.items, func(x transport.FollowItem) bool { return x.Checkpoint != nil && h.counting[x.Sequence] == counts })
		h.counting[it.Sequence] = counts
	}
	if h.tamper != nil {
		h.tamper(&it)
	}
	h.items = append(h.items, it)
}

func (h *hub) ring() terms.Keyring {
	return terms.Keyring{Consortium: h.consortium, Protocol: public(h.keys.protocol), At: time.Now}
}

func (h *hub) model() []byte {
	return study.EncodeModel(h.study.Digest, make([]float64, h.study.Dim()))
}

func (h *hub) plan(number uint64) aggregate.Plan {
	return h.terms.Plan(number, signed.Digest(h.model()), [32]byte{})
}

// begin starts an honest round.
func (h *hub) begin(number uint64) {
	h.round = must(aggregate.NewRound(h.plan(number), h.ring(), h.keys.protocol, rand.Reader))(h.t)
	for _, p := range h.peers {
		p.member = nil
	}
	h.step(aggregate.Begin{})
}

// say signs a message as the coordinator and sends it to the node alone.
func (h *hub) say(m aggregate.Message, promises ...[]byte) aggregate.Signed {
	s := must(aggregate.SignMessage("", m, h.keys.protocol))(h.t)
	h.publishes(transport.FollowItem{Message: &s, Promises: promises})
	return s
}

// sayPlan sends a plan whose leaf the log promises.
func (h *hub) sayPlan(p aggregate.Plan) {
	s := must(aggregate.SignMessage("", p, h.keys.protocol))(h.t)
	promise := h.leaf(audit.Plan, p.Round.Number, "", s.Digest())
	h.publishes(transport.FollowItem{Message: &s, Promises: [][]byte{promise}})
}

func (h *hub) step(e aggregate.Event) {
	h.queue = append(h.queue, func() {
		if h.round == nil {
			return
		}
		number := h.round.Plan().Round.Number
		for _, f := range h.round.Step(e) {
			h.do(number, f)
		}
	})
}

func (h *hub) do(number uint64, f aggregate.Effect) {
	switch f := f.(type) {
	case aggregate.Persist:
		h.state = f.State
	case aggregate.Record:
		h.waiting = append(h.waiting, h.leaf(audit.Kind(f.Kind), number, string(f.Member), f.Object))
	case aggregate.Send:
		for _, p := range h.peers {
			if f.To == nil || slices.Contains(f.To, p.name) {
				h.deliver(p, f.Message)
			}
		}
		if f.To == nil || slices.Contains(f.To, self) {
			h.publishes(transport.FollowItem{Message: &f.Message, Promises: h.waiting})
			h.waiting = nil
		}
	case aggregate.ChargeLedger:
		f.Charge.Head = [32]byte{7}
		h.step(aggregate.Charged{Charge: must(signed.Encode(f.Charge))(h.t)})
	case aggregate.Accept:
		promise := h.leaf(audit.Charge, number, string(f.Member), signed.Digest(f.Charge))
		if h.promise != nil {
			promise = h.promise(string(f.Member), promise)
		}
		h.step(aggregate.Uploaded{Member: f.Member, Promise: promise})
	case aggregate.Open:
		h.step(aggregate.Opened{Sum: [32]byte{8}, Model: signed.Digest(h.model())})
	case aggregate.Refuse:
		h.t.Logf("the round refuses %s: %s", f.From, f.Reason)
	case aggregate.End:
		h.ended, h.round = append(h.ended, f.Result), nil
	}
}

func (h *hub) deliver(p *peer, m aggregate.Signed) {
	h.queue = append(h.queue, func() {
		if m.Kind != "plan" {
			if p.member != nil {
				h.drive(p, aggregate.Received{Message: m})
			}
			return
		}
		if p.member != nil {
			return
		}
		p.member = must(aggregate.NewMember(aggregate.MemberConfig{
			Self: p.name, Enrolment: p.enrolment, Want: h.terms.Plan(0, [32]byte{}, [32]byte{}), Keys: h.ring(), Signer: p.node, Entropy: rand.Reader,
			Noise: func(key [32]byte) aggregate.Noiser { return h.terms.Share.Keyed(key) },
		}, m))(h.t)
		h.drive(p, aggregate.Begin{})
	})
}

func (h *hub) drive(p *peer, e aggregate.Event) {
	for _, f := range p.member.Step(e) {
		switch f := f.(type) {
		case aggregate.StartTraining:
			h.drive(p, aggregate.Trained{})
		case aggregate.Send:
			h.send(f.Message)
		case aggregate.ChargeLedger:
			f.Charge.Head = sha256.Sum256([]byte(p.name))
			h.drive(p, aggregate.Charged{Charge: must(signed.Encode(f.Charge))(h.t)})
		case aggregate.FillSpool:
			plan := p.member.Plan()
			p.vector = make([]byte, plan.Dim*int(plan.WordBits)/8)
			ok(h.t, p.member.Mask(p.vector, 0, make([]int64, plan.Dim)))
			h.drive(p, aggregate.Spooled{Vector: must(aggregate.VectorDigest(bytes.NewReader(p.vector)))(h.t)})
		case aggregate.SendVector:
			h.send(f.Upload)
		case aggregate.Refuse:
			h.t.Logf("%s refuses: %s", p.name, f.Reason)
		}
	}
}

// send is a peer's message to the round.
func (h *hub) send(m aggregate.Signed) {
	if !h.alone && m.From == "va" && (m.Kind == "vote" || m.Kind == "release") {
		return // so that the node is needed
	}
	if h.mute[m.Kind] {
		h.held = append(h.held, m)
		return
	}
	h.step(aggregate.Received{Message: m})
}

// unmute lets the peers speak.
func (h *hub) unmute() {
	h.mute = map[string]bool{}
	for _, m := range h.held {
		h.step(aggregate.Received{Message: m})
	}
	h.held = nil
}

// restart is a coordinator that was killed and goes on from what it had stored.
func (h *hub) restart() {
	h.down()
	h.with(func() {
		h.epoch, h.items = append([]byte("again "), h.epoch...), nil
		h.sequence = 0
		if h.round != nil {
			h.round = must(aggregate.RestoreRound(h.state, h.ring(), h.keys.protocol, rand.Reader))(h.t)
			h.step(aggregate.Begin{})
		}
	})
	h.serve()
}

func (h *hub) Consortium([32]byte) bool { return false }

func (h *hub) Facts(_ context.Context, a transport.Ask) (policy.Peer, policy.Target, error) {
	return policy.Peer{Role: "node", Hospital: self}, policy.Target{Study: signed.DigestText(a.Session.Study)}, nil
}

func (h *hub) Decide(context.Context, policy.Request) (policy.Decision, error) {
	return policy.Decision{Allow: true}, nil
}

func (h *hub) IssueSVID(_ context.Context, enrolment []byte) (transport.SVID, error) {
	e, err := h.consortium.ParseEnrolment(enrolment, time.Now())
	if err != nil {
		return transport.SVID{}, err
	}
	id := identity.NodeID{Consortium: h.consortium.Name, Hospital: e.Hospital, Node: e.Node}
	h.mu.Lock()
	life := h.svidLife
	h.mu.Unlock()
	h.with(func() { h.svids++ })
	if life == 0 {
		der, err := h.issuer.Issue(id, e.NodeKey, time.Now())
		return transport.SVID{Certificate: der, Issuer: h.issuer.Certificate().Raw}, err
	}
	uri, err := url.Parse(id.String())
	if err != nil {
		return transport.SVID{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), URIs: []*url.URL{uri}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(life), KeyUsage: x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, template, h.issuer.Certificate(), e.NodeKey, h.keys.issuer)
	return transport.SVID{Certificate: der, Issuer: h.issuer.Certificate().Raw}, err
}

func (h *hub) GetBundle(context.Context) ([]byte, error) { return h.issuer.Certificate().Raw, nil }

var errNever = errors.New("a node does not ask for that")

func (h *hub) CreateStudy(context.Context, []byte, []byte) ([32]byte, error) {
	return [32]byte{}, errNever
}

func (h *hub) GetStudy(_ context.Context, d [32]byte) (transport.StudyInfo, error) {
	return transport.StudyInfo{Digest: d, File: h.study.Raw, State: transport.StateRunning}, nil
}
func (h *hub) ListStudies(context.Context) ([]transport.StudyInfo, error) { return nil, errNever }
func (h *hub) ApproveStudy(context.Context, []byte) ([]string, error)     { return nil, errNever }
func (h *hub) CancelStudy(context.Context, [32]byte, string) error        { return errNever }
func (h *hub) WatchStudy(context.Context, [32]byte, uint64, func(transport.WatchEvent) error) error {
	return errNever
}

func (h *hub) GetReceipt(context.Context, [32]byte, func(string, io.Reader) error) error {
	return errNever
}

func (h *hub) DownloadModel(context.Context, [32]byte, uint64) (transport.Blob, error) {
	return transport.Blob{}, errNever
}

// preamble is the first item of a stream; a boot id that is new gets its leaf.
func (h *hub) preamble(boot [16]byte) transport.FollowItem {
	if h.booted[boot] == nil {
		h.booted[boot] = h.leaf(audit.Boot, 0, self, signed.Digest(boot[:]))
	}
	files := [][]byte{h.enrolment}
	for _, p := range h.peers {
		files = append(files, p.enrolment)
	}
	if h.enrolled != nil {
		files = h.enrolled(files)
	}
	return transport.FollowItem{Epoch: h.epoch, Enrolments: files, Promises: [][]byte{h.booted[boot]}, Checkpoint: h.counted}
}

func (h *hub) Follow(ctx context.Context, p transport.Position, send func(transport.FollowItem) error) error {
	var first transport.FollowItem
	kicked := 0
	h.with(func() {
		h.follows++
		kicked = h.kicked
		if !h.over {
			first = h.preamble(p.Boot)
		}
	})
	if first.Epoch == nil {
		return fmt.Errorf("the study is over: %w", transport.ErrNotFound)
	}
	if err := send(first); err != nil {
		return err
	}
	cursor := p.Cursor
	if !bytes.Equal(p.Epoch, first.Epoch) {
		cursor = 0
	}
	for {
		h.mu.Lock()
		items, changed, over := slices.Clone(h.items), h.changed, h.kicked != kicked
		h.mu.Unlock()
		for _, it := range items {
			if it.Sequence <= cursor {
				continue
			}
			if err := send(it); err != nil {
				return err
			}
			cursor = it.Sequence
		}
		if over {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

func (h *hub) Send(_ context.Context, _ [32]byte, m aggregate.Signed) error {
	h.with(func() {
		h.heard = append(h.heard, m)
		if h.round != nil {
			h.step(aggregate.Received{Message: m})
		}
	})
	return nil
}

func (h *hub) Upload(ctx context.Context, _ transport.Vector, chunks iter.Seq2[transport.Chunk, error]) (transport.Held, error) {
	var words []byte
	for c, err := range chunks {
		if err != nil {
			return transport.Held{}, err
		}
		words = append(words, c.Words...)
	}
	var hook func(context.Context) error
	h.with(func() {
		h.uploads, h.vector = append(h.uploads, words), words
		hook = h.onUpload
	})
	if hook != nil {
		if err := hook(ctx); err != nil {
			return transport.Held{}, err
		}
	}
	return transport.Held{Whole: true}, nil
}

func (h *hub) Download(context.Context, [32]byte, [32]byte, uint64) (transport.Blob, error) {
	m := h.model()
	return transport.Blob{Total: uint64(len(m)), ReadCloser: io.NopCloser(bytes.NewReader(m))}, nil
}

func (h *hub) ReadLog(ctx context.Context, _ [32]byte, resource string) ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.log.Read(ctx, resource)
}

func (h *hub) CosignCheckpoint(_ context.Context, _ [32]byte, size uint64, _ []byte) ([]byte, error) {
	var counted []byte
	h.with(func() {
		h.cosigned = append(h.cosigned, size)
		counted = h.counted
	})
	return counted, nil
}
