package intake

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	snpabi "github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/proto/sevsnp"
	tdxabi "github.com/google/go-tdx-guest/abi"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/testtee/intel"
	"github.com/consilium-fl/consilium/attest/testtee/tpm"
)

func got[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var (
	b64  = base64.StdEncoding.EncodeToString
	b64u = base64.RawURLEncoding.EncodeToString
)

func zipped(b []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	got(z.Write(b))
	got(0, z.Close())
	return out.Bytes()
}

// inHex is a report as newer crates write it: byte strings in hex, versions taken apart, absent where the report has none.
func inHex(b []byte) string {
	tcb := func(at int) string {
		return fmt.Sprintf(`{"fmc":null,"bootloader":%d,"tee":%d,"snp":%d,"microcode":%d}`, b[at], b[at+1], b[at+6], b[at+7])
	}
	version := func(at int) string {
		return fmt.Sprintf(`{"major":%d,"minor":%d,"build":%d}`, b[at+2], b[at+1], b[at])
	}
	return fmt.Sprintf(`{"version":%d,"guest_svn":0,"policy":%d,"family_id":"%x","image_id":"%x","vmpl":0,"sig_algo":1,"current_tcb":%s,"plat_info":%d,"key_info":0,"report_data":"%x",
		"measurement":"%x","host_data":"%x","id_key_digest":"%x","author_key_digest":"%x","report_id":"%x","report_id_ma":"%x","reported_tcb":%s,"cpuid_fam_id":%d,"cpuid_mod_id":%d,"cpuid_step":%d,
		"chip_id":"%x","committed_tcb":%s,"current":%s,"committed":%s,"launch_tcb":%s,"launch_mit_vector":null,"current_mit_vector":null,"signature":{"r":"%x","s":"%x"}}`,
		b[0], binary.LittleEndian.Uint64(b[8:]), b[0x10:0x20], b[0x20:0x30], tcb(0x38), b[0x40], b[0x50:0x90], b[0x90:0xc0], b[0xc0:0xe0], b[0xe0:0x110], b[0x110:0x140], b[0x140:0x160],
		b[0x160:0x180], tcb(0x180), b[0x188], b[0x189], b[0x18a], b[0x1a0:0x1e0], tcb(0x1e0), version(0x1e8), version(0x1ec), tcb(0x1f0), b[0x2a0:0x2e8], b[0x2e8:0x330])
}

// genoa is a report in which every field says something and every reserved byte is zero, as Google's library demands.
func genoa() []byte {
	b := madeReport()
	for _, s := range [][2]int{{0x110, 0x140}, {0x188, 0x1a0}, {0x1eb, 0x1ec}, {0x1ef, 0x1f0}, {0x1f8, 0x2a0}, {0x2d0, 0x2e8}, {0x318, 0x330}} {
		clear(b[s[0]:s[1]])
	}
	for _, tcb := range []int{0x38, 0x180, 0x1e0, 0x1f0} {
		copy(b[tcb:], []byte{10, 1, 0, 0, 0, 0, 23, 84})
	}
	copy(b[0x188:], []byte{0x19, 0xa1, 0x02})
	b[0x40] = 0x25
	return b
}

// azureForms are the forms of Confidential Containers, of one evidence over SNP, and of one over TDX.
func azureForms(vcek []byte) (hcl, td []byte, forms map[string]string) {
	key := got(rsa.GenerateKey(rand.Reader, 2048))
	t := tpm.New(key)
	message := t.Quote(make([]byte, 32)).Encode()
	signature := t.Sign(message)
	hardware := func(kind uint32, b []byte) []byte {
		return tpm.NewHCL(kind, tpm.Claims(&key.PublicKey, nil, nil), func([64]byte) []byte { return b }).Encode()
	}
	hcl, td = hardware(2, genoa()), hardware(4, make([]byte, 1024))
	var numbered, hexed []string
	for i := range 24 {
		v := t.Registers()[i]
		if v == nil {
			v = make([]byte, 32)
		}
		numbered, hexed = append(numbered, ints(v)), append(hexed, fmt.Sprintf(`"%x"`, v))
	}
	old := fmt.Sprintf(`{"message":%s,"signature":%s,"pcrs":[%s]}`, ints(message), ints(signature), strings.Join(numbered, ","))
	quote := fmt.Sprintf(`{"message":"%x","signature":"%x","pcrs":[%s]}`, message, signature, strings.Join(hexed, ","))
	inPEM := got(json.Marshal(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: vcek}))))
	one := fmt.Sprintf(`{"version":1,"tpm_quote":%s,"hcl_report":"%s","vcek":"%s"}`, quote, b64u(hcl), b64u(vcek))
	return hcl, td, map[string]string{
		"SNP 0": fmt.Sprintf(`{"quote":%s,"report":%s,"vcek":%s}`, old, ints(hcl), inPEM),
		"SNP 1": one,
		"SNP 2": strings.Replace(one, `"version":1`, `"version":2`, 1),
		"TDX 0": fmt.Sprintf(`{"tpm_quote":%s,"hcl_report":%s,"td_quote":%s}`, old, ints(td), ints(madeQuote())),
		"TDX 1": fmt.Sprintf(`{"version":1,"tpm_quote":%s,"hcl_report":"%s","td_quote":"%s"}`, quote, b64u(td), b64u(madeQuote())),
	}
}

