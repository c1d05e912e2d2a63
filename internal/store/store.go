// Package store is what Consilium's state on disk is made of, without any engine: revisions and
// their errors, a journal that fsyncs, files that are replaced whole, and the rules about who may
// read a folder. internal/store/sqlite is the engine behind the coordinator's keys.
//
//	if err := store.PrivateDir("/var/lib/consilium"); err != nil {
//		return err
//	}
//	j, err := store.OpenJournal("/var/lib/consilium/ledger")
//	if err != nil {
//		return err
//	}
//	defer j.Close()
//	err = j.Append(charge) // durable once this returned nil
//
// Everything written here outlives kill -9 and a power cut once its function returned nil. Nothing
// here detects that a whole disk was set back: the log and the counters above do.
package store

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Bounds on what an engine stores, in bytes.
const (
	MaxKey   = 1 << 10
	MaxValue = 64 << 20
)

// Change is one of several swaps that are done as one.
type Change struct {
	Key   string
	Rev   int64
	Value []byte
}

var (
	// ErrStale says that the revision given is not the stored one: somebody else wrote first.
	ErrStale = errors.New("revision is stale")
	// ErrNotFound says that there is no such key.
	ErrNotFound = errors.New("no such key")
	// ErrLocked says that another process holds the file.
	ErrLocked = errors.New("another process holds it")
	// ErrCorrupt says that bytes before the end of a journal are not what was appended.
	ErrCorrupt = errors.New("the journal is damaged before its end")
)

// CheckKey refuses a key that not every engine could store and sort alike: empty, over MaxKey, not
// UTF-8, or with a zero byte.
func CheckKey(key string) error {
	if key == "" || len(key) > MaxKey || !utf8.ValidString(key) || strings.IndexByte(key, 0) >= 0 {
		return fmt.Errorf("key %q: want 1 to %d bytes of UTF-8 without zero bytes", key, MaxKey)
	}
	return nil
}

// CheckValue refuses a value over MaxValue.
func CheckValue(value []byte) error {
	if len(value) > MaxValue {
		return fmt.Errorf("value of %d bytes, want at most %d", len(value), MaxValue)
	}
	return nil
}
