package channel

import (
	"bytes"
	"encoding/binary"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/consilium-fl/consilium/attest"
)

func framed(body []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

func samples(t testing.TB) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for name, f := range map[string]frame{
		"hello":   {Hello: &Hello{Version: 1, Role: attest.RoleNode, Study: [32]byte{1}, Nonce: [32]byte{2}}},
		"proof":   {Proof: &Proof{Record: []byte{1, 2, 3}, Nonce: [32]byte{3}}},
		"logs":    {Proof: &Proof{Record: []byte{1}, Logs: map[string]uint64{"ccel": 3 << 20, "event-log": 1}}},
		"log":     {Log: &Log{Part: []byte{1}}},
		"verdict": {Verdict: &Verdict{OK: true, Until: 1 << 30}},
		"refusal": {Verdict: &Verdict{Reasons: []attest.Reason{{Code: "debug"}}}},
	} {
		var b bytes.Buffer
		if err := writeFrame(&b, f); err != nil {
			t.Fatal(err)
		}
		out[name] = b.Bytes()
	}
	return out
}

func TestReadFrame(t *testing.T) {
	good := samples(t)
	for name, b := range good {
		r := bytes.NewReader(append(slices.Clone(b), "PRI"...))
		if _, err := readFrame(r, MaxFrame); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if rest, _ := io.ReadAll(r); string(rest) != "PRI" {
			t.Errorf("%s: left %q, want what follows the frame", name, rest)
		}
	}
	verdict := good["verdict"][4:]
	for name, tc := range map[string]struct{ in []byte }{
		"nothing":        {nil},
		"half a length":  {[]byte{0, 0}},
		"too long":       {[]byte{0, 4, 0, 1}},
		"cut":            {good["hello"][:20]},
		"empty":          {framed(nil)},
		"no message":     {framed([]byte{0xa0})},
		"two messages":   {framed(append(append([]byte{0xa2}, good["hello"][5:]...), good["proof"][5:]...))},
		"unknown":        {framed([]byte{0xa1, 0x05, 0xa0})},
		"a log of none":  {framed([]byte{0xa1, 0x04, 0xa0})},
		"no logs, twice": {framed([]byte{0xa1, 0x02, 0xa3, 0x01, 0x40, 0x02, 0x58, 0x20, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0x03, 0xa0})},
		"null":           {framed([]byte{0xa1, 0x01, 0xf6})},
		"trailing byte":  {framed(append(slices.Clone(verdict), 0))},
		"indefinite map": {framed(append(append([]byte{0xbf}, verdict[1:]...), 0xff))},
		"long integer":   {framed(append([]byte{0xa1, 0x18, 0x03}, verdict[2:]...))},
		"short nonce":    {framed([]byte{0xa1, 0x02, 0xa2, 0x01, 0x40, 0x02, 0x41, 0x07})},
		"tag":            {framed(append([]byte{0xc1}, verdict...))},
	} {
		if f, err := readFrame(bytes.NewReader(tc.in), MaxFrame); err == nil {
			t.Errorf("%s: read %+v", name, f)
		}
	}
	var b bytes.Buffer
	if err := writeFrame(&b, frame{Proof: &Proof{Record: make([]byte, MaxFrame)}}); err == nil || !strings.Contains(err.Error(), "want at most") {
		t.Errorf("writing too much: %v", err)
	}
}

// TestFrameMemory: a length announced is not a length allocated.
func TestFrameMemory(t *testing.T) {
	head := []byte{0, 4, 0, 0, 0xa1}
	const reads = 64
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range reads {
		_, _ = readFrame(bytes.NewReader(head), MaxFrame)
	}
	runtime.ReadMemStats(&after)
	if n := (after.TotalAlloc - before.TotalAlloc) / reads; n > 16<<10 {
		t.Errorf("%d bytes for a frame that never came", n)
	}
}

func FuzzReadFrame(f *testing.F) {
	for _, b := range samples(f) {
		f.Add(b)
	}
	f.Add([]byte{0, 4, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := readFrame(bytes.NewReader(b), MaxFrame)
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := writeFrame(&again, got); err != nil || !bytes.HasPrefix(b, again.Bytes()) {
			t.Fatalf("%x reads as %+v, which is written as %x, %v", b, got, again.Bytes(), err)
		}
		if got.Verdict != nil {
			_ = (&Refused{Reasons: heard(got.Verdict.Reasons)}).Error()
		}
		if got.Proof != nil {
			_, _ = attest.ParseRecord(got.Proof.Record)
		}
	})
}
