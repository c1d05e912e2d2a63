package simtee

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// AnchorFile is the name of the root's public key in a trust folder.
const AnchorFile = "sim-root.pem"

// The PEM types say what they are wherever the file turns up.
const (
	keyType    = "CONSILIUM SIMULATED TEE KEY"
	anchorType = "CONSILIUM SIMULATED TEE ROOT"
)

const maxPEM = 4 << 10 // bytes

// NewRoot makes a simulated root: ECDSA on P-384.
func NewRoot() (*ecdsa.PrivateKey, error) {
	k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a simulated root: %w", err)
	}
	return k, nil
}

// MarshalRoot returns the key file (PEM around PKCS #8), to be kept 0600. A key that is not on
// P-384 is a mistake in the program, and panics.
func MarshalRoot(k *ecdsa.PrivateKey) []byte {
	mustP384(&k.PublicKey)
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		panic("simtee: a P-384 key always encodes: " + err.Error())
	}
	return pem.EncodeToMemory(&pem.Block{Type: keyType, Bytes: der})
}

// ParseRoot reads what MarshalRoot wrote, and nothing else.
func ParseRoot(file []byte) (*ecdsa.PrivateKey, error) {
	der, err := block(file, keyType)
	if err != nil {
		return nil, fmt.Errorf("parsing a simulated root key: %w", err)
	}
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		// The text of the error could quote the key.
		return nil, errors.New("parsing a simulated root key: not a PKCS #8 key")
	}
	ec, ok := k.(*ecdsa.PrivateKey)
	if !ok || ec.Curve != elliptic.P384() {
		return nil, fmt.Errorf("parsing a simulated root key: a %T, want ECDSA on P-384", k)
	}
	return ec, nil
}

// MarshalAnchor returns the public file that verifiers trust, [AnchorFile].
func MarshalAnchor(k *ecdsa.PublicKey) []byte {
	mustP384(k)
	der, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		panic("simtee: a P-384 key always encodes: " + err.Error())
	}
	return pem.EncodeToMemory(&pem.Block{Type: anchorType, Bytes: der})
}

// ParseAnchor reads what MarshalAnchor wrote, and nothing else.
func ParseAnchor(file []byte) (*ecdsa.PublicKey, error) {
	der, err := block(file, anchorType)
	if err != nil {
		return nil, fmt.Errorf("parsing a simulated root: %w", err)
	}
	k, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("parsing a simulated root: %w", err)
	}
	ec, ok := k.(*ecdsa.PublicKey)
	if !ok || ec.Curve != elliptic.P384() {
		return nil, fmt.Errorf("parsing a simulated root: a %T, want ECDSA on P-384", k)
	}
	if !bytes.Equal(MarshalAnchor(ec), file) {
		return nil, errors.New("parsing a simulated root: not in canonical form")
	}
	return ec, nil
}

// block takes a file of exactly one PEM block: no headers, nothing before or after.
func block(file []byte, want string) ([]byte, error) {
	if len(file) > maxPEM {
		return nil, fmt.Errorf("%d bytes, want at most %d", len(file), maxPEM)
	}
	b, _ := pem.Decode(file)
	if b == nil {
		return nil, errors.New("no PEM block")
	}
	if b.Type != want {
		return nil, fmt.Errorf("PEM type %q, want %q", b.Type, want)
	}
	if !bytes.Equal(pem.EncodeToMemory(&pem.Block{Type: b.Type, Bytes: b.Bytes}), file) {
		return nil, errors.New("want one PEM block without headers, and nothing else in the file")
	}
	return b.Bytes, nil
}

func mustP384(k *ecdsa.PublicKey) {
	if k.Curve != elliptic.P384() {
		panic("simtee: a root is on P-384")
	}
}
