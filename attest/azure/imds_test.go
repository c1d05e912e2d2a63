package azure

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest/testtee/amd"
	"github.com/consilium-fl/consilium/attest/testtee/intel"
)

// service is the metadata service of one machine. It refuses what the real one refuses: requests without the header
// or through a proxy, and more than it can bear.
type service struct {
	mu    sync.Mutex
	busy  int // how many requests it turns away first
	calls []string
	vcek  []byte // of the report that the machine makes, in DER
	ask   []byte
	odd   http.HandlerFunc // answers in its place
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, r.URL.Path)
	switch {
	case r.Header.Get("Metadata") != "true" || r.Header.Get("X-Forwarded-For") != "":
		http.Error(w, "no header", http.StatusBadRequest)
	case s.busy > 0:
		s.busy--
		http.Error(w, "later", http.StatusTooManyRequests)
	case s.odd != nil:
		s.odd(w, r)
	case r.Method == http.MethodGet && r.URL.Path == "/metadata/THIM/amd/certification":
		answer(w, map[string]string{"vcekCert": asPEM(s.vcek), "tcbm": "DB18000000000004", "certificateChain": asPEM(s.ask) + asPEM(amd.Shared().ARK(amd.Milan)), "cacheControl": "86400"})
	case r.Method == http.MethodPost && r.URL.Path == "/acc/tdquote":
		s.quote(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (s *service) quote(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var ask struct{ Report string }
	if err != nil || r.Header.Get("Content-Type") != "application/json" || json.Unmarshal(body, &ask) != nil {
		http.Error(w, "no report", http.StatusBadRequest)
		return
	}
	report, err := base64.RawURLEncoding.DecodeString(ask.Report)
	if err != nil || len(report) != tdReport || report[0] != tdxReportType {
		http.Error(w, "no TDREPORT", http.StatusBadRequest)
		return
	}
	quote := theIntel().Quote(theIntel().PCK(theMachine()), intel.NewTD([64]byte(report[128:])))
	answer(w, map[string]string{"quote": base64.RawURLEncoding.EncodeToString(quote)})
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func asPEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func serve(t *testing.T, s *service) imds {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	c := newIMDS(server.URL)
	c.wait = time.Millisecond
	return c
}

func TestIMDS(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1") // which would fail
	s := &service{vcek: amd.Shared().ARK(amd.Genoa), ask: amd.Shared().ASK(amd.Milan), busy: imdsTries - 1}
	c := serve(t, s)
	vcek, chain, err := c.certificates(context.Background())
	if err != nil || string(vcek) != asPEM(s.vcek) || !strings.HasPrefix(string(chain), asPEM(s.ask)) || len(s.calls) != imdsTries {
		t.Errorf("%q, %q, %v after %q", vcek, chain, err, s.calls)
	}
	report := append([]byte{tdxReportType}, make([]byte, tdReport-1)...)
	if quote, err := c.quote(context.Background(), report); err != nil || len(quote) < 1000 {
		t.Errorf("%d bytes, %v", len(quote), err)
	}
	if _, err := c.quote(context.Background(), report[1:]); err == nil {
		t.Error("a quote of no TDREPORT")
	}
	for name, odd := range map[string]http.HandlerFunc{
		"not JSON": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
		"nothing":  func(w http.ResponseWriter, _ *http.Request) { answer(w, map[string]string{}) },
		"large":    func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat(" ", maxAnswer+1)) },
		"not base64": func(w http.ResponseWriter, _ *http.Request) {
			answer(w, map[string]string{"quote": "=", "vcekCert": ""})
		},
		"moved": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://example.com/", http.StatusFound)
		},
		"not allowed": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) },
		"broken":      func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) },
	} {
		s.odd = odd
		if vcek, _, err := c.certificates(context.Background()); err == nil {
			t.Errorf("%s: %q", name, vcek)
		}
		if quote, err := c.quote(context.Background(), report); err == nil {
			t.Errorf("%s: %x", name, quote)
		}
	}
	s.odd, s.busy, s.calls, c.wait = nil, 100, nil, time.Hour
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := c.certificates(ctx); err == nil || len(s.calls) != 1 {
		t.Errorf("waited beyond the caller: %v after %q", err, s.calls)
	}
	if !slices.Contains(s.calls, "/metadata/THIM/amd/certification") {
		t.Errorf("%q", s.calls)
	}
}
