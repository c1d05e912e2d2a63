package azure

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/consilium-fl/consilium/attest/internal/tpm"
)

// imdsURL is the Instance Metadata Service, which answers at this link-local address in every machine of Azure.
const imdsURL = "http://169.254.169.254"

const (
	maxAnswer   = 128 << 10 // bytes
	imdsTimeout = 10 * time.Second
	imdsTries   = 4
)

// imds asks the metadata service for what the host keeps for the machine. Nothing it says is believed: certificates and
// quotes are verified by whoever gets the evidence.
type imds struct {
	url    string
	client *http.Client
	wait   time.Duration // before the second try, and longer before each other
}

// newIMDS makes a client that no proxy setting and no redirect leads elsewhere.
func newIMDS(url string) imds {
	return imds{url: url, wait: 500 * time.Millisecond, client: &http.Client{
		Timeout: imdsTimeout, Transport: &http.Transport{Proxy: nil, MaxIdleConnsPerHost: 1},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// certificates gets the VCEK and its chain, in PEM (Trusted Hardware Identity Management).
func (s imds) certificates(ctx context.Context) (vcek, chain []byte, err error) {
	var answer struct {
		VCEK  string `json:"vcekCert"`
		Chain string `json:"certificateChain"`
	}
	if err := s.ask(ctx, http.MethodGet, "/metadata/THIM/amd/certification", nil, &answer); err != nil {
		return nil, nil, err
	}
	if answer.VCEK == "" {
		return nil, nil, errors.New("the metadata service gave no certificate")
	}
	return []byte(answer.VCEK), []byte(answer.Chain), nil
}

// quote has the host's quoting enclave sign a TDREPORT.
func (s imds) quote(ctx context.Context, report []byte) ([]byte, error) {
	body, err := json.Marshal(map[string]string{"report": base64.RawURLEncoding.EncodeToString(report)})
	if err != nil {
		return nil, err
	}
	var answer struct {
		Quote string `json:"quote"`
	}
	if err := s.ask(ctx, http.MethodPost, "/acc/tdquote", body, &answer); err != nil {
		return nil, err
	}
	quote, err := base64.RawURLEncoding.DecodeString(answer.Quote)
	if err != nil {
		return nil, fmt.Errorf("reading the metadata service's quote: %w", err)
	}
	if len(quote) == 0 {
		return nil, errors.New("the metadata service gave no quote")
	}
	return quote, nil
}

// ask tries again while the service is busy: it answers a few requests a second.
func (s imds) ask(ctx context.Context, method, path string, body []byte, to any) error {
	wait := s.wait
	for try := 1; ; try++ {
		again, err := s.once(ctx, method, path, body, to)
		if err == nil {
			return nil
		}
		err = fmt.Errorf("asking the metadata service for %s: %w", path, err)
		if !again || try == imdsTries {
			return err
		}
		if tpm.Sleep(ctx, wait) != nil {
			return err
		}
		wait *= 2
	}
}

func (s imds) once(ctx context.Context, method, path string, body []byte, to any) (again bool, err error) {
	r, err := http.NewRequestWithContext(ctx, method, s.url+path, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	r.Header.Set("Metadata", "true")
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	answer, err := s.client.Do(r)
	if err != nil {
		return true, err
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	switch {
	case answer.StatusCode == http.StatusTooManyRequests || answer.StatusCode >= 500:
		return true, errors.New(answer.Status)
	case answer.StatusCode != http.StatusOK:
		return false, errors.New(answer.Status)
	case err != nil:
		return true, err
	case len(b) > maxAnswer:
		return false, fmt.Errorf("more than %d bytes", maxAnswer)
	}
	return false, json.Unmarshal(b, to)
}
