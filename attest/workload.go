package attest

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"
)

// The codes of Confidential Space. Those of certificates and signatures are the common ones: chain, cert.expired,
// cert.time, revoked, sig.invalid; a token without eat_nonce is freshness.
const (
	CodeCSSize      = "cs.size"       // more bytes than a token has
	CodeCSEncoding  = "cs.encoding"   // not three parts of unpadded base64url, or a foreign byte among them
	CodeCSJSON      = "cs.json"       // not one JSON object, a name twice, or nested too deep
	CodeCSHeader    = "cs.header"     // a header field that nobody here understands
	CodeCSAlg       = "cs.alg"        // anything but RS256
	CodeCSX5C       = "cs.x5c"        // not a leaf, an intermediate and a root of the form that Google's have
	CodeCSKid       = "cs.kid"        // signed by a key of no JWKS in the snapshot
	CodeCSClaims    = "cs.claims"     // a claim is absent or of another type
	CodeCSExpired   = "cs.expired"    // the token, where cert.expired is a certificate
	CodeCSNotBefore = "cs.not_before" // the token is of the future

	CodeCSIssuer      = "cs.issuer"
	CodeCSAudience    = "cs.audience"
	CodeCSHWModel     = "cs.hwmodel"
	CodeCSSWName      = "cs.swname"
	CodeCSSWVersion   = "cs.swversion"
	CodeCSDebug       = "cs.debug" // beside debug
	CodeCSSecureBoot  = "cs.secureboot"
	CodeCSSupport     = "cs.support"
	CodeCSMonitoring  = "cs.monitoring"
	CodeCSArgs        = "cs.args"
	CodeCSCmd         = "cs.cmd"
	CodeCSEnv         = "cs.env"
	CodeCSEnvOverride = "cs.env_override"
	CodeCSRestart     = "cs.restart"
	CodeCSSigned      = "cs.signed" // the image, by no key that is taken
	CodeCSAccount     = "cs.account"
	CodeCSProject     = "cs.project"
	CodeCSZone        = "cs.zone"
	CodeCSInstance    = "cs.instance"
)

// Claims of Confidential Space by which a policy judges.
const (
	HWModelTDX      = "GCP_INTEL_TDX"
	hwModelShielded = "GCP_SHIELDED_VM" // of no TEE

	dbgstatProduction = "disabled-since-boot"
)

// WorkloadClaims is what a Confidential Space token says (Google's "Attestation token claims"): Google's word about
// a machine, the image of its operating system and the container in it. The JSON has the names that the token has.
type WorkloadClaims struct {
	Issuer            string            `json:"iss"`
	Subject           string            `json:"sub"` // URL of the instance
	Audience          []string          `json:"aud"`
	IssuedAt          time.Time         `json:"iat"`
	NotBefore         time.Time         `json:"nbf"`
	Expires           time.Time         `json:"exp"`
	Nonces            []string          `json:"eat_nonce"`
	Profile           string            `json:"eat_profile"`
	HWModel           string            `json:"hwmodel"`
	AttesterTCB       []string          `json:"attester_tcb"` // "INTEL" where the hardware's own quote was looked at
	OEM               uint64            `json:"oemid"`
	SecureBoot        bool              `json:"secboot"`
	SWName            string            `json:"swname"`
	SWVersion         []string          `json:"swversion"`
	DebugStatus       string            `json:"dbgstat"`
	SupportAttributes []string          `json:"support_attributes"` // none on a debug image
	MemoryMonitoring  bool              `json:"monitoring_memory"`
	ServiceAccounts   []string          `json:"google_service_accounts"`
	Container         WorkloadContainer `json:"container"`
	GCE               WorkloadInstance  `json:"gce"`
}

// Debug says whether whoever rents the machine can look into it.
func (c *WorkloadClaims) Debug() bool { return c.DebugStatus != dbgstatProduction }

// WorkloadContainer is the submodule "container". Args and Env are what the process was started with; the overrides
// are the part of them that the operator of the machine chose.
type WorkloadContainer struct {
	Reference     string              `json:"image_reference"`
	Digest        string              `json:"image_digest"`
	ID            string              `json:"image_id"`
	RestartPolicy string              `json:"restart_policy"`
	Args          []string            `json:"args"`
	Env           map[string]string   `json:"env"`
	CmdOverride   []string            `json:"cmd_override"`
	EnvOverride   map[string]string   `json:"env_override"`
	Signatures    []WorkloadSignature `json:"image_signatures"` // that Google has verified
}

