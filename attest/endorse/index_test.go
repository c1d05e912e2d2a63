package endorse

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// shared is the folder of real evidence.
func shared(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("CONSILIUM_SHARED")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared")
	}
	dir = filepath.Join(dir, "evidence")
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("the evidence is absent, set CONSILIUM_SHARED: %v", err)
	}
	return dir
}

// made are a root, a certificate under it and its revocation lists.
type made struct {
	root, leaf    []byte
	crl, laterCRL []byte
	info          string
}

var day = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

var make1 = sync.OnceValue(func() made {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	certificate := func(n int64, ca bool, parent *x509.Certificate) []byte {
		c := &x509.Certificate{
			SerialNumber: big.NewInt(n), Subject: pkix.Name{CommonName: fmt.Sprint("certificate ", n)}, NotBefore: day, NotAfter: day.AddDate(9, 0, 0),
			IsCA: ca, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		}
		if parent == nil {
			parent = c
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), key)
		if err != nil {
			panic(err)
		}
		return der
	}
	root := certificate(1, true, nil)
	parent, err := x509.ParseCertificate(root)
	if err != nil {
		panic(err)
	}
	list := func(n int64) []byte {
		der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(n), ThisUpdate: day.AddDate(0, int(n), 0), NextUpdate: day.AddDate(1, 0, 0)}, parent, key)
		if err != nil {
			panic(err)
		}
		return der
	}
	leaf := certificate(2, false, parent)
	return made{
		root: root, leaf: leaf, crl: list(1), laterCRL: list(2),
		info: `{"id":"TDX","fmspc":"00806F050000","tcbEvaluationDataNumber":17,"issueDate":"2026-01-01T00:00:00Z","nextUpdate":"2026-02-01T00:00:00Z"}`,
	}
})

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func document(name, body string) string {
	return fmt.Sprintf(`{"%s":%s,"signature":"%s"}`, name, body, strings.Repeat("ab", 64))
}

// count is an Index in figures: certificates, anchors, lists, TCB infos, QE identities, sets of keys, unknown files.
func count(x *Index) [7]int {
	return [7]int{len(x.Certificates), len(x.Anchors()), len(x.CRLs), len(x.TCBInfos), len(x.QEIdentities), len(x.KeySets), len(x.Unknown)}
}

func indexOf(t testing.TB, files map[string][]byte) *Index {
	t.Helper()
	s, err := New(files)
	if err != nil {
		t.Fatal(err)
	}
	return s.Index()
}

// TestRealFiles: what vendors and the common tools write is recognised without its name.
func TestRealFiles(t *testing.T) {
	dir := shared(t)
	for file, want := range map[string][7]int{
		"snp/ask_ark_milan.pem":                    {2, 1},
		"snp/ask_ark_turin_vlek.pem":               {2, 1}, // its last line ends in CRLF twice
		"snp/milan-v2-azure.vcek.der":              {1},
		"snp/genoa-v3.vcek.pem":                    {1},
		"tdx/trusted_root.pem":                     {1, 1},
		"tdx/tcb-signing.der":                      {1},
		"tdx/pckcrl":                               {0, 0, 1},
		"tdx/rootcrl.der":                          {0, 0, 1},
		"tdx/platform.crl.der":                     {0, 0, 1},
		"tdx/sample_tcbInfo_response":              {0, 0, 0, 1},
		"tdx/sample_qeIdentity_response":           {0, 0, 0, 0, 1},
		"tdx/00806f050000-2025-07.tcbinfo.json":    {0, 0, 0, 1},
		"tdx/00806f050000-2025-07.qeidentity.json": {0, 0, 0, 0, 1},
		"tdx/v4-phala.collateral.json":             {3, 0, 2, 1, 1}, // Intel's root is in it, and is no anchor
		"tdx/v5-outdated.collateral.json":          {3, 0, 2, 1, 1},
		"vtpm/gcp_ek_ak_ca_root.crt":               {1, 1},
		"vtpm/tpm_ek_root_1.cer":                   {1, 1},
		"vtpm/tpm_ek_intermediate_2.crt":           {1},
		"azure/snp-other-chip.certs.pem":           {3, 1},
		"confidential-space/root.crt":              {1, 1},
		"confidential-space/debug-image.pki.jwt":   {0, 0, 0, 0, 0, 0, 1},
		"azure/snp-milan-v3.evidence.json":         {0, 0, 0, 0, 0, 0, 1},
		"snp/genoa-v3.report.bin":                  {0, 0, 0, 0, 0, 0, 1},
		"tdx/v4-phala.quote.bin":                   {0, 0, 0, 0, 0, 0, 1},
	} {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		if got := count(indexOf(t, map[string][]byte{"x": b})); got != want {
			t.Errorf("%s: %v, want %v", file, got, want)
		}
	}
	// The body of a document is the signed bytes, not one more or less.
	b, err := os.ReadFile(filepath.Join(dir, "tdx/00806f050000-2025-07.tcbinfo.json"))
	if err != nil {
		t.Fatal(err)
	}
	i := indexOf(t, map[string][]byte{"x": b}).TCBInfos[0]
	want, _, _ := bytes.Cut(bytes.TrimPrefix(b, []byte(`{"tcbInfo":`)), []byte(`,"signature"`))
	if !bytes.Equal(i.Body, want) {
		t.Errorf("body of %d bytes, want %d", len(i.Body), len(want))
	}
	if h := i.Head; h.ID != "TDX" || h.FMSPC != "00806f050000" || h.Evaluation != 17 || !h.IssueDate.Equal(time.Date(2025, 7, 7, 9, 6, 43, 0, time.UTC)) {
		t.Errorf("head %+v", h)
	}
}

