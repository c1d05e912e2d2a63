package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// MaxPrivate bounds a file that ReadPrivate reads, in bytes.
const MaxPrivate = 1 << 20

// WriteFile replaces the file at path by b, whole or not at all, and returns once that is on disk.
// A mode of 0 is 0600. A crash may leave a file named ".<name>.*.tmp" beside it.
func WriteFile(path string, b []byte, mode uint32) (err error) {
	if mode == 0 {
		mode = 0o600
	}
	dir, name := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	f, err := os.CreateTemp(dir, "."+name+".*.tmp")
	if err != nil {
		return fmt.Errorf("writing %q: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // the error at hand is the one to tell
			err = fmt.Errorf("writing %q: %w", path, err)
		}
	}()
	if err := fill(f, b, fs.FileMode(mode)); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return err
	}
	// A crash before the rename leaves the old file, one after it the old or the new, each whole.
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(dir)
}

func fill(f *os.File, b []byte, mode fs.FileMode) error {
	if _, err := f.Write(b); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	return f.Sync()
}

// SyncDir makes the names in a folder durable: files made, renamed or removed in it.
func SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("syncing folder: %w", err)
	}
	if err := d.Sync(); err != nil {
		_ = d.Close() // the error at hand is the one to tell
		return fmt.Errorf("syncing folder %q: %w", path, err)
	}
	return d.Close()
}

// PrivateDir makes the folder at path with mode 0700, parents too, or refuses one that is there and
// that others can enter, read or write; the error names the command that mends it.
func PrivateDir(path string) error {
	if err := makeDir(filepath.Clean(path)); err != nil {
		return fmt.Errorf("making folder: %w", err)
	}
	fi, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("checking folder: %w", err)
	}
	if !fi.IsDir() {
		return fmt.Errorf("checking folder %q: it is not a folder", path)
	}
	if err := private(fi, path, 0o700); err != nil {
		return fmt.Errorf("checking folder %q: %w", path, err)
	}
	return nil
}

// makeDir makes a folder and those above it, each name durable: a state folder that a power cut
// takes away is a lost machine.
func makeDir(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(path)
	if err := makeDir(parent); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return SyncDir(parent)
}

// ReadPrivate reads a file that holds a secret. It refuses one that others can read or write; the
// error names the command that mends it.
func ReadPrivate(path string) ([]byte, error) {
	// Without O_NONBLOCK a pipe at this path would hang the open for ever.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("reading private file: %w", err)
	}
	defer func() { _ = f.Close() }() // read only: nothing to lose
	b, err := readPrivate(f)
	if err != nil {
		return nil, fmt.Errorf("reading private file %q: %w", path, err)
	}
	return b, nil
}

// readPrivate asks the open file, not its name: whoever can swap the name gains nothing.
func readPrivate(f *os.File) ([]byte, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("it is %s, want a regular file", fi.Mode().Type())
	}
	if err := private(fi, f.Name(), 0o600); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, MaxPrivate+1))
	if err != nil {
		return nil, err
	}
	if len(b) > MaxPrivate {
		return nil, fmt.Errorf("more than %d bytes", MaxPrivate)
	}
	return b, nil
}

func private(fi fs.FileInfo, path string, want fs.FileMode) error {
	if p := fi.Mode().Perm(); p&0o077 != 0 {
		return fmt.Errorf("mode %#o lets others in, want %#o; run: chmod %#o %q", p, want, want, path)
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("this system does not tell whose it is")
	}
	if me := os.Geteuid(); int(st.Uid) != me && st.Uid != 0 {
		return fmt.Errorf("it belongs to user %d, want %d (this process); run: chown %d %q", st.Uid, me, me, path)
	}
	return nil
}

// Lock takes the lock file at path for this process, until the file is closed or the process ends.
// It is ErrLocked while another one holds it. The file stays: removing it would let two in.
func Lock(path string) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking: %w", err)
	}
	if err := flock(f); err != nil {
		_ = f.Close() // the error at hand is the one to tell
		return nil, fmt.Errorf("locking %q: %w", path, err)
	}
	return f, nil
}

func flock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrLocked
	}
	return err
}
