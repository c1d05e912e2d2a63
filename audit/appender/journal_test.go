package appender

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/transparency-dev/tessera"

	"github.com/consilium-fl/consilium/audit"
)

// slowly is a log that promises and does not get to its tree.
func slowly(t *testing.T, dir string) *Log {
	t.Helper()
	l, err := Open(t.Context(), dir, origin, key, Options{Batch: time.Hour, Checkpoint: time.Hour, MergeDelay: 2 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
		cancel()
		_ = l.Close(ctx) // no checkpoint comes
	})
	return l
}

// crashed copies what the disk holds while the log is open.
func crashed(t *testing.T, dir string) string {
	t.Helper()
	copied := t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return copied
}

func TestPromisedBeforeTheTree(t *testing.T) {
	dir := t.TempDir()
	l := slowly(t, dir)
	var ps []audit.Promised
	for n := range uint64(3) {
		ps = append(ps, appendLeaf(t, l, n))
	}
	dir = crashed(t, dir)
	for range 2 { // the second finds the tree ahead of the journal
		l := open(t, dir)
		c := await(t, l, 3)
		for _, p := range ps {
			if err := audit.CheckInclusion(t.Context(), l, c, p.Promise.Index, p.Promise.Leaf); err != nil {
				t.Error(err)
			}
		}
		ps = append(ps, appendLeaf(t, l, 9))
		if err := l.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for i, p := range ps {
		if p.Promise.Index != uint64(i) {
			t.Errorf("promise %d is of index %d", i, p.Promise.Index)
		}
	}
}

// A record that was being written when the power went was promised to nobody; those before it were.
func TestTornJournal(t *testing.T) {
	dir := t.TempDir()
	l := slowly(t, dir)
	kept := appendLeaf(t, l, 0)
	whole := l.journal.at
	appendLeaf(t, l, 1)
	appendLeaf(t, l, 2)
	for _, at := range []int64{whole, whole + journalHead + 3, whole + 200} {
		dir := crashed(t, dir)
		f, err := os.OpenFile(filepath.Join(dir, ".state", "promised"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(make([]byte, 40), at); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		l := open(t, dir)
		next := appendLeaf(t, l, 3)
		c := await(t, l, 2)
		if c.Size != 2 || next.Promise.Index != 1 {
			t.Errorf("torn at %d: size %d, the next leaf is %d", at, c.Size, next.Promise.Index)
		}
		for _, p := range []audit.Promised{kept, next} {
			if err := audit.CheckInclusion(t.Context(), l, c, p.Promise.Index, p.Promise.Leaf); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestJournalOfLaterLeavesIsRefused(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	old := crashed(t, dir)
	appendLeaf(t, l, 0)
	await(t, l, 1)
	l.journal.rewind() // as it does when it is full
	appendLeaf(t, l, 1)
	later := filepath.Join(".state", "promised")
	b, err := os.ReadFile(filepath.Join(dir, later))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(old, later), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), old, origin, key, Options{}); err == nil || !strings.Contains(err.Error(), "older copy") {
		t.Errorf("got %v", err)
	}
}

// A tree that has a leaf where another was promised is not signed, and the log ends.
func TestTakenPlaceIsNotSigned(t *testing.T) {
	l := slowlyPlanted(t)
	if _, err := l.add(t.Context(), tessera.NewEntry(leaf(7).Encode()))(); err != nil {
		t.Fatal(err)
	}
	appendLeaf(t, l, 1)
	if err := l.await(t.Context(), func() bool { return false }); err == nil || !strings.Contains(err.Error(), "place 1") {
		t.Fatalf("got %v", err)
	}
	if _, err := l.Append(t.Context(), leaf(2)); err == nil {
		t.Error("a leaf is taken after the fault")
	}
	if _, size := l.newest(); size != 0 {
		t.Errorf("a checkpoint of size %d was signed", size)
	}
	if err := l.Close(t.Context()); err == nil {
		t.Error("closing does not tell of the fault")
	}
}

func slowlyPlanted(t *testing.T) *Log {
	t.Helper()
	l, err := Open(t.Context(), t.TempDir(), origin, key, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *Log) newest() ([]byte, uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.latest, l.size
}

func TestJournalStartsAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "promised")
	j, _, err := openJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	record := func(i uint64) entry { return entry{i, leaf(i).Encode()} }
	for i := range uint64(3) {
		if err := j.write([]entry{record(i)}); err != nil {
			t.Fatal(err)
		}
	}
	end := j.at
	j.rewind()
	if err := j.write([]entry{record(3)}); err != nil {
		t.Fatal(err)
	}
	k, es, err := openJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(es) != 1 || es[0].index != 3 {
		t.Errorf("%d entries, want the one after the rewind", len(es))
	}
	if k.at != j.at || k.at >= end {
		t.Errorf("goes on at %d, want %d", k.at, j.at)
	}
	if err := k.f.Close(); err != nil {
		t.Error(err)
	}
	if err := j.f.Close(); err != nil {
		t.Error(err)
	}
}

// The journal stays small however much is appended.
func TestJournalIsBounded(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	var most int64
	for n := range uint64(2000) {
		appendLeaf(t, l, n)
		most = max(most, l.journal.at)
	}
	if most > 2*journalSize {
		t.Errorf("%d bytes", most)
	}
	c := await(t, l, 2000)
	if _, err := audit.VerifyLog(t.Context(), l, c); err != nil {
		t.Error(err)
	}
}

func FuzzJournal(f *testing.F) {
	var j journal
	b := slices.Concat([]byte{0, 0, 0, 1}, make([]byte, 8), []byte("x"))
	sum := chained(j.last, b)
	f.Add(append(b, sum[:]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		var j journal
		es := j.parse(b)
		if j.at > int64(len(b)) || int64(len(es))*(journalHead+33) > j.at {
			t.Errorf("%d entries in %d of %d bytes", len(es), j.at, len(b))
		}
	})
}
