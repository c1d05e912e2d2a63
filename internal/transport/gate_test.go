package transport

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/consilium-fl/consilium/aggregate"
	consiliumv1 "github.com/consilium-fl/consilium/proto/consilium/v1"
)

// fill makes a request that is well formed for study.
func fill(m protoreflect.Message, study [32]byte) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		switch {
		case f.Message() != nil:
			fill(m.Mutable(f).Message(), study)
		case f.Kind() == protoreflect.BytesKind && f.Name() == "boot":
			m.Set(f, protoreflect.ValueOfBytes(bytes.Repeat([]byte{7}, 16)))
		case f.Kind() == protoreflect.BytesKind:
			m.Set(f, protoreflect.ValueOfBytes(study[:]))
		case f.Kind() == protoreflect.StringKind && f.Name() != "service":
			m.Set(f, protoreflect.ValueOfString("checkpoint"))
		}
	}
}

type call struct {
	name   string
	desc   grpc.StreamDesc
	input  protoreflect.MessageType
	output protoreflect.MessageType
}

// calls lists every method that is registered, by reflection.
func calls(t *testing.T, s *Server) []call {
	t.Helper()
	var all []call
	for service := range s.grpc.GetServiceInfo() {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
		if err != nil {
			t.Fatal(err)
		}
		methods := d.(protoreflect.ServiceDescriptor).Methods()
		for i := range methods.Len() {
			m := methods.Get(i)
			in, err := protoregistry.GlobalTypes.FindMessageByName(m.Input().FullName())
			if err != nil {
				t.Fatal(err)
			}
			out, err := protoregistry.GlobalTypes.FindMessageByName(m.Output().FullName())
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, call{
				name: "/" + service + "/" + string(m.Name()), input: in, output: out,
				desc: grpc.StreamDesc{ServerStreams: m.IsStreamingServer(), ClientStreams: m.IsStreamingClient()},
			})
		}
	}
	return all
}

// run makes the call with one message and returns its end.
func (c call) run(t *testing.T, conn *grpc.ClientConn, study [32]byte) error {
	t.Helper()
	in := c.input.New()
	fill(in, study)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s, err := conn.NewStream(ctx, &c.desc, c.name)
	if err != nil {
		return err
	}
	if err := s.SendMsg(in.Interface()); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := s.CloseSend(); err != nil {
		return err
	}
	for first := true; ; first = false {
		err := s.RecvMsg(c.output.New().Interface())
		if err != nil {
			if errors.Is(err, io.EOF) && !first {
				return nil
			}
			return err
		}
		if !c.desc.ServerStreams || strings.HasSuffix(c.name, "Health/Watch") {
			return nil
		}
	}
}

func TestMethodTableIsWhatIsRegistered(t *testing.T) {
	s, _ := newWorld(t).serve(later(), nil)
	seen := map[string]bool{}
	for _, c := range calls(t, s) {
		seen[c.name] = true
		if methods[c.name] == 0 {
			t.Errorf("%s has no scope", c.name)
		}
	}
	for name := range methods {
		if !seen[name] {
			t.Errorf("%s has a scope and is not registered", name)
		}
	}
}

func TestNoHandlerRunsWithoutADecision(t *testing.T) {
	for _, c := range calls(t, must(newWorld(t).serve(later(), nil))) {
		t.Run(c.name, func(t *testing.T) {
			for name, gate := range map[string]func(*world){
				"refused": func(w *world) { w.refuse = []string{"not a member", "no appraisal"} },
				"broken":  func(w *world) { w.broken = errors.New("engine lost") },
			} {
				w := newWorld(t)
				gate(w)
				_, dial := w.serve(later(), nil)
				study := heart
				if methods[c.name] == onConsortium {
					study = consortium
				}
				err := c.run(t, dial(study).conn, study)
				if status.Code(err) != codes.PermissionDenied {
					t.Errorf("%s: got %v, want PermissionDenied", name, err)
				}
				if len(w.handled) > 0 || len(w.decisions) != 1 {
					t.Errorf("%s: handled %q after %d decisions, want none after one", name, w.handled, len(w.decisions))
				}
			}
		})
	}
}

