// Package verify checks, offline, the folder that a study leaves behind: who agreed, which machines
// took part, that the log was never rewritten, that every sum was certified and charged, and that the model
// is what the sums make. It believes nobody: what a receipt says is computed again from the objects that
// it is about.
//
//	report, err := verify.Folder(ctx, "OUT", verify.Options{Consortium: &pinned})
//	if err != nil { … } // the folder could not be read
//	fmt.Print(report)   // a line a check, then what was not checked
//	if !report.OK { os.Exit(5) }
//
// Every check runs that can: one altered file may be named by several lines. Nothing here reads a clock or
// the network; evidence, approvals and enrolments are judged at the times that the log's leaves tell.
//
// Show reads the same folder and checks nothing: it is for a person who wants to know what a folder is
// about.
package verify

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/audit"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/terms"
)

// Options of a verification. The zero value works, and trusts the consortium file in the folder.
type Options struct {
	// Consortium pins the digest of consortium.yaml, the root of everything else.
	Consortium *[32]byte
	// Now is for remarks on what has ended since the run. It decides nothing; zero makes no remark.
	Now time.Time
}

// Folder checks an output folder. The error is about reading it, or about ctx; what does not hold is in the
// Report, whose OK is then false.
func Folder(ctx context.Context, dir string, o Options) (*Report, error) {
	f, err := openFolder(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("verifying folder %q: %w", dir, err)
	}
	defer f.close()
	c := &checker{ctx: ctx, folder: f, options: o, served: map[string]study.Enrolment{}, report: &Report{Version: ReportVersion, Folder: dir, Pinned: o.Consortium != nil}}
	c.run()
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("verifying folder %q: %w", dir, err)
	}
	c.report.finish()
	return c.report, nil
}

// checker holds what the checks so far have established, for those that follow. A field is set only when
// it holds.
type checker struct {
	ctx     context.Context
	folder  *folder
	options Options
	report  *Report

	receipt    *audit.Receipt
	record     attest.Record // the coordinator's
	keys       coordinatorKeys
	consortium *study.Consortium
	study      *study.Study
	terms      *terms.Terms

	log        *history
	enrolments map[string]enrolment // by hospital
	approvals  map[string]approval
	served     map[string]study.Enrolment // by hospital: its node in the last set that it was in
	machines   map[string]attest.Result   // appraisals by hospital; the coordinator's under its Subject
	rounds     []*round                   // by rising number
}

// coordinatorKeys are the keys that the coordinator's evidence binds.
type coordinatorKeys struct{ protocol, receipt, issuer ed25519.PublicKey }

// coordinatorSubject names the coordinator in the leaves of its own acts.
const coordinatorSubject = "coordinator"

// run makes every check, in an order in which each finds what it needs. What lacks something is reported
// as not checked, and the line that failed before says why.
func (c *checker) run() {
	c.check("consortium", nil, c.checkConsortium)
	c.check("receipt", nil, c.checkReceipt)
	c.check("files", c.has(c.receipt != nil, "receipt"), c.checkFiles)
	c.check("study", c.has(c.consortium != nil, "consortium"), c.checkStudy)
	c.check("log", c.has(c.terms != nil, "study"), c.checkLog)
	c.check("enrolments", c.has(c.log != nil, "log"), c.checkEnrolments)
	c.check("co-signatures", c.has(c.enrolments != nil, "enrolments"), c.checkCosignatures)
	c.check("approvals", c.has(c.log != nil, "log"), c.checkApprovals)
	c.check("rounds", c.has(c.receipt != nil && c.enrolments != nil, "receipt and enrolments"), c.checkRounds)
	c.check("attestation", c.has(c.receipt != nil && c.rounds != nil, "receipt and rounds"), c.checkMachines)
	c.check("charges", c.has(c.rounds != nil, "rounds"), c.checkCharges)
	c.check("model", c.has(c.rounds != nil, "rounds"), c.checkModel)
	c.check("privacy", c.has(c.receipt != nil && c.rounds != nil, "receipt and rounds"), c.checkPrivacy)
	c.check("claims", c.has(c.receipt != nil && c.rounds != nil, "receipt and rounds"), c.checkClaims)
	c.sayUnchecked()
}

// has turns a condition into what a check lacks.
func (c *checker) has(ok bool, what string) *string {
	if ok {
		return nil
	}
	return &what
}

// check runs one check and adds its line.
func (c *checker) check(name string, lacks *string, f func(s *section)) {
	s := &section{line: Line{Name: name, Status: Checked}}
	if lacks != nil {
		s.line.Status, s.line.Text = NotChecked, "not looked at, because it needs the "+*lacks+" (see above)"
	} else {
		f(s)
	}
	if !s.ok() {
		s.line.Text = count(len(s.line.Problems)+s.line.More, "problem")
	}
	c.report.Lines = append(c.report.Lines, s.line)
}

// section collects what one check finds.
type section struct{ line Line }

// maxProblems bounds what one line lists.
const maxProblems = 20

// fail notes that an object does not hold.
func (s *section) fail(object, format string, args ...any) {
	s.line.Status = Failed
	if len(s.line.Problems) == maxProblems {
		s.line.More++
		return
	}
	s.line.Problems = append(s.line.Problems, Problem{Object: object, Reason: fmt.Sprintf(format, args...)})
}

// ok reports whether nothing has failed so far.
func (s *section) ok() bool { return s.line.Status != Failed }

// say sets the text of a line that holds; of one that does not its problems are the text.
func (s *section) say(format string, args ...any) { s.line.Text = fmt.Sprintf(format, args...) }

// add appends a remark to the text.
func (s *section) add(format string, args ...any) {
	if s.line.Text != "" {
		s.line.Text += "; "
	}
	s.line.Text += fmt.Sprintf(format, args...)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func short(d [32]byte) string { return signed.DigestText(d)[:15] + "…" }
