package refresh

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse/roots"
)

var genoaTCB = attest.SNPTCB{Bootloader: 10, TEE: 0, SNP: 23, Ucode: 84}

func at(t time.Time) func() time.Time { return func() time.Time { return t } }

// shared reads a file of real evidence.
func shared(t testing.TB, name string) []byte {
	t.Helper()
	dir := os.Getenv("CONSILIUM_SHARED")
	if dir == "" {
		dir = "../../../../shared"
	}
	b, err := os.ReadFile(filepath.Join(dir, "evidence", name))
	if err != nil {
		t.Skipf("the evidence is absent, set CONSILIUM_SHARED: %v", err)
	}
	return b
}

func must(s Source, err error) Source {
	if err != nil {
		panic(err)
	}
	return s
}

// TestAddresses: what is asked for, where, and that the genuine answer is taken.
func TestAddresses(t *testing.T) {
	v := fake()
	s := serve(t, genuine(v, at(start)))
	later := start // so that no bucket is empty
	now := func() time.Time { later = later.Add(time.Minute); return later }
	kds, pcs, pccs := NewKDS(s.Transport, "", now), NewPCS(s.Transport, "", now), NewPCS(s.Transport, "https://pccs.hospital.example", now)
	id := strings.Repeat("07", 64)
	for _, c := range []struct {
		source        Source
		name, address string
		parts         int
	}{
		{must(kds.CRL("Genoa", "vcek")), "amd-crl-vcek-Genoa", "https://kdsintf.amd.com/vcek/v1/Genoa/crl", 1},
		{must(kds.Chain("Genoa", "vcek")), "amd-chain-vcek-Genoa", "https://kdsintf.amd.com/vcek/v1/Genoa/cert_chain", 1},
		{must(kds.VCEK("Genoa", chip(7), genoaTCB)), "amd-vcek-Genoa-", "https://kdsintf.amd.com/vcek/v1/Genoa/" + id + "?blSPL=10&teeSPL=00&snpSPL=23&ucodeSPL=84", 1},
		{must(pcs.TCBInfo("00906ED50000")), "intel-tcb-00906ed50000", "https://api.trustedservices.intel.com/tdx/certification/v4/tcb?fmspc=00906ed50000", 2},
		{pcs.QEIdentity(), "intel-qe", "https://api.trustedservices.intel.com/tdx/certification/v4/qe/identity", 2},
		{must(pcs.PCKCRL(CAPlatform)), "intel-crl-platform", "https://api.trustedservices.intel.com/sgx/certification/v4/pckcrl?ca=platform&encoding=der", 2},
		{pcs.RootCRL(), "intel-crl-root", "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der", 1},
		{must(pccs.TCBInfo(testFMSPC)), "intel-tcb-00906ed50000", "https://pccs.hospital.example/tdx/certification/v4/tcb?fmspc=00906ed50000", 2},
		{pccs.RootCRL(), "intel-crl-root", "https://pccs.hospital.example/sgx/certification/v4/rootcacrl", 1},
		{NewCRL(s.Transport, "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der", now), "crl-", "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der", 1},
	} {
		parts, err := c.source.Fetch(t.Context())
		if err != nil || len(parts) != c.parts {
			t.Errorf("%s: %d parts, %v", c.address, len(parts), err)
		}
		if got := s.Requests(); !slices.Equal(got, []string{c.address}) {
			t.Errorf("asked for %q, want %q", got, c.address)
		}
		if name := c.source.Name(); !strings.HasPrefix(name, c.name) || checkName(name) != nil {
			t.Errorf("name %q, want %q", name, c.name)
		}
		if err != nil {
			continue
		}
		if _, err := newAuthority(snapshotOf(t, v.installed()), start).admit("a", parts, "", start); err != nil {
			t.Errorf("%s: %v", c.address, err)
		}
	}
	// Turin: eight bytes of id, and a level more.
	turin := must(kds.VCEK("Turin", append(chip(9)[:8], make([]byte, 56)...), attest.SNPTCB{FMC: 1, Bootloader: 3, TEE: 2, SNP: 5, Ucode: 97}))
	if _, err := turin.Fetch(t.Context()); err == nil {
		t.Error("there is none")
	}
	if got, want := s.Requests(), "https://kdsintf.amd.com/vcek/v1/Turin/0909090909090909?fmcSPL=01&blSPL=03&teeSPL=02&snpSPL=05&ucodeSPL=97"; !slices.Equal(got, []string{want}) {
		t.Errorf("asked for %q, want %q", got, want)
	}
	// A level is part of what is asked for.
	if a, b := must(kds.VCEK("Genoa", chip(7), genoaTCB)), must(kds.VCEK("Genoa", chip(7), attest.SNPTCB{})); a.Name() == b.Name() {
		t.Error("two certificates of one name")
	}
}