// TestTools reads what the common tools write.
func TestTools(t *testing.T) {
	r, q := genoa(), madeQuote()
	vcek, ask := certificateOf(t, "SEV-VCEK"), certificateOf(t, "SEV-Genoa")
	chain := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: vcek}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ask})...)
	log := append(make([]byte, 32), []byte("Spec ID Event03\x00 and more of it")...)
	jwt := func(header string) string { return b64u([]byte(header)) + ".e30.c2ln" }
	report := got(snpabi.ReportToProto(r))
	extended := &sevsnp.Attestation{Report: report, CertificateChain: &sevsnp.CertificateChain{VcekCert: vcek, AskCert: ask}}
	fake := intel.New(nil)
	made := intel.NewTD([64]byte{1})
	made.Version, made.Tail = 4, make([]byte, 9) // the library reads no other version
	td := fake.Quote(fake.PCK(intel.NewMachine()), made)
	quote, _ := got(tdxabi.QuoteToProto(td)).(proto.Message)
	vtpm := tpm.New(got(rsa.GenerateKey(rand.Reader, 2048))).Attestation([]byte("nonce"), []byte("certificate"))
	snakes := protojson.MarshalOptions{UseProtoNames: true}
	nested := `{"SnpReport":"` + b64u(r) + `","VcekCertChain":"` + b64u(chain) + `"}`
	hcl, hclTD, forms := azureForms(vcek)
	record := attest.Record{Evidence: attest.Evidence{Format: attest.FormatSNP, Statement: r, Endorsements: map[string][]byte{"vcek": vcek}}, Binding: attest.Binding{Role: attest.RoleNode}}
	withQuote := []string{"tpm-pcrs", "tpm-quote", "tpm-signature"}
	for name, tc := range map[string]struct {
		in        string
		format    attest.Format
		statement []byte
		with      []string
	}{
		"a report by its fields, in hex":     {inHex(r), attest.FormatSNP, r, nil},
		"configfs-tsm in JSON":               {`{"provider":"sev_guest\n","outblob":"` + b64(r) + `","auxblob":"` + b64(hostTable(vcek, ask)) + `"}`, attest.FormatSNP, r, []string{"ask", "vcek"}},
		"a request for MAA":                  {`{"report":"` + b64u([]byte(nested)) + `","runtimeData":{"data":"` + b64u([]byte(`{"a":1}`)) + `","dataType":"JSON"}}`, attest.FormatSNP, r, []string{"ask", "vcek"}},
		"THIM's answer beside a report":      {`{"report":"` + b64(r) + `","vcekCert":` + string(got(json.Marshal(string(chain)))) + `,"tcbm":"DB18000000000004"}`, attest.FormatSNP, r, []string{"ask", "vcek"}},
		"an envelope in a string":            {`{"primary_evidence":` + string(got(json.Marshal(`{"quote":"`+b64(q)+`"}`))) + `,"additional_evidence":""}`, attest.FormatTDX, q, nil},
		"a list: a conceptual wrapper":       {`["application/octet-stream","` + b64u(q) + `"]`, attest.FormatTDX, q, nil},
		"a list of numbers":                  {ints(r), attest.FormatSNP, r, nil},
		"compressed, in base64, in JSON":     {`{"format":"sev-snp-guest/v2","body":"` + b64(zipped(r)) + `"}`, attest.FormatSNP, r, nil},
		"compressed":                         {string(zipped(q)), attest.FormatTDX, q, nil},
		"a quote and its log":                {`{"quote":"` + b64(q) + `","cc_eventlog":"` + b64(log) + `"}`, attest.FormatTDX, q, []string{attest.CCEL}},
		"a quote and its collateral":         {`{"quote":"` + hex.EncodeToString(q) + `","collateral":{"tcb_info":"{}","qe_identity":"{}"}}`, attest.FormatTDX, q, []string{"collateral"}},
		"an HCL report and a log":            {`{"hcl":"` + b64(hcl) + `","log":"` + b64(log) + `"}`, attest.FormatAzureSNP, hcl, []string{attest.EventLog}},
		"a token with certificates":          {jwt(`{"alg":"RS256","kid":"k","x5c":["a"]}`), attest.FormatCSPKI, []byte(jwt(`{"alg":"RS256","kid":"k","x5c":["a"]}`)), nil},
		"a token that names its key":         {jwt(`{"alg":"RS256","kid":"k"}`) + "\n", attest.FormatCSOIDC, []byte(jwt(`{"alg":"RS256","kid":"k"}`)), nil},
		"a token after a blank":              {" " + jwt(`{"kid":"k"}`), attest.FormatCSOIDC, []byte(jwt(`{"kid":"k"}`)), nil},
		"a token in quotes":                  {`"` + jwt(`{"kid":"k"}`) + `"`, attest.FormatCSOIDC, []byte(jwt(`{"kid":"k"}`)), nil},
		"a token and a log":                  {`{"token":"` + jwt(`{"kid":"k"}`) + `","log":"` + b64(log) + `","chain":` + string(got(json.Marshal(string(chain)))) + `}`, attest.FormatCSOIDC, []byte(jwt(`{"kid":"k"}`)), nil},
		"a record of a session":              {string(got(record.Encode())), attest.FormatSNP, r, []string{"vcek"}},
		"a token in JSON":                    {`{"token":"` + jwt(`{"alg":"RS256","kid":"k"}`) + `"}`, attest.FormatCSOIDC, []byte(jwt(`{"alg":"RS256","kid":"k"}`)), nil},
		"go-sev-guest's report":              {string(got(proto.Marshal(report))), attest.FormatSNP, r, nil},
		"go-sev-guest's report in text":      {prototext.Format(report), attest.FormatSNP, r, nil},
		"go-sev-guest's attestation":         {string(got(proto.Marshal(extended))), attest.FormatSNP, r, []string{"ask", "vcek"}},
		"go-sev-guest's attestation in text": {prototext.Format(extended), attest.FormatSNP, r, []string{"ask", "vcek"}},
		"go-sev-guest's attestation in JSON": {protojson.Format(extended), attest.FormatSNP, r, []string{"ask", "vcek"}},
		"the same with other names":          {string(got(snakes.Marshal(extended))), attest.FormatSNP, r, []string{"ask", "vcek"}},
		"go-tdx-guest's quote":               {string(got(proto.Marshal(quote))), attest.FormatTDX, td, nil},
		"go-tdx-guest's quote in text":       {prototext.Format(quote), attest.FormatTDX, td, nil},
		"go-tdx-guest's quote in JSON":       {protojson.Format(quote), attest.FormatTDX, td, nil},
		"go-tpm-tools' attestation":          {string(got(proto.Marshal(vtpm))), attest.FormatVTPM, nil, nil},
		"go-tpm-tools' attestation in text":  {prototext.Format(vtpm), attest.FormatVTPM, nil, nil},
		"go-tpm-tools' attestation in JSON":  {protojson.Format(vtpm), attest.FormatVTPM, nil, nil},
		"Azure, form 0":                      {forms["SNP 0"], attest.FormatAzureSNP, hcl, append([]string{"vcek"}, withQuote...)},
		"Azure, form 1":                      {forms["SNP 1"], attest.FormatAzureSNP, hcl, append([]string{"vcek"}, withQuote...)},
		"Azure, form 2, in a broker's words": {`{"tee":"az-snp-vtpm","tee-evidence":` + forms["SNP 2"] + `}`, attest.FormatAzureSNP, hcl, append([]string{"vcek"}, withQuote...)},
		"Azure over TDX, form 0":             {forms["TDX 0"], attest.FormatAzureTDX, hclTD, append([]string{"td-quote"}, withQuote...)},
		"Azure over TDX, form 1":             {forms["TDX 1"], attest.FormatAzureTDX, hclTD, append([]string{"td-quote"}, withQuote...)},
	} {
		t.Run(name, func(t *testing.T) {
			e, how, err := Read([]byte(tc.in))
			if err != nil || e.Format != tc.format || how == "" {
				t.Fatalf("%q of %d bytes, %q: %v", e.Format, len(e.Statement), how, err)
			}
			if tc.format == attest.FormatVTPM {
				if m := vtpm.ProtoReflect().New().Interface(); proto.Unmarshal(e.Statement, m) != nil || !proto.Equal(m, vtpm) {
					t.Error("another message")
				}
			} else if !bytes.Equal(e.Statement, tc.statement) {
				t.Errorf("%d bytes, want %d; the first that differs is %#x", len(e.Statement), len(tc.statement), differs(e.Statement, tc.statement))
			}
			slices.Sort(tc.with)
			if names := slices.Sorted(maps.Keys(e.Endorsements)); !slices.Equal(names, tc.with) {
				t.Errorf("with %q, want %q", names, tc.with)
			}
		})
	}
}

