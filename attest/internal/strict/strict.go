// Package strict decodes foreign CBOR of which there is only one encoding.
//
// [signed.Decode] refuses unknown and duplicate fields, tags and indefinite lengths, yet takes
// integers that are longer than they need be and fills a byte array from a string of another
// length. Evidence and its frames are compared and hashed, so here the bytes must be exactly
// those that the value encodes to.
package strict

import (
	"bytes"
	"fmt"

	"github.com/consilium-fl/consilium/internal/signed"
)

// Decode reads b, of at most limit bytes, into v, a pointer to a zero value.
func Decode(b []byte, limit int, v any) error {
	if len(b) > limit {
		return fmt.Errorf("decoding %T: %d bytes, want at most %d", v, len(b), limit)
	}
	if err := signed.Decode(b, v); err != nil {
		return err
	}
	again, err := signed.Encode(v)
	if err != nil {
		return fmt.Errorf("decoding %T: %w", v, err)
	}
	if !bytes.Equal(again, b) {
		return fmt.Errorf("decoding %T: not in canonical form", v)
	}
	return nil
}
