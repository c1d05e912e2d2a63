package signed

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
)

// MaxEnvelope bounds a DSSE file, in bytes.
const MaxEnvelope = 4 << 20

// Envelope is a DSSE envelope (secure-systems-lab/dsse, protocol v1.0.2). A file that holds one
// equals its canonical encoding byte for byte: a lenient reader would let some flipped bits pass.
type Envelope struct {
	PayloadType string
	Payload     []byte
	Signatures  []EnvelopeSignature
}

// EnvelopeSignature is one signature over the envelope; KeyID is the digest of the public key.
type EnvelopeSignature struct {
	KeyID string
	Sig   []byte
}

type envelopeJSON struct {
	PayloadType string          `json:"payloadType"`
	Payload     string          `json:"payload"`
	Signatures  []signatureJSON `json:"signatures"`
}

type signatureJSON struct {
	KeyID string `json:"keyid"`
	Sig   string `json:"sig"`
}

// SignEnvelope makes an envelope over payload, signed by each key in order.
func SignEnvelope(payloadType string, payload []byte, keys ...crypto.Signer) (Envelope, error) {
	e := Envelope{PayloadType: payloadType, Payload: payload}
	for _, k := range keys {
		if err := e.Sign(k); err != nil {
			return Envelope{}, err
		}
	}
	return e, nil
}

// Sign adds the signature of k, once.
func (e *Envelope) Sign(k crypto.Signer) error {
	pub, ok := k.Public().(ed25519.PublicKey)
	if !ok {
		return fmt.Errorf("signing %s: key is %T, want Ed25519", e.PayloadType, k.Public())
	}
	if e.SignedBy(pub) {
		return nil
	}
	sig, err := k.Sign(nil, e.pae(), crypto.Hash(0))
	if err != nil {
		return fmt.Errorf("signing %s: %w", e.PayloadType, err)
	}
	e.Signatures = append(e.Signatures, EnvelopeSignature{KeyID: KeyID(pub), Sig: sig})
	return nil
}

// SignedBy reports whether the envelope holds a good signature of pub.
func (e Envelope) SignedBy(pub ed25519.PublicKey) bool {
	if len(pub) != ed25519.PublicKeySize {
		return false
	}
	id := KeyID(pub)
	for _, s := range e.Signatures {
		if s.KeyID == id && ed25519.Verify(pub, e.pae(), s.Sig) {
			return true
		}
	}
	return false
}

// pae is the pre-authentication encoding of the DSSE protocol.
func (e Envelope) pae() []byte {
	b := []byte("DSSEv1 ")
	b = strconv.AppendInt(b, int64(len(e.PayloadType)), 10)
	b = append(append(append(b, ' '), e.PayloadType...), ' ')
	b = strconv.AppendInt(b, int64(len(e.Payload)), 10)
	return append(append(b, ' '), e.Payload...)
}

// Encode returns the canonical file: these keys in this order, no spaces, one newline at the end.
func (e Envelope) Encode() []byte {
	j := envelopeJSON{PayloadType: e.PayloadType, Payload: base64.StdEncoding.EncodeToString(e.Payload), Signatures: []signatureJSON{}}
	for _, s := range e.Signatures {
		j.Signatures = append(j.Signatures, signatureJSON{KeyID: s.KeyID, Sig: base64.StdEncoding.EncodeToString(s.Sig)})
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(j); err != nil {
		panic("signed: a struct of strings always encodes: " + err.Error())
	}
	return b.Bytes()
}

// ParseEnvelope reads a DSSE file of the wanted payload type. It checks the form, not the
// signatures: ask SignedBy for each key that has to have signed.
func ParseEnvelope(b []byte, payloadType string) (Envelope, error) {
	if len(b) > MaxEnvelope {
		return Envelope{}, fmt.Errorf("parsing DSSE envelope: %d bytes, want at most %d", len(b), MaxEnvelope)
	}
	var j envelopeJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return Envelope{}, fmt.Errorf("parsing DSSE envelope: %w", err)
	}
	if j.PayloadType != payloadType {
		return Envelope{}, fmt.Errorf("parsing DSSE envelope: payload type %q, want %q", j.PayloadType, payloadType)
	}
	payload, err := base64.StdEncoding.Strict().DecodeString(j.Payload)
	if err != nil {
		return Envelope{}, fmt.Errorf("parsing DSSE envelope: payload: %w", err)
	}
	e := Envelope{PayloadType: j.PayloadType, Payload: payload}
	for i, s := range j.Signatures {
		sig, err := base64.StdEncoding.Strict().DecodeString(s.Sig)
		if err != nil {
			return Envelope{}, fmt.Errorf("parsing DSSE envelope: signature %d: %w", i, err)
		}
		e.Signatures = append(e.Signatures, EnvelopeSignature{KeyID: s.KeyID, Sig: sig})
	}
	if !bytes.Equal(e.Encode(), b) {
		return Envelope{}, fmt.Errorf("parsing DSSE envelope: the file is not in canonical form (key order, base64, spaces or final newline)")
	}
	return e, nil
}
