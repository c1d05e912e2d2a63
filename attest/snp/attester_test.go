package snp

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-configfs-tsm/report"
	"github.com/google/go-sev-guest/abi"

	"github.com/consilium-fl/consilium/attest"
	fake "github.com/consilium-fl/consilium/attest/testtee/amd"
)

// processor is a secure processor and the host's table, behind either interface.
type processor struct {
	opts  fake.Options
	table func(endorsements map[string][]byte) []byte // nil: as hosts write it
	after func(report []byte) []byte                  // changes what the guest gets
	asked int
}

func (p *processor) sign(data [64]byte, vmpl uint32) (report, table []byte) {
	p.asked++
	o := p.opts
	o.ReportData = data
	o.Edit = func(b []byte) {
		binary.LittleEndian.PutUint32(b[0x30:], vmpl)
		if p.opts.Edit != nil {
			p.opts.Edit(b)
		}
	}
	report, endorsements := fake.Shared().Report(o)
	if p.after != nil {
		report = p.after(report)
	}
	if p.table != nil {
		return report, p.table(endorsements)
	}
	return report, tableOf(endorsements)
}

// tableOf writes certificates as a host does, an entry of another kind among them.
func tableOf(certificates map[string][]byte) []byte {
	entries := map[string][]byte{"ecae0c0f950243b1afa20ae2e0d565b6": {8, 0, 0, 0, 0, 0, 0, 0}}
	for guid, name := range tableNames {
		if c := certificates[name]; c != nil {
			entries[guid] = c
		}
	}
	head := make([]byte, (len(entries)+1)*entrySize)
	out := bytes.Clone(head)
	at := 0
	for guid, c := range entries {
		raw, err := hex.DecodeString(guid)
		if err != nil {
			panic(err)
		}
		copy(out[at:], raw)
		binary.LittleEndian.PutUint32(out[at+16:], uint32(len(out)))
		binary.LittleEndian.PutUint32(out[at+20:], uint32(len(c)))
		out = append(out, c...)
		at += entrySize
	}
	return out
}

// tree is the kernel's configfs-tsm (drivers/virt/coco/guest/report.c): an entry counts the writes to it, makes a
// report when one is read that is older than the last write, and says the count to whoever asks.
type tree struct {
	mu       sync.Mutex
	provider string
	floor    uint64
	chip     *processor
	entries  map[string]*entry
	made     int
	wrote    func(e *entry, attribute string) // what another process does then
}

type entry struct {
	written, read uint64
	in            []byte
	level         uint64
	out, aux      []byte
}

func newTree() *tree {
	return &tree{provider: "sev_guest", chip: &processor{}, entries: map[string]*entry{}}
}

const reports = configfsi.TsmPrefix + "/report"

func (t *tree) MkdirTemp(dir, pattern string) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case dir != reports:
		return "", &fs.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOENT}
	case t.provider == "":
		return "", &fs.PathError{Op: "mkdir", Path: dir, Err: syscall.ENXIO}
	}
	t.made++
	name := pattern + strconv.Itoa(t.made)
	t.entries[name] = &entry{level: t.floor}
	return path.Join(dir, name), nil
}

func (t *tree) at(name string) (*entry, string, error) {
	dir, attribute := path.Split(name)
	e, ok := t.entries[path.Base(dir)]
	if !ok || path.Dir(path.Clean(dir)) != reports {
		return nil, "", syscall.ENOENT
	}
	return e, attribute, nil
}

func (t *tree) ReadFile(name string) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, attribute, err := t.at(name)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	switch attribute {
	case "generation":
		return fmt.Appendf(nil, "%d\n", e.written), nil
	case "provider":
		return []byte(t.provider + "\n"), nil
	case "privlevel_floor":
		return fmt.Appendf(nil, "%d\n", t.floor), nil
	case "outblob", "auxblob":
		if len(e.in) == 0 {
			return nil, &fs.PathError{Op: "read", Path: name, Err: syscall.EINVAL}
		}
		if e.out == nil || e.read != e.written {
			var data [64]byte
			copy(data[:], e.in)
			e.out, e.aux = t.chip.sign(data, uint32(e.level))
			e.read = e.written
		}
		if attribute == "outblob" {
			return bytes.Clone(e.out), nil
		}
		return bytes.Clone(e.aux), nil
	case "inblob", "privlevel":
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.EACCES}
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.ENOENT}
}

