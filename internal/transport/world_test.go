package transport

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/channel"
	"github.com/consilium-fl/consilium/internal/policy"
	"github.com/consilium-fl/consilium/internal/signed"
)

var (
	heart      = sha256.Sum256([]byte("heart"))
	breast     = sha256.Sum256([]byte("breast"))
	consortium = sha256.Sum256([]byte("consortium"))
)

// admitted is a channel without attestation: real TLS 1.3, then the client names the study that the
// session is for and the server believes it.
type admitted struct {
	credentials.TransportCredentials
	study [32]byte
	until time.Time
	fail  func() error // server: refuses the handshake
}

func (a *admitted) Clone() credentials.TransportCredentials {
	b := *a
	b.TransportCredentials = a.TransportCredentials.Clone()
	return &b
}

func (a *admitted) session(study [32]byte) channel.Session {
	return channel.Session{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		Study:          study, PeerRole: attest.RoleNode, Until: a.until, Result: attest.Result{Status: attest.Affirming},
	}
}

func (a *admitted) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, _, err := a.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if err != nil {
		return nil, nil, err
	}
	if _, err := conn.Write(a.study[:]); err != nil {
		return nil, nil, err
	}
	var verdict [1]byte
	if _, err := io.ReadFull(conn, verdict[:]); err != nil {
		return nil, nil, err
	}
	if verdict[0] == 0 {
		return nil, nil, &channel.Refused{By: attest.RoleCoordinator, Reasons: []attest.Reason{{Code: "measurement", Path: "node", Got: "a", Want: "b"}}}
	}
	return conn, a.session(a.study), nil
}

func (a *admitted) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, _, err := a.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	var study [32]byte
	if _, err := io.ReadFull(conn, study[:]); err != nil {
		return nil, nil, err
	}
	if a.fail != nil {
		if err := a.fail(); err != nil {
			_, _ = conn.Write([]byte{0})
			_ = conn.Close()
			return nil, nil, err
		}
	}
	if _, err := conn.Write([]byte{1}); err != nil {
		return nil, nil, err
	}
	return conn, a.session(study), nil
}

func newTLS(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
		&tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots}
}

// world is a coordinator that stores in memory, its gate, and the facts. It fails the test when a handler
// runs without a decision of its own.
type world struct {
	t testing.TB

	mu        sync.Mutex
	decisions []policy.Request
	handled   []string
	refuse    []string // reasons; the gate refuses while there are some
	broken    error    // the gate's own error
	spare     int      // decisions that no handler has used
	chunks    map[Vector]map[uint32][]byte
	whole     int // chunks that make a vector whole
	sent      []aggregate.Signed
	model     []byte
	cutAt     int // Download fails there, once
	files     map[string][]byte
	paths     []string // in which order files are sent
	handle    func(ctx context.Context, method string) error
	follow    func(ctx context.Context, p Position, send func(FollowItem) error) error
	about     string // Target.Study of a file
}

func newWorld(t testing.TB) *world {
	return &world{t: t, chunks: map[Vector]map[uint32][]byte{}, whole: 1}
}

func (w *world) Consortium(d [32]byte) bool { return d == consortium }

func (w *world) Facts(_ context.Context, a Ask) (policy.Peer, policy.Target, error) {
	if string(a.File) == "unreadable" {
		return policy.Peer{}, policy.Target{}, fmt.Errorf("parsing an approval: %w", ErrBadInput)
	}
	t := policy.Target{From: a.From, Study: w.about}
	if a.Study != ([32]byte{}) {
		t.Study = signed.DigestText(a.Study)
	}
	return policy.Peer{Role: "node", Hospital: "cleveland"}, t, nil
}

func (w *world) Decide(_ context.Context, r policy.Request) (policy.Decision, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.decisions = append(w.decisions, r)
	if w.broken != nil {
		return policy.Decision{Allow: true}, w.broken
	}
	if len(w.refuse) > 0 {
		return policy.Decision{Reasons: w.refuse}, nil
	}
	w.spare++
	return policy.Decision{Allow: true}, nil
}

func (w *world) ran(ctx context.Context, method string) error {
	w.mu.Lock()
	w.spare--
	w.handled = append(w.handled, method)
	bad, handle := w.spare < 0, w.handle
	w.mu.Unlock()
	if p, ok := PeerFrom(ctx); !ok || p.Hospital != "cleveland" || bad {
		w.t.Errorf("%s ran without a decision of its own", method)
	}
	if s, ok := SessionFrom(ctx); !ok || s.Until.IsZero() {
		w.t.Errorf("%s ran without a session", method)
	}
	if handle != nil {
		return handle(ctx, method)
	}
	return nil
}

func (w *world) IssueSVID(ctx context.Context, enrolment []byte) (SVID, error) {
	return SVID{enrolment, []byte("issuer")}, w.ran(ctx, "IssueSVID")
}

func (w *world) GetBundle(ctx context.Context) ([]byte, error) {
	return []byte("issuer"), w.ran(ctx, "GetBundle")
}

func (w *world) CreateStudy(ctx context.Context, file, _ []byte) ([32]byte, error) {
	return sha256.Sum256(file), w.ran(ctx, "CreateStudy")
}

func (w *world) GetStudy(ctx context.Context, d [32]byte) (StudyInfo, error) {
	return StudyInfo{Digest: d, State: StateRunning, Approvals: []string{"va"}, RoundsClosed: 3}, w.ran(ctx, "GetStudy")
}

