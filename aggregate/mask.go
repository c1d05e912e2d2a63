package aggregate

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
)

// stripWords is how many words one keystream pads before the next keystream takes its turn, so that
// the words and the keystream stay in the first-level cache however many peers there are.
const stripWords = 2048

// stream is the mask of one key, added or subtracted.
type stream struct {
	key   [16]byte
	minus bool
}

// laneBytes is how much keystream a word takes: 24-bit words are cut from 32-bit lanes, since 2^24 divides 2^32.
func laneBytes(wordBits uint8) int {
	if wordBits == 64 {
		return 8
	}
	return 4
}

// keystream is AES-128-CTR from the lane of a word on: the counter is the lane's offset in bytes / 16.
// Were it the word's offset, chunks of 64-bit words would overlap and cancel within one upload.
func keystream(key [16]byte, word int, wordBits uint8) cipher.Stream {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic("aggregate: AES takes 16 bytes: " + err.Error())
	}
	offset := uint64(word) * uint64(laneBytes(wordBits))
	var counter [16]byte
	binary.BigEndian.PutUint64(counter[8:], offset/16)
	s := cipher.NewCTR(block, counter[:])
	if skip := offset % 16; skip > 0 {
		var lost [16]byte
		s.XORKeyStream(lost[:skip], lost[:skip])
	}
	return s
}

// addStreams adds every stream's lanes to acc, which stands at a word offset, modulo 2^64; whoever
// cuts the words to WordBits gets them modulo that.
func addStreams(acc []uint64, offset int, wordBits uint8, streams []stream) {
	open := make([]cipher.Stream, len(streams))
	for i, s := range streams {
		open[i] = keystream(s.key, offset, wordBits)
	}
	lane := laneBytes(wordBits)
	buf := make([]byte, stripWords*lane)
	for start := 0; start < len(acc); start += stripWords {
		strip := acc[start:min(start+stripWords, len(acc))]
		for i, s := range open {
			ks := buf[:len(strip)*lane]
			clear(ks)
			s.XORKeyStream(ks, ks)
			addLanes(strip, ks, lane, streams[i].minus)
		}
	}
	clear(buf)
}

func addLanes(acc []uint64, ks []byte, lane int, minus bool) {
	switch {
	case lane == 4 && minus:
		sub32(acc, ks)
	case lane == 4:
		add32(acc, ks)
	case minus:
		sub64(acc, ks)
	default:
		add64(acc, ks)
	}
}

// add32 and the three below are the loops that every masked word passes once for each peer. The array
// pointers are for the compiler: no bound is checked inside.
func add32(acc []uint64, ks []byte) {
	for len(acc) >= 8 && len(ks) >= 32 {
		a, k := (*[8]uint64)(acc), (*[32]byte)(ks)
		a[0] += uint64(binary.LittleEndian.Uint32(k[0:4]))
		a[1] += uint64(binary.LittleEndian.Uint32(k[4:8]))
		a[2] += uint64(binary.LittleEndian.Uint32(k[8:12]))
		a[3] += uint64(binary.LittleEndian.Uint32(k[12:16]))
		a[4] += uint64(binary.LittleEndian.Uint32(k[16:20]))
		a[5] += uint64(binary.LittleEndian.Uint32(k[20:24]))
		a[6] += uint64(binary.LittleEndian.Uint32(k[24:28]))
		a[7] += uint64(binary.LittleEndian.Uint32(k[28:32]))
		acc, ks = acc[8:], ks[32:]
	}
	for i := range acc {
		acc[i] += uint64(binary.LittleEndian.Uint32(ks[4*i:]))
	}
}

func sub32(acc []uint64, ks []byte) {
	for len(acc) >= 8 && len(ks) >= 32 {
		a, k := (*[8]uint64)(acc), (*[32]byte)(ks)
		a[0] -= uint64(binary.LittleEndian.Uint32(k[0:4]))
		a[1] -= uint64(binary.LittleEndian.Uint32(k[4:8]))
		a[2] -= uint64(binary.LittleEndian.Uint32(k[8:12]))
		a[3] -= uint64(binary.LittleEndian.Uint32(k[12:16]))
		a[4] -= uint64(binary.LittleEndian.Uint32(k[16:20]))
		a[5] -= uint64(binary.LittleEndian.Uint32(k[20:24]))
		a[6] -= uint64(binary.LittleEndian.Uint32(k[24:28]))
		a[7] -= uint64(binary.LittleEndian.Uint32(k[28:32]))
		acc, ks = acc[8:], ks[32:]
	}
	for i := range acc {
		acc[i] -= uint64(binary.LittleEndian.Uint32(ks[4*i:]))
	}
}

