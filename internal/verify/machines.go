package verify

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/attest/reference"
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

// checkMachines appraises all evidence again, each piece at the time at which the log says it was admitted, by the policy
// and the stored trust that the receipt names for it. The policy has to be one that the consortium states, or that as
// many of its amenders as it asks for have signed.
func (c *checker) checkMachines(s *section) {
	shelf := c.loadReferences(s)
	if shelf == nil {
		return
	}
	m := &machines{section: s, shelf: shelf, trust: map[[32]byte]*endorse.Snapshot{}, by: map[string][]string{}}
	c.machines = map[string]attest.Result{}
	used := map[string]bool{}
	p, _, err := c.namedEvidence(*c.receipt)
	used[p] = true
	if err != nil {
		s.fail(p, "%v", err)
	} else {
		c.appraiseCoordinator(m, p)
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
			c.appraiseNode(m, p, h)
		}
	}
	for _, p := range c.folder.under("evidence") {
		if !used[p] {
			s.fail(p, "is evidence that the receipt names for nobody")
		}
	}
	for _, p := range c.folder.under(trustFolder) {
		if digest, err := signed.ParseDigest("sha256:" + path.Base(path.Dir(p))); err != nil || path.Dir(path.Dir(p)) != trustFolder || m.trust[digest] == nil {
			s.fail(p, "is of no snapshot that the receipt names")
		}
	}
	c.describeMachines(m)
}

// machines is what evidence is appraised by, while that goes on.
type machines struct {
	*section
	shelf *reference.Shelf
	trust map[[32]byte]*endorse.Snapshot
	by    map[string][]string // who was appraised by which policy, in words
}

const (
	trustFolder      = "trust"
	referencesFolder = "references"
)

// loadReferences opens every manifest under the consortium's amenders.
func (c *checker) loadReferences(s *section) *reference.Shelf {
	files := map[string][]byte{}
	for _, p := range c.folder.under(referencesFolder) {
		b, err := c.folder.read(p, signed.MaxEnvelope)
		if err == nil {
			_, err = reference.Open(b, grounds.Amenders(c.consortium))
		}
		if err != nil {
			s.fail(p, "%v", err)
			continue
		}
		files[p] = b
	}
	shelf, err := reference.NewShelf(files, grounds.Amenders(c.consortium))
	if err != nil {
		s.fail(referencesFolder, "%v", err)
	}
	return shelf
}

// snapshot is the trust of a digest, which is also the name of its folder.
func (c *checker) snapshot(m *machines, digest [32]byte) *endorse.Snapshot {
	if t := m.trust[digest]; t != nil {
		return t
	}
	dir := trustFolder + "/" + strings.TrimPrefix(signed.DigestText(digest), "sha256:")
	files := map[string][]byte{}
	for _, p := range c.folder.under(dir) {
		b, err := c.folder.read(p, endorse.MaxFile)
		if err != nil {
			m.fail(p, "%v", err)
			return nil
		}
		files[strings.TrimPrefix(p, dir+"/")] = b
	}
	if len(files) == 0 {
		m.fail(receiptFile, "names trust snapshot %s, which is not in %s/", signed.DigestText(digest), trustFolder)
		return nil
	}
	trust, err := endorse.New(files)
	if err != nil {
		m.fail(dir, "%v", err)
		return nil
	}
	if trust.Digest() != digest {
		m.fail(dir, "has digest %s", signed.DigestText(trust.Digest()))
		return nil
	}
	m.trust[digest] = trust
	return trust
}

// stated finds the policy of a digest among those by which a role could be appraised at a time.
func (c *checker) stated(m *machines, subject string, role attest.Role, digest [32]byte, at time.Time) (grounds.Stated, bool) {
	all, err := (&grounds.Grounds{References: m.shelf}).Stood(c.consortium, role, c.simulation(role), at)
	if err != nil {
		m.fail(consortiumFile, "%v", err)
		return grounds.Stated{}, false
	}
	names := make([]string, 0, len(all))
	for _, p := range all {
		if p.Policy.Digest() == digest {
			return p, true
		}
		names = append(names, p.By)
	}
	if len(names) == 0 {
		names = []string{"nothing"}
	}
	m.fail(receiptFile, "names policy %s for %s, which is not what held at %s: %s", signed.DigestText(digest), subject, at.Format(time.RFC3339), strings.Join(names, "; "))
	return grounds.Stated{}, false
}

// simulation is the consortium's word alone: that of the process is in its posture.
func (c *checker) simulation(role attest.Role) bool {
	if role == attest.RoleCoordinator {
		return c.consortium.Attestation.Coordinator.AllowSimulated
	}
	return c.consortium.Attestation.Node.AllowSimulated
}

// appraise judges one record by what the receipt names. It returns false when it does not hold, and says why.
func (c *checker) appraise(m *machines, p, subject string, role attest.Role, r attest.Record, policy, snapshot audit.Digest) bool {
	i, ok := c.log.find(audit.Admission, 0, subject, c.folder.files[p].digest)
	if !ok {
		m.fail(p, "the log has no leaf that admits %q by this evidence", subject)
		return false
	}
	at, simulation := c.log.leaves[i].Time, c.simulation(role)
	trust := c.snapshot(m, snapshot)
	by, ok := c.stated(m, subject, role, policy, at)
	if trust == nil || !ok {
		return false
	}
	result := verifiers.Recheck(r, at, trust, terms.Posture(c.consortium, simulation), by.Policy)
	for _, reason := range result.Reasons {
		m.fail(p, "at %s: %v", at.Format(time.RFC3339), reason)
	}
	if !result.OK() {
		if len(result.Reasons) == 0 {
			m.fail(p, "its status is %q", result.Status)
		}
		return false
	}
	if result.Claims.Simulated {
		c.report.Simulated = true
	}
	c.machines[subject] = result
	m.by[by.By] = append(m.by[by.By], subject)
	return true
}

func (c *checker) appraiseCoordinator(s *machines, p string) {
	r, named := c.record, c.receipt.Predicate.Coordinator
	if !c.appraise(s, p, coordinatorSubject, attest.RoleCoordinator, r, named.Policy, named.Trust) {
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
func (c *checker) appraiseNode(s *machines, p string, named audit.ReceiptHospital) {
	hospital := named.Name
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
	if !c.appraise(s, p, hospital, attest.RoleNode, r, named.Policy, named.Trust) {
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

func (c *checker) describeMachines(m *machines) {
	simulated := 0
	for _, r := range c.machines {
		if r.Claims.Simulated {
			simulated++
		}
	}
	m.say("appraised again at the time of admission, with %s", count(len(m.trust), "trust snapshot"))
	for _, by := range slices.Sorted(maps.Keys(m.by)) {
		m.add("by %s: %s", by, strings.Join(m.by[by], ", "))
	}
	if simulated > 0 {
		m.add("%d of %d are simulated TEEs", simulated, len(c.machines))
	}
}
