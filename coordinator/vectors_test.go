package coordinator

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/internal/transport"
)

func testVectors(t *testing.T, dir string, dim int, bits uint8) *vectors {
	t.Helper()
	v, err := openVectors(dir, aggregate.Plan{Round: aggregate.RoundID{Number: 3}, Dim: dim, WordBits: bits}, [32]byte{1}, []aggregate.MemberID{"a", "b"})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func words(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// put sends the chunks of b that are named.
func put(t *testing.T, v *vectors, m aggregate.MemberID, b []byte, chunks ...int) {
	t.Helper()
	for _, i := range chunks {
		from := i * aggregate.ChunkBytes
		if err := v.put(m, 3, [32]byte{1}, uint32(i), b[from:min(len(b), from+aggregate.ChunkBytes)]); err != nil {
			t.Fatal(err)
		}
	}
}

// A vector is resumed by chunk within a process; the next process takes over whole vectors alone.
func TestVectorsResume(t *testing.T) {
	dir := t.TempDir()
	const dim = 200_000 // 800 kB: four chunks, the last shorter
	v := testVectors(t, dir, dim, 32)
	b := words(4 * dim)
	put(t, v, "a", b, 3, 0)
	if held, whole, err := v.heldOf("a", 3, [32]byte{1}); err != nil || whole || held[0] != 0b1001 {
		t.Fatalf("held %04b, whole %v, %v, want chunks 0 and 3", held, whole, err)
	}
	put(t, v, "a", b, 0) // the same again is nothing
	put(t, v, "a", b, 1, 2)
	put(t, v, "b", b, 0)
	v.close()
	v = testVectors(t, dir, dim, 32)
	if _, whole, _ := v.heldOf("a", 3, [32]byte{1}); !whole {
		t.Error("a whole vector did not outlive the process")
	}
	if held, _, _ := v.heldOf("b", 3, [32]byte{1}); held[0] != 0 {
		t.Errorf("held %04b of a vector that was not whole, want none", held)
	}
	put(t, v, "a", b, 2) // whole, and the same words
	want, err := aggregate.VectorDigest(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if err := v.check("a", want); err != nil {
		t.Errorf("the vector that was sent: %v", err)
	}
	if err := v.check("a", [32]byte{9}); !errors.Is(err, errVector) {
		t.Errorf("another digest: got %v, want errVector", err)
	}
	if held, whole, _ := v.heldOf("a", 3, [32]byte{1}); whole || held[0] != 0 {
		t.Errorf("a vector that differs is still held: %04b", held)
	}
}

// Words of the round before, and a vector that was being written when the power went, count for nothing.
func TestVectorsOverwrite(t *testing.T) {
	dir := t.TempDir()
	const dim = 100_000 // two chunks
	b := words(4 * dim)
	v := testVectors(t, dir, dim, 32)
	put(t, v, "a", b, 0, 1)
	v.close()
	next, err := openVectors(dir, aggregate.Plan{Round: aggregate.RoundID{Number: 4}, Dim: dim, WordBits: 32}, [32]byte{2}, []aggregate.MemberID{"a"})
	if err != nil {
		t.Fatal(err)
	}
	if held, whole, _ := next.heldOf("a", 4, [32]byte{2}); whole || held[0] != 0 {
		t.Errorf("the next round holds %02b of the vector of the round before", held)
	}
	if err := next.put("a", 4, [32]byte{2}, 1, b[aggregate.ChunkBytes:]); err != nil {
		t.Fatal(err)
	}
	next.close()
	f, err := os.ReadFile(filepath.Join(dir, "a.words"))
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{5, len(f) - trailerBytes, len(f) - 1} {
		torn := bytes.Clone(f)
		torn[at] ^= 1
		if err := os.WriteFile(filepath.Join(dir, "a.words"), torn, 0o600); err != nil {
			t.Fatal(err)
		}
		v := testVectors(t, dir, dim, 32)
		if held, whole, _ := v.heldOf("a", 3, [32]byte{1}); whole || held[0] != 0 {
			t.Errorf("with byte %d torn %02b are held", at, held)
		}
		v.close()
	}
	if err := removeWords(dir); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// A member cannot store more than its vector, nor other words in place of those that are held.
func TestVectorsRefuse(t *testing.T) {
	v := testVectors(t, t.TempDir(), 100_000, 32)
	b := words(400_000)
	put(t, v, "a", b, 0)
	flipped := bytes.Clone(b[:aggregate.ChunkBytes])
	flipped[7] ^= 1
	for name, x := range map[string]struct {
		member aggregate.MemberID
		round  uint64
		roster [32]byte
		index  uint32
		words  []byte
	}{
		"not a member":        {"c", 3, [32]byte{1}, 0, b[:aggregate.ChunkBytes]},
		"another round":       {"a", 4, [32]byte{1}, 0, b[:aggregate.ChunkBytes]},
		"another roster":      {"a", 3, [32]byte{2}, 0, b[:aggregate.ChunkBytes]},
		"past the end":        {"a", 3, [32]byte{1}, 2, b[:10]},
		"far past the end":    {"a", 3, [32]byte{1}, 1<<32 - 1, b[:10]},
		"a long last chunk":   {"a", 3, [32]byte{1}, 1, b[:aggregate.ChunkBytes]},
		"a short chunk":       {"b", 3, [32]byte{1}, 0, b[:100]},
		"none":                {"b", 3, [32]byte{1}, 0, nil},
		"other words of held": {"a", 3, [32]byte{1}, 0, flipped},
	} {
		err := v.put(x.member, x.round, x.roster, x.index, x.words)
		if err == nil || !isForeign(err) {
			t.Errorf("%s: got %v, want a refusal", name, err)
		}
	}
	v.close()
	if err := v.put("a", 3, [32]byte{1}, 1, b[aggregate.ChunkBytes:]); !errors.Is(err, transport.ErrTooLate) {
		t.Errorf("after the end: got %v, want too late", err)
	}
}

// Words of three bytes do not end where chunks do: each is still read whole, at its own offset.
func TestVectorsReadWholeWords(t *testing.T) {
	for _, bits := range []uint8{24, 32, 64} {
		const dim = 180_001
		width := int(bits / 8)
		v := testVectors(t, t.TempDir(), dim, bits)
		b := words(dim * width)
		for i := range v.chunks() {
			put(t, v, "a", b, i)
		}
		got := make([]byte, len(b))
		digest, err := aggregate.VectorDigest(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if err := v.each("a", digest, func(offset int, w []byte) error {
			if len(w)%width != 0 {
				t.Errorf("%d bits: %d bytes at word %d", bits, len(w), offset)
			}
			copy(got[offset*width:], w)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, b) {
			t.Errorf("%d bits: words differ from those that were sent", bits)
		}
		b[len(b)/2] ^= 1 // on disk, after it was compared
		if err := os.WriteFile(v.path("a"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := v.each("a", digest, func(int, []byte) error { return nil }); err == nil {
			t.Errorf("%d bits: words that changed on disk went into a sum", bits)
		}
	}
}

// FuzzPut never stores outside of a member's own vector, and never panics.
func FuzzPut(f *testing.F) {
	f.Add(uint32(0), []byte("words"), uint64(3))
	f.Add(uint32(1<<31), []byte{}, uint64(3))
	f.Fuzz(func(t *testing.T, index uint32, b []byte, round uint64) {
		v := testVectors(t, t.TempDir(), 5, 32)
		if err := v.put("a", round, [32]byte{1}, index, b); (err == nil) != (round == 3 && index == 0 && len(b) == 20) {
			t.Errorf("round %d, chunk %d of %d bytes: %v", round, index, len(b), err)
		}
	})
}
