package channel

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/simtee"
)

// hostile plays a peer who holds every key and a TEE that attests what it is told, and who lies
// in one place: change alters the record before it is attested and signed, forge after.
type hostile struct {
	config Config
	change func(*attest.Record)
	forge  func(*attest.Record)
}

func (p hostile) record(ctx context.Context, h *handshake, nonce [32]byte) ([]byte, error) {
	posture, err := p.config.Posture(h.session.Study)
	if err != nil {
		return nil, err
	}
	r := attest.Record{Keys: p.config.Keys}
	if r.Posture, err = posture.Encode(); err != nil {
		return nil, err
	}
	exporter, err := h.exporter(p.config.Role)
	if err != nil {
		return nil, err
	}
	r.Binding = attest.Binding{
		Role: p.config.Role, Nonce: nonce, Exporter: exporter, OwnKey: h.ownKey, PeerKey: h.session.PeerKey,
		Study: h.session.Study, KeyList: attest.KeyListDigest(r.Keys), Config: sha256.Sum256(r.Posture),
	}
	if p.change != nil {
		p.change(&r)
	}
	if err := seal(ctx, &p.config, &r); err != nil {
		return nil, err
	}
	if p.forge != nil {
		p.forge(&r)
	}
	return r.Encode()
}

func (p hostile) state() *handshake {
	c := p.config
	if err := c.fill(); err != nil {
		panic(err)
	}
	h := &handshake{Credentials: newCredentials(c), now: time.Now()}
	if err := h.drawNonce(); err != nil {
		panic(err)
	}
	return h
}

// serve plays the coordinator. It returns what the client sent after the proof, if it did.
func (p hostile) serve(raw net.Conn) (after []byte, err error) {
	ctx := context.Background()
	h := p.state()
	if err := h.startTLS(ctx, raw, ""); err != nil {
		return nil, err
	}
	f, err := readFrame(h.tls, MaxFrame)
	if err != nil {
		return nil, err
	}
	h.session.Study = f.Hello.Study
	rec, err := p.record(ctx, h, f.Hello.Nonce)
	if err != nil {
		return nil, err
	}
	if err := writeFrame(h.tls, frame{Proof: &Proof{Record: rec, Nonce: h.nonce}}); err != nil {
		return nil, err
	}
	if f, err = readFrame(h.tls, MaxFrame); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		return nil, err
	}
	// It was believed: be polite, so that the client ends well.
	err = writeFrame(h.tls, frame{Verdict: &Verdict{OK: true, Until: time.Now().Add(time.Hour).Unix()}})
	return f.Proof.Record, err
}

// dial plays a node, and returns the verdict.
func (p hostile) dial(raw net.Conn) (*Verdict, error) {
	ctx := context.Background()
	h := p.state()
	h.session.Study = p.config.Study
	if err := h.startTLS(ctx, raw, "x"); err != nil {
		return nil, err
	}
	if err := writeFrame(h.tls, frame{Hello: &Hello{Version: version, Role: attest.RoleNode, Study: p.config.Study, Nonce: h.nonce}}); err != nil {
		return nil, err
	}
	f, err := readFrame(h.tls, MaxFrame)
	if err != nil {
		return nil, err
	}
	rec, err := p.record(ctx, h, f.Proof.Nonce)
	if err != nil {
		return nil, err
	}
	if err := writeFrame(h.tls, frame{Proof: &Proof{Record: rec}}); err != nil {
		return nil, err
	}
	if f, err = readFrame(h.tls, MaxFrame); err != nil {
		return nil, err
	}
	return f.Verdict, nil
}

func repost(change func(*attest.Posture)) func(*attest.Record) {
	return func(r *attest.Record) {
		p, err := attest.ParsePosture(r.Posture)
		if err != nil {
			panic(err)
		}
		change(&p)
		if r.Posture, err = p.Encode(); err != nil {
			panic(err)
		}
		r.Binding.Config = sha256.Sum256(r.Posture)
	}
}

