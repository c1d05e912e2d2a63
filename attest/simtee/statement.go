package simtee

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/asn1"
	"fmt"
	"math/big"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/internal/strict"
	"github.com/consilium-fl/consilium/internal/signed"
)

// Format is the format's name.
const Format = attest.FormatSim

const (
	magic        = "consilium/sim/1"
	maxStatement = 4 << 10 // bytes of a signed statement
	maxMachine   = 128     // bytes
	scalar       = 48      // bytes of r and of s
)

// Measurement of a role: SHA-256("consilium/sim/1/" ‖ role). A simulated TEE measures no code,
// so the role is all that it can tell.
func Measurement(role attest.Role) [32]byte {
	return sha256.Sum256([]byte(magic + "/" + string(role)))
}

// statement is what the root signs.
type statement struct {
	Magic       string   `cbor:"1,keyasint"`
	Measurement [32]byte `cbor:"2,keyasint"`
	ReportData  [64]byte `cbor:"3,keyasint"`
	Machine     string   `cbor:"4,keyasint"`
	Debug       bool     `cbor:"5,keyasint"`
	NotBefore   int64    `cbor:"6,keyasint"` // seconds of the Unix epoch
	NotAfter    int64    `cbor:"7,keyasint"`
}

// quote is Evidence.Statement: the encoded statement and r ‖ s over it, big endian.
type quote struct {
	Body      []byte `cbor:"1,keyasint"`
	Signature []byte `cbor:"2,keyasint"`
}

func (s statement) sign(root *ecdsa.PrivateKey) ([]byte, error) {
	body, err := signed.Encode(s)
	if err != nil {
		return nil, err
	}
	der, err := ecdsa.SignASN1(rand.Reader, root, digest(body))
	if err != nil {
		return nil, err
	}
	var sig struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &sig); err != nil || len(rest) != 0 {
		panic("simtee: crypto/ecdsa makes canonical DER")
	}
	// Of the two good values of s take the lower, so that evidence has one form.
	if sig.S.Cmp(halfOrder) > 0 {
		sig.S.Sub(elliptic.P384().Params().N, sig.S)
	}
	raw := make([]byte, 2*scalar)
	sig.R.FillBytes(raw[:scalar])
	sig.S.FillBytes(raw[scalar:])
	return signed.Encode(quote{Body: body, Signature: raw})
}

// halfOrder is ⌊n/2⌋ of P-384.
var halfOrder = new(big.Int).Rsh(elliptic.P384().Params().N, 1)

func digest(body []byte) []byte {
	d := sha512.Sum384(append([]byte(magic+"\x00"), body...))
	return d[:]
}

// parse reads a quote and its statement, in their only form. The signature is not checked here.
func parse(b []byte) (statement, quote, error) {
	var q quote
	if err := strict.Decode(b, maxStatement, &q); err != nil {
		return statement{}, quote{}, fmt.Errorf("parsing a simulated quote: %w", err)
	}
	var s statement
	if err := strict.Decode(q.Body, maxStatement, &s); err != nil {
		return statement{}, quote{}, fmt.Errorf("parsing a simulated quote: %w", err)
	}
	switch {
	case s.Magic != magic:
		return statement{}, quote{}, fmt.Errorf("parsing a simulated quote: magic %q, want %q", s.Magic, magic)
	case len(s.Machine) > maxMachine:
		return statement{}, quote{}, fmt.Errorf("parsing a simulated quote: a machine of %d bytes, want at most %d", len(s.Machine), maxMachine)
	case s.NotBefore < 0 || s.NotAfter <= s.NotBefore || s.NotAfter > maxTime:
		return statement{}, quote{}, fmt.Errorf("parsing a simulated quote: valid from %d to %d, want a span of time", s.NotBefore, s.NotAfter)
	case len(q.Signature) != 2*scalar:
		return statement{}, quote{}, fmt.Errorf("parsing a simulated quote: a signature of %d bytes, want %d", len(q.Signature), 2*scalar)
	}
	return s, q, nil
}

// maxTime is the end of the year 9999, the last that RFC 3339 can write.
const maxTime = 253402300799

// signedBy checks r ‖ s; of s and n−s only the lower counts.
func (q quote) signedBy(root *ecdsa.PublicKey) bool {
	r, s := new(big.Int).SetBytes(q.Signature[:scalar]), new(big.Int).SetBytes(q.Signature[scalar:])
	if s.Cmp(halfOrder) > 0 {
		return false
	}
	der, err := asn1.Marshal(struct{ R, S *big.Int }{r, s})
	return err == nil && ecdsa.VerifyASN1(root, digest(q.Body), der)
}
