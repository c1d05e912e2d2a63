package durable

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "bundle")
	f, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("the folder has mode %s, %v", fi.Mode(), err)
	}
	for _, v := range []string{"one", "two"} {
		if err := f.Write("a", []byte(v)); err != nil {
			t.Fatal(err)
		}
		if b, err := Read(filepath.Join(dir, "a"), 3); string(b) != v || err != nil {
			t.Errorf("got %q, %v", b, err)
		}
	}
	if fi, err := os.Stat(filepath.Join(dir, "a")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %s, %v", fi.Mode(), err)
	}
	if _, err := Read(filepath.Join(dir, "a"), 2); err == nil {
		t.Error("more than the limit was read")
	}
	if _, err := Open(dir); !errors.Is(err, ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, temporary+"1"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if f, err = Open(dir); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if names, err := Names(dir); err != nil || !slices.Equal(names, []string{"a"}) {
		t.Errorf("names %q, %v", names, err)
	}
	if err := f.Remove("a"); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(filepath.Join(dir, "a"), 3); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("removed: %v", err)
	}
}

// TestWriteFails: what was there stays, and nothing half-written beside it.
func TestWriteFails(t *testing.T) {
	dir := t.TempDir()
	f, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Mkdir(filepath.Join(dir, "a"), 0o700); err != nil { // no file can take its place
		t.Fatal(err)
	}
	if err := f.Write("a", []byte("x")); err == nil {
		t.Error("a folder was replaced")
	}
	if err := os.WriteFile(filepath.Join(dir, temporary+"1"), []byte("half"), 0o600); err != nil { // another one's, at this moment
		t.Fatal(err)
	}
	if names, err := Names(dir); err != nil || len(names) != 0 {
		t.Errorf("left behind %q, %v", names, err)
	}
}