func TestForms(t *testing.T) {
	m := make1()
	certificate, list := encode("CERTIFICATE", m.leaf), encode("X509 CRL", m.crl)
	collateral := func(change map[string]any) []byte {
		o := map[string]any{
			"pck_crl_issuer_chain": string(certificate), "root_ca_crl": hex.EncodeToString(m.crl), "pck_crl": string(list),
			"tcb_info_issuer_chain": string(encode("CERTIFICATE", m.root)), "tcb_info": m.info, "tcb_info_signature": strings.Repeat("00", 64),
			"qe_identity_issuer_chain": "", "qe_identity": m.info, "qe_identity_signature": strings.Repeat("00", 64),
		}
		for k, v := range change {
			if o[k] = v; v == nil {
				delete(o, k)
			}
		}
		b, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	crlf := func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n")) }
	for name, c := range map[string]struct {
		file []byte
		want [7]int
	}{
		"DER":                           {m.root, [7]int{1, 1}},
		"DERs after each other":         {slices.Concat(m.root, m.leaf), [7]int{2, 1}},
		"PEM of both kinds":             {slices.Concat(certificate, list), [7]int{1, 0, 1}},
		"CRLF":                          {crlf(slices.Concat(certificate, list)), [7]int{1, 0, 1}},
		"CRLF at the end, twice":        {slices.Concat(certificate, []byte("\r\n\r\n")), [7]int{1}},
		"blanks between blocks":         {slices.Concat(certificate, []byte("\n\n \t\n"), list), [7]int{1, 0, 1}},
		"no newline at the end":         {bytes.TrimSpace(certificate), [7]int{1}},
		"two certificates in one":       {encode("CERTIFICATE", slices.Concat(m.root, m.leaf)), [7]int{2, 1}},
		"hex":                           {[]byte(hex.EncodeToString(m.crl)), [7]int{0, 0, 1}},
		"HEX with a newline":            {[]byte(strings.ToUpper(hex.EncodeToString(m.crl)) + "\n"), [7]int{0, 0, 1}},
		"PEM escaped by path":           {[]byte(url.PathEscape(string(certificate))), [7]int{1}},
		"PEM escaped by query":          {[]byte(url.QueryEscape(string(certificate))), [7]int{1}},
		"document":                      {[]byte(document("tcbInfo", m.info)), [7]int{0, 0, 0, 1}},
		"document with blanks":          {[]byte(" {\n\"signature\" : \"" + strings.Repeat("AB", 64) + "\" ,\t\"enclaveIdentity\" :  " + m.info + " }\r\n"), [7]int{0, 0, 0, 0, 1}},
		"collateral":                    {collateral(nil), [7]int{2, 0, 1, 1, 1}},
		"collateral with zero bytes":    {collateral(map[string]any{"pck_crl_issuer_chain": string(certificate) + "\x00"}), [7]int{2, 0, 1, 1, 1}},
		"collateral with more":          {collateral(map[string]any{"saved_by": "a tool", "pck_certificate_chain": string(certificate)}), [7]int{2, 0, 1, 1, 1}},
		"collateral escaped":            {collateral(map[string]any{"pck_crl_issuer_chain": url.QueryEscape(string(certificate))}), [7]int{2, 0, 1, 1, 1}},
		"collateral, a list missing":    {collateral(map[string]any{"root_ca_crl": nil, "pck_crl": ""}), [7]int{2, 0, 0, 1, 1}},
		"keys":                          {[]byte(`{"keys":[{"kty":"RSA","kid":"a"},{"kty":"EC"}],"more":1}`), [7]int{0, 0, 0, 0, 0, 1}},
		"empty":                         {nil, [7]int{6: 1}},
		"blank":                         {[]byte(" \n"), [7]int{6: 1}},
		"a tail":                        {slices.Concat(m.root, []byte{0}), [7]int{6: 1}},
		"a tail of a list":              {slices.Concat(m.crl, []byte{0}), [7]int{6: 1}},
		"a list and a certificate":      {slices.Concat(m.crl, m.root), [7]int{6: 1}},
		"half a certificate":            {m.root[:100], [7]int{6: 1}},
		"certificate and a private key": {slices.Concat(certificate, encode("PRIVATE KEY", m.leaf)), [7]int{6: 1}},
		"PEM then text":                 {slices.Concat(certificate, []byte("# the end")), [7]int{6: 1}},
		"text between blocks":           {slices.Concat(certificate, []byte("# a list\n"), list), [7]int{6: 1}},
		"a broken block before a good":  {slices.Concat(bytes.Replace(list, []byte("\nM"), []byte("\n!"), 1), certificate), [7]int{6: 1}},
		"a block without an end":        {slices.Concat(certificate, list[:len(list)-20]), [7]int{6: 1}},
		"an end that is missing":        {slices.Concat(bytes.Split(list, []byte("-----END"))[0], certificate), [7]int{6: 1}},
		"another end":                   {bytes.Replace(certificate, []byte("END CERT"), []byte("END X509"), 1), [7]int{6: 1}},
		"PEM headers":                   {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Headers: map[string]string{"Proc-Type": "4"}, Bytes: m.leaf}), [7]int{6: 1}},
		"a list in a certificate's":     {encode("CERTIFICATE", m.crl[:len(m.crl)-1]), [7]int{6: 1}},
		"a bad escape":                  {[]byte(url.PathEscape(string(certificate)) + "%zz"), [7]int{6: 1}},
		"odd hex":                       {[]byte(hex.EncodeToString(m.crl) + "0"), [7]int{6: 1}},
		"an array":                      {[]byte("[]"), [7]int{6: 1}},
		"an empty object":               {[]byte("{}"), [7]int{6: 1}},
		"half an object":                {[]byte(`{"keys":[{"kty":"RSA"}]`), [7]int{6: 1}},
		"no colon":                      {[]byte(`{"keys"}`), [7]int{6: 1}},
		"two objects":                   {[]byte(`{"keys":[{"kty":"RSA"}]}{}`), [7]int{6: 1}},
		"a name twice":                  {[]byte(`{"keys":[{"kty":"RSA"}],"keys":[{"kty":"EC"}]}`), [7]int{6: 1}},
		"a name twice, escaped":         {[]byte(`{"keys":[{"kty":"RSA"}],"\u006beys":[{"kty":"EC"}]}`), [7]int{6: 1}},
		"no keys":                       {[]byte(`{"keys":[]}`), [7]int{6: 1}},
		"keys that are none":            {[]byte(`{"keys":[{"kid":"a"}]}`), [7]int{6: 1}},
		"keys that are null":            {[]byte(`{"keys":null}`), [7]int{6: 1}},
		"document with more":            {[]byte(`{"x":1,` + document("tcbInfo", m.info)[1:]), [7]int{6: 1}},
		"document without signature":    {[]byte(`{"tcbInfo":` + m.info + `}`), [7]int{6: 1}},
		"document with a short one":     {[]byte(`{"tcbInfo":` + m.info + `,"signature":"abcd"}`), [7]int{6: 1}},
		"document without a number":     {[]byte(document("tcbInfo", strings.Replace(m.info, "tcbE", "E", 1))), [7]int{6: 1}},
		"document that ends first":      {[]byte(document("tcbInfo", strings.Replace(m.info, "2026-02", "2025-02", 1))), [7]int{6: 1}},
		"document that is a text":       {[]byte(document("tcbInfo", `"text"`)), [7]int{6: 1}},
		"collateral, list cut":          {collateral(map[string]any{"root_ca_crl": hex.EncodeToString(m.crl[:40])}), [7]int{6: 1}},
		"collateral, list a number":     {collateral(map[string]any{"root_ca_crl": 7}), [7]int{6: 1}},
		"collateral, no identity":       {collateral(map[string]any{"qe_identity": nil}), [7]int{6: 1}},
		"collateral, info an object":    {collateral(map[string]any{"tcb_info": map[string]any{}}), [7]int{6: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := count(indexOf(t, map[string][]byte{"x": c.file})); got != c.want {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}

// TestOnceAndInOrder: a thing that stands in several files is listed once, the newest of each list first.
func TestOnceAndInOrder(t *testing.T) {
	m := make1()
	older := strings.Replace(m.info, "2026-01-01", "2025-12-31", 1)
	higher := strings.Replace(older, ":17", ":18", 1)
	files := map[string][]byte{
		"a": m.leaf, "b": encode("CERTIFICATE", slices.Concat(m.leaf, m.root)), "c": m.root,
		"d": m.crl, "e": m.laterCRL, "f": encode("X509 CRL", m.crl),
		"g": []byte(document("tcbInfo", older)), "h": []byte(document("tcbInfo", m.info)), "i": []byte(document("tcbInfo", higher)), "j": []byte(" " + document("tcbInfo", m.info)),
		"k": []byte("note"), "l": []byte("note"),
	}
	x := indexOf(t, files)
	if got, want := count(x), [7]int{2, 1, 2, 3, 0, 0, 2}; got != want {
		t.Fatalf("%v, want %v", got, want)
	}
	if !bytes.Equal(x.CRLs[0].Raw, m.laterCRL) {
		t.Error("the older list comes first")
	}
	for i, want := range []string{higher, m.info, older} {
		if string(x.TCBInfos[i].Body) != want {
			t.Errorf("TCB info %d is %s", i, x.TCBInfos[i].Body)
		}
	}
	if !slices.Equal(x.Unknown, []string{"k", "l"}) {
		t.Errorf("unknown %q", x.Unknown)
	}
}

// TestAnchorsAreInstalled: a root that came with a quote's collateral is none, until a steward installs it.
func TestAnchorsAreInstalled(t *testing.T) {
	m := make1()
	collateral, err := json.Marshal(map[string]string{
		"tcb_info_issuer_chain": string(encode("CERTIFICATE", m.root)), "tcb_info": m.info, "tcb_info_signature": strings.Repeat("00", 64),
		"qe_identity": m.info, "qe_identity_signature": strings.Repeat("00", 64),
	})
	if err != nil {
		t.Fatal(err)
	}
	x := indexOf(t, map[string][]byte{"a": collateral})
	if len(x.Certificates) != 1 || len(x.Anchors()) != 0 {
		t.Errorf("%d certificates, %d anchors", len(x.Certificates), len(x.Anchors()))
	}
	x = indexOf(t, map[string][]byte{"a": collateral, "b": m.root})
	if len(x.Certificates) != 1 || len(x.Anchors()) != 1 {
		t.Errorf("%d certificates, %d anchors", len(x.Certificates), len(x.Anchors()))
	}
	// Its own name as issuer makes no root of a certificate that another key signed.
	forged := bytes.Clone(m.root)
	forged[len(forged)-1] ^= 1
	if x := indexOf(t, map[string][]byte{"a": forged}); len(x.Certificates) != 1 || len(x.Anchors()) != 0 {
		t.Errorf("%d certificates, %d anchors", len(x.Certificates), len(x.Anchors()))
	}
}

func TestManyItems(t *testing.T) {
	body := func(i int) []byte {
		return []byte(document("tcbInfo", strings.Replace(make1().info, ":17", fmt.Sprint(":", i), 1)))
	}
	x := &Index{seen: map[[32]byte]bool{}}
	for i := range MaxItems {
		if !x.add(body(i)) {
			t.Fatal("not taken")
		}
	}
	if x.add(body(MaxItems)) || len(x.TCBInfos) != MaxItems {
		t.Errorf("%d are taken, want %d", len(x.TCBInfos), MaxItems)
	}
}

// TestSharedIndex: verifications that run at once have one index, and appending to a list of it changes no other's.
func TestSharedIndex(t *testing.T) {
	m := make1()
	s, err := New(map[string][]byte{"a": m.root, "b": m.leaf, "c": m.crl, "d": []byte(document("tcbInfo", m.info))})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			x := s.Index()
			if x != s.Index() {
				t.Error("sorted twice")
			}
			_ = append(x.Certificates, x.Certificates[0])
			_ = append(x.CRLs, x.CRLs[0])
			_ = append(x.TCBInfos, x.TCBInfos[0])
			_ = append(x.Anchors(), x.Anchors()[0])
			roots := x509.NewCertPool()
			for _, c := range x.Anchors() {
				roots.AddCert(c)
			}
			if _, err := x.Certificates[1].Verify(x509.VerifyOptions{Roots: roots, CurrentTime: day.AddDate(0, 1, 0)}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	var none *Snapshot
	if got := count(none.Index()); got != [7]int{} {
		t.Errorf("no snapshot holds %v", got)
	}
}

// FuzzIndex: whatever a file is, it is unknown or is what went in, and sorting it a second time says the same.
func FuzzIndex(f *testing.F) {
	m := make1()
	f.Add(m.root)
	f.Add(m.crl)
	f.Add([]byte(hex.EncodeToString(m.crl)))
	f.Add(slices.Concat(encode("CERTIFICATE", m.leaf), []byte("\r\n"), encode("X509 CRL", m.crl)))
	f.Add([]byte(url.PathEscape(string(encode("CERTIFICATE", m.leaf)))))
	f.Add([]byte(document("tcbInfo", m.info)))
	f.Add([]byte(`{"keys":[{"kty":"RSA"}]}`))
	f.Add([]byte(`{"tcb_info":"{}","tcb_info_signature":"","qe_identity":"{}","root_ca_crl":"30"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		x := index(map[string][]byte{"x": b})
		if known := count(x) != [7]int{6: 1}; known != (len(x.Unknown) == 0) {
			t.Fatalf("%v", count(x))
		}
		if again := index(map[string][]byte{"x": b, "y": b}); len(x.Unknown) == 0 && count(again) != count(x) {
			t.Fatalf("twice it is %v, once %v", count(again), count(x))
		}
		for _, d := range slices.Concat(x.TCBInfos, x.QEIdentities) {
			if len(d.Signature) != 64 || !json.Valid(d.Body) {
				t.Fatalf("a document with body %q", d.Body)
			}
		}
	})
}

func BenchmarkIndex(b *testing.B) {
	dir := shared(b)
	files := map[string][]byte{}
	for _, f := range []string{"snp/ask_ark_milan.pem", "snp/ask_ark_genoa.pem", "snp/ask_ark_turin_vlek.pem", "tdx/v4-phala.collateral.json", "tdx/trusted_root.pem"} {
		c, err := os.ReadFile(filepath.Join(dir, f))
		if err != nil {
			b.Fatal(err)
		}
		files[filepath.Base(f)] = c
	}
	for b.Loop() {
		index(files)
	}
}