func TestNothingToAskFor(t *testing.T) {
	kds, pcs := NewKDS(nil, "", at(start)), NewPCS(nil, "", at(start))
	for name, f := range map[string]func() (Source, error){
		"line":      func() (Source, error) { return kds.CRL("Siena", "vcek") },
		"signer":    func() (Source, error) { return kds.Chain("Genoa", "../x") },
		"chip":      func() (Source, error) { return kds.VCEK("Genoa", chip(7)[:63], genoaTCB) },
		"masked":    func() (Source, error) { return kds.VCEK("Genoa", chip(0), genoaTCB) },
		"vcek line": func() (Source, error) { return kds.VCEK("Rome", chip(7), genoaTCB) },
		"fmspc":     func() (Source, error) { return pcs.TCBInfo("00906ed5000") },
		"fmspc hex": func() (Source, error) { return pcs.TCBInfo("00906ed5000&") },
		"authority": func() (Source, error) { return pcs.PCKCRL("root") },
	} {
		if s, err := f(); err == nil {
			t.Errorf("%s: %s is to be asked for", name, s.Name())
		}
	}
}

// TestForEvidence: what real evidence asks for.
func TestForEvidence(t *testing.T) {
	names := func(ss []Source, err error) string {
		out := ""
		for _, s := range ss {
			out += s.Name() + " "
		}
		return fmt.Sprint(out, err)
	}
	kds, pcs := NewKDS(nil, "", at(start)), NewPCS(nil, "", at(start))
	for file, want := range map[string]string{
		"snp/genoa-v3.report.bin":          "amd-vcek-Genoa-",
		"snp/siena-v3.report.bin":          "amd-vcek-Genoa-", // which is certified as Genoa
		"snp/milan-v3-aws-vlek.report.bin": "amd-chain-vlek-Milan amd-crl-vlek-Milan <nil>",
		"snp/milan-v2-azure.report.bin":    "reading what a report needs: version 2",
	} {
		if got := names(kds.ForReport(shared(t, file))); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s", file, got)
		}
	}
	for file, want := range map[string]string{
		"tdx/v4-phala.quote.bin":       "intel-tcb-b0c06f000000 intel-qe intel-crl-platform intel-crl-root <nil>",
		"tdx/v4-gcp.quote.bin":         "intel-tcb-00806f050000 intel-qe intel-crl-platform intel-crl-root <nil>",
		"tdx/v5-outdated.quote.bin":    "intel-tcb-90c06f000000 intel-qe intel-crl-platform intel-crl-root <nil>",
		"tdx/v4-debug.quote.bin":       "intel-tcb-50806f000000 intel-qe intel-crl-platform intel-crl-root <nil>",
		"snp/genoa-v3.report.bin":      "reading what a quote needs: no certificate in it",
		"snp/genoa-v3.vcek.pem":        `reading what a quote needs: certificate "SEV-VCEK" names no FMSPC`,
		"tdx/not-tdx-sgx-v3.quote.bin": "intel-tcb-",
	} {
		if got := names(pcs.ForQuote(shared(t, file))); !strings.HasPrefix(strings.TrimSpace(got), want) {
			t.Errorf("%s: %s", file, got)
		}
	}
}

