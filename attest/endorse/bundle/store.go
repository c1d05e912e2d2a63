package bundle

import (
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/attest/endorse/internal/durable"
	"github.com/consilium-fl/consilium/internal/signed"
)

// ErrRollback says that a bundle of a higher serial, or another one of the same, was there before.
var ErrRollback = errors.New("a newer trust bundle was seen before")

const (
	bundleName  = "bundle.tar"
	highestName = "highest"
)

// highest is the newest bundle that was ever imported.
type highest struct {
	Serial uint64   `cbor:"1,keyasint"`
	Digest [32]byte `cbor:"2,keyasint"`
}

// check refuses what is older, or another of the same serial.
func (h highest) check(x *Bundle) error {
	switch {
	case x.Manifest.Serial < h.Serial:
		return fmt.Errorf("%w: serial %d, want at least %d", ErrRollback, x.Manifest.Serial, h.Serial)
	case x.Manifest.Serial == h.Serial && x.digest != h.Digest:
		return fmt.Errorf("%w: serial %d is of digest %s here and was %s", ErrRollback, h.Serial, hex.EncodeToString(x.digest[:]), hex.EncodeToString(h.Digest[:]))
	}
	return nil
}

// Import keeps a bundle in a folder of its own, if one of the keys signed it, its time is now, no root in it bears a
// vendor's name in vain, and its serial is higher than all that the folder has seen. The one that is there already is
// no error. It is durable when Import returns; if the process dies before, the old one stands or the new one does.
func Import(dir string, b []byte, now time.Time, keys ...ed25519.PublicKey) (Manifest, error) {
	x, err := open(b, now, keys)
	if err != nil {
		return Manifest{}, fmt.Errorf("importing trust bundle: %w", err)
	}
	f, err := durable.Open(dir)
	if err != nil {
		return Manifest{}, fmt.Errorf("importing trust bundle: %w", err)
	}
	if err := errors.Join(keep(f, dir, x, b), f.Close()); err != nil {
		return Manifest{}, fmt.Errorf("importing trust bundle: %w", err)
	}
	return x.Manifest, nil
}

func keep(f *durable.Folder, dir string, x *Bundle, b []byte) error {
	h, err := readHighest(dir)
	if err != nil {
		return err
	}
	// Where the process died between the two writes below, the bundle is ahead of the memory.
	if old, err := durable.Read(filepath.Join(dir, bundleName), MaxBundle); err == nil {
		if o, err := parse(old); err == nil && o.Manifest.Serial > h.Serial {
			h = highest{o.Manifest.Serial, o.digest}
		}
	}
	if err := h.check(x); err != nil {
		return err
	}
	// The other order would leave a folder whose bundle is older than its memory, which Load refuses.
	if err := f.Write(bundleName, b); err != nil {
		return err
	}
	m, err := signed.Encode(highest{x.Manifest.Serial, x.digest})
	if err != nil {
		return err
	}
	return f.Write(highestName, m)
}

func readHighest(dir string) (highest, error) {
	b, err := durable.Read(filepath.Join(dir, highestName), 256)
	if errors.Is(err, fs.ErrNotExist) {
		return highest{}, nil
	}
	if err != nil {
		return highest{}, err
	}
	var h highest
	return h, signed.Decode(b, &h)
}

// Load returns the trust that was imported last, if all that Import demanded holds still; past its end it is
// [endorse.ErrExpired]. It may run while another process imports.
func Load(dir string, now time.Time, keys ...ed25519.PublicKey) (*endorse.Snapshot, error) {
	s, err := load(dir, now, keys)
	if err != nil {
		return nil, fmt.Errorf("loading trust bundle: %w", err)
	}
	return s, nil
}

func load(dir string, now time.Time, keys []ed25519.PublicKey) (*endorse.Snapshot, error) {
	h, err := readHighest(dir) // before the bundle, which an Import in between only makes newer
	if err != nil {
		return nil, err
	}
	b, err := durable.Read(filepath.Join(dir, bundleName), MaxBundle)
	if err != nil {
		return nil, err
	}
	x, err := open(b, now, keys)
	if err != nil {
		return nil, err
	}
	if err := h.check(x); err != nil {
		return nil, err
	}
	return x.Trust, nil
}
