// Package prose says in words what evidence shows and does not show, and what a policy takes. Texts are for people;
// programs read the JSON of [attest.Result].
package prose

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/internal/amd"
	"github.com/consilium-fl/consilium/attest/internal/intel"
)

// page is a text of headed paragraphs, with a column for the heads.
type page struct{ b strings.Builder }

const column = 16

// say writes a paragraph under a head, wrapped.
func (p *page) say(head, format string, args ...any) {
	text := format
	if len(args) > 0 {
		text = fmt.Sprintf(format, args...)
	}
	const width = 100
	line, empty := fmt.Sprintf("%-*s", column, head), true
	if len(head) >= column {
		line += " "
	}
	for word := range strings.FieldsSeq(text) {
		if !empty && len(line)+1+len(word) > width { // a word longer than a line has one of its own
			p.b.WriteString(line + "\n")
			line, empty = strings.Repeat(" ", max(column, len(head)+1)), true
		}
		if !empty {
			line += " "
		}
		line, empty = line+word, false
	}
	p.b.WriteString(strings.TrimRight(line, " ") + "\n")
}

// list writes each item as a paragraph of its own under one head.
func (p *page) list(head string, items []string) {
	for _, x := range items {
		p.say(head, "- %s", x)
		head = ""
	}
}

var kinds = map[attest.Format]string{
	attest.FormatSNP:      "an AMD SEV-SNP report",
	attest.FormatTDX:      "an Intel TDX quote",
	attest.FormatAzureSNP: "an Azure confidential VM over SEV-SNP",
	attest.FormatAzureTDX: "an Azure confidential VM over TDX",
	attest.FormatVTPM:     "a virtual TPM's quote from Google Compute Engine",
	attest.FormatCSPKI:    "a Confidential Space token with Google's certificates",
	attest.FormatCSOIDC:   "a Confidential Space token of Google's OIDC issuer",
	"sim/1":               "a SIMULATED machine",
}

func kind(f attest.Format) string {
	if k, ok := kinds[f]; ok {
		return k
	}
	return fmt.Sprintf("evidence of format %q", f)
}

// Evidence explains evidence, as the result of a check that nobody set a policy for. What is not authentic is shown as
// such, with the statement's own word.
func Evidence(how string, e attest.Evidence, r attest.Result, in attest.Inputs) string {
	var p page
	p.say("What it is", "%s (%s), %d bytes", kind(e.Format), how, len(e.Statement))
	at := in.Now.UTC().Format(time.RFC3339)
	c := r.Claims
	if r.Authentic() {
		p.say("Authentic", "yes: the signature holds at %s, by certificates that lead to a root in the trust given", at)
	} else {
		var why []string
		for _, reason := range r.Reasons {
			if reason.Code != attest.CodeFormatUnlisted && reason.Code != attest.CodeConfig {
				why = append(why, reason.Error())
			}
		}
		p.say("Authentic", "NO, at %s", at)
		p.list("", why)
		var known bool
		c, known = unproven(e, in)
		said := said(e)
		if known || said != nil {
			p.say("", "What follows is the statement's own word, which anybody could have written.")
		}
		if said != nil {
			p.say("Says", "%s", jsonText(said))
		}
		if !known {
			p.list("Does not prove", []string{"anything, as long as it is not authentic"})
			return p.b.String()
		}
	}
	describe(&p, c)
	p.list("Not checked", slices.Concat(c.NotChecked, unbound(in)))
	p.list("Does not prove", limits(e.Format))
	return p.b.String()
}

// unproven reads what a statement says where nothing vouches for it: the hardware's, which an Azure machine's is around.
func unproven(e attest.Evidence, in attest.Inputs) (attest.Claims, bool) {
	var c attest.Claims
	switch e.Format {
	case attest.FormatSNP:
		c, _ = amd.Verify(e.Statement, e.Endorsements, in)
	case attest.FormatTDX:
		c, _ = intel.Verify(e.Statement, e.Endorsements, in)
	case attest.FormatAzureSNP:
		if len(e.Statement) >= hclData {
			c, _ = amd.Verify(e.Statement[hclHeader:hclData], e.Endorsements, in)
		}
	case attest.FormatAzureTDX:
		c, _ = intel.Verify(e.Endorsements["td-quote"], e.Endorsements, in)
	}
	return c, c.SNP != nil || c.TDX != nil
}

// Where an HCL report has its parts: the hardware's report after the header, the claims in the data after that, and the
// length of the claims at the end of what precedes them.
const (
	hclHeader = 32
	hclData   = hclHeader + amd.ReportSize
	hclClaims = hclData + 20
)

