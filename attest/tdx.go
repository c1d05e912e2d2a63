package attest

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// TDXClaims are what a TD quote says (Intel TDX DCAP Quoting Library API, appendix A.3), what the certificate of
// its platform says, and what Intel's collateral says of both.
type TDXClaims struct {
	QuoteVersion int `json:"quote_version"`

	TEETCBSVN      HexBytes    `json:"tee_tcb_svn"`            // 16 bytes: when the TD was started
	TEETCBSVN2     HexBytes    `json:"tee_tcb_svn2,omitempty"` // now; TDX 1.5 body only
	MRSEAM         HexBytes    `json:"mr_seam"`
	MRSignerSEAM   HexBytes    `json:"mr_signer_seam"`
	SEAMAttributes HexBytes    `json:"seam_attributes"`
	Attributes     HexBytes    `json:"attributes"`
	XFAM           HexBytes    `json:"xfam"`
	MRConfigID     HexBytes    `json:"mr_config_id"`
	MROwner        HexBytes    `json:"mr_owner"`
	MROwnerConfig  HexBytes    `json:"mr_owner_config"`
	MRServiceTD    HexBytes    `json:"mr_service_td,omitempty"` // TDX 1.5 body only
	RTMR           [4]HexBytes `json:"rtmr"`

	FMSPC      HexBytes `json:"fmspc"`
	PCEID      HexBytes `json:"pce_id"`
	PPID       HexBytes `json:"ppid"`
	PIID       HexBytes `json:"piid,omitempty"` // platform instance id, where the platform CA wrote one
	Components HexBytes `json:"tcb_components"` // SVNs of the 16 SGX components
	PCESVN     int      `json:"pce_svn"`

	Platform *TDXTCB `json:"platform,omitempty"` // nil without TCB info
	Module   *TDXTCB `json:"module,omitempty"`   // nil also for TDX modules 1.0, which the platform's level covers
	QE       *TDXTCB `json:"qe,omitempty"`       // nil without a QE identity

	EventLog *TDXEventLog `json:"event_log,omitempty"` // nil when none came along
}

// TDXTCB is the level of one half of the TCB in Intel's collateral.
type TDXTCB struct {
	Status           string      `json:"status"` // one of the TDX statuses, empty when no level matches
	Date             string      `json:"date"`   // of the level, "2024-03-13"
	Advisories       []string    `json:"advisories,omitempty"`
	EvaluationNumber int         `json:"evaluation_number"`
	Behind           []TDXBehind `json:"behind,omitempty"` // what is short of the newest level
}

// TDXBehind is a component that is short of the newest level.
type TDXBehind struct {
	Component string `json:"component"` // "sgx[0] Early Microcode Update"
	Got       int    `json:"got"`
	Want      int    `json:"want"`
}

// TDXEventLog is what the CC event log (UEFI 2.10, section 38.4) says was measured into the RTMRs. A register covers
// the digests in it and nothing else: the kind of an event, and the name that the firmware gives what it measured,
// are the log's word.
type TDXEventLog struct {
	Replay [4]HexBytes `json:"replay"` // nil for a register that no event names
	Events []TDXEvents `json:"events"` // sorted
}

// TDXEvents are events of one kind in one register.
type TDXEvents struct {
	RTMR int    `json:"rtmr"`
	Type string `json:"type"` // "EV_PLATFORM_CONFIG_FLAGS"
	Name string `json:"name"` // one of the TDXEvent names, or empty
	// Proven says that the digest is that of the event's own text, so that the register covers the text as well.
	Proven bool `json:"proven"`
	Count  int  `json:"count"`
}

// The names of measured things that a policy can ask for.
const (
	TDXEventACPI          = "acpi"             // tables that the host gave the firmware
	TDXEventSecureBoot    = "secure-boot"      // the variable SecureBoot
	TDXEventPK            = "secure-boot-pk"   // and those of its keys
	TDXEventKEK           = "secure-boot-kek"  //
	TDXEventDB            = "secure-boot-db"   //
	TDXEventDBX           = "secure-boot-dbx"  //
	TDXEventAuthority     = "secure-boot-auth" // the key that let an image pass
	TDXEventMOK           = "mok"              // the shim's own keys
	TDXEventTDHOB         = "td-hob"           // memory map and the like, from the host
	TDXEventFirmware      = "firmware-volume"
	TDXEventBootVariable  = "boot-variable"
	TDXEventPartitions    = "partition-table"
	TDXEventImage         = "boot-image" // an EFI program: boot loader, kernel
	TDXEventGrubCommand   = "grub-command"
	TDXEventFile          = "grub-file"
	TDXEventKernelCmdline = "kernel-cmdline"
	TDXEventInitrd        = "initrd"
	TDXEventSeparator     = "separator"
	TDXEventAction        = "action"
)

var tdxEvents = []string{
	TDXEventACPI, TDXEventSecureBoot, TDXEventPK, TDXEventKEK, TDXEventDB, TDXEventDBX, TDXEventAuthority, TDXEventMOK, TDXEventTDHOB, TDXEventFirmware,
	TDXEventBootVariable, TDXEventPartitions, TDXEventImage, TDXEventGrubCommand, TDXEventFile, TDXEventKernelCmdline, TDXEventInitrd, TDXEventSeparator, TDXEventAction,
}

