package reference

import (
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/internal/signed"
)

const (
	// ManifestVersion is the version of a manifest.
	ManifestVersion = "consilium.reference/v1"
	// ManifestType is the DSSE payload type under which amenders sign a manifest.
	ManifestType = "application/vnd.consilium.reference+yaml"
	// MaxValidity is the longest that one version of a manifest may hold.
	MaxValidity = 400 * 24 * time.Hour

	maxEnvelope = signed.MaxEnvelope
	maxManifest = 64 // versions in one folder
)

var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Manifest is one version of reference values.
type Manifest struct {
	Name string
	// Consortium is the trust domain of those who sign: a hospital of two keeps one governance key, and what it signed in
	// one must not count in the other.
	Consortium string
	Serial     uint64 // from 1; rises with every version
	// Least is the lowest serial that holds beside this version: an older one ends at once when this one is seen.
	Least       uint64
	From, Until time.Time
	Policy      attest.Policy
	Digest      [32]byte // of the signed payload
}

// ParseManifest reads the payload of a manifest. Who signed it is for [Open] to say.
func ParseManifest(payload []byte) (Manifest, error) {
	m, err := parseManifest(payload)
	if err != nil {
		return Manifest{}, fmt.Errorf("parsing manifest of reference values: %w", err)
	}
	return m, nil
}

func parseManifest(payload []byte) (Manifest, error) {
	n, err := parse(payload)
	if err != nil {
		return Manifest{}, err
	}
	var f struct {
		Version    string      `yaml:"version"`
		Name       string      `yaml:"name"`
		Consortium string      `yaml:"consortium"`
		Role       attest.Role `yaml:"role"`
		Serial     uint64      `yaml:"serial"`
		Least      uint64      `yaml:"least"`
		Valid      struct {
			From  time.Time `yaml:"from"`
			Until time.Time `yaml:"until"`
		} `yaml:"valid"`
	}
	policy, head := split(n, "policy")
	if err := fill(head, reflect.ValueOf(&f).Elem(), ""); err != nil {
		return Manifest{}, err
	}
	m := Manifest{Name: f.Name, Consortium: f.Consortium, Serial: f.Serial, Least: f.Least, From: f.Valid.From.UTC(), Until: f.Valid.Until.UTC(), Digest: signed.Digest(payload)}
	switch {
	case f.Version != ManifestVersion:
		return Manifest{}, fmt.Errorf("version %q, want %q", f.Version, ManifestVersion)
	case !nameForm.MatchString(m.Name):
		return Manifest{}, fmt.Errorf("name %q, want lower-case letters, digits and hyphens, at most 63", m.Name)
	case m.Consortium == "":
		return Manifest{}, errors.New("consortium is empty, want its name")
	case m.Serial == 0 || m.Least == 0 || m.Least > m.Serial:
		return Manifest{}, fmt.Errorf("serial %d and least %d, want 1 or more and least no higher than serial", m.Serial, m.Least)
	case !m.Until.After(m.From) || m.Until.Sub(m.From) > MaxValidity:
		return Manifest{}, fmt.Errorf("valid from %s until %s, want a span of at most %d days", m.From.Format(time.RFC3339), m.Until.Format(time.RFC3339), int(MaxValidity.Hours())/24)
	case len(policy.Content) != 2:
		return Manifest{}, errors.New("policy is missing")
	}
	if m.Policy, err = parseBody(policy.Content[1], f.Role); err != nil {
		return Manifest{}, fmt.Errorf("policy: %w", err)
	}
	return m, nil
}

// Sign adds a signature to a manifest's envelope; nil begins one over payload, which has to parse.
func Sign(payload, envelope []byte, key crypto.Signer) ([]byte, error) {
	if _, err := ParseManifest(payload); err != nil {
		return nil, err
	}
	e := signed.Envelope{PayloadType: ManifestType, Payload: payload}
	if envelope != nil {
		var err error
		if e, err = signed.ParseEnvelope(envelope, ManifestType); err != nil {
			return nil, fmt.Errorf("signing manifest of reference values: %w", err)
		}
		if string(e.Payload) != string(payload) {
			return nil, errors.New("signing manifest of reference values: the signatures there are over another text")
		}
	}
	if err := e.Sign(key); err != nil {
		return nil, fmt.Errorf("signing manifest of reference values: %w", err)
	}
	return e.Encode(), nil
}

// Amenders are the keys that sign manifests of a consortium, and how many of them it takes.
type Amenders struct {
	Consortium string
	Keys       []ed25519.PublicKey
	Need       int
}

// Open reads a signed manifest: enough amenders have signed, each counted once.
func Open(envelope []byte, by Amenders) (Manifest, error) {
	if len(envelope) > maxEnvelope {
		return Manifest{}, fmt.Errorf("opening manifest of reference values: %d bytes, want at most %d", len(envelope), maxEnvelope)
	}
	e, err := signed.ParseEnvelope(envelope, ManifestType)
	if err != nil {
		return Manifest{}, fmt.Errorf("opening manifest of reference values: %w", err)
	}
	m, err := ParseManifest(e.Payload)
	if err != nil {
		return Manifest{}, err
	}
	if m.Consortium != by.Consortium {
		return Manifest{}, fmt.Errorf("opening manifest of reference values %s: it is of consortium %q, want %q", m.Name, m.Consortium, by.Consortium)
	}
	signers := map[string]bool{}
	for _, k := range by.Keys {
		if e.SignedBy(k) {
			signers[string(k)] = true
		}
	}
	if by.Need < 1 || len(signers) < by.Need {
		return Manifest{}, fmt.Errorf("opening manifest of reference values %s, serial %d: signed by %d amenders, want %d", m.Name, m.Serial, len(signers), max(1, by.Need))
	}
	return m, nil
}
