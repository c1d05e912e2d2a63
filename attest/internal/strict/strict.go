// Package strict reads files and decodes foreign CBOR within a bound that its caller names. Evidence and its frames are
// compared and hashed, so the bytes must be exactly those that the value encodes to, which is what
// [signed.Decode] takes.
package strict

import (
	"fmt"

	"github.com/consilium-fl/consilium/internal/signed"
)

// Decode reads b, of at most limit bytes, into v, a pointer to a zero value.
func Decode(b []byte, limit int, v any) error {
	if len(b) > limit {
		return fmt.Errorf("decoding %T: %d bytes, want at most %d", v, len(b), limit)
	}
	return signed.Decode(b, v)
}
