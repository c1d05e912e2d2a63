package attest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

func snpClaims() Claims {
	return Claims{Format: FormatSNP, Measurement: measured(8), Machine: "chip:aa", Generation: "genoa", NotAfter: now.Add(time.Hour), ReportData: [64]byte{1}, SNP: &SNPClaims{
		Version: 5, CPU: SNPCPU{0x19, 0x11, 1}, Product: "Genoa", Signer: SignerVLEK, CSP: "cloud.example", ChipID: HexBytes{0xaa},
		VMPL: 1, GuestSVN: 4, GuestPolicy: 0x3001f, Platform: 0x25,
		TCB: SNPTCBs{
			Reported: SNPTCB{Bootloader: 10, SNP: 23, Ucode: 84}, Current: SNPTCB{Bootloader: 10, SNP: 23, Ucode: 84}, Committed: SNPTCB{Bootloader: 10, SNP: 23, Ucode: 84}, Launch: SNPTCB{Bootloader: 10, SNP: 23, Ucode: 84},
		},
		CurrentFirmware: SNPFirmware{1, 55, 40}, CommittedFirmware: SNPFirmware{1, 55, 40}, LaunchMitigations: 3, CurrentMitigations: 7,
		HostData: HexBytes{1}, IDKeyDigest: HexBytes{2}, AuthorKeyDigest: HexBytes{0, 0},
	}}
}

func snpPolicy() Policy {
	return Policy{
		Role: RoleNode, Accept: []Format{FormatSNP}, Measurements: SetOf(measured(8)), Machines: SetOf("chip:aa"),
		SNP: &SNPPolicy{
			Signers: SetOf(SignerVLEK), CSPs: SetOf("cloud.example"), MinReportVersion: 5, VMPL: SetOf("1"),
			GuestPolicy: SNPBits{Allow: SetOf("smt")}, MinABI: "0.31", Platform: SNPBits{Allow: SetOf("smt"), Require: SetOf("alias_check", "ecc")},
			TCB: map[string]SNPRule{"19/11/01": {
				Minimum: SNPTCB{Bootloader: 10, SNP: 23, Ucode: 84}, Launch: SNPTCB{Bootloader: 10, SNP: 23, Ucode: 84}, Firmware: "1.55.40", LaunchMitigations: 1, CurrentMitigations: 5,
			}},
			IDKeys: SetOf("02"), AuthorKeys: SetOf("zero"), HostData: SetOf("01"), MinGuestSVN: 4,
		},
	}
}

