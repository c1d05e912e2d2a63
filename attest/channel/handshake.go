package channel

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/consilium-fl/consilium/attest"
)

const exporterLabel = "EXPORTER-consilium-v1"

// handshake is the state of one exchange.
type handshake struct {
	*Credentials
	now     time.Time // of the whole exchange: one moment, one verdict
	tls     *tls.Conn
	state   tls.ConnectionState
	ownKey  [32]byte // SHA-256 of the own leaf's SPKI
	nonce   [32]byte // own: the peer's evidence answers it
	peer    *x509.Certificate
	own     []byte // the record that was shown to the peer
	session Session
	turn    uint64 // of policies and trust by which the peer is judged
}

// client is the node's and the person's side, in order.
func (h *handshake) client(ctx context.Context, raw net.Conn, serverName string) error {
	h.session.Study, h.session.PeerRole = h.config.Study, attest.RoleCoordinator
	h.turn = h.sessions.current()
	expect, rs := h.config.expect(h.config.Study, attest.RoleCoordinator)
	if len(rs) > 0 {
		return h.refuse(rs...)
	}
	if err := h.startTLS(ctx, raw, serverName); err != nil {
		return err
	}
	if err := h.drawNonce(); err != nil {
		return err
	}
	if err := writeFrame(h.tls, frame{Hello: &Hello{Version: version, Role: h.config.Role, Study: h.config.Study, Nonce: h.nonce}}); err != nil {
		return err
	}

	// The coordinator proves. Until it is accepted nothing more is sent, not even a reason.
	f, err := readFrame(h.tls, MaxFrame)
	if err != nil {
		return fmt.Errorf("waiting for the coordinator's proof: %w", err)
	}
	if f.Verdict != nil && !f.Verdict.OK {
		return &Refused{By: attest.RoleCoordinator, Reasons: heard(f.Verdict.Reasons)}
	}
	if f.Proof == nil {
		return errors.New("waiting for the coordinator's proof: got another frame")
	}
	record, rs, err := take(h.tls, *f.Proof)
	if err != nil {
		return err
	}
	if len(rs) == 0 {
		rs = h.appraise(record, attest.RoleCoordinator, expect)
	}
	if len(rs) > 0 {
		return h.refuse(rs...)
	}

	if h.config.Role == attest.RoleNode {
		err = h.prove(ctx, f.Proof.Nonce)
	} else {
		err = writeFrame(h.tls, frame{Proof: &Proof{}})
	}
	if err != nil {
		if len(h.own) == 0 {
			return err
		}
		// A coordinator that wants no event logs has said why before it hung up.
		if f, unread := readFrame(h.tls, MaxFrame); unread == nil && f.Verdict != nil && !f.Verdict.OK {
			return &Refused{By: attest.RoleCoordinator, Reasons: heard(f.Verdict.Reasons)}
		}
		return err
	}
	f, err = readFrame(h.tls, MaxFrame)
	if err != nil {
		return fmt.Errorf("waiting for the verdict: %w", err)
	}
	if f.Verdict == nil {
		return errors.New("waiting for the verdict: got another frame")
	}
	if !f.Verdict.OK {
		return &Refused{By: attest.RoleCoordinator, Reasons: heard(f.Verdict.Reasons)}
	}
	return h.admit(time.Unix(f.Verdict.Until, 0))
}

