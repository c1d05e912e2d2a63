// Package google plays Google's attestation service for tests: it signs what the real one would never sign. Its root
// has the name of the real one and another key.
package google

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"sync"
	"time"
)

// Now is the moment at which everything that a new PKI makes is valid.
func Now() time.Time { return time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC) }

// Kid names the leaf's key in a JWKS.
const Kid = "2Ssf_M3oeNfWhYguTpKEs1lrMZNOWP6muiYLENXtC4k"

// The keys of a leaf, an intermediate and a root, made of primes that lie so far from where a hash of their names
// says: whoever reads this has them, and every process of a fuzzer has the same.
var (
	keys      = makeKeys("google", [3][2]int64{{446, 564}, {94, 252}, {834, 1222}})
	strangers = makeKeys("stranger", [3][2]int64{{1712, 2222}, {584, 420}, {2080, 370}})
)

func makeKeys(who string, distances [3][2]int64) func() [3]*rsa.PrivateKey {
	return sync.OnceValue(func() (out [3]*rsa.PrivateKey) {
		for at, d := range distances {
			p, q := prime(fmt.Sprintf("%s %d p ", who, at), d[0]), prime(fmt.Sprintf("%s %d q ", who, at), d[1])
			out[at] = keyOf(p, q)
		}
		return out
	})
}

// prime is 1024 bits long.
func prime(name string, distance int64) *big.Int {
	high, low := sha512.Sum512([]byte(name+"0")), sha512.Sum512([]byte(name+"1"))
	high[0] |= 0xc0 // so that the product of two has 2048 bits
	low[63] |= 1
	n := new(big.Int).SetBytes(append(high[:], low[:]...))
	return n.Add(n, big.NewInt(distance))
}

func keyOf(p, q *big.Int) *rsa.PrivateKey {
	one := big.NewInt(1)
	phi := new(big.Int).Mul(new(big.Int).Sub(p, one), new(big.Int).Sub(q, one))
	k := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: new(big.Int).Mul(p, q), E: 65537}, Primes: []*big.Int{p, q}}
	k.D = new(big.Int).ModInverse(big.NewInt(int64(k.E)), phi)
	k.Precompute()
	if err := k.Validate(); err != nil {
		panic("google: " + err.Error())
	}
	return k
}

func must[T any](v T, err error) T {
	if err != nil {
		panic("google: " + err.Error())
	}
	return v
}

// PKI is a chain as x5c has it: leaf, intermediate, root; and the leaf's key.
type PKI struct {
	Chain [3]*x509.Certificate
	Key   *rsa.PrivateKey
	keys  [3]*rsa.PrivateKey
}

// New makes a PKI like Google's. A change, if it is not nil, is made to each template before it is signed, of the
// root first: 2, 1, 0.
func New(change func(at int, template *x509.Certificate)) *PKI { return newPKI(keys(), change) }

// Stranger makes one under the same names with other keys.
func Stranger() *PKI { return newPKI(strangers(), nil) }

func newPKI(keys [3]*rsa.PrivateKey, change func(int, *x509.Certificate)) *PKI {
	p := &PKI{Key: keys[0], keys: keys}
	for at := 2; at >= 0; at-- {
		t := template(at)
		if change != nil {
			change(at, t)
		}
		p.Chain[at] = p.issue(at, t, keys[at].Public())
	}
	return p
}

// issue signs a template for a place with the key of the next.
func (p *PKI) issue(at int, t *x509.Certificate, key crypto.PublicKey) *x509.Certificate {
	parent, signer := t, p.keys[at]
	if at < 2 {
		parent, signer = p.Chain[at+1], p.keys[at+1]
	}
	return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, t, parent, key, signer))))
}

// WithLeafKey returns the PKI with a leaf for another key, of any kind.
func (p *PKI) WithLeafKey(key crypto.PublicKey) *PKI {
	q := *p
	q.Chain[0] = q.issue(0, template(0), key)
	return &q
}

// WithLeafByRoot returns the PKI with a leaf that the root has signed, past the intermediate.
func (p *PKI) WithLeafByRoot() *PKI {
	q := *p
	q.Chain[0] = must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, template(0), q.Chain[2], q.keys[0].Public(), q.keys[2]))))
	return &q
}

func template(at int) *x509.Certificate {
	name := []string{"Confidential Space Leaf Certificate", "Confidential Space Intermediate CA", "Confidential Space Root CA"}[at]
	t := &x509.Certificate{
		SerialNumber: big.NewInt(int64(at + 1)), BasicConstraintsValid: true, SignatureAlgorithm: x509.SHA256WithRSA,
		Subject:   pkix.Name{Country: []string{"US"}, Organization: []string{"Google LLC"}, OrganizationalUnit: []string{"Google Cloud"}, CommonName: name},
		NotBefore: []time.Time{date(2026, 1, 1), date(2024, 1, 23), date(2024, 1, 19)}[at],
		NotAfter:  []time.Time{date(2026, 3, 1), date(2027, 1, 23), date(2034, 1, 16)}[at],
	}
	if at > 0 {
		t.IsCA, t.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	}
	if at == 1 {
		t.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{2, 23, 133, 8, 1}} // as Google's has it
		t.CRLDistributionPoints = []string{"http://privateca.invalid/crl.crl"}
	}
	return t
}

func date(y int, m time.Month, d int) time.Time { return time.Date(y, m, d, 0, 0, 0, 0, time.UTC) }

