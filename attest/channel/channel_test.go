package channel

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/consilium-fl/consilium/attest"
)

func TestNodeAndCoordinatorAgree(t *testing.T) {
	f := newFederation(t)
	var seen []Outcome
	sc := f.config(t, attest.RoleCoordinator)
	sc.Observe = func(o Outcome) { seen = append(seen, o) }
	nc := f.config(t, attest.RoleNode)
	n, c := meet(t, client(t, nc), server(t, sc))
	if n.err != nil || c.err != nil {
		t.Fatalf("node: %v; coordinator: %v", n.err, c.err)
	}
	if n.session.Exporter != c.session.Exporter || n.session.Exporter == [32]byte{} {
		t.Errorf("exporters %x and %x, want one", n.session.Exporter, c.session.Exporter)
	}
	if n.session.Study != f.study || c.session.Study != f.study {
		t.Errorf("studies %x and %x, want %x", n.session.Study, c.session.Study, f.study)
	}
	if n.session.PeerRole != attest.RoleCoordinator || c.session.PeerRole != attest.RoleNode {
		t.Errorf("roles %q and %q", n.session.PeerRole, c.session.PeerRole)
	}
	if got, want := attest.KeyListDigest(n.session.PeerKeys), attest.KeyListDigest(sc.Keys); got != want {
		t.Errorf("the node holds keys %q, want %q", n.session.PeerKeys, sc.Keys)
	}
	for _, s := range []Session{n.session, c.session} {
		if s.Result.Status != attest.Warning || !s.Result.Claims.Simulated {
			t.Errorf("status %q, simulated %t: a simulated TEE is a warning", s.Result.Status, s.Result.Claims.Simulated)
		}
		if d := time.Until(s.Until); d <= 0 || d > attest.MaxAge {
			t.Errorf("a session of %s, want at most %s", d, attest.MaxAge)
		}
		if err := credentials.CheckSecurityLevel(s, credentials.PrivacyAndIntegrity); err != nil {
			t.Error(err)
		}
	}
	if len(seen) != 1 || seen[0].Err != nil || seen[0].Session.PeerKey != c.session.PeerKey {
		t.Errorf("observed %+v, want the one session", seen)
	}
	transfer(t, n.conn, c.conn)
	transfer(t, c.conn, n.conn)
}

// transfer shows that the handshake took not a byte of what follows.
func transfer(t *testing.T, from, to net.Conn) {
	t.Helper()
	want := []byte("PRI * HTTP/2.0")
	if _, err := from.Write(want); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(to, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("got %q, %v; want %q", got, err, want)
	}
}

// TestStoredRecord appraises what a session kept, as an auditor does.
func TestStoredRecord(t *testing.T) {
	f := newFederation(t)
	shown := map[attest.Role]chan []byte{attest.RoleNode: make(chan []byte, 1), attest.RoleCoordinator: make(chan []byte, 1)}
	party := func(role attest.Role) Config {
		c := f.config(t, role)
		c.Observe = func(o Outcome) { shown[role] <- o.Own }
		return c
	}
	n, c := meet(t, client(t, party(attest.RoleNode)), server(t, party(attest.RoleCoordinator)))
	for _, s := range []Session{n.session, c.session} {
		if own := <-shown[s.PeerRole]; len(own) == 0 || !bytes.Equal(own, s.Record) {
			t.Errorf("the %s says that it showed %d bytes, its peer kept %d", s.PeerRole, len(own), len(s.Record))
		}
		r, err := attest.ParseRecord(s.Record)
		if err != nil {
			t.Fatal(err)
		}
		e := f.expect(s.PeerRole)
		again := f.config(t, attest.RoleNode).Verifiers.Recheck(r, time.Now(), f.trust, e.Posture, e.Policies...)
		if !again.OK() || again.Trust != s.Result.Trust || again.Policy != s.Result.Policy {
			t.Errorf("%s: %q for %v, want the session's %q", s.PeerRole, again.Status, again.Reasons, s.Result.Status)
		}
		if rs := r.SignedBy(e.LogKey); (len(rs) == 0) != (s.PeerRole == attest.RoleCoordinator) {
			t.Errorf("%s: log signature: %v", s.PeerRole, rs)
		}
		if r.Binding.OwnKey != s.PeerKey || r.Binding.Study != s.Study {
			t.Errorf("%s: the record's binding is not the session's", s.PeerRole)
		}
	}
}

