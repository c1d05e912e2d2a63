package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWriteFileReplacesWholly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	for _, text := range []string{"a long first version", "second"} {
		if err := WriteFile(path, []byte(text), 0); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != text {
			t.Errorf("got %q (%v), want %q", b, err, text)
		}
	}
	if m := mode(t, path); m != 0o600 {
		t.Errorf("mode %#o, want 0600 by default", m)
	}
	if err := WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if m := mode(t, path); m != 0o644 {
		t.Errorf("mode %#o, want the 0644 asked for", m)
	}
}

func mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Mode().Perm()
}

// A write that fails leaves the old file and nothing beside it.
func TestFailedWriteFileLeavesTheOld(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "taken")
	if err := os.MkdirAll(filepath.Join(path, "child"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(path, []byte("x"), 0); err == nil {
		t.Fatal("a file replaced a folder")
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 1 {
		t.Errorf("beside the old one: %v", left)
	}
}

func TestPrivateDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	for range 2 {
		if err := PrivateDir(dir); err != nil {
			t.Fatal(err)
		}
		if m := mode(t, dir); m != 0o700 {
			t.Errorf("mode %#o, want 0700", m)
		}
	}
	for _, m := range []fs.FileMode{0o750, 0o705, 0o710, 0o702} {
		if err := os.Chmod(dir, m); err != nil {
			t.Fatal(err)
		}
		err := PrivateDir(dir)
		if want := `chmod 0700 "` + dir + `"`; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("mode %#o: %v, want an error that names %s", m, err, want)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := PrivateDir(file); err == nil {
		t.Error("a file was taken as a folder")
	}
}

func TestReadPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.key")
	if err := os.WriteFile(path, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := ReadPrivate(path); err != nil || string(b) != "secret" {
		t.Errorf("got %q, %v", b, err)
	}
	for _, m := range []fs.FileMode{0o640, 0o604, 0o620, 0o601} {
		if err := os.Chmod(path, m); err != nil {
			t.Fatal(err)
		}
		err := errOf(ReadPrivate(path))
		if want := `chmod 0600 "` + path + `"`; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("mode %#o: %v, want an error that names %s", m, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("mode %#o: the error tells the secret: %v", m, err)
		}
	}
}

func errOf(_ []byte, err error) error { return err }

func TestReadPrivateRefusesWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, make([]byte, MaxPrivate+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, dir, big, filepath.Join(dir, "absent")} {
		if _, err := ReadPrivate(path); err == nil {
			t.Errorf("%s was read", path)
		}
	}
}

// The secret behind a link is asked for its own mode.
func TestReadPrivateThroughALink(t *testing.T) {
	dir := t.TempDir()
	open := filepath.Join(dir, "open.key")
	if err := os.WriteFile(open, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link.key")
	if err := os.Symlink(open, link); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadPrivate(link); err == nil {
		t.Error("a file that all may read was read through a link")
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(path); !errors.Is(err, ErrLocked) {
		t.Errorf("second lock: %v, want ErrLocked", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l, err = Lock(path)
	if err != nil {
		t.Fatalf("after it was let go: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}
