package tdx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/google/go-configfs-tsm/configfs/configfsi"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
	fake "github.com/consilium-fl/consilium/attest/testtee/intel"
)

// tree is the kernel's configfs-tsm with the provider tdx_guest (drivers/virt/coco/guest/report.c and
// drivers/virt/coco/tdx-guest): an entry counts the writes to it, has a quote made when it is read and older than the
// last write, takes 64 bytes and no fewer, and knows no privilege level.
type tree struct {
	mu       sync.Mutex
	provider string
	entries  map[string]*entry
	made     int
	quotes   int
	quote    func(data [64]byte) ([]byte, error)
	wrote    func(e *entry) // what another process does then
}

type entry struct {
	written, read uint64
	in, out       []byte
}

const reports = configfsi.TsmPrefix + "/report"

func failed(op, name string, err error) error { return &fs.PathError{Op: op, Path: name, Err: err} }

func (t *tree) MkdirTemp(dir, pattern string) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case dir != reports:
		return "", failed("mkdir", dir, syscall.ENOENT)
	case t.provider == "":
		return "", failed("mkdir", dir, syscall.ENXIO)
	}
	t.made++
	name := pattern + strconv.Itoa(t.made)
	t.entries[name] = &entry{}
	return path.Join(dir, name), nil
}

func (t *tree) at(name string) (*entry, string) {
	dir, attribute := path.Split(name)
	return t.entries[path.Base(dir)], attribute
}

func (t *tree) ReadFile(name string) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, attribute := t.at(name)
	if e == nil {
		return nil, failed("open", name, syscall.ENOENT)
	}
	switch attribute {
	case "generation":
		return fmt.Appendf(nil, "%d\n", e.written), nil
	case "provider":
		return []byte(t.provider + "\n"), nil
	case "outblob":
		if len(e.in) == 0 {
			return nil, failed("read", name, syscall.EINVAL)
		}
		if e.out == nil || e.read != e.written {
			t.quotes++
			var err error
			if e.out, err = t.quote([64]byte(e.in)); err != nil {
				e.out = nil
				return nil, failed("read", name, err)
			}
			e.read = e.written
		}
		return bytes.Clone(e.out), nil
	case "inblob":
		return nil, failed("open", name, syscall.EACCES)
	}
	return nil, failed("open", name, syscall.ENOENT)
}

func (t *tree) WriteFile(name string, b []byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, attribute := t.at(name)
	switch {
	case e == nil || attribute == "privlevel":
		return failed("open", name, syscall.ENOENT)
	case attribute != "inblob":
		return failed("open", name, syscall.EACCES)
	case len(b) != 64:
		return failed("write", name, syscall.EINVAL)
	}
	e.in = bytes.Clone(b)
	e.written++
	if t.wrote != nil {
		t.wrote(e)
	}
	return nil
}

func (t *tree) ReadDir(string) ([]os.DirEntry, error) { return nil, syscall.ENOTSUP }

func (t *tree) RemoveAll(name string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.entries[path.Base(name)] == nil {
		return failed("rmdir", name, syscall.ENOENT)
	}
	delete(t.entries, path.Base(name))
	return nil
}

// td is a machine with a firmware that measured.
type td struct {
	intel *fake.Intel
	m     fake.Machine
	log   *fake.EventLog
	tree  *tree
	a     attester
}

func newTD(t *testing.T) *td {
	t.Helper()
	x := &td{intel: fake.New(nil), m: fake.NewMachine(), log: fake.NewEventLog()}
	x.log.Measure(0, 0xa, [48]byte{1}, []byte("ACPI DATA"))
	pck := x.intel.PCK(x.m)
	x.tree = &tree{provider: "tdx_guest", entries: map[string]*entry{}, quote: func(data [64]byte) ([]byte, error) {
		td := fake.NewTD(data)
		td.RTMR = x.log.RTMR
		return append(x.intel.Quote(pck, td), make([]byte, 100)...), nil
	}}
	x.a = attester{x.tree, filepath.Join(t.TempDir(), "CCEL")}
	x.write(t, append(bytes.Clone(x.log.Bytes), bytes.Repeat([]byte{0xff}, 1<<16)...))
	return x
}