func TestPerson(t *testing.T) {
	f := newFederation(t)
	s := server(t, f.config(t, attest.RoleCoordinator))
	listed, unlisted := f.config(t, attest.RolePerson), f.config(t, attest.RolePerson)
	f.list(listed, "r.lead")

	p, c := meet(t, client(t, listed), s)
	if p.err != nil || c.err != nil {
		t.Fatalf("person: %v; coordinator: %v", p.err, c.err)
	}
	if c.session.Person != "r.lead" || c.session.PeerRole != attest.RolePerson || len(c.session.Record) != 0 || c.session.Result.OK() {
		t.Errorf("the coordinator's session is %+v", c.session)
	}
	if !p.session.Result.OK() {
		t.Error("a person appraises the coordinator too")
	}

	p, c = meet(t, client(t, unlisted), s)
	wantCodes(t, c.err, attest.RoleCoordinator, CodePersonUnlisted)
	wantCodes(t, p.err, attest.RoleCoordinator, CodePersonUnlisted)

	// Nobody is listed by a key of another kind, even where the list says yes to everything.
	all := f.config(t, attest.RoleCoordinator)
	all.Person = func([32]byte, ed25519.PublicKey) (string, bool) { return "anyone", true }
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	odd := f.config(t, attest.RolePerson)
	odd.Certificate = func() (*tls.Certificate, error) { return ecLeaf(t, ec), nil }
	_, c = meet(t, client(t, odd), server(t, all))
	wantCodes(t, c.err, attest.RoleCoordinator, CodePersonUnlisted)
}

// TestRolesDoNotMix: a person who says node cannot leave its evidence out, nor is a node a person.
func TestRolesDoNotMix(t *testing.T) {
	f := newFederation(t)
	s := server(t, f.config(t, attest.RoleCoordinator))
	p := f.config(t, attest.RoleNode)
	f.list(p, "r.lead")
	end, _ := nodeLies(t, s, hostile{config: p, forge: func(r *attest.Record) { r.Evidence = attest.Evidence{} }})
	wantCodes(t, end.err, attest.RoleCoordinator, attest.CodeFormatUnlisted, attest.CodePostureTEE)

	n, c := meet(t, client(t, func() Config {
		c := f.config(t, attest.RoleNode)
		c.Role, c.Attester = attest.RolePerson, nil
		return c
	}()), s)
	wantCodes(t, c.err, attest.RoleCoordinator, CodePersonUnlisted)
	wantCodes(t, n.err, attest.RoleCoordinator, CodePersonUnlisted)
}

// TestNoNodes: where a study admits no node yet, a node is told so and a person comes in.
func TestNoNodes(t *testing.T) {
	f := newFederation(t)
	c := f.config(t, attest.RoleCoordinator)
	c.Peer = func([32]byte) (Expect, error) {
		e := f.expect(attest.RoleNode)
		e.NoNodes = errors.New("a study that is approved")
		return e, nil
	}
	n, srv := meet(t, client(t, f.config(t, attest.RoleNode)), server(t, c))
	wantCodes(t, srv.err, attest.RoleCoordinator, CodeNoNodes)
	wantCodes(t, n.err, attest.RoleCoordinator, CodeNoNodes)
	lead := f.config(t, attest.RolePerson)
	f.list(lead, "r.lead")
	c.Person = f.config(t, attest.RoleCoordinator).Person
	if p, srv := meet(t, client(t, lead), server(t, c)); p.err != nil || srv.err != nil {
		t.Errorf("person: %v; coordinator: %v", p.err, srv.err)
	}
}

