package coordinator_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/channel"
	"github.com/consilium-fl/consilium/attest/simtee"
	"github.com/consilium-fl/consilium/audit"
	"github.com/consilium-fl/consilium/coordinator"
	"github.com/consilium-fl/consilium/coordinator/wire"
	"github.com/consilium-fl/consilium/internal/identity"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/terms"
	"github.com/consilium-fl/consilium/internal/transport"
)

func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newKey(t testing.TB) ed25519.PrivateKey {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return must(key, err)(t)
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

// federation is a consortium on disk, with the real store, gate, log and attestation, and a lead.
type federation struct {
	t          testing.TB
	dir        string
	hospitals  []string
	governance map[string]ed25519.PrivateKey
	lead       ed25519.PrivateKey
	consortium *study.Consortium
	deps       coordinator.Deps // of the running coordinator
	address    string
	patience   time.Duration
	change     func(*coordinator.Deps)
	attester   attest.Attester // of the nodes; nil: each a simulated one
	machine    string          // kind of their machines; empty: sim
}

// workFolder is a temporary folder. The library that keeps a log may be at its last checkpoint for some
// milliseconds after the log was closed, so a folder that fills again is emptied again.
func workFolder(t testing.TB) string {
	t.Helper()
	dir := must(os.MkdirTemp("", "consilium-test-"))(t)
	t.Cleanup(func() {
		var err error
		for range 100 {
			if err = os.RemoveAll(dir); err == nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Error(err)
	})
	return dir
}

func newFederation(t testing.TB, hospitals ...string) *federation {
	t.Helper()
	return found(t, accept(attest.RoleNode), hospitals...)
}

// found makes a federation that appraises its nodes as stated.
func found(t testing.TB, nodes study.Accept, hospitals ...string) *federation {
	t.Helper()
	slices.Sort(hospitals)
	f := &federation{t: t, dir: workFolder(t), hospitals: hospitals, governance: map[string]ed25519.PrivateKey{}, lead: newKey(t)}
	logText := must(coordinator.Init(f.path("state")))(t)
	c := &study.Consortium{
		Name: "heart.example", Serial: 1, Amend: len(hospitals)/2 + 1, Log: must(signed.ParseKey(logText))(t),
		Hospitals: map[string]study.Hospital{}, People: map[string]study.Person{"r.lead": {Role: study.RoleLead, Key: public(f.lead)}},
		Attestation: study.Attestation{Node: nodes, Coordinator: accept(attest.RoleCoordinator)},
	}
	for _, h := range hospitals {
		f.governance[h] = newKey(t)
		c.Hospitals[h] = study.Hospital{Governance: public(f.governance[h]), Registries: []string{"cardiology"}}
	}
	f.consortium = must(study.ParseConsortium(study.RenderConsortium(c)))(t)
	var sigs []byte
	for _, h := range hospitals {
		sigs = must(f.consortium.Sign(sigs, f.governance[h]))(t)
	}
	root := must(simtee.NewRoot())(t)
	f.write("consortium.yaml", f.consortium.Raw)
	f.write("consortium.sigs.json", sigs)
	f.write("trust/sim-root.pem", simtee.MarshalAnchor(&root.PublicKey))
	f.write("sim-root.key", simtee.MarshalRoot(root))
	f.write("coordinator.yaml", fmt.Appendf(nil, `version: consilium.coordinator/v1
listen: "127.0.0.1:0"
consortia: [{file: consortium.yaml, digest: %q}]
state: state
trust: trust
references: references
tee: sim
sim_root: sim-root.key
insecure: {simulated_tee: true}
`, signed.DigestText(f.consortium.Digest)))
	return f
}

func accept(r attest.Role) study.Accept {
	return study.Accept{Formats: []string{"sim/1"}, AllowSimulated: true, Measurements: [][32]byte{simtee.Measurement(r)}}
}

func (f *federation) path(parts ...string) string {
	return filepath.Join(append([]string{f.dir}, parts...)...)
}

func (f *federation) write(name string, b []byte) {
	f.t.Helper()
	path := f.path(filepath.FromSlash(name))
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, b, 0o600)); err != nil {
		f.t.Fatal(err)
	}
}