// Trust is what a steward's folder holds who trusts p: its root.
func (p *PKI) Trust() map[string][]byte {
	return map[string][]byte{"confidential-space-root.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Chain[2].Raw})}
}

// CRL is the root's revocation list of certificates, in DER, from Now for a week.
func (p *PKI) CRL(revoked ...*x509.Certificate) []byte {
	t := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: Now().Add(-time.Hour), NextUpdate: Now().Add(7 * 24 * time.Hour)}
	for _, c := range revoked {
		t.RevokedCertificateEntries = append(t.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: t.ThisUpdate})
	}
	return must(x509.CreateRevocationList(rand.Reader, t, p.Chain[2], p.keys[2]))
}

// JWKS is the set with the leaf's key, which Google publishes for OIDC tokens.
func (p *PKI) JWKS() []byte {
	n, e := p.Key.N.Bytes(), big.NewInt(int64(p.Key.E)).Bytes()
	return must(json.Marshal(map[string]any{"keys": []map[string]string{{
		"kty": "RSA", "alg": "RS256", "use": "sig", "kid": Kid,
		"n": base64.RawURLEncoding.EncodeToString(n), "e": base64.RawURLEncoding.EncodeToString(e),
	}}}))
}

// Object is a JSON object of a token.
type Object = map[string]any

// Header is that of a PKI token. Without x5c it is that of an OIDC token.
func (p *PKI) Header() Object {
	x5c := make([]string, 0, len(p.Chain))
	for _, c := range p.Chain {
		x5c = append(x5c, base64.StdEncoding.EncodeToString(c.Raw))
	}
	return Object{"alg": "RS256", "kid": Kid, "typ": "JWT", "x5c": x5c}
}

// Token signs a PKI token over claims.
func (p *PKI) Token(claims Object) []byte { return p.Sign(p.Header(), claims) }

// OIDC signs an OIDC token over claims.
func (p *PKI) OIDC(claims Object) []byte {
	h := p.Header()
	delete(h, "x5c")
	return p.Sign(h, claims)
}

// Sign signs any header and claims.
func (p *PKI) Sign(header, claims Object) []byte {
	return p.SignBytes(must(json.Marshal(header)), must(json.Marshal(claims)))
}

// SignBytes signs what may be no JSON at all.
func (p *PKI) SignBytes(header, claims []byte) []byte {
	b := base64.RawURLEncoding
	input := b.EncodeToString(header) + "." + b.EncodeToString(claims)
	digest := sha256.Sum256([]byte(input))
	sig := must(rsa.SignPKCS1v15(nil, p.Key, crypto.SHA256, digest[:]))
	return []byte(input + "." + b.EncodeToString(sig))
}

// Digest is that of the container image in Claims.
const Digest = "sha256:313b8a83d3c8bfc9abcffee4f538424473e2705383a7e46f16d159faf0e5ef34"

// Claims are those of a container on a production image and a TDX machine, in the form that Google gives them,
// with the nonces given.
func Claims(audience string, nonces ...string) Object {
	c := Object{
		"iss": "https://confidentialcomputing.googleapis.com", "aud": audience,
		"sub": "https://www.googleapis.com/compute/v1/projects/hospital/zones/europe-west4-a/instances/coordinator",
		"iat": Now().Unix(), "nbf": Now().Unix(), "exp": Now().Add(time.Hour).Unix(),
		"eat_profile": "https://cloud.google.com/confidential-computing/confidential-space/docs/reference/token-claims",
		"secboot":     true, "oemid": 11129, "hwmodel": "GCP_INTEL_TDX", "attester_tcb": []string{"INTEL"},
		"swname": "CONFIDENTIAL_SPACE", "swversion": []string{"251001"}, "dbgstat": "disabled-since-boot",
		"google_service_accounts": []string{"coordinator@hospital.iam.gserviceaccount.com"},
		"submods": Object{
			"confidential_space": Object{
				"support_attributes": []string{"LATEST", "STABLE", "USABLE"}, "monitoring_enabled": Object{"memory": false},
			},
			"container": Object{
				"image_reference": "europe-docker.pkg.dev/hospital/consilium/coordinator:v1", "image_digest": Digest,
				"image_id":       "sha256:7b5cbc3256c1c8b8b2d9add4b6540b26fa7f71ec61b07b86629fa20f5475d647",
				"restart_policy": "Never", "args": []string{"/consilium-coordinator", "serve"},
				"env": Object{"HOSTNAME": "coordinator", "PATH": "/"},
				"image_signatures": []Object{{
					"key_id": "9df6bda0d8c1d1e0b2f1c4fa4a1d0b0d9b5f1a3f4a4d8cf2a7b3d6a0e9c1f5b7", "signature": "AA", "signature_algorithm": "ECDSA_P256_SHA256",
				}},
			},
			"gce": Object{
				"zone": "europe-west4-a", "project_id": "hospital", "project_number": "691249393555",
				"instance_name": "coordinator", "instance_id": "6256007950053693934",
			},
		},
	}
	switch len(nonces) {
	case 0: // the token that lies in a file, which has none
	case 1:
		c["eat_nonce"] = nonces[0]
	default:
		c["eat_nonce"] = nonces
	}
	return c
}

// Merge returns claims with some of them set: by the dotted path of a claim. Nil takes it away.
func Merge(claims Object, set Object) Object {
	out := maps.Clone(claims)
	for path, v := range set {
		put(out, path, v)
	}
	return out
}

func put(o Object, path string, v any) {
	for i := range path {
		if path[i] != '.' {
			continue
		}
		inner, ok := o[path[:i]].(Object)
		if !ok {
			panic(fmt.Sprintf("google: no object %q", path[:i]))
		}
		inner = maps.Clone(inner)
		o[path[:i]] = inner
		put(inner, path[i+1:], v)
		return
	}
	if v == nil {
		delete(o, path)
	} else {
		o[path] = v
	}
}
