package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

var va = NodeID{Consortium: "heart.example", Hospital: "va", Node: "1"}

const vaURI = "spiffe://heart.example/hospital/va/node/1"

func newKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newIssuer(t testing.TB, consortium string, key crypto.Signer) *Issuer {
	t.Helper()
	i, err := NewIssuer(consortium, key, now)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func parse(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func issue(t testing.TB, i *Issuer, id NodeID) *x509.Certificate {
	t.Helper()
	der, err := i.Issue(id, newKey(t).Public(), now)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, der)
}

func TestSVID(t *testing.T) {
	key := newKey(t)
	i := newIssuer(t, "heart.example", key)
	leaf := issue(t, i, va)
	for name, at := range map[string]time.Time{"at once": now, "at the end": now.Add(SVIDLife), "by a clock that is behind": now.Add(-skew)} {
		if id, err := i.Check(leaf, at); err != nil || id != va {
			t.Errorf("%s: %v, %v; want %v", name, id, err, va)
		}
	}
	again := newIssuer(t, "heart.example", key)
	if id, err := again.Check(leaf, now); err != nil || id != va {
		t.Errorf("after a restart with the same key: %v, %v", id, err)
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != vaURI {
		t.Errorf("it names %v, want %s", leaf.URIs, vaURI)
	}
	critical := false
	for _, e := range leaf.Extensions {
		critical = critical || e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 15}) && e.Critical
	}
	if !critical || leaf.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("key usage %#x, critical %v; want digital signature, critical", leaf.KeyUsage, critical)
	}
}

func TestIssuerCertificate(t *testing.T) {
	c := newIssuer(t, "heart.example", newKey(t)).Certificate()
	if !c.IsCA || c.MaxPathLen != 0 || c.KeyUsage != x509.KeyUsageCertSign || len(c.URIs) != 1 || c.URIs[0].String() != "spiffe://heart.example" {
		t.Errorf("CA %v, path %d, usage %#x, names %v", c.IsCA, c.MaxPathLen, c.KeyUsage, c.URIs)
	}
	if err := c.CheckSignatureFrom(c); err != nil {
		t.Error(err)
	}
}

// mint signs whatever an attacker would like, with the issuer's own key: Check alone stands in the way.
func mint(t *testing.T, parent *x509.Certificate, key crypto.Signer, pub crypto.PublicKey, change func(c *x509.Certificate)) *x509.Certificate {
	t.Helper()
	c := leafTemplate(pkix.Name{}, uris(t, vaURI), now, SVIDLife)
	if change != nil {
		change(c)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, der)
}

func uris(t *testing.T, texts ...string) []*url.URL {
	t.Helper()
	var out []*url.URL
	for _, s := range texts {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, u)
	}
	return out
}

