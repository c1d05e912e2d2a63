package strict

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// File reads a file of at most limit bytes; one that is not there is empty. Files of /sys and /dev tell no size, so the
// bound is on what comes.
func File(path string, limit int) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	b, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	if len(b) > limit {
		return nil, fmt.Errorf("more than %d bytes", limit)
	}
	return b, nil
}
