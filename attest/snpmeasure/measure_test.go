package snpmeasure

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/consilium-fl/consilium/attest"
)

// amdsev is what decides about the measurement in OVMF's build for AMD SEV with kernel hashes, and plain what does in
// the builds of Constellation: the facts behind the vectors that others publish.
var (
	amdsev = firmware{
		sections: []section{
			{0x800000, 0x9000, secMem},
			{0x80a000, 0x3000, secMem},
			{0x80d000, 0x1000, secSecrets},
			{0x80e000, 0x1000, secCPUID},
			{0x80f000, 0x1000, secSVSM},
			{0x810000, 0x1000, secHashes},
			{0x811000, 0xf000, secMem},
		},
		resetEIP: 0x80b004, hashTable: 0x810c00,
	}
	plain = firmware{
		sections: []section{
			{0x800000, 0x9000, secMem},
			{0x80a000, 0x3000, secMem},
			{0x80d000, 0x1000, secSecrets},
			{0x80e000, 0x1000, secCPUID},
			{0x80f000, 0x11000, secMem},
		},
		resetEIP: 0x80b004,
	}
)

// The digests after the firmware alone, to go on from.
const (
	amdsevSeed = "086e2e9149ebf45abdc3445fba5b2da8270bdbb04094d7a2c37faaa4b24af3aa16aff8c374c2a55c467a50da6d466b74"
	plainSeed1 = "a58211791a556a630a4319dc9e2ea96cc0e9784dd9f20a4fadf81b26c98d163fcdcb6703884bbbb80d7b1de45b3d84d0"
	plainSeed2 = "2027a27bb9f7acfd280e4c7bd68a73973b94bf0756e5b282e004b9395f597b8d0eb4defa7d8f6549375aa4d2b146f0f3"
)

