package verify

import (
	"slices"
	"strings"
	"time"

	"github.com/consilium-fl/consilium/audit"
	"github.com/consilium-fl/consilium/internal/signed"
)

// history is the study's log, leaf by leaf, as the checkpoint's root commits to it.
type history struct {
	origin     string
	checkpoint audit.Checkpoint
	note       []byte // log/checkpoint
	leaves     []audit.Leaf
	first      map[leafKey]uint64 // index of the first of equal leaves: a restart may log one again
	last       time.Time          // of the newest leaf
}

// leafKey is what a leaf says, without when.
type leafKey struct {
	kind    audit.Kind
	round   uint64
	subject string
	object  [32]byte
}

func keyOf(l audit.Leaf) leafKey { return leafKey{l.Kind, l.Round, l.Subject, l.Object} }

func (h *history) find(kind audit.Kind, round uint64, subject string, object [32]byte) (uint64, bool) {
	i, ok := h.first[leafKey{kind, round, subject, object}]
	return i, ok
}

// begun is when the first round began, or the end of a log without rounds.
func (h *history) begun() time.Time {
	for _, l := range h.leaves {
		if l.Kind == audit.Plan {
			return l.Time
		}
	}
	return h.last
}

// approvedBefore counts the members of whom an approval was logged before the first plan; a later one may
// have taken its place since.
func (h *history) approvedBefore(members []string) int {
	approved := map[string]bool{}
	for _, l := range h.leaves {
		switch {
		case l.Kind == audit.Plan:
			return len(approved)
		case l.Kind == audit.Approval && slices.Contains(members, l.Subject):
			approved[l.Subject] = true
		}
	}
	return len(approved)
}

// clockSlack is how far a log's clock may step back. Evidence and approvals are judged at the times of leaves:
// one that could be dated back at will would let what has ended pass.
const clockSlack = time.Hour

// checkLog reads the whole log against its checkpoint, which the log key of the consortium file signed.
// Who co-signed it is checkCosignatures': the witness keys are judged at a time that the log tells.
func (c *checker) checkLog(s *section) {
	h := &history{origin: audit.Origin(c.consortium.Name, c.study.Digest), first: map[leafKey]uint64{}}
	var err error
	if h.note, err = c.folder.read(checkpointFile, audit.MaxCheckpoint); err != nil {
		s.fail(checkpointFile, "%v", err)
		return
	}
	if h.checkpoint, err = audit.ParseCheckpoint(h.note, h.origin, c.consortium.Log, audit.Witnesses{}); err != nil {
		s.fail(checkpointFile, "%v", err)
		return
	}
	want, err := audit.Resources(h.checkpoint.Size)
	if err != nil {
		s.fail(checkpointFile, "%v", err)
		return
	}
	for _, p := range c.folder.under("log") {
		if !slices.Contains(want, strings.TrimPrefix(p, "log/")) {
			s.fail(p, "is no part of a log of %d leaves", h.checkpoint.Size)
		}
	}
	if h.leaves, err = audit.VerifyLog(c.ctx, resources{c.folder}, h.checkpoint); err != nil {
		s.fail("log", "%v", err)
		return
	}
	for i, l := range h.leaves {
		if h.last.Sub(l.Time) >= clockSlack {
			s.fail(leafName(i), "is of %s, and a leaf before it of %s", l.Time.Format(time.RFC3339), h.last.Format(time.RFC3339))
		}
		if _, again := h.first[keyOf(l)]; !again {
			h.first[keyOf(l)] = uint64(i)
		}
		if l.Time.After(h.last) {
			h.last = l.Time
		}
	}
	if _, ok := h.find(audit.Study, 0, c.study.Lead, c.study.Digest); !ok {
		s.fail("log", "has no leaf by which %q submitted the study", c.study.Lead)
	}
	if h.last.IsZero() {
		return
	}
	c.log = h
	s.say("%d leaves give the root of the checkpoint that the log key signed, %s to %s", len(h.leaves), h.leaves[0].Time.Format(time.RFC3339), h.last.Format(time.RFC3339))
}

// checkCosignatures counts the members whose witness signed the checkpoint. With fewer than are needed two
// histories could both be shown as the one.
func (c *checker) checkCosignatures(s *section) {
	var files [][]byte
	for _, e := range c.enrolments {
		files = append(files, e.file)
	}
	w, err := c.terms.Witnesses(files, c.log.last)
	if err != nil {
		s.fail("enrolments", "%v", err)
		return
	}
	at, err := audit.ParseCheckpoint(c.log.note, c.log.origin, c.consortium.Log, w)
	if err != nil {
		s.fail(checkpointFile, "%v", err)
		return
	}
	if at.Ignored > 0 {
		s.fail(checkpointFile, "has %s of keys that are no member's witness", count(at.Ignored, "signature"))
	}
	if !w.Counts(at) {
		s.fail(checkpointFile, "is co-signed by %d of %s (%s), want %d: fewer could have signed two histories",
			len(at.Cosigned), count(len(c.study.Members), "member"), strings.Join(at.Cosigned, ", "), w.Need)
	}
	c.log.checkpoint = at
	s.say("%s co-signed the checkpoint, %d are needed", strings.Join(at.Cosigned, ", "), w.Need)
}