func TestLeavesThatAreRefused(t *testing.T) {
	key := newKey(t)
	i := newIssuer(t, "heart.example", key)
	pub := newKey(t).Public()
	if _, err := i.Check(mint(t, i.cert, key, pub, nil), now); err != nil {
		t.Fatalf("the leaf that the attacks change: %v", err)
	}
	for name, c := range map[string]struct {
		change func(c *x509.Certificate)
		want   string
	}{
		"two ids":                   {func(c *x509.Certificate) { c.URIs = uris(t, vaURI, "spiffe://heart.example/hospital/x/node/1") }, "2 URI names"},
		"the same id twice":         {func(c *x509.Certificate) { c.URIs = uris(t, vaURI, vaURI) }, "2 URI names"},
		"no id":                     {func(c *x509.Certificate) { c.URIs, c.Subject.CommonName = nil, vaURI }, "0 URI names"},
		"a DNS name too":            {func(c *x509.Certificate) { c.DNSNames = []string{"coordinator.heart.example"} }, "names beside"},
		"an address too":            {func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)} }, "names beside"},
		"a mail address too":        {func(c *x509.Certificate) { c.EmailAddresses = []string{"a@heart.example"} }, "names beside"},
		"another trust domain":      {func(c *x509.Certificate) { c.URIs = uris(t, "spiffe://lung.example/hospital/va/node/1") }, "trust domain"},
		"a CA":                      {func(c *x509.Certificate) { c.IsCA = true }, "CA"},
		"a leaf that signs":         {func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }, "key usage"},
		"a leaf that signs lists":   {func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign }, "key usage"},
		"no basic constraints":      {func(c *x509.Certificate) { c.BasicConstraintsValid = false }, "CA"},
		"no key usage":              {func(c *x509.Certificate) { c.KeyUsage = 0 }, "key usage"},
		"any extended key usage":    {func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }, "extended key usage"},
		"a year":                    {func(c *x509.Certificate) { c.NotAfter = now.AddDate(1, 0, 0) }, "want at most 1h1m"},
		"expired":                   {func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(-time.Hour), now.Add(-time.Second) }, "expired"},
		"not yet valid":             {func(c *x509.Certificate) { c.NotBefore = now.Add(time.Second) }, "expired or is not yet valid"},
		"an unknown critical field": {func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3}, Critical: true}} }, "unhandled critical"},
		"too big": {func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3}, Value: make([]byte, maxCertificate)}}
		}, "bytes"},
		"a person":        {func(c *x509.Certificate) { c.URIs = uris(t, "spiffe://heart.example/person/va/node/1") }, "want spiffe://"},
		"a longer path":   {func(c *x509.Certificate) { c.URIs = uris(t, vaURI+"/more/1") }, "want spiffe://"},
		"escaped letters": {func(c *x509.Certificate) { c.URIs = uris(t, "spiffe://heart.example/hospital/%76a/node/1") }, "parsing node id"},
		"a way up":        {func(c *x509.Certificate) { c.URIs = uris(t, "spiffe://heart.example/hospital/x/../va/node/1") }, "parsing node id"},
		"a query":         {func(c *x509.Certificate) { c.URIs = uris(t, vaURI+"?a=b") }, "parsing node id"},
		"a user":          {func(c *x509.Certificate) { c.URIs = uris(t, "spiffe://heart.example@lung.example/hospital/va/node/1") }, "parsing node id"},
		"a port":          {func(c *x509.Certificate) { c.URIs = uris(t, "spiffe://heart.example:443/hospital/va/node/1") }, "parsing node id"},
		"another scheme":  {func(c *x509.Certificate) { c.URIs = uris(t, "https://heart.example/hospital/va/node/1") }, "parsing node id"},
	} {
		id, err := i.Check(mint(t, i.cert, key, pub, c.change), now)
		if err == nil || !strings.Contains(err.Error(), c.want) || id != (NodeID{}) {
			t.Errorf("%s: %v, %v; want an error with %q", name, id, err, c.want)
		}
	}
}

func TestLeavesOfOthersAreRefused(t *testing.T) {
	key := newKey(t)
	i := newIssuer(t, "heart.example", key)
	otherKey := newKey(t)
	other := newIssuer(t, "heart.example", otherKey)
	lung := newIssuer(t, "lung.example", key)
	self, err := SelfSigned("va/1", newKey(t), now)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	// A sub-CA under the issuer, made with its key; its leaves are not the issuer's.
	subKey := newKey(t)
	sub := mint(t, i.cert, key, subKey.Public(), func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage, c.URIs = true, x509.KeyUsageCertSign, uris(t, "spiffe://heart.example")
	})
	flipped := bytes.Clone(issue(t, i, va).Raw)
	flipped[len(flipped)-1] ^= 1
	for name, leaf := range map[string]*x509.Certificate{
		"another issuer of the same name":  issue(t, other, va),
		"the same key, another consortium": issue(t, lung, NodeID{Consortium: "lung.example", Hospital: "va", Node: "1"}),
		"the issuer itself":                i.Certificate(),
		"a self-signed leaf":               self.Leaf,
		"an ECDSA key":                     mint(t, i.cert, key, ec.Public(), nil),
		"a sub-CA's leaf":                  mint(t, sub, subKey, newKey(t).Public(), nil),
		"a flipped bit":                    parse(t, flipped),
		"nothing":                          nil,
		"an empty certificate":             {},
	} {
		if id, err := i.Check(leaf, now); err == nil {
			t.Errorf("%s is taken as %v", name, id)
		}
	}
}

