package channel

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
)

// regime is what everybody appraises by, until somebody changes it: a coordinator and nodes a and b on endorsed chips.
type regime struct {
	policy atomic.Pointer[attest.Policy]
	trust  atomic.Pointer[endorse.Snapshot]
	party  func(testing.TB, attest.Role, *chip) Config
	chips  map[string]*chip
}

func newRegime(t testing.TB, f *federation, quote time.Duration) *regime {
	t.Helper()
	r := &regime{chips: map[string]*chip{}}
	for _, name := range []string{"coordinator", "a", "b"} {
		r.chips[name] = newChip(t, name, quote)
	}
	r.set(anyChip())
	r.revoke(t)
	r.party = f.onChips(r.trust.Load, func() attest.Policy { return *r.policy.Load() })
	return r
}

func (r *regime) set(p attest.Policy) { r.policy.Store(&p) }

func (r *regime) pin(machines ...string) {
	p := anyChip()
	p.Machines = attest.SetOf(machines...)
	r.set(p)
}

func (r *regime) revoke(t testing.TB, machines ...string) {
	t.Helper()
	r.trust.Store(trusting(t, machines, r.chips["coordinator"], r.chips["a"], r.chips["b"]))
}

func (r *regime) node(t testing.TB, name string) Config {
	return r.party(t, attest.RoleNode, r.chips[name])
}

func (r *regime) coordinator(t testing.TB) Config {
	return r.party(t, attest.RoleCoordinator, r.chips["coordinator"])
}

// book keeps outcomes.
type book struct {
	mu  sync.Mutex
	all []Outcome
}

func (b *book) observe(o Outcome) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all = append(b.all, o)
}

func (b *book) kept(is func(Outcome) bool) (out []Outcome) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, o := range b.all {
		if is(o) {
			out = append(out, o)
		}
	}
	return out
}

func admitted(o Outcome) bool { return o.Err == nil }
func closed(o Outcome) bool   { return o.Ended }
func refused(o Outcome) bool  { return o.Err != nil && !o.Ended }

// TestChangeDuringARound: node a is in the middle of an upload when it stops being accepted. Its stream ends at once
// and with every reason, its reconnect is refused, and the upload of node b goes on over the session that it has.
func TestChangeDuringARound(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*testing.T, *regime)
		codes  []string
		again  string
	}{
		{
			"row 62 another policy", func(_ *testing.T, r *regime) { r.pin("chip:b", "chip:coordinator") },
			[]string{CodePolicyChanged, attest.CodeMachineUnlisted},
			attest.CodeMachineUnlisted,
		},
		{
			"a revoked machine", func(t *testing.T, r *regime) { r.revoke(t, "a") },
			[]string{CodeTrustChanged, attest.CodeRevoked},
			attest.CodeRevoked,
		},
		{
			"both at once", func(t *testing.T, r *regime) { r.pin("chip:b", "chip:coordinator"); r.revoke(t, "a") },
			[]string{CodePolicyChanged, CodeTrustChanged, attest.CodeRevoked},
			attest.CodeRevoked,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRegime(t, newFederation(t), 0)
			var coordinator book
			told := make(chan Outcome, 1) // node a, why it is refused
			sc := r.coordinator(t)
			sc.Observe = coordinator.observe
			creds := server(t, sc)
			s, address := start(t, "127.0.0.1:0", creds)
			uploads := map[string]grpc_testing.TestService_StreamingInputCallClient{}
			conns := map[string]*grpc.ClientConn{}
			for _, name := range []string{"a", "b"} {
				nc := r.node(t, name)
				if name == "a" {
					nc.Observe = func(o Outcome) {
						if refused(o) {
							select {
							case told <- o:
							default:
							}
						}
					}
				}
				conns[name], _ = connect(t, address, client(t, nc))
				up, err := grpc_testing.NewTestServiceClient(conns[name]).StreamingInputCall(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if err := up.Send(chunk("1")); err != nil || <-s.round.got != "chip:"+name+" 1" {
					t.Fatal("the upload does not begin: ", err)
				}
				uploads[name] = up
			}

			tc.change(t, r)
			creds.Reappraise()

			got := coordinator.kept(closed)
			if len(got) != 1 || got[0].Session.Result.Claims.Machine != "chip:a" {
				t.Fatalf("ended %+v, want chip:a alone", got)
			}
			wantCodes(t, got[0].Err, attest.RoleCoordinator, tc.codes...)
			if err := <-s.round.ended; status.Code(err) != codes.Canceled {
				t.Errorf("the upload ended by %v", err)
			}
			if _, err := uploads["a"].CloseAndRecv(); status.Code(err) != codes.Unavailable {
				t.Errorf("the node's stream ended by %v", err)
			}
			if err := uploads["b"].Send(chunk("2")); err != nil || <-s.round.got != "chip:b 2" {
				t.Errorf("node b does not go on: %v", err)
			}
			if _, err := uploads["b"].CloseAndRecv(); err != nil || len(coordinator.kept(admitted)) != 2 {
				t.Errorf("node b ended with %v after %d admissions, want two", err, len(coordinator.kept(admitted)))
			}

			ctx, cancel := context.WithCancel(t.Context())
			again := make(chan Outcome, 1)
			go func() { again <- <-told; cancel() }()
			if _, err := healthpb.NewHealthClient(conns["a"]).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true)); status.Code(err) != codes.Canceled {
				t.Errorf("node a came in again: %v", err)
			}
			wantCodes(t, (<-again).Err, attest.RoleCoordinator, tc.again)
		})
	}
}

