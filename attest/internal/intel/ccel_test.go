package intel

import (
	"bytes"
	"crypto/sha512"
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/google/go-eventlog/register"
	"github.com/google/go-eventlog/tcg"

	"github.com/consilium-fl/consilium/attest"
	fake "github.com/consilium-fl/consilium/attest/testtee/intel"
)

// TestRealEventLogs are replayed to the values that go-eventlog reaches, and to those that its authors read off the
// machines.
func TestRealEventLogs(t *testing.T) {
	known := map[string][3]string{
		"cos-113-intel-tdx.bin": {"3fa2f61f395b7f5f", "f62dbc072bd5d3f3", "4969684dc87381fc"},
		"gdc-tdx.bin":           {"4655ef03c877b3d7", "bf86aac140c10507", "b65f8202d0d3c967"},
	}
	names := map[string][]string{
		"cos-113-intel-tdx.bin":     {"acpi", "secure-boot", "secure-boot-db", "secure-boot-auth", "kernel-cmdline!", "boot-image", "td-hob", "grub-command!"},
		"gdc-tdx.bin":               {"acpi", "secure-boot", "kernel-cmdline!", "initrd", "kernel-cmdline"},
		"event_log.bin":             {"acpi", "kernel-cmdline"},
		"CCEL_unpadded.data.bin":    {"acpi", "kernel-cmdline"},
		"ubuntu-2404-intel-tdx.bin": {"acpi", "kernel-cmdline!", "partition-table!", "secure-boot-dbx!"},
	}
	for name, b := range eventLogs(t) {
		got, err := Replay(b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var mrs []register.MR
		for i, r := range got.Replay {
			if r != nil {
				mrs = append(mrs, register.RTMR{Index: i, Digest: r})
			}
		}
		if _, err := tcg.ParseAndReplay(b, mrs, tcg.ParseOpts{AllowPadding: true}); err != nil {
			t.Errorf("%s: go-eventlog: %v", name, err)
		}
		for i, want := range known[name] {
			if r := got.Replay[i].String(); !strings.HasPrefix(r, want) {
				t.Errorf("%s: RTMR%d: got %s, want %s…", name, i, r, want)
			}
		}
		for _, want := range names[name] {
			want, proven := strings.CutSuffix(want, "!")
			if !slices.ContainsFunc(got.Events, func(e attest.TDXEvents) bool { return e.Name == want && (e.Proven || !proven) }) {
				t.Errorf("%s: no %s among %+v", name, want, got.Events)
			}
		}
	}
}

func digestOf(b []byte) [48]byte { return sha512.Sum384(b) }

// variable is UEFI_VARIABLE_DATA.
func variable(name string, data ...byte) []byte {
	units := utf16.Encode([]rune(name))
	b := append(make([]byte, 16), byte(len(units)), 0, 0, 0, 0, 0, 0, 0, byte(len(data)), 0, 0, 0, 0, 0, 0, 0)
	for _, u := range units {
		b = append(b, byte(u), byte(u>>8))
	}
	return append(b, data...)
}

// TestNames says what an event is called, and when that is proven.
func TestNames(t *testing.T) {
	for _, c := range []struct {
		kind   uint32
		data   []byte
		digest [48]byte
		want   string
		proven bool
	}{
		{evVariableDriver, variable("SecureBoot", 1), digestOf(variable("SecureBoot", 1)), "secure-boot", true},
		{evVariableDriver, variable("SecureBoot", 1), digestOf(variable("SecureBoot", 0)), "", false},
		{evVariableDriver, variable("dbx"), digestOf(variable("dbx")), "secure-boot-dbx", true},
		{evVariableDriver, []byte("short"), digestOf([]byte("short")), "", true},
		{evSeparator, make([]byte, 4), digestOf(make([]byte, 4)), "separator", true},
		{evSeparator, make([]byte, 4), digestOf([]byte("an option ROM")), "", false},
		{evIPL, []byte("kernel_cmdline: quiet\x00"), digestOf([]byte("quiet")), "kernel-cmdline", true},
		{evIPL, []byte("kernel_cmdline: quiet\x00"), digestOf([]byte("init=/bin/sh")), "", false},
		{evIPL, []byte("/initrd.img\x00"), [48]byte{1}, "initrd", false},
		{evIPL, []byte("MokList\x00"), [48]byte{1}, "mok", false},
		{evPlatformConfig, []byte("ACPI DATA"), [48]byte{1}, "acpi", false},
		{evEventTag, []byte("\xed\x22\x3b\x8f\x1a\x00\x00\x00LOADED_IMAGE::LoadOptions\x00"), [48]byte{1}, "kernel-cmdline", false},
		{0x77, []byte("ACPI DATA"), [48]byte{1}, "", false},
	} {
		log := fake.NewEventLog()
		log.Measure(1, c.kind, c.digest, c.data)
		got, err := Replay(log.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if e := got.Events[0]; len(got.Events) != 1 || e.Name != c.want || e.Proven != c.proven || e.RTMR != 1 || e.Count != 1 {
			t.Errorf("%x %q: got %+v, want %q, %t", c.kind, c.data, got.Events, c.want, c.proven)
		}
		if !bytes.Equal(got.Replay[1], log.RTMR[1][:]) || got.Replay[0] != nil {
			t.Errorf("got %v, want %x", got.Replay, log.RTMR[1])
		}
	}
}

// TestHostileEventLogs are refused with a code and an offset.
func TestHostileEventLogs(t *testing.T) {
	good := func(change func(*fake.EventLog)) []byte {
		log := fake.NewEventLog()
		log.Measure(0, evSeparator, [48]byte{1}, []byte{0, 0, 0, 0})
		change(log)
		return log.Bytes
	}
	header := len(fake.NewEventLog().Bytes)
	with := func(at int, bytes ...byte) []byte {
		return good(func(l *fake.EventLog) { copy(l.Bytes[at:], bytes) })
	}
	for _, c := range []struct {
		name string
		log  []byte
		code string
	}{
		{"empty", nil, attest.CodeParseBounds},
		{"too long", make([]byte, attest.MaxEventLog+1), attest.CodeParseLength},
		{"cut in the header", good(func(*fake.EventLog) {})[:40], attest.CodeParseBounds},
		{"cut in an event", good(func(l *fake.EventLog) { l.Bytes = l.Bytes[:len(l.Bytes)-1] }), attest.CodeParseBounds},
		{"of TPM 1.2", with(32, 'x'), attest.CodeParseEncoding},
		{"size of the header", with(28, 0xff, 0xff, 0xff, 0xff), attest.CodeParseBounds},
		{"algorithms", with(32+24, 0xff, 0xff, 0xff, 0xff), attest.CodeParseBounds},
		{"no SHA-384", with(32+28, 0x0b), attest.CodeParseEncoding},
		{"register 5", with(header, 5), attest.CodeParseEncoding},
		{"register 0", with(header, 0), attest.CodeParseEncoding},
		{"digests", with(header+8, 2), attest.CodeParseBounds},
		{"no digest", with(header+8, 0), attest.CodeParseBounds},
		{"another algorithm", with(header+12, 4), attest.CodeParseEncoding},
		{"size of the data", with(header+12+50, 0xff, 0xff, 0xff, 0xff), attest.CodeParseBounds},
		{"filled and more", good(func(l *fake.EventLog) {
			l.Bytes = append(append(l.Bytes, bytes.Repeat([]byte{0xff}, 40)...), 1)
		}), attest.CodeParseTail},
	} {
		_, err := Replay(c.log)
		var r attest.Reason
		if !errors.As(err, &r) || r.Code != c.code || !strings.HasPrefix(r.Path, "ccel") {
			t.Errorf("%s: got %v, want %s", c.name, err, c.code)
		}
	}
	for _, filler := range []byte{0, 0xff} {
		if _, err := Replay(good(func(l *fake.EventLog) { l.Bytes = append(l.Bytes, bytes.Repeat([]byte{filler}, 1<<16)...) })); err != nil {
			t.Errorf("filled with %x: %v", filler, err)
		}
	}
}

// TestManyEvents bounds what a log of the greatest size comes to.
func TestManyEvents(t *testing.T) {
	log := fake.NewEventLog()
	one := len(log.Bytes)
	log.Measure(0, 0x1000, [48]byte{1}, nil)
	one = len(log.Bytes) - one
	for i := uint32(1); len(log.Bytes)+one <= attest.MaxEventLog; i++ {
		log.Write(int(i%4), 0x1000+i, [48]byte{1}, nil)
	}
	got, err := Replay(log.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Events) != 4 {
		t.Errorf("got %d kinds of event, want one a register", len(got.Events))
	}
}
