package attest

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/consilium-fl/consilium/internal/signed"
)

// Result is a verdict with all its reasons, and with the digests of what it was reached with. Its JSON has the
// shape of an EAR, an EAT attestation result (draft-ietf-rats-ear).
type Result struct {
	Status        Status
	Claims        Claims
	Reasons       []Reason // why it is contraindicated: all, in a fixed order
	Warnings      []Reason // why it is no better than a warning
	NotChecked    []string // what nobody compared
	Until         time.Time
	Policy, Trust [32]byte
}

// OK says whether the peer may be admitted: affirming or warning, and bound. Evidence that was
// looked at without a binding may be shown, but it could be anyone's.
func (r Result) OK() bool {
	return (r.Status == Affirming || r.Status == Warning) && !slices.Contains(r.NotChecked, NotCheckedBinding)
}

// Authentic says that a verifier vouched for the claims: signature, chain and times held, whatever the policy said.
func (r Result) Authentic() bool { return r.Claims.authentic() }

// refuse adds reasons; one is enough.
func (r Result) refuse(rs ...Reason) Result {
	r.Reasons = append(r.Reasons, rs...)
	if len(r.Reasons) > 0 {
		r.Status, r.Until = Contraindicated, time.Time{}
	}
	return r
}

// Vector is the trustworthiness vector of AR4SI (draft-ietf-rats-ar4si, section 2.3): 0 says nothing, 2 to 31
// affirm, 32 to 95 warn, 96 to 127 advise against. Claims of AR4SI that Consilium does not judge are left out.
type Vector struct {
	InstanceIdentity int8 `json:"instance-identity"`
	Configuration    int8 `json:"configuration"`
	Executables      int8 `json:"executables"`
	Hardware         int8 `json:"hardware"`
	RuntimeOpaque    int8 `json:"runtime-opaque"`
}

// The values of a Vector.
const (
	vectorAffirmed int8 = 2
	vectorBoot     int8 = 3 // executables: recognised at start, nothing known since
	vectorWarning  int8 = 32
	vectorContra   int8 = 96
	vectorUnproven int8 = 99 // cryptographic validation failed
)

// Vector says of each part of the attester how far it is to be trusted. It is never better than the Status.
func (r Result) Vector() Vector {
	var v Vector
	if r.Claims.authentic() {
		v = Vector{Configuration: vectorAffirmed, Executables: vectorBoot, Hardware: vectorAffirmed, RuntimeOpaque: vectorAffirmed}
		if !slices.Contains(r.NotChecked, NotCheckedMachine) {
			v.InstanceIdentity = vectorAffirmed
		}
		if r.Claims.Simulated {
			v.RuntimeOpaque = vectorWarning
		}
	}
	for _, w := range r.Warnings {
		e := v.element(w.Code)
		*e = max(*e, vectorWarning)
	}
	for _, reason := range r.Reasons {
		value := vectorContra
		if unproven(reason.Code) {
			value = vectorUnproven
		}
		e := v.element(reason.Code)
		*e = max(*e, value)
	}
	return v
}

// element is the part of the attester that a code speaks of.
func (v *Vector) element(code string) *int8 {
	switch head, _, _ := strings.Cut(code, "."); head {
	case "identity", "binding", "freshness", "log":
		return &v.InstanceIdentity
	case "measurement", "rtmr", "pcr", "image":
		return &v.Executables
	case "debug", "migratable", "policy", "posture", "vmpl", "config", "hcl", "cs", "tdx":
		return &v.Configuration
	}
	return &v.Hardware
}

func unproven(code string) bool {
	for _, prefix := range []string{"sig.", "chain", "qe.sig", "parse."} {
		if strings.HasPrefix(code, prefix) {
			return true
		}
	}
	return false
}

// authentic says whether a verifier vouched for the claims: a Result that was refused before has none.
func (c Claims) authentic() bool { return !c.NotAfter.IsZero() }

// MarshalJSON writes the result as an EAR's submodule does, with Consilium's own claims beside the standard's.
func (r Result) MarshalJSON() ([]byte, error) {
	out := struct {
		Status     Status    `json:"ear.status"`
		Vector     Vector    `json:"ear.trustworthiness-vector"`
		Policy     string    `json:"ear.appraisal-policy-id"`
		Trust      string    `json:"trust"`
		Until      time.Time `json:"until"`
		Reasons    []Reason  `json:"reasons"`
		Warnings   []Reason  `json:"warnings"`
		NotChecked []string  `json:"not_checked"`
		Claims     *Claims   `json:"claims"`
	}{
		r.Status, r.Vector(), signed.DigestText(r.Policy), signed.DigestText(r.Trust), r.Until,
		append([]Reason{}, r.Reasons...), append([]Reason{}, r.Warnings...), append([]string{}, r.NotChecked...), nil,
	}
	if r.Claims.authentic() {
		out.Claims = &r.Claims
	}
	return json.Marshal(out)
}
