package audit

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/consilium-fl/consilium/internal/signed"
)

// MaxLeaf bounds an encoded leaf, in bytes.
const MaxLeaf = 1024

// Kind of a leaf: 1 to 32 lower-case letters and hyphens.
type Kind string

// The kinds in use. A reader takes kinds it does not know: a later version may log more.
const (
	Boot       Kind = "boot"       // a node started: Object is the digest of its 16 random bytes
	Admission  Kind = "admission"  // Object is the digest of the evidence
	Refusal    Kind = "refusal"    // Object is the digest of the reasons
	Approval   Kind = "approval"   // Object is the digest of the approval file
	Enrolment  Kind = "enrolment"  // Object is the digest of the enrolment file
	Study      Kind = "study"      // Object is the study's digest
	Plan       Kind = "plan"       // Object is the digest of the signed plan
	Set        Kind = "set"        // Object is the digest of the certificate
	Charge     Kind = "charge"     // Object is the digest of the charge; Subject is the hospital, or the coordinator
	Result     Kind = "result"     // Object is the digest of the signed result
	Release    Kind = "release"    // Object is the digest of the released model
	Quarantine Kind = "quarantine" // Object is the digest of the grounds
	Cancel     Kind = "cancel"     // Object is the digest of the request
)

// A Leaf is one entry of a log. It holds digests and names only: whatever they stand for is kept,
// and can be erased, elsewhere.
type Leaf struct {
	Kind    Kind
	Time    time.Time // UTC, milliseconds
	Study   [32]byte  // of a study's log: that study; of a consortium's: zero, or the study it is about
	Round   uint64    // 0: of no round
	Subject string    // a name, not free text: at most 128 of A-Z a-z 0-9 . _ / : @ + -
	Object  [32]byte
}

const timeLayout = "2006-01-02T15:04:05.000Z"

type leafJSON struct {
	Kind    Kind   `json:"kind"`
	Time    string `json:"time"`
	Study   Digest `json:"study"`
	Round   uint64 `json:"round"`
	Subject string `json:"subject"`
	Object  Digest `json:"object"`
}

// Encode returns the canonical JSON of the leaf: every key, in this order, no spaces, the time cut
// to milliseconds. It takes any leaf; [ParseLeaf] tells whether it is a good one.
func (l Leaf) Encode() []byte {
	b, err := json.Marshal(leafJSON{
		Kind: l.Kind, Time: l.Time.UTC().Format(timeLayout), Study: l.Study,
		Round: l.Round, Subject: l.Subject, Object: l.Object,
	})
	if err != nil {
		panic("audit: a struct of strings, numbers and digests always encodes: " + err.Error())
	}
	return b
}

// ParseLeaf reads what Encode wrote for a good leaf, byte for byte, and nothing else.
func ParseLeaf(b []byte) (Leaf, error) {
	if len(b) > MaxLeaf {
		return Leaf{}, fmt.Errorf("parsing leaf: %d bytes, want at most %d", len(b), MaxLeaf)
	}
	var j leafJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return Leaf{}, fmt.Errorf("parsing leaf: %w", err)
	}
	t, err := time.Parse(timeLayout, j.Time)
	if err != nil {
		return Leaf{}, fmt.Errorf("parsing leaf: time: %w", err)
	}
	l := Leaf{Kind: j.Kind, Time: t, Study: j.Study, Round: j.Round, Subject: j.Subject, Object: j.Object}
	if err := l.check(); err != nil {
		return Leaf{}, fmt.Errorf("parsing leaf: %w", err)
	}
	if !bytes.Equal(l.Encode(), b) {
		return Leaf{}, fmt.Errorf("parsing leaf of kind %q: not in canonical form (keys, their order, or spaces)", l.Kind)
	}
	return l, nil
}

func (l Leaf) check() error {
	if n := len(l.Kind); n < 1 || n > 32 || strings.Trim(string(l.Kind), "abcdefghijklmnopqrstuvwxyz-") != "" {
		return fmt.Errorf("kind %q, want 1 to 32 lower-case letters and hyphens", l.Kind)
	}
	if len(l.Subject) > 128 || strings.IndexFunc(l.Subject, notInName) >= 0 {
		return fmt.Errorf("subject %q, want at most 128 of letters, digits and ._/:@+-", l.Subject)
	}
	if l.Time.IsZero() {
		return fmt.Errorf("no time")
	}
	return nil
}

func notInName(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._/:@+-", r)
}

// LeafHash is the RFC 6962 hash of an encoded leaf: SHA-256 of a zero byte and the leaf.
func LeafHash(leaf []byte) [32]byte { return tlog.RecordHash(leaf) }

// Origin names a log: "heart.example/log/<study in hex>", or "heart.example/log" for the log of the
// consortium itself, when study is zero.
func Origin(consortium string, study [32]byte) string {
	if study == ([32]byte{}) {
		return consortium + "/log"
	}
	return consortium + "/log/" + hex.EncodeToString(study[:])
}

// parseOrigin undoes Origin.
func parseOrigin(origin string) (consortium string, study [32]byte, err error) {
	consortium, rest, _ := strings.Cut(origin, "/")
	if h, ok := strings.CutPrefix(rest, "log/"); ok {
		study, err = signed.ParseDigest("sha256:" + h)
	}
	if err != nil || consortium == "" || len(origin) > 256 || strings.ContainsFunc(consortium, notInName) || Origin(consortium, study) != origin {
		return "", study, fmt.Errorf("origin %q, want \"<consortium>/log\" or \"<consortium>/log/<64 hex digits>\"", origin)
	}
	return consortium, study, nil
}

// CheckOrigin says whether a text is the origin of a log.
func CheckOrigin(origin string) error {
	_, _, err := parseOrigin(origin)
	return err
}

// CheckOrigin says whether the leaf may stand in the log of that origin: a study's log holds leaves
// of that study alone.
func (l Leaf) CheckOrigin(origin string) error {
	_, study, err := parseOrigin(origin)
	if err != nil {
		return err
	}
	if study != ([32]byte{}) && l.Study != study {
		return fmt.Errorf("leaf of kind %q is of study %s, want %s", l.Kind, signed.DigestText(l.Study), signed.DigestText(study))
	}
	return nil
}

// Digest is a SHA-256 that reads "sha256:…" in JSON.
type Digest [32]byte

// MarshalText makes the form digests have in files.
func (d Digest) MarshalText() ([]byte, error) { return []byte(signed.DigestText(d)), nil }

// UnmarshalText reads what MarshalText wrote, and nothing else.
func (d *Digest) UnmarshalText(b []byte) error {
	v, err := signed.ParseDigest(string(b))
	*d = v
	return err
}
