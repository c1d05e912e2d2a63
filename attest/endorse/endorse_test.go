package endorse

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func ExampleNew() {
	a, _ := New(map[string][]byte{"sim-root.pem": []byte("…"), "notes.txt": []byte("rotated in May")})
	b, _ := New(map[string][]byte{"sim-root.pem": []byte("…")})
	fmt.Println(a.Digest() == b.Digest())
	// Output: false
}

func TestDigest(t *testing.T) {
	base := map[string][]byte{"a": []byte("bc"), "d": {}}
	s, err := New(base)
	if err != nil {
		t.Fatal(err)
	}
	for name, files := range map[string]map[string][]byte{
		"a byte moved from content to name": {"ab": []byte("c"), "d": {}},
		"a content changed":                 {"a": []byte("bd"), "d": {}},
		"a file less":                       {"a": []byte("bc")},
		"a file more":                       {"a": []byte("bc"), "d": {}, "e": {}},
		"contents swapped":                  {"a": {}, "d": []byte("bc")},
		"nothing":                           {},
	} {
		o, err := New(files)
		if err != nil {
			t.Fatal(err)
		}
		if o.Digest() == s.Digest() {
			t.Errorf("%s: the same digest", name)
		}
	}
	for range 50 { // a map's order is another each time
		if o, _ := New(base); o.Digest() != s.Digest() {
			t.Fatal("the digest depends on the order")
		}
	}
	var none *Snapshot
	if _, ok := none.File("a"); ok || none.Digest() != [32]byte{} || none.Files() != nil {
		t.Error("no snapshot holds something")
	}
}

// TestImmutable: nothing that goes in or comes out is shared.
func TestImmutable(t *testing.T) {
	in := map[string][]byte{"a": []byte("abc")}
	s, err := New(in)
	if err != nil {
		t.Fatal(err)
	}
	in["a"][0] = 'X'
	in["b"] = nil
	out, _ := s.File("a")
	out[1] = 'X'
	all := s.Files()
	all["a"][2] = 'X'
	delete(all, "a")
	if got, _ := s.File("a"); string(got) != "abc" || len(s.Files()) != 1 || s.hash() != s.Digest() {
		t.Errorf("got %q", got)
	}
}

func TestUnion(t *testing.T) {
	of := func(files map[string][]byte) *Snapshot {
		s, err := New(files)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	a, b := of(map[string][]byte{"a": {1}, "b": {2}}), of(map[string][]byte{"b": {2}, "c": {}})
	want := of(map[string][]byte{"a": {1}, "b": {2}, "c": {}}).Digest()
	for _, all := range [][]*Snapshot{{a, b}, {b, nil, a}, {a, b, a}} {
		if s, err := Union(all...); err != nil || s.Digest() != want {
			t.Errorf("%q, %v", s.Files(), err)
		}
	}
	if _, err := Union(a, of(map[string][]byte{"b": {3}})); err == nil || !strings.Contains(err.Error(), `"b"`) {
		t.Errorf("two that differ: %v", err)
	}
	if s, err := Union(); err != nil || len(s.Files()) != 0 {
		t.Errorf("%q, %v", s.Files(), err)
	}
}

func TestBounds(t *testing.T) {
	many := map[string][]byte{}
	for i := range MaxFiles + 1 {
		many[fmt.Sprint(i)] = nil
	}
	big := map[string][]byte{}
	for i := range MaxTotal/MaxFile + 1 {
		big[fmt.Sprint(i)] = make([]byte, MaxFile)
	}
	for name, files := range map[string]map[string][]byte{
		"many files":  many,
		"much in all": big,
		"a big file":  {"a": make([]byte, MaxFile+1)},
	} {
		if _, err := New(files); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	for _, name := range []string{"", ".", "..", "../a", "a/b", `a\b`, "/a", "a\x00", "a\n", "\xff", "c:", "..data", strings.Repeat("a", 256)} {
		if _, err := New(map[string][]byte{name: nil}); err == nil {
			t.Errorf("name %q: taken", name)
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("sim-root.pem", "root")
	write(".hidden", "also trusted, so also named")
	// As Kubernetes mounts a volume: the files are links through "..data".
	if err := os.Mkdir(filepath.Join(dir, "..2026"), 0o700); err != nil {
		t.Fatal(err)
	}
	write("..2026/ark.pem", "ark")
	if err := os.Symlink("..2026", filepath.Join(dir, "..data")); err != nil {
		t.Skip("no symbolic links here: ", err)
	}
	if err := os.Symlink("..data/ark.pem", filepath.Join(dir, "ark.pem")); err != nil {
		t.Fatal(err)
	}
	s, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := New(map[string][]byte{"sim-root.pem": []byte("root"), ".hidden": []byte("also trusted, so also named"), "ark.pem": []byte("ark")})
	if s.Digest() != want.Digest() {
		t.Errorf("loaded %q", s.Files())
	}

	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "want a regular file") {
		t.Errorf("a folder in the folder: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "sub")); err != nil {
		t.Fatal(err)
	}
	write("big", strings.Repeat("a", MaxFile+1))
	if _, err := Load(dir); err == nil {
		t.Error("a big file was taken")
	}
	if _, err := Load(filepath.Join(dir, "absent")); err == nil {
		t.Error("an absent folder was taken")
	}
}
