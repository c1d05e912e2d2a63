package refresh

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// services is a server on this machine that stands in for all of the vendors': it has a certificate for any of their
// names, and a transport that finds it there.
type services struct {
	t         *testing.T
	transport *http.Transport

	mu     sync.Mutex
	asked  []string // host and request, in order
	answer func(w http.ResponseWriter, r *http.Request)
}

// put writes what the other end may have stopped reading.
func put(w io.Writer, b []byte) { _, _ = w.Write(b) }

// serve starts one; answer may be replaced by set.
func serve(t *testing.T, answer http.HandlerFunc) *services {
	t.Helper()
	s := &services{t: t, answer: answer}
	names := []string{"kdsintf.amd.com", "api.trustedservices.intel.com", "certificates.trustedservices.intel.com", "confidentialcomputing.googleapis.com", "pccs.hospital.example", "pki.goog"}
	ca := issue("The test's own CA", nil, true)
	own := issue("localhost", &ca, false, func(c *x509.Certificate) { c.DNSNames, c.NotAfter = names, start.AddDate(50, 0, 0) })
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		scheme := "http://"
		if r.TLS != nil {
			scheme = "https://"
		}
		s.asked = append(s.asked, scheme+r.Host+r.RequestURI)
		answer := s.answer
		s.mu.Unlock()
		answer(w, r)
	})
	secure := httptest.NewUnstartedServer(h)
	secure.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{own.Raw}, PrivateKey: own.key}}}
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	plain := httptest.NewUnstartedServer(h)
	plain.Config.ErrorLog = log.New(io.Discard, "", 0)
	plain.Start()
	pool := x509.NewCertPool()
	pool.AddCert(ca.Certificate)
	var d net.Dialer
	s.transport = &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool},
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			host, port, err := net.SplitHostPort(addr)
			switch {
			case err != nil:
				return nil, err
			case port == "443" && slices.Contains(names, host):
				return d.DialContext(ctx, network, secure.Listener.Addr().String())
			case addr == metadata+":80":
				return d.DialContext(ctx, network, plain.Listener.Addr().String())
			}
			t.Errorf("somebody dialled %s", addr)
			return nil, errors.New("nobody is to dial there")
		},
	}
	t.Cleanup(func() {
		s.transport.CloseIdleConnections()
		secure.CloseClientConnections()
		secure.Close()
		plain.Close()
	})
	return s
}

func (s *services) set(answer http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

// requests are those since the last call.
func (s *services) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.asked
	s.asked = nil
	return out
}

// genuine answers as the services do, with what the fake vendors sign. Its clock is the test's.
func genuine(v *vendors, now func() time.Time) http.HandlerFunc {
	chainHeader := func(w http.ResponseWriter, name string, cs ...authorityKey) {
		var all []byte
		for _, c := range cs {
			all = append(all, c.pem()...)
		}
		w.Header().Set(name, url.PathEscape(string(all)))
	}
	return func(w http.ResponseWriter, r *http.Request) {
		issued := now().Truncate(time.Hour)
		switch r.Host + r.URL.Path {
		case "api.trustedservices.intel.com/tdx/certification/v4/tcb", "pccs.hospital.example/tdx/certification/v4/tcb":
			chainHeader(w, "TCB-Info-Issuer-Chain", v.tcbSigning, v.intelRoot)
			put(w, v.info(18, issued))
		case "api.trustedservices.intel.com/tdx/certification/v4/qe/identity":
			chainHeader(w, "SGX-Enclave-Identity-Issuer-Chain", v.tcbSigning, v.intelRoot)
			put(w, v.identity(18, issued))
		case "api.trustedservices.intel.com/sgx/certification/v4/pckcrl":
			chainHeader(w, "SGX-PCK-CRL-Issuer-Chain", v.platformCA, v.intelRoot)
			put(w, v.platformCA.crl(issued, issued.AddDate(0, 1, 0)))
		case "certificates.trustedservices.intel.com/IntelSGXRootCA.der":
			put(w, v.intelRoot.crl(issued, issued.AddDate(1, 0, 0)))
		case "pccs.hospital.example/sgx/certification/v4/rootcacrl":
			put(w, []byte(hex.EncodeToString(v.intelRoot.crl(issued, issued.AddDate(1, 0, 0)))))
		case "kdsintf.amd.com/vcek/v1/Genoa/cert_chain":
			put(w, slices.Concat(v.ask.pem(), v.ark.pem()))
		case "kdsintf.amd.com/vcek/v1/Genoa/crl":
			put(w, v.ark.crl(issued, issued.AddDate(1, 0, 0)))
		default:
			if strings.HasPrefix(r.URL.Path, "/vcek/v1/Genoa/") {
				put(w, v.vcek(7, genoaTCB))
				return
			}
			http.Error(w, "no such thing", http.StatusNotFound)
		}
	}
}
