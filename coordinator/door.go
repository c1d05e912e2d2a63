package coordinator

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/channel"
	"github.com/consilium-fl/consilium/audit"
	"github.com/consilium-fl/consilium/internal/grounds"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/store"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/terms"
)

// expectPeer says how a client is appraised. No node is admitted but for a study that has its approvals; a
// person may come for any study there is, or for the consortium.
func (c *Coordinator) expectPeer(digest [32]byte) (channel.Expect, error) {
	g, _ := c.deps.Grounds.Current()
	if err := c.kept.see(g); err != nil {
		c.log.Error("what nodes are appraised by cannot be kept", "error", err)
		return channel.Expect{}, errors.New("the coordinator cannot keep its grounds")
	}
	nobody := func(why error) channel.Expect {
		return channel.Expect{Policies: []attest.Policy{{Role: attest.RoleNode}}, Trust: g.Trust, NoNodes: why}
	}
	if digest == c.deps.Consortium.Digest {
		return nobody(errors.New("a person: nodes connect for one study")), nil
	}
	s, err := c.find(digest)
	if err != nil {
		return channel.Expect{}, errors.New("no such study")
	}
	switch s.state() {
	case Proposed:
		return nobody(errors.New("a study that enough hospitals have approved")), nil
	case Cancelled:
		return nobody(errors.New("a study that was not cancelled")), nil
	}
	policies, err := g.Policies(c.deps.Consortium, attest.RoleNode, c.config.Insecure.SimulatedTEE, c.deps.Now())
	if err != nil {
		return nobody(err), nil // people may come, and mend it
	}
	return channel.Expect{
		Policies: policies,
		Posture:  terms.Posture(c.deps.Consortium, c.config.Insecure.SimulatedTEE),
		Trust:    g.Trust,
	}, nil
}

// person finds whose key a leaf is.
func (c *Coordinator) person(_ [32]byte, key ed25519.PublicKey) (string, bool) {
	for name, p := range c.deps.Consortium.People {
		if p.Key.Equal(key) {
			return name, true
		}
	}
	return "", false
}

type bindingSigner struct{ key ed25519.PrivateKey }

// SignBinding signs a binding by the pinned log key.
func (s bindingSigner) SignBinding(b []byte) ([]byte, error) {
	return signed.Sign(s.key, attest.KindBinding, b)
}

// doorkeeper logs who was admitted and who was refused. Both are bounded: an admission waits for its leaf
// within the handshake, of which so many run at once; refusals, which anybody can cause, are logged once
// an hour for one key and reason, and only so many in a row.
type doorkeeper struct {
	c *Coordinator

	mu      sync.Mutex
	seen    map[[32]byte]time.Time
	tokens  float64
	refill  time.Time
	dropped int
}

// Bounds on refusals in a log.
const (
	refusalAgain = time.Hour
	refusalBurst = 64.0
	refusalRate  = 1.0 // a second
	refusalSeen  = 4096
)

func newDoorkeeper(c *Coordinator) *doorkeeper {
	return &doorkeeper{c: c, seen: map[[32]byte]time.Time{}, tokens: refusalBurst, refill: c.deps.Now()}
}

func (d *doorkeeper) observe(o channel.Outcome) {
	ctx, cancel := d.c.background()
	defer cancel()
	if o.Ended {
		d.revoke(ctx, o)
	}
	var err error
	if o.Err != nil {
		err = d.refusal(ctx, o)
	} else {
		err = d.admission(ctx, o.Session, o.Own)
	}
	if err != nil {
		d.c.log.Error("a handshake could not be logged", "error", err)
	}
}

// revoke tells the study's driver that a member's machine is refused whose session was let in before. Only a session with
// an SVID has a part in rounds.
func (d *doorkeeper) revoke(ctx context.Context, o channel.Outcome) {
	s, err := d.c.find(o.Session.Study)
	if err != nil {
		return
	}
	who := d.c.caller(o.Session)
	driver, err := s.running()
	if err != nil || !who.SVID || !slices.Contains(s.study.Members, who.Hospital) {
		return
	}
	codes := make([]string, len(o.Reasons))
	for i, r := range o.Reasons {
		codes[i] = r.Code
	}
	why := strings.Join(codes, ", ")
	driver.post(ctx, func(ctx context.Context) error { return driver.revoke(ctx, aggregate.MemberID(who.Hospital), why) })
}

