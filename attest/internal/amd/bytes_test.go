package amd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"math/big"
	"slices"
)

var order = elliptic.P384().Params().N

var p256 = func() *ecdsa.PublicKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return &k.PublicKey
}()

func getScalar(b []byte, at int) *big.Int {
	be := slices.Clone(b[at : at+scalarSize])
	slices.Reverse(be)
	return new(big.Int).SetBytes(be)
}

func putScalar(b []byte, at int, n *big.Int) []byte {
	le := n.FillBytes(make([]byte, scalarSize))
	slices.Reverse(le)
	copy(b[at:], le)
	return b
}

// longForm writes the length of a certificate in more bytes than it needs, which is BER and not DER.
func longForm(der []byte) []byte {
	return append([]byte{der[0], 0x83, 0, der[2], der[3]}, der[4:]...)
}
