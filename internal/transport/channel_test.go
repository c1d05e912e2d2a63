package transport

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/channel"
	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/attest/simtee"
	"github.com/consilium-fl/consilium/internal/signed"
)

type logSigner struct{ key crypto.Signer }

func (l logSigner) SignBinding(b []byte) ([]byte, error) {
	return signed.Sign(l.key, attest.KindBinding, b)
}

// attested makes the credentials of a coordinator and of a node for the study heart. accepts is the
// measurement that the coordinator takes from nodes.
func attested(t *testing.T, accepts [32]byte) (server, node credentials.TransportCredentials) {
	t.Helper()
	root, err := simtee.NewRoot()
	if err != nil {
		t.Fatal(err)
	}
	trust, err := endorse.New(map[string][]byte{simtee.AnchorFile: simtee.MarshalAnchor(&root.PublicKey)})
	if err != nil {
		t.Fatal(err)
	}
	logKey := newKey(t)
	config := func(role, peer attest.Role, measurement [32]byte) channel.Config {
		cert := selfSigned(t, newKey(t))
		posture := attest.Posture{Consortium: consortium, Policy: breast, Insecure: []string{"simulated_tee"}, TEE: "sim"}
		return channel.Config{
			Role: role, Certificate: func() (*tls.Certificate, error) { return cert, nil },
			Attester: simtee.NewAttester(root, role, "chip:1"), Keys: [][]byte{[]byte(role)},
			Posture:   func([32]byte) (attest.Posture, error) { return posture, nil },
			Verifiers: attest.NewVerifiers(simtee.NewVerifier()),
			Peer: func(study [32]byte) (channel.Expect, error) {
				if study != heart {
					return channel.Expect{}, errors.New("no such study")
				}
				return channel.Expect{
					Policies: []attest.Policy{{
						Role: peer, Accept: []attest.Format{simtee.Format}, AllowSimulated: true, Simulation: true,
						Measurements: attest.SetOf(attest.SHA256Measurement(measurement)), Machines: attest.AnySet(),
					}},
					Posture: attest.PostureExpect{Consortium: consortium, Policy: breast, Insecure: []string{"simulated_tee"}, TEE: []string{"sim"}},
					Trust:   trust, LogKey: logKey.Public().(ed25519.PublicKey),
				}, nil
			},
		}
	}
	c := config(attest.RoleCoordinator, attest.RoleNode, accepts)
	c.LogSigner = logSigner{logKey}
	if server, err = channel.NewServer(c); err != nil {
		t.Fatal(err)
	}
	n := config(attest.RoleNode, attest.RoleCoordinator, simtee.Measurement(attest.RoleCoordinator))
	n.Study = heart
	if node, err = channel.NewClient(n); err != nil {
		t.Fatal(err)
	}
	return server, node
}

func newKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func selfSigned(t *testing.T, key ed25519.PrivateKey) *tls.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestOverTheAttestedChannel(t *testing.T) {
	for _, x := range []struct {
		name    string
		accepts [32]byte
		admit   bool
	}{
		{"admitted", simtee.Measurement(attest.RoleNode), true},
		{"another measurement", heart, false},
	} {
		t.Run(x.name, func(t *testing.T) {
			sc, nc := attested(t, x.accepts)
			w := newWorld(t)
			s, err := NewServer(sc, Handlers{w, w, w, w, w}, Options{Facts: w, Gate: w})
			if err != nil {
				t.Fatal(err)
			}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- s.Serve(ctx, l) }()
			c, err := Dial(l.Addr().String(), nc)
			if err != nil {
				t.Fatal(err)
			}
			err = c.Send(t.Context(), heart, aggregate.Signed{From: "va", Kind: "vote"})
			if x.admit {
				if err != nil {
					t.Fatal(err)
				}
				if d := w.decisions[0]; !d.Session.Simulated || d.Session.Study != signed.DigestText(heart) || !d.Session.Until.After(d.Now) {
					t.Errorf("decided about %+v", d.Session)
				}
				if err := c.Send(t.Context(), breast, aggregate.Signed{}); !isRefused(err) {
					t.Errorf("another study on the same connection: %v", err)
				}
			} else if r, ok := errors.AsType[*Refused](err); !ok || len(r.Reasons) == 0 || len(w.decisions) > 0 {
				t.Errorf("got %v after %d decisions, want the channel's reasons and none", err, len(w.decisions))
			} else if _, ok := errors.AsType[*channel.Refused](err); !ok {
				t.Errorf("the channel's reasons are lost: %v", err)
			}
			_ = c.Close()
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}