// quiet drops logs unless the test is verbose.
func quiet(t testing.TB) *slog.Logger {
	if !testing.Verbose() || os.Getenv("CONSILIUM_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

// serve starts a coordinator on the state of the one before; stop ends it and waits.
func (f *federation) serve() (c *coordinator.Coordinator, stop func()) {
	f.t.Helper()
	config := must(coordinator.ReadConfig(f.path("coordinator.yaml")))(f.t)
	d, done, err := wire.Open(f.t.Context(), config, quiet(f.t))
	if err != nil {
		f.t.Fatal(err)
	}
	d.Patience = f.patience
	if f.change != nil {
		f.change(&d)
	}
	f.deps = d
	c = must(coordinator.New(config, d))(f.t)
	at := f.address
	if at == "" {
		at = config.Listen
	}
	l := must(net.Listen("tcp", at))(f.t)
	f.address = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- errors.Join(c.Serve(ctx, l), done()) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			f.t.Errorf("serving: %v", err)
		}
	})
	f.t.Cleanup(stop)
	return c, stop
}

// dial connects for a study, or for the consortium.
func (f *federation) dial(digest [32]byte, role attest.Role, key ed25519.PrivateKey, svid []byte, witness ed25519.PublicKey) *transport.Client {
	f.t.Helper()
	cert := must(identity.SelfSigned("test", key, time.Now()))(f.t)
	if svid != nil {
		cert = &tls.Certificate{Certificate: [][]byte{svid}, PrivateKey: key}
	}
	deps := f.deps // a handshake may come after the next coordinator has started
	config := channel.Config{
		Role: role, Study: digest, Certificate: func() (*tls.Certificate, error) { return cert, nil }, Verifiers: deps.Verifiers,
		Peer: func([32]byte) (channel.Expect, error) {
			g, _ := deps.Grounds.Current()
			policies, err := g.Policies(f.consortium, attest.RoleCoordinator, true, time.Now())
			return channel.Expect{Policies: policies, Posture: terms.Posture(f.consortium, true), Trust: g.Trust, LogKey: f.consortium.Log}, err
		},
	}
	if role == attest.RoleNode {
		root := must(simtee.ParseRoot(must(os.ReadFile(f.path("sim-root.key")))(f.t)))(f.t)
		config.Attester = simtee.NewAttester(root, attest.RoleNode, machineOf(key))
		kind := "sim"
		if f.attester != nil {
			config.Attester, kind = f.attester, f.machine
		}
		config.Keys = [][]byte{must(x509.MarshalPKIXPublicKey(witness))(f.t)}
		config.Posture = func([32]byte) (attest.Posture, error) {
			return terms.OwnPosture(f.consortium, sha256.Sum256([]byte("node policy")), kind, true), nil
		}
	}
	client := must(transport.Dial(f.address, must(channel.NewClient(config))(f.t)))(f.t)
	f.t.Cleanup(func() { _ = client.Close() })
	return client
}

// machineOf is the machine that a node with that key attests from.
func machineOf(key ed25519.PrivateKey) string { return fmt.Sprintf("chip:%x", public(key)[:8]) }

func (f *federation) asLead(digest [32]byte) *transport.Client {
	return f.dial(digest, attest.RolePerson, f.lead, nil, nil)
}

// studyText is a small study: two columns and an intercept.
const studyText = `version: consilium.study/v1
title: A small study
consortium: %s
lead: r.lead
members: [%s]
approvals: %d
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
strategy: {name: fedsgd, rounds: 2, learning_rate: 0.25, average_last: 2}
privacy: {unit: patient, neighbours: add-or-remove-one, epsilon: 1, delta: 1e-5, clip: 1, grid_bits: 14, noise: distributed, cohort: 100, spare: 2, hospitals_per_patient: 1}
aggregation: {mode: masked, word_bits: 32}
deadlines: {away: 2s, ready: 20s, deal: 20s, upload: 20s, vote: 20s, release: 20s}
release: {to: [r.lead], hospitals: true}
`

// propose makes a study and hands it in; approve hands in the approvals of all.
func (f *federation) propose(replace ...string) *study.Study {
	f.t.Helper()
	text := fmt.Sprintf(studyText, signed.DigestText(f.consortium.Digest), strings.Join(f.hospitals, ", "), len(f.hospitals))
	text = strings.NewReplacer(replace...).Replace(text)
	s := must(study.Parse([]byte(text)))(f.t)
	sig := must(study.SignStudy(s.Raw, f.lead))(f.t)
	if got := must(f.asLead(f.consortium.Digest).CreateStudy(f.t.Context(), s.Raw, sig))(f.t); got != s.Digest {
		f.t.Fatalf("created %x, want %x", got, s.Digest)
	}
	return s
}