// WorkloadSignature is one signature over the container image. KeyID is the SHA-256 of the public key, in hex.
type WorkloadSignature struct {
	KeyID     string `json:"key_id"`
	Algorithm string `json:"signature_algorithm"`
}

// WorkloadInstance is the submodule "gce".
type WorkloadInstance struct {
	ProjectID     string `json:"project_id"`
	ProjectNumber string `json:"project_number"`
	Zone          string `json:"zone"`
	InstanceID    string `json:"instance_id"`
	InstanceName  string `json:"instance_name"`
}

// WorkloadPolicy is what is taken of a Confidential Space token, beside Policy.Measurements, which are the digests
// of container images. The zero value takes none. Debug images are refused always, and so is GCP_SHIELDED_VM, which
// is no TEE.
type WorkloadPolicy struct {
	Issuers   Set `yaml:"issuers"`   // "https://confidentialcomputing.googleapis.com"
	Audiences Set `yaml:"audiences"` // one of the token's has to be in it

	// HWModels should be GCP_INTEL_TDX alone. On AMD machines Confidential Space runs on SEV or SEV-ES and not on
	// SNP: the hypervisor can replay and remap the memory, and no report of the chip stands behind the token, so
	// that GCP_AMD_SEV is worth Google's word and no more.
	HWModels     Set    `yaml:"hwmodels"`
	SWNames      Set    `yaml:"swnames"`       // CONFIDENTIAL_SPACE; GCE is any other image
	MinSWVersion uint64 `yaml:"min_swversion"` // of the Confidential Space image: year, month, serial number: 250301
	SecureBoot   Demand `yaml:"secure_boot"`
	// Support is one of LATEST, STABLE, USABLE; an image that Google has withdrawn carries none of them.
	Support Set `yaml:"support_attributes"`
	// MonitoringOff is that the machine does not report its use of memory to its operator.
	MonitoringOff Demand `yaml:"monitoring_off"`

	Args List `yaml:"args"` // the whole command line
	// Env is NAME=value of every variable of the process; NAME=* takes any value, as HOSTNAME needs.
	Env Set `yaml:"env"`
	// CmdOverride and EnvOverride are what the operator may choose. An image that knows what it does with a
	// variable of the operator's names it here, all others have empty lists.
	CmdOverride List `yaml:"cmd_override"`
	EnvOverride Set  `yaml:"env_override"`
	Restart     Set  `yaml:"restart_policies"` // "Never", "OnFailure", "Always"
	SignedBy    Set  `yaml:"image_signed_by"`  // key ids, one of which has signed the image

	Accounts  Set `yaml:"service_accounts"` // every one of the machine's, of which there is one at least
	Projects  Set `yaml:"projects"`
	Zones     Set `yaml:"zones"`
	Instances Set `yaml:"instances"` // ids, not names
}

// List is one list that is taken, in its order, or any. The zero List takes the empty list. In YAML and JSON it is
// a list, or the word any.
type List struct {
	Any bool
	Of  []string
}

// MarshalJSON writes the list, or the word any.
func (l List) MarshalJSON() ([]byte, error) {
	if l.Any {
		return json.Marshal("any")
	}
	return json.Marshal(append([]string{}, l.Of...))
}

// UnmarshalYAML reads a list of texts, or the word any.
func (l *List) UnmarshalYAML(n *yaml.Node) error {
	*l = List{}
	if n.Kind == yaml.ScalarNode && n.Value == "any" {
		l.Any = true
		return nil
	}
	if n.Kind != yaml.SequenceNode || n.Decode(&l.Of) != nil {
		return fmt.Errorf("line %d: want a list, or the word any", n.Line)
	}
	return nil
}

func (p *WorkloadPolicy) appraise(c *WorkloadClaims, a *appraisal) {
	a.in(p.Issuers, CodeCSIssuer, "workload.iss", c.Issuer)
	a.some(p.Audiences, CodeCSAudience, "workload.aud", c.Audience)
	p.machine(c, a)
	p.image(c, a)
	p.container(&c.Container, a)
	a.every(p.Accounts, CodeCSAccount, "workload.google_service_accounts", c.ServiceAccounts)
	a.in(p.Projects, CodeCSProject, "workload.gce.project_id", c.GCE.ProjectID)
	a.in(p.Zones, CodeCSZone, "workload.gce.zone", c.GCE.Zone)
	a.in(p.Instances, CodeCSInstance, "workload.gce.instance_id", c.GCE.InstanceID)
}

