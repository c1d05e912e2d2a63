package audit

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strings"

	"github.com/consilium-fl/consilium/internal/signed"
)

// What a receipt is, to a reader of in-toto statements and of DSSE.
const (
	StatementType      = "https://in-toto.io/Statement/v1"
	ReceiptType        = "https://consilium-fl.dev/receipt/v1"
	ReceiptPayloadType = "application/vnd.in-toto+json"
)

// A Receipt is the in-toto Statement that comes with a model: which files it is about, and who
// trained it, on which code, under which policy, at what cost in privacy. The file is canonical
// JSON (these keys in this order, no spaces, numbers as RFC 8785 writes them) in a DSSE envelope
// with one signature, by the receipt key that the coordinator's evidence binds.
type Receipt struct {
	Type          string    `json:"_type"`
	Subject       []Subject `json:"subject"` // every file of the output folder but the receipt and the two views; sorted by name
	PredicateType string    `json:"predicateType"`
	Predicate     Predicate `json:"predicate"`
}

// Subject is one file: its path in the folder, with slashes, and its digest.
type Subject struct {
	Name   string        `json:"name"`
	Digest SubjectDigest `json:"digest"`
}

// SubjectDigest is the digest of a file as in-toto writes it.
type SubjectDigest struct {
	SHA256 HexDigest `json:"sha256"`
}

// Predicate is what the receipt says about its subjects.
type Predicate struct {
	Study       Digest             `json:"study"`
	Consortium  Digest             `json:"consortium"`
	Simulated   bool               `json:"simulated"`
	Coordinator ReceiptCoordinator `json:"coordinator"`
	Hospitals   []ReceiptHospital  `json:"hospitals"` // sorted by name
	HiddenAmong int                `json:"hidden_among"`
	Privacy     ReceiptPrivacy     `json:"privacy"`
	Rounds      []ReceiptRound     `json:"rounds"` // by rising number
	Log         ReceiptLog         `json:"log"`
}

// ReceiptCoordinator is how the coordinator was attested: Policy is the digest of the appraisal policy, Trust that of the
// snapshot of certificates, lists and collateral that it was appraised with.
type ReceiptCoordinator struct {
	Measurement string `json:"measurement"`
	Evidence    Digest `json:"evidence"`
	Status      string `json:"status"`
	Policy      Digest `json:"policy"`
	Trust       Digest `json:"trust"`
}

// ReceiptHospital is how a hospital approved, was attested (as a coordinator is), and the rounds whose set it was in.
type ReceiptHospital struct {
	Name     string   `json:"name"`
	Approval Digest   `json:"approval"`
	Evidence Digest   `json:"evidence"`
	Status   string   `json:"status"`
	Policy   Digest   `json:"policy"`
	Trust    Digest   `json:"trust"`
	Rounds   []uint64 `json:"rounds"`
}

// ReceiptPrivacy is the privacy spent, for a patient of any hospital. Epsilon holds against up to c
// colluding hospitals; EpsilonIfTEEBroken also against a coordinator that lies; EpsilonOwnNoise also
// where every other hospital colludes. The last two are null under central noise, which is then all
// there is.
type ReceiptPrivacy struct {
	Unit               string         `json:"unit"`
	Neighbours         string         `json:"neighbours"`
	Epsilon            float64        `json:"epsilon"`
	EpsilonBudget      float64        `json:"epsilon_budget"`
	EpsilonIfTEEBroken *float64       `json:"epsilon_if_tee_broken"`
	EpsilonOwnNoise    *float64       `json:"epsilon_own_noise"`
	Delta              float64        `json:"delta"`
	Noise              string         `json:"noise"` // distributed or central
	HonestShares       int            `json:"honest_shares"`
	Events             []ReceiptEvent `json:"events"`
	Ledger             Digest         `json:"ledger"`
}

// ReceiptEvent is what epsilon is recomputed from: count releases of a mechanism of that noise
// multiplier (σ over sensitivity).
type ReceiptEvent struct {
	Kind       string  `json:"kind"`
	Multiplier float64 `json:"multiplier"`
	Count      uint64  `json:"count"`
}

