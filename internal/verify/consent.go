package verify

import (
	"bytes"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/consilium-fl/consilium/audit"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/terms"
)

const (
	maxText   = 1 << 20            // bytes of a YAML file
	maxSigned = signed.MaxEnvelope // bytes of a DSSE file
)

// checkConsortium finds the root of trust: the file that was pinned, or else the one that lies here.
func (c *checker) checkConsortium(s *section) {
	c.report.Root = "The consortium is taken from consortium.yaml in the folder itself: give --consortium DIGEST to pin the one you know."
	b, err := c.folder.read(consortiumFile, maxText)
	if err != nil {
		s.fail(consortiumFile, "%v", err)
		return
	}
	got := signed.Digest(b)
	c.report.Consortium = signed.DigestText(got)
	if pin := c.options.Consortium; pin != nil {
		c.report.Root = "The consortium is pinned: " + signed.DigestText(*pin) + "."
		if got != *pin {
			s.fail(consortiumFile, "has digest %s, want the pinned %s", signed.DigestText(got), signed.DigestText(*pin))
			return
		}
	} else {
		c.report.Root += " It is " + signed.DigestText(got) + "."
	}
	k, err := study.ParseConsortium(b)
	if err != nil {
		s.fail(consortiumFile, "%v", err)
		return
	}
	c.consortium = k
	sigs, err := c.folder.read(signaturesFile, maxSigned)
	if err != nil {
		s.fail(signaturesFile, "%v", err)
		return
	}
	c.checkSignatures(s, k, sigs)
}

func (c *checker) checkSignatures(s *section, k *study.Consortium, sigs []byte) {
	if k.Serial == 1 {
		if err := k.CheckSignatures(sigs, nil); err != nil {
			s.fail(signaturesFile, "%v", err)
			return
		}
		s.say("%s serial 1 is signed by its %s", k.Name, count(len(k.Hospitals), "hospital"))
		return
	}
	// A later serial is made valid by the hospitals of the one before, which this folder does not hold.
	if c.options.Consortium == nil {
		s.fail(consortiumFile, "is serial %d, and the serial before, whose hospitals must have signed it, is not here: pin the digest", k.Serial)
		return
	}
	signers := 0
	for name := range k.Hospitals {
		if k.SignedBy(sigs, name) {
			signers++
		}
	}
	if signers == 0 {
		s.fail(signaturesFile, "holds no signature of a hospital over consortium.yaml")
		return
	}
	s.say("%s serial %d is the pinned file; %d of its %s signed it; the serial before, which says how many must, is not here", k.Name, k.Serial, signers, count(len(k.Hospitals), "hospital"))
}

// checkStudy reads study.yaml and computes what it fixes for every round.
func (c *checker) checkStudy(s *section) {
	b, err := c.folder.read(studyFile, maxText)
	if err != nil {
		s.fail(studyFile, "%v", err)
		return
	}
	c.report.Study = signed.DigestText(signed.Digest(b))
	x, err := study.Parse(b)
	if err != nil {
		s.fail(studyFile, "%v", err)
		return
	}
	if x.Consortium != c.consortium.Digest {
		s.fail(studyFile, "names consortium %s, want %s", signed.DigestText(x.Consortium), signed.DigestText(c.consortium.Digest))
		return
	}
	// Its first moment is a time at which it has not expired; the rounds are held to their own times.
	if err := x.Check(c.consortium, x.From); err != nil {
		s.fail(studyFile, "%v", err)
		return
	}
	t, err := terms.New(c.consortium, x)
	if err != nil {
		s.fail(studyFile, "%v", err)
		return
	}
	c.study, c.terms = x, t
	s.say("%q, led by %s, with %s; thresholds, noise and word size agree", x.Title, x.Lead, strings.Join(x.Members, ", "))
}

// enrolment is a hospital's node in this study.
type enrolment struct {
	study.Enrolment
	path string
	file []byte
}