func (x *td) write(t *testing.T, log []byte) {
	t.Helper()
	if err := os.WriteFile(x.a.ccel, log, 0o600); err != nil {
		t.Fatal(err)
	}
}

func binding() attest.Binding {
	var b attest.Binding
	b.Role = attest.RoleNode
	for i, f := range []*[32]byte{&b.Nonce, &b.Exporter, &b.OwnKey, &b.PeerKey, &b.Study, &b.KeyList, &b.Config} {
		f[0] = byte(i + 1)
	}
	return b
}

// TestAttest goes from the kernel's interface to a verdict.
func TestAttest(t *testing.T) {
	x := newTD(t)
	e, err := x.a.Attest(context.Background(), binding())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(e.Endorsements[attest.CCEL], x.log.Bytes) {
		t.Errorf("the event log has %d bytes, want %d", len(e.Endorsements[attest.CCEL]), len(x.log.Bytes))
	}
	if len(x.tree.entries) != 0 {
		t.Errorf("%d entries are left behind", len(x.tree.entries))
	}
	trust, err := endorse.New(x.intel.Trust(x.m))
	if err != nil {
		t.Fatal(err)
	}
	want, err := binding().ReportData(nil)
	if err != nil {
		t.Fatal(err)
	}
	upToDate, all := attest.SetOf(attest.TDXUpToDate), attest.AnySet()
	p := attest.Policy{Role: attest.RoleNode, Accept: []attest.Format{attest.FormatTDX}, Machines: all, Measurements: all, TDX: &attest.TDXPolicy{
		Platform: upToDate, Module: upToDate, QE: upToDate, MinTCBDate: "any", Attributes: all, XFAM: all, MRSEAM: all, MRConfigID: all, MROwner: all, MROwnerConfig: all,
		MRServiceTD: all, RTMR0: all, RTMR1: all, RTMR2: all, RTMR3: all, Replay: attest.Required, Events: attest.SetOf(attest.TDXEventACPI),
	}}
	got := attest.NewVerifiers(NewVerifier()).Check(e, attest.Inputs{Now: fake.Now(), ReportData: &want, Trust: trust}, p)
	if got.Status != attest.Affirming {
		t.Errorf("got %s: %v", got.Status, got.Reasons)
	}
}

