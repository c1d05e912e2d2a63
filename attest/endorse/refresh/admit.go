package refresh

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strconv"
	"time"

	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/attest/endorse/roots"
)

// maxParts bounds one answer; its bytes are bounded as a snapshot's are.
const maxParts = 16

// tcbSigner is the common name of the certificate by which Intel signs its documents (PCS API v4).
const tcbSigner = "Intel SGX TCB Signing"

// oidChip is in the certificate of every VCEK and VLEK (AMD 57230, table 10).
var oidChip = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 1}

// authority is the steward's part, by which an answer is checked.
type authority struct {
	index         *endorse.Index
	roots, others *x509.CertPool
	documents     map[string][]string // the documents that a file holds, by the names of their marks
	marks         marks               // of the documents that an anchor stands behind
}

func newAuthority(base *endorse.Snapshot, now time.Time) *authority {
	x := base.Index()
	a := &authority{index: x, roots: x509.NewCertPool(), others: x509.NewCertPool(), documents: map[string][]string{}, marks: marks{}}
	for _, c := range x.Anchors() {
		a.roots.AddCert(c)
	}
	for _, c := range x.Certificates {
		a.others.AddCert(c)
	}
	for name, b := range base.Files() {
		if one, err := endorse.New(map[string][]byte{name: b}); err == nil { // as the whole is
			for _, d := range documents(one.Index()) {
				a.documents[name] = append(a.documents[name], markName(d))
			}
		}
	}
	for _, d := range documents(x) {
		at := d.Head.IssueDate // the certificate of who signed it may have ended since
		if !at.After(now) && a.signer(x, at, func(c *x509.Certificate) bool { return signedJSON(c, d) }) != nil {
			a.marks.raise(markName(d), mark{d.Head.Evaluation, d.Head.IssueDate.Unix()})
		}
	}
	return a
}

// learn has what was admitted stand between an anchor and what comes later: the certificate of a chip comes alone, and its
// issuer from another source. An anchor is none of it.
func (a *authority) learn(item *admitted) {
	for _, c := range item.others {
		a.others.AddCert(c)
	}
}

func documents(x *endorse.Index) []endorse.SignedJSON {
	return slices.Concat(x.TCBInfos, x.QEIdentities)
}

// admitted is an answer of which every part is signed under an anchor.
type admitted struct {
	chips   []*x509.Certificate // VCEKs and VLEKs
	others  []*x509.Certificate // intermediates and signers
	known   []*x509.Certificate // those that the steward has too
	anchors []*x509.Certificate // only of a source that may bring one
	crls    []*x509.RevocationList
	infos   []endorse.SignedJSON
	ids     []endorse.SignedJSON
	marks   marks
	// this and next are the last issue and the first end of what its issuer replaces; zero where it replaces nothing.
	this, next time.Time
}

// admit checks the parts of a source's answer as of a time. pinned is the fingerprint of the one anchor that the source
// may bring; from any other, a root is the steward's or a reason to refuse.
func (a *authority) admit(source string, parts [][]byte, pinned string, now time.Time) (*admitted, error) {
	if len(parts) > maxParts {
		return nil, fmt.Errorf("%d parts, want at most %d", len(parts), maxParts)
	}
	files := map[string][]byte{}
	for i, p := range parts {
		files["part "+strconv.Itoa(i)] = p
	}
	s, err := endorse.New(files)
	if err != nil {
		return nil, err
	}
	x := s.Index()
	if len(x.Unknown) > 0 || len(x.KeySets) > 0 {
		return nil, fmt.Errorf("%q and %d sets of keys, want certificates, revocation lists and collateral", x.Unknown, len(x.KeySets))
	}
	out := &admitted{marks: marks{}}
	if err := out.certificates(a, x, pinned, now); err != nil {
		return nil, err
	}
	if err := out.lists(source, a, x, now); err != nil {
		return nil, err
	}
	return out, out.documents(a, x, now)
}

// ErrNoSigner says that nobody whose certificate is at hand, and leads to an anchor, signed a list or document.
var ErrNoSigner = errors.New("nobody under an anchor signed it")

