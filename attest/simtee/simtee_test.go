package simtee

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/internal/signed"
)

func ExampleMarshalAnchor() {
	root, _ := NewRoot()
	first, _, _ := strings.Cut(string(MarshalAnchor(&root.PublicKey)), "\n")
	fmt.Println(first)
	first, _, _ = strings.Cut(string(MarshalRoot(root)), "\n")
	fmt.Println(first)
	// Output:
	// -----BEGIN CONSILIUM SIMULATED TEE ROOT-----
	// -----BEGIN CONSILIUM SIMULATED TEE KEY-----
}

type lab struct {
	root *ecdsa.PrivateKey
	in   attest.Inputs
	pol  attest.Policy
	b    attest.Binding
}

func newLab(t testing.TB) lab {
	t.Helper()
	root, err := NewRoot()
	if err != nil {
		t.Fatal(err)
	}
	one := func(n byte) (d [32]byte) { d[0] = n; return d }
	l := lab{root: root, b: attest.Binding{
		Role: attest.RoleNode, Nonce: one(1), Exporter: one(2), OwnKey: one(3), PeerKey: one(4), Study: one(5), KeyList: one(6), Config: one(7),
	}}
	data, err := l.b.ReportData(nil)
	if err != nil {
		t.Fatal(err)
	}
	l.in = attest.Inputs{Now: time.Now(), ReportData: &data, Trust: snapshot(t, MarshalAnchor(&root.PublicKey))}
	l.pol = attest.Policy{
		Role: attest.RoleNode, Accept: []attest.Format{Format}, AllowSimulated: true, Simulation: true,
		Measurements: attest.SetOf(attest.SHA256Measurement(Measurement(attest.RoleNode))), Machines: attest.SetOf("chip:a"),
	}
	return l
}

