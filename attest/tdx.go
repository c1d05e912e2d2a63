package attest

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
	PIID       HexBytes `json:"piid,omitempty"`  // platform instance id, where the platform CA wrote one
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

// TDXEventLog is what the CC event log (UEFI 2.10, section 38.4) says was measured into the RTMRs.
type TDXEventLog struct {
	Replay [4]HexBytes `json:"replay"` // nil for a register that no event names
	Events []TDXEvents `json:"events"`
}

// TDXEvents are events of one kind in one register.
type TDXEvents struct {
	RTMR  int    `json:"rtmr"`
	Type  string `json:"type"`           // "EV_PLATFORM_CONFIG_FLAGS"
	Name  string `json:"name,omitempty"` // "acpi", "kernel-cmdline"
	Count int    `json:"count"`
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

// TDXPolicy is what is taken of it.
type TDXPolicy struct{}

func (p *TDXPolicy) appraise(*TDXClaims, *appraisal) {}
