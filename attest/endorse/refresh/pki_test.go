package refresh

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
)

// start is when the tests begin, unless they say otherwise.
var start = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// authorityKey is a certificate with its key.
type authorityKey struct {
	*x509.Certificate
	key *ecdsa.PrivateKey
}

// vendors are an Intel and an AMD with roots of their own, in the names of the true ones.
type vendors struct {
	intelRoot, platformCA, tcbSigning, ark, ask authorityKey
}

var fake = sync.OnceValue(func() *vendors {
	v := &vendors{}
	v.intelRoot = issue("Intel SGX Root CA", nil, true)
	v.platformCA = issue("Intel SGX PCK Platform CA", &v.intelRoot, true)
	v.tcbSigning = issue(tcbSigner, &v.intelRoot, false)
	v.ark = issue("ARK-Genoa", nil, true)
	v.ask = issue("SEV-Genoa", &v.ark, true)
	return v
})

var serial atomic.Int64

func issue(name string, by *authorityKey, ca bool, change ...func(*x509.Certificate)) authorityKey {
	n := serial.Add(1)
	seed := sha256.Sum256(fmt.Append(nil, name, n)) // the same in each process that fuzzes
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), seed[:])
	if err != nil {
		panic(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(n), Subject: pkix.Name{CommonName: name}, NotBefore: start.AddDate(-2, 0, 0), NotAfter: start.AddDate(5, 0, 0),
		IsCA: ca, BasicConstraintsValid: true, SubjectKeyId: fmt.Append(nil, name, n),
	}
	if ca {
		c.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	}
	for _, f := range change {
		f(c)
	}
	parent, signer := c, key
	if by != nil {
		parent, signer = by.Certificate, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		panic(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return authorityKey{out, key}
}

func (a authorityKey) crl(this, next time.Time) []byte {
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(this.Unix()), ThisUpdate: this, NextUpdate: next}, a.Certificate, a.key)
	if err != nil {
		panic(err)
	}
	return der
}

// renewed is another certificate of the same name and key.
func (a authorityKey) renewed() authorityKey {
	c := *a.Certificate
	c.SerialNumber = big.NewInt(1 << 40)
	der, err := x509.CreateCertificate(rand.Reader, &c, &c, a.key.Public(), a.key)
	if err != nil {
		panic(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return authorityKey{out, a.key}
}

func (a authorityKey) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Raw})
}

// signedBody is a document as Intel's service gives it.
func (a authorityKey) signedBody(name, body string) []byte {
	h := sha256.Sum256([]byte(body))
	r, s, err := ecdsa.Sign(rand.Reader, a.key, h[:])
	if err != nil {
		panic(err)
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return fmt.Appendf(nil, `{"%s":%s,"signature":"%s"}`, name, body, hex.EncodeToString(sig))
}

const testFMSPC = "00906ed50000"

func body(id, fmspc string, evaluation int, issued, next time.Time) string {
	return fmt.Sprintf(`{"id":%q,"version":3,"fmspc":%q,"tcbEvaluationDataNumber":%d,"issueDate":%q,"nextUpdate":%q}`, id, fmspc, evaluation, issued.Format(time.RFC3339), next.Format(time.RFC3339))
}

// info is a TCB info of an evaluation, issued at a time for thirty days.
func (v *vendors) info(evaluation int, issued time.Time) []byte {
	return v.tcbSigning.signedBody("tcbInfo", body("TDX", testFMSPC, evaluation, issued, issued.AddDate(0, 0, 30)))
}

func (v *vendors) identity(evaluation int, issued time.Time) []byte {
	return v.tcbSigning.signedBody("enclaveIdentity", body("TD_QE", "", evaluation, issued, issued.AddDate(0, 0, 30)))
}

// vcek is the certificate of a chip: its id has 64 bytes of n.
func (v *vendors) vcek(n byte, tcb attest.SNPTCB) []byte {
	return issue("SEV-VCEK", &v.ask, false, func(c *x509.Certificate) { c.ExtraExtensions = vcekExtensions(chip(n), tcb) }).Raw
}

func chip(n byte) []byte { return bytes.Repeat([]byte{n}, 64) }

func vcekExtensions(hwid []byte, tcb attest.SNPTCB) []pkix.Extension {
	out := []pkix.Extension{
		extension(0, 1), extension(int(tcb.Bootloader), 3, 1), extension(int(tcb.TEE), 3, 2), extension(int(tcb.SNP), 3, 3), extension(int(tcb.Ucode), 3, 8),
		{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 4}, Value: hwid},
	}
	if len(hwid) == 8 {
		out = append(out, extension(int(tcb.FMC), 3, 9))
	}
	return out
}

func extension(n int, arc ...int) pkix.Extension {
	b, err := asn1.Marshal(n)
	if err != nil {
		panic(err)
	}
	return pkix.Extension{Id: append(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}, arc...), Value: b}
}

// installed is the steward's part: both roots and AMD's intermediate.
func (v *vendors) installed() map[string][]byte {
	return map[string][]byte{"intel.pem": v.intelRoot.pem(), "ark.pem": v.ark.pem(), "ask.pem": v.ask.pem()}
}

func snapshotOf(t testing.TB, files map[string][]byte) *endorse.Snapshot {
	t.Helper()
	s, err := endorse.New(files)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// crlUnchecked is a list signed by a certificate that may sign none.
func (a authorityKey) crlUnchecked(this, next time.Time) []byte {
	c := *a.Certificate
	c.KeyUsage |= x509.KeyUsageCRLSign
	return authorityKey{&c, a.key}.crl(this, next)
}
