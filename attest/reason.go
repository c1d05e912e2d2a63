package attest

import (
	"encoding/hex"
	"strings"
)

// The codes of reasons. They are stable: logs, tests and dashboards match on them. A format's
// verifier may return further ones of the same shape.
const (
	CodeConfig = "config.error" // the appraiser's own side: no time, no snapshot, a policy that says nothing

	CodeParseLength   = "parse.length"
	CodeParseBounds   = "parse.bounds" // a length inside points outside
	CodeParseMBZ      = "parse.mbz"    // bytes that have to be zero
	CodeParseVersion  = "parse.version"
	CodeParseBody     = "parse.body" // no such kind of body
	CodeParseTail     = "parse.tail" // bytes after the end
	CodeParseSigner   = "parse.signer"
	CodeParseEncoding = "parse.encoding" // not the syntax of its format
	CodeParsePosture  = "parse.posture"

	CodeFormatUnlisted      = "format.unlisted"
	CodeMeasurementUnlisted = "measurement.unlisted"
	CodeMachineUnlisted     = "identity.chip"
	CodeDebug               = "debug"
	CodeSimDenied           = "sim.denied"
	CodeMigratable          = "migratable"
	CodeGeneration          = "hardware.generation" // the policy denies the product line
	CodeTEEType             = "tee.type"            // authentic perhaps, and of no TEE that counts

	CodeSignature   = "sig.invalid"
	CodeSigAlgo     = "sig.algo"
	CodeChain       = "chain" // leads to no anchor of the snapshot
	CodeCertExpired = "cert.expired"
	CodeCertTime    = "cert.time"    // not valid yet
	CodeCertTCB     = "cert.tcb"     // the certificate is of another patch level
	CodeCertProduct = "cert.product" // or of another product line
	CodeCertKind    = "cert.kind"    // or of another kind: VLEK for VCEK
	CodeRevoked     = "revoked"
	CodeCRLStale    = "crl.stale"
	CodeCRLMissing  = "crl.missing"

	CodeCollateralMissing  = "collateral.missing"
	CodeCollateralExpired  = "collateral.expired"
	CodeCollateralInvalid  = "collateral.invalid"  // edited, or signed by another
	CodeCollateralRollback = "collateral.rollback" // an evaluation number below the floor

	CodePolicyReserved  = "policy.reserved" // SNP: reserved bits of the guest's policy
	CodePolicyBits      = "policy.bits"     // a permission too many, a restriction too few
	CodeVMPL            = "vmpl"
	CodePlatformBits    = "platform.bits"
	CodePlatformAlias   = "platform.alias"     // no check for aliased memory (BadRAM)
	CodePlatformHiding  = "platform.ct_hiding" // ciphertext of memory is not hidden from the host
	CodeReportVersion   = "report.version"     // below the policy's least
	CodeTCBUnlisted     = "tcb.unlisted"       // no rule for this CPU
	CodeTCBLaunch       = "tcb.launch"         // the guest was started on older firmware
	CodeTCBProvisional  = "tcb.provisional"    // firmware that can still be rolled back
	CodeTCBFirmware     = "tcb.firmware"
	CodeTCBMitigation   = "tcb.mitigation"
	CodeIdentityMasked  = "identity.masked" // the chip hides who it is
	CodeIdentitySigner  = "identity.signer"
	CodeIdentityCSP     = "identity.csp"
	CodeIDKey           = "measurement.id_key"
	CodeAuthorKey       = "measurement.author_key"
	CodeGuestSVN        = "measurement.guest_svn"
	CodeHostData        = "config.host_data"
	codeTCBBelowMinimum = ".below_min" // "tcb.ucode.below_min"; with fmc, bootloader, tee, snp or ucode before it

	CodeQESignature       = "qe.sig" // the quoting enclave's report is not by this platform
	CodeCollateralQE      = "collateral.qe_identity"
	CodeTCBNoLevel        = "tcb.no_level" // below everything that Intel has a word for
	CodeTCBModuleMismatch = "tcb.module.mismatch"
	CodeTDXAttributes     = "tdx.attributes"
	CodeTDXXFAM           = "tdx.xfam"
	CodeTDXMRSEAM         = "tdx.mr_seam"
	CodeTDXMRConfig       = "tdx.mr_config"
	CodeTDXMROwner        = "tdx.mr_owner"
	CodeTDXMROwnerConfig  = "tdx.mr_owner_config"
	CodeTDXServiceTD      = "tdx.mr_service_td"
	CodeRTMRUnlisted      = "rtmr.unlisted"
	CodeRTMRReplay        = "rtmr.replay"     // no event log explains the register
	CodeRTMRMismatch      = "rtmr.mismatch"   // the event log adds up to another value
	CodeRTMRUnmeasured    = "rtmr.unmeasured" // no event of a kind that has to be there

	CodeReferenceMissing = "reference.missing" // no manifest of the name that the consortium file gives
	CodeReferenceTime    = "reference.time"    // its versions begin later
	CodeReferenceExpired = "reference.expired" // or have ended

	CodeFreshness = "freshness" // the evidence answers nobody's question

	CodeVerifierPanic = "verifier.panic"
	CodeVerifierError = "verifier.error" // a verifier failed without saying why in a code

	CodeBindingMismatch = "binding.mismatch" // the evidence is over another binding
	CodeBindingTrivial  = "binding.trivial"  // it is over nothing
	CodeBindingZero     = "binding.zero"
	CodeBindingKeyList  = "binding.key_list"
	CodeBindingConfig   = "binding.config"

	CodePostureConsortium = "posture.consortium"
	CodePosturePolicy     = "posture.policy"
	CodePostureInsecure   = "posture.insecure"
	CodePostureTEE        = "posture.tee"

	CodeLogSignature = "log.signature"

	CodeTPMParse     = "tpm.parse"     // not a TPMS_ATTEST of a quote, or not in its only form
	CodeTPMSignature = "tpm.sig"       // not by the attestation key, or by a scheme that is not taken
	CodeTPMNonce     = "tpm.nonce"     // the quote answers another question than the hardware's report
	CodeTPMPCRs      = "tpm.pcrs"      // the registers shown are not those that were quoted
	CodeTPMKey       = "tpm.ak"        // no attestation key, or one that nobody vouches for
	CodeTPMEventLog  = "tpm.event_log" // the log does not lead to the registers
	CodeTPMMissing   = "tpm.missing"   // no quote
	CodeTPMFirmware  = "tpm.firmware"
	CodeTPMProject   = "tpm.project" // the machine is another project's
	CodePCRUnlisted  = "pcr.unlisted"

	CodeHCLSize     = "hcl.size"
	CodeHCLMagic    = "hcl.magic"
	CodeHCLHeader   = "hcl.header"
	CodeHCLType     = "hcl.type" // the hardware's report is of another TEE
	CodeHCLHashType = "hcl.hash_type"
	CodeHCLTail     = "hcl.tail"
	CodeHCLUpper    = "hcl.upper" // the half of the report data that nothing is in
	CodeHCLClaims   = "hcl.claims"
	CodeHCLBinding  = "hcl.binding" // the hardware's report is over other claims
	CodeHCLQuote    = "hcl.quote"   // no quote of the TDREPORT

	CodeSecureBoot = "config.secureboot"
	CodeConsole    = "config.console"
	CodeTPMState   = "config.tpm"
	CodeRootCert   = "config.root_cert"
	CodeUserData   = "config.user_data"
)

