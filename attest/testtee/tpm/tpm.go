// Package tpm is a TPM for tests: it signs what it is told to, as a broken or a stolen one would.
//
//	t := tpm.New(key)
//	t.Boot(true)
//	quote := t.Quote(nonce)
//
// What it makes has the form that the TPM 2.0 Library and the TCG PC Client Platform Firmware Profile give.
package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // of test logs, whose SHA-1 bank nobody may take
	"crypto/sha256"
	"encoding/asn1"
	"encoding/binary"
	"math/big"
	"sync"
)

// PCRs is the number of registers.
const PCRs = 24

// Firmware version of the TPM.
const Firmware = 0x2020031200120003

// Key is an RSA key of 2048 bits, the same for the whole process.
var Key = sync.OnceValue(func() *rsa.PrivateKey { return newRSA(2048) })

// OtherKey is another.
var OtherKey = sync.OnceValue(func() *rsa.PrivateKey { return newRSA(2048) })

// ShortKey has 1024 bits.
var ShortKey = sync.OnceValue(func() *rsa.PrivateKey { return newRSA(1024) })

// ECKey is on P-256.
var ECKey = sync.OnceValue(func() *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	return k
})

func newRSA(bits int) *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, bits) //nolint:gosec // a short key is what one test refuses
	check(err)
	return k
}

func check(err error) {
	if err != nil {
		panic("testtee: " + err.Error())
	}
}

// TPM holds registers and a log of what led to them.
type TPM struct {
	Key    crypto.Signer
	Values [PCRs][32]byte
	Log    []byte

	extended []Extension
}

// Extension is what a register was extended by.
type Extension struct {
	PCR    int
	Digest [32]byte
}

// Extended lists all extensions in order, so that another TPM can follow.
func (t *TPM) Extended() []Extension { return t.extended }

// New makes a TPM that was just started.
func New(key crypto.Signer) *TPM {
	t := &TPM{Key: key}
	for i := 17; i <= 22; i++ {
		for j := range t.Values[i] {
			t.Values[i][j] = 0xff
		}
	}
	spec := []byte("Spec ID Event03\x00\x00\x00\x00\x00\x00\x02\x00\x02")
	spec = binary.LittleEndian.AppendUint32(spec, 2)
	for _, alg := range [][2]uint16{{4, sha1.Size}, {0x0b, sha256.Size}} {
		spec = binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(spec, alg[0]), alg[1])
	}
	spec = append(spec, 0)
	t.Log = binary.LittleEndian.AppendUint32(nil, 0)
	t.Log = binary.LittleEndian.AppendUint32(t.Log, 3)
	t.Log = append(t.Log, make([]byte, sha1.Size)...)
	t.Log = binary.LittleEndian.AppendUint32(t.Log, uint32(len(spec)))
	t.Log = append(t.Log, spec...)
	return t
}

// Extend changes a register, and logs nothing.
func (t *TPM) Extend(pcr int, digest [32]byte) {
	t.Values[pcr] = sha256.Sum256(append(t.Values[pcr][:], digest[:]...))
	t.extended = append(t.extended, Extension{pcr, digest})
}

// Measure extends a register by a digest of data, and logs it.
func (t *TPM) Measure(pcr int, kind uint32, data []byte) {
	t.MeasureAs(pcr, kind, sha256.Sum256(data), data)
}

// MeasureAs logs data beside a digest of something else.
func (t *TPM) MeasureAs(pcr int, kind uint32, digest [32]byte, data []byte) {
	t.Extend(pcr, digest)
	t.Event(pcr, kind, digest, data)
}

// Event logs, and changes no register.
func (t *TPM) Event(pcr int, kind uint32, digest [32]byte, data []byte) {
	old := sha1.Sum(data) //nolint:gosec // as real logs carry it
	for _, v := range []uint32{uint32(pcr), kind, 2} {
		t.Log = binary.LittleEndian.AppendUint32(t.Log, v)
	}
	t.Log = append(binary.LittleEndian.AppendUint16(t.Log, 4), old[:]...)
	t.Log = append(binary.LittleEndian.AppendUint16(t.Log, 0x0b), digest[:]...)
	t.Log = append(binary.LittleEndian.AppendUint32(t.Log, uint32(len(data))), data...)
}

