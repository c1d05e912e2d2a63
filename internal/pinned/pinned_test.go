package pinned

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/simtee"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/store"
)

// A consortium file counts by its digest, and for a daemon by every hospital's signature.
func TestConsortium(t *testing.T) {
	b, err := os.ReadFile("../../deploy/samples/consortium.yaml")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "consortium.yaml")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	pin := signed.Digest(b)
	if c, err := Unsigned(path, pin); err != nil || c.Digest != pin {
		t.Errorf("the pinned file: %v", err)
	}
	if _, err := Unsigned(path, [32]byte{1}); err == nil || !strings.Contains(err.Error(), "the configuration pins") {
		t.Errorf("another pin: %v", err)
	}
	if _, _, err := Consortium(path, pin); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no signatures: %v, want fs.ErrNotExist", err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), SignaturesFile), []byte("{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Consortium(path, pin); err == nil {
		t.Error("signatures of nobody were taken")
	}
}

func TestAttester(t *testing.T) {
	root, err := simtee.NewRoot()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "sim-root.key")
	if err := store.WriteFile(path, simtee.MarshalRoot(root), 0o600); err != nil {
		t.Fatal(err)
	}
	sim := TEE{Kind: "sim", SimRoot: path}
	if _, kind, err := Attester(sim, attest.RoleNode, "chip:x"); err != nil || kind != "sim" {
		t.Errorf("%q, %v", kind, err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Attester(sim, attest.RoleNode, "chip:x"); err == nil {
		t.Error("a root key that everybody can read was taken")
	}
}

// TestNoHardware: each kind says what it looked for and did not find, and auto never falls back on a simulation.
func TestNoHardware(t *testing.T) {
	for kind, want := range map[string]string{
		"snp": "sev-guest", "tdx": "configfs-tsm", "azure-snp": "TPM", "azure-tdx": "TPM", "vtpm-gce": "TPM", "gcp-cs-pki": "launcher", "auto": "launcher", "gcp-cs-oidc": "launcher", "sgx": "want one of",
	} {
		if a, _, err := Attester(TEE{Kind: kind, Audience: "x"}, attest.RoleNode, ""); err == nil {
			t.Skipf("this machine has a TEE: %T", a)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", kind, err, want)
		}
	}
}

func TestRego(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"a.rego": "package consilium.extra", "notes.txt": "x"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files, err := Rego(dir)
	if err != nil || len(files) != 1 || files["a.rego"] != "package consilium.extra" {
		t.Errorf("got %v, %v", files, err)
	}
	if files, err := Rego(""); err != nil || len(files) != 0 {
		t.Errorf("no folder named: %v, %v", files, err)
	}
	if _, err := Rego(filepath.Join(dir, "none")); err == nil {
		t.Error("a folder that is not there was taken for an empty one")
	}
}

// TestWithoutSimulation, row 61: built with the tag nosim a program attests by no simulated TEE and takes no evidence of
// one, whatever its files say.
func TestWithoutSimulation(t *testing.T) {
	out, err := exec.Command("go", "test", "-tags", "nosim", "-run", "^TestNoSim$", "-v", ".").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestNoSim") {
		t.Fatalf("%v\n%s", err, out)
	}
}