func snapshot(t testing.TB, anchor []byte) *endorse.Snapshot {
	t.Helper()
	s, err := endorse.New(map[string][]byte{AnchorFile: anchor})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (l lab) evidence(t testing.TB) attest.Evidence {
	t.Helper()
	e, err := NewAttester(l.root, attest.RoleNode, "chip:a").Attest(context.Background(), l.b)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (l lab) check(e attest.Evidence) attest.Result {
	return attest.NewVerifiers(NewVerifier()).Check(e, l.in, l.pol)
}

func codes(r attest.Result) []string {
	out := []string{}
	for _, reason := range r.Reasons {
		out = append(out, reason.Code)
	}
	return out
}

func TestCheck(t *testing.T) {
	l := newLab(t)
	r := l.check(l.evidence(t))
	if r.Status != attest.Warning || !r.OK() || !r.Claims.Simulated || r.Claims.Machine != "chip:a" || r.Claims.Debug {
		t.Fatalf("%+v", r)
	}
	if !r.Until.Equal(l.in.Now.Add(attest.MaxAge)) {
		t.Errorf("until %s, want an hour from %s", r.Until, l.in.Now)
	}
	if r.Trust != l.in.Trust.Digest() || r.Policy != l.pol.Digest() {
		t.Error("the result does not say what it was reached with")
	}
}

func TestRefusals(t *testing.T) {
	l := newLab(t)
	stranger := newLab(t)
	data := *l.in.ReportData
	good := statement{
		Magic: magic, Measurement: Measurement(attest.RoleNode), ReportData: data, Machine: "chip:a",
		NotBefore: l.in.Now.Add(-time.Hour).Unix(), NotAfter: l.in.Now.Add(time.Hour).Unix(),
	}
	for _, tc := range []struct {
		name   string
		change func(*statement)
		codes  []string
	}{
		{"debug", func(s *statement) { s.Debug = true }, []string{"debug"}},
		{"measurement", func(s *statement) { s.Measurement = Measurement(attest.RoleCoordinator) }, []string{"measurement.unlisted"}},
		{"machine", func(s *statement) { s.Machine = "chip:b" }, []string{"identity.chip"}},
		{"binding", func(s *statement) { s.ReportData[63] ^= 1 }, []string{"binding.mismatch"}},
		{"no binding", func(s *statement) { s.ReportData = [64]byte{} }, []string{"binding.trivial", "binding.mismatch"}},
		{"expired", func(s *statement) { s.NotAfter = l.in.Now.Add(-time.Second).Unix() }, []string{"cert.expired"}},
		{"not yet", func(s *statement) { s.NotBefore = l.in.Now.Add(time.Minute).Unix() }, []string{CodeTime}},
		{"all at once", func(s *statement) {
			s.Debug, s.Machine, s.Measurement = true, "", [32]byte{}
		}, []string{"debug", "measurement.unlisted", "identity.chip"}},
		{"magic", func(s *statement) { s.Magic = "consilium/snp/1" }, []string{CodeParse}},
		{"no span", func(s *statement) { s.NotAfter = s.NotBefore }, []string{CodeParse}},
		{"a far end", func(s *statement) { s.NotAfter = maxTime + 1 }, []string{CodeParse}},
		{"a long machine", func(s *statement) { s.Machine = strings.Repeat("a", maxMachine+1) }, []string{CodeParse}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := good
			tc.change(&s)
			st, err := s.sign(l.root)
			if err != nil {
				t.Fatal(err)
			}
			r := l.check(attest.Evidence{Format: Format, Statement: st})
			if got := codes(r); !slices.Equal(got, tc.codes) || r.OK() || !r.Until.IsZero() {
				t.Errorf("refused for %q, want %q", got, tc.codes)
			}
		})
	}
	st, err := good.sign(stranger.root)
	if err != nil {
		t.Fatal(err)
	}
	if got := codes(l.check(attest.Evidence{Format: Format, Statement: st})); !slices.Equal(got, []string{CodeSignature}) {
		t.Errorf("another root: %q", got)
	}
	e := l.evidence(t)
	e.Endorsements = map[string][]byte{"vcek": nil}
	if got := codes(l.check(e)); !slices.Equal(got, []string{CodeParse}) {
		t.Errorf("an endorsement: %q", got)
	}
	e = l.evidence(t)
	e.Path = [][32]byte{{}} // the caller's report data says which path; the statement does not change
	if got := l.check(e); !got.OK() {
		t.Errorf("a path: %q", codes(got))
	}
	for name, trust := range map[string]*endorse.Snapshot{"an odd anchor": snapshot(t, []byte("x")), "no anchor": func() *endorse.Snapshot { s, _ := endorse.New(nil); return s }()} {
		o := l
		o.in.Trust = trust
		if got := codes(o.check(l.evidence(t))); !slices.Equal(got, []string{CodeAnchor}) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// TestEveryBit: no bit of a quote can be turned, and there is one encoding of it.
func TestEveryBit(t *testing.T) {
	l := newLab(t)
	e := l.evidence(t)
	bits := 8
	if testing.Short() {
		bits = 1
	}
	for i := range e.Statement {
		for bit := range bits {
			flipped := e
			flipped.Statement = bytes.Clone(e.Statement)
			flipped.Statement[i] ^= 1 << bit
			if r := l.check(flipped); r.OK() {
				t.Fatalf("byte %d, bit %d turned: %q", i, bit, r.Status)
			}
		}
	}
	for name, st := range map[string][]byte{
		"nothing": nil, "a byte less": e.Statement[:len(e.Statement)-1], "a byte more": append(bytes.Clone(e.Statement), 0),
		"the other s": otherS(t, e.Statement),
	} {
		if r := l.check(attest.Evidence{Format: Format, Statement: st}); r.OK() {
			t.Errorf("%s: %q", name, r.Status)
		}
	}
}

func otherS(t *testing.T, st []byte) []byte {
	t.Helper()
	_, q, err := parse(st)
	if err != nil {
		t.Fatal(err)
	}
	s := new(big.Int).SetBytes(q.Signature[scalar:])
	s.Sub(elliptic.P384().Params().N, s).FillBytes(q.Signature[scalar:])
	out, err := signed.Encode(q)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestAttesterNeedsABinding(t *testing.T) {
	l := newLab(t)
	l.b.Study = [32]byte{}
	if _, err := NewAttester(l.root, attest.RoleNode, "").Attest(context.Background(), l.b); err == nil {
		t.Error("attested a binding with a zero field")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := NewAttester(l.root, attest.RoleNode, "").Attest(ctx, newLab(t).b); err == nil {
		t.Error("attested for a caller that is gone")
	}
}

func TestFiles(t *testing.T) {
	root, err := NewRoot()
	if err != nil {
		t.Fatal(err)
	}
	key, anchor := MarshalRoot(root), MarshalAnchor(&root.PublicKey)
	if k, err := ParseRoot(key); err != nil || !k.Equal(root) {
		t.Errorf("the key: %v", err)
	}
	if k, err := ParseAnchor(anchor); err != nil || !k.Equal(&root.PublicKey) {
		t.Errorf("the anchor: %v", err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, _ := x509.MarshalPKCS8PrivateKey(p256)
	pub, _ := x509.MarshalPKIXPublicKey(p256.Public())
	bad := map[string][]byte{
		"nothing": nil, "text": []byte("x"), "trailing": append(bytes.Clone(key), '\n'), "leading": append([]byte("x\n"), key...), "twice": append(bytes.Clone(key), key...),
		"P-256": pem.EncodeToMemory(&pem.Block{Type: keyType, Bytes: der}), "garbage": pem.EncodeToMemory(&pem.Block{Type: keyType, Bytes: []byte{1}}),
		"an unmarked type": bytes.ReplaceAll(key, []byte(keyType), []byte("PRIVATE KEY")), "the anchor": anchor, "long": make([]byte, maxPEM+1),
		"headers": pem.EncodeToMemory(&pem.Block{Type: keyType, Headers: map[string]string{"a": "b"}, Bytes: der}),
	}
	for name, b := range bad {
		if _, err := ParseRoot(b); err == nil {
			t.Errorf("key file with %s: taken", name)
		}
	}
	for name, b := range map[string][]byte{
		"the key": key, "P-256": pem.EncodeToMemory(&pem.Block{Type: anchorType, Bytes: pub}), "twice": append(bytes.Clone(anchor), anchor...),
		"an unmarked type": bytes.ReplaceAll(anchor, []byte(anchorType), []byte("PUBLIC KEY")), "garbage": pem.EncodeToMemory(&pem.Block{Type: anchorType, Bytes: []byte{1}}),
	} {
		if _, err := ParseAnchor(b); err == nil {
			t.Errorf("anchor file with %s: taken", name)
		}
	}
}

func FuzzStatement(f *testing.F) {
	l := newLab(f)
	f.Add(l.evidence(f).Statement)
	f.Add([]byte{0xa2, 0x01, 0x40, 0x02, 0x40})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, q, err := parse(b)
		if err == nil {
			again, err := signed.Encode(q)
			if err != nil || !bytes.Equal(again, b) {
				t.Fatalf("%x has another form, %x, %v", b, again, err)
			}
		}
		r := l.check(attest.Evidence{Format: Format, Statement: b})
		if slices.Contains(codes(r), attest.CodeVerifierPanic) {
			t.Fatalf("a panic: %v", r.Reasons)
		}
	})
}

func FuzzAnchor(f *testing.F) {
	root, err := NewRoot()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(MarshalAnchor(&root.PublicKey))
	f.Add(MarshalRoot(root))
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := ParseAnchor(b); err == nil && !bytes.Equal(MarshalAnchor(k), b) {
			t.Fatalf("%q has another form", b)
		}
		_, _ = ParseRoot(b)
	})
}

func BenchmarkCheck(b *testing.B) {
	l := newLab(b)
	e := l.evidence(b)
	b.ReportAllocs()
	for b.Loop() {
		if !l.check(e).OK() {
			b.Fatal("refused")
		}
	}
}
