package aggregate

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
)

// Secrets of 32 bytes are shared as five limbs of seven bytes over the field of 2^61 - 1 (Shamir, "How
// to share a secret", 1979). Nothing here branches or indexes on a secret.
const (
	fieldPrime = 1<<61 - 1
	limbs      = 5
	shareBytes = 8 * limbs
)

// share is one value of the five polynomials of a secret.
type share [limbs]uint64

func (s share) append(b []byte) []byte {
	for _, v := range s {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

// parseShare reads what append wrote; a limb outside the field is refused.
func parseShare(b []byte) (share, error) {
	var s share
	if len(b) != shareBytes {
		return s, fmt.Errorf("share of %d bytes, want %d", len(b), shareBytes)
	}
	for i := range s {
		if s[i] = binary.LittleEndian.Uint64(b[8*i:]); s[i] >= fieldPrime {
			return share{}, fmt.Errorf("limb %d of a share is outside the field", i)
		}
	}
	return s, nil
}

// split shares secret so that any t of the points 1 to n restore it and t-1 say nothing about it.
func split(secret [32]byte, t, n int, entropy io.Reader) ([]share, error) {
	coefficients := make([]share, t)
	defer clear(coefficients)
	coefficients[0] = toLimbs(secret)
	if err := fillField(coefficients[1:], entropy); err != nil {
		return nil, fmt.Errorf("sharing a secret: %w", err)
	}
	shares := make([]share, n)
	for i := range shares {
		x := uint64(i + 1)
		for k := t - 1; k >= 0; k-- {
			for l := range shares[i] {
				shares[i][l] = addField(mulField(shares[i][l], x), coefficients[k][l])
			}
		}
	}
	return shares, nil
}

// fillField draws uniform field elements: 61 bits each, drawn again in the one case of 2^61 that lies outside.
func fillField(dst []share, entropy io.Reader) error {
	b := make([]byte, shareBytes*len(dst))
	defer clear(b)
	if _, err := io.ReadFull(entropy, b); err != nil {
		return err
	}
	for i := range dst {
		for l := range dst[i] {
			v := binary.LittleEndian.Uint64(b[shareBytes*i+8*l:]) & fieldPrime
			for v == fieldPrime {
				var again [8]byte
				if _, err := io.ReadFull(entropy, again[:]); err != nil {
					return err
				}
				v = binary.LittleEndian.Uint64(again[:]) & fieldPrime
			}
			dst[i][l] = v
		}
	}
	return nil
}

// weights are the Lagrange coefficients at zero for distinct points: public numbers.
func weights(points []uint64) []uint64 {
	w := make([]uint64, len(points))
	for i, x := range points {
		numerator, denominator := uint64(1), uint64(1)
		for j, y := range points {
			if i != j {
				numerator = mulField(numerator, y)
				denominator = mulField(denominator, subField(y, x))
			}
		}
		w[i] = mulField(numerator, inverse(denominator))
	}
	return w
}

// join restores a secret from as many shares as it takes, with the weights of their points. It is
// an error if the shares are of no 32 bytes.
func join(w []uint64, shares []share) ([32]byte, error) {
	var s share
	for i := range shares {
		for l := range s {
			s[l] = addField(s[l], mulField(w[i], shares[i][l]))
		}
	}
	return fromLimbs(s)
}

func toLimbs(secret [32]byte) share {
	var padded [7*limbs + 1]byte
	defer clear(padded[:])
	copy(padded[:], secret[:])
	var s share
	for i := range s {
		s[i] = binary.LittleEndian.Uint64(padded[7*i:]) & (1<<56 - 1)
	}
	return s
}

func fromLimbs(s share) ([32]byte, error) {
	var padded [7*limbs + 1]byte
	defer clear(padded[:])
	var excess uint64
	for i, v := range s {
		excess |= v >> 56
		for k := range 7 {
			padded[7*i+k] = byte(v >> (8 * k))
		}
	}
	for _, b := range padded[32:] {
		excess |= uint64(b)
	}
	if excess != 0 { // one bit about shares that are wrong anyway
		return [32]byte{}, fmt.Errorf("shares are of no 32 bytes")
	}
	return [32]byte(padded[:32]), nil
}

func addField(a, b uint64) uint64 { return reduce(a + b) }
func subField(a, b uint64) uint64 { return reduce(a + fieldPrime - b) }

func mulField(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	s := lo&fieldPrime + (hi<<3 | lo>>61)
	return reduce(s&fieldPrime + s>>61)
}

// reduce brings a number below 2·(2^61 - 1) into the field.
func reduce(s uint64) uint64 {
	s -= fieldPrime
	return s + fieldPrime&-(s>>63)
}

// inverse is a^(p-2); the exponent is public.
func inverse(a uint64) uint64 {
	r := uint64(1)
	for e := uint64(fieldPrime - 2); e > 0; e >>= 1 {
		if e&1 == 1 {
			r = mulField(r, a)
		}
		a = mulField(a, a)
	}
	return r
}
