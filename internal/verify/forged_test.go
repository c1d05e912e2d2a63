package verify

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/attest/simtee"
	"github.com/consilium-fl/consilium/audit"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/study"
)

// sign signs a message of a round again; from is empty for the coordinator.
func sign(t testing.TB, from string, m aggregate.Message) aggregate.Signed {
	t.Helper()
	k := key("protocol")
	if from != "" {
		k = key("node " + from)
	}
	s, err := aggregate.SignMessage(aggregate.MemberID(from), m, k)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// relog puts another object into the leaves of a kind and round.
func (s *story) relog(kind audit.Kind, round uint64, object [32]byte) {
	for i, l := range s.leaves {
		if l.Kind == kind && l.Round == round && l.Subject == coordinatorSubject {
			s.leaves[i].Object = object
		}
	}
}

// certify replaces the certificate of a round, and makes its result and the log follow.
func (s *story) certify(t testing.TB, number uint64, change func(c *aggregate.Certificate)) {
	t.Helper()
	r := s.rounds[number-1]
	i := r.index("certificate")
	c := message[aggregate.Certificate](t, r.messages[i])
	change(&c)
	r.messages[i] = sign(t, "", c)
	s.relog(audit.Set, number, r.messages[i].Digest())
	s.conclude(t, number, func(x *aggregate.Result) { x.Certificate = r.messages[i].Digest() })
}

// propose5 replaces the proposal of the fifth round, and has everybody vote for it.
func (s *story) propose5(t testing.TB, change func(p *aggregate.Proposal)) {
	t.Helper()
	r := s.rounds[4]
	i := r.index("proposal")
	p := message[aggregate.Proposal](t, r.messages[i])
	change(&p)
	r.messages[i] = sign(t, "", p)
	s.certify(t, 5, func(c *aggregate.Certificate) {
		c.Proposal = r.messages[i].Digest()
		for j, v := range c.Votes {
			c.Votes[j] = sign(t, string(v.From), aggregate.Vote{Proposal: c.Proposal})
		}
	})
}

// conclude replaces the result of a round, and makes the log follow.
func (s *story) conclude(t testing.TB, number uint64, change func(r *aggregate.Result)) {
	t.Helper()
	r := s.rounds[number-1]
	last := len(r.messages) - 1
	x := message[aggregate.Result](t, r.messages[last])
	change(&x)
	r.messages[last] = sign(t, "", x)
	s.relog(audit.Result, number, r.messages[last].Digest())
}

// silence makes a leaf say something else, at its place, so that no index moves.
func (s *story) silence(t testing.TB, kind audit.Kind, round uint64, subject string) {
	t.Helper()
	for i, l := range s.leaves {
		if l.Kind == kind && l.Round == round && l.Subject == subject {
			s.leaves[i] = audit.Leaf{Kind: audit.Boot, Time: l.Time, Study: l.Study, Subject: subject, Object: l.Object}
			return
		}
	}
	t.Fatalf("no leaf %q of round %d by %q", kind, round, subject)
}

// evidence replaces a record, and its leaf.
func (s *story) evidence(t testing.TB, who string, record []byte, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	name := "evidence/" + who + ".cbor"
	for i, l := range s.leaves {
		if l.Kind == audit.Admission && l.Subject == who {
			s.leaves[i].Object = signed.Digest(record)
		}
	}
	s.files[name] = record
}

// TestForgedFolders: whoever holds the receipt key, the log key and, for most of these, everybody's witness too,
// signs a folder again that says something else. Each is refused for its own reason.
func TestForgedFolders(t *testing.T) {
	for _, c := range []struct {
		name           string
		forge          func(t *testing.T, s *story)
		object, reason string
	}{
		{"a set with too few votes", func(t *testing.T, s *story) {
			s.certify(t, 5, func(c *aggregate.Certificate) { c.Votes = c.Votes[:2] })
		}, "rounds/0005/certificate.cbor", "certificate of 2 votes, want at least 3"},
		{"a vote of somebody who is no member", func(t *testing.T, s *story) {
			s.certify(t, 5, func(c *aggregate.Certificate) {
				vote, err := aggregate.SignMessage("basel", message[aggregate.Vote](t, c.Votes[0]), key("node basel"))
				if err != nil {
					t.Fatal(err)
				}
				c.Votes = append([]aggregate.Signed{vote}, c.Votes[1:]...)
			})
		}, "rounds/0005/certificate.cbor", "vote from \"basel\", who is not in the committee"},
		{"one member's vote under two names", func(t *testing.T, s *story) {
			s.certify(t, 5, func(c *aggregate.Certificate) {
				twice := c.Votes[0]
				twice.From = c.Votes[1].From
				c.Votes[1] = twice
			})
		}, "rounds/0005/certificate.cbor", "signature does not verify"},
		{"votes for another set", func(t *testing.T, s *story) {
			r := s.rounds[4]
			i := r.index("proposal")
			p := message[aggregate.Proposal](t, r.messages[i])
			p.Contributions = p.Contributions[:3]
			r.messages[i] = sign(t, "", p)
			s.certify(t, 5, func(c *aggregate.Certificate) { c.Proposal = r.messages[i].Digest() })
		}, "rounds/0005/certificate.cbor", "is for another proposal"},
		{"a certificate of another round", func(t *testing.T, s *story) {
			r := s.rounds[4]
			other := s.rounds[0]
			r.messages[r.index("certificate")] = other.messages[other.index("certificate")]
			s.relog(audit.Set, 5, r.digest("certificate"))
			s.conclude(t, 5, func(x *aggregate.Result) { x.Certificate = r.digest("certificate") })
		}, "rounds/0005/certificate.cbor", "is for another proposal"},
		{"a plan with less noise", func(t *testing.T, s *story) {
			r := s.rounds[2] // aborted: nothing answers its plan but the result
			p := message[aggregate.Plan](t, r.messages[0])
			p.Noise.Bound--
			r.messages[0] = sign(t, "", p)
			s.relog(audit.Plan, 3, r.messages[0].Digest())
			s.conclude(t, 3, func(x *aggregate.Result) { x.Plan = r.messages[0].Digest() })
		}, "rounds/0003/plan.cbor", "differs from what the study says"},
		{"a burnt round that closes", func(t *testing.T, s *story) {
			s.rounds[3].sum = make([]int64, s.study.Dim())
			s.rounds[3].sum[0] = 1000
			w := s.study.Next(s.iterates[1], s.rounds[3].sum)
			s.conclude(t, 4, func(x *aggregate.Result) {
				x.Outcome, x.Why, x.Sum = aggregate.Closed, "", aggregate.SumDigest(s.rounds[3].sum)
				x.Model = signed.Digest(study.EncodeModel(s.study.Digest, w))
			})
		}, "rounds/0005/plan.cbor", "trains on model"},

		{"too few co-signatures", func(_ *testing.T, s *story) { s.cosigners = members[:2] }, checkpointFile, "is co-signed by 2 of 4 members (cleveland, hungarian), want 3"},
		{"a co-signature of a stranger", func(_ *testing.T, s *story) {
			s.cosigners = append(s.cosigners, "basel")
			s.claim = func(r *audit.Receipt) { r.Predicate.Log.Cosigned = members }
		}, checkpointFile, "1 signature of keys that are no member's witness"},
		{"a log signed by another key", func(_ *testing.T, s *story) { s.logKey = "another log" }, checkpointFile, "no verifiable signatures"},

		{"a round that a hospital was not charged for", func(t *testing.T, s *story) {
			s.silence(t, audit.Charge, 5, "va")
		}, "rounds/0005/proposal.cbor", "the charge of \"va\" for round 5 is not in the log"},
		{"a round that the coordinator was not charged for", func(t *testing.T, s *story) {
			s.silence(t, audit.Charge, 5, coordinatorSubject)
		}, "rounds/0005/proposal.cbor", "has no leaf of kind \"charge\""},
		{"a charge after the set", func(_ *testing.T, s *story) {
			var charge, set int
			for i, l := range s.leaves {
				if l.Round == 5 && l.Kind == audit.Charge && l.Subject == coordinatorSubject {
					charge = i
				} else if l.Round == 5 && l.Kind == audit.Set {
					set = i
				}
			}
			s.leaves[charge], s.leaves[set] = s.leaves[set], s.leaves[charge]
		}, "rounds/0005/certificate.cbor", "want it after leaf"},
		{"a second charge of one round", func(_ *testing.T, s *story) {
			s.append(audit.Charge, 5, "va", sha256.Sum256([]byte("again")))
		}, "log: leaf 44", "is a second charge of \"va\" for round 5"},
		{"a round that is left out", func(_ *testing.T, s *story) {
			s.rounds = slices.Delete(s.rounds, 3, 4)
		}, "", "is the set of round 4, which rounds/ does not hold"},
		{"a second plan of a round", func(_ *testing.T, s *story) {
			s.append(audit.Plan, 5, coordinatorSubject, sha256.Sum256([]byte("another plan")))
		}, "log: leaf 44", "is a second plan of round 5"},
		{"a ledger that forgot a round", func(t *testing.T, s *story) {
			s.claim = func(r *audit.Receipt) { r.Predicate.Privacy.Ledger = s.plan(t, s.rounds[4]).Ledger }
		}, receiptFile, "privacy.ledger is"},

		{"another model", func(_ *testing.T, s *story) {
			w := slices.Clone(s.iterates[2])
			w[0]++
			s.model = study.EncodeModel(s.study.Digest, w)
			s.leaves[len(s.leaves)-1].Object = signed.Digest(s.model)
		}, modelFile, "and the mean of the last 2 of 3 models is"},
		{"a round's other model", func(t *testing.T, s *story) {
			s.conclude(t, 5, func(x *aggregate.Result) { x.Model = sha256.Sum256([]byte("another")) })
		}, "rounds/0005/result.cbor", "and the opened sum makes"},
		{"another sum", func(_ *testing.T, s *story) { s.rounds[4].sum[3]++ }, "rounds/0005/sum.bin", "the result says"},
		{"a sum outside its bound", func(t *testing.T, s *story) {
			s.rounds[4].sum[3] = 1 << 40
			s.conclude(t, 5, func(x *aggregate.Result) { x.Sum = aggregate.SumDigest(s.rounds[4].sum) })
		}, "rounds/0005/sum.bin", "word 3 is 1099511627776, want at most"},
		{"a second release", func(_ *testing.T, s *story) {
			s.leaves = slices.Insert(s.leaves, len(s.leaves)-1, audit.Leaf{Kind: audit.Release, Time: s.start, Study: s.study.Digest, Subject: coordinatorSubject, Object: sha256.Sum256([]byte("another"))})
		}, "log: leaf 43", "releases another model"},
		{"no release in the log", func(t *testing.T, s *story) {
			s.silence(t, audit.Release, 0, coordinatorSubject)
		}, modelFile, "has no leaf of kind \"release\""},

		{"an understated epsilon", func(_ *testing.T, s *story) {
			s.claim = func(r *audit.Receipt) { r.Predicate.Privacy.Epsilon /= 2 }
		}, receiptFile, "privacy is"},
		{"an understated epsilon of a broken TEE", func(_ *testing.T, s *story) {
			s.claim = func(r *audit.Receipt) {
				less := *r.Predicate.Privacy.EpsilonIfTEEBroken / 2
				r.Predicate.Privacy.EpsilonIfTEEBroken = &less
			}
		}, receiptFile, "privacy is"},
		{"fewer rounds than were charged", func(_ *testing.T, s *story) { s.charges-- }, receiptFile, "privacy.events counts 3 rounds, the coordinator charged 4 in the log"},
		{"more noise than was added", func(_ *testing.T, s *story) {
			s.claim = func(r *audit.Receipt) { r.Predicate.Privacy.Events[0].Multiplier *= 2 }
		}, receiptFile, "privacy is"},

		{"an approval removed", func(_ *testing.T, s *story) { delete(s.files, "approvals/va.json") }, "approvals", "\"va\" was in the set of round 1 without an approval"},
		{"too few approvals", func(_ *testing.T, s *story) {
			delete(s.files, "approvals/va.json")
			delete(s.files, "approvals/switzerland.json")
		}, "approvals", "too few approvals: got 2, want 3"},
		{"an approval of another study", func(t *testing.T, s *story) {
			s.approve(t, func(a *study.Approval) { a.Study = sha256.Sum256(nil) }, "governance va")
		}, "approvals/va.json", "approves study"},
		{"an approval that somebody else signed", func(t *testing.T, s *story) {
			s.approve(t, func(*study.Approval) {}, "governance cleveland")
		}, "approvals/va.json", "by \"va\""},
		{"an approval that had ended", func(t *testing.T, s *story) {
			s.approve(t, func(a *study.Approval) { a.Until = s.start.Add(-time.Hour) }, "governance va")
		}, "approvals/va.json", "ended before round 5"},
		{"an approval that is not in the log", func(t *testing.T, s *story) {
			s.silence(t, audit.Approval, 0, "va")
		}, "approvals/va.json", "has no leaf in the log"},

		{"a member's evidence swapped", func(t *testing.T, s *story) {
			s.evidence(t, "va", s.files["evidence/cleveland.cbor"], nil)
			s.evidence(t, "cleveland", theStory(t).files["evidence/va.cbor"], nil)
		}, "evidence/va.cbor", "is bound to another node key"},
		{"evidence that another root signed", func(t *testing.T, s *story) {
			root, err := simtee.NewRoot()
			if err != nil {
				t.Fatal(err)
			}
			right := s.root
			s.root = root
			r, err := s.record(attest.RoleNode, "node va", "", "witness va")
			s.root = right
			s.evidence(t, "va", r, err)
		}, "evidence/va.cbor", simtee.CodeSignature},
		{"another code", func(t *testing.T, s *story) {
			r, err := s.record(attest.RoleCoordinator, "node va", "", "witness va")
			s.evidence(t, "va", r, err)
		}, "evidence/va.cbor", attest.CodeMeasurementUnlisted},
		{"another witness", func(t *testing.T, s *story) {
			r, err := s.record(attest.RoleNode, "node va", "", "witness cleveland")
			s.evidence(t, "va", r, err)
		}, "evidence/va.cbor", "binds another witness key"},
		{"evidence of another study", func(t *testing.T, s *story) {
			x := *s.study
			x.Digest = sha256.Sum256([]byte("another"))
			right := s.study
			s.study = &x
			r, err := s.record(attest.RoleNode, "node va", "", "witness va")
			s.study = right
			s.evidence(t, "va", r, err)
		}, "evidence/va.cbor", "is bound to study"},
		{"a coordinator's evidence of another study", func(t *testing.T, s *story) {
			x := *s.study
			x.Digest = sha256.Sum256([]byte("another"))
			right := s.study
			s.study = &x
			r, err := s.record(attest.RoleCoordinator, "tls", "log", "protocol", "receipt", "issuer")
			s.study = right
			s.evidence(t, coordinatorSubject, r, err)
		}, "evidence/coordinator.cbor", "is bound to study"},
		{"evidence that the log never admitted", func(t *testing.T, s *story) {
			s.silence(t, audit.Admission, 0, "va")
		}, "evidence/va.cbor", "no leaf that admits \"va\""},
		{"evidence from after the rounds", func(t *testing.T, s *story) {
			s.silence(t, audit.Admission, 0, "va")
			s.append(audit.Admission, 0, "va", signed.Digest(s.files["evidence/va.cbor"]))
		}, "evidence/va.cbor", "after the last charge of \"va\""},
		{"no evidence of a member", func(_ *testing.T, s *story) {
			delete(s.files, "evidence/va.cbor")
			s.claim = func(r *audit.Receipt) {
				for i, h := range r.Predicate.Hospitals {
					if h.Name == "va" {
						r.Predicate.Hospitals[i].Evidence = audit.Digest{}
					}
				}
			}
		}, receiptFile, "names no evidence of \"va\""},
		{"a coordinator that the pinned log key does not know", func(t *testing.T, s *story) {
			r, err := s.record(attest.RoleCoordinator, "tls", "another log", "protocol", "receipt", "issuer")
			s.evidence(t, coordinatorSubject, r, err)
		}, "evidence/coordinator.cbor", attest.CodeLogSignature},
		{"a receipt key that the evidence does not bind", func(t *testing.T, s *story) {
			r, err := s.record(attest.RoleCoordinator, "tls", "log", "protocol", "another receipt", "issuer")
			s.evidence(t, coordinatorSubject, r, err)
		}, receiptFile, "signature does not verify"},
		{"a protocol key that the evidence does not bind", func(t *testing.T, s *story) {
			r, err := s.record(attest.RoleCoordinator, "tls", "log", "another protocol", "receipt", "issuer")
			s.evidence(t, coordinatorSubject, r, err)
		}, "rounds/0001/plan.cbor", "signature does not verify"},
		{"a file more in a trust snapshot", func(_ *testing.T, s *story) { s.files[s.trustFile("more.pem")] = []byte("more") }, "", "has digest sha256:"},
		{"a trust snapshot for nobody", func(_ *testing.T, s *story) { s.files["trust/more.pem"] = []byte("more") }, "trust/more.pem", "no snapshot that the receipt names"},
		{"a trust snapshot that is not there", func(_ *testing.T, s *story) {
			s.claim = func(r *audit.Receipt) { r.Predicate.Hospitals[3].Trust = audit.Digest{1} }
		}, receiptFile, "names trust snapshot"},
		{"a swapped trust snapshot", func(t *testing.T, s *story) {
			root, err := simtee.NewRoot()
			if err != nil {
				t.Fatal(err)
			}
			files := map[string][]byte{simtee.AnchorFile: simtee.MarshalAnchor(&root.PublicKey)}
			other, err := endorse.New(files)
			if err != nil {
				t.Fatal(err)
			}
			s.files[fmt.Sprintf("trust/%x/%s", other.Digest(), simtee.AnchorFile)] = files[simtee.AnchorFile]
			s.claim = func(r *audit.Receipt) { r.Predicate.Hospitals[3].Trust = other.Digest() }
		}, "evidence/va.cbor", "sig"},
		{"a policy that the consortium does not state", func(_ *testing.T, s *story) {
			s.claim = func(r *audit.Receipt) { r.Predicate.Hospitals[3].Policy = audit.Digest{1} }
		}, receiptFile, "for va, which is not what held at"},
		{"the coordinator's policy for a node", func(_ *testing.T, s *story) {
			s.claim = func(r *audit.Receipt) { r.Predicate.Hospitals[3].Policy = r.Predicate.Coordinator.Policy }
		}, receiptFile, "for va, which is not what held at"},
		{"a manifest of too few amenders", func(t *testing.T, s *story) {
			s.files["references/nodes-1.json"] = s.manifest(t, 1, 1, s.start, members[:2]...)
		}, "references/nodes-1.json", "signed by 2 amenders, want 3"},

		{"an enrolment that somebody else signed", func(t *testing.T, s *story) {
			s.enrol(t, func(*study.Enrolment) {}, "governance cleveland")
		}, "enrolments/va.json", "of hospital \"va\""},
		{"a minted node", func(t *testing.T, s *story) {
			s.enrol(t, func(e *study.Enrolment) { e.NodeKey = public("node basel") }, "governance va")
		}, "rounds/0001/committee.cbor", "by an enrolment of serial 1 that is not va.json"},

		{"a consortium that is another file than the pinned", func(_ *testing.T, s *story) {
			s.files[consortiumFile] = append(slices.Clone(s.files[consortiumFile]), '\n')
		}, consortiumFile, "want the pinned"},
		{"signatures over another file", func(_ *testing.T, s *story) {
			s.files[signaturesFile] = s.files["approvals/va.json"]
		}, signaturesFile, "payload type"},
		{"a study that the consortium did not sign for", func(t *testing.T, s *story) {
			sigs, err := s.consortium.Sign(nil, key("governance va"))
			if err != nil {
				t.Fatal(err)
			}
			s.files[signaturesFile] = sigs
		}, signaturesFile, "not signed by basel, cleveland, hungarian, switzerland"},
		{"an enrolment of a hospital that is no member", func(t *testing.T, s *story) {
			s.files["enrolments/basel.json"] = s.enrolled(t, func(e *study.Enrolment) { e.Hospital = "basel" }, "governance basel")
		}, "enrolments/basel.json", "is of \"basel\", who is not a member"},
		{"a second enrolment", func(_ *testing.T, s *story) {
			s.files["enrolments/va2.json"] = s.files["enrolments/va.json"]
		}, "enrolments/va2.json", "is a second enrolment of \"va\""},
		{"no enrolment of a hospital that took part", func(_ *testing.T, s *story) {
			delete(s.files, "enrolments/va.json")
			s.cosigners = members[:3]
		}, "rounds/0001/committee.cbor", "enrolments/ has no file of it"},
		{"an approval of a hospital that is no member", func(t *testing.T, s *story) {
			s.approve(t, func(a *study.Approval) { a.Hospital = "basel" }, "governance basel")
		}, "approvals/va.json", "is by \"basel\", who is not a member"},
		{"an approval for other data", func(t *testing.T, s *story) {
			s.approve(t, func(a *study.Approval) { a.Dataset = "surgery" }, "governance va")
		}, "approvals/va.json", "is for registry \"surgery\""},
		{"a second approval", func(_ *testing.T, s *story) {
			s.files["approvals/va2.json"] = s.files["approvals/va.json"]
		}, "approvals/va2.json", "is a second approval by \"va\""},
		{"a study of another consortium", func(t *testing.T, s *story) {
			s.rewrite(t, "consortium", signed.DigestText(sha256.Sum256(nil)))
		}, studyFile, "names consortium"},
		{"a study led by nobody known", func(t *testing.T, s *story) { s.rewrite(t, "lead", "x.lead") }, studyFile, "lead"},
		{"a study that cannot be read", func(t *testing.T, s *story) { s.rewrite(t, "privacy.epsilon", "-1") }, studyFile, "privacy.epsilon"},
		{"a study whose sums wrap", func(t *testing.T, s *story) { s.rewrite(t, "privacy.grid_bits", "19") }, studyFile, "do not wrap"},
		{"a log with a file too many", func(_ *testing.T, s *story) {
			s.files["log/tile/1/000"] = nil
		}, "log/tile/1/000", "is no part of a log of 44 leaves"},
		{"a checkpoint of a log of another study", func(t *testing.T, s *story) {
			s.before = func(files map[string][]byte) {
				note, err := audit.SignCheckpoint(audit.Checkpoint{Origin: audit.Origin(s.consortium.Name, [32]byte{1}), Size: 1}, key("log"))
				if err != nil {
					t.Fatal(err)
				}
				files[checkpointFile] = note
			}
		}, checkpointFile, "verifiable"},
		{"a log that does not give its root", func(_ *testing.T, s *story) {
			s.before = func(files map[string][]byte) {
				for name, b := range files {
					if strings.HasPrefix(name, "log/tile/0") {
						files[name] = slices.Concat([]byte{b[0] ^ 1}, b[1:])
					}
				}
			}
		}, "log", "does not hold the hashes"},
		{"a charge of a stranger", func(_ *testing.T, s *story) {
			s.append(audit.Charge, 5, "basel", sha256.Sum256(nil))
		}, "log: leaf 44", "is a charge of \"basel\", who is not a member"},
		{"a charge without a plan", func(_ *testing.T, s *story) {
			s.append(audit.Charge, 9, "va", sha256.Sum256(nil))
		}, "log: leaf 44", "for round 9 before its plan"},
		{"a round without its set in the log", func(t *testing.T, s *story) {
			s.silence(t, audit.Set, 5, coordinatorSubject)
		}, "rounds/0005/certificate.cbor", "has no leaf of kind \"set\""},
		{"a round without its result in the log", func(t *testing.T, s *story) {
			s.silence(t, audit.Result, 5, coordinatorSubject)
		}, "rounds/0005/result.cbor", "has no leaf of kind \"result\""},
		{"a round without its plan in the log", func(t *testing.T, s *story) {
			s.silence(t, audit.Plan, 5, coordinatorSubject)
		}, "rounds/0005/plan.cbor", "has no leaf of kind \"plan\""},
		{"a release before the last round", func(_ *testing.T, s *story) {
			last := len(s.leaves) - 1
			s.leaves[last-1], s.leaves[last] = s.leaves[last], s.leaves[last-1]
		}, modelFile, "before the last round ended"},
		{"a round twice", func(_ *testing.T, s *story) {
			s.before = func(files map[string][]byte) {
				for _, kind := range chain {
					if b, ok := files["rounds/0005/"+kind+".cbor"]; ok {
						files["rounds/5/"+kind+".cbor"] = b
					}
				}
			}
		}, "rounds/5", "is not named as round 5 is"},
		{"a round under another number", func(_ *testing.T, s *story) {
			s.before = func(files map[string][]byte) {
				for name, b := range maps.Clone(files) {
					if rest, ok := strings.CutPrefix(name, "rounds/0005/"); ok {
						files["rounds/0006/"+rest] = b
						delete(files, name)
					}
				}
			}
		}, "rounds/0006/plan.cbor", "has no leaf of kind \"plan\""},
		{"a file that no round has", func(_ *testing.T, s *story) {
			s.files["rounds/0005/notes.txt"] = []byte("x")
		}, "rounds/0005/notes.txt", "is no file of a round"},
		{"evidence of nobody", func(t *testing.T, s *story) {
			r, err := s.record(attest.RoleNode, "node va", "", "witness va")
			if err != nil {
				t.Fatal(err)
			}
			s.files["evidence/more.cbor"] = r
		}, "evidence/more.cbor", "for nobody"},
		{"one evidence for two", func(_ *testing.T, s *story) {
			s.claim = func(r *audit.Receipt) { r.Predicate.Hospitals[0].Evidence = r.Predicate.Hospitals[1].Evidence }
		}, "evidence/hungarian.cbor", "for another too"},
		{"evidence that is not there", func(_ *testing.T, s *story) {
			s.claim = func(r *audit.Receipt) { r.Predicate.Hospitals[0].Evidence = audit.Digest{1} }
		}, receiptFile, "which is not in evidence/"},
		{"evidence that is none", func(t *testing.T, s *story) { s.evidence(t, "va", []byte("none"), nil) }, "evidence/va.cbor", "parsing record"},
		{"a trust folder that is none", func(_ *testing.T, s *story) { s.files[s.trustFile("sub/x.pem")] = nil }, "", "want a plain name"},
		{"an event too many", func(_ *testing.T, s *story) {
			s.claim = func(r *audit.Receipt) {
				r.Predicate.Privacy.Events = append(r.Predicate.Privacy.Events, r.Predicate.Privacy.Events[0])
			}
		}, receiptFile, "privacy.events has 2 entries"},
		{"more rounds than may be charged", func(_ *testing.T, s *story) {
			s.claim = func(r *audit.Receipt) { r.Predicate.Privacy.Events[0].Count = 7 }
		}, receiptFile, "counts 7 rounds, the study may charge 6"},
		{"a plan after another ledger", func(t *testing.T, s *story) {
			r := s.rounds[2]
			p := message[aggregate.Plan](t, r.messages[0])
			p.Ledger = sha256.Sum256(nil)
			r.messages[0] = sign(t, "", p)
			s.relog(audit.Plan, 3, r.messages[0].Digest())
			s.conclude(t, 3, func(x *aggregate.Result) { x.Plan = r.messages[0].Digest() })
		}, "rounds/0003/plan.cbor", "names ledger head"},
		{"no model", func(_ *testing.T, s *story) {
			s.before = func(files map[string][]byte) { delete(files, modelFile) }
		}, modelFile, "is missing"},
		{"a model of no round", func(_ *testing.T, s *story) {
			s.rounds = s.rounds[2:3]
		}, "rounds/0003/plan.cbor", "trains on model"},
		{"an approval too large to read", func(_ *testing.T, s *story) {
			s.files["approvals/big.json"] = make([]byte, maxSigned+1)
		}, "approvals/big.json", "want at most"},
		{"an enrolment too large to read", func(_ *testing.T, s *story) {
			s.files["enrolments/big.json"] = make([]byte, maxSigned+1)
		}, "enrolments/big.json", "want at most"},
		{"a promise of another place in the log", func(t *testing.T, s *story) {
			s.propose5(t, func(p *aggregate.Proposal) {
				m, _, err := audit.ParsePromised(p.Contributions[0].Promise, s.origin(), public("log"))
				if err == nil {
					m, err = audit.MakePromise(s.origin(), 3, m.Leaf, s.start, key("log"))
				}
				if err != nil {
					t.Fatal(err)
				}
				p.Contributions[0].Promise = m.Encode()
			})
		}, "rounds/0005/proposal.cbor", "promised the charge of \"cleveland\" at leaf 3, which is another"},
		{"a promise for another's charge", func(t *testing.T, s *story) {
			s.propose5(t, func(p *aggregate.Proposal) { p.Contributions[0].Promise = p.Contributions[1].Promise })
		}, "rounds/0005/proposal.cbor", "is not about its charge"},
		{"a promise that the log did not sign", func(t *testing.T, s *story) {
			s.propose5(t, func(p *aggregate.Proposal) {
				p.Contributions[0].Promise = slices.Clone(p.Contributions[0].Promise)
				p.Contributions[0].Promise[len(p.Contributions[0].Promise)-1] ^= 1
			})
		}, "rounds/0005/proposal.cbor", "the promise for \"cleveland\""},
		{"a co-signature of another checkpoint", func(t *testing.T, s *story) {
			s.before = func(files map[string][]byte) {
				other := slices.Concat([]byte("x"), files[checkpointFile])
				at := bytes.LastIndex(files[checkpointFile], []byte("\u2014"))
				files[checkpointFile] = slices.Concat(files[checkpointFile][:at], s.cosign(t, other, "va"))
			}
		}, checkpointFile, "invalid signature"},
		{"a study that nobody submitted", func(t *testing.T, s *story) {
			s.silence(t, audit.Study, 0, s.study.Lead)
		}, "log", "submitted the study"},

		{"not simulated", func(_ *testing.T, s *story) {
			s.claim = func(r *audit.Receipt) { r.Predicate.Simulated = false }
		}, receiptFile, "simulated is false"},
		{"hidden among more", func(_ *testing.T, s *story) {
			s.claim = func(r *audit.Receipt) { r.Predicate.HiddenAmong++ }
		}, receiptFile, "hidden_among is 3"},
		{"a hospital in another round", func(_ *testing.T, s *story) {
			s.claim = func(r *audit.Receipt) { r.Predicate.Hospitals[0].Rounds = []uint64{1} }
		}, receiptFile, "what it says of cleveland is"},
		{"a hospital less", func(_ *testing.T, s *story) {
			s.claim = func(r *audit.Receipt) { r.Predicate.Hospitals = r.Predicate.Hospitals[1:] }
		}, receiptFile, "the list of hospitals is"},
		{"a better status", func(_ *testing.T, s *story) {
			s.claim = func(r *audit.Receipt) { r.Predicate.Coordinator.Status = string(attest.Affirming) }
		}, receiptFile, "coordinator is"},
		{"another root of the log", func(_ *testing.T, s *story) {
			s.claim = func(r *audit.Receipt) { r.Predicate.Log.Root[0] ^= 1 }
		}, receiptFile, "log is"},
		{"another leaf of the release", func(_ *testing.T, s *story) {
			s.claim = func(r *audit.Receipt) { r.Predicate.Log.Leaves["release"]-- }
		}, receiptFile, "log.leaves says"},
		{"a round without its set", func(_ *testing.T, s *story) {
			s.claim = func(r *audit.Receipt) { r.Predicate.Rounds[4].Set = []string{"va"} }
		}, receiptFile, "rounds[4] is"},
		{"a round fewer", func(_ *testing.T, s *story) {
			s.claim = func(r *audit.Receipt) { r.Predicate.Rounds = r.Predicate.Rounds[:4] }
		}, "rounds/0005", "is not in the receipt's rounds"},
		{"a round too many", func(_ *testing.T, s *story) {
			s.claim = func(r *audit.Receipt) {
				r.Predicate.Rounds = append(r.Predicate.Rounds, audit.ReceiptRound{Number: 6, Outcome: "aborted"})
			}
		}, receiptFile, "rounds[5] is round 6, which rounds/ does not hold"},
		{"a release leaf that is not named", func(_ *testing.T, s *story) {
			s.claim = func(r *audit.Receipt) { r.Predicate.Log.Leaves = nil }
		}, receiptFile, "names no release leaf"},
		{"a file under another digest", func(_ *testing.T, s *story) {
			s.claim = func(r *audit.Receipt) { r.Subject[0].Digest.SHA256[0] ^= 1 }
		}, "", "the receipt says"},
		{"approvals that came after the first round", func(t *testing.T, s *story) {
			for _, h := range []string{"va", "switzerland"} {
				s.silence(t, audit.Approval, 0, h)
				s.append(audit.Approval, 0, h, signed.Digest(s.files["approvals/"+h+".json"]))
			}
		}, "log", "2 members had approved when the first round began, want 3"},
		{"a leaf that is dated back", func(_ *testing.T, s *story) {
			s.leaves[30].Time = s.start.Add(-2 * time.Hour)
		}, "log: leaf 30", "and a leaf before it of"},
		{"a view that is listed", func(_ *testing.T, s *story) {
			s.claim = func(r *audit.Receipt) { r.Subject = append(r.Subject, audit.Subject{Name: "report.html"}) }
		}, receiptFile, "lists report.html"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := theStory(t)
			c.forge(t, s)
			refused(t, verified(t, s.write(t), Options{Consortium: &s.consortium.Digest}), c.object, c.reason)
		})
	}
}