// said is what a token, or the claims of a paravisor, say of the machine; nil where they cannot be read.
func said(e attest.Evidence) (v map[string]any) {
	var raw []byte
	switch e.Format {
	case attest.FormatCSPKI, attest.FormatCSOIDC:
		_, rest, _ := bytes.Cut(e.Statement, []byte("."))
		claims, _, _ := bytes.Cut(rest, []byte("."))
		raw, _ = base64.RawURLEncoding.DecodeString(string(claims))
	case attest.FormatAzureSNP, attest.FormatAzureTDX:
		if len(e.Statement) > hclClaims {
			raw = bytes.TrimRight(e.Statement[hclClaims:], "\x00")
		}
	}
	if len(raw) > maxSaid || json.Unmarshal(raw, &v) != nil {
		return nil
	}
	delete(v, "keys") // numbers that nobody reads
	return v
}

// maxSaid bounds what a statement is repeated of, in bytes.
const maxSaid = 32 << 10

func unbound(in attest.Inputs) []string {
	if in.ReportData == nil {
		return []string{"binding: give --report-data to see whether the evidence answers your question, or somebody else's"}
	}
	return nil
}

func describe(p *page, c attest.Claims) {
	if c.Machine != "" {
		p.say("Machine", "%s", c.Machine)
	}
	if c.Generation != "" {
		p.say("Generation", "%s%s", c.Generation, broken(c.Generation))
	}
	if c.Measurement != "" {
		p.say("Measurement", "%s", c.Measurement)
	}
	p.say("Report data", "%s", dataText(c.ReportData))
	if c.Debug {
		p.say("Debug", "ON: whoever runs the host can read all of this machine's memory")
	}
	if c.SNP != nil {
		snp(p, c.SNP)
	}
	if c.TDX != nil {
		tdx(p, c.TDX)
	}
	if c.Azure != nil {
		azure(p, c.Azure)
	}
	if c.TPM != nil {
		tpm(p, c.TPM)
	}
	if c.Workload != nil {
		workload(p, c.Workload)
	}
	for _, d := range c.Dated {
		p.say("Dated", "%s of %s, next due %s", d.Name, d.ThisUpdate.UTC().Format(time.DateOnly), d.NextUpdate.UTC().Format(time.DateOnly))
	}
	if !c.NotAfter.IsZero() {
		p.say("Valid until", "%s, when the first certificate ends", c.NotAfter.UTC().Format(time.RFC3339))
	}
}

func broken(generation string) string {
	if generation == "milan" {
		return ": its chip secrets are reported to be extractable by software (arXiv 2605.12990), so a report of this generation proves little against a capable attacker"
	}
	return ""
}

func dataText(d [64]byte) string {
	switch {
	case d == [64]byte{}:
		return "all zero: bound to nothing, anybody may show it again"
	case [32]byte(d[32:]) == [32]byte{}:
		return fmt.Sprintf("%x, then zeros", d[:32])
	}
	return fmt.Sprintf("%x", d)
}

// limits is what no evidence of a format proves.
func limits(f attest.Format) []string {
	out := []string{
		"that the machine is in the building you think: an interposer on the memory bus of a machine in hostile hands reads what it likes, and no report shows it",
		"anything about the time since the report: nothing is measured again between attestations",
	}
	switch f {
	case attest.FormatSNP:
		out = append(out, "what ran after the launch measurement, unless what was launched measures or verifies it (an environment or a disk loaded later, ACPI tables that the host passes in)")
	case attest.FormatTDX:
		out = append(out, "what the registers do not say: RTMRs are worth their event log, and tables or devices that nobody measured are in none")
	case attest.FormatAzureSNP, attest.FormatAzureTDX:
		out = append(out, "what Microsoft's paravisor does: it runs inside the boundary, above your system, and is measured but not yours")
	case attest.FormatVTPM:
		out = append(out, "that memory is encrypted: a virtual TPM is Google's software, and says what was started, not who can read it")
	case attest.FormatCSPKI, attest.FormatCSOIDC:
		out = append(out, "more than Google's word: the token is a statement of Google's verifier, and on AMD the machine is SEV with a vTPM, not SEV-SNP")
	case "sim/1":
		return []string{"anything at all about a machine: whoever holds the simulated root can write it"}
	}
	return out
}

// Verdict says what a check came to, for one file.
func Verdict(file, how string, r attest.Result) string {
	var p page
	p.say(strings.ToUpper(string(r.Status)), "%s: %s", file, subject(how, r))
	for _, x := range r.Reasons {
		p.say("  refused", "%s", x.Error())
	}
	for _, x := range r.Warnings {
		p.say("  warning", "%s", x.Error())
	}
	if r.Status != attest.Contraindicated {
		p.say("  until", "%s", r.Until.UTC().Format(time.RFC3339))
	}
	if len(r.NotChecked) > 0 {
		p.say("  not checked", "%s", strings.Join(r.NotChecked, ", "))
	}
	return p.b.String()
}

func subject(how string, r attest.Result) string {
	if how == "" {
		return "nothing that could be recognised"
	}
	s := kind(r.Claims.Format)
	if r.Claims.Generation != "" {
		s += ", " + r.Claims.Generation
	}
	return s
}
