//go:build tpmsim

package azure

import (
	"bytes"
	"context"
	"crypto/rsa"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/simulator"

	"github.com/consilium-fl/consilium/attest"
	device "github.com/consilium-fl/consilium/attest/internal/tpm"
	"github.com/consilium-fl/consilium/attest/testtee/amd"
	"github.com/consilium-fl/consilium/attest/testtee/tpm"
)

// paravisor stands between a guest and its TPM. After user data were written it makes a new report, but only when it
// was asked for one a few times: until then the old one is shown.
type paravisor struct {
	transport.TPM
	t      *testing.T
	format attest.Format
	ak     *rsa.PublicKey
	vcek   func(endorsements map[string][]byte) // told of each report

	mu    sync.Mutex
	stale int // reads that still get the old report
	due   bool
}

func (*paravisor) Close() error { return nil }

const (
	commandWrite = 0x137 // TPM_CC_NV_Write
	commandRead  = 0x14e // TPM_CC_NV_Read
)

func (p *paravisor) Send(command []byte) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	code, about := binary.BigEndian.Uint32(command[6:]), uint32(0)
	if len(command) >= 18 {
		about = binary.BigEndian.Uint32(command[14:])
	}
	if code == commandRead && about == indexReport && p.due {
		if p.stale--; p.stale < 0 {
			p.due = false
			data, err := device.ReadNV(p.TPM, indexUserData)
			if err != nil {
				return nil, err
			}
			p.report(data)
		}
	}
	answer, err := p.TPM.Send(command)
	if code == commandWrite && about == indexUserData {
		p.due, p.stale = true, 3
	}
	return answer, err
}

// report puts a report over user data into the TPM. The simulator's indices hold 2048 bytes, so one key is left out.
func (p *paravisor) report(data []byte) {
	p.t.Helper()
	kind, hardware := uint32(typeTDX), tpm.TDReport
	if p.format == attest.FormatAzureSNP {
		kind, hardware = typeSNP, func(data [64]byte) []byte {
			report, endorsements := amd.Shared().Report(amd.Options{Line: amd.Milan, ReportData: data})
			p.vcek(endorsements)
			return report
		}
	}
	claims := tpm.Claims(p.ak, data, func(top, _ map[string]any) { top["keys"] = top["keys"].([]any)[:1] })
	h := tpm.NewHCL(kind, claims, hardware)
	h.Padding = 0
	b := h.Encode()
	if err := device.WriteNV(p.TPM, indexReport, append(b, make([]byte, 2040-len(b))...)); err != nil {
		p.t.Error(err)
	}
}

// simulated starts the one simulator that a process may have, as Azure would have set it up.
func simulated(t *testing.T, format attest.Format, s *service) *paravisor {
	t.Helper()
	sim, err := simulator.OpenSimulator()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sim.Close() })
	key, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.TPMTPublic{
		Type: tpm2.TPMAlgRSA, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, Restricted: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
			Scheme:  tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgRSASSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256})},
			KeyBits: 2048,
		}),
	})}.Execute(sim)
	if err != nil {
		t.Fatal(err)
	}
	keep := tpm2.EvictControl{
		Auth: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}, ObjectHandle: &tpm2.NamedHandle{Handle: key.ObjectHandle, Name: key.Name}, PersistentHandle: handleAK,
	}
	if _, err := keep.Execute(sim); err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.FlushContext{FlushHandle: key.ObjectHandle}).Execute(sim); err != nil {
		t.Fatal(err)
	}
	public, err := key.OutPublic.Contents()
	if err != nil {
		t.Fatal(err)
	}
	ak, err := tpm2.Pub(*public)
	if err != nil {
		t.Fatal(err)
	}
	p := &paravisor{TPM: sim, t: t, format: format, ak: ak.(*rsa.PublicKey), vcek: func(e map[string][]byte) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.vcek, s.ask = e["vcek"], e["ask"]
	}}
	p.report(make([]byte, 64))
	return p
}

