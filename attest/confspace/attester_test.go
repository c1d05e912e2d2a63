package confspace

import (
	"context"
	"encoding/hex"
	"fmt"
	"go/parser"
	gotoken "go/token"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/testtee/google"
)

// serve opens a launcher's socket in a folder of its own, for a path of a socket has about a hundred bytes.
func serve(t testing.TB, h http.Handler) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "cs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket = filepath.Join(dir, "tee.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() { _ = s.Serve(l); close(done) }()
	t.Cleanup(func() { _ = s.Close(); <-done })
	return socket
}

func answer(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// TestAttest: what the attester gets through the launcher's socket, the verifier takes for that binding alone.
func TestAttest(t *testing.T) {
	for format, attester := range map[attest.Format]func(socket, audience string) attest.Attester{attest.FormatCSPKI: NewAttester, attest.FormatCSOIDC: NewOIDCAttester} {
		l := newLab(t)
		socket := serve(t, &google.Launcher{PKI: l.pki})
		e, err := attester(socket, audience).Attest(t.Context(), l.binding)
		if err != nil {
			t.Fatal(err)
		}
		if e.Format != format || len(e.Endorsements) != 0 || len(e.Path) != 0 {
			t.Errorf("evidence of %s with %d endorsements, want %s", e.Format, len(e.Endorsements), format)
		}
		if r := l.check(e.Format, e.Statement); r.Status != attest.Affirming {
			t.Errorf("%s: %s for %v", format, r.Status, r.Reasons)
		}
		l.binding.Nonce[1] ^= 1
		l.in.ReportData = reportDataOf(t, l.binding)
		want(t, l.check(e.Format, e.Statement), attest.CodeBindingMismatch)
	}
}

func TestAttestErrors(t *testing.T) {
	l := newLab(t)
	good := serve(t, &google.Launcher{PKI: l.pki})
	old := hex.EncodeToString(make([]byte, 32))
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for name, tc := range map[string]struct {
		ctx              context.Context
		socket, audience string
		want             string
	}{
		"no audience":         {t.Context(), good, "", "audience of 0 bytes"},
		"a long audience":     {t.Context(), good, strings.Repeat("a", maxAudience+1), "audience of 513 bytes"},
		"no socket":           {t.Context(), good + "x", audience, "no such file"},
		"a caller that left":  {gone, good, audience, "context canceled"},
		"a complaint":         {t.Context(), serve(t, answer(http.StatusInternalServerError, "no GCA verifier client present")), audience, `status 500: "no GCA verifier client present"`},
		"a long complaint":    {t.Context(), serve(t, answer(http.StatusBadRequest, strings.Repeat("a", 1<<20))), audience, `aaa"`},
		"no token":            {t.Context(), serve(t, answer(http.StatusOK, "<html>")), audience, "3"},
		"an endless answer":   {t.Context(), serve(t, answer(http.StatusOK, strings.Repeat("a", 1<<22))), audience, attest.CodeCSSize},
		"an old token":        {t.Context(), serve(t, answer(http.StatusOK, string(l.pki.Token(google.Claims(audience, old))))), audience, "want ours among them"},
		"a default token":     {t.Context(), serve(t, answer(http.StatusOK, string(l.pki.OIDC(google.Claims(audience))))), audience, "0 nonces"},
		"a redirect":          {t.Context(), serve(t, http.RedirectHandler("http://launcher/elsewhere", http.StatusFound)), audience, "status 302"},
		"an answer cut short": {t.Context(), serve(t, http.HandlerFunc(cutShort)), audience, "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := NewAttester(tc.socket, tc.audience).Attest(tc.ctx, l.binding)
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.HasPrefix(err.Error(), "attesting") || len(err.Error()) > 1024 {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
	l.binding.Study = [32]byte{}
	if _, err := NewAttester(good, audience).Attest(t.Context(), l.binding); err == nil {
		t.Error("attested a binding with a zero field")
	}
}

func cutShort(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "1000")
	_, _ = io.WriteString(w, "abc")
}

// TestLauncher holds the fake against what the real launcher refuses: the attester's tests are worth no more than that.
func TestLauncher(t *testing.T) {
	socket := serve(t, &google.Launcher{PKI: google.New(nil)})
	client := newLauncher(attest.FormatCSPKI, socket, audience).client
	for name, tc := range map[string]struct {
		method, body string
		status       int
		want         string
	}{
		"a default token":    {http.MethodGet, "", http.StatusOK, "."},
		"a PKI token":        {http.MethodPost, `{"audience":"a","nonces":["12345678"],"token_type":"PKI"}`, http.StatusOK, "."},
		"no nonce":           {http.MethodPost, `{"audience":"a","token_type":"OIDC"}`, http.StatusOK, "."},
		"an unknown field":   {http.MethodPost, `{"audience":"a","nonce":"12345678","token_type":"PKI"}`, http.StatusBadRequest, `unknown field "nonce"`},
		"no audience":        {http.MethodPost, `{"nonces":["12345678"],"token_type":"PKI"}`, http.StatusBadRequest, "use GET request"},
		"no type":            {http.MethodPost, `{"audience":"a","nonces":["12345678"]}`, http.StatusBadRequest, "token_type is a required parameter"},
		"another type":       {http.MethodPost, `{"audience":"a","token_type":"SAML"}`, http.StatusBadRequest, "InvalidArgument"},
		"a short nonce":      {http.MethodPost, `{"audience":"a","nonces":["1234567"],"token_type":"PKI"}`, http.StatusBadRequest, "nonce"},
		"a long nonce":       {http.MethodPost, `{"audience":"a","nonces":["` + strings.Repeat("a", 89) + `"],"token_type":"PKI"}`, http.StatusBadRequest, "nonce"},
		"seven nonces":       {http.MethodPost, `{"audience":"a","nonces":["11111111","11111111","11111111","11111111","11111111","11111111","11111111"],"token_type":"PKI"}`, http.StatusBadRequest, "nonces"},
		"a long audience":    {http.MethodPost, `{"audience":"` + strings.Repeat("a", 513) + `","token_type":"PKI"}`, http.StatusBadRequest, "audience"},
		"another method":     {http.MethodPut, `{}`, http.StatusBadRequest, "invalid HTTP method: PUT"},
		"what is no request": {http.MethodPost, `[`, http.StatusBadRequest, "failed to parse POST body"},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), tc.method, "http://launcher/v1/token", strings.NewReader(tc.body))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != tc.status || !strings.Contains(string(b), tc.want) {
				t.Errorf("%d %q, %v; want %d %q", resp.StatusCode, b, err, tc.status, tc.want)
			}
		})
	}
}

