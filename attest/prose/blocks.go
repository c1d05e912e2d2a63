package prose

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/consilium-fl/consilium/attest"
)

func snp(p *page, c *attest.SNPClaims) {
	cpu := c.CPU.String()
	if c.CPU == (attest.SNPCPU{}) {
		cpu = "not named (reports of version 2 name none)"
	}
	p.say("Processor", "%s, family/model/stepping %s, report version %d", orUnknown(c.Product), cpu, c.Version)
	signer := "the chip's own key (VCEK)"
	if c.Signer == attest.SignerVLEK {
		signer = "a key that AMD gave to the provider " + orUnknown(c.CSP) + " (VLEK): it names no chip"
	}
	p.say("Signed by", "%s", signer)
	t, level := c.TCB, level
	if c.CPU.Family >= 0x1a { // where zero is a level of the FMC
		level = levelFMC
	}
	p.say("Firmware", "SNP firmware %s (committed %s); patch levels %s", c.CurrentFirmware, c.CommittedFirmware, level(t.Reported))
	if t.Committed != t.Current {
		p.say("", "provisional: the host runs %s and has committed to %s, so it may go back", level(t.Current), level(t.Committed))
	}
	if t.Launch != t.Current {
		p.say("", "the guest was started under %s", level(t.Launch))
	}
	var behind []string
	for _, x := range c.OpenAdvisories() {
		behind = append(behind, fmt.Sprintf("%s is %d, %s is closed from %d on", x.Component, x.Got, x.ID, x.Want))
	}
	if c.Platform>>5&1 == 0 {
		behind = append(behind, "the firmware does not say that it looked for memory at two addresses (alias check), so AMD-SB-3015 is open")
	}
	if len(behind) == 0 {
		behind = []string{"nothing that this version knows of; what is current a policy says, by family, model and stepping"}
	}
	p.list("Behind", behind)
	p.say("Privilege", "VMPL %d", c.VMPL)
	p.say("Guest policy", "%s", jsonText(c.GuestPolicy))
	p.say("Platform", "%s", jsonText(c.Platform))
	p.say("Image keys", "id key %s, author key %s, guest SVN %d", zeroText(c.IDKeyDigest), zeroText(c.AuthorKeyDigest), c.GuestSVN)
	p.say("Host data", "%s", zeroText(c.HostData))
}

func level(t attest.SNPTCB) string {
	if t.FMC != 0 {
		return levelFMC(t)
	}
	return fmt.Sprintf("bootloader %d, tee %d, snp %d, microcode %d", t.Bootloader, t.TEE, t.SNP, t.Ucode)
}

func levelFMC(t attest.SNPTCB) string {
	fmc := t.FMC
	t.FMC = 0
	return fmt.Sprintf("fmc %d, %s", fmc, level(t))
}

func tdx(p *page, c *attest.TDXClaims) {
	p.say("Platform", "FMSPC %s, quote version %d", c.FMSPC, c.QuoteVersion)
	for _, h := range []struct {
		head string
		tcb  *attest.TDXTCB
	}{{"Platform TCB", c.Platform}, {"Module TCB", c.Module}, {"QE TCB", c.QE}} {
		switch {
		case h.tcb == nil && h.head == "Module TCB" && c.Platform != nil:
			p.say(h.head, "covered by the platform's level")
		case h.tcb == nil:
			p.say(h.head, "unknown: there is no collateral of Intel's for it in the trust given")
		case h.tcb.Status == "":
			p.say(h.head, "no level matches: Intel's document knows no such machine")
		default:
			p.say(h.head, "%s, level of %s, evaluation %d%s", h.tcb.Status, h.tcb.Date, h.tcb.EvaluationNumber, advisories(h.tcb.Advisories))
		}
		if h.tcb != nil {
			var behind []string
			for _, b := range h.tcb.Behind {
				behind = append(behind, fmt.Sprintf("%s is %d, the newest level has %d", b.Component, b.Got, b.Want))
			}
			p.list("  behind", behind)
		}
	}
	p.say("Attributes", "%s, XFAM %s", c.Attributes, c.XFAM)
	if now := c.TEETCBSVN2; now != nil && !bytes.Equal(now, c.TEETCBSVN) {
		p.say("TDX module", "replaced since this TD was started: TCB SVN %s then, %s now", c.TEETCBSVN, now)
	}
	for _, m := range []struct {
		name  string
		value attest.HexBytes
	}{{"Config id", c.MRConfigID}, {"Owner", c.MROwner}, {"Owner's config", c.MROwnerConfig}, {"Service TD", c.MRServiceTD}} {
		if text := zeroText(m.value); text != "zero" {
			p.say(m.name, "%s", text)
		}
	}
	for i, r := range c.RTMR {
		p.say("RTMR "+strconv.Itoa(i), "%s", zeroText(r))
	}
	if c.EventLog == nil {
		p.say("Event log", "none came along, so the registers are digests and no more")
		return
	}
	p.list("Event log", append(replayed(c), events(c.EventLog)...))
}

