package confspace

import (
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/consilium-fl/consilium/attest"
)

// NotCheckedKeySet is what a Result lists under NotChecked for an OIDC token: a JWKS has no date, so nobody can
// tell from a snapshot whether Google has withdrawn the key since.
const NotCheckedKeySet = "jwks.age"

// jwk is a key of a JWKS (RFC 7517, section 4).
type jwk struct {
	Kty string `json:"kty"`
	Kid string `json:"kid"`
	Alg string `json:"alg"`
	Use string `json:"use"`
	N   string `json:"n"`
	E   string `json:"e"`
}

// byKeySet checks an OIDC token by the keys that have its kid.
func byKeySet(t token, in attest.Inputs, c *attest.Claims) []attest.Reason {
	c.NotChecked = append(c.NotChecked, NotCheckedKeySet)
	kid := t.header.text("kid")
	keys := keysOf(in.Trust.Index().KeySets, kid)
	if len(keys) == 0 {
		return []attest.Reason{{Code: attest.CodeCSKid, Path: "header.kid", Got: fmt.Sprintf("%.80q", kid), Want: "an RS256 key of a JWKS in the snapshot"}}
	}
	if !slices.ContainsFunc(keys, t.signedBy) {
		return unsigned()
	}
	return nil
}

func keysOf(sets []json.RawMessage, kid string) (out []*rsa.PublicKey) {
	if kid == "" {
		return nil
	}
	for _, raw := range sets {
		var set struct {
			Keys []jwk `json:"keys"`
		}
		if json.Unmarshal(raw, &set) != nil {
			continue
		}
		for _, k := range set.Keys {
			if key, ok := k.rsa(); ok && k.Kid == kid {
				out = append(out, key)
			}
		}
	}
	return out
}

// rsa returns a key for RS256 signatures, if it is one.
func (k jwk) rsa() (*rsa.PublicKey, bool) {
	if k.Kty != "RSA" || k.Alg != "" && k.Alg != "RS256" || k.Use != "" && k.Use != "sig" || strings.ContainsAny(k.N+k.E, "\r\n") {
		return nil, false
	}
	n, errN := base64.RawURLEncoding.Strict().DecodeString(k.N)
	e, errE := base64.RawURLEncoding.Strict().DecodeString(k.E)
	exponent := new(big.Int).SetBytes(e)
	if errN != nil || errE != nil || exponent.BitLen() > 31 {
		return nil, false
	}
	return rsaKey(&rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(exponent.Int64())})
}