// TestReferenceExpired: reference values that have ended are a reason of their own, at the end that asks for them before
// anything is sent, and at the other as a code: which manifest it was, and when it ended, is for the log.
func TestReferenceExpired(t *testing.T) {
	expired := attest.Reason{Code: attest.CodeReferenceExpired, Path: "reference", Got: `manifest "nodes", whose serial 3 ended at 2026-01-01T00:00:00Z`, Want: "another"}
	why := fmt.Errorf("taking reference values: %w", expired)
	f := newFederation(t)
	c := f.config(t, attest.RoleCoordinator)
	c.Peer = func([32]byte) (Expect, error) {
		e := f.expect(attest.RoleNode)
		e.NoNodes = why
		return e, nil
	}
	n, srv := meet(t, client(t, f.config(t, attest.RoleNode)), server(t, c))
	var at, heard *Refused
	if !errors.As(srv.err, &at) || !errors.As(n.err, &heard) {
		t.Fatal(srv.err, n.err)
	}
	if got := []attest.Reason{expired}; !slices.Equal(at.Reasons, got) {
		t.Errorf("the coordinator's reasons are %v, want %v", at.Reasons, got)
	}
	if told := []attest.Reason{{Code: "reference.expired", Path: "reference"}}; !slices.Equal(heard.Reasons, told) {
		t.Errorf("the node was told %+v, want %+v", heard.Reasons, told)
	}

	own := f.config(t, attest.RoleNode)
	own.Peer = func([32]byte) (Expect, error) { return Expect{}, why }
	n, srv = meet(t, client(t, own), server(t, f.config(t, attest.RoleCoordinator)))
	if !errors.As(n.err, &at) || at.By != attest.RoleNode || !slices.Equal(at.Reasons, []attest.Reason{expired}) {
		t.Errorf("the node's reasons are %v, want %v", n.err, expired)
	}
	if errors.As(srv.err, &at); srv.err == nil || strings.Contains(srv.err.Error(), "reference") {
		t.Errorf("the coordinator was told %v", srv.err)
	}
}

func TestUnknownStudy(t *testing.T) {
	f := newFederation(t)
	s := server(t, f.config(t, attest.RoleCoordinator))
	c := f.config(t, attest.RoleNode)
	c.Study = [32]byte{1}
	c.Peer = func([32]byte) (Expect, error) { return f.expect(attest.RoleCoordinator), nil }
	n, srv := meet(t, client(t, c), s)
	wantCodes(t, srv.err, attest.RoleCoordinator, CodeStudyUnknown)
	wantCodes(t, n.err, attest.RoleCoordinator, CodeStudyUnknown)
	var r *Refused
	if errors.As(n.err, &r); r.Reasons[0].Want != "" {
		t.Errorf("the peer was told %q", r.Reasons[0].Want)
	}
}

// TestOneStudyAConnection: a session is for the study that was attested, at both ends.
func TestOneStudyAConnection(t *testing.T) {
	f := newFederation(t)
	s := server(t, f.config(t, attest.RoleCoordinator))
	for _, study := range [][32]byte{f.study, f.consortium} {
		c := f.config(t, attest.RoleNode)
		c.Study = study
		n, srv := meet(t, client(t, c), s)
		if n.err != nil || srv.err != nil {
			t.Fatal(n.err, srv.err)
		}
		r, err := attest.ParseRecord(srv.session.Record)
		if err != nil {
			t.Fatal(err)
		}
		if srv.session.Study != study || n.session.Study != study || r.Binding.Study != study {
			t.Errorf("session for %x, evidence for %x, want %x", srv.session.Study, r.Binding.Study, study)
		}
	}
}