// met is a session over TCP between the coordinator and node a, with both ends' books.
type met struct {
	*regime
	coordinator, node       *Credentials
	atCoordinator, atNode   net.Conn
	coordinators, nodesBook book
}

func (r *regime) meet(t *testing.T) *met {
	t.Helper()
	m := &met{regime: r}
	sc, nc := r.coordinator(t), r.node(t, "a")
	sc.Observe, nc.Observe = m.coordinators.observe, m.nodesBook.observe
	m.coordinator, m.node = server(t, sc), client(t, nc)
	n, c := meet(t, m.node, m.coordinator)
	if n.err != nil || c.err != nil {
		t.Fatal(n.err, c.err)
	}
	m.atNode, m.atCoordinator = n.conn, c.conn
	return m
}

// TestReappraiseAtANode: a hospital's own policy ends the session too, and a session that passes is left alone.
func TestReappraiseAtANode(t *testing.T) {
	m := newRegime(t, newFederation(t), 0).meet(t)
	m.pin("chip:a", "chip:coordinator")
	m.node.Reappraise()
	m.coordinator.Reappraise()
	transfer(t, m.atNode, m.atCoordinator)
	if n := len(m.nodesBook.kept(closed)) + len(m.coordinators.kept(closed)); n != 0 {
		t.Fatalf("%d sessions ended by a policy that takes them", n)
	}
	m.pin("chip:a")
	m.node.Reappraise()
	got := m.nodesBook.kept(closed)
	if len(got) != 1 {
		t.Fatalf("ended %+v", got)
	}
	wantCodes(t, got[0].Err, attest.RoleNode, CodePolicyChanged, attest.CodeMachineUnlisted)
	for name, err := range map[string]error{
		"read":  func() error { _, err := m.atNode.Read(make([]byte, 1)); return err }(),
		"write": func() error { _, err := m.atNode.Write(make([]byte, 1)); return err }(),
	} {
		wantCodes(t, err, attest.RoleNode, CodePolicyChanged, attest.CodeMachineUnlisted)
		if err == nil {
			t.Errorf("%s after the end", name)
		}
	}
	if _, err := m.atCoordinator.Read(make([]byte, 1)); err == nil {
		t.Error("the coordinator's end is open")
	}
	m.node.Reappraise()
	if n := len(m.nodesBook.kept(closed)); n != 1 {
		t.Errorf("the session ended %d times", n)
	}
}

