package reference

import (
	"fmt"
	"reflect"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/consilium-fl/consilium/attest"
)

// PolicyVersion is the version of a policy file.
const PolicyVersion = "consilium.policy/v1"

// policyBody is the form of a policy in YAML, below its version and role. The block of a format that is not accepted
// may be left out; that of an accepted one may not.
type policyBody struct {
	Accept         []attest.Format        `yaml:"accept"`
	AllowSimulated bool                   `yaml:"allow_simulated"`
	Measurements   attest.Set             `yaml:"measurements"`
	Machines       attest.Set             `yaml:"machines"`
	MaxAge         time.Duration          `yaml:"max_age"`
	Deny           []string               `yaml:"deny_generations"`
	Warn           []string               `yaml:"warn_generations"`
	Revocation     bool                   `yaml:"revocation"`
	EndorsementAge time.Duration          `yaml:"endorsement_age"`
	Grace          time.Duration          `yaml:"grace"`
	SNP            *attest.SNPPolicy      `yaml:"snp,omitempty"`
	TDX            *attest.TDXPolicy      `yaml:"tdx,omitempty"`
	TPM            *attest.TPMPolicy      `yaml:"tpm,omitempty"`
	Azure          *attest.AzurePolicy    `yaml:"azure,omitempty"`
	Workload       *attest.WorkloadPolicy `yaml:"workload,omitempty"`
}

// ParsePolicy reads a policy file. Every key has to be there: an absent rule is an error and not a rule that takes
// anything.
func ParsePolicy(b []byte) (attest.Policy, error) {
	n, err := parse(b)
	if err != nil {
		return attest.Policy{}, fmt.Errorf("parsing policy: %w", err)
	}
	var f struct {
		Version string      `yaml:"version"`
		Role    attest.Role `yaml:"role"`
	}
	head, rest := split(n, "version", "role")
	if err := fill(head, reflect.ValueOf(&f).Elem(), ""); err != nil {
		return attest.Policy{}, fmt.Errorf("parsing policy: %w", err)
	}
	if f.Version != PolicyVersion {
		return attest.Policy{}, fmt.Errorf("parsing policy: version %q, want %q", f.Version, PolicyVersion)
	}
	p, err := parseBody(rest, f.Role)
	if err != nil {
		return attest.Policy{}, fmt.Errorf("parsing policy: %w", err)
	}
	return p, nil
}

// split takes the named keys out of a mapping.
func split(n *yaml.Node, names ...string) (head, rest *yaml.Node) {
	h, r := *n, *n
	h.Content, r.Content = nil, nil
	for i := 0; i+1 < len(n.Content); i += 2 {
		to := &r
		if slices.Contains(names, n.Content[i].Value) {
			to = &h
		}
		to.Content = append(to.Content, n.Content[i], n.Content[i+1])
	}
	return &h, &r
}

func parseBody(n *yaml.Node, role attest.Role) (attest.Policy, error) {
	var f policyBody
	if err := fill(n, reflect.ValueOf(&f).Elem(), ""); err != nil {
		return attest.Policy{}, err
	}
	p := attest.Policy{
		Role: role, Accept: f.Accept, AllowSimulated: f.AllowSimulated, Measurements: f.Measurements, Machines: f.Machines, MaxAge: f.MaxAge,
		DenyGenerations: f.Deny, WarnGenerations: f.Warn, Revocation: f.Revocation, EndorsementAge: f.EndorsementAge, Grace: f.Grace,
		SNP: f.SNP, TDX: f.TDX, TPM: f.TPM, Azure: f.Azure, Workload: f.Workload,
	}
	for _, format := range p.Accept {
		if known := append(attest.Formats(), attest.FormatSim); !slices.Contains(known, format) {
			return attest.Policy{}, fmt.Errorf("accept: format %q, want some of %q", format, known)
		}
	}
	for _, m := range p.Measurements.Of {
		if _, err := attest.ParseMeasurement(m); err != nil {
			return attest.Policy{}, fmt.Errorf("measurements: %w", err)
		}
	}
	if p.MaxAge == 0 {
		return attest.Policy{}, fmt.Errorf("max_age: got 0, want more, at most %s", attest.MaxAge)
	}
	return p, p.Validate()
}
