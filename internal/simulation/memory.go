//go:build unix

package simulation

import (
	"crypto/rand"
	"runtime"
	"syscall"
)

// maxResident is the peak resident set: kilobytes on Linux, bytes on macOS (getrusage(2)).
func maxResident() (uint64, bool) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil || u.Maxrss < 0 {
		return 0, false
	}
	if runtime.GOOS == "darwin" {
		return uint64(u.Maxrss), true
	}
	return uint64(u.Maxrss) << 10, true
}

func freshKey() (k [32]byte, err error) {
	_, err = rand.Read(k[:])
	return k, err
}
