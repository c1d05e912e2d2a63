package coordinator

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/channel"
	"github.com/consilium-fl/consilium/internal/identity"
	"github.com/consilium-fl/consilium/internal/policy"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/transport"
)

// facts tells the gate what a request is about.
type facts struct{ c *Coordinator }

// Consortium reports whether a digest is that of the consortium file.
func (f facts) Consortium(digest [32]byte) bool { return digest == f.c.deps.Consortium.Digest }

const (
	methodIssue   = "/consilium.v1.IdentityService/IssueSVID"
	methodCreate  = "/consilium.v1.StudyService/CreateStudy"
	methodApprove = "/consilium.v1.StudyService/ApproveStudy"
)

// Facts says who asks and about what.
func (f facts) Facts(_ context.Context, a transport.Ask) (policy.Peer, policy.Target, error) {
	who := f.c.caller(a.Session)
	if a.Method == methodIssue {
		if err := f.c.claims(&who, a); err != nil {
			return policy.Peer{}, policy.Target{}, err
		}
	}
	about, err := f.c.about(a)
	if err != nil {
		return policy.Peer{}, policy.Target{}, err
	}
	about.From = a.From
	return who, about, nil
}

// caller is who a session's leaf shows. A node is enrolled by its leaf key, and has an SVID where the leaf
// is one: the same hospital's and the same node's.
func (c *Coordinator) caller(x channel.Session) policy.Peer {
	who := policy.Peer{Role: string(x.PeerRole), Person: x.Person}
	if x.PeerRole != attest.RoleNode {
		who.PersonRole = c.deps.Consortium.People[x.Person].Role
		return who
	}
	own, err := c.callers.read(x)
	if err != nil {
		return who
	}
	c.mu.Lock()
	for h, e := range c.enrolments {
		if e.file != nil && e.NodeKey.Equal(own.key) && c.deps.Now().Before(e.Until) {
			who.Hospital, who.Node, who.Enrolled = h, e.Node, true
		}
	}
	c.mu.Unlock()
	id, err := c.callers.svid(own, c.issuer, c.deps.Now())
	if err == nil && id.Hospital == who.Hospital && id.Node == who.Node {
		who.SPIFFE, who.SVID = id.String(), true
	}
	return who
}

// callers remembers sessions' leaves, and which of them are good SVIDs and until when, since each request asks.
type callers struct {
	mu    sync.Mutex
	known map[[32]byte]*peerLeaf // by digest
}

type peerLeaf struct {
	cert  *x509.Certificate
	key   ed25519.PublicKey
	id    identity.NodeID
	until time.Time // zero: not known to be an SVID
}

// keptLeaves bounds them: enough for every node to renew many times an hour.
const keptLeaves = 1 << 14

func (s *callers) read(x channel.Session) (*peerLeaf, error) {
	digest := sha256.Sum256(x.PeerLeaf)
	s.mu.Lock()
	l, ok := s.known[digest]
	s.mu.Unlock()
	if ok {
		return l, nil
	}
	cert, key, err := leafKey(x)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == nil || len(s.known) == keptLeaves {
		s.known = map[[32]byte]*peerLeaf{}
	}
	l = &peerLeaf{cert: cert, key: key}
	s.known[digest] = l
	return l, nil
}

// svid is who the leaf says that it is, once the issuer has been checked.
func (s *callers) svid(l *peerLeaf, issuer *identity.Issuer, now time.Time) (identity.NodeID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Before(l.until) {
		return l.id, nil
	}
	id, err := issuer.Check(l.cert, now)
	if err == nil {
		l.id, l.until = id, l.cert.NotAfter
	}
	return id, err
}

// claims reads the enrolment that a node asks for an SVID with.
func (c *Coordinator) claims(who *policy.Peer, a transport.Ask) error {
	e, err := c.deps.Consortium.ParseEnrolment(a.File, c.deps.Now())
	if err != nil {
		return fmt.Errorf("%w: %w", transport.ErrBadInput, err)
	}
	_, key, err := leafKey(a.Session)
	if err != nil {
		return err
	}
	who.Hospital, who.Node = e.Hospital, e.Node
	who.Enrolled = e.NodeKey.Equal(key) && c.newest(e, a.File) == nil
	if !who.Enrolled {
		who.SVID, who.SPIFFE = false, ""
	}
	return nil
}

// newest refuses an enrolment that is older than the one known, or another of the same serial.
func (c *Coordinator) newest(e study.Enrolment, file []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	have := c.enrolments[e.Hospital]
	switch {
	case have == nil || e.Serial > have.Serial:
		return nil
	case e.Serial < have.Serial:
		return refused("enrolment of %q has serial %d, and %d is known", e.Hospital, e.Serial, have.Serial)
	case have.file != nil && !bytes.Equal(have.file, file):
		return refused("enrolment of %q with serial %d differs from the one known: one serial, one file", e.Hospital, e.Serial)
	}
	return nil
}

// about is the study that a request names or hands in; else that of its connection.
func (c *Coordinator) about(a transport.Ask) (policy.Target, error) {
	digest := a.Study
	switch a.Method {
	case methodCreate:
		return c.proposed(a.File)
	case methodApprove:
		p, err := c.deps.Consortium.ParseApproval(a.File)
		if err != nil {
			return policy.Target{}, fmt.Errorf("%w: %w", transport.ErrBadInput, err)
		}
		digest = p.Study
	}
	if digest == [32]byte{} && a.Session.Study != c.deps.Consortium.Digest {
		digest = a.Session.Study
	}
	if digest == [32]byte{} {
		return policy.Target{}, nil
	}
	s, err := c.find(digest)
	if err != nil {
		return policy.Target{Study: signed.DigestText(digest)}, nil
	}
	t := targetOf(s.study)
	t.Exists, t.State = true, string(s.state())
	return t, nil
}

// proposed is the study of a CreateStudy. One that is known already is decided as a new one, too: its lead
// may hand the same bytes in again, and hears the same answer.
func (c *Coordinator) proposed(file []byte) (policy.Target, error) {
	s, err := study.Parse(file)
	if err != nil {
		return policy.Target{}, fmt.Errorf("%w: %w", transport.ErrBadInput, err)
	}
	return targetOf(s), nil
}

func targetOf(s *study.Study) policy.Target {
	return policy.Target{
		Study: signed.DigestText(s.Digest), Members: slices.Clone(s.Members), Lead: s.Lead,
		Release: slices.Clone(s.Release.To), Hospitals: s.Release.Hospitals,
	}
}
