package snp

import (
	"context"
	"errors"
	"fmt"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/internal/amd"
	"github.com/consilium-fl/consilium/attest/window"
)

// LowestLevel asks for a report from the most privileged level that the guest may use.
const LowestLevel = -1

// source is a way to the secure processor.
type source interface {
	name() string
	// report asks for one over data from a privilege level, and for the certificates that the host has, as a table.
	report(ctx context.Context, data [64]byte, vmpl int) (report, table []byte, err error)
}

type attester struct {
	source source
	vmpl   int
}

// NewAttester finds the guest's way to the secure processor: configfs-tsm, or /dev/sev-guest on kernels before 6.7. It
// asks from privilege level vmpl, 0 to 3, or from LowestLevel; a report from another level is an error.
func NewAttester(vmpl int) (attest.Attester, error) {
	tsm, errTSM := openTSM()
	if errTSM == nil {
		return newAttester(tsm, vmpl)
	}
	dev, err := openDevice()
	if err != nil {
		return nil, fmt.Errorf("opening the SNP guest interface: %w", errors.Join(errTSM, err))
	}
	return newAttester(dev, vmpl)
}

func newAttester(s source, vmpl int) (attest.Attester, error) {
	if vmpl < LowestLevel || vmpl > 3 {
		return nil, fmt.Errorf("attesting by %s: privilege level %d, want 0 to 3", s.name(), vmpl)
	}
	return window.New(attester{s, vmpl}.over), nil
}

// over makes one report.
func (a attester) over(ctx context.Context, data [64]byte) (attest.Evidence, error) {
	_, e, err := a.quote(ctx, data)
	return e, err
}

// quote holds the report against what was asked: whoever else uses the interface at the same time may have asked too.
func (a attester) quote(ctx context.Context, data [64]byte) (*amd.Report, attest.Evidence, error) {
	fail := func(err error) (*amd.Report, attest.Evidence, error) {
		return nil, attest.Evidence{}, fmt.Errorf("attesting by %s: %w", a.source.name(), err)
	}
	raw, table, err := a.source.report(ctx, data, a.vmpl)
	if err != nil {
		return fail(err)
	}
	r, err := amd.ParseReport(raw)
	switch {
	case err != nil:
		return fail(err)
	case r.ReportData != data:
		return fail(errors.New("the report is over other data than was asked for"))
	case r.VMPL > 3 || a.vmpl != LowestLevel && int(r.VMPL) != a.vmpl:
		return fail(fmt.Errorf("the report is from privilege level %d, want %d", r.VMPL, a.vmpl))
	}
	certificates, err := ParseCertificates(table)
	if err != nil {
		return fail(err)
	}
	return r, attest.Evidence{Format: attest.FormatSNP, Statement: raw, Endorsements: certificates}, nil
}
