package transport

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/attest/channel"
	"github.com/consilium-fl/consilium/internal/policy"
)

type (
	policyPeer    = policy.Peer
	policyTarget  = policy.Target
	policyRequest = policy.Request
)

// pattern is n bytes in which no two chunks are alike.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i ^ i>>8 ^ i>>16)
	}
	return b
}

func TestUploadSendsWhatIsMissing(t *testing.T) {
	w := newWorld(t)
	words := pattern(5*aggregate.ChunkBytes + 17)
	w.whole = 6
	_, dial := w.serve(later(), nil)
	v := Vector{Study: heart, Round: 9, Roster: breast}
	w.chunks[v] = map[uint32][]byte{
		1: words[aggregate.ChunkBytes : 2*aggregate.ChunkBytes],
		4: words[4*aggregate.ChunkBytes : 5*aggregate.ChunkBytes],
	}
	var read []int64
	r := readerAt(func(b []byte, off int64) (int, error) {
		read = append(read, off/aggregate.ChunkBytes)
		return copy(b, words[off:]), nil
	})
	var sent []int64
	if err := dial(heart).Upload(t.Context(), v, r, int64(len(words)), func(n int64) { sent = append(sent, n) }); err != nil {
		t.Fatal(err)
	}
	if want := []int64{0, 2, 3, 5}; !slices.Equal(read, want) {
		t.Errorf("sent chunks %v, want %v", read, want)
	}
	if sent[len(sent)-1] != int64(len(words)) || !slices.IsSorted(sent) {
		t.Errorf("progress %v", sent)
	}
	var got []byte
	for i := range uint32(6) {
		got = append(got, w.chunks[v][i]...)
	}
	if !bytes.Equal(got, words) {
		t.Error("what is stored is not what was sent")
	}
}

type readerAt func([]byte, int64) (int, error)

func (f readerAt) ReadAt(b []byte, off int64) (int, error) { return f(b, off) }

func TestUploadGoesOnAfterACut(t *testing.T) {
	w := newWorld(t)
	words := pattern(4 * aggregate.ChunkBytes)
	w.whole = 4
	_, dial := w.serve(later(), nil)
	c := dial(heart)
	v := Vector{Study: heart, Round: 9, Roster: breast}
	broken := errors.New("disk on fire")
	err := c.Upload(t.Context(), v, readerAt(func(b []byte, off int64) (int, error) {
		if off >= 2*aggregate.ChunkBytes {
			return 0, broken
		}
		return copy(b, words[off:]), nil
	}), int64(len(words)), nil)
	if !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
	if err := c.Upload(t.Context(), v, bytes.NewReader(words), int64(len(words)), nil); err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.chunks[v]) != 4 {
		t.Errorf("%d chunks are held", len(w.chunks[v]))
	}
}

func TestUploadToACoordinatorThatLoses(t *testing.T) {
	w := newWorld(t)
	w.whole = 2 // of one chunk: it has that, and says it lacks something
	_, dial := w.serve(later(), nil)
	err := dial(heart).Upload(t.Context(), Vector{Study: heart, Round: 1, Roster: heart}, bytes.NewReader([]byte("abcd")), 4, nil)
	if !errors.Is(err, ErrInternal) || len(w.decisions) != 1 {
		t.Errorf("got %v after %d tries", err, len(w.decisions))
	}
}

func TestDownload(t *testing.T) {
	w := newWorld(t)
	w.model = pattern(3*pieceBytes + 5)
	digest := sha256.Sum256(w.model)
	_, dial := w.serve(later(), nil)
	c := dial(heart)
	for _, cut := range []int{0, 1, pieceBytes + 1, 3 * pieceBytes} {
		w.cutAt = cut
		b, err := c.Download(t.Context(), heart, digest)
		if cut == 1 { // brought less than a message: nothing to go on with
			if !errors.Is(err, ErrUnreachable) {
				t.Errorf("cut at %d: %v", cut, err)
			}
			continue
		}
		if err != nil || !bytes.Equal(b, w.model) {
			t.Errorf("cut at %d: %d bytes, %v", cut, len(b), err)
		}
	}
	if b, err := c.DownloadModel(t.Context(), heart); err != nil || !bytes.Equal(b, w.model) {
		t.Errorf("released model: %d bytes, %v", len(b), err)
	}
	w.model[7] ^= 1
	if _, err := c.Download(t.Context(), heart, digest); !errors.Is(err, ErrBadInput) {
		t.Errorf("another model than asked for: %v", err)
	}
}