// The statuses of a TCB level (Intel PCS API v4, TCB info v3).
const (
	TDXUpToDate                          = "UpToDate"
	TDXSWHardeningNeeded                 = "SWHardeningNeeded"
	TDXConfigurationNeeded               = "ConfigurationNeeded"
	TDXConfigurationAndSWHardeningNeeded = "ConfigurationAndSWHardeningNeeded"
	TDXOutOfDate                         = "OutOfDate"
	TDXOutOfDateConfigurationNeeded      = "OutOfDateConfigurationNeeded"
	TDXRevoked                           = "Revoked"
)

// tdxStatus gives the last part of the code when a status is not taken: "tcb.platform.out_of_date".
var tdxStatus = map[string]string{
	TDXUpToDate:                          "up_to_date",
	TDXSWHardeningNeeded:                 "sw_hardening_needed",
	TDXConfigurationNeeded:               "configuration_needed",
	TDXConfigurationAndSWHardeningNeeded: "configuration_and_sw_hardening_needed",
	TDXOutOfDate:                         "out_of_date",
	TDXOutOfDateConfigurationNeeded:      "out_of_date_configuration_needed",
	TDXRevoked:                           "revoked",
}

// TDXPolicy is what is taken of a TD. The zero policy takes none.
type TDXPolicy struct {
	// The statuses that are taken of either half of the TCB, and of the quoting enclave. Revoked is never taken.
	Platform Set `yaml:"platform"`
	Module   Set `yaml:"module"`
	QE       Set `yaml:"qe"`
	// Advisories are those that may be open where a status other than UpToDate is taken: "INTEL-SA-00837".
	Advisories    Set    `yaml:"advisories"`
	MinEvaluation int    `yaml:"min_evaluation"` // least tcbEvaluationDataNumber of the collateral
	MinTCBDate    string `yaml:"min_tcb_date"`   // least date of the levels, "2024-03-13", or the word any

	Attributes    Set `yaml:"attributes"` // 8 bytes in hex, exactly: "0000001000000000"
	XFAM          Set `yaml:"xfam"`       // the same
	MRSEAM        Set `yaml:"mr_seam"`
	MRConfigID    Set `yaml:"mr_config_id"`
	MROwner       Set `yaml:"mr_owner"`
	MROwnerConfig Set `yaml:"mr_owner_config"`
	MRServiceTD   Set `yaml:"mr_service_td"` // a TDX 1.0 body does not show it, and is taken with a note

	RTMR0 Set `yaml:"rtmr0"`
	RTMR1 Set `yaml:"rtmr1"`
	RTMR2 Set `yaml:"rtmr2"`
	RTMR3 Set `yaml:"rtmr3"`
	// Replay demands that the event log explains each register that is not zero and not listed above. A log that
	// adds up to another value than the quote has is refused in any case.
	Replay Demand `yaml:"replay"`
	// Events has to be in the log, in registers that it explains: a list of TDXEvent names.
	Events Set `yaml:"events"`
}

// check says what is wrong with a policy whatever the evidence.
func (p *TDXPolicy) check(a *appraisal) {
	for _, s := range []struct {
		path string
		set  Set
	}{{"platform", p.Platform}, {"module", p.Module}, {"qe", p.QE}} {
		for _, status := range s.set.Of {
			if tdxStatus[status] == "" || status == TDXRevoked {
				a.refuse(CodeConfig, "policy.tdx."+s.path, fmt.Sprintf("%q", status), "a status of Intel's that can be taken")
			}
		}
	}
	if _, err := time.Parse(time.DateOnly, p.MinTCBDate); err != nil && p.MinTCBDate != "any" {
		a.refuse(CodeConfig, "policy.tdx.min_tcb_date", fmt.Sprintf("%q", p.MinTCBDate), "a date such as 2024-03-13, or any")
	}
	if p.MinEvaluation < 0 {
		a.refuse(CodeConfig, "policy.tdx.min_evaluation", strconv.Itoa(p.MinEvaluation), "zero or more")
	}
	if p.Events.Any {
		a.refuse(CodeConfig, "policy.tdx.events", "any", "a list")
	}
	for _, name := range p.Events.Of {
		if !slices.Contains(tdxEvents, name) {
			a.refuse(CodeConfig, "policy.tdx.events", fmt.Sprintf("%q", name), fmt.Sprintf("some of %q", tdxEvents))
		}
	}
}