func TestProbe(t *testing.T) {
	l := newLab(t)
	launcher := func(set google.Object) string {
		return serve(t, &google.Launcher{PKI: l.pki, Change: func(c google.Object) google.Object { return google.Merge(c, set) }})
	}
	file := filepath.Join(t.TempDir(), "tee.sock")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		socket string
		ok     []bool
		says   string
	}{
		"a TDX machine":   {launcher(nil), []bool{true, true, true, true, true}, "of Google's LATEST, STABLE, USABLE."},
		"an AMD machine":  {launcher(google.Object{"hwmodel": "GCP_AMD_SEV"}), []bool{true, true, false, true, true}, "no quote of the chip"},
		"a debug image":   {launcher(google.Object{"dbgstat": "enabled"}), []bool{true, true, true, false, true}, "every policy refuses it"},
		"a withdrawn one": {launcher(google.Object{"submods.confidential_space.support_attributes": nil}), []bool{true, true, true, false, true}, "no longer supports"},
		"an override":     {launcher(google.Object{"submods.container.cmd_override": []string{"sh"}}), []bool{true, true, true, true, false}, "the operator chose 1"},
		"a strange token": {launcher(google.Object{"hwmodel": nil}), []bool{true, true, false, false, true, true}, "cs.claims"},
		"no launcher":     {file + "x", []bool{false}, "no container of Confidential Space"},
		"no socket":       {file, []bool{false}, "would have a socket"},
		"a sick launcher": {serve(t, answer(http.StatusInternalServerError, "please try rebooting")), []bool{true, false}, "please try rebooting"},
	} {
		t.Run(name, func(t *testing.T) {
			var ok []bool
			var text strings.Builder
			for _, f := range Probe(t.Context(), tc.socket, audience) {
				ok = append(ok, f.OK)
				fmt.Fprintln(&text, f.Text)
				if f.Name == "" || !strings.HasSuffix(f.Text, ".") {
					t.Errorf("%q: %q is no sentence", f.Name, f.Text)
				}
			}
			if !slices.Equal(ok, tc.ok) || !strings.Contains(text.String(), tc.says) {
				t.Errorf("%v %s, want %v %q", ok, text.String(), tc.ok, tc.says)
			}
		})
	}
}

// TestVerifierHasNoWorld: the files that verify import no network and no system.
func TestVerifierHasNoWorld(t *testing.T) {
	for _, name := range []string{"verify.go", "chain.go", "keyset.go", "token.go", "json.go"} {
		f, err := parser.ParseFile(gotoken.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range f.Imports {
			if path := strings.Trim(i.Path.Value, `"`); path == "os" || path == "net" || strings.HasPrefix(path, "net/") {
				t.Errorf("%s imports %s", name, path)
			}
		}
	}
}

func FuzzAnswer(f *testing.F) {
	l := newLab(f)
	f.Add(200, l.pki.Token(l.claims(nil)))
	f.Add(400, []byte("token_type is a required parameter"))
	f.Add(200, []byte{})
	var status int
	var body []byte
	socket := serve(f, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write(body)
	}))
	f.Fuzz(func(t *testing.T, s int, b []byte) {
		if s < 200 || s > 599 {
			return
		}
		status, body = s, b
		e, err := NewAttester(socket, audience).Attest(t.Context(), l.binding)
		if err != nil {
			return
		}
		tok, err := parse(e.Statement)
		if err != nil || s != http.StatusOK || !slices.Contains(tok.workload().Nonces, l.nonce()) {
			t.Fatalf("%d %q was taken: %v", s, b, err)
		}
	})
}
