package attest

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Status is the verdict in the words of the RATS working group's AR4SI draft.
type Status string

// The statuses. A simulated TEE is never better than a warning.
const (
	Affirming       Status = "affirming"
	Warning         Status = "warning"
	Contraindicated Status = "contraindicated"
)

// NotCheckedBinding and NotCheckedMachine are what a Result may list under NotChecked, besides the paths that a
// verifier had no means to check and those of which the policy takes any value.
const (
	NotCheckedBinding = "binding"
	NotCheckedMachine = "machine"
)

// appraisal collects what one policy has to say.
type appraisal struct {
	reasons, warnings []Reason
	notChecked        []string
}

func (a *appraisal) refuse(code, path, got, want string) {
	a.reasons = append(a.reasons, Reason{Code: code, Path: path, Got: got, Want: want})
}

func (a *appraisal) warn(code, path, got, want string) {
	a.warnings = append(a.warnings, Reason{Code: code, Path: path, Got: got, Want: want})
}

// skip says that nobody compared what path names.
func (a *appraisal) skip(path string) {
	if !slices.Contains(a.notChecked, path) {
		a.notChecked = append(a.notChecked, path)
	}
}

// in refuses a value that the set does not take, and says where it takes any.
func (a *appraisal) in(s Set, code, path, got string) {
	if s.Any {
		a.skip(path)
	} else if !s.Has(got) {
		a.refuse(code, path, fmt.Sprintf("%q", got), s.String())
	}
}

// inBytes is in for bytes, which a set lists in hex; "zero" stands for nothing but zeros.
func (a *appraisal) inBytes(s Set, code, path string, got HexBytes) {
	if s.Any {
		a.skip(path)
	} else if !s.hasBytes(got) {
		a.refuse(code, path, got.String(), s.String())
	}
}

// Appraise judges claims by a policy: total, deterministic, every reason. It knows no time:
// Until is the end that the claims name, and [Verifiers.Check] judges that.
func Appraise(c Claims, p Policy) Result {
	a := appraisal{reasons: p.check(), notChecked: slices.Clone(c.NotChecked)}
	a.judge(c, p)
	r := Result{Status: Affirming, Claims: c, Until: c.NotAfter, Policy: p.Digest(), Warnings: a.warnings, NotChecked: a.notChecked}
	if len(a.warnings) > 0 {
		r.Status = Warning
	}
	return r.refuse(a.reasons...)
}

func (a *appraisal) judge(c Claims, p Policy) {
	if !slices.Contains(p.Accept, c.Format) {
		a.refuse(CodeFormatUnlisted, "format", fmt.Sprintf("%q", c.Format), fmt.Sprintf("one of %q", p.Accept))
	}
	if c.Debug {
		a.refuse(CodeDebug, "debug", "true", "false")
	}
	switch {
	case c.Simulated && (!p.AllowSimulated || !p.Simulation):
		a.refuse(CodeSimDenied, "simulated", fmt.Sprintf("allow_simulated %t, insecure.simulated_tee %t", p.AllowSimulated, p.Simulation), "both true")
	case c.Simulated:
		a.warn(CodeSimDenied, "simulated", "true", "hardware")
	}
	if c.Format != FormatVTPM { // which measures by registers alone
		a.in(p.Measurements, CodeMeasurementUnlisted, "measurement", string(c.Measurement))
	}
	a.in(p.Machines, CodeMachineUnlisted, NotCheckedMachine, c.Machine)
	if slices.Contains(p.DenyGenerations, c.Generation) {
		a.refuse(CodeGeneration, "generation", fmt.Sprintf("%q", c.Generation), fmt.Sprintf("none of %q", p.DenyGenerations))
	}
	if slices.Contains(p.WarnGenerations, c.Generation) {
		a.warn(CodeGeneration, "generation", fmt.Sprintf("%q", c.Generation), fmt.Sprintf("better none of %q", p.WarnGenerations))
	}
	for _, path := range c.NotChecked {
		if p.Revocation && strings.HasPrefix(path, "crl:") {
			a.refuse(CodeCRLMissing, path, "none", "a revocation list")
		}
	}
	a.formats(c, p)
	for _, q := range p.Also {
		q.Simulation = p.Simulation // which describes who appraises
		a.judge(c, q)
	}
}

// formats judges the blocks. One that the format consists of has to be in the claims and in the policy.
func (a *appraisal) formats(c Claims, p Policy) {
	for _, b := range [...]struct {
		name             string
		claimed, allowed bool
	}{
		{"azure", c.Azure != nil, p.Azure != nil},
		{"snp", c.SNP != nil, p.SNP != nil},
		{"tdx", c.TDX != nil, p.TDX != nil},
		{"tpm", c.TPM != nil, p.TPM != nil},
		{"workload", c.Workload != nil, p.Workload != nil},
	} {
		switch wanted := slices.Contains(blocks[c.Format], b.name); {
		case !b.claimed && !c.authentic(): // as much as could be read of what nobody vouches for
		case b.claimed != wanted:
			a.refuse(CodeVerifierError, b.name, fmt.Sprintf("claimed %t", b.claimed), fmt.Sprintf("%t by format %q", wanted, c.Format))
		case wanted && !b.allowed:
			a.refuse(CodeConfig, "policy."+b.name, "absent", fmt.Sprintf("what is taken of %q", c.Format))
		case wanted:
			a.block(b.name, c, p)
		}
	}
}

func (a *appraisal) block(name string, c Claims, p Policy) {
	switch name {
	case "azure":
		p.Azure.appraise(c.Azure, a)
	case "snp":
		p.SNP.appraise(c.SNP, a)
	case "tdx":
		p.TDX.appraise(c.TDX, a)
	case "tpm":
		p.TPM.appraise(c.TPM, a)
	case "workload":
		p.Workload.appraise(c.Workload, a)
	}
}

// dated holds revocation lists and collateral against the time: too new, past their end and past the grace, or
// older than the policy takes. It returns until when all of them hold.
func (a *appraisal) dated(c Claims, p Policy, now time.Time) (until time.Time) {
	until = c.NotAfter
	for _, d := range c.Dated {
		end := d.NextUpdate.Add(p.Grace)
		if p.EndorsementAge > 0 {
			end = earlier(end, d.ThisUpdate.Add(p.EndorsementAge))
		}
		until = earlier(until, end)
		switch {
		case now.Before(d.ThisUpdate):
			a.refuse(CodeCertTime, d.Name, stamp(d.ThisUpdate), "at most "+stamp(now))
		case !now.Before(end):
			a.refuse(d.Code, d.Name, stamp(end), "after "+stamp(now))
		case !now.Before(d.NextUpdate):
			a.warn(d.Code, d.Name, stamp(d.NextUpdate), "after "+stamp(now))
		}
	}
	for _, q := range p.Also {
		until = earlier(until, a.dated(c, q, now))
	}
	return until
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
