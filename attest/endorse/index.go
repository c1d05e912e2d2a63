package endorse

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/consilium-fl/consilium/attest/internal/strict"
)

// MaxItems bounds each list of an [Index]. A file that would exceed it is unknown.
const MaxItems = 4096

// Index is a Snapshot's files by what they are, recognised by content and not by name. A file is taken whole or is
// Unknown. Whoever reads it trusts nothing in it but the anchors, and those only because a steward put them there.
//
// One Index serves every verification with its snapshot, at once: what it holds is shared and must not be changed.
type Index struct {
	Certificates []*x509.Certificate    // each once, anchors among them
	CRLs         []*x509.RevocationList // signatures unchecked; each once, the newest first
	TCBInfos     []SignedJSON           // Intel's, with "tcbInfo"; each once, the newest first
	QEIdentities []SignedJSON           // Intel's, with "enclaveIdentity"; likewise
	KeySets      []json.RawMessage      // JWKS (RFC 7517)
	Unknown      []string               // names of files that are none of these

	anchors []*x509.Certificate
	seen    map[[sha256.Size]byte]bool // what is in the lists, while they are made
}

// SignedJSON is a document of Intel's provisioning service: Body is the exact bytes that are signed.
type SignedJSON struct {
	Body      []byte
	Signature []byte // r ‖ s of ECDSA P-256, raw
	Head      Head
}

// Head is what a document of Intel's says of itself, its signature unchecked.
type Head struct {
	ID                    string // "TDX", "SGX", "TD_QE", …
	FMSPC                 string // in lower case; of a TCB info only
	Evaluation            uint32 // tcbEvaluationDataNumber
	IssueDate, NextUpdate time.Time
}

// Anchors are the self-signed certification authorities that stand in files of certificates: the roots that the
// steward installed. One that came inside a quote's collateral is none.
func (x *Index) Anchors() []*x509.Certificate { return x.anchors }

// Index sorts the files by content, once for a snapshot. A nil snapshot has an empty one.
func (s *Snapshot) Index() *Index {
	if s == nil {
		return &Index{}
	}
	s.once.Do(func() { s.index = index(s.files) })
	return s.index
}

func index(files map[string][]byte) *Index {
	x := &Index{seen: map[[sha256.Size]byte]bool{}}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if !x.add(files[name]) {
			x.Unknown = append(x.Unknown, name)
		}
	}
	slices.SortStableFunc(x.CRLs, func(a, b *x509.RevocationList) int { return b.ThisUpdate.Compare(a.ThisUpdate) })
	slices.SortStableFunc(x.TCBInfos, newestFirst)
	slices.SortStableFunc(x.QEIdentities, newestFirst)
	x.seen = nil
	// Whoever appends to a list that was handed out gets one of its own.
	x.Certificates, x.CRLs, x.anchors = slices.Clip(x.Certificates), slices.Clip(x.CRLs), slices.Clip(x.anchors)
	x.TCBInfos, x.QEIdentities, x.KeySets = slices.Clip(x.TCBInfos), slices.Clip(x.QEIdentities), slices.Clip(x.KeySets)
	return x
}

func newestFirst(a, b SignedJSON) int {
	return cmp.Or(cmp.Compare(b.Head.Evaluation, a.Head.Evaluation), b.Head.IssueDate.Compare(a.Head.IssueDate))
}

// add takes a file whole or not at all.
func (x *Index) add(b []byte) bool {
	var y Index
	anchors := true
	trimmed := bytes.TrimSpace(b)
	switch {
	case bytes.HasPrefix(trimmed, []byte("-----BEGIN")):
		if !y.addPEM(trimmed) {
			return false
		}
	case bytes.HasPrefix(trimmed, []byte("{")):
		anchors = false // what came with a quote is not a steward's
		if !y.addJSON(trimmed) {
			return false
		}
	default:
		if !y.addDER(b) && !y.addHex(trimmed) {
			return false
		}
	}
	return x.merge(&y, anchors)
}

