package attest

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"
)

// Set is the values that a policy takes for one thing: those listed, or any. The zero Set takes none. In YAML
// and JSON it is a list, or the word any.
type Set struct {
	Any bool
	Of  []string
}

// AnySet takes every value; what it was asked about is listed in Result.NotChecked.
func AnySet() Set { return Set{Any: true} }

// SetOf takes the values listed.
func SetOf[T ~string](values ...T) Set {
	s := Set{Of: make([]string, 0, len(values))}
	for _, v := range values {
		s.Of = append(s.Of, string(v))
	}
	s.Of = sortedSet(s.Of)
	return s
}

// Has says whether the set takes v.
func (s Set) Has(v string) bool { return s.Any || slices.Contains(s.Of, v) }

// hasBytes knows a value in hex, and the word zero for one that is all zero.
func (s Set) hasBytes(b HexBytes) bool {
	var room [128]byte
	text := hex.AppendEncode(room[:0], b)
	return s.Any || slices.ContainsFunc(s.Of, func(x string) bool { return x == string(text) || x == "zero" && b.zero() })
}

func (s Set) String() string {
	if s.Any {
		return "any"
	}
	if len(s.Of) > 4 {
		return fmt.Sprintf("one of %d listed", len(s.Of))
	}
	return fmt.Sprintf("one of %q", s.Of)
}

// MarshalJSON writes the list, or the word any.
func (s Set) MarshalJSON() ([]byte, error) {
	if s.Any {
		return json.Marshal("any")
	}
	return json.Marshal(sortedSet(append([]string{}, s.Of...)))
}

// UnmarshalYAML reads a list of texts, or the word any.
func (s *Set) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode && n.Value == "any" {
		*s = AnySet()
		return nil
	}
	var of []string
	if n.Kind != yaml.SequenceNode || n.Decode(&of) != nil {
		return fmt.Errorf("line %d: want a list, or the word any", n.Line)
	}
	*s = SetOf(of...)
	if len(s.Of) != len(of) {
		return fmt.Errorf("line %d: a value is listed twice", n.Line)
	}
	return nil
}