// replayed says of which registers a log is the whole story.
func replayed(c *attest.TDXClaims) (out []string) {
	for i, want := range c.EventLog.Replay {
		switch {
		case want != nil && !bytes.Equal(want, c.RTMR[i]):
			out = append(out, fmt.Sprintf("RTMR %d: NOT what its events lead to, so they explain nothing", i))
		case want == nil && zeroText(c.RTMR[i]) != "zero":
			out = append(out, fmt.Sprintf("RTMR %d: no event explains it", i))
		}
	}
	return out
}

func events(log *attest.TDXEventLog) (out []string) {
	for _, e := range log.Events {
		out = append(out, fmt.Sprintf("RTMR %d: %d × %s %s", e.RTMR, e.Count, e.Type, e.Name))
	}
	return out
}

func advisories(ids []string) string {
	if len(ids) == 0 {
		return ""
	}
	return ", open: " + strings.Join(ids, ", ")
}

func azure(p *page, c *attest.AzureClaims) {
	p.say("Azure VM", "%s, secure boot %t, serial console %t", c.VM, c.SecureBoot, c.Console)
	if c.TPMBound {
		p.say("", "bound by the TPM's quote alone: the hardware's report may be from any time since the start")
	}
}

func tpm(p *page, c *attest.TPMClaims) {
	if c.GCE != nil {
		p.say("Instance", "%s (%d) in project %s, zone %s", c.GCE.Name, c.GCE.ID, c.GCE.Project, c.GCE.Zone)
	}
	p.say("TPM", "firmware %s, reset %d times, nonce %s", c.Firmware, c.Resets, c.Nonce)
	for _, i := range slices.Sorted(maps.Keys(c.PCRs)) {
		p.say("PCR "+strconv.Itoa(i), "%s", zeroText(c.PCRs[i]))
	}
	if c.EventLog == nil {
		p.say("Event log", "none came along, so the registers are digests and no more")
		return
	}
	boot := "not said"
	if c.EventLog.SecureBoot != nil {
		boot = strconv.FormatBool(*c.EventLog.SecureBoot)
	}
	p.say("Event log", "%d events lead to registers %v; secure boot %s", c.EventLog.Events, c.EventLog.PCRs, boot)
}

func workload(p *page, c *attest.WorkloadClaims) {
	p.say("Word of", "%s", c.Issuer)
	p.say("Hardware", "%s, software %s %s, debug %s, secure boot %t", c.HWModel, c.SWName, strings.Join(c.SWVersion, " "), c.DebugStatus, c.SecureBoot)
	p.say("Support", "%s", orUnknown(strings.Join(c.SupportAttributes, " ")))
	p.say("Image", "%s", jsonText(c.Container))
	p.say("Instance", "%s", jsonText(c.GCE))
	p.say("Answers", "%d nonces", len(c.Nonces))
}

func zeroText(b attest.HexBytes) string {
	if strings.Trim(b.String(), "0") == "" {
		return "zero"
	}
	return b.String()
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}