// server is the coordinator's side, in order.
func (h *handshake) server(ctx context.Context, raw net.Conn) error {
	if err := h.startTLS(ctx, raw, ""); err != nil {
		return err
	}
	f, err := readFrame(h.tls, maxHello)
	if err != nil {
		return fmt.Errorf("waiting for the hello: %w", err)
	}
	if f.Hello == nil {
		return errors.New("waiting for the hello: got another frame")
	}
	if rs := h.greet(*f.Hello); len(rs) > 0 {
		return h.refuseAloud(rs)
	}
	if err := h.prove(ctx, f.Hello.Nonce); err != nil {
		return err
	}
	f, err = readFrame(h.tls, MaxFrame)
	if err != nil {
		return fmt.Errorf("waiting for the client's proof: %w", err)
	}
	if f.Proof == nil {
		return errors.New("waiting for the client's proof: got another frame")
	}
	if len(f.Proof.Logs) > 0 {
		if rs := h.vouched(*f.Proof); len(rs) > 0 {
			return h.refuseAloud(rs)
		}
		from := origin(raw)
		if err := h.logs.enter(from, h.config.patience()); err != nil {
			return fmt.Errorf("waiting for a place to read an event log: %w", err)
		}
		defer h.logs.leave(from)
	}
	rs, err := h.judge(*f.Proof)
	if err != nil {
		return err
	}
	if len(rs) > 0 {
		return h.refuseAloud(rs)
	}
	if err := h.admit(h.session.Until); err != nil {
		return err
	}
	return writeFrame(h.tls, frame{Verdict: &Verdict{OK: true, Until: h.session.Until.Unix()}})
}

// drawNonce is called right before the nonce is sent, and not before TLS: a machine that somebody sets back to a state
// after its hello, with its share of the key exchange, draws another.
func (h *handshake) drawNonce() error {
	if _, err := rand.Read(h.nonce[:]); err != nil {
		return fmt.Errorf("drawing a nonce: %w", err)
	}
	return nil
}

// greet judges a Hello. A client that is not expected sees no evidence.
func (h *handshake) greet(hello Hello) []attest.Reason {
	h.session.Study, h.session.PeerRole = hello.Study, hello.Role
	if hello.Version != version || hello.Nonce == [32]byte{} || hello.Study == [32]byte{} {
		return []attest.Reason{{Code: CodeHello, Path: "hello", Got: fmt.Sprintf("version %d", hello.Version), Want: fmt.Sprintf("version %d, a nonce and a study", version)}}
	}
	if hello.Role != attest.RoleNode && hello.Role != attest.RolePerson {
		return []attest.Reason{{Code: CodeHelloRole, Path: "hello.role", Got: fmt.Sprintf("%q", hello.Role), Want: "node or person"}}
	}
	_, rs := h.config.expect(hello.Study, hello.Role)
	return rs
}

// vouched says why nobody vouches for a node's evidence as it is without its event logs. Then they are not read: a machine of
// a vendor's, on this connection, is what it takes to fill a place.
func (h *handshake) vouched(p Proof) []attest.Reason {
	rs := refusedLogs(p.Logs)
	if len(rs) > 0 || h.session.PeerRole != attest.RoleNode {
		return rs
	}
	r, err := attest.ParseRecord(p.Record)
	if err != nil {
		return []attest.Reason{{Code: CodeProof, Path: "record", Got: err.Error()}}
	}
	expect, rs := h.config.expect(h.session.Study, h.session.PeerRole)
	if len(rs) > 0 {
		return rs
	}
	want, err := h.expected(attest.RoleNode, r.Binding)
	if err != nil {
		return []attest.Reason{{Code: CodeProof, Path: "exporter", Got: err.Error()}}
	}
	rs = differences(r.Binding, want)
	r.Binding = want
	result, refused := h.config.weigh(r, h.now, expect)
	authentic := !result.Claims.NotAfter.IsZero() // what is not has no claims
	bound := !slices.ContainsFunc(refused, func(r attest.Reason) bool { return strings.HasPrefix(r.Code, "binding.") })
	if authentic && bound && len(rs) == 0 {
		return nil
	}
	return append(rs, refused...)
}