func binding(n byte) attest.Binding {
	one := func(n byte) (d [32]byte) { d[0] = n; return d }
	return attest.Binding{Role: attest.RoleNode, Nonce: one(n), Exporter: one(2), OwnKey: one(3), PeerKey: one(4), Study: one(5), KeyList: one(6), Config: one(7)}
}

// machine is an attester of a simulated machine, whose registers and log are those of a start with secure boot.
func machine(t *testing.T, format attest.Format) (attester, *paravisor, *service, *lab) {
	t.Helper()
	s := &service{}
	c := serve(t, s)
	p := simulated(t, format, s)
	l := newLab(t)
	for _, x := range l.dev.Extended() {
		_, err := tpm2.PCRExtend{
			PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(x.PCR), Auth: tpm2.PasswordAuth(nil)},
			Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: x.Digest[:]}}},
		}.Execute(p.TPM)
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	log, lock := filepath.Join(dir, "log"), filepath.Join(dir, "lock")
	for name, b := range map[string][]byte{log: l.dev.Log, lock: nil} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a := newAttester(func() (transport.TPMCloser, error) { return p, nil }, lock, log, c.url)
	a.imds, a.poll = c, time.Millisecond
	return a, p, s, l
}

func TestAttestSimulated(t *testing.T) {
	for _, format := range []attest.Format{attest.FormatAzureSNP, attest.FormatAzureTDX} {
		t.Run(string(format), func(t *testing.T) {
			a, p, s, l := machine(t, format)
			other := a // another process: nothing in common but the lock
			other.busy, other.vcek = make(chan struct{}, 1), &certificateCache{}
			var wg sync.WaitGroup
			for i := range 6 {
				wg.Go(func() {
					b := binding(byte(i + 1))
					e, err := []attester{a, other}[i%2].Attest(context.Background(), b)
					if err != nil {
						t.Error(err)
						return
					}
					data, err := b.ReportData(nil)
					if err != nil {
						t.Error(err)
					}
					in := l.in
					in.ReportData = &data
					if r := check(e, in, l.pol); r.Status != attest.Affirming {
						t.Errorf("%s for %v", r.Status, r.Reasons)
					}
				})
			}
			wg.Wait()
			if n := len(s.calls); format == attest.FormatAzureSNP && n != 2 {
				t.Errorf("%d requests for certificates, want one by each process", n)
			}
			for _, f := range a.probe(context.Background()) {
				if !f.OK {
					t.Errorf("%s: %s", f.Name, f.Text)
				}
			}
			p.report(nil) // a paravisor without user data
			if found := a.probe(context.Background()); !slices.ContainsFunc(found, func(f Finding) bool { return f.Name == "user data" && !f.OK }) {
				t.Errorf("%+v", found)
			}
		})
	}
}

func TestAttestRefuses(t *testing.T) {
	a, p, s, _ := machine(t, attest.FormatAzureSNP)
	attempt := func(name string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		if e, err := a.Attest(ctx, binding(1)); err == nil {
			t.Errorf("%s: %+v", name, e)
		}
	}
	s.odd = nil
	s.busy = 100
	a.imds.wait = time.Hour
	attempt("a metadata service that is busy")
	s.busy = 0

	unlock, err := device.Lock(context.Background(), a.lock)
	if err != nil {
		t.Fatal(err)
	}
	attempt("another process at work")
	unlock()

	p.ak = &tpm.OtherKey().PublicKey
	attempt("a report that vouches for another key")

	p.mu.Lock()
	p.TPM = &deaf{p.TPM}
	p.mu.Unlock()
	attempt("a paravisor that takes no user data")
	if _, err := a.Attest(context.Background(), attest.Binding{}); err == nil {
		t.Error("a binding that is none")
	}
	a.lock = filepath.Join(t.TempDir(), "absent")
	attempt("no lock file")
}

// deaf is a TPM that says yes to user data and forgets them.
type deaf struct{ transport.TPM }

func (d *deaf) Send(command []byte) ([]byte, error) {
	if binary.BigEndian.Uint32(command[6:]) == commandWrite && binary.BigEndian.Uint32(command[14:]) == indexUserData {
		command = bytes.Clone(command)
		clear(command[len(command)-66 : len(command)-2])
	}
	return d.TPM.Send(command)
}