// TestRealAnswers: what the real services gave, served under their names, is taken under the vendors' roots.
func TestRealAnswers(t *testing.T) {
	var collateral map[string]string
	if err := json.Unmarshal(shared(t, "tdx/v4-phala.collateral.json"), &collateral); err != nil {
		t.Fatal(err)
	}
	vcek := shared(t, "snp/genoa-v3.vcek.pem")
	intel := func(w http.ResponseWriter, header, chain string, b []byte) {
		w.Header().Set(header, url.QueryEscape(collateral[chain]))
		put(w, b)
	}
	doc := func(name, key string) []byte {
		return fmt.Appendf(nil, `{"%s":%s,"signature":"%s"}`, name, collateral[key], collateral[key+"_signature"])
	}
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/tcb"):
			intel(w, "TCB-Info-Issuer-Chain", "tcb_info_issuer_chain", doc("tcbInfo", "tcb_info"))
		case strings.HasSuffix(r.URL.Path, "/qe/identity"):
			intel(w, "SGX-Enclave-Identity-Issuer-Chain", "qe_identity_issuer_chain", doc("enclaveIdentity", "qe_identity"))
		case strings.HasSuffix(r.URL.Path, "/pckcrl"):
			intel(w, "SGX-PCK-CRL-Issuer-Chain", "pck_crl_issuer_chain", []byte(collateral["pck_crl"])) // in hex
		case strings.HasSuffix(r.URL.Path, "/IntelSGXRootCA.der"):
			put(w, []byte(collateral["root_ca_crl"]))
		case strings.HasSuffix(r.URL.Path, "/cert_chain"):
			put(w, bytes.Join(bytes.SplitAfterN(roots.Files()["amd-genoa.pem"], []byte("-----END CERTIFICATE-----\n"), 3)[:2], nil)) // without the ASVK
		default:
			put(w, vcek)
		}
	})
	now := time.Date(2025, 6, 25, 12, 0, 0, 0, time.UTC)
	a := newAuthority(roots.Snapshot(), now)
	var later time.Duration
	clock := func() time.Time { later += time.Minute; return now.Add(later) }
	for _, f := range []func() ([]Source, error){
		func() ([]Source, error) {
			return NewPCS(s.Transport, "", clock).ForQuote(shared(t, "tdx/v4-phala.quote.bin"))
		},
		func() ([]Source, error) {
			return NewKDS(s.Transport, "", clock).ForReport(shared(t, "snp/genoa-v3.report.bin"))
		},
	} {
		sources, err := f()
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range sources {
			if strings.HasPrefix(x.Name(), "amd-crl") {
				continue // the evidence has none
			}
			parts, err := x.Fetch(t.Context())
			if err != nil {
				t.Errorf("%s: %v", x.Name(), err)
				continue
			}
			if _, err := a.admit(x.Name(), parts, "", now); err != nil {
				t.Errorf("%s: %v", x.Name(), err)
			}
			if _, err := newAuthority(snapshotOf(t, fake().installed()), now).admit(x.Name(), parts, "", now); err == nil {
				t.Errorf("%s: taken under other roots", x.Name())
			}
		}
	}
}

