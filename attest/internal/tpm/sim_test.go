//go:build tpmsim

package tpm

import (
	"bytes"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/simulator"

	"github.com/consilium-fl/consilium/attest/testtee/tpm"
)

// restless is a TPM into which somebody measures while the registers are read, a number of times.
type restless struct {
	transport.TPM
	moves int
}

func (r *restless) Send(command []byte) ([]byte, error) {
	if command[9] == 0x7e && r.moves > 0 { // TPM_CC_PCR_Read
		r.moves--
		_, err := tpm2.PCRExtend{
			PCRHandle: tpm2.AuthHandle{Handle: 10, Auth: tpm2.PasswordAuth(nil)},
			Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: make([]byte, 32)}}},
		}.Execute(r.TPM)
		if err != nil {
			return nil, err
		}
	}
	return r.TPM.Send(command)
}

func TestDevice(t *testing.T) {
	sim, err := simulator.OpenSimulator()
	if err != nil {
		t.Fatal(err)
	}
	defer sim.Close()
	const i = 0x01400002
	if _, err := ReadNV(sim, i); err == nil {
		t.Error("read an index that is not there")
	}
	for _, n := range []int{2000, 2000} { // made, and written again
		want := bytes.Repeat([]byte{byte(n), 7}, n/2)
		if err := WriteNV(sim, i, want); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadNV(sim, i); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
	if err := WriteNV(sim, i, make([]byte, 2001)); err == nil {
		t.Error("wrote beyond the end")
	}
	if _, err := PersistentKey(sim, 0x81000003); err == nil {
		t.Error("found a key that is not there")
	}
	if _, err := PrimaryKey(sim, []byte("no template")); err == nil {
		t.Error("made a key of no template")
	}
	key, err := PrimaryKey(sim, tpm.Public(&tpm.Key().PublicKey, 0x00050472))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := key.Quote(&restless{sim, 1}, nonce); err != nil {
		t.Errorf("a register that moved once: %v", err)
	}
	if _, err := key.Quote(&restless{sim, 1000}, nonce); err == nil {
		t.Error("a quote of registers that do not rest")
	}
	if err := key.Flush(sim); err != nil {
		t.Error(err)
	}
}
