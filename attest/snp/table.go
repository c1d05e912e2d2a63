package snp

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// Bounds of a table: the kernel takes 16 KiB from the host, which fills four entries of it.
const (
	maxTable   = 64 << 10
	maxEntries = 32
	entrySize  = 24
)

// tableNames are the certificates of a table that a verifier uses (GHCB specification 56421, section 4.1.8.1). An ASVK
// is under the name of the ASK.
var tableNames = map[string]string{
	"63da758de6644564adc5f4b93be8accd": "vcek",
	"a8074bc2a25a483eaae639c045a0b8a1": "vlek",
	"4ab7b379bbac4fe4a02f05aef327c782": "ask",
	"c0b406a4a803495297433fb6014cd0ae": "ark",
}

// ParseCertificates reads the table in which a host hands certificates to its guest, which appends it to the report in
// many tools' files. It returns them by the names that Evidence.Endorsements has; what else is in the table is left
// out. An empty table has none.
func ParseCertificates(table []byte) (map[string][]byte, error) {
	if len(table) > maxTable {
		return nil, fmt.Errorf("parsing certificate table: %d bytes, want at most %d", len(table), maxTable)
	}
	out := map[string][]byte{}
	if len(table) == 0 {
		return out, nil
	}
	entries, err := entriesOf(table)
	if err != nil {
		return nil, fmt.Errorf("parsing certificate table: %w", err)
	}
	header := uint64(len(entries)+1) * entrySize
	for i, e := range entries {
		from, size := uint64(binary.LittleEndian.Uint32(e[16:])), uint64(binary.LittleEndian.Uint32(e[20:]))
		if from < header || from+size > uint64(len(table)) {
			return nil, fmt.Errorf("parsing certificate table: entry %d: bytes %d to %d, want within %d to %d", i, from, from+size, header, len(table))
		}
		name, ok := tableNames[hex.EncodeToString(e[:16])]
		if !ok || size == 0 {
			continue
		}
		if out[name] != nil {
			return nil, fmt.Errorf("parsing certificate table: entry %d: a second %s", i, name)
		}
		out[name] = append([]byte{}, table[from:from+size]...)
	}
	return out, nil
}

// entriesOf cuts the head of a table, which ends with an entry of zeros.
func entriesOf(table []byte) ([][]byte, error) {
	var out [][]byte
	for len(table) >= entrySize && len(out) <= maxEntries {
		if [entrySize]byte(table) == [entrySize]byte{} {
			return out, nil
		}
		out = append(out, table[:entrySize])
		table = table[entrySize:]
	}
	return nil, fmt.Errorf("%d entries, and no end of them, want at most %d", len(out), maxEntries)
}