// TestAnswersOfOthers: an answer that is good, and of something else, is refused, however it is signed.
func TestAnswersOfOthers(t *testing.T) {
	v := fake()
	header := url.PathEscape(string(v.tcbSigning.pem()))
	other := func(b []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for _, h := range []string{"TCB-Info-Issuer-Chain", "SGX-Enclave-Identity-Issuer-Chain", "SGX-PCK-CRL-Issuer-Chain"} {
				w.Header().Set(h, header)
			}
			put(w, b)
		}
	}
	ark := v.ark.crl(start, start.AddDate(1, 0, 0))
	s := serve(t, nil)
	later := start
	now := func() time.Time { later = later.Add(time.Minute); return later }
	kds, pcs := NewKDS(s.Transport, "", now), NewPCS(s.Transport, "", now)
	foreign := v.tcbSigning.signedBody("tcbInfo", body("TDX", "50806f000000", 18, start, start.AddDate(0, 1, 0)))
	sgx := v.tcbSigning.signedBody("tcbInfo", body("SGX", testFMSPC, 18, start, start.AddDate(0, 1, 0)))
	qe := v.tcbSigning.signedBody("enclaveIdentity", body("QE", "", 18, start, start.AddDate(0, 1, 0)))
	for name, c := range map[string]struct {
		source Source
		answer []byte
		want   string
	}{
		"another FMSPC":        {must(pcs.TCBInfo(testFMSPC)), foreign, `of "TDX 50806f000000", want "TDX 00906ed50000"`},
		"SGX's":                {must(pcs.TCBInfo(testFMSPC)), sgx, `of "SGX 00906ed50000"`},
		"an identity":          {must(pcs.TCBInfo(testFMSPC)), v.identity(18, start), "0 of what was asked for"},
		"another enclave":      {pcs.QEIdentity(), qe, `of "QE"`},
		"another authority":    {must(pcs.PCKCRL(CAProcessor)), v.platformCA.crl(start, start.AddDate(0, 1, 0)), "PCK Platform CA"},
		"another root":         {pcs.RootCRL(), ark, `of "ARK-Genoa"`},
		"another line":         {must(kds.CRL("Milan", "vcek")), ark, `of "ARK-Genoa", want "ARK-Milan"`},
		"another line's chain": {must(kds.Chain("Milan", "vcek")), slices.Concat(v.ask.pem(), v.ark.pem()), `"ARK-Genoa"`},
		"half a chain":         {must(kds.Chain("Genoa", "vcek")), v.ask.pem(), "0 of what was asked for"},
		"another chip":         {must(kds.VCEK("Genoa", chip(8), genoaTCB)), v.vcek(7, genoaTCB), "another chip"},
		"another level":        {must(kds.VCEK("Genoa", chip(7), genoaTCB)), v.vcek(7, attest.SNPTCB{Bootloader: 10, SNP: 23, Ucode: 83}), "level 3.8 = 83, want 84"},
		"no chip":              {must(kds.VCEK("Genoa", chip(7), genoaTCB)), v.ask.Raw, "0 of 5 extensions"},
		"two chips":            {must(kds.VCEK("Genoa", chip(7), genoaTCB)), slices.Concat(v.vcek(7, genoaTCB), v.vcek(7, genoaTCB)), "2 certificates"},
		"a page":               {must(kds.CRL("Genoa", "vcek")), []byte("<html>"), "nothing that is known"},
		"nothing":              {must(kds.CRL("Genoa", "vcek")), nil, "nothing that is known"},
		"half a document":      {must(pcs.TCBInfo(testFMSPC)), v.info(18, start)[:200], "nothing that is known"},
		"keys":                 {must(pcs.TCBInfo(testFMSPC)), []byte(`{"keys":[{"kty":"RSA"}]}`), "0 of what"},
	} {
		s.Set(other(c.answer))
		if _, err := c.source.Fetch(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestMisbehaviour: whatever a service does, it is an error within the bounds, and no further request.
func TestMisbehaviour(t *testing.T) {
	v := fake()
	good := genuine(v, at(start))
	status := func(code int, retry string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if retry != "" {
				w.Header().Set("Retry-After", retry)
			}
			w.WriteHeader(code)
		}
	}
	redirect := func(to string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }
	}
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   string
		later  time.Duration
	}{
		"500":                        {status(500, ""), "answers 500", 0},
		"404":                        {status(404, ""), "answers 404", 0},
		"204":                        {status(204, ""), "answers 204", 0},
		"429":                        {status(429, ""), "answers 429", 0},
		"429, seconds":               {status(429, "17"), "answers 429", 17 * time.Second},
		"429, a date":                {status(429, start.Add(time.Minute).Format(http.TimeFormat)), "answers 429", time.Minute},
		"429, a date gone by":        {status(429, start.Add(-time.Minute).Format(http.TimeFormat)), "answers 429", 0},
		"429, nonsense":              {status(429, "-1"), "answers 429", 0},
		"429, for ever":              {status(429, "4294967295"), "answers 429", longestLater},
		"503, seconds":               {status(503, "120"), "answers 503", 2 * time.Minute},
		"a redirect":                 {redirect("https://api.trustedservices.intel.com/tdx/certification/v4/tcb?fmspc=" + testFMSPC), "answers 302", 0},
		"a redirect to another host": {redirect("https://elsewhere.example/"), "answers 302", 0},
		"a redirect to no TLS":       {redirect("http://169.254.169.254/"), "answers 302", 0},
		"a body too large":           {func(w http.ResponseWriter, _ *http.Request) { put(w, make([]byte, maxBody+1)) }, "more than", 0},
		"a body without an end": {func(w http.ResponseWriter, _ *http.Request) {
			for b := make([]byte, 1<<16); ; {
				if _, err := w.Write(b); err != nil {
					return
				}
			}
		}, "more than", 0},
		"a body cut short": {func(w http.ResponseWriter, _ *http.Request) {
			b := v.info(18, start)
			w.Header().Set("Content-Length", fmt.Sprint(len(b)))
			put(w, b[:len(b)-1])
		}, "unexpected EOF", 0},
		"a connection cut": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF", 0},
		"no chain":         {func(w http.ResponseWriter, _ *http.Request) { put(w, v.info(18, start)) }, "TCB-Info-Issuer-Chain of 0 bytes", 0},
		"a chain too large": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("TCB-Info-Issuer-Chain", strings.Repeat("a", maxHeader+1))
			put(w, v.info(18, start))
		}, "bytes, want", 0},
		"a chain that is none": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("TCB-Info-Issuer-Chain", "-----BEGIN%20CERTIFICATE-----%zz")
			put(w, v.info(18, start))
		}, "nothing that is known", 0},
		"a slow body": {func(w http.ResponseWriter, r *http.Request) {
			put(w, []byte("{"))
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		}, "Client.Timeout", 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, c.answer)
			pcs := NewPCS(s.Transport, "", at(start))
			pcs.client.http.Timeout = 10 * time.Second
			if name == "a slow body" {
				pcs.client.http.Timeout = 200 * time.Millisecond
			}
			x := must(pcs.TCBInfo(testFMSPC))
			_, err := x.Fetch(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, want %q", err, c.want)
			}
			var later *Later
			if errors.As(err, &later); c.later > 0 && (later == nil || later.Own || later.Wait != c.later) {
				t.Errorf("%v, want to wait for %s", err, c.later)
			}
			if n := len(s.Requests()); n != 1 {
				t.Errorf("%d requests", n)
			}
			// What the service said holds for all that ask it; nothing else does.
			s.Set(good)
			if _, err := pcs.QEIdentity().Fetch(t.Context()); (err != nil) != (c.later > 0) {
				t.Errorf("the next request: %v", err)
			}
			if n := len(s.Requests()); (n == 0) != (c.later > 0) {
				t.Errorf("%d requests", n)
			}
		})
	}
}

