package verify

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/attest/simtee"
	"github.com/consilium-fl/consilium/audit"
	"github.com/consilium-fl/consilium/dp"
	"github.com/consilium-fl/consilium/internal/grounds"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/terms"
)

// The story is a study that ran in memory, with all the keys of everybody in it: from it come a good folder
// and, changed and signed again, the folders that a coordinator with its keys, or with everybody's, could
// forge.

var members = []string{"cleveland", "hungarian", "switzerland", "va"}

// hospitals are of the consortium; basel is no member of the study.
var hospitals = append([]string{"basel"}, members...)

func key(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte("key of " + name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func public(name string) ed25519.PublicKey { return key(name).Public().(ed25519.PublicKey) }

// told is a round of the story.
type told struct {
	messages []aggregate.Signed
	sum      []int64
}

func (r *told) index(kind string) int {
	return slices.IndexFunc(r.messages, func(m aggregate.Signed) bool { return m.Kind == kind })
}

func (r *told) digest(kind string) [32]byte { return r.messages[r.index(kind)].Digest() }

type story struct {
	consortium *study.Consortium
	study      *study.Study
	terms      *terms.Terms
	root       *ecdsa.PrivateKey
	trust      *endorse.Snapshot
	start      time.Time

	leaves    []audit.Leaf
	files     map[string][]byte // all but rounds, log, model and receipt
	rounds    []*told
	iterates  [][]float64
	model     []byte
	charges   uint64
	head      [32]byte // of the coordinator's ledger
	cosigners []string
	ledger    *dp.Ledger

	reference bool                // nodes are appraised by reference values that the consortium names
	policies  map[string][32]byte // by hospital; that of the consortium file where there is none

	// What a forger may change: the log key, the files before the receipt lists them, its claims before they are
	// signed, and the files after.
	logKey string
	before func(files map[string][]byte)
	claim  func(r *audit.Receipt)
	after  func(files map[string][]byte)
}

// clone lets a forger change a story without the others seeing it.
func (s *story) clone() *story {
	c := *s
	c.policies = maps.Clone(s.policies)
	c.leaves, c.files, c.cosigners = slices.Clone(s.leaves), maps.Clone(s.files), slices.Clone(s.cosigners)
	c.rounds = nil
	for _, r := range s.rounds {
		c.rounds = append(c.rounds, &told{messages: slices.Clone(r.messages), sum: slices.Clone(r.sum)})
	}
	return &c
}

var tell = sync.OnceValues(func() (*story, error) {
	s := &story{files: map[string][]byte{}, cosigners: members, logKey: "log", start: time.Now().UTC().Truncate(time.Millisecond)}
	return s, s.run()
})

func theStory(t testing.TB) *story {
	t.Helper()
	s, err := tell()
	if err != nil {
		t.Fatal(err)
	}
	return s.clone()
}

func (s *story) run() error {
	for _, f := range []func() error{s.found, s.propose, s.agree, s.attest, s.train, s.release} {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

// found makes the consortium.
func (s *story) found() (err error) {
	c := &study.Consortium{
		Name: "heart.example", Serial: 1, Amend: 3, Log: public("log"), Hospitals: map[string]study.Hospital{},
		People: map[string]study.Person{"r.lead": {Role: study.RoleLead, Key: public("r.lead")}},
	}
	accept := func(role attest.Role) study.Accept {
		return study.Accept{Formats: []string{"sim/1"}, AllowSimulated: true, Measurements: [][32]byte{simtee.Measurement(role)}}
	}
	c.Attestation = study.Attestation{Node: accept(attest.RoleNode), Coordinator: accept(attest.RoleCoordinator)}
	if s.reference {
		c.Attestation.Node = study.Accept{Reference: "nodes", AllowSimulated: true}
	}
	for _, h := range hospitals {
		c.Hospitals[h] = study.Hospital{Governance: public("governance " + h), Registries: []string{"cardiology", "surgery"}}
	}
	raw := study.RenderConsortium(c)
	if s.consortium, err = study.ParseConsortium(raw); err != nil {
		return err
	}
	var sigs []byte
	for _, h := range hospitals {
		if sigs, err = s.consortium.Sign(sigs, key("governance "+h)); err != nil {
			return err
		}
	}
	s.files[consortiumFile], s.files[signaturesFile] = raw, sigs
	return nil
}

// propose takes the sample of the four hearts, with three rounds, and valid whenever the test runs.
func (s *story) propose() (err error) {
	raw, err := os.ReadFile(filepath.Join("..", "..", "deploy", "samples", "heart", "study.yaml"))
	if err != nil {
		return err
	}
	for _, x := range [][2]string{
		{"consortium", signed.DigestText(s.consortium.Digest)},
		{"strategy.rounds", "3"},
		{"strategy.average_last", "2"},
		{"valid.from", "2001-01-01T00:00:00Z"},
	} {
		if raw, err = study.Override(raw, x[0], x[1]); err != nil {
			return err
		}
	}
	if s.study, err = study.Parse(raw); err != nil {
		return err
	}
	if s.terms, err = terms.New(s.consortium, s.study); err != nil {
		return err
	}
	s.files[studyFile] = raw
	s.append(audit.Study, 0, s.study.Lead, s.study.Digest)
	return nil
}

// append logs a leaf; each is a millisecond after the one before.
func (s *story) append(kind audit.Kind, round uint64, subject string, object [32]byte) uint64 {
	i := uint64(len(s.leaves))
	s.leaves = append(s.leaves, audit.Leaf{
		Kind: kind, Time: s.start.Add(time.Duration(i) * time.Millisecond), Study: s.study.Digest, Round: round, Subject: subject, Object: object,
	})
	return i
}

// agree makes enrolments and approvals.
func (s *story) agree() (err error) {
	until := s.start.AddDate(1, 0, 0)
	for _, h := range members {
		e := study.Enrolment{
			Consortium: s.consortium.Name, Hospital: h, Node: "1", NodeKey: public("node " + h), WitnessKey: public("witness " + h),
			Serial: 1, Until: until,
		}
		if s.files["enrolments/"+h+".json"], err = e.Sign(key("governance " + h)); err != nil {
			return err
		}
		a := study.Approval{Study: s.study.Digest, Hospital: h, Dataset: "cardiology", Name: "A. Steward", Role: "data steward", Meaning: "approved", Until: until}
		if s.files["approvals/"+h+".json"], err = a.Sign(key("governance " + h)); err != nil {
			return err
		}
		s.append(audit.Approval, 0, h, signed.Digest(s.files["approvals/"+h+".json"]))
	}
	return nil
}

// attest makes the evidence of a session of each node with the coordinator.
func (s *story) attest() (err error) {
	if s.root, err = simtee.NewRoot(); err != nil {
		return err
	}
	anchor := simtee.MarshalAnchor(&s.root.PublicKey)
	if s.trust, err = endorse.New(map[string][]byte{simtee.AnchorFile: anchor}); err != nil {
		return err
	}
	s.files[s.trustFile(simtee.AnchorFile)] = anchor
	own, err := s.record(attest.RoleCoordinator, "tls", "log", "protocol", "receipt", "issuer")
	if err != nil {
		return err
	}
	s.admit(coordinatorSubject, own)
	for _, h := range members {
		r, err := s.record(attest.RoleNode, "node "+h, "", "witness "+h)
		if err != nil {
			return err
		}
		s.admit(h, r)
	}
	return nil
}

func (s *story) admit(who string, record []byte) {
	s.files["evidence/"+who+".cbor"] = record
	s.append(audit.Admission, 0, who, signed.Digest(record))
}

// record is the evidence of one role, over the given keys; the log key signs the coordinator's.
func (s *story) record(role attest.Role, own, log string, keys ...string) ([]byte, error) {
	posture, err := terms.OwnPosture(s.consortium, sha256.Sum256([]byte("rego")), "sim", true).Encode()
	if err != nil {
		return nil, err
	}
	r := attest.Record{Posture: posture}
	for _, k := range keys {
		der, err := x509.MarshalPKIXPublicKey(public(k))
		if err != nil {
			return nil, err
		}
		r.Keys = append(r.Keys, der)
	}
	ownKey, err := keyDigest(public(own))
	if err != nil {
		return nil, err
	}
	r.Binding = attest.Binding{
		Role: role, Nonce: sha256.Sum256([]byte("nonce")), Exporter: sha256.Sum256([]byte("exporter")), OwnKey: ownKey,
		PeerKey: sha256.Sum256([]byte("peer")), Study: s.study.Digest, KeyList: attest.KeyListDigest(r.Keys), Config: sha256.Sum256(posture),
	}
	if log != "" {
		b, err := r.Binding.Encode()
		if err != nil {
			return nil, err
		}
		if r.LogSignature, err = signed.Sign(key(log), attest.KindBinding, b); err != nil {
			return nil, err
		}
	}
	if r.Evidence, err = simtee.NewAttester(s.root, role, "chip:test").Attest(context.Background(), r.Binding); err != nil {
		return nil, err
	}
	return r.Encode()
}

// train runs rounds until three have closed: in the second one hospital does not upload, the third finds too few,
// the fourth burns.
func (s *story) train() (err error) {
	if s.ledger, err = dp.OpenLedger(&memory{}, dp.Budget{Epsilon: math.Inf(1), Delta: math.Inf(1)}); err != nil {
		return err
	}
	for _, dropped := range []map[string]string{nil, {"va": "upload"}, {"va": "ready", "hungarian": "ready"}, {"va": "release", "hungarian": "release"}, nil} {
		if err := s.round(dropped); err != nil {
			return err
		}
	}
	s.charges, s.head = s.ledger.Charges(s.study.Digest), s.ledger.Head()
	return nil
}

// weights are the newest model.
func (s *story) weights() []float64 {
	if n := len(s.iterates); n > 0 {
		return s.iterates[n-1]
	}
	return make([]float64, s.study.Dim())
}

// play is the driver of one round's machines.
type play struct {
	*story
	number  uint64
	dropped map[string]string // whose message of which kind never leaves, and who is away from then on
	round   *aggregate.Round
	members map[string]*aggregate.Member
	vectors map[string][]byte
	told    *told
	queue   []func()
	err     error
}

func (s *story) round(dropped map[string]string) error {
	number := uint64(len(s.rounds) + 1)
	p := &play{story: s, number: number, dropped: dropped, members: map[string]*aggregate.Member{}, vectors: map[string][]byte{}, told: &told{}}
	ring := terms.Keyring{Consortium: s.consortium, Protocol: public("protocol"), At: func() time.Time { return s.start }}
	plan := s.terms.Plan(number, signed.Digest(study.EncodeModel(s.study.Digest, s.weights())), s.ledger.Head())
	var err error
	if p.round, err = aggregate.NewRound(plan, ring, key("protocol"), rand.Reader); err != nil {
		return err
	}
	s.rounds = append(s.rounds, p.told)
	p.step(aggregate.Begin{})
	for p.err == nil && p.round.Phase() != aggregate.Ended {
		for len(p.queue) > 0 {
			next := p.queue[0]
			p.queue = p.queue[1:]
			next()
		}
		if p.round.Phase() != aggregate.Ended {
			p.step(aggregate.Expired{Phase: p.round.Phase()})
		}
	}
	p.told.messages = p.round.Transcript()
	return p.err
}

func (p *play) note(err error) {
	if p.err == nil {
		p.err = err
	}
}

func (p *play) later(f func()) { p.queue = append(p.queue, f) }

func (p *play) step(e aggregate.Event) {
	for _, f := range p.round.Step(e) {
		switch f := f.(type) {
		case aggregate.Send:
			for _, h := range members {
				if len(f.To) == 0 || slices.Contains(f.To, aggregate.MemberID(h)) {
					p.later(func() { p.deliver(h, f.Message) })
				}
			}
		case aggregate.Record:
			p.append(audit.Kind(f.Kind), p.number, coordinatorSubject, f.Object)
		case aggregate.Accept:
			i := p.append(audit.Charge, p.number, string(f.Member), signed.Digest(f.Charge))
			promised, err := audit.MakePromise(p.origin(), i, p.leaves[i].Encode(), p.start.Add(time.Minute), key("log"))
			p.note(err)
			p.later(func() { p.step(aggregate.Uploaded{Member: f.Member, Promise: promised.Encode()}) })
		case aggregate.ChargeLedger:
			entry, err := p.ledger.Charge(p.terms.Charge(f.Charge))
			p.note(err)
			f.Charge.Head = entry.Head
			p.later(func() { p.step(aggregate.Charged{Charge: f.Charge.Encode()}) })
		case aggregate.Open:
			p.later(func() { p.open(f) })
		case aggregate.Refuse:
			p.note(fmt.Errorf("the aggregator refused %q: %s", f.From, f.Reason))
		}
	}
}

func (s *story) origin() string { return audit.Origin(s.consortium.Name, s.study.Digest) }

func (p *play) open(f aggregate.Open) {
	sum, err := aggregate.NewMaskedSum(p.round.Plan())
	p.note(err)
	for _, m := range f.Set {
		p.note(sum.Add(0, p.vectors[string(m)]))
	}
	noised, err := sum.NoisedByMembers(p.round.Plan().Noise)
	p.note(err)
	if p.err != nil {
		return
	}
	opened, err := noised.Unmask(f.Opening)
	p.note(err)
	if p.err != nil {
		return
	}
	p.told.sum = opened
	w := p.study.Next(p.weights(), opened)
	p.iterates = append(p.iterates, w)
	p.step(aggregate.Opened{Sum: aggregate.SumDigest(opened), Model: signed.Digest(study.EncodeModel(p.study.Digest, w))})
}

func (p *play) deliver(h string, m aggregate.Signed) {
	if m.Kind != "plan" {
		if x := p.members[h]; x != nil {
			p.member(h, x.Step(aggregate.Received{Message: m}))
		}
		return
	}
	x, err := aggregate.NewMember(aggregate.MemberConfig{
		Self: aggregate.MemberID(h), Enrolment: p.files["enrolments/"+h+".json"], Want: p.terms.Plan(0, [32]byte{}, [32]byte{}),
		Keys:   terms.Keyring{Consortium: p.consortium, Protocol: public("protocol"), At: func() time.Time { return p.start }},
		Signer: key("node " + h), Entropy: rand.Reader, Noise: func(k [32]byte) aggregate.Noiser { return p.terms.Share.Keyed(k) },
	}, m)
	p.note(err)
	if err == nil {
		p.members[h] = x
		p.member(h, x.Step(aggregate.Begin{}))
	}
}

func (p *play) member(h string, effects []aggregate.Effect) {
	for _, f := range effects {
		switch f := f.(type) {
		case aggregate.StartTraining:
			p.later(func() { p.tell(h, aggregate.Trained{}) })
		case aggregate.ChargeLedger:
			f.Charge.Head = sha256.Sum256(fmt.Append(nil, h, p.number))
			p.later(func() { p.tell(h, aggregate.Charged{Charge: f.Charge.Encode()}) })
		case aggregate.FillSpool:
			p.later(func() { p.mask(h) })
		case aggregate.SendVector:
			p.send(h, f.Upload)
		case aggregate.Send:
			p.send(h, f.Message)
		case aggregate.Refuse:
			p.note(fmt.Errorf("%q refused: %s", h, f.Reason))
		}
	}
}

func (p *play) tell(h string, e aggregate.Event) {
	if x := p.members[h]; x != nil {
		p.member(h, x.Step(e))
	}
}

func (p *play) send(h string, m aggregate.Signed) {
	if p.dropped[h] == m.Kind {
		delete(p.members, h)
		p.later(func() { p.step(aggregate.Away{Member: aggregate.MemberID(h)}) })
		return
	}
	p.later(func() { p.step(aggregate.Received{Message: m}) })
}

// mask gives each hospital a vector of its own.
func (p *play) mask(h string) {
	x := make([]int64, p.study.Dim())
	for i := range x {
		x[i] = int64(i*len(h)) - 20
	}
	words := make([]byte, 4*len(x))
	p.note(p.members[h].Mask(words, 0, x))
	p.vectors[h] = words
	d, err := aggregate.VectorDigest(bytes.NewReader(words))
	p.note(err)
	p.tell(h, aggregate.Spooled{Vector: d})
}

func (s *story) release() error {
	s.model = study.EncodeModel(s.study.Digest, s.study.Released(s.iterates))
	s.append(audit.Release, 0, coordinatorSubject, signed.Digest(s.model))
	return nil
}

// write makes a folder of the story, with a receipt that says what the story was, changed as the forger likes.
func (s *story) write(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for name, b := range s.build(t) {
		p := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// build makes the files of write.
func (s *story) build(t testing.TB) map[string][]byte {
	t.Helper()
	files := maps.Clone(s.files)
	files[modelFile] = s.model
	for _, r := range s.rounds {
		dir := fmt.Sprintf("rounds/%04d/", s.plan(t, r).Round.Number)
		for _, m := range r.messages {
			b, err := signed.Encode(m)
			if err != nil {
				t.Fatal(err)
			}
			files[dir+m.Kind+".cbor"] = b
		}
		if r.sum != nil {
			var b []byte
			for _, v := range r.sum {
				b = binary.LittleEndian.AppendUint64(b, uint64(v))
			}
			files[dir+sumFile] = b
		}
	}
	at := s.writeLog(t, files)
	if s.before != nil {
		s.before(files)
	}
	r := s.receipt(t, files, at)
	if s.claim != nil {
		s.claim(&r)
	}
	b, err := audit.MakeReceipt(r, key("receipt"))
	if err != nil {
		t.Fatal(err)
	}
	files[receiptFile] = b
	files["report.html"], files["summary.json"] = []byte("<!doctype html>"), []byte("{}")
	if s.after != nil {
		s.after(files)
	}
	return files
}

func message[M aggregate.Message](t testing.TB, s aggregate.Signed) M {
	t.Helper()
	m, err := aggregate.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return m.(M)
}

func (s *story) plan(t testing.TB, r *told) aggregate.Plan {
	t.Helper()
	return message[aggregate.Plan](t, r.messages[0])
}

// tiles is a log in memory.
type tiles struct {
	hashes  []tlog.Hash
	entries [][]byte
}

func (l *tiles) ReadHashes(at []int64) ([]tlog.Hash, error) {
	var hs []tlog.Hash
	for _, i := range at {
		hs = append(hs, l.hashes[i])
	}
	return hs, nil
}

func (s *story) writeLog(t testing.TB, files map[string][]byte) audit.Checkpoint {
	t.Helper()
	l := &tiles{}
	for i, leaf := range s.leaves {
		e := leaf.Encode()
		hs, err := tlog.StoredHashes(int64(i), e, l)
		if err != nil {
			t.Fatal(err)
		}
		l.hashes, l.entries = append(l.hashes, hs...), append(l.entries, e)
	}
	size := uint64(len(l.entries))
	root, err := tlog.TreeHash(int64(size), l)
	if err != nil {
		t.Fatal(err)
	}
	names, err := audit.Resources(size)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names[1:] {
		files["log/"+name] = l.resource(t, name)
	}
	at := audit.Checkpoint{Origin: s.origin(), Size: size, Root: root}
	note, err := audit.SignCheckpoint(at, key(s.logKey))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range s.cosigners {
		note = append(note, s.cosign(t, note, h)...)
	}
	files[checkpointFile] = note
	at.Cosigned = slices.Sorted(slices.Values(s.cosigners))
	return at
}

func (l *tiles) resource(t testing.TB, name string) []byte {
	t.Helper()
	tile, err := tlog.ParseTilePath("tile/8/" + strings.Replace(strings.TrimPrefix(name, "tile/"), "entries", "data", 1))
	if err != nil {
		t.Fatal(err)
	}
	if tile.L >= 0 {
		b, err := tlog.ReadTileData(tile, l)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var b []byte
	for _, e := range l.entries[tile.N*256:][:tile.W] {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(e))), e...)
	}
	return b
}

// cosign is a line of C2SP tlog-cosignature.
func (s *story) cosign(t testing.TB, note []byte, hospital string) []byte {
	t.Helper()
	name, err := audit.WitnessName(s.origin(), hospital)
	if err != nil {
		t.Fatal(err)
	}
	text, _, _ := bytes.Cut(note, []byte("\n\n"))
	text = append(bytes.Clone(text), '\n')
	at := uint64(s.start.Unix())
	sig := ed25519.Sign(key("witness "+hospital), append(fmt.Appendf(nil, "cosignature/v1\ntime %d\n", at), text...))
	id := sha256.Sum256(append(append([]byte(name), '\n', 0x04), public("witness "+hospital)...))
	b := append(binary.BigEndian.AppendUint64(bytes.Clone(id[:4]), at), sig...)
	return []byte("\u2014 " + name + " " + base64.StdEncoding.EncodeToString(b) + "\n")
}

func (s *story) trustFile(name string) string {
	return fmt.Sprintf("trust/%x/%s", s.trust.Digest(), name)
}

// policy is the digest of the one that the consortium file states.
func (s *story) policy(t testing.TB, role attest.Role) audit.Digest {
	t.Helper()
	ps, err := (&grounds.Grounds{}).Policies(s.consortium, role, true, s.start)
	if err != nil {
		t.Fatal(err)
	}
	return audit.Digest(ps[0].Digest())
}

func (s *story) receipt(t testing.TB, files map[string][]byte, at audit.Checkpoint) audit.Receipt {
	t.Helper()
	var r audit.Receipt
	for name, b := range files {
		r.Subject = append(r.Subject, audit.Subject{Name: name, Digest: audit.SubjectDigest{SHA256: signed.Digest(b)}})
	}
	own := files["evidence/"+coordinatorSubject+".cbor"]
	p := audit.Predicate{
		Study: s.study.Digest, Consortium: s.consortium.Digest, Simulated: true,
		Coordinator: audit.ReceiptCoordinator{
			Measurement: signed.DigestText(simtee.Measurement(attest.RoleCoordinator)), Evidence: signed.Digest(own), Status: "warning",
			Policy: s.policy(t, attest.RoleCoordinator), Trust: s.trust.Digest(),
		},
		Log: audit.ReceiptLog{Origin: at.Origin, Size: at.Size, Root: at.Root, Cosigned: at.Cosigned, Leaves: map[string]uint64{}},
	}
	for i, l := range s.leaves {
		if l.Kind == audit.Release {
			p.Log.Leaves["release"] = uint64(i)
		}
	}
	rounds, least := map[string][]uint64{}, math.MaxInt
	for _, x := range s.rounds {
		result := message[aggregate.Result](t, x.messages[len(x.messages)-1])
		round := audit.ReceiptRound{Number: s.plan(t, x).Round.Number, Outcome: string(result.Outcome), Plan: x.messages[0].Digest()}
		if i := x.index("certificate"); i >= 0 {
			d := audit.Digest(x.messages[i].Digest())
			round.Certificate = &d
			for _, c := range message[aggregate.Proposal](t, x.messages[x.index("proposal")]).Contributions {
				h := string(c.Upload.From)
				round.Set = append(round.Set, h)
				rounds[h] = append(rounds[h], round.Number)
			}
			least = min(least, len(round.Set))
		}
		if result.Outcome == aggregate.Closed {
			d := audit.Digest(result.Model)
			round.Model = &d
		}
		p.Rounds = append(p.Rounds, round)
	}
	p.HiddenAmong = least - s.terms.Colluding
	for _, h := range slices.Sorted(maps.Keys(rounds)) {
		x := audit.ReceiptHospital{
			Name: h, Evidence: signed.Digest(files["evidence/"+h+".cbor"]), Status: "warning",
			Trust: s.trust.Digest(), Rounds: rounds[h],
		}
		if p, ok := s.policies[h]; ok {
			x.Policy = p
		} else {
			x.Policy = s.policy(t, attest.RoleNode)
		}
		if a, ok := files["approvals/"+h+".json"]; ok {
			x.Approval = signed.Digest(a)
		}
		p.Hospitals = append(p.Hospitals, x)
	}
	p.Privacy = s.privacy(t, s.charges)
	r.Predicate = p
	return r
}

func (s *story) privacy(t testing.TB, charges uint64) audit.ReceiptPrivacy {
	t.Helper()
	f, err := s.terms.Figures(charges)
	if err != nil {
		t.Fatal(err)
	}
	w := s.study.Privacy
	p := audit.ReceiptPrivacy{
		Unit: w.Unit, Neighbours: w.Neighbours, Epsilon: f.Epsilon, EpsilonBudget: w.Epsilon, EpsilonIfTEEBroken: f.EpsilonIfBroken,
		EpsilonOwnNoise: f.EpsilonOwnNoise, Delta: w.Delta, Noise: w.Noise, HonestShares: f.HonestShares, Ledger: s.head,
	}
	for _, e := range f.Events {
		p.Events = append(p.Events, audit.ReceiptEvent{Kind: e.Kind, Multiplier: e.Multiplier, Count: e.Count})
	}
	return p
}
