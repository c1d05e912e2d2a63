package azure

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2/transport"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/internal/tpm"
	"github.com/consilium-fl/consilium/attest/window"
)

// Of the virtual TPM.
const (
	indexReport   = 0x01400001 // the HCL report
	indexUserData = 0x01400002 // what goes into its claims
	handleAK      = 0x81000003
)

// The paravisor makes a new report some seconds after the user data were written, and until then shows the old one.
const (
	reportTimeout = 20 * time.Second
	reportPoll    = 100 * time.Millisecond
)

type attester struct {
	open func() (transport.TPMCloser, error)
	lock string // a file that every process of the machine locks while it uses the user data
	log  string // path
	imds imds
	poll time.Duration

	busy chan struct{} // so that calls in this process wait in line, and not by polling
	vcek *certificateCache
}

// NewAttester finds the virtual TPM of a confidential machine of Azure, and which hardware is under it; on other machines
// it is an error.
func NewAttester() (attest.Attester, attest.Format, error) {
	a := newAttester(tpm.Open, tpm.DevicePath, tpm.EventLogPath, imdsURL)
	t, err := a.open()
	if err != nil {
		return nil, "", err
	}
	defer t.Close()
	b, err := tpm.ReadNV(t, indexReport)
	if err != nil {
		return nil, "", err
	}
	r, err := parseReport(b)
	if err != nil {
		return nil, "", fmt.Errorf("reading the HCL report: %w", err)
	}
	return window.New(a.over), r.format, nil
}

func newAttester(open func() (transport.TPMCloser, error), lock, log, url string) attester {
	return attester{open: open, lock: lock, log: log, imds: newIMDS(url), poll: reportPoll, busy: make(chan struct{}, 1), vcek: &certificateCache{}}
}

// over has the hardware sign report data, and the TPM a quote over them. There is one register for user data in a
// machine, so calls take turns, those of other processes too.
func (a attester) over(ctx context.Context, data [64]byte) (attest.Evidence, error) {
	e, err := a.attest(ctx, data)
	if err != nil {
		return attest.Evidence{}, fmt.Errorf("attesting by the paravisor: %w", err)
	}
	return e, nil
}

func (a attester) attest(ctx context.Context, data [64]byte) (attest.Evidence, error) {
	e, r, err := a.measure(ctx, data)
	if err != nil {
		return attest.Evidence{}, err
	}
	if r.format == attest.FormatAzureTDX {
		e.Endorsements[tdQuote], err = a.imds.quote(ctx, r.hardware)
	} else {
		err = a.certify(ctx, r, e.Endorsements)
	}
	if err != nil {
		return attest.Evidence{}, err
	}
	log, err := tpm.ReadEventLog(a.log)
	if err != nil {
		return attest.Evidence{}, err
	}
	if len(log) > 0 {
		e.Endorsements[attest.EventLog] = log
	}
	return e, nil
}

// measure is what has to be done alone: write the user data, wait for the report that has them, quote.
func (a attester) measure(ctx context.Context, data [64]byte) (attest.Evidence, *report, error) {
	fail := func(err error) (attest.Evidence, *report, error) { return attest.Evidence{}, nil, err }
	select {
	case a.busy <- struct{}{}:
		defer func() { <-a.busy }()
	case <-ctx.Done():
		return fail(ctx.Err())
	}
	unlock, err := tpm.Lock(ctx, a.lock)
	if err != nil {
		return fail(err)
	}
	defer unlock()
	t, err := a.open()
	if err != nil {
		return fail(err)
	}
	defer t.Close()
	if err := tpm.WriteNV(t, indexUserData, data[:]); err != nil {
		return fail(err)
	}
	raw, r, ak, err := a.awaitReport(ctx, t, data)
	if err != nil {
		return fail(err)
	}
	nonce := sha256.Sum256(data[:])
	q, err := quoteBy(t, ak, nonce[:])
	if err != nil {
		return fail(err)
	}
	return attest.Evidence{Format: r.format, Statement: raw, Endorsements: map[string][]byte{
		tpmQuote: q.Attest, tpmSignature: q.Signature, tpmPCRs: tpm.EncodePCRs(q.PCRs),
	}}, r, nil
}

// awaitReport reads until the claims have our user data.
func (a attester) awaitReport(ctx context.Context, t transport.TPM, data [64]byte) ([]byte, *report, *rsa.PublicKey, error) {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	for {
		raw, err := tpm.ReadNV(t, indexReport)
		if err != nil {
			return nil, nil, nil, err
		}
		r, err := parseReport(raw)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("reading the HCL report: %w", err)
		}
		c, ak, err := parseClaims(r.claims)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("reading the HCL report: %w", err)
		}
		if bytes.Equal(c.UserData, data[:]) && r.checkBinding() == nil {
			return raw, r, ak, nil
		}
		if err := tpm.Sleep(ctx, a.poll); err != nil {
			return nil, nil, nil, fmt.Errorf("waiting for an HCL report with our user data, which this version of the paravisor may not have: %w", err)
		}
	}
}

// quoteBy quotes by the TPM's attestation key, which has to be the one that the hardware vouches for.
func quoteBy(t transport.TPM, ak *rsa.PublicKey, nonce []byte) (tpm.Quote, error) {
	key, err := tpm.PersistentKey(t, handleAK)
	if err != nil {
		return tpm.Quote{}, err
	}
	q, err := key.Quote(t, nonce)
	if err != nil {
		return tpm.Quote{}, err
	}
	if _, err := q.Verify(ak); err != nil {
		return tpm.Quote{}, fmt.Errorf("the key at %#x is not the one of the HCL report: %w", handleAK, err)
	}
	return q, nil
}

// certificateCache keeps the certificates of one chip at one patch level: the service answers few requests a second.
type certificateCache struct {
	mu           sync.Mutex
	of           string
	certificates map[string][]byte
}

// certify adds the certificates of the chip that made the report.
func (a attester) certify(ctx context.Context, r *report, to map[string][]byte) error {
	of := string(r.hardware[0x180:0x188]) + string(r.hardware[0x1a0:0x1e0]) // reported TCB and chip
	a.vcek.mu.Lock()
	defer a.vcek.mu.Unlock()
	if a.vcek.of != of {
		vcek, chain, err := a.imds.certificates(ctx)
		if err != nil {
			return err
		}
		found := certificates(map[string][]byte{"vcek": vcek, "ask": chain})
		if found[attest.SignerVCEK] == nil {
			return errors.New("the metadata service gave no VCEK")
		}
		delete(found, "ark") // whoever verifies has that, or nothing
		a.vcek.of, a.vcek.certificates = of, found
	}
	maps.Copy(to, a.vcek.certificates)
	return nil
}
