package refresh

import (
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest/testtee/services"
)

func serve(t *testing.T, answer http.HandlerFunc) *services.Server {
	t.Helper()
	return services.Serve(t, answer)
}

var put = services.Put

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
