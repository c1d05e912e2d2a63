//go:build !linux

package store

import "os"

// Datasync makes a file's bytes durable; on macOS Sync is F_FULLFSYNC.
func Datasync(f *os.File) error { return f.Sync() }
