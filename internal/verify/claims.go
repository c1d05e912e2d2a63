package verify

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"reflect"
	"slices"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/audit"
)

// checkFiles compares the folder with the receipt's subjects, both ways.
func (c *checker) checkFiles(s *section) {
	listed := map[string]bool{}
	for _, x := range c.receipt.Subject {
		listed[x.Name] = true
		f, ok := c.folder.files[x.Name]
		switch {
		case x.Name == receiptFile || slices.Contains(views, x.Name):
			s.fail(receiptFile, "lists %s, which no receipt can be about", x.Name)
		case !ok:
			s.fail(x.Name, "is missing")
		case audit.HexDigest(f.digest) != x.Digest.SHA256:
			s.fail(x.Name, "has digest %s, the receipt says %s", short(f.digest), short(x.Digest.SHA256))
		}
	}
	for _, p := range slices.Sorted(maps.Keys(c.folder.files)) {
		if p != receiptFile && !listed[p] {
			s.fail(p, "is not in the receipt")
		}
	}
	for _, odd := range c.folder.odd {
		s.fail(odd.Object, "%s", odd.Reason)
	}
	s.say("%s are as the receipt says, none is missing and none is more", count(len(listed), "file"))
}

// checkClaims derives what the receipt says from what was verified, field by field.
func (c *checker) checkClaims(s *section) {
	p := c.receipt.Predicate
	c.same(s, "study", p.Study, audit.Digest(c.study.Digest))
	c.same(s, "consortium", p.Consortium, audit.Digest(c.consortium.Digest))
	c.same(s, "simulated", p.Simulated, c.report.Simulated)
	c.claimCoordinator(s, p.Coordinator)
	c.claimHospitals(s, p.Hospitals)
	c.claimRounds(s, p)
	c.claimLog(s, p.Log)
	s.say("study, machines, hospitals, rounds and log are as the receipt says; every sum hides each hospital among %d", p.HiddenAmong)
}

// same compares one part of the statement with what it has to be.
func (c *checker) same(s *section, field string, got, want any) {
	if reflect.DeepEqual(got, want) {
		return
	}
	g, errG := json.Marshal(got)
	w, errW := json.Marshal(want)
	if errG != nil || errW != nil || string(g) != string(w) {
		s.fail(receiptFile, "%s is %.400s, and what was verified gives %.400s", field, g, w)
	}
}

func (c *checker) claimCoordinator(s *section, got audit.ReceiptCoordinator) {
	r, ok := c.machines[coordinatorSubject]
	if !ok {
		return // checkMachines has said why
	}
	c.same(s, "coordinator", got, audit.ReceiptCoordinator{
		Measurement: string(r.Claims.Measurement), Evidence: got.Evidence, Status: string(r.Status), Policy: audit.Digest(r.Policy), Trust: audit.Digest(r.Trust),
	})
}

// claimHospitals wants every hospital of a set in the receipt, with its approval and its machine: a hospital that
// did not approve does not train.
func (c *checker) claimHospitals(s *section, got []audit.ReceiptHospital) {
	rounds := map[string][]uint64{}
	for _, r := range c.rounds {
		for _, h := range r.set() {
			rounds[h] = append(rounds[h], r.number)
		}
	}
	var names []string
	for _, h := range got {
		names = append(names, h.Name)
	}
	c.same(s, "the list of hospitals", names, slices.Sorted(maps.Keys(rounds)))
	for _, h := range slices.Sorted(maps.Keys(rounds)) {
		a, ok := c.approvals[h]
		if !ok && c.approvals != nil {
			s.fail("approvals", "%q was in the set of round %d without an approval", h, rounds[h][0])
		}
		if ok {
			c.claimConsent(s, h, a, rounds[h])
		}
		m := c.machines[h]
		x := audit.ReceiptHospital{Name: h, Approval: a.digest, Status: string(m.Status), Policy: m.Policy, Trust: m.Trust, Rounds: rounds[h]}
		for _, y := range got {
			if y.Name == h {
				x.Evidence = y.Evidence
				c.same(s, "what it says of "+h, y, x)
				c.claimEvidence(s, y)
			}
		}
	}
}

// claimEvidence wants a machine behind every hospital that took part, admitted before it was charged for the last
// time.
func (c *checker) claimEvidence(s *section, h audit.ReceiptHospital) {
	if c.machines == nil {
		return
	}
	if h.Evidence == (audit.Digest{}) {
		s.fail(receiptFile, "names no evidence of %q, which was in the set of round %d", h.Name, h.Rounds)
		return
	}
	admitted, ok := c.log.find(audit.Admission, 0, h.Name, h.Evidence)
	if !ok {
		return // checkMachines has said so
	}
	for i, l := range slices.Backward(c.log.leaves) {
		if l.Kind == audit.Charge && l.Subject == h.Name {
			if admitted > uint64(i) {
				file, _ := c.folder.byDigest("evidence", h.Evidence)
				s.fail(file, "was admitted at leaf %d, after the last charge of %q at leaf %d", admitted, h.Name, i)
			}
			return
		}
	}
}

