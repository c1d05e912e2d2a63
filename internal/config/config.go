// Package config reads the YAML files of the daemons and the CLI: strictly, with the place of every
// mistake. Unknown and duplicate keys, anchors, aliases and tags are errors.
//
//	var f struct{ Listen string `yaml:"listen"` }
//	if err := config.Decode("coordinator.yaml", text, "consilium.coordinator/v1", &f); err != nil { … }
package config

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

// MaxFile bounds a configuration file, in bytes.
const MaxFile = 1 << 20

// Read reads and decodes the file at path into v, whose `version` key must be want.
func Read(path, want string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("reading configuration: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	b, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return fmt.Errorf("reading configuration %s: %w", path, err)
	}
	return Decode(path, b, want, v)
}

// Decode decodes b, named name in errors, into v.
func Decode(name string, b []byte, want string, v any) error {
	if len(b) > MaxFile {
		return fmt.Errorf("reading configuration %s: more than %d bytes", name, MaxFile)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return fmt.Errorf("reading configuration %s: %w", name, err)
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return fmt.Errorf("reading configuration %s: want one mapping", name)
	}
	if err := plain(doc.Content[0]); err != nil {
		return fmt.Errorf("reading configuration %s: %w", name, err)
	}
	if err := version(doc.Content[0], want); err != nil {
		return fmt.Errorf("reading configuration %s: %w", name, err)
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("reading configuration %s: %w", name, err)
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading configuration %s: more than one document", name)
	}
	return nil
}

// plain refuses what makes one text mean two things to two readers.
func plain(n *yaml.Node) error {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		return fmt.Errorf("%d:%d: anchors and aliases are not allowed", n.Line, n.Column)
	case n.Style&yaml.TaggedStyle != 0:
		return fmt.Errorf("%d:%d: tags are not allowed", n.Line, n.Column)
	}
	for _, c := range n.Content {
		if err := plain(c); err != nil {
			return err
		}
	}
	return nil
}

func version(m *yaml.Node, want string) error {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == "version" {
			if got := m.Content[i+1].Value; got != want {
				return fmt.Errorf("%d:%d: version is %q, want %q", m.Content[i+1].Line, m.Content[i+1].Column, got, want)
			}
			return nil
		}
	}
	return fmt.Errorf("version is missing, want %q", want)
}

// Path resolves a path of a configuration file against the file's own folder; an empty one stays empty.
func Path(file, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(file), path)
}

// Digest is a "sha256:…" value of a configuration file.
type Digest [32]byte

// UnmarshalYAML reads the text form.
func (d *Digest) UnmarshalYAML(n *yaml.Node) error {
	h, ok := strings.CutPrefix(n.Value, "sha256:")
	b, err := hex.DecodeString(h)
	if !ok || err != nil || len(b) != 32 || strings.ToLower(h) != h {
		return fmt.Errorf("%d:%d: got %q, want sha256: and 64 lower-case hex digits", n.Line, n.Column, n.Value)
	}
	copy(d[:], b)
	return nil
}
