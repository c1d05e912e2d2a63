package intel_test

import (
	"errors"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/attest/internal/intel"
	"github.com/consilium-fl/consilium/attest/testtee/shared"
)

// evidence reads real files of the shared folder; where it is absent the test is skipped.
func evidence(t testing.TB, names ...string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for _, name := range names {
		out[name] = shared.File(t, "tdx/"+name)
	}
	return out
}

func trust(t testing.TB, names ...string) *endorse.Snapshot {
	t.Helper()
	s, err := endorse.New(evidence(t, append(names, "trusted_root.pem")...))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func day(t testing.TB, s string) time.Time {
	t.Helper()
	at, err := time.Parse(time.DateOnly, s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestRealQuotes(t *testing.T) {
	for _, c := range []struct {
		quote, at            string
		trust                []string
		code                 string // of the one reason, empty for none
		platform, module, qe string
	}{
		{"v4-phala", "2025-06-25", []string{"v4-phala.collateral.json"}, "", "UpToDate", "UpToDate", "UpToDate"},
		{"v4-gcp", "2025-07-10", []string{"00806f050000-2025-07.tcbinfo.json", "00806f050000-2025-07.qeidentity.json", "platform.crl.der", "tcb-signing.der"}, "", "UpToDate", "UpToDate", "UpToDate"},
		{"v5-outdated", "2026-03-01", []string{"v5-outdated.collateral.json"}, "", "", "UpToDate", "UpToDate"},
		{"v4-debug", "2025-01-01", nil, "", "absent", "absent", "absent"},
		{"v4-spr-e4", "2023-07-01", []string{"sample_tcbInfo_response", "sample_qeIdentity_response"}, attest.CodeParseTail, "", "", ""},
		{"not-tdx-sgx-v3", "2025-01-01", nil, attest.CodeTEEType, "", "", ""},
	} {
		t.Run(c.quote, func(t *testing.T) {
			name := c.quote + ".quote.bin"
			got, err := intel.Verify(evidence(t, name)[name], nil, attest.Inputs{Now: day(t, c.at), Trust: trust(t, c.trust...)})
			if c.code != "" {
				var r attest.Reason
				if !errors.As(err, &r) || r.Code != c.code {
					t.Errorf("got %v, want %s", err, c.code)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, half := range []struct {
				name, want string
				got        *attest.TDXTCB
			}{{"platform", c.platform, got.TDX.Platform}, {"module", c.module, got.TDX.Module}, {"qe", c.qe, got.TDX.QE}} {
				status := "absent"
				if half.got != nil {
					status = half.got.Status
				}
				if status != half.want {
					t.Errorf("%s: got %q, want %q", half.name, status, half.want)
				}
			}
		})
	}
}