// approve replaces the approval of one hospital, and its leaf.
func (s *story) approve(t testing.TB, change func(a *study.Approval), signer string) {
	t.Helper()
	a, err := s.consortium.ParseApproval(s.files["approvals/va.json"])
	if err != nil {
		t.Fatal(err)
	}
	change(&a)
	b, err := a.Sign(key(signer))
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range s.leaves {
		if l.Kind == audit.Approval && l.Subject == "va" {
			s.leaves[i].Object = signed.Digest(b)
		}
	}
	s.files["approvals/va.json"] = b
}

// rewrite changes a field of study.yaml, which is then another study.
func (s *story) rewrite(t testing.TB, field, value string) {
	t.Helper()
	raw, err := study.Override(s.files[studyFile], field, value)
	if err != nil {
		t.Fatal(err)
	}
	s.files[studyFile] = raw
}

func (s *story) enrol(t testing.TB, change func(e *study.Enrolment), signer string) {
	t.Helper()
	s.files["enrolments/va.json"] = s.enrolled(t, change, signer)
}

func (s *story) enrolled(t testing.TB, change func(e *study.Enrolment), signer string) []byte {
	t.Helper()
	e, err := s.consortium.ParseEnrolment(s.files["enrolments/va.json"], s.start)
	if err != nil {
		t.Fatal(err)
	}
	change(&e)
	b, err := e.Sign(key(signer))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestOverstated: a charge that the coordinator's ledger has and no round shows makes ε larger, which is no
// fault of the folder, and is said.
func TestOverstated(t *testing.T) {
	s := theStory(t)
	s.charges++
	r := verified(t, s.write(t), Options{})
	if !r.OK {
		t.Fatalf("refused:\n%s", r)
	}
	texts := map[string]string{}
	for _, l := range r.Lines {
		texts[l.Name] = l.Text
	}
	want := "1 of these rounds have no charge in the log"
	if text := texts["privacy"]; !strings.Contains(text, want) {
		t.Errorf("got %q, want %q", text, want)
	}
}

// TestEndedShort: when too few are left to co-sign, the checkpoint that counts covers neither the release nor the
// end of the last round. The folder is of the rounds before, and says so.
func TestEndedShort(t *testing.T) {
	s := theStory(t)
	var set int
	for i, l := range s.leaves {
		if l.Kind == audit.Set && l.Round == 5 {
			set = i
		}
	}
	s.leaves, s.rounds = s.leaves[:set+1], s.rounds[:4]
	s.model = study.EncodeModel(s.study.Digest, s.study.Released(s.iterates[:2]))
	r := verified(t, s.write(t), Options{})
	text := r.String()
	for _, want := range []string{"round 5 was certified, and its end is in no checkpoint that counts", "its release is in no checkpoint that counts", "the study ended short"} {
		if !r.OK || !strings.Contains(text, want) {
			t.Errorf("ok %v, want %q:\n%s", r.OK, want, text)
		}
	}
}

// TestLogsAgain: a coordinator that restarted may log a leaf again; the first counts.
func TestLogsAgain(t *testing.T) {
	s := theStory(t)
	for _, l := range slices.Clone(s.leaves) {
		if l.Round == 5 || l.Kind == audit.Release {
			s.append(l.Kind, l.Round, l.Subject, l.Object)
		}
	}
	if r := verified(t, s.write(t), Options{}); !r.OK {
		t.Errorf("refused:\n%s", r)
	}
}

// TestAFlippedByteThatIsListed: the same flips as without the receipt key, and the receipt signed again over
// them. Each file has a second check behind its digest.
func TestAFlippedByteThatIsListed(t *testing.T) {
	s := theStory(t)
	for name, good := range s.build(t) {
		if name == receiptFile || slices.Contains(views, name) {
			continue
		}
		for _, at := range []int{len(good) / 3, len(good) - 1} {
			bad := slices.Clone(good)
			bad[at] ^= 1 << (at % 8)
			if name == "evidence/coordinator.cbor" && at != len(good)-1 {
				continue // it may hold the key that the receipt is then not signed by
			}
			s.before = func(files map[string][]byte) { files[name] = bad }
			r := verified(t, s.write(t), Options{Consortium: &s.consortium.Digest})
			if r.OK {
				t.Errorf("%s at %d: it passed", name, at)
			}
		}
	}
}

// FuzzMessage: whatever is taken as a message has that one form.
func FuzzMessage(f *testing.F) {
	s, err := tell()
	if err != nil {
		f.Fatal(err)
	}
	for _, r := range s.rounds {
		for _, m := range r.messages {
			b, err := signed.Encode(m)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(m.Kind, b)
		}
	}
	f.Fuzz(func(t *testing.T, kind string, b []byte) {
		m, err := parseMessage(b, kind)
		if err != nil {
			return
		}
		if again, err := signed.Encode(m); err != nil || !slices.Equal(again, b) || m.Kind != kind {
			t.Errorf("taken as %q: %x, whose form is %x (%v)", m.Kind, b, again, err)
		}
	})
}

// FuzzSum: whatever is taken as a sum has those words, each within the bound.
func FuzzSum(f *testing.F) {
	f.Add(binary.LittleEndian.AppendUint64(nil, 7), uint64(7))
	f.Add(binary.LittleEndian.AppendUint64(nil, 1<<63), uint64(1<<63))
	f.Fuzz(func(t *testing.T, b []byte, bound uint64) {
		sum, err := parseSum(b, len(b)/8, bound)
		if err != nil {
			return
		}
		var again []byte
		for _, v := range sum {
			if v < 0 && uint64(-v) > bound || v > 0 && uint64(v) > bound {
				t.Errorf("%d is taken under a bound of %d", v, bound)
			}
			again = binary.LittleEndian.AppendUint64(again, uint64(v))
		}
		if !slices.Equal(again, b) {
			t.Errorf("%x is taken as %x", b, again)
		}
	})
}