func TestHello(t *testing.T) {
	f := newFederation(t)
	good := Hello{Version: version, Role: attest.RoleNode, Study: f.study, Nonce: [32]byte{1}}
	for _, tc := range []struct {
		name   string
		change func(*Hello)
		code   string
	}{
		{"version", func(h *Hello) { h.Version = 2 }, CodeHello},
		{"nonce", func(h *Hello) { h.Nonce = [32]byte{} }, CodeHello},
		{"study", func(h *Hello) { h.Study = [32]byte{} }, CodeHello},
		{"coordinator", func(h *Hello) { h.Role = attest.RoleCoordinator }, CodeHelloRole},
		{"no role", func(h *Hello) { h.Role = "" }, CodeHelloRole},
		{"size", func(h *Hello) { h.Role = attest.Role(strings.Repeat("a", maxHello)) }, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			clientEnd, serverEnd := wire(t)
			var wg sync.WaitGroup
			var end ended
			wg.Go(func() { end = serve(server(t, f.config(t, attest.RoleCoordinator)), serverEnd) })
			h := hostile{config: f.config(t, attest.RoleNode)}.state()
			if err := h.startTLS(context.Background(), clientEnd, "x"); err != nil {
				t.Fatal(err)
			}
			hello := good
			tc.change(&hello)
			if err := writeFrame(h.tls, frame{Hello: &hello}); err != nil {
				t.Fatal(err)
			}
			fr, err := readFrame(h.tls, MaxFrame)
			wg.Wait()
			if tc.code == "" {
				if err == nil || end.err == nil || reasonCodes(end.err, attest.RoleCoordinator) != nil {
					t.Errorf("the client heard %+v, the coordinator ended by %v", fr, end.err)
				}
				return
			}
			wantCodes(t, end.err, attest.RoleCoordinator, tc.code)
			if err != nil || fr.Verdict == nil || fr.Verdict.OK || fr.Verdict.Reasons[0].Code != tc.code {
				t.Errorf("the client heard %+v, %v", fr, err)
			}
		})
	}
}

// TestVerdictIsNoTerminal: what a peer says is shown without what a terminal would obey.
func TestVerdictIsNoTerminal(t *testing.T) {
	rs := heard(append(make([]attest.Reason, 200), attest.Reason{Code: "x"}))
	if len(rs) > maxHeard {
		t.Errorf("%d reasons were kept", len(rs))
	}
	rs = heard([]attest.Reason{{Code: "\x1b[2J", Path: "a\nb", Got: "secret"}, {Code: "binding.nonce", Path: "binding.nonce"}, {Code: "revoked", Path: "crl:ark-genoa"}, {Code: "parse.version", Path: "report[0x0:0x4]"}})
	if got := (&Refused{By: attest.RoleCoordinator, Reasons: rs}).Error(); got != "refused by coordinator: unreadable: unreadable; binding.nonce: binding.nonce; revoked: crl:ark-genoa; parse.version: report[0x0:0x4]" {
		t.Errorf("got %q", got)
	}
}

// TestTLS refuses everything below our TLS: an older version, no ALPN, no certificate.
func TestTLS(t *testing.T) {
	f := newFederation(t)
	leaf, _ := f.config(t, attest.RoleNode).Certificate()
	base := func() *tls.Config { return tlsConfig(*leaf, "x", time.Now) }
	for _, tc := range []struct {
		name   string
		change func(*tls.Config)
	}{
		{"row 60 TLS 1.2", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }},
		{"a classical key exchange", func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.X25519} }},
		{"no ALPN", func(c *tls.Config) { c.NextProtos = nil }},
		{"another protocol", func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }},
		{"no certificate", func(c *tls.Config) { c.Certificates = nil }},
	} {
		t.Run("client with "+tc.name, func(t *testing.T) {
			clientEnd, serverEnd := wire(t)
			var wg sync.WaitGroup
			wg.Go(func() {
				c := base()
				tc.change(c)
				conn := tls.Client(clientEnd, c)
				_ = conn.Handshake()
				_, _ = conn.Read(make([]byte, 1))
				_ = conn.Close()
			})
			end := serve(server(t, f.config(t, attest.RoleCoordinator)), serverEnd)
			wg.Wait()
			if end.err == nil || !strings.Contains(end.err.Error(), "TLS") {
				t.Errorf("got %v, want a refusal by TLS", end.err)
			}
		})
		if tc.name == "no certificate" {
			continue // a TLS server always has one
		}
		t.Run("server with "+tc.name, func(t *testing.T) {
			clientEnd, serverEnd := wire(t)
			var wg sync.WaitGroup
			wg.Go(func() {
				c := base()
				tc.change(c)
				conn := tls.Server(serverEnd, c)
				_ = conn.Handshake()
				if n, _ := conn.Read(make([]byte, 1)); n != 0 {
					t.Error("the client said something")
				}
				_ = conn.Close()
			})
			end := dial(client(t, f.config(t, attest.RoleNode)), clientEnd)
			_ = clientEnd.Close()
			wg.Wait()
			if end.err == nil || !strings.Contains(end.err.Error(), "TLS") {
				t.Errorf("got %v, want a refusal by TLS", end.err)
			}
		})
	}
}

