package amd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"github.com/consilium-fl/consilium/attest"
)

// ReportSize is the length of every version of a report (AMD 56860, table 23). Its first signedSize bytes are signed.
const (
	ReportSize = 0x4a0
	signedSize = 0x2a0
)

// Where the fields lie; those of one use are in parse.
const (
	offFlags     = 0x48
	offReported  = 0x180
	offCPU       = 0x188
	offLaunchMit = 0x1f8
	offR         = signedSize
	offS         = offR + scalarSize
	scalarSize   = 72 // little endian, of which P-384 uses 48
)

// The signing keys that a report names in bits 2 to 4 of its flags. The others are reserved, or none.
const (
	signerVCEK = 0
	signerVLEK = 1
)

// Report is an attestation report, taken apart: claims that nobody has authenticated yet.
type Report struct {
	attest.SNPClaims
	ReportData  [64]byte
	Measurement [48]byte

	raw []byte
}

// ParseReport reads a report of version 2 to 5, strictly: its length, every reserved byte, the reserved bits of
// policy and flags. An error is a [attest.Reason], or several joined, with the offset in its path.
func ParseReport(b []byte) (*Report, error) {
	if len(b) != ReportSize {
		return nil, attest.Reason{Code: attest.CodeParseLength, Path: "report", Got: strconv.Itoa(len(b)), Want: strconv.Itoa(ReportSize)}
	}
	r := &Report{raw: bytes.Clone(b)}
	r.Version = r.u32(0)
	if r.Version < 2 || r.Version > 5 {
		return nil, attest.Reason{Code: attest.CodeParseVersion, Path: "report[0x0:0x4]", Got: strconv.FormatUint(uint64(r.Version), 10), Want: "2 to 5"}
	}
	r.parse()
	return r, errors.Join(r.checkReserved(), r.checkSigner())
}

func (r *Report) parse() {
	r.GuestSVN = r.u32(0x04)
	r.GuestPolicy = attest.SNPGuestPolicy(r.u64(0x08))
	r.FamilyID, r.ImageID = r.raw[0x10:0x20], r.raw[0x20:0x30]
	r.VMPL = r.u32(0x30)
	r.Platform = attest.SNPPlatform(r.u64(0x40))
	flags := r.u32(offFlags)
	r.AuthorKey, r.MaskChipKey = flags&1 != 0, flags&2 != 0
	if flags>>2&7 == signerVLEK {
		r.Signer = attest.SignerVLEK
	} else {
		r.Signer = attest.SignerVCEK
	}
	r.ReportData, r.Measurement = [64]byte(r.raw[0x50:]), [48]byte(r.raw[0x90:])
	r.HostData = r.raw[0xc0:0xe0]
	r.IDKeyDigest, r.AuthorKeyDigest = r.raw[0xe0:0x110], r.raw[0x110:0x140]
	r.ReportID, r.ReportIDMA = r.raw[0x140:0x160], r.raw[0x160:0x180]
	if r.Version >= 3 {
		r.CPU = attest.SNPCPU{Family: r.raw[offCPU], Model: r.raw[offCPU+1], Stepping: r.raw[offCPU+2]}
	}
	r.ChipID = r.raw[0x1a0:0x1e0]
	r.CurrentFirmware, r.CommittedFirmware = r.firmware(0x1e8), r.firmware(0x1ec)
	r.TCB = attest.SNPTCBs{Reported: r.tcb(offReported), Current: r.tcb(0x38), Committed: r.tcb(0x1e0), Launch: r.tcb(0x1f0)}
	if r.Version >= 5 {
		r.LaunchMitigations, r.CurrentMitigations = attest.SNPMitigations(r.u64(offLaunchMit)), attest.SNPMitigations(r.u64(offLaunchMit+8))
	}
}

func (r *Report) u32(at int) uint32 { return binary.LittleEndian.Uint32(r.raw[at:]) }
func (r *Report) u64(at int) uint64 { return binary.LittleEndian.Uint64(r.raw[at:]) }

func (r *Report) firmware(at int) attest.SNPFirmware {
	return attest.SNPFirmware{Build: r.raw[at], Minor: r.raw[at+1], Major: r.raw[at+2]}
}

// tcb takes a TCB_VERSION apart. Turin (family 1Ah) put the firmware of its FMC first, and shifted the rest.
func (r *Report) tcb(at int) attest.SNPTCB {
	b := r.raw[at : at+8]
	if r.turinLike() {
		return attest.SNPTCB{FMC: b[0], Bootloader: b[1], TEE: b[2], SNP: b[3], Ucode: b[7]}
	}
	return attest.SNPTCB{Bootloader: b[0], TEE: b[1], SNP: b[6], Ucode: b[7]}
}

func (r *Report) turinLike() bool { return r.CPU.Family >= 0x1a }

// span is bytes that have to be zero.
type span struct{ from, to int }

// The reserved bytes of every version; what a version has in addition is in reserved.
var (
	reservedAlways = []span{{0x4c, 0x50}, {0x18b, 0x1a0}, {0x1eb, 0x1ec}, {0x1ef, 0x1f0}, {0x208, 0x2a0}, {offS + scalarSize, ReportSize}}
	reservedCPU    = span{offCPU, offCPU + 3}              // before version 3
	reservedMit    = span{offLaunchMit, offLaunchMit + 16} // before version 5
	tcbOffsets     = [...]int{0x38, offReported, 0x1e0, 0x1f0}
)

func (r *Report) checkReserved() error {
	var errs []error
	zero := func(s span) {
		for i := s.from; i < s.to; i++ {
			if r.raw[i] != 0 {
				errs = append(errs, attest.Reason{Code: attest.CodeParseMBZ, Path: fmt.Sprintf("report[%#x]", i), Got: fmt.Sprintf("%#x", r.raw[i]), Want: "0"})
				return
			}
		}
	}
	for _, s := range reservedAlways {
		zero(s)
	}
	if r.Version < 3 {
		zero(reservedCPU)
	}
	if r.Version < 5 {
		zero(reservedMit)
	}
	for _, at := range tcbOffsets {
		if r.turinLike() {
			zero(span{at + 4, at + 7})
		} else {
			zero(span{at + 2, at + 6})
		}
	}
	if p := uint64(r.GuestPolicy); p>>26 != 0 || p>>17&1 != 1 {
		errs = append(errs, attest.Reason{Code: attest.CodePolicyReserved, Path: "report[0x8:0x10]", Got: fmt.Sprintf("%#x", p), Want: "bit 17 set, none from 26"})
	}
	return errors.Join(errs...)
}

func (r *Report) checkSigner() error {
	var errs []error
	if flags := r.u32(offFlags); flags>>5 != 0 || flags>>2&7 > signerVLEK {
		errs = append(errs, attest.Reason{Code: attest.CodeParseSigner, Path: "report[0x48:0x4c]", Got: fmt.Sprintf("%#x", flags), Want: "VCEK or VLEK, reserved bits 0"})
	}
	if r.AuthorKey == zero(r.AuthorKeyDigest) {
		errs = append(errs, attest.Reason{
			Code: attest.CodeParseSigner, Path: "report[0x48]", Got: fmt.Sprintf("author_key_en %t", r.AuthorKey), Want: "author_key_en with a digest in report[0x110:0x140], or neither",
		})
	}
	if algo := r.u32(0x34); algo != 1 {
		errs = append(errs, attest.Reason{Code: attest.CodeSigAlgo, Path: "report[0x34:0x38]", Got: strconv.FormatUint(uint64(algo), 10), Want: "1 (ECDSA P-384 with SHA-384)"})
	}
	return errors.Join(errs...)
}

func zero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
