package attest

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"

	"github.com/consilium-fl/consilium/internal/signed"
)

// Binding ties evidence to one conversation. Every field stops an attack of its own, which the model in attest/formal
// finds when the field is left out: without the role (which is the exporter's context, too) a party's own evidence is
// sent back to it; without the nonce an old answer passes where a TLS share repeats; without the exporter a relay that
// has both leaf keys; without the peer's key one that swaps the client's leaf, which a TLS 1.3 exporter does not cover;
// without the own key another hospital's record is shown as one's own; without the study a connection serves another;
// without key list and configuration the right code runs with the wrong keys or rules.
type Binding struct {
	Role     Role     `cbor:"1,keyasint"` // of the prover
	Nonce    [32]byte `cbor:"2,keyasint"` // the verifier's
	Exporter [32]byte `cbor:"3,keyasint"` // of the TLS session; label and context in attest/channel
	OwnKey   [32]byte `cbor:"4,keyasint"` // SHA-256 of the prover's leaf SPKI
	PeerKey  [32]byte `cbor:"5,keyasint"` // SHA-256 of the verifier's leaf SPKI
	Study    [32]byte `cbor:"6,keyasint"` // or the consortium's digest where no one study is served
	KeyList  [32]byte `cbor:"7,keyasint"` // [KeyListDigest] of the role's keys
	Config   [32]byte `cbor:"8,keyasint"` // SHA-256 of the encoded Posture
}

// KindBinding is the kind (see internal/signed) under which the coordinator's log key signs an
// encoded Binding.
const KindBinding = "binding"

const reportDataDomain = "consilium/binding/v1"

// Encode returns the canonical CBOR, which the Merkle leaf hashes and the log key signs. A zero
// field is an error: it was forgotten, and two parties that forget the same one would agree.
func (b Binding) Encode() ([]byte, error) {
	if err := b.complete(); err != nil {
		return nil, fmt.Errorf("encoding binding: %w", err)
	}
	return signed.Encode(b)
}

func (b Binding) complete() error {
	if b.Role != RoleCoordinator && b.Role != RoleNode {
		return fmt.Errorf("role %q, want %q or %q", b.Role, RoleCoordinator, RoleNode)
	}
	for _, f := range []struct {
		name  string
		value [32]byte
	}{
		{"nonce", b.Nonce},
		{"exporter", b.Exporter},
		{"own_key", b.OwnKey},
		{"peer_key", b.PeerKey},
		{"study", b.Study},
		{"key_list", b.KeyList},
		{"config", b.Config},
	} {
		if f.value == [32]byte{} {
			return fmt.Errorf("%s is zero", f.name)
		}
	}
	return nil
}

// ReportData returns what evidence over b carries: SHA-512 of "consilium/binding/v1" and the
// Merkle root that path leads to. With an empty path the root is b's own leaf.
func (b Binding) ReportData(path [][32]byte) ([64]byte, error) {
	if len(path) > maxPath {
		return [64]byte{}, fmt.Errorf("computing report data: a path of %d, want at most %d", len(path), maxPath)
	}
	node, err := b.leaf()
	if err != nil {
		return [64]byte{}, fmt.Errorf("computing report data: %w", err)
	}
	for _, sibling := range path {
		node = parent(node, sibling)
	}
	return reportData(node), nil
}

func reportData(root [32]byte) [64]byte {
	return sha512.Sum512(append([]byte(reportDataDomain), root[:]...))
}

// leaf and parent begin with different bytes (as RFC 9162 section 2.1 has it), so that an inner
// node can stand for no binding.
func (b Binding) leaf() ([32]byte, error) {
	enc, err := b.Encode()
	if err != nil {
		return [32]byte{}, err
	}
	return sha256.Sum256(append([]byte{0x00}, enc...)), nil
}

// parent sorts the pair, so that a path needs no left and right.
func parent(a, b [32]byte) [32]byte {
	if bytes.Compare(a[:], b[:]) > 0 {
		a, b = b, a
	}
	return sha256.Sum256(append(append([]byte{0x01}, a[:]...), b[:]...))
}

// Merkle builds the tree over a window of waiting bindings, so that one quote answers them all.
// It returns the root and each binding's path, in order; ReportData(paths[i]) of the i-th
// binding is the same for all. An odd node at the end of a level moves up unpaired.
func Merkle(bs []Binding) (root [32]byte, paths [][][32]byte, err error) {
	if len(bs) == 0 {
		return root, nil, errors.New("building a tree of bindings: none given")
	}
	if len(bs) > 1<<maxPath {
		return root, nil, fmt.Errorf("building a tree of bindings: %d, want at most %d", len(bs), 1<<maxPath)
	}
	level := make([][32]byte, len(bs))
	at := make([]int, len(bs)) // where binding i's ancestor sits in the level
	for i, b := range bs {
		if level[i], err = b.leaf(); err != nil {
			return root, nil, fmt.Errorf("building a tree of bindings: binding %d: %w", i, err)
		}
		at[i] = i
	}
	paths = make([][][32]byte, len(bs))
	for len(level) > 1 {
		for i := range bs {
			if sibling := at[i] ^ 1; sibling < len(level) {
				paths[i] = append(paths[i], level[sibling])
			}
			at[i] /= 2
		}
		level = raise(level)
	}
	return level[0], paths, nil
}

func raise(level [][32]byte) [][32]byte {
	var up [][32]byte
	for i := 0; i+1 < len(level); i += 2 {
		up = append(up, parent(level[i], level[i+1]))
	}
	if len(level)%2 == 1 {
		up = append(up, level[len(level)-1])
	}
	return up
}
