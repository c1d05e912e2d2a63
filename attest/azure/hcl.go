package azure

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"

	"github.com/consilium-fl/consilium/attest"
)

// Layout of an HCL report, little endian, as OpenHCL writes it (openhcl_attestation_protocol, igvm_attest::get).
const (
	headerSize  = 32
	reportSize  = 1184 // an SNP report, or a TDREPORT of 1024 and zeros
	requestSize = 20
	claimsAt    = headerSize + reportSize + requestSize
	tdReport    = 1024

	maxReport = 8 << 10 // the TPM's index holds 2600 bytes

	typeSNP    = 2
	typeTDX    = 4
	hashSHA256 = 1

	tdxReportType = 0x81 // first byte of a TDREPORT; an SNP report begins with its version
)

// report is an HCL report taken apart. Nothing in it is authentic before the hardware's report is, and then so are
// the claims, which its report data is a digest of. The header never is, and says nothing that is used.
type report struct {
	format     attest.Format
	hardware   []byte // SNP report or TDREPORT
	reportData [64]byte
	claims     []byte
}

// parseReport takes a report in its only form, behind which there may be zeros.
func parseReport(b []byte) (*report, error) {
	if len(b) < claimsAt || len(b) > maxReport {
		return nil, refuse(attest.CodeHCLSize, "hcl", strconv.Itoa(len(b))+" bytes", fmt.Sprintf("%d to %d", claimsAt, maxReport))
	}
	word := func(at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
	if string(b[:4]) != "HCLA" {
		return nil, refuse(attest.CodeHCLMagic, "hcl[0:4]", hex.EncodeToString(b[:4]), "HCLA")
	}
	if version := word(4); version != 1 && version != 2 {
		return nil, refuse(attest.CodeHCLHeader, "hcl[4:8], version", fmt.Sprint(version), "1 or 2")
	}
	if request := word(12); request != 2 {
		return nil, refuse(attest.CodeHCLHeader, "hcl[12:16], request", fmt.Sprint(request), "2, a certificate of the attestation key")
	}
	if !zero(b[16:headerSize]) {
		return nil, refuse(attest.CodeHCLHeader, "hcl[16:32]", hex.EncodeToString(b[16:headerSize]), "zeros")
	}
	const at = headerSize + reportSize
	if version := word(at + 4); version != 1 {
		return nil, refuse(attest.CodeHCLHeader, fmt.Sprintf("hcl[%d:%d], version", at+4, at+8), fmt.Sprint(version), "1")
	}
	if hash := word(at + 12); hash != hashSHA256 {
		return nil, refuse(attest.CodeHCLHashType, fmt.Sprintf("hcl[%d:%d]", at+12, at+16), fmt.Sprint(hash), "1, SHA-256")
	}
	size := int64(word(at + 16))
	if rest := int64(len(b) - claimsAt); size > rest {
		return nil, refuse(attest.CodeHCLSize, fmt.Sprintf("hcl[%d:%d], claims", at+16, at+20), fmt.Sprint(size), fmt.Sprintf("at most %d, what is there", rest))
	}
	if data := int64(word(at)); data != size+requestSize {
		return nil, refuse(attest.CodeHCLSize, fmt.Sprintf("hcl[%d:%d], runtime data", at, at+4), fmt.Sprint(data), fmt.Sprint(size+requestSize))
	}
	if whole := int64(word(8)); whole != size+claimsAt {
		return nil, refuse(attest.CodeHCLSize, "hcl[8:12], report", fmt.Sprint(whole), fmt.Sprint(size+claimsAt))
	}
	end := claimsAt + int(size)
	if !zero(b[end:]) {
		return nil, refuse(attest.CodeHCLTail, fmt.Sprintf("hcl[%d:%d]", end, len(b)), "more", "zeros")
	}
	r := &report{claims: b[claimsAt:end:end]}
	return r, r.setHardware(b[headerSize:at:at], word(at+8))
}

// setHardware holds the kind of report against what it looks like.
func (r *report) setHardware(b []byte, kind uint32) error {
	path := fmt.Sprintf("hcl[%d:%d]", headerSize+reportSize+8, headerSize+reportSize+12)
	switch {
	case kind == typeSNP && b[0] != tdxReportType:
		r.format, r.hardware, r.reportData = attest.FormatAzureSNP, b, [64]byte(b[0x50:])
	case kind == typeTDX && b[0] == tdxReportType:
		if !zero(b[tdReport:]) {
			return refuse(attest.CodeHCLTail, fmt.Sprintf("hcl[%d:%d]", headerSize+tdReport, headerSize+reportSize), "more", "zeros")
		}
		r.format, r.hardware, r.reportData = attest.FormatAzureTDX, b[:tdReport:tdReport], [64]byte(b[128:])
	case kind == typeSNP || kind == typeTDX:
		return refuse(attest.CodeHCLType, path, fmt.Sprintf("%d, over a report that begins with %#02x", kind, b[0]), "2 for SNP, 4 for TDX")
	default:
		return refuse(attest.CodeHCLType, path, fmt.Sprint(kind), "2 for SNP, 4 for TDX")
	}
	return nil
}

// checkBinding holds the hardware's report data against the claims: SHA-256, and zeros.
func (r *report) checkBinding() error {
	var errs []error
	if digest := sha256.Sum256(r.claims); !bytes.Equal(r.reportData[:32], digest[:]) {
		errs = append(errs, refuse(attest.CodeHCLBinding, "report_data[0:32]", hex.EncodeToString(r.reportData[:32]), hex.EncodeToString(digest[:])+", SHA-256 of the claims"))
	}
	if !zero(r.reportData[32:]) {
		errs = append(errs, refuse(attest.CodeHCLUpper, "report_data[32:64]", hex.EncodeToString(r.reportData[32:]), "zeros"))
	}
	return errors.Join(errs...)
}

func refuse(code, path, got, want string) error {
	return attest.Reason{Code: code, Path: path, Got: got, Want: want}
}

func zero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
