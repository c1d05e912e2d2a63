// Package bundle carries a trust snapshot into a hospital that has no way out: one file, signed by a key that the
// hospital pins.
//
//	b, err := bundle.Export(snapshot, 7, created, expires, key)       // outside
//	m, err := bundle.Import("/var/lib/consilium/trust", b, now, pinned) // inside: refused unless its serial is higher
//	trust, err := bundle.Load("/var/lib/consilium/trust", now, pinned)  // and from then on
//
// A bundle is a tar archive that any tool unpacks: manifest.json, a DSSE envelope over [Manifest], then the snapshot's
// files below trust/. It is deterministic, and a file that differs in a byte from what Export writes is refused.
//
// Serials only rise. The highest that was seen is kept beside the bundle, so that a bundle once replaced stays so:
// with an older one come older revocation lists. Whoever can write the folder can take both back together.
package bundle

import (
	"archive/tar"
	"bytes"
	"crypto"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/attest/endorse/roots"
	"github.com/consilium-fl/consilium/internal/signed"
)

const (
	payloadType  = "application/vnd.consilium.trust+json"
	version      = "consilium.trust/v1"
	manifestName = "manifest.json"
	folder       = "trust/"
	maxManifest  = 1 << 20
)

// MaxBundle bounds a bundle, in bytes: a snapshot, with what the archive adds to each file.
const MaxBundle = endorse.MaxTotal + maxManifest + endorse.MaxFiles*2048

// Manifest is what is signed.
type Manifest struct {
	Version string    `json:"version"` // "consilium.trust/v1"
	Serial  uint64    `json:"serial"`  // from 1
	Created time.Time `json:"created"` // in whole seconds, UTC
	Expires time.Time `json:"expires"`
	Files   []File    `json:"files"` // by name
}

// File is one file of the snapshot.
type File struct {
	Name   string `json:"name"`
	Size   int    `json:"size"`
	SHA256 string `json:"sha256"` // "sha256:…"
}

// Bundle is one whose files are those that its manifest names. Nobody has checked who signed it.
type Bundle struct {
	Manifest Manifest
	Signers  []string // DSSE key ids: "sha256:…" of the Ed25519 key
	Trust    *endorse.Snapshot

	envelope signed.Envelope
	digest   [32]byte
}

// Export writes a snapshot as a bundle, signed by an Ed25519 key.
func Export(s *endorse.Snapshot, serial uint64, created, expires time.Time, key crypto.Signer) ([]byte, error) {
	m := Manifest{Version: version, Serial: serial, Created: created.UTC().Truncate(time.Second), Expires: expires.UTC().Truncate(time.Second), Files: []File{}}
	files := s.Files()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		m.Files = append(m.Files, File{Name: name, Size: len(files[name]), SHA256: signed.DigestText(signed.Digest(files[name]))})
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("exporting trust: %w", err)
	}
	payload, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("exporting trust: %w", err)
	}
	e, err := signed.SignEnvelope(payloadType, payload, key)
	if err != nil {
		return nil, fmt.Errorf("exporting trust: %w", err)
	}
	b, err := archive(m, e, files)
	if err != nil {
		return nil, fmt.Errorf("exporting trust: %w", err)
	}
	return b, nil
}