// SecureBoot is the UEFI_VARIABLE_DATA of that variable.
func SecureBoot(on bool) []byte {
	v := []byte{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}
	v = binary.LittleEndian.AppendUint64(v, 10)
	v = binary.LittleEndian.AppendUint64(v, 1)
	v = append(v, utf16("SecureBoot")...)
	if on {
		return append(v, 1)
	}
	return append(v, 0)
}

func utf16(s string) []byte {
	var b []byte
	for _, c := range s {
		b = binary.LittleEndian.AppendUint16(b, uint16(c))
	}
	return b
}

// Boot measures what a firmware does from start to the loaded system.
func (t *TPM) Boot(secureBoot bool) {
	t.Measure(0, 8, utf16("test firmware v1\x00"))
	t.Measure(7, 0x80000001, SecureBoot(secureBoot))
	for pcr := range 8 {
		t.Measure(pcr, 4, []byte{0, 0, 0, 0})
	}
	t.MeasureAs(4, 0x80000003, sha256.Sum256([]byte("loader")), []byte("path of the loader"))
	t.MeasureAs(9, 0x0d, sha256.Sum256([]byte("kernel")), []byte("/vmlinuz\x00"))
	t.Measure(5, 0x80000007, []byte("Exit Boot Services Returned with Success"))
}

// Quote is a TPMS_ATTEST before it is encoded.
type Quote struct {
	Magic            uint32
	Type             uint16
	Name             []byte
	Nonce            []byte
	Clock            uint64
	Resets, Restarts uint32
	Safe             byte
	Firmware         uint64
	Banks            []Bank
	Digest           []byte
	Tail             []byte
}

// Bank is a TPMS_PCR_SELECTION.
type Bank struct {
	Hash   uint16
	Select []byte
}

// Quote states the SHA-256 bank.
func (t *TPM) Quote(nonce []byte) Quote {
	return Quote{
		Magic: 0xff544347, Type: 0x8018, Name: append([]byte{0, 0x0b}, make([]byte, 32)...), Nonce: nonce, Clock: 1, Resets: 2, Safe: 1, Firmware: Firmware,
		Banks: []Bank{{Hash: 0x0b, Select: []byte{0xff, 0xff, 0xff}}}, Digest: t.digest(),
	}
}

func (t *TPM) digest() []byte {
	h := sha256.New()
	for _, v := range t.Values {
		h.Write(v[:])
	}
	return h.Sum(nil)
}

// Encode writes a TPMS_ATTEST.
func (q Quote) Encode() []byte {
	be := binary.BigEndian
	sized := func(b, v []byte) []byte { return append(be.AppendUint16(b, uint16(len(v))), v...) }
	b := be.AppendUint32(nil, q.Magic)
	b = be.AppendUint16(b, q.Type)
	b = sized(sized(b, q.Name), q.Nonce)
	b = be.AppendUint64(b, q.Clock)
	b = be.AppendUint32(be.AppendUint32(b, q.Resets), q.Restarts)
	b = append(b, q.Safe)
	b = be.AppendUint64(b, q.Firmware)
	b = be.AppendUint32(b, uint32(len(q.Banks)))
	for _, bank := range q.Banks {
		b = append(append(be.AppendUint16(b, bank.Hash), byte(len(bank.Select))), bank.Select...)
	}
	return append(sized(b, q.Digest), q.Tail...)
}

// Registers lists the values by index.
func (t *TPM) Registers() map[int][]byte {
	out := map[int][]byte{}
	for i, v := range t.Values {
		out[i] = v[:]
	}
	return out
}

// Sign makes a TPMT_SIGNATURE, RSASSA or ECDSA over SHA-256.
func (t *TPM) Sign(b []byte) []byte {
	d := sha256.Sum256(b)
	sig, err := t.Key.Sign(rand.Reader, d[:], crypto.SHA256)
	check(err)
	if _, ec := t.Key.Public().(*ecdsa.PublicKey); ec {
		var rs struct{ R, S *big.Int }
		_, err := asn1.Unmarshal(sig, &rs)
		check(err)
		return Signature(0x18, 0x0b, rs.R.FillBytes(make([]byte, 32)), rs.S.FillBytes(make([]byte, 32)))
	}
	return Signature(0x14, 0x0b, sig)
}

// Signature is a TPMT_SIGNATURE of any scheme and hash.
func Signature(scheme, hash uint16, parts ...[]byte) []byte {
	b := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, scheme), hash)
	for _, p := range parts {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(p))), p...)
	}
	return b
}
