// Package signed holds the three encodings that everything Consilium signs travels in: strict
// deterministic CBOR (RFC 8949 section 4.2) for protocol messages, Ed25519 over
// "consilium/v1/" kind 0x00 payload for their signatures, and DSSE envelopes for files.
//
// A digest is always of the bytes received, never of what they were decoded to. Decode takes one encoding
// of a value and no other.
//
//	payload, err := signed.Encode(message)
//	sig, err := signed.Sign(key, "ready", payload)
//	…
//	if err := signed.Verify(pub, "ready", payload, sig); err != nil { refuse }
//	err = signed.Decode(payload, &message)
//
// It imports nothing else of Consilium.
package signed

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/fxamacker/cbor/v2"
)

// MaxMessage bounds one CBOR message, in bytes. Vectors travel in chunks beside messages and
// have their own bound.
const MaxMessage = 8 << 20

var (
	encMode = must(cbor.EncOptions{
		Sort:          cbor.SortBytewiseLexical,
		ShortestFloat: cbor.ShortestFloat16,
		NaNConvert:    cbor.NaNConvertReject,
		InfConvert:    cbor.InfConvertReject,
		IndefLength:   cbor.IndefLengthForbidden,
		NilContainers: cbor.NilContainerAsEmpty,
		TagsMd:        cbor.TagsForbidden,
		Time:          cbor.TimeUnix,
	}.EncMode())
	decMode = must(cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		UTF8:              cbor.UTF8RejectInvalid,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
		MaxNestedLevels:   16,
		MaxArrayElements:  1 << 20,
		MaxMapPairs:       1 << 16,
		DefaultMapType:    reflect.TypeOf(map[string]any(nil)),
	}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic("signed: a constant CBOR option set cannot be invalid: " + err.Error())
	}
	return v
}

// Encode returns the deterministic CBOR of v.
func Encode(v any) ([]byte, error) {
	b, err := encMode.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encoding %T: %w", v, err)
	}
	return b, nil
}

// Decode reads exactly one CBOR item into v, a pointer. Unknown fields, duplicate keys, tags,
// indefinite lengths, trailing bytes and inputs over MaxMessage are errors, and so is any other encoding
// than Encode's of what was read: a short digest that was padded, an integer in more bytes than it needs,
// a field left out. One value has one encoding.
func Decode(b []byte, v any) error {
	if len(b) > MaxMessage {
		return fmt.Errorf("decoding %T: %d bytes, want at most %d", v, len(b), MaxMessage)
	}
	if err := decMode.Unmarshal(b, v); err != nil {
		return fmt.Errorf("decoding %T: %w", v, err)
	}
	again, err := encMode.Marshal(v)
	if err != nil {
		return fmt.Errorf("decoding %T: %w", v, err)
	}
	if !bytes.Equal(again, b) {
		return fmt.Errorf("decoding %T: not in deterministic encoding", v)
	}
	return nil
}

// Digest is SHA-256 of b.
func Digest(b []byte) [32]byte { return sha256.Sum256(b) }

// DigestText is the form digests have in files: "sha256:" and 64 lower-case hex digits.
func DigestText(d [32]byte) string { return "sha256:" + hex.EncodeToString(d[:]) }

// ParseDigest reads what DigestText wrote, and nothing else.
func ParseDigest(s string) ([32]byte, error) {
	b, err := parseHex("sha256:", s, 32)
	if err != nil {
		return [32]byte{}, fmt.Errorf("parsing digest %q: %w", s, err)
	}
	return [32]byte(b), nil
}

// KeyText is the form Ed25519 public keys have in files: "ed25519:" and 64 lower-case hex digits.
func KeyText(k ed25519.PublicKey) string { return "ed25519:" + hex.EncodeToString(k) }

// ParseKey reads what KeyText wrote, and nothing else.
func ParseKey(s string) (ed25519.PublicKey, error) {
	b, err := parseHex("ed25519:", s, ed25519.PublicKeySize)
	if err != nil {
		return nil, fmt.Errorf("parsing key %q: %w", s, err)
	}
	return ed25519.PublicKey(b), nil
}

// KeyID is the digest that names a key in a DSSE envelope.
func KeyID(k ed25519.PublicKey) string { return DigestText(Digest(k)) }

func parseHex(prefix, s string, size int) ([]byte, error) {
	h, ok := strings.CutPrefix(s, prefix)
	if !ok {
		return nil, fmt.Errorf("want the prefix %q", prefix)
	}
	if len(h) != 2*size || strings.ToLower(h) != h {
		return nil, fmt.Errorf("got %d characters after it, want %d lower-case hex digits", len(h), 2*size)
	}
	return hex.DecodeString(h)
}

// ErrSignature says that a signature does not verify.
var ErrSignature = errors.New("signature does not verify")

// Sign signs payload as a message of the given kind with an Ed25519 key.
func Sign(s crypto.Signer, kind string, payload []byte) ([]byte, error) {
	if _, ok := s.Public().(ed25519.PublicKey); !ok {
		return nil, fmt.Errorf("signing %s: key is %T, want Ed25519", kind, s.Public())
	}
	m, err := signingInput(kind, payload)
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	sig, err := s.Sign(nil, m, crypto.Hash(0))
	if err != nil {
		return nil, fmt.Errorf("signing %s: %w", kind, err)
	}
	return sig, nil
}

// Verify checks what Sign made. A failure is ErrSignature, wrapped with the kind.
func Verify(pub ed25519.PublicKey, kind string, payload, sig []byte) error {
	m, err := signingInput(kind, payload)
	if err != nil {
		return fmt.Errorf("verifying: %w", err)
	}
	if len(pub) != ed25519.PublicKeySize || !ed25519.Verify(pub, m, sig) {
		return fmt.Errorf("verifying %s: %w", kind, ErrSignature)
	}
	return nil
}

func signingInput(kind string, payload []byte) ([]byte, error) {
	if kind == "" || strings.IndexByte(kind, 0) >= 0 {
		return nil, fmt.Errorf("kind %q: want a name without zero bytes", kind)
	}
	m := make([]byte, 0, len("consilium/v1/")+len(kind)+1+len(payload))
	m = append(m, "consilium/v1/"...)
	m = append(m, kind...)
	m = append(m, 0)
	return append(m, payload...), nil
}
