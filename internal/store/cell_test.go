package store

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func openCell(t testing.TB, path string) *Cell {
	t.Helper()
	c, err := OpenCell(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() }) //nolint:errcheck // closed twice in some tests
	return c
}

func wantCell(t *testing.T, c *Cell, want []byte) {
	t.Helper()
	if got, err := c.Load(); err != nil || !bytes.Equal(got, want) || (got == nil) != (want == nil) {
		t.Fatalf("got %q, %v, want %q", got, err, want)
	}
}

func TestCell(t *testing.T) {
	path := filepath.Join(t.TempDir(), "value")
	c := openCell(t, path)
	wantCell(t, c, nil)
	for i := range 5 {
		v := bytes.Repeat([]byte{byte(i)}, 5-i) // shorter each time: a tail of the one before stays in the file
		if err := c.Store(v); err != nil {
			t.Fatal(err)
		}
		wantCell(t, c, v)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		c = openCell(t, path)
		wantCell(t, c, v)
	}
	if err := c.Store([]byte{}); err != nil {
		t.Fatal(err)
	}
	wantCell(t, openCell(t, path), []byte{})
	if err := c.Store(make([]byte, MaxValue+1)); err == nil {
		t.Error("a value beyond the bound was taken")
	}
}

// Whatever a crash leaves of a replacement, any prefix of it over what the file held or any single bit of
// it wrong, the value before it is read, or the new one whole.
func TestCellTorn(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "value")
	c := openCell(t, path)
	for _, v := range []string{"first, which is long", "second"} {
		if err := c.Store([]byte(v)); err != nil {
			t.Fatal(err)
		}
	}
	third := fmt.Sprintf("%s.%d", path, 3&1)
	before, err := os.ReadFile(third)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Store([]byte("third")); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(third)
	if err != nil {
		t.Fatal(err)
	}
	check := func(name string, b []byte) {
		t.Helper()
		if err := os.WriteFile(third, b, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := openCell(t, path).Load()
		if err != nil || string(got) != "second" && string(got) != "third" {
			t.Fatalf("%s: got %q, %v", name, got, err)
		}
	}
	for n := range after {
		check(fmt.Sprintf("%d bytes written", n), append(bytes.Clone(after[:n]), before[min(n, len(before)):]...))
		check(fmt.Sprintf("cut to %d bytes", n), after[:n])
	}
	written := cellHeader + len("third") + 32
	for i := range written {
		b := bytes.Clone(after)
		b[i] ^= 1
		if err := os.WriteFile(third, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := openCell(t, path).Load(); err != nil || string(got) != "second" {
			t.Fatalf("byte %d wrong: got %q, %v, want the value before", i, got, err)
		}
	}
}

func FuzzParseCell(f *testing.F) {
	f.Add([]byte(cellMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, v := parseCell(b); v != nil && len(v) > len(b) {
			t.Fatal("a value longer than its file")
		}
	})
}

func BenchmarkCellStore(b *testing.B) {
	c := openCell(b, filepath.Join(b.TempDir(), "value"))
	v := make([]byte, 4<<10)
	b.SetBytes(int64(len(v)))
	for b.Loop() {
		if err := c.Store(v); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWriteFile(b *testing.B) {
	path := filepath.Join(b.TempDir(), "value")
	v := make([]byte, 4<<10)
	b.SetBytes(int64(len(v)))
	for b.Loop() {
		if err := WriteFile(path, v, 0o600); err != nil {
			b.Fatal(err)
		}
	}
}
