package intake

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/testtee/shared"
)

// report is bytes that look like a report: that they prove nothing is not for this package.
func madeReport() []byte {
	b := make([]byte, reportSize)
	b[0], b[0x34], b[0x0a] = 3, 1, 3
	for i := 0x50; i < 0x330; i++ {
		b[i] = byte(i)
	}
	return b
}

func madeQuote() []byte {
	b := make([]byte, 1000)
	b[0], b[2], b[4] = 4, 2, 0x81
	return b
}

func certificateOf(t testing.TB, name string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{strings.Repeat("a", 63) + "." + strings.Repeat("b", 63)}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// hostTable is a table of certificates as a hypervisor hands it to a guest.
func hostTable(certs ...[]byte) []byte {
	b := make([]byte, 24*(len(certs)+1))
	for i, c := range certs {
		b[24*i] = byte(i + 1)
		binary.LittleEndian.PutUint32(b[24*i+16:], uint32(len(b)))
		binary.LittleEndian.PutUint32(b[24*i+20:], uint32(len(c)))
		b = append(b, c...)
	}
	return b
}

func ints(b []byte) string {
	s := make([]string, len(b))
	for i, x := range b {
		s[i] = fmt.Sprint(x)
	}
	return "[" + strings.Join(s, ",") + "]"
}

// taken is a report as the Rust crate serialises it.
func taken(b []byte) string {
	tcb := func(at int) string {
		return fmt.Sprintf(`{"bootloader":%d,"tee":%d,"snp":%d,"microcode":%d}`, b[at], b[at+1], b[at+6], b[at+7])
	}
	return fmt.Sprintf(`{"version":%d,"guest_svn":0,"policy":%d,"family_id":%s,"image_id":%s,"vmpl":0,"sig_algo":1,"current_tcb":%s,"plat_info":0,"report_data":%s,"measurement":%s,
		"host_data":%s,"id_key_digest":%s,"author_key_digest":%s,"report_id":%s,"report_id_ma":%s,"reported_tcb":%s,"chip_id":%s,"signature":{"r":%s,"s":%s}}`,
		b[0], binary.LittleEndian.Uint64(b[8:]), ints(b[0x10:0x20]), ints(b[0x20:0x30]), tcb(0x38), ints(b[0x50:0x90]), ints(b[0x90:0xc0]),
		ints(b[0xc0:0xe0]), ints(b[0xe0:0x110]), ints(b[0x110:0x140]), ints(b[0x140:0x160]), ints(b[0x160:0x180]), tcb(0x180), ints(b[0x1a0:0x1e0]), ints(b[0x2a0:0x2e8]), ints(b[0x2e8:0x330]))
}

func TestRead(t *testing.T) {
	r, q := madeReport(), madeQuote()
	vcek, ask := certificateOf(t, "SEV-VCEK"), certificateOf(t, "SEV-Genoa")
	inPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: vcek})
	plain := madeReport() // with what its fields can say
	clear(plain[0x188:0x1a0])
	clear(plain[0x1e0:0x2a0])
	for _, tcb := range []int{0x38, 0x180} {
		clear(plain[tcb+2 : tcb+6])
	}
	for name, tc := range map[string]struct {
		in        []byte
		format    attest.Format
		statement []byte
		with      []string
	}{
		"raw report":                    {r, attest.FormatSNP, r, nil},
		"cut report":                    {r[:672], attest.FormatSNP, r[:672], nil},
		"report and a byte":             {append(bytes.Clone(r), 0), attest.FormatSNP, append(bytes.Clone(r), 0), nil},
		"report and garbage":            {append(bytes.Clone(r), 0x30, 0x82, 0xff), attest.FormatSNP, append(bytes.Clone(r), 0x30, 0x82, 0xff), nil},
		"report and DER":                {append(append(bytes.Clone(r), vcek...), ask...), attest.FormatSNP, r, []string{"vcek", "ask"}},
		"report and PEM":                {append(bytes.Clone(r), inPEM...), attest.FormatSNP, r, []string{"vcek"}},
		"report and a host's table":     {append(bytes.Clone(r), hostTable(vcek, ask)...), attest.FormatSNP, r, []string{"vcek", "ask"}},
		"report in hex":                 {[]byte(hex.EncodeToString(r) + "\n"), attest.FormatSNP, r, nil},
		"report in upper hex, in lines": {[]byte("0x" + strings.ToUpper(hex.EncodeToString(r[:600])) + "\n" + hex.EncodeToString(r[600:])), attest.FormatSNP, r, nil},
		"report in base64":              {[]byte(b64(r)), attest.FormatSNP, r, nil},
		"quote":                         {q, attest.FormatTDX, q, nil},
		"quote in base64url":            {[]byte(base64.RawURLEncoding.EncodeToString(q)), attest.FormatTDX, q, nil},
		"token and a line's end":        {[]byte("eyJhbGciOiJSUzI1NiJ9.e30.c2ln\n"), attest.FormatCSPKI, []byte("eyJhbGciOiJSUzI1NiJ9.e30.c2ln"), nil},
		"a quote in an envelope":        {[]byte(`{"cc_eventlog":null,"quote":"` + b64(q) + `"}`), attest.FormatTDX, q, nil},
		"the same twice in it":          {[]byte(`{"quote":"` + b64(q) + `","copy":{"hex":"` + hex.EncodeToString(q) + `"}}`), attest.FormatTDX, q, nil},
		"a report with certificates":    {[]byte(`{"attestationReport":"` + b64(r) + `","certs":["` + b64(vcek) + `",` + string(must(json.Marshal(string(inPEM)))) + `]}`), attest.FormatSNP, r, []string{"vcek"}},
		"a report by its fields":        {[]byte(`{"attestation_report":` + taken(plain) + `,"cert_chain":[{"cert_type":"VCEK","data":` + ints(vcek) + `}]}`), attest.FormatSNP, plain, []string{"vcek"}},
	} {
		e, how, err := Read(tc.in)
		if err != nil || e.Format != tc.format || !bytes.Equal(e.Statement, tc.statement) || how == "" {
			t.Errorf("%s: %q of %d bytes, %q: %v", name, e.Format, len(e.Statement), how, err)
			continue
		}
		for _, w := range tc.with {
			if e.Endorsements[w] == nil {
				t.Errorf("%s: no %s among %d endorsements", name, w, len(e.Endorsements))
			}
		}
		if len(e.Endorsements) != len(tc.with) {
			t.Errorf("%s: %d endorsements, want %d", name, len(e.Endorsements), len(tc.with))
		}
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func TestReadNothing(t *testing.T) {
	two := madeReport()
	two[0x60] ^= 1
	for name, b := range map[string][]byte{
		"empty":         nil,
		"spaces":        []byte(" \n"),
		"text":          []byte(strings.Repeat("not evidence ", 20)),
		"zeros":         make([]byte, reportSize),
		"an object":     []byte(`{"a":1}`),
		"two reports":   []byte(`{"a":"` + hex.EncodeToString(madeReport()) + `","b":"` + hex.EncodeToString(two) + `"}`),
		"a certificate": certificateOf(t, "SEV-VCEK"),
		"a large file":  make([]byte, MaxFile+1),
		"certificates":  bytes.Repeat([]byte{0x30, 0x82, 0, 0}, MaxFile/4),
		"deep":          []byte(strings.Repeat(`{"a":`, 100) + `"` + hex.EncodeToString(madeReport()) + `"` + strings.Repeat("}", 100)),
	} {
		if e, _, err := Read(b); err == nil {
			t.Errorf("%s was taken for %q", name, e.Format)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(madeReport())
	f.Add(madeQuote())
	f.Add([]byte(`{"attestation_report":` + taken(madeReport()) + `}`))
	f.Add(append(madeReport(), hostTable([]byte{0x30, 0x82, 0, 0})...))
	for _, b := range shared.Seeds(f, "*/*") {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, how, err := Read(b)
		if err == nil && (e.Format == "" || len(e.Statement) == 0 || how == "") {
			t.Errorf("%+v, %q", e, how)
		}
	})
}
