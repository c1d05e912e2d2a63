package tdx_test

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-tdx-guest/abi"
	"github.com/google/go-tdx-guest/proto/tdx"
	"github.com/google/go-tdx-guest/validate"
	"github.com/google/go-tdx-guest/verify"
	"github.com/google/logger"

	"github.com/consilium-fl/consilium/attest"
	fake "github.com/consilium-fl/consilium/attest/testtee/intel"
)

var update = flag.Bool("update", false, "write testdata/differences.txt anew")

func TestMain(m *testing.M) {
	flag.Parse()
	logger.Init("", false, false, io.Discard)
	os.Exit(m.Run())
}

// service answers for Intel's out of a folder of trust.
type service map[string][]byte

func (s service) Get(address string) (map[string][]string, []byte, error) {
	answer := func(file, header string, signer string) (map[string][]string, []byte, error) {
		b, ok := s[file]
		if !ok {
			return nil, nil, errors.New("404 Not Found")
		}
		chain := toPEM(s[signer]) + toPEM(s[fake.RootFile])
		return map[string][]string{header: {url.QueryEscape(chain)}}, b, nil
	}
	switch {
	case strings.Contains(address, "/qe/identity"):
		return answer(fake.QEIdentityFile, "Sgx-Enclave-Identity-Issuer-Chain", fake.SigningFile)
	case strings.Contains(address, "/tcb?"):
		return answer(fake.TCBInfoFile, "Tcb-Info-Issuer-Chain", fake.SigningFile)
	case strings.Contains(address, "/pckcrl?"):
		return answer(fake.PCKCRLFile, "Sgx-Pck-Crl-Issuer-Chain", caFile)
	}
	return answer(fake.RootCRLFile, "", fake.SigningFile)
}

// caFile is the intermediate certificate, which the service sends with its revocation list.
const caFile = "ca.der"

func toPEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// library is what go-tdx-guest says with everything that it can check: nil when it takes the quote.
func (s sample) library() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errors.New("panics")
		}
	}()
	proto, err := abi.QuoteToProto(s.evidence.Statement)
	if err != nil {
		return err
	}
	q, ok := proto.(*tdx.QuoteV4)
	if !ok {
		return errors.New("no quote of version 4")
	}
	roots := x509.NewCertPool()
	root, err := x509.ParseCertificate(s.files[fake.RootFile])
	if err != nil {
		return err
	}
	roots.AddCert(root)
	err = verify.TdxQuote(q, &verify.Options{
		Now:           &verify.TimeSet{PckCertChain: s.now, TcbInfo: s.now, QeIdentity: s.now, PckCrl: s.now, RootCaCrl: s.now},
		GetCollateral: true, CheckRevocations: true, Getter: service(s.files), TrustedRoots: roots,
	})
	if err != nil {
		return err
	}
	p := s.policy.TDX
	value := func(set attest.Set) []byte {
		b, err := hex.DecodeString(set.Of[0])
		if err != nil {
			return make([]byte, 48) // zero
		}
		return b
	}
	measurement, err := hex.DecodeString(strings.TrimPrefix(s.policy.Measurements.Of[0], "sha384:"))
	if err != nil {
		return err
	}
	return validate.TdxQuote(q, &validate.Options{TdQuoteBodyOptions: validate.TdQuoteBodyOptions{
		ReportData: s.want[:], MrTd: measurement, MrSeam: value(p.MRSEAM), TdAttributes: value(p.Attributes), Xfam: value(p.XFAM),
		MrConfigID: value(p.MRConfigID), MrOwner: value(p.MROwner), MrOwnerConfig: value(p.MROwnerConfig),
		Rtmrs: [][]byte{value(p.RTMR0), value(p.RTMR1), value(p.RTMR2), value(p.RTMR3)},
	}})
}

// named is a sample of a name.
type named struct {
	name string
	sample
}

// fromCollateral sorts what a tool saved of a quote into the files of Trust.
func fromCollateral(t testing.TB, b []byte) map[string][]byte {
	t.Helper()
	var o map[string]string
	if err := json.Unmarshal(b, &o); err != nil {
		t.Fatal(err)
	}
	ders := func(key string) (out [][]byte) {
		for rest := []byte(o[key]); ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				return out
			}
			out = append(out, block.Bytes)
		}
	}
	unhex := func(key string) []byte {
		out, err := hex.DecodeString(o[key])
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	return map[string][]byte{
		fake.TCBInfoFile:    fmt.Appendf(nil, `{"tcbInfo":%s,"signature":"%s"}`, o["tcb_info"], o["tcb_info_signature"]),
		fake.QEIdentityFile: fmt.Appendf(nil, `{"enclaveIdentity":%s,"signature":"%s"}`, o["qe_identity"], o["qe_identity_signature"]),
		fake.SigningFile:    ders("tcb_info_issuer_chain")[0], caFile: ders("pck_crl_issuer_chain")[0], fake.RootFile: ders("pck_crl_issuer_chain")[1],
		fake.PCKCRLFile: unhex("pck_crl"), fake.RootCRLFile: unhex("root_ca_crl"),
	}
}