// lies has one for every field of Binding and of Posture, each told consistently: in the
// evidence, in the record and under the log key.
var lies = []struct {
	name   string
	change func(*attest.Record)
	code   string
}{
	{"role", func(r *attest.Record) { r.Binding.Role = other(r.Binding.Role) }, "binding.role"},
	{"nonce", func(r *attest.Record) { r.Binding.Nonce[7] ^= 1 }, attest.CodeFreshness},
	{"exporter", func(r *attest.Record) { r.Binding.Exporter[7] ^= 1 }, "binding.exporter"},
	{"own_key", func(r *attest.Record) { r.Binding.OwnKey[7] ^= 1 }, "binding.own_key"},
	{"peer_key", func(r *attest.Record) { r.Binding.PeerKey[7] ^= 1 }, "binding.peer_key"},
	{"study", func(r *attest.Record) { r.Binding.Study[7] ^= 1 }, "binding.study"},
	{"key_list", func(r *attest.Record) { r.Binding.KeyList[7] ^= 1 }, attest.CodeBindingKeyList},
	{"keys", func(r *attest.Record) { r.Keys = [][]byte{r.Keys[1], r.Keys[0]} }, attest.CodeBindingKeyList},
	{"config", func(r *attest.Record) { r.Binding.Config[7] ^= 1 }, attest.CodeBindingConfig},
	{"posture.consortium", repost(func(p *attest.Posture) { p.Consortium[7] ^= 1 }), attest.CodePostureConsortium},
	{"posture.policy", repost(func(p *attest.Posture) { p.Policy[7] ^= 1 }), attest.CodePosturePolicy},
	{"posture.insecure", repost(func(p *attest.Posture) { p.Insecure = append(p.Insecure, "plaintext_updates") }), attest.CodePostureInsecure},
	{"posture.tee", repost(func(p *attest.Posture) { p.TEE = "snp" }), attest.CodePostureTEE},
}

func other(r attest.Role) attest.Role {
	if r == attest.RoleNode {
		return attest.RoleCoordinator
	}
	return attest.RoleNode
}

// reasons that a lie has: its own, and, where the evidence is over another binding than the one
// that the verifier sees, the evidence's and the log signature's.
func reasons(code string, of attest.Role) []string {
	want := []string{code}
	switch code {
	case "binding.role", attest.CodeFreshness, "binding.exporter", "binding.own_key", "binding.peer_key", "binding.study":
		want = append(want, attest.CodeBindingMismatch)
		if of == attest.RoleCoordinator {
			want = append(want, attest.CodeLogSignature)
		}
	}
	return want
}

func TestHostileCoordinator(t *testing.T) {
	f := newFederation(t)
	for _, lie := range lies {
		t.Run(lie.name, func(t *testing.T) {
			after, err := coordinatorLies(t, f, hostile{config: f.config(t, attest.RoleCoordinator), change: lie.change})
			wantCodes(t, err, attest.RoleNode, reasons(lie.code, attest.RoleCoordinator)...)
			if after != nil {
				t.Fatalf("the node sent %d bytes of evidence to a coordinator that it refused", len(after))
			}
		})
	}
}

func coordinatorLies(t *testing.T, f *federation, p hostile) (after []byte, refused error) {
	t.Helper()
	clientEnd, serverEnd := wire(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		var err error
		if after, err = p.serve(serverEnd); err != nil {
			t.Errorf("the hostile coordinator failed by itself: %v", err)
		}
		_ = serverEnd.Close()
	})
	end := dial(client(t, f.config(t, attest.RoleNode)), clientEnd)
	_ = clientEnd.Close()
	wg.Wait()
	return after, end.err
}

func TestHostileNode(t *testing.T) {
	f := newFederation(t)
	for _, lie := range lies {
		t.Run(lie.name, func(t *testing.T) {
			end, v := nodeLies(t, server(t, f.config(t, attest.RoleCoordinator)), hostile{config: f.config(t, attest.RoleNode), change: lie.change})
			wantCodes(t, end.err, attest.RoleCoordinator, reasons(lie.code, attest.RoleNode)...)
			if v == nil || v.OK || v.Until != 0 {
				t.Fatalf("verdict %+v, want a refusal", v)
			}
			for _, r := range v.Reasons {
				if r.Got != "" || r.Want != "" {
					t.Errorf("the verdict tells the peer %v, want codes alone", r)
				}
			}
		})
	}
}

func nodeLies(t *testing.T, s credentials.TransportCredentials, p hostile) (end ended, v *Verdict) {
	t.Helper()
	clientEnd, serverEnd := wire(t)
	var wg sync.WaitGroup
	wg.Go(func() { end = serve(s, serverEnd) })
	v, err := p.dial(clientEnd)
	if err != nil {
		t.Errorf("the hostile node failed by itself: %v", err)
	}
	wg.Wait()
	return end, v
}

