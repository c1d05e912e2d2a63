package aggregate

import (
	"crypto/aes"
	"crypto/cipher"
	"testing"
)

const benchDim = 1 << 20

// BenchmarkKeystream is the floor of the mask kernel: the same keystream from the standard library, added to nothing.
func BenchmarkKeystream(b *testing.B) {
	block, err := aes.NewCipher(make([]byte, 16))
	if err != nil {
		b.Fatal(err)
	}
	s, buf := cipher.NewCTR(block, make([]byte, 16)), make([]byte, 4*stripWords)
	b.SetBytes(4 * benchDim)
	for b.Loop() {
		for range benchDim / stripWords {
			s.XORKeyStream(buf, buf)
		}
	}
}

func benchStreams(n int) []stream {
	streams := make([]stream, n)
	for i := range streams {
		streams[i] = stream{key: [16]byte{byte(i)}, minus: i%2 == 1}
	}
	return streams
}

// BenchmarkMask masks 2^20 words of 32 bits for 10 members: ten streams; MB/s are of keystream.
func BenchmarkMask(b *testing.B) {
	x, dst := make([]int64, 64<<10), make([]byte, 4*64<<10)
	b.SetBytes(10 * 4 * benchDim)
	for b.Loop() {
		k := masker{dim: benchDim, wordBits: 32, streams: benchStreams(10)}
		for offset := 0; offset < benchDim; offset += len(x) {
			if err := k.mask(dst, offset, x); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkAdd adds one member's 2^20 masked words of 32 bits to the sum.
func BenchmarkAdd(b *testing.B) {
	acc, words := make([]uint64, benchDim), make([]byte, 4*benchDim)
	b.SetBytes(4 * benchDim)
	for b.Loop() {
		addWords(acc, words, 32)
	}
}

// BenchmarkUnmask removes the masks of 10 members of which one dropped: 9 seeds and 9 pairs.
func BenchmarkUnmask(b *testing.B) {
	acc := make([]uint64, benchDim)
	b.SetBytes(18 * 4 * benchDim)
	for b.Loop() {
		addStreams(acc, 0, 32, benchStreams(18))
	}
}

func BenchmarkSplit(b *testing.B) {
	entropy := drbg("split")
	for b.Loop() {
		if _, err := split([32]byte{1}, 67, 100, entropy); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkJoin(b *testing.B) {
	shares, err := split([32]byte{1}, 67, 100, drbg("join"))
	if err != nil {
		b.Fatal(err)
	}
	points := make([]uint64, 67)
	for i := range points {
		points[i] = uint64(i + 1)
	}
	for b.Loop() {
		if _, err := join(weights(points), shares[:67]); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRound is a whole round of 10 members and 14 words in one goroutine, without a network or a disk.
func BenchmarkRound(b *testing.B) {
	for b.Loop() {
		w := newWorld(b, names(10), 32, Members)
		w.run()
		if w.results[""].Outcome != Closed {
			b.Fatal(w.results[""].Why)
		}
	}
}