func (f *federation) approval(s *study.Study, hospital string) []byte {
	a := study.Approval{
		Study: s.Digest, Hospital: hospital, Dataset: "cardiology", Name: "D. Steward", Role: "data steward",
		Meaning: "approved", Until: time.Now().Add(24 * time.Hour).Truncate(time.Second).UTC(),
	}
	return must(a.Sign(f.governance[hospital]))(f.t)
}

func (f *federation) approve(s *study.Study) {
	f.t.Helper()
	lead := f.asLead(f.consortium.Digest)
	for _, h := range f.hospitals {
		if _, err := lead.ApproveStudy(f.t.Context(), f.approval(s, h)); err != nil {
			f.t.Fatal(err)
		}
	}
}

// watch waits for an event; it sees all from the beginning.
func (f *federation) watch(s *study.Study, until func(transport.WatchEvent) bool) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	defer cancel()
	found := errors.New("found")
	var told []string
	err := f.asLead(s.Digest).WatchStudy(ctx, s.Digest, 0, func(e transport.WatchEvent) error {
		told = append(told, fmt.Sprintf("%s %d %s %s %s", e.Kind, e.Round, e.Phase, e.Hospital, e.Text))
		if until(e) {
			return found
		}
		return nil
	})
	if !errors.Is(err, found) {
		f.t.Fatalf("the event did not come: %v; told:\n%s", err, strings.Join(told, "\n"))
	}
}

// hospital is a node that a test plays: its machine is real, its patients are not.
type hospital struct {
	f         *federation
	name      string
	key       ed25519.PrivateKey
	witness   ed25519.PrivateKey
	enrolment []byte
	boot      [16]byte
	study     *study.Study
	terms     *terms.Terms
	auditor   *audit.Auditor

	client *transport.Client
	ring   terms.Keyring
	svid   []byte

	mu        sync.Mutex
	member    *aggregate.Member
	number    uint64
	vector    []byte
	sent      []aggregate.Signed
	files     [][]byte
	witnesses audit.Witnesses
	epoch     []byte
	plain     []int64
	results   []aggregate.Result
	plans     int

	hush   sync.Mutex
	silent map[string]bool // swallows messages of these kinds, and "cosign"
	spoil  func(words []byte)
	hear   func(transport.FollowItem)
}

type memory struct{ b []byte }

func (m *memory) Load() ([]byte, error) { return m.b, nil }
func (m *memory) Store(b []byte) error  { m.b = bytes.Clone(b); return nil }
func (m *memory) Put(b []byte) error    { return m.Store(b) }

func (f *federation) newHospital(name string, serial uint64) *hospital {
	h := &hospital{f: f, name: name, key: newKey(f.t), witness: newKey(f.t), silent: map[string]bool{}, plain: []int64{100, -200, int64(len(name))}}
	h.enrolment = must(study.Enrolment{
		Consortium: f.consortium.Name, Hospital: name, Node: "1", NodeKey: public(h.key), WitnessKey: public(h.witness),
		Serial: serial, Until: time.Now().Add(24 * time.Hour).Truncate(time.Second).UTC(),
	}.Sign(f.governance[name]))(f.t)
	_, _ = rand.Read(h.boot[:])
	return h
}

// join attests, gets an SVID and attests again with it.
func (h *hospital) join(s *study.Study) error {
	f := h.f
	h.study, h.terms = s, must(terms.New(f.consortium, s))(f.t)
	if h.svid == nil {
		first := f.dial(s.Digest, attest.RoleNode, h.key, nil, public(h.witness))
		svid, err := first.IssueSVID(f.t.Context(), h.enrolment)
		if err != nil {
			return err
		}
		h.svid = svid.Certificate
	}
	h.client = f.dial(s.Digest, attest.RoleNode, h.key, h.svid, public(h.witness))
	h.ring = terms.Keyring{Consortium: f.consortium, Protocol: public(f.deps.Keys.Protocol), At: time.Now, Known: &terms.Known{}}
	if h.auditor == nil {
		h.auditor = must(audit.NewAuditor(audit.AuditorConfig{
			Origin: audit.Origin(f.consortium.Name, s.Digest), Log: f.consortium.Log,
			Witnesses: audit.Witnesses{Keys: map[string]ed25519.PublicKey{h.name: public(h.witness)}, Need: h.terms.Need},
			Witness:   h.witness, Name: h.name, Memory: &memory{},
		}))(f.t)
	}
	return nil
}

