package node

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/channel"
	"github.com/consilium-fl/consilium/internal/identity"
	"github.com/consilium-fl/consilium/internal/terms"
	"github.com/consilium-fl/consilium/internal/transport"
)

// renewBefore is how long before its end a session is replaced: re-attestation is a new connection.
const renewBefore = 10 * time.Minute

// A connection is one attested session with the coordinator, for one study.
type connection struct {
	client *transport.Client
	creds  *channel.Credentials
	log    *slog.Logger

	mu      sync.Mutex
	session channel.Session // of the newest handshake; a silent reconnect makes another
}

func (c *connection) observe(o channel.Outcome) {
	if o.Ended {
		c.log.Warn("the coordinator does not pass any more: the connection was ended", "error", o.Err)
	}
	if o.Err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session = o.Session
}

func (c *connection) attested() channel.Session {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.session
}

// renewIn is when a session that ends after left is to be replaced. One that is short from the start is
// used for half of its time.
func renewIn(left time.Duration) time.Duration { return max(left-renewBefore, left/2, time.Second) }

// connect attests with a leaf self-signed by the node key, which may only ask for an SVID, and then
// again with that.
func (r *runner) connect(ctx context.Context) (*connection, error) {
	own, err := identity.SelfSigned(r.node.config.Hospital+"/"+r.node.config.Node, r.node.deps.NodeKey, r.node.deps.Now())
	if err != nil {
		return nil, err
	}
	first, err := r.dial(func() (*tls.Certificate, error) { return own, nil })
	if err != nil {
		return nil, err
	}
	svid, err := first.client.IssueSVID(ctx, r.node.deps.Enrolment)
	if err = errors.Join(err, first.client.Close()); err != nil {
		return nil, fmt.Errorf("asking for an SVID: %w", err)
	}
	cert, err := r.checkSVID(svid.Certificate)
	if err != nil {
		return nil, fmt.Errorf("checking the SVID: %w", err)
	}
	return r.dial(func() (*tls.Certificate, error) { return cert, nil })
}

// checkSVID takes a certificate for the own key and name, and nothing else.
func (r *runner) checkSVID(der []byte) (*tls.Certificate, error) {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	if pub, ok := leaf.PublicKey.(ed25519.PublicKey); !ok || !pub.Equal(r.node.deps.NodeKey.Public()) {
		return nil, errors.New("it is for another key")
	}
	want := identity.NodeID{Consortium: r.node.deps.Consortium.Name, Hospital: r.node.config.Hospital, Node: r.node.config.Node}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != want.String() {
		return nil, fmt.Errorf("it names %v, want %s", leaf.URIs, want)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: r.node.deps.NodeKey, Leaf: leaf}, nil
}

// dial makes a connection on which every handshake, the first and any silent one later, attests both
// sides for this study.
func (r *runner) dial(cert func() (*tls.Certificate, error)) (*connection, error) {
	c := &connection{log: r.log}
	d := r.node.deps
	simulation := r.node.config.Insecure.SimulatedTEE
	witness, err := x509.MarshalPKIXPublicKey(d.WitnessKey.Public())
	if err != nil {
		return nil, err
	}
	c.creds, err = channel.NewClient(channel.Config{
		Role:        attest.RoleNode,
		Certificate: cert,
		Attester:    d.Attester,
		Keys:        [][]byte{witness},
		Posture: func([32]byte) (attest.Posture, error) {
			return terms.OwnPosture(d.Consortium, d.PolicyDigest, d.TEE, simulation), nil
		},
		Verifiers: d.Verifiers,
		Peer: func([32]byte) (channel.Expect, error) {
			g, _ := d.Grounds.Current()
			policies, err := g.Policies(d.Consortium, attest.RoleCoordinator, simulation, d.Now())
			return channel.Expect{
				Policies: policies,
				Posture:  terms.Posture(d.Consortium, simulation),
				Trust:    g.Trust,
				LogKey:   d.Consortium.Log,
			}, err
		},
		Study:   r.digest,
		Now:     d.Now,
		Observe: c.observe,
	})
	if err != nil {
		return nil, err
	}
	if c.client, err = transport.Dial(r.node.config.Coordinator, c.creds); err != nil {
		return nil, err
	}
	return c, nil
}

// protocolKey is the key that signs Plan to Result: the first of the keys that the coordinator's
// evidence binds.
func protocolKey(s channel.Session) (ed25519.PublicKey, error) {
	if len(s.PeerKeys) == 0 {
		return nil, errors.New("the coordinator's evidence binds no protocol key")
	}
	k, err := x509.ParsePKIXPublicKey(s.PeerKeys[0])
	if err != nil {
		return nil, fmt.Errorf("reading the coordinator's protocol key: %w", err)
	}
	pub, ok := k.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("reading the coordinator's protocol key: got %T, want Ed25519", k)
	}
	return pub, nil
}
