package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"errors"
	"slices"
	"testing"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/testtee/tpm"
)

var nonce = bytes.Repeat([]byte{7}, 32)

// quoteOf lets a test change what the TPM signs.
func quoteOf(t *tpm.TPM, change func(*tpm.Quote)) Quote {
	q := t.Quote(nonce)
	if change != nil {
		change(&q)
	}
	b := q.Encode()
	return Quote{Attest: b, Signature: t.Sign(b), PCRs: t.Registers()}
}

func code(t *testing.T, err error) string {
	t.Helper()
	if err == nil {
		return ""
	}
	r, ok := errors.AsType[attest.Reason](err)
	if !ok {
		t.Fatalf("not a reason: %v", err)
	}
	return r.Code
}

func TestQuote(t *testing.T) {
	for name, key := range map[string]crypto.Signer{"RSA": tpm.Key(), "ECDSA": tpm.ECKey()} {
		dev := tpm.New(key)
		dev.Boot(true)
		q := quoteOf(dev, nil)
		q.EventLog = dev.Log
		c, err := q.Verify(key.Public())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !bytes.Equal(c.Nonce, nonce) || c.Firmware != "2020031200120003" || c.Resets != 2 || len(c.PCRs) != 24 || !bytes.Equal(c.PCRs[7], dev.Values[7][:]) {
			t.Errorf("%s: %+v", name, c)
		}
		if l := c.EventLog; l == nil || l.SecureBoot == nil || !*l.SecureBoot || l.Firmware != "test firmware v1" || !slices.Equal(l.PCRs, []int{0, 1, 2, 3, 4, 5, 6, 7, 9}) {
			t.Errorf("%s: %+v", name, c.EventLog)
		}
	}
	dev := tpm.New(tpm.Key())
	q := quoteOf(dev, nil)
	q.Signature = q.Signature[6:] // as the common tools store it
	if _, err := q.Verify(tpm.Key().Public()); err != nil {
		t.Errorf("a bare signature: %v", err)
	}
	some := quoteOf(dev, func(q *tpm.Quote) {
		q.Banks[0].Select = []byte{0x80, 0, 0}
		d := sha256.Sum256(dev.Values[7][:])
		q.Digest = d[:]
	})
	if c, err := some.Verify(tpm.Key().Public()); err != nil || len(c.PCRs) != 1 {
		t.Errorf("one register: %+v, %v", c, err)
	}
}

func TestQuoteRefused(t *testing.T) {
	long := bytes.Repeat([]byte{1}, 80)
	for _, tc := range []struct {
		name, code string
		change     func(*tpm.Quote)
	}{
		{"not made by a TPM", "tpm.parse", func(q *tpm.Quote) { q.Magic++ }},
		{"a certified key", "tpm.parse", func(q *tpm.Quote) { q.Type = 0x8017 }},
		{"a long name", "tpm.parse", func(q *tpm.Quote) { q.Name = long }},
		{"a long nonce", "tpm.parse", func(q *tpm.Quote) { q.Nonce = long }},
		{"a clock neither safe nor not", "tpm.parse", func(q *tpm.Quote) { q.Safe = 2 }},
		{"a long digest", "tpm.parse", func(q *tpm.Quote) { q.Digest = long }},
		{"a tail", "tpm.parse", func(q *tpm.Quote) { q.Tail = []byte{0} }},
		{"a long tail", "tpm.parse", func(q *tpm.Quote) { q.Tail = make([]byte, 1<<20) }},
		{"a short selection", "tpm.parse", func(q *tpm.Quote) { q.Banks[0].Select = []byte{0xff} }},
		{"no bank", "tpm.pcrs", func(q *tpm.Quote) { q.Banks = nil }},
		{"two banks", "tpm.pcrs", func(q *tpm.Quote) { q.Banks = append(q.Banks, q.Banks[0]) }},
		{"the SHA-1 bank", "tpm.pcrs", func(q *tpm.Quote) { q.Banks[0].Hash = 4 }},
		{"the SHA-384 bank", "tpm.pcrs", func(q *tpm.Quote) { q.Banks[0].Hash = 0x0c }},
		{"row 53 PCR list is not what was quoted", "tpm.pcrs", func(q *tpm.Quote) { q.Digest = nonce }},
		{"a short digest", "tpm.pcrs", func(q *tpm.Quote) { q.Digest = q.Digest[:31] }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := quoteOf(tpm.New(tpm.Key()), tc.change).Verify(tpm.Key().Public())
			if got := code(t, err); got != tc.code {
				t.Errorf("refused for %q (%v), want %q", got, err, tc.code)
			}
		})
	}
}

