package channel

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
)

// Defaults of Config.
const (
	DefaultTimeout       = 20 * time.Second // an Azure machine needs three seconds for a quote, and a window may wait for one more
	DefaultMaxHandshakes = 512
)

// Config of one side. Its functions are called from many handshakes at once.
type Config struct {
	Role        attest.Role
	Certificate func() (*tls.Certificate, error)             // own leaf, asked per connection (a node's SVID rotates)
	Attester    attest.Attester                              // nil for a person
	Keys        [][]byte                                     // role keys, in order (coordinator: protocol, receipt, issuer as SPKI DER; node: witness)
	Posture     func(study [32]byte) (attest.Posture, error) // own; nil for a person
	Verifiers   attest.Verifiers                             // of the peer's evidence
	Peer        func(study [32]byte) (Expect, error)         // how to appraise the other side; an error refuses the study, by the attest.Reason in it if there is one
	Study       [32]byte                                     // client only: what this connection serves; the consortium's digest where it serves none
	LogSigner   interface {
		SignBinding(b []byte) ([]byte, error)
	} // coordinator only: signed.Sign by the log key, kind attest.KindBinding
	Now    func() time.Time                                                    // time.Now when nil
	Person func(study [32]byte, leaf ed25519.PublicKey) (name string, ok bool) // server only: whether a key is a listed person's; nil refuses all
	// MaxHandshakes bounds concurrent handshakes at a server. More wait, for half of a Timeout at most; those from the
	// address with the fewest places come first.
	MaxHandshakes int
	// Timeout is for one handshake, TLS and both quotes included, once it has a place.
	Timeout time.Duration
	// Observe is called with every handshake's outcome, before the connection is used, and with every session that
	// Reappraise ends, after its admission: for the audit log.
	Observe func(Outcome)
}

// Expect is how a peer is appraised.
type Expect struct {
	Policies []attest.Policy // of the peer's role; one of them has to take its evidence
	Posture  attest.PostureExpect
	Trust    *endorse.Snapshot
	LogKey   ed25519.PublicKey // of the coordinator; required for a client
	NoNodes  error             // server only: why no node is admitted; nil: those that are appraised well are
}

func (c *Config) fill() error {
	if c.Certificate == nil {
		return errors.New("no certificate")
	}
	if c.Peer == nil {
		return errors.New("no expectation of the peer")
	}
	if c.Role != attest.RolePerson && (c.Attester == nil || c.Posture == nil || len(c.Keys) == 0) {
		return fmt.Errorf("a %s needs an attester, a posture and role keys", c.Role)
	}
	if len(c.Keys) > attest.MaxKeys {
		return fmt.Errorf("%d role keys, want at most %d", len(c.Keys), attest.MaxKeys)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Timeout <= 0 {
		c.Timeout = DefaultTimeout
	}
	if c.MaxHandshakes <= 0 {
		c.MaxHandshakes = DefaultMaxHandshakes
	}
	if c.Observe == nil {
		c.Observe = func(Outcome) {}
	}
	return nil
}

// patience is how long a handshake waits for a place.
func (c *Config) patience() time.Duration { return c.Timeout / 2 }

// NewClient makes the credentials of a node or a person, for one study.
func NewClient(c Config) (*Credentials, error) {
	if c.Role != attest.RoleNode && c.Role != attest.RolePerson {
		return nil, fmt.Errorf("making client credentials: role %q, want node or person", c.Role)
	}
	if c.Study == [32]byte{} {
		return nil, errors.New("making client credentials: no study, and no consortium in its place")
	}
	if c.Role == attest.RolePerson && c.Attester != nil {
		return nil, errors.New("making client credentials: a person does not attest")
	}
	if err := c.fill(); err != nil {
		return nil, fmt.Errorf("making client credentials: %w", err)
	}
	return newCredentials(c), nil
}

// NewServer makes the coordinator's credentials.
func NewServer(c Config) (*Credentials, error) {
	if c.Role != attest.RoleCoordinator {
		return nil, fmt.Errorf("making server credentials: role %q, want coordinator", c.Role)
	}
	if c.LogSigner == nil {
		return nil, errors.New("making server credentials: no log key to sign bindings with")
	}
	if err := c.fill(); err != nil {
		return nil, fmt.Errorf("making server credentials: %w", err)
	}
	return newCredentials(c), nil
}

// Credentials are one side's gRPC transport credentials, and know its sessions.
type Credentials struct {
	config     *Config
	door       *door // of a server
	logs       *door // of a server: to the handshakes that bring event logs apart
	sessions   *sessions
	serverName string
}

func newCredentials(c Config) *Credentials {
	return &Credentials{config: &c, door: newDoor(c.MaxHandshakes), logs: newDoor(logPlaces), sessions: &sessions{live: map[*conn]struct{}{}}}
}

// Info describes the credentials. gRPC derives the https scheme from the name "tls".
func (c *Credentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls", ServerName: c.serverName} //nolint:staticcheck // gRPC still takes the authority from it
}

// Clone returns a copy whose server name can be overridden by itself. Clones share the sessions and the bound on
// handshakes.
func (c *Credentials) Clone() credentials.TransportCredentials {
	clone := *c
	return &clone
}

// OverrideServerName sets the name that the TLS hello asks for. It is for routing: who answers
// is judged by attestation, not by name.
func (c *Credentials) OverrideServerName(name string) error {
	c.serverName = name
	return nil
}

// ClientHandshake appraises the coordinator at authority, then proves to it.
func (c *Credentials) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if c.config.Role == attest.RoleCoordinator {
		return nil, nil, errors.New("attesting as a client: these are a server's credentials")
	}
	name := c.serverName
	if name == "" {
		name = authority
		if host, _, err := net.SplitHostPort(authority); err == nil {
			name = host
		}
	}
	ctx, cancel := context.WithTimeout(ctx, c.config.patience()+c.config.Timeout)
	defer cancel()
	conn, session, err := c.run(ctx, raw, func(h *handshake) error { return h.client(ctx, raw, name) })
	if err != nil {
		return nil, nil, fmt.Errorf("attesting with %q: %w", authority, err)
	}
	return conn, session, nil
}

