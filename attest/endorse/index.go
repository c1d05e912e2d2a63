package endorse

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"maps"
	"net/url"
	"slices"
)

// Index is a Snapshot's files by what they are, recognised by content and not by name. Whoever reads it trusts
// nothing in it but the anchors, and those only because a steward put them there.
type Index struct {
	Certificates []*x509.Certificate    // every one, each once, anchors among them
	CRLs         []*x509.RevocationList // signatures unchecked
	TCBInfos     []SignedJSON           // Intel's, with "tcbInfo"
	QEIdentities []SignedJSON           // Intel's, with "enclaveIdentity"
	KeySets      []json.RawMessage      // JWKS
	Unknown      []string               // names of files that are none of these
}

// SignedJSON is a document of Intel's provisioning service: Body is the exact bytes that are signed.
type SignedJSON struct {
	Body      []byte
	Signature []byte // r ‖ s of ECDSA P-256, raw
}

// Anchors are the self-signed certification authorities: the roots that the steward installed.
func (x *Index) Anchors() []*x509.Certificate {
	var out []*x509.Certificate
	for _, c := range x.Certificates {
		if c.IsCA && bytes.Equal(c.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(c) == nil {
			out = append(out, c)
		}
	}
	return out
}

// Index sorts the files by content, once for a snapshot. A nil snapshot has an empty one.
func (s *Snapshot) Index() *Index {
	if s == nil {
		return &Index{}
	}
	s.once.Do(func() { s.index = index(s.files) })
	return s.index
}

func index(files map[string][]byte) *Index {
	x := &Index{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if !x.add(files[name]) {
			x.Unknown = append(x.Unknown, name)
		}
	}
	return x
}

// add takes a file whole or not at all.
func (x *Index) add(b []byte) bool {
	var y Index
	trimmed := bytes.TrimSpace(b)
	switch {
	case bytes.HasPrefix(trimmed, []byte("-----BEGIN")):
		if !y.addPEM(trimmed) {
			return false
		}
	case bytes.HasPrefix(trimmed, []byte("{")):
		if !y.addJSON(trimmed) {
			return false
		}
	default:
		if !y.addDER(b) && !y.addHex(trimmed) {
			return false
		}
	}
	for _, c := range y.Certificates {
		if !slices.ContainsFunc(x.Certificates, c.Equal) {
			x.Certificates = append(x.Certificates, c)
		}
	}
	x.CRLs = append(x.CRLs, y.CRLs...)
	x.TCBInfos = append(x.TCBInfos, y.TCBInfos...)
	x.QEIdentities = append(x.QEIdentities, y.QEIdentities...)
	x.KeySets = append(x.KeySets, y.KeySets...)
	return true
}

// addDER takes one certificate, several after each other, or one revocation list.
func (x *Index) addDER(b []byte) bool {
	if cs, err := x509.ParseCertificates(b); err == nil && len(cs) > 0 {
		x.Certificates = append(x.Certificates, cs...)
		return true
	}
	crl, err := x509.ParseRevocationList(b)
	if err != nil {
		return false
	}
	x.CRLs = append(x.CRLs, crl)
	return true
}

// addHex takes DER in hex, as Intel's service gives the revocation list of its root.
func (x *Index) addHex(b []byte) bool {
	der, err := hex.DecodeString(string(b))
	return err == nil && len(der) > 0 && x.addDER(der)
}

func (x *Index) addPEM(b []byte) bool {
	for len(b) > 0 {
		block, rest := pem.Decode(b)
		if block == nil {
			return false
		}
		switch block.Type {
		case "CERTIFICATE", "X509 CRL":
			if !x.addDER(block.Bytes) {
				return false
			}
		default:
			return false
		}
		b = bytes.TrimSpace(rest)
	}
	return true
}

// addJSON takes a document of Intel's service, a set of keys, or the collateral of one quote in one object as the
// common tools save it.
func (x *Index) addJSON(b []byte) bool {
	var o map[string]json.RawMessage
	if json.Unmarshal(b, &o) != nil {
		return false
	}
	switch {
	case o["keys"] != nil:
		x.KeySets = append(x.KeySets, b)
		return true
	case o["tcbInfo"] != nil:
		return addSigned(&x.TCBInfos, o["tcbInfo"], o["signature"])
	case o["enclaveIdentity"] != nil:
		return addSigned(&x.QEIdentities, o["enclaveIdentity"], o["signature"])
	case o["tcb_info"] != nil:
		return x.addCollateral(o)
	}
	return false
}

func addSigned(to *[]SignedJSON, body, signature json.RawMessage) bool {
	var digits string
	if json.Unmarshal(signature, &digits) != nil {
		return false
	}
	sig, err := hex.DecodeString(digits)
	if err != nil || len(sig) != 64 {
		return false
	}
	*to = append(*to, SignedJSON{Body: body, Signature: sig})
	return true
}

// addCollateral takes {tcb_info, tcb_info_signature, qe_identity, …}: documents and chains as texts, lists in hex or
// PEM.
func (x *Index) addCollateral(o map[string]json.RawMessage) bool {
	text := func(key string) []byte {
		var s string
		if json.Unmarshal(o[key], &s) != nil {
			return nil
		}
		return []byte(s)
	}
	for _, key := range []string{"pck_crl_issuer_chain", "root_ca_crl", "pck_crl", "tcb_info_issuer_chain", "qe_identity_issuer_chain"} {
		v := text(key)
		if len(v) == 0 {
			continue
		}
		if plain, err := url.QueryUnescape(string(v)); err == nil && bytes.HasPrefix(v, []byte("-----BEGIN%20")) {
			v = []byte(plain)
		}
		v = bytes.TrimSpace(bytes.TrimRight(v, "\x00"))
		if !(bytes.HasPrefix(v, []byte("-----BEGIN")) && x.addPEM(v) || x.addHex(v)) {
			return false
		}
	}
	for _, d := range []struct {
		to  *[]SignedJSON
		key string
	}{{&x.TCBInfos, "tcb_info"}, {&x.QEIdentities, "qe_identity"}} {
		if !addSigned(d.to, text(d.key), o[d.key+"_signature"]) {
			return false
		}
	}
	return true
}
