package dp

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"math/bits"
)

// Sampler draws round(N(0, σ²)) for an integer σ, exactly: the law of every output is the rounded
// Gaussian's own, not an approximation of it. It is algorithm N of C. F. F. Karney, "Sampling
// exactly from the normal distribution" (ACM TOMS 42, 2016; arXiv 1303.6257): a uniform number is a
// string of digits drawn when a comparison first asks for them, so that comparisons are exact, and
// the normal deviate comes out as sign, integer part k and a fraction x of which some digits are
// known. Here it is scaled by σ and further digits are drawn until one integer is left. No float
// takes part.
//
// Randomness is AES-256 in counter mode, so a key stands for one vector, the same on every machine;
// how the calls to Fill cut it does not matter. A Sampler is for one goroutine.
type Sampler struct {
	stream cipher.Stream
	sigma  uint64
	buf    []byte // stream output
	next   int    // first unused byte of buf
}

// streamBuffer is how much of the key stream is made at a time, in bytes; a multiple of 8.
const streamBuffer = 4096

// Keyed makes the sampler of one draw of m per coordinate. One key serves one vector: the same key
// gives the same noise again.
func (m Mechanism) Keyed(key [32]byte) *Sampler {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic("dp: AES takes every key of 32 bytes: " + err.Error())
	}
	return &Sampler{
		stream: cipher.NewCTR(block, make([]byte, aes.BlockSize)), //nolint:gosec // the counter starts at zero because a key makes one stream
		sigma:  uint64(m.sigma),
		buf:    make([]byte, streamBuffer),
		next:   streamBuffer,
	}
}

// Fill writes the next len(dst) samples, in grid units. It fails only for the zero Mechanism.
func (s *Sampler) Fill(dst []int64) error {
	if s.sigma == 0 {
		return errors.New("drawing noise: the mechanism has no sigma")
	}
	for i := range dst {
		dst[i] = s.draw()
	}
	return nil
}

// word is the next digit, uniform on [0, 2^64).
func (s *Sampler) word() uint64 {
	if s.next == len(s.buf) {
		clear(s.buf)
		s.stream.XORKeyStream(s.buf, s.buf)
		s.next = 0
	}
	w := binary.LittleEndian.Uint64(s.buf[s.next:])
	s.next += 8
	return w
}

// below is uniform on [0, n), n > 0 (Lemire 2019, with the rejection that makes it exact).
func (s *Sampler) below(n uint64) uint64 {
	for {
		hi, lo := bits.Mul64(s.word(), n)
		if lo >= n || lo >= -n%n {
			return hi
		}
	}
}

// uniform is a number in (0, 1) in base 2^64, of which only the digits asked for so far exist.
type uniform struct {
	head uint64
	tail []uint64 // all but always empty
}

func (s *Sampler) uniform() uniform { return uniform{head: s.word()} }

// less tells whether a < b, drawing digits of both while they agree.
func (s *Sampler) less(a, b *uniform) bool {
	if a.head != b.head {
		return a.head < b.head
	}
	return s.lessTail(a, b)
}

func (s *Sampler) lessTail(a, b *uniform) bool {
	for i := 0; ; i++ {
		if x, y := s.digit(a, i), s.digit(b, i); x != y {
			return x < y
		}
	}
}

// digit is digit i of u after the head.
func (s *Sampler) digit(u *uniform, i int) uint64 {
	for len(u.tail) <= i {
		u.tail = append(u.tail, s.word())
	}
	return u.tail[i]
}

// draw is one rounded Gaussian: Karney's algorithm N, then the rounding.
func (s *Sampler) draw() int64 {
	for {
		k := s.geometric()
		if !s.damp(k) {
			continue
		}
		x := s.uniform()
		if !s.accept(k, &x) {
			continue
		}
		// k would have to pass 2^22 to overflow, with a probability under e^(-2^43).
		v := int64(s.sigma*k + s.scale(&x))
		if s.word()&1 != 0 {
			return -v
		}
		return v
	}
}

// geometric is k with probability e^(-k/2)·(1 - e^(-1/2)): steps G of the paper.
func (s *Sampler) geometric() uint64 {
	k := uint64(0)
	for s.half() {
		k++
	}
	return k
}

// damp is true with probability e^(-k(k-1)/2): step P.
func (s *Sampler) damp(k uint64) bool {
	if k < 2 {
		return true
	}
	for range k * (k - 1) {
		if !s.half() {
			return false
		}
	}
	return true
}

// half is true with probability e^(-1/2): step H. Of a run 1/2 > U1 > U2 > … the length is at least
// n with probability 2^-n/n!, so it is even with probability e^(-1/2) (von Neumann 1951).
func (s *Sampler) half() bool {
	z := s.uniform()
	if z.head >= 1<<63 {
		return true
	}
	for even := false; ; even = !even {
		y := z
		z = s.uniform()
		if !s.less(&z, &y) {
			return even
		}
	}
}

// accept is true with probability exp(-x(2k+x)/2), as k+1 tries of step B.
func (s *Sampler) accept(k uint64, x *uniform) bool {
	for range k + 1 {
		if !s.try(k, x) {
			return false
		}
	}
	return true
}

// try is true with probability exp(-x(2k+x)/(2k+2)): step B. The run x > U1 > U2 > … goes on at
// each member only with probability (2k+x)/(2k+2) as well.
func (s *Sampler) try(k uint64, x *uniform) bool {
	z := s.uniform()
	if !s.less(&z, x) || !s.fraction(k, x) {
		return true
	}
	for even := false; ; even = !even {
		y := z
		z = s.uniform()
		if !s.less(&z, &y) || !s.fraction(k, x) {
			return even
		}
	}
}

// fraction is true with probability (2k+x)/(2k+2): step T.
func (s *Sampler) fraction(k uint64, x *uniform) bool {
	switch c := s.below(2*k + 2); {
	case c < 2*k:
		return true
	case c == 2*k:
		r := s.uniform()
		return s.less(&r, x)
	default:
		return false
	}
}

// scale is round(σ·x), half up. With h the head of x, σ·x lies in [σh, σ(h+1)) / 2^64. At most one
// half-integer lies inside, σ being at most 2^40, and only then do further digits decide.
func (s *Sampler) scale(x *uniform) uint64 {
	const half = 1 << 63
	whole, rest := bits.Mul64(s.sigma, x.head)
	switch {
	case rest >= half:
		return whole + 1
	case half-rest >= s.sigma: // rest + σ·t < half for every tail t < 1
		return whole
	case s.tailReaches(x, half-rest):
		return whole + 1
	default:
		return whole
	}
}

// tailReaches tells whether the tail t of x, a number in [0, 1), is at least p/σ, 0 < p < σ. It
// compares digit by digit with the expansion of p/σ in base 2^64, drawing as it goes. A tie that
// the expansion ends in is reached.
func (s *Sampler) tailReaches(x *uniform, p uint64) bool {
	for i := 0; p > 0; i++ {
		var want uint64
		want, p = bits.Div64(p, 0, s.sigma)
		if got := s.digit(x, i); got != want {
			return got > want
		}
	}
	return true
}