func TestSignatureRefused(t *testing.T) {
	dev := tpm.New(tpm.Key())
	good := quoteOf(dev, nil)
	d256, d1 := sha256.Sum256(good.Attest), sha1.Sum(good.Attest)
	pss, err := rsa.SignPSS(rand.Reader, tpm.Key(), crypto.SHA256, d256[:], nil)
	if err != nil {
		t.Fatal(err)
	}
	old, err := rsa.SignPKCS1v15(rand.Reader, tpm.Key(), crypto.SHA1, d1[:])
	if err != nil {
		t.Fatal(err)
	}
	raw := good.Signature[6:]
	short := tpm.New(tpm.ShortKey())
	ec := tpm.New(tpm.ECKey())
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	edPub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, code string
		key        crypto.PublicKey
		sig        []byte
	}{
		{"row 53 another key", "tpm.sig", tpm.OtherKey().Public(), good.Signature},
		{"row 53 PSS", "tpm.sig", tpm.Key().Public(), tpm.Signature(0x16, 0x0b, pss)},
		{"row 53 bare PSS", "tpm.sig", tpm.Key().Public(), pss},
		{"row 53 PSS called RSASSA", "tpm.sig", tpm.Key().Public(), tpm.Signature(0x14, 0x0b, pss)},
		{"row 53 SHA-1", "tpm.sig", tpm.Key().Public(), tpm.Signature(0x14, 0x04, old)},
		{"row 53 bare SHA-1", "tpm.sig", tpm.Key().Public(), old},
		{"row 53 SHA-1 called SHA-256", "tpm.sig", tpm.Key().Public(), tpm.Signature(0x14, 0x0b, old)},
		{"SHA-384", "tpm.sig", tpm.Key().Public(), tpm.Signature(0x14, 0x0c, raw)},
		{"none", "tpm.sig", tpm.Key().Public(), nil},
		{"a byte less", "tpm.sig", tpm.Key().Public(), good.Signature[:len(good.Signature)-1]},
		{"a byte more", "tpm.sig", tpm.Key().Public(), append(bytes.Clone(good.Signature), 0)},
		{"shorter than the key", "tpm.sig", tpm.Key().Public(), tpm.Signature(0x14, 0x0b, raw[1:])},
		{"zero", "tpm.sig", tpm.Key().Public(), make([]byte, 256)},
		{"HMAC", "tpm.sig", tpm.Key().Public(), tpm.Signature(0x05, 0x0b, raw)},
		{"of a short key", "tpm.ak", tpm.ShortKey().Public(), short.Sign(good.Attest)},
		{"RSA by an elliptic key", "tpm.sig", tpm.ECKey().Public(), good.Signature},
		{"elliptic by an RSA key", "tpm.sig", tpm.Key().Public(), ec.Sign(good.Attest)},
		{"elliptic zero", "tpm.sig", tpm.ECKey().Public(), tpm.Signature(0x18, 0x0b, nil, nil)},
		{"elliptic of 33 bytes", "tpm.sig", tpm.ECKey().Public(), tpm.Signature(0x18, 0x0b, make([]byte, 33), nil)},
		{"elliptic SHA-1", "tpm.sig", tpm.ECKey().Public(), tpm.Signature(0x18, 0x04, nonce, nonce)},
		{"P-384", "tpm.ak", p384.Public(), good.Signature},
		{"Ed25519", "tpm.ak", edPub, good.Signature},
		{"no key", "tpm.ak", nil, good.Signature},
	} {
		t.Run(tc.name, func(t *testing.T) {
			q := good
			q.Signature = tc.sig
			_, err := q.Verify(tc.key)
			if got := code(t, err); got != tc.code {
				t.Errorf("refused for %q (%v), want %q", got, err, tc.code)
			}
		})
	}
}

// TestEveryBitOfAQuote: what is signed cannot be turned, nor a register that was quoted.
func TestEveryBitOfAQuote(t *testing.T) {
	dev := tpm.New(tpm.Key())
	dev.Boot(true)
	good := quoteOf(dev, nil)
	for i := range 8 * len(good.Attest) {
		q := good
		q.Attest = bytes.Clone(good.Attest)
		q.Attest[i/8] ^= 1 << (i % 8)
		if _, err := q.Verify(tpm.Key().Public()); err == nil {
			t.Fatalf("bit %d of the quote turned: taken", i)
		}
	}
	for i := range tpm.PCRs * 32 {
		q := good
		bank := EncodePCRs(good.PCRs)
		bank[i] ^= 1
		var err error
		if q.PCRs, err = DecodePCRs(bank); err != nil {
			t.Fatal(err)
		}
		if _, err := q.Verify(tpm.Key().Public()); code(t, err) != "tpm.pcrs" {
			t.Fatalf("byte %d of the registers turned: %v", i, err)
		}
	}
	if _, err := DecodePCRs(make([]byte, 767)); code(t, err) != "tpm.pcrs" {
		t.Errorf("a short bank: %v", err)
	}
	missing := good
	missing.PCRs = map[int][]byte{0: dev.Values[0][:]}
	if _, err := missing.Verify(tpm.Key().Public()); code(t, err) != "tpm.pcrs" {
		t.Errorf("a bank with one register: %v", err)
	}
}

func FuzzQuote(f *testing.F) {
	dev := tpm.New(tpm.Key())
	q := quoteOf(dev, nil)
	f.Add(q.Attest, q.Signature)
	f.Add(quoteOf(dev, func(q *tpm.Quote) { q.Banks = nil }).Attest, tpm.New(tpm.ECKey()).Sign(q.Attest))
	f.Fuzz(func(t *testing.T, b, sig []byte) {
		c, err := Quote{Attest: b, Signature: sig, PCRs: dev.Registers()}.Verify(tpm.OtherKey().Public())
		if err == nil {
			t.Fatalf("signed by nobody: %+v", c)
		}
		_ = verifySignature(tpm.ECKey().Public(), b, sig)
		if a, err := parse(b); err == nil && len(a.nonce) > maxNonce {
			t.Fatal("a long nonce")
		}
	})
}