func (x *Index) merge(y *Index, anchors bool) bool {
	for _, n := range []int{
		len(x.Certificates) + len(y.Certificates), len(x.CRLs) + len(y.CRLs), len(x.TCBInfos) + len(y.TCBInfos),
		len(x.QEIdentities) + len(y.QEIdentities), len(x.KeySets) + len(y.KeySets),
	} {
		if n > MaxItems {
			return false
		}
	}
	for _, c := range y.Certificates {
		if x.fresh('c', c.Raw) {
			x.Certificates = append(x.Certificates, c)
		}
		if anchors && selfSigned(c) && x.fresh('a', c.Raw) {
			x.anchors = append(x.anchors, c)
		}
	}
	for _, l := range y.CRLs {
		if x.fresh('l', l.Raw) {
			x.CRLs = append(x.CRLs, l)
		}
	}
	x.TCBInfos = appendIf(x.TCBInfos, y.TCBInfos, func(d SignedJSON) bool { return x.fresh('t', slices.Concat(d.Signature, d.Body)) })
	x.QEIdentities = appendIf(x.QEIdentities, y.QEIdentities, func(d SignedJSON) bool { return x.fresh('q', slices.Concat(d.Signature, d.Body)) })
	x.KeySets = appendIf(x.KeySets, y.KeySets, func(k json.RawMessage) bool { return x.fresh('k', k) })
	return true
}

func appendIf[T any](to, from []T, keep func(T) bool) []T {
	for _, v := range from {
		if keep(v) {
			to = append(to, v)
		}
	}
	return to
}

// fresh reports whether a thing of this kind is seen for the first time.
func (x *Index) fresh(kind byte, b []byte) bool {
	h := sha256.Sum256(slices.Concat([]byte{kind}, b))
	if x.seen[h] {
		return false
	}
	x.seen[h] = true
	return true
}

func selfSigned(c *x509.Certificate) bool {
	return c.IsCA && bytes.Equal(c.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(c) == nil
}

// addDER takes one certificate, several after each other, or one revocation list.
func (x *Index) addDER(b []byte) bool {
	if cs, err := x509.ParseCertificates(b); err == nil && len(cs) > 0 {
		x.Certificates = append(x.Certificates, cs...)
		return true
	}
	crl, err := x509.ParseRevocationList(b)
	// The parser ignores what follows the list.
	if err != nil || len(crl.Raw) != len(b) {
		return false
	}
	x.CRLs = append(x.CRLs, crl)
	return true
}

// addHex takes DER in hex, as Intel's service gives the revocation list of its root.
func (x *Index) addHex(b []byte) bool {
	der, err := hex.DecodeString(string(b))
	return err == nil && x.addDER(der)
}

// addPEM takes blocks and blanks between them.
func (x *Index) addPEM(b []byte) bool {
	if unescaped, ok := unescape(b); ok {
		b = bytes.TrimSpace(unescaped)
	}
	for len(b) > 0 {
		block, rest, ok := strict.PEM(b)
		if !ok || !slices.Contains([]string{"CERTIFICATE", "X509 CRL"}, block.Type) || len(block.Headers) > 0 || !x.addDER(block.Bytes) {
			return false
		}
		b = bytes.TrimSpace(rest)
	}
	return true
}

// unescape undoes the URL escapes that Intel's service writes PEM into its headers with.
func unescape(b []byte) ([]byte, bool) {
	var undo func(string) (string, error)
	switch {
	case bytes.HasPrefix(b, []byte("-----BEGIN%20")): // where a plus sign is a digit of base64
		undo = url.PathUnescape
	case bytes.HasPrefix(b, []byte("-----BEGIN+")): // where it is a blank
		undo = url.QueryUnescape
	default:
		return nil, false
	}
	plain, err := undo(string(b))
	return []byte(plain), err == nil
}

// addJSON takes a document of Intel's service, a set of keys, or the collateral of one quote in one object as the
// common tools save it.
func (x *Index) addJSON(b []byte) bool {
	o, ok := members(b)
	switch {
	case !ok:
		return false
	case o["keys"] != nil:
		return x.addKeys(b, o["keys"])
	case o["tcbInfo"] != nil:
		return len(o) == 2 && addSigned(&x.TCBInfos, o["tcbInfo"], o["signature"])
	case o["enclaveIdentity"] != nil:
		return len(o) == 2 && addSigned(&x.QEIdentities, o["enclaveIdentity"], o["signature"])
	case o["tcb_info"] != nil:
		return x.addCollateral(o)
	}
	return false
}

// members splits a JSON object. One that has a name twice means two things to two readers, and is none.
func members(b []byte) (map[string]json.RawMessage, bool) {
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, false
	}
	o := map[string]json.RawMessage{}
	for d.More() {
		t, err := d.Token()
		name, ok := t.(string)
		if err != nil || !ok || o[name] != nil {
			return nil, false
		}
		var v json.RawMessage
		if d.Decode(&v) != nil {
			return nil, false
		}
		o[name] = v
	}
	if _, err := d.Token(); err != nil { // the closing brace
		return nil, false
	}
	_, err := d.Token()
	return o, errors.Is(err, io.EOF)
}

