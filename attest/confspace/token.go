package confspace

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/consilium-fl/consilium/attest"
)

// Bounds of a token. Google's are some 11 KB with the chain and 3 KB without.
const (
	maxToken  = 64 << 10 // bytes
	maxNonces = 6        // that the launcher takes
)

// token is a JWS in compact form (RFC 7515, section 7.1) whose signature nobody has looked at.
type token struct {
	header    fields
	claims    fields
	signed    []byte // what the signature is over: the first two parts as they came
	signature []byte
	wrong     *[]attest.Reason // what header and claims hold in another type than they should
}

// parse takes the one spelling that a token has: unpadded base64url without line breaks, which Go's decoder
// would skip.
func parse(b []byte) (token, error) {
	if len(b) > maxToken {
		return token{}, attest.Reason{Code: attest.CodeCSSize, Path: "token", Got: strconv.Itoa(len(b)), Want: "at most " + strconv.Itoa(maxToken)}
	}
	bad := func(path, got, want string) (token, error) {
		return token{}, attest.Reason{Code: attest.CodeCSEncoding, Path: path, Got: got, Want: want}
	}
	parts := strings.Split(string(b), ".")
	if len(parts) != 3 {
		return bad("token", fmt.Sprintf("%d parts", len(parts)), "3")
	}
	var raw [3][]byte
	for i, name := range []string{"header", "claims", "signature"} {
		if at := strings.IndexFunc(parts[i], foreign); at >= 0 {
			return bad(name, fmt.Sprintf("byte %#02x at %d", parts[i][at], at), "base64url without padding")
		}
		var err error
		if raw[i], err = base64.RawURLEncoding.Strict().DecodeString(parts[i]); err != nil {
			return bad(name, err.Error(), "base64url without padding")
		}
	}
	t := token{signed: b[:len(parts[0])+1+len(parts[1])], signature: raw[2], wrong: new([]attest.Reason)}
	for i, to := range []*fields{&t.header, &t.claims} {
		name := []string{"header", "claims"}[i]
		o, err := parseObject(raw[i])
		if err != nil {
			return token{}, attest.Reason{Code: attest.CodeCSJSON, Path: name, Got: err.Error(), Want: "one object"}
		}
		*to = fields{name + ".", o, t.wrong}
	}
	return t, nil
}

func foreign(r rune) bool {
	return (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_'
}

// workload reads the claims of a token, signed or not.
func (t token) workload() *attest.WorkloadClaims {
	c := t.claims
	c.need("iss", "aud", "nbf", "exp", "hwmodel", "swname", "dbgstat")
	space, container := c.object("submods").object("confidential_space"), c.object("submods").object("container")
	gce := c.object("submods").object("gce")
	w := &attest.WorkloadClaims{
		Issuer: c.text("iss"), Subject: c.text("sub"), Audience: c.texts("aud"),
		IssuedAt: c.time("iat"), NotBefore: c.time("nbf"), Expires: c.time("exp"),
		Nonces: c.texts("eat_nonce"), Profile: c.text("eat_profile"),
		HWModel: c.text("hwmodel"), AttesterTCB: c.texts("attester_tcb"), OEM: c.number("oemid"), SecureBoot: c.truth("secboot"),
		SWName: c.text("swname"), SWVersion: c.texts("swversion"), DebugStatus: c.text("dbgstat"),
		SupportAttributes: space.texts("support_attributes"), MemoryMonitoring: space.object("monitoring_enabled").truth("memory"),
		ServiceAccounts: c.texts("google_service_accounts"),
		Container: attest.WorkloadContainer{
			Reference: container.text("image_reference"), Digest: container.text("image_digest"), ID: container.text("image_id"),
			RestartPolicy: container.text("restart_policy"), Args: container.texts("args"), Env: container.variables("env"),
			CmdOverride: container.texts("cmd_override"), EnvOverride: container.variables("env_override"),
		},
		GCE: attest.WorkloadInstance{
			ProjectID: gce.text("project_id"), ProjectNumber: gce.text("project_number"), Zone: gce.text("zone"),
			InstanceID: gce.text("instance_id"), InstanceName: gce.text("instance_name"),
		},
	}
	for _, s := range container.objects("image_signatures") {
		w.Container.Signatures = append(w.Container.Signatures, attest.WorkloadSignature{KeyID: s.text("key_id"), Algorithm: s.text("signature_algorithm")})
	}
	if len(w.Nonces) > maxNonces {
		c.note("eat_nonce", strconv.Itoa(len(w.Nonces)), "at most "+strconv.Itoa(maxNonces))
	}
	if _, err := attest.ParseMeasurement(w.Container.Digest); err != nil {
		container.note("image_digest", fmt.Sprintf("%q", w.Container.Digest), "a digest")
		w.Container.Digest = ""
	}
	return w
}

// common fills the part of the claims that all formats have.
func common(w *attest.WorkloadClaims, in attest.Inputs) attest.Claims {
	c := attest.Claims{
		Measurement: attest.Measurement(w.Container.Digest), Generation: strings.ReplaceAll(strings.ToLower(w.HWModel), "_", "-"),
		Debug: w.Debug(), NotAfter: w.Expires, Workload: w,
	}
	if g := w.GCE; g.ProjectID != "" && g.Zone != "" && g.InstanceID != "" {
		c.Machine = "gce:" + g.ProjectID + "/" + g.Zone + "/" + g.InstanceID
	}
	if n := choose(w.Nonces, in.ReportData); n != "" {
		c.HalfBound = halfBound(n)
		c.ReportData = reportData(n)
	}
	return c
}

// choose picks the nonce that answers the verifier, or else the first that has room in report data.
func choose(nonces []string, want *[64]byte) string {
	first := ""
	for _, n := range nonces {
		if want != nil && n == hex.EncodeToString(want[:32]) {
			return n
		}
		if first == "" && len(n) <= 64 {
			first = n
		}
	}
	return first
}

// halfBound knows the nonce that the attester asks for: the first half of the report data, in hex.
func halfBound(nonce string) bool {
	return len(nonce) == 64 && strings.Trim(nonce, "0123456789abcdef") == ""
}

func reportData(nonce string) (d [64]byte) {
	if !halfBound(nonce) {
		copy(d[:], nonce)
	} else if _, err := hex.Decode(d[:32], []byte(nonce)); err != nil {
		panic("confspace: 64 digits of hex always decode: " + err.Error())
	}
	return d
}
