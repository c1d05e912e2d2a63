package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"github.com/consilium-fl/consilium/internal/policy"
	consiliumv1 "github.com/consilium-fl/consilium/proto/consilium/v1"
)

// Options of a server. Facts and Gate are required.
type Options struct {
	Facts  Facts
	Gate   Gate
	Logger *slog.Logger     // none: nothing is logged
	Now    func() time.Time // nil: time.Now
	// Decided hears every decision and, when the gate failed, its error. It is called before the handler.
	Decided func(policy.Request, policy.Decision, error)
}

// Server answers the five services and health.
type Server struct {
	grpc     *grpc.Server
	health   *health.Server
	facts    Facts
	gate     Gate
	log      *slog.Logger
	now      func() time.Time
	claims   claims
	decided  func(policy.Request, policy.Decision, error)
	stopping context.Context // ends when Serve's does
	stop     context.CancelFunc
}

// Limits of one connection.
const (
	maxStreams   = 64
	maxHeaders   = 16 << 10
	pingEvery    = 20 * time.Second // a client's; a server allows half of it
	pingTimeout  = 10 * time.Second
	stopPatience = 3 * time.Second

	// Four chunks in flight a stream: enough for a long line, and what a peer can make us hold.
	streamWindow = 1 << 20
	connWindow   = 2 << 20
	ioBuffer     = 64 << 10
)

// NewServer makes a server whose connections creds attests: their AuthInfo is a channel.Session.
func NewServer(creds credentials.TransportCredentials, h Handlers, o Options) (*Server, error) {
	switch {
	case creds == nil:
		return nil, errors.New("making a server: no credentials")
	case o.Facts == nil || o.Gate == nil:
		return nil, errors.New("making a server: no gate")
	case h.Identity == nil || h.Study == nil || h.Round == nil || h.Release == nil || h.Audit == nil:
		return nil, errors.New("making a server: a handler is missing")
	}
	s := &Server{facts: o.Facts, gate: o.Gate, log: o.Logger, now: o.Now, decided: o.Decided, health: health.NewServer()}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.grpc = grpc.NewServer(
		grpc.Creds(creds),
		grpc.UnaryInterceptor(s.unary),
		grpc.StreamInterceptor(s.stream),
		grpc.MaxRecvMsgSize(MaxMessage),
		grpc.MaxSendMsgSize(MaxMessage),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(maxHeaders),
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(connWindow),
		grpc.ReadBufferSize(ioBuffer),
		grpc.WriteBufferSize(ioBuffer),
		grpc.ConnectionTimeout(35*time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingEvery, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingEvery / 2, PermitWithoutStream: true}),
	)
	consiliumv1.RegisterIdentityServiceServer(s.grpc, identityRPC{h: h.Identity})
	consiliumv1.RegisterStudyServiceServer(s.grpc, studyRPC{h: h.Study})
	consiliumv1.RegisterRoundServiceServer(s.grpc, roundRPC{h: h.Round})
	consiliumv1.RegisterReleaseServiceServer(s.grpc, releaseRPC{h: h.Release})
	consiliumv1.RegisterAuditServiceServer(s.grpc, auditRPC{h: h.Audit})
	grpc_health_v1.RegisterHealthServer(s.grpc, s.health)
	return s, nil
}

// Serve answers on l until ctx ends, then ends the streams, waits for what runs, for three seconds at
// most, and closes every connection and l. It is called once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stopped := make(chan struct{})
	end := context.AfterFunc(ctx, func() {
		defer close(stopped)
		s.shutdown()
	})
	err := s.grpc.Serve(l)
	if end() { // not begun: l failed
		s.shutdown()
		if err != nil {
			return fmt.Errorf("serving on %s: %w", l.Addr(), err)
		}
		return nil
	}
	<-stopped
	return nil
}

func (s *Server) shutdown() {
	s.health.Shutdown()
	s.stop()
	hard := time.AfterFunc(stopPatience, s.grpc.Stop)
	defer hard.Stop()
	s.grpc.GracefulStop()
}
