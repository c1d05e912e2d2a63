package audit

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

var (
	testStudy  = sha256.Sum256([]byte("study"))
	testOrigin = Origin("heart.example", testStudy)
	testLogKey = testKey("log")
	noon       = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	hospitals  = []string{"cleveland", "hungarian", "switzerland", "va"}
)

// testKey is a key that depends on a name alone.
func testKey(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

func logPublic() ed25519.PublicKey { return public(testLogKey) }

// testWitnesses are four hospitals of which one may collude: three have to co-sign.
func testWitnesses() Witnesses {
	w := Witnesses{Keys: map[string]ed25519.PublicKey{}, Need: Quorum(len(hospitals), 1)}
	for _, h := range hospitals {
		w.Keys[h] = public(testKey(h))
	}
	return w
}

func testLeaf(n int) Leaf {
	return Leaf{Kind: Charge, Time: noon, Study: testStudy, Round: uint64(n), Subject: "cleveland", Object: sha256.Sum256(fmt.Append(nil, n))}
}

// fakeLog is a log in memory that will sign anything: an honest one, or an attacker's.
type fakeLog struct {
	hashes  []tlog.Hash // as tlog stores them
	entries [][]byte
	shown   uint64            // size of the checkpoint that it serves
	forged  map[string][]byte // resources that it serves instead
	reads   int
}

func newFakeLog(n int) *fakeLog {
	l := &fakeLog{forged: map[string][]byte{}}
	for i := range n {
		l.push(testLeaf(i).Encode())
	}
	l.shown = uint64(n)
	return l
}

// fork is a log with the same first n leaves.
func (l *fakeLog) fork(n int) *fakeLog {
	f := newFakeLog(0)
	for _, e := range l.entries[:n] {
		f.push(e)
	}
	f.shown = uint64(n)
	return f
}

func (l *fakeLog) ReadHashes(at []int64) ([]tlog.Hash, error) {
	var hs []tlog.Hash
	for _, i := range at {
		hs = append(hs, l.hashes[i])
	}
	return hs, nil
}

func (l *fakeLog) push(entry []byte) {
	hs, err := tlog.StoredHashes(int64(len(l.entries)), entry, l)
	if err != nil {
		panic(err)
	}
	l.hashes, l.entries = append(l.hashes, hs...), append(l.entries, entry)
}

// add appends a leaf and promises it.
func (l *fakeLog) add(entry []byte) Promised {
	i := len(l.entries)
	l.push(entry)
	p, err := MakePromise(testOrigin, uint64(i), entry, noon.Add(time.Second), testLogKey)
	if err != nil {
		panic(err)
	}
	return p
}

// grow appends leaves and shows them.
func (l *fakeLog) grow(n int) {
	for range n {
		l.add(testLeaf(len(l.entries)).Encode())
	}
	l.shown = uint64(len(l.entries))
}

func (l *fakeLog) at(size uint64) Checkpoint {
	h, err := tlog.TreeHash(int64(size), l)
	if err != nil {
		panic(err)
	}
	return Checkpoint{Origin: testOrigin, Size: size, Root: h}
}

func (l *fakeLog) checkpoint(size uint64) []byte {
	b, err := SignCheckpoint(l.at(size), testLogKey)
	if err != nil {
		panic(err)
	}
	return b
}

// counted is a checkpoint that those hospitals co-signed, whatever they should have done.
func (l *fakeLog) counted(size uint64, by ...string) []byte {
	var lines [][]byte
	for _, h := range by {
		line, err := cosign(l.at(size), h, noon, testKey(h))
		if err != nil {
			panic(err)
		}
		lines = append(lines, line)
	}
	b, _, err := MergeCosignatures(l.checkpoint(size), lines, testOrigin, logPublic(), testWitnesses())
	if err != nil {
		panic(err)
	}
	return b
}

func (l *fakeLog) Read(_ context.Context, name string) ([]byte, error) {
	l.reads++
	if b, ok := l.forged[name]; ok {
		return b, nil
	}
	if name == "checkpoint" {
		return l.checkpoint(l.shown), nil
	}
	t, err := parseResource(name)
	if err != nil {
		return nil, err
	}
	width := uint64(tileWidth)
	for range t.L {
		width *= tileWidth
	}
	if t.L >= 0 && uint64(t.N)*width+uint64(t.W)*(width/tileWidth) > uint64(len(l.entries)) || t.L < 0 && int(t.N)*tileWidth+t.W > len(l.entries) {
		return nil, fmt.Errorf("resource %q: %w", name, fs.ErrNotExist)
	}
	if t.L >= 0 {
		return tlog.ReadTileData(t, l)
	}
	var b []byte
	for _, e := range l.entries[t.N*tileWidth:][:t.W] {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(e))), e...)
	}
	return b, nil
}

// stored is the log at its size as a folder would hold it.
func (l *fakeLog) stored(t *testing.T, size uint64) map[string][]byte {
	t.Helper()
	m := map[string][]byte{}
	if err := Export(t.Context(), l, size, func(name string, b []byte) error { m[name] = b; return nil }); err != nil {
		t.Fatal(err)
	}
	return m
}

func mapReader(m map[string][]byte) Reader {
	return readerFunc(func(_ context.Context, name string) ([]byte, error) {
		if b, ok := m[name]; ok {
			return b, nil
		}
		return nil, fmt.Errorf("resource %q: %w", name, fs.ErrNotExist)
	})
}

// fakeMemory is durable, and fails on demand before it takes effect.
type fakeMemory struct {
	b      []byte
	stores int
	fail   error
}

func (m *fakeMemory) Load() ([]byte, error) { return m.b, nil }

func (m *fakeMemory) Store(b []byte) error {
	m.stores++
	if m.fail != nil {
		return m.fail
	}
	m.b = slices.Clone(b)
	return nil
}

func (m *fakeMemory) Put(b []byte) error { return m.Store(b) }

func auditor(t *testing.T, hospital string, m Memory) *Auditor {
	t.Helper()
	c := AuditorConfig{Origin: testOrigin, Log: logPublic(), Witnesses: testWitnesses(), Memory: m}
	if hospital != "" {
		c.Name, c.Witness = hospital, testKey(hospital)
	}
	a, err := NewAuditor(c)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func advance(t *testing.T, a *Auditor, r Reader) []byte {
	t.Helper()
	line, err := a.Advance(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return line
}

func count(t *testing.T, a *Auditor, l *fakeLog, size uint64) {
	t.Helper()
	if _, err := a.Counted(t.Context(), l.counted(size, hospitals[:3]...), l); err != nil {
		t.Fatal(err)
	}
}

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) || got == nil {
		t.Errorf("%s: got error %v, want %v", what, got, want)
	}
}

func withKey(keys map[string]ed25519.PublicKey, name string, k ed25519.PublicKey) map[string]ed25519.PublicKey {
	keys = maps.Clone(keys)
	keys[name] = k
	return keys
}