// judge appraises a client, by what is expected now that its proof is here.
func (h *handshake) judge(p Proof) ([]attest.Reason, error) {
	var record attest.Record
	if h.session.PeerRole == attest.RoleNode {
		var rs []attest.Reason
		var err error
		if record, rs, err = take(h.tls, p); err != nil || len(rs) > 0 {
			return rs, err
		}
	}
	h.turn = h.sessions.current()
	expect, rs := h.config.expect(h.session.Study, h.session.PeerRole)
	if len(rs) > 0 {
		return rs, nil
	}
	if h.session.PeerRole == attest.RoleNode {
		return h.appraise(record, attest.RoleNode, expect), nil
	}
	return h.recognise(p), nil
}

// startTLS runs the TLS handshake and takes from it all that the exchange needs.
func (h *handshake) startTLS(ctx context.Context, raw net.Conn, serverName string) error {
	cert, err := h.config.Certificate()
	if err != nil {
		return fmt.Errorf("taking the own certificate: %w", err)
	}
	if cert == nil || len(cert.Certificate) == 0 {
		return errors.New("taking the own certificate: none")
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return fmt.Errorf("parsing the own certificate: %w", err)
	}
	h.ownKey = keyDigest(leaf)
	config := tlsConfig(*cert, serverName, h.config.Now)
	if h.config.Role == attest.RoleCoordinator {
		h.tls = tls.Server(raw, config)
	} else {
		h.tls = tls.Client(raw, config)
	}
	if err := h.tls.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("shaking hands by TLS: %w", err)
	}
	h.state = h.tls.ConnectionState()
	return h.takeState()
}

func keyDigest(leaf *x509.Certificate) [32]byte { return sha256.Sum256(leaf.RawSubjectPublicKeyInfo) }

// tlsConfig is for one connection. The peer's certificate proves a key and nothing else: who
// holds it is for the attestation to say, so no chain is verified here. TLS 1.3 alone, since an
// exporter of an older version can be made equal on two connections; no tickets, since a resumed
// session would stand on evidence of another.
func tlsConfig(cert tls.Certificate, serverName string, now func() time.Time) *tls.Config {
	return &tls.Config{
		Certificates:           []tls.Certificate{cert},
		ServerName:             serverName,
		Time:                   now,
		MinVersion:             tls.VersionTLS13,
		CurvePreferences:       []tls.CurveID{tls.X25519MLKEM768}, // a recorded network stays closed to a later quantum computer
		NextProtos:             []string{"h2"},
		ClientAuth:             tls.RequireAnyClientCert,
		InsecureSkipVerify:     true, //nolint:gosec // see above
		SessionTicketsDisabled: true,
		ClientSessionCache:     nil,
	}
}

// takeState checks what the TLS library agreed on, whatever the configuration was.
func (h *handshake) takeState() error {
	switch {
	case h.state.Version != tls.VersionTLS13:
		return fmt.Errorf("checking TLS: version %s, want TLS 1.3", tls.VersionName(h.state.Version))
	case h.state.CurveID != tls.X25519MLKEM768:
		return fmt.Errorf("checking TLS: key exchange %s, want %s", h.state.CurveID, tls.X25519MLKEM768)
	case h.state.DidResume:
		return errors.New("checking TLS: the session was resumed")
	case h.state.NegotiatedProtocol != "h2":
		return fmt.Errorf("checking TLS: application protocol %q, want %q", h.state.NegotiatedProtocol, "h2")
	case len(h.state.PeerCertificates) == 0:
		return errors.New("checking TLS: the peer showed no certificate")
	}
	h.peer = h.state.PeerCertificates[0]
	exporter, err := h.exporter(attest.RoleCoordinator)
	if err != nil {
		return err
	}
	h.session.SecurityLevel = credentials.PrivacyAndIntegrity
	h.session.Exporter = exporter
	h.session.PeerLeaf = h.peer.Raw
	h.session.PeerKey = keyDigest(h.peer)
	return nil
}