// TestAttestUnderTrouble says what the kernel and the host can do, and what comes of it.
func TestAttestUnderTrouble(t *testing.T) {
	disturb := func(times int) func(*td) {
		return func(x *td) {
			x.tree.wrote = func(e *entry) {
				if times--; times >= 0 {
					e.written++
					e.in = make([]byte, 64)
				}
			}
		}
	}
	busy := func(times int, err error) func(*td) {
		return func(x *td) {
			quote := x.tree.quote
			x.tree.quote = func(data [64]byte) ([]byte, error) {
				if times--; times >= 0 {
					return nil, err
				}
				return quote(data)
			}
		}
	}
	for _, c := range []struct {
		name   string
		change func(*td)
		asked  int
		want   string // in the error; empty: evidence
	}{
		{"nothing", func(*td) {}, 1, ""},
		{"another process once", disturb(1), 2, ""},
		{"another process always", disturb(100), maxTries, "generation"},
		{"the host is busy", busy(2, syscall.EBUSY), 3, ""},
		{"the host never answers", busy(100, syscall.ETIMEDOUT), maxTries, "try 4"},
		{"the host refuses", busy(1, syscall.EIO), 1, "input/output error"},
		{"no provider", func(x *td) { x.tree.provider = "" }, 0, "create report entry"},
		{"an SNP guest", func(x *td) { x.tree.provider = "sev_guest" }, 1, `"sev_guest"`},
		{"a quote over other data", func(x *td) {
			quote := x.tree.quote
			x.tree.quote = func([64]byte) ([]byte, error) { return quote([64]byte{9}) }
		}, 1, "other data"},
		{"no quote", func(x *td) { x.tree.quote = func([64]byte) ([]byte, error) { return []byte("EREPORT"), nil } }, 1, attest.CodeParseVersion},
		{"an event log without end", func(x *td) { x.write(t, make([]byte, attest.MaxEventLog+1)) }, 1, "event log"},
		{"no event log", func(x *td) { x.a.ccel += ".none" }, 1, ""},
		{"an event log that is none", func(x *td) { x.write(t, []byte("CCEL")) }, 1, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newTD(t)
			c.change(x)
			synctest.Test(t, func(t *testing.T) {
				_, err := x.a.Attest(context.Background(), binding())
				if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
					t.Errorf("got %v, want %q", err, c.want)
				}
			})
			if x.tree.quotes != c.asked || len(x.tree.entries) != 0 {
				t.Errorf("asked %d times, want %d; %d entries left", x.tree.quotes, c.asked, len(x.tree.entries))
			}
		})
	}
	t.Run("nobody waits any more", func(t *testing.T) {
		x := newTD(t)
		busy(100, syscall.EBUSY)(x)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := x.a.Attest(ctx, binding()); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no binding", func(t *testing.T) {
		x := newTD(t)
		if _, err := x.a.Attest(context.Background(), attest.Binding{}); err == nil || x.tree.quotes != 0 {
			t.Errorf("got %v, asked %d times", err, x.tree.quotes)
		}
	})
}

func TestProbe(t *testing.T) {
	for _, c := range []struct {
		name        string
		change      func(*td)
		tsm, device error
		want        []string // names of what is not as it should be
	}{
		{"a TD", func(*td) {}, nil, nil, nil},
		{"a laptop", func(*td) {}, fs.ErrNotExist, fs.ErrNotExist, []string{"tdx", devicePath, "configfs-tsm"}},
		{"an SNP guest", func(x *td) { x.tree.provider = "sev_guest" }, nil, fs.ErrNotExist, []string{"tdx", devicePath, "configfs-tsm"}},
		{"no service on the host", func(x *td) { x.tree.quote = func([64]byte) ([]byte, error) { return nil, syscall.EIO } }, nil, nil, []string{"quote"}},
		{"a debug TD", func(x *td) {
			x.tree.quote = func(data [64]byte) ([]byte, error) {
				td := fake.NewTD(data)
				td.Attributes[0], td.RTMR = 1, x.log.RTMR
				return x.intel.Quote(x.intel.PCK(x.m), td), nil
			}
		}, nil, nil, []string{"debug"}},
		{"no event log", func(x *td) { x.a.ccel += ".none" }, nil, nil, []string{"event log"}},
		{"an event log that is none", func(x *td) { x.write(t, []byte("CCEL")) }, nil, nil, []string{"event log"}},
		{"an event log of before", func(x *td) { x.log.RTMR[0][0] ^= 1 }, nil, nil, []string{"event log"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newTD(t)
			c.change(x)
			var got []string
			for _, f := range x.a.probe(context.Background(), c.tsm, c.device) {
				if !f.OK {
					got = append(got, f.Name)
				}
				if f.Name == "" || !strings.HasSuffix(f.Text, ".") {
					t.Errorf("no sentence: %+v", f)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// TestOutside asks on whatever machine this is: most are no TD, and all say so in sentences.
func TestOutside(t *testing.T) {
	if fs := Probe(context.Background()); len(fs) < 3 || fs[0].Name != "tdx" {
		t.Errorf("got %+v", fs)
	}
	if _, err := os.Stat(reports); err == nil {
		return
	}
	if _, err := NewAttester(); err == nil || !strings.Contains(err.Error(), "configfs-tsm") {
		t.Errorf("got %v", err)
	}
}
