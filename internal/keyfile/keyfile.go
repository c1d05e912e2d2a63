// Package keyfile keeps Ed25519 keys where no TEE seals them: 0600 files in PKCS #8 that say so.
//
//	pub, err := keyfile.Make("r.lead.key")  // never replaces a file
//	key, err := keyfile.Read("r.lead.key")  // refuses one that others can read
package keyfile

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/consilium-fl/consilium/internal/store"
)

const (
	pemType = "PRIVATE KEY"
	pemMark = "Consilium-Note"
	pemNote = "not sealed by a TEE: whoever reads this file has the key"
)

// Make makes a fresh key in a new file and returns its public half.
func Make(path string) (ed25519.PublicKey, error) {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("making key %s: the file is there already, or cannot be looked at, and a key is never overwritten", path)
	}
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making key %s: %w", path, err)
	}
	return pub, Write(path, key)
}

// Write writes a key, durably.
func Write(path string, key ed25519.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("writing key %s: %w", path, err)
	}
	return store.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: pemType, Headers: map[string]string{pemMark: pemNote}, Bytes: der}), 0o600)
}

// Read reads what Write wrote. A missing file is fs.ErrNotExist; no error tells anything of the key.
func Read(path string) (ed25519.PrivateKey, error) {
	b, err := store.ReadPrivate(path)
	if err != nil {
		return nil, fmt.Errorf("reading key %s: %w", path, err)
	}
	block, rest := pem.Decode(b)
	if block == nil || block.Type != pemType || len(rest) != 0 {
		return nil, fmt.Errorf("reading key %s: want one PEM block of type %q", path, pemType)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading key %s: not a PKCS #8 key", path)
	}
	key, ok := k.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("reading key %s: got %T, want Ed25519", path, k)
	}
	return key, nil
}