// TestPublished has the vectors of the tests of github.com/virtee/sev-snp-measure 0.0.13, and of
// github.com/virtee/sev-snp-measure-go for EC2 as it was.
func TestPublished(t *testing.T) {
	none := func() *Kernel { return nil }
	empty := func(cmdline string) func() *Kernel {
		return func() *Kernel { return &Kernel{strings.NewReader(""), strings.NewReader(""), cmdline} }
	}
	const snp, both = FeatureSNP, FeatureSNP | FeatureDebugSwap
	for _, tc := range []struct {
		vmm      VMM
		vcpus    int
		features uint64
		firmware firmware
		seed     string
		kernel   func() *Kernel
		want     string
	}{
		{QEMU, 1, both, amdsev, amdsevSeed, none, "e1e1ca029dd7973ab9513295be68198472dcd4fc834bd9af9b63f6e8a1674dbf281a9278a4a2ebe0eed9f22adbcd0e2b"},
		{QEMU, 1, snp, amdsev, amdsevSeed, none, "19358ba9a7615534a9a1e2f0dfc29384dcd4dcb7062ff9c6013b26869a5fc6ecabe033c48dd6f6db5d6d76e7c5df632d"},
		{QEMU, 1, both, amdsev, amdsevSeed, empty(""), "329c8ce0972ae52343b64d34a434a86f245dfd74f5ed7aae15d22efc78fb9683632b9b50e4e1d7fa41179ef98a7ef198"},
		{QEMU, 1, snp, amdsev, amdsevSeed, empty(""), "ddc5224521617a536ee7ce9dd6224d1b58a8d4fda1c741f3ac99fc4bfa04ba6e9fc98646d4a07a9079397fa3852819b5"},
		{QEMU, 1, both, amdsev, amdsevSeed, empty("console=ttyS0 loglevel=7"), "803f691094946e42068aaa3a8f9e26a5c89f36f7b73ecfb28c653360fe4b3aba7e534442e7e1e17895dfe778d0228977"},
		{QEMU, 1, snp, amdsev, amdsevSeed, empty("console=ttyS0 loglevel=7"), "6d287813eb5222d770f75005c664e34c204f385ce832cc2ce7d0d6f354454362f390ef83a92046c042e706363b4b08fa"},
		{QEMU, 4, both, amdsev, amdsevSeed, empty(""), "4953b1fb416fa874980e8442b3706d345926d5f38879134e00813c5d7abcbe78eafe7b422907be0b4698e2414a631942"},
		{QEMU, 4, snp, amdsev, amdsevSeed, empty(""), "5061fffb019493a903613d56d54b94912a1a2f9e4502385f5c194616753720a92441310ba6c4933de877c36e23046ad5"},
		{EC2, 1, both, amdsev, amdsevSeed, empty(""), "0ce9ccc06bab55eebe8abc234f3df6514883977a68a591b71052498ab52b2f1aa415db338033946ef93aa8278c0d67fb"},
		{EC2, 1, snp, amdsev, amdsevSeed, empty(""), "0883bd0eeb716e65b7b977a321c278d1e51b33b5c655fab985443bbcc65c086b9c15e8a0bd8811050dec7e24964e5056"},
		{GCE, 1, snp, amdsev, amdsevSeed, empty(""), "5da7106cf14cf46b1725ebab123eb9e53bd46a1e9f400cd0c08e7827b04b688ea8b4e403c8404efed4397ea5d5d0722e"},
		{GCE, 4, snp, amdsev, amdsevSeed, empty(""), "5c5debf100fc339f90276e761ee1f1658d08922c3b20e2a2e6c7a6c3370b2452a15a00eae11886a93d6fd1e7ab81e29d"},
		{EC2Until2026, 2, snp, plain, plainSeed1, none, "4c6e33087d08fa770259484dddbef367086a15c3e2cf10038dc97229d39c942671c2e22b300178f8de594a3f2fa59303"},
		{EC2Until2026, 2, snp, plain, plainSeed2, none, "c2c84b9364fc9f0f54b04534768c860c6e0e386ad98b96e8b98eca46ac8971d05c531ba48373f054c880cfd1f4a0a84e"},
	} {
		b, err := hex.DecodeString(tc.seed)
		if err != nil {
			t.Fatal(err)
		}
		d := digest{[48]byte(b)}
		got, err := d.launch(tc.firmware, Launch{VMM: tc.vmm, VCPUs: tc.vcpus, CPU: NewSignature(23, 1, 2), Features: tc.features, Kernel: tc.kernel()})
		if err != nil || got != attest.Measurement("sha384:"+tc.want) {
			t.Errorf("%s with %d CPUs and features %#x: %s, %v; want %s", tc.vmm, tc.vcpus, tc.features, got, err, tc.want)
		}
	}
}

// image builds firmware of four pages around what decides.
func image(f firmware) []byte {
	b := make([]byte, 4*pageSize)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	meta := append([]byte(metadataMagic), make([]byte, 12)...)
	for i, v := range []uint32{uint32(metadataHeader + len(f.sections)*sectionSize), metadataVersion, uint32(len(f.sections))} {
		binary.LittleEndian.PutUint32(meta[4+4*i:], v)
	}
	for _, s := range f.sections {
		for _, v := range []uint32{s.gpa, s.size, s.kind} {
			meta = binary.LittleEndian.AppendUint32(meta, v)
		}
	}
	const metaFromEnd = 2048
	copy(b[len(b)-metaFromEnd:], meta)
	var table []byte
	for _, e := range []struct {
		id guid
		v  uint32
	}{{metadataID, metaFromEnd}, {hashesID, f.hashTable}, {resetID, f.resetEIP}} {
		table = binary.LittleEndian.AppendUint32(table, e.v)
		table = binary.LittleEndian.AppendUint16(table, entryHeader+4)
		table = append(table, e.id[:]...)
	}
	table = binary.LittleEndian.AppendUint16(table, uint16(len(table)+entryHeader))
	table = append(table, footerID[:]...)
	copy(b[len(b)-footerFromEnd-len(table):], table)
	return b
}

func launch() Launch {
	return Launch{
		Firmware: image(amdsev), VMM: QEMU, VCPUs: 1, CPU: NewSignature(25, 1, 1), Features: FeatureSNP,
		Kernel: &Kernel{strings.NewReader("kernel"), strings.NewReader("initrd"), "console=ttyS0"},
	}
}

