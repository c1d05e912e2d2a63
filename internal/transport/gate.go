package transport

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/channel"
	"github.com/consilium-fl/consilium/internal/policy"
	"github.com/consilium-fl/consilium/internal/signed"
	consiliumv1 "github.com/consilium-fl/consilium/proto/consilium/v1"
)

// scope says on which connections a method answers.
type scope int

const (
	onStudy      scope = iota + 1 // only on a connection that serves the study named
	onConsortium                  // only on one that serves no one study
	onEither                      // on both, but a study named on a study's connection is that study
)

// methods lists every method there is; one that is not here is refused. A test compares it with what is
// registered.
var methods = map[string]scope{
	consiliumv1.IdentityService_IssueSVID_FullMethodName:     onEither,
	consiliumv1.IdentityService_GetBundle_FullMethodName:     onEither,
	consiliumv1.StudyService_CreateStudy_FullMethodName:      onConsortium,
	consiliumv1.StudyService_GetStudy_FullMethodName:         onEither,
	consiliumv1.StudyService_ListStudies_FullMethodName:      onConsortium,
	consiliumv1.StudyService_ApproveStudy_FullMethodName:     onEither,
	consiliumv1.StudyService_CancelStudy_FullMethodName:      onEither,
	consiliumv1.StudyService_WatchStudy_FullMethodName:       onEither,
	consiliumv1.RoundService_Follow_FullMethodName:           onStudy,
	consiliumv1.RoundService_Send_FullMethodName:             onStudy,
	consiliumv1.RoundService_Upload_FullMethodName:           onStudy,
	consiliumv1.RoundService_Download_FullMethodName:         onStudy,
	consiliumv1.ReleaseService_GetReceipt_FullMethodName:     onStudy,
	consiliumv1.ReleaseService_DownloadModel_FullMethodName:  onStudy,
	consiliumv1.AuditService_ReadLog_FullMethodName:          onEither,
	consiliumv1.AuditService_CosignCheckpoint_FullMethodName: onStudy,
	"/grpc.health.v1.Health/Check":                           onEither,
	"/grpc.health.v1.Health/List":                            onEither,
	"/grpc.health.v1.Health/Watch":                           onEither,
}

type contextKey int

const askedKey contextKey = iota

// asked is what a handler may know of the decision that let it run.
type asked struct {
	session channel.Session
	peer    policy.Peer
}

// SessionFrom returns the attested session of a request's connection.
func SessionFrom(ctx context.Context) (channel.Session, bool) {
	if a, ok := ctx.Value(askedKey).(asked); ok {
		return a.session, true
	}
	p, ok := peer.FromContext(ctx)
	if !ok {
		return channel.Session{}, false
	}
	s, ok := p.AuthInfo.(channel.Session)
	return s, ok
}

// PeerFrom returns who asks, as the decision saw it. It is false before a decision.
func PeerFrom(ctx context.Context) (policy.Peer, bool) {
	a, ok := ctx.Value(askedKey).(asked)
	return a.peer, ok
}

// decide makes the one decision of a request, from its first message.
func (s *Server) decide(ctx context.Context, method string, m any) (context.Context, error) {
	session, ok := SessionFrom(ctx)
	if !ok {
		return nil, refused("the connection is not attested")
	}
	now := s.now()
	if !now.Before(session.Until) {
		return nil, fmt.Errorf("asking at %s, attested until %s: %w", now.Format(time.RFC3339), session.Until.Format(time.RFC3339), ErrSessionOver)
	}
	a, err := askOf(m)
	if err != nil {
		return nil, err
	}
	a.Method, a.Session = method, session
	consortium := s.facts.Consortium(session.Study)
	if err := inScope(a, consortium); err != nil {
		return nil, err
	}
	who, target, err := s.facts.Facts(ctx, a)
	if err != nil {
		return nil, s.noFacts(ctx, method, err)
	}
	if err := onTarget(a, target, consortium); err != nil {
		return nil, err
	}
	if err := s.ask(ctx, policy.Request{Method: method, Now: now, Peer: who, Session: s.facets(session, consortium), Target: target}); err != nil {
		return nil, err
	}
	return context.WithValue(ctx, askedKey, asked{session, who}), nil
}

// ask is the only caller of the gate.
func (s *Server) ask(ctx context.Context, r policy.Request) error {
	d, err := s.gate.Decide(ctx, r)
	if s.decided != nil {
		s.decided(r, d, err)
	}
	if err != nil {
		s.log.ErrorContext(ctx, "decision failed", "method", r.Method, "error", err)
		return refused("no decision could be made")
	}
	if !d.Allow {
		return &Refused{Reasons: d.Reasons}
	}
	return nil
}

// noFacts is a refusal whatever went wrong; only an unreadable file is told apart.
func (s *Server) noFacts(ctx context.Context, method string, err error) error {
	if _, ok := errors.AsType[*Refused](err); ok || errors.Is(err, ErrBadInput) {
		return err
	}
	s.log.ErrorContext(ctx, "finding the facts of a request failed", "method", method, "error", err)
	return refused("no decision could be made")
}