func (t *tree) WriteFile(name string, b []byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, attribute, err := t.at(name)
	if err != nil {
		return &fs.PathError{Op: "open", Path: name, Err: err}
	}
	switch attribute {
	case "inblob":
		if len(b) > 64 {
			return &fs.PathError{Op: "write", Path: name, Err: syscall.EFBIG}
		}
		e.in = bytes.Clone(b)
	case "privlevel":
		level, err := configfsi.Kstrtouint(b, 10, 32)
		if err != nil || level < t.floor || level > 3 {
			return &fs.PathError{Op: "write", Path: name, Err: syscall.EINVAL}
		}
		e.level = level
	default:
		return &fs.PathError{Op: "open", Path: name, Err: syscall.EACCES}
	}
	e.written++
	if t.wrote != nil {
		t.wrote(e, attribute)
	}
	return nil
}

func (t *tree) ReadDir(string) ([]os.DirEntry, error) { return nil, syscall.ENOTSUP }

func (t *tree) RemoveAll(name string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.entries[path.Base(name)]; !ok {
		return &fs.PathError{Op: "rmdir", Path: name, Err: syscall.ENOENT}
	}
	delete(t.entries, path.Base(name))
	return nil
}

// chardev is /dev/sev-guest and the hypervisor behind it, at the level of the system call.
type chardev struct {
	chip  *processor
	level uint32 // that the guest runs at
}

func (d *chardev) device() device { return device{d.ioctl} }

func (d *chardev) ioctl(command uintptr, g *guestRequest) error {
	if command != ioctlExtReport || g.version != 1 {
		return syscall.ENOTTY
	}
	request := (*extReportRequest)(g.request)
	if request.vmpl < d.level {
		g.exitinfo2 = 0x16 // invalid parameters
		return syscall.EIO
	}
	report, table := d.chip.sign(request.userData, request.vmpl)
	if pages := (len(table) + 4095) / 4096 * 4096; int(request.certsLen) < len(table) {
		request.certsLen = uint32(pages)
		g.exitinfo2 = errTooShort << 32
		return syscall.EIO
	}
	if len(table) > 0 {
		copy(unsafe.Slice((*byte)(request.certs), request.certsLen), table)
	}
	response := (*reportResponse)(g.response)
	binary.LittleEndian.PutUint32(response[4:], uint32(len(report)))
	copy(response[0x20:], report)
	return nil
}

func TestSizesOfTheKernel(t *testing.T) {
	if n := unsafe.Sizeof(guestRequest{}); n != 32 {
		t.Errorf("struct snp_guest_request_ioctl is of %d bytes, want 32", n)
	}
	if n := unsafe.Sizeof(extReportRequest{}); n != 112 {
		t.Errorf("struct snp_ext_report_req is of %d bytes, want 112", n)
	}
	if n := unsafe.Offsetof(extReportRequest{}.certs); n != 96 {
		t.Errorf("struct snp_report_req is of %d bytes, want 96", n)
	}
}

func binding(n byte) attest.Binding {
	d := func(x byte) (d [32]byte) {
		for i := range d {
			d[i] = x
		}
		return d
	}
	return attest.Binding{Role: attest.RoleNode, Nonce: d(n), Exporter: d(2), OwnKey: d(3), PeerKey: d(4), Study: d(5), KeyList: d(6), Config: d(7)}
}

// accepted gives evidence to a verifier that knows the fake AMD.
func accepted(t *testing.T, e attest.Evidence, b attest.Binding) {
	t.Helper()
	s := of(t, e.Statement, e.Endorsements, noon, fakeRoots(t))
	data, err := b.ReportData(nil)
	if err != nil {
		t.Fatal(err)
	}
	s.in.ReportData = &data
	if r := s.check(); r.Status != attest.Affirming {
		t.Errorf("%s for %v", r.Status, r.Reasons)
	}
}

// sources are both interfaces before one processor.
func sources(p *processor) map[string]source {
	t := newTree()
	t.chip = p
	return map[string]source{"tsm": tsm{t}, "device": (&chardev{chip: p}).device()}
}

func TestAttest(t *testing.T) {
	for _, o := range []fake.Options{{}, {Line: fake.Milan}, {Line: fake.Turin}, {VLEK: true}} {
		for name, s := range sources(&processor{opts: o}) {
			a, err := newAttester(s, LowestLevel)
			if err != nil {
				t.Fatal(err)
			}
			e, err := a.Attest(t.Context(), binding(1))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if e.Format != attest.FormatSNP || len(e.Endorsements) != 2 {
				t.Errorf("%s: %q with %d endorsements", name, e.Format, len(e.Endorsements))
			}
			accepted(t, e, binding(1))
		}
	}
}

