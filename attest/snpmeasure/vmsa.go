package snpmeasure

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// VMM is a hypervisor, by how it sets up the registers of a virtual CPU.
type VMM string

// The hypervisors. KVM before Linux 6.9 left the registers of the floating-point unit zero, which nothing here does.
const (
	QEMU VMM = "qemu"
	EC2  VMM = "ec2"
	GCE  VMM = "gce"
	// EC2Until2026 is for instances that were started before Amazon gave DX its architectural value.
	EC2Until2026 VMM = "ec2-until-2026"
)

// VMMs lists those that are known.
func VMMs() []VMM { return slices.Sorted(maps.Keys(vmms)) }

// registers is in what hypervisors differ. What is not here is as after a reset (AMD 24593, table 14-1), with EFER.SVME
// and CR4.MCE as KVM sets them.
type registers struct {
	csFirst, cs, ss, tr uint16 // attributes of the segments; csFirst of the first CPU
	pat                 uint64
	dx                  uint64 // zero under QEMU, which puts the CPU's signature there
	signature           bool
	mxcsr               uint32
	fcw                 uint16
	unmeasuredRAM       bool
	cpuidLast           bool
}

const resetPAT = 0x0007040600070406 // AMD 24593, section 7.8

var vmms = map[VMM]registers{
	QEMU:         {csFirst: 0x9b, cs: 0x9b, ss: 0x93, tr: 0x8b, pat: resetPAT, signature: true, mxcsr: 0x1f80, fcw: 0x37f},
	EC2:          {csFirst: 0x9a, cs: 0x9b, ss: 0x92, tr: 0x83, pat: resetPAT, dx: 0x600, cpuidLast: true},
	EC2Until2026: {csFirst: 0x9a, cs: 0x9b, ss: 0x92, tr: 0x83, pat: resetPAT, cpuidLast: true},
	GCE:          {csFirst: 0x9b, cs: 0x9b, ss: 0x93, tr: 0x8b, pat: 0x00070106, dx: 0x600, unmeasuredRAM: true},
}

// bootEIP is where the first CPU starts: the reset vector.
const bootEIP = 0xfffffff0

// page writes the VMSA of a virtual CPU that starts at eip (AMD 24593, table B-4).
func (r registers) page(eip uint32, cpu Signature, features uint64) []byte {
	p := make([]byte, pageSize)
	segment := func(at int, selector, attributes uint16, base uint64) {
		binary.LittleEndian.PutUint16(p[at:], selector)
		binary.LittleEndian.PutUint16(p[at+2:], attributes)
		binary.LittleEndian.PutUint32(p[at+4:], 0xffff)
		binary.LittleEndian.PutUint64(p[at+8:], base)
	}
	cs, dx := r.cs, r.dx
	if eip == bootEIP {
		cs = r.csFirst
	}
	if r.signature {
		dx = uint64(cpu)
	}
	segment(0x00, 0, 0x93, 0)                         // ES
	segment(0x10, 0xf000, cs, uint64(eip&0xffff0000)) // CS
	segment(0x20, 0, r.ss, 0)                         // SS
	segment(0x30, 0, 0x93, 0)                         // DS
	segment(0x40, 0, 0x93, 0)                         // FS
	segment(0x50, 0, 0x93, 0)                         // GS
	segment(0x60, 0, 0, 0)                            // GDTR
	segment(0x70, 0, 0x82, 0)                         // LDTR
	segment(0x80, 0, 0, 0)                            // IDTR
	segment(0x90, 0, r.tr, 0)                         // TR
	for at, v := range map[int]uint64{
		0x0d0: 0x1000,               // EFER
		0x148: 0x40,                 // CR4
		0x158: 0x10,                 // CR0
		0x160: 0x400,                // DR7
		0x168: 0xffff0ff0,           // DR6
		0x170: 2,                    // RFLAGS
		0x178: uint64(eip & 0xffff), // RIP
		0x268: r.pat,                // G_PAT
		0x310: dx,                   // RDX
		0x3b0: features,             // SEV_FEATURES
		0x3e8: 1,                    // XCR0
	} {
		binary.LittleEndian.PutUint64(p[at:], v)
	}
	binary.LittleEndian.PutUint32(p[0x408:], r.mxcsr)
	binary.LittleEndian.PutUint16(p[0x410:], r.fcw)
	return p
}

// Signature is what a CPU says of itself in EAX of CPUID function 1.
type Signature uint32

// NewSignature writes family, model and stepping as CPUID does (AMD 25481, Fn0000_0001_EAX).
func NewSignature(family, model, stepping uint8) Signature {
	low, extended := family, uint8(0)
	if family > 0xf {
		low, extended = 0xf, family-0xf
	}
	return Signature(extended)<<20 | Signature(model>>4)<<16 | Signature(low)<<8 | Signature(model&0xf)<<4 | Signature(stepping&0xf)
}

// models are the CPUs that QEMU can play (target/i386/cpu.c). Their versions differ in features and not in signature.
var models = map[string]Signature{
	"EPYC": NewSignature(23, 1, 2), "EPYC-IBPB": NewSignature(23, 1, 2), "EPYC-Rome": NewSignature(23, 49, 0),
	"EPYC-Milan": NewSignature(25, 1, 1), "EPYC-Genoa": NewSignature(25, 17, 0), "EPYC-Turin": NewSignature(26, 0, 0),
}

// ParseCPU knows the names of QEMU's models, with or without a version: "EPYC-Milan", "EPYC-v4".
func ParseCPU(name string) (Signature, error) {
	s, ok := models[unversioned(name)]
	if !ok {
		return 0, fmt.Errorf("parsing a CPU model: %q, want one of %q, or family, model and stepping", name, slices.Sorted(maps.Keys(models)))
	}
	return s, nil
}

func unversioned(name string) string {
	if i := strings.LastIndex(name, "-v"); i >= 0 && len(name) > i+2 && strings.Trim(name[i+2:], "0123456789") == "" {
		return name[:i]
	}
	return name
}