func TestCheckNeedsATime(t *testing.T) {
	i, err := NewIssuer("heart.example", newKey(t), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	der, err := i.Issue(va, newKey(t).Public(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Check(parse(t, der), time.Time{}); err == nil {
		t.Error("without a time it reads the clock")
	}
}

func TestIssueRefuses(t *testing.T) {
	key := newKey(t)
	i := newIssuer(t, "heart.example", key)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pub := newKey(t).Public()
	for name, c := range map[string]struct {
		id  NodeID
		pub crypto.PublicKey
	}{
		"another consortium":  {NodeID{"lung.example", "va", "1"}, pub},
		"a path for a name":   {NodeID{"heart.example", "va/node/2", "1"}, pub},
		"a name that goes up": {NodeID{"heart.example", "..", "1"}, pub},
		"a name with a NUL":   {NodeID{"heart.example", "va\x00", "1"}, pub},
		"an escaped name":     {NodeID{"heart.example", "v%61", "1"}, pub},
		"no hospital":         {NodeID{"heart.example", "", "1"}, pub},
		"no node":             {NodeID{"heart.example", "va", ""}, pub},
		"a node with a query": {NodeID{"heart.example", "va", "1?x"}, pub},
		"a long name":         {NodeID{"heart.example", strings.Repeat("v", maxID), "1"}, pub},
		"an ECDSA key":        {va, ec.Public()},
		"a short key":         {va, ed25519.PublicKey{1, 2, 3}},
		"no key":              {va, nil},
		"the issuer's key":    {va, key.Public()},
	} {
		if _, err := i.Issue(c.id, c.pub, now); err == nil {
			t.Errorf("%s: an SVID was issued", name)
		}
	}
	for _, name := range []string{"", "Heart.example", "spiffe://heart.example", "spiffe://heart.example/hospital/va", "heart.example/x", "heart example", strings.Repeat("h", 256)} {
		if _, err := NewIssuer(name, key, now); err == nil {
			t.Errorf("issuer of %q was made", name)
		}
	}
	if _, err := NewIssuer("heart.example", ec, now); err == nil {
		t.Error("an issuer with an ECDSA key was made")
	}
}

// A NodeID that is none looks like no id: whoever compares texts is not deceived.
func TestStringOfNoID(t *testing.T) {
	for _, n := range []NodeID{{}, {"heart.example", "va/node/1", "1"}, {"heart.example/hospital/va", "x", "1"}, {"spiffe://heart.example", "va", "1"}} {
		if s := n.String(); strings.HasPrefix(s, "spiffe:") {
			t.Errorf("%#v reads %q", n, s)
		}
	}
}

func TestSelfSignedSpeaksTLS(t *testing.T) {
	key := newKey(t)
	cert, err := SelfSigned("va/1", key, now)
	if err != nil {
		t.Fatal(err)
	}
	if len(cert.Leaf.URIs) != 0 || cert.Leaf.IsCA {
		t.Errorf("names %v, CA %v: want none", cert.Leaf.URIs, cert.Leaf.IsCA)
	}
	client, server := net.Pipe()
	seen := make(chan []byte, 1)
	go func() {
		c := tls.Server(server, &tls.Config{Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAnyClientCert})
		err := c.Handshake()
		if err != nil {
			seen <- nil
			return
		}
		seen <- c.ConnectionState().PeerCertificates[0].Raw
		_, _ = io.Copy(io.Discard, c)
	}()
	c := tls.Client(client, &tls.Config{Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}) //nolint:gosec // the key is what counts
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if got := <-seen; !slices.Equal(got, cert.Leaf.Raw) {
		t.Errorf("the server saw another leaf")
	}
	_ = client.Close()
	if _, err := SelfSigned("", key, now); err == nil {
		t.Error("a leaf of no name was made")
	}
}

// FuzzParseNodeID: what is read is written again the same, and no two texts are one id.
func FuzzParseNodeID(f *testing.F) {
	for _, s := range []string{vaURI, vaURI + "/", "spiffe://heart.example/hospital/../node/1", "spiffe://a/hospital/%2e/node/1", "SPIFFE://a/hospital/b/node/c", "spiffe://a/hospital//node/c", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseNodeID(s)
		if err != nil {
			return
		}
		if id.String() != s {
			t.Errorf("%q is read as %v", s, id)
		}
		if strings.ContainsAny(id.Hospital+id.Node+id.Consortium, "/%?#@:\\ \x00") || id.Hospital == ".." || id.Node == ".." {
			t.Errorf("%q is read as %#v", s, id)
		}
	})
}

// FuzzCheck: whatever parses as a certificate is refused unless the issuer made it.
func FuzzCheck(f *testing.F) {
	i := newIssuer(f, "heart.example", newKey(f))
	good := issue(f, i, va).Raw
	f.Add(good)
	f.Add(i.cert.Raw)
	f.Fuzz(func(t *testing.T, der []byte) {
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		if id, err := i.Check(leaf, now); err == nil && !bytes.Equal(der, good) {
			t.Errorf("taken as %v: %x", id, der)
		}
	})
}