func TestSNP(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*SNPClaims, *SNPPolicy)
		want   string // code, path, got and want of the reasons
	}{
		"as the policy has it":    {func(*SNPClaims, *SNPPolicy) {}, ""},
		"signer":                  {func(c *SNPClaims, _ *SNPPolicy) { c.Signer = SignerVCEK }, `identity.signer: snp.signer, got "vcek", want one of ["vlek"]`},
		"provider":                {func(c *SNPClaims, _ *SNPPolicy) { c.CSP = "other.example" }, `identity.csp: snp.csp, got "other.example", want one of ["cloud.example"]`},
		"report version":          {func(c *SNPClaims, _ *SNPPolicy) { c.Version = 3 }, `report.version: snp.version, got 3, want 5`},
		"level":                   {func(c *SNPClaims, _ *SNPPolicy) { c.VMPL = 0 }, `vmpl: snp.vmpl, got "0", want one of ["1"]`},
		"level of the host":       {func(c *SNPClaims, p *SNPPolicy) { c.VMPL, p.VMPL = 1<<32-1, AnySet() }, `vmpl: snp.vmpl, got 4294967295, want 0 to 3`},
		"interface":               {func(_ *SNPClaims, p *SNPPolicy) { p.MinABI = "1.0" }, `policy.bits: snp.guest_policy.abi, got 0.31, want 1.0`},
		"SMT":                     {func(_ *SNPClaims, p *SNPPolicy) { p.GuestPolicy.Allow = Set{} }, `policy.bits: snp.guest_policy.smt, got set, want not set`},
		"migration":               {func(c *SNPClaims, _ *SNPPolicy) { c.GuestPolicy |= 1 << 18 }, `migratable: snp.guest_policy.migrate_ma, got set, want not set`},
		"CXL":                     {func(c *SNPClaims, _ *SNPPolicy) { c.GuestPolicy |= 1 << 21 }, `policy.bits: snp.guest_policy.cxl, got set, want not set`},
		"a restriction too many":  {func(c *SNPClaims, _ *SNPPolicy) { c.GuestPolicy |= 1<<20 | 1<<22 | 1<<23 | 1<<24 | 1<<25 }, ""},
		"a restriction too few":   {func(_ *SNPClaims, p *SNPPolicy) { p.GuestPolicy.Require = SetOf("page_swap_disable") }, `policy.bits: snp.guest_policy.page_swap_disable, got not set, want set`},
		"SMT of the platform":     {func(_ *SNPClaims, p *SNPPolicy) { p.Platform.Allow = Set{} }, `platform.bits: snp.platform.smt, got set, want not set`},
		"a bit without a name":    {func(c *SNPClaims, _ *SNPPolicy) { c.Platform |= 1 << 9 }, `platform.bits: snp.platform.bit9, got set, want not set`},
		"a bit that is allowed":   {func(c *SNPClaims, p *SNPPolicy) { c.Platform |= 1 << 9; p.Platform.Allow = SetOf("smt", "bit9") }, ""},
		"no alias check":          {func(c *SNPClaims, _ *SNPPolicy) { c.Platform &^= 1 << 5 }, `platform.alias: snp.platform.alias_check, got not set, want set (AMD-SB-3015)`},
		"no ECC":                  {func(c *SNPClaims, _ *SNPPolicy) { c.Platform &^= 1 << 2 }, `platform.bits: snp.platform.ecc, got not set, want set`},
		"ciphertext":              {func(_ *SNPClaims, p *SNPPolicy) { p.Platform.Require = SetOf("ciphertext_hiding") }, `platform.ct_hiding: snp.platform.ciphertext_hiding, got not set, want set`},
		"a CPU without a rule":    {func(c *SNPClaims, _ *SNPPolicy) { c.CPU.Model = 0xa0 }, `tcb.unlisted: snp.cpu, got "19/a0/01", want one of ["19/11/01"]`},
		"microcode, an advisory":  {func(c *SNPClaims, _ *SNPPolicy) { c.TCB.Reported.Ucode = 83 }, `tcb.ucode.below_min: snp.tcb.reported.ucode, got 83, want 84 (AMD-SB-3019)`},
		"SNP firmware":            {func(c *SNPClaims, _ *SNPPolicy) { c.TCB.Reported.SNP = 22 }, `tcb.snp.below_min: snp.tcb.reported.snp, got 22, want 23 (AMD-SB-3019)`},
		"bootloader":              {func(c *SNPClaims, _ *SNPPolicy) { c.TCB.Reported.Bootloader = 9 }, `tcb.bootloader.below_min: snp.tcb.reported.bootloader, got 9, want 10`},
		"TEE":                     {func(_ *SNPClaims, p *SNPPolicy) { p.TCB = snpRule(p, func(r *SNPRule) { r.Minimum.TEE = 1 }) }, `tcb.tee.below_min: snp.tcb.reported.tee, got 0, want 1`},
		"FMC":                     {func(_ *SNPClaims, p *SNPPolicy) { p.TCB = snpRule(p, func(r *SNPRule) { r.Minimum.FMC = 1 }) }, `tcb.fmc.below_min: snp.tcb.reported.fmc, got 0, want 1`},
		"launch":                  {func(c *SNPClaims, _ *SNPPolicy) { c.TCB.Launch.Ucode = 83 }, `tcb.launch: snp.tcb.launch.ucode, got 83, want 84`},
		"provisional levels":      {func(c *SNPClaims, _ *SNPPolicy) { c.TCB.Committed.Ucode = 83 }, `tcb.provisional: snp.tcb.committed`},
		"provisional build":       {func(c *SNPClaims, _ *SNPPolicy) { c.CommittedFirmware.Build = 39 }, `tcb.provisional: snp.tcb.committed`},
		"provisional, taken":      {func(c *SNPClaims, p *SNPPolicy) { c.TCB.Committed.Ucode, p.Provisional = 83, true }, ""},
		"build":                   {func(_ *SNPClaims, p *SNPPolicy) { p.TCB = snpRule(p, func(r *SNPRule) { r.Firmware = "1.56.0" }) }, `tcb.firmware: snp.current_firmware, got 1.55.40, want 1.56.0`},
		"launch mitigations":      {func(c *SNPClaims, _ *SNPPolicy) { c.LaunchMitigations = 2 }, `tcb.mitigation: snp.launch_mitigations, got 0x2, want 0x1 among them`},
		"current mitigations":     {func(c *SNPClaims, _ *SNPPolicy) { c.CurrentMitigations = 4 }, `tcb.mitigation: snp.current_mitigations, got 0x4, want 0x5 among them`},
		"id key":                  {func(c *SNPClaims, _ *SNPPolicy) { c.IDKeyDigest = HexBytes{3} }, `measurement.id_key: snp.id_key_digest, got 03, want one of ["02"]`},
		"author key":              {func(c *SNPClaims, _ *SNPPolicy) { c.AuthorKeyDigest = HexBytes{3} }, `measurement.author_key: snp.author_key_digest, got 03, want one of ["zero"]`},
		"host data":               {func(c *SNPClaims, _ *SNPPolicy) { c.HostData = HexBytes{0} }, `config.host_data: snp.host_data, got 00, want one of ["01"]`},
		"guest version":           {func(c *SNPClaims, _ *SNPPolicy) { c.GuestSVN = 3 }, `measurement.guest_svn: snp.guest_svn, got 3, want 4`},
		"a bit of no name":        {func(_ *SNPClaims, p *SNPPolicy) { p.GuestPolicy.Allow = SetOf("smt", "debug") }, `config.error: policy.snp.guest_policy.allow, got "debug"`},
		"a bit of no number":      {func(_ *SNPClaims, p *SNPPolicy) { p.Platform.Allow = SetOf("smt", "bitter") }, `config.error: policy.snp.platform.allow, got "bitter"`},
		"a protection of no name": {func(_ *SNPClaims, p *SNPPolicy) { p.Platform.Require = SetOf("alias") }, `config.error: policy.snp.platform.require, got "alias"`},
		"any protection":          {func(_ *SNPClaims, p *SNPPolicy) { p.Platform.Require = AnySet() }, `config.error: policy.snp.platform.require, got any`},
		"a CPU of no form":        {func(_ *SNPClaims, p *SNPPolicy) { p.TCB["19/1/1"] = SNPRule{Firmware: "0.0.0"} }, `config.error: policy.snp.tcb, got "19/1/1"`},
		"a version of no form":    {func(_ *SNPClaims, p *SNPPolicy) { p.TCB["19/01/01"] = SNPRule{Firmware: "1.55"} }, `config.error: policy.snp.tcb.19/01/01.firmware, got "1.55"`},
		"an interface of no form": {func(c *SNPClaims, p *SNPPolicy) { p.MinABI = "0.300"; c.GuestPolicy |= 1 << 15 }, `config.error: policy.snp.min_abi, got "0.300"`},
	} {
		c, p := snpClaims(), snpPolicy()
		tc.change(c.SNP, p.SNP)
		r := Appraise(c, p)
		switch {
		case tc.want == "" && (!r.OK() || r.Status != Affirming):
			t.Errorf("%s: %s for %v", name, r.Status, r.Reasons)
		case tc.want != "" && (len(r.Reasons) != 1 && !strings.HasPrefix(tc.want, CodeConfig) || !strings.HasPrefix(r.Reasons[0].Error(), tc.want)):
			t.Errorf("%s: refused for %v, want %s", name, r.Reasons, tc.want)
		}
	}
}

