package strict

import (
	"bytes"
	"encoding/pem"
)

// PEM takes the block that b begins with and returns what follows it. pem.Decode alone skips a block that it cannot read,
// and whatever is before one.
func PEM(b []byte) (block *pem.Block, rest []byte, ok bool) {
	const begin, end = "-----BEGIN ", "\n-----END "
	i := bytes.Index(b, []byte(end))
	if i < 0 || !bytes.HasPrefix(b, []byte(begin)) {
		return nil, nil, false
	}
	n := bytes.Index(b[i+len(end):], []byte("-----"))
	if n < 0 {
		return nil, nil, false
	}
	n += i + len(end) + len("-----")
	if bytes.Count(b[:n], []byte(begin)) != 1 {
		return nil, nil, false
	}
	block, _ = pem.Decode(b[:n])
	return block, b[n:], block != nil
}
