// Package study holds the files that a study is made of: consortium.yaml (who belongs), study.yaml (what is
// trained, on which columns, with how much privacy), approvals and enrolments (who agreed), and the model.
// A file's name is the SHA-256 of its exact bytes; parsing checks all that one file can tell, and Check what
// takes the consortium and the time.
//
//	c, err := study.ParseConsortium(consortiumYAML)
//	s, err := study.Parse(studyYAML) // err lists every problem with line, column and field
//	if err := s.Check(c, now); err != nil { … }
//	approvals, err := c.Approved(s, files, now) // ErrApprovals when too few count
//
// It reads no clock, writes no log, and imports nothing else of Consilium but internal/signed.
package study

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/consilium-fl/consilium/internal/signed"
)

// Version is the version of study.yaml.
const Version = "consilium.study/v1"

// Study is study.yaml; its digest is its name.
type Study struct {
	Title       string
	Consortium  [32]byte // digest of the consortium.yaml that counts for it
	Lead        string
	Members     []string // hospitals, sorted
	Approvals   int      // of members, before anything runs
	MaxPatients int      // a hospital
	From, Until time.Time
	Ethics      Ethics
	Data        Data
	Model       Model
	Strategy    Strategy
	Privacy     Privacy
	Aggregation Aggregation
	Deadlines   Deadlines
	Release     Release
	Digest      [32]byte
	Raw         []byte // the file's exact bytes
}

// Ethics is the approval of a review board.
type Ethics struct {
	Board, Reference string
	Until            time.Time
}

// Model is what is trained.
type Model struct {
	Kind      string // logistic
	Intercept bool
	L2        float64 // penalty of the mean loss, l2/2·‖w‖²; never of the intercept
	Init      string  // zero
}

// Strategy is how the server goes from one model to the next.
type Strategy struct {
	Name         string // fedsgd
	Rounds       int
	LearningRate float64
	AverageLast  int // the released model is the mean of that many last iterates
}

// Privacy is the promise to each patient.
type Privacy struct {
	Unit, Neighbours    string
	Epsilon, Delta      float64
	Clip                float64 // largest L2 norm of one patient's gradient
	GridBits            uint8   // 2^GridBits grid units are one Clip
	Noise               string  // distributed or central
	Cohort              int     // a number that was public beforehand; it only divides
	Spare               int     // rounds that may burn
	HospitalsPerPatient int
}

// Aggregation is how sums are hidden.
type Aggregation struct {
	Mode      string // masked
	WordBits  uint8  // 24, 32 or 64
	Minimum   int    // fewest members in a set
	Colluding int    // c
}

// Deadlines of the phases of a round.
type Deadlines struct{ Away, Ready, Deal, Upload, Vote, Release time.Duration }

// Release says who gets the model.
type Release struct {
	To        []string // people, sorted
	Hospitals bool     // and every member
}

const (
	maxPatients = 1_000_000_000
	maxRounds   = 100_000
)