func must(s *Server, _ func([32]byte) *Client) *Server { return s }

func TestExactlyOneDecision(t *testing.T) {
	w := newWorld(t)
	w.paths, w.files = []string{"receipt.json"}, map[string][]byte{"receipt.json": {1}}
	s, dial := w.serve(later(), nil)
	for _, c := range calls(t, s) {
		study := heart
		if methods[c.name] == onConsortium {
			study = consortium
		}
		w.decisions, w.handled = nil, nil
		w.spare = 0
		if err := c.run(t, dial(study).conn, study); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		w.mu.Lock()
		if len(w.decisions) != 1 || w.decisions[0].Method != c.name {
			t.Errorf("%s: decisions %+v, want one about it", c.name, w.decisions)
		}
		if health := strings.HasPrefix(c.name, "/grpc.health"); !health && len(w.handled) != 1 {
			t.Errorf("%s: handled %q", c.name, w.handled)
		}
		w.mu.Unlock()
	}
}

func TestAnotherStudyOnTheSameConnection(t *testing.T) {
	w := newWorld(t)
	s, dial := w.serve(later(), nil)
	for _, c := range calls(t, s) {
		in := c.input.New()
		fill(in, breast)
		a, err := askOf(in.Interface())
		if err != nil {
			t.Fatal(err)
		}
		if a.Study == ([32]byte{}) {
			continue // names no study
		}
		if err := c.run(t, dial(heart).conn, breast); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s for another study: got %v, want PermissionDenied", c.name, err)
		}
		want := codes.PermissionDenied
		if methods[c.name] == onEither {
			want = codes.OK
		}
		if err := c.run(t, dial(consortium).conn, breast); status.Code(err) != want {
			t.Errorf("%s on a connection for no study: got %v, want %v", c.name, err, want)
		}
	}
	if _, err := dial(heart).CreateStudy(t.Context(), []byte("s"), nil); !isRefused(err) {
		t.Errorf("creating a study on another's connection: %v", err)
	}
	w.about = "sha256:" + strings.Repeat("0", 64)
	if _, err := dial(heart).ApproveStudy(t.Context(), []byte("a")); !isRefused(err) {
		t.Errorf("approving another study on a study's connection: %v", err)
	}
	if _, err := dial(consortium).ApproveStudy(t.Context(), []byte("a")); err != nil {
		t.Errorf("approving: %v", err)
	}
	_, err := dial(consortium).ApproveStudy(t.Context(), []byte("unreadable"))
	if !errors.Is(err, ErrBadInput) {
		t.Errorf("approving with an unreadable file: %v", err)
	}
}

// misled decides about another study than was asked for.
type misled struct{ *world }

func (m misled) Facts(ctx context.Context, a Ask) (p policyPeer, t policyTarget, err error) {
	a.Study = breast
	return m.world.Facts(ctx, a)
}

func TestDecisionIsAboutTheStudyAsked(t *testing.T) {
	w := newWorld(t)
	s, dial := w.serve(later(), nil)
	s.facts = misled{w}
	if _, err := dial(consortium).GetStudy(t.Context(), heart); !isRefused(err) {
		t.Errorf("got %v", err)
	}
	if len(w.decisions) > 0 {
		t.Errorf("decided about another study: %+v", w.decisions)
	}
}

func isRefused(err error) bool {
	_, ok := errors.AsType[*Refused](err)
	return ok
}

