package intel

import (
	"bytes"
	"cmp"
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/consilium-fl/consilium/attest"
)

// Event types of the log (TCG PC Client Platform Firmware Profile, section 10.4.1).
const (
	evPostCode       = 0x1
	evNoAction       = 0x3
	evSeparator      = 0x4
	evEventTag       = 0x6
	evPlatformConfig = 0xa
	evIPL            = 0xd
	evVariableDriver = 0x80000001
	evVariableBoot   = 0x80000002
	evBootServices   = 0x80000003
	evGPT            = 0x80000006
	evAction         = 0x80000007
	evFirmwareBlob2  = 0x8000000a
	evHandoffTables2 = 0x8000000b
	evVariableAuth   = 0x800000e0
)

var eventTypes = map[uint32]string{
	evPostCode: "EV_POST_CODE", evSeparator: "EV_SEPARATOR", 0x5: "EV_ACTION", evEventTag: "EV_EVENT_TAG", 0x7: "EV_S_CRTM_CONTENTS",
	0x8: "EV_S_CRTM_VERSION", 0x9: "EV_CPU_MICROCODE", evPlatformConfig: "EV_PLATFORM_CONFIG_FLAGS", 0xb: "EV_TABLE_OF_DEVICES", evIPL: "EV_IPL",
	0xe: "EV_IPL_PARTITION_DATA", evVariableDriver: "EV_EFI_VARIABLE_DRIVER_CONFIG", evVariableBoot: "EV_EFI_VARIABLE_BOOT",
	evBootServices: "EV_EFI_BOOT_SERVICES_APPLICATION", 0x80000004: "EV_EFI_BOOT_SERVICES_DRIVER", 0x80000005: "EV_EFI_RUNTIME_SERVICES_DRIVER",
	evGPT: "EV_EFI_GPT_EVENT", evAction: "EV_EFI_ACTION", 0x80000008: "EV_EFI_PLATFORM_FIRMWARE_BLOB", 0x80000009: "EV_EFI_HANDOFF_TABLES",
	evFirmwareBlob2: "EV_EFI_PLATFORM_FIRMWARE_BLOB2", evHandoffTables2: "EV_EFI_HANDOFF_TABLES2", 0x8000000c: "EV_EFI_VARIABLE_BOOT2",
	evVariableAuth: "EV_EFI_VARIABLE_AUTHORITY",
}

const (
	algSHA384 = 0xc
	maxAlgs   = 8
	endOfLog  = 0xffffffff // as index of a register: what firmware fills the rest of its buffer with
)

// event is one of the log that was measured.
type event struct {
	rtmr   int
	kind   uint32
	digest []byte // SHA-384
	data   []byte
}

// eventLog walks over a CC event log: TCG_PCR_EVENT2 structures (TCG PC Client Platform Firmware Profile, section
// 10.2.2) behind a Specification ID event.
type eventLog struct {
	parser
	sizes map[int]int // of digests, by TCG algorithm
}

func (l *eventLog) fail(code, field, got, want string) error {
	return reason(code, attest.CCEL+"."+field, fmt.Sprintf("%s at offset 0x%x", got, l.off), want)
}

func (l *eventLog) want(field string, n int) error {
	if n > l.rest() {
		return l.fail(attest.CodeParseBounds, field, fmt.Sprintf("%d bytes", n), fmt.Sprintf("at most %d", l.rest()))
	}
	return nil
}

// header reads the Specification ID event, which is in the form of TPM 1.2 (section 10.4.5.1).
func (l *eventLog) header() error {
	if err := l.want("header", 32); err != nil {
		return err
	}
	l.u32() // register
	kind := l.u32()
	l.take(20)
	size := l.u32()
	if err := l.want("header", size); err != nil {
		return err
	}
	h := &eventLog{parser: parser{b: l.b[:l.off+size], off: l.off}}
	l.take(size)
	if err := h.want("header", 28); err != nil {
		return err
	}
	if sig := h.take(16); kind != evNoAction || string(sig) != "Spec ID Event03\x00" {
		return h.fail(attest.CodeParseEncoding, "header", fmt.Sprintf("%q", sig), "Spec ID Event03")
	}
	h.take(8) // platform class and version
	n := h.u32()
	if n > maxAlgs {
		return h.fail(attest.CodeParseBounds, "header.algorithms", fmt.Sprint(n), fmt.Sprintf("at most %d", maxAlgs))
	}
	if err := h.want("header.algorithms", 4*n); err != nil {
		return err
	}
	l.sizes = make(map[int]int, n)
	for range n {
		alg := h.u16()
		l.sizes[alg] = h.u16()
	}
	if l.sizes[algSHA384] != sha512.Size384 {
		return h.fail(attest.CodeParseEncoding, "header.algorithms", "no SHA-384", "SHA-384")
	}
	return nil
}