// Parse reads study.yaml. The error is Problems: all of them, each with its place.
func Parse(yaml []byte) (*Study, error) {
	d, o := parseDocument(yaml)
	o.choice("version", Version)
	s := &Study{
		Title:       o.text("title", true, 200),
		Consortium:  o.digest("consortium", true),
		Lead:        o.match("lead", dottedForm, wantDotted),
		Members:     o.list("members", true, "a list of hospitals", wants(labelForm, wantLabel)),
		MaxPatients: o.integer("max_patients", true, 1, maxPatients),
		Digest:      signed.Digest(yaml),
		Raw:         bytes.Clone(yaml),
	}
	slices.Sort(s.Members)
	if n := len(s.Members); o.has("members") && (n < 3 || n > maxHospitals) {
		o.bad("members", plural(n, "hospital"), fmt.Sprintf("3 to %d: with fewer, one that subtracts its own sees another's", maxHospitals))
	}
	s.validity(o)
	s.Data = parseData(o)
	s.Model = parseModel(o)
	s.Strategy = parseStrategy(o)
	s.Privacy = s.parsePrivacy(o)
	s.Aggregation = s.parseAggregation(o)
	s.Approvals = o.integer("approvals", true, s.Aggregation.Minimum, max(s.Aggregation.Minimum, len(s.Members)))
	s.Deadlines = parseDeadlines(o)
	s.Release = parseRelease(o)
	o.done()
	return s, d.err()
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

func (s *Study) validity(o object) {
	v := o.object("valid", true)
	s.From, s.Until = v.instant("from", false), v.instant("until", false)
	if !s.From.IsZero() && !s.Until.IsZero() && !s.From.Before(s.Until) {
		v.bad("until", s.Until.Format(time.RFC3339), "a time after from")
	}
	v.done()
	e := o.object("ethics", true)
	s.Ethics = Ethics{Board: e.text("board", true, 200), Reference: e.text("reference", true, 200), Until: e.instant("until", true)}
	if !s.Ethics.Until.IsZero() && s.Ethics.Until.Before(s.Until) {
		e.bad("until", s.Ethics.Until.Format(time.DateOnly), "no earlier than valid.until, "+s.Until.Format(time.RFC3339))
	}
	e.done()
}

func parseModel(parent object) Model {
	o := parent.object("model", true)
	m := Model{
		Kind:      o.choice("kind", "logistic"),
		Intercept: o.boolean("intercept", true),
		L2:        o.number("l2", func(v float64) bool { return v >= 0 && v <= 1e6 }, "a number from 0 to 1e6"),
		Init:      o.choice("init", "zero"),
	}
	o.done()
	return m
}

func parseStrategy(parent object) Strategy {
	o := parent.object("strategy", true)
	s := Strategy{
		Name:         o.choice("name", "fedsgd"),
		Rounds:       o.integer("rounds", true, 1, maxRounds),
		LearningRate: o.number("learning_rate", positive(1e6), "a number above 0, at most 1e6"),
	}
	s.AverageLast = o.integer("average_last", true, 1, max(1, s.Rounds))
	o.done()
	return s
}

func positive(most float64) func(float64) bool {
	return func(v float64) bool { return v > 0 && v <= most }
}

func (s *Study) parsePrivacy(parent object) Privacy {
	o := parent.object("privacy", true)
	limit := 1 / (float64(max(1, len(s.Members))) * float64(max(1, s.MaxPatients)))
	p := Privacy{
		Unit:                o.choice("unit", "patient"),
		Neighbours:          o.choice("neighbours", "add-or-remove-one"),
		Epsilon:             o.number("epsilon", positive(1e6), "a number above 0"),
		Delta:               o.number("delta", func(v float64) bool { return v > 0 && v < limit }, fmt.Sprintf("a number above 0 and below 1/(members·max_patients) = %.3g", limit)),
		Clip:                o.number("clip", positive(1e6), "a number above 0, at most 1e6"),
		GridBits:            uint8(o.integer("grid_bits", true, 8, 24)),
		Noise:               o.choice("noise", "distributed", "central"),
		Cohort:              o.integer("cohort", true, 1, maxPatients),
		Spare:               o.integer("spare", true, 2, maxRounds),
		HospitalsPerPatient: o.integer("hospitals_per_patient", true, 1, 1),
	}
	o.done()
	return p
}

func (s *Study) parseAggregation(parent object) Aggregation {
	o := parent.object("aggregation", true)
	n := len(s.Members)
	c := colluding(n)
	a := Aggregation{
		Mode:      o.choice("mode", "masked"),
		WordBits:  wordBits(o),
		Minimum:   o.integer("minimum", false, max(3, c+2), max(3, n)),
		Colluding: o.integer("colluding", false, c, c),
	}
	if !o.has("minimum") {
		a.Minimum = max(3, (n+c)/2+1)
	}
	a.Colluding = c
	if sum := float64(n) * float64(s.MaxPatients) * float64(uint64(1)<<s.Privacy.GridBits); a.WordBits > 0 && sum >= math.Ldexp(1, int(a.WordBits)-1) {
		o.bad("word_bits", strconv.Itoa(int(a.WordBits)), fmt.Sprintf("words that hold members·max_patients·2^grid_bits = %.4g, with noise less than 2^(word_bits-1): lower max_patients or grid_bits, or raise word_bits", sum))
	}
	o.done()
	return a
}

// colluding is c, how many members may collude: a quarter of them, at least one.
func colluding(members int) int { return max(1, members/4) }

func wordBits(o object) uint8 {
	v, err := strconv.Atoi(o.choice("word_bits", "24", "32", "64"))
	if err != nil {
		return 0 // a problem already
	}
	return uint8(v)
}

func parseDeadlines(parent object) Deadlines {
	o := parent.object("deadlines", true)
	d := Deadlines{
		Away: o.duration("away"), Ready: o.duration("ready"), Deal: o.duration("deal"),
		Upload: o.duration("upload"), Vote: o.duration("vote"), Release: o.duration("release"),
	}
	o.done()
	return d
}

func parseRelease(parent object) Release {
	o := parent.object("release", true)
	r := Release{
		To:        o.list("to", true, "a list of people", wants(dottedForm, wantDotted)),
		Hospitals: o.boolean("hospitals", true),
	}
	slices.Sort(r.To)
	o.done()
	return r
}

// Check compares a study with the consortium that it names, at a time: the digest, the people, the members
// and their registries, and that neither it nor its ethics approval has expired. It may begin later than at:
// Running tells. All problems at once, as Problems. The checks that take a noise mechanism are made by those
// who make one.
func (s *Study) Check(c *Consortium, at time.Time) error {
	var p Problems
	add := func(field, got, want string) {
		line, column := locate(s.Raw, field)
		p = append(p, Problem{Line: line, Column: column, Field: field, Got: got, Want: want})
	}
	if s.Consortium != c.Digest {
		add("consortium", signed.DigestText(s.Consortium), fmt.Sprintf("%s, the digest of %s serial %d", signed.DigestText(c.Digest), c.Name, c.Serial))
	}
	if lead := c.People[s.Lead]; lead.Role != RoleLead {
		add("lead", describePerson(s.Lead, lead), "a person with role lead in "+c.Name)
	}
	for _, to := range s.Release.To {
		if _, known := c.People[to]; !known {
			add("release.to", quote(to), "people of "+c.Name)
		}
	}
	for _, m := range s.Members {
		switch h, known := c.Hospitals[m]; {
		case !known:
			add("members", quote(m), "hospitals of "+c.Name)
		case !slices.Contains(h.Registries, s.Data.Registry):
			add("data.registry", quote(s.Data.Registry), fmt.Sprintf("a registry that every member has: %s has %s", m, strings.Join(h.Registries, ", ")))
		}
	}
	if !at.Before(s.Until) {
		add("valid.until", s.Until.Format(time.RFC3339), "a time after "+at.UTC().Format(time.RFC3339)+": the study has expired")
	}
	if !at.Before(s.Ethics.Until) {
		add("ethics.until", s.Ethics.Until.Format(time.DateOnly), "a date after "+at.UTC().Format(time.DateOnly)+": the ethics approval has expired")
	}
	return p.err()
}

func describePerson(name string, p Person) string {
	if p.Role == "" {
		return quote(name) + ", unknown"
	}
	return quote(name) + ", " + p.Role
}

// Running reports whether the study is between its first and its last moment.
func (s *Study) Running(at time.Time) bool { return !at.Before(s.From) && at.Before(s.Until) }

// Dim is the length of the model's vector: the columns, and the intercept last when there is one.
func (s *Study) Dim() int {
	if s.Model.Intercept {
		return s.Data.Columns() + 1
	}
	return s.Data.Columns()
}
