package channel

import (
	"context"
	"crypto/tls"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/test/bufconn"

	"github.com/consilium-fl/consilium/attest"
)

// TestReattestation: over three hours of calls every session ends in time and the next is attested anew, unasked.
func TestReattestation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegime(t, newFederation(t), 200*time.Millisecond)
		short := anyChip()
		short.MaxAge = 10 * time.Minute
		r.set(short)
		rotating := func(c Config) Config {
			key := newKey(t)
			c.Certificate = func() (*tls.Certificate, error) {
				return leafOf(t, key, time.Now().Add(-time.Minute), time.Now().Add(time.Hour)), nil
			}
			return c
		}
		var sessions []Session
		s := grpc.NewServer(grpc.Creds(server(t, rotating(r.coordinator(t)))), grpc.UnaryInterceptor(
			func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
				x := sessionOf(ctx)
				if !x.Result.OK() || !time.Now().Before(x.Until) {
					t.Errorf("a call on a session that ended at %s", x.Until)
				}
				if !slices.ContainsFunc(sessions, func(y Session) bool { return y.Exporter == x.Exporter }) {
					sessions = append(sessions, x)
				}
				return next(ctx, req)
			}))
		healthpb.RegisterHealthServer(s, health.NewServer())
		l := bufconn.Listen(1 << 16)
		go func() { _ = s.Serve(l) }()
		conn, err := grpc.NewClient("passthrough:///coordinator.example:443", grpc.WithTransportCredentials(client(t, rotating(r.node(t, "a")))),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
		if err != nil {
			t.Fatal(err)
		}
		for range 3 * 60 {
			time.Sleep(time.Minute)
			if _, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true)); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(sessions); n < 17 || n > 20 {
			t.Errorf("%d sessions in three hours, want one for each ten minutes or eleven", n)
		}
		nonces := map[[32]byte]bool{}
		for _, x := range sessions {
			record, err := attest.ParseRecord(x.Record)
			if err != nil {
				t.Fatal(err)
			}
			nonces[record.Binding.Nonce] = true
		}
		if len(nonces) != len(sessions) {
			t.Errorf("%d sessions on %d nonces", len(sessions), len(nonces))
		}
		_ = conn.Close()
		s.Stop()
	})
}

// TestReconnectsUnderLoad: a coordinator goes away and comes back, and again, while many nodes call it, quotes take a
// fifth of a second at both ends, and others who have no place there keep trying. Every node gets in every time, and
// no request is ever handled but on a session that was admitted.
func TestReconnectsUnderLoad(t *testing.T) {
	const nodes, rounds, quote = 32, 2, 200 * time.Millisecond
	f := newFederation(t)
	r := newRegime(t, f, quote)
	r.pin("chip:a", "chip:b", "chip:coordinator")
	var known sync.Map // exporters of those admitted
	sc := r.coordinator(t)
	sc.MaxHandshakes = 16
	sc.Observe = func(o Outcome) {
		if o.Err == nil {
			known.Store(o.Session.Exporter, true)
		}
	}
	creds := server(t, sc)
	var handled atomic.Int64
	serving := func(address string) (*grpc.Server, string) {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		s := grpc.NewServer(grpc.Creds(creds), grpc.UnaryInterceptor(
			func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
				x := sessionOf(ctx)
				if _, ok := known.Load(x.Exporter); !ok || !x.Result.OK() || x.PeerRole != attest.RoleNode {
					t.Errorf("a request was handled for %+v", x)
				}
				handled.Add(1)
				return next(ctx, req)
			}))
		healthpb.RegisterHealthServer(s, health.NewServer())
		go func() { _ = s.Serve(l) }()
		return s, l.Addr().String()
	}
	s, address := serving("127.0.0.1:0")

	crowd, cancel := context.WithCancel(t.Context())
	var strangers sync.WaitGroup
	unknown := newChip(t, "a", quote) // says that it is a
	leaf, _ := r.node(t, "a").Certificate()
	for _, c := range []credentials.TransportCredentials{
		client(t, r.party(t, attest.RoleNode, unknown)),
		client(t, f.config(t, attest.RolePerson)),
		credentials.NewTLS(tlsConfig(*leaf, "x", time.Now)), // no exchange at all
	} {
		conn := eager(t, address, c)
		for range 2 {
			strangers.Go(func() {
				for crowd.Err() == nil {
					if _, err := healthpb.NewHealthClient(conn).Check(crowd, &healthpb.HealthCheckRequest{}); err == nil {
						t.Error("a stranger was answered")
					}
				}
			})
		}
	}

	clients := make([]healthpb.HealthClient, nodes)
	for i := range clients {
		clients[i] = healthpb.NewHealthClient(eager(t, address, client(t, r.node(t, []string{"a", "b"}[i%2]))))
	}
	for range rounds {
		var wg sync.WaitGroup
		for i, c := range clients {
			wg.Go(func() {
				if err := answered(t.Context(), c); err != nil {
					t.Errorf("node %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		s.Stop()
		s, _ = serving(address)
	}
	cancel()
	strangers.Wait()
	s.Stop()
	if n := handled.Load(); n < nodes*rounds {
		t.Errorf("%d requests were handled, want at least %d", n, nodes*rounds)
	}
	for creds.sessions.running() != 0 { // none is kept of a server that is gone
		runtime.Gosched()
	}
}

func (s *sessions) running() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.live)
}

// answered calls until there is an answer: a call that was on its way when the coordinator went is lost.
func answered(ctx context.Context, c healthpb.HealthClient) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for ctx.Err() == nil {
		if _, err = c.Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true)); err == nil {
			return nil
		}
	}
	return err
}

func eager(t *testing.T, address string, creds credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(creds), grpc.WithConnectParams(grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
		MinConnectTimeout: 15 * time.Second,
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}
