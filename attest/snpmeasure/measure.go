// Package snpmeasure computes the launch measurement that the report of an SEV-SNP guest should have, from what the
// guest is started with:
//
//	m, err := snpmeasure.Measure(snpmeasure.Launch{
//		Firmware: ovmf, Kernel: &snpmeasure.Kernel{Image: k, Initrd: i, Cmdline: "console=ttyS0"},
//		VMM: snpmeasure.QEMU, VCPUs: 4, CPU: cpu, Features: snpmeasure.FeatureSNP,
//	})
//
// The chip hashes each page that the hypervisor gives it before the guest runs (AMD 56860, section 8.17.2): the
// firmware, the pages that the firmware's SEV metadata names, the hashes of kernel, initial RAM disk and command line
// where the firmware checks them, and the first state of each virtual CPU. So the measurement depends on the
// hypervisor, on the number of virtual CPUs and, under QEMU, on their model. Firmware under an SVSM and IGVM files
// are measured otherwise, and not here.
package snpmeasure

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/consilium-fl/consilium/attest"
)

// Bounds of what is measured.
const (
	maxFirmware = 16 << 20 // bytes
	maxKernel   = 4 << 30  // bytes of kernel or initial RAM disk: QEMU tells the guest its size in 32 bits
	maxVCPUs    = 4096
)

// Bits of SEV_FEATURES (AMD 24593, table B-4).
const (
	FeatureSNP       = 1 << 0
	FeatureDebugSwap = 1 << 5 // what KVM sets besides, where its module's debug_swap is on
)

// Launch is what a guest is started with.
type Launch struct {
	Firmware []byte  // OVMF, whole: with SEV metadata, and with the variables if they are in the same file
	Kernel   *Kernel // nil when the guest boots from a disk, which is not measured
	VMM      VMM
	VCPUs    int
	CPU      Signature // of the virtual CPU; EC2 and GCE do not measure it
	Features uint64    // SEV_FEATURES of each virtual CPU, FeatureSNP among them
}

// Kernel is what QEMU starts directly (-kernel, -initrd, -append, with kernel-hashes=on). Initrd may be nil.
type Kernel struct {
	Image, Initrd io.Reader
	Cmdline       string
}

// Measure computes the launch measurement: what MEASUREMENT of the report should be.
func Measure(l Launch) (attest.Measurement, error) {
	m, err := measure(l)
	if err != nil {
		return "", fmt.Errorf("measuring a launch: %w", err)
	}
	return m, nil
}

func measure(l Launch) (attest.Measurement, error) {
	f, err := parseFirmware(l.Firmware)
	if err != nil {
		return "", fmt.Errorf("firmware: %w", err)
	}
	var d digest
	d.data(fourGiB-uint64(len(l.Firmware)), l.Firmware)
	return d.launch(f, l)
}

// launch goes on from the digest of the firmware alone.
func (d *digest) launch(f firmware, l Launch) (attest.Measurement, error) {
	regs, ok := vmms[l.VMM]
	switch {
	case !ok:
		return "", fmt.Errorf("hypervisor %q, want one of %q", l.VMM, VMMs())
	case l.VCPUs < 1 || l.VCPUs > maxVCPUs:
		return "", fmt.Errorf("%d virtual CPUs, want 1 to %d", l.VCPUs, maxVCPUs)
	case l.Features&FeatureSNP == 0:
		return "", fmt.Errorf("features %#x, want SNP (%#x) among them", l.Features, FeatureSNP)
	case l.VCPUs > 1 && f.resetEIP == 0:
		return "", errors.New("more than one virtual CPU, and the firmware names no place for them to start at")
	}
	page, err := l.Kernel.page(f)
	if err != nil {
		return "", err
	}
	d.sections(f.sections, regs, page)
	for i := range l.VCPUs {
		eip := f.resetEIP
		if i == 0 {
			eip = bootEIP
		}
		d.vmsa(regs.page(eip, l.CPU, l.Features))
	}
	return attest.SHA384Measurement(d.current), nil
}

// sections adds the pages that the metadata names, in its order, but for EC2's, where the CPUID page comes last.
func (d *digest) sections(ss []section, regs registers, hashes []byte) {
	for _, s := range ss {
		switch s.kind {
		case secMem:
			kind := byte(pageZero)
			if regs.unmeasuredRAM {
				kind = pageUnmeasured
			}
			d.empty(kind, s)
		case secSVSM:
			d.empty(pageZero, s)
		case secSecrets:
			d.empty(pageSecrets, s)
		case secCPUID:
			if !regs.cpuidLast {
				d.empty(pageCPUID, s)
			}
		case secHashes:
			if hashes == nil {
				d.empty(pageZero, s)
			} else {
				d.data(uint64(s.gpa), hashes)
			}
		}
	}
	for _, s := range ss {
		if s.kind == secCPUID && regs.cpuidLast {
			d.empty(pageCPUID, s)
		}
	}
}

// page is the page with the hashes of what QEMU starts directly, at the place that the firmware reads them from
// (QEMU, target/i386/sev.c). It is nil without a kernel.
func (k *Kernel) page(f firmware) ([]byte, error) {
	if k == nil {
		return nil, nil
	}
	if !f.checksKernel() {
		return nil, errors.New("a kernel, and firmware that does not compare it with its hash: what it boots would not be measured")
	}
	kernel, err := sum(k.Image)
	if err != nil {
		return nil, fmt.Errorf("kernel: %w", err)
	}
	initrd, err := sum(k.Initrd)
	if err != nil {
		return nil, fmt.Errorf("initial RAM disk: %w", err)
	}
	entries := []byte{}
	for _, e := range []struct {
		id   guid
		hash [32]byte
	}{{cmdlineID, sha256.Sum256([]byte(k.Cmdline + "\x00"))}, {initrdID, initrd}, {kernelID, kernel}} {
		entries = e.id.entry(entries, e.hash[:])
	}
	page := make([]byte, pageSize)
	copy(page[f.hashTable%pageSize:], hashTableID.entry(nil, entries))
	return page, nil
}

func sum(r io.Reader) (d [32]byte, err error) {
	h := sha256.New()
	if r != nil {
		n, err := io.Copy(h, io.LimitReader(r, maxKernel+1))
		if err != nil {
			return d, err
		}
		if n > maxKernel {
			return d, fmt.Errorf("more than %d bytes", uint64(maxKernel))
		}
	}
	return [32]byte(h.Sum(nil)), nil
}
