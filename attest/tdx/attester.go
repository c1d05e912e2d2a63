package tdx

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-configfs-tsm/configfs/linuxtsm"
	"github.com/google/go-configfs-tsm/report"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/internal/intel"
	"github.com/consilium-fl/consilium/attest/internal/strict"
	"github.com/consilium-fl/consilium/attest/window"
)

const (
	provider = "tdx_guest"
	// ccelPath is where Linux shows the event log that the ACPI table CCEL points to.
	ccelPath = "/sys/firmware/acpi/tables/data/CCEL"
	// A quote is asked for maxTries times: the host makes one at a time, and another process may disturb.
	maxTries = 4
)

// pause is between two tries, longer each time.
const pause = 100 * time.Millisecond

type attester struct {
	client configfsi.Client
	ccel   string
}

// NewAttester opens the kernel's configfs-tsm (Linux 6.7 and later). Evidence carries the firmware's event log where
// there is one.
func NewAttester() (attest.Attester, error) {
	client, err := linuxtsm.MakeClient()
	if err != nil {
		return nil, fmt.Errorf("opening configfs-tsm: %w", err)
	}
	a := attester{client, ccelPath}
	if err := a.available(); err != nil {
		return nil, fmt.Errorf("opening configfs-tsm: %w", err)
	}
	return window.New(a.over), nil
}

// available asks who provides quotes.
func (a attester) available() (err error) {
	r, err := report.CreateOpenReport(a.client)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Destroy()) }()
	b, err := r.ReadOption("provider")
	if err != nil {
		return err
	}
	return provides(string(b))
}

func provides(name string) error {
	if name = strings.TrimSpace(name); name != provider {
		return fmt.Errorf("quotes are provided by %q, want %q", name, provider)
	}
	return nil
}

// over makes one quote.
func (a attester) over(ctx context.Context, data [64]byte) (attest.Evidence, error) {
	_, e, err := a.quote(ctx, data)
	if err != nil {
		return attest.Evidence{}, fmt.Errorf("attesting by configfs-tsm: %w", err)
	}
	return e, nil
}

// quote holds what it gets against what was asked: whoever else uses the interface at the same time may have asked too.
func (a attester) quote(ctx context.Context, data [64]byte) (*attest.TDXClaims, attest.Evidence, error) {
	raw, err := a.ask(ctx, data)
	if err != nil {
		return nil, attest.Evidence{}, err
	}
	claims, got, err := intel.Read(raw)
	if err != nil {
		return nil, attest.Evidence{}, err
	}
	if got != data {
		return nil, attest.Evidence{}, errors.New("the quote is over other data than was asked for")
	}
	e := attest.Evidence{Format: attest.FormatTDX, Statement: raw}
	log, err := a.eventLog()
	if err != nil {
		return nil, attest.Evidence{}, err
	}
	if log != nil {
		e.Endorsements = map[string][]byte{attest.CCEL: log}
	}
	return claims, e, nil
}

// ask tries again while another process writes to the entry that is ours, and while the host is busy.
func (a attester) ask(ctx context.Context, data [64]byte) ([]byte, error) {
	for try := 1; ; try++ {
		w := &witness{Client: a.client}
		r, err := report.Get(w, &report.Request{InBlob: data[:]})
		if err == nil {
			return r.OutBlob, provides(r.Provider)
		}
		if try == maxTries || report.GetGenerationErr(err) == nil && !w.busy() {
			return nil, fmt.Errorf("asking for a quote, try %d: %w", try, err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("asking for a quote: %w", ctx.Err())
		case <-time.After(time.Duration(try) * pause):
		}
	}
}

// witness remembers why a file could not be read, which the report package puts into words.
type witness struct {
	configfsi.Client
	err error
}

// ReadFile reads a file.
func (w *witness) ReadFile(name string) (b []byte, err error) {
	b, err = w.Client.ReadFile(name)
	if err != nil {
		w.err = err
	}
	return b, err
}

// busy says whether the kernel gave up waiting for the host, or was interrupted.
func (w *witness) busy() bool {
	for _, e := range []error{syscall.EBUSY, syscall.EAGAIN, syscall.EINTR, syscall.ETIMEDOUT} {
		if errors.Is(w.err, e) {
			return true
		}
	}
	return false
}

// eventLog reads the firmware's log; without one it returns nil.
func (a attester) eventLog() ([]byte, error) {
	b, err := strict.File(a.ccel, attest.MaxEventLog)
	if err != nil {
		return nil, fmt.Errorf("reading the event log: %w", err)
	}
	if b == nil {
		return nil, nil
	}
	return intel.Trim(b), nil
}
