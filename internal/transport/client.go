package transport

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"github.com/consilium-fl/consilium/aggregate"
	consiliumv1 "github.com/consilium-fl/consilium/proto/consilium/v1"
)

// Client speaks to one coordinator over one attested connection, made at the first call and again after
// it was lost. It is safe for concurrent use.
//
// Errors are those of this package, context.Canceled and context.DeadlineExceeded, by errors.Is and
// errors.As.
type Client struct {
	conn     *grpc.ClientConn
	creds    *remembering
	identity consiliumv1.IdentityServiceClient
	study    consiliumv1.StudyServiceClient
	round    consiliumv1.RoundServiceClient
	release  consiliumv1.ReleaseServiceClient
	audit    consiliumv1.AuditServiceClient
	health   grpc_health_v1.HealthClient
}

// Dial prepares a client of the coordinator at target, host:port. Nothing is sent before a call; no proxy
// is used and no service configuration fetched. Options are for tests that dial without a network.
func Dial(target string, creds credentials.TransportCredentials, opts ...grpc.DialOption) (*Client, error) {
	if _, _, err := net.SplitHostPort(target); err != nil {
		return nil, fmt.Errorf("dialling %q: %w: %w", target, ErrBadInput, err)
	}
	c := &Client{creds: &remembering{TransportCredentials: creds, memory: &memory{}}}
	conn, err := grpc.NewClient("passthrough:///"+target, append([]grpc.DialOption{
		grpc.WithTransportCredentials(c.creds),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage)),
		grpc.WithMaxHeaderListSize(maxHeaders),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithReadBufferSize(ioBuffer),
		grpc.WithWriteBufferSize(ioBuffer),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
			MinConnectTimeout: 35 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: pingTimeout}),
	}, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("dialling %q: %w", target, err)
	}
	c.conn = conn
	c.identity = consiliumv1.NewIdentityServiceClient(conn)
	c.study = consiliumv1.NewStudyServiceClient(conn)
	c.round = consiliumv1.NewRoundServiceClient(conn)
	c.release = consiliumv1.NewReleaseServiceClient(conn)
	c.audit = consiliumv1.NewAuditServiceClient(conn)
	c.health = grpc_health_v1.NewHealthClient(conn)
	return c, nil
}

// Close ends the connection and every call on it.
func (c *Client) Close() error {
	if err := c.conn.Close(); err != nil {
		return fmt.Errorf("closing a connection: %w", err)
	}
	return nil
}

// Reattest drops the connection, and with it the attested session; the next call makes new ones. Calls
// that run end with ErrUnreachable.
func (c *Client) Reattest() { c.creds.memory.drop() }

// failed types the error of a call.
func (c *Client) failed(err error) error {
	err = fromStatus(err, c.creds.memory.refusal())
	if errors.Is(err, ErrSessionOver) {
		c.Reattest()
	}
	return err
}

// memory keeps of the connection what gRPC does not hand on: why its last handshake failed, and the
// connection itself, so that it can be dropped.
type memory struct {
	mu   sync.Mutex
	err  error
	conn net.Conn
}

// set keeps an error over later successes: calls may still hear of it, and fromStatus tells which do.
func (m *memory) set(conn net.Conn, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.conn = conn
	if err != nil {
		m.err = err
	}
}

func (m *memory) refusal() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

func (m *memory) drop() {
	m.mu.Lock()
	conn := m.conn
	m.conn = nil
	m.mu.Unlock()
	if conn != nil {
		_ = conn.Close() // gRPC notices by reading, and reports what it lost
	}
}

type remembering struct {
	credentials.TransportCredentials
	memory *memory
}

func (r *remembering) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := r.TransportCredentials.ClientHandshake(ctx, authority, raw)
	r.memory.set(conn, err)
	return conn, info, err
}

func (r *remembering) Clone() credentials.TransportCredentials {
	return &remembering{TransportCredentials: r.TransportCredentials.Clone(), memory: r.memory}
}

// Healthy returns nil when the coordinator answers and serves.
func (c *Client) Healthy(ctx context.Context) error {
	r, err := c.health.Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		return c.failed(err)
	}
	if r.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		return fmt.Errorf("asking for health: %s: %w", r.GetStatus(), ErrUnreachable)
	}
	return nil
}

// IssueSVID gets a certificate for the connection's own leaf key, which the enrolment file names.
func (c *Client) IssueSVID(ctx context.Context, enrolment []byte) (SVID, error) {
	r, err := c.identity.IssueSVID(ctx, &consiliumv1.IssueSVIDRequest{Enrolment: enrolment})
	if err != nil {
		return SVID{}, c.failed(err)
	}
	return SVID{Certificate: r.GetCertificate(), Issuer: r.GetIssuer()}, nil
}

