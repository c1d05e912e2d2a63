package channel_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log"
	"math/big"
	"net"
	"time"

	"google.golang.org/grpc"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/channel"
	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/attest/simtee"
	"github.com/consilium-fl/consilium/internal/signed"
)

func check[T any](v T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return v
}

type logKey struct{ ed25519.PrivateKey }

func (k logKey) SignBinding(b []byte) ([]byte, error) {
	return signed.Sign(k.PrivateKey, attest.KindBinding, b)
}

func selfSigned() func() (*tls.Certificate, error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	check(pub, err)
	t := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour)}
	leaf := &tls.Certificate{Certificate: [][]byte{check(x509.CreateCertificate(rand.Reader, t, t, pub, key))}, PrivateKey: key}
	return func() (*tls.Certificate, error) { return leaf, nil }
}

// A node and a coordinator meet, both with a simulated TEE.
func Example() {
	consortium, study := sha256.Sum256([]byte("consortium.yaml")), sha256.Sum256([]byte("study.yaml"))
	root := check(simtee.NewRoot())
	trust := check(endorse.New(map[string][]byte{simtee.AnchorFile: simtee.MarshalAnchor(&root.PublicKey)}))
	logPublic, logPrivate, err := ed25519.GenerateKey(rand.Reader)
	check(logPublic, err)
	posture := func([32]byte) (attest.Posture, error) {
		return attest.Posture{Consortium: consortium, Insecure: []string{"simulated_tee"}, TEE: "sim"}, nil
	}
	expect := func(role attest.Role) func([32]byte) (channel.Expect, error) {
		return func([32]byte) (channel.Expect, error) {
			return channel.Expect{
				Policies: []attest.Policy{{
					Role: role, Accept: []attest.Format{simtee.Format}, Measurements: attest.SetOf(attest.SHA256Measurement(simtee.Measurement(role))),
					Machines: attest.AnySet(), AllowSimulated: true, Simulation: true,
				}},
				Posture: attest.PostureExpect{Consortium: consortium, Insecure: []string{"simulated_tee"}, TEE: []string{"sim"}},
				Trust:   trust, LogKey: logPublic,
			}, nil
		}
	}
	party := func(role, peer attest.Role, keys ...string) channel.Config {
		c := channel.Config{
			Role: role, Certificate: selfSigned(), Attester: simtee.NewAttester(root, role, "chip:laptop"), Posture: posture,
			Verifiers: attest.NewVerifiers(simtee.NewVerifier()), Peer: expect(peer),
		}
		for _, k := range keys {
			c.Keys = append(c.Keys, []byte(k))
		}
		return c
	}

	coordinator := party(attest.RoleCoordinator, attest.RoleNode, "protocol", "receipt", "issuer")
	coordinator.LogSigner = logKey{logPrivate}
	coordinator.Observe = func(o channel.Outcome) {
		fmt.Println("coordinator:", o.Session.PeerRole, o.Session.Result.Status, o.Err)
	}
	server := grpc.NewServer(grpc.Creds(check(channel.NewServer(coordinator))))
	listener := check(net.Listen("tcp", "127.0.0.1:0"))
	go func() { _ = server.Serve(listener) }()

	node := party(attest.RoleNode, attest.RoleCoordinator, "witness")
	node.Study = study
	done := make(chan struct{})
	node.Observe = func(o channel.Outcome) {
		fmt.Printf("node: %s %s %v, keys %q\n", o.Session.PeerRole, o.Session.Result.Status, o.Err, o.Session.PeerKeys)
		close(done)
	}
	conn := check(grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(check(channel.NewClient(node)))))
	conn.Connect()
	<-done
	check(0, conn.Close())
	server.Stop()
	// Unordered output:
	// coordinator: node warning <nil>
	// node: coordinator warning <nil>, keys ["protocol" "receipt" "issuer"]
}
