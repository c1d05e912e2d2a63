package study

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/consilium-fl/consilium/internal/signed"
)

const (
	approvalType    = "application/vnd.consilium.approval+json"
	approvalVersion = "consilium.approval/v1"
	studyType       = "application/vnd.consilium.study+yaml"
)

// ErrApprovals says that too few valid approvals are there.
var ErrApprovals = errors.New("too few approvals")

// Approval is a hospital's signed agreement to a study: who signs, in which role, and what the signature means
// (21 CFR 11.50).
type Approval struct {
	Study    [32]byte
	Hospital string
	Dataset  string // the registry that the study may use
	Name     string // of the person who signs
	Role     string // of that person, as "data steward"
	Meaning  string // as "approved; no patient is in two members"
	Until    time.Time
}

type approvalJSON struct {
	Version  string `json:"version"`
	Study    string `json:"study"`
	Hospital string `json:"hospital"`
	Dataset  string `json:"dataset"`
	Name     string `json:"name"`
	Role     string `json:"role"`
	Meaning  string `json:"meaning"`
	Until    string `json:"until"`
}

// Sign returns the DSSE file of the approval, signed by the hospital's governance key.
func (a Approval) Sign(governance ed25519.PrivateKey) ([]byte, error) {
	if err := a.validate(); err != nil {
		return nil, fmt.Errorf("signing approval: %w", err)
	}
	return signStatement(approvalType, approvalJSON{
		Version: approvalVersion, Study: signed.DigestText(a.Study), Hospital: a.Hospital, Dataset: a.Dataset,
		Name: a.Name, Role: a.Role, Meaning: a.Meaning, Until: stamp(a.Until),
	}, governance)
}

func (a Approval) validate() error {
	if !labelForm.MatchString(a.Hospital) || !labelForm.MatchString(a.Dataset) {
		return fmt.Errorf("hospital %s, dataset %s: want names of lower-case letters, digits and dashes", quote(a.Hospital), quote(a.Dataset))
	}
	for _, f := range []struct{ field, text string }{{"name", a.Name}, {"role", a.Role}, {"meaning", a.Meaning}} {
		if strings.TrimSpace(f.text) == "" || len(f.text) > 400 || !printable(f.text) {
			return fmt.Errorf("%s is %s, want one line of text", f.field, quote(f.text))
		}
	}
	return nil
}

// ParseApproval reads an approval and checks that the governance key of the hospital it names has signed it.
func (c *Consortium) ParseApproval(file []byte) (Approval, error) {
	a, err := c.parseApproval(file)
	if err != nil {
		return Approval{}, fmt.Errorf("parsing approval: %w", err)
	}
	return a, nil
}

func (c *Consortium) parseApproval(file []byte) (Approval, error) {
	e, err := signed.ParseEnvelope(file, approvalType)
	if err != nil {
		return Approval{}, err
	}
	var j approvalJSON
	if err := decodeStatement(e.Payload, &j); err != nil {
		return Approval{}, err
	}
	if j.Version != approvalVersion {
		return Approval{}, fmt.Errorf("version %s, want %q", quote(j.Version), approvalVersion)
	}
	a := Approval{Hospital: j.Hospital, Dataset: j.Dataset, Name: j.Name, Role: j.Role, Meaning: j.Meaning}
	if a.Study, err = signed.ParseDigest(j.Study); err != nil {
		return Approval{}, err
	}
	if a.Until, err = parseStamp(j.Until); err != nil {
		return Approval{}, err
	}
	if err := a.validate(); err != nil {
		return Approval{}, err
	}
	h, known := c.Hospitals[a.Hospital]
	if !known {
		return Approval{}, fmt.Errorf("by %s, which is not a hospital of %s", quote(a.Hospital), c.Name)
	}
	if err := onlySignedBy(e, h.Governance); err != nil {
		return Approval{}, fmt.Errorf("by %s: %w", quote(a.Hospital), err)
	}
	return a, nil
}

// Approved returns the approvals among files that count for s, one a member, sorted by hospital. With fewer than
// the study asks for the error is ErrApprovals and tells why the others do not count; what counts is
// returned all the same.
func (c *Consortium) Approved(s *Study, files [][]byte, at time.Time) ([]Approval, error) {
	if s.Consortium != c.Digest {
		return nil, fmt.Errorf("counting approvals of study %s: it names consortium %s, not %s", Short(s.Digest), Short(s.Consortium), Short(c.Digest))
	}
	var good []Approval
	var not []string
	for i, f := range files {
		a, err := c.ParseApproval(f)
		if err == nil {
			err = a.counts(s, at)
		}
		if err != nil {
			not = append(not, fmt.Sprintf("file %d: %v", i+1, err))
			continue
		}
		if !slices.ContainsFunc(good, func(b Approval) bool { return b.Hospital == a.Hospital }) {
			good = append(good, a)
		}
	}
	slices.SortFunc(good, func(a, b Approval) int { return strings.Compare(a.Hospital, b.Hospital) })
	if len(good) >= max(1, s.Approvals) {
		return good, nil
	}
	err := fmt.Errorf("counting approvals of study %s: %w: got %d, want %d of %s", Short(s.Digest), ErrApprovals, len(good), s.Approvals, strings.Join(s.Members, ", "))
	if len(not) > 0 {
		err = fmt.Errorf("%w; not counted: %s", err, strings.Join(not, "; "))
	}
	return good, err
}

// counts says why an approval does not count for s at a time.
func (a Approval) counts(s *Study, at time.Time) error {
	switch {
	case a.Study != s.Digest:
		return fmt.Errorf("approval by %q is for study %s", a.Hospital, Short(a.Study))
	case !slices.Contains(s.Members, a.Hospital):
		return fmt.Errorf("approval by %q, which is not a member", a.Hospital)
	case a.Dataset != s.Data.Registry:
		return fmt.Errorf("approval by %q is for registry %q, want %q", a.Hospital, a.Dataset, s.Data.Registry)
	case !at.Before(a.Until):
		return fmt.Errorf("approval by %q ended at %s", a.Hospital, stamp(a.Until))
	}
	return nil
}

// SignStudy returns the DSSE file by which the lead submits a study: the person key signs the exact bytes of
// study.yaml, which are inside.
func SignStudy(raw []byte, person ed25519.PrivateKey) ([]byte, error) {
	e, err := signed.SignEnvelope(studyType, raw, person)
	if err != nil {
		return nil, fmt.Errorf("signing study: %w", err)
	}
	return e.Encode(), nil
}

// CheckStudySignature checks that the lead whom the study names has signed it.
func (c *Consortium) CheckStudySignature(s *Study, sig []byte) error {
	if err := c.checkStudySignature(s, sig); err != nil {
		return fmt.Errorf("checking the lead's signature of study %s: %w", Short(s.Digest), err)
	}
	return nil
}

func (c *Consortium) checkStudySignature(s *Study, sig []byte) error {
	e, err := signed.ParseEnvelope(sig, studyType)
	if err != nil {
		return err
	}
	if !bytes.Equal(e.Payload, s.Raw) {
		return errors.New("it is over another file")
	}
	lead, known := c.People[s.Lead]
	if !known || lead.Role != RoleLead {
		return fmt.Errorf("%s, want a lead of %s", describePerson(s.Lead, lead), c.Name)
	}
	return onlySignedBy(e, lead.Key)
}