func (p *TDXPolicy) appraise(c *TDXClaims, a *appraisal) {
	p.check(a)
	if c.Platform == nil {
		a.refuse(CodeCollateralMissing, "collateral.tcb_info", "none", "TCB info of FMSPC "+c.FMSPC.String())
	} else {
		p.half(a, tdxPlatform, p.Platform, c.Platform)
	}
	if c.Module != nil {
		p.half(a, tdxModule, p.Module, c.Module)
	}
	if c.QE == nil {
		a.refuse(CodeCollateralMissing, "collateral.qe_identity", "none", "an identity of the quoting enclave")
	} else {
		p.half(a, tdxQE, p.QE, c.QE)
	}
	a.inBytes(p.Attributes, CodeTDXAttributes, "tdx.attributes", c.Attributes)
	a.inBytes(p.XFAM, CodeTDXXFAM, "tdx.xfam", c.XFAM)
	a.inBytes(p.MRSEAM, CodeTDXMRSEAM, "tdx.mr_seam", c.MRSEAM)
	a.inBytes(p.MRConfigID, CodeTDXMRConfig, "tdx.mr_config_id", c.MRConfigID)
	a.inBytes(p.MROwner, CodeTDXMROwner, "tdx.mr_owner", c.MROwner)
	a.inBytes(p.MROwnerConfig, CodeTDXMROwnerConfig, "tdx.mr_owner_config", c.MROwnerConfig)
	if c.MRServiceTD == nil {
		a.skip("tdx.mr_service_td")
	} else {
		a.inBytes(p.MRServiceTD, CodeTDXServiceTD, "tdx.mr_service_td", c.MRServiceTD)
	}
	p.registers(c, a)
	p.events(c, a)
}

// The halves of the TCB, and what certifies them, as paths.
const (
	tdxPlatform = "tdx.platform"
	tdxModule   = "tdx.module"
	tdxQE       = "tdx.qe"
)

// half judges one level of the collateral, and names every component that is short of the newest.
func (p *TDXPolicy) half(a *appraisal, path string, accept Set, t *TDXTCB) {
	code := func(of string) string { return "tcb." + strings.TrimPrefix(path, "tdx.") + "." + of }
	refused := ""
	switch {
	case t.Status == "":
		refused = CodeTCBNoLevel
		a.refuse(refused, path, "no level matches", "a level of Intel's")
	case t.Status == TDXRevoked || !accept.Has(t.Status):
		refused = code(tdxStatus[t.Status])
		a.refuse(refused, path+".status", t.String(), accept.String())
	case accept.Any:
		a.skip(path + ".status")
	}
	if refused != "" {
		for _, b := range t.Behind {
			a.refuse(refused, path+"."+b.Component, strconv.Itoa(b.Got), strconv.Itoa(b.Want))
		}
	} else if t.Status != TDXUpToDate {
		for _, advisory := range t.Advisories {
			a.in(p.Advisories, code("advisory"), path+".advisories", advisory)
		}
	}
	if t.EvaluationNumber < p.MinEvaluation {
		a.refuse(CodeCollateralRollback, path+".evaluation_number", strconv.Itoa(t.EvaluationNumber), "at least "+strconv.Itoa(p.MinEvaluation))
	}
	if t.Status != "" && p.MinTCBDate != "any" && t.Date < p.MinTCBDate {
		a.refuse(code("date"), path+".date", fmt.Sprintf("%q", t.Date), "at least "+p.MinTCBDate)
	}
}

func (t *TDXTCB) String() string {
	s := fmt.Sprintf("%q of %s", t.Status, t.Date)
	if len(t.Advisories) > 0 {
		s += ", " + strings.Join(t.Advisories, " ")
	}
	return s
}

// registers compares the RTMRs with the policy's values, and with what the event log leads to.
func (p *TDXPolicy) registers(c *TDXClaims, a *appraisal) {
	var unexplained []string
	for i, listed := range [...]*Set{&p.RTMR0, &p.RTMR1, &p.RTMR2, &p.RTMR3} {
		path := [...]string{"tdx.rtmr0", "tdx.rtmr1", "tdx.rtmr2", "tdx.rtmr3"}[i]
		a.inBytes(*listed, CodeRTMRUnlisted, path, c.RTMR[i])
		switch log := c.EventLog; {
		case c.explained(i):
		case log != nil && log.Replay[i] != nil:
			a.refuse(CodeRTMRMismatch, path, c.RTMR[i].String(), log.Replay[i].String()+" by the event log")
		case listed.Any && !c.RTMR[i].zero():
			unexplained = append(unexplained, path)
		}
	}
	a.demand(p.Replay, len(unexplained) == 0, CodeRTMRReplay, "tdx.event_log", "no event for "+strings.Join(unexplained, ", "), "events for every register that is not listed")
}

// explained says whether the event log leads to the register.
func (c *TDXClaims) explained(i int) bool {
	return c.EventLog != nil && c.EventLog.Replay[i] != nil && bytes.Equal(c.EventLog.Replay[i], c.RTMR[i])
}

func (p *TDXPolicy) events(c *TDXClaims, a *appraisal) {
	for _, name := range p.Events.Of {
		if c.EventLog == nil || !slices.ContainsFunc(c.EventLog.Events, func(e TDXEvents) bool { return e.Name == name && c.explained(e.RTMR) }) {
			a.refuse(CodeRTMRUnmeasured, "tdx.event_log."+name, "no event", "an event in a register that the log explains")
		}
	}
}