func add64(acc []uint64, ks []byte) {
	for len(acc) >= 4 && len(ks) >= 32 {
		a, k := (*[4]uint64)(acc), (*[32]byte)(ks)
		a[0] += binary.LittleEndian.Uint64(k[0:8])
		a[1] += binary.LittleEndian.Uint64(k[8:16])
		a[2] += binary.LittleEndian.Uint64(k[16:24])
		a[3] += binary.LittleEndian.Uint64(k[24:32])
		acc, ks = acc[4:], ks[32:]
	}
	for i := range acc {
		acc[i] += binary.LittleEndian.Uint64(ks[8*i:])
	}
}

func sub64(acc []uint64, ks []byte) {
	for len(acc) >= 4 && len(ks) >= 32 {
		a, k := (*[4]uint64)(acc), (*[32]byte)(ks)
		a[0] -= binary.LittleEndian.Uint64(k[0:8])
		a[1] -= binary.LittleEndian.Uint64(k[8:16])
		a[2] -= binary.LittleEndian.Uint64(k[16:24])
		a[3] -= binary.LittleEndian.Uint64(k[24:32])
		acc, ks = acc[4:], ks[32:]
	}
	for i := range acc {
		acc[i] -= binary.LittleEndian.Uint64(ks[8*i:])
	}
}

// putWords writes the low WordBits of each word, little endian.
func putWords(dst []byte, words []uint64, wordBits uint8) {
	switch wordBits {
	case 24:
		for i, w := range words {
			dst[3*i], dst[3*i+1], dst[3*i+2] = byte(w), byte(w>>8), byte(w>>16)
		}
	case 32:
		for i, w := range words {
			binary.LittleEndian.PutUint32(dst[4*i:], uint32(w))
		}
	default:
		for i, w := range words {
			binary.LittleEndian.PutUint64(dst[8*i:], w)
		}
	}
}

// addWords adds the words that putWords wrote.
func addWords(acc []uint64, words []byte, wordBits uint8) {
	switch wordBits {
	case 24:
		for i := range acc {
			w := words[3*i : 3*i+3]
			acc[i] += uint64(w[0]) | uint64(w[1])<<8 | uint64(w[2])<<16
		}
	case 32:
		add32(acc, words)
	default:
		add64(acc, words)
	}
}

// masker is a member's one pass over its vector: what is behind it cannot be masked again, since two
// vectors under one mask give away their difference.
type masker struct {
	dim      int
	wordBits uint8
	streams  []stream
	noise    Noiser // nil under central noise
	next     int
}

func (k *masker) mask(dst []byte, offset int, x []int64) error {
	width := int(k.wordBits) / 8
	switch {
	case len(k.streams) == 0:
		return fmt.Errorf("masking from word %d: the masks are erased", offset)
	case offset != k.next:
		return fmt.Errorf("masking from word %d: want word %d, each once and in order", offset, k.next)
	case len(x) > k.dim-offset:
		return fmt.Errorf("masking %d words from word %d: want at most %d", len(x), offset, k.dim-offset)
	case len(dst) != len(x)*width:
		return fmt.Errorf("masking %d words: destination of %d bytes, want %d", len(x), len(dst), len(x)*width)
	}
	// What comes next is behind us even if it fails: a noise source that stopped halfway gets no second call.
	k.next += len(x)
	words := make([]uint64, len(x))
	defer clear(words)
	if err := k.addNoise(words); err != nil {
		k.next = k.dim + 1
		return fmt.Errorf("masking from word %d: adding noise: %w", offset, err)
	}
	for i, v := range x {
		words[i] += uint64(v)
	}
	addStreams(words, offset, k.wordBits, k.streams)
	putWords(dst, words, k.wordBits)
	return nil
}

func (k *masker) addNoise(words []uint64) error {
	if k.noise == nil {
		return nil
	}
	return addNoise(words, k.noise)
}

func addNoise(words []uint64, n Noiser) error {
	samples := make([]int64, min(len(words), stripWords))
	defer clear(samples)
	for start := 0; start < len(words); start += stripWords {
		strip := words[start:min(start+stripWords, len(words))]
		if err := n.Fill(samples[:len(strip)]); err != nil {
			return err
		}
		for i := range strip {
			strip[i] += uint64(samples[i])
		}
	}
	return nil
}

func (k *masker) whole() bool { return len(k.streams) > 0 && k.next == k.dim }

func (k *masker) erase() {
	clear(k.streams)
	*k = masker{}
}
