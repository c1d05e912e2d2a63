package signed

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"
)

type sample struct {
	Digest [32]byte `cbor:"1,keyasint"`
	Number uint64   `cbor:"2,keyasint"`
	Names  []string `cbor:"3,keyasint"`
}

func TestDecodeIsStrict(t *testing.T) {
	good, err := Encode(sample{Digest: [32]byte{1}, Number: 7, Names: []string{"a"}})
	if err != nil {
		t.Fatal(err)
	}
	var got sample
	if err := Decode(good, &got); err != nil || got.Number != 7 {
		t.Fatalf("got %+v, %v", got, err)
	}
	digest := append([]byte{0x58, 0x20}, make([]byte, 32)...)
	for name, b := range map[string][]byte{
		"empty":             {},
		"trailing byte":     append(bytes.Clone(good), 0),
		"truncated":         good[:len(good)-1],
		"unknown field":     append([]byte{0xa1, 0x09}, 0x00),
		"field left out":    {0xa1, 0x02, 0x07},
		"duplicate field":   {0xa2, 0x02, 0x07, 0x02, 0x07},
		"short digest":      {0xa3, 0x01, 0x41, 0x01, 0x02, 0x07, 0x03, 0x80},
		"long integer":      append(append([]byte{0xa3, 0x01}, digest...), 0x02, 0x18, 0x07, 0x03, 0x80),
		"null list":         append(append([]byte{0xa3, 0x01}, digest...), 0x02, 0x07, 0x03, 0xf6),
		"keys out of order": append(append([]byte{0xa3, 0x02, 0x07, 0x01}, digest...), 0x03, 0x80),
		"indefinite list":   append(append([]byte{0xa3, 0x01}, digest...), 0x02, 0x07, 0x03, 0x9f, 0xff),
		"tag":               append([]byte{0xc1}, good...),
		"too large":         make([]byte, MaxMessage+1),
	} {
		if err := Decode(b, &sample{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestSignVerify(t *testing.T) {
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := Sign(key, "ready", []byte("payload"))
	if err != nil {
		t.Fatal(err)
	}
	if err := Verify(pub, "ready", []byte("payload"), sig); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"another kind":    Verify(pub, "vote", []byte("payload"), sig),
		"another payload": Verify(pub, "ready", []byte("payloae"), sig),
		"moved boundary":  Verify(pub, "readyp", []byte("ayload"), sig),
		"no key":          Verify(nil, "ready", []byte("payload"), sig),
	} {
		if !errors.Is(err, ErrSignature) {
			t.Errorf("%s: got %v, want ErrSignature", name, err)
		}
	}
	if err := Verify(pub, "a\x00b", nil, sig); err == nil {
		t.Error("a kind with a zero byte was taken")
	}
}

// Every byte of a DSSE file counts: whichever is flipped, the file is refused or its signature is.
func TestEnvelopeEveryByteCounts(t *testing.T) {
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	e, err := SignEnvelope("application/test+json", []byte(`{"a":1}`), key, key)
	if err != nil {
		t.Fatal(err)
	}
	file := e.Encode()
	if got, err := ParseEnvelope(file, "application/test+json"); err != nil || !got.SignedBy(pub) || len(got.Signatures) != 1 {
		t.Fatalf("got %+v, %v", got, err)
	}
	for i := range file {
		for bit := range 8 {
			b := bytes.Clone(file)
			b[i] ^= 1 << bit
			got, err := ParseEnvelope(b, "application/test+json")
			if err == nil && got.SignedBy(pub) {
				t.Fatalf("byte %d, bit %d: taken", i, bit)
			}
		}
	}
	for name, b := range map[string][]byte{
		"no newline":   bytes.TrimSuffix(file, []byte("\n")),
		"two newlines": append(bytes.Clone(file), '\n'),
		"a space":      bytes.Replace(file, []byte(`":`), []byte(`": `), 1),
		"another type": bytes.Replace(file, []byte("test"), []byte("tesu"), 1),
		"too large":    []byte(strings.Repeat(" ", MaxEnvelope+1)),
	} {
		if _, err := ParseEnvelope(b, "application/test+json"); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestTexts(t *testing.T) {
	d := Digest([]byte("x"))
	if got, err := ParseDigest(DigestText(d)); err != nil || got != d {
		t.Errorf("digest: got %x, %v", got, err)
	}
	pub, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseKey(KeyText(pub)); err != nil || !got.Equal(pub) {
		t.Errorf("key: got %x, %v", got, err)
	}
	for _, s := range []string{"", "sha256:", "sha256:" + strings.Repeat("A", 64), "sha256:" + strings.Repeat("a", 63), "ed25519:" + strings.Repeat("g", 64)} {
		if _, err := ParseDigest(s); err == nil {
			t.Errorf("digest %q was taken", s)
		}
		if _, err := ParseKey(s); err == nil {
			t.Errorf("key %q was taken", s)
		}
	}
}

func FuzzDecode(f *testing.F) {
	b, err := Encode(sample{Number: 7, Names: []string{"a"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var s sample
		if Decode(b, &s) != nil {
			return
		}
		again, err := Encode(s)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x was taken and is %x again, %v", b, again, err)
		}
	})
}

func FuzzParseEnvelope(f *testing.F) {
	f.Add([]byte("{\"payloadType\":\"t\",\"payload\":\"\",\"signatures\":[]}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEnvelope(b, "t")
		if err == nil && !bytes.Equal(e.Encode(), b) {
			t.Fatalf("%q was taken and is %q again", b, e.Encode())
		}
	})
}
