package study

import "encoding/hex"

// Short is how people see a digest: its first eight hex digits.
func Short(d [32]byte) string { return hex.EncodeToString(d[:4]) }