// TestAllEndBeforeAnybodyIsTold: what an observer takes its time for keeps no revoked session open.
func TestAllEndBeforeAnybodyIsTold(t *testing.T) {
	r := newRegime(t, newFederation(t), 0)
	var conns []*conn
	told := 0
	sc := r.coordinator(t)
	sc.Observe = func(o Outcome) {
		if !o.Ended {
			return
		}
		told++
		for i, c := range conns {
			if c.over() == nil {
				t.Errorf("session %d is open while the end of another is told", i)
			}
		}
	}
	s := server(t, sc)
	for range 5 {
		n, e := meet(t, client(t, r.node(t, "a")), s)
		if n.err != nil || e.err != nil {
			t.Fatal(n.err, e.err)
		}
		conns = append(conns, e.conn.(*conn))
	}
	r.revoke(t, "a")
	s.Reappraise()
	if told != len(conns) {
		t.Errorf("told of %d, want %d", told, len(conns))
	}
}

// TestWhatReappraiseAsks: everything that was a condition of admission is one of staying.
func TestWhatReappraiseAsks(t *testing.T) {
	for _, tc := range []struct {
		name   string
		at     attest.Role // who changes its mind
		change func(*Expect) error
		codes  []string
	}{
		{"nothing", attest.RoleCoordinator, func(*Expect) error { return nil }, nil},
		{"the study is gone", attest.RoleCoordinator, func(*Expect) error { return errors.New("no such study") }, []string{CodeStudyUnknown}},
		{"no more nodes", attest.RoleCoordinator, func(e *Expect) error { e.NoNodes = errors.New("nobody"); return nil }, []string{CodeNoNodes}},
		{
			"no policy", attest.RoleCoordinator, func(e *Expect) error { e.Policies = nil; return nil },
			[]string{attest.CodeConfig, attest.CodeFormatUnlisted},
		},
		{"no trust", attest.RoleCoordinator, func(e *Expect) error { e.Trust = nil; return nil }, []string{CodeTrustChanged, attest.CodeConfig}},
		{"another consortium", attest.RoleCoordinator, func(e *Expect) error { e.Posture.Consortium[0] ^= 1; return nil }, []string{attest.CodePostureConsortium}},
		{"another log key", attest.RoleNode, func(e *Expect) error { e.LogKey = newKey(t).Public().(ed25519.PublicKey); return nil }, []string{attest.CodeLogSignature}},
		{"no log key", attest.RoleNode, func(e *Expect) error { e.LogKey = nil; return nil }, []string{CodeLogKey}},
		{"two policies, the second of which takes it", attest.RoleNode, func(e *Expect) error {
			none := e.Policies[0]
			none.Measurements = attest.SetOf("sha256:none")
			e.Policies = []attest.Policy{none, e.Policies[0]}
			return nil
		}, nil},
		{"two policies that do not", attest.RoleNode, func(e *Expect) error {
			a, b := e.Policies[0], e.Policies[0]
			a.Measurements, b.Machines = attest.SetOf("sha256:none"), attest.SetOf("chip:none")
			e.Policies = []attest.Policy{a, b}
			return nil
		}, []string{CodePolicyChanged, attest.CodeMeasurementUnlisted}},
		{"the old policy, and another trust", attest.RoleNode, func(e *Expect) error {
			none := e.Policies[0]
			none.Measurements = attest.SetOf("sha256:none")
			e.Policies = []attest.Policy{none, e.Policies[0]}
			e.Trust = func() *endorse.Snapshot { s, _ := endorse.New(nil); return s }()
			return nil
		}, []string{CodeTrustChanged, attest.CodeChain}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRegime(t, newFederation(t), 0)
			var changed atomic.Bool
			var seen book
			sc, nc := r.coordinator(t), r.node(t, "a")
			c := &sc
			if tc.at == attest.RoleNode {
				c = &nc
			}
			was := c.Peer
			c.Peer = func(study [32]byte) (Expect, error) {
				e, err := was(study)
				if changed.Load() {
					err = tc.change(&e)
				}
				return e, err
			}
			c.Observe = seen.observe
			server, client := server(t, sc), client(t, nc)
			if n, c := meet(t, client, server); n.err != nil || c.err != nil {
				t.Fatal(n.err, c.err)
			}
			changed.Store(true)
			if tc.at == attest.RoleNode {
				client.Reappraise()
			} else {
				server.Reappraise()
			}
			var err error
			if got := seen.kept(closed); len(got) > 0 {
				err = got[0].Err
			}
			wantCodes(t, err, tc.at, tc.codes...)
		})
	}
}

