// Package shared finds the real evidence that tests read in place, for the repository does not carry it.
package shared

import (
	"os"
	"path/filepath"
	"testing"
)

// Dir is the folder of it: under $CONSILIUM_SHARED, or under the folder "shared" beside the checkout. A test without it
// is skipped.
func Dir(t testing.TB) string {
	t.Helper()
	dir := dir(t)
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("real evidence is absent, set CONSILIUM_SHARED: %v", err)
	}
	return dir
}

// Here reports whether there is any, for what does without.
func Here(t testing.TB) bool {
	t.Helper()
	_, err := os.Stat(dir(t))
	return err == nil
}

// File reads one of it: "snp/genoa-v3.report.bin".
func File(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(Dir(t), name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Seeds reads those whose name matches; none where the folder is absent, for a fuzz test has seeds of its own.
func Seeds(t testing.TB, patterns ...string) (out [][]byte) {
	t.Helper()
	for _, pattern := range patterns {
		names, err := filepath.Glob(filepath.Join(dir(t), pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, b)
		}
	}
	return out
}

func dir(t testing.TB) string {
	t.Helper()
	if shared := os.Getenv("CONSILIUM_SHARED"); shared != "" {
		return filepath.Join(shared, "evidence")
	}
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, err = os.Stat(filepath.Join(root, "go.mod")); err != nil; _, err = os.Stat(filepath.Join(root, "go.mod")) {
		parent := filepath.Dir(root)
		if parent == root {
			t.Fatal("no go.mod above the test")
		}
		root = parent
	}
	return filepath.Join(filepath.Dir(root), "shared", "evidence")
}