// TestResumption: neither side resumes with a peer who would like to, and a state that says
// "resumed" is refused whatever the configuration was.
func TestResumption(t *testing.T) {
	f := newFederation(t)
	leaf, _ := f.config(t, attest.RoleNode).Certificate()
	eager := tlsConfig(*leaf, "x", time.Now)
	eager.SessionTicketsDisabled, eager.ClientSessionCache = false, tls.NewLRUClientSessionCache(8)
	ours := tlsConfig(*leaf, "x", time.Now)
	for name, pair := range map[string][2]*tls.Config{"our server": {eager, ours}, "our client": {ours.Clone(), eager.Clone()}} {
		for range 2 {
			clientEnd, serverEnd := wire(t)
			c, s := tls.Client(clientEnd, pair[0]), tls.Server(serverEnd, pair[1])
			var wg sync.WaitGroup
			wg.Go(func() { _, _ = s.Write([]byte{1}) })
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			wg.Wait()
			if c.ConnectionState().DidResume || s.ConnectionState().DidResume {
				t.Errorf("%s resumed", name)
			}
		}
	}
	n, _ := meet(t, client(t, f.config(t, attest.RoleNode)), server(t, f.config(t, attest.RoleCoordinator)))
	state := n.conn.(*conn).ConnectionState()
	if err := (&handshake{state: state}).takeState(); err != nil {
		t.Fatal(err)
	}
	state.DidResume = true
	if err := (&handshake{state: state}).takeState(); err == nil {
		t.Error("a resumed session passed")
	}
	state.DidResume, state.Version = false, tls.VersionTLS12
	if err := (&handshake{state: state}).takeState(); err == nil {
		t.Error("TLS 1.2 passed")
	}
	state.Version, state.CurveID = tls.VersionTLS13, tls.X25519
	if err := (&handshake{state: state}).takeState(); err == nil {
		t.Error("a classical key exchange passed")
	}
}

func TestLeafTime(t *testing.T) {
	f := newFederation(t)
	for name, span := range map[string][2]time.Duration{"expired": {-time.Hour, -time.Minute}, "not yet valid": {time.Minute, time.Hour}} {
		t.Run(name, func(t *testing.T) {
			odd := func(role attest.Role) Config {
				c := f.config(t, role)
				cert := leafOf(t, newKey(t), time.Now().Add(span[0]), time.Now().Add(span[1]))
				c.Certificate = func() (*tls.Certificate, error) { return cert, nil }
				return c
			}
			n, _ := meet(t, client(t, f.config(t, attest.RoleNode)), server(t, odd(attest.RoleCoordinator)))
			wantCodes(t, n.err, attest.RoleNode, CodeLeafTime)
			_, c := meet(t, client(t, odd(attest.RoleNode)), server(t, f.config(t, attest.RoleCoordinator)))
			wantCodes(t, c.err, attest.RoleCoordinator, CodeLeafTime)
			p := odd(attest.RolePerson)
			f.list(p, "r.lead")
			_, c = meet(t, client(t, p), server(t, f.config(t, attest.RoleCoordinator)))
			wantCodes(t, c.err, attest.RoleCoordinator, CodeLeafTime)
		})
	}
}

