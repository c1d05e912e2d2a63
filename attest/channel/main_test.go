package channel

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/attest/simtee"
	"github.com/consilium-fl/consilium/internal/signed"
)

// federation is one consortium with all its keys: what an attacker who wants to test us with the
// best of forgeries needs.
type federation struct {
	root       *ecdsa.PrivateKey
	trust      *endorse.Snapshot
	log        ed25519.PrivateKey
	consortium [32]byte
	study      [32]byte
	rego       [32]byte
	people     map[string]string // public key → name
}

type logSigner struct{ key crypto.Signer }

func (l logSigner) SignBinding(b []byte) ([]byte, error) {
	return signed.Sign(l.key, attest.KindBinding, b)
}

func newFederation(t testing.TB) *federation {
	t.Helper()
	root, err := simtee.NewRoot()
	if err != nil {
		t.Fatal(err)
	}
	trust, err := endorse.New(map[string][]byte{simtee.AnchorFile: simtee.MarshalAnchor(&root.PublicKey)})
	if err != nil {
		t.Fatal(err)
	}
	return &federation{
		root: root, trust: trust, log: newKey(t), people: map[string]string{},
		consortium: sha256.Sum256([]byte("consortium")), study: sha256.Sum256([]byte("study")), rego: sha256.Sum256([]byte("rego")),
	}
}

func newKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func leafOf(t testing.TB, key ed25519.PrivateKey, from, until time.Time) *tls.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "leaf"}, NotBefore: from, NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (f *federation) posture([32]byte) (attest.Posture, error) {
	return attest.Posture{Consortium: f.consortium, Policy: f.rego, Insecure: []string{"simulated_tee"}, TEE: "sim"}, nil
}

func (f *federation) expect(peer attest.Role) Expect {
	return Expect{
		Policies: []attest.Policy{{
			Role: peer, Accept: []attest.Format{simtee.Format}, AllowSimulated: true, Simulation: true,
			Measurements: attest.SetOf(attest.SHA256Measurement(simtee.Measurement(peer))), Machines: attest.SetOf("chip:" + string(peer)),
		}},
		Posture: attest.PostureExpect{Consortium: f.consortium, Policy: f.rego, Insecure: []string{"simulated_tee"}, TEE: []string{"sim", "snp"}},
		Trust:   f.trust,
		LogKey:  f.log.Public().(ed25519.PublicKey),
	}
}

// config of an honest party.
func (f *federation) config(t testing.TB, role attest.Role) Config {
	t.Helper()
	cert := leafOf(t, newKey(t), time.Now().Add(-time.Minute), time.Now().Add(2*time.Hour))
	peer := attest.RoleCoordinator
	if role == attest.RoleCoordinator {
		peer = attest.RoleNode
	}
	c := Config{
		Role: role, Certificate: func() (*tls.Certificate, error) { return cert, nil },
		Verifiers: attest.NewVerifiers(simtee.NewVerifier()),
		Peer: func(study [32]byte) (Expect, error) {
			if study != f.study && study != f.consortium {
				return Expect{}, errors.New("no such study")
			}
			return f.expect(peer), nil
		},
	}
	if role == attest.RolePerson {
		c.Study = f.study
		return c
	}
	c.Attester = simtee.NewAttester(f.root, role, "chip:"+string(role))
	c.Keys = [][]byte{[]byte(string(role) + " key 1"), []byte(string(role) + " key 2")}
	c.Posture = f.posture
	if role == attest.RoleNode {
		c.Study = f.study
		return c
	}
	c.LogSigner = logSigner{f.log}
	c.Person = func(_ [32]byte, key ed25519.PublicKey) (string, bool) {
		name, ok := f.people[string(key)]
		return name, ok
	}
	return c
}

func (f *federation) list(c Config, name string) {
	cert, _ := c.Certificate()
	f.people[string(cert.PrivateKey.(ed25519.PrivateKey).Public().(ed25519.PublicKey))] = name
}

func server(t testing.TB, c Config) *Credentials {
	t.Helper()
	s, err := NewServer(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func client(t testing.TB, c Config) *Credentials {
	t.Helper()
	s, err := NewClient(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// wire is both ends of a TCP connection on loopback.
func wire(t testing.TB) (clientEnd, serverEnd net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if clientEnd, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if serverEnd, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = clientEnd.Close(); _ = serverEnd.Close() })
	return clientEnd, serverEnd
}

type ended struct {
	conn    net.Conn
	session Session
	err     error
}

// meet runs both sides over one connection.
func meet(t testing.TB, c, s credentials.TransportCredentials) (atClient, atServer ended) {
	t.Helper()
	clientEnd, serverEnd := wire(t)
	var wg sync.WaitGroup
	wg.Go(func() { atServer = serve(s, serverEnd) })
	atClient = dial(c, clientEnd)
	wg.Wait()
	for _, e := range []ended{atClient, atServer} {
		if e.conn != nil {
			t.Cleanup(func() { _ = e.conn.Close() })
		}
	}
	return atClient, atServer
}

func dial(c credentials.TransportCredentials, raw net.Conn) (e ended) {
	conn, info, err := c.ClientHandshake(context.Background(), "coordinator.example:443", raw)
	if err != nil {
		return ended{err: err}
	}
	return ended{conn: conn, session: info.(Session)}
}

func serve(s credentials.TransportCredentials, raw net.Conn) (e ended) {
	conn, info, err := s.ServerHandshake(raw)
	if err != nil {
		return ended{err: err}
	}
	return ended{conn: conn, session: info.(Session)}
}

// reasonCodes of a refusal by one side; nil when it did not end in a verdict.
func reasonCodes(err error, by attest.Role) []string {
	var r *Refused
	if !errors.As(err, &r) || r.By != by {
		return nil
	}
	out := make([]string, len(r.Reasons))
	for i, reason := range r.Reasons {
		out[i] = reason.Code
	}
	return out
}

func wantCodes(t *testing.T, err error, by attest.Role, want ...string) {
	t.Helper()
	got := reasonCodes(err, by)
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Fatalf("refused by %s for %q, want %q (error: %v)", by, got, want, err)
	}
}

func ecLeaf(t testing.TB, key *ecdsa.PrivateKey) *tls.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