// Check demands of files, each with the certificates of who signed it, what a Refresher demands of an answer: that it
// leads to an anchor of a steward's part, holds now, and is not older than what is there. It names what is wrong with
// which.
func Check(base *endorse.Snapshot, files map[string][]byte, signers []byte, now time.Time) map[string]error {
	a := newAuthority(base, now)
	wrong := map[string]error{}
	for name, b := range files {
		parts := [][]byte{b}
		if len(signers) > 0 {
			parts = append(parts, signers)
		}
		item, err := a.admit("file", parts, "", now)
		if err == nil {
			err = errors.Join(a.marks.refuse(item.marks), a.older(item))
		}
		if err != nil {
			wrong[name] = err
		}
	}
	return wrong
}

// older refuses a list of whose issuer the steward has a later one.
func (a *authority) older(item *admitted) error {
	for _, l := range item.crls {
		for _, has := range a.index.CRLs {
			if bytes.Equal(has.RawIssuer, l.RawIssuer) && l.ThisUpdate.Before(has.ThisUpdate) {
				return fmt.Errorf("revocation list of %q: %w: issued at %s, want at least %s", l.Issuer.CommonName, ErrOlder, l.ThisUpdate.UTC().Format(time.RFC3339), has.ThisUpdate.UTC().Format(time.RFC3339))
			}
		}
	}
	return nil
}

func (out *admitted) certificates(a *authority, x *endorse.Index, pinned string, now time.Time) error {
	for _, c := range x.Certificates {
		switch {
		case slices.ContainsFunc(a.index.Anchors(), c.Equal):
			// Every chain brings its root.
		case slices.ContainsFunc(a.index.Certificates, c.Equal):
			out.known = append(out.known, c)
		case pinned != "" && roots.Fingerprint(c) == pinned:
			out.anchors = append(out.anchors, c)
		case bytes.Equal(c.RawSubject, c.RawIssuer):
			return fmt.Errorf("root %q with fingerprint %s is not installed", c.Subject.CommonName, roots.Fingerprint(c))
		default:
			if err := a.chain(c, x, now); err != nil {
				return err
			}
			if isChip(c) {
				out.chips = append(out.chips, c)
			} else {
				out.others = append(out.others, c)
			}
		}
	}
	return nil
}

// isChip reports whether a certificate is a VCEK or VLEK, of which there are many and none is replaced.
func isChip(c *x509.Certificate) bool {
	return !c.IsCA && slices.ContainsFunc(c.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidChip) })
}

