package audit

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	fnote "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api/layout"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/consilium-fl/consilium/internal/signed"
)

const goodLeaf = `{"kind":"charge","time":"2026-11-01T12:00:00.000Z","study":"sha256:1e7f1d8b3bd87d8d4b5b9a0ba9b6f2b1d1ad54c8d8c9ef4c1d1d2f7f3c1c7a0f","round":3,"subject":"cleveland","object":"sha256:4e07408562bedb8b60ce05c1decfe3ad16b72230967de01f640b7e4729b49fce"}`

func TestLeaf(t *testing.T) {
	l, err := ParseLeaf([]byte(goodLeaf))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(l.Encode()); got != goodLeaf {
		t.Errorf("encoded %s", got)
	}
	if l.Object != sha256.Sum256([]byte("3")) || l.Round != 3 || !l.Time.Equal(noon) {
		t.Errorf("parsed %+v", l)
	}
	if got, want := LeafHash([]byte(goodLeaf)), rfc6962.DefaultHasher.HashLeaf([]byte(goodLeaf)); !bytes.Equal(got[:], want) {
		t.Errorf("leaf hash %x, want %x", got, want)
	}
	finer := l
	finer.Time = noon.Add(1999 * time.Microsecond).In(time.FixedZone("", 3600))
	if back, err := ParseLeaf(finer.Encode()); err != nil || !back.Time.Equal(noon.Add(time.Millisecond)) {
		t.Errorf("time %v, %v; want it in UTC, cut to milliseconds", back.Time, err)
	}
}

