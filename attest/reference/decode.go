package reference

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// maxFile bounds a policy file and a manifest's payload, in bytes.
const maxFile = 1 << 20

var (
	durationType    = reflect.TypeFor[time.Duration]()
	unmarshalerType = reflect.TypeFor[yaml.Unmarshaler]()
)

// parse reads one plain mapping: no anchors, aliases, tags or second document.
func parse(b []byte) (*yaml.Node, error) {
	if len(b) > maxFile {
		return nil, fmt.Errorf("%d bytes, want at most %d", len(b), maxFile)
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	var doc yaml.Node
	if err := d.Decode(&doc); err != nil {
		return nil, err
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one document")
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return nil, errors.New("want one mapping")
	}
	return doc.Content[0], plain(doc.Content[0])
}

// plain refuses what makes one text mean two things to two readers.
func plain(n *yaml.Node) error {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		return fmt.Errorf("line %d: anchors and aliases are not allowed", n.Line)
	case n.Style&yaml.TaggedStyle != 0:
		return fmt.Errorf("line %d: tags are not allowed", n.Line)
	}
	for _, c := range n.Content {
		if err := plain(c); err != nil {
			return err
		}
	}
	return nil
}

// fill decodes n into v, which path names in errors. A struct's every key has to be there, but for those whose tag
// says omitempty, and no other.
func fill(n *yaml.Node, v reflect.Value, path string) error {
	switch {
	case v.Type() == durationType:
		d, err := time.ParseDuration(n.Value)
		if n.Kind != yaml.ScalarNode || err != nil {
			return fmt.Errorf("line %d: %s: got %q, want a duration such as 1h", n.Line, path, n.Value)
		}
		v.SetInt(int64(d))
		return nil
	case v.CanAddr() && v.Addr().Type().Implements(unmarshalerType), v.Type() == reflect.TypeFor[time.Time]():
		if err := n.Decode(v.Addr().Interface()); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
	}
	switch v.Kind() {
	case reflect.Pointer:
		if n.Kind == yaml.ScalarNode && n.Value == "none" {
			return nil
		}
		v.Set(reflect.New(v.Type().Elem()))
		return fill(n, v.Elem(), path)
	case reflect.Struct:
		return fillStruct(n, v, path)
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			return fmt.Errorf("line %d: %s: want a list", n.Line, path)
		}
		v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
		for i, item := range n.Content {
			if err := fill(item, v.Index(i), fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return err
			}
		}
		return nil
	case reflect.Map:
		return fillMap(n, v, path)
	}
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		return fmt.Errorf("line %d: %s: want one value", n.Line, path)
	}
	if err := n.Decode(v.Addr().Interface()); err != nil {
		return fmt.Errorf("line %d: %s: got %q, want %s", n.Line, path, n.Value, v.Type())
	}
	return nil
}

func fillMap(n *yaml.Node, v reflect.Value, path string) error {
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: %s: want a mapping", n.Line, path)
	}
	v.Set(reflect.MakeMap(v.Type()))
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		if err := fill(n.Content[i], key, path); err != nil {
			return err
		}
		if v.MapIndex(key).IsValid() {
			return fmt.Errorf("line %d: %s: %q is there twice", n.Content[i].Line, path, n.Content[i].Value)
		}
		if err := fill(n.Content[i+1], value, path+"."+n.Content[i].Value); err != nil {
			return err
		}
		v.SetMapIndex(key, value)
	}
	return nil
}

func fillStruct(n *yaml.Node, v reflect.Value, path string) error {
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: %s: want a mapping", n.Line, path)
	}
	values := map[string]*yaml.Node{}
	var keys []string
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if values[key.Value] != nil {
			return fmt.Errorf("line %d: %s is there twice", key.Line, dotted(path, key.Value))
		}
		values[key.Value] = n.Content[i+1]
		keys = append(keys, key.Value)
	}
	var errs []error
	for i := range v.NumField() {
		name, option, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		if name == "" || name == "-" {
			continue
		}
		at := dotted(path, name)
		value := values[name]
		keys = slices.DeleteFunc(keys, func(k string) bool { return k == name })
		switch {
		case value == nil && option == "omitempty":
		case value == nil:
			errs = append(errs, fmt.Errorf("line %d: %s is missing: what is not compared says so, as any or none", n.Line, at))
		default:
			errs = append(errs, fill(value, v.Field(i), at))
		}
	}
	for _, k := range keys {
		errs = append(errs, fmt.Errorf("line %d: %s: no such key", values[k].Line, dotted(path, k)))
	}
	return errors.Join(errs...)
}

func dotted(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