// admission keeps the evidence of a node that came with its SVID, and ours of the same session.
func (d *doorkeeper) admission(ctx context.Context, x channel.Session, own []byte) error {
	s, err := d.c.find(x.Study)
	who := d.c.caller(x)
	subject := firstWord(who.Hospital, who.Person, hexOf(x.PeerKey))
	d.c.log.Info("admitted", "role", string(x.PeerRole), "who", subject, "study", study.Short(x.Study), "svid", who.SVID, "status", string(x.Result.Status), "simulated", x.Result.Claims.Simulated)
	if err != nil || s.state().over() {
		return nil
	}
	object := x.PeerKey
	if x.PeerRole == attest.RoleNode {
		object = sha256.Sum256(x.Record)
		if who.SVID {
			if err := d.c.kept.keep(x.Study, x.Result.Trust, x.Result.Policy); err != nil {
				return err
			}
			if err := s.keepEvidence(who.Hospital, x.Record); err != nil {
				return err
			}
			if err := s.keepOwn(ctx, own); err != nil {
				return err
			}
		}
	}
	_, err = s.append(ctx, audit.Admission, subject, object)
	return err
}

// keepOwn keeps, once a process, the evidence by which a node took this coordinator for what it is.
func (s *dossier) keepOwn(ctx context.Context, own []byte) error {
	s.ownMu.Lock()
	defer s.ownMu.Unlock()
	if s.shownYet {
		return nil
	}
	at := s.c.deps.Now()
	g, _ := s.c.deps.Grounds.Current()
	trust := g.Trust.Digest()
	policy, err := s.c.ownPolicy(own, at, g)
	if err != nil {
		return err
	}
	if err := errors.Join(s.c.kept.see(g), s.c.kept.keep(s.digest, trust, policy)); err != nil {
		return err
	}
	if err := store.WriteFile(s.path("evidence", ownEvidence), own, 0); err != nil {
		return err
	}
	// A crash before the save: the next process shows other evidence, and this file is replaced.
	if err := s.shown.save(ctx, shownAs{Record: sha256.Sum256(own), At: at.UnixMilli(), Trust: trust, Policy: policy}); err != nil {
		return err
	}
	leaf := audit.Leaf{Kind: audit.Admission, Time: at, Study: s.digest, Subject: Subject, Object: sha256.Sum256(own)}
	if _, err := s.trail.Append(ctx, leaf); err != nil {
		return err
	}
	s.shownYet = true
	return nil
}

// ownPolicy appraises the own evidence as a node would, by what is here.
func (c *Coordinator) ownPolicy(own []byte, at time.Time, g *grounds.Grounds) ([32]byte, error) {
	record, err := attest.ParseRecord(own)
	if err != nil {
		return [32]byte{}, err
	}
	sim := c.config.Insecure.SimulatedTEE
	policies, err := g.Policies(c.deps.Consortium, attest.RoleCoordinator, sim, at)
	if err != nil {
		return [32]byte{}, err
	}
	r := c.deps.Verifiers.Recheck(record, at, g.Trust, terms.Posture(c.deps.Consortium, sim), policies...)
	if !r.OK() {
		return [32]byte{}, fmt.Errorf("the own evidence, which a node took, does not hold here: %v", r.Reasons)
	}
	return r.Policy, nil
}

// ownEvidence is the coordinator's in a study's evidence folder and in an output folder. No hospital has a
// dot in its name's place: theirs are <hospital>.<digest>.cbor before one is chosen.
const ownEvidence = "coordinator.cbor"

// keptEvidence is how many of a hospital's records are kept beside the one that served.
const keptEvidence = 8

func (s *dossier) evidencePath(hospital string, digest [32]byte) string {
	return s.path("evidence", hospital+"."+hexOf(digest)+".cbor")
}

