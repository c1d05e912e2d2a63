// Package aggregate sums what nobody may see: the integer vectors of hospitals, modulo a power of
// two, masked so that an aggregator learns their noised sum and nothing else.
//
// It is two pure machines over one table (see Table): Round is the aggregator's, Member a
// hospital's. Neither knows a clock, a network, a disk or a goroutine. A driver steps a machine with
// what happened and does, in order, what the machine asks for; a Persist is durable before whatever
// follows it happens.
//
//	m, err := aggregate.NewMember(config, plan) // refuses a plan that differs from the hospital's study
//	…
//	for _, effect := range m.Step(aggregate.Begin{}) {
//		switch e := effect.(type) {
//		case aggregate.StartTraining:
//			go train(e.Plan) // then Step(Trained{})
//		case aggregate.Persist:
//			write(e.State) // and fsync
//		case aggregate.Send:
//			deliver(e.Message)
//		}
//	}
//
// The masks are those of Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving
// Machine Learning" (CCS 2017): one stream for each pair of members, which cancel in a sum, and one
// of each member's own. The keys live for one round, everyone who is ready deals, and no share
// leaves a member before t members have signed the surviving set.
//
// Whatever comes from the other side is a foreign message: a machine answers a bad one with a
// Refuse and stays where it was. Step never panics on one.
package aggregate

import (
	"crypto"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/consilium-fl/consilium/internal/signed"
)

// ChunkBytes is the size of every chunk of a vector but the last.
const ChunkBytes = 256 << 10

// ErrBound says that an unmasked sum lies outside SumBound + Noise.Bound: some member's words or
// masks were wrong, and nobody can tell whose.
var ErrBound = errors.New("sum outside its bound")

// SignMessage encodes and signs m. From is empty for the coordinator.
func SignMessage(from MemberID, m Message, s crypto.Signer) (Signed, error) {
	payload, err := signed.Encode(m)
	if err != nil {
		return Signed{}, fmt.Errorf("signing %s: %w", m.kind(), err)
	}
	sig, err := signed.Sign(s, m.kind(), payload)
	if err != nil {
		return Signed{}, err
	}
	return Signed{From: from, Kind: m.kind(), Payload: payload, Signature: sig}, nil
}

// Digest is the name by which other messages answer s: SHA-256 of its payload.
func (s Signed) Digest() [32]byte { return signed.Digest(s.Payload) }

// Encode returns the deterministic CBOR of c: what a ledger signs, and what Upload and Proposal carry.
func (c Charge) Encode() []byte { return encode(c) }

// ParseCharge reads what Charge.Encode wrote.
func ParseCharge(b []byte) (Charge, error) {
	if len(b) > maxCharge {
		return Charge{}, fmt.Errorf("parsing charge: %d bytes, want at most %d", len(b), maxCharge)
	}
	var c Charge
	if err := signed.Decode(b, &c); err != nil {
		return Charge{}, fmt.Errorf("parsing charge: %w", err)
	}
	return c, nil
}

// VectorDigest names a masked vector: SHA-256 over the SHA-256 of each chunk of ChunkBytes.
func VectorDigest(r io.Reader) ([32]byte, error) {
	h := NewVectorHash()
	// 4 KiB at a time: most vectors are a few words, and hashing is slower than reading.
	if _, err := io.CopyBuffer(h, struct{ io.Reader }{r}, make([]byte, 4<<10)); err != nil {
		return [32]byte{}, fmt.Errorf("digesting vector: %w", err)
	}
	return h.Sum(), nil
}

// VectorHash computes a VectorDigest of what is written to it, in pieces of any length.
type VectorHash struct {
	outer, chunk hash.Hash
	written      int // of the chunk
}

// NewVectorHash starts with no words.
func NewVectorHash() *VectorHash { return &VectorHash{outer: sha256.New(), chunk: sha256.New()} }

// Write never fails.
func (h *VectorHash) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		part := b[:min(len(b), ChunkBytes-h.written)]
		h.chunk.Write(part)
		h.written += len(part)
		b = b[len(part):]
		if h.written == ChunkBytes {
			h.turn()
		}
	}
	return n, nil
}

func (h *VectorHash) turn() {
	h.outer.Write(h.chunk.Sum(nil))
	h.chunk.Reset()
	h.written = 0
}

// Sum ends the vector and returns its digest.
func (h *VectorHash) Sum() [32]byte {
	if h.written > 0 {
		h.turn()
	}
	return [32]byte(h.outer.Sum(nil))
}

// SumDigest names an opened sum: SHA-256 over its words as little-endian int64.
func SumDigest(sum []int64) [32]byte {
	h, b := sha256.New(), make([]byte, 0, 8*512)
	for i, v := range sum {
		b = binary.LittleEndian.AppendUint64(b, uint64(v))
		if len(b) == cap(b) || i == len(sum)-1 {
			h.Write(b)
			b = b[:0]
		}
	}
	return [32]byte(h.Sum(nil))
}

// encode is for values of our own types, which always encode.
func encode(v any) []byte {
	b, err := signed.Encode(v)
	if err != nil {
		panic(fmt.Sprintf("aggregate: a %T always encodes: %v", v, err))
	}
	return b
}
