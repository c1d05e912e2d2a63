package tpm

import (
	"encoding/binary"
	"fmt"

	"github.com/consilium-fl/consilium/attest"
)

// reader reads numbers of one byte order, and keeps the first thing that is wrong.
type reader struct {
	name, code string
	order      binary.ByteOrder
	rest       []byte
	at         int
	err        error
}

func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.rest) {
		r.fail("", fmt.Sprintf("%d bytes more", len(r.rest)), fmt.Sprint(n))
	}
	if r.err != nil {
		return make([]byte, 8) // enough for the numbers below; nobody uses what it holds
	}
	b := r.rest[:n:n]
	r.rest, r.at = r.rest[n:], r.at+n
	return b
}

func (r *reader) u8() uint8   { return r.take(1)[0] }
func (r *reader) u16() uint16 { return r.order.Uint16(r.take(2)) }
func (r *reader) u32() uint32 { return r.order.Uint32(r.take(4)) }
func (r *reader) u64() uint64 { return r.order.Uint64(r.take(8)) }

// sized reads a TPM2B: a length of two bytes, and as many bytes.
func (r *reader) sized(field string, most int) []byte {
	n := int(r.u16())
	if n > most {
		r.fail(field, fmt.Sprintf("%d bytes", n), fmt.Sprintf("at most %d", most))
	}
	if r.err != nil {
		return nil
	}
	return r.take(n)
}

func (r *reader) expect(field string, got, want uint64) {
	if got != want {
		r.fail(field, fmt.Sprintf("%#x", got), fmt.Sprintf("%#x", want))
	}
}

func (r *reader) fail(field, got, want string) { r.failWith(r.code, field, got, want) }

func (r *reader) failWith(code, field, got, want string) {
	if r.err == nil {
		reason := r.bad(field, got, want)
		reason.Code = code
		r.err = reason
	}
}

// bad is a reason that says where: "tpm-quote.magic, before byte 4".
func (r *reader) bad(field, got, want string) attest.Reason {
	path := r.name
	if field != "" {
		path += "." + field
	}
	return attest.Reason{Code: r.code, Path: fmt.Sprintf("%s, before byte %d", path, r.at), Got: got, Want: want}
}

// end refuses what is left over.
func (r *reader) end() error {
	if r.err == nil && len(r.rest) > 0 {
		r.fail("", fmt.Sprintf("%d bytes more", len(r.rest)), "the end")
	}
	return r.err
}