// keepEvidence stores a record, and drops old ones that no round was served by.
func (s *dossier) keepEvidence(hospital string, record []byte) error {
	digest := sha256.Sum256(record)
	if err := store.WriteFile(s.evidencePath(hospital, digest), record, 0); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.evidence[hospital] = append(s.evidence[hospital], digest)
	for len(s.evidence[hospital]) > keptEvidence {
		old := s.evidence[hospital][0]
		s.evidence[hospital] = s.evidence[hospital][1:]
		if s.pinned[old] || slices.Contains(s.evidence[hospital], old) {
			continue
		}
		if err := os.Remove(s.evidencePath(hospital, old)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// listEvidence finds what the process before kept, oldest first.
func (s *dossier) listEvidence() error {
	entries, err := os.ReadDir(s.path("evidence"))
	if err != nil {
		return err
	}
	times := map[[32]byte]time.Time{}
	for _, e := range entries {
		name, isRecord := strings.CutSuffix(e.Name(), ".cbor")
		i := strings.LastIndexByte(name, '.')
		if !isRecord || i < 0 {
			continue
		}
		digest, err := signed.ParseDigest("sha256:" + name[i+1:])
		if err != nil {
			continue
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		times[digest] = fi.ModTime()
		s.evidence[name[:i]] = append(s.evidence[name[:i]], digest)
	}
	for _, ds := range s.evidence {
		slices.SortFunc(ds, func(a, b [32]byte) int { return times[a].Compare(times[b]) })
	}
	return nil
}

func firstWord(words ...string) string {
	for _, w := range words {
		if w != "" {
			return w
		}
	}
	return ""
}

func (d *doorkeeper) refusal(ctx context.Context, o channel.Outcome) error {
	x := o.Session
	object := reasonsDigest(o)
	d.c.log.Warn("refused", "role", string(x.PeerRole), "key", hexOf(x.PeerKey), "study", study.Short(x.Study), "error", o.Err)
	s, err := d.c.find(x.Study)
	if err != nil || x.PeerKey == [32]byte{} || len(o.Reasons) == 0 || s.state().over() {
		return nil // no study whose log it belongs to, or a connection that broke
	}
	if !d.once(sha256.Sum256(slices.Concat(x.Study[:], x.PeerKey[:], object[:]))) {
		return nil
	}
	_, err = s.append(ctx, audit.Refusal, firstWord(d.c.caller(x).Hospital, hexOf(x.PeerKey)), object)
	return err
}

// reasonsDigest is over the codes, in order: what a peer sent is not in it.
func reasonsDigest(o channel.Outcome) [32]byte {
	h := sha256.New()
	for _, r := range o.Reasons {
		fmt.Fprintf(h, "%s %s\n", r.Code, r.Path)
	}
	return [32]byte(h.Sum(nil))
}

// once spends a token for a refusal that was not logged within the hour.
func (d *doorkeeper) once(id [32]byte) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.c.deps.Now()
	if last, ok := d.seen[id]; ok && now.Sub(last) < refusalAgain {
		return false
	}
	d.tokens = min(refusalBurst, d.tokens+refusalRate*now.Sub(d.refill).Seconds())
	d.refill = now
	if d.tokens < 1 {
		d.dropped++
		d.c.log.Warn("refusals come too fast to be logged", "dropped", d.dropped)
		return false
	}
	d.tokens--
	if len(d.seen) >= refusalSeen {
		clear(d.seen)
	}
	d.seen[id] = now
	return true
}

// leafKey is the Ed25519 key of a session's leaf.
func leafKey(x channel.Session) (*x509.Certificate, ed25519.PublicKey, error) {
	cert, err := x509.ParseCertificate(x.PeerLeaf)
	if err != nil {
		return nil, nil, err
	}
	key, ok := cert.PublicKey.(ed25519.PublicKey)
	if !ok {
		return nil, nil, fmt.Errorf("leaf key is %T, want Ed25519", cert.PublicKey)
	}
	return cert, key, nil
}
