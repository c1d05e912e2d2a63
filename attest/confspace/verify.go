package confspace

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/consilium-fl/consilium/attest"
)

// skew is by how much a verifier's clock may be behind Google's, which stamps a token with the second it signs it in.
const skew = time.Minute

type verifier struct {
	format attest.Format
	header []string // fields that a header may have
	// authenticate finds out who signed, and adds to the claims what vouches for that.
	authenticate func(token, attest.Inputs, *attest.Claims) []attest.Reason
}

// NewVerifier makes the verifier of gcp-cs-pki/1: tokens with their certificates.
func NewVerifier() attest.Verifier {
	return verifier{attest.FormatCSPKI, []string{"alg", "kid", "typ", "x5c"}, byChain}
}

// NewOIDCVerifier makes the verifier of gcp-cs-oidc/1: tokens signed by a key of a JWKS in the snapshot.
func NewOIDCVerifier() attest.Verifier {
	return verifier{attest.FormatCSOIDC, []string{"alg", "kid", "typ"}, byKeySet}
}

func (v verifier) Format() attest.Format { return v.format }

// Verify authenticates one token.
func (v verifier) Verify(e attest.Evidence, in attest.Inputs) (attest.Unappraised, error) {
	t, err := parse(e.Statement)
	if err != nil {
		return attest.Unappraised{}, err
	}
	w := t.workload()
	c := common(w, in)
	c.Format = v.format
	rs := v.protected(t)
	if len(rs) == 0 {
		rs = v.authenticate(t, in, &c)
	}
	rs = slices.Concat(rs, *t.wrong, timely(w, in.Now))
	if c.ReportData == [64]byte{} && len(w.Nonces) == 0 {
		rs = append(rs, attest.Reason{Code: attest.CodeFreshness, Path: "claims.eat_nonce", Got: "none", Want: "an answer to the verifier"})
	}
	if len(e.Endorsements) != 0 {
		rs = append(rs, attest.Reason{Code: attest.CodeCSEncoding, Path: "endorsements", Got: fmt.Sprint(len(e.Endorsements)), Want: "none beside the token"})
	}
	return attest.Unappraise(c), joined(rs)
}

func joined(rs []attest.Reason) error {
	errs := make([]error, 0, len(rs))
	for _, r := range rs {
		errs = append(errs, r)
	}
	return errors.Join(errs...)
}

// protected judges the header: one algorithm, and no field that changes what the others mean (RFC 7515, section
// 4.1.11, and RFC 8725, section 3.1).
func (v verifier) protected(t token) (rs []attest.Reason) {
	if got := t.header.of["alg"]; got != "RS256" {
		rs = append(rs, attest.Reason{Code: attest.CodeCSAlg, Path: "header.alg", Got: fmt.Sprintf("%.16q", fmt.Sprint(got)), Want: "RS256"})
	}
	if got := t.header.of["typ"]; got != nil && got != "JWT" {
		rs = append(rs, attest.Reason{Code: attest.CodeCSHeader, Path: "header.typ", Got: fmt.Sprintf("%.16q", fmt.Sprint(got)), Want: "JWT"})
	}
	for _, name := range slices.Sorted(maps.Keys(t.header.of)) {
		if !slices.Contains(v.header, name) {
			rs = append(rs, attest.Reason{Code: attest.CodeCSHeader, Path: "header", Got: fmt.Sprintf("%.32q", name), Want: fmt.Sprintf("of %q", v.header)})
		}
	}
	return rs
}

func timely(w *attest.WorkloadClaims, now time.Time) (rs []attest.Reason) {
	at := now.UTC().Format(time.RFC3339)
	if !now.Before(w.Expires) {
		rs = append(rs, attest.Reason{Code: attest.CodeCSExpired, Path: "claims.exp", Got: w.Expires.Format(time.RFC3339), Want: "after " + at})
	}
	if now.Add(skew).Before(w.NotBefore) {
		rs = append(rs, attest.Reason{Code: attest.CodeCSNotBefore, Path: "claims.nbf", Got: w.NotBefore.Format(time.RFC3339), Want: "at most " + at})
	}
	return rs
}

// signedBy checks the signature of RS256 (RFC 7518, section 3.3).
func (t token) signedBy(k *rsa.PublicKey) bool {
	digest := sha256.Sum256(t.signed)
	return rsa.VerifyPKCS1v15(k, crypto.SHA256, digest[:], t.signature) == nil
}

func unsigned() []attest.Reason {
	return []attest.Reason{{Code: attest.CodeSignature, Path: "signature", Got: "no good signature", Want: "one over header and claims"}}
}
