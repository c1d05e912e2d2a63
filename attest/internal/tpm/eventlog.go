package tpm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"

	"github.com/consilium-fl/consilium/attest"
)

// Constants of the TCG PC Client Platform Firmware Profile 1.06, section 10.
const (
	evNoAction       = 0x00000003
	evSCRTMVersion   = 0x00000008
	evVariableConfig = 0x80000001 // EV_EFI_VARIABLE_DRIVER_CONFIG
	evHCRTM          = 0x80000010

	maxBanks     = 8
	firmwarePCRs = 8 // 0 to 7 are the firmware's
	secureBoot   = 7 // the register of the secure boot variables
)

// event is a TCG_PCR_EVENT2 with its SHA-256 digest.
type event struct {
	pcr, kind uint32
	digest    [sha256.Size]byte
	data      []byte
}

// authentic says whether the digest that was measured is of the data that the log shows. For some kinds of event it
// is of something else, and the data are hearsay.
func (e event) authentic() bool { return e.digest == sha256.Sum256(e.data) }

// replay reads a log and follows it to the registers. Those of the firmware have to come out as they were quoted;
// the others may have gone on after the firmware handed over, and are told apart.
func replay(log []byte, quoted map[int]attest.HexBytes) (*attest.TPMEventLog, error) {
	events, err := parseLog(log)
	if err != nil {
		return nil, err
	}
	out := &attest.TPMEventLog{Events: len(events)}
	for i := range pcrs {
		v, named := follow(events, uint32(i))
		switch got, ok := quoted[i]; {
		case ok && (named || i < firmwarePCRs) && bytes.Equal(got, v[:]):
			out.PCRs = append(out.PCRs, i)
		case i < firmwarePCRs:
			return nil, attest.Reason{
				Code: attest.CodeTPMEventLog, Path: "event-log, register " + strconv.Itoa(i), Got: hex.EncodeToString(v[:]), Want: "the quoted " + got.String(),
			}
		case named:
			out.Unexplained = append(out.Unexplained, i)
		}
	}
	out.SecureBoot = secureBootOf(events)
	out.Firmware = versionOf(events)
	return out, nil
}

// parseLog reads the crypto-agile form (section 10.2). One with SHA-1 digests alone is refused.
func parseLog(log []byte) ([]event, error) {
	r := reader{name: "event-log", code: attest.CodeTPMEventLog, order: binary.LittleEndian, rest: log}
	if len(log) > attest.MaxEventLog {
		return nil, r.bad("", fmt.Sprintf("%d bytes", len(log)), fmt.Sprintf("at most %d", attest.MaxEventLog))
	}
	banks := r.header()
	var events []event
	for r.err == nil && len(r.rest) > 0 {
		events = append(events, r.event(banks))
	}
	return events, r.err
}

// header reads the first event, which is in the old form and says which digests the others carry: their sizes by
// algorithm.
func (r *reader) header() map[uint16]int {
	r.expect("header.pcr", uint64(r.u32()), 0)
	r.expect("header.type", uint64(r.u32()), evNoAction)
	r.take(20) // SHA-1, of nothing
	size := int(r.u32())
	end := r.at + size
	if want := "Spec ID Event03\x00"; string(r.take(len(want))) != want {
		r.fail("header", "another event", strconv.Quote(want)+", which crypto-agile logs begin with")
	}
	r.take(8) // platform class, versions, size of UINTN
	n := r.u32()
	if n > maxBanks {
		r.fail("header.algorithms", fmt.Sprint(n), fmt.Sprintf("at most %d", maxBanks))
		return nil
	}
	banks := map[uint16]int{}
	for range n {
		alg, size := r.u16(), int(r.u16())
		banks[alg] = size
	}
	if banks[algSHA256] != sha256.Size {
		r.fail("header.algorithms", "none with 32 bytes", "SHA-256")
	}
	r.take(int(r.u8())) // vendor's
	if r.err == nil && r.at != end {
		r.fail("header.size", strconv.Itoa(size), "what the event takes")
	}
	return banks
}

