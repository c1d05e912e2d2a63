package store

import (
	"os"

	"golang.org/x/sys/unix"
)

// datasync makes a file's bytes durable, and of its metadata what reading them back needs.
func datasync(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR {
			return err
		}
	}
}
