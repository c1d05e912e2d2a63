// Package services is a server on this machine that stands in for the vendors' services: it has a certificate for each of
// their names, and a transport that finds it there. What it answers, a test says; [AMD] answers as AMD's does. No product
// code imports it.
//
//	kds := services.NewAMD(amd.Shared())
//	s := services.Serve(t, kds)
//	source, err := refresh.NewKDS(s.Transport, "", time.Now).CRL("Genoa", "vcek")
package services

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"
)

// names are the services', and those of mirrors in tests.
var names = []string{
	"kdsintf.amd.com", "api.trustedservices.intel.com", "certificates.trustedservices.intel.com", "confidentialcomputing.googleapis.com",
	"pccs.hospital.example", "pki.goog",
}

// metadata is where a cloud's host answers its guests, without TLS.
const metadata = "169.254.169.254:80"

// Server answers under all the names.
type Server struct {
	Transport *http.Transport // dials nobody else: that fails the test
	URL       string          // with TLS, at an address of this machine
	CA        []byte          // PEM of who issued its certificate

	mu     sync.Mutex
	asked  []string
	answer http.Handler
}

// Serve starts one; Set replaces what it answers.
func Serve(t testing.TB, answer http.Handler) *Server {
	t.Helper()
	s := &Server{answer: answer}
	own, ca := certificate()
	s.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})
	secure, plain := httptest.NewUnstartedServer(http.HandlerFunc(s.serve)), httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	secure.TLS = &tls.Config{Certificates: []tls.Certificate{own}}
	for _, x := range []*httptest.Server{secure, plain} {
		x.Config.ErrorLog = log.New(io.Discard, "", 0)
	}
	secure.StartTLS()
	plain.Start()
	s.URL = secure.URL
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	s.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DialContext: dialer(t, secure.Listener.Addr(), plain.Listener.Addr())}
	t.Cleanup(func() {
		s.Transport.CloseIdleConnections()
		secure.CloseClientConnections()
		secure.Close()
		plain.Close()
	})
	return s
}

func dialer(t testing.TB, secure, plain net.Addr) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		var d net.Dialer
		host, port, err := net.SplitHostPort(addr)
		switch {
		case err != nil:
			return nil, err
		case port == "443" && slices.Contains(names, host):
			return d.DialContext(ctx, network, secure.String())
		case addr == metadata:
			return d.DialContext(ctx, network, plain.String())
		}
		t.Errorf("somebody dialled %s", addr)
		return nil, errors.New("nobody is to dial there")
	}
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	scheme := "http://"
	if r.TLS != nil {
		scheme = "https://"
	}
	s.mu.Lock()
	s.asked = append(s.asked, scheme+r.Host+r.RequestURI)
	answer := s.answer
	s.mu.Unlock()
	answer.ServeHTTP(w, r)
}

// Set replaces what is answered.
func (s *Server) Set(answer http.Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

// Requests are those since the last call: scheme, host and request, in order.
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.asked
	s.asked = nil
	return out
}

// Put writes what the other end may have stopped reading.
func Put(w io.Writer, b []byte) { _, _ = w.Write(b) }

// Down answers that the service is not there.
var Down = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "down", http.StatusServiceUnavailable)
})

// certificate is the server's, and the authority's that issued it.
func certificate() (tls.Certificate, *x509.Certificate) {
	issue := func(common string, parent *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
		c := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: common}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0), BasicConstraintsValid: true,
			DNSNames: names, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		}
		if parent == nil {
			parent, by = c, key
			c.IsCA, c.KeyUsage, c.DNSNames, c.IPAddresses = true, x509.KeyUsageCertSign, nil, nil
		}
		return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, c, parent, key.Public(), by)))), key
	}
	ca, key := issue("The test's own CA", nil, nil)
	own, ownKey := issue("localhost", ca, key)
	return tls.Certificate{Certificate: [][]byte{own.Raw}, PrivateKey: ownKey}, ca
}

func must[T any](v T, err error) T {
	if err != nil {
		panic("standing in for the vendors' services: " + err.Error())
	}
	return v
}
