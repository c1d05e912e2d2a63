package coordinator_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/consilium-fl/consilium/coordinator"
	"github.com/consilium-fl/consilium/internal/signed"
)

const goodConfig = `version: consilium.coordinator/v1
listen: ":443"
consortia: [{file: consortium.yaml, digest: "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}]
state: state
policy: /etc/policy
log: {batch: 2ms, checkpoint: 200ms, merge_delay: 2s}
trust: trust
tee: sim
sim_root: sim-root.key
insecure: {simulated_tee: true}
`

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "coordinator.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReadConfig(t *testing.T) {
	path := writeConfig(t, goodConfig)
	c := must(coordinator.ReadConfig(path))(t)
	dir := filepath.Dir(path)
	if c.State != filepath.Join(dir, "state") || c.Policy != "/etc/policy" || c.Consortia[0].File != filepath.Join(dir, "consortium.yaml") {
		t.Errorf("paths %q, %q, %q: want relative ones in the file's folder", c.State, c.Policy, c.Consortia[0].File)
	}
	if c.Log.Batch.Milliseconds() != 2 || !c.Insecure.SimulatedTEE {
		t.Errorf("got %+v", c)
	}
	if len(c.Fetch.From) != 0 || c.OwnRoots {
		t.Errorf("without the keys: fetch %q, own roots %t", c.Fetch.From, c.OwnRoots)
	}
	c = must(coordinator.ReadConfig(writeConfig(t, goodConfig+"fetch: [amd]\nmirrors: {amd: \"https://kds.example/x/\"}\nown_roots: true\n")))(t)
	if f := c.Fetch; len(f.From) != 1 || f.From[0] != "amd" || f.Mirrors["amd"] != "https://kds.example/x" || f.Dir != filepath.Join(c.State, "endorsements") || !c.OwnRoots {
		t.Errorf("got %+v, own roots %t", f, c.OwnRoots)
	}
	for name, x := range map[string]struct{ old, new, want string }{
		"an unknown key":         {"trust: trust", "trust: trust\nhush: 1", "line 8"},
		"a key twice":            {"tee: sim", "tee: sim\ntee: sim", "tee"},
		"an anchor":              {"state: state", "state: &x state", "anchors"},
		"a tag":                  {"state: state", "state: !!str state", "tags"},
		"another version":        {"coordinator/v1", "coordinator/v2", "version"},
		"no state":               {"state: state\n", "", "state"},
		"no trust":               {"trust: trust\n", "", "trust"},
		"a bad digest":           {"sha256:aaaa", "sha256:AAAA", "sha256"},
		"another tee":            {"tee: sim", "tee: sgx", "tee"},
		"sim without the flag":   {"insecure: {simulated_tee: true}", "insecure: {simulated_tee: false}", "insecure"},
		"sim without its root":   {"sim_root: sim-root.key\n", "", "sim_root"},
		"a time without a unit":  {"batch: 2ms", "batch: 2", "line"},
		"a negative time":        {"batch: 2ms", "batch: -2ms", "log.batch"},
		"an unknown vendor":      {"tee: sim", "tee: sim\nfetch: [intel, arm]", `coordinator.yaml: field "fetch" names "arm", want some of ["amd" "intel" "azure"]`},
		"a mirror of nobody":     {"tee: sim", "tee: sim\nmirrors: {amd: \"https://a\"}", `field "mirrors" names "amd"`},
		"two documents":          {"tee: sim", "tee: sim\n---\nx: 1", "document"},
		"an empty file":          {goodConfig, "", "mapping"},
		"something else":         {goodConfig, "- a\n- b\n", "mapping"},
		"no consortium":          {"consortia: [", "# [", "consortia"},
		"an environment's words": {"state: state", "state: [a, b]", "line"},
	} {
		_, err := coordinator.ReadConfig(writeConfig(t, strings.Replace(goodConfig, x.old, x.new, 1)))
		if err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, x.want)
		}
	}
}

func TestInitNeverOverwrites(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	text := must(coordinator.Init(state))(t)
	log, keys, err := coordinator.ReadKeys(state)
	if err != nil {
		t.Fatal(err)
	}
	if signed.KeyText(public(log)) != text {
		t.Errorf("init printed %s, the log key is %s", text, signed.KeyText(public(log)))
	}
	if public(keys.Protocol).Equal(public(keys.Receipt)) || public(keys.Receipt).Equal(public(keys.Issuer)) || public(log).Equal(public(keys.Issuer)) {
		t.Error("two of the keys are one")
	}
	if _, err := coordinator.Init(state); err == nil {
		t.Error("init ran twice")
	}
	if again, _, err := coordinator.ReadKeys(state); err != nil || !again.Equal(log) {
		t.Errorf("the second init changed the log key (%v)", err)
	}
	if err := os.Remove(filepath.Join(state, "keys", "log.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := coordinator.Init(state); err == nil {
		t.Error("init added a log key to the keys of another time")
	}
	fi := must(os.Stat(filepath.Join(state, "keys", "protocol.key")))(t)
	if fi.Mode().Perm() != 0o600 {
		t.Errorf("protocol.key has mode %v, want 0600", fi.Mode())
	}
}

// FuzzReadConfig takes any file for what it is: a configuration, or an error.
func FuzzReadConfig(f *testing.F) {
	f.Add([]byte(goodConfig))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := coordinator.ReadConfig(path); err == nil && (c.State == "" || len(c.Consortia) != 1) {
			t.Errorf("%q was read as %+v", b, c)
		}
	})
}
