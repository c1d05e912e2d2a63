package channel

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/internal/strict"
	"github.com/consilium-fl/consilium/internal/signed"
)

// MaxFrame bounds one frame of the handshake, in bytes without its length.
const MaxFrame = 256 << 10

// maxHello bounds a Hello, the frame of which strangers could send many.
const maxHello = 1 << 10

const version = 1

// Hello is the client's first frame, and all that a coordinator learns before it has proven.
type Hello struct {
	Version uint64      `cbor:"1,keyasint"`
	Role    attest.Role `cbor:"2,keyasint"` // node or person
	Study   [32]byte    `cbor:"3,keyasint"` // or the consortium's digest
	Nonce   [32]byte    `cbor:"4,keyasint"` // the coordinator's evidence answers it
}

// Proof is a party's evidence.
type Proof struct {
	Record []byte   `cbor:"1,keyasint"` // an encoded attest.Record; empty from a person
	Nonce  [32]byte `cbor:"2,keyasint"` // the coordinator's, for the node to answer; zero from a client
	// Logs are the evidence's event logs that are not in Record, by name, in bytes. They follow in Log frames, in the order
	// of their names; only a record that does not fit into a frame has them apart.
	Logs map[string]uint64 `cbor:"3,keyasint,omitempty"`
}

// Log is a part of an event log that a Proof has announced.
type Log struct {
	Part []byte `cbor:"1,keyasint"` // as many bytes as are left, at most logChunk
}

// Verdict is the coordinator's last frame. Its reasons are codes and paths: a peer that is
// refused is not told what would have been accepted.
type Verdict struct {
	OK      bool            `cbor:"1,keyasint"`
	Reasons []attest.Reason `cbor:"2,keyasint"`
	Until   int64           `cbor:"3,keyasint"` // seconds of the Unix epoch; 0 when refused
}

// frame holds exactly one of them.
type frame struct {
	Hello   *Hello   `cbor:"1,keyasint,omitempty"`
	Proof   *Proof   `cbor:"2,keyasint,omitempty"`
	Verdict *Verdict `cbor:"3,keyasint,omitempty"`
	Log     *Log     `cbor:"4,keyasint,omitempty"`
}

func (f frame) parts() int {
	n := 0
	for _, set := range []bool{f.Hello != nil, f.Proof != nil, f.Verdict != nil, f.Log != nil} {
		if set {
			n++
		}
	}
	return n
}

func writeFrame(w io.Writer, f frame) error {
	body, err := signed.Encode(f)
	if err != nil {
		return fmt.Errorf("writing frame: %w", err)
	}
	if len(body) > MaxFrame {
		return fmt.Errorf("writing frame: %d bytes, want at most %d", len(body), MaxFrame)
	}
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body)))
	if _, err := w.Write(append(b, body...)); err != nil {
		return fmt.Errorf("writing frame: %w", err)
	}
	return nil
}

// readFrame reads one frame and not a byte more: what follows the last one is HTTP/2.
func readFrame(r io.Reader, limit int64) (frame, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return frame{}, fmt.Errorf("reading frame: %w", err)
	}
	n := int64(binary.BigEndian.Uint32(size[:]))
	if n > limit {
		return frame{}, fmt.Errorf("reading frame: %d bytes, want at most %d", n, limit)
	}
	// The buffer grows with what arrives, never with what a peer announces.
	body, err := io.ReadAll(io.LimitReader(r, n))
	if err == nil && int64(len(body)) < n {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return frame{}, fmt.Errorf("reading frame of %d bytes: %w", n, err)
	}
	var f frame
	if err := strict.Decode(body, MaxFrame, &f); err != nil {
		return frame{}, fmt.Errorf("reading frame: %w", err)
	}
	if f.parts() != 1 {
		return frame{}, fmt.Errorf("reading frame: %d messages, want one", f.parts())
	}
	return f, nil
}
