//go:build tpmsim

package vtpm

import (
	"context"
	"crypto"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	pb "github.com/google/go-tpm-tools/proto/attest"
	"github.com/google/go-tpm-tools/server"
	"github.com/google/go-tpm/legacy/tpm2"
	direct "github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/simulator"
	"google.golang.org/protobuf/proto"

	"github.com/consilium-fl/consilium/attest"
	device "github.com/consilium-fl/consilium/attest/internal/tpm"
	"github.com/consilium-fl/consilium/attest/testtee/tpm"
)

// kept is a TPM that stays when whoever opened it closes it, as that of a machine does.
type kept struct{ transport.TPM }

func (kept) Close() error { return nil }

// simulated starts the one simulator that a process may have, as Google would have set it up.
func simulated(t *testing.T, template tpm2.Public, k struct{ certificate, template uint32 }) (kept, *tpm.Google) {
	t.Helper()
	sim, err := simulator.OpenSimulator()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sim.Close() })
	raw, err := template.Encode()
	if err != nil {
		t.Fatal(err)
	}
	key, err := device.PrimaryKey(sim, raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := key.Flush(sim); err != nil {
		t.Fatal(err)
	}
	public, err := publicKey(key.Public)
	if err != nil {
		t.Fatal(err)
	}
	g := theGoogle()
	for i, b := range map[uint32][]byte{k.template: raw, k.certificate: g.Certify(public, tpm.Machine(), nil)} {
		if err := device.WriteNV(sim, i, b); err != nil {
			t.Fatal(err)
		}
	}
	return kept{sim}, g
}

// attestationTemplate is that of a restricted key that signs.
func attestationTemplate(kind tpm2.Algorithm) tpm2.Public {
	p := tpm2.Public{
		Type: kind, NameAlg: tpm2.AlgSHA256,
		Attributes: tpm2.FlagFixedTPM | tpm2.FlagFixedParent | tpm2.FlagSensitiveDataOrigin | tpm2.FlagUserWithAuth | tpm2.FlagNoDA | tpm2.FlagRestricted | tpm2.FlagSign,
	}
	if kind == tpm2.AlgRSA {
		p.RSAParameters = &tpm2.RSAParams{Sign: &tpm2.SigScheme{Alg: tpm2.AlgRSASSA, Hash: tpm2.AlgSHA256}, KeyBits: 2048}
	} else {
		p.ECCParameters = &tpm2.ECCParams{Sign: &tpm2.SigScheme{Alg: tpm2.AlgECDSA, Hash: tpm2.AlgSHA256}, CurveID: tpm2.CurveNISTP256}
	}
	return p
}

func binding() attest.Binding {
	one := func(n byte) (d [32]byte) { d[0] = n; return d }
	return attest.Binding{Role: attest.RoleNode, Nonce: one(1), Exporter: one(2), OwnKey: one(3), PeerKey: one(4), Study: one(5), KeyList: one(6), Config: one(7)}
}

func TestAttestSimulated(t *testing.T) {
	for name, tc := range map[string]struct {
		kind  tpm2.Algorithm
		index int
	}{"RSA": {tpm2.AlgRSA, 0}, "ECDSA": {tpm2.AlgECC, 1}} {
		t.Run(name, func(t *testing.T) {
			sim, g := simulated(t, attestationTemplate(tc.kind), keys[tc.index])
			fake := tpm.New(nil)
			fake.Boot(true)
			replayInto(t, sim, fake)
			log := filepath.Join(t.TempDir(), "log")
			if err := os.WriteFile(log, fake.Log, 0o600); err != nil {
				t.Fatal(err)
			}
			a := newAttester(func() (transport.TPMCloser, error) { return sim, nil }, log)
			l := newLab(t, tpm.Key())
			l.in.Trust = snapshot(t, g.Files())
			l.pol.TPM.Firmware, l.pol.TPM.PCRs[4] = attest.AnySet(), attest.SetOf(attest.HexBytes(fake.Values[4][:]).String())
			data, err := binding().ReportData(nil)
			if err != nil {
				t.Fatal(err)
			}
			l.in.ReportData = &data
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					e, err := a.Attest(context.Background(), binding())
					if err != nil {
						t.Error(err)
						return
					}
					r := attest.NewVerifiers(NewVerifier()).Check(e, l.in, l.pol)
					if r.Status != attest.Affirming {
						t.Errorf("%s for %v", r.Status, r.Reasons)
					}
					byLibrary(t, e, data[:32])
				})
			}
			wg.Wait()
			for _, f := range a.probe(context.Background()) {
				if !f.OK {
					t.Errorf("%s: %s", f.Name, f.Text)
				}
			}
			if err := os.Remove(log); err != nil {
				t.Error(err)
			}
			if found := a.probe(context.Background()); found[len(found)-1].OK {
				t.Errorf("without a log: %+v", found)
			}
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			a.busy <- struct{}{}
			if _, err := a.Attest(ctx, binding()); err == nil {
				t.Error("attested for somebody who is gone")
			}
		})
	}
}

// byLibrary has go-tpm-tools read what we wrote.
func byLibrary(t *testing.T, e attest.Evidence, nonce []byte) {
	t.Helper()
	var a pb.Attestation
	if err := proto.Unmarshal(e.Statement, &a); err != nil {
		t.Fatal(err)
	}
	key, err := publicKey(a.AkPub)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.VerifyAttestation(&a, server.VerifyOpts{Nonce: nonce, TrustedAKs: []crypto.PublicKey{key}}); err != nil {
		t.Errorf("go-tpm-tools refuses it: %v", err)
	}
}

// replayInto extends the simulator's registers as the fake's were.
func replayInto(t *testing.T, sim transport.TPM, fake *tpm.TPM) {
	t.Helper()
	for _, x := range fake.Extended() {
		_, err := direct.PCRExtend{
			PCRHandle: direct.AuthHandle{Handle: direct.TPMHandle(x.PCR), Auth: direct.PasswordAuth(nil)},
			Digests:   direct.TPMLDigestValues{Digests: []direct.TPMTHA{{HashAlg: direct.TPMAlgSHA256, Digest: x.Digest[:]}}},
		}.Execute(sim)
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestNoTPMOfGoogles(t *testing.T) {
	sim, err := simulator.OpenSimulator()
	if err != nil {
		t.Fatal(err)
	}
	defer sim.Close()
	a := newAttester(func() (transport.TPMCloser, error) { return kept{sim}, nil }, "")
	if _, err := a.Attest(context.Background(), binding()); err == nil {
		t.Error("attested")
	}
	if found := a.probe(context.Background()); found[0].OK || slices.ContainsFunc(found, func(f Finding) bool { return f.OK }) {
		t.Errorf("%+v", found)
	}
}
