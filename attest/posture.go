package attest

import (
	"fmt"
	"slices"

	"github.com/consilium-fl/consilium/attest/internal/strict"
	"github.com/consilium-fl/consilium/internal/signed"
)

// Posture is what changes what the measured code enforces. It travels beside the evidence;
// Binding.Config is the SHA-256 of its encoding.
type Posture struct {
	Consortium [32]byte `cbor:"1,keyasint"` // digest of the consortium file that the study names
	Policy     [32]byte `cbor:"2,keyasint"`
	Insecure   []string `cbor:"3,keyasint"` // flags that are on, sorted: "simulated_tee"
	TEE        string   `cbor:"4,keyasint"` // "sim"
}

const maxPosture = 4 << 10 // bytes

// Encode returns the canonical CBOR, with the flags sorted and each once.
func (p Posture) Encode() ([]byte, error) {
	p.Insecure = sortedSet(p.Insecure)
	b, err := signed.Encode(p)
	if err != nil {
		return nil, fmt.Errorf("encoding posture: %w", err)
	}
	return b, nil
}

// ParsePosture reads what Encode wrote, and nothing else.
func ParsePosture(b []byte) (Posture, error) {
	var p Posture
	if err := strict.Decode(b, maxPosture, &p); err != nil {
		return Posture{}, fmt.Errorf("parsing posture: %w", err)
	}
	if !slices.Equal(p.Insecure, sortedSet(p.Insecure)) {
		return Posture{}, fmt.Errorf("parsing posture: insecure flags %q: want them sorted, each once", p.Insecure)
	}
	return p, nil
}

// PostureExpect is what the appraiser's own files say about the peer's posture.
type PostureExpect struct {
	Consortium [32]byte // zero refuses
	// Policy pins the digest; zero records it only, for extra rules can do no more than refuse.
	Policy   [32]byte
	Insecure []string // flags that the own file allows
	TEE      []string // kinds that are taken; empty refuses
}

// CheckPosture gives every reason not to accept p.
func CheckPosture(p Posture, want PostureExpect) []Reason {
	var rs []Reason
	if want.Consortium == [32]byte{} || p.Consortium != want.Consortium {
		rs = append(rs, Reason{Code: CodePostureConsortium, Path: "posture.consortium", Got: signed.DigestText(p.Consortium), Want: signed.DigestText(want.Consortium)})
	}
	if want.Policy != [32]byte{} && p.Policy != want.Policy {
		rs = append(rs, Reason{Code: CodePosturePolicy, Path: "posture.policy", Got: signed.DigestText(p.Policy), Want: signed.DigestText(want.Policy)})
	}
	for _, flag := range p.Insecure {
		if !slices.Contains(want.Insecure, flag) {
			rs = append(rs, Reason{Code: CodePostureInsecure, Path: "posture.insecure", Got: fmt.Sprintf("%q", flag), Want: fmt.Sprintf("none but %q", want.Insecure)})
		}
	}
	if !slices.Contains(want.TEE, p.TEE) {
		rs = append(rs, Reason{Code: CodePostureTEE, Path: "posture.tee", Got: fmt.Sprintf("%q", p.TEE), Want: fmt.Sprintf("one of %q", want.TEE)})
	}
	return rs
}