// Reason is one ground of refusal. It is an error too, so that a verifier can return it, or
// several joined. Got and Want hold digests, names and numbers, never key material.
type Reason struct {
	Code string `json:"code" cbor:"1,keyasint"`
	Path string `json:"path,omitempty" cbor:"2,keyasint"` // the field of claims, binding or posture
	Got  string `json:"got,omitempty" cbor:"3,keyasint"`
	Want string `json:"want,omitempty" cbor:"4,keyasint"`
}

func (r Reason) Error() string {
	var b strings.Builder
	b.WriteString(r.Code)
	sep := ": "
	for _, part := range []struct{ name, value string }{{"", r.Path}, {"got ", r.Got}, {"want ", r.Want}} {
		if part.value != "" {
			b.WriteString(sep + part.name + part.value)
			sep = ", "
		}
	}
	return b.String()
}

// reasonsOf finds the reasons in an error of a verifier, through wraps and joins.
func reasonsOf(err error) []Reason {
	switch e := err.(type) { //nolint:errorlint // the walk through wraps and joins is what this function does
	case Reason:
		if e.Code != "" {
			return []Reason{e}
		}
	case interface{ Unwrap() []error }:
		var rs []Reason
		for _, inner := range e.Unwrap() {
			rs = append(rs, reasonsOf(inner)...)
		}
		if len(rs) > 0 {
			return rs
		}
	case interface{ Unwrap() error }:
		if inner := e.Unwrap(); inner != nil {
			return reasonsOf(inner)
		}
	}
	return []Reason{{Code: CodeVerifierError, Got: err.Error()}}
}

func hexText(b []byte) string { return hex.EncodeToString(b) }
