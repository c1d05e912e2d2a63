package attest

import (
	"encoding/json"
	"fmt"
	"strconv"
)

// SNPClaims is what an SEV-SNP report says (AMD 56860, table 23), with the certificate that signed it. That the
// patch levels under Reported are true is what the certificate vouches for; the rest is the firmware's word.
type SNPClaims struct {
	Version uint32 `json:"version"` // of the report
	CPU     SNPCPU `json:"cpu"`     // zero before version 3, which names none
	Product string `json:"product"` // of the certificate: "Milan-B0", "Genoa", "Turin"
	Signer  string `json:"signer"`  // SignerVCEK or SignerVLEK
	// CSP is the provider to whom AMD gave the VLEK; empty with a VCEK.
	CSP    string   `json:"csp,omitempty"`
	ChipID HexBytes `json:"chip_id"` // Turin uses the first 8 bytes; zero where the host masks it

	VMPL              uint32         `json:"vmpl"`
	GuestSVN          uint32         `json:"guest_svn"`
	GuestPolicy       SNPGuestPolicy `json:"guest_policy"`
	Platform          SNPPlatform    `json:"platform"`
	TCB               SNPTCBs        `json:"tcb"`
	CurrentFirmware   SNPFirmware    `json:"current_firmware"`
	CommittedFirmware SNPFirmware    `json:"committed_firmware"`
	// The mitigation vectors, zero before version 5.
	LaunchMitigations  SNPMitigations `json:"launch_mitigations"`
	CurrentMitigations SNPMitigations `json:"current_mitigations"`

	HostData        HexBytes `json:"host_data"`
	FamilyID        HexBytes `json:"family_id"`
	ImageID         HexBytes `json:"image_id"`
	IDKeyDigest     HexBytes `json:"id_key_digest"` // zero where the guest was started without an ID block
	AuthorKeyDigest HexBytes `json:"author_key_digest"`
	AuthorKey       bool     `json:"author_key"`
	MaskChipKey     bool     `json:"mask_chip_key"`
	ReportID        HexBytes `json:"report_id"`
	ReportIDMA      HexBytes `json:"report_id_ma"` // of the migration agent, all ones for none

	// Advisories are the published weaknesses that the patch levels leave open, of those that are known here.
	Advisories []SNPAdvisory `json:"open_advisories,omitempty"`
}

// The keys that sign reports: one of the chip, or one that AMD gave to a cloud provider.
const (
	SignerVCEK = "vcek"
	SignerVLEK = "vlek"
)

// SNPCPU is what CPUID tells of a processor.
type SNPCPU struct {
	Family   uint8 `json:"family"`
	Model    uint8 `json:"model"`
	Stepping uint8 `json:"stepping"`
}

// String writes family, model and stepping in hex, as a policy's rules name them: "19/01/01".
func (c SNPCPU) String() string {
	const digits = "0123456789abcdef"
	b := [8]byte{2: '/', 5: '/'}
	for i, v := range [...]uint8{c.Family, c.Model, c.Stepping} {
		b[3*i], b[3*i+1] = digits[v>>4], digits[v&15]
	}
	return string(b[:])
}

// SNPTCB is the security patch levels of one TCB_VERSION. FMC is of Turin and later.
type SNPTCB struct {
	FMC        uint8 `json:"fmc" yaml:"fmc"`
	Bootloader uint8 `json:"bootloader" yaml:"bootloader"`
	TEE        uint8 `json:"tee" yaml:"tee"`
	SNP        uint8 `json:"snp" yaml:"snp"`
	Ucode      uint8 `json:"ucode" yaml:"ucode"`
}

// SNPTCBs are the four that a report carries. Reported is the certificate's; Launch is of when the guest was started.
type SNPTCBs struct {
	Reported  SNPTCB `json:"reported"`
	Current   SNPTCB `json:"current"`
	Committed SNPTCB `json:"committed"`
	Launch    SNPTCB `json:"launch"`
}

// SNPFirmware is a version of the SNP firmware.
type SNPFirmware struct {
	Major uint8 `json:"major"`
	Minor uint8 `json:"minor"`
	Build uint8 `json:"build"`
}

func (f SNPFirmware) String() string { return fmt.Sprintf("%d.%d.%d", f.Major, f.Minor, f.Build) }

func (f SNPFirmware) less(g SNPFirmware) bool {
	return uint32(f.Major)<<16|uint32(f.Minor)<<8|uint32(f.Build) < uint32(g.Major)<<16|uint32(g.Minor)<<8|uint32(g.Build)
}

// SNPMitigations is a vector of mitigations, one bit each, whose meaning differs from product to product.
type SNPMitigations uint64

// MarshalJSON writes hex.
func (m SNPMitigations) MarshalJSON() ([]byte, error) {
	return json.Marshal(fmt.Sprintf("%#x", uint64(m)))
}

// SNPGuestPolicy is the policy that a guest was started under (AMD 56860, table 9).
type SNPGuestPolicy uint64

// SNPPlatform is PLATFORM_INFO of a report (AMD 56860, table 24).
type SNPPlatform uint64

// The names of bits in claims and policies.
const (
	bitDebug     = "debug"
	bitMigrateMA = "migrate_ma"
	bitAlias     = "alias_check"
	bitHiding    = "ciphertext_hiding"
)

var (
	guestPolicyBits = []string{
		16: "smt", 18: bitMigrateMA, 19: bitDebug, 20: "single_socket", 21: "cxl", 22: "mem_aes_256_xts", 23: "rapl_dis", 24: bitHiding, 25: "page_swap_disable",
	}
	platformBits = []string{"smt", "tsme", "ecc", "rapl_dis", bitHiding, bitAlias, "iommu_write_safe", "tio"}
)

// ABI is the least version of the firmware's interface that the guest runs under.
func (p SNPGuestPolicy) ABI() (major, minor uint8) { return uint8(p >> 8), uint8(p) }

// Debug says that the host may read the guest.
func (p SNPGuestPolicy) Debug() bool { return p>>19&1 == 1 }

// MarshalJSON writes the interface version, the names of the bits that are set, and the number.
func (p SNPGuestPolicy) MarshalJSON() ([]byte, error) {
	major, minor := p.ABI()
	return json.Marshal(map[string]any{"abi": fmt.Sprintf("%d.%d", major, minor), "bits": bitsOf(uint64(p)&^0x2ffff, guestPolicyBits), "value": fmt.Sprintf("%#x", uint64(p))})
}

// MarshalJSON writes the names of the bits that are set, and the number.
func (p SNPPlatform) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]any{"bits": bitsOf(uint64(p), platformBits), "value": fmt.Sprintf("%#x", uint64(p))})
}

// bitsOf names the bits of v; one without a name is called by its number.
func bitsOf(v uint64, names []string) []string {
	out := []string{}
	for i := 0; v != 0; i, v = i+1, v>>1 {
		if v&1 == 0 {
			continue
		}
		if i < len(names) && names[i] != "" {
			out = append(out, names[i])
		} else {
			out = append(out, "bit"+strconv.Itoa(i))
		}
	}
	return out
}

// SNPAdvisory is a published weakness and the patch level that closes it.
type SNPAdvisory struct {
	ID        string `json:"id"`
	Component string `json:"component"`
	Got       uint8  `json:"got"`
	Want      uint8  `json:"want"`
}

// SNPPolicy is what is taken of an SNP guest.
type SNPPolicy struct{}

func (p *SNPPolicy) appraise(*SNPClaims, *appraisal) {}
