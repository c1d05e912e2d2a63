package prose

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
	format "github.com/consilium-fl/consilium/attest/snp"
	tdxformat "github.com/consilium-fl/consilium/attest/tdx"
	fake "github.com/consilium-fl/consilium/attest/testtee/amd"
	"github.com/consilium-fl/consilium/attest/testtee/intel"
)

var day = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

// looked is evidence of the fake AMD, and what a check for no policy finds.
func looked(t *testing.T, files map[string][]byte, o fake.Options) (attest.Evidence, attest.Result, attest.Inputs) {
	t.Helper()
	report, endorsements := fake.Shared().Report(o)
	trust, err := endorse.New(files)
	if err != nil {
		t.Fatal(err)
	}
	e := attest.Evidence{Format: attest.FormatSNP, Statement: report, Endorsements: endorsements}
	in := attest.Inputs{Now: day, Trust: trust}
	r := attest.NewVerifiers(format.NewVerifier()).Check(e, in, attest.Policy{Role: attest.RoleNode, Accept: attest.Formats(), Measurements: attest.AnySet(), Machines: attest.AnySet()})
	return e, r, in
}

func TestEvidence(t *testing.T) {
	e, r, in := looked(t, fake.Shared().Files(), fake.Options{})
	text := Evidence("raw, with vcek", e, r, in)
	for _, want := range []string{
		"What it is      an AMD SEV-SNP report (raw, with vcek), 1184 bytes\n", "Authentic       yes: the signature holds at 2026-06-01T00:00:00Z",
		"Machine         chip:", "Measurement     sha384:", "Signed by       the chip's own key (VCEK)\n", "- binding: give --report-data", "Does not prove  - that the machine is in the building",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "own word") || strings.Contains(text, "config.error") {
		t.Errorf("authentic, and doubted:\n%s", text)
	}
	for line := range strings.Lines(text) {
		if len(line) > 101 && len(strings.Fields(line)) > 2 {
			t.Errorf("a line of %d characters: %q", len(line), line)
		}
	}
}