// chain demands a way from a certificate to an anchor, over certificates of the answer, of another or the steward's.
func (a *authority) chain(c *x509.Certificate, x *endorse.Index, now time.Time) error {
	between := a.others.Clone()
	for _, i := range x.Certificates {
		between.AddCert(i)
	}
	_, err := c.Verify(x509.VerifyOptions{Roots: a.roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return fmt.Errorf("certificate %q: %w", c.Subject.CommonName, err)
	}
	return nil
}

// signer finds the certificate of the answer or the steward's that passes a test and leads to an anchor.
func (a *authority) signer(x *endorse.Index, now time.Time, signed func(*x509.Certificate) bool) *x509.Certificate {
	for _, c := range slices.Concat(a.index.Certificates, x.Certificates) {
		if signed(c) && a.chain(c, x, now) == nil {
			return c
		}
	}
	return nil
}

func (out *admitted) lists(source string, a *authority, x *endorse.Index, now time.Time) error {
	for _, l := range x.CRLs {
		name := fmt.Sprintf("revocation list of %q", l.Issuer.CommonName)
		c := a.signer(x, now, func(c *x509.Certificate) bool {
			return bytes.Equal(c.RawSubject, l.RawIssuer) && l.CheckSignatureFrom(c) == nil
		})
		if c == nil {
			return fmt.Errorf("%s: %w", name, ErrNoSigner)
		}
		if err := out.dated(name, l.ThisUpdate, l.NextUpdate, now); err != nil {
			return err
		}
		// One key signs several lists, which are not issued together: AMD's for VCEKs and for VLEKs.
		key := sha256.Sum256(c.RawSubjectPublicKeyInfo)
		out.marks.raise("crl:"+source+":"+hex.EncodeToString(key[:8]), mark{Issued: l.ThisUpdate.Unix()})
		out.crls = append(out.crls, l)
	}
	return nil
}

func (out *admitted) documents(a *authority, x *endorse.Index, now time.Time) error {
	for _, d := range documents(x) {
		name := d.Head.ID + " document"
		if d.Head.FMSPC != "" {
			name += " of " + d.Head.FMSPC
		}
		if a.signer(x, now, func(c *x509.Certificate) bool { return signedJSON(c, d) }) == nil {
			return fmt.Errorf("%s: %w", name, ErrNoSigner)
		}
		if err := out.dated(name, d.Head.IssueDate, d.Head.NextUpdate, now); err != nil {
			return err
		}
		out.marks.raise(markName(d), mark{d.Head.Evaluation, d.Head.IssueDate.Unix()})
	}
	out.infos, out.ids = x.TCBInfos, x.QEIdentities
	return nil
}

func markName(d endorse.SignedJSON) string { return "collateral:" + d.Head.ID + ":" + d.Head.FMSPC }

// signedJSON checks a signature of Intel's: ECDSA P-256 over the SHA-256 of the body.
func signedJSON(c *x509.Certificate, d endorse.SignedJSON) bool {
	key, ok := c.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() || c.Subject.CommonName != tcbSigner || len(d.Signature) != 64 {
		return false
	}
	h := sha256.Sum256(d.Body)
	return ecdsa.Verify(key, h[:], new(big.Int).SetBytes(d.Signature[:32]), new(big.Int).SetBytes(d.Signature[32:]))
}

func (out *admitted) dated(name string, this, next, now time.Time) error {
	switch {
	case now.Before(this):
		return fmt.Errorf("%s: issued at %s, want at most %s", name, this.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case !now.Before(next): // a list without an end among them
		return fmt.Errorf("%s: %w at %s", name, endorse.ErrExpired, next.UTC().Format(time.RFC3339))
	}
	if this.After(out.this) {
		out.this = this
	}
	if out.next.IsZero() || next.Before(out.next) {
		out.next = next
	}
	return nil
}

// chipsOnly reports whether nothing else is in it.
func (out *admitted) chipsOnly() bool {
	return len(out.chips) > 0 && len(out.others) == 0 && len(out.files()) == 0
}

// files are the parts that stand alone in a snapshot: all but the certificates.
func (out *admitted) files() [][]byte {
	var parts [][]byte
	for _, c := range out.anchors {
		parts = append(parts, c.Raw)
	}
	for _, l := range out.crls {
		parts = append(parts, l.Raw)
	}
	for _, d := range out.infos {
		parts = append(parts, document("tcbInfo", d))
	}
	for _, d := range out.ids {
		parts = append(parts, document("enclaveIdentity", d))
	}
	return parts
}

// parts are what the cache keeps, each in one form.
func (out *admitted) parts() [][]byte {
	parts := out.files()
	for _, c := range slices.Concat(out.others, out.known, out.chips) {
		parts = append(parts, c.Raw)
	}
	return parts
}

// document is the form in which Intel's service gives one.
func document(name string, d endorse.SignedJSON) []byte {
	return slices.Concat([]byte(`{"`+name+`":`), d.Body, []byte(`,"signature":"`+hex.EncodeToString(d.Signature)+`"}`))
}

// mark is how new something is: Intel's evaluation number, then the time of issue.
type mark struct {
	Evaluation uint32 `cbor:"1,keyasint"`
	Issued     int64  `cbor:"2,keyasint"` // Unix
}

// marks are the newest of each thing, by name.
type marks map[string]mark

func (m marks) raise(name string, to mark) {
	m[name] = mark{max(m[name].Evaluation, to.Evaluation), max(m[name].Issued, to.Issued)}
}

func (m marks) raiseAll(to marks) {
	for name, n := range to {
		m.raise(name, n)
	}
}

// ErrOlder says that a source gave something older than what it, or another one, gave before.
var ErrOlder = errors.New("older than what was seen before")

// refuse names the first of what is older here than in m, in either figure.
func (m marks) refuse(newer marks) error {
	for _, name := range slices.Sorted(maps.Keys(newer)) {
		n, seen := newer[name], m[name]
		if n.Evaluation < seen.Evaluation || n.Issued < seen.Issued {
			return fmt.Errorf("%s: %w: evaluation %d of %s, want at least %d of %s", name, ErrOlder,
				n.Evaluation, time.Unix(n.Issued, 0).UTC().Format(time.RFC3339), seen.Evaluation, time.Unix(seen.Issued, 0).UTC().Format(time.RFC3339))
		}
	}
	return nil
}