// TestForgedProof holds lies that the verifier's own comparisons cannot see: the record is as it
// should be and the evidence, or a signature, is of something else.
func TestForgedProof(t *testing.T) {
	f := newFederation(t)
	elsewhere := newFederation(t)
	ctx := context.Background()
	attested := func(role attest.Role, change func(*attest.Binding)) func(*attest.Record) {
		return func(r *attest.Record) {
			b := r.Binding
			change(&b)
			var err error
			if r.Evidence, err = simtee.NewAttester(f.root, role, "chip:"+string(role)).Attest(ctx, b); err != nil {
				panic(err)
			}
		}
	}
	attestedBy := func(a attest.Attester) func(*attest.Record) {
		return func(r *attest.Record) {
			var err error
			if r.Evidence, err = a.Attest(ctx, r.Binding); err != nil {
				panic(err)
			}
		}
	}
	coordinator := attest.RoleCoordinator
	for _, tc := range []struct {
		name  string
		forge func(*attest.Record)
		codes []string
	}{
		{"another session's evidence", attested(coordinator, func(b *attest.Binding) { b.Exporter[0] ^= 1 }), []string{attest.CodeBindingMismatch}},
		{"a replayed nonce", attested(coordinator, func(b *attest.Binding) { b.Nonce[0] ^= 1 }), []string{attest.CodeBindingMismatch}},
		{"another study's evidence", attested(coordinator, func(b *attest.Binding) { b.Study[0] ^= 1 }), []string{attest.CodeBindingMismatch}},
		{"no log signature", func(r *attest.Record) { r.LogSignature = nil }, []string{attest.CodeLogSignature}},
		{"another log's signature", func(r *attest.Record) {
			b, _ := r.Binding.Encode()
			r.LogSignature, _ = logSigner{elsewhere.log}.SignBinding(b)
		}, []string{attest.CodeLogSignature}},
		{"a log signature over another binding", func(r *attest.Record) {
			other := r.Binding
			other.Nonce[0] ^= 1
			b, _ := other.Encode()
			r.LogSignature, _ = logSigner{f.log}.SignBinding(b)
		}, []string{attest.CodeLogSignature}},
		{"another root", attestedBy(simtee.NewAttester(elsewhere.root, coordinator, "chip:coordinator")), []string{"sig.invalid"}},
		{"another machine", attestedBy(simtee.NewAttester(f.root, coordinator, "chip:other")), []string{attest.CodeMachineUnlisted}},
		{"other code", attestedBy(simtee.NewAttester(f.root, attest.RoleNode, "chip:coordinator")), []string{attest.CodeMeasurementUnlisted}},
		{"an unknown format", func(r *attest.Record) { r.Evidence.Format = "snp/1" }, []string{attest.CodeFormatUnlisted, attest.CodePostureTEE}},
		{"no evidence", func(r *attest.Record) { r.Evidence = attest.Evidence{} }, []string{attest.CodeFormatUnlisted, attest.CodePostureTEE}},
		{"a posture that is none", func(r *attest.Record) { r.Posture = []byte{0xa0, 0x00} }, []string{attest.CodeBindingConfig, attest.CodeParsePosture}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			after, err := coordinatorLies(t, f, hostile{config: f.config(t, coordinator), forge: tc.forge})
			wantCodes(t, err, attest.RoleNode, tc.codes...)
			if after != nil {
				t.Fatalf("the node sent %d bytes to a coordinator that it refused", len(after))
			}
		})
	}
}

// TestUnpinnedLog refuses before a byte is sent.
func TestUnpinnedLog(t *testing.T) {
	f := newFederation(t)
	c := f.config(t, attest.RoleNode)
	c.Peer = func([32]byte) (Expect, error) {
		e := f.expect(attest.RoleCoordinator)
		e.LogKey = ed25519.PublicKey{}
		return e, nil
	}
	clientEnd, serverEnd := wire(t)
	end := dial(client(t, c), clientEnd)
	wantCodes(t, end.err, attest.RoleNode, CodeLogKey)
	if n, err := serverEnd.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("the client sent %d bytes, %v", n, err)
	}
}