// TestAttestRefuses: what the host or another process makes of a request is noticed, and said.
func TestAttestRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		p    processor
		vmpl int
		want string
	}{
		"a report over other data":   {processor{opts: fake.Options{Edit: func(b []byte) { b[0x50]++ }}}, LowestLevel, "over other data"},
		"a report of another level":  {processor{opts: fake.Options{Edit: func(b []byte) { b[0x30] = 2 }}}, 1, "from privilege level 2, want 1"},
		"a report of the host":       {processor{opts: fake.Options{Edit: func(b []byte) { b[0x33] = 0xff }}}, LowestLevel, "from privilege level"},
		"a report of version 9":      {processor{opts: fake.Options{Edit: func(b []byte) { b[0] = 9 }}}, LowestLevel, "parse.version"},
		"a table that is none":       {processor{table: func(map[string][]byte) []byte { return bytes.Repeat([]byte{1}, 100) }}, LowestLevel, "parsing certificate table"},
		"a table that points beyond": {processor{table: func(e map[string][]byte) []byte { b := tableOf(e); b[20], b[21], b[22] = 0xff, 0xff, 0xff; return b }}, LowestLevel, "parsing certificate table: entry 0"},
		"level 4":                    {processor{}, 4, "privilege level 4, want 0 to 3"},
	} {
		for kind, s := range sources(&tc.p) {
			var e attest.Evidence
			a, err := newAttester(s, tc.vmpl)
			if err == nil {
				e, err = a.Attest(t.Context(), binding(1))
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) || e.Statement != nil {
				t.Errorf("%s by %s: %v, want %q", name, kind, err, tc.want)
			}
		}
	}
}

func TestNoCertificates(t *testing.T) {
	for kind, s := range sources(&processor{table: func(map[string][]byte) []byte { return nil }}) {
		e, err := attester{s, LowestLevel}.Attest(t.Context(), binding(1))
		if err != nil || len(e.Endorsements) != 0 {
			t.Errorf("%s: %d endorsements, %v", kind, len(e.Endorsements), err)
		}
	}
}

func TestLevels(t *testing.T) {
	for _, tc := range []struct {
		floor uint64
		ask   int
		got   byte
		err   string
	}{
		{0, LowestLevel, 0, ""},
		{0, 3, 3, ""},
		{2, LowestLevel, 2, ""},
		{2, 2, 2, ""},
		{2, 1, 0, "privilege level 1, want at least 2"},
	} {
		k := newTree()
		k.floor = tc.floor
		e, err := attester{tsm{k}, tc.ask}.Attest(t.Context(), binding(1))
		switch {
		case tc.err == "" && (err != nil || e.Statement[0x30] != tc.got):
			t.Errorf("%+v: %v", tc, err)
		case tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err) || k.chip.asked != 0):
			t.Errorf("%+v: %v, after %d reports", tc, err, k.chip.asked)
		}
	}
	d := &chardev{chip: &processor{}, level: 2}
	if _, err := (attester{d.device(), 1}).Attest(t.Context(), binding(1)); err == nil || !strings.Contains(err.Error(), "firmware 0x16") {
		t.Errorf("below the guest's own level: %v", err)
	}
	if e, err := (attester{d.device(), 2}).Attest(t.Context(), binding(1)); err != nil || e.Statement[0x30] != 2 {
		t.Errorf("at the guest's own level: %v", err)
	}
}

// TestAnotherProcess writes into our entry between our write and our read, once and always.
func TestAnotherProcess(t *testing.T) {
	for _, attribute := range []string{"inblob", "privlevel"} {
		k := newTree()
		times := 0
		k.wrote = func(e *entry, a string) {
			if a == attribute && times < 2 {
				times++
				e.in = bytes.Repeat([]byte{0xee}, 64)
				e.written++
			}
		}
		e, err := attester{tsm{k}, 0}.Attest(t.Context(), binding(1))
		if err != nil || times != 2 {
			t.Fatalf("disturbed %d times: %v", times, err)
		}
		accepted(t, e, binding(1))

		k.wrote = func(e *entry, _ string) { e.written++ }
		_, err = attester{tsm{k}, 0}.Attest(t.Context(), binding(1))
		if err == nil || report.GetGenerationErr(err) == nil || !strings.Contains(err.Error(), "disturbed 3 times") {
			t.Errorf("always disturbed: %v", err)
		}
		if len(k.entries) != 0 {
			t.Errorf("%d entries are left", len(k.entries))
		}
	}
}

