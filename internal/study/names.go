package study

import (
	"crypto/ed25519"
	"encoding/hex"
	"regexp"
	"slices"

	"github.com/consilium-fl/consilium/internal/signed"
)

const label = `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`

var (
	labelForm   = regexp.MustCompile(`^` + label + `$`)                   // a hospital, node or registry: part of a SPIFFE path and of file names
	dottedForm  = regexp.MustCompile(`^` + label + `(\.` + label + `)*$`) // a person or a consortium: labels with dots between
	formatForm  = regexp.MustCompile(`^[a-z][a-z0-9]*(/[a-z0-9.]+)?$`)    // of evidence, as sim/1
	machineForm = regexp.MustCompile(`^chip:[0-9a-f]{16,128}$`)
)

const (
	wantLabel   = "a name of lower-case letters, digits and dashes, at most 63"
	wantDotted  = "a name of lower-case letters, digits, dashes and dots"
	wantKey     = "ed25519: and 64 lower-case hex digits"
	wantGoodKey = "a key that only its owner can sign with: this one is of low order"
)

// lowOrder are the encodings, canonical or not, of the points of Ed25519 whose order divides 8, without
// the sign bit: anyone can sign for such a key.
var lowOrder = func() [][]byte {
	var keys [][]byte
	for _, s := range []string{
		"0100000000000000000000000000000000000000000000000000000000000000",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"0000000000000000000000000000000000000000000000000000000000000000",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	} {
		b, err := hex.DecodeString(s)
		if err != nil {
			panic("study: a constant is hex: " + err.Error())
		}
		keys = append(keys, b)
	}
	return keys
}()

func isLowOrder(k ed25519.PublicKey) bool {
	b := slices.Clone([]byte(k))
	b[len(b)-1] &= 0x7f
	return slices.ContainsFunc(lowOrder, func(l []byte) bool { return slices.Equal(l, b) })
}

// key reads a public key; every key of a file belongs to one name only, so that nobody signs for two.
func (o object) key(name string, seen map[string]string) ed25519.PublicKey {
	n, ok := o.scalar(name, true, wantKey)
	if !ok {
		return nil
	}
	k, err := signed.ParseKey(n.Value)
	switch owner, twice := seen[n.Value]; {
	case err != nil:
		o.bad(name, quote(n.Value), wantKey)
		return nil
	case isLowOrder(k):
		o.bad(name, quote(n.Value), wantGoodKey)
		return nil
	case twice:
		o.bad(name, "the key of "+owner, "a key of its own")
	}
	seen[n.Value] = o.sub(name)
	return k
}
