package store

import (
	"os"

	"golang.org/x/sys/unix"
)

// Datasync makes a file's bytes durable, and of its metadata what reading them back needs.
func Datasync(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR {
			return err
		}
	}
}
