package verify

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/audit"
	"github.com/consilium-fl/consilium/internal/grounds"
	"github.com/consilium-fl/consilium/internal/pinned"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/terms"
)

// verifiers know every format. That simulated evidence can be read here makes it no better: it counts only
// where the consortium file allows it, and the report says so first.
var verifiers = pinned.Verifiers()

// checkReceipt finds the receipt key in the evidence that the receipt names, and checks the signature. That the
// evidence is good is for checkMachines to say.
func (c *checker) checkReceipt(s *section) {
	b, err := c.folder.read(receiptFile, maxSigned)
	if err != nil {
		s.fail(receiptFile, "%v", err)
		return
	}
	var record attest.Record
	var keys coordinatorKeys
	var culprit string
	r, err := audit.ParseReceipt(b, func(unverified audit.Receipt) (ed25519.PublicKey, error) {
		p, file, err := c.namedEvidence(unverified)
		if err == nil {
			if record, err = attest.ParseRecord(file); err == nil {
				keys, err = roleKeys(record)
			}
		}
		if err != nil {
			culprit = p
		}
		return keys.receipt, err
	})
	if err != nil {
		if culprit == "" {
			culprit = receiptFile
		}
		s.fail(culprit, "%v", err)
		return
	}
	c.receipt, c.record, c.keys = &r, record, keys
	s.say("is in canonical form and signed by the key that the coordinator's evidence binds")
}

// namedEvidence reads the coordinator's evidence. Its digest is the receipt's word; where no file has it, the
// subjects tell which file should.
func (c *checker) namedEvidence(r audit.Receipt) (path string, b []byte, err error) {
	want := [32]byte(r.Predicate.Coordinator.Evidence)
	path, ok := c.folder.byDigest("evidence", want)
	if !ok {
		for _, x := range r.Subject {
			if x.Digest.SHA256 == audit.HexDigest(want) {
				return x.Name, nil, fmt.Errorf("is missing or altered: want the coordinator's evidence, %s", signed.DigestText(want))
			}
		}
		return receiptFile, nil, fmt.Errorf("names evidence %s of the coordinator, which is not in evidence/", signed.DigestText(want))
	}
	b, err = c.folder.read(path, attest.MaxRecord)
	return path, b, err
}

// roleKeys are the keys in the order that a coordinator's evidence has them: protocol, receipt, issuer.
func roleKeys(r attest.Record) (k coordinatorKeys, err error) {
	if len(r.Keys) != 3 {
		return k, fmt.Errorf("binds %s, want three: protocol, receipt, issuer", count(len(r.Keys), "key"))
	}
	for i, to := range []*ed25519.PublicKey{&k.protocol, &k.receipt, &k.issuer} {
		if *to, err = publicKey(r.Keys[i]); err != nil {
			return coordinatorKeys{}, fmt.Errorf("binds as key %d no Ed25519 key: %w", i, err)
		}
	}
	return k, nil
}

// publicKey reads SPKI in DER, in the one form that x509 writes, or 32 raw bytes.
func publicKey(b []byte) (ed25519.PublicKey, error) {
	if len(b) == ed25519.PublicKeySize {
		return bytes.Clone(b), nil
	}
	k, err := x509.ParsePKIXPublicKey(b)
	if err != nil {
		return nil, err
	}
	pub, ok := k.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("got %T", k)
	}
	if again, err := x509.MarshalPKIXPublicKey(pub); err != nil || !bytes.Equal(again, b) {
		return nil, errors.New("not in the one form of SPKI")
	}
	return pub, nil
}

// keyDigest is how a binding names a TLS key: SHA-256 of its SPKI.
func keyDigest(k ed25519.PublicKey) ([32]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(k)
	return sha256.Sum256(der), err
}

// checkMachines appraises all evidence again, each piece at the time at which the log says it was admitted, by
// the consortium's policy and the stored trust.
func (c *checker) checkMachines(s *section) {
	trust := c.loadTrust(s)
	if trust == nil {
		return
	}
	c.machines = map[string]attest.Result{}
	used := map[string]bool{}
	p, _, err := c.namedEvidence(*c.receipt)
	used[p] = true
	if err != nil {
		s.fail(p, "%v", err)
	} else {
		c.appraiseCoordinator(s, p, trust)
	}
	for _, h := range c.receipt.Predicate.Hospitals {
		if d := [32]byte(h.Evidence); d != [32]byte{} {
			p, ok := c.folder.byDigest("evidence", d)
			if !ok {
				s.fail(receiptFile, "names evidence %s of %q, which is not in evidence/", signed.DigestText(d), h.Name)
				continue
			}
			if used[p] {
				s.fail(p, "is named for %q and for another too", h.Name)
				continue
			}
			used[p] = true
			c.appraiseNode(s, p, h.Name, trust)
		}
	}
	for _, p := range c.folder.under("evidence") {
		if !used[p] {
			s.fail(p, "is evidence that the receipt names for nobody")
		}
	}
	c.describeMachines(s)
}

