package attest

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
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

func (f SNPFirmware) number() uint32 {
	return uint32(f.Major)<<16 | uint32(f.Minor)<<8 | uint32(f.Build)
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
	snpGuestBits = []string{
		16: "smt", 18: bitMigrateMA, 19: bitDebug, 20: "single_socket", 21: "cxl", 22: "mem_aes_256_xts", 23: "rapl_dis", 24: bitHiding, 25: "page_swap_disable",
	}
	snpPlatformBits = []string{"smt", "tsme", "ecc", "rapl_dis", bitHiding, bitAlias, "iommu_write_safe", "tio"}
)

// ABI is the least version of the firmware's interface that the guest runs under.
func (p SNPGuestPolicy) ABI() (major, minor uint8) { return uint8(p >> 8), uint8(p) }

// Debug says that the host may read the guest.
func (p SNPGuestPolicy) Debug() bool { return p>>19&1 == 1 }

// MarshalJSON writes the interface version, the names of the bits that are set, and the number.
func (p SNPGuestPolicy) MarshalJSON() ([]byte, error) {
	major, minor := p.ABI()
	return json.Marshal(map[string]any{"abi": fmt.Sprintf("%d.%d", major, minor), "bits": snpBitsOf(uint64(p)&^0x2ffff, snpGuestBits), "value": fmt.Sprintf("%#x", uint64(p))})
}

// MarshalJSON writes the names of the bits that are set, and the number.
func (p SNPPlatform) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]any{"bits": snpBitsOf(uint64(p), snpPlatformBits), "value": fmt.Sprintf("%#x", uint64(p))})
}

