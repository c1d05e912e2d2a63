package attest

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/attest/internal/strict"
	"github.com/consilium-fl/consilium/internal/signed"
)

// Bounds of a Record.
const (
	MaxRecord = MaxEvidence + MaxEventLog + 64<<10 // bytes
	MaxKeys   = 16                                 // keys of a role
)

// Record is one party's evidence with all that is needed to appraise it again from storage. The
// same value is what a prover sends on a connection, where the verifier puts the Binding that it
// computed itself in place of the one it was told.
type Record struct {
	Evidence Evidence `cbor:"1,keyasint"`
	Binding  Binding  `cbor:"2,keyasint"`
	Keys     [][]byte `cbor:"3,keyasint"` // the role's, in order
	Posture  []byte   `cbor:"4,keyasint"` // as encoded by Posture.Encode
	// LogSignature is the coordinator's alone: its pinned log key over the Binding's canonical
	// CBOR, kind "binding". A broken chip elsewhere cannot make it.
	LogSignature []byte `cbor:"5,keyasint"`
}

// KeyListDigest is SHA-256 over the canonical CBOR of the ordered list of public keys (SPKI DER
// or raw Ed25519).
func KeyListDigest(keys [][]byte) [32]byte {
	if keys == nil {
		keys = [][]byte{}
	}
	b, err := signed.Encode(keys)
	if err != nil {
		panic("attest: a list of byte strings always encodes: " + err.Error())
	}
	return sha256.Sum256(b)
}

// Encode returns the canonical CBOR: the file that an output folder keeps under evidence/.
func (r Record) Encode() ([]byte, error) {
	if len(r.Keys) > MaxKeys {
		return nil, fmt.Errorf("encoding record: %d keys, want at most %d", len(r.Keys), MaxKeys)
	}
	b, err := signed.Encode(r)
	if err != nil {
		return nil, fmt.Errorf("encoding record: %w", err)
	}
	if len(b) > MaxRecord {
		return nil, fmt.Errorf("encoding record: %d bytes, want at most %d", len(b), MaxRecord)
	}
	return b, nil
}

// ParseRecord reads what Encode wrote, and nothing else. It judges nothing: see Recheck.
func ParseRecord(b []byte) (Record, error) {
	var r Record
	if err := strict.Decode(b, MaxRecord, &r); err != nil {
		return Record{}, fmt.Errorf("parsing record: %w", err)
	}
	if len(r.Keys) > MaxKeys {
		return Record{}, fmt.Errorf("parsing record: %d keys, want at most %d", len(r.Keys), MaxKeys)
	}
	return r, nil
}

// SignedBy gives the reason why the record's binding is not signed by the pinned log key.
func (r Record) SignedBy(log ed25519.PublicKey) []Reason {
	refused := []Reason{{Code: CodeLogSignature, Path: "log_signature", Got: "no good signature", Want: "one by " + signed.KeyText(log)}}
	b, err := r.Binding.Encode()
	if err != nil || signed.Verify(log, KindBinding, b, r.LogSignature) != nil {
		return refused
	}
	return nil
}

// Recheck appraises a record at the moment `at`: KeyList against the keys, Config and the expectation
// against the posture, the evidence against the report data of the binding. Nothing is taken
// from the record's word, but for the binding itself: on a live connection the caller has put its own
// there, and in storage it names the session that the evidence was for.
func (vs Verifiers) Recheck(r Record, at time.Time, trust *endorse.Snapshot, want PostureExpect, policies ...Policy) Result {
	var rs []Reason
	for _, p := range policies {
		if p.Role != r.Binding.Role {
			rs = append(rs, Reason{Code: CodeConfig, Path: "policy.role", Got: fmt.Sprintf("%q", p.Role), Want: fmt.Sprintf("%q", r.Binding.Role)})
		}
	}
	if got := KeyListDigest(r.Keys); got != r.Binding.KeyList {
		rs = append(rs, Reason{Code: CodeBindingKeyList, Path: "binding.key_list", Got: signed.DigestText(r.Binding.KeyList), Want: signed.DigestText(got)})
	}
	if got := sha256.Sum256(r.Posture); got != r.Binding.Config {
		rs = append(rs, Reason{Code: CodeBindingConfig, Path: "binding.config", Got: signed.DigestText(r.Binding.Config), Want: signed.DigestText(got)})
	}
	if posture, err := ParsePosture(r.Posture); err != nil {
		rs = append(rs, Reason{Code: CodeParsePosture, Path: "posture", Got: err.Error()})
	} else {
		rs = append(rs, CheckPosture(posture, want)...)
		if kind := r.Evidence.Format.TEE(); posture.TEE != kind {
			rs = append(rs, Reason{Code: CodePostureTEE, Path: "posture.tee", Got: fmt.Sprintf("%q", posture.TEE), Want: fmt.Sprintf("%q, which made the evidence", kind)})
		}
	}
	data, err := r.Binding.ReportData(r.Evidence.Path)
	if err != nil {
		// Without report data there is nothing to compare with: refuse before the evidence is read.
		rs = append(rs, Reason{Code: CodeBindingZero, Path: "binding", Got: err.Error()})
		return Result{Claims: Claims{Format: r.Evidence.Format}, NotChecked: []string{NotCheckedBinding}, Trust: trust.Digest()}.refuse(rs...)
	}
	return vs.Check(r.Evidence, Inputs{Now: at, ReportData: &data, Trust: trust}, policies...).refuse(rs...)
}