func TestReappraiseAPerson(t *testing.T) {
	f := newFederation(t)
	var listed atomic.Bool
	listed.Store(true)
	var seen book
	sc := f.config(t, attest.RoleCoordinator)
	sc.Person = func([32]byte, ed25519.PublicKey) (string, bool) { return "r.lead", listed.Load() }
	sc.Observe = seen.observe
	s := server(t, sc)
	p, c := meet(t, client(t, f.config(t, attest.RolePerson)), s)
	if p.err != nil || c.err != nil {
		t.Fatal(p.err, c.err)
	}
	s.Reappraise()
	transfer(t, p.conn, c.conn)
	listed.Store(false)
	s.Reappraise()
	got := seen.kept(closed)
	if len(got) != 1 || got[0].Session.Person != "r.lead" {
		t.Fatalf("ended %+v", got)
	}
	wantCodes(t, got[0].Err, attest.RoleCoordinator, CodePersonUnlisted)
}

// TestChangeDuringAHandshake: whenever the change comes, nobody gets in by what held before it.
func TestChangeDuringAHandshake(t *testing.T) {
	for _, tc := range []struct {
		name string
		hook func(sc, nc *Config, change func())
	}{
		{"before the coordinator has proven", func(sc, _ *Config, change func()) { sc.Attester = before{sc.Attester, change} }},
		{"before the node has proven", func(_, nc *Config, change func()) { nc.Attester = before{nc.Attester, change} }},
		{"as it is being admitted", func(sc, _ *Config, change func()) {
			was := sc.Observe
			sc.Observe = func(o Outcome) {
				was(o)
				if o.Err == nil {
					change()
				}
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRegime(t, newFederation(t), 0)
			var seen book
			sc, nc := r.coordinator(t), r.node(t, "a")
			sc.Observe = seen.observe
			var s *Credentials
			tc.hook(&sc, &nc, func() { r.revoke(t, "a"); s.Reappraise() })
			s = server(t, sc)
			_, c := meet(t, client(t, nc), s)
			if c.err == nil {
				t.Fatal("a revoked machine was admitted")
			}
			codes := []string{attest.CodeRevoked}
			if len(seen.kept(admitted)) > 0 {
				codes = append(codes, CodeTrustChanged)
				wantCodes(t, seen.kept(closed)[0].Err, attest.RoleCoordinator, codes...)
			}
			wantCodes(t, c.err, attest.RoleCoordinator, codes...)
		})
	}
	// And at a node, which has judged the coordinator long before its own admission.
	r := newRegime(t, newFederation(t), 0)
	nc := r.node(t, "a")
	var n *Credentials
	nc.Attester = before{nc.Attester, func() { r.revoke(t, "coordinator"); n.Reappraise() }}
	n = client(t, nc)
	e, _ := meet(t, n, server(t, r.coordinator(t)))
	wantCodes(t, e.err, attest.RoleNode, CodeTrustChanged, attest.CodeRevoked)
}

type before struct {
	attest.Attester
	do func()
}

func (b before) Attest(ctx context.Context, x attest.Binding) (attest.Evidence, error) {
	b.do()
	return b.Attester.Attest(ctx, x)
}

// TestShorterAge: a policy that lets an appraisal hold for less ends a session sooner, and none ends it later.
func TestShorterAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegime(t, newFederation(t), 0)
		s := server(t, r.coordinator(t))
		clientEnd, serverEnd := net.Pipe()
		done := make(chan ended, 1)
		go func() { done <- serve(s, serverEnd) }()
		n, c := dial(client(t, r.node(t, "a")), clientEnd), <-done
		if n.err != nil || c.err != nil {
			t.Fatal(n.err, c.err)
		}
		go func() { _, _ = io.Copy(io.Discard, n.conn) }()
		start := time.Now()
		time.Sleep(30 * time.Minute)
		s.Reappraise() // by the same policy: the evidence is no younger for it
		shorter := anyChip()
		shorter.MaxAge = 10 * time.Minute
		r.set(shorter)
		s.Reappraise()
		_, err := c.conn.Read(make([]byte, 1))
		if took := time.Since(start); !errors.Is(err, ErrExpired) || took != 40*time.Minute {
			t.Errorf("ended after %s by %v, want 40m", took, err)
		}
		_ = n.conn.Close()
	})
	synctest.Test(t, func(t *testing.T) {
		r := newRegime(t, newFederation(t), 0)
		s := server(t, r.coordinator(t))
		clientEnd, serverEnd := net.Pipe()
		done := make(chan ended, 1)
		go func() { done <- serve(s, serverEnd) }()
		n, c := dial(client(t, r.node(t, "a")), clientEnd), <-done
		if n.err != nil || c.err != nil {
			t.Fatal(n.err, c.err)
		}
		go func() { _, _ = io.Copy(io.Discard, n.conn) }()
		start := time.Now()
		go func() {
			for range 11 {
				time.Sleep(5 * time.Minute)
				s.Reappraise()
			}
		}()
		_, err := c.conn.Read(make([]byte, 1))
		if took := time.Since(start); !errors.Is(err, ErrExpired) || took != time.Hour {
			t.Errorf("ended after %s by %v, want an hour", took, err)
		}
		_ = n.conn.Close()
	})
}