func differs(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// TestReadWords holds the words for what is no evidence.
func TestReadWords(t *testing.T) {
	td := make([]byte, 1024)
	td[0] = 0x81
	log := append(make([]byte, 32), []byte("Spec ID Event03\x00 and more of it")...)
	bomb := zipped(make([]byte, MaxFile+1))
	ask := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificateOf(t, "SEV-Genoa")})
	for want, b := range map[string]string{
		"2 certificates, which belong to the trust":    string(ask) + string(ask),
		"1 certificates, which belong to the trust":    `{"vcekCert":` + string(got(json.Marshal(string(ask)))) + `,"tcbm":"DB18000000000004"}`,
		"an event log without":                         string(log),
		"collateral of Intel's":                        `{"tcb_info":"{}","qe_identity":"{}"}`,
		"a TDREPORT":                                   string(td),
		`a JSON object with ["ak_public" "tpm_quote"]`: `{"ak_public":"AAAA","tpm_quote":{"message":"AAAA"}}`,
		`PEM of "PRIVATE KEY"`:                         "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
		"15 bytes that begin with 73656372;":           "secret, secret, ",
		"bytes that begin with 1f8b0800;":              string(bomb),
	} {
		_, _, err := Read([]byte(b))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "known are SNP reports, TDX quotes") {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