func (p *WorkloadPolicy) machine(c *WorkloadClaims, a *appraisal) {
	if c.HWModel == hwModelShielded {
		a.refuse(CodeTEEType, "workload.hwmodel", c.HWModel, HWModelTDX)
	}
	a.in(p.HWModels, CodeCSHWModel, "workload.hwmodel", c.HWModel)
	a.demand(p.SecureBoot, c.SecureBoot, CodeCSSecureBoot, "workload.secboot", "false", "true")
}

func (p *WorkloadPolicy) image(c *WorkloadClaims, a *appraisal) {
	if c.Debug() {
		a.refuse(CodeCSDebug, "workload.dbgstat", fmt.Sprintf("%q", c.DebugStatus), dbgstatProduction)
	}
	a.in(p.SWNames, CodeCSSWName, "workload.swname", c.SWName)
	if !newer(c.SWVersion, p.MinSWVersion) {
		a.refuse(CodeCSSWVersion, "workload.swversion", fmt.Sprintf("%q", c.SWVersion), "at least "+strconv.FormatUint(p.MinSWVersion, 10))
	}
	a.some(p.Support, CodeCSSupport, "workload.support_attributes", c.SupportAttributes)
	a.demand(p.MonitoringOff, !c.MemoryMonitoring, CodeCSMonitoring, "workload.monitoring_memory", "true", "false")
}

// newer wants every version that the token names, of which there has to be one, to reach least.
func newer(versions []string, least uint64) bool {
	return len(versions) > 0 && !slices.ContainsFunc(versions, func(v string) bool {
		n, err := strconv.ParseUint(v, 10, 64)
		return err != nil || n < least
	})
}

func (p *WorkloadPolicy) container(c *WorkloadContainer, a *appraisal) {
	a.list(p.Args, CodeCSArgs, "workload.container.args", c.Args)
	a.list(p.CmdOverride, CodeCSCmd, "workload.container.cmd_override", c.CmdOverride)
	a.variables(p.Env, CodeCSEnv, "workload.container.env", c.Env)
	a.variables(p.EnvOverride, CodeCSEnvOverride, "workload.container.env_override", c.EnvOverride)
	a.in(p.Restart, CodeCSRestart, "workload.container.restart_policy", c.RestartPolicy)
	keys := make([]string, 0, len(c.Signatures))
	for _, s := range c.Signatures {
		keys = append(keys, s.KeyID)
	}
	a.some(p.SignedBy, CodeCSSigned, "workload.container.image_signatures", keys)
}

// some refuses values none of which the set takes.
func (a *appraisal) some(s Set, code, path string, got []string) {
	if s.Any {
		a.skip(path)
	} else if !slices.ContainsFunc(got, s.Has) {
		a.refuse(code, path, fmt.Sprintf("%q", got), s.String())
	}
}

// every refuses values that the set does not take, and that there are none.
func (a *appraisal) every(s Set, code, path string, got []string) {
	strange := func(v string) bool { return !s.Has(v) }
	if s.Any {
		a.skip(path)
	} else if len(got) == 0 || slices.ContainsFunc(got, strange) {
		a.refuse(code, path, fmt.Sprintf("%q", got), "some, each "+s.String())
	}
}

// list refuses another list, or one in another order.
func (a *appraisal) list(want List, code, path string, got []string) {
	if want.Any {
		a.skip(path)
	} else if !slices.Equal(got, want.Of) {
		a.refuse(code, path, fmt.Sprintf("%q", got), fmt.Sprintf("%q", want.Of))
	}
}

// variables refuses those that the set does not take. Their values stay out of the reason: some hold secrets.
func (a *appraisal) variables(s Set, code, path string, got map[string]string) {
	if s.Any {
		a.skip(path)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if !s.Has(name+"="+got[name]) && !s.Has(name+"=*") {
			a.refuse(code, path, fmt.Sprintf("%q", name), "a variable and value of the policy")
		}
	}
}
