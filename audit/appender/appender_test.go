package appender

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/audit"
)

var (
	study  = sha256.Sum256([]byte("study"))
	origin = audit.Origin("heart.example", study)
	key    = newKey("log")
)

func newKey(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

func leaf(n uint64) audit.Leaf {
	return audit.Leaf{Kind: audit.Plan, Time: time.Now(), Study: study, Round: n, Subject: "cleveland", Object: sha256.Sum256(fmt.Append(nil, n))}
}

func open(t testing.TB, dir string) *Log {
	t.Helper()
	l, err := Open(t.Context(), dir, origin, key, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return l
}

func appendLeaf(t testing.TB, l *Log, n uint64) audit.Promised {
	t.Helper()
	p, err := l.Append(t.Context(), leaf(n))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// await is the first checkpoint of at least that size.
func await(t testing.TB, l *Log, size uint64) audit.Checkpoint {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for b := range l.Checkpoints(ctx) {
		c, err := audit.ParseCheckpoint(b, origin, public(key), audit.Witnesses{})
		if err != nil {
			t.Fatal(err)
		}
		if c.Size >= size {
			return c
		}
	}
	t.Fatal("no more checkpoints")
	return audit.Checkpoint{}
}

func TestAppendedLeavesAreInTheLog(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	before := time.Now()
	var ps []audit.Promised
	for n := range uint64(5) {
		p := appendLeaf(t, l, n)
		if _, got, err := audit.ParsePromised(p.Encode(), origin, public(key)); err != nil || got.Round != n || p.Promise.Index != n {
			t.Fatalf("promise %+v of leaf %+v, %v", p, got, err)
		}
		if d := p.Promise.Due; d.Before(before) || d.After(time.Now().Add(DefaultMergeDelay)) {
			t.Errorf("due %v", d)
		}
		ps = append(ps, p)
	}
	c := await(t, l, 5)
	for _, p := range ps {
		if err := audit.CheckInclusion(t.Context(), l, c, p.Promise.Index, p.Promise.Leaf); err != nil {
			t.Error(err)
		}
	}
	if leaves, err := audit.VerifyLog(t.Context(), l, c); err != nil || len(leaves) != 5 {
		t.Errorf("%d leaves, %v", len(leaves), err)
	}
}

func TestFilledTiles(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	var wg sync.WaitGroup
	for n := range uint64(600) {
		wg.Go(func() { appendLeaf(t, l, n) })
	}
	wg.Wait()
	c := await(t, l, 600)
	if _, err := audit.VerifyLog(t.Context(), l, c); err != nil {
		t.Fatal(err)
	}
	// What Export writes is a whole stored log.
	out := t.TempDir()
	err := audit.Export(t.Context(), l, c.Size, func(name string, b []byte) error {
		f := filepath.Join(out, filepath.FromSlash(name))
		return errors.Join(os.MkdirAll(filepath.Dir(f), 0o700), os.WriteFile(f, b, 0o600))
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := audit.VerifyLog(t.Context(), audit.DirReader(out), c); err != nil {
		t.Error(err)
	}
}

func TestBadLeafIsNotAppended(t *testing.T) {
	l := open(t, t.TempDir())
	other := leaf(1)
	other.Study[0] ^= 1
	text := leaf(1)
	text.Subject = "Mr Smith"
	for _, bad := range []audit.Leaf{{}, other, text} {
		if _, err := l.Append(t.Context(), bad); err == nil {
			t.Errorf("%+v is appended", bad)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range maxInFlight {
		l.slots <- struct{}{}
	}
	if _, err := l.Append(ctx, leaf(1)); !errors.Is(err, context.Canceled) {
		t.Errorf("a full queue and a context that ended: %v", err)
	}
	for range maxInFlight {
		<-l.slots
	}
	if p := appendLeaf(t, l, 1); p.Promise.Index != 0 {
		t.Errorf("the first good leaf has index %d", p.Promise.Index)
	}
}

func TestOpenAgain(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	appendLeaf(t, l, 0)
	if _, err := Open(t.Context(), dir, origin, key, Options{}); !errors.Is(err, ErrInUse) {
		t.Errorf("opened twice: %v, want %v", err, ErrInUse)
	}
	appendLeaf(t, l, 1) // the first is unharmed
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(t.Context(), leaf(2)); !errors.Is(err, ErrClosed) {
		t.Errorf("append after close: %v", err)
	}
	for what, open := range map[string]func() (*Log, error){
		"another origin": func() (*Log, error) { return Open(t.Context(), dir, "heart.example/log", key, Options{}) },
		"another key":    func() (*Log, error) { return Open(t.Context(), dir, origin, newKey("other"), Options{}) },
		"no origin":      func() (*Log, error) { return Open(t.Context(), t.TempDir(), "heart", key, Options{}) },
		"checkpoints faster than Tessera's": func() (*Log, error) {
			return Open(t.Context(), t.TempDir(), origin, key, Options{Checkpoint: time.Millisecond})
		},
		"a merge delay that cannot be kept": func() (*Log, error) {
			return Open(t.Context(), t.TempDir(), origin, key, Options{MergeDelay: 100 * time.Millisecond})
		},
	} {
		if _, err := open(); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	again := open(t, dir)
	if p := appendLeaf(t, again, 2); p.Promise.Index != 2 {
		t.Errorf("index %d after reopening, want 2", p.Promise.Index)
	}
	await(t, again, 3)
}

// A folder whose tree was put back to an earlier day, under a later checkpoint.
func TestOlderCopyIsRefused(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	appendLeaf(t, l, 0)
	state := filepath.Join(dir, ".state", "treeState")
	old, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	appendLeaf(t, l, 1)
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(state, old, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), dir, origin, key, Options{}); err == nil || !strings.Contains(err.Error(), "older copy") {
		t.Errorf("got %v", err)
	}
}

func TestCloseDrains(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	checkpoints := l.Checkpoints(t.Context())
	var promised atomic.Uint64
	var wg sync.WaitGroup
	for n := range uint64(50) {
		wg.Go(func() {
			_, err := l.Append(t.Context(), leaf(n))
			if err == nil {
				promised.Add(1)
			} else if !errors.Is(err, ErrClosed) {
				t.Error(err)
			}
		})
	}
	<-checkpoints
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	b, err := audit.DirReader(dir).Read(t.Context(), "checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	c, err := audit.ParseCheckpoint(b, origin, public(key), audit.Witnesses{})
	if err != nil || c.Size != promised.Load() {
		t.Errorf("%d leaves published, %d promised, %v", c.Size, promised.Load(), err)
	}
	var last []byte
	for b := range checkpoints {
		last = b
	}
	if c.Size > 0 && !bytes.Equal(last, b) {
		t.Error("the last checkpoint was not pushed before the channel closed")
	}
}

func TestReadStaysInside(t *testing.T) {
	l := open(t, t.TempDir())
	appendLeaf(t, l, 0)
	await(t, l, 1)
	for _, s := range []string{".state/treeState", "../x", "tile/../.state/treeState", "/etc/passwd", "tile/0/000.p/1/../1", "Checkpoint"} {
		if b, err := l.Read(t.Context(), s); err == nil {
			t.Errorf("%q reads %q", s, b)
		}
	}
	if _, err := l.Read(t.Context(), "tile/0/000.p/1"); err != nil {
		t.Error(err)
	}
	if _, err := l.Read(t.Context(), "tile/0/000.p/2"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// An auditor that follows by push never sees the log go back, and co-signs every checkpoint.
func TestAuditorFollows(t *testing.T) {
	l := open(t, t.TempDir())
	witnesses := audit.Witnesses{Keys: map[string]ed25519.PublicKey{}, Need: audit.Quorum(3, 1)}
	as := map[string]*audit.Auditor{}
	for _, h := range []string{"a", "b", "c"} {
		witnesses.Keys[h] = public(newKey(h))
	}
	for h := range witnesses.Keys {
		a, err := audit.NewAuditor(audit.AuditorConfig{Origin: origin, Log: public(key), Witnesses: witnesses, Witness: newKey(h), Name: h, Memory: &memory{}})
		if err != nil {
			t.Fatal(err)
		}
		as[h] = a
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- func() error {
			for b := range l.Checkpoints(ctx) {
				var lines [][]byte
				for _, a := range as {
					line, err := a.Advance(t.Context(), l)
					if err != nil {
						return err
					}
					lines = append(lines, line, a.Cosignature())
				}
				// The log may have moved on between push and read: then the co-signatures are for later.
				counted, c, err := audit.MergeCosignatures(b, lines, origin, public(key), witnesses)
				if err != nil {
					return err
				}
				for _, a := range as {
					if witnesses.Counts(c) {
						if _, err := a.Counted(t.Context(), counted, l); err != nil {
							return err
						}
					}
				}
			}
			return nil
		}()
	}()
	for n := range uint64(20) {
		p := appendLeaf(t, l, n)
		for _, a := range as {
			if err := a.Expect(p); err != nil {
				t.Fatal(err)
			}
		}
		if n%5 == 0 {
			if err := as["a"].WaitIncluded(t.Context(), p); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, a := range as {
		if err := a.WaitCounted(t.Context(), 20); err != nil {
			t.Error(err)
		}
		if err := a.Due(time.Now().Add(time.Hour)); err != nil {
			t.Error(err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

type memory struct{ b []byte }

func (m *memory) Load() ([]byte, error) { return m.b, nil }
func (m *memory) Store(b []byte) error  { m.b = b; return nil }
func (m *memory) Put(b []byte) error    { return m.Store(b) }

// TestKilledWhileAppending kills a process with -9 in the middle of its appends, five times on one
// log. Each leaf that it had a promise for stands where it was promised, and nothing that it showed
// is taken back.
func TestKilledWhileAppending(t *testing.T) {
	dir := t.TempDir()
	var promised []audit.Promised
	var shown []byte
	for kill := range 5 {
		ctx, cancel := context.WithCancel(t.Context())
		cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), "CONSILIUM_TEST_APPEND="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewScanner(out)
		for n := 0; r.Scan(); n++ {
			if n == 40+17*kill {
				cancel() // SIGKILL; what is still in the pipe was promised too
			}
			b, err := hex.DecodeString(r.Text()[2:])
			if err != nil {
				break // cut by the kill: nobody got this promise
			}
			if r.Text()[0] == 'c' {
				shown = b
				continue
			}
			p, _, err := audit.ParsePromised(b, origin, public(key))
			if err != nil {
				break
			}
			promised = append(promised, p)
		}
		cancel()
		if err := cmd.Wait(); err == nil {
			t.Fatal("the process ended by itself")
		}
	}
	l := open(t, dir)
	b, err := l.Read(t.Context(), "checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	now, err := audit.ParseCheckpoint(b, origin, public(key), audit.Witnesses{})
	if err != nil {
		t.Fatal(err)
	}
	then, err := audit.ParseCheckpoint(shown, origin, public(key), audit.Witnesses{})
	if err != nil {
		t.Fatal(err)
	}
	if err := audit.CheckConsistency(t.Context(), l, then, now); err != nil {
		t.Error(err)
	}
	leaves, err := audit.VerifyLog(t.Context(), l, now)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range promised {
		if p.Promise.Index >= now.Size || audit.LeafHash(leaves[p.Promise.Index].Encode()) != p.Promise.Leaf {
			t.Errorf("promised leaf %d is lost", p.Promise.Index)
		}
	}
	t.Logf("%d promised, %d in the log", len(promised), now.Size)
}

func TestMain(m *testing.M) {
	if dir := os.Getenv("CONSILIUM_TEST_APPEND"); dir != "" {
		if err := appendForEver(context.Background(), dir, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func appendForEver(ctx context.Context, dir string, w io.Writer) error {
	l, err := Open(ctx, dir, origin, key, Options{})
	if err != nil {
		return err
	}
	var mu sync.Mutex
	say := func(what string, b []byte) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(w, "%s %x\n", what, b)
	}
	for range 4 {
		go func() {
			for n := uint64(0); ; n++ {
				p, err := l.Append(ctx, leaf(n))
				if err != nil {
					panic(err)
				}
				say("p", p.Encode())
			}
		}()
	}
	for b := range l.Checkpoints(ctx) {
		say("c", b)
	}
	return nil
}

func BenchmarkAppend(b *testing.B) {
	l := open(b, b.TempDir())
	var n uint64
	for b.Loop() {
		appendLeaf(b, l, n)
		n++
	}
}

func BenchmarkAppendTenWriters(b *testing.B) {
	l := open(b, b.TempDir())
	b.SetParallelism(5) // times two cores
	var n atomic.Uint64
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			appendLeaf(b, l, n.Add(1))
		}
	})
}

// BenchmarkCheckpoint is the time from a promise to the checkpoint that covers it.
func BenchmarkCheckpoint(b *testing.B) {
	l := open(b, b.TempDir())
	for b.Loop() {
		p := appendLeaf(b, l, 1)
		await(b, l, p.Promise.Index+1)
	}
}
