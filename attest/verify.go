package attest

import (
	"bytes"
	"crypto/sha512"
	"crypto/subtle"
	"fmt"
	"slices"
	"time"

	"github.com/consilium-fl/consilium/attest/endorse"
)

// Inputs is all that a verifier knows of the world besides the evidence.
type Inputs struct {
	Now time.Time // zero is an error: a verifier never reads the wall clock
	// ReportData is what the evidence has to be bound to. Nil leaves the binding unchecked,
	// says so in NotChecked, and is never OK.
	ReportData *[64]byte
	Trust      *endorse.Snapshot // nil is an error
}

// Verifier authenticates evidence of one format: signature, chain, validity at Inputs.Now. It is
// pure. It returns what the evidence says, its report data included, and leaves it to Check to
// compare and to judge. An error is a [Reason], or several joined.
type Verifier interface {
	Format() Format
	Verify(Evidence, Inputs) (Unappraised, error)
}

// Unappraised is Claims that only Check can read: authentic perhaps, accepted by nobody yet.
type Unappraised struct{ claims Claims }

// Unappraise wraps what a Verifier found.
func Unappraise(c Claims) Unappraised { return Unappraised{c} }

// Verifiers holds one Verifier a format; the zero value knows none and refuses all.
type Verifiers struct{ byFormat map[Format]Verifier }

// NewVerifiers wires verifiers. Two of one format is a mistake in the program, and panics.
func NewVerifiers(vs ...Verifier) Verifiers {
	m := make(map[Format]Verifier, len(vs))
	for _, v := range vs {
		if _, dup := m[v.Format()]; dup {
			panic("attest: two verifiers of format " + string(v.Format()))
		}
		m[v.Format()] = v
	}
	return Verifiers{m}
}

// Check verifies and appraises evidence: the one way from evidence to claims. It never panics,
// whatever a verifier does with foreign bytes. Claims are set only when the evidence is
// authentic. Of several policies one has to take the evidence: versions of reference values overlap while
// machines are upgraded. The result is that of the first that takes it, and else of the first.
func (vs Verifiers) Check(e Evidence, in Inputs, policies ...Policy) Result {
	if len(policies) == 0 {
		policies = []Policy{{}} // which admits nobody, and says so
	}
	want := in.ReportData
	if want != nil {
		forVerifier := *want // a copy: no verifier can move the goal
		in.ReportData = &forVerifier
	}
	found := vs.verify(e, in, policies)
	best := found.judge(e, in, want, policies[0])
	for _, p := range policies[1:] {
		if best.Status != Contraindicated {
			break
		}
		if r := found.judge(e, in, want, p); r.Status != Contraindicated {
			best = r
		}
	}
	return best
}

// verified is what verification came to: claims, or the reasons why there are none. Claims beside reasons are what
// could be read of evidence that is not authentic: they may add reasons, never take one away.
type verified struct {
	claims  Claims
	reasons []Reason
}

func (vs Verifiers) verify(e Evidence, in Inputs, policies []Policy) verified {
	v, known := vs.byFormat[e.Format]
	rs := append(in.check(), e.check()...)
	// A format that no policy takes is refused before its parser sees a byte.
	if !known || !slices.ContainsFunc(policies, func(p Policy) bool { return slices.Contains(p.Accept, e.Format) }) {
		rs = append(rs, Reason{Code: CodeFormatUnlisted, Path: "format", Got: fmt.Sprintf("%q", e.Format), Want: "a format of the policy, with a verifier"})
	}
	if len(rs) > 0 {
		return verified{reasons: rs}
	}
	u, err := safely(v, e, in)
	if err != nil {
		return verified{claims: u.claims, reasons: reasonsOf(err)}
	}
	return verified{claims: u.claims}
}

func (f verified) judge(e Evidence, in Inputs, want *[64]byte, p Policy) Result {
	r := Result{Status: Affirming, Claims: Claims{Format: e.Format}, Policy: p.Digest(), Trust: in.Trust.Digest()}
	if want == nil {
		r.NotChecked = append(r.NotChecked, NotCheckedBinding)
	}
	if len(f.reasons) > 0 {
		rs := slices.Concat(f.reasons, p.check())
		if f.claims.Format != "" {
			rs = slices.Concat(f.reasons, Appraise(f.claims, p).Reasons)
		}
		return r.refuse(rs...)
	}
	c := f.claims
	a := appraisal{reasons: p.check(), notChecked: append(r.NotChecked, c.NotChecked...)}
	a.judge(c, p)
	until := a.dated(c, p, in.Now)
	a.reasons = slices.Concat(a.reasons, c.consistent(e.Format, in.Now), c.bound(want))
	r.Claims, r.Warnings, r.NotChecked = c, a.warnings, a.notChecked
	r.Until = earlier(until, in.Now.Add(p.maxAge()))
	if want == nil || len(a.warnings) > 0 {
		r.Status = Warning
	}
	return r.refuse(a.reasons...)
}

func (in Inputs) check() []Reason {
	var rs []Reason
	if in.Now.IsZero() {
		rs = append(rs, Reason{Code: CodeConfig, Path: "inputs.now", Got: "zero", Want: "the time to judge at"})
	}
	if in.Trust == nil {
		rs = append(rs, Reason{Code: CodeConfig, Path: "inputs.trust", Got: "none", Want: "a snapshot"})
	}
	if in.ReportData != nil && trivial(*in.ReportData) {
		rs = append(rs, Reason{Code: CodeBindingTrivial, Path: "inputs.report_data", Got: "zero or SHA-512 of nothing", Want: "a binding"})
	}
	return rs
}

// trivial knows the two values that evidence carries in the wild when nobody bound it.
func trivial(d [64]byte) bool { return d == [64]byte{} || d == sha512.Sum512(nil) }

// safely shields the process from a parser that panics on foreign bytes.
func safely(v Verifier, e Evidence, in Inputs) (u Unappraised, err error) {
	defer func() {
		if p := recover(); p != nil {
			// The panic's text may quote the foreign bytes: leave it out.
			u, err = Unappraised{}, Reason{Code: CodeVerifierPanic, Path: string(e.Format), Got: fmt.Sprintf("%T", p)}
		}
	}()
	return v.Verify(e, in)
}

func (c Claims) consistent(f Format, now time.Time) []Reason {
	var rs []Reason
	if c.Format != f {
		rs = append(rs, Reason{Code: CodeVerifierError, Path: "format", Got: fmt.Sprintf("%q", c.Format), Want: fmt.Sprintf("%q", f)})
	}
	if !now.Before(c.NotAfter) {
		rs = append(rs, Reason{Code: CodeCertExpired, Path: "not_after", Got: c.NotAfter.UTC().Format(time.RFC3339), Want: "after " + now.UTC().Format(time.RFC3339)})
	}
	return rs
}

func (c Claims) bound(want *[64]byte) []Reason {
	var rs []Reason
	if trivial(c.ReportData) {
		rs = append(rs, Reason{Code: CodeBindingTrivial, Path: "report_data", Got: "zero or SHA-512 of nothing", Want: "a binding"})
	}
	if want == nil {
		return rs
	}
	part := *want
	if c.HalfBound {
		part = [64]byte(append(bytes.Clone(want[:32]), make([]byte, 32)...))
	}
	if subtle.ConstantTimeCompare(c.ReportData[:], part[:]) != 1 {
		rs = append(rs, Reason{Code: CodeBindingMismatch, Path: "report_data", Got: hexText(c.ReportData[:8]) + "…", Want: hexText(want[:8]) + "…"})
	}
	return rs
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
