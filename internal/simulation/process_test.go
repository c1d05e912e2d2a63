package simulation

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/audit"
	"github.com/consilium-fl/consilium/coordinator"
	"github.com/consilium-fl/consilium/dp"
	"github.com/consilium-fl/consilium/internal/person"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/store"
	"github.com/consilium-fl/consilium/internal/transport"
	"github.com/consilium-fl/consilium/internal/verify"
	"github.com/consilium-fl/consilium/node"
)

// playAs makes this test binary a coordinator or a node instead: a real process that a test can kill. It
// starts from the files of a federation as the daemons do.
const playAs = "CONSILIUM_TEST_PLAY_AS"

func TestMain(m *testing.M) {
	if text := os.Getenv(playAs); text != "" {
		if err := playPart(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	flag.Parse()
	if p := flag.Lookup("test.parallel"); p.Value.String() == p.DefValue {
		_ = p.Value.Set("6") // these tests wait for deadlines more than for a processor
	}
	os.Exit(m.Run())
}

// part is what a process plays.
type part struct {
	Dir      string // the federation
	Control  string // folder of hold files and of what was sent
	Hospital string // "" is the coordinator
	Noise    bool   // as a daemon adds it
	Drops    []Drop
	Attacks  []attack
	Log      bool
}

func (p part) name() string {
	if p.Hospital == "" {
		return "coordinator"
	}
	return p.Hospital
}

func playPart(text string) error {
	var p part
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return err
	}
	go func() { // nobody outlives the test
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(2)
	}()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	wire := &mitm{CodecV2: encoding.GetCodecV2("proto"), part: p}
	encoding.RegisterCodecV2(wire)
	log := slog.New(slog.DiscardHandler)
	if p.Log {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	r := &run{
		federation: &federation{dir: p.Dir, sites: []site{{name: p.Hospital}}}, wiring: wire.wiring(),
		options: Options{Drops: p.Drops, Logger: log, Progress: func(Progress) {}},
	}
	r.seen = newSeen(r.federation)
	var err error
	if p.Hospital == "" {
		err = r.startCoordinator(ctx, cancel)
	} else {
		err = r.startNode(ctx, cancel, p.Hospital)
	}
	if err != nil {
		return err
	}
	<-ctx.Done()
	r.wg.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// An attack alters what a process sends, or what the coordinator stores, in one round.
type attack struct {
	Round uint64
	What  string // a kind of message, "words" of a chunk, "mask", "garbage", "stored early", "stored late"
	Of    string // for what is stored: whose vector
	Sign  bool   // by the hospital itself, which signs what it altered; else by whoever holds the wire
	Once  bool
}

// mitm is the man in the middle: gRPC's codec, which sees every message of this process before it is
// encrypted. It writes down what is signed, holds what it is told to hold, and alters what it shall.
type mitm struct {
	encoding.CodecV2
	part part

	mu    sync.Mutex
	round atomic.Uint64 // the round that this node sends for
	key   ed25519.PrivateKey
	done  map[attack]bool
}

func (m *mitm) Marshal(v any) (mem.BufferSlice, error) {
	if p, ok := v.(proto.Message); ok {
		m.see(p.ProtoReflect())
	}
	return m.CodecV2.Marshal(v)
}

func field(m protoreflect.Message, name string) protoreflect.FieldDescriptor {
	return m.Descriptor().Fields().ByName(protoreflect.Name(name))
}

func (m *mitm) see(msg protoreflect.Message) {
	switch msg.Descriptor().Name() {
	case "UploadRequest":
		words := msg.Get(field(msg, "words")).Bytes()
		if len(words) == 0 {
			return
		}
		round := msg.Get(field(msg, "round")).Uint()
		m.hold("words", round)
		m.write(sent{Kind: "words", Round: round, Payload: bytes.Clone(words)})
		if m.attacked(round, "words") != nil {
			msg.Set(field(msg, "words"), protoreflect.ValueOfBytes(flipped(words)))
		}
	case "SendRequest", "FollowResponse":
		f := field(msg, "message")
		if !msg.Has(f) {
			return
		}
		m.signed(msg.Mutable(f).Message())
	}
}

// signed sees a signed message on its way out.
func (m *mitm) signed(msg protoreflect.Message) {
	s := aggregate.Signed{
		From: aggregate.MemberID(msg.Get(field(msg, "from")).String()), Kind: msg.Get(field(msg, "kind")).String(),
		Payload: msg.Get(field(msg, "payload")).Bytes(), Signature: msg.Get(field(msg, "signature")).Bytes(),
	}
	round := m.round.Load()
	if m.part.Hospital != "" {
		m.hold(s.Kind, round)
	}
	m.write(sent{Kind: s.Kind, Round: round, Payload: bytes.Clone(s.Payload)})
	a := m.attacked(round, s.Kind)
	if a == nil {
		return
	}
	if !a.Sign {
		msg.Set(field(msg, "payload"), protoreflect.ValueOfBytes(flipped(s.Payload)))
		return
	}
	forged, err := m.forge(s)
	if err != nil {
		panic(err)
	}
	msg.Set(field(msg, "payload"), protoreflect.ValueOfBytes(forged.Payload))
	msg.Set(field(msg, "signature"), protoreflect.ValueOfBytes(forged.Signature))
}

// flipped is b with one bit of its last byte flipped.
func flipped(b []byte) []byte {
	out := bytes.Clone(b)
	out[len(out)-1] ^= 1
	return out
}

// forge alters a message where its hospital could, and signs it again.
func (m *mitm) forge(s aggregate.Signed) (aggregate.Signed, error) {
	msg, err := aggregate.Parse(s)
	if err != nil {
		return s, err
	}
	switch x := msg.(type) {
	case aggregate.Deal: // every share differs from its commitment
		for i := range x.Shares {
			x.Shares[i].SeedCommit[0] ^= 1
		}
		msg = x
	case aggregate.Upload:
		x.Vector[0] ^= 1
		msg = x
	case aggregate.Vote:
		x.Proposal[0] ^= 1
		msg = x
	case aggregate.Release:
		x.Sealed = flipped(x.Sealed)
		msg = x
	}
	return aggregate.SignMessage(s.From, msg, m.key)
}

// attacked is the attack on what is sent now, if there is one.
func (m *mitm) attacked(round uint64, what string) *attack {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, a := range m.part.Attacks {
		if a.Round == round && a.What == what && !m.done[a] {
			m.done[a] = a.Once
			return &a
		}
	}
	return nil
}

// sent is a line of what a process sent.
type sent struct {
	Kind    string
	Round   uint64 // as far as the sender knows
	Payload []byte
}

func (m *mitm) write(s sent) {
	b, err := json.Marshal(s)
	if err == nil {
		var f *os.File
		if f, err = os.OpenFile(filepath.Join(m.part.Control, m.part.name()+".sent"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
			_, err = f.Write(append(b, '\n')) // one write: a kill leaves whole lines
			err = errors.Join(err, f.Close())
		}
	}
	if err != nil {
		panic(err)
	}
}

// hold waits while the test holds this message, and shows that it has come this far.
func (m *mitm) hold(kind string, round uint64) {
	at := func(what string) string { return fmt.Sprintf("%s.%s.%s.%d", m.part.name(), what, kind, round) }
	for exists(filepath.Join(m.part.Control, at("hold"))) {
		if f, err := os.Create(filepath.Join(m.part.Control, at("held"))); err == nil {
			_ = f.Close()
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

func (m *mitm) wiring() wiring {
	m.done = map[attack]bool{}
	return wiring{
		coordinator: func(d *coordinator.Deps) {
			d.Patience = 0 // as a daemon's
			if !m.part.Noise {
				d.Noise = noNoise
			}
			open := d.OpenLog
			d.OpenLog = func(ctx context.Context, dir, origin string) (coordinator.Log, error) {
				l, err := open(ctx, dir, origin)
				return tappedLog{l, m}, err
			}
			d.Observe = func(round uint64, of aggregate.MemberID, _ []byte) {
				m.flipStored("stored early", round, string(of))
			}
		},
		node: func(_ string, d *node.Deps) {
			m.key = d.NodeKey
			if !m.part.Noise {
				d.Noise = m.addend
			}
			drop, journal := d.Drop, d.Journal
			d.Drop = func(round uint64, kind string) bool {
				m.round.Store(round)
				return drop(round, kind)
			}
			d.Journal = func(path string) (node.Journal, error) {
				j, err := journal(path)
				return &mortal{Journal: j, part: m.part}, err
			}
		},
	}
}

// addend is a sampler of nothing, or of what spoils a sum: made once a round, after Deal.
func (m *mitm) addend(dp.Mechanism, [32]byte) aggregate.Noiser {
	round := m.round.Load()
	switch {
	case m.attacked(round, "mask") != nil:
		return spoiling{func(dst []int64) { dst[3]++ }}
	case m.attacked(round, "garbage") != nil:
		return spoiling{func(dst []int64) {
			for i := range dst {
				dst[i] = 1 << 31 // half the circle away
			}
		}}
	}
	return silent{}
}

// flipStored flips a bit of a stored vector, as whoever owns the coordinator's disk could.
func (m *mitm) flipStored(what string, round uint64, of string) {
	for _, a := range m.part.Attacks {
		if a.What != what || a.Round != round || a.Of != of || m.attacked(round, what) == nil {
			continue
		}
		found, err := filepath.Glob(filepath.Join(m.part.Dir, "coordinator", "state", "studies", "*", "rounds", of+".words"))
		if err != nil || len(found) != 1 {
			panic(fmt.Sprintf("%d stored vectors of %s: %v", len(found), of, err))
		}
		b, err := os.ReadFile(found[0])
		if err == nil {
			b[0] ^= 1
			err = os.WriteFile(found[0], b, 0o600)
		}
		if err != nil {
			panic(err)
		}
	}
}

// tappedLog hears when a charge is logged: the vector that it is for has been compared by then.
type tappedLog struct {
	coordinator.Log
	m *mitm
}

func (l tappedLog) Append(ctx context.Context, leaf audit.Leaf) (audit.Promised, error) {
	if leaf.Kind == audit.Charge && leaf.Subject != coordinator.Subject {
		l.m.flipStored("stored late", leaf.Round, leaf.Subject)
	}
	return l.Log.Append(ctx, leaf)
}

// mortal is a journal whose process dies right after an entry is durable, when the test says so.
type mortal struct {
	node.Journal
	part part
}

func (j *mortal) Append(b []byte) error {
	err := j.Journal.Append(b)
	if path := filepath.Join(j.part.Control, j.part.name()+".dies.charged"); err == nil && exists(path) {
		_ = os.Remove(path)
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	return err
}

// A fleet is a federation as processes, and its lead.
type fleet struct {
	*federation
	t       testing.TB
	control string
	setup   part // what all parts have in common
	attacks map[string][]attack
	lead    *person.Person
	procs   map[string]*process

	mu      sync.Mutex
	events  []transport.WatchEvent
	changed chan struct{}
}

type process struct {
	cmd   *exec.Cmd
	stdin io.Closer
	ended chan struct{}
}

// patient is how long a test waits for what has to happen: a busy machine takes its time.
const patient = 2 * time.Minute

func muster(t testing.TB, o Options, fields map[string]string) *fleet {
	t.Helper()
	f := federate(t, o, fields)
	fl := &fleet{federation: f, t: t, control: t.TempDir(), procs: map[string]*process{}, attacks: map[string][]attack{}, changed: make(chan struct{})}
	fl.setup = part{Dir: f.dir, Control: fl.control, Drops: o.Drops, Log: os.Getenv("CONSILIUM_TEST_LOG") != ""}
	fl.lead = f.asLead(t)
	t.Cleanup(func() {
		for _, p := range fl.procs {
			p.kill()
		}
	})
	return fl
}

// start makes a process; who is a hospital or "" for the coordinator.
func (fl *fleet) start(who string) {
	fl.t.Helper()
	p := fl.setup
	p.Hospital, p.Attacks = who, fl.attacks[who]
	text, err := json.Marshal(p)
	if err != nil {
		fl.t.Fatal(err)
	}
	cmd := exec.Command(must(os.Executable())(fl.t))
	cmd.Env = append(os.Environ(), playAs+"="+string(text))
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fl.t.Fatal(err)
	}
	x := &process{cmd: cmd, stdin: stdin, ended: make(chan struct{})}
	go func() { _ = cmd.Wait(); close(x.ended) }()
	fl.procs[who] = x
}

// kill is kill -9, and waits until the process is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
	_ = p.stdin.Close()
}

func (fl *fleet) kill(who string) { fl.procs[who].kill() }

// launch starts all processes, submits the study and follows it.
func (fl *fleet) launch() {
	fl.t.Helper()
	fl.start("")
	for _, s := range fl.sites {
		fl.start(s.name)
	}
	r := &run{federation: fl.federation, options: Options{Progress: func(Progress) {}}}
	fl.eventually("submitting the study", func() bool {
		_, err := r.submit(fl.t.Context())
		if err != nil && !errors.Is(err, transport.ErrUnreachable) {
			fl.t.Fatal(err)
		}
		return err == nil
	})
	go fl.watch(fl.t.Context())
}

// watch collects events over all of the coordinator's lives.
func (fl *fleet) watch(ctx context.Context) {
	for ctx.Err() == nil {
		client, err := fl.lead.Dial(fl.study.Digest)
		if err != nil {
			continue
		}
		err = client.WatchStudy(ctx, fl.study.Digest, 0, func(e transport.WatchEvent) error {
			fl.mu.Lock()
			defer fl.mu.Unlock()
			fl.events = append(fl.events, e)
			close(fl.changed)
			fl.changed = make(chan struct{})
			return nil
		})
		_ = client.Close()
		if err == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// await waits for an event, one that was heard before included.
func (fl *fleet) await(what string, f func(transport.WatchEvent) bool) {
	fl.t.Helper()
	deadline := time.After(patient)
	for {
		fl.mu.Lock()
		found, changed := slices.ContainsFunc(fl.events, f), fl.changed
		fl.mu.Unlock()
		if found {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			fl.mu.Lock()
			defer fl.mu.Unlock()
			fl.t.Fatalf("waiting for %s: it did not come; the last events are %v", what, fl.events[max(0, len(fl.events)-12):])
		}
	}
}

func arrived(round uint64, phase, hospital string) func(transport.WatchEvent) bool {
	return func(e transport.WatchEvent) bool {
		return e.Kind == "arrived" && e.Round == round && e.Phase == phase && e.Hospital == hospital
	}
}

func (fl *fleet) eventually(what string, f func() bool) {
	fl.t.Helper()
	for deadline := time.Now().Add(patient); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			fl.t.Fatalf("%s: it did not happen", what)
		}
	}
}

// hold keeps what a hospital is about to send until free; heldUp waits until it is about to.
func (fl *fleet) hold(who, kind string, round uint64) (free func(), heldUp func()) {
	path := func(what string) string {
		return filepath.Join(fl.control, fmt.Sprintf("%s.%s.%s.%d", who, what, kind, round))
	}
	f := must(os.Create(path("hold")))(fl.t)
	if err := f.Close(); err != nil {
		fl.t.Fatal(err)
	}
	free = func() {
		if err := os.Remove(path("hold")); err != nil {
			fl.t.Fatal(err)
		}
	}
	return free, func() {
		fl.t.Helper()
		fl.eventually(fmt.Sprintf("%s sends its %s of round %d", who, kind, round), func() bool { return exists(path("held")) })
	}
}

// finish waits for the end of the study, fetches its folder, stops everybody and checks what has to hold
// whoever was killed when.
func (fl *fleet) finish() (dir string, rounds []past) {
	t := fl.t
	t.Helper()
	fl.await("the end of the study", func(e transport.WatchEvent) bool { return e.Kind == "state" && e.Text == "ended" })
	dir = t.TempDir()
	r := &run{federation: fl.federation}
	if err := r.fetch(t.Context(), fl.lead, dir); err != nil {
		t.Fatal(err)
	}
	for _, p := range fl.procs {
		p.kill()
	}
	report, err := verify.Folder(t.Context(), dir, verify.Options{Consortium: &fl.consortium.Digest})
	if err != nil {
		t.Fatal(err)
	}
	if !report.OK {
		t.Errorf("the folder does not verify:\n%s", report)
	}
	rounds = must(history(dir))(t)
	fl.checkLedgers(dir, rounds)
	fl.checkOneAnswer(dir, rounds)
	return dir, rounds
}

// ledger opens a copy of a ledger.
func (fl *fleet) ledger(pattern string) *dp.Ledger {
	t := fl.t
	t.Helper()
	found := must(filepath.Glob(fl.path(filepath.FromSlash(pattern))))(t)
	if len(found) != 1 {
		t.Fatalf("%d files are named %s, want one ledger", len(found), pattern)
	}
	at := filepath.Join(t.TempDir(), "ledger")
	if err := os.WriteFile(at, must(os.ReadFile(found[0]))(t), 0o600); err != nil {
		t.Fatal(err)
	}
	j := must(store.OpenJournal(at))(t)
	t.Cleanup(func() { _ = j.Close() })
	return must(dp.OpenLedger(j, dp.Budget{Epsilon: math.Inf(1), Delta: math.Inf(1)}))(t)
}

// checkLedgers wants spent ≥ released: each hospital has charged every round whose set it is in, under that
// round's plan and roster, and the coordinator every round that it certified.
func (fl *fleet) checkLedgers(dir string, rounds []past) {
	t := fl.t
	t.Helper()
	type identity struct {
		number       uint64
		plan, roster [32]byte
	}
	charges := func(l *dp.Ledger) map[identity]bool {
		all := map[identity]bool{}
		for _, e := range l.Entries(fl.study.Digest) {
			all[identity{e.Charge.Number, e.Charge.Plan, e.Charge.Roster}] = true
		}
		return all
	}
	own := charges(fl.ledger("coordinator/state/studies/*/ledger"))
	spent := map[string]map[identity]bool{}
	for _, s := range fl.sites {
		spent[s.name] = charges(fl.ledger(s.name + "/state/ledger-*.journal"))
	}
	released := 0
	for _, r := range rounds {
		if len(r.set) == 0 {
			continue
		}
		released++
		id := identity{r.number, must(readSigned(roundFile(dir, r.number, "plan.cbor")))(t).Digest(), must(readSigned(roundFile(dir, r.number, "roster.cbor")))(t).Digest()}
		if !own[id] {
			t.Errorf("round %d is %s, and the coordinator has not charged it", r.number, r.outcome)
		}
		for _, h := range r.set {
			if !spent[h][id] {
				t.Errorf("round %d is %s with %s in its set, who has not charged it", r.number, r.outcome, h)
			}
		}
	}
	if len(own) < released {
		t.Errorf("the coordinator has %d charges for %d rounds that it may have opened", len(own), released)
	}
}

// checkOneAnswer reads what every process sent in all its lives: a node gives one answer to each message,
// and one vector a round; the coordinator says one thing of each kind a round.
func (fl *fleet) checkOneAnswer(dir string, rounds []past) {
	t := fl.t
	t.Helper()
	round := map[[32]byte]uint64{} // of each message of the coordinator
	for _, r := range rounds {
		for _, kind := range []string{"plan", "committee", "roster", "proposal", "certificate", "result"} {
			s, err := readSigned(roundFile(dir, r.number, kind+".cbor"))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			round[must(s, err)(t).Digest()] = r.number
		}
	}
	for _, s := range fl.sites {
		said := map[string]map[[32]byte]bool{}
		for _, x := range fl.sent(s.name) {
			number := x.Round
			if x.Kind != "words" {
				var known bool
				if number, known = round[answered(t, x)]; !known {
					t.Errorf("%s sent a %s that answers no message of any round", s.name, x.Kind)
				}
			}
			k := fmt.Sprintf("%s of round %d", x.Kind, number)
			if said[k] == nil {
				said[k] = map[[32]byte]bool{}
			}
			said[k][signed.Digest(x.Payload)] = true
		}
		for k, different := range said {
			if len(different) != 1 {
				t.Errorf("%s sent %d different answers: %s", s.name, len(different), k)
			}
		}
	}
	for _, x := range fl.sent("") {
		if _, known := round[signed.Digest(x.Payload)]; !known {
			t.Errorf("the coordinator sent a %s that is in no transcript", x.Kind)
		}
	}
}

// answered is the digest of the message that a node's message answers.
func answered(t testing.TB, x sent) [32]byte {
	t.Helper()
	switch m := must(aggregate.Parse(aggregate.Signed{Kind: x.Kind, Payload: x.Payload}))(t).(type) {
	case aggregate.Ready:
		return m.Plan
	case aggregate.Deal:
		return m.Committee
	case aggregate.Upload:
		return m.Roster
	case aggregate.Vote:
		return m.Proposal
	case aggregate.Release:
		return m.Certificate
	}
	t.Fatalf("a node sends no %s", x.Kind)
	return [32]byte{}
}

func (fl *fleet) sent(who string) []sent {
	fl.t.Helper()
	b, err := os.ReadFile(filepath.Join(fl.control, part{Hospital: who}.name()+".sent"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		fl.t.Fatal(err)
	}
	var all []sent
	for line := range bytes.Lines(b) {
		var x sent
		if err := json.Unmarshal(line, &x); err != nil {
			fl.t.Fatal(err)
		}
		all = append(all, x)
	}
	return all
}
