package snp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/consilium-fl/consilium/attest/internal/amd"
)

const devicePath = "/dev/sev-guest"

// The commands of /dev/sev-guest: _IOWR('S', 0 and 2, struct snp_guest_request_ioctl), include/uapi/linux/sev-guest.h.
const (
	ioctlReport    = 0xc0205300
	ioctlExtReport = 0xc0205302
)

// errTooShort is the hypervisor's answer to too little room for the certificates (SNP_GUEST_VMM_ERR_INVALID_LEN).
const errTooShort = 1

// guestRequest is struct snp_guest_request_ioctl.
type guestRequest struct {
	version   uint8
	_         [7]byte
	request   unsafe.Pointer
	response  unsafe.Pointer
	exitinfo2 uint64 // the firmware's error, and above it the hypervisor's
}

// extReportRequest is struct snp_ext_report_req, which begins with a struct snp_report_req.
type extReportRequest struct {
	userData [64]byte
	vmpl     uint32
	_        [28]byte
	certs    unsafe.Pointer
	certsLen uint32
	_        [4]byte
}

// reportResponse is struct snp_report_resp: MSG_REPORT_RSP (AMD 56860, table 25).
type reportResponse [4000]byte

// device is the interface of kernels before configfs-tsm.
type device struct {
	ioctl func(command uintptr, g *guestRequest) error
}

func (device) name() string { return devicePath }

func openDevice() (device, error) {
	f, err := os.OpenFile(devicePath, os.O_RDWR, 0)
	if err != nil {
		return device{}, err
	}
	return device{func(command uintptr, g *guestRequest) error {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), command, uintptr(unsafe.Pointer(g))) //nolint:gosec // what ioctl takes
		runtime.KeepAlive(f)
		if errno != 0 {
			return errno
		}
		return nil
	}}, nil
}

// report asks without room for certificates first: the hypervisor says how much it needs, or has none to give. The
// kernel itself asks again while the hypervisor throttles.
func (d device) report(ctx context.Context, data [64]byte, vmpl int) (out, table []byte, err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	request := &extReportRequest{userData: data, vmpl: uint32(max(vmpl, 0))}
	out, err = d.ask(request)
	var refused *refusedError
	if !errors.As(err, &refused) || refused.hypervisor != errTooShort {
		return out, nil, err
	}
	if request.certsLen == 0 || request.certsLen > maxTable {
		return nil, nil, fmt.Errorf("the host has a certificate table of %d bytes, want at most %d", request.certsLen, maxTable)
	}
	table = make([]byte, request.certsLen)
	request.certs = unsafe.Pointer(&table[0]) //nolint:gosec // the kernel writes certsLen bytes there
	out, err = d.ask(request)
	runtime.KeepAlive(table)
	return out, table, err
}

func (d device) ask(request *extReportRequest) ([]byte, error) {
	response := new(reportResponse)
	g := &guestRequest{version: 1, request: unsafe.Pointer(request), response: unsafe.Pointer(response)} //nolint:gosec // what ioctl takes
	err := d.ioctl(ioctlExtReport, g)
	runtime.KeepAlive(request)
	if err != nil {
		return nil, &refusedError{cause: err, firmware: uint32(g.exitinfo2), hypervisor: uint32(g.exitinfo2 >> 32)}
	}
	le := binary.LittleEndian
	if status, size := le.Uint32(response[:]), le.Uint32(response[4:]); status != 0 || size != amd.ReportSize {
		return nil, fmt.Errorf("the secure processor answered with status %#x and %d bytes, want 0 and %d", status, size, amd.ReportSize)
	}
	return response[0x20 : 0x20+amd.ReportSize : 0x20+amd.ReportSize], nil
}

// refusedError is a request that firmware or hypervisor turned down.
type refusedError struct {
	cause                error
	firmware, hypervisor uint32
}

func (e *refusedError) Error() string {
	return fmt.Sprintf("asking the secure processor: %v (firmware %#x, hypervisor %#x)", e.cause, e.firmware, e.hypervisor)
}

func (e *refusedError) Unwrap() error { return e.cause }