// ServerHandshake proves to the client, then appraises it.
func (c *Credentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if c.config.Role != attest.RoleCoordinator {
		return nil, nil, errors.New("attesting as a server: these are a client's credentials")
	}
	from := origin(raw)
	if err := c.door.enter(from, c.config.patience()); err != nil {
		err = fmt.Errorf("attesting a client: %w", err)
		c.config.Observe(Outcome{Err: err})
		return nil, nil, errors.Join(err, raw.Close())
	}
	defer c.door.leave(from)
	ctx, cancel := context.WithTimeout(context.Background(), c.config.Timeout)
	defer cancel()
	conn, session, err := c.run(ctx, raw, func(h *handshake) error { return h.server(ctx, raw) })
	if err != nil {
		return nil, nil, fmt.Errorf("attesting a client: %w", err)
	}
	return conn, session, nil
}

// run gives a handshake its deadline, tells the observer, and closes what was refused.
func (c *Credentials) run(ctx context.Context, raw net.Conn, exchange func(*handshake) error) (net.Conn, Session, error) {
	h := &handshake{Credentials: c, now: c.config.Now()}
	// One deadline for everything: TLS, both proofs, the verdict. Context and deadline are one,
	// so a caller that gives up ends the reads too.
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	err := exchange(h)
	if err == nil && !stop() {
		err = context.Cause(ctx)
	}
	stop()
	if err == nil {
		err = raw.SetDeadline(time.Time{})
	}
	if err != nil {
		var refused *Refused
		o := Outcome{Session: h.session, Own: h.own, Err: err}
		if errors.As(err, &refused) {
			o.Reasons = refused.Reasons
		}
		c.config.Observe(o)
		h.close(ctx, raw)
		return nil, Session{}, err
	}
	c.config.Observe(Outcome{Session: h.session, Own: h.own})
	conn := newConn(h, c.sessions.drop)
	// Policy or trust may have changed since the peer was judged.
	if !c.sessions.add(conn, h.turn) {
		o, first := c.reappraise(conn)
		if first {
			c.config.Observe(o)
		}
		if o.Err != nil {
			return nil, Session{}, o.Err
		}
	}
	return conn, h.session, nil
}