func snpRule(p *SNPPolicy, change func(*SNPRule)) map[string]SNPRule {
	r := p.TCB["19/11/01"]
	change(&r)
	return map[string]SNPRule{"19/11/01": r}
}

// TestSNPZeroPolicy: what is absent is refused.
func TestSNPZeroPolicy(t *testing.T) {
	p := snpPolicy()
	p.SNP = &SNPPolicy{}
	want := []string{
		CodeConfig, CodeIdentitySigner, CodeIdentityCSP, CodeVMPL, CodePolicyBits, CodePlatformBits, CodeTCBUnlisted, CodeIDKey, CodeAuthorKey, CodeHostData,
	}
	if got := codesOf(Appraise(snpClaims(), p).Reasons); !slices.Equal(got, want) {
		t.Errorf("refused for %q, want %q", got, want)
	}
	p.SNP = nil
	if got := codesOf(Appraise(snpClaims(), p).Reasons); !slices.Equal(got, []string{CodeConfig}) {
		t.Errorf("by no policy: %q", got)
	}
}

// TestSNPNotChecked: what is taken unseen is said.
func TestSNPNotChecked(t *testing.T) {
	p := snpPolicy()
	p.SNP.Signers, p.SNP.CSPs, p.SNP.VMPL, p.SNP.IDKeys, p.SNP.AuthorKeys, p.SNP.HostData = AnySet(), AnySet(), AnySet(), AnySet(), AnySet(), AnySet()
	p.SNP.GuestPolicy.Allow, p.SNP.Platform.Allow = AnySet(), AnySet()
	want := []string{"snp.signer", "snp.csp", "snp.vmpl", "snp.guest_policy", "snp.platform", "snp.id_key_digest", "snp.author_key_digest", "snp.host_data"}
	if r := Appraise(snpClaims(), p); !r.OK() || !slices.Equal(r.NotChecked, want) {
		t.Errorf("%s, not checked %q, want %q", r.Status, r.NotChecked, want)
	}
}