func TestReceiptFiles(t *testing.T) {
	w := newWorld(t)
	w.files = map[string][]byte{"receipt.json": []byte("{}"), "log/tile/0/000": pattern(2*pieceBytes + 1), "empty": nil}
	w.paths = []string{"receipt.json", "empty", "log/tile/0/000"}
	_, dial := w.serve(later(), nil)
	got := map[string][]byte{}
	if err := dial(heart).GetReceipt(t.Context(), heart, func(p string, b []byte) error { got[p] = b; return nil }); err != nil {
		t.Fatal(err)
	}
	for p, b := range w.files {
		if g, ok := got[p]; !ok || !bytes.Equal(g, b) {
			t.Errorf("%s: %d bytes, want %d", p, len(g), len(b))
		}
	}
}

// TestReceiptPaths: a coordinator cannot write outside the folder, nor over a file it sent.
func TestReceiptPaths(t *testing.T) {
	none := func(string, []byte) error { return nil }
	for _, p := range []string{"", ".", "/etc/passwd", "../x", "a/../b", "a//b", "a/", `a\b`, "c:x", "a\x00b", "a\nb", strings.Repeat("a", maxName+1)} {
		f := files{take: none, seen: map[string]bool{}}
		if err := f.add(p, nil); !errors.Is(err, ErrBadInput) {
			t.Errorf("path %q: %v", p, err)
		}
	}
	f := files{take: none, seen: map[string]bool{}}
	if err := errors.Join(f.add("a", nil), f.add("b", nil)); err != nil {
		t.Fatal(err)
	}
	if err := f.add("a", nil); !errors.Is(err, ErrBadInput) {
		t.Errorf("a file sent twice: %v", err)
	}
	f = files{take: none, seen: map[string]bool{}}
	piece := make([]byte, 32<<20)
	if err := errors.Join(f.add("a", piece), f.add("a", piece)); err != nil {
		t.Fatal(err)
	}
	if err := f.add("a", piece[:1]); !errors.Is(err, ErrBadInput) {
		t.Errorf("a file without end: %v", err)
	}
}

func TestFollowAndWatch(t *testing.T) {
	w := newWorld(t)
	_, dial := w.serve(later(), nil)
	c := dial(heart)
	var item FollowItem
	if err := c.Follow(t.Context(), Position{Study: heart, Cursor: 6, Boot: [16]byte{1}}, func(i FollowItem) error { item = i; return nil }); err != nil {
		t.Fatal(err)
	}
	if item.Sequence != 7 || string(item.Epoch) != "e" || item.Message == nil || item.Message.Kind != "plan" || len(item.Promises) != 1 || string(item.Checkpoint) != "c" {
		t.Errorf("got %+v", item)
	}
	enough := errors.New("enough")
	if err := c.Follow(t.Context(), Position{Study: heart, Boot: [16]byte{1}}, func(FollowItem) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
	if err := c.Follow(t.Context(), Position{Study: heart}, nil); !errors.Is(err, ErrBadInput) {
		t.Errorf("without boot: %v", err)
	}
	var event WatchEvent
	if err := c.WatchStudy(t.Context(), heart, 3, func(e WatchEvent) error { event = e; return nil }); err != nil {
		t.Fatal(err)
	}
	if event.Sequence != 4 || event.Round != 2 || !event.Time.Equal(time.Unix(1, 5)) || event.Text != "a [31mb" {
		t.Errorf("got %+v", event)
	}
}

func TestErrorsCrossTheWire(t *testing.T) {
	w := newWorld(t)
	_, dial := w.serve(later(), nil)
	c := dial(heart)
	for _, x := range []struct {
		err  error
		want error
		text string
	}{
		{fmt.Errorf("round 3: %w", ErrTooLate), ErrTooLate, "round 3"},
		{fmt.Errorf("study: %w", ErrNotFound), ErrNotFound, "study"},
		{fmt.Errorf("vector: %w", ErrConflict), ErrConflict, "vector"},
		{fmt.Errorf("line 3: %w", ErrBadInput), ErrBadInput, "line 3"},
		{fmt.Errorf("log: %w", ErrUnreachable), ErrUnreachable, "log"},
		{errors.New("opening /secret/place: no"), ErrInternal, "internal error"},
		{&fs.PathError{Op: "open", Path: "/secret/place", Err: fs.ErrNotExist}, ErrNotFound, ""},
		{context.DeadlineExceeded, context.DeadlineExceeded, ""},
	} {
		w.handle = func(context.Context, string) error { return x.err }
		err := c.Send(t.Context(), heart, aggregate.Signed{})
		if !errors.Is(err, x.want) || !strings.Contains(err.Error(), x.text) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%v came as %v", x.err, err)
		}
		err = c.Follow(t.Context(), Position{Study: heart, Boot: [16]byte{1}}, nil)
		if !errors.Is(err, x.want) {
			t.Errorf("%v came by a stream as %v", x.err, err)
		}
	}
	w.handle = func(context.Context, string) error {
		return &Refused{Reasons: []string{"no budget", "no\x1b[2J consent"}}
	}
	err := c.Send(t.Context(), heart, aggregate.Signed{})
	if r, ok := errors.AsType[*Refused](err); !ok || !slices.Equal(r.Reasons, []string{"no budget", "no [2J consent"}) {
		t.Errorf("got %v", err)
	}
	w.handle = nil
	_, err = c.LogReader(heart).Read(t.Context(), "absent")
	if !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, ErrNotFound) || strings.Contains(err.Error(), "secret") {
		t.Errorf("reading what is not there: %v", err)
	}
	if b, err := c.LogReader([32]byte{}).Read(t.Context(), "tile/0/000"); err != nil || string(b) != "tile/0/000" {
		t.Errorf("got %q, %v", b, err)
	}
	if _, err := c.LogReader(heart).Read(t.Context(), "../key"); !errors.Is(err, ErrBadInput) {
		t.Errorf("reading beside the log: %v", err)
	}
}

