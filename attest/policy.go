package attest

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// MaxAge is the longest that an appraisal holds, and what a Policy without MaxAge means.
const MaxAge = time.Hour

// MaxGrace is the longest that a policy may take collateral and revocation lists past their end.
const MaxGrace = 7 * 24 * time.Hour

// Policy says which evidence of one role is taken. What is absent is refused: the zero Policy
// admits nobody, and a Set that takes anything says so with AnySet.
type Policy struct {
	Role           Role     // whose evidence this is about
	Accept         []Format // formats
	AllowSimulated bool     // the policy's half of taking a simulated TEE
	// Simulation is the process's half: its own file says `insecure: {simulated_tee: true}`.
	// Evidence of a simulated TEE needs both. It is no part of the digest, for it describes
	// who appraises and not what a consortium agreed on.
	Simulation   bool
	Measurements Set           // of Measurement
	Machines     Set           // "chip:…"
	MaxAge       time.Duration // how long an appraisal holds; zero means one hour, which is also the most

	DenyGenerations []string // product lines that are refused whatever they claim: "milan"
	WarnGenerations []string // and those that are taken with a warning
	// Revocation demands that every revocation list was there to look at.
	Revocation bool
	// EndorsementAge is the most that may have passed since the issue of a revocation list or of collateral, zero
	// for any. Grace is for how long one is taken after its end, with a warning.
	EndorsementAge, Grace time.Duration

	SNP      *SNPPolicy
	TDX      *TDXPolicy
	TPM      *TPMPolicy
	Azure    *AzurePolicy
	Workload *WorkloadPolicy

	// Also are further policies, each of which has to take the evidence too: a study's, a hospital's own. So whoever
	// adds one can only tighten.
	Also []Policy
}

func (p Policy) maxAge() time.Duration {
	age := MaxAge
	if p.MaxAge != 0 {
		age = min(p.MaxAge, age)
	}
	for _, q := range p.Also {
		age = min(age, q.maxAge())
	}
	return age
}

func (p Policy) check() []Reason {
	var a appraisal
	if p.Role != RoleCoordinator && p.Role != RoleNode {
		a.refuse(CodeConfig, "policy.role", fmt.Sprintf("%q", p.Role), "coordinator or node")
	}
	if p.MaxAge < 0 {
		a.refuse(CodeConfig, "policy.max_age", p.MaxAge.String(), "more than zero")
	}
	if p.EndorsementAge < 0 {
		a.refuse(CodeConfig, "policy.endorsement_age", p.EndorsementAge.String(), "zero or more")
	}
	if p.Grace < 0 || p.Grace > MaxGrace {
		a.refuse(CodeConfig, "policy.grace", p.Grace.String(), "zero to "+MaxGrace.String())
	}
	for _, q := range p.Also {
		if q.Role != p.Role {
			a.refuse(CodeConfig, "policy.also.role", fmt.Sprintf("%q", q.Role), fmt.Sprintf("%q", p.Role))
		}
		a.reasons = append(a.reasons, q.check()...)
	}
	return a.reasons
}

// Validate says what is wrong with a policy whatever the evidence: all of it, as reasons joined. A format that is
// accepted and of which nothing is said can never pass, so it is a mistake.
func (p Policy) Validate() error {
	a := appraisal{reasons: p.check()}
	if len(p.Accept) == 0 {
		a.refuse(CodeConfig, "policy.accept", "none", "a format at least")
	}
	said := map[string]bool{"snp": p.SNP != nil, "tdx": p.TDX != nil, "tpm": p.TPM != nil, "azure": p.Azure != nil, "workload": p.Workload != nil}
	for _, f := range p.Accept {
		for _, b := range blocks[f] {
			if !said[b] {
				a.refuse(CodeConfig, "policy."+b, "absent", fmt.Sprintf("what is taken of %q", f))
			}
		}
	}
	if p.SNP != nil {
		p.SNP.check(&a)
	}
	if p.TDX != nil {
		p.TDX.check(&a)
	}
	if p.TPM != nil {
		p.TPM.check(&a)
	}
	errs := make([]error, 0, len(a.reasons))
	for _, r := range a.reasons {
		errs = append(errs, r)
	}
	return errors.Join(errs...)
}

// Narrow returns p restricted to what q also admits: p is a consortium's, q a study's. A list,
// role or age that q leaves out stays as p has it. Simulated TEEs are taken only where both say
// so. A q that names anything p does not admit is an error that names the field: a study never
// widens its consortium. What q says of one format in particular is appraised beside p's, as Also.
func (p Policy) Narrow(q Policy) (Policy, error) {
	out := p
	var err error
	if out.Accept, err = subset("accept", p.Accept, q.Accept); err != nil {
		return Policy{}, err
	}
	if out.Measurements, err = p.Measurements.narrow("measurements", q.Measurements); err != nil {
		return Policy{}, err
	}
	if out.Machines, err = p.Machines.narrow("machines", q.Machines); err != nil {
		return Policy{}, err
	}
	switch {
	case q.Role != "" && q.Role != p.Role:
		return Policy{}, fmt.Errorf("narrowing policy: role: got %q, want %q", q.Role, p.Role)
	case q.AllowSimulated && !p.AllowSimulated:
		return Policy{}, fmt.Errorf("narrowing policy: allow_simulated: got true, want false")
	case q.Simulation && !p.Simulation:
		return Policy{}, fmt.Errorf("narrowing policy: simulation: got true, want false")
	case q.MaxAge < 0 || q.MaxAge > p.maxAge():
		return Policy{}, fmt.Errorf("narrowing policy: max_age: got %s, want at most %s", q.MaxAge, p.maxAge())
	}
	out.AllowSimulated = q.AllowSimulated
	if q.MaxAge != 0 {
		out.MaxAge = q.MaxAge
	}
	return out, nil
}

// narrow returns q, which has to lie within s; a q that lists nothing stays s.
func (s Set) narrow(field string, q Set) (Set, error) {
	if !q.Any && len(q.Of) == 0 {
		return Set{Any: s.Any, Of: slices.Clone(s.Of)}, nil
	}
	if s.Any {
		return Set{Any: q.Any, Of: slices.Clone(q.Of)}, nil
	}
	if q.Any {
		return Set{}, fmt.Errorf("narrowing policy: %s: any is wider than the wider policy", field)
	}
	of, err := subset(field, s.Of, q.Of)
	return Set{Of: of}, err
}

// subset returns q, all of whose items have to be in p; an absent q is p.
func subset[T ~string](field string, p, q []T) ([]T, error) {
	if len(q) == 0 {
		return slices.Clone(p), nil
	}
	for _, v := range q {
		if !slices.Contains(p, v) {
			return nil, fmt.Errorf("narrowing policy: %s: %q is not in the wider policy", field, v)
		}
	}
	return slices.Clone(q), nil
}

func sortedSet[T ~string](s []T) []T {
	s = slices.Clone(s)
	slices.Sort(s)
	return slices.Compact(s)
}
