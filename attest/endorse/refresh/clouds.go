package refresh

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/attest/endorse/roots"
)

// NewTHIM is the certificate of the chip below an Azure VM, with its chain, which the host's Trusted Hardware Identity
// Management gives without TLS, one hop away. It may be another after an update of the host. The transport must not go
// through a proxy; nil is one that does not.
func NewTHIM(t http.RoundTripper, now func() time.Time) Source {
	if t == nil {
		t = &http.Transport{DisableKeepAlives: true, ResponseHeaderTimeout: timeout}
	}
	c := newClient(t, now, 10*time.Second, 1)
	return source{name: "azure-thim", moving: true, fetch: func(ctx context.Context) ([][]byte, error) {
		b, _, err := c.get(ctx, "http://"+metadata+"/metadata/THIM/amd/certification", "Metadata", "true")
		if err != nil {
			return nil, err
		}
		var j struct {
			Chip  string `json:"vcekCert"`
			Chain string `json:"certificateChain"`
		}
		if err := json.Unmarshal(b, &j); err != nil {
			return nil, fmt.Errorf("reading the host's answer: %w", err)
		}
		return expect(func(x *endorse.Index) error {
			if len(x.Certificates) != 3 || !isChip(x.Certificates[0]) {
				return fmt.Errorf("%d certificates, want those of a chip, its issuer and root", len(x.Certificates))
			}
			return nil
		}, []byte(j.Chip), []byte(j.Chain))
	}}
}

const confidentialSpace = "https://confidentialcomputing.googleapis.com/.well-known/"

// NewConfidentialSpaceRoot is the root of Confidential Space's PKI tokens: the one anchor that is fetched, for it is
// held against its pinned fingerprint.
func NewConfidentialSpaceRoot(t http.RoundTripper, now func() time.Time) Source {
	c := newClient(t, now, 10*time.Second, 2)
	return source{name: "google-confidential-space-root", pinned: roots.GoogleConfidentialSpace, fetch: func(ctx context.Context) ([][]byte, error) {
		b, _, err := c.get(ctx, confidentialSpace+"attestation-pki-root")
		if err != nil {
			return nil, err
		}
		var j struct {
			Root string `json:"root_ca_uri"`
		}
		if err := json.Unmarshal(b, &j); err != nil {
			return nil, fmt.Errorf("reading where the root is: %w", err)
		}
		if !strings.HasPrefix(j.Root, confidentialSpace) {
			return nil, fmt.Errorf("reading where the root is: %q, want a place below %s", j.Root, confidentialSpace)
		}
		if b, _, err = c.get(ctx, j.Root); err != nil {
			return nil, err
		}
		return expect(func(x *endorse.Index) error {
			if len(x.Certificates) != 1 || roots.Fingerprint(x.Certificates[0]) != roots.GoogleConfidentialSpace {
				return errors.New("another root than the pinned one")
			}
			return nil
		}, b)
	}}
}

// NewCRL is the revocation list at any https address: the distribution points that Google's certificates name with
// http answer there too.
func NewCRL(t http.RoundTripper, address string, now func() time.Time) Source {
	c := newClient(t, now, 10*time.Second, 1)
	id := sha256.Sum256([]byte(address))
	return source{name: fmt.Sprintf("crl-%x", id[:16]), fetch: func(ctx context.Context) ([][]byte, error) {
		b, _, err := c.get(ctx, address)
		if err != nil {
			return nil, err
		}
		return expect(func(x *endorse.Index) error {
			return one(len(x.CRLs), func() string { return "" }, "")
		}, b)
	}}
}
