package google

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// Launcher serves what the launcher of Confidential Space serves on its socket, and refuses what it and the service
// behind it refuse (go-tpm-tools, launcher/teeserver; Google's "Attestation token claims").
type Launcher struct {
	PKI *PKI
	// Change, if it is not nil, alters the claims of every token.
	Change func(Object) Object
}

// ServeHTTP answers /v1/token.
func (l *Launcher) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/html")
	if r.URL.Path != "/v1/token" {
		http.NotFound(w, r)
		return
	}
	switch r.Method {
	case http.MethodGet:
		l.reply(w, l.PKI.OIDC(l.claims(Claims("https://sts.googleapis.com"))))
	case http.MethodPost:
		var req tokenRequest
		d := json.NewDecoder(r.Body)
		d.DisallowUnknownFields()
		if err := d.Decode(&req); err != nil {
			refuse(w, fmt.Sprintf("failed to parse POST body as TokenOptions: %v", err))
			return
		}
		if complaint := req.complaint(); complaint != "" {
			refuse(w, complaint)
			return
		}
		claims := l.claims(Claims(req.Audience, req.Nonces...))
		if req.TokenType == "PKI" {
			l.reply(w, l.PKI.Token(claims))
		} else {
			l.reply(w, l.PKI.OIDC(claims))
		}
	default:
		refuse(w, "TEE server received an invalid HTTP method: "+r.Method)
	}
}

func (l *Launcher) claims(c Object) Object {
	if l.Change == nil {
		return c
	}
	return l.Change(c)
}

func (*Launcher) reply(w http.ResponseWriter, token []byte) {
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(token) // a client that is gone needs no answer
}

func refuse(w http.ResponseWriter, complaint string) {
	w.WriteHeader(http.StatusBadRequest)
	_, _ = w.Write([]byte(complaint)) //nolint:gosec // repeats the request as the real launcher does, to a test
}

type tokenRequest struct {
	Audience  string   `json:"audience"`
	Nonces    []string `json:"nonces"`
	TokenType string   `json:"token_type"`
	AWSTags   *struct {
		Allowed json.RawMessage `json:"allowed_principal_tags"`
	} `json:"aws_principal_tag_options"`
}

// complaint is the launcher's for the first two, and of the service for the others, as the launcher passes it on.
func (r tokenRequest) complaint() string {
	switch {
	case r.Audience == "":
		return "use GET request for the default identity token"
	case r.TokenType == "":
		return "token_type is a required parameter"
	case r.TokenType != "OIDC" && r.TokenType != "PKI" && r.TokenType != "AWS_PRINCIPALTAGS":
		return "failed to retrieve custom attestation service token: rpc error: code = InvalidArgument desc = unknown token type"
	case len(r.Audience) > 512:
		return "failed to retrieve custom attestation service token: rpc error: code = InvalidArgument desc = audience is too long"
	case len(r.Nonces) > 6:
		return "failed to retrieve custom attestation service token: rpc error: code = InvalidArgument desc = too many nonces"
	}
	for _, n := range r.Nonces {
		if len(n) < 8 || len(n) > 88 {
			return "failed to retrieve custom attestation service token: rpc error: code = InvalidArgument desc = nonce length"
		}
	}
	return ""
}
