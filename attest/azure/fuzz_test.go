package azure

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/testtee/shared"
	"github.com/consilium-fl/consilium/attest/testtee/tpm"
)

func FuzzReport(f *testing.F) {
	l := newLab(f)
	for _, b := range shared.Seeds(f, "azure/*.hcl.bin") {
		f.Add(b)
	}
	good := l.evidence(attest.FormatAzureTDX)
	f.Add(good.Statement)
	f.Fuzz(func(t *testing.T, b []byte) {
		e := good
		e.Statement = b
		r := check(e, l.in, l.pol)
		if slices.Contains(codes(r), attest.CodeVerifierPanic) || r.OK() && !bytes.Equal(bytes.TrimRight(b, "\x00"), bytes.TrimRight(good.Statement, "\x00")) {
			t.Fatalf("%s for %v", r.Status, r.Reasons)
		}
	})
}

func FuzzClaims(f *testing.F) {
	f.Add(tpm.Claims(&tpm.Key().PublicKey, make([]byte, 64), nil))
	f.Add([]byte(`{"keys":[{"kid":"HCLAkPub","kty":"RSA","n":"AQ","e":"AQAB"}],"vm-configuration":{"secure-boot":true,"console-enabled":true,"tpm-enabled":true,"vmUniqueId":"a"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, ak, err := parseClaims(b)
		if err == nil && (c.VM == "" || ak == nil || ak.E != 65537 || c.UserData != nil && len(c.UserData) != userData) {
			t.Fatalf("%+v, %+v", c, ak)
		}
	})
}

func FuzzTrustee(f *testing.F) {
	for _, b := range shared.Seeds(f, "azure/*.evidence.json") {
		f.Add(b)
	}
	f.Add([]byte(numbers))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := FromTrustee(b); err == nil && len(e.Endorsements[tpmPCRs]) != 768 {
			t.Fatalf("%+v", e)
		}
	})
}

// numbers is the first form of the envelope.
var numbers = `{"quote":{"signature":[1,2],"message":[255,84],"pcrs":[` + strings.TrimSuffix(strings.Repeat("["+strings.TrimSuffix(strings.Repeat("7,", 32), ",")+"],", 24), ",") +
	`]},"report":[72,67,76,65],"vcek":"-----BEGIN CERTIFICATE-----\n"}`

func TestFromTrustee(t *testing.T) {
	e, err := FromTrustee([]byte(numbers))
	if err != nil || e.Format != attest.FormatAzureSNP || string(e.Statement) != "HCLA" || !bytes.Equal(e.Endorsements[tpmPCRs], bytes.Repeat([]byte{7}, 768)) || !bytes.Equal(e.Endorsements[tpmQuote], []byte{255, 84}) {
		t.Errorf("%+v, %v", e, err)
	}
	tdx := strings.NewReplacer(`"quote"`, `"tpm_quote"`, `"report"`, `"hcl_report"`, `"vcek":"-----BEGIN CERTIFICATE-----\n"`, `"td_quote":[4]`).Replace(numbers)
	if e, err := FromTrustee([]byte(tdx)); err != nil || e.Format != attest.FormatAzureTDX || !bytes.Equal(e.Endorsements[tdQuote], []byte{4}) {
		t.Errorf("%+v, %v", e, err)
	}
	for name, change := range map[string][2]string{
		"no byte":          {"[7,", "[256,"},
		"a negative byte":  {"[7,", "[-1,"},
		"a register more":  {`"pcrs":[`, `"pcrs":[[],`},
		"a short register": {"[[7,", "[["},
		"version 0":        {`{"quote"`, `{"version":0,"quote"`},
		"version 3":        {`{"quote"`, `{"version":3,"quote"`},
		"another name":     {`"vcek"`, `"more":1,"vcek"`},
		"a name twice":     {`"vcek"`, `"vcek":"","vcek"`},
		"no report":        {`"report":[72,67,76,65],`, ""},
		"no signature":     {`"signature":[1,2],`, ""},
		"text for a quote": {`{"signature":[1,2],`, `[`},
		"not hex":          {`[255,84]`, `"xx"`},
		"more":             {`"-----BEGIN CERTIFICATE-----\n"}`, `""}{}`},
	} {
		b := strings.Replace(numbers, change[0], change[1], 1)
		if b == numbers {
			t.Fatalf("%s: the same", name)
		}
		if e, err := FromTrustee([]byte(b)); err == nil {
			t.Errorf("%s: %+v", name, e)
		}
	}
	if _, err := FromTrustee(make([]byte, maxEnvelope+1)); err == nil {
		t.Error("a large envelope was read")
	}
	if _, err := FromHCL([]byte("HCLA")); err == nil {
		t.Error("a short report was read")
	}
}
