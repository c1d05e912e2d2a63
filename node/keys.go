package node

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/consilium-fl/consilium/internal/keyfile"
	"github.com/consilium-fl/consilium/internal/store"
)

// Keys are a node's long-lived keys. They never leave the state folder.
type Keys struct{ Node, Witness ed25519.PrivateKey }

const (
	nodeKeyFile    = "node.key"
	witnessKeyFile = "witness.key"
)

// Init makes a node's keys in its state folder, once: a second call returns those that are there.
// What the hospital's governance key enrols are their public halves.
func Init(state string) (Keys, error) {
	if err := store.PrivateDir(state); err != nil {
		return Keys{}, fmt.Errorf("initialising the node: %w", err)
	}
	for _, name := range []string{nodeKeyFile, witnessKeyFile} {
		if err := makeKey(filepath.Join(state, name)); err != nil {
			return Keys{}, fmt.Errorf("initialising the node: %w", err)
		}
	}
	return LoadKeys(state)
}

// LoadKeys reads the keys that Init made.
func LoadKeys(state string) (Keys, error) {
	n, err := loadKey(filepath.Join(state, nodeKeyFile))
	if err != nil {
		return Keys{}, err
	}
	w, err := loadKey(filepath.Join(state, witnessKeyFile))
	if err != nil {
		return Keys{}, err
	}
	return Keys{Node: n, Witness: w}, nil
}

// makeKey makes a key unless it is there.
func makeKey(path string) error {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		_, err = keyfile.Make(path)
	}
	return err
}

func loadKey(path string) (ed25519.PrivateKey, error) {
	key, err := keyfile.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: consilium-node init makes it", err)
	}
	return key, err
}

// PublicKeys are what an enrolment names.
type PublicKeys struct{ Node, Witness ed25519.PublicKey }

// Public returns the public halves.
func (k Keys) Public() PublicKeys {
	return PublicKeys{Node: k.Node.Public().(ed25519.PublicKey), Witness: k.Witness.Public().(ed25519.PublicKey)}
}