// TestNotAuthentic: what nobody vouches for is shown as the statement's own word.
func TestNotAuthentic(t *testing.T) {
	e, r, in := looked(t, nil, fake.Options{})
	text := Evidence("raw", e, r, in)
	for _, want := range []string{"Authentic       NO, at 2026-06-01", "- chain: ", "What follows is the statement's own word", "Measurement     sha384:"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if text := Verdict("a.bin", "raw", r); !strings.HasPrefix(text, "CONTRAINDICATED a.bin: an AMD SEV-SNP report\n") || !strings.Contains(text, "\n  refused       chain: ") {
		t.Errorf("verdict:\n%s", text)
	}
}

// TestFirmware: what is behind, and a level of zero where zero is one.
func TestFirmware(t *testing.T) {
	current, old := fake.Options{Line: fake.Turin}, fake.Options{Line: fake.Turin, TCB: &attest.SNPTCB{Bootloader: 1, SNP: 2, Ucode: 71}, Edit: func(r []byte) { r[0x40] &^= 1 << 5 }}
	for _, tc := range []struct {
		o           fake.Options
		level, says string
	}{
		{current, "patch levels fmc 1, bootloader 3,", "nothing that this version knows of"},
		{old, "patch levels fmc 0, bootloader 1,", "so AMD-SB-3015 is open"},
		{fake.Options{TCB: &attest.SNPTCB{Bootloader: 9, SNP: 23, Ucode: 72}}, "patch levels bootloader 9,", "ucode is 72, AMD-SB-3019 is closed from 84 on"},
	} {
		e, r, in := looked(t, fake.Shared().Files(), tc.o)
		if text := strings.Join(strings.Fields(Evidence("raw", e, r, in)), " "); !strings.Contains(text, tc.level) || !strings.Contains(text, tc.says) {
			t.Errorf("no %q or no %q in\n%s", tc.level, tc.says, text)
		}
	}
}

// TestOwnWord: what a token or a paravisor says of the machine is shown where nothing vouches for it, and nothing is made
// up where it says nothing.
func TestOwnWord(t *testing.T) {
	claims := base64.RawURLEncoding.EncodeToString([]byte(`{"aud":"https://a.example","submods":{"container":{"image_digest":"sha256:00","env":null,"args":["a\u001b[2J","1"]}},"swversion":[250301]}`))
	report, endorsements := fake.Shared().Report(fake.Options{Line: fake.Milan})
	hcl := append(append(make([]byte, 32), report...), make([]byte, 20)...)
	hcl = append(append(hcl, `{"keys":[{"kid":"HCLAkPub"}],"vm-configuration":{"secure-boot":false}}`...), 0, 0)
	in := attest.Inputs{Now: day}
	for _, tc := range []struct {
		e             attest.Evidence
		says, nothing string
	}{
		{attest.Evidence{Format: attest.FormatCSOIDC, Statement: []byte("e30." + claims + ".AA")}, `Says {aud: https://a.example, submods: {container: {args: ["a\x1b[2J", 1], env: none, image_digest: sha256:00}}, swversion: [250301]}`, "Report data"},
		{attest.Evidence{Format: attest.FormatCSPKI, Statement: []byte("e30.!.AA")}, "Does not prove - anything, as long as", "own word"},
		{attest.Evidence{Format: attest.FormatAzureSNP, Statement: hcl, Endorsements: endorsements}, "Says {vm-configuration: {secure-boot: false}} Machine chip:", "HCLAkPub"},
		{attest.Evidence{Format: attest.FormatAzureTDX, Statement: hcl}, "Says {vm-configuration: {secure-boot: false}} Does not prove - anything", "Report data"},
		{attest.Evidence{Format: attest.FormatVTPM, Statement: hcl}, "Does not prove - anything", "Report data"},
	} {
		r := attest.NewVerifiers().Check(tc.e, in, attest.Policy{})
		if text := strings.Join(strings.Fields(Evidence("raw", tc.e, r, in)), " "); !strings.Contains(text, tc.says) || strings.Contains(text, tc.nothing) {
			t.Errorf("want %q and no %q in\n%s", tc.says, tc.nothing, text)
		}
	}
}

// TestRegisters: what a TD's log does not lead to is no explanation, and a module that was replaced is told of.
func TestRegisters(t *testing.T) {
	world, machine := intel.New(nil), intel.NewMachine()
	log := intel.NewEventLog()
	log.Measure(0, 0x80000001, [48]byte{1}, nil)
	td := intel.NewTD([64]byte{1})
	td.RTMR = log.RTMR
	td.RTMR[1] = [48]byte{9}
	trust, err := endorse.New(world.Trust(machine))
	if err != nil {
		t.Fatal(err)
	}
	in := attest.Inputs{Now: intel.Now(), Trust: trust}
	explain := func() string {
		e := attest.Evidence{Format: attest.FormatTDX, Statement: world.Quote(world.PCK(machine), td), Endorsements: map[string][]byte{attest.CCEL: log.Bytes}}
		r := attest.NewVerifiers(tdxformat.NewVerifier()).Check(e, in, attest.Policy{Role: attest.RoleNode, Accept: attest.Formats(), Measurements: attest.AnySet(), Machines: attest.AnySet()})
		if !r.Authentic() {
			t.Fatal(r.Reasons)
		}
		return strings.Join(strings.Fields(Evidence("raw", e, r, in)), " ")
	}
	if text := explain(); !strings.Contains(text, "Event log - RTMR 1: no event explains it - RTMR 0: 1 ×") || strings.Contains(text, "NOT") || strings.Contains(text, "replaced") || strings.Contains(text, "Service TD") {
		t.Error(text)
	}
	td.RTMR[0][0] ^= 1
	td.TEETCBSVN2[0]++
	td.MRServiceTD[0] = 7
	text := explain()
	for _, want := range []string{"Event log - RTMR 0: NOT what its events lead to", "TDX module replaced since this TD was started: TCB SVN 06010200", "Service TD 0700"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func TestVerdictOfNothing(t *testing.T) {
	r := attest.Result{Status: attest.Contraindicated, Reasons: []attest.Reason{{Code: attest.CodeParseEncoding}}}
	if text := Verdict("x", "", r); !strings.Contains(text, "nothing that could be recognised") {
		t.Error(text)
	}
}

func TestPolicy(t *testing.T) {
	p := attest.Policy{
		Role: attest.RoleNode, Accept: []attest.Format{"snp/1"}, Measurements: attest.SetOf("sha384:aa"), Machines: attest.AnySet(), Grace: time.Hour,
		SNP: &attest.SNPPolicy{Signers: attest.SetOf("vcek"), VMPL: attest.SetOf("0"), Provisional: true, TCB: map[string]attest.SNPRule{"19/11/01": {}, "19/01/01": {}}},
	}
	text := Policy(p)
	for _, want := range []string{
		"for evidence of a node; an appraisal holds for 1h0m0s", "and with a warning", "  measurements                         sha384:aa\n", "  snp.signers                          vcek\n", "snp.tcb.19/11/01.minimum             bootloader 0, tee 0, snp 0, microcode 0\n",
		"- machines: any\n", "- snp.provisional: true\n", "- revocation: false\n", "snp.id_keys                          none\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if a, b := strings.Index(text, "snp.tcb.19/01/01"), strings.Index(text, "snp.tcb.19/11/01"); a < 0 || b < a {
		t.Errorf("rules are not in order:\n%s", text)
	}
}