// next returns the next event, nil at the end.
func (l *eventLog) next() (*event, error) {
	if l.rest() == 0 {
		return nil, nil
	}
	if filled(l.b[l.off:]) {
		return nil, nil
	}
	if err := l.want("event", 12); err != nil {
		return nil, err
	}
	index := l.u32()
	e := &event{rtmr: index - 1, kind: uint32(l.u32())}
	if index == endOfLog {
		return nil, l.fail(attest.CodeParseTail, "tail", "other bytes", "one value up to the end")
	}
	// Register 0 stands for MRTD, which nobody extends once the TD runs.
	if e.rtmr > 3 || e.rtmr < 0 && e.kind != evNoAction {
		return nil, l.fail(attest.CodeParseEncoding, "event.register", fmt.Sprint(index), "1 to 4")
	}
	if err := l.digests(e); err != nil {
		return nil, err
	}
	if err := l.want("event.size", 4); err != nil {
		return nil, err
	}
	size := l.u32()
	if err := l.want("event.data", size); err != nil {
		return nil, err
	}
	e.data = l.take(size)
	return e, nil
}

// filled says whether b is what buffers are filled with: one byte, 0x00 or 0xff.
func filled(b []byte) bool {
	for _, x := range b {
		if x != b[0] {
			return false
		}
	}
	return b[0] == 0 || b[0] == 0xff
}

func (l *eventLog) digests(e *event) error {
	n := l.u32()
	if n == 0 || n > len(l.sizes) {
		return l.fail(attest.CodeParseBounds, "event.digests", fmt.Sprint(n), fmt.Sprintf("1 to %d", len(l.sizes)))
	}
	for range n {
		if err := l.want("event.digests", 2); err != nil {
			return err
		}
		alg := l.u16()
		size, known := l.sizes[alg]
		if !known || alg == algSHA384 && e.digest != nil {
			return l.fail(attest.CodeParseEncoding, "event.digests", fmt.Sprintf("algorithm 0x%x", alg), "one of the header's, once")
		}
		if err := l.want("event.digests", size); err != nil {
			return err
		}
		if d := l.take(size); alg == algSHA384 {
			e.digest = d
		}
	}
	if e.digest == nil {
		return l.fail(attest.CodeParseEncoding, "event.digests", "no SHA-384", "SHA-384")
	}
	return nil
}

// Trim cuts off what firmware fills the rest of its buffer with. What is no event log stays as it is.
func Trim(b []byte) []byte {
	l := &eventLog{parser: parser{b: b}}
	if l.header() != nil {
		return b
	}
	for {
		e, err := l.next()
		if err != nil {
			return b
		}
		if e == nil {
			return b[:l.off]
		}
	}
}