// TestTLSOnly: without TLS one address is asked, and only with a certificate for its name another.
func TestTLSOnly(t *testing.T) {
	s := serve(t, genuine(fake(), at(start)))
	for _, base := range []string{"http://api.trustedservices.intel.com", "http://127.0.0.1", "ftp://a", "://", "http://169.254.169.254.example", "http://169.254.169.254:81"} {
		if _, err := NewPCS(s.Transport, base, at(start)).QEIdentity().Fetch(t.Context()); err == nil || !strings.Contains(err.Error(), "https") && !strings.Contains(err.Error(), "scheme") {
			t.Errorf("%s: %v", base, err)
		}
	}
	if n := s.Requests(); len(n) != 0 {
		t.Errorf("asked for %q", n)
	}
	strict := s.Transport.Clone()
	strict.TLSClientConfig.RootCAs = x509.NewCertPool()
	if _, _, err := NewKDS(strict, "", at(start)).client.get(t.Context(), AMDKDS); err == nil {
		t.Error("another's certificate was taken")
	}
}

// TestOwnLimit: AMD's service is asked once in ten seconds, whoever asks.
func TestOwnLimit(t *testing.T) {
	v := fake()
	now := start
	s := serve(t, genuine(v, at(start)))
	kds := NewKDS(s.Transport, "", func() time.Time { return now })
	for i := range 100 { // of seconds
		_, err := must(kds.CRL("Genoa", "vcek")).Fetch(t.Context())
		var later *Later
		switch {
		case i%10 == 0 && err != nil, i%10 != 0 && !errors.As(err, &later):
			t.Fatalf("after %d s: %v", i, err)
		case later != nil && (!later.Own || later.Wait != time.Duration(10-i%10)*time.Second):
			t.Fatalf("after %d s: %v", i, err)
		}
		now = now.Add(time.Second)
	}
	if n := len(s.Requests()); n != 10 {
		t.Errorf("%d requests in 100 s", n)
	}
}