// checkEnrolments reads the nodes of the members, at the moment of the last leaf.
func (c *checker) checkEnrolments(s *section) {
	found := map[string]enrolment{}
	for _, p := range c.folder.under("enrolments") {
		b, err := c.folder.read(p, maxSigned)
		if err != nil {
			s.fail(p, "%v", err)
			continue
		}
		e, err := c.consortium.ParseEnrolment(b, c.log.last)
		switch {
		case err != nil:
			s.fail(p, "%v", err)
		case !slices.Contains(c.study.Members, e.Hospital):
			s.fail(p, "is of %q, who is not a member of the study", e.Hospital)
		case found[e.Hospital].file != nil:
			s.fail(p, "is a second enrolment of %q, beside %s", e.Hospital, found[e.Hospital].path)
		default:
			found[e.Hospital] = enrolment{Enrolment: e, path: p, file: b}
		}
	}
	if !s.ok() {
		return
	}
	c.enrolments = found
	s.say("%s of the study's %s, each signed by its hospital's governance key", count(len(found), "node"), count(len(c.study.Members), "member"))
}

// approval is a hospital's signed agreement.
type approval struct {
	study.Approval
	path   string
	digest [32]byte
}

// checkApprovals wants every file to be a good approval by a member, and enough of them when the first
// round began.
func (c *checker) checkApprovals(s *section) {
	found := map[string]approval{}
	var files [][]byte
	for _, p := range c.folder.under("approvals") {
		b, err := c.folder.read(p, maxSigned)
		if err != nil {
			s.fail(p, "%v", err)
			continue
		}
		a, err := c.consortium.ParseApproval(b)
		switch {
		case err != nil:
			s.fail(p, "%v", err)
		case a.Study != c.study.Digest:
			s.fail(p, "approves study %s, want %s", signed.DigestText(a.Study), signed.DigestText(c.study.Digest))
		case !slices.Contains(c.study.Members, a.Hospital):
			s.fail(p, "is by %q, who is not a member of the study", a.Hospital)
		case a.Dataset != c.study.Data.Registry:
			s.fail(p, "is for registry %q, want %q", a.Dataset, c.study.Data.Registry)
		case found[a.Hospital].path != "":
			s.fail(p, "is a second approval by %q, beside %s", a.Hospital, found[a.Hospital].path)
		default:
			if _, ok := c.log.find(audit.Approval, 0, a.Hospital, signed.Digest(b)); !ok {
				s.fail(p, "has no leaf in the log")
			}
			found[a.Hospital] = approval{Approval: a, path: p, digest: signed.Digest(b)}
			files = append(files, b)
		}
	}
	at := c.log.begun()
	if _, err := c.consortium.Approved(c.study, files, at); err != nil {
		s.fail("approvals", "%v, when the first round began at %s", err, at.Format(time.RFC3339))
	}
	if n := c.log.approvedBefore(c.study.Members); n < c.study.Approvals {
		s.fail("log", "%s had approved when the first round began, want %d", count(n, "member"), c.study.Approvals)
	}
	c.approvals = found
	s.say("%d of %s approved, the study asks for %d: %s", len(found), count(len(c.study.Members), "member"), c.study.Approvals, strings.Join(slices.Sorted(maps.Keys(found)), ", "))
	c.remarkEnded(s)
}

// remarkEnded says what has ended since, for whoever wants to use the model now.
func (c *checker) remarkEnded(s *section) {
	if c.options.Now.IsZero() {
		return
	}
	for _, h := range slices.Sorted(maps.Keys(c.approvals)) {
		if a := c.approvals[h]; !c.options.Now.Before(a.Until) {
			s.add("that of %s ended on %s, after the run", h, a.Until.Format(time.DateOnly))
		}
	}
}

// checkNewest holds the enrolments that a committee showed to those of the folder: a node that was replaced
// may have served earlier rounds, and no enrolment may be newer than the newest.
func (c *checker) checkNewest(hospital string, file []byte, at time.Time) error {
	newest, ok := c.enrolments[hospital]
	if !ok {
		return fmt.Errorf("%q took part, and enrolments/ has no file of it", hospital)
	}
	if bytes.Equal(newest.file, file) {
		return nil
	}
	e, err := c.consortium.ParseEnrolment(file, at)
	if err != nil {
		return err
	}
	if e.Serial >= newest.Serial {
		return fmt.Errorf("%q took part by an enrolment of serial %d that is not %s, of serial %d", hospital, e.Serial, path.Base(newest.path), newest.Serial)
	}
	return nil
}