// GetBundle returns the issuer's certificate, DER.
func (c *Client) GetBundle(ctx context.Context) ([]byte, error) {
	r, err := c.identity.GetBundle(ctx, &consiliumv1.GetBundleRequest{})
	if err != nil {
		return nil, c.failed(err)
	}
	return r.GetIssuer(), nil
}

// CreateStudy submits study.yaml with its lead's DSSE envelope and returns its digest.
func (c *Client) CreateStudy(ctx context.Context, file, signature []byte) ([32]byte, error) {
	r, err := c.study.CreateStudy(ctx, &consiliumv1.CreateStudyRequest{Study: file, Signature: signature})
	if err != nil {
		return [32]byte{}, c.failed(err)
	}
	return digestIn("a study's digest", r.GetDigest())
}

// GetStudy says how a study stands.
func (c *Client) GetStudy(ctx context.Context, study [32]byte) (StudyInfo, error) {
	r, err := c.study.GetStudy(ctx, &consiliumv1.GetStudyRequest{Digest: study[:]})
	if err != nil {
		return StudyInfo{}, c.failed(err)
	}
	s, err := studyIn(r.GetStudy())
	if err == nil && s.Digest != study {
		err = fmt.Errorf("getting study %x: got %x: %w", study, s.Digest, ErrBadInput)
	}
	return s, err
}

// ListStudies says how every study stands.
func (c *Client) ListStudies(ctx context.Context) ([]StudyInfo, error) {
	r, err := c.study.ListStudies(ctx, &consiliumv1.ListStudiesRequest{})
	if err != nil {
		return nil, c.failed(err)
	}
	if err := bounded("a list of studies", len(r.GetStudies()), maxItems); err != nil {
		return nil, err
	}
	all := make([]StudyInfo, 0, len(r.GetStudies()))
	for _, p := range r.GetStudies() {
		s, err := studyIn(p)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// ApproveStudy hands in a hospital's approval and returns whose approvals count now.
func (c *Client) ApproveStudy(ctx context.Context, approval []byte) ([]string, error) {
	r, err := c.study.ApproveStudy(ctx, &consiliumv1.ApproveStudyRequest{Approval: approval})
	if err != nil {
		return nil, c.failed(err)
	}
	return cleanAll(r.GetApprovals()), bounded("approvals", len(r.GetApprovals()), maxItems)
}

// CancelStudy ends a study before its rounds are done.
func (c *Client) CancelStudy(ctx context.Context, study [32]byte, why string) error {
	_, err := c.study.CancelStudy(ctx, &consiliumv1.CancelStudyRequest{Digest: study[:], Why: why})
	return c.failed(err)
}

// Send delivers a signed message. Sending it again does no harm.
func (c *Client) Send(ctx context.Context, study [32]byte, m aggregate.Signed) error {
	_, err := c.round.Send(ctx, &consiliumv1.SendRequest{Study: study[:], Message: signedOut(m)})
	return c.failed(err)
}

// CosignCheckpoint hands in a co-signature line for the checkpoint of this size and returns the newest
// checkpoint that counts, nil for none.
func (c *Client) CosignCheckpoint(ctx context.Context, study [32]byte, size uint64, cosignature []byte) ([]byte, error) {
	r, err := c.audit.CosignCheckpoint(ctx, &consiliumv1.CosignCheckpointRequest{Study: study[:], Size: size, Cosignature: cosignature})
	if err != nil {
		return nil, c.failed(err)
	}
	return r.GetCounted(), bounded("a checkpoint", len(r.GetCounted()), maxFile)
}

// LogReader reads the log of a study, or the consortium's for the zero digest. It is an audit.Reader.
func (c *Client) LogReader(study [32]byte) LogReader { return LogReader{c, study} }

// LogReader reads one log of a coordinator.
type LogReader struct {
	client *Client
	study  [32]byte
}

// Read returns a tlog-tiles resource. What is not there is fs.ErrNotExist, too.
func (l LogReader) Read(ctx context.Context, resource string) ([]byte, error) {
	q := &consiliumv1.ReadLogRequest{Resource: resource}
	if l.study != ([32]byte{}) {
		q.Study = l.study[:]
	}
	r, err := l.client.audit.ReadLog(ctx, q)
	if err == nil {
		return r.GetData(), nil
	}
	err = l.client.failed(err)
	if errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("reading %q: %w: %w", resource, fs.ErrNotExist, err)
	}
	return nil, fmt.Errorf("reading %q: %w", resource, err)
}

// checkPath takes what stays inside a folder on every system: relative, slash separated, plain.
func checkPath(p string) error {
	if p == "." || len(p) > maxName || !fs.ValidPath(p) || path.Clean(p) != p || strings.ContainsAny(p, "\\:\x00") || clean(p) != p {
		return fmt.Errorf("reading a path: %q: %w", p, ErrBadInput)
	}
	return nil
}