func (w *world) ListStudies(ctx context.Context) ([]StudyInfo, error) {
	return []StudyInfo{{Digest: heart}, {Digest: breast}}, w.ran(ctx, "ListStudies")
}

func (w *world) ApproveStudy(ctx context.Context, _ []byte) ([]string, error) {
	return []string{"va"}, w.ran(ctx, "ApproveStudy")
}

func (w *world) CancelStudy(ctx context.Context, _ [32]byte, _ string) error {
	return w.ran(ctx, "CancelStudy")
}

func (w *world) WatchStudy(ctx context.Context, _ [32]byte, cursor uint64, send func(WatchEvent) error) error {
	if err := w.ran(ctx, "WatchStudy"); err != nil {
		return err
	}
	return send(WatchEvent{Sequence: cursor + 1, Time: time.Unix(1, 5), Kind: "round", Round: 2, Text: "a\x1b[31mb"})
}

func (w *world) Follow(ctx context.Context, p Position, send func(FollowItem) error) error {
	if err := w.ran(ctx, "Follow"); err != nil {
		return err
	}
	if w.follow != nil {
		return w.follow(ctx, p, send)
	}
	return send(FollowItem{Sequence: p.Cursor + 1, Epoch: []byte("e"), Message: &aggregate.Signed{Kind: "plan"}, Promises: [][]byte{{1}}, Checkpoint: []byte("c")})
}

func (w *world) Send(ctx context.Context, _ [32]byte, m aggregate.Signed) error {
	w.mu.Lock()
	w.sent = append(w.sent, m)
	w.mu.Unlock()
	return w.ran(ctx, "Send")
}

func (w *world) Upload(ctx context.Context, v Vector, chunks iter.Seq2[Chunk, error]) (Held, error) {
	if err := w.ran(ctx, "Upload"); err != nil {
		return Held{}, err
	}
	// The handler of a stream that was cut may still run beside its successor's.
	for c, err := range chunks {
		if err != nil {
			return Held{}, err
		}
		w.mu.Lock()
		if w.chunks[v] == nil {
			w.chunks[v] = map[uint32][]byte{}
		}
		w.chunks[v][c.Index] = bytes.Clone(c.Words)
		w.mu.Unlock()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	h := Held{Bits: make([]byte, (w.whole+7)/8), Whole: len(w.chunks[v]) == w.whole}
	for i := range w.chunks[v] {
		h.Bits[i/8] |= 1 << (i % 8)
	}
	return h, nil
}

// lossy fails after n bytes, when n is not zero.
type lossy struct {
	io.Reader
	n int
}

func (l *lossy) Close() error { return nil }

func (l *lossy) Read(p []byte) (int, error) {
	if l.n == 0 {
		return l.Reader.Read(p)
	}
	if l.n < 0 {
		return 0, ErrUnreachable
	}
	n, err := l.Reader.Read(p[:min(len(p), l.n)])
	if l.n -= n; l.n == 0 {
		l.n = -1
	}
	return n, err
}

func (w *world) Download(ctx context.Context, _, _ [32]byte, offset uint64) (Blob, error) {
	b := Blob{uint64(len(w.model)), &lossy{bytes.NewReader(w.model[min(offset, uint64(len(w.model))):]), w.cutAt}}
	w.cutAt = 0
	return b, w.ran(ctx, "Download")
}

func (w *world) DownloadModel(ctx context.Context, _ [32]byte, offset uint64) (Blob, error) {
	b, err := w.Download(ctx, heart, heart, offset)
	return b, err
}

func (w *world) GetReceipt(ctx context.Context, _ [32]byte, file func(string, io.Reader) error) error {
	if err := w.ran(ctx, "GetReceipt"); err != nil {
		return err
	}
	for _, p := range w.paths {
		if err := file(p, bytes.NewReader(w.files[p])); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) ReadLog(ctx context.Context, _ [32]byte, resource string) ([]byte, error) {
	if err := w.ran(ctx, "ReadLog"); err != nil {
		return nil, err
	}
	if resource == "absent" {
		return nil, &fs.PathError{Op: "open", Path: "/secret/place", Err: fs.ErrNotExist}
	}
	return []byte(resource), nil
}

func (w *world) CosignCheckpoint(ctx context.Context, _ [32]byte, size uint64, _ []byte) ([]byte, error) {
	return fmt.Append(nil, size), w.ran(ctx, "CosignCheckpoint")
}

// serve starts w on loopback and returns how to dial it for a study.
func (w *world) serve(until time.Time, fail func() error) (s *Server, dial func(study [32]byte) *Client) {
	w.t.Helper()
	return w.serveWith(Handlers{w, w, w, w, w}, until, fail)
}

func (w *world) serveWith(h Handlers, until time.Time, fail func() error) (s *Server, dial func(study [32]byte) *Client) {
	w.t.Helper()
	st, ct := newTLS(w.t)
	s, err := NewServer(&admitted{credentials.NewTLS(st), [32]byte{}, until, fail},
		h, Options{Facts: w, Gate: w, Logger: slog.New(slog.NewTextHandler(w.t.Output(), nil))})
	if err != nil {
		w.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	return s, func(study [32]byte) *Client {
		c, err := Dial(l.Addr().String(), &admitted{credentials.NewTLS(ct), study, until, nil})
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(func() { _ = c.Close() })
		return c
	}
}

func later() time.Time { return time.Now().Add(time.Hour) }