// follow takes part until ctx ends or the study is over.
func (h *hospital) follow(ctx context.Context) error {
	var cursor uint64
	for {
		err := h.client.Follow(ctx, transport.Position{Study: h.study.Digest, Cursor: cursor, Boot: h.boot, Epoch: h.epoch}, func(it transport.FollowItem) error {
			if h.hear != nil {
				h.hear(it)
			}
			if !bytes.Equal(it.Epoch, h.epoch) {
				h.epoch, cursor = it.Epoch, 0
				for _, m := range h.sent {
					h.deliver(ctx, m)
				}
			}
			cursor = max(cursor, it.Sequence)
			return h.take(ctx, it)
		})
		if err != nil {
			return err
		}
	}
}

// play runs follow in the background, and connects again while the coordinator is away.
func (h *hospital) play(s *study.Study) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	if err := h.join(s); err != nil {
		h.f.t.Fatal(err)
	}
	go func() {
		defer close(ended)
		for {
			err := h.follow(ctx)
			switch {
			case ctx.Err() != nil, errors.Is(err, transport.ErrNotFound):
				return
			case errors.Is(err, transport.ErrUnreachable), errors.Is(err, transport.ErrSessionOver), errors.Is(err, transport.ErrTooLate):
				select {
				case <-time.After(20 * time.Millisecond):
				case <-ctx.Done():
					return
				}
			default:
				if !h.isSilent("that it is refused") {
					h.f.t.Errorf("%s follows: %v", h.name, err)
				}
				return
			}
		}
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		<-ended
	})
	h.f.t.Cleanup(stop)
	return stop
}

func (h *hospital) take(ctx context.Context, it transport.FollowItem) error {
	before := len(h.files)
	for _, e := range it.Enrolments {
		if !slices.ContainsFunc(h.files, func(b []byte) bool { return bytes.Equal(b, e) }) {
			h.files = append(h.files, e)
		}
	}
	if len(h.files) > before {
		var err error
		if h.witnesses, err = h.terms.Witnesses(h.files, time.Now()); err != nil {
			return err
		}
		if err := h.auditor.SetWitnesses(h.witnesses.Keys); err != nil {
			return err
		}
	}
	for _, p := range it.Promises {
		x, _, err := audit.ParsePromised(p, audit.Origin(h.f.consortium.Name, h.study.Digest), h.f.consortium.Log)
		if err != nil {
			return err
		}
		if err := h.auditor.Expect(x); err != nil {
			return err
		}
	}
	if it.Checkpoint != nil {
		if err := h.cosign(ctx, it.Checkpoint); err != nil {
			return err
		}
	}
	if it.Message == nil {
		return nil
	}
	return h.message(ctx, *it.Message)
}

// cosign checks and signs the newest checkpoint; a test's hospital that is told to keep silent does not.
func (h *hospital) cosign(ctx context.Context, note []byte) error {
	w := h.witnesses
	r := h.client.LogReader(h.study.Digest)
	c, err := audit.ParseCheckpoint(note, audit.Origin(h.f.consortium.Name, h.study.Digest), h.f.consortium.Log, w)
	if err != nil {
		return err
	}
	if w.Counts(c) {
		_, err := h.auditor.Counted(ctx, note, r)
		return err
	}
	line, err := h.auditor.Advance(ctx, r)
	if err != nil || line == nil || h.isSilent("cosign") {
		return err
	}
	note, err = r.Read(ctx, "checkpoint")
	if err != nil {
		return err
	}
	newest, err := audit.ParseCheckpoint(note, audit.Origin(h.f.consortium.Name, h.study.Digest), h.f.consortium.Log, w)
	if err != nil {
		return err
	}
	for _, size := range []uint64{c.Size, newest.Size} {
		if _, err := h.client.CosignCheckpoint(ctx, h.study.Digest, size, line); err != nil && !errors.Is(err, transport.ErrTooLate) {
			return err
		}
	}
	return nil
}

// outbox is what was to be sent in this round.
func (h *hospital) outbox() []aggregate.Signed {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.sent)
}