func (c *checker) loadTrust(s *section) *endorse.Snapshot {
	files := map[string][]byte{}
	for _, p := range c.folder.under("trust") {
		b, err := c.folder.read(p, endorse.MaxFile)
		if err != nil {
			s.fail(p, "%v", err)
			return nil
		}
		files[strings.TrimPrefix(p, "trust/")] = b
	}
	trust, err := endorse.New(files)
	if err != nil {
		s.fail("trust", "%v", err)
		return nil
	}
	if want := [32]byte(c.receipt.Predicate.Coordinator.Trust); trust.Digest() != want {
		s.fail("trust", "has digest %s, the receipt says %s", signed.DigestText(trust.Digest()), signed.DigestText(want))
	}
	return trust
}

// appraise judges one record. It returns false when it does not hold, and says why.
func (c *checker) appraise(s *section, p, subject string, role attest.Role, r attest.Record, trust *endorse.Snapshot) bool {
	i, ok := c.log.find(audit.Admission, 0, subject, c.folder.files[p].digest)
	if !ok {
		s.fail(p, "the log has no leaf that admits %q by this evidence", subject)
		return false
	}
	accept := c.consortium.Attestation.Node
	if role == attest.RoleCoordinator {
		accept = c.consortium.Attestation.Coordinator
	}
	policies, err := (&grounds.Grounds{Trust: trust}).Policies(c.consortium, role, accept.AllowSimulated, c.log.leaves[i].Time)
	if err != nil {
		s.fail(p, "%v", err)
		return false
	}
	result := verifiers.Recheck(r, c.log.leaves[i].Time, trust, terms.Posture(c.consortium, accept.AllowSimulated), policies...)
	for _, reason := range result.Reasons {
		s.fail(p, "at %s: %v", c.log.leaves[i].Time.Format(time.RFC3339), reason)
	}
	if !result.OK() {
		if len(result.Reasons) == 0 {
			s.fail(p, "its status is %q", result.Status)
		}
		return false
	}
	if result.Claims.Simulated {
		c.report.Simulated = true
	}
	c.machines[subject] = result
	return true
}

func (c *checker) appraiseCoordinator(s *section, p string, trust *endorse.Snapshot) {
	r := c.record
	if !c.appraise(s, p, coordinatorSubject, attest.RoleCoordinator, r, trust) {
		return
	}
	for _, reason := range r.SignedBy(c.consortium.Log) {
		s.fail(p, "%v", reason)
	}
	if r.Binding.Study != c.study.Digest {
		s.fail(p, "is bound to study %s, want %s", signed.DigestText(r.Binding.Study), signed.DigestText(c.study.Digest))
	}
}

// appraiseNode also ties the record to the hospital: its TLS key is the enrolled node key, and the one key that
// it binds is the enrolled witness.
func (c *checker) appraiseNode(s *section, p, hospital string, trust *endorse.Snapshot) {
	e, ok := c.served[hospital]
	if !ok {
		s.fail(p, "is of %q, who was in no set", hospital)
		return
	}
	b, err := c.folder.read(p, attest.MaxRecord)
	if err != nil {
		s.fail(p, "%v", err)
		return
	}
	r, err := attest.ParseRecord(b)
	if err != nil {
		s.fail(p, "%v", err)
		return
	}
	if !c.appraise(s, p, hospital, attest.RoleNode, r, trust) {
		return
	}
	if r.Binding.Study != c.study.Digest {
		s.fail(p, "is bound to study %s, want %s", signed.DigestText(r.Binding.Study), signed.DigestText(c.study.Digest))
	}
	if want, err := keyDigest(e.NodeKey); err != nil || r.Binding.OwnKey != want {
		s.fail(p, "is bound to another node key than the enrolled %s of %q", signed.KeyText(e.NodeKey), hospital)
	}
	var witness ed25519.PublicKey
	if len(r.Keys) == 1 {
		witness, _ = publicKey(r.Keys[0]) // nil is no enrolled key
	}
	if !witness.Equal(e.WitnessKey) {
		s.fail(p, "binds another witness key than the enrolled %s of %q", signed.KeyText(e.WitnessKey), hospital)
	}
}

func (c *checker) describeMachines(s *section) {
	simulated := 0
	for _, r := range c.machines {
		if r.Claims.Simulated {
			simulated++
		}
	}
	s.say("appraised again at the time of admission: %s", strings.Join(slices.Sorted(maps.Keys(c.machines)), ", "))
	if simulated > 0 {
		s.add("%d of %d are simulated TEEs", simulated, len(c.machines))
	}
}
