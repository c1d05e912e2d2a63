package channel

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/consilium-fl/consilium/attest"
)

// station is a gRPC server that counts what reaches it.
type station struct {
	server *grpc.Server
	calls  atomic.Int64
	last   atomic.Pointer[Session]
	round  *round
}

func start(t *testing.T, address string, creds credentials.TransportCredentials) (*station, string) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := &station{round: &round{got: make(chan string, 16), ended: make(chan error, 16)}}
	s.server = grpc.NewServer(grpc.Creds(creds),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			s.calls.Add(1)
			session := sessionOf(ctx)
			s.last.Store(&session)
			return next(ctx, req)
		}),
		grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error {
			s.calls.Add(1)
			return status.Error(codes.Unimplemented, "nothing here")
		}))
	healthpb.RegisterHealthServer(s.server, health.NewServer())
	grpc_testing.RegisterTestServiceServer(s.server, s.round)
	go func() { _ = s.server.Serve(l) }()
	t.Cleanup(s.server.Stop)
	return s, l.Addr().String()
}

func sessionOf(ctx context.Context) Session {
	if p, ok := peer.FromContext(ctx); ok {
		if s, ok := p.AuthInfo.(Session); ok {
			return s
		}
	}
	return Session{}
}

// round is a service that takes uploads, and says how far each came and by what it was cut off.
type round struct {
	grpc_testing.UnimplementedTestServiceServer
	got   chan string // machine and chunk
	ended chan error
}

func (r *round) StreamingInputCall(s grpc_testing.TestService_StreamingInputCallServer) error {
	machine := sessionOf(s.Context()).Result.Claims.Machine
	for {
		in, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return s.SendAndClose(&grpc_testing.StreamingInputCallResponse{})
		}
		if err != nil {
			r.ended <- err
			return err
		}
		r.got <- machine + " " + string(in.GetPayload().GetBody())
	}
}

func chunk(s string) *grpc_testing.StreamingInputCallRequest {
	return &grpc_testing.StreamingInputCallRequest{Payload: &grpc_testing.Payload{Body: []byte(s)}}
}

func connect(t *testing.T, address string, creds credentials.TransportCredentials) (*grpc.ClientConn, healthpb.HealthClient) {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(creds),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: time.Millisecond, Multiplier: 1, MaxDelay: time.Millisecond}, MinConnectTimeout: time.Second}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn, healthpb.NewHealthClient(conn)
}

func await(t *testing.T, conn *grpc.ClientConn, is func(connectivity.State) bool) {
	t.Helper()
	for s := conn.GetState(); !is(s); s = conn.GetState() {
		conn.WaitForStateChange(t.Context(), s)
	}
}

func TestSessionReachesHandlers(t *testing.T) {
	f := newFederation(t)
	s, address := start(t, "127.0.0.1:0", server(t, f.config(t, attest.RoleCoordinator)))
	_, c := connect(t, address, client(t, f.config(t, attest.RoleNode)))
	if _, err := c.Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	got := s.last.Load()
	if got.Study != f.study || got.PeerRole != attest.RoleNode || !got.Result.OK() {
		t.Errorf("the handler saw %+v", got)
	}
}

// TestImpostorOnReconnect: the honest coordinator goes away, and another takes its address. gRPC
// reconnects by itself; no request may reach the other.
func TestImpostorOnReconnect(t *testing.T) {
	f, elsewhere := newFederation(t), newFederation(t)
	leaf, _ := f.config(t, attest.RoleCoordinator).Certificate()
	stolenLog := elsewhere.config(t, attest.RoleCoordinator)
	stolenLog.LogSigner = logSigner{f.log}
	brokenChip := f.config(t, attest.RoleCoordinator)
	brokenChip.LogSigner = logSigner{elsewhere.log}
	for _, tc := range []struct {
		name  string
		creds credentials.TransportCredentials
	}{
		{"plain TLS", credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{*leaf}})},
		{"another consortium's coordinator", server(t, elsewhere.config(t, attest.RoleCoordinator))},
		{"the log key without the chip", server(t, stolenLog)},
		{"a chip without the log key", server(t, brokenChip)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			nc := f.config(t, attest.RoleNode)
			var admitted, refused atomic.Int64
			tried := make(chan struct{}, 1)
			nc.Observe = func(o Outcome) {
				if o.Err == nil {
					admitted.Add(1)
					return
				}
				refused.Add(1)
				select {
				case tried <- struct{}{}:
				default:
				}
			}
			honest, address := start(t, "127.0.0.1:0", server(t, f.config(t, attest.RoleCoordinator)))
			conn, c := connect(t, address, client(t, nc))
			if _, err := c.Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
				t.Fatal(err)
			}
			await(t, conn, func(s connectivity.State) bool { return s == connectivity.Ready }) // which calls may find before it is said
			honest.server.Stop()
			await(t, conn, func(s connectivity.State) bool { return s != connectivity.Ready })

			impostor, _ := start(t, address, tc.creds)
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				for range 3 {
					<-tried
				}
				cancel()
			}()
			// The request waits for a connection, and none is ever made.
			if _, err := c.Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true)); status.Code(err) != codes.Canceled {
				t.Errorf("got %v, want the call to wait", err)
			}
			impostor.server.Stop()
			if n := impostor.calls.Load(); n != 0 {
				t.Errorf("%d requests reached the impostor", n)
			}
			if refused.Load() == 0 {
				t.Error("the impostor was never tried")
			}

			before := admitted.Load()
			start(t, address, server(t, f.config(t, attest.RoleCoordinator)))
			if _, err := c.Check(t.Context(), &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true)); err != nil {
				t.Fatal(err)
			}
			if admitted.Load() != before+1 {
				t.Errorf("%d handshakes, want one more than %d", admitted.Load(), before)
			}
		})
	}
}
