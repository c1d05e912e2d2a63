package snpmeasure

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// guid is one in the byte order of UEFI: the first three of its groups turned round.
type guid [16]byte

func parseGUID(s string) (g guid) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != len(g) {
		panic("snpmeasure: no GUID: " + s)
	}
	slices.Reverse(b[0:4])
	slices.Reverse(b[4:6])
	slices.Reverse(b[6:8])
	return guid(b)
}

// entry appends a table entry as QEMU writes them: GUID, length of the whole, contents.
func (g guid) entry(b, contents []byte) []byte {
	b = append(b, g[:]...)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(g)+2+len(contents)))
	return append(b, contents...)
}

// The tables at the end of OVMF (edk2, OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm), and those that QEMU gives to it.
var (
	footerID    = parseGUID("96b582de-1fb2-45f7-baea-a366c55a082d")
	resetID     = parseGUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e") // where other CPUs than the first start
	metadataID  = parseGUID("dc886566-984a-4798-a75e-5585a7bf67cc")
	hashesID    = parseGUID("7255371f-3a3b-4b04-927b-1da6efa8d454") // where the hashes of kernel and so on are to be
	hashTableID = parseGUID("9438d606-4f22-4cc9-b479-a793d411fd21")
	kernelID    = parseGUID("4de79437-abd2-427f-b835-d5b172d2045b")
	initrdID    = parseGUID("44baf731-3a2f-4bd7-9af1-41e29169781d")
	cmdlineID   = parseGUID("97d02dd8-bd20-4c94-aa78-e7714d36ab2a")
)

const (
	footerFromEnd = 32     // bytes between the footer and the end
	entryHeader   = 16 + 2 // GUID and length; in the footer they come last
	hashTableSize = entryHeader + 3*(entryHeader+32)

	metadataMagic   = "ASEV"
	metadataVersion = 1
	metadataHeader  = 16
	sectionSize     = 12
	maxSections     = 64
	maxPages        = 1 << 16 // of all sections together: 256 MiB
)

// The kinds of a section (edk2, OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm).
const (
	secMem     = 1
	secSecrets = 2
	secCPUID   = 3
	secSVSM    = 4 // calling area of an SVSM, which is zero where there is none
	secHashes  = 0x10
)

// section is a range of the guest's memory that the hypervisor has to prepare.
type section struct{ gpa, size, kind uint32 }

// firmware is what of OVMF decides about the measurement, besides its bytes.
type firmware struct {
	sections  []section
	resetEIP  uint32 // zero if it names none
	hashTable uint32 // address of the hashes, zero if it has no place for them
}

// checksKernel says whether a page of the metadata holds the hashes.
func (f firmware) checksKernel() bool {
	return slices.ContainsFunc(f.sections, func(s section) bool {
		return s.kind == secHashes && s.size == pageSize && s.gpa == f.hashTable&^(pageSize-1)
	}) && f.hashTable%pageSize <= pageSize-hashTableSize
}

func parseFirmware(b []byte) (f firmware, err error) {
	if len(b) == 0 || len(b) > maxFirmware || len(b)%pageSize != 0 {
		return f, fmt.Errorf("%d bytes, want whole pages of %d, at most %d bytes", len(b), pageSize, maxFirmware)
	}
	table, err := parseFooter(b)
	if err != nil {
		return f, err
	}
	for id, to := range map[guid]*uint32{resetID: &f.resetEIP, hashesID: &f.hashTable} {
		if *to, err = table.number(id); err != nil {
			return f, err
		}
	}
	fromEnd, err := table.number(metadataID)
	if err != nil {
		return f, err
	}
	if fromEnd == 0 || int64(fromEnd) > int64(len(b)) {
		return f, errors.New("no SEV metadata: it cannot start an SNP guest")
	}
	f.sections, err = parseMetadata(b[len(b)-int(fromEnd):])
	return f, err
}

// footer is the table at the end of OVMF, by GUID.
type footer map[guid][]byte

// number reads the first 32 bits of an entry; zero if there is no such entry.
func (t footer) number(id guid) (uint32, error) {
	b, ok := t[id]
	if !ok {
		return 0, nil
	}
	if len(b) < 4 {
		return 0, fmt.Errorf("table entry of %d bytes, want 4 at least", len(b))
	}
	return binary.LittleEndian.Uint32(b), nil
}

// parseFooter reads the table from its end to its begin, for that is how it can be found.
func parseFooter(b []byte) (footer, error) {
	rest := b[:len(b)-footerFromEnd]
	id, size := header(rest)
	if id != footerID {
		return nil, errors.New("no table of OVMF at its end")
	}
	if size < entryHeader || size > len(rest) {
		return nil, fmt.Errorf("table of %d bytes, want %d to %d", size, entryHeader, len(rest))
	}
	rest = rest[len(rest)-size : len(rest)-entryHeader]
	t := footer{}
	for len(rest) > 0 {
		if len(rest) < entryHeader {
			return nil, fmt.Errorf("%d bytes before the first table entry", len(rest))
		}
		id, size := header(rest)
		if size < entryHeader || size > len(rest) {
			return nil, fmt.Errorf("table entry of %d bytes, want %d to %d", size, entryHeader, len(rest))
		}
		if _, twice := t[id]; twice {
			return nil, fmt.Errorf("table entry %x twice", id)
		}
		t[id] = rest[len(rest)-size : len(rest)-entryHeader]
		rest = rest[:len(rest)-size]
	}
	return t, nil
}

// header reads the end of an entry, where its head is.
func header(b []byte) (id guid, size int) {
	return guid(b[len(b)-16:]), int(binary.LittleEndian.Uint16(b[len(b)-entryHeader:]))
}

func parseMetadata(b []byte) ([]section, error) {
	if len(b) < metadataHeader || string(b[:4]) != metadataMagic {
		return nil, fmt.Errorf("SEV metadata without %q", metadataMagic)
	}
	size, version, count := binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint32(b[12:])
	if version != metadataVersion {
		return nil, fmt.Errorf("SEV metadata of version %d, want %d", version, metadataVersion)
	}
	if count > maxSections || size != metadataHeader+count*sectionSize || int64(size) > int64(len(b)) {
		return nil, fmt.Errorf("SEV metadata of %d bytes with %d sections, want at most %d that fit", size, count, maxSections)
	}
	var out []section
	pages := uint64(0)
	for b = b[metadataHeader:size]; len(b) > 0; b = b[sectionSize:] {
		s := section{binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint32(b[8:])}
		if err := s.check(); err != nil {
			return nil, err
		}
		if pages += uint64(s.size / pageSize); pages > maxPages {
			return nil, fmt.Errorf("SEV metadata of more than %d pages", maxPages)
		}
		out = append(out, s)
	}
	return out, nil
}

func (s section) check() error {
	switch {
	case s.gpa%pageSize != 0 || s.size%pageSize != 0 || s.size == 0:
		return fmt.Errorf("section at %#x of %#x bytes, want whole pages", s.gpa, s.size)
	case uint64(s.gpa)+uint64(s.size) > fourGiB:
		return fmt.Errorf("section at %#x of %#x bytes, want its end below 4 GiB", s.gpa, s.size)
	case !slices.Contains([]uint32{secMem, secSecrets, secCPUID, secSVSM, secHashes}, s.kind):
		return fmt.Errorf("section of kind %#x, which is not known", s.kind)
	case s.kind != secMem && s.size != pageSize:
		return fmt.Errorf("section of kind %#x and %#x bytes, want one page", s.kind, s.size)
	}
	return nil
}