// snpBitsOf names the bits of v; one without a name is called by its number.
func snpBitsOf(v uint64, names []string) []string {
	out := make([]string, 0, 8)
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

// SNPAdvisory is a published weakness, and the patch level that closes it.
type SNPAdvisory struct {
	ID        string `json:"id"`
	Component string `json:"component"`
	Got       uint8  `json:"got"`
	Want      uint8  `json:"want"`
}

// Rules of CPUs that one microcode is for, or one SNP firmware. A report of version 2 names no stepping: Milan's and
// Genoa's are read as the common ones.
var (
	milanB1 = []string{"19/01/01", "milan"}
	milanX  = []string{"19/01/02"}
	genoaB1 = []string{"19/11/01", "genoa"}
	genoaX  = []string{"19/11/02"}
	zen4c   = []string{"19/a0/02"} // Siena, Bergamo
	turin   = []string{"1a/02/01"}

	allMilan = slices.Concat(milanB1, milanX)
	allGenoa = slices.Concat(genoaB1, genoaX)
	allZen4  = slices.Concat(allGenoa, zen4c)
)

// snpAdvisories gives the levels that close a weakness, by CPU: microcode counts anew for every model and stepping, and
// its level is the low byte of its revision. AMD's bulletins state them; of those that are not here no level is known,
// and of AMD-SB-3034 (CVE-2025-54510) AMD took the levels back.
var snpAdvisories = []struct {
	id, component string
	want          uint8
	cpus          []string
}{
	// CVE-2023-20592: stores of a guest that are dropped (CacheWarp). Revisions 0x0A0011D1 and 0x0A001234.
	{"AMD-SB-3005", snpUcode, 209, milanB1},
	{"AMD-SB-3005", snpUcode, 52, milanX},
	// CVE-2024-56161: microcode that anybody may sign (EntrySign). Revisions as fwupd, plugins/cpu/fu-cpu-common.c, has
	// them; levels of the firmware by microsoft/CCF 6812.
	{"AMD-SB-3019", snpUcode, 219, milanB1},
	{"AMD-SB-3019", snpUcode, 68, milanX},
	{"AMD-SB-3019", snpUcode, 84, genoaB1},
	{"AMD-SB-3019", snpUcode, 79, genoaX},
	{"AMD-SB-3019", snpUcode, 25, zen4c},
	{"AMD-SB-3019", snpFirmware, 24, allMilan},
	{"AMD-SB-3019", snpFirmware, 23, allGenoa},
	// CVE-2023-20585: an IOMMU that writes into guests. The host needs an update besides, which no level shows.
	{"AMD-SB-3016", snpFirmware, 27, slices.Concat(allMilan, allGenoa)},
	// CVE-2025-0033: a race for the first content of the RMP (RMPocalypse). Revisions 0x0A101156, 0x0A101251, 0x0B002150.
	{"AMD-SB-3020", snpFirmware, 27, allGenoa},
	{"AMD-SB-3020", snpUcode, 86, genoaB1},
	{"AMD-SB-3020", snpUcode, 81, genoaX},
	{"AMD-SB-3020", snpFirmware, 4, turin},
	{"AMD-SB-3020", snpUcode, 80, turin},
	// CVE-2025-48514, by Linux, drivers/crypto/ccp/sev-dev.c, sev_firmware_allows_es.
	{"AMD-SB-3023", snpFirmware, 27, slices.Concat(allMilan, allZen4)},
	{"AMD-SB-3023", snpFirmware, 4, turin},
	// CVE-2025-29943: a stack pointer that the sibling thread moves (StackWarp).
	{"AMD-SB-3027", snpUcode, 86, genoaB1},
	{"AMD-SB-3027", snpUcode, 81, genoaX},
	{"AMD-SB-3027", snpUcode, 81, turin},
	// CVE-2025-61971: registers without a lock, by which the host moves what is mapped (BreakFAST).
	{"AMD-SB-3030", snpFirmware, 29, allMilan},
}

const (
	snpFirmware    = "snp"
	snpUcode       = "ucode"
	advisoryBadRAM = "AMD-SB-3015" // CVE-2024-21944: memory that answers at two addresses
)

// OpenAdvisories lists what the reported patch levels leave open, of what is known here.
func (c *SNPClaims) OpenAdvisories() []SNPAdvisory {
	var out []SNPAdvisory
	cpu := c.rule()
	for _, k := range snpAdvisories {
		if !slices.Contains(k.cpus, cpu) {
			continue
		}
		for _, part := range c.TCB.Reported.parts() {
			if part.name == k.component && part.level < k.want {
				if out == nil {
					out = make([]SNPAdvisory, 0, len(snpAdvisories))
				}
				out = append(out, SNPAdvisory{ID: k.id, Component: k.component, Got: part.level, Want: k.want})
			}
		}
	}
	return out
}

// rule names the CPU as a policy does: by CPUID, or by the product line where the report has none.
func (c *SNPClaims) rule() string {
	if c.CPU == (SNPCPU{}) {
		line, _, _ := strings.Cut(c.Product, "-")
		return strings.ToLower(line)
	}
	return c.CPU.String()
}

type snpPart struct {
	name  string
	level uint8
}

func (t SNPTCB) parts() [5]snpPart {
	return [...]snpPart{{"fmc", t.FMC}, {"bootloader", t.Bootloader}, {"tee", t.TEE}, {snpFirmware, t.SNP}, {snpUcode, t.Ucode}}
}

// SNPPolicy is what is taken of an SNP guest. The zero policy takes none.
type SNPPolicy struct {
	Signers          Set    `yaml:"signers"`            // vcek, vlek
	CSPs             Set    `yaml:"csps"`               // to whom AMD gave a VLEK: "cc-us-east-2.amazonaws.com"
	MinReportVersion uint32 `yaml:"min_report_version"` // from 3 a report names its CPU, from 5 its mitigations
	// VMPL is the privilege level that the guest asked from. Behind a paravisor or an SVSM it is not 0.
	VMPL Set `yaml:"vmpl"`
	// GuestPolicy allows smt, cxl and migrate_ma, and requires single_socket, mem_aes_256_xts, rapl_dis,
	// ciphertext_hiding and page_swap_disable.
	GuestPolicy SNPBits `yaml:"guest_policy"`
	MinABI      string  `yaml:"min_abi"` // of the guest policy: "0.31"
	// Platform allows smt, tio and bits without a name ("bit8"), and requires tsme, ecc, rapl_dis,
	// ciphertext_hiding, alias_check and iommu_write_safe.
	Platform    SNPBits `yaml:"platform"`
	Provisional bool    `yaml:"provisional"` // takes firmware that its host has not committed to, and may roll back
	// TCB gives the least patch levels, by family/model/stepping in hex: "19/01/01". Reports of version 2 name no
	// CPU: milan and genoa stand for them. A CPU without a rule is refused.
	TCB map[string]SNPRule `yaml:"tcb"`

	IDKeys      Set    `yaml:"id_keys"` // SHA-384 digests, or the word zero for a guest that was started without
	AuthorKeys  Set    `yaml:"author_keys"`
	HostData    Set    `yaml:"host_data"`
	MinGuestSVN uint32 `yaml:"min_guest_svn"`
}

// SNPBits says which permissions may be set, and which protections have to be.
type SNPBits struct {
	Allow   Set `yaml:"allow"`
	Require Set `yaml:"require"` // a list
}

// SNPRule is what one kind of CPU has to reach. Zero asks for nothing.
type SNPRule struct {
	Minimum  SNPTCB `yaml:"minimum"`  // as the certificate has it
	Launch   SNPTCB `yaml:"launch"`   // when the guest was started
	Firmware string `yaml:"firmware"` // current version of the SNP firmware: "1.55.40"
	// Bits that have to be set in the mitigation vectors.
	LaunchMitigations  uint64 `yaml:"launch_mitigations"`
	CurrentMitigations uint64 `yaml:"current_mitigations"`
}

// The bits that a policy may allow, and those that it may require.
var (
	snpGuestAllow, snpGuestRequire       = []string{"smt", bitMigrateMA, "cxl"}, []string{"single_socket", "mem_aes_256_xts", "rapl_dis", bitHiding, "page_swap_disable"}
	snpPlatformAllow, snpPlatformRequire = []string{"smt", "tio"}, []string{"tsme", "ecc", "rapl_dis", bitHiding, bitAlias, "iommu_write_safe"}
)

// check says what is wrong with a policy whatever the evidence.
func (p *SNPPolicy) check(a *appraisal) {
	p.GuestPolicy.check(a, "policy.snp.guest_policy", snpGuestAllow, snpGuestRequire)
	p.Platform.check(a, "policy.snp.platform", snpPlatformAllow, snpPlatformRequire)
	if _, ok := snpVersion(p.MinABI, 2); !ok {
		a.refuse(CodeConfig, "policy.snp.min_abi", fmt.Sprintf("%q", p.MinABI), "major.minor")
	}
	before := len(a.reasons)
	for cpu, rule := range p.TCB {
		if !snpRuleName(cpu) {
			a.refuse(CodeConfig, "policy.snp.tcb", fmt.Sprintf("%q", cpu), "family/model/stepping in hex, milan or genoa")
		}
		if _, ok := snpVersion(rule.Firmware, 3); !ok {
			a.refuse(CodeConfig, "policy.snp.tcb."+cpu+".firmware", fmt.Sprintf("%q", rule.Firmware), "major.minor.build")
		}
	}
	slices.SortFunc(a.reasons[before:], func(x, y Reason) int { return strings.Compare(x.Path+x.Got, y.Path+y.Got) })
}

func (b SNPBits) check(a *appraisal, path string, allow, require []string) {
	for _, name := range b.Allow.Of {
		number, unnamed := strings.CutPrefix(name, "bit")
		if !slices.Contains(allow, name) && (!unnamed || strings.Trim(number, "0123456789") != "") {
			a.refuse(CodeConfig, path+".allow", fmt.Sprintf("%q", name), fmt.Sprintf("some of %q", allow))
		}
	}
	if b.Require.Any {
		a.refuse(CodeConfig, path+".require", "any", "a list")
	}
	for _, name := range b.Require.Of {
		if !slices.Contains(require, name) {
			a.refuse(CodeConfig, path+".require", fmt.Sprintf("%q", name), fmt.Sprintf("some of %q", require))
		}
	}
}

func snpRuleName(s string) bool {
	return s == "milan" || s == "genoa" ||
		len(s) == 8 && s[2] == '/' && s[5] == '/' && strings.Trim(s[:2]+s[3:5]+s[6:], "0123456789abcdef") == ""
}

// snpVersion reads n numbers below 256 with dots between them, as one that compares.
func snpVersion(s string, n int) (v uint32, ok bool) {
	for i := range n {
		var part string
		part, s, ok = strings.Cut(s, ".")
		x, err := strconv.ParseUint(part, 10, 8)
		if err != nil || ok != (i < n-1) {
			return 0, false
		}
		v = v<<8 | uint32(x)
	}
	return v, true
}

func (p *SNPPolicy) appraise(c *SNPClaims, a *appraisal) {
	p.check(a)
	a.in(p.Signers, CodeIdentitySigner, "snp.signer", c.Signer)
	if c.Signer == SignerVLEK && c.Product != "" { // a certificate was read
		a.in(p.CSPs, CodeIdentityCSP, "snp.csp", c.CSP)
	}
	if c.Version < p.MinReportVersion {
		a.below(CodeReportVersion, "snp.version", c.Version, p.MinReportVersion)
	}
	if c.VMPL > 3 { // of a report that the host asked for
		a.refuse(CodeVMPL, "snp.vmpl", strconv.FormatUint(uint64(c.VMPL), 10), "0 to 3")
	} else {
		a.in(p.VMPL, CodeVMPL, "snp.vmpl", strconv.FormatUint(uint64(c.VMPL), 10))
	}
	p.guestPolicy(c.GuestPolicy, a)
	p.platform(c.Platform, a)
	p.tcb(c, a)
	a.inBytes(p.IDKeys, CodeIDKey, "snp.id_key_digest", c.IDKeyDigest)
	a.inBytes(p.AuthorKeys, CodeAuthorKey, "snp.author_key_digest", c.AuthorKeyDigest)
	a.inBytes(p.HostData, CodeHostData, "snp.host_data", c.HostData)
	if c.GuestSVN < p.MinGuestSVN {
		a.below(CodeGuestSVN, "snp.guest_svn", c.GuestSVN, p.MinGuestSVN)
	}
}

// below refuses a number for being less than wanted.
func (a *appraisal) below(code, path string, got, want uint32) {
	a.refuse(code, path, strconv.FormatUint(uint64(got), 10), strconv.FormatUint(uint64(want), 10))
}

func (p *SNPPolicy) guestPolicy(g SNPGuestPolicy, a *appraisal) {
	const path = "snp.guest_policy"
	if want, _ := snpVersion(p.MinABI, 2); uint32(g&0xffff) < want {
		major, minor := g.ABI()
		a.refuse(CodePolicyBits, path+".abi", fmt.Sprintf("%d.%d", major, minor), p.MinABI)
	}
	p.GuestPolicy.appraise(a, path, uint64(g)&^0x2ffff, snpGuestBits, snpGuestRequire, func(name string) (code, why string) {
		if name == bitMigrateMA {
			return CodeMigratable, ""
		}
		return CodePolicyBits, ""
	})
}

func (p *SNPPolicy) platform(x SNPPlatform, a *appraisal) {
	p.Platform.appraise(a, "snp.platform", uint64(x), snpPlatformBits, snpPlatformRequire, func(name string) (code, why string) {
		switch name {
		case bitAlias:
			return CodePlatformAlias, " (" + advisoryBadRAM + ")"
		case bitHiding:
			return CodePlatformHiding, ""
		}
		return CodePlatformBits, ""
	})
}

// appraise refuses a bit that is set, no protection and not allowed, and one that is required and not set. Debug is
// left to what is common to all formats.
func (b SNPBits) appraise(a *appraisal, path string, set uint64, names, protections []string, code func(name string) (code, why string)) {
	if b.Allow.Any {
		a.skip(path)
	}
	bits := snpBitsOf(set, names)
	for _, name := range bits {
		if !b.Allow.Has(name) && !slices.Contains(protections, name) && name != bitDebug {
			c, _ := code(name)
			a.refuse(c, path+"."+name, "set", "not set")
		}
	}
	for _, name := range b.Require.Of {
		if !slices.Contains(bits, name) {
			c, why := code(name)
			a.refuse(c, path+"."+name, "not set", "set"+why)
		}
	}
}

func (p *SNPPolicy) tcb(c *SNPClaims, a *appraisal) {
	if !p.Provisional && (c.TCB.Committed != c.TCB.Current || c.CommittedFirmware != c.CurrentFirmware) {
		a.refuse(CodeTCBProvisional, "snp.tcb.committed", fmt.Sprintf("%+v, firmware %s", c.TCB.Committed, c.CommittedFirmware), fmt.Sprintf("%+v, firmware %s, as current", c.TCB.Current, c.CurrentFirmware))
	}
	rule, ok := p.TCB[c.rule()]
	if !ok {
		a.refuse(CodeTCBUnlisted, "snp.cpu", fmt.Sprintf("%q", c.rule()), fmt.Sprintf("one of %q", slices.Sorted(maps.Keys(p.TCB))))
		return
	}
	reported, launch := c.TCB.Reported.parts(), c.TCB.Launch.parts()
	launchMin := rule.Launch.parts()
	for i, least := range rule.Minimum.parts() {
		if got := reported[i]; got.level < least.level {
			a.refuse("tcb."+got.name+codeTCBBelowMinimum, "snp.tcb.reported."+got.name, strconv.Itoa(int(got.level)), strconv.Itoa(int(least.level))+c.closedBy(got.name, least.level))
		}
		if got := launch[i]; got.level < launchMin[i].level {
			a.below(CodeTCBLaunch, "snp.tcb.launch."+got.name, uint32(got.level), uint32(launchMin[i].level))
		}
	}
	if want, _ := snpVersion(rule.Firmware, 3); c.CurrentFirmware.number() < want {
		a.refuse(CodeTCBFirmware, "snp.current_firmware", c.CurrentFirmware.String(), rule.Firmware)
	}
	a.mitigations("snp.launch_mitigations", uint64(c.LaunchMitigations), rule.LaunchMitigations)
	a.mitigations("snp.current_mitigations", uint64(c.CurrentMitigations), rule.CurrentMitigations)
}

func (a *appraisal) mitigations(path string, got, want uint64) {
	if want&^got != 0 {
		a.refuse(CodeTCBMitigation, path, fmt.Sprintf("%#x", got), fmt.Sprintf("%#x among them", want))
	}
}

// closedBy names the advisories that a level of a component would close.
func (c *SNPClaims) closedBy(component string, level uint8) string {
	var ids []string
	for _, o := range c.OpenAdvisories() {
		if o.Component == component && o.Want <= level {
			ids = append(ids, o.ID)
		}
	}
	if len(ids) == 0 {
		return ""
	}
	return " (" + strings.Join(ids, ", ") + ")"
}