func refused(reason string) error { return &Refused{Reasons: []string{reason}} }

func (s *Server) facets(x channel.Session, consortium bool) policy.Session {
	return policy.Session{
		Study: signed.DigestText(x.Study), Consortium: consortium, Status: string(x.Result.Status),
		Simulated: x.Result.Claims.Simulated, Until: x.Until, Attestation: s.claims.of(x),
	}
}

// claims are those of sessions as text, since each request asks for them.
type claims struct {
	mu   sync.Mutex
	text map[[32]byte]policy.JSON // by exporter, which names a session
}

// keptClaims bounds them: more than sessions are busy at once.
const keptClaims = 1 << 12

func (c *claims) of(x channel.Session) policy.JSON {
	if x.PeerRole != attest.RoleNode {
		return ""
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if j, ok := c.text[x.Exporter]; ok {
		return j
	}
	if c.text == nil || len(c.text) == keptClaims {
		c.text = map[[32]byte]policy.JSON{}
	}
	c.text[x.Exporter] = Claims(x)
	return c.text[x.Exporter]
}

// Claims are what a session's evidence says, as policies see it.
func Claims(x channel.Session) policy.JSON {
	b, err := json.Marshal(x.Result.Claims)
	if err != nil {
		return "unreadable" // which is no object: with a rule that could ask for it, no decision can be made
	}
	return policy.JSON(b)
}

// inScope holds a request to what its connection was attested for.
func inScope(a Ask, consortium bool) error {
	switch methods[a.Method] {
	case onStudy:
		if consortium || a.Study != a.Session.Study {
			return refused("the connection does not serve this study")
		}
	case onConsortium:
		if !consortium {
			return refused("the connection serves one study only")
		}
	case onEither: // onTarget holds it to the connection's study
	default:
		return refused("the method is not known")
	}
	return nil
}

// onTarget holds the facts to the request: what is decided about is what was asked for, and whatever is
// asked on a study's connection, by name or by a file handed in, is about that study.
func onTarget(a Ask, t policy.Target, consortium bool) error {
	if a.Study != ([32]byte{}) && t.Study != signed.DigestText(a.Study) {
		return refused("the decision would be about another study")
	}
	if !consortium && t.Study != "" && t.Study != signed.DigestText(a.Session.Study) {
		return refused("the connection does not serve this study")
	}
	return nil
}

// askOf reads from a request what decides about it, within bounds.
func askOf(m any) (a Ask, err error) {
	switch r := m.(type) {
	case *consiliumv1.IssueSVIDRequest:
		a.File, err = r.GetEnrolment(), bounded("an enrolment", len(r.GetEnrolment()), maxFile)
	case *consiliumv1.CreateStudyRequest:
		a.File, err = r.GetStudy(), firstOf(bounded("a study", len(r.GetStudy()), maxFile), bounded("a signature", len(r.GetSignature()), 2*maxFile))
	case *consiliumv1.ApproveStudyRequest:
		a.File, err = r.GetApproval(), bounded("an approval", len(r.GetApproval()), maxFile)
	case *consiliumv1.CancelStudyRequest:
		if a.Study, err = digestIn("a study", r.GetDigest()); err == nil {
			err = bounded("a reason", len(r.GetWhy()), maxText)
		}
	case *consiliumv1.SendRequest:
		if a.Study, err = digestIn("a study", r.GetStudy()); err == nil {
			_, err = signedIn(r.GetMessage())
		}
		a.From, a.Kind = r.GetMessage().GetFrom(), r.GetMessage().GetKind()
	case *consiliumv1.FollowRequest:
		var p Position
		p, err = positionIn(r)
		a.Study = p.Study
	case *consiliumv1.UploadRequest:
		var v Vector
		v, err = vectorIn(r)
		a.Study = v.Study
	case *consiliumv1.ReadLogRequest:
		if len(r.GetStudy()) > 0 {
			a.Study, err = digestIn("a study", r.GetStudy())
		}
		err = firstOf(err, bounded("a resource", len(r.GetResource()), maxName))
	case *consiliumv1.CosignCheckpointRequest:
		if a.Study, err = digestIn("a study", r.GetStudy()); err == nil {
			err = bounded("a co-signature", len(r.GetCosignature()), maxText)
		}
	case interface{ GetStudy() []byte }:
		a.Study, err = digestIn("a study", r.GetStudy())
	case interface{ GetDigest() []byte }:
		a.Study, err = digestIn("a study", r.GetDigest())
	}
	return a, err
}

func (s *Server) unary(ctx context.Context, m any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (out any, err error) {
	defer func() {
		if p := recover(); p != nil {
			out, err = nil, s.panicked(ctx, info.FullMethod, p)
		}
	}()
	ctx, err = s.decide(ctx, info.FullMethod, m)
	if err != nil {
		return nil, toStatus(err)
	}
	out, err = h(ctx, m)
	if err != nil {
		return nil, s.answer(ctx, info.FullMethod, err)
	}
	return out, nil
}

func (s *Server) panicked(ctx context.Context, method string, p any) error {
	s.log.ErrorContext(ctx, "handler panicked", "method", method, "panic", p, "stack", string(debug.Stack()))
	return toStatus(ErrInternal)
}

// answer turns a handler's error into a status and logs what the client is not told.
func (s *Server) answer(ctx context.Context, method string, err error) error {
	if !known(err) {
		s.log.ErrorContext(ctx, "handler failed", "method", method, "error", err)
	}
	return toStatus(err)
}

// followFor is the longest that a Follow or a WatchStudy runs: their decision is not older than that. The
// client resumes by cursor. Transfers run until they are done or the session is over.
const followFor = 55 * time.Second

func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) (err error) {
	ctx, cancel := context.WithCancelCause(ss.Context())
	defer cancel(nil)
	stop := context.AfterFunc(s.stopping, func() { cancel(errStopping) })
	defer stop()
	defer func() {
		if p := recover(); p != nil {
			err = s.panicked(ctx, info.FullMethod, p)
		}
	}()
	d := &decidedStream{ServerStream: ss, server: s, method: info.FullMethod, ctx: ctx, cancel: cancel}
	defer d.end()
	err = h(srv, d)
	cause := context.Cause(ctx)
	switch {
	case d.refusal != nil: // whatever the handler made of it
		return toStatus(d.refusal)
	case errors.Is(cause, errResume) && (err == nil || errors.Is(err, context.Canceled) || errors.Is(err, errResume)):
		return nil
	case cause != nil && ss.Context().Err() == nil && !errors.Is(cause, errResume):
		return toStatus(cause) // the session ended, or we stop
	case err != nil:
		return s.answer(ctx, info.FullMethod, err)
	}
	return nil
}

var (
	errStopping = fmt.Errorf("stopping: %w", ErrUnreachable)
	errResume   = errors.New("a stream runs for so long only")
)

// decidedStream decides on the first message before the handler sees it, and holds those that follow to it.
type decidedStream struct {
	grpc.ServerStream
	server *Server
	method string
	cancel context.CancelCauseFunc

	mu      sync.Mutex // a handler may receive and send in two goroutines
	ctx     context.Context
	first   any // the message decided on; nil before
	refusal error
	timers  []*time.Timer
}

func (d *decidedStream) Context() context.Context {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ctx
}

func (d *decidedStream) RecvMsg(m any) error {
	if err := d.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.refusal == nil {
		d.refusal = d.take(m)
	}
	if d.refusal != nil {
		return d.refusal
	}
	return context.Cause(d.ctx)
}

func (d *decidedStream) take(m any) error {
	if p, ok := m.(proto.Message); ok && proto.Size(p) > maxChunk {
		return fmt.Errorf("reading a stream: message of %d bytes, want at most %d: %w", proto.Size(p), maxChunk, ErrBadInput)
	}
	if d.first != nil {
		return sameVector(d.first, m)
	}
	ctx, err := d.server.decide(d.ctx, d.method, m)
	if err != nil {
		return err
	}
	session, _ := SessionFrom(ctx)
	d.timers = append(d.timers, time.AfterFunc(session.Until.Sub(d.server.now()), func() { d.cancel(ErrSessionOver) }))
	if d.method == consiliumv1.RoundService_Follow_FullMethodName || d.method == consiliumv1.StudyService_WatchStudy_FullMethodName {
		d.timers = append(d.timers, time.AfterFunc(followFor, func() { d.cancel(errResume) }))
	}
	d.ctx = ctx
	if u, ok := m.(*consiliumv1.UploadRequest); ok {
		m = &consiliumv1.UploadRequest{Study: u.GetStudy(), Round: u.GetRound(), Roster: u.GetRoster()} // not its words
	}
	d.first = m
	return nil
}

// sameVector refuses a later message of an Upload that names anything but what was decided on.
func sameVector(first, m any) error {
	a, ok := first.(*consiliumv1.UploadRequest)
	b, is := m.(*consiliumv1.UploadRequest)
	if !ok || !is {
		return refused("a second message was not expected")
	}
	v, err := vectorIn(a)
	if err != nil {
		return err
	}
	w, err := vectorIn(b)
	if err != nil {
		return err
	}
	if v != w {
		return refused("a later chunk names another study, round or roster")
	}
	return nil
}

// SendMsg lets nothing out before a decision, nor after the session.
func (d *decidedStream) SendMsg(m any) error {
	d.mu.Lock()
	decided, ctx := d.first != nil && d.refusal == nil, d.ctx
	d.mu.Unlock()
	if !decided {
		return refused("nothing was decided")
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return d.ServerStream.SendMsg(m)
}

func (d *decidedStream) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, t := range d.timers {
		t.Stop()
	}
}