// TestNothingIsReadAfterTheEnd: bytes that came before it and were not read yet are not handed on, and a peer that does
// not read cannot hold it up.
func TestNothingIsReadAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegime(t, newFederation(t), 0)
		s := server(t, r.coordinator(t))
		clientEnd, serverEnd := net.Pipe()
		done := make(chan ended, 1)
		go func() { done <- serve(s, serverEnd) }()
		n, c := dial(client(t, r.node(t, "a")), clientEnd), <-done
		if n.err != nil || c.err != nil {
			t.Fatal(n.err, c.err)
		}
		type read struct {
			n   int
			err error
		}
		reads := make(chan read, 1)
		go func() {
			n, err := c.conn.Read(make([]byte, 64))
			reads <- read{n, err}
		}()
		go func() { _, _ = c.conn.Write(make([]byte, 1<<20)) }() // which nobody reads
		synctest.Wait()
		r.revoke(t, "a")
		start := time.Now()
		s.Reappraise()
		if took := time.Since(start); took != 0 {
			t.Errorf("ending took %s", took)
		}
		if got := <-reads; got.n != 0 || reasonCodes(got.err, attest.RoleCoordinator) == nil {
			t.Errorf("read %d bytes, %v", got.n, got.err)
		}
		_ = n.conn.Close()
	})
	// The same where the bytes are there already: the peer's record holds more than the first read takes.
	m := newRegime(t, newFederation(t), 0).meet(t)
	if _, err := m.atNode.Write([]byte("ab")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(m.atCoordinator, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	m.revoke(t, "a")
	m.coordinator.Reappraise()
	if n, err := m.atCoordinator.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("read %d bytes after the end, %v", n, err)
	}
}

// TestReappraiseStorm is for the race detector: sessions come and go while policy and trust change. Of those that stay
// each passes the last of them, and none is forgotten or kept.
func TestReappraiseStorm(t *testing.T) {
	r := newRegime(t, newFederation(t), 0)
	s := server(t, r.coordinator(t))
	stop := make(chan struct{})
	var changes, sessions sync.WaitGroup
	changes.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				r.revoke(t, "a")
				s.Reappraise()
				return
			default:
			}
			r.revoke(t, []string{"a", "b", "coordinator"}[i%3])
			s.Reappraise()
		}
	})
	var kept sync.Map
	for _, name := range []string{"a", "b"} {
		for range 2 {
			c := client(t, r.node(t, name))
			sessions.Go(func() {
				for i := range 6 {
					n, e := meet(t, c, s)
					if e.err != nil {
						continue
					}
					if i%2 == 0 {
						_, _ = e.conn.Close(), n.err
						continue
					}
					kept.Store(e.conn, name)
				}
			})
		}
	}
	sessions.Wait()
	close(stop)
	changes.Wait()
	running := 0
	kept.Range(func(c, name any) bool {
		over := c.(*conn).over() != nil
		if name == "a" && !over {
			t.Error("a session of a revoked machine runs on")
		}
		if !over {
			running++
		}
		return true
	})
	if n := s.sessions.running(); n != running {
		t.Errorf("%d sessions are known, %d run", n, running)
	}
}