func TestAttestAtOnce(t *testing.T) {
	k := newTree()
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			e, err := attester{tsm{k}, LowestLevel}.Attest(context.Background(), binding(byte(i+1)))
			if err != nil {
				t.Error(err)
				return
			}
			accepted(t, e, binding(byte(i+1)))
		})
	}
	wg.Wait()
	if len(k.entries) != 0 {
		t.Errorf("%d entries are left", len(k.entries))
	}
}

func TestAttestEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := &processor{}
	for kind, s := range sources(p) {
		if _, err := (attester{s, LowestLevel}).Attest(ctx, binding(1)); !errors.Is(err, context.Canceled) || p.asked != 0 {
			t.Errorf("%s: %v after %d reports", kind, err, p.asked)
		}
		if _, err := (attester{s, LowestLevel}).Attest(t.Context(), attest.Binding{}); err == nil {
			t.Errorf("%s attested the zero binding", kind)
		}
	}
}

func TestOtherProvider(t *testing.T) {
	k := newTree()
	k.provider = "tdx_guest"
	if _, _, err := (tsm{k}).describe(); err == nil || !strings.Contains(err.Error(), `"tdx_guest", want "sev_guest"`) {
		t.Errorf("%v", err)
	}
	if _, err := (attester{tsm{k}, LowestLevel}).Attest(t.Context(), binding(1)); err == nil || !strings.Contains(err.Error(), "tdx_guest") {
		t.Errorf("%v", err)
	}
}

