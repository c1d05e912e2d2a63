package services

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"net/http"
	"net/url"

	"github.com/consilium-fl/consilium/attest/testtee/intel"
)

// NewIntel answers as Intel's Provisioning Certification Service does (API v4), or a PCCS in its place, with the
// collateral of one machine's kind at the moment of [intel.Now].
func NewIntel(x *intel.Intel, m intel.Machine) http.Handler {
	from, until := intel.Now().AddDate(0, 0, -7), intel.Now().AddDate(0, 0, 23)
	root := x.CRL(x.Root, from, until)
	mux := http.NewServeMux()
	answer := func(path, header string, by intel.Holder, body []byte) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			if header != "" {
				w.Header().Set(header, IssuerChain(by.Cert, x.Root.Cert))
			}
			Put(w, body)
		})
	}
	const v4 = "/certification/v4/"
	info := x.TCBInfo(intel.NewTCBInfo(m))
	mux.HandleFunc("GET /tdx"+v4+"tcb", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("fmspc") != hex.EncodeToString(m.FMSPC) {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("TCB-Info-Issuer-Chain", IssuerChain(x.Signing.Cert, x.Root.Cert))
		Put(w, info)
	})
	answer("/tdx"+v4+"qe/identity", "SGX-Enclave-Identity-Issuer-Chain", x.Signing, x.QEIdentity(intel.NewQEIdentity()))
	lists := map[string]intel.Holder{"platform": x.Platform, "processor": x.Processor}
	mux.HandleFunc("GET /sgx"+v4+"pckcrl", func(w http.ResponseWriter, r *http.Request) {
		by := lists[r.URL.Query().Get("ca")]
		w.Header().Set("SGX-PCK-CRL-Issuer-Chain", IssuerChain(by.Cert, x.Root.Cert))
		Put(w, x.CRL(by, from, until))
	})
	answer("/IntelSGXRootCA.der", "", x.Root, root)
	answer("/sgx"+v4+"rootcacrl", "", x.Root, []byte(hex.EncodeToString(root)))
	return mux
}

// IssuerChain is how Intel's service writes certificates into a header.
func IssuerChain(cs ...*x509.Certificate) string {
	var all []byte
	for _, c := range cs {
		all = append(all, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return url.PathEscape(string(all))
}
