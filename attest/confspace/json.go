package confspace

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/consilium-fl/consilium/attest"
)

const (
	maxDepth = 16
	maxTime  = 253402300799 // seconds: the end of the year 9999, the last that RFC 3339 can write
)

// parseObject reads one JSON object. A name that is there twice is an error at any level, as RFC 7519 section 4
// allows: two readers could take a different one of the two. Numbers stay text.
func parseObject(b []byte) (map[string]any, error) {
	if !utf8.Valid(b) || !json.Valid(b) {
		return nil, errors.New("no JSON in UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	v, err := parseValue(d, maxDepth)
	if err != nil {
		return nil, err
	}
	o, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("a %T, want an object", v)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one value")
	}
	return o, nil
}

func parseValue(d *json.Decoder, depth int) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	open, nested := t.(json.Delim)
	if !nested {
		return t, nil
	}
	if depth == 0 {
		return nil, fmt.Errorf("nested more than %d deep", maxDepth)
	}
	object, list := map[string]any{}, []any{}
	for d.More() {
		var name string
		if open == '{' {
			key, err := d.Token()
			if err != nil {
				return nil, err
			}
			name = key.(string) // the decoder takes no other key
			if _, twice := object[name]; twice {
				return nil, fmt.Errorf("name %q twice in an object, at byte %d", name, d.InputOffset())
			}
		}
		v, err := parseValue(d, depth-1)
		if err != nil {
			return nil, err
		}
		if open == '{' {
			object[name] = v
		} else {
			list = append(list, v)
		}
	}
	if _, err := d.Token(); err != nil { // the closing bracket
		return nil, err
	}
	if open == '{' {
		return object, nil
	}
	return list, nil
}

// fields reads claims out of an object, and notes those of another type. An absent one is its zero value.
type fields struct {
	path  string
	of    map[string]any
	wrong *[]attest.Reason
}

func (f fields) note(name, got, want string) {
	*f.wrong = append(*f.wrong, attest.Reason{Code: attest.CodeCSClaims, Path: f.path + name, Got: got, Want: want})
}

// need notes the absence of claims.
func (f fields) need(names ...string) {
	for _, name := range names {
		if f.of[name] == nil {
			f.note(name, "absent", "present")
		}
	}
}

// take reads one claim. JSON's null is absence.
func take[T any](f fields, name, want string) (v T) {
	raw := f.of[name]
	if raw == nil {
		return v
	}
	v, ok := raw.(T)
	if !ok {
		f.note(name, fmt.Sprintf("%T", raw), want)
	}
	return v
}

func (f fields) text(name string) string { return take[string](f, name, "a text") }

func (f fields) truth(name string) bool { return take[bool](f, name, "true or false") }

func (f fields) number(name string) uint64 {
	text := take[json.Number](f, name, "a number")
	if text == "" {
		return 0
	}
	n, err := strconv.ParseUint(text.String(), 10, 64)
	if err != nil {
		f.note(name, text.String(), "a whole number")
	}
	return n
}

// time reads seconds since 1970.
func (f fields) time(name string) time.Time {
	n := f.number(name)
	if n == 0 {
		return time.Time{}
	}
	if n > maxTime {
		f.note(name, strconv.FormatUint(n, 10), "a time before the year 10000")
		return time.Time{}
	}
	return time.Unix(int64(n), 0).UTC()
}

// texts reads a list of texts, or one text alone: Google writes a list of one in both ways.
func (f fields) texts(name string) []string {
	if one, ok := f.of[name].(string); ok {
		return []string{one}
	}
	var out []string
	for i, v := range take[[]any](f, name, "a text or a list of texts") {
		s, ok := v.(string)
		if !ok {
			f.note(fmt.Sprintf("%s[%d]", name, i), fmt.Sprintf("%T", v), "a text")
		}
		out = append(out, s)
	}
	return out
}

func (f fields) object(name string) fields {
	return fields{f.path + name + ".", take[map[string]any](f, name, "an object"), f.wrong}
}

func (f fields) objects(name string) []fields {
	var out []fields
	for i, v := range take[[]any](f, name, "a list of objects") {
		at := fmt.Sprintf("%s[%d]", name, i)
		o, ok := v.(map[string]any)
		if !ok {
			f.note(at, fmt.Sprintf("%T", v), "an object")
		}
		out = append(out, fields{f.path + at + ".", o, f.wrong})
	}
	return out
}

// variables reads an object of texts.
func (f fields) variables(name string) map[string]string {
	o := f.object(name)
	if len(o.of) == 0 {
		return nil
	}
	out := make(map[string]string, len(o.of))
	for k := range o.of {
		out[k] = o.text(k)
	}
	return out
}
