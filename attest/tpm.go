package attest

import (
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// TPMClaims are what a TPM 2.0 quote says (TPM 2.0 Library, part 2, section 10.12), and what the log of what was
// measured adds to it.
type TPMClaims struct {
	// PCRs are the quoted registers of the SHA-256 bank, by index. No other bank counts.
	PCRs     map[int]HexBytes `json:"pcrs"`
	Nonce    HexBytes         `json:"nonce"`     // qualifying data
	Firmware string           `json:"firmware"`  // of the TPM, in hex
	Resets   uint32           `json:"resets"`    // of the TPM: restarts of the machine
	Restarts uint32           `json:"restarts"`  // resumptions since
	EventLog *TPMEventLog     `json:"event_log"` // nil when none came along
	GCE      *GCEInstance     `json:"gce,omitempty"`
}

// TPMEventLog is what the firmware's log (TCG PC Client Platform Firmware Profile, section 10) tells of how the
// registers came about.
type TPMEventLog struct {
	Events int `json:"events"`
	// PCRs are the registers that the log leads to. Those of the firmware, 0 to 7, are always among them.
	PCRs []int `json:"pcrs"`
	// Unexplained are registers that the log names and does not lead to: the running system went on with them.
	Unexplained []int `json:"unexplained,omitempty"`
	// SecureBoot is nil where the log does not begin register 7 with the variable of that name.
	SecureBoot *bool  `json:"secure_boot"`
	Firmware   string `json:"firmware,omitempty"` // version that the firmware measures of itself, as text or in hex
}

// GCEInstance is the machine that Google certified the attestation key of (extension 1.3.6.1.4.1.11129.2.1.21).
type GCEInstance struct {
	Project       string `json:"project"`
	ProjectNumber uint64 `json:"project_number"`
	Zone          string `json:"zone"`
	ID            uint64 `json:"id"`
	Name          string `json:"name"`
}

// Demand says whether a policy insists on something. The zero Demand is neither, and refuses.
type Demand string

// The demands.
const (
	Required Demand = "required"
	Optional Demand = "optional"
)

// demand refuses what is required and not so; what is optional is listed as not compared.
func (a *appraisal) demand(d Demand, ok bool, code, path, got, want string) {
	switch {
	case d == Optional:
		a.skip(path)
	case d != Required:
		a.refuse(CodeConfig, "policy."+path, fmt.Sprintf("%q", d), "required or optional")
	case !ok:
		a.refuse(code, path, got, want)
	}
}

// TPMPolicy is what is taken of a TPM's quote.
type TPMPolicy struct {
	// PCRs gives the values that are taken of a register. One at least has to be named: the registers are all that
	// a quote says of the software.
	PCRs       map[int]Set `yaml:"pcrs"`
	EventLog   Demand      `yaml:"event_log"`   // that a log leads to the registers
	SecureBoot Demand      `yaml:"secure_boot"` // that the log says so; Azure's reports say it too, see AzurePolicy
	Firmware   Set         `yaml:"firmware"`    // of the TPM, in hex
	Projects   Set         `yaml:"projects"`    // of Google Cloud, by id; for other TPMs it says nothing
}

// check says what is wrong with a policy whatever the evidence.
func (p *TPMPolicy) check(a *appraisal) {
	if len(p.PCRs) == 0 {
		a.refuse(CodeConfig, "policy.tpm.pcrs", "none", "a register at least")
	}
	for _, i := range slices.Sorted(maps.Keys(p.PCRs)) {
		path := "policy.tpm.pcrs." + strconv.Itoa(i)
		if i < 0 || i > 23 {
			a.refuse(CodeConfig, path, "no such register", "0 to 23")
		}
		for _, v := range p.PCRs[i].Of {
			if b, err := hex.DecodeString(v); v != "zero" && (err != nil || len(b) != 32 || strings.ToLower(v) != v) {
				a.refuse(CodeConfig, path, fmt.Sprintf("%q", v), "64 digits of lower-case hex, or zero")
			}
		}
	}
}

func (p *TPMPolicy) appraise(c *TPMClaims, a *appraisal) {
	p.check(a)
	for _, i := range slices.Sorted(maps.Keys(p.PCRs)) {
		path := "tpm.pcrs." + strconv.Itoa(i)
		if got, quoted := c.PCRs[i]; quoted {
			a.inBytes(p.PCRs[i], CodePCRUnlisted, path, got)
		} else {
			a.refuse(CodePCRUnlisted, path, "not quoted", p.PCRs[i].String())
		}
	}
	log := c.EventLog
	a.demand(p.EventLog, log != nil, CodeTPMEventLog, "tpm.event_log", "none", "a log")
	got := "unknown"
	if log != nil && log.SecureBoot != nil {
		got = strconv.FormatBool(*log.SecureBoot)
	}
	a.demand(p.SecureBoot, got == "true", CodeSecureBoot, "tpm.event_log.secure_boot", got, "true")
	if log != nil {
		for _, i := range log.Unexplained {
			a.skip("tpm.event_log.pcrs." + strconv.Itoa(i))
		}
	}
	a.in(p.Firmware, CodeTPMFirmware, "tpm.firmware", c.Firmware)
	if c.GCE != nil {
		a.in(p.Projects, CodeTPMProject, "tpm.gce.project", c.GCE.Project)
	}
}