// TestSNPVersion2 names no CPU: the rule is that of the product line.
func TestSNPVersion2(t *testing.T) {
	c, p := snpClaims(), snpPolicy()
	c.SNP.Version, c.SNP.CPU, c.SNP.Product, p.SNP.MinReportVersion = 2, SNPCPU{}, "Milan-B0", 2
	if got := codesOf(Appraise(c, p).Reasons); !slices.Equal(got, []string{CodeTCBUnlisted}) {
		t.Errorf("refused for %q", got)
	}
	p.SNP.TCB["milan"] = p.SNP.TCB["19/11/01"]
	if r := Appraise(c, p); !r.OK() {
		t.Errorf("refused for %v", r.Reasons)
	}
}

// TestSNPAdvisories: what is behind, by component, with what closes it.
func TestSNPAdvisories(t *testing.T) {
	milan, milanX, genoa, genoaX, siena := SNPCPU{0x19, 1, 1}, SNPCPU{0x19, 1, 2}, SNPCPU{0x19, 0x11, 1}, SNPCPU{0x19, 0x11, 2}, SNPCPU{0x19, 0xa0, 2}
	turin := SNPCPU{0x1a, 2, 1}
	for _, tc := range []struct {
		cpu  SNPCPU
		tcb  SNPTCB
		open string // advisory, component, got, wanted
	}{
		{milan, SNPTCB{SNP: 29, Ucode: 219}, "[]"},
		{milan, SNPTCB{SNP: 28, Ucode: 218}, "[{AMD-SB-3019 ucode 218 219} {AMD-SB-3030 snp 28 29}]"},
		{milan, SNPTCB{SNP: 26, Ucode: 219}, "[{AMD-SB-3016 snp 26 27} {AMD-SB-3023 snp 26 27} {AMD-SB-3030 snp 26 29}]"},
		{milan, SNPTCB{SNP: 29, Ucode: 208}, "[{AMD-SB-3005 ucode 208 209} {AMD-SB-3019 ucode 208 219}]"},
		{milan, SNPTCB{SNP: 23, Ucode: 219}, "[{AMD-SB-3019 snp 23 24} {AMD-SB-3016 snp 23 27} {AMD-SB-3023 snp 23 27} {AMD-SB-3030 snp 23 29}]"},
		{milanX, SNPTCB{SNP: 29, Ucode: 68}, "[]"},
		{milanX, SNPTCB{SNP: 29, Ucode: 51}, "[{AMD-SB-3005 ucode 51 52} {AMD-SB-3019 ucode 51 68}]"},
		{genoa, SNPTCB{SNP: 27, Ucode: 86}, "[]"},
		{genoa, SNPTCB{SNP: 26, Ucode: 86}, "[{AMD-SB-3016 snp 26 27} {AMD-SB-3020 snp 26 27} {AMD-SB-3023 snp 26 27}]"},
		{genoa, SNPTCB{SNP: 27, Ucode: 83}, "[{AMD-SB-3019 ucode 83 84} {AMD-SB-3020 ucode 83 86} {AMD-SB-3027 ucode 83 86}]"},
		{genoaX, SNPTCB{SNP: 27, Ucode: 81}, "[]"},
		{genoaX, SNPTCB{SNP: 27, Ucode: 78}, "[{AMD-SB-3019 ucode 78 79} {AMD-SB-3020 ucode 78 81} {AMD-SB-3027 ucode 78 81}]"},
		{siena, SNPTCB{SNP: 27, Ucode: 25}, "[]"},
		{siena, SNPTCB{SNP: 26, Ucode: 24}, "[{AMD-SB-3019 ucode 24 25} {AMD-SB-3023 snp 26 27}]"},
		{turin, SNPTCB{FMC: 1, SNP: 4, Ucode: 81}, "[]"},
		{turin, SNPTCB{FMC: 1, SNP: 3, Ucode: 79}, "[{AMD-SB-3020 snp 3 4} {AMD-SB-3020 ucode 79 80} {AMD-SB-3023 snp 3 4} {AMD-SB-3027 ucode 79 81}]"},
		{SNPCPU{0x1a, 0x11, 0}, SNPTCB{}, "[]"}, // nothing is known of it
	} {
		c := &SNPClaims{CPU: tc.cpu, TCB: SNPTCBs{Reported: tc.tcb}}
		if got := fmt.Sprint(c.OpenAdvisories()); got != tc.open {
			t.Errorf("%s at %+v: %s, want %s", tc.cpu, tc.tcb, got, tc.open)
		}
	}
	// A report of version 2 names no stepping, and is read as the common one.
	for product, open := range map[string]string{"Milan-B0": "[{AMD-SB-3019 ucode 218 219}]", "Genoa": "[]"} {
		c := &SNPClaims{Product: product, TCB: SNPTCBs{Reported: SNPTCB{SNP: 29, Ucode: 218}}}
		if got := fmt.Sprint(c.OpenAdvisories()); got != open {
			t.Errorf("%s: %s, want %s", product, got, open)
		}
	}
}

