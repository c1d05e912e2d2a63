package keyfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.key")
	if _, err := Read(path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("no file: got %v, want fs.ErrNotExist", err)
	}
	pub, err := Make(path)
	if err != nil {
		t.Fatal(err)
	}
	key, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if !pub.Equal(key.Public()) {
		t.Error("the key read is not the key made")
	}
	if _, err := Make(path); err == nil {
		t.Error("a key was overwritten")
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path); err == nil {
		t.Error("a key that everybody can read was taken")
	}
}

func TestReadRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"empty":      "",
		"other type": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
		"garbage":    "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
	} {
		path := filepath.Join(t.TempDir(), "k")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(path); err == nil || strings.Contains(err.Error(), "AAAA") {
			t.Errorf("%s: got %v, want an error without the file's content", name, err)
		}
	}
}