func TestLaterChunkOfAnotherVector(t *testing.T) {
	for name, alter := range map[string]func(*consiliumv1.UploadRequest){
		"study":  func(r *consiliumv1.UploadRequest) { r.Study = breast[:] },
		"round":  func(r *consiliumv1.UploadRequest) { r.Round++ },
		"roster": func(r *consiliumv1.UploadRequest) { r.Roster = breast[:] },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			_, dial := w.serve(later(), nil)
			s, err := dial(heart).round.Upload(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			v := Vector{Study: heart, Round: 1, Roster: heart}
			second := chunkOut(v, Chunk{1, []byte("second")})
			alter(second)
			for _, r := range []*consiliumv1.UploadRequest{chunkOut(v, Chunk{0, []byte("first")}), second} {
				if err := s.Send(r); err != nil {
					t.Fatal(err)
				}
			}
			if _, err = s.CloseAndRecv(); status.Code(err) != codes.PermissionDenied {
				t.Errorf("got %v, want PermissionDenied", err)
			}
			if len(w.decisions) != 1 {
				t.Errorf("%d decisions, want 1", len(w.decisions))
			}
			if len(w.chunks) > 1 || len(w.chunks[v]) > 1 {
				t.Errorf("a chunk of another vector was stored: %v", w.chunks)
			}
		})
	}
}

func TestSessionThatIsOver(t *testing.T) {
	w := newWorld(t)
	s, dial := w.serve(time.Now().Add(-time.Second), nil)
	for _, c := range calls(t, s) {
		study := heart
		if methods[c.name] == onConsortium {
			study = consortium
		}
		if err := c.run(t, dial(study).conn, study); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "session over") {
			t.Errorf("%s: got %v", c.name, err)
		}
	}
	if len(w.handled)+len(w.decisions) > 0 {
		t.Errorf("handled %q, decided %d", w.handled, len(w.decisions))
	}
	if err := dial(heart).Send(t.Context(), heart, aggregate.Signed{}); !errors.Is(err, ErrSessionOver) {
		t.Errorf("got %v", err)
	}
}

// TestStreamsEnd runs on a clock of its own: a Follow ends well by itself, and not well with its session.
func TestStreamsEnd(t *testing.T) {
	for _, x := range []struct {
		name  string
		after time.Duration // the session's
		lasts time.Duration
		want  error
	}{
		{"by itself", time.Hour, followFor, nil},
		{"with its session", 20 * time.Second, 20 * time.Second, ErrSessionOver},
	} {
		t.Run(x.name, func(t *testing.T) {
			st, ct := newTLS(t)
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.follow = func(ctx context.Context, _ Position, _ func(FollowItem) error) error {
					<-ctx.Done()
					return ctx.Err()
				}
				until := time.Now().Add(x.after)
				st.Time, ct.Time = inTheCertificate, inTheCertificate
				s, err := NewServer(&admitted{credentials.NewTLS(st), [32]byte{}, until, nil}, Handlers{w, w, w, w, w}, Options{Facts: w, Gate: w})
				if err != nil {
					t.Fatal(err)
				}
				l := bufconn.Listen(1 << 16)
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- s.Serve(ctx, l) }()
				c, err := Dial("localhost:1", &admitted{credentials.NewTLS(ct), heart, until, nil},
					grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				err = c.Follow(t.Context(), Position{Study: heart, Boot: [16]byte{1}}, nil)
				if !errors.Is(err, x.want) || time.Since(start) != x.lasts {
					t.Errorf("got %v after %v, want %v after %v", err, time.Since(start), x.want, x.lasts)
				}
				if err := c.Close(); err != nil {
					t.Error(err)
				}
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// inTheCertificate is when the test's certificates hold; a bubble's clock starts in the year 2000.
func inTheCertificate() time.Time { return certified }

var certified = time.Now()

func TestOversizedIsRefused(t *testing.T) {
	w := newWorld(t)
	_, dial := w.serve(later(), nil)
	c := dial(heart)
	big := make([]byte, MaxMessage+1)
	err := c.conn.Invoke(t.Context(), consiliumv1.RoundService_Send_FullMethodName,
		&consiliumv1.SendRequest{Study: heart[:], Message: &consiliumv1.SignedMessage{Payload: big}}, &consiliumv1.SendResponse{},
		grpc.MaxCallSendMsgSize(2*MaxMessage))
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("message of %d bytes: %v", len(big), err)
	}
	v := Vector{Study: heart, Round: 1, Roster: heart}
	for _, n := range []int{aggregate.ChunkBytes + 1, maxChunk + 1} {
		_, err = c.upload(t.Context(), v, func(put func(Chunk) error) error { return put(Chunk{0, big[:n]}) })
		if !errors.Is(err, ErrBadInput) {
			t.Errorf("chunk of %d bytes: %v", n, err)
		}
	}
	padded := chunkOut(v, Chunk{})
	padded.ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, 99, protowire.BytesType), big[:maxChunk]))
	u, err := c.round.Upload(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Send(padded); err != nil {
		t.Fatal(err)
	}
	if _, err := u.CloseAndRecv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("message padded to %d bytes: %v", maxChunk, err)
	}
	if len(w.chunks[v]) > 0 || len(w.sent) > 0 {
		t.Errorf("stored what is too large")
	}
	if _, err := dial(heart).IssueSVID(t.Context(), big[:maxFile+1]); !errors.Is(err, ErrBadInput) {
		t.Errorf("enrolment of %d bytes: %v", maxFile+1, err)
	}
}

