package audit

import (
	"crypto"
	"crypto/ed25519"
	"fmt"
	"time"

	"github.com/consilium-fl/consilium/internal/signed"
)

// A Promise is the log's signed answer to an append: the leaf is durable, stands at this index, and
// a checkpoint that covers it is out by the time it is due. A checkpoint that covers the index and
// holds another leaf there contradicts it, and both are signed by the log.
type Promise struct {
	Index     uint64
	Leaf      [32]byte  // RFC 6962 leaf hash
	Due       time.Time // UTC, milliseconds
	Signature []byte    // by the log key, kind "promise", over {origin, index, leaf, due}
}

type promiseCBOR struct {
	Index     uint64   `cbor:"1,keyasint"`
	Leaf      [32]byte `cbor:"2,keyasint"`
	Due       int64    `cbor:"3,keyasint"` // Unix time, milliseconds
	Signature []byte   `cbor:"4,keyasint"`
}

// MarshalCBOR lets a promise be a field of a message; the time travels in milliseconds.
func (p Promise) MarshalCBOR() ([]byte, error) {
	return signed.Encode(promiseCBOR{p.Index, p.Leaf, p.Due.UnixMilli(), p.Signature})
}

// UnmarshalCBOR undoes MarshalCBOR.
func (p *Promise) UnmarshalCBOR(b []byte) error {
	var w promiseCBOR
	if err := signed.Decode(b, &w); err != nil {
		return err
	}
	*p = Promise{w.Index, w.Leaf, time.UnixMilli(w.Due).UTC(), w.Signature}
	return nil
}

// signedBytes is what the log key signs. The origin keeps a promise of one log from standing for
// another's.
func (p Promise) signedBytes(origin string) ([]byte, error) {
	return signed.Encode(struct {
		Origin string   `cbor:"1,keyasint"`
		Index  uint64   `cbor:"2,keyasint"`
		Leaf   [32]byte `cbor:"3,keyasint"`
		Due    int64    `cbor:"4,keyasint"`
	}{origin, p.Index, p.Leaf, p.Due.UnixMilli()})
}

// Promised is a promise with its leaf, as it travels (CBOR).
type Promised struct {
	Leaf    []byte  `cbor:"1,keyasint"`
	Promise Promise `cbor:"2,keyasint"`

	// verified is of what ParsePromised has verified, so that an Auditor need not again: a promise that was
	// altered since has another.
	verified [32]byte
}

// fingerprint is of a promise in a log of that origin and key.
func (p Promised) fingerprint(origin string, log ed25519.PublicKey) [32]byte {
	b, err := signed.Encode([]any{origin, []byte(log), p.Encode()})
	if err != nil {
		panic("audit: texts and bytes always encode: " + err.Error())
	}
	return signed.Digest(b)
}

// check is verify, once.
func (p Promised) check(origin string, log ed25519.PublicKey) error {
	if p.verified != [32]byte{} && p.verified == p.fingerprint(origin, log) {
		return nil
	}
	_, err := p.verify(origin, log)
	return err
}

// MakePromise signs, with the log key, that leaf stands at index and is published by due (cut to
// milliseconds).
func MakePromise(origin string, index uint64, leaf []byte, due time.Time, log crypto.Signer) (Promised, error) {
	p := Promise{Index: index, Leaf: LeafHash(leaf), Due: due.UTC().Truncate(time.Millisecond)}
	b, err := p.signedBytes(origin)
	if err != nil {
		return Promised{}, fmt.Errorf("promising index %d: %w", index, err)
	}
	if p.Signature, err = signed.Sign(log, "promise", b); err != nil {
		return Promised{}, fmt.Errorf("promising index %d: %w", index, err)
	}
	return Promised{Leaf: leaf, Promise: p}, nil
}

// Encode returns the CBOR that ParsePromised reads.
func (p Promised) Encode() []byte {
	b, err := signed.Encode(p)
	if err != nil {
		panic("audit: a struct of numbers and bytes always encodes: " + err.Error())
	}
	return b
}

// ParsePromised reads a promise of the log of that origin, and checks the log's signature, that the
// promise is about the leaf beside it, and that the leaf is a good one of that log.
func ParsePromised(b []byte, origin string, log ed25519.PublicKey) (Promised, Leaf, error) {
	var p Promised
	if len(b) > 2*MaxLeaf {
		return Promised{}, Leaf{}, fmt.Errorf("parsing promise: %d bytes, want at most %d", len(b), 2*MaxLeaf)
	}
	if err := signed.Decode(b, &p); err != nil {
		return Promised{}, Leaf{}, fmt.Errorf("parsing promise: %w", err)
	}
	l, err := p.verify(origin, log)
	if err != nil {
		return Promised{}, Leaf{}, err
	}
	p.verified = p.fingerprint(origin, log)
	return p, l, nil
}

func (p Promised) verify(origin string, log ed25519.PublicKey) (Leaf, error) {
	if got := LeafHash(p.Leaf); got != p.Promise.Leaf {
		return Leaf{}, fmt.Errorf("verifying promise of index %d: it is about leaf %x, the leaf beside it is %x", p.Promise.Index, p.Promise.Leaf, got)
	}
	b, err := p.Promise.signedBytes(origin)
	if err == nil {
		err = signed.Verify(log, "promise", b, p.Promise.Signature)
	}
	if err != nil {
		return Leaf{}, fmt.Errorf("verifying promise of index %d in log %q: %w", p.Promise.Index, origin, err)
	}
	l, err := ParseLeaf(p.Leaf)
	if err == nil {
		err = l.CheckOrigin(origin)
	}
	if err != nil {
		return Leaf{}, fmt.Errorf("verifying promise of index %d: %w", p.Promise.Index, err)
	}
	return l, nil
}