func (h *hospital) message(ctx context.Context, m aggregate.Signed) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m.Kind == "plan" {
		parsed, err := aggregate.Parse(m)
		if err != nil {
			return err
		}
		p := parsed.(aggregate.Plan)
		if p.Round.Number <= h.number {
			return nil
		}
		h.number, h.sent = p.Round.Number, nil
		h.plans++
		h.member, err = aggregate.NewMember(aggregate.MemberConfig{
			Self: aggregate.MemberID(h.name), Enrolment: h.enrolment, Want: h.terms.Plan(0, [32]byte{}, [32]byte{}),
			Keys: h.ring, Signer: h.key, Entropy: rand.Reader,
			Noise: func(key [32]byte) aggregate.Noiser { return h.terms.Share.Keyed(key) },
		}, m)
		if err != nil {
			return err
		}
		return h.step(ctx, aggregate.Begin{})
	}
	if h.member == nil {
		return nil
	}
	return h.step(ctx, aggregate.Received{Message: m})
}

func (h *hospital) step(ctx context.Context, e aggregate.Event) error {
	for _, x := range h.member.Step(e) {
		var next aggregate.Event
		switch x := x.(type) {
		case aggregate.StartTraining:
			if _, err := h.client.Download(ctx, h.study.Digest, x.Plan.Model); err != nil {
				h.number, h.plans = h.number-1, h.plans-1 // the plan comes again over the next connection
				return err
			}
			next = aggregate.Trained{}
		case aggregate.Send:
			h.sent = append(h.sent, x.Message)
			h.deliver(ctx, x.Message)
		case aggregate.ChargeLedger:
			x.Charge.Head = sha256.Sum256(fmt.Appendf(nil, "%s %d", h.name, x.Charge.Number))
			b, err := signed.Encode(x.Charge)
			if err != nil {
				return err
			}
			next = aggregate.Charged{Charge: b}
		case aggregate.FillSpool:
			p := h.member.Plan()
			h.vector = make([]byte, p.Dim*int(p.WordBits)/8)
			if err := h.member.Mask(h.vector, 0, h.plain); err != nil {
				return err
			}
			d, err := aggregate.VectorDigest(bytes.NewReader(h.vector))
			if err != nil {
				return err
			}
			next = aggregate.Spooled{Vector: d}
		case aggregate.SendVector:
			h.sent = append(h.sent, x.Upload)
			h.deliver(ctx, x.Upload)
		case aggregate.End:
			h.results = append(h.results, x.Result)
		case aggregate.Refuse:
			h.f.t.Logf("%s refuses: %s", h.name, x.Reason)
		}
		if next != nil {
			if err := h.step(ctx, next); err != nil {
				return err
			}
		}
	}
	return nil
}

func (h *hospital) isSilent(kind string) bool {
	h.hush.Lock()
	defer h.hush.Unlock()
	return h.silent[kind]
}

func (h *hospital) silence(kinds ...string) {
	h.hush.Lock()
	defer h.hush.Unlock()
	h.silent = map[string]bool{}
	for _, k := range kinds {
		h.silent[k] = true
	}
}

// deliver sends a message, an upload with its vector first. A coordinator that does not take it says why
// in the log of the test; the study's end shows whether it mattered.
func (h *hospital) deliver(ctx context.Context, m aggregate.Signed) {
	if h.isSilent(m.Kind) {
		return
	}
	err := func() error {
		if m.Kind == "upload" {
			parsed, err := aggregate.Parse(m)
			if err != nil {
				return err
			}
			words := bytes.Clone(h.vector)
			if h.spoil != nil {
				h.spoil(words)
			}
			v := transport.Vector{Study: h.study.Digest, Round: h.number, Roster: parsed.(aggregate.Upload).Roster}
			if err := h.client.Upload(ctx, v, bytes.NewReader(words), int64(len(words)), nil); err != nil {
				return err
			}
		}
		return h.client.Send(ctx, h.study.Digest, m)
	}()
	if isRefused(err) && strings.Contains(err.Error(), "send it again") {
		h.deliver(ctx, m)
		return
	}
	if err != nil && ctx.Err() == nil {
		h.f.t.Logf("%s sends %s: %v", h.name, m.Kind, err)
	}
}

// playAll plays every hospital, silent about some kinds of messages.
func (f *federation) playAll(s *study.Study, silent ...string) map[string]*hospital {
	all := map[string]*hospital{}
	for _, name := range f.hospitals {
		all[name] = f.newHospital(name, 1)
		all[name].silence(silent...)
		all[name].play(s)
	}
	return all
}
