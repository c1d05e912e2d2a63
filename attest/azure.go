package attest

import "strconv"

// AzureClaims are the runtime claims of an HCL report: what Microsoft's paravisor, which the hardware measured, says
// of the machine. The host told it most of that, the machine's id too.
type AzureClaims struct {
	SecureBoot   bool  `json:"secure_boot"`
	Console      bool  `json:"console_enabled"`
	TPM          bool  `json:"tpm_enabled"`
	TPMPersisted *bool `json:"tpm_persisted"` // nil where the report does not say
	// RootCert is the thumbprint of the root certificate of key release, base64url; empty for none.
	RootCert string   `json:"root_cert_thumbprint,omitempty"`
	VM       string   `json:"vm_unique_id"`
	UserData HexBytes `json:"user_data,omitempty"` // 64 bytes that the guest wrote, if it did
	// TPMBound says that the nonce of the TPM's quote is all that is fresh: the hardware's report, and the claims
	// under it, may be from any time since the machine was started.
	TPMBound bool `json:"bound_by_tpm_alone"`
}

// AzurePolicy is what is taken of the runtime claims.
type AzurePolicy struct {
	SecureBoot   Demand `yaml:"secure_boot"`
	ConsoleOff   Demand `yaml:"console_off"`           // no serial console
	TPMStateless Demand `yaml:"tpm_stateless"`         // the TPM keeps nothing from one start to the next
	UserData     Demand `yaml:"user_data"`             // that the hardware's report is over the binding, and not the quote alone
	RootCerts    Set    `yaml:"root_cert_thumbprints"` // the word absent stands for none
}

func (p *AzurePolicy) appraise(c *AzureClaims, a *appraisal) {
	a.demand(p.SecureBoot, c.SecureBoot, CodeSecureBoot, "azure.secure_boot", strconv.FormatBool(c.SecureBoot), "true")
	a.demand(p.ConsoleOff, !c.Console, CodeConsole, "azure.console_enabled", strconv.FormatBool(c.Console), "false")
	if !c.TPM {
		a.refuse(CodeTPMState, "azure.tpm_enabled", "false", "true")
	}
	persisted := "unknown"
	if c.TPMPersisted != nil {
		persisted = strconv.FormatBool(*c.TPMPersisted)
	}
	a.demand(p.TPMStateless, persisted == "false", CodeTPMState, "azure.tpm_persisted", persisted, "false")
	a.demand(p.UserData, !c.TPMBound, CodeUserData, "azure.user_data", "none", "the binding")
	rootCert := c.RootCert
	if rootCert == "" {
		rootCert = "absent"
	}
	a.in(p.RootCerts, CodeRootCert, "azure.root_cert_thumbprint", rootCert)
}
