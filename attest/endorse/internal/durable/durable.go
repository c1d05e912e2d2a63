// Package durable replaces small files whole or not at all, and keeps two processes from doing so at once.
package durable

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// A Folder is a folder of such files that this process alone writes.
type Folder struct {
	dir  string
	lock *os.File
}

// ErrLocked says that another process has the folder.
var ErrLocked = errors.New("another process has it")

const (
	lockName  = "lock"
	temporary = ".tmp-"
)

// Open makes the folder, if need be with mode 0700, takes it until Close, and removes what a crash left behind.
func Open(dir string) (*Folder, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening folder: %w", err)
	}
	if err := syncDir(filepath.Dir(filepath.Clean(dir))); err != nil {
		return nil, fmt.Errorf("opening folder %q: %w", dir, err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening folder: %w", err)
	}
	f := &Folder{dir, lock}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, errors.Join(fmt.Errorf("opening folder %q: %w", dir, err), lock.Close())
	}
	if err := f.sweep(); err != nil {
		return nil, errors.Join(fmt.Errorf("opening folder: %w", err), lock.Close())
	}
	return f, nil
}

func (f *Folder) sweep() error {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), temporary) {
			if err := os.Remove(filepath.Join(f.dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// Close lets others in. The lock file stays: removing it would let two in.
func (f *Folder) Close() error { return f.lock.Close() }

// Names are the files that are there; it needs no Folder.
func Names(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if e.Name() != lockName && !strings.HasPrefix(e.Name(), temporary) && e.Type().IsRegular() {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

// Read returns a file of at most limit bytes; it needs no Folder, for what Write leaves is whole.
func Read(path string, limit int) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	if len(b) > limit {
		return nil, fmt.Errorf("reading %q: more than %d bytes", path, limit)
	}
	return b, nil
}

// Write replaces a file and returns once that is on disk.
func (f *Folder) Write(name string, b []byte) (err error) {
	tmp, err := os.CreateTemp(f.dir, temporary)
	if err != nil {
		return fmt.Errorf("writing %q: %w", name, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name()) // the error at hand is the one to tell
			err = fmt.Errorf("writing %q: %w", filepath.Join(f.dir, name), err)
		}
	}()
	if _, err := tmp.Write(b); err != nil {
		return errors.Join(err, tmp.Close())
	}
	if err := tmp.Sync(); err != nil {
		return errors.Join(err, tmp.Close())
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	// A crash before the rename leaves the old file, one after it the old or the new, each whole.
	if err := os.Rename(tmp.Name(), filepath.Join(f.dir, name)); err != nil {
		return err
	}
	return syncDir(f.dir)
}

// Remove takes a file away, durably.
func (f *Folder) Remove(name string) error {
	if err := os.Remove(filepath.Join(f.dir, name)); err != nil {
		return err
	}
	return syncDir(f.dir)
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
