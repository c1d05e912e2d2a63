package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/testtee/shared"
)

// policyWith is a policy that ships, with lines of it replaced: what a file's own values are, and what its row expects.
func policyWith(t *testing.T, name string, lines ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "deploy", "policies", name))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lines {
		key, _, ok := strings.Cut(l, ":")
		if before, after, renamed := strings.Cut(l, " => "); renamed {
			key, l = before, after
		}
		re := regexp.MustCompile(`(?m)^( *)` + regexp.QuoteMeta(key) + `:.*$`)
		if !ok || len(re.FindAll(b, -1)) != 1 {
			t.Fatalf("%s has %d lines of %q, want one", name, len(re.FindAll(b, -1)), key)
		}
		b = re.ReplaceAll(b, []byte("${1}"+strings.ReplaceAll(l, "$", "$$")))
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const none = `{fmc: 0, bootloader: 0, tee: 0, snp: 0, ucode: 0}`

// TestRealEvidence gives each file of real evidence the verdict that it must get, by the policies that ship with the
// file's own measurement in them.
func TestRealEvidence(t *testing.T) {
	dir := shared.Dir(t)
	milanV2 := func(ucode string) []string {
		return []string{
			"measurements: any", "deny_generations: []", "revocation: false", "min_report_version: 2", "provisional: true", "id_keys: any",
			"platform: {allow: [smt], require: []}",
			`"19/11/01" => "milan": {minimum: {fmc: 0, bootloader: 3, tee: 0, snp: 8, ucode: ` + ucode + `}, launch: ` + none + `, firmware: "1.0.0", launch_mitigations: 0, current_mitigations: 0}`,
		}
	}
	snp := []string{"revocation: false"}
	for _, tc := range []struct {
		name, file, trust, at, policy string
		lines                         []string
		refused                       []string // codes; none is an acceptance
	}{
		{
			"debug", "snp/milan-v2-debug.report.bin", "snp/milan-v2-debug.vcek.der", "2025-01-01T00:00:00Z", "snp.yaml", milanV2("68"),
			[]string{"debug", "tcb.snp.below_min", "tcb.bootloader.below_min"},
		},
		{"Azure's Milan, old", "snp/milan-v2-azure.report.bin", "snp/milan-v2-azure.vcek.der", "2025-01-01T00:00:00Z", "snp.yaml", milanV2("115"), nil},
		{"too old", "snp/milan-v2-azure.report.bin", "snp/milan-v2-azure.vcek.der", "2025-01-01T00:00:00Z", "snp.yaml", milanV2("219"), []string{"tcb.ucode.below_min"}},
		{
			"no alias check", "snp/milan-v2-azure.report.bin", "snp/milan-v2-azure.vcek.der", "2025-01-01T00:00:00Z", "snp.yaml",
			slices.Replace(milanV2("115"), 6, 7, "platform: {allow: [smt], require: [alias_check]}"),
			[]string{"platform.alias"},
		},
		{
			"a region's key", "snp/milan-v3-aws-vlek.report.bin", "snp/milan-v3-aws-vlek.vlek.der", "2025-06-01T00:00:00Z", "snp-vlek.yaml",
			append(snp, "measurements: any", "csps: any"), nil,
		},
		{
			"its end", "snp/milan-v3-aws-vlek.report.bin", "snp/milan-v3-aws-vlek.vlek.der", "2026-01-01T00:00:00Z", "snp-vlek.yaml",
			append(snp, "measurements: any", "csps: any"),
			[]string{"cert.expired"},
		},
		{
			"Genoa", "snp/genoa-v3.report.bin", "snp/genoa-v3.vcek.pem", "2026-01-01T00:00:00Z", "snp.yaml",
			append(snp, `measurements: ["sha384:7699e6ac12ccdfd1dfac70e649ce1f046cb2afbb003438f4cdddfe2ccbe182fa5ffbe8dcdb930454324e10c52c788980"]`), nil,
		},
		{"another image", "snp/genoa-v3.report.bin", "snp/genoa-v3.vcek.pem", "2026-01-01T00:00:00Z", "snp.yaml", snp, []string{"measurement.unlisted"}},
		{"no list", "snp/genoa-v3.report.bin", "snp/genoa-v3.vcek.pem", "2026-01-01T00:00:00Z", "snp.yaml", []string{"measurements: any"}, []string{"crl.missing"}},
		{"Siena", "snp/siena-v3.report.bin", "snp/siena-v3.vcek.der", "2026-01-01T00:00:00Z", "snp.yaml", append(snp, "measurements: any"), nil},
		{"Phala", "tdx/v4-phala.quote.bin", "tdx/v4-phala.collateral.json", "2025-06-25T00:00:00Z", "tdx.yaml", []string{"measurements: any"}, nil},
		{"stale collateral", "tdx/v4-phala.quote.bin", "tdx/v4-phala.collateral.json", "2025-08-25T00:00:00Z", "tdx.yaml", []string{"measurements: any"}, []string{"crl.stale", "collateral.expired", "collateral.expired"}},
		{
			"Google's", "tdx/v4-gcp.quote.bin", "tdx", "2025-07-10T00:00:00Z", "tdx.yaml",
			[]string{"measurements: any"},
			nil,
		},
		{"version 5", "tdx/v5-outdated.quote.bin", "tdx/v5-outdated.collateral.json", "2026-03-01T00:00:00Z", "tdx.yaml", []string{"measurements: any"}, []string{"tcb.no_level"}},
		{
			"a debug TD", "tdx/v4-debug.quote.bin", "", "2025-01-01T00:00:00Z", "tdx.yaml",
			[]string{"measurements: any", "attributes: any", "revocation: false"},
			[]string{"debug", "collateral.missing"},
		},
		{"a tail", "tdx/v4-spr-e4.quote.bin", "tdx", "2023-07-01T00:00:00Z", "tdx.yaml", nil, []string{"parse.tail"}},
		{"SGX", "tdx/not-tdx-sgx-v3.quote.bin", "tdx", "2025-07-01T00:00:00Z", "tdx.yaml", nil, []string{"tee.type"}},
		{
			"Azure's Milan", "azure/snp-milan-v3.evidence.json", "", "2026-01-01T00:00:00Z", "azure-snp.yaml",
			[]string{
				`4: ["7461d6b7d5922dbd8fd58bfaac8f53c3380f01708bd1593ef367e3371791e717"]`, `9: ["630dc838b500d34ba7439095443b2d06d915f5acabf4f6d9ea7f49c78a8af3f9"]`,
				"user_data: optional",
			},
			nil,
		},
		{
			"Azure's TD", "azure/tdx-v4-outofdate.evidence.json", "tdx", "2025-07-10T00:00:00Z", "azure-tdx.yaml",
			[]string{"4: any", "9: any", "user_data: optional"},
			[]string{"tcb.platform.out_of_date", "tcb.module.out_of_date"},
		},
		{"secure boot off", "azure/tdx-secureboot-off.hcl.bin", "tdx", "2025-07-10T00:00:00Z", "azure-tdx.yaml", nil, []string{"config.secureboot"}},
		{"another chip's certificate", "azure/snp-other-chip.hcl.bin", "azure/snp-other-chip.certs.pem", "2025-01-01T00:00:00Z", "azure-snp.yaml", nil, []string{"sig.invalid"}},
		{
			"Google's vTPM", "vtpm/gce-cos-85-nonce9009.pb", "vtpm", "2025-01-01T00:00:00Z", "gce-vtpm.yaml", []string{"4: any", "9: any", "projects: any"}, nil,
		},
		{"no nonce", "vtpm/gce-cos-85-no-nonce.pb", "vtpm", "2025-01-01T00:00:00Z", "gce-vtpm.yaml", []string{"4: any", "9: any", "projects: any"}, []string{"freshness"}},
		{
			"a debug image", "confidential-space/debug-image.pki.jwt", "confidential-space/root.crt", "2025-06-23T15:00:00Z", "confidential-space.yaml",
			[]string{"measurements: any", "audiences: any"},
			[]string{"debug", "cs.debug", "cs.hwmodel"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			args := []string{"attest", "verify", "--json", "--at", tc.at, "--policy", policyWith(t, tc.policy, tc.lines...)}
			if tc.trust != "" {
				args = append(args, "--trust", filepath.Join(dir, tc.trust))
			}
			var out, errs bytes.Buffer
			code := run(append(args, filepath.Join(dir, tc.file)), &out, &errs)
			var line struct {
				Status     attest.Status   `json:"status"`
				Reasons    []attest.Reason `json:"reasons"`
				NotChecked []string        `json:"not_checked"`
			}
			if err := json.Unmarshal(out.Bytes(), &line); err != nil {
				t.Fatalf("%v: %s", err, errs.String())
			}
			var codes []string
			for _, r := range line.Reasons {
				codes = append(codes, r.Code)
			}
			if tc.refused == nil {
				// The binding was not looked at, so it is a warning and no more.
				if code != exitDone || line.Status != attest.Warning || !slices.Contains(line.NotChecked, attest.NotCheckedBinding) {
					t.Errorf("exit %d, %s for %v, not checked %v", code, line.Status, line.Reasons, line.NotChecked)
				}
				return
			}
			if code != exitUnverified || line.Status != attest.Contraindicated {
				t.Errorf("exit %d, %s, want a refusal", code, line.Status)
			}
			for _, want := range tc.refused {
				if !slices.Contains(codes, want) {
					t.Errorf("reasons %v, want %s among them", line.Reasons, want)
				}
			}
		})
	}
}
