package bundle

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/attest/endorse/internal/durable"
	"github.com/consilium-fl/consilium/attest/endorse/roots"
	"github.com/consilium-fl/consilium/internal/signed"
)

var (
	created = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	expires = created.AddDate(0, 1, 0)
	now     = created.Add(time.Hour)
	key     = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	pinned  = key.Public().(ed25519.PublicKey)
)

// A hospital without a way out takes what its consortium signed, and never an older one again.
func Example() {
	dir, err := os.MkdirTemp("", "trust")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()

	older, err := Export(roots.Snapshot(), 6, created, expires, key)
	if err != nil {
		log.Fatal(err)
	}
	b, err := Export(roots.Snapshot(), 7, created, expires, key)
	if err != nil {
		log.Fatal(err)
	}
	m, err := Import(dir, b, now, pinned)
	fmt.Println(m.Serial, len(m.Files), err)
	_, err = Import(dir, older, now, pinned)
	fmt.Println(err)
	trust, err := Load(dir, now, pinned)
	fmt.Println(trust.Digest() == roots.Snapshot().Digest(), err)
	_, err = Load(dir, expires, pinned)
	fmt.Println(errors.Is(err, endorse.ErrExpired))
	// Output:
	// 7 6 <nil>
	// importing trust bundle: a newer trust bundle was seen before: serial 6, want at least 7
	// true <nil>
	// true
}

