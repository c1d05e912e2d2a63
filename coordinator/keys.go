package coordinator

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/consilium-fl/consilium/internal/keyfile"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/store"
)

// The key files under keys/ of a state folder. Outside a TEE nothing seals them, and each says so.
const (
	keyLog      = "log.key"
	keyProtocol = "protocol.key"
	keyReceipt  = "receipt.key"
	keyIssuer   = "issuer.key"
)

// Init makes the four long-lived keys of a coordinator in a state folder, 0600, and returns the log key as
// consortium.yaml spells it. It never overwrites: with any key there it changes nothing.
func Init(state string) (logKey string, err error) {
	dir := filepath.Join(state, "keys")
	names := []string{keyProtocol, keyReceipt, keyIssuer, keyLog}
	for _, name := range names {
		path := filepath.Join(dir, name)
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("making keys: %s is there already, or cannot be looked at, and a key is never overwritten", path)
		}
	}
	for _, d := range []string{state, dir} {
		if err := store.PrivateDir(d); err != nil {
			return "", fmt.Errorf("making keys: %w", err)
		}
	}
	var pub ed25519.PublicKey
	for _, name := range names { // the log key last: a crash before it leaves nothing that anybody was told
		if pub, err = keyfile.Make(filepath.Join(dir, name)); err != nil {
			return "", err
		}
	}
	return signed.KeyText(pub), nil
}

// ReadKeys reads what Init made.
func ReadKeys(state string) (log ed25519.PrivateKey, k Keys, err error) {
	for _, x := range []struct {
		name string
		to   *ed25519.PrivateKey
	}{{keyLog, &log}, {keyProtocol, &k.Protocol}, {keyReceipt, &k.Receipt}, {keyIssuer, &k.Issuer}} {
		*x.to, err = keyfile.Read(filepath.Join(state, "keys", x.name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, Keys{}, fmt.Errorf("%w: consilium-coordinator init makes the keys", err)
		}
		if err != nil {
			return nil, Keys{}, err
		}
	}
	return log, k, nil
}