func TestBadLeaf(t *testing.T) {
	for what, b := range map[string]string{
		"unknown key":       strings.Replace(goodLeaf, `{`, `{"patient":"p1",`, 1),
		"duplicate key":     strings.Replace(goodLeaf, `"round":3`, `"round":4,"round":3`, 1),
		"other order":       strings.Replace(goodLeaf, `{"kind":"charge","time":"2026-11-01T12:00:00.000Z",`, `{"time":"2026-11-01T12:00:00.000Z","kind":"charge",`, 1),
		"key in capitals":   strings.Replace(goodLeaf, `"round"`, `"Round"`, 1),
		"a space":           strings.Replace(goodLeaf, `,"round"`, `, "round"`, 1),
		"newline after":     goodLeaf + "\n",
		"two leaves":        goodLeaf + goodLeaf,
		"missing key":       strings.Replace(goodLeaf, `"round":3,`, ``, 1),
		"round in quotes":   strings.Replace(goodLeaf, `:3,`, `:"3",`, 1),
		"round with digits": strings.Replace(goodLeaf, `:3,`, `:3.0,`, 1),
		"digest capitals":   strings.Replace(goodLeaf, `4e07`, `4E07`, 1),
		"short digest":      strings.Replace(goodLeaf, `4e07`, `4e`, 1),
		"time zone":         strings.Replace(goodLeaf, `000Z`, `000+00:00`, 1),
		"microseconds":      strings.Replace(goodLeaf, `000Z`, `000000Z`, 1),
		"no time":           strings.Replace(goodLeaf, `2026-11-01T12:00:00.000Z`, `0001-01-01T00:00:00.000Z`, 1),
		"free text":         strings.Replace(goodLeaf, `cleveland`, `Mr Smith, 63`, 1),
		"escape":            strings.Replace(goodLeaf, `cleveland`, `\u0063leveland`, 1),
		"long subject":      strings.Replace(goodLeaf, `cleveland`, strings.Repeat("c", 129), 1),
		"no kind":           strings.Replace(goodLeaf, `"charge"`, `""`, 1),
		"kind in capitals":  strings.Replace(goodLeaf, `"charge"`, `"Charge"`, 1),
		"empty":             "",
		"null":              "null",
		"too long":          goodLeaf + strings.Repeat(" ", MaxLeaf),
	} {
		if _, err := ParseLeaf([]byte(b)); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

func TestOrigin(t *testing.T) {
	if got := Origin("heart.example", [32]byte{}); got != "heart.example/log" {
		t.Errorf("consortium's origin %q", got)
	}
	for _, o := range []string{"heart.example/log", testOrigin} {
		if err := CheckOrigin(o); err != nil {
			t.Error(err)
		}
	}
	for _, o := range []string{
		"", "/log", "heart.example", "heart.example/log/", testOrigin + "/", testOrigin[:len(testOrigin)-1], strings.ToUpper(testOrigin),
		"heart example/log", "heart.example/logs", "heart.example/log/" + strings.Repeat("0", 64), "a\nb/log", "heart.example/log/log",
	} {
		if err := CheckOrigin(o); err == nil {
			t.Errorf("origin %q: no error", o)
		}
	}
}

func TestPromiseTravels(t *testing.T) {
	p, err := MakePromise(testOrigin, 7, testLeaf(7).Encode(), noon.Add(1500*time.Microsecond), testLogKey)
	if err != nil {
		t.Fatal(err)
	}
	back, l, err := ParsePromised(p.Encode(), testOrigin, logPublic())
	if err != nil || l != testLeaf(7) || !back.Promise.Due.Equal(noon.Add(time.Millisecond)) || back.Promise.Index != 7 {
		t.Errorf("got %+v, %+v, %v", back, l, err)
	}
	type message struct {
		Promises []Promised `cbor:"1,keyasint"`
	}
	b, err := signed.Encode(message{[]Promised{p}})
	if err != nil {
		t.Fatal(err)
	}
	var m message
	if err := signed.Decode(b, &m); err != nil || !bytes.Equal(m.Promises[0].Encode(), p.Encode()) {
		t.Errorf("a promise inside a message: %+v, %v", m, err)
	}
	for i := range p.Encode() {
		if _, _, err := ParsePromised(flip(p.Encode(), i), testOrigin, logPublic()); err == nil {
			t.Fatalf("byte %d altered: no error", i)
		}
	}
}

// Everything that C2SP readers and writers make of our checkpoints, and we of theirs.
func TestCheckpointsInteroperate(t *testing.T) {
	l := newFakeLog(300)
	b := l.counted(300, "va", "cleveland", "hungarian")
	vkey := func(name string, key ed25519.PublicKey) string {
		s, err := note.NewEd25519VerifierKey(name, key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	lv, err := note.NewVerifier(vkey(testOrigin, logPublic()))
	if err != nil {
		t.Fatal(err)
	}
	verifiers := []note.Verifier{lv}
	for _, h := range hospitals {
		v, err := fnote.NewVerifierForCosignatureV1(vkey("heart.example/hospital/"+h, public(testKey(h))))
		if err != nil {
			t.Fatal(err)
		}
		verifiers = append(verifiers, v)
	}
	n, err := note.Open(b, note.VerifierList(verifiers...))
	if err != nil || len(n.Sigs) != 4 || len(n.UnverifiedSigs) != 0 {
		t.Fatalf("x/mod and formats read %+v, %v", n, err)
	}
	at, err := fnote.CoSigV1Timestamp(n.Sigs[1])
	if err != nil || !at.Equal(noon) {
		t.Errorf("time of the co-signature %v, %v", at, err)
	}

	key := testKey("switzerland")
	name := "heart.example/hospital/switzerland"
	skey := "PRIVATE+KEY+" + name + "+00000000+" + base64.StdEncoding.EncodeToString(append([]byte{1}, key.Seed()...))
	s, err := fnote.NewSignerForCosignatureV1(skey)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := note.Sign(n, s)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ParseCheckpoint(theirs, testOrigin, logPublic(), testWitnesses())
	if err != nil || !slices.Equal(c.Cosigned, hospitals) || c.Ignored != 0 || c.Size != 300 || c.Root != l.at(300).Root {
		t.Errorf("we read %+v, %v", c, err)
	}
}

func TestWhoCounts(t *testing.T) {
	l := newFakeLog(3)
	w := testWitnesses()
	line := func(size uint64, h, key string) []byte {
		b, err := cosign(l.at(size), h, noon, testKey(key))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	plain := l.checkpoint(3)
	stranger := line(3, "paris", "paris")
	b := slices.Concat(plain, line(3, "va", "va"), stranger, line(3, "va", "va"), stranger, line(3, "cleveland", "paris"))
	c, err := ParseCheckpoint(b, testOrigin, logPublic(), w)
	if err != nil || !slices.Equal(c.Cosigned, []string{"va"}) || c.Ignored != 2 {
		t.Errorf("got %+v, %v; want va once, two lines ignored", c, err)
	}
	if w.Counts(c) {
		t.Error("one co-signature counts")
	}
	if (Witnesses{}).Counts(Checkpoint{}) {
		t.Error("with no witnesses everything counts")
	}

	merged, c, err := MergeCosignatures(b, [][]byte{
		line(2, "cleveland", "cleveland"), // of another checkpoint
		line(3, "hungarian", "paris"),     // by another key
		stranger, line(3, "va", "va"), plain, nil,
		[]byte("\u2014 heart.example/hospital/hungarian AAAA\n"),
		append(line(3, "switzerland", "switzerland"), line(3, "cleveland", "cleveland")...), // two lines at once
		line(3, "hungarian", "hungarian")[:40],
	}, testOrigin, logPublic(), w)
	if err != nil || !slices.Equal(c.Cosigned, []string{"cleveland", "switzerland", "va"}) || c.Ignored != 0 {
		t.Fatalf("merged %+v, %v", c, err)
	}
	again, err := ParseCheckpoint(merged, testOrigin, logPublic(), w)
	if err != nil || !slices.Equal(again.Cosigned, c.Cosigned) || !w.Counts(again) {
		t.Errorf("merged note reads %+v, %v", again, err)
	}
	same, _, err := MergeCosignatures(merged, nil, testOrigin, logPublic(), w)
	if err != nil || !bytes.Equal(same, merged) {
		t.Errorf("merging nothing changes the note: %v", err)
	}
	if _, _, err := MergeCosignatures(plain, nil, testOrigin, public(testKey("va")), w); err == nil {
		t.Error("a checkpoint of another log is merged into")
	}
}

func TestManyCosigners(t *testing.T) {
	l := newFakeLog(3)
	w := Witnesses{Keys: map[string]ed25519.PublicKey{}}
	var lines [][]byte
	for i := range 120 {
		h := "h" + string(rune('a'+i/26)) + string(rune('a'+i%26))
		w.Keys[h] = public(testKey(h))
		line, err := cosign(l.at(3), h, noon, testKey(h))
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	b, c, err := MergeCosignatures(l.checkpoint(3), lines, testOrigin, logPublic(), w)
	if err != nil || len(c.Cosigned) != 99 {
		t.Fatalf("%d co-signed, %v", len(c.Cosigned), err)
	}
	if again, err := ParseCheckpoint(b, testOrigin, logPublic(), w); err != nil || len(again.Cosigned) != 99 {
		t.Errorf("%d co-signed, %v", len(again.Cosigned), err)
	}
}

func TestBadCheckpoint(t *testing.T) {
	l := newFakeLog(3)
	w := testWitnesses()
	signText := func(text string) []byte {
		n, err := note.Sign(&note.Note{Text: text}, noteSigner{testOrigin, testLogKey})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	good := l.at(3).text()
	if _, err := ParseCheckpoint(signText(good), testOrigin, logPublic(), w); err != nil {
		t.Fatal(err)
	}
	root := base64.StdEncoding.EncodeToString(make([]byte, 32))
	for what, text := range map[string]string{
		"extension line":    good + "more\n",
		"another origin":    strings.Replace(good, "heart", "lung", 1),
		"leading zero":      strings.Replace(good, "\n3\n", "\n03\n", 1),
		"plus sign":         strings.Replace(good, "\n3\n", "\n+3\n", 1),
		"negative":          strings.Replace(good, "\n3\n", "\n-3\n", 1),
		"beyond every log":  strings.Replace(good, "\n3\n", "\n9999999999999999\n", 1),
		"short root":        testOrigin + "\n3\nAAAA\n",
		"padding bits":      testOrigin + "\n3\n" + root[:42] + "B=\n",
		"root of empty log": testOrigin + "\n0\n" + root + "\n",
		"two lines":         testOrigin + "\n3\n",
	} {
		if _, err := ParseCheckpoint(signText(text), testOrigin, logPublic(), w); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	if _, err := ParseCheckpoint(slices.Concat([]byte(good+"\n"), mustCosign(t, l.at(3), "va")), testOrigin, logPublic(), w); err == nil {
		t.Error("a checkpoint that the log did not sign is taken")
	}
	if _, err := ParseCheckpoint(make([]byte, MaxCheckpoint+1), testOrigin, logPublic(), w); err == nil {
		t.Error("a checkpoint beyond the bound is taken")
	}

	// One flipped bit changes what is read, or is refused.
	b := l.counted(3, hospitals...)
	want, err := ParseCheckpoint(b, testOrigin, logPublic(), w)
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		for bit := range 8 {
			f := bytes.Clone(b)
			f[i] ^= 1 << bit
			c, err := ParseCheckpoint(f, testOrigin, logPublic(), w)
			if err == nil && (c.Ignored == 0 || len(c.Cosigned) != len(want.Cosigned)-1) {
				t.Fatalf("byte %d bit %d altered reads %+v", i, bit, c)
			}
		}
	}
}

func mustCosign(t *testing.T, c Checkpoint, h string) []byte {
	t.Helper()
	b, err := cosign(c, h, noon, testKey(h))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

type noteSigner struct {
	name string
	key  ed25519.PrivateKey
}

func (s noteSigner) Name() string                     { return s.name }
func (s noteSigner) KeyHash() uint32                  { return LogKeyHash(s.name, public(s.key)) }
func (s noteSigner) Sign(text []byte) ([]byte, error) { return ed25519.Sign(s.key, text), nil }

func TestResourcePaths(t *testing.T) {
	for _, s := range []string{"tile/0/000", "tile/0/001.p/7", "tile/entries/000", "tile/entries/x001/234.p/255", "tile/1/x001/x234/067"} {
		tile, err := parseResource(s)
		if err != nil || resource(tile) != s {
			t.Errorf("%q reads as %q, %v", s, resource(tile), err)
		}
	}
	if got, want := resource(tilesOf(t, 70000)[1]), layout.EntriesPath(1, 0); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for _, s := range []string{
		"", "checkpoint/", "/checkpoint", "tile", "tile/0", "tile/0/0", "tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/007", "tile/data/000", "tile/8/0/000",
		"tile/6/000", "tile/-1/000", "tile/0/../../checkpoint", "../tile/0/000", "tile/0/000/..", ".state/treeState", "tile/00/000", "tile/0/x000/001", "tile/entries/..", "tile/0/000\x00",
	} {
		if _, err := parseResource(s); err == nil {
			t.Errorf("%q: no error", s)
		}
	}
}

func tilesOf(t *testing.T, size uint64) (rs []tlog.Tile) {
	t.Helper()
	rs, err := tiles(size)
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

func TestDirReaderStaysInside(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	log := filepath.Join(dir, "log")
	if err := errors.Join(os.WriteFile(secret, []byte("secret"), 0o600), os.MkdirAll(filepath.Join(log, "tile", "0"), 0o700),
		os.Symlink(secret, filepath.Join(log, "tile", "0", "000")), os.WriteFile(filepath.Join(log, "checkpoint"), []byte("here"), 0o600),
		os.WriteFile(filepath.Join(log, "tile", "0", "001"), make([]byte, maxResource+1), 0o600)); err != nil {
		t.Fatal(err)
	}
	r := DirReader(log)
	for _, s := range []string{"../secret", "tile/0/000", "tile/../../secret", secret, "tile/0/001", ".", "tile/0"} {
		if b, err := r.Read(t.Context(), s); err == nil {
			t.Errorf("%q reads %d bytes", s, len(b))
		}
	}
	if b, err := r.Read(t.Context(), "checkpoint"); err != nil || string(b) != "here" {
		t.Errorf("checkpoint reads %q, %v", b, err)
	}
	_, err := r.Read(t.Context(), "tile/0/002")
	wantErr(t, "a resource that is not there", err, fs.ErrNotExist)
}

func TestVerifyLog(t *testing.T) {
	big := newFakeLog(70000)
	for _, size := range []uint64{0, 1, 2, 3, 255, 256, 257, 511, 512, 700, 65536, 65537, 70000} {
		leaves, err := VerifyLog(t.Context(), big, big.at(size))
		if err != nil || uint64(len(leaves)) != size {
			t.Fatalf("size %d: %d leaves, %v", size, len(leaves), err)
		}
	}
	l := newFakeLog(600)
	m := l.stored(t, 600)
	names, err := Resources(600)
	if err != nil || !slices.Equal(slices.Sorted(slices.Values(names[1:])), slices.Sorted(maps.Keys(m))) {
		t.Errorf("resources %q, %v; exported %q", names, err, slices.Sorted(maps.Keys(m)))
	}
	c := l.at(600)
	if _, err := VerifyLog(t.Context(), mapReader(m), c); err != nil {
		t.Fatal(err)
	}
	for name, b := range m {
		for i := 0; i < len(b); i += 1 + len(b)/97 {
			f := maps.Clone(m)
			f[name] = flip(b, i)
			if _, err := VerifyLog(t.Context(), mapReader(f), c); err == nil || !strings.Contains(err.Error(), name) {
				t.Fatalf("%s byte %d altered: %v", name, i, err)
			}
		}
		for what, b := range map[string][]byte{"cut": b[:len(b)-1], "longer": append(bytes.Clone(b), 0), "empty": nil} {
			f := maps.Clone(m)
			f[name] = b
			if _, err := VerifyLog(t.Context(), mapReader(f), c); err == nil {
				t.Errorf("%s %s: no error", name, what)
			}
		}
		f := maps.Clone(m)
		delete(f, name)
		if _, err := VerifyLog(t.Context(), mapReader(f), c); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s missing: %v", name, err)
		}
	}
	// A log that was rewritten as a whole, tiles and all, does not give the root.
	f := l.fork(599)
	f.add(testLeaf(1).Encode())
	if _, err := VerifyLog(t.Context(), mapReader(f.stored(t, 600)), c); err == nil || !strings.Contains(err.Error(), "root") {
		t.Errorf("another last leaf: %v", err)
	}
	bad := l.fork(3)
	bad.push([]byte("not a leaf"))
	if _, err := VerifyLog(t.Context(), bad, bad.at(4)); err == nil {
		t.Error("an entry that is no leaf is taken")
	}
	other := testLeaf(3)
	other.Study = [32]byte{1}
	bad = l.fork(3)
	bad.push(other.Encode())
	if _, err := VerifyLog(t.Context(), bad, bad.at(4)); err == nil {
		t.Error("a leaf of another study is taken")
	}
	if _, err := VerifyLog(t.Context(), l, Checkpoint{Origin: testOrigin, Size: maxSize}); err == nil {
		t.Error("a log of any size is read")
	}
}

func TestProofs(t *testing.T) {
	l := newFakeLog(700)
	ctx := t.Context()
	for _, size := range []uint64{1, 2, 255, 256, 257, 512, 699, 700} {
		for i := uint64(0); i < size; i += 1 + size/13 {
			if err := CheckInclusion(ctx, l, l.at(size), i, LeafHash(l.entries[i])); err != nil {
				t.Fatal(err)
			}
			wantErr(t, "another leaf", CheckInclusion(ctx, l, l.at(size), i, [32]byte{1}), ErrForked)
			if err := CheckConsistency(ctx, l, l.at(i), l.at(size)); err != nil {
				t.Fatal(err)
			}
		}
		if err := CheckInclusion(ctx, l, l.at(size), size, [32]byte{}); err == nil || errors.Is(err, ErrForked) {
			t.Errorf("an index beyond the log: %v", err)
		}
	}
	f := l.fork(300)
	f.add(testLeaf(1).Encode())
	f.grow(399)
	wantErr(t, "a fork", CheckConsistency(ctx, l, f.at(301), l.at(700)), ErrForked)
	wantErr(t, "a fork of one size", CheckConsistency(ctx, l, f.at(700), l.at(700)), ErrForked)
	wantErr(t, "backwards", CheckConsistency(ctx, l, l.at(700), l.at(300)), ErrRewound)
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	_, err := DirReader(t.TempDir()).Read(ctx, "checkpoint")
	wantErr(t, "a context that ended", err, context.Canceled)
}

// A log may drop partial tiles once they are full.
func TestFullTileStandsForPartial(t *testing.T) {
	l := newFakeLog(300)
	m := l.stored(t, 300)
	for _, size := range []uint64{7, 255, 256} {
		if _, err := VerifyLog(t.Context(), mapReader(m), l.at(size)); err != nil {
			t.Errorf("size %d: %v", size, err)
		}
	}
	if _, err := VerifyLog(t.Context(), mapReader(m), l.at(299)); err == nil {
		t.Error("a wider partial tile stands for a narrower")
	}
}

// A promise that was read well and altered afterwards is verified again.
func TestPromiseAlteredAfterParsing(t *testing.T) {
	made, err := MakePromise(testOrigin, 3, testLeaf(7).Encode(), noon, testLogKey)
	if err != nil {
		t.Fatal(err)
	}
	p, _, err := ParsePromised(made.Encode(), testOrigin, logPublic())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.check(testOrigin, logPublic()); err != nil {
		t.Error(err)
	}
	for name, alter := range map[string]func(*Promised){
		"index":     func(p *Promised) { p.Promise.Index++ },
		"due":       func(p *Promised) { p.Promise.Due = p.Promise.Due.Add(1e9) },
		"signature": func(p *Promised) { p.Promise.Signature = bytes.Repeat([]byte{1}, 64) },
		"leaf":      func(p *Promised) { p.Leaf = flip(p.Leaf, 5) },
	} {
		q := p
		alter(&q)
		if err := q.check(testOrigin, logPublic()); err == nil {
			t.Errorf("%s altered: no error", name)
		}
	}
	if err := p.check("heart.example/log", logPublic()); err == nil {
		t.Error("another origin: no error")
	}
	if err := p.check(testOrigin, public(testKey("va"))); err == nil {
		t.Error("another log key: no error")
	}
}