// Replay reads a CC event log and computes the registers that it leads to.
func Replay(b []byte) (*attest.TDXEventLog, error) {
	if len(b) > attest.MaxEventLog {
		return nil, reason(attest.CodeParseLength, attest.CCEL, fmt.Sprintf("%d bytes", len(b)), fmt.Sprintf("at most %d", attest.MaxEventLog))
	}
	l := &eventLog{parser: parser{b: b}}
	if err := l.header(); err != nil {
		return nil, err
	}
	out := &attest.TDXEventLog{}
	counts := map[attest.TDXEvents]int{}
	for {
		e, err := l.next()
		if err != nil {
			return nil, err
		}
		if e == nil {
			break
		}
		if e.kind == evNoAction {
			continue
		}
		r := &out.Replay[e.rtmr]
		if *r == nil {
			*r = make([]byte, sha512.Size384)
		}
		h := sha512.New384()
		h.Write(*r)
		h.Write(e.digest)
		*r = h.Sum((*r)[:0])
		counts[e.describe()]++
	}
	for e, n := range counts {
		e.Count = n
		out.Events = append(out.Events, e)
	}
	slices.SortFunc(out.Events, func(a, b attest.TDXEvents) int {
		return cmp.Or(cmp.Compare(a.RTMR, b.RTMR), cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name), compareBool(a.Proven, b.Proven))
	})
	return out, nil
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// describe names an event. Where firmware measures the event's own text the name holds only if the digest agrees;
// elsewhere it is what the log says.
func (e *event) describe() attest.TDXEvents {
	out := attest.TDXEvents{RTMR: e.rtmr, Type: eventTypes[e.kind], Proven: e.of(e.data)}
	if out.Type == "" {
		out.Type = "unknown"
	}
	switch e.kind {
	case evVariableDriver:
		if out.Proven {
			out.Name = variables[variableName(e.data)]
		}
	case evVariableAuth:
		out.Name = provenName(out.Proven, attest.TDXEventAuthority)
	case evSeparator:
		out.Name = provenName(out.Proven, attest.TDXEventSeparator)
	case evAction:
		out.Name = provenName(out.Proven, attest.TDXEventAction)
	case evGPT:
		out.Name = provenName(out.Proven, attest.TDXEventPartitions)
	case evIPL:
		out.Name, out.Proven = e.grub()
	default:
		out.Name = e.label()
	}
	return out
}

func provenName(proven bool, name string) string {
	if proven {
		return name
	}
	return ""
}

func (e *event) of(text []byte) bool {
	d := sha512.Sum384(text)
	return bytes.Equal(d[:], e.digest)
}

var variables = map[string]string{
	"SecureBoot": attest.TDXEventSecureBoot, "PK": attest.TDXEventPK, "KEK": attest.TDXEventKEK, "db": attest.TDXEventDB, "dbx": attest.TDXEventDBX,
}

// variableName reads UEFI_VARIABLE_DATA: GUID, lengths of name and data, the name in UTF-16.
func variableName(b []byte) string {
	const head = 32
	if len(b) < head {
		return ""
	}
	n := binary.LittleEndian.Uint64(b[16:])
	if n > 16 || len(b) < head+2*int(n) {
		return ""
	}
	units := make([]uint16, n)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(b[head+2*i:])
	}
	return string(utf16.Decode(units))
}

// grub names events of the boot loader: it measures what follows "grub_cmd: " and "kernel_cmdline: ", and of files
// the contents.
func (e *event) grub() (name string, proven bool) {
	text := strings.TrimRight(string(e.data), "\x00")
	kind, rest, found := strings.Cut(text, ": ")
	switch {
	case found && kind == "kernel_cmdline" && e.of([]byte(rest)):
		return attest.TDXEventKernelCmdline, true
	case found && kind == "grub_cmd" && e.of([]byte(rest)):
		return attest.TDXEventGrubCommand, true
	case strings.HasPrefix(text, "MokList"):
		return attest.TDXEventMOK, false
	case strings.Contains(text, "initrd"):
		return attest.TDXEventInitrd, false
	case strings.Contains(text, "/"):
		return attest.TDXEventFile, false
	}
	return "", false
}

// label is what the log calls an event that was measured from elsewhere.
func (e *event) label() string {
	has := func(s string) bool { return bytes.Contains(e.data[:min(len(e.data), 64)], []byte(s)) }
	switch {
	case e.kind == evHandoffTables2 && has("TdxTable"):
		return attest.TDXEventTDHOB
	case e.kind == evFirmwareBlob2:
		return attest.TDXEventFirmware
	case e.kind == evVariableBoot:
		return attest.TDXEventBootVariable
	case e.kind == evBootServices:
		return attest.TDXEventImage
	case e.kind == evEventTag && has("LOADED_IMAGE::LoadOptions"), e.kind == evPlatformConfig && has("Command Line"):
		return attest.TDXEventKernelCmdline
	case e.kind == evEventTag && has("Linux initrd"):
		return attest.TDXEventInitrd
	case (e.kind == evPlatformConfig || e.kind == evPostCode) && (has("ACPI DATA") || has("etc/acpi/tables")):
		return attest.TDXEventACPI
	}
	return ""
}

// eventLog replays the log that came along, if one did.
func (v *verification) eventLog(b []byte) {
	if b == nil {
		return
	}
	log, err := Replay(b)
	if err != nil {
		v.reasons = append(v.reasons, err)
		return
	}
	v.claims.TDX.EventLog = log
}
