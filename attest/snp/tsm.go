package snp

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-configfs-tsm/configfs/linuxtsm"
	"github.com/google/go-configfs-tsm/report"
)

const provider = "sev_guest"

// maxTries bounds how often a report is asked for again that another process has disturbed.
const maxTries = 3

// tsm is the kernel's interface for attestation reports of any kind, Documentation/ABI/testing/configfs-tsm-report.
type tsm struct{ client configfsi.Client }

func (tsm) name() string { return "configfs-tsm" }

func openTSM() (tsm, error) {
	client, err := linuxtsm.MakeClient()
	if err != nil {
		return tsm{}, fmt.Errorf("opening configfs-tsm: %w", err)
	}
	t := tsm{client}
	if _, _, err := t.describe(); err != nil {
		return tsm{}, fmt.Errorf("opening configfs-tsm: %w", err)
	}
	return t, nil
}

// describe asks who provides reports, and from which privilege level on.
func (t tsm) describe() (name string, floor uint, err error) {
	r, err := report.CreateOpenReport(t.client)
	if err != nil {
		return "", 0, err
	}
	defer func() { err = errors.Join(err, r.Destroy()) }()
	b, err := r.ReadOption("provider")
	if err != nil {
		return "", 0, err
	}
	if name = strings.TrimSpace(string(b)); name != provider {
		return name, 0, fmt.Errorf("reports are provided by %q, want %q", name, provider)
	}
	floor, err = r.PrivilegeLevelFloor()
	return name, floor, err
}

// report makes an entry of its own for each request. The kernel counts writes to an entry; if it counts one that is not
// ours, what we read may be another's, and we ask again.
func (t tsm) report(ctx context.Context, data [64]byte, vmpl int) (out, table []byte, err error) {
	request := report.Request{InBlob: data[:], GetAuxBlob: true}
	if vmpl != LowestLevel {
		_, floor, err := t.describe()
		if err != nil {
			return nil, nil, err
		}
		if vmpl < int(floor) {
			return nil, nil, fmt.Errorf("privilege level %d, want at least %d, from which on this guest may ask", vmpl, floor)
		}
		request.Privilege = &report.Privilege{Level: uint(vmpl)}
	}
	for range maxTries {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		var r *report.Response
		if r, err = report.Get(t.client, &request); err == nil {
			if got := strings.TrimSpace(r.Provider); got != provider {
				return nil, nil, fmt.Errorf("the report is by %q, want %q", got, provider)
			}
			return r.OutBlob, r.AuxBlob, nil
		}
		if report.GetGenerationErr(err) == nil {
			return nil, nil, err
		}
	}
	return nil, nil, fmt.Errorf("disturbed %d times: %w", maxTries, err)
}
