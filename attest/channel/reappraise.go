package channel

import (
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/internal/signed"
)

// sessions are those that run. A turn is what lies between two changes of policy or trust.
type sessions struct {
	mu   sync.Mutex
	turn uint64
	live map[*conn]struct{}
}

func (s *sessions) current() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.turn
}

// add reports whether what c was judged by in that turn still holds. Either way c is among those of the next turn.
func (s *sessions) add(c *conn, turn uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live[c] = struct{}{}
	return s.turn == turn
}

func (s *sessions) drop(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.live, c)
}

func (s *sessions) next() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turn++
	return slices.Collect(maps.Keys(s.live))
}

// Reappraise judges every session anew, by what Config.Peer and Config.Person say now, and at once closes those that do
// not pass: their reads and writes end with a [Refused]. When all are closed, and before it returns, Config.Observe
// hears of each. A session that passes goes on until its Until, or until an earlier end by the new policies. It is to
// be called after every change of policy or trust; a handshake that runs meanwhile is judged by the new ones too.
func (c *Credentials) Reappraise() {
	conns := make(chan *conn)
	var judges sync.WaitGroup
	var mu sync.Mutex
	var ended []Outcome
	for range runtime.GOMAXPROCS(0) {
		judges.Go(func() {
			for x := range conns {
				if o, first := c.reappraise(x); first {
					mu.Lock()
					ended = append(ended, o)
					mu.Unlock()
				}
			}
		})
	}
	for _, x := range c.sessions.next() {
		conns <- x
	}
	close(conns)
	judges.Wait()
	for _, o := range ended {
		c.config.Observe(o)
	}
}

// reappraise ends a session that does not pass: o.Err says why, and first that nobody had ended it before.
func (c *Credentials) reappraise(x *conn) (o Outcome, first bool) {
	until, rs := c.config.judge(x.session, c.config.Now())
	if len(rs) == 0 {
		x.shorten(until)
		return Outcome{}, false
	}
	refused := &Refused{By: c.config.Role, Reasons: rs}
	return Outcome{Session: x.session, Ended: true, Err: refused, Reasons: rs}, x.end(refused)
}

// judge says whether the peer of a session would be admitted now, and until when.
func (c *Config) judge(s Session, now time.Time) (time.Time, []attest.Reason) {
	expect, rs := c.expect(s.Study, s.PeerRole)
	if len(rs) > 0 {
		return time.Time{}, rs
	}
	if s.PeerRole == attest.RolePerson {
		leaf, err := x509.ParseCertificate(s.PeerLeaf)
		if err != nil {
			return time.Time{}, []attest.Reason{{Code: CodePersonUnlisted, Path: "leaf", Got: err.Error()}}
		}
		_, rs := c.listed(s.Study, leaf)
		return s.Until, rs
	}
	r, err := attest.ParseRecord(s.Record)
	if err != nil {
		return time.Time{}, []attest.Reason{{Code: CodeProof, Path: "record", Got: err.Error()}}
	}
	result, rs := c.weigh(r, now, expect)
	if len(rs) > 0 {
		rs = append(expect.since(s.Result), rs...)
	}
	return result.Until, rs
}

// weigh appraises a record whose binding is this end's own view of the connection.
func (c *Config) weigh(r attest.Record, now time.Time, expect Expect) (attest.Result, []attest.Reason) {
	result := c.Verifiers.Recheck(r, now, expect.Trust, expect.Posture, expect.Policies...)
	rs := slices.Clone(result.Reasons)
	if r.Binding.Role == attest.RoleCoordinator {
		rs = append(rs, r.SignedBy(expect.LogKey)...)
	}
	if len(rs) == 0 && !result.OK() {
		rs = append(rs, attest.Reason{Code: attest.CodeVerifierError, Path: "status", Got: string(result.Status)})
	}
	return result, rs
}

// expect finds how a peer that names this study is appraised.
func (c *Config) expect(study [32]byte, peer attest.Role) (Expect, []attest.Reason) {
	expect, err := c.Peer(study)
	switch {
	case err != nil:
		return Expect{}, because(err, attest.Reason{Code: CodeStudyUnknown, Path: "study", Got: signed.DigestText(study)})
	case peer == attest.RoleNode && expect.NoNodes != nil:
		return Expect{}, because(expect.NoNodes, attest.Reason{Code: CodeNoNodes, Path: "role", Got: string(peer)})
	case peer == attest.RoleCoordinator && len(expect.LogKey) != ed25519.PublicKeySize:
		return Expect{}, []attest.Reason{{Code: CodeLogKey, Path: "log_key", Got: fmt.Sprintf("%d bytes", len(expect.LogKey)), Want: "the pinned log key"}}
	}
	return expect, nil
}

// because is the reason that an error holds, or else the one given, with the error's words.
func because(err error, r attest.Reason) []attest.Reason {
	if own, ok := errors.AsType[attest.Reason](err); ok {
		return []attest.Reason{own}
	}
	r.Want = err.Error()
	return []attest.Reason{r}
}

// listed finds the person whose key a leaf proves.
func (c *Config) listed(study [32]byte, leaf *x509.Certificate) (string, []attest.Reason) {
	if key, ok := leaf.PublicKey.(ed25519.PublicKey); ok && c.Person != nil {
		if name, ok := c.Person(study, key); ok && name != "" {
			return name, nil
		}
	}
	return "", []attest.Reason{{Code: CodePersonUnlisted, Path: "leaf", Got: signed.DigestText(keyDigest(leaf)), Want: "a listed person's key"}}
}

// since names what is not as it was when a session was appraised.
func (e Expect) since(then attest.Result) []attest.Reason {
	var rs []attest.Reason
	changed := func(code, path string, was, is [32]byte) {
		rs = append(rs, attest.Reason{Code: code, Path: path, Got: signed.DigestText(was), Want: signed.DigestText(is)})
	}
	digests := make([][32]byte, 0, len(e.Policies))
	for _, p := range e.Policies {
		digests = append(digests, p.Digest())
	}
	if len(digests) > 0 && !slices.Contains(digests, then.Policy) {
		changed(CodePolicyChanged, "policy", then.Policy, digests[0])
	}
	if now := e.Trust.Digest(); now != then.Trust {
		changed(CodeTrustChanged, "trust", then.Trust, now)
	}
	return rs
}
