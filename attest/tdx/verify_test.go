package tdx_test

import (
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/attest/tdx"
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

func snapshot(t testing.TB, files map[string][]byte) *endorse.Snapshot {
	t.Helper()
	s, err := endorse.New(files)
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

// file is one of the evidence with the moment that its README gives, and the snapshot for it.
type file struct {
	quote []byte
	in    attest.Inputs
}

var gcpTrust = []string{"trusted_root.pem", "00806f050000-2025-07.tcbinfo.json", "00806f050000-2025-07.qeidentity.json", "platform.crl.der", "tcb-signing.der"}

// theReal binds to the report data that the file itself has.
func theReal(t testing.TB, name, at string, trust ...string) file {
	t.Helper()
	path := name + ".quote.bin"
	q := evidence(t, path)[path]
	r := file{quote: q, in: attest.Inputs{Now: day(t, at), Trust: snapshot(t, evidence(t, trust...))}}
	data := reportData(q)
	r.in.ReportData = &data
	return r
}

func phala(t testing.TB) file {
	return theReal(t, "v4-phala", "2025-06-25", "trusted_root.pem", "v4-phala.collateral.json")
}

func gcp(t testing.TB) file { return theReal(t, "v4-gcp", "2025-07-10", gcpTrust...) }

func body(q []byte) []byte {
	if q[0] == 5 {
		return q[54:]
	}
	return q[48:]
}

func reportData(q []byte) [64]byte { return [64]byte(body(q)[520:]) }

func (r file) check(p attest.Policy) attest.Result {
	return attest.NewVerifiers(tdx.NewVerifier()).Check(attest.Evidence{Format: attest.FormatTDX, Statement: r.quote}, r.in, p)
}

// exact takes what a quote has, and nothing else.
func exact(q []byte) attest.Policy {
	b := body(q)
	hex := func(from, n int) attest.Set { return attest.SetOf(attest.HexBytes(b[from : from+n]).String()) }
	upToDate := attest.SetOf(attest.TDXUpToDate)
	p := attest.Policy{
		Role: attest.RoleNode, Accept: []attest.Format{attest.FormatTDX}, Machines: attest.AnySet(),
		Measurements: attest.SetOf(attest.SHA384Measurement([48]byte(b[136:]))),
		TDX: &attest.TDXPolicy{
			Platform: upToDate, Module: upToDate, QE: upToDate, MinTCBDate: "2024-01-01", MinEvaluation: 17,
			Attributes: hex(120, 8), XFAM: hex(128, 8), MRSEAM: hex(16, 48),
			MRConfigID: attest.SetOf("zero"), MROwner: attest.SetOf("zero"), MROwnerConfig: attest.SetOf("zero"), MRServiceTD: attest.SetOf("zero"),
			RTMR0: hex(328, 48), RTMR1: hex(376, 48), RTMR2: hex(424, 48), RTMR3: hex(472, 48), Replay: attest.Required,
		},
	}
	return p
}

func codes(rs []attest.Reason) []string {
	var out []string
	for _, r := range rs {
		if !slices.Contains(out, r.Code) {
			out = append(out, r.Code)
		}
	}
	return out
}

// TestEvidence gives each real file the verdict of the evidence's README.
func TestEvidence(t *testing.T) {
	for _, c := range []struct {
		name, at string
		trust    []string
		codes    []string
	}{
		{"v4-phala", "2025-06-25", []string{"v4-phala.collateral.json"}, nil},
		{"v4-phala", "2025-08-25", []string{"v4-phala.collateral.json"}, []string{attest.CodeCRLStale, attest.CodeCollateralExpired}},
		{"v4-gcp", "2025-07-10", gcpTrust[1:], nil},
		{"v5-outdated", "2026-03-01", []string{"v5-outdated.collateral.json"}, []string{attest.CodeTCBNoLevel}},
		{"v4-debug", "2025-01-01", nil, []string{attest.CodeDebug, attest.CodeCollateralMissing}},
		{"v4-spr-e4", "2023-07-01", []string{"sample_tcbInfo_response", "sample_qeIdentity_response", "pckcrl", "rootcrl.der", "tcb-signing.der"}, []string{attest.CodeParseTail}},
	} {
		t.Run(c.name+" at "+c.at, func(t *testing.T) {
			r := theReal(t, c.name, c.at, append([]string{"trusted_root.pem"}, c.trust...)...)
			got := r.check(exact(r.quote))
			if g := codes(got.Reasons); !slices.Equal(g, c.codes) {
				t.Fatalf("got %q, want %q", got.Reasons, c.codes)
			}
			if c.codes == nil && got.Status != attest.Affirming {
				t.Errorf("got %s: %v %v", got.Status, got.Warnings, got.NotChecked)
			}
		})
	}
	t.Run("row 44 an SGX quote", func(t *testing.T) {
		q := evidence(t, "not-tdx-sgx-v3.quote.bin")["not-tdx-sgx-v3.quote.bin"]
		r := phala(t)
		p := exact(r.quote)
		r.quote = q
		if got := r.check(p); !slices.Equal(codes(got.Reasons), []string{attest.CodeTEEType}) {
			t.Errorf("got %v", got.Reasons)
		}
	})
	// A folder with everything gives each quote what belongs to it.
	t.Run("one snapshot of all", func(t *testing.T) {
		files := evidence(t, append(slices.Clone(gcpTrust), "v4-phala.collateral.json", "v5-outdated.collateral.json", "sample_tcbInfo_response", "sample_qeIdentity_response", "pckcrl")...)
		trust := snapshot(t, files)
		for _, r := range []file{phala(t), gcp(t)} {
			r.in.Trust = trust
			if got := r.check(exact(r.quote)); got.Status != attest.Affirming {
				t.Errorf("got %s: %v", got.Status, got.Reasons)
			}
		}
	})
}

// mutations are rows of the table of negative cases that a real quote shows.
var mutations = []struct {
	name   string
	mutate func(q []byte) []byte
	codes  []string
}{
	{"row 41 tail, a byte", func(q []byte) []byte { q[len(q)-1] = 1; return q }, []string{attest.CodeParseTail}},
	{"row 41 tail, 1 MiB of zeros", func(q []byte) []byte { return append(q, make([]byte, 1<<18-8000)...) }, []string{attest.CodeParseTail}},
	{"row 41 tail, up to 8000 bytes", func(q []byte) []byte { return append(q, make([]byte, 8000-len(q))...) }, nil},
	{"row 41 tail, a byte more", func(q []byte) []byte { return append(q, make([]byte, 8001-len(q))...) }, []string{attest.CodeParseTail}},
	{"row 42 cut in the padding", func(q []byte) []byte { return q[:len(q)-1] }, nil},
	{"row 42 cut in the chain", func(q []byte) []byte { return q[:4000] }, []string{attest.CodeParseLength}},
	{"row 42 empty", func([]byte) []byte { return nil }, []string{attest.CodeParseLength}},
	{"row 42 header alone", func(q []byte) []byte { return q[:48] }, []string{attest.CodeParseLength}},
	{"row 43 size of QE data", func(q []byte) []byte {
		binary.LittleEndian.PutUint16(q[signatureAt+4+128+6+448:], 0xffff)
		return q
	}, []string{attest.CodeParseBounds}},
	{"row 43 size of the certificates", func(q []byte) []byte { q[signatureAt+4+130]++; return q }, []string{attest.CodeParseBounds}},
	{"row 43 size of the certificates, less", func(q []byte) []byte { q[signatureAt+4+130]--; return q }, []string{attest.CodeParseBounds}},
	{"row 43 size of the signature", func(q []byte) []byte { q[signatureAt+3] = 0xff; return q }, []string{attest.CodeParseLength}},
	{"row 44 tee_type", func(q []byte) []byte { q[4] = 0; return q }, []string{attest.CodeTEEType}},
	{"kind of attestation key", func(q []byte) []byte { q[2] = 3; return q }, []string{attest.CodeSigAlgo}},
	{"version 6", func(q []byte) []byte { q[0] = 6; return q }, []string{attest.CodeParseVersion}},
	{"another vendor's enclave", func(q []byte) []byte { q[12] ^= 1; return q }, []string{attest.CodeParseSigner}},
	{"certification data of kind 1", func(q []byte) []byte { q[signatureAt+4+128] = 1; return q }, []string{attest.CodeParseBody}},
	{"row 47 attestation key zero", func(q []byte) []byte { clear(q[signatureAt+4+64:][:64]); return q }, []string{attest.CodeSignature}},
	{"row 47 attestation key off the curve", func(q []byte) []byte { q[signatureAt+4+64+63] ^= 1; return q }, []string{attest.CodeSignature}},
	{"signature zero", func(q []byte) []byte { clear(q[signatureAt+4:][:64]); return q }, []string{attest.CodeSignature}},
}

// signatureAt is where the size of the signature stands in a quote of version 4.
const signatureAt = 48 + 584

func TestRealMutations(t *testing.T) {
	for _, c := range mutations {
		t.Run(c.name, func(t *testing.T) {
			r := phala(t)
			p := exact(r.quote)
			r.quote = c.mutate(slices.Clone(r.quote))
			got := r.check(p)
			if !slices.Equal(codes(got.Reasons), c.codes) {
				t.Errorf("got %v, want %q", got.Reasons, c.codes)
			}
		})
	}
	t.Run("row 45 version 5 with body type 9", func(t *testing.T) {
		r := theReal(t, "v5-outdated", "2026-03-01", "trusted_root.pem", "v5-outdated.collateral.json")
		p := exact(r.quote)
		r.quote[48] = 9
		if got := r.check(p); !slices.Equal(codes(got.Reasons), []string{attest.CodeParseBody}) {
			t.Errorf("got %v", got.Reasons)
		}
	})
	t.Run("row 46 the PCK of another platform", func(t *testing.T) {
		r, other := phala(t), gcp(t)
		p := exact(r.quote)
		r.quote = withChain(r.quote, chain(other.quote))
		if got := r.check(p); !slices.Contains(codes(got.Reasons), attest.CodeQESignature) {
			t.Errorf("got %v", got.Reasons)
		}
	})
}

// chain is the PEM of a quote.
func chain(q []byte) []byte {
	from := strings.Index(string(q), "-----BEGIN")
	to := strings.LastIndex(string(q), "-----END CERTIFICATE-----\n") + len("-----END CERTIFICATE-----\n")
	return q[from:to]
}

// withChain puts another chain into a quote, and fits the sizes around it.
func withChain(q, pem []byte) []byte {
	from := strings.Index(string(q), "-----BEGIN")
	out := append(slices.Clone(q[:from]), pem...)
	at := len(q) - len(body(q)) + 584
	if q[0] == 5 {
		at += 64
	}
	binary.LittleEndian.PutUint32(out[at:], uint32(len(out)-at-4))
	binary.LittleEndian.PutUint32(out[at+4+130:], uint32(len(out)-at-4-134))
	binary.LittleEndian.PutUint32(out[from-4:], uint32(len(pem)))
	return out
}

// TestEveryBit flips each bit of what somebody signed: header and body, the signature and its key, the quoting
// enclave's report with its own, and the certificates. Against each something speaks besides the policy.
func TestEveryBit(t *testing.T) {
	for name, r := range map[string]file{"phala": phala(t), "gcp": gcp(t)} {
		p := exact(r.quote)
		end := strings.Index(string(r.quote), "-----BEGIN")
		forEachBit(8*end, func(bit int) {
			q := slices.Clone(r.quote)
			q[bit/8] ^= 1 << (bit % 8)
			r.refused(t, q, p, fmt.Sprintf("%s: bit %d of byte 0x%x", name, bit%8, bit/8), bit%211 == 0)
		})
		var blocks []*pem.Block
		for rest := chain(r.quote); len(rest) > 0; {
			var block *pem.Block
			block, rest = pem.Decode(rest)
			blocks = append(blocks, block)
		}
		for i := range blocks {
			forEachBit(8*len(blocks[i].Bytes), func(bit int) {
				var text []byte
				for j, b := range blocks {
					der := slices.Clone(b.Bytes)
					if i == j {
						der[bit/8] ^= 1 << (bit % 8)
					}
					text = append(text, pem.EncodeToMemory(&pem.Block{Type: b.Type, Bytes: der})...)
				}
				r.refused(t, withChain(r.quote, text), p, fmt.Sprintf("%s: bit %d of byte 0x%x of certificate %d", name, bit%8, bit/8, i), bit%211 == 0)
			})
		}
	}
}

// forEachBit calls f from two goroutines.
func forEachBit(n int, f func(bit int)) {
	step := 2
	if testing.Short() {
		step = 202
	}
	var wg sync.WaitGroup
	for part := range 2 {
		wg.Go(func() {
			for bit := part; bit < n; bit += step {
				f(bit)
			}
		})
	}
	wg.Wait()
}

// refused wants a reason of authenticity against a quote. With all of the snapshot that takes a while, so most are
// judged with the root alone.
func (r file) refused(t *testing.T, q []byte, p attest.Policy, what string, all bool) {
	r.quote = q
	if !all {
		r.in.Trust = rootAlone(t)
	}
	got := r.check(p)
	for _, c := range codes(got.Reasons) {
		if strings.HasPrefix(c, "sig.") || strings.HasPrefix(c, "parse.") || c == attest.CodeTEEType || c == attest.CodeChain || c == attest.CodeQESignature {
			return
		}
	}
	t.Errorf("%s: %s, %v", what, got.Status, got.Reasons)
}

var root struct {
	sync.Once
	trust *endorse.Snapshot
}

func rootAlone(t testing.TB) *endorse.Snapshot {
	root.Do(func() { root.trust = snapshot(t, evidence(t, "trusted_root.pem")) })
	return root.trust
}

// TestSameVerdict asks a hundred times at once.
func TestSameVerdict(t *testing.T) {
	for _, r := range []file{phala(t), gcp(t), theReal(t, "v5-outdated", "2026-03-01", "trusted_root.pem", "v5-outdated.collateral.json")} {
		p := exact(r.quote)
		want := r.check(p)
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if got := r.check(p); !reflect.DeepEqual(got, want) {
					t.Errorf("got %+v, want %+v", got, want)
				}
			})
		}
		wg.Wait()
	}
}
