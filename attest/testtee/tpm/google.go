package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"math/big"
	"time"

	pb "github.com/google/go-tpm-tools/proto/attest"
	tpmpb "github.com/google/go-tpm-tools/proto/tpm"
)

// Google is a certification authority of virtual TPMs with the names of the real one.
type Google struct {
	Root, Intermediate *x509.Certificate
	rootKey, interKey  *rsa.PrivateKey
}

// Instance is what a certificate says of a machine.
type Instance struct {
	Zone, Project, Name string
	Number, ID          *big.Int
	Production          bool
}

// Machine is a machine in production.
func Machine() Instance {
	return Instance{Zone: "europe-west4-a", Project: "heart", Name: "node-1", Number: big.NewInt(42), ID: new(big.Int).SetUint64(1<<63 + 1), Production: true}
}

var (
	oidInstance = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 1, 21}
	oidEKKey    = asn1.ObjectIdentifier{2, 23, 133, 8, 1}
	oidTPMMaker = asn1.ObjectIdentifier{2, 23, 133, 2, 1}
)

// The time that the certificates hold.
var (
	From  = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
	Until = time.Date(2035, 1, 1, 0, 0, 0, 0, time.UTC)
)

// NewGoogle makes one.
func NewGoogle() *Google { return NewAuthority("Google LLC", "EK/AK CA Root", "EK/AK CA Intermediate") }

// NewAuthority makes one of other names.
func NewAuthority(organization, root, intermediate string) *Google {
	g := &Google{rootKey: newRSA(2048), interKey: newRSA(2048)}
	name := func(cn string) pkix.Name {
		return pkix.Name{Country: []string{"US"}, Organization: []string{organization}, OrganizationalUnit: []string{"Google Cloud"}, CommonName: cn}
	}
	ca := func(cn string, serial int64) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: name(cn), NotBefore: From, NotAfter: Until, IsCA: true, BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, UnknownExtKeyUsage: []asn1.ObjectIdentifier{oidEKKey},
		}
	}
	r := ca(root, 1)
	g.Root = issue(r, r, g.rootKey.Public(), g.rootKey)
	g.Intermediate = issue(ca(intermediate, 2), g.Root, g.interKey.Public(), g.rootKey)
	return g
}

func issue(c, parent *x509.Certificate, key crypto.PublicKey, by *rsa.PrivateKey) *x509.Certificate {
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key, by)
	check(err)
	out, err := x509.ParseCertificate(der)
	check(err)
	return out
}

// Certify issues a certificate of an attestation key; change, if not nil, makes it another.
func (g *Google) Certify(key crypto.PublicKey, i Instance, change func(*x509.Certificate)) []byte {
	type properties struct {
		Version    int  `asn1:"explicit,tag:0"`
		Production bool `asn1:"explicit,tag:1,optional"`
		Min        int  `asn1:"explicit,tag:2"`
	}
	value, err := asn1.Marshal(struct {
		Zone       string `asn1:"utf8"`
		Number     *big.Int
		Project    string `asn1:"utf8"`
		ID         *big.Int
		Name       string     `asn1:"utf8"`
		Properties properties `asn1:"explicit,tag:0"`
	}{i.Zone, i.Number, i.Project, i.ID, i.Name, properties{Production: i.Production}})
	check(err)
	maker, err := asn1.Marshal(pkix.RDNSequence{{{Type: oidTPMMaker, Value: "id:474F4F47"}}})
	check(err)
	san, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: maker}})
	check(err)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(3), NotBefore: From, NotAfter: Until, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, UnknownExtKeyUsage: []asn1.ObjectIdentifier{oidEKKey},
		ExtraExtensions: []pkix.Extension{{Id: oidInstance, Value: value}, {Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: san}},
	}
	if change != nil {
		change(c)
	}
	return issue(c, g.Intermediate, key, g.interKey).Raw
}

// Flat is the same authority without an intermediate: its root issues everything.
func (g *Google) Flat() *Google {
	return &Google{Root: g.Root, Intermediate: g.Root, rootKey: g.rootKey, interKey: g.rootKey}
}

// CRL is the intermediate's list of revoked serials, and the root's where root says so.
func (g *Google) CRL(root bool, serials ...int64) []byte {
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: From, NextUpdate: Until}
	for _, s := range serials {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(s), RevocationTime: From})
	}
	issuer, key := g.Intermediate, g.interKey
	if root {
		issuer, key = g.Root, g.rootKey
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, issuer, key)
	check(err)
	return der
}

// Files are what a snapshot holds of it.
func (g *Google) Files() map[string][]byte {
	return map[string][]byte{"root.pem": encode(g.Root), "intermediate.pem": encode(g.Intermediate)}
}

func encode(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// Attestation is the message of a machine of Google Compute Engine: its TPM's quote of the SHA-256 bank, and one of
// the SHA-1 bank that nobody should look at.
func (t *TPM) Attestation(nonce, certificate []byte) *pb.Attestation {
	b := t.Quote(nonce).Encode()
	values := map[uint32][]byte{}
	for i, v := range t.Registers() {
		values[uint32(i)] = v
	}
	return &pb.Attestation{
		AkPub: Public(t.Key.Public(), restricted), AkCert: certificate, EventLog: t.Log,
		Quotes: []*tpmpb.Quote{
			{Quote: []byte{1}, Pcrs: &tpmpb.PCRs{Hash: tpmpb.HashAlgo_SHA1}},
			{Quote: b, RawSig: t.Sign(b), Pcrs: &tpmpb.PCRs{Hash: tpmpb.HashAlgo_SHA256, Pcrs: values}},
		},
	}
}

// restricted is fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted and sign.
const restricted = 0x00050472

// Public is a TPMT_PUBLIC of a key with some attributes.
func Public(key crypto.PublicKey, attributes uint32) []byte {
	be := binary.BigEndian
	head := func(kind uint16) []byte {
		b := be.AppendUint16(be.AppendUint16(nil, kind), 0x0b)
		return be.AppendUint16(be.AppendUint32(b, attributes), 0) // no policy
	}
	switch k := key.(type) {
	case *rsa.PublicKey:
		b := be.AppendUint16(head(1), 0x10)                 // no symmetric algorithm
		b = be.AppendUint16(be.AppendUint16(b, 0x14), 0x0b) // RSASSA
		b = be.AppendUint32(be.AppendUint16(b, uint16(k.N.BitLen())), 0)
		return append(be.AppendUint16(b, uint16(k.Size())), k.N.Bytes()...)
	case *ecdsa.PublicKey:
		b := be.AppendUint16(head(0x23), 0x10)
		b = be.AppendUint16(be.AppendUint16(b, 0x18), 0x0b)
		b = be.AppendUint16(be.AppendUint16(b, 3), 0x10) // P-256, no key derivation
		point, err := k.Bytes()
		check(err)
		b = append(be.AppendUint16(b, 32), point[1:33]...)
		return append(be.AppendUint16(b, 32), point[33:]...)
	}
	panic("testtee: a key of another kind")
}
