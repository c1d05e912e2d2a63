package channel

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestEveryComparisonCounts takes one comparison at a time out of the code and runs the test that
// watches it: a test that still passes watches nothing.
func TestEveryComparisonCounts(t *testing.T) {
	if testing.Short() {
		t.Skip("it compiles the package once for every comparison")
	}
	gocmd, err := exec.LookPath("go")
	if err != nil {
		t.Skip("no go command: ", err)
	}
	lie := func(name string) []string {
		return []string{"TestHostileCoordinator/" + name, "TestHostileNode/" + name}
	}
	for _, m := range []struct {
		name, file, line, without string
		fails                     []string
	}{
		{"role", "channel/handshake.go", "Role:     role,", "Role:     got.Role,", lie("role")},
		{"nonce", "channel/handshake.go", "Nonce:    h.nonce,", "Nonce:    got.Nonce,", lie("nonce")},
		{"exporter", "channel/handshake.go", "exporter, err := h.exporter(role)", "_, err := h.exporter(role)\n\texporter := got.Exporter", lie("exporter")},
		{"own key", "channel/handshake.go", "OwnKey:   h.session.PeerKey,", "OwnKey:   got.OwnKey,", lie("own_key")},
		{"peer key", "channel/handshake.go", "PeerKey:  h.ownKey,", "PeerKey:  got.PeerKey,", lie("peer_key")},
		{"study", "channel/handshake.go", "Study:    h.session.Study,", "Study:    got.Study,", lie("study")},
		{"key list", "record.go", "got != r.Binding.KeyList {", "false {", append(lie("key_list"), lie("keys")...)},
		{"config", "record.go", "got != r.Binding.Config {", "false {", lie("config")},
		{"consortium", "posture.go", "|| p.Consortium != want.Consortium {", "{", lie("posture.consortium")},
		{"policy", "posture.go", "&& p.Policy != want.Policy {", "&& false {", lie("posture.policy")},
		{"insecure", "posture.go", "if !slices.Contains(want.Insecure, flag) {", "if false {", lie("posture.insecure")},
		{"tee", "record.go", "posture.TEE != kind {", "kind == \"\" {", lie("posture.tee")},
		{"report data", "verify.go", "subtle.ConstantTimeCompare(c.ReportData[:], part[:]) != 1", "subtle.ConstantTimeCompare(part[:], part[:]) != 1", []string{
			"TestForgedProof/another_session's_evidence", "TestForgedProof/a_replayed_nonce", "TestForgedProof/another_study's_evidence",
		}},
		{"log signature", "record.go", "err != nil || signed.Verify(log, KindBinding, b, r.LogSignature) != nil", "err != nil || b == nil", []string{
			"TestForgedProof/no_log_signature", "TestForgedProof/another_log's_signature", "TestForgedProof/a_log_signature_over_another_binding",
		}},
		{"simulation", "appraise.go", "(!p.AllowSimulated || !p.Simulation)", "!p.AllowSimulated", []string{"TestSimulationNeedsBoth/the_process"}},
		{"allowing simulation", "appraise.go", "(!p.AllowSimulated || !p.Simulation)", "!p.Simulation", []string{"TestSimulationNeedsBoth/the_policy"}},
		{"measurement", "appraise.go", "a.in(p.Measurements, CodeMeasurementUnlisted, \"measurement\", string(c.Measurement))", "", []string{"TestForgedProof/other_code"}},
		{"machine", "appraise.go", "a.in(p.Machines, CodeMachineUnlisted, NotCheckedMachine, c.Machine)", "", []string{"TestForgedProof/another_machine"}},
		{"resumption", "channel/handshake.go", "case h.state.DidResume:", "case false:", []string{"TestResumption"}},
		{"a change during the handshake", "channel/channel.go", "if !c.sessions.add(conn, h.turn) {", "if c.sessions.add(conn, h.turn); false {", []string{"TestChangeDuringAHandshake"}},
		{"reading after the end", "channel/conn.go", "over := c.over(); over != nil {", "over := c.over(); false && over != nil {", []string{"TestNothingIsReadAfterTheEnd"}},
		{"an earlier end", "channel/reappraise.go", "x.shorten(until)", "_ = until", []string{"TestShorterAge"}},
		{"no later end", "channel/conn.go", "c.cause == nil && until.Before(c.until)", "c.cause == nil", []string{"TestShorterAge"}},
		{"the log key of a session", "channel/reappraise.go", "if r.Binding.Role == attest.RoleCoordinator {", "if false {", []string{
			"TestWhatReappraiseAsks/another_log_key", "TestDiversion/row_60_diversion_to_a_broken_chip_of_an_accepted_generation",
		}},
		{"which policy changed", "channel/reappraise.go", "!slices.Contains(digests, then.Policy)", "digests[0] != then.Policy", []string{"TestWhatReappraiseAsks/the_old_policy,_and_another_trust"}},
		{"no more nodes", "channel/reappraise.go", "case peer == attest.RoleNode && expect.NoNodes != nil:", "case false:", []string{"TestNoNodes", "TestWhatReappraiseAsks/no_more_nodes"}},
		{"time for who got a place", "channel/channel.go", "ctx, c.config.patience()+c.config.Timeout)", "ctx, c.config.Timeout/2)", []string{"TestSlowNodes"}},
		{"the fewest places", "channel/door.go", "if d.inside[v.from] < d.inside[d.waiting[next].from] {", "if false && i > 0 && v != nil {", []string{"TestDoorIsFair", "TestSleepersShutNobodyOut"}},
		{"half of the room", "channel/door.go", "alike >= room/2", "alike >= room", []string{"TestDoorsRoom"}},
		{"the size of a hello", "channel/handshake.go", "readFrame(h.tls, maxHello)", "readFrame(h.tls, MaxFrame)", []string{"TestHello/size"}},
		{"version", "channel/handshake.go", "case h.state.Version != tls.VersionTLS13:", "case false:", []string{"TestResumption"}},
	} {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			out := mutate(t, gocmd, m.file, m.line, m.without, m.fails)
			if bytes.Contains(out, []byte("[build failed]")) || bytes.Contains(out, []byte("[setup failed]")) {
				t.Fatalf("the mutant does not build:\n%s", out)
			}
			for _, name := range m.fails {
				if !bytes.Contains(out, []byte("--- FAIL: "+name+" (")) {
					t.Errorf("without its comparison %s still passes:\n%s", name, out)
				}
			}
		})
	}
}

// mutate runs the tests named on a tree in which `line` of file reads `without`.
func mutate(t *testing.T, gocmd, file, line, without string, tests []string) []byte {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", file))
	if err != nil {
		t.Fatal(err)
	}
	src, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(src), line); n != 1 {
		t.Fatalf("%s has %q %d times, want once", file, line, n)
	}
	dir := t.TempDir()
	mutant, overlay := filepath.Join(dir, "mutant.go"), filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(mutant, []byte(strings.Replace(string(src), line, without, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := json.Marshal(map[string]map[string]string{"Replace": {path: mutant}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(overlay, list, 0o600); err != nil {
		t.Fatal(err)
	}
	roots := map[string]bool{}
	var top []string
	for _, name := range tests {
		if root, _, _ := strings.Cut(name, "/"); !roots[root] {
			roots[root] = true
			top = append(top, root)
		}
	}
	cmd := exec.CommandContext(t.Context(), gocmd, "test", "-overlay", overlay, "-vet=off", "-count=1", "-run", "^("+strings.Join(top, "|")+")$", ".")
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Errorf("without the comparison all of %q pass", top)
	}
	return out
}