// TestRefusedHandshake: a refusal by attestation is told from a coordinator that is not there.
func TestRefusedHandshake(t *testing.T) {
	w := newWorld(t)
	no := errors.New("measurement")
	verdict := make(chan error, 8)
	_, dial := w.serve(later(), func() error { return <-verdict })
	c := dial(heart)
	verdict <- no
	err := c.Send(t.Context(), heart, aggregate.Signed{})
	r, ok := errors.AsType[*Refused](err)
	if !ok || len(r.Reasons) != 1 || !strings.Contains(r.Reasons[0], "measurement") {
		t.Fatalf("got %v", err)
	}
	if _, ok := errors.AsType[*channel.Refused](err); !ok {
		t.Errorf("the channel's reasons are lost: %v", err)
	}
	verdict <- nil
	for err = ErrUnreachable; err != nil; { // until the backoff is over
		if err = c.Send(t.Context(), heart, aggregate.Signed{}); err != nil && !isRefused(err) {
			t.Fatal(err)
		}
	}
	nobody, err := Dial("127.0.0.1:1", &admitted{TransportCredentials: c.creds})
	if err != nil {
		t.Fatal(err)
	}
	defer nobody.Close()
	if err := nobody.Send(t.Context(), heart, aggregate.Signed{}); !errors.Is(err, ErrUnreachable) || isRefused(err) {
		t.Errorf("nobody there: %v", err)
	}
	if _, err := Dial("no port", c.creds); !errors.Is(err, ErrBadInput) {
		t.Errorf("target without a port: %v", err)
	}
}

// TestReattest: a session that is over costs one error; the next call has a new one.
func TestReattest(t *testing.T) {
	w := newWorld(t)
	handshakes := 0
	s, dial := w.serve(later(), func() error { handshakes++; return nil })
	c := dial(heart)
	if err := c.Send(t.Context(), heart, aggregate.Signed{}); err != nil {
		t.Fatal(err)
	}
	now := s.now
	s.now = func() time.Time { return time.Unix(math.MaxInt32, 0) }
	if err := c.Send(t.Context(), heart, aggregate.Signed{}); !errors.Is(err, ErrSessionOver) {
		t.Fatalf("got %v", err)
	}
	s.now = now
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for err := ErrUnreachable; err != nil && ctx.Err() == nil; {
		err = c.Send(ctx, heart, aggregate.Signed{})
	}
	if handshakes != 2 {
		t.Errorf("%d handshakes, want 2", handshakes)
	}
}

func FuzzCheckPath(f *testing.F) {
	for _, s := range []string{"a/b", "../a", "/a", "a\\b", "."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, p string) {
		if checkPath(p) == nil && (!fs.ValidPath(p) || strings.Contains(p, "..") && slices.Contains(strings.Split(p, "/"), "..")) {
			t.Fatalf("%q leaves its folder", p)
		}
	})
}