func archive(m Manifest, e signed.Envelope, files map[string][]byte) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(name string, content []byte) error {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: 0o444, ModTime: m.Created}); err != nil {
			return err
		}
		_, err := w.Write(content)
		return err
	}
	if err := add(manifestName, e.Encode()); err != nil {
		return nil, err
	}
	for _, f := range m.Files {
		if err := add(folder+f.Name, files[f.Name]); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func (m Manifest) check() error {
	if m.Version != version {
		return fmt.Errorf("version %q, want %q", m.Version, version)
	}
	if m.Serial == 0 {
		return errors.New("serial 0, want at least 1")
	}
	if !m.Expires.After(m.Created) {
		return fmt.Errorf("it expires at %s, want after its creation at %s", m.Expires.Format(time.RFC3339), m.Created.Format(time.RFC3339))
	}
	if len(m.Files) > endorse.MaxFiles {
		return fmt.Errorf("%d files, want at most %d", len(m.Files), endorse.MaxFiles)
	}
	total := 0
	for i, f := range m.Files {
		if i > 0 && m.Files[i-1].Name >= f.Name {
			return fmt.Errorf("file %q after %q, want each name once and in order", f.Name, m.Files[i-1].Name)
		}
		if f.Size < 0 || f.Size > endorse.MaxFile {
			return fmt.Errorf("file %q of %d bytes, want at most %d", f.Name, f.Size, endorse.MaxFile)
		}
		if total += f.Size; total > endorse.MaxTotal {
			return fmt.Errorf("more than %d bytes in all", endorse.MaxTotal)
		}
	}
	return nil
}

// Show reads a bundle for people to look at, whoever signed it and whenever.
func Show(b []byte) (*Bundle, error) {
	x, err := parse(b)
	if err != nil {
		return nil, fmt.Errorf("reading trust bundle: %w", err)
	}
	return x, nil
}

func parse(b []byte) (*Bundle, error) {
	if len(b) > MaxBundle {
		return nil, fmt.Errorf("%d bytes, want at most %d", len(b), MaxBundle)
	}
	r := tar.NewReader(bytes.NewReader(b))
	head, err := entry(r, manifestName, maxManifest)
	if err != nil {
		return nil, err
	}
	x := &Bundle{digest: signed.Digest(b)}
	if x.envelope, err = signed.ParseEnvelope(head, payloadType); err != nil {
		return nil, err
	}
	for _, s := range x.envelope.Signatures {
		x.Signers = append(x.Signers, s.KeyID)
	}
	if x.Manifest, err = parseManifest(x.envelope.Payload); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	files := map[string][]byte{}
	for _, f := range x.Manifest.Files {
		c, err := entry(r, folder+f.Name, f.Size)
		if err != nil {
			return nil, err
		}
		if got := signed.DigestText(signed.Digest(c)); got != f.SHA256 || len(c) != f.Size {
			return nil, fmt.Errorf("file %q is %s of %d bytes, want %s of %d", f.Name, got, len(c), f.SHA256, f.Size)
		}
		files[f.Name] = c
	}
	// An archive can say one thing in many ways; this takes the way that Export has.
	again, err := archive(x.Manifest, x.envelope, files)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, b) {
		return nil, errors.New("the archive is not as it is exported: another header, file or byte at its end")
	}
	x.Trust, err = endorse.New(files)
	return x, err
}

// entry reads the next file of an archive, which has to have this name.
func entry(r *tar.Reader, name string, limit int) ([]byte, error) {
	h, err := r.Next()
	if err != nil {
		return nil, fmt.Errorf("looking for %q: %w", name, err)
	}
	if h.Name != name || h.Typeflag != tar.TypeReg {
		return nil, fmt.Errorf("found %q of type %q, want the file %q", h.Name, h.Typeflag, name)
	}
	b, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", name, err)
	}
	if len(b) > limit {
		return nil, fmt.Errorf("reading %q: more than %d bytes", name, limit)
	}
	return b, nil
}

// parseManifest takes the one encoding that Export makes, so that no name is there twice and none is unknown.
func parseManifest(b []byte) (Manifest, error) {
	var m Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return Manifest{}, err
	}
	m.Created, m.Expires = m.Created.UTC().Truncate(time.Second), m.Expires.UTC().Truncate(time.Second)
	again, err := json.Marshal(m)
	if err != nil {
		return Manifest{}, err
	}
	if m.Files == nil || !bytes.Equal(again, b) {
		return Manifest{}, errors.New("it is not in canonical form (names, order, spaces, times in whole seconds and UTC)")
	}
	return m, m.check()
}

// open is parse, and demands one of the keys, the time and the vendors' own roots.
func open(b []byte, now time.Time, keys []ed25519.PublicKey) (*Bundle, error) {
	x, err := parse(b)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(keys, x.envelope.SignedBy) {
		return nil, fmt.Errorf("%w: signed by %q, want one of %q", signed.ErrSignature, strings.Join(x.Signers, " "), keyIDs(keys))
	}
	if now.Before(x.Manifest.Created) {
		return nil, fmt.Errorf("created at %s, want at most %s", x.Manifest.Created.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	if !now.Before(x.Manifest.Expires) {
		return nil, fmt.Errorf("serial %d: %w at %s", x.Manifest.Serial, endorse.ErrExpired, x.Manifest.Expires.Format(time.RFC3339))
	}
	return x, roots.Check(x.Trust.Index())
}

func keyIDs(keys []ed25519.PublicKey) string {
	var out []string
	for _, k := range keys {
		out = append(out, signed.KeyID(k))
	}
	return strings.Join(out, " ")
}
