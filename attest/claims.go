package attest

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/consilium-fl/consilium/internal/signed"
)

// The formats with a verifier in a folder below.
const (
	FormatSNP      Format = "snp/1"         // SEV-SNP report, attest/snp
	FormatTDX      Format = "tdx/1"         // TDX quote, attest/tdx
	FormatAzureSNP Format = "azure-snp/1"   // HCL report over SNP with a vTPM quote, attest/azure
	FormatAzureTDX Format = "azure-tdx/1"   // the same over TDX
	FormatVTPM     Format = "vtpm-gce/1"    // TPM quote of a Google Compute instance, attest/vtpm
	FormatCSPKI    Format = "gcp-cs-pki/1"  // Confidential Space token with its certificate chain, attest/confspace
	FormatCSOIDC   Format = "gcp-cs-oidc/1" // the same signed by a key of a JWKS
)

// FormatSim is of no hardware: attest/simtee, which proves nothing.
const FormatSim Format = "sim/1"

// Formats are those of hardware, sorted.
func Formats() []Format { return slices.Sorted(maps.Keys(blocks)) }

// Measurement is the digest of what was started, with its algorithm: "sha384:…" of an SNP launch or a TD
// (MRTD), "sha256:…" of a container image or a simulated TEE.
type Measurement string

// SHA256Measurement writes a SHA-256 digest as a Measurement.
func SHA256Measurement(d [32]byte) Measurement { return Measurement(signed.DigestText(d)) }

// SHA384Measurement writes a SHA-384 digest as a Measurement.
func SHA384Measurement(d [48]byte) Measurement {
	return Measurement("sha384:" + hex.EncodeToString(d[:]))
}

// ParseMeasurement checks the text of a measurement: sha256 or sha384, in lower-case hex.
func ParseMeasurement(s string) (Measurement, error) {
	for prefix, size := range map[string]int{"sha256:": 64, "sha384:": 96} {
		if digits, ok := strings.CutPrefix(s, prefix); ok && len(digits) == size && strings.Trim(digits, "0123456789abcdef") == "" {
			return Measurement(s), nil
		}
	}
	return "", fmt.Errorf("measurement %q: want sha256: with 64 or sha384: with 96 digits of lower-case hex", s)
}

// HexBytes are bytes that JSON shows in hex.
type HexBytes []byte

// MarshalText writes lower-case hex.
func (b HexBytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

func (b HexBytes) String() string { return hex.EncodeToString(b) }

func (b HexBytes) zero() bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// Claims is what evidence says, once it has been verified. They are worth something only in a
// Result of Check or Recheck: claims that anybody else made say nothing about a machine. Below the common
// part every format fills the blocks that it is made of.
type Claims struct {
	Format      Format      `json:"format"`
	Measurement Measurement `json:"measurement,omitempty"` // empty when the format measures by registers alone
	Machine     string      `json:"machine,omitempty"`     // "chip:…" and the like; empty when the format names none
	Generation  string      `json:"generation,omitempty"`  // product line: "milan", "genoa", "turin", "fmspc:00806f050000"
	Debug       bool        `json:"debug"`
	Simulated   bool        `json:"simulated"`
	NotAfter    time.Time   `json:"not_after"` // end of the certificate or statement that vouches
	ReportData  [64]byte    `json:"-"`         // what the evidence is bound to; Check compares it
	// HalfBound says that the format has room for 32 bytes: Check compares the first half of ReportData, the
	// rest is zero.
	HalfBound bool `json:"half_bound,omitempty"`
	// Dated are the revocation lists and collateral that were used. Check holds them against the time.
	Dated []Dated `json:"dated,omitempty"`
	// NotChecked is what the verifier had no means to check, as a path: "crl:ark-milan".
	NotChecked []string `json:"-"`

	SNP      *SNPClaims      `json:"snp,omitempty"`
	TDX      *TDXClaims      `json:"tdx,omitempty"`
	TPM      *TPMClaims      `json:"tpm,omitempty"`
	Azure    *AzureClaims    `json:"azure,omitempty"`
	Workload *WorkloadClaims `json:"workload,omitempty"`
}

// Dated is something that its issuer replaces from time to time.
type Dated struct {
	Name       string    `json:"name"` // "crl:intel-root", "collateral.tcb_info"
	Code       string    `json:"-"`    // the reason when it is too old: CodeCRLStale, CodeCollateralExpired
	ThisUpdate time.Time `json:"this_update"`
	NextUpdate time.Time `json:"next_update"`
}

// MarshalJSON writes the claims in snake case, which Rego and people read.
func (c Claims) MarshalJSON() ([]byte, error) {
	type plain Claims
	return json.Marshal(struct {
		plain
		ReportData string `json:"report_data"`
	}{plain(c), hexText(c.ReportData[:])})
}

// blocks says which parts claims of a format consist of. A format that is not listed has none.
var blocks = map[Format][]string{
	FormatSNP:      {"snp"},
	FormatTDX:      {"tdx"},
	FormatAzureSNP: {"azure", "snp", "tpm"},
	FormatAzureTDX: {"azure", "tdx", "tpm"},
	FormatVTPM:     {"tpm"},
	FormatCSPKI:    {"workload"},
	FormatCSOIDC:   {"workload"},
}
