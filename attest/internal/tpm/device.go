package tpm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"golang.org/x/sys/unix"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/internal/strict"
)

// Paths of Linux. The kernel shares the TPM between those who open the first.
const (
	DevicePath   = "/dev/tpmrm0"
	EventLogPath = "/sys/kernel/security/tpm0/binary_bios_measurements"
)

const (
	nvChunk    = 512 // bytes read or written at once; every TPM takes so many
	pcrReads   = 8   // a TPM gives at least one register at a time, and commonly eight
	quoteTries = 3   // a register may move between the quote and the reading
)

// Open opens the kernel's TPM.
func Open() (transport.TPMCloser, error) {
	f, err := os.OpenFile(DevicePath, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the TPM: %w", err)
	}
	return transport.FromReadWriteCloser(f), nil
}

// Lock waits until nobody else on the machine holds the lock on a file, and returns how to give it back.
func Lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("locking: %w", err)
	}
	for {
		switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
		case err == nil:
			return func() { f.Close() }, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			f.Close()
			return nil, fmt.Errorf("locking %q: %w", path, err)
		}
		if err := Sleep(ctx, 20*time.Millisecond); err != nil {
			f.Close()
			return nil, fmt.Errorf("locking %q, which another process holds: %w", path, err)
		}
	}
}

// Sleep waits, or gives up with the context.
func Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// ReadEventLog reads the firmware's log; without one it is empty.
func ReadEventLog(path string) ([]byte, error) {
	b, err := strict.File(path, attest.MaxEventLog)
	if err != nil {
		return nil, fmt.Errorf("reading the event log: %w", err)
	}
	return b, nil
}

// password is the empty one, which the owner of a cloud's TPM has.
func password(h tpm2.TPMHandle, name tpm2.TPM2BName) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: h, Name: name, Auth: tpm2.PasswordAuth(nil)}
}

// index looks at an NV index: how it is called, and its size.
func index(t transport.TPM, i uint32) (tpm2.NamedHandle, int, error) {
	public, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(i)}.Execute(t)
	if err != nil {
		return tpm2.NamedHandle{}, 0, err
	}
	contents, err := public.NVPublic.Contents()
	if err != nil {
		return tpm2.NamedHandle{}, 0, err
	}
	return tpm2.NamedHandle{Handle: tpm2.TPMHandle(i), Name: public.NVName}, int(contents.DataSize), nil
}

// ReadNV reads an index whole, as the owner.
func ReadNV(t transport.TPM, i uint32) ([]byte, error) {
	at, size, err := index(t, i)
	if err != nil {
		return nil, fmt.Errorf("reading index %#x of the TPM: %w", i, err)
	}
	var out []byte
	for len(out) < size {
		r, err := tpm2.NVRead{AuthHandle: password(tpm2.TPMRHOwner, tpm2.TPM2BName{}), NVIndex: at, Size: uint16(min(nvChunk, size-len(out))), Offset: uint16(len(out))}.Execute(t)
		if err != nil {
			return nil, fmt.Errorf("reading index %#x of the TPM: %w", i, err)
		}
		if len(r.Data.Buffer) == 0 {
			return nil, fmt.Errorf("reading index %#x of the TPM: %d bytes, want %d", i, len(out), size)
		}
		out = append(out, r.Data.Buffer...)
	}
	return out, nil
}

// WriteNV writes an index, as the owner. One that is not there is made.
func WriteNV(t transport.TPM, i uint32, b []byte) error {
	at, _, err := index(t, i)
	if errors.Is(err, tpm2.TPMRCHandle) {
		if err = define(t, i, len(b)); err == nil {
			at, _, err = index(t, i)
		}
	}
	if err != nil {
		return fmt.Errorf("writing index %#x of the TPM: %w", i, err)
	}
	for off := 0; off < len(b); off += nvChunk {
		chunk := b[off:min(off+nvChunk, len(b))]
		w := tpm2.NVWrite{AuthHandle: password(tpm2.TPMRHOwner, tpm2.TPM2BName{}), NVIndex: at, Data: tpm2.TPM2BMaxNVBuffer{Buffer: chunk}, Offset: uint16(off)}
		if _, err := w.Execute(t); err != nil {
			return fmt.Errorf("writing index %#x of the TPM: %w", i, err)
		}
	}
	return nil
}

