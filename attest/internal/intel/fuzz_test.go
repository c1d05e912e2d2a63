package intel

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
	fake "github.com/consilium-fl/consilium/attest/testtee/intel"
	"github.com/consilium-fl/consilium/attest/testtee/shared"
)

// quotes are real ones where they are, and made ones.
func quotes(t testing.TB) [][]byte {
	t.Helper()
	x, m := fake.New(nil), fake.NewMachine()
	td := fake.NewTD([64]byte{1})
	out := [][]byte{x.Quote(x.PCK(m), td)}
	td.Version = 4
	out = append(out, x.Quote(x.PCK(m), td))
	return append(out, shared.Seeds(t, "tdx/*.quote.bin")...)
}

// coded says whether every error of a verification is a reason.
func coded(err error) bool {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			if !coded(e) {
				return false
			}
		}
		return true
	}
	var r attest.Reason
	return err == nil || errors.As(err, &r) && r.Code != ""
}

func FuzzVerify(f *testing.F) {
	x, m := fake.New(nil), fake.NewMachine()
	trust, err := endorse.New(x.Trust(m))
	if err != nil {
		f.Fatal(err)
	}
	good := x.Quote(x.PCK(m), fake.NewTD([64]byte{1}))
	f.Add(good)
	for _, q := range quotes(f) {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Verify(b, nil, attest.Inputs{Now: fake.Now(), Trust: trust})
		if !coded(err) {
			t.Errorf("an error without a code: %v", err)
		}
		if err == nil && c.ReportData != [64]byte{1} {
			t.Errorf("takes what nobody signed: %x", c.ReportData)
		}
	})
}

func FuzzQuote(f *testing.F) {
	for _, q := range quotes(f) {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := parseQuote(b)
		if err != nil {
			if !coded(err) {
				t.Errorf("an error without a code: %v", err)
			}
			return
		}
		if len(b) > maxQuote {
			t.Errorf("takes %d bytes", len(b))
		}
		q.claims()
		if c, err := parseChain(q.chain); err == nil {
			_, _ = parsePCK(c.leaf) // panics, if anything
		}
	})
}

func FuzzChain(f *testing.F) {
	for _, q := range quotes(f) {
		if q, err := parseQuote(q); err == nil {
			f.Add(q.chain)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := parseChain(b); err == nil && strings.Count(string(b), "-----BEGIN CERTIFICATE-----") > 3 {
			t.Errorf("takes more than three: %v", c.leaf.Subject)
		}
	})
}

// TestChainSkipsNothing puts a block that cannot be read before a good chain.
func TestChainSkipsNothing(t *testing.T) {
	q, err := parseQuote(quotes(t)[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseChain(q.chain); err != nil {
		t.Fatal(err)
	}
	const unreadable = "-----BEGIN CERTIFICATE-----\nA*==\n-----END CERTIFICATE-----\n"
	if _, err := parseChain(append([]byte(unreadable), q.chain...)); err == nil {
		t.Error("a block that cannot be read was skipped")
	}
}

func FuzzExtension(f *testing.F) {
	x := fake.New(nil)
	for _, der := range [][]byte{x.PCK(fake.NewMachine()).Cert.Raw, leafOf(f)} {
		if c, err := x509.ParseCertificate(der); err == nil {
			for _, e := range c.Extensions {
				if e.Id.Equal(oidSGX) {
					f.Add(e.Value)
				}
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parseSGX(b)
		if err == nil && (len(p.fmspc) != 6 || len(p.pceID) != 2 || len(p.ppid) != 16 || p.piid != nil && len(p.piid) != 16) {
			t.Errorf("takes %+v", p)
		}
	})
}

func leafOf(t testing.TB) []byte {
	t.Helper()
	for _, q := range shared.Seeds(t, "tdx/v4-phala.quote.bin") {
		block, _ := pem.Decode(q[strings.Index(string(q), "-----BEGIN"):])
		return block.Bytes
	}
	return nil
}

func FuzzCollateral(f *testing.F) {
	x, m := fake.New(nil), fake.NewMachine()
	for _, s := range append(shared.Seeds(f, "tdx/*tcbinfo.json", "tdx/*qeidentity.json"), x.TCBInfo(fake.NewTCBInfo(m)), x.QEIdentity(fake.NewQEIdentity())) {
		var o map[string]json.RawMessage
		if err := json.Unmarshal(s, &o); err != nil {
			f.Fatal(err)
		}
		for _, body := range []string{"tcbInfo", "enclaveIdentity"} {
			if o[body] != nil {
				f.Add([]byte(o[body]))
			}
		}
	}
	f.Add([]byte(`{"id":"TDX","x":[[[[[[[[[[1]]]]]]]]]]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		info, identity := parseTCBInfo(b), parseQEIdentity(b)
		if (info != nil || identity != nil) && !json.Valid(b) {
			t.Errorf("takes what is no JSON: %q", b)
		}
		if info == nil {
			return
		}
		info.platform(&pck{}, [16]byte{})
		for _, version := range []byte{0, 1, 3} {
			if m := info.moduleOf(version); m != nil {
				svnTCB(m.levels, m.id, 0, info.number)
			}
		}
		var head struct {
			FMSPC string `json:"fmspc"`
		}
		if err := json.Unmarshal(b, &head); err != nil || len(head.FMSPC) != 12 {
			t.Errorf("another reader has %q, %v", head.FMSPC, err)
		}
	})
}

func FuzzEventLog(f *testing.F) {
	log := fake.NewEventLog()
	log.Measure(0, evSeparator, [48]byte{1}, []byte{0, 0, 0, 0})
	log.Measure(2, evIPL, [48]byte{1}, []byte("kernel_cmdline: quiet\x00"))
	f.Add(log.Bytes)
	for _, b := range eventLogs(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := Replay(b)
		if err != nil {
			if !coded(err) {
				t.Errorf("an error without a code: %v", err)
			}
			return
		}
		for _, e := range got.Events {
			if got.Replay[e.RTMR] == nil || e.Count < 1 {
				t.Errorf("an event of a register that was not replayed: %+v", e)
			}
		}
	})
}

// eventLogs are real ones, which go-eventlog has among its tests' data.
func eventLogs(t testing.TB) map[string][]byte {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/google/go-eventlog").Output()
	if err != nil {
		t.Skipf("go-eventlog's folder is absent: %v", err)
	}
	out := map[string][]byte{}
	folder := filepath.Join(strings.TrimSpace(string(dir)), "testdata", "eventlogs", "ccel")
	for _, name := range []string{"cos-113-intel-tdx.bin", "cos-113-intel-tdx-dupe-separator-unpadded.bin", "cs251200CCEL", "event_log.bin", "gdc-tdx.bin", "ubuntu-2404-intel-tdx.bin", "CCEL_unpadded.data.bin"} {
		b, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			t.Skipf("go-eventlog's data are absent: %v", err)
		}
		out[name] = b
	}
	return out
}