func TestDeviceFailures(t *testing.T) {
	type ioctl = func(uintptr, *guestRequest) error
	fails := func(err error) func(ioctl) ioctl {
		return func(ioctl) ioctl { return func(uintptr, *guestRequest) error { return err } }
	}
	answers := func(change func(*reportResponse)) func(ioctl) ioctl {
		return func(works ioctl) ioctl {
			return func(c uintptr, g *guestRequest) error {
				err := works(c, g)
				change((*reportResponse)(g.response))
				return err
			}
		}
	}
	for name, tc := range map[string]struct {
		wrap func(ioctl) ioctl
		want string
	}{
		"throttled for too long": {fails(syscall.ETIMEDOUT), "timed out"},
		"not permitted":          {fails(syscall.EPERM), "not permitted"},
		"a table without end": {func(ioctl) ioctl {
			return func(_ uintptr, g *guestRequest) error {
				(*extReportRequest)(g.request).certsLen = 1 << 31
				g.exitinfo2 = errTooShort << 32
				return syscall.EIO
			}
		}, "certificate table of 2147483648 bytes"},
		"a status": {answers(func(r *reportResponse) { r[0] = 0x16 }), "status 0x16"},
		"a size":   {answers(func(r *reportResponse) { r[5] = 0xff }), "65440 bytes, want 0 and 1184"},
	} {
		d := (&chardev{chip: &processor{}}).device()
		d.ioctl = tc.wrap(d.ioctl)
		if _, _, err := d.report(t.Context(), [64]byte{1}, 0); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

func TestCertificateTable(t *testing.T) {
	certificates := map[string][]byte{"vcek": {1, 2}, "ask": {3}, "ark": {4, 5, 6}}
	got, err := ParseCertificates(tableOf(certificates))
	if err != nil || len(got) != 3 || !bytes.Equal(got["vcek"], certificates["vcek"]) || !bytes.Equal(got["ark"], certificates["ark"]) {
		t.Errorf("%v, %v", got, err)
	}
	padded := append(tableOf(certificates), make([]byte, 4096)...)
	if got, err := ParseCertificates(padded); err != nil || len(got) != 3 {
		t.Errorf("with the rest of a page: %v, %v", got, err)
	}
	two := append(tableOf(map[string][]byte{"vcek": {1}})[:24], make([]byte, 72)...)
	copy(two[24:], two[:24])
	for i := range 2 {
		raw, _ := hex.DecodeString("63da758de6644564adc5f4b93be8accd")
		copy(two[24*i:], raw)
		binary.LittleEndian.PutUint32(two[24*i+16:], 72)
		binary.LittleEndian.PutUint32(two[24*i+20:], 1)
	}
	for name, table := range map[string][]byte{
		"no end":            bytes.Repeat([]byte{1}, 24*40),
		"cut":               tableOf(certificates)[:30],
		"a second VCEK":     two,
		"too long":          make([]byte, maxTable+1),
		"into its own head": append(append(append([]byte{}, two[:16]...), 0, 0, 0, 0, 8, 0, 0, 0), make([]byte, 24)...),
	} {
		if got, err := ParseCertificates(table); err == nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func FuzzCertificates(f *testing.F) {
	f.Add(tableOf(map[string][]byte{"vcek": {1, 2}, "ask": {3}}))
	f.Add([]byte{})
	f.Add(make([]byte, 48))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ParseCertificates(b)
		var theirs abi.CertTable
		if err == nil && len(b) > 0 {
			if err := theirs.Unmarshal(b); err != nil {
				t.Fatalf("go-sev-guest refuses %x: %v", b, err)
			}
		}
		total := 0
		for _, c := range got {
			total += len(c)
		}
		if total > 4*len(b) {
			t.Fatalf("%d bytes out of %d", total, len(b))
		}
	})
}

func TestProbe(t *testing.T) {
	absent := &fs.PathError{Op: "stat", Path: "x", Err: syscall.ENOENT}
	noDevice := func() (device, error) { return device{}, absent }
	current := fake.Options{TCB: &attest.SNPTCB{Bootloader: 10, SNP: 27, Ucode: 86}}
	works := newTree()
	works.chip.opts = current
	other := newTree()
	other.provider = "tdx_guest"
	broken := newTree()
	broken.chip.opts.Edit = func(b []byte) { b[0x50]++ }
	old := newTree()
	old.chip.opts = fake.Options{Line: fake.Milan, TCB: &attest.SNPTCB{Bootloader: 3, SNP: 8, Ucode: 115}, Edit: func(b []byte) { b[0x0a] |= 8; b[0x3f] = 206 }}
	old.chip.table = func(map[string][]byte) []byte { return nil }
	for name, tc := range map[string]struct {
		client    configfsi.Client
		errTSM    error
		errDevice error
		open      func() (device, error)
		want      string // names of findings, with a minus before those that are not well
		text      string
	}{
		"a guest":              {works, nil, nil, noDevice, "snp configfs-tsm /dev/sev-guest report certificate debug firmware", "asks for reports by configfs-tsm"},
		"an old kernel":        {nil, absent, nil, func() (device, error) { return (&chardev{chip: &processor{opts: current}}).device(), nil }, "snp -configfs-tsm /dev/sev-guest report certificate debug firmware", "by /dev/sev-guest"},
		"no permission":        {nil, absent, nil, func() (device, error) { return device{}, syscall.EACCES }, "-snp -configfs-tsm -/dev/sev-guest", "cannot be opened: permission denied"},
		"no guest":             {nil, absent, absent, noDevice, "-snp -configfs-tsm -/dev/sev-guest", "This machine cannot attest"},
		"a TDX guest":          {other, nil, absent, noDevice, "-snp -configfs-tsm -/dev/sev-guest", `provided by "tdx_guest"`},
		"a broken processor":   {broken, nil, nil, noDevice, "snp configfs-tsm /dev/sev-guest -report", "over other data"},
		"old, debug, no table": {old, nil, nil, noDevice, "snp configfs-tsm /dev/sev-guest report -certificate -debug -firmware", "AMD-SB-3019 is open: ucode is at 115, want 219"},
	} {
		var names, texts []string
		for _, f := range probe(t.Context(), tc.client, tc.errTSM, tc.errDevice, tc.open) {
			n := f.Name
			if !f.OK {
				n = "-" + n
			}
			names = append(names, n)
			texts = append(texts, f.Text)
			if !strings.HasSuffix(f.Text, ".") {
				t.Errorf("%s: %q is no sentence", name, f.Text)
			}
		}
		if got := strings.Join(names, " "); got != tc.want {
			t.Errorf("%s: found %q, want %q", name, got, tc.want)
		}
		if !slices.ContainsFunc(texts, func(s string) bool { return strings.Contains(s, tc.text) }) {
			t.Errorf("%s: %q, want %q among it", name, texts, tc.text)
		}
	}
	if len(Probe(t.Context())) < 3 { // whatever this machine is
		t.Error("a probe of this machine says little")
	}
}
