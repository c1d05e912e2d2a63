package aggregate

import (
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"
	"fmt"
	"io"
	"math/big"
	"slices"

	"github.com/consilium-fl/consilium/internal/signed"
)

// openingBytes is the size of an MLKEM768-X25519 public key: 1184 of ML-KEM-768 and 32 of X25519.
const openingBytes = 1184 + 32

// info is one deterministic CBOR array of the named parts. Names that merely follow one another are
// ambiguous ("ab", "aba" against "aba", "ba"), and the names are what makes the streams of two pairs
// differ when a colluder shows its victim's key as its own.
func info(parts ...any) string { return string(encode(parts)) }

// derive is HKDF-SHA256 (RFC 5869); both sizes are constants far below its limit.
func derive(secret, salt []byte, info string, size int) []byte {
	k, err := hkdf.Key(sha256.New, secret, salt, info, size)
	if err != nil {
		panic("aggregate: HKDF of a constant size cannot fail: " + err.Error())
	}
	return k
}

// selfMask is the key of a member's own stream.
func selfMask(seed []byte, roster [32]byte) [16]byte {
	return [16]byte(derive(seed, roster[:], info("self"), 16))
}

// pairMask is the key of the stream of two members, who agreed on shared. Members on different
// models or plans get streams that do not cancel: the sum fails closed.
func pairMask(shared []byte, roster [32]byte, a, b MemberID, p *terms) [16]byte {
	lower, higher := min(a, b), max(a, b)
	return [16]byte(derive(shared, roster[:], info("mask", lower, higher, p.Model, p.digest, p.Round.Number), 16))
}

// boxKey is the key of the one box that goes from one member to another: a key for both directions
// would seal twice under one nonce.
func boxKey(shared []byte, committee [32]byte, from, to MemberID) [32]byte {
	return [32]byte(derive(shared, committee[:], info("seal", from, to), 32))
}

// centralNoiseKey depends on every release that opened: one honest member's random bytes are enough
// to hide it from a reader of the coordinator's entropy.
func centralNoiseKey(entropy []byte, random [][32]byte, certificate [32]byte, round RoundID) [32]byte {
	secret := slices.Clone(entropy)
	for _, r := range random {
		secret = append(secret, r[:]...)
	}
	defer clear(secret)
	return [32]byte(derive(secret, certificate[:], info("noise", round.Study, round.Number), 32))
}

// commit is a hash commitment to value. The opening is 32 random bytes that go wherever the value goes.
func commit(what string, committee [32]byte, dealer, to MemberID, value, opening []byte) [32]byte {
	return signed.Digest(encode([]any{"commit", what, committee, dealer, to, value, opening}))
}

// newKey makes a one-time X25519 key: GenerateKey may ignore its reader, NewPrivateKey cannot.
func newKey(entropy io.Reader) (*ecdh.PrivateKey, error) {
	var b [32]byte
	defer clear(b[:])
	if _, err := io.ReadFull(entropy, b[:]); err != nil {
		return nil, fmt.Errorf("making a one-time key: %w", err)
	}
	return ecdh.X25519().NewPrivateKey(b[:])
}

// agree is X25519 with a peer's key that passed checkPublic.
func agree(own *ecdh.PrivateKey, peer [32]byte) ([]byte, error) {
	pub, err := ecdh.X25519().NewPublicKey(peer[:])
	if err != nil {
		return nil, err
	}
	return own.ECDH(pub)
}

// lowOrder are the canonical u-coordinates whose order divides 8 (RFC 7748 section 6.1: the shared
// secret would be all zero): the point of order two, those of order four, and those of order eight,
// which double to u = 1.
var lowOrder = func() [][32]byte {
	var list [][32]byte
	for _, s := range []string{
		"0",
		"1",
		"325606250916557431795983626356110631294008115727848805560023387167927233504",
		"39382357235489614581723060781553021112529911719440698176882885853963445705823",
		"57896044618658097711785492504343953926634992332820282019728792003956564819948", // -1
	} {
		n, ok := new(big.Int).SetString(s, 10)
		if !ok {
			panic("aggregate: a constant number does not parse")
		}
		list = append(list, littleEndian(n))
	}
	return list
}()

// prime25519 is 2^255 - 19, little endian.
var prime25519 = littleEndian(new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19)))

func littleEndian(n *big.Int) [32]byte {
	var b [32]byte
	n.FillBytes(b[:])
	slices.Reverse(b[:])
	return b
}

// checkPublic refuses an X25519 key that is not canonical or has a low order. This is hygiene: what
// keeps a copied key harmless is the names in every derivation.
func checkPublic(k [32]byte) error {
	for i := 31; i >= 0 && k[i] >= prime25519[i]; i-- {
		if k[i] > prime25519[i] || i == 0 {
			return fmt.Errorf("key %x is not canonical", k)
		}
	}
	if slices.Contains(lowOrder, k) {
		return fmt.Errorf("key %x has a low order", k)
	}
	return nil
}

// newOpening makes the key that releases are sealed to, from 32 bytes of entropy (its seed).
func newOpening(entropy io.Reader) (hpke.PrivateKey, error) {
	var seed [32]byte
	defer clear(seed[:])
	if _, err := io.ReadFull(entropy, seed[:]); err != nil {
		return nil, fmt.Errorf("making the opening key: %w", err)
	}
	return hpke.MLKEM768X25519().NewPrivateKey(seed[:])
}

// sealRelease seals what a member releases for a certificate to its opening key.
func sealRelease(opening hpke.PublicKey, certificate [32]byte, from MemberID, plain []byte) ([]byte, error) {
	return hpke.Seal(opening, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(info("release", certificate, from)), plain)
}

func openRelease(opening hpke.PrivateKey, certificate [32]byte, from MemberID, sealed []byte) ([]byte, error) {
	return hpke.Open(opening, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(info("release", certificate, from)), sealed)
}