// TestSessionEnds: at Until the connection closes by itself, though nobody uses it.
func TestSessionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation(t)
		sc := f.config(t, attest.RoleCoordinator)
		sc.Peer = func([32]byte) (Expect, error) {
			e := f.expect(attest.RoleNode)
			e.Policies[0].MaxAge = 10 * time.Minute
			return e, nil
		}
		clientEnd, serverEnd := net.Pipe()
		done := make(chan ended, 1)
		go func() { done <- serve(server(t, sc), serverEnd) }()
		n := dial(client(t, f.config(t, attest.RoleNode)), clientEnd)
		c := <-done
		if n.err != nil || c.err != nil {
			t.Fatal(n.err, c.err)
		}
		start := time.Now()
		if d := n.session.Until.Sub(start); d > 10*time.Minute {
			t.Errorf("the node's session lasts %s, the coordinator said 10m", d)
		}
		go func() { _, _ = io.Copy(io.Discard, n.conn) }()
		_, err := c.conn.Read(make([]byte, 1))
		if d := time.Since(start); err == nil || d > 10*time.Minute || d < 9*time.Minute {
			t.Errorf("the read ended after %s by %v, want 10m", d, err)
		}
		if _, err := n.conn.Write([]byte{0}); err == nil {
			t.Error("the node's end still writes")
		}
		time.Sleep(time.Minute)
		if _, err := c.conn.Read(make([]byte, 1)); !errors.Is(err, ErrExpired) {
			t.Errorf("got %v, want %v", err, ErrExpired)
		}
	})
}

// TestSilence: there is an end to everything, at either side, wherever the peer stops.
func TestSilence(t *testing.T) {
	for _, tc := range []struct {
		name  string
		waits bool // for a place, as far as it knows
		run   func(*testing.T, *federation, net.Conn, net.Conn) error
	}{
		{"a client that says nothing", false, func(t *testing.T, f *federation, _, serverEnd net.Conn) error {
			return serve(server(t, f.config(t, attest.RoleCoordinator)), serverEnd).err
		}},
		{"a server that says nothing", true, func(t *testing.T, f *federation, clientEnd, serverEnd net.Conn) error {
			go func() { _, _ = io.Copy(io.Discard, serverEnd) }()
			return dial(client(t, f.config(t, attest.RoleNode)), clientEnd).err
		}},
		{"a client that drips", false, func(t *testing.T, f *federation, clientEnd, serverEnd net.Conn) error {
			go func() { _, _ = io.Copy(io.Discard, clientEnd) }()
			go func() {
				for {
					if _, err := clientEnd.Write([]byte{22}); err != nil {
						return
					}
					time.Sleep(3 * time.Second)
				}
			}()
			return serve(server(t, f.config(t, attest.RoleCoordinator)), serverEnd).err
		}},
		{"a client without a hello", false, func(t *testing.T, f *federation, clientEnd, serverEnd net.Conn) error {
			h := hostile{config: f.config(t, attest.RoleNode)}.state()
			go func() {
				if h.startTLS(t.Context(), clientEnd, "x") == nil {
					_, _ = h.tls.Write([]byte{0, 0})
					_, _ = io.Copy(io.Discard, h.tls)
				}
			}()
			return serve(server(t, f.config(t, attest.RoleCoordinator)), serverEnd).err
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFederation(t)
				clientEnd, serverEnd := net.Pipe()
				start := time.Now()
				err := tc.run(t, f, clientEnd, serverEnd)
				most := DefaultTimeout
				if tc.waits {
					most += DefaultTimeout / 2
				}
				if d := time.Since(start); err == nil || d > most {
					t.Errorf("ended after %s by %v, want an error within %s", d, err, most)
				}
				_, _ = clientEnd.Close(), serverEnd.Close()
				time.Sleep(time.Minute) // for the peers to notice
			})
		})
	}
}