func reals(t testing.TB) []named {
	t.Helper()
	saved := func(name, at string) named {
		b := evidence(t, name+".quote.bin", name+".collateral.json")
		return newNamed(t, name, at, b[name+".quote.bin"], fromCollateral(t, b[name+".collateral.json"]))
	}
	p := saved("v4-phala", "2025-06-25")
	b := evidence(t, append(slices.Clone(gcpTrust), "v4-gcp.quote.bin", "v4-debug.quote.bin", "v4-spr-e4.quote.bin", "sample_tcbInfo_response", "sample_qeIdentity_response", "pckcrl", "rootcrl.der", "not-tdx-sgx-v3.quote.bin")...)
	files := map[string][]byte{
		fake.TCBInfoFile: b[gcpTrust[1]], fake.QEIdentityFile: b[gcpTrust[2]], fake.SigningFile: b["tcb-signing.der"], caFile: p.files[caFile],
		fake.RootFile: p.files[fake.RootFile], fake.PCKCRLFile: b["platform.crl.der"], fake.RootCRLFile: p.files[fake.RootCRLFile],
	}
	old := map[string][]byte{
		fake.TCBInfoFile: b["sample_tcbInfo_response"], fake.QEIdentityFile: b["sample_qeIdentity_response"], fake.SigningFile: b["tcb-signing.der"], caFile: p.files[caFile],
		fake.RootFile: p.files[fake.RootFile], fake.PCKCRLFile: b["pckcrl"], fake.RootCRLFile: b["rootcrl.der"],
	}
	return []named{
		p, saved("v5-outdated", "2026-03-01"),
		newNamed(t, "v4-phala, later", "2025-08-25", p.evidence.Statement, p.files),
		newNamed(t, "v4-gcp", "2025-07-10", b["v4-gcp.quote.bin"], files),
		newNamed(t, "v4-debug", "2023-07-01", b["v4-debug.quote.bin"], old),
		newNamed(t, "v4-spr-e4", "2023-07-01", b["v4-spr-e4.quote.bin"], old),
		{"not-tdx-sgx-v3", sample{attest.Evidence{Format: attest.FormatTDX, Statement: b["not-tdx-sgx-v3.quote.bin"]}, p.files, p.now, p.want, p.policy}},
	}
}

func newNamed(t testing.TB, name, at string, quote []byte, files map[string][]byte) named {
	t.Helper()
	return named{name, sample{attest.Evidence{Format: attest.FormatTDX, Statement: quote}, files, day(t, at), reportData(quote), exact(quote)}}
}

// with is the same with another quote.
func (s sample) with(quote []byte) sample {
	s.evidence.Statement = quote
	return s
}

// inputs are the evidence, the rows of the table, and flipped bits all over two quotes.
func inputs(t testing.TB) []named {
	t.Helper()
	out := reals(t)
	for _, c := range mutations {
		out = append(out, named{"v4-phala, " + c.name, out[0].with(c.mutate(slices.Clone(out[0].evidence.Statement)))})
	}
	q := out[0].evidence.Statement
	for bit := 0; bit < 8*len(q); bit += 37 {
		flipped := slices.Clone(q)
		flipped[bit/8] ^= 1 << (bit % 8)
		out = append(out, named{fmt.Sprintf("v4-phala, bit %d of byte 0x%x flipped", bit%8, bit/8), out[0].with(flipped)})
	}
	for _, c := range fakes {
		for _, version := range []int{4, 5} {
			w := newWorld(nil)
			w.td.Version = version
			c.change(w)
			s := w.sample()
			s.files[caFile] = w.intel.Platform.Cert.Raw
			if w.machine.PIID == nil {
				s.files[caFile] = w.intel.Processor.Cert.Raw
			}
			if s.policy.TDX != nil && len(s.policy.TDX.MRSEAM.Of) == 1 {
				out = append(out, named{fmt.Sprintf("fake of version %d, %s", w.td.Version, c.name), s})
			}
		}
	}
	return out
}

// TestDifferences lists every input on which go-tdx-guest says otherwise, so that a change of either is noticed.
func TestDifferences(t *testing.T) {
	all := inputs(t)
	lines := make([]string, len(all))
	var wg sync.WaitGroup
	for part := range 2 {
		wg.Go(func() {
			for i := part; i < len(all); i += 2 {
				lines[i] = all[i].difference(t)
			}
		})
	}
	wg.Wait()
	lines = slices.Compact(slices.DeleteFunc(lines, func(s string) bool { return s == "" }))
	slices.Sort(lines)
	got := fmt.Sprintf("Of %d inputs, those on which the verdicts differ. Make it anew with: go test ./attest/tdx -run Differences -update\n\n%s", len(all), strings.Join(lines, ""))
	golden := filepath.Join("testdata", "differences.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the differences are\n%s\nwant\n%s", got, want)
	}
}

func (n named) difference(t *testing.T) string {
	got, err := n.check(t), n.library()
	panics := err != nil && err.Error() == "panics"
	if got.OK() == (err == nil) && !panics {
		return ""
	}
	ours, theirs := "takes it", "takes it"
	if !got.OK() {
		ours = strings.Join(codes(got.Reasons), ", ")
	}
	switch {
	case panics:
		theirs = "panics"
	case err != nil:
		theirs = "refuses"
	}
	return fmt.Sprintf("%s\n\tours: %s\n\tgo-tdx-guest: %s\n", n.name, ours, theirs)
}