// TestMeasure has what sev-snp-measure 0.0.13 prints for the same files.
func TestMeasure(t *testing.T) {
	for _, tc := range []struct {
		vmm    VMM
		vcpus  int
		kernel bool
		want   attest.Measurement
	}{
		{QEMU, 1, false, "sha384:0e1611896c354385fe448638848ed3629774602d3f841721f4ac1a75fe22221dbbd1f0e671ccb654511dbde0a440d0ed"},
		{QEMU, 1, true, "sha384:37dfd5ec90d4e514632a54cbf4ecb7f34f01de289285adb67dc84b88b7e147d90c286d5e47a99dc1e4962ceceee68a30"},
		{QEMU, 4, false, "sha384:6e270b77a3d093c658445d16feaf04c7385a14bf1efe396c29e90115f7a50b3711f6be20f45fd0bca9b3cb22d5f6ff30"},
		{QEMU, 4, true, "sha384:6a5fc9bda88c7fc688442570322cfb59cde03be9b42574178320299d736ae18420cdda9c7d2c574765aad146d542bd75"},
		{EC2, 1, false, "sha384:a4f3125e886d298b7d9f63621c708af715457602a419d3ff82105b23da7d6f8fe9c0fabeb0a3108b470322790a6e0fa1"},
		{EC2, 1, true, "sha384:fffe1acb985fdeac9417d5de92e17b5a55ae079404b6f4898246cdd6e90b09b2f5d76c3eb59a5a708e1d46a736f8ecf8"},
		{EC2, 4, false, "sha384:41908cada392a4546928d889893358df8e9ae8f466b8f2db3ce5c8d494164d5474adfd86aa8e44d9ad7e6e9bf6f60ef1"},
		{EC2, 4, true, "sha384:45cf2eb59666b59fc6dc6f7fbd822605af0c8cae39fbb6ae6f11ba0fee412b15263483d5a4ee1a68c232c3551c27466c"},
		{GCE, 1, false, "sha384:76e25499d857d9b083985766c2a50ab014daf88d268fa2ca079c0e9e6e7f507d577c98655b8eb25be2a67436ad5c96f8"},
		{GCE, 1, true, "sha384:953997445f84e11aa5610fb4b9daacb0f486b37e2c2f8c554240420cb847144449af9f8991af6d9c1673cd42101e1609"},
		{GCE, 4, false, "sha384:102f5e8aa62e8fed6d74e7ef738024ee368fa146b0095d96713f8f00af32552ccfb06af680fc786911c3ca66350bb9ed"},
		{GCE, 4, true, "sha384:38a69d80caf49189a48970902715d9fb756e60209a76e6f2380482677a25df5a93f0eb80b7d4428d4d53e59327ce0104"},
	} {
		l := launch()
		l.VMM, l.VCPUs = tc.vmm, tc.vcpus
		if !tc.kernel {
			l.Kernel = nil
		}
		if got, err := Measure(l); err != nil || got != tc.want {
			t.Errorf("%s with %d CPUs, kernel %t: %s, %v; want %s", tc.vmm, tc.vcpus, tc.kernel, got, err, tc.want)
		}
	}
}