// ReceiptRound is one round. Certificate and Model are null where the round did not get so far.
type ReceiptRound struct {
	Number      uint64   `json:"number"`
	Outcome     string   `json:"outcome"` // closed, aborted or burnt
	Plan        Digest   `json:"plan"`
	Set         []string `json:"set"`
	Certificate *Digest  `json:"certificate"`
	Model       *Digest  `json:"model"`
}

// ReceiptLog is the counted checkpoint that covers all of it, and the index of leaves by kind.
type ReceiptLog struct {
	Origin   string            `json:"origin"`
	Size     uint64            `json:"size"`
	Root     Root              `json:"root"`
	Cosigned []string          `json:"cosigned"` // exactly the co-signatures on log/checkpoint
	Leaves   map[string]uint64 `json:"leaves"`
}

// Root is an RFC 6962 root; in JSON it is base64, as on the checkpoint.
type Root [32]byte

// MarshalText makes the form of a checkpoint.
func (r Root) MarshalText() ([]byte, error) {
	return base64.StdEncoding.AppendEncode(nil, r[:]), nil
}

// UnmarshalText reads what MarshalText wrote, and nothing else.
func (r *Root) UnmarshalText(b []byte) error {
	v, err := base64.StdEncoding.Strict().DecodeString(string(b))
	if err != nil || len(v) != len(r) {
		return fmt.Errorf("root %q, want 32 bytes in base64", b)
	}
	copy(r[:], v)
	return nil
}

// HexDigest is a SHA-256 in bare hex, as in-toto writes it.
type HexDigest [32]byte

// MarshalText makes 64 lower-case hex digits.
func (d HexDigest) MarshalText() ([]byte, error) {
	return []byte(strings.TrimPrefix(signed.DigestText(d), "sha256:")), nil
}

// UnmarshalText reads what MarshalText wrote, and nothing else.
func (d *HexDigest) UnmarshalText(b []byte) error {
	v, err := signed.ParseDigest("sha256:" + string(b))
	*d = v
	return err
}

// MakeReceipt fills in the types, sorts what is sorted, and returns receipt.json, signed by the
// receipt key.
func MakeReceipt(r Receipt, key crypto.Signer) ([]byte, error) {
	r.Type, r.PredicateType = StatementType, ReceiptType
	r.Subject = slices.SortedFunc(slices.Values(r.Subject), func(a, b Subject) int { return cmp.Compare(a.Name, b.Name) })
	r.Predicate.Hospitals = slices.SortedFunc(slices.Values(r.Predicate.Hospitals), func(a, b ReceiptHospital) int { return cmp.Compare(a.Name, b.Name) })
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("making receipt: %w", err)
	}
	b, err := r.encode()
	if err != nil {
		return nil, fmt.Errorf("making receipt: %w", err)
	}
	e, err := signed.SignEnvelope(ReceiptPayloadType, b, key)
	if err != nil {
		return nil, fmt.Errorf("making receipt: %w", err)
	}
	return e.Encode(), nil
}

// ParseReceipt reads receipt.json. The receipt names the evidence in which its key is found, so key
// is asked with the receipt that is not yet verified; nothing else gets to see that.
func ParseReceipt(b []byte, key func(unverified Receipt) (ed25519.PublicKey, error)) (Receipt, error) {
	r, e, err := parseReceipt(b)
	if err != nil {
		return Receipt{}, fmt.Errorf("parsing receipt: %w", err)
	}
	k, err := key(r)
	if err != nil {
		return Receipt{}, fmt.Errorf("verifying receipt: %w", err)
	}
	if len(e.Signatures) != 1 || !e.SignedBy(k) {
		return Receipt{}, fmt.Errorf("verifying receipt: %d signatures, want one, by %s: %w", len(e.Signatures), signed.KeyText(k), signed.ErrSignature)
	}
	return r, nil
}

func parseReceipt(b []byte) (Receipt, signed.Envelope, error) {
	var r Receipt
	e, err := signed.ParseEnvelope(b, ReceiptPayloadType)
	if err != nil {
		return r, e, err
	}
	d := json.NewDecoder(bytes.NewReader(e.Payload))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return r, e, err
	}
	if err := r.check(); err != nil {
		return r, e, err
	}
	again, err := r.encode()
	if err == nil && !bytes.Equal(again, e.Payload) {
		err = errors.New("the statement is not in canonical form (keys, their order, numbers, or spaces)")
	}
	return r, e, err
}

