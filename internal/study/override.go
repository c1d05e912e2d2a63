package study

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/consilium-fl/consilium/internal/signed"
)

// WithConsortium returns the text of a study whose `consortium:` names digest instead, and which is otherwise the same.
// Templates and samples carry 64 zeros there, because the file they name is made where they are used.
func WithConsortium(raw []byte, digest [32]byte) ([]byte, error) {
	return Override(raw, "consortium", signed.DigestText(digest))
}

// Override returns the text of a study (or a consortium) with one plain scalar replaced, all other bytes as they were:
// the simulation writes another ε, or a consortium's digest, into a copy. field is a path such as
// privacy.epsilon. The result is another study with another digest.
func Override(raw []byte, field, value string) ([]byte, error) {
	d := &document{}
	n, err := d.load(raw)
	if err != nil {
		return nil, fmt.Errorf("overriding %s: got %w", field, err)
	}
	for _, key := range strings.Split(field, ".") {
		if n = child(n, key); n == nil {
			return nil, fmt.Errorf("overriding %s: no such field", field)
		}
	}
	if n.Kind != yaml.ScalarNode || n.Style != 0 || n.Value == "" || n.Line > len(d.lines) {
		return nil, fmt.Errorf("overriding %s: got %s, want one plain value", field, describe(n))
	}
	line := []rune(d.lines[n.Line-1])
	before, after := string(line[:n.Column-1]), string(line[n.Column-1:])
	rest, ok := strings.CutPrefix(after, n.Value)
	if !ok {
		return nil, fmt.Errorf("overriding %s: got a value of several lines, want one plain value", field)
	}
	d.lines[n.Line-1] = before + value + rest
	return []byte(strings.Join(d.lines, "\n")), nil
}