// claimConsent wants an approval to hold for as long as the hospital trained.
func (c *checker) claimConsent(s *section, hospital string, a approval, rounds []uint64) {
	for _, r := range c.rounds {
		if r.number != rounds[len(rounds)-1] {
			continue
		}
		if at, err := c.planned(r); err == nil && !at.Before(a.Until) {
			s.fail(a.path, "ended before round %d, which %q was in", r.number, hospital)
		}
	}
}

func (c *checker) claimRounds(s *section, p audit.Predicate) {
	var want []audit.ReceiptRound
	least := -1
	for _, r := range c.rounds {
		x := audit.ReceiptRound{Number: r.number, Outcome: string(r.Result.Outcome), Plan: r.digest("plan"), Set: r.set()}
		if r.has("certificate") {
			d := audit.Digest(r.digest("certificate"))
			x.Certificate = &d
			if least < 0 || len(r.Set) < least {
				least = len(r.Set)
			}
		}
		if r.Result.Outcome == aggregate.Closed {
			d := audit.Digest(r.Result.Model)
			x.Model = &d
		}
		want = append(want, x)
	}
	for i := range max(len(want), len(p.Rounds)) {
		field := fmt.Sprintf("rounds[%d]", i)
		switch {
		case i >= len(want):
			s.fail(receiptFile, "%s is round %d, which rounds/ does not hold", field, p.Rounds[i].Number)
		case i >= len(p.Rounds):
			s.fail(c.rounds[i].dir, "is not in the receipt's rounds")
		default:
			c.same(s, field, p.Rounds[i], want[i])
		}
	}
	c.same(s, "hidden_among", p.HiddenAmong, max(0, least-c.terms.Colluding))
}

func (c *checker) claimLog(s *section, got audit.ReceiptLog) {
	at := c.log.checkpoint
	want := audit.ReceiptLog{Origin: at.Origin, Size: at.Size, Root: at.Root, Cosigned: at.Cosigned, Leaves: got.Leaves}
	c.same(s, "log", got, want)
	_, named := c.receiptLeaf(audit.Release)
	if !named && slices.ContainsFunc(c.log.leaves, func(l audit.Leaf) bool { return l.Kind == audit.Release }) {
		s.fail(receiptFile, "log.leaves names no release leaf, the log has one")
	}
	for kind, i := range got.Leaves {
		if i >= uint64(len(c.log.leaves)) || string(c.log.leaves[i].Kind) != kind {
			s.fail(receiptFile, "log.leaves says that leaf %d is of kind %q", i, kind)
		}
	}
}

// sayUnchecked lists what no check of these files can tell, so that nobody reads it into them.
func (c *checker) sayUnchecked() {
	say := func(name, format string, args ...any) {
		c.report.Limits = append(c.report.Limits, Line{Name: name, Status: NotChecked, Text: fmt.Sprintf(format, args...)})
	}
	for _, v := range c.folder.views {
		say(path.Base(v), "made for people by whoever ran the study; nobody signs it")
	}
	if c.report.Simulated {
		say("hardware", "that any machine was genuine: the TEEs were simulated, and whoever holds the simulated root can make such evidence")
	} else {
		say("hardware", "that the hardware keeps what its maker promises: the evidence shows a genuine chip, no more")
	}
	say("code", "that code of an accepted measurement does what its source says: the consortium chose the measurements")
	for _, h := range slices.Sorted(maps.Keys(c.machines)) {
		if slices.Contains(c.machines[h].NotChecked, attest.NotCheckedMachine) {
			say("machines", "that the machines are the hospitals' own: the consortium file lists none")
			break
		}
	}
	say("data", "that a hospital's rows are true, complete, or of real patients; a hospital can invent patients")
	say("patients", "that no patient is in two members: the approvals say so, and ε counts each as one")
	say("gradients", "that a node clipped and noised as its code says; that is what its attestation is for")
	say("erasure", "that keys kept in memory only were erased, and that no memory was copied before: such a hospital counts as a colluder")
	say("lead", "the lead's signature of the study: the log says who submitted it, the signature is with the coordinator")
	say("sessions", "the sessions before the last of each: their evidence is a digest in the log")
	say("ledgers", "the hospitals' own ledgers: their heads are in the signed charges, the ledgers stay with them")
	say("absence", "that nothing was computed beside the log: what is in no counted checkpoint leaves no trace here")
	if c.study != nil && !c.report.Pinned {
		say("consortium", "that this consortium is the one you mean: pin it with --consortium %s", c.report.Consortium)
	}
	c.remarkStudyEnded(say)
}

func (c *checker) remarkStudyEnded(say func(name, format string, args ...any)) {
	if now := c.options.Now; c.study != nil && !now.IsZero() && !now.Before(c.study.Until) {
		say("study", "whether the model may still be used: the study ended on %s", c.study.Until.Format("2006-01-02"))
	}
}