func TestTHIM(t *testing.T) {
	v := fake()
	certificate := v.vcek(7, genoaTCB)
	vcek := string(authorityKey{Certificate: &x509.Certificate{Raw: certificate}}.pem())
	answer := map[string]string{"vcekCert": vcek, "certificateChain": string(slices.Concat(v.ask.pem(), v.ark.pem())), "tcbm": "DB18000000000004", "cacheControl": "86400"}
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Metadata") != "true" {
			http.Error(w, "want the header", http.StatusBadRequest)
			return
		}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	})
	now := start
	x := NewTHIM(s.Transport, func() time.Time { now = now.Add(time.Minute); return now })
	parts, err := x.Fetch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Requests(); !slices.Equal(got, []string{"http://169.254.169.254/metadata/THIM/amd/certification"}) {
		t.Errorf("asked for %q", got)
	}
	item, err := newAuthority(snapshotOf(t, v.installed()), start).admit("a", parts, "", start)
	if err != nil || len(item.chips) != 1 || !bytes.Equal(item.chips[0].Raw, certificate) {
		t.Errorf("%+v, %v", item, err)
	}
	for _, change := range []map[string]string{{"vcekCert": ""}, {"certificateChain": ""}, {"vcekCert": string(v.ask.pem())}, {"certificateChain": vcek}} {
		for k, w := range change {
			old := answer[k]
			answer[k] = w
			if _, err := x.Fetch(t.Context()); err == nil {
				t.Errorf("%s is %.40q: taken", k, w)
			}
			answer[k] = old
		}
	}
	s.Set(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { put(w, []byte("[]")) }))
	if _, err := x.Fetch(t.Context()); err == nil {
		t.Error("a list was taken")
	}
}

func TestConfidentialSpaceRoot(t *testing.T) {
	root := shared(t, "confidential-space/root.crt")
	const place = confidentialSpace + "confidential_space_root.crt"
	at1, served := place, root
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".crt") {
			put(w, served)
			return
		}
		fmt.Fprintf(w, `{"root_ca_uri":%q}`, at1)
	})
	now := start
	x := NewConfidentialSpaceRoot(s.Transport, func() time.Time { now = now.Add(time.Hour); return now })
	parts, err := x.Fetch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Requests(); len(got) != 2 || got[1] != place {
		t.Errorf("asked for %q", got)
	}
	a := newAuthority(snapshotOf(t, fake().installed()), start)
	if item, err := a.admit("a", parts, anchorOf(x), start); err != nil || len(item.anchors) != 1 {
		t.Errorf("%+v, %v", item, err)
	}
	if _, err := a.admit("a", parts, "", start); err == nil {
		t.Error("a root was taken from a source that may bring none")
	}
	served = fake().ark.pem()
	if _, err := x.Fetch(t.Context()); err == nil || !strings.Contains(err.Error(), "pinned") {
		t.Errorf("another root: %v", err)
	}
	at1 = "https://pki.goog/root.crt"
	s.Requests()
	if _, err := x.Fetch(t.Context()); err == nil || len(s.Requests()) != 1 {
		t.Errorf("another place: %v", err)
	}
}

func TestCancelled(t *testing.T) {
	s := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := NewPCS(s.Transport, "", at(start)).QEIdentity().Fetch(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
