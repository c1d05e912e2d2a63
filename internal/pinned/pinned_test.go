package pinned

import (
	"errors"
	"io/fs"
	"os"
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
	if _, err := Attester("sim", path, attest.RoleNode, "chip:x"); err != nil {
		t.Error(err)
	}
	if _, err := Attester("auto", path, attest.RoleNode, "chip:x"); err == nil {
		t.Error("a TEE that this version does not have was taken")
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Attester("sim", path, attest.RoleNode, "chip:x"); err == nil {
		t.Error("a root key that everybody can read was taken")
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