func (r Receipt) encode() ([]byte, error) {
	r.fill()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(r); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// fill makes empty lists and maps of absent ones, so that a statement has one form.
func (r *Receipt) fill() {
	p := &r.Predicate
	p.Hospitals, p.Rounds = slices.Clone(p.Hospitals), slices.Clone(p.Rounds)
	for i := range p.Hospitals {
		p.Hospitals[i].Rounds = orEmpty(p.Hospitals[i].Rounds)
	}
	for i := range p.Rounds {
		p.Rounds[i].Set = orEmpty(p.Rounds[i].Set)
	}
	r.Subject, p.Hospitals, p.Rounds = orEmpty(r.Subject), orEmpty(p.Hospitals), orEmpty(p.Rounds)
	p.Privacy.Events, p.Log.Cosigned = orEmpty(p.Privacy.Events), orEmpty(p.Log.Cosigned)
	if p.Log.Leaves == nil {
		p.Log.Leaves = map[string]uint64{}
	}
}

func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

func (r Receipt) check() error {
	if r.Type != StatementType || r.PredicateType != ReceiptType {
		return fmt.Errorf("statement %q of type %q, want %q of type %q", r.Type, r.PredicateType, StatementType, ReceiptType)
	}
	if len(r.Subject) == 0 {
		return errors.New("no subject")
	}
	for i, s := range r.Subject {
		if !fs.ValidPath(s.Name) || s.Name == "." || strings.ContainsAny(s.Name, "\\:\x00") {
			return fmt.Errorf("subject %q, want a path below the folder", s.Name)
		}
		if i > 0 && s.Name <= r.Subject[i-1].Name {
			return fmt.Errorf("subject %q after %q, want each once, sorted", s.Name, r.Subject[i-1].Name)
		}
	}
	return r.Predicate.check()
}

func (p Predicate) check() error {
	for i, h := range p.Hospitals {
		if i > 0 && h.Name <= p.Hospitals[i-1].Name {
			return fmt.Errorf("hospital %q after %q, want each once, sorted", h.Name, p.Hospitals[i-1].Name)
		}
	}
	for i, r := range p.Rounds {
		if i > 0 && r.Number <= p.Rounds[i-1].Number {
			return fmt.Errorf("round %d after %d, want rising numbers", r.Number, p.Rounds[i-1].Number)
		}
		switch {
		case r.Outcome != "closed" && r.Outcome != "aborted" && r.Outcome != "burnt":
			return fmt.Errorf("round %d: outcome %q, want closed, aborted or burnt", r.Number, r.Outcome)
		case r.Outcome == "closed" && (r.Certificate == nil || r.Model == nil):
			return fmt.Errorf("round %d closed without certificate or model", r.Number)
		}
	}
	for kind, i := range p.Log.Leaves {
		if i >= p.Log.Size {
			return fmt.Errorf("leaf %q at %d of a log of size %d", kind, i, p.Log.Size)
		}
	}
	if _, _, err := parseOrigin(p.Log.Origin); err != nil {
		return err
	}
	return p.Privacy.check()
}

func (p ReceiptPrivacy) check() error {
	figures := []*float64{&p.Epsilon, &p.EpsilonBudget, &p.Delta, p.EpsilonIfTEEBroken, p.EpsilonOwnNoise}
	for _, f := range figures {
		if f != nil && (math.IsNaN(*f) || math.IsInf(*f, 0) || *f < 0) {
			return fmt.Errorf("a privacy figure of %v, want a number from zero", *f)
		}
	}
	if p.Noise != "distributed" && p.Noise != "central" {
		return fmt.Errorf("noise %q, want distributed or central", p.Noise)
	}
	distributed := p.Noise == "distributed"
	if (p.EpsilonIfTEEBroken != nil) != distributed || (p.EpsilonOwnNoise != nil) != distributed {
		return fmt.Errorf("epsilon_if_tee_broken and epsilon_own_noise: want both under distributed noise, null under central")
	}
	return nil
}