// TestEverythingCounts: what is measured changes the measurement, and nothing else does.
func TestEverythingCounts(t *testing.T) {
	base, err := Measure(launch())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[attest.Measurement]string{base: "the base"}
	for name, change := range map[string]func(*Launch){
		"a byte of the firmware": func(l *Launch) { l.Firmware[0] ^= 1 }, "a CPU more": func(l *Launch) { l.VCPUs++ }, "two CPUs more": func(l *Launch) { l.VCPUs += 2 },
		"another CPU": func(l *Launch) { l.CPU = NewSignature(25, 17, 0) }, "another feature": func(l *Launch) { l.Features |= FeatureDebugSwap },
		"EC2": func(l *Launch) { l.VMM = EC2 }, "EC2 before": func(l *Launch) { l.VMM = EC2Until2026 }, "GCE": func(l *Launch) { l.VMM = GCE },
		"the kernel": func(l *Launch) { l.Kernel.Image = strings.NewReader("kerneL") }, "no initrd": func(l *Launch) { l.Kernel.Initrd = nil },
		"the command line": func(l *Launch) { l.Kernel.Cmdline += " " }, "no kernel": func(l *Launch) { l.Kernel = nil },
		"kernel for initrd": func(l *Launch) { l.Kernel.Image, l.Kernel.Initrd = l.Kernel.Initrd, l.Kernel.Image },
	} {
		l := launch()
		change(&l)
		m, err := Measure(l)
		if err != nil || seen[m] != "" {
			t.Errorf("%s: %v, the measurement of %s", name, err, seen[m])
		}
		seen[m] = name
	}
	for _, vmm := range []VMM{EC2, GCE} {
		a, b := launch(), launch()
		a.VMM, b.VMM, b.CPU = vmm, vmm, 0
		if x, y := must(Measure(a)), must(Measure(b)); x != y {
			t.Errorf("%s: the CPU's model counts", vmm)
		}
	}
}

func must(m attest.Measurement, err error) attest.Measurement {
	if err != nil {
		panic(err)
	}
	return m
}

func TestErrors(t *testing.T) {
	with := func(change func(*firmware)) func(*Launch) {
		return func(l *Launch) {
			f := firmware{slices.Clone(amdsev.sections), amdsev.resetEIP, amdsev.hashTable}
			change(&f)
			l.Firmware = image(f)
		}
	}
	at := func(fromEnd int, b ...byte) func(*Launch) {
		return func(l *Launch) { copy(l.Firmware[len(l.Firmware)-fromEnd:], b) }
	}
	for name, tc := range map[string]struct {
		change func(*Launch)
		want   string
	}{
		"no firmware":        {func(l *Launch) { l.Firmware = nil }, "0 bytes"},
		"part of a page":     {func(l *Launch) { l.Firmware = l.Firmware[1:] }, "want whole pages"},
		"a long firmware":    {func(l *Launch) { l.Firmware = make([]byte, maxFirmware+pageSize) }, "at most"},
		"no OVMF":            {func(l *Launch) { clear(l.Firmware) }, "no table of OVMF"},
		"a long table":       {at(footerFromEnd+entryHeader, 0xff, 0xff), "table of 65535 bytes"},
		"a short table":      {at(footerFromEnd+entryHeader, 1, 0), "table of 1 bytes"},
		"a ragged table":     {at(footerFromEnd+entryHeader, 90, 0), "bytes before the first table entry"},
		"a long entry":       {at(footerFromEnd+2*entryHeader, 0xff, 0), "table entry of 255 bytes"},
		"an empty entry":     {at(footerFromEnd+2*entryHeader, 0, 0), "table entry of 0 bytes"},
		"an entry twice":     {at(footerFromEnd+entryHeader+16, hashesID[:]...), "twice"},
		"no metadata":        {at(footerFromEnd+entryHeader+22+22+22, 0, 0, 0, 0), "no SEV metadata"},
		"metadata elsewhere": {at(footerFromEnd+entryHeader+22+22+22, 0xff, 0xff, 0xff, 0xff), "no SEV metadata"},
		"metadata at an end": {at(footerFromEnd+entryHeader+22+22+22, 3, 0, 0, 0), `without "ASEV"`},
		"other metadata":     {at(2048, 'X'), `without "ASEV"`},
		"another version":    {at(2048-8, 2), "version 2"},
		"many sections":      {at(2048-12, 0xff), "sections"},
		"half a page":        {with(func(f *firmware) { f.sections[0].size = 100 }), "want whole pages"},
		"an odd place":       {with(func(f *firmware) { f.sections[0].gpa++ }), "want whole pages"},
		"an empty section":   {with(func(f *firmware) { f.sections[0].size = 0 }), "want whole pages"},
		"a section too far":  {with(func(f *firmware) { f.sections[0].gpa = 0xfffff000 }), "below 4 GiB"},
		"a huge section":     {with(func(f *firmware) { f.sections[0].size = 0x10001000 }), "pages"},
		"an unknown kind":    {with(func(f *firmware) { f.sections[0].kind = 9 }), "kind 0x9"},
		"two secret pages":   {with(func(f *firmware) { f.sections[2].size *= 2 }), "want one page"},
		"no place for CPUs":  {func(l *Launch) { with(func(f *firmware) { f.resetEIP = 0 })(l); l.VCPUs = 2 }, "no place for them to start"},
		"no kernel hashes":   {with(func(f *firmware) { f.sections = slices.Delete(f.sections, 5, 6) }), "would not be measured"},
		"hashes elsewhere":   {with(func(f *firmware) { f.hashTable = 0x811000 }), "would not be measured"},
		"hashes over an end": {with(func(f *firmware) { f.hashTable = 0x810fff }), "would not be measured"},
		"no CPUs":            {func(l *Launch) { l.VCPUs = 0 }, "0 virtual CPUs"},
		"many CPUs":          {func(l *Launch) { l.VCPUs = maxVCPUs + 1 }, "virtual CPUs"},
		"not SNP":            {func(l *Launch) { l.Features = FeatureDebugSwap }, "want SNP"},
		"no hypervisor":      {func(l *Launch) { l.VMM = "xen" }, `hypervisor "xen"`},
		"a kernel that breaks": {func(l *Launch) {
			l.Kernel.Image = io.MultiReader(strings.NewReader("a"), iotest.ErrReader(errors.New("disk")))
		}, "kernel: disk"},
	} {
		t.Run(name, func(t *testing.T) {
			l := launch()
			tc.change(&l)
			if m, err := Measure(l); err == nil || !strings.Contains(err.Error(), tc.want) || !strings.HasPrefix(err.Error(), "measuring a launch: ") || m != "" {
				t.Errorf("%s, %v; want %q", m, err, tc.want)
			}
		})
	}
}

