package snpmeasure

import (
	"crypto/sha512"
	"encoding/binary"
)

const (
	pageSize = 4096
	fourGiB  = 1 << 32 // where the firmware ends
)

// The types of a page (AMD 56860, section 8.17.2).
const (
	pageNormal     = 1
	pageVMSA       = 2
	pageZero       = 3
	pageUnmeasured = 4
	pageSecrets    = 5
	pageCPUID      = 6
)

// vmsaGPA stands for the address of a VMSA page, which has none in the guest: −1, page-aligned, of 52 bits.
const vmsaGPA = 0xFFFFFFFFF000

// digest is the launch digest as it grows: SHA-384 over a PAGE_INFO of each page (AMD 56860, section
// 8.17.2), in which the digest until then is the first field.
type digest struct{ current [48]byte }

func (d *digest) update(kind byte, gpa uint64, contents [48]byte) {
	const size = 0x70
	info := make([]byte, 0, size)
	info = append(info, d.current[:]...)
	info = append(info, contents[:]...)
	info = binary.LittleEndian.AppendUint16(info, size)
	info = append(info, kind, 0, 0, 0, 0, 0) // no migration image, no permissions of other VMPLs, reserved
	info = binary.LittleEndian.AppendUint64(info, gpa)
	d.current = sha512.Sum384(info)
}

// data adds pages with contents.
func (d *digest) data(gpa uint64, b []byte) {
	for at := 0; at < len(b); at += pageSize {
		d.update(pageNormal, gpa+uint64(at), sha512.Sum384(b[at:at+pageSize]))
	}
}

// empty adds pages whose contents do not count.
func (d *digest) empty(kind byte, s section) {
	for at := uint64(0); at < uint64(s.size); at += pageSize {
		d.update(kind, uint64(s.gpa)+at, [48]byte{})
	}
}

func (d *digest) vmsa(page []byte) { d.update(pageVMSA, vmsaGPA, sha512.Sum384(page)) }
