//go:build !linux

package store

import "os"

// datasync makes a file's bytes durable; on macOS Sync is F_FULLFSYNC.
func datasync(f *os.File) error { return f.Sync() }