func TestSNPDigest(t *testing.T) {
	base := snpPolicy().Digest()
	for name, change := range map[string]func(*SNPPolicy){
		"signers": func(p *SNPPolicy) { p.Signers = SetOf("vcek") }, "require": func(p *SNPPolicy) { p.Platform.Require = Set{} },
		"rule": func(p *SNPPolicy) { p.TCB = snpRule(p, func(r *SNPRule) { r.Launch.TEE = 1 }) }, "provisional": func(p *SNPPolicy) { p.Provisional = true },
	} {
		p := snpPolicy()
		change(p.SNP)
		if p.Digest() == base {
			t.Errorf("%s does not count", name)
		}
	}
	p := snpPolicy()
	p.SNP.Platform.Require = Set{Of: []string{"ecc", "alias_check"}}
	p.SNP.TCB["19/01/01"] = SNPRule{}
	delete(p.SNP.TCB, "19/01/01")
	if p.Digest() != base {
		t.Error("order counts")
	}
}

func TestSNPJSON(t *testing.T) {
	c := snpClaims()
	c.SNP.GuestPolicy, c.SNP.Platform = 0xb001f, 0x164
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"guest_policy":{"abi":"0.31","bits":["smt","debug"],"value":"0xb001f"}`, `"platform":{"bits":["ecc","alias_check","iommu_write_safe","bit8"],"value":"0x164"}`,
		`"cpu":{"family":25,"model":17,"stepping":1}`, `"reported":{"fmc":0,"bootloader":10,"tee":0,"snp":23,"ucode":84}`, `"current_mitigations":"0x7"`, `"chip_id":"aa"`,
	} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%s lacks %s", b, want)
		}
	}
}

func TestSNPPolicyYAML(t *testing.T) {
	var p SNPPolicy
	if err := yaml.Unmarshal([]byte(`
signers: [vcek]
csps: any
min_report_version: 3
vmpl: [0, 1]
guest_policy: {allow: [smt], require: []}
min_abi: 0.31
platform: {allow: [smt], require: [alias_check]}
provisional: false
tcb:
  19/01/01: {minimum: {fmc: 0, bootloader: 4, tee: 0, snp: 24, ucode: 219}, launch: {fmc: 0, bootloader: 4, tee: 0, snp: 24, ucode: 219}, firmware: 1.55.22, launch_mitigations: 0, current_mitigations: 0x3f}
id_keys: [zero]
author_keys: any
host_data: any
min_guest_svn: 0
`), &p); err != nil {
		t.Fatal(err)
	}
	rule := p.TCB["19/01/01"]
	if !p.VMPL.Has("1") || p.MinABI != "0.31" || rule.Firmware != "1.55.22" || rule.Minimum.Ucode != 219 || rule.CurrentMitigations != 0x3f || !p.CSPs.Any {
		t.Errorf("%+v", p)
	}
}