func (x *Index) addKeys(b, keys []byte) bool {
	var ks []struct {
		Type string `json:"kty"`
	}
	if json.Unmarshal(keys, &ks) != nil || len(ks) == 0 {
		return false
	}
	for _, k := range ks {
		if k.Type == "" {
			return false
		}
	}
	x.KeySets = append(x.KeySets, b)
	return true
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
	h, ok := head(body)
	if ok {
		*to = append(*to, SignedJSON{Body: body, Signature: sig, Head: h})
	}
	return ok
}

func head(body []byte) (Head, bool) {
	var j struct {
		ID         string    `json:"id"`
		FMSPC      string    `json:"fmspc"`
		Evaluation *uint32   `json:"tcbEvaluationDataNumber"`
		IssueDate  time.Time `json:"issueDate"`
		NextUpdate time.Time `json:"nextUpdate"`
	}
	if json.Unmarshal(body, &j) != nil || j.ID == "" || j.Evaluation == nil || j.IssueDate.IsZero() || !j.NextUpdate.After(j.IssueDate) {
		return Head{}, false
	}
	return Head{ID: j.ID, FMSPC: strings.ToLower(j.FMSPC), Evaluation: *j.Evaluation, IssueDate: j.IssueDate, NextUpdate: j.NextUpdate}, true
}

// addCollateral takes {tcb_info, tcb_info_signature, qe_identity, …} as dcap-qvl writes it: documents and chains as
// texts, lists in hex or PEM. What it knows no name of is left out, for it is the tool's and not signed.
func (x *Index) addCollateral(o map[string]json.RawMessage) bool {
	text := func(key string) []byte {
		var s string
		if json.Unmarshal(o[key], &s) != nil {
			return nil
		}
		return []byte(s)
	}
	for _, key := range []string{"pck_crl_issuer_chain", "root_ca_crl", "pck_crl", "tcb_info_issuer_chain", "qe_identity_issuer_chain", "pck_certificate_chain"} {
		v := bytes.TrimSpace(bytes.TrimRight(text(key), "\x00"))
		switch {
		case len(v) == 0 && (o[key] == nil || string(o[key]) == "null" || string(o[key]) == `""`):
		case bytes.HasPrefix(v, []byte("-----BEGIN")) && x.addPEM(v):
		case !x.addHex(v):
			return false
		}
	}
	return addSigned(&x.TCBInfos, text("tcb_info"), o["tcb_info_signature"]) &&
		addSigned(&x.QEIdentities, text("qe_identity"), o["qe_identity_signature"])
}