func TestParseCPU(t *testing.T) {
	for name, want := range map[string]Signature{"EPYC-v4": 0x800f12, "EPYC": 0x800f12, "EPYC-Milan-v2": 0xa00f11, "EPYC-Genoa": 0xa10f10, "EPYC-Turin": 0xb00f00} {
		if got, err := ParseCPU(name); err != nil || got != want {
			t.Errorf("%s: %#x, %v; want %#x", name, got, err, want)
		}
	}
	if got := NewSignature(14, 1, 2); got != 0xe12 {
		t.Errorf("family 14: %#x", got)
	}
	for _, name := range []string{"", "host", "EPYC-v", "EPYC-Milan-vx", "-v1"} {
		if got, err := ParseCPU(name); err == nil {
			t.Errorf("%q: %#x", name, got)
		}
	}
}

func FuzzFirmware(f *testing.F) {
	f.Add(image(amdsev)[3*pageSize:])
	f.Add(image(plain)[3*pageSize:])
	f.Fuzz(func(t *testing.T, b []byte) {
		b = append(make([]byte, (pageSize-len(b)%pageSize)%pageSize), b...)
		fw, err := parseFirmware(b)
		if err != nil {
			return
		}
		if _, err := Measure(Launch{Firmware: b, VMM: QEMU, VCPUs: 1, Features: FeatureSNP}); err != nil {
			t.Fatalf("%+v: %v", fw, err)
		}
		_, _ = Measure(Launch{Firmware: b, VMM: EC2, VCPUs: 2, Features: FeatureSNP, Kernel: &Kernel{}})
	})
}

func BenchmarkMeasure(b *testing.B) {
	l := launch()
	l.Firmware = append(bytes.Repeat([]byte{0xff}, 4<<20-len(l.Firmware)), l.Firmware...)
	l.Kernel, l.VCPUs = nil, 8
	b.SetBytes(int64(len(l.Firmware)))
	for b.Loop() {
		if _, err := Measure(l); err != nil {
			b.Fatal(err)
		}
	}
}
