package tdx_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/reference"
)

// policyFile is for TDs of Google Compute Engine whose firmware and image are known.
const policyFile = `
version: consilium.policy/v1
role: node
accept: [tdx/1]
allow_simulated: false
measurements: [MEASUREMENT]
machines: any
max_age: 1h
deny_generations: []
warn_generations: []
revocation: false
endorsement_age: 0s
grace: 0s
tdx:
  platform: [UpToDate]
  module: [UpToDate]
  qe: [UpToDate]
  advisories: []
  min_evaluation: 17
  min_tcb_date: 2024-03-13
  attributes: ["0000001000000000"]
  xfam: [e700060000000000]
  mr_seam: any
  mr_config_id: [zero]
  mr_owner: [zero]
  mr_owner_config: [zero]
  mr_service_td: [zero]
  rtmr0: any
  rtmr1: any
  rtmr2: any
  rtmr3: any
  replay: optional
  events: []
`

func TestPolicyFile(t *testing.T) {
	g := gcp(t)
	text := strings.Replace(policyFile, "MEASUREMENT", exact(g.quote).Measurements.Of[0], 1)
	p, err := reference.ParsePolicy([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	got := g.check(p)
	want := []string{"pck_chain[0].not_before", "crl:intel-root", "tdx.mr_seam", "tdx.mr_service_td", "tdx.rtmr0", "tdx.rtmr1", "tdx.rtmr2", "tdx.rtmr3", "tdx.event_log"}
	for _, path := range want {
		if !slices.Contains(got.NotChecked, path) {
			t.Errorf("%s is not among what was not checked: %q", path, got.NotChecked)
		}
	}
	if got.Status != attest.Affirming {
		t.Errorf("got %s: %v", got.Status, got.Reasons)
	}
	for line := range strings.Lines(policyFile[strings.Index(policyFile, "  platform:"):]) {
		if _, err := reference.ParsePolicy([]byte(strings.Replace(text, line, "", 1))); err == nil {
			t.Errorf("a policy without %q is taken", strings.TrimSpace(line))
		}
	}
}