func snapshot(t testing.TB, files map[string]string) *endorse.Snapshot {
	t.Helper()
	m := map[string][]byte{}
	for n, c := range files {
		m[n] = []byte(c)
	}
	s, err := endorse.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func export(t testing.TB, serial uint64, files map[string]string) []byte {
	t.Helper()
	b, err := Export(snapshot(t, files), serial, created, expires, key)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRoundTrip(t *testing.T) {
	for name, s := range map[string]*endorse.Snapshot{
		"vendors":   roots.Snapshot(),
		"nothing":   nil,
		"odd names": snapshot(t, map[string]string{"manifest.json": "x", strings.Repeat("ü", 127): "", ".hidden": "a\x00b", "a b": "é"}),
	} {
		b, err := Export(s, 7, created.Add(time.Millisecond), expires, key)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		again, err := Export(s, 7, created.In(time.FixedZone("", 3600)), expires, key)
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%s: another bundle the second time, %v", name, err)
		}
		x, err := Show(b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if x.Trust.Digest() != snapshot(t, nil).Digest() && x.Trust.Digest() != s.Digest() || len(x.Trust.Files()) != len(s.Files()) {
			t.Errorf("%s: another snapshot", name)
		}
		if m := x.Manifest; m.Serial != 7 || !m.Created.Equal(created) || !m.Expires.Equal(expires) || !slices.Equal(x.Signers, []string{signed.KeyID(pinned)}) {
			t.Errorf("%s: %+v of %q", name, m, x.Signers)
		}
	}
}

func TestExportRefuses(t *testing.T) {
	for name, f := range map[string]func() ([]byte, error){
		"serial 0":        func() ([]byte, error) { return Export(nil, 0, created, expires, key) },
		"no time between": func() ([]byte, error) { return Export(nil, 1, created, created.Add(time.Millisecond), key) },
		"another key": func() ([]byte, error) {
			k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			return Export(nil, 1, created, expires, k)
		},
	} {
		if _, err := f(); err == nil {
			t.Errorf("%s: exported", name)
		}
	}
}

// TestEveryByteCounts: whichever bit of a bundle is flipped, it is refused.
func TestEveryByteCounts(t *testing.T) {
	b := export(t, 7, map[string]string{"a": "abc", "b": ""})
	if _, err := open(b, now, []ed25519.PublicKey{pinned}); err != nil {
		t.Fatal(err)
	}
	bits := 8
	if testing.Short() {
		bits = 1
	}
	for i := range b {
		for bit := range bits {
			c := bytes.Clone(b)
			c[i] ^= 1 << bit
			if _, err := open(c, now, []ed25519.PublicKey{pinned}); err == nil {
				t.Fatalf("byte %d, bit %d: taken", i, bit)
			}
		}
	}
	for n := range b {
		if _, err := open(b[:n], now, []ed25519.PublicKey{pinned}); err == nil {
			t.Fatalf("cut to %d bytes: taken", n)
		}
	}
}

// repack writes an archive anew, with its entries changed.
func repack(t *testing.T, b []byte, change func([]tar.Header, [][]byte) ([]tar.Header, [][]byte)) []byte {
	t.Helper()
	var hs []tar.Header
	var cs [][]byte
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		c, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		hs, cs = append(hs, *h), append(cs, c)
	}
	hs, cs = change(hs, cs)
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for i, h := range hs {
		h.Size = int64(len(cs[i]))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(cs[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// envelope signs a manifest of any text.
func envelope(t *testing.T, manifest string) []byte {
	t.Helper()
	e, err := signed.SignEnvelope(payloadType, []byte(manifest), key)
	if err != nil {
		t.Fatal(err)
	}
	return e.Encode()
}

func TestRefused(t *testing.T) {
	good := export(t, 7, map[string]string{"a": "abc", "b": ""})
	manifest := `{"version":"consilium.trust/v1","serial":7,"created":"2026-11-01T00:00:00Z","expires":"2026-12-01T00:00:00Z","files":[]}`
	signedAs := func(old, with string) []byte {
		if !strings.Contains(manifest, old) {
			t.Fatalf("the manifest has no %q", old)
		}
		return repack(t, export(t, 7, nil), func(h []tar.Header, c [][]byte) ([]tar.Header, [][]byte) {
			c[0] = envelope(t, strings.Replace(manifest, old, with, 1))
			return h, c
		})
	}
	if _, err := Show(signedAs("{", "{")); err != nil {
		t.Fatalf("the manifest of this test: %v", err)
	}
	type entries = func([]tar.Header, [][]byte) ([]tar.Header, [][]byte)
	packed := func(f entries) []byte { return repack(t, good, f) }
	for name, b := range map[string][]byte{
		"empty":       nil,
		"no archive":  []byte(strings.Repeat("x", 2048)),
		"too large":   make([]byte, MaxBundle+1),
		"a tail":      append(bytes.Clone(good), make([]byte, 512)...),
		"a file more": packed(func(h []tar.Header, c [][]byte) ([]tar.Header, [][]byte) { return append(h, h[1]), append(c, c[1]) }),
		"a file less": packed(func(h []tar.Header, c [][]byte) ([]tar.Header, [][]byte) { return h[:2], c[:2] }),
		"manifest last": packed(func(h []tar.Header, c [][]byte) ([]tar.Header, [][]byte) {
			return append(h[1:], h[0]), append(c[1:], c[0])
		}),
		"other order": packed(func(h []tar.Header, c [][]byte) ([]tar.Header, [][]byte) {
			h[1], h[2] = h[2], h[1]
			c[1], c[2] = c[2], c[1]
			return h, c
		}),
		"a link": packed(func(h []tar.Header, c [][]byte) ([]tar.Header, [][]byte) {
			h[2].Typeflag, h[2].Linkname = tar.TypeSymlink, "/etc/passwd"
			return h, c
		}),
		"another mode":    packed(func(h []tar.Header, c [][]byte) ([]tar.Header, [][]byte) { h[1].Mode = 0o777; return h, c }),
		"another time":    packed(func(h []tar.Header, c [][]byte) ([]tar.Header, [][]byte) { h[1].ModTime = now; return h, c }),
		"another content": packed(func(h []tar.Header, c [][]byte) ([]tar.Header, [][]byte) { c[1] = []byte("abd"); return h, c }),
		"more content":    packed(func(h []tar.Header, c [][]byte) ([]tar.Header, [][]byte) { c[1] = []byte("abcd"); return h, c }),
		"a big manifest": packed(func(h []tar.Header, c [][]byte) ([]tar.Header, [][]byte) {
			c[0] = make([]byte, maxManifest+1)
			return h, c
		}),
		"a version to come": signedAs("/v1", "/v2"),
		"serial 0":          signedAs(":7", ":0"),
		"serial negative":   signedAs(":7", ":-7"),
		"serial too large":  signedAs(":7", ":18446744073709551616"),
		"a name unknown":    signedAs(`"serial"`, `"x":1,"serial"`),
		"a name twice":      signedAs(`"serial":7`, `"serial":7,"serial":7`),
		"other case":        signedAs(`"serial"`, `"Serial"`),
		"a blank":           signedAs(`"serial":7`, `"serial": 7`),
		"another zone":      signedAs("2026-11-01T00:00:00Z", "2026-11-01T01:00:00+01:00"),
		"half a second":     signedAs("00:00Z", "00:00.5Z"),
		"it ends first":     signedAs("2026-12", "2026-10"),
		"files null":        signedAs("[]", "null"),
		"a path":            signedAs("[]", `[{"name":"../a","size":0,"sha256":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}]`),
		"negative size":     signedAs("[]", `[{"name":"a","size":-1,"sha256":""}]`),
		"a big file":        signedAs("[]", fmt.Sprintf(`[{"name":"a","size":%d,"sha256":""}]`, endorse.MaxFile+1)),
		"much in all":       signedAs("[]", "["+strings.TrimSuffix(strings.Repeat(fmt.Sprintf(`{"name":"a","size":%d,"sha256":""},`, endorse.MaxFile), 5), ",")+"]"),
		"many files":        signedAs("[]", "["+strings.TrimSuffix(strings.Repeat(`{"name":"a","size":0,"sha256":""},`, endorse.MaxFiles+1), ",")+"]"),
	} {
		if _, err := Show(b); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	// And files that are there as the manifest says: a path, one name twice, names out of order.
	empty := func(name string) string {
		return fmt.Sprintf(`{"name":%q,"size":0,"sha256":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}`, name)
	}
	for want, names := range map[string][]string{"plain name": {"../a"}, "each name once": {"a", "a"}, "in order": {"b", "a"}} {
		var files []string
		for _, n := range names {
			files = append(files, empty(n))
		}
		b := repack(t, signedAs("[]", "["+strings.Join(files, ",")+"]"), func(h []tar.Header, c [][]byte) ([]tar.Header, [][]byte) {
			for _, n := range names {
				f := h[0]
				f.Name = folder + n
				h, c = append(h, f), append(c, nil)
			}
			return h, c
		})
		if _, err := Show(b); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", names, err)
		}
	}
}

func TestImportRefuses(t *testing.T) {
	_, other, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	b := export(t, 7, map[string]string{"a": "abc"})
	byOther, err := Export(nil, 7, created, expires, other)
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func(dir string) error{
		"no key":               func(dir string) error { _, err := Import(dir, b, now); return err },
		"an empty key":         func(dir string) error { _, err := Import(dir, b, now, nil); return err },
		"another key":          func(dir string) error { _, err := Import(dir, byOther, now, pinned); return err },
		"before its creation":  func(dir string) error { _, err := Import(dir, b, created.Add(-1), pinned); return err },
		"at its end":           func(dir string) error { _, err := Import(dir, b, expires, pinned); return err },
		"nothing was imported": func(dir string) error { _, err := Load(dir, now, pinned); return err },
		"a false root": func(dir string) error {
			_, err := Import(dir, export(t, 7, map[string]string{"a": falseRoot(t)}), now, pinned)
			return err
		},
	} {
		dir := t.TempDir()
		if err := f(dir); err == nil {
			t.Errorf("%s: taken", name)
		}
		if es, err := os.ReadDir(dir); err != nil || len(es) != 0 {
			t.Errorf("%s: left %v, %v", name, es, err)
		}
	}
	if _, err := Import(t.TempDir(), b, now, other.Public().(ed25519.PublicKey), pinned); err != nil {
		t.Errorf("the second of two pinned keys: %v", err)
	}
}

// falseRoot is a root that calls itself AMD's.
func falseRoot(t *testing.T) string {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ARK-Milan"}, NotBefore: created, NotAfter: expires, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	return string(der)
}

// TestRollback: no serial but a higher one follows, whatever of the folder's two files a crash left.
func TestRollback(t *testing.T) {
	five, six, seven := export(t, 5, nil), export(t, 6, nil), export(t, 7, nil)
	otherSix := export(t, 6, map[string]string{"a": "x"})
	set := func(t *testing.T) string {
		dir := t.TempDir()
		for _, b := range [][]byte{five, six, six} { // the same again is no error
			if _, err := Import(dir, b, now, pinned); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	refused := func(t *testing.T, dir string, bs ...[]byte) {
		t.Helper()
		for i, b := range bs {
			if _, err := Import(dir, b, now, pinned); !errors.Is(err, ErrRollback) {
				t.Errorf("bundle %d: %v", i, err)
			}
		}
	}
	t.Run("both files", func(t *testing.T) {
		dir := set(t)
		refused(t, dir, five, otherSix)
		if _, err := Load(dir, now, pinned); err != nil {
			t.Error(err)
		}
		if _, err := Import(dir, seven, now, pinned); err != nil {
			t.Error(err)
		}
		refused(t, dir, six)
	})
	t.Run("bundle put back", func(t *testing.T) {
		dir := set(t)
		for _, b := range [][]byte{five, otherSix} {
			if err := os.WriteFile(filepath.Join(dir, bundleName), b, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Load(dir, now, pinned); !errors.Is(err, ErrRollback) {
				t.Error(err)
			}
			refused(t, dir, five, otherSix)
		}
	})
	t.Run("bundle lost", func(t *testing.T) {
		dir := set(t)
		if err := os.Remove(filepath.Join(dir, bundleName)); err != nil {
			t.Fatal(err)
		}
		refused(t, dir, five, otherSix)
		if _, err := Import(dir, six, now, pinned); err != nil {
			t.Error(err)
		}
	})
	t.Run("memory behind the bundle", func(t *testing.T) { // the process died between the two writes
		dir := set(t)
		if err := os.WriteFile(filepath.Join(dir, bundleName), seven, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(dir, now, pinned); err != nil {
			t.Error(err)
		}
		refused(t, dir, six)
		if _, err := Import(dir, seven, now, pinned); err != nil {
			t.Error(err)
		}
	})
	t.Run("memory broken", func(t *testing.T) {
		dir := set(t)
		if err := os.WriteFile(filepath.Join(dir, highestName), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Import(dir, seven, now, pinned); err == nil {
			t.Error("imported")
		}
		if _, err := Load(dir, now, pinned); err == nil {
			t.Error("loaded")
		}
	})
	t.Run("another process", func(t *testing.T) {
		dir := set(t)
		f, err := durable.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := Import(dir, seven, now, pinned); !errors.Is(err, durable.ErrLocked) {
			t.Error(err)
		}
		if _, err := Load(dir, now, pinned); err != nil {
			t.Error(err)
		}
	})
}

// TestLoadWhileImporting: who reads sees the old bundle or the new one, and no rollback.
func TestLoadWhileImporting(t *testing.T) {
	dir := t.TempDir()
	var bs [][]byte
	for i := range 20 {
		bs = append(bs, export(t, uint64(i+1), nil))
	}
	if _, err := Import(dir, bs[0], now, pinned); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	done := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for {
				if _, err := Load(dir, now, pinned); err != nil {
					t.Error(err)
					return
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for _, b := range bs[1:] {
		if _, err := Import(dir, b, now, pinned); err != nil {
			t.Error(err)
		}
	}
	close(done)
	wg.Wait()
}

const importHere = "BUNDLE_TEST_IMPORT" // the folder into which the test binary imports until it is killed

func TestMain(m *testing.M) {
	if dir := os.Getenv(importHere); dir != "" {
		importUntilKilled(dir)
	}
	os.Exit(m.Run())
}

func importUntilKilled(dir string) {
	serial := uint64(1)
	if b, err := os.ReadFile(filepath.Join(dir, bundleName)); err == nil {
		x, err := Show(b)
		if err != nil {
			log.Fatal(err)
		}
		serial = x.Manifest.Serial + 1
	}
	for ; ; serial++ {
		b, err := Export(roots.Snapshot(), serial, created, expires, key)
		if err != nil {
			log.Fatal(err)
		}
		if _, err := Import(dir, b, now, pinned); err != nil {
			log.Fatal(err)
		}
		fmt.Println(serial)
	}
}

// TestKill: wherever a process dies, the folder loads, holds at least what was acknowledged, and takes nothing older.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	for round := range rounds {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), importHere+"="+dir)
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewScanner(out)
		var last uint64
		for range 1 + round%4 {
			if !r.Scan() {
				t.Fatal("the child ended")
			}
			if last, err = strconv.ParseUint(r.Text(), 10, 64); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Duration(round*137%1000) * time.Microsecond) // somewhere in the next import
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for r.Scan() { // what it still said, it had done
			if last, err = strconv.ParseUint(r.Text(), 10, 64); err != nil {
				t.Fatal(err)
			}
		}
		_ = child.Wait()
		if _, err := Load(dir, now, pinned); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(dir, bundleName))
		if err != nil {
			t.Fatal(err)
		}
		x, err := Show(b)
		if err != nil {
			t.Fatal(err)
		}
		if s := x.Manifest.Serial; s < last || s > last+1 {
			t.Fatalf("serial %d is there, %d was acknowledged", s, last)
		}
		if last > 1 {
			if _, err := Import(dir, export(t, last-1, nil), now, pinned); !errors.Is(err, ErrRollback) {
				t.Fatalf("an older bundle: %v", err)
			}
		}
	}
}

func FuzzShow(f *testing.F) {
	f.Add(export(f, 7, map[string]string{"a": "abc", "b": ""}))
	f.Add(export(f, 1, nil))
	b := export(f, 1, map[string]string{strings.Repeat("ü", 127): "x"})
	f.Add(b)
	f.Add(b[:len(b)-1024])
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := Show(b)
		if err != nil {
			return
		}
		again, err := archive(x.Manifest, x.envelope, x.Trust.Files())
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("taken, and other bytes when written again: %v", err)
		}
	})
}

func BenchmarkLoad(b *testing.B) {
	dir := b.TempDir()
	x, err := Export(roots.Snapshot(), 7, created, expires, key)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := Import(dir, x, now, pinned); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := Load(dir, now, pinned); err != nil {
			b.Fatal(err)
		}
	}
}