// checkCharges holds the log to the rounds and the rounds to the log: whatever was opened was charged before,
// and nothing happened that the folder leaves out.
func (c *checker) checkCharges(s *section) {
	known := map[leafKey]bool{}
	after := uint64(0) // the leaf before this round's
	for _, r := range c.rounds {
		after = c.checkRoundLeaves(s, r, known, after)
	}
	c.checkStrayLeaves(s, known)
	spent := c.spentByHospital()
	var texts []string
	for _, h := range c.study.Members {
		texts = append(texts, h+" "+count(int(spent[h]), "round"))
	}
	s.say("charged in the log: %s, the coordinator %d; each before its set was certified", strings.Join(texts, ", "), spent[coordinatorSubject])
	for k := range c.log.first {
		if k.kind == audit.Set && !known[k] {
			s.add("round %d was certified, and its end is in no checkpoint that counts", k.round)
		}
	}
}

// spentByHospital counts the different rounds that each has charged.
func (c *checker) spentByHospital() map[string]uint64 {
	spent := map[string]uint64{}
	for k := range c.log.first {
		if k.kind == audit.Charge {
			spent[k.subject]++
		}
	}
	return spent
}

// checkRoundLeaves wants plan, charges, set and result of a round in the log, in that order and after those of
// the round before. It returns the index of the last.
func (c *checker) checkRoundLeaves(s *section, r *round, known map[leafKey]bool, after uint64) uint64 {
	at := func(kind audit.Kind, subject string, object [32]byte, what string) (uint64, bool) {
		k := leafKey{kind, r.number, subject, object}
		known[k] = true
		i, ok := c.log.first[k]
		if !ok {
			s.fail(r.object(what), "has no leaf of kind %q in the log", kind)
		}
		return i, ok
	}
	follow := func(i uint64, ok bool, what string, before uint64) uint64 {
		if !ok {
			return before
		}
		if before >= i && i != 0 {
			s.fail(r.object(what), "is leaf %d of the log, want it after leaf %d", i, before)
		}
		return max(i, before)
	}
	i, ok := at(audit.Plan, coordinatorSubject, r.digest("plan"), "plan")
	began := follow(i, ok, "plan", after)
	latest := began
	for _, u := range r.uploads {
		i, ok := at(audit.Charge, u.member, u.charge, "proposal")
		latest = max(latest, follow(i, ok, "proposal", began))
		if !ok {
			s.fail(r.object("proposal"), "the charge of %q for round %d is not in the log: its sum is not paid for", u.member, r.number)
		} else if u.promised != i && !sameLeaf(c.log.leaves, u.promised, i) {
			s.fail(r.object("proposal"), "the log promised the charge of %q at leaf %d, which is another", u.member, u.promised)
		}
	}
	if r.charge != nil {
		i, ok := at(audit.Charge, coordinatorSubject, signed.Digest(r.charge), "proposal")
		latest = follow(i, ok, "proposal", latest)
	}
	if r.has("certificate") {
		i, ok := at(audit.Set, coordinatorSubject, r.digest("certificate"), "certificate")
		latest = follow(i, ok, "certificate", latest)
	}
	i, ok = at(audit.Result, coordinatorSubject, r.digest("result"), "result")
	return follow(i, ok, "result", latest)
}

func sameLeaf(leaves []audit.Leaf, a, b uint64) bool {
	return a < uint64(len(leaves)) && b < uint64(len(leaves)) && keyOf(leaves[a]) == keyOf(leaves[b])
}

// unended says that a round is the last, and that nothing of its end is in a checkpoint that counts: a study ends
// so when too few hospitals are left to co-sign. What the round opened, if anything, made no model of this folder,
// and the coordinator's charge for it is in the log.
func (c *checker) unended(number uint64) bool {
	for _, l := range c.log.leaves {
		if l.Kind == audit.Release || l.Round > number || l.Kind == audit.Result && l.Round == number {
			return false
		}
	}
	return true
}

// checkStrayLeaves finds what the log knows and the folder does not show.
func (c *checker) checkStrayLeaves(s *section, known map[leafKey]bool) {
	type spender struct {
		round   uint64
		subject string
	}
	charges, plans := map[spender]uint64{}, map[uint64]uint64{}
	for i, l := range c.log.leaves {
		k := keyOf(l)
		if c.log.first[k] != uint64(i) {
			continue
		}
		switch l.Kind {
		case audit.Set, audit.Result:
			if ended := l.Kind == audit.Result || !c.unended(l.Round); ended && !known[k] {
				s.fail(leafName(i), "is the %s of round %d, which rounds/ does not hold", l.Kind, l.Round)
			}
		case audit.Plan:
			if j, two := plans[l.Round]; two {
				s.fail(leafName(i), "is a second plan of round %d, after leaf %d", l.Round, j)
			}
			plans[l.Round] = uint64(i)
		case audit.Charge:
			if l.Subject != coordinatorSubject && !slices.Contains(c.study.Members, l.Subject) {
				s.fail(leafName(i), "is a charge of %q, who is not a member", l.Subject)
			}
			if _, planned := plans[l.Round]; !planned {
				s.fail(leafName(i), "is a charge of %q for round %d before its plan", l.Subject, l.Round)
			}
			who := spender{l.Round, l.Subject}
			if j, two := charges[who]; two {
				s.fail(leafName(i), "is a second charge of %q for round %d, after leaf %d", l.Subject, l.Round, j)
			}
			charges[who] = uint64(i)
		}
	}
}
