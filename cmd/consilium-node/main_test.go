package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const config = `version: consilium.node/v1
hospital: cleveland
node: "1"
coordinator: "127.0.0.1:1"
consortia: [{file: consortium.yaml, digest: "sha256:5f0c5f0c5f0c5f0c5f0c5f0c5f0c5f0c5f0c5f0c5f0c5f0c5f0c5f0c5f0c5f0c"}]
state: state
enrolment: enrolment.json
trust: trust
approvals: approvals
registries: {cardiology: {file: heart.csv, budget: {epsilon: 8, delta: 1e-4}}}
tee: sim
sim_root: sim-root.key
insecure: {simulated_tee: true}
`

func invoke(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = run(args, &out, &err)
	return code, out.String(), err.String()
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "node.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestExitCodes(t *testing.T) {
	good := file(t, config)
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{nil, exitUsage, "usage:"},
		{[]string{"dance"}, exitUsage, `no command "dance"`},
		{[]string{"init", "--no-such"}, exitUsage, "no-such"},
		{[]string{"run", "--seed", "1"}, exitUsage, "seed"},
		{[]string{"check", "--config", good, "more"}, exitUsage, `unexpected argument "more"`},
		{[]string{"init", "--config", filepath.Join(t.TempDir(), "none.yaml")}, exitBadInput, "none.yaml"},
		{[]string{"init", "--config", file(t, config+"extra: 1\n")}, exitBadInput, "extra"},
		{[]string{"check", "--config", good}, exitBadInput, "consortium"},
		{[]string{"run", "--config", good}, exitBadInput, "consortium"},
	} {
		if code, _, stderr := invoke(t, c.args...); code != c.code || !strings.Contains(stderr, c.says) {
			t.Errorf("%v: exit %d and %q, want %d and %q", c.args, code, stderr, c.code, c.says)
		}
	}
	for _, args := range [][]string{{"help"}, {"--help"}, {"run", "--help"}} {
		if code, _, _ := invoke(t, args...); code != exitDone {
			t.Errorf("%v: exit %d", args, code)
		}
	}
}

// Init again prints the same keys, and never a private one.
func TestInitTwice(t *testing.T) {
	path := file(t, config)
	code, first, stderr := invoke(t, "init", "--config", path)
	if code != exitDone {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	if _, second, _ := invoke(t, "init", "--config", path); second != first {
		t.Errorf("the second time:\n%s\nthe first time:\n%s", second, first)
	}
	_, out, _ := invoke(t, "init", "--config", path, "--json")
	var keys map[string]string
	if err := json.Unmarshal([]byte(out), &keys); err != nil {
		t.Fatal(err)
	}
	if keys["hospital"] != "cleveland" || keys["node"] != "1" || !strings.Contains(first, keys["node_key"]) || !strings.Contains(first, keys["witness_key"]) || keys["node_key"] == keys["witness_key"] {
		t.Errorf("got %v", keys)
	}
}
