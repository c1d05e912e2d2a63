package attest

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/consilium-fl/consilium/internal/signed"
)

// Claims is what evidence says, once it has been verified. They are worth something only in a
// Result of Check or Recheck: claims that anybody else made say nothing about a machine.
type Claims struct {
	Format      Format
	Measurement [32]byte
	Machine     string // "chip:…"; empty when the format names none
	Debug       bool
	Simulated   bool
	NotAfter    time.Time // end of the certificate or statement that vouches
	ReportData  [64]byte  // what the evidence is bound to; Check compares it
}

// MarshalJSON writes digests as text, in snake case.
func (c Claims) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Format      Format    `json:"format"`
		Measurement string    `json:"measurement"`
		Machine     string    `json:"machine,omitempty"`
		Debug       bool      `json:"debug"`
		Simulated   bool      `json:"simulated"`
		NotAfter    time.Time `json:"not_after"`
		ReportData  string    `json:"report_data"`
	}{c.Format, signed.DigestText(c.Measurement), c.Machine, c.Debug, c.Simulated, c.NotAfter, hexText(c.ReportData[:])})
}

// Status is the verdict in the words of the RATS working group's AR4SI draft.
type Status string

// The statuses. A simulated TEE is never better than a warning.
const (
	Affirming       Status = "affirming"
	Warning         Status = "warning"
	Contraindicated Status = "contraindicated"
)

// NotCheckedBinding and NotCheckedMachine are what a Result may list under NotChecked.
const (
	NotCheckedBinding = "binding"
	NotCheckedMachine = "machine"
)

// Result is a verdict with all its reasons, and with the digests of what it was reached with.
type Result struct {
	Status        Status
	Claims        Claims
	Reasons       []Reason // why it is contraindicated: all, in a fixed order
	NotChecked    []string // what nobody compared
	Until         time.Time
	Policy, Trust [32]byte
}

// OK says whether the peer may be admitted: affirming or warning, and bound. Evidence that was
// looked at without a binding may be shown, but it could be anyone's.
func (r Result) OK() bool {
	return (r.Status == Affirming || r.Status == Warning) && !slices.Contains(r.NotChecked, NotCheckedBinding)
}

// Appraise judges claims by a policy: total, deterministic, every reason. It knows no time:
// Until is the end that the claims name, and [Verifiers.Check] judges that.
func Appraise(c Claims, p Policy) Result {
	rs := p.check()
	if !slices.Contains(p.Accept, c.Format) {
		rs = append(rs, Reason{Code: CodeFormatUnlisted, Path: "format", Got: fmt.Sprintf("%q", c.Format), Want: fmt.Sprintf("one of %q", p.Accept)})
	}
	if c.Debug {
		rs = append(rs, Reason{Code: CodeDebug, Path: "debug", Got: "true", Want: "false"})
	}
	if c.Simulated && (!p.AllowSimulated || !p.Simulation) {
		rs = append(rs, Reason{
			Code: CodeSimDenied, Path: "simulated", Got: fmt.Sprintf("allow_simulated %t, insecure.simulated_tee %t", p.AllowSimulated, p.Simulation), Want: "both true",
		})
	}
	if !slices.Contains(p.Measurements, c.Measurement) {
		rs = append(rs, Reason{Code: CodeMeasurementUnlisted, Path: "measurement", Got: signed.DigestText(c.Measurement), Want: fmt.Sprintf("one of %d listed", len(p.Measurements))})
	}
	if len(p.Machines) > 0 && !slices.Contains(p.Machines, c.Machine) {
		rs = append(rs, Reason{Code: CodeMachineUnlisted, Path: "machine", Got: fmt.Sprintf("%q", c.Machine), Want: fmt.Sprintf("one of %d listed", len(p.Machines))})
	}
	r := Result{Status: Affirming, Claims: c, Until: c.NotAfter, Policy: p.Digest()}
	if len(p.Machines) == 0 {
		r.NotChecked = append(r.NotChecked, NotCheckedMachine)
	}
	if c.Simulated {
		r.Status = Warning
	}
	return r.refuse(rs...)
}

// refuse adds reasons; one is enough.
func (r Result) refuse(rs ...Reason) Result {
	r.Reasons = append(r.Reasons, rs...)
	if len(r.Reasons) > 0 {
		r.Status, r.Until = Contraindicated, time.Time{}
	}
	return r
}
