package confspace

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/window"
)

// Socket is where the launcher of Confidential Space serves the container
// (go-tpm-tools, launcher/teeserver).
const Socket = "/run/container_launcher/teeserver.sock"

const (
	maxAudience    = 512 // bytes, of Google's "Attestation token claims"
	maxComplaint   = 512 // bytes of the launcher's own words that an error repeats
	requestTimeout = 30 * time.Second
)

// launcher is the client's side of the launcher's socket.
type launcher struct {
	format           attest.Format
	socket, audience string
	client           *http.Client
}

// tokenTypes are the launcher's words for the formats.
var tokenTypes = map[attest.Format]string{attest.FormatCSPKI: "PKI", attest.FormatCSOIDC: "OIDC"}

// NewAttester asks the launcher behind a socket for PKI tokens for one audience, which every token names and every
// policy lists: of the audience of the tokens that open Google's own services, none should be made. An audience that
// is empty or over 512 bytes is an error of each Attest.
func NewAttester(socket, audience string) attest.Attester {
	return window.New(newLauncher(attest.FormatCSPKI, socket, audience).over)
}

// NewOIDCAttester is NewAttester for OIDC tokens, of which the verifier needs a current JWKS of Google's.
func NewOIDCAttester(socket, audience string) attest.Attester {
	return window.New(newLauncher(attest.FormatCSOIDC, socket, audience).over)
}

func newLauncher(format attest.Format, socket, audience string) *launcher {
	var d net.Dialer
	return &launcher{format, socket, audience, &http.Client{
		Timeout: requestTimeout,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", socket) },
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// over returns a token whose nonce is the first half of the report data in hex: a nonce has room for 88 bytes, and
// not for the whole.
func (l *launcher) over(ctx context.Context, data [64]byte) (attest.Evidence, error) {
	t, err := l.token(ctx, hex.EncodeToString(data[:32]))
	if err != nil {
		return attest.Evidence{}, fmt.Errorf("attesting in Confidential Space: %w", err)
	}
	return attest.Evidence{Format: l.format, Statement: t}, nil
}

// request is the body of POST /v1/token. The launcher refuses any other field.
type request struct {
	Audience string   `json:"audience"`
	Nonces   []string `json:"nonces"`
	Type     string   `json:"token_type"`
}

// token gets a token over one nonce, and looks whether it is that.
func (l *launcher) token(ctx context.Context, nonce string) ([]byte, error) {
	if n := len(l.audience); n == 0 || n > maxAudience {
		return nil, fmt.Errorf("audience of %d bytes, want 1 to %d", n, maxAudience)
	}
	body, err := json.Marshal(request{l.audience, []string{nonce}, tokenTypes[l.format]})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://launcher/v1/token", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := l.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking the launcher at %q: %w", l.socket, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxToken+1))
	if err != nil {
		return nil, fmt.Errorf("reading the answer of the launcher at %q: %w", l.socket, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("asking the launcher at %q: status %d: %q", l.socket, resp.StatusCode, answer[:min(len(answer), maxComplaint)])
	}
	t, err := parse(answer)
	if err != nil {
		return nil, fmt.Errorf("reading the token of the launcher at %q: %w", l.socket, err)
	}
	if got := t.claims.texts("eat_nonce"); !slices.Contains(got, nonce) {
		return nil, fmt.Errorf("reading the token of the launcher at %q: %d nonces, want ours among them", l.socket, len(got))
	}
	return answer, nil
}