// exporter is RFC 9266's idea with a label of our own; the prover's role is its context.
func (h *handshake) exporter(prover attest.Role) ([32]byte, error) {
	b, err := h.state.ExportKeyingMaterial(exporterLabel, []byte(prover), 32)
	if err != nil {
		return [32]byte{}, fmt.Errorf("exporting from TLS: %w", err)
	}
	return [32]byte(b), nil
}

// prove sends the own record, over the peer's nonce; a coordinator's with a nonce for the peer to answer.
func (h *handshake) prove(ctx context.Context, nonce [32]byte) error {
	r, err := h.record(ctx, nonce)
	if err != nil {
		return fmt.Errorf("proving as %s: %w", h.config.Role, err)
	}
	var ask [32]byte
	if h.config.Role == attest.RoleCoordinator {
		if err := h.drawNonce(); err != nil {
			return err
		}
		ask = h.nonce
	}
	if h.own, err = writeProof(h.tls, r, ask); err != nil {
		return fmt.Errorf("proving as %s: %w", h.config.Role, err)
	}
	return nil
}

// record is the own, over the peer's nonce.
func (h *handshake) record(ctx context.Context, nonce [32]byte) (attest.Record, error) {
	posture, err := h.config.Posture(h.session.Study)
	if err != nil {
		return attest.Record{}, fmt.Errorf("taking the posture: %w", err)
	}
	r := attest.Record{Keys: h.config.Keys}
	if r.Posture, err = posture.Encode(); err != nil {
		return attest.Record{}, err
	}
	exporter, err := h.exporter(h.config.Role)
	if err != nil {
		return attest.Record{}, err
	}
	r.Binding = attest.Binding{
		Role: h.config.Role, Nonce: nonce, Exporter: exporter, OwnKey: h.ownKey, PeerKey: h.session.PeerKey,
		Study: h.session.Study, KeyList: attest.KeyListDigest(r.Keys), Config: sha256.Sum256(r.Posture),
	}
	return r, seal(ctx, h.config, &r)
}

// seal attests the record's binding, and signs it where there is a log key.
func seal(ctx context.Context, c *Config, r *attest.Record) (err error) {
	if c.LogSigner != nil {
		b, err := r.Binding.Encode()
		if err != nil {
			return err
		}
		if r.LogSignature, err = c.LogSigner.SignBinding(b); err != nil {
			return fmt.Errorf("signing the binding by the log key: %w", err)
		}
	}
	r.Evidence, err = c.Attester.Attest(ctx, r.Binding)
	return err
}

// appraise judges the peer's record by the own view of the connection. On acceptance it fills in
// the session.
func (h *handshake) appraise(r attest.Record, role attest.Role, expect Expect) []attest.Reason {
	want, err := h.expected(role, r.Binding)
	if err != nil {
		return []attest.Reason{{Code: CodeProof, Path: "exporter", Got: err.Error()}}
	}
	rs := append(h.leafTime(), differences(r.Binding, want)...)
	// From here on the prover's word for its binding is gone.
	r.Binding = want
	result, refused := h.config.weigh(r, h.now, expect)
	h.session.Result = result
	if rs = append(rs, refused...); len(rs) > 0 {
		return rs
	}
	if h.session.Record, err = r.Encode(); err != nil {
		return []attest.Reason{{Code: CodeProof, Path: "record", Got: err.Error()}}
	}
	if h.session.Posture, err = attest.ParsePosture(r.Posture); err != nil {
		return []attest.Reason{{Code: attest.CodeParsePosture, Path: "posture", Got: err.Error()}}
	}
	h.session.PeerKeys = r.Keys
	h.session.Until = earlier(result.Until, h.peer.NotAfter)
	return nil
}

// expected is the binding that the peer's evidence has to be over, as this end sees the
// connection. Key list and configuration are of what the record carries, which Recheck compares.
func (h *handshake) expected(role attest.Role, got attest.Binding) (attest.Binding, error) {
	exporter, err := h.exporter(role)
	if err != nil {
		return attest.Binding{}, err
	}
	return attest.Binding{
		Role:     role,
		Nonce:    h.nonce,
		Exporter: exporter,
		OwnKey:   h.session.PeerKey,
		PeerKey:  h.ownKey,
		Study:    h.session.Study,
		KeyList:  got.KeyList,
		Config:   got.Config,
	}, nil
}