func TestPanicIsOurFaultAlone(t *testing.T) {
	w := newWorld(t)
	_, dial := w.serve(later(), nil)
	w.handle = func(context.Context, string) error { panic("secret") }
	c := dial(heart)
	for name, err := range map[string]error{
		"unary":  c.Send(t.Context(), heart, aggregate.Signed{}),
		"stream": c.Follow(t.Context(), Position{Study: heart, Boot: [16]byte{1}}, nil),
	} {
		if !errors.Is(err, ErrInternal) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	w.handle = nil
	if err := c.Send(t.Context(), heart, aggregate.Signed{}); err != nil {
		t.Errorf("the server did not go on: %v", err)
	}
}

func TestDecisionSeesTheRequest(t *testing.T) {
	w := newWorld(t)
	_, dial := w.serve(later(), nil)
	if err := dial(heart).Send(t.Context(), heart, aggregate.Signed{From: "va", Kind: "vote"}); err != nil {
		t.Fatal(err)
	}
	d := w.decisions[0]
	if d.Target.From != "va" || d.Target.Study != d.Session.Study || d.Session.Status != "affirming" || d.Now.IsZero() || d.Session.Until.IsZero() {
		t.Errorf("decided about %+v", d)
	}
}

func TestHealth(t *testing.T) {
	w := newWorld(t)
	_, dial := w.serve(later(), nil)
	if err := dial(consortium).Healthy(t.Context()); err != nil {
		t.Error(err)
	}
	if !slices.ContainsFunc(w.decisions, func(r policyRequest) bool { return r.Method == grpc_health_v1.Health_Check_FullMethodName }) {
		t.Error("health was not decided")
	}
}

// FuzzAsk: what decides about a request is read within bounds from any bytes, and twice the same.
func FuzzAsk(f *testing.F) {
	in := &consiliumv1.UploadRequest{}
	fill(in.ProtoReflect(), heart)
	seed, err := proto.Marshal(in)
	if err != nil {
		f.Fatal(err)
	}
	kinds := []func() proto.Message{
		func() proto.Message { return &consiliumv1.UploadRequest{} },
		func() proto.Message { return &consiliumv1.FollowRequest{} },
		func() proto.Message { return &consiliumv1.SendRequest{} },
		func() proto.Message { return &consiliumv1.ReadLogRequest{} },
		func() proto.Message { return &consiliumv1.CosignCheckpointRequest{} },
		func() proto.Message { return &consiliumv1.GetStudyRequest{} },
	}
	f.Add(byte(0), seed)
	f.Fuzz(func(t *testing.T, kind byte, b []byte) {
		m := kinds[int(kind)%len(kinds)]()
		if proto.Unmarshal(b, m) != nil {
			return
		}
		a, err := askOf(m)
		again, err2 := askOf(m)
		if (err == nil) != (err2 == nil) || a.Study != again.Study || a.From != again.From {
			t.Fatalf("two answers: %v and %v", err, err2)
		}
		if err != nil && !errors.Is(err, ErrBadInput) {
			t.Fatalf("got %v, want bad input", err)
		}
	})
}