// TestBoundedHandshakes: one more than the bound waits, and goes on when a place is free.
func TestBoundedHandshakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation(t)
		sc := f.config(t, attest.RoleCoordinator)
		sc.MaxHandshakes, sc.Timeout = 1, time.Minute
		s := server(t, sc)
		stuck, stuckServer := net.Pipe()
		go serve(s, stuckServer)
		synctest.Wait()
		a, b := net.Pipe()
		done := make(chan ended, 1)
		go func() { done <- serve(s.Clone(), b) }()
		synctest.Wait()
		nodeDone := make(chan ended, 1)
		nc := f.config(t, attest.RoleNode)
		nc.Timeout = time.Minute
		go func() { nodeDone <- dial(client(t, nc), a) }()
		synctest.Wait()
		select {
		case e := <-done:
			t.Fatalf("a second handshake ran: %v", e.err)
		default:
		}
		_ = stuck.Close()
		n, c := <-nodeDone, <-done
		if n.err != nil || c.err != nil {
			t.Fatal(n.err, c.err)
		}
		go func() { _, _ = io.Copy(io.Discard, n.conn) }()
		_ = c.conn.Close()
		_ = n.conn.Close()
	})
}

func TestCancelledClient(t *testing.T) {
	f := newFederation(t)
	clientEnd, _ := wire(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := client(t, f.config(t, attest.RoleNode)).ClientHandshake(ctx, "x", clientEnd); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

func TestConfig(t *testing.T) {
	f := newFederation(t)
	for name, change := range map[string]func(*Config){
		"no certificate": func(c *Config) { c.Certificate = nil },
		"no peer":        func(c *Config) { c.Peer = nil },
		"no attester":    func(c *Config) { c.Attester = nil },
		"no posture":     func(c *Config) { c.Posture = nil },
		"no keys":        func(c *Config) { c.Keys = nil },
		"too many keys":  func(c *Config) { c.Keys = make([][]byte, attest.MaxKeys+1) },
		"another role":   func(c *Config) { c.Role = "auditor" },
		"no study, log":  func(c *Config) { c.Study, c.LogSigner = [32]byte{}, nil },
	} {
		n, s := f.config(t, attest.RoleNode), f.config(t, attest.RoleCoordinator)
		change(&n)
		change(&s)
		if _, err := NewClient(n); err == nil {
			t.Errorf("%s: a client was made", name)
		}
		if _, err := NewServer(s); err == nil {
			t.Errorf("%s: a server was made", name)
		}
	}
	p := f.config(t, attest.RolePerson)
	p.Attester = f.config(t, attest.RoleNode).Attester
	if _, err := NewClient(p); err == nil {
		t.Error("a person with an attester was made")
	}
	clientEnd, serverEnd := wire(t)
	if _, _, err := server(t, f.config(t, attest.RoleCoordinator)).ClientHandshake(t.Context(), "x", clientEnd); err == nil {
		t.Error("a server's credentials dialled")
	}
	if _, _, err := client(t, f.config(t, attest.RoleNode)).ServerHandshake(serverEnd); err == nil {
		t.Error("a client's credentials served")
	}
}

func TestServerName(t *testing.T) {
	f := newFederation(t)
	c := client(t, f.config(t, attest.RoleNode))
	clone := c.Clone()
	if err := clone.OverrideServerName("other.example"); err != nil { //nolint:staticcheck // part of the interface
		t.Fatal(err)
	}
	if got := c.Info().SecurityProtocol; got != "tls" {
		t.Errorf("protocol %q, want tls", got)
	}
	for creds, want := range map[credentials.TransportCredentials]string{c: "coordinator.example", clone: "other.example"} {
		_, e := meet(t, creds, server(t, f.config(t, attest.RoleCoordinator)))
		if e.err != nil {
			t.Fatal(e.err)
		}
		if got := e.conn.(*conn).ConnectionState().ServerName; got != want {
			t.Errorf("asked for %q, want %q", got, want)
		}
	}
}

// TestPolicyForTheWrongRole is a mistake in the wiring, and refuses.
func TestPolicyForTheWrongRole(t *testing.T) {
	f := newFederation(t)
	sc := f.config(t, attest.RoleCoordinator)
	sc.Peer = func([32]byte) (Expect, error) {
		e := f.expect(attest.RoleNode)
		e.Policies[0].Role = attest.RoleCoordinator
		return e, nil
	}
	_, c := meet(t, client(t, f.config(t, attest.RoleNode)), server(t, sc))
	wantCodes(t, c.err, attest.RoleCoordinator, attest.CodeConfig)
}