func (r *reader) event(banks map[uint16]int) event {
	e := event{pcr: r.u32(), kind: r.u32()}
	if e.pcr >= pcrs {
		r.fail("pcr", fmt.Sprint(e.pcr), "at most 23")
	}
	r.expect("digests", uint64(r.u32()), uint64(len(banks)))
	seen := 0
	for range banks {
		alg := r.u16()
		size, known := banks[alg]
		if !known {
			r.fail("digest.algorithm", fmt.Sprintf("%#04x", alg), "one of the header's")
			return e
		}
		d := r.take(size)
		if alg == algSHA256 && len(d) == sha256.Size {
			e.digest, seen = [sha256.Size]byte(d), seen+1
		}
	}
	if r.err == nil && seen != 1 {
		r.fail("digests", fmt.Sprintf("%d of SHA-256", seen), "1")
	}
	e.data = r.take(int(r.u32()))
	return e
}

// follow gives the value of a register after all its events, and whether it has any.
func follow(events []event, pcr uint32) (v [sha256.Size]byte, named bool) {
	for _, e := range events {
		switch {
		case e.pcr != pcr:
		case e.kind == evNoAction:
			if locality, ok := strings.CutPrefix(string(e.data), "StartupLocality\x00"); ok && pcr == 0 && !named && len(locality) == 1 {
				v[len(v)-1] = locality[0] // section 10.4.5.3
			}
		default:
			if e.kind == evHCRTM && pcr == 0 && !named {
				v = [sha256.Size]byte{len(v) - 1: 4} // measured before TPM2_Startup, from locality 4
			}
			v, named = sha256.Sum256(append(v[:], e.digest[:]...)), true
		}
	}
	return v, named
}

// first is the first thing that was measured into a register. No other event of a log can be told from one that the
// running system made up: it may measure what the firmware would have, and call what the firmware did something else.
func first(events []event, pcr uint32) (event, bool) {
	i := slices.IndexFunc(events, func(e event) bool { return e.pcr == pcr && e.kind != evNoAction })
	if i < 0 || !events[i].authentic() {
		return event{}, false
	}
	return events[i], true
}

// efiGlobalVariable is the GUID 8be4df61-93ca-11d2-aa0d-00e098032b8c as firmware stores it.
var efiGlobalVariable = [16]byte{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}

// secureBootOf reads the variable that begins register 7 (section 3.3.4.8), a UEFI_VARIABLE_DATA.
func secureBootOf(events []event) *bool {
	e, ok := first(events, secureBoot)
	if !ok || e.kind != evVariableConfig {
		return nil
	}
	want := binary.LittleEndian.AppendUint64(efiGlobalVariable[:], uint64(len("SecureBoot")))
	want = binary.LittleEndian.AppendUint64(want, 1)
	for _, c := range "SecureBoot" {
		want = append(want, byte(c), 0)
	}
	if value, ok := bytes.CutPrefix(e.data, want); ok && len(value) == 1 && value[0] <= 1 {
		on := value[0] == 1
		return &on
	}
	return nil
}

// versionOf reads the version that begins register 0: text in UTF-16 or a vendor's own bytes, shown in hex.
func versionOf(events []event) string {
	e, ok := first(events, 0)
	if !ok || e.kind != evSCRTMVersion || len(e.data) > 256 {
		return ""
	}
	if len(e.data)%2 == 0 {
		units := make([]uint16, 0, len(e.data)/2)
		for i := 0; i < len(e.data); i += 2 {
			units = append(units, binary.LittleEndian.Uint16(e.data[i:]))
		}
		text := strings.TrimRight(string(utf16.Decode(units)), "\x00")
		if strings.IndexFunc(text, func(c rune) bool { return c > unicode.MaxASCII || !unicode.IsPrint(c) }) < 0 {
			return text
		}
	}
	return hex.EncodeToString(e.data)
}
