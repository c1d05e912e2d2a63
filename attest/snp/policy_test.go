package snp

import (
	"strings"
	"testing"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/reference"
)

// policyFile is a production policy for machines of three kinds, as a consortium may sign it.
const policyFile = `
version: consilium.policy/v1
role: node
accept: [snp/1]
allow_simulated: false
measurements: ["sha384:7699e6ac12ccdfd1dfac70e649ce1f046cb2afbb003438f4cdddfe2ccbe182fa5ffbe8dcdb930454324e10c52c788980"]
machines: any
max_age: 1h
deny_generations: [milan]
warn_generations: []
revocation: false
endorsement_age: 720h
grace: 0s
snp:
  signers: [vcek]
  csps: []
  min_report_version: 3
  vmpl: [0]
  guest_policy: {allow: [smt], require: []}
  min_abi: 0.0
  platform: {allow: [smt], require: [alias_check]}
  provisional: false
  tcb:
    19/11/01:
      minimum: {fmc: 0, bootloader: 10, tee: 0, snp: 23, ucode: 84}
      launch: {fmc: 0, bootloader: 10, tee: 0, snp: 23, ucode: 84}
      firmware: 1.55.40
      launch_mitigations: 0
      current_mitigations: 0
    19/a0/02:
      minimum: {fmc: 0, bootloader: 10, tee: 0, snp: 23, ucode: 25}
      launch: {fmc: 0, bootloader: 10, tee: 0, snp: 23, ucode: 25}
      firmware: 1.55.40
      launch_mitigations: 0
      current_mitigations: 0
    1a/02/01:
      minimum: {fmc: 1, bootloader: 3, tee: 2, snp: 5, ucode: 97}
      launch: {fmc: 1, bootloader: 3, tee: 2, snp: 5, ucode: 97}
      firmware: 1.58.3
      launch_mitigations: 0x3f
      current_mitigations: 0x3f
  id_keys: [zero]
  author_keys: [zero]
  host_data: [zero]
  min_guest_svn: 0
`

func TestPolicyFile(t *testing.T) {
	p, err := reference.ParsePolicy([]byte(policyFile))
	if err != nil {
		t.Fatal(err)
	}
	s := genoa(t)
	s.policy = p
	if r := s.check(); r.Status != attest.Affirming {
		t.Errorf("%s for %v", r.Status, r.Reasons)
	}
	for _, key := range []string{"signers", "csps", "vmpl", "provisional", "min_abi", "id_keys", "firmware", "ucode", "require"} {
		lines := strings.Split(policyFile, "\n")
		for i, l := range lines {
			if strings.Contains(l, key+":") {
				lines[i] = strings.Replace(l, key+":", "x"+key+":", 1)
				break
			}
		}
		if _, err := reference.ParsePolicy([]byte(strings.Join(lines, "\n"))); err == nil {
			t.Errorf("a policy without %s was read", key)
		}
	}
}
