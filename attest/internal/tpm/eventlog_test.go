package tpm

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"testing"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/testtee/tpm"
)

func registersOf(dev *tpm.TPM) map[int]attest.HexBytes {
	out := map[int]attest.HexBytes{}
	for i, v := range dev.Registers() {
		out[i] = v
	}
	return out
}

func booted() *tpm.TPM {
	dev := tpm.New(tpm.Key())
	dev.Boot(true)
	return dev
}

func TestReplay(t *testing.T) {
	dev := booted()
	dev.Extend(9, sha256.Sum256([]byte("by the running system")))
	dev.Extend(11, sha256.Sum256([]byte("and where the firmware never was")))
	l, err := replay(dev.Log, registersOf(dev))
	if err != nil || !slices.Equal(l.Unexplained, []int{9}) || !slices.Equal(l.PCRs, []int{0, 1, 2, 3, 4, 5, 6, 7}) {
		t.Errorf("%+v, %v", l, err)
	}

	// TPM2_Startup from locality 3, then the same after an H-CRTM.
	for _, tc := range []struct {
		start byte
		kind  uint32
	}{{3, evSCRTMVersion}, {4, evHCRTM}} {
		dev = tpm.New(tpm.Key())
		dev.Values[0][31] = tc.start
		if tc.kind != evHCRTM {
			dev.Event(0, evNoAction, [32]byte{}, []byte("StartupLocality\x00\x03"))
		}
		dev.Measure(0, tc.kind, []byte("crtm"))
		if _, err := replay(dev.Log, registersOf(dev)); err != nil {
			t.Errorf("started with %d: %v", tc.start, err)
		}
	}
}

func TestReplayRefused(t *testing.T) {
	dev := booted()
	quoted := registersOf(dev)
	headerEnd := len(tpm.New(tpm.Key()).Log)
	for i := range dev.Log { // row 58: also where an event ends
		if _, err := replay(dev.Log[:i], quoted); code(t, err) != "tpm.event_log" {
			t.Fatalf("row 58 log cut after %d bytes: %v", i, err)
		}
	}
	for name, log := range map[string][]byte{
		"a tail":        append(bytes.Clone(dev.Log), 0),
		"padding":       append(bytes.Clone(dev.Log), bytes.Repeat([]byte{0xff}, 64)...),
		"no header":     dev.Log[headerEnd:],
		"SHA-1 alone":   append(make([]byte, 28), 4, 0, 0, 0, 0, 0, 0, 0),
		"large":         make([]byte, attest.MaxEventLog+1),
		"an event more": func() []byte { o := booted(); o.Event(7, 4, sha256.Sum256(nil), nil); return o.Log }(),
	} {
		if _, err := replay(log, quoted); code(t, err) != "tpm.event_log" {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := headerEnd; i < len(dev.Log); i++ {
		log := bytes.Clone(dev.Log)
		log[i] ^= 1
		l, err := replay(log, quoted)
		if err == nil && (l.SecureBoot != nil && !*l.SecureBoot) {
			t.Fatalf("byte %d turned: secure boot is off", i)
		}
	}
	for i := range firmwarePCRs {
		other := registersOf(dev)
		delete(other, i)
		if _, err := replay(dev.Log, other); code(t, err) != "tpm.event_log" {
			t.Errorf("register %d not quoted: %v", i, err)
		}
	}
}

// TestSecureBootCannotBeToldLater: the running system may measure that secure boot is on, and call what the
// firmware measured something else.
func TestSecureBootCannotBeToldLater(t *testing.T) {
	on, off := tpm.SecureBoot(true), tpm.SecureBoot(false)
	for name, measure := range map[string]func(*tpm.TPM){
		"the second of two": func(d *tpm.TPM) { d.Measure(7, evVariableConfig, off); d.Measure(7, evVariableConfig, on) },
		"the first as an action": func(d *tpm.TPM) {
			d.MeasureAs(7, 0x80000007, sha256.Sum256(off), []byte("harmless"))
			d.Measure(7, evVariableConfig, on)
		},
		"other data beside the digest": func(d *tpm.TPM) { d.MeasureAs(7, evVariableConfig, sha256.Sum256(off), on) },
		"another kind":                 func(d *tpm.TPM) { d.Measure(7, 0x0d, on) },
		"another variable":             func(d *tpm.TPM) { d.Measure(7, evVariableConfig, append(bytes.Clone(on[:32]), on[34:]...)) },
		"two":                          func(d *tpm.TPM) { v := bytes.Clone(on); v[len(v)-1] = 2; d.Measure(7, evVariableConfig, v) },
		"nothing":                      func(*tpm.TPM) {},
	} {
		dev := tpm.New(tpm.Key())
		measure(dev)
		l, err := replay(dev.Log, registersOf(dev))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if l.SecureBoot != nil && *l.SecureBoot {
			t.Errorf("%s: secure boot is on", name)
		}
	}
}

func TestFirmwareVersion(t *testing.T) {
	for _, tc := range []struct {
		want string
		data []byte
	}{
		{"ab", []byte("a\x00b\x00\x00\x00")},
		{"616200", []byte("ab\x00")},
		{"1b001b00", []byte("\x1b\x00\x1b\x00")},
		{"", bytes.Repeat([]byte("a\x00"), 200)},
	} {
		dev := tpm.New(tpm.Key())
		dev.Measure(0, evSCRTMVersion, tc.data)
		if l, err := replay(dev.Log, registersOf(dev)); err != nil || l.Firmware != tc.want {
			t.Errorf("%q: %+v, %v; want %q", tc.data, l, err, tc.want)
		}
	}
}

func FuzzEventLog(f *testing.F) {
	dev := booted()
	f.Add(dev.Log)
	f.Add(tpm.New(tpm.Key()).Log)
	quoted := registersOf(dev)
	f.Fuzz(func(t *testing.T, log []byte) {
		l, err := replay(log, quoted)
		// The kinds of events are hearsay, so a log may tell less.
		if err == nil && (l.SecureBoot != nil && !*l.SecureBoot || l.Firmware != "" && l.Firmware != "test firmware v1") {
			t.Fatalf("another account of the same registers: %+v", l)
		}
	})
}

func BenchmarkReplay(b *testing.B) {
	dev := booted()
	quoted := registersOf(dev)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := replay(dev.Log, quoted); err != nil {
			b.Fatal(err)
		}
	}
}
