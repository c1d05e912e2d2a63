package identity

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"
)

// How long certificates hold. Each begins a little early, for clocks that are behind.
const (
	SVIDLife       = time.Hour
	SelfSignedLife = 24 * time.Hour
	// What bounds an issuer is its key, which evidence binds; its certificate only has to outlive it.
	issuerLife = 10 * 365 * 24 * time.Hour
	skew       = time.Minute
)

// maxCertificate bounds a leaf, in bytes.
const maxCertificate = 16 << 10

// Issuer makes X.509-SVIDs of one hour. Its key is made inside the TEE. Its methods may be called
// from many goroutines.
type Issuer struct {
	consortium string
	key        crypto.Signer
	cert       *x509.Certificate
	roots      *x509.CertPool
}

// NewIssuer makes the issuer of a consortium from an Ed25519 key. After a restart the same key gives
// another certificate, under which what was issued before still checks.
func NewIssuer(consortium string, key crypto.Signer, now time.Time) (*Issuer, error) {
	td, err := trustDomain(consortium)
	if err != nil {
		return nil, fmt.Errorf("making issuer: %w", err)
	}
	tmpl := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "Consilium issuer", Organization: []string{consortium}},
		URIs:                  []*url.URL{td.ID().URL()},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(issuerLife),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	cert, err := sign(tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making issuer of %q: %w", consortium, err)
	}
	i := &Issuer{consortium: consortium, key: key, cert: cert, roots: x509.NewCertPool()}
	i.roots.AddCert(cert)
	return i, nil
}

// sign makes a certificate; every key in it is Ed25519.
func sign(tmpl, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	for _, k := range []crypto.PublicKey{pub, key.Public()} {
		if p, ok := k.(ed25519.PublicKey); !ok || len(p) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("key is %T, want Ed25519", k)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// Issue makes an SVID of SVIDLife, DER, for a node's Ed25519 key. Whether the key is the node's, and
// the node may have one, is decided before.
func (i *Issuer) Issue(id NodeID, pub crypto.PublicKey, now time.Time) (der []byte, err error) {
	uri, err := id.id()
	if err != nil {
		return nil, fmt.Errorf("issuing SVID: %w", err)
	}
	if id.Consortium != i.consortium {
		return nil, fmt.Errorf("issuing SVID for %s: got consortium %q, want %q", id, id.Consortium, i.consortium)
	}
	if own, ok := i.key.Public().(ed25519.PublicKey); ok && own.Equal(pub) {
		return nil, fmt.Errorf("issuing SVID for %s: the key is the issuer's own", id)
	}
	cert, err := sign(leafTemplate(pkix.Name{}, []*url.URL{uri.URL()}, now, SVIDLife), i.cert, pub, i.key)
	if err != nil {
		return nil, fmt.Errorf("issuing SVID for %s: %w", id, err)
	}
	return cert.Raw, nil
}

// leafTemplate is what an SVID may be and no more (X.509-SVID, section 4): no CA, signatures only.
func leafTemplate(subject pkix.Name, uris []*url.URL, now time.Time, life time.Duration) *x509.Certificate {
	return &x509.Certificate{
		Subject:               subject,
		URIs:                  uris,
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(life),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
}

// Certificate is the issuer's own, the bundle of its trust domain.
func (i *Issuer) Certificate() *x509.Certificate { return i.cert }

// Check verifies a leaf as an SVID of this issuer at now and returns its id. It refuses whatever
// Issue would not have made, so that a leaf says one thing to whoever reads it.
func (i *Issuer) Check(leaf *x509.Certificate, now time.Time) (NodeID, error) {
	id, err := i.check(leaf, now)
	if err != nil {
		return NodeID{}, fmt.Errorf("checking SVID: %w", err)
	}
	return id, nil
}

func (i *Issuer) check(leaf *x509.Certificate, now time.Time) (NodeID, error) {
	if leaf == nil {
		return NodeID{}, errors.New("no leaf")
	}
	if err := checkForm(leaf); err != nil {
		return NodeID{}, err
	}
	if err := i.checkChain(leaf, now); err != nil {
		return NodeID{}, err
	}
	id, err := ParseNodeID(leaf.URIs[0].String())
	if err != nil {
		return NodeID{}, err
	}
	if id.Consortium != i.consortium {
		return NodeID{}, fmt.Errorf("%s is of trust domain %q, want %q", id, id.Consortium, i.consortium)
	}
	return id, nil
}

func checkForm(leaf *x509.Certificate) error {
	pub, ok := leaf.PublicKey.(ed25519.PublicKey)
	switch {
	case len(leaf.Raw) == 0 || len(leaf.Raw) > maxCertificate:
		return fmt.Errorf("leaf of %d bytes, want at most %d", len(leaf.Raw), maxCertificate)
	case !ok || len(pub) != ed25519.PublicKeySize:
		return fmt.Errorf("key is %s, want Ed25519", leaf.PublicKeyAlgorithm)
	case leaf.SignatureAlgorithm != x509.PureEd25519:
		return fmt.Errorf("signature is %s, want Ed25519", leaf.SignatureAlgorithm)
	case leaf.IsCA || !leaf.BasicConstraintsValid:
		return errors.New("leaf may be a CA")
	case leaf.KeyUsage != x509.KeyUsageDigitalSignature:
		return fmt.Errorf("key usage is %#x, want digital signature alone", leaf.KeyUsage)
	case !slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}) || len(leaf.UnknownExtKeyUsage) != 0:
		return errors.New("extended key usage is not client and server authentication")
	case len(leaf.URIs) != 1:
		return fmt.Errorf("%d URI names, want exactly one", len(leaf.URIs))
	case len(leaf.DNSNames)+len(leaf.EmailAddresses)+len(leaf.IPAddresses) != 0:
		return errors.New("it has names beside the SPIFFE id")
	case leaf.NotAfter.Sub(leaf.NotBefore) > SVIDLife+skew:
		return fmt.Errorf("it holds for %s, want at most %s", leaf.NotAfter.Sub(leaf.NotBefore), SVIDLife+skew)
	}
	return nil
}

func (i *Issuer) checkChain(leaf *x509.Certificate, now time.Time) error {
	if now.IsZero() {
		return errors.New("no time to check at") // Verify would take the clock's
	}
	chains, err := leaf.Verify(x509.VerifyOptions{Roots: i.roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return err
	}
	if len(chains) != 1 || len(chains[0]) != 2 || !chains[0][1].Equal(i.cert) {
		return errors.New("it is not signed by this issuer directly")
	}
	return nil
}

// SelfSigned makes a leaf of SelfSignedLife for an Ed25519 key: a node's before it has an SVID, a
// person's, the coordinator's. It carries no SPIFFE id; what it says is its key.
func SelfSigned(name string, key crypto.Signer, now time.Time) (*tls.Certificate, error) {
	if name == "" || len(name) > 255 {
		return nil, fmt.Errorf("making leaf: name %q of %d bytes, want 1 to 255", name, len(name))
	}
	tmpl := leafTemplate(pkix.Name{CommonName: name}, nil, now, SelfSignedLife)
	leaf, err := sign(tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making leaf for %q: %w", name, err)
	}
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}, nil
}