func define(t transport.TPM, i uint32, size int) error {
	_, err := tpm2.NVDefineSpace{
		AuthHandle: password(tpm2.TPMRHOwner, tpm2.TPM2BName{}),
		PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
			NVIndex: tpm2.TPMHandle(i), NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(size),
			Attributes: tpm2.TPMANV{OwnerRead: true, OwnerWrite: true, NoDA: true},
		}),
	}.Execute(t)
	return err
}

// Key is a loaded attestation key.
type Key struct {
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	Public []byte // TPMT_PUBLIC
}

// PersistentKey finds one that the TPM keeps.
func PersistentKey(t transport.TPM, handle uint32) (*Key, error) {
	r, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(handle)}.Execute(t)
	if err != nil {
		return nil, fmt.Errorf("looking at key %#x of the TPM: %w", handle, err)
	}
	return &Key{tpm2.TPMHandle(handle), r.Name, r.OutPublic.Bytes()}, nil
}

// PrimaryKey makes a key of the endorsement hierarchy from a template (TPMT_PUBLIC): from the same template comes the
// same key. Whoever asked flushes it.
func PrimaryKey(t transport.TPM, template []byte) (*Key, error) {
	r, err := tpm2.CreatePrimary{
		PrimaryHandle: password(tpm2.TPMRHEndorsement, tpm2.TPM2BName{}),
		InPublic:      tpm2.BytesAs2B[tpm2.TPMTPublic](template),
	}.Execute(t)
	if err != nil {
		return nil, fmt.Errorf("making a key of the TPM: %w", err)
	}
	return &Key{r.ObjectHandle, r.Name, r.OutPublic.Bytes()}, nil
}

// Flush unloads a key that PrimaryKey made.
func (k *Key) Flush(t transport.TPM) error {
	_, err := tpm2.FlushContext{FlushHandle: k.handle}.Execute(t)
	return err
}

// Quote has the TPM state its SHA-256 bank, all of it, over a nonce. The kernel and whoever else is there may extend a
// register before the bank is read: then it asks again.
func (k *Key) Quote(t transport.TPM, nonce []byte) (Quote, error) {
	all := make([]uint, pcrs)
	for i := range all {
		all[i] = uint(i)
	}
	for range quoteTries {
		r, err := tpm2.Quote{
			SignHandle: password(k.handle, k.name), QualifyingData: tpm2.TPM2BData{Buffer: nonce},
			InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull}, PCRSelect: selectPCRs(all),
		}.Execute(t)
		if err != nil {
			return Quote{}, fmt.Errorf("asking the TPM for a quote: %w", err)
		}
		q := Quote{Attest: r.Quoted.Bytes(), Signature: tpm2.Marshal(r.Signature)}
		if q.PCRs, err = readPCRs(t, all); err != nil {
			return Quote{}, fmt.Errorf("reading the TPM's registers: %w", err)
		}
		a, err := parse(q.Attest)
		if err != nil {
			return Quote{}, fmt.Errorf("asking the TPM for a quote: %w", err)
		}
		if !bytes.Equal(a.nonce, nonce) {
			return Quote{}, errors.New("asking the TPM for a quote: it is over another nonce")
		}
		if _, err := a.registers(q.PCRs); err == nil {
			return q, nil
		}
	}
	return Quote{}, fmt.Errorf("asking the TPM for a quote: its registers moved %d times meanwhile", quoteTries)
}

func selectPCRs(registers []uint) tpm2.TPMLPCRSelection {
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(registers...)}}}
}

func readPCRs(t transport.TPM, registers []uint) (map[int][]byte, error) {
	out := map[int][]byte{}
	for len(registers) > 0 {
		some := registers[:min(pcrReads, len(registers))]
		r, err := tpm2.PCRRead{PCRSelectionIn: selectPCRs(some)}.Execute(t)
		if err != nil {
			return nil, err
		}
		got := r.PCRValues.Digests
		if len(got) == 0 || len(got) > len(some) {
			return nil, fmt.Errorf("%d values, want %d", len(got), len(some))
		}
		for i, d := range got {
			if len(d.Buffer) != sha256.Size {
				return nil, fmt.Errorf("register %d: %d bytes, want %d", some[i], len(d.Buffer), sha256.Size)
			}
			out[int(some[i])] = d.Buffer
		}
		registers = registers[len(got):]
	}
	return out, nil
}