// differences names the fields in which the prover saw another connection than we do. The
// evidence decides; this says to a person what kind of attack or mistake it was.
func differences(got, want attest.Binding) []attest.Reason {
	var rs []attest.Reason
	if got.Role != want.Role {
		rs = append(rs, attest.Reason{Code: "binding.role", Path: "binding.role", Got: fmt.Sprintf("%q", got.Role), Want: fmt.Sprintf("%q", want.Role)})
	}
	for _, f := range []struct {
		code, path string
		got, want  [32]byte
	}{
		{attest.CodeFreshness, "binding.nonce", got.Nonce, want.Nonce},
		{"binding.exporter", "binding.exporter", got.Exporter, want.Exporter},
		{"binding.own_key", "binding.own_key", got.OwnKey, want.OwnKey},
		{"binding.peer_key", "binding.peer_key", got.PeerKey, want.PeerKey},
		{"binding.study", "binding.study", got.Study, want.Study},
	} {
		// The exporter is a secret of the session, so no value is told.
		if subtle.ConstantTimeCompare(f.got[:], f.want[:]) != 1 {
			rs = append(rs, attest.Reason{Code: f.code, Path: f.path, Got: "another", Want: "this connection's"})
		}
	}
	return rs
}

// recognise finds the person whose key the leaf proves.
func (h *handshake) recognise(p Proof) []attest.Reason {
	rs := h.leafTime()
	if len(p.Record) != 0 || len(p.Logs) != 0 {
		rs = append(rs, attest.Reason{Code: CodeProof, Path: "record", Got: fmt.Sprintf("%d bytes and %d logs", len(p.Record), len(p.Logs)), Want: "none from a person"})
	}
	name, unlisted := h.config.listed(h.session.Study, h.peer)
	h.session.Person = name
	rs = append(rs, unlisted...)
	h.session.Until = earlier(h.now.Add(attest.MaxAge), h.peer.NotAfter)
	return rs
}

func (h *handshake) leafTime() []attest.Reason {
	if h.now.Before(h.peer.NotBefore) || !h.now.Before(h.peer.NotAfter) {
		return []attest.Reason{{
			Code: CodeLeafTime, Path: "leaf", Got: h.now.UTC().Format(time.RFC3339),
			Want: h.peer.NotBefore.Format(time.RFC3339) + " to " + h.peer.NotAfter.Format(time.RFC3339),
		}}
	}
	return nil
}

// admit ends the exchange well: the session lasts as long as both ends say.
func (h *handshake) admit(until time.Time) error {
	h.session.Until = earlier(h.session.Until, until)
	if !h.now.Before(h.session.Until) {
		return fmt.Errorf("admitting: the session ended at %s", h.session.Until.UTC().Format(time.RFC3339))
	}
	return nil
}

// refuse is the own verdict on the peer.
func (h *handshake) refuse(rs ...attest.Reason) error {
	return &Refused{By: h.config.Role, Reasons: rs}
}

// refuseAloud tells the peer the codes, too. That it was not told is no error of its own: it is
// refused either way.
func (h *handshake) refuseAloud(rs []attest.Reason) error {
	_ = writeFrame(h.tls, frame{Verdict: &Verdict{Reasons: codesOnly(rs)}})
	return h.refuse(rs...)
}

// close hangs up, with TLS's goodbye where there is a TLS connection to say it on and time left.
func (h *handshake) close(ctx context.Context, raw net.Conn) {
	if h.tls != nil && ctx.Err() == nil {
		_ = h.tls.Close()
	}
	_ = raw.Close()
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
