package study

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/consilium-fl/consilium/internal/signed"
)

// MaxFile bounds study.yaml and consortium.yaml, in bytes.
const MaxFile = 1 << 20

// maxProblems bounds what one file can make us print.
const maxProblems = 200

// document reads one YAML file strictly and collects what is wrong with it. Values are read from
// the text of the scalars, never by YAML's own typing, so that `no` is a name and 1_000 is not a number.
type document struct {
	lines    []string
	runes    []rune // of line number current, from 1
	current  int
	problems Problems
}

// parseDocument returns the top mapping. Anchors, aliases, tags, a second document and text that is not
// UTF-8 are problems.
func parseDocument(raw []byte) (*document, object) {
	d := &document{}
	root, err := d.load(raw)
	if err != nil {
		d.problems = append(d.problems, Problem{Got: err.Error(), Want: "one YAML mapping in UTF-8"})
		return d, object{d: d, node: &yaml.Node{}}
	}
	d.plain(root)
	if len(d.problems) > 0 {
		return d, object{d: d, node: &yaml.Node{}}
	}
	return d, d.object(root, "")
}

func (d *document) load(raw []byte) (root *yaml.Node, err error) {
	if len(raw) > MaxFile {
		return nil, fmt.Errorf("%d bytes, more than %d", len(raw), MaxFile)
	}
	if !utf8.Valid(raw) {
		return nil, errors.New("bytes that are not UTF-8")
	}
	defer func() { // the bytes are foreign and the parser is not ours
		if r := recover(); r != nil {
			root, err = nil, fmt.Errorf("text that the YAML parser gave up on (%v)", r)
		}
	}()
	d.lines = strings.Split(string(raw), "\n")
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	var n yaml.Node
	if err := dec.Decode(&n); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("nothing")
		}
		return nil, err
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one document")
	}
	if n.Kind != yaml.DocumentNode || len(n.Content) != 1 {
		return nil, errors.New("nothing")
	}
	return n.Content[0], nil
}

// plain refuses what lets one text mean two things to two readers.
func (d *document) plain(n *yaml.Node) {
	switch {
	case n.Kind == yaml.AliasNode:
		d.add(n, "", "an alias", "the value itself")
		return
	case n.Anchor != "":
		d.add(n, "", "an anchor", "the value without it")
	case n.Style&yaml.TaggedStyle != 0 || d.at(n) == '!':
		d.add(n, "", "a tag", "the value without it")
	}
	for _, c := range n.Content {
		d.plain(c)
	}
}

// at returns the character where n begins: the one way to see the tag "!", which the parser drops.
func (d *document) at(n *yaml.Node) rune {
	if n.Line < 1 || n.Line > len(d.lines) {
		return 0
	}
	if d.current != n.Line { // nodes come in the order of the text: each line is decoded about once
		d.current, d.runes = n.Line, []rune(d.lines[n.Line-1])
	}
	if n.Column < 1 || n.Column > len(d.runes) {
		return 0
	}
	return d.runes[n.Column-1]
}

func (d *document) add(n *yaml.Node, field, got, want string) {
	if len(d.problems) < maxProblems {
		d.problems = append(d.problems, Problem{Line: n.Line, Column: n.Column, Field: field, Got: got, Want: want})
	}
}

// err sorts the problems by place.
func (d *document) err() error {
	slices.SortStableFunc(d.problems, func(a, b Problem) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return d.problems.err()
}

// object is a mapping whose keys are asked for by name; done reports the keys nobody asked for.
type object struct {
	d      *document
	node   *yaml.Node
	path   string
	keys   []string // in file order
	fields map[string]*yaml.Node
	places map[string]*yaml.Node // of the keys
	asked  map[string]bool
}

func (d *document) object(n *yaml.Node, path string) object {
	o := object{d: d, node: n, path: path, fields: map[string]*yaml.Node{}, places: map[string]*yaml.Node{}, asked: map[string]bool{}}
	if n.Kind != yaml.MappingNode {
		d.add(n, path, describe(n), "a mapping")
		o.fields = nil
		return o
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		switch {
		case k.Kind != yaml.ScalarNode:
			d.add(k, path, describe(k)+" as a key", "a name")
		case o.fields[k.Value] != nil:
			d.add(k, o.sub(k.Value), "the same key twice", "it once")
		default:
			o.keys = append(o.keys, k.Value)
			o.fields[k.Value], o.places[k.Value] = n.Content[i+1], k
		}
	}
	return o
}

func (o object) sub(key string) string {
	if o.path == "" {
		return key
	}
	return o.path + "." + key
}

// get returns the value of a key; a missing one that is required is a problem at the mapping.
func (o object) get(key string, required bool, want string) *yaml.Node {
	if o.fields == nil { // a problem of its own already
		return nil
	}
	o.asked[key] = true
	n := o.fields[key]
	if n == nil && required {
		o.d.add(o.node, o.sub(key), "nothing", want)
	}
	return n
}

func (o object) has(key string) bool { return o.fields[key] != nil }

// bad reports a value of key that is well formed and yet wrong.
func (o object) bad(key, got, want string) {
	n := o.fields[key]
	if n == nil {
		n = o.node
	}
	o.d.add(n, o.sub(key), got, want)
}

// done reports keys that nobody asked for.
func (o object) done() {
	for _, k := range o.keys {
		if !o.asked[k] {
			o.d.add(o.places[k], o.sub(k), fmt.Sprintf("unknown key %s", quote(k)), "one of "+strings.Join(slices.Sorted(maps.Keys(o.asked)), ", "))
		}
	}
}

func (o object) object(key string, required bool) object {
	n := o.get(key, required, "a mapping")
	if n == nil {
		return object{d: o.d, node: o.node, path: o.sub(key)}
	}
	return o.d.object(n, o.sub(key))
}

// scalar returns the text of a scalar; ok is false where a problem was reported or nothing is there.
func (o object) scalar(key string, required bool, want string) (n *yaml.Node, ok bool) {
	n = o.get(key, required, want)
	if n == nil {
		return nil, false
	}
	return n, o.d.isScalar(n, o.sub(key), want)
}

func (d *document) isScalar(n *yaml.Node, path, want string) bool {
	if n.Kind != yaml.ScalarNode || (n.Style == 0 && (n.Value == "" || n.Value == "~" || n.Value == "null")) {
		d.add(n, path, describe(n), want)
		return false
	}
	return true
}

// text reads a line of printable text of at most limit bytes.
func (o object) text(key string, required bool, limit int) string {
	want := fmt.Sprintf("one line of text, at most %d bytes", limit)
	n, ok := o.scalar(key, required, want)
	if !ok {
		return ""
	}
	if !printable(n.Value) || len(n.Value) > limit || strings.TrimSpace(n.Value) == "" {
		o.bad(key, quote(n.Value), want)
		return ""
	}
	return n.Value
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// match reads text of a form.
func (o object) match(key string, form *regexp.Regexp, want string) string {
	n, ok := o.scalar(key, true, want)
	if !ok {
		return ""
	}
	if len(n.Value) > 255 || !form.MatchString(n.Value) {
		o.bad(key, quote(n.Value), want)
		return ""
	}
	return n.Value
}

// choice reads one of a few words.
func (o object) choice(key string, words ...string) string {
	want := strings.Join(words, " or ")
	n, ok := o.scalar(key, true, want)
	if !ok {
		return ""
	}
	if !slices.Contains(words, n.Value) {
		o.bad(key, quote(n.Value), want)
		return ""
	}
	return n.Value
}

var (
	integerForm = regexp.MustCompile(`^(0|-?[1-9][0-9]{0,17})$`)
	decimalForm = regexp.MustCompile(`^-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?$`)
)

// integer reads a whole number within [lo, hi].
func (o object) integer(key string, required bool, lo, hi int) int {
	want := fmt.Sprintf("a whole number from %d to %d", lo, hi)
	n, ok := o.scalar(key, required, want)
	if !ok {
		return 0
	}
	v, err := strconv.Atoi(n.Value)
	if err != nil || n.Style != 0 || !integerForm.MatchString(n.Value) || v < lo || v > hi {
		o.bad(key, quote(n.Value), want)
		return 0
	}
	return v
}

// number reads a finite decimal number that holds.
func (o object) number(key string, holds func(float64) bool, want string) float64 {
	n, ok := o.scalar(key, true, want)
	if !ok {
		return 0
	}
	v, ok := decimal(n)
	if !ok || !holds(v) {
		o.bad(key, quote(n.Value), want)
		return 0
	}
	return v
}

func decimal(n *yaml.Node) (float64, bool) {
	if n.Style&^yaml.FlowStyle != 0 || !decimalForm.MatchString(n.Value) {
		return 0, false
	}
	v, err := strconv.ParseFloat(n.Value, 64)
	return v, err == nil // out of range is an error
}

func (o object) boolean(key string, required bool) bool {
	n, ok := o.scalar(key, required, "true or false")
	if !ok {
		return false
	}
	if n.Style != 0 || (n.Value != "true" && n.Value != "false") {
		o.bad(key, quote(n.Value), "true or false")
	}
	return n.Value == "true"
}

// instant reads an RFC 3339 time in UTC; date, where allowed, is the beginning of that day.
func (o object) instant(key string, date bool) time.Time {
	want := "a time in UTC such as 2027-05-01T00:00:00Z"
	if date {
		want = "a date such as 2027-05-01"
	}
	n, ok := o.scalar(key, true, want)
	if !ok {
		return time.Time{}
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, n.Value); err == nil && t.UTC().Format(layout) == n.Value && (date || layout == time.RFC3339) {
			return t.UTC()
		}
	}
	o.bad(key, quote(n.Value), want)
	return time.Time{}
}

const maxDeadline = 7 * 24 * time.Hour

func (o object) duration(key string) time.Duration {
	want := "a duration such as 30s or 10m, from 1ms to 168h"
	n, ok := o.scalar(key, true, want)
	if !ok {
		return 0
	}
	v, err := time.ParseDuration(n.Value)
	if err != nil || v < time.Millisecond || v > maxDeadline {
		o.bad(key, quote(n.Value), want)
		return 0
	}
	return v
}

func (o object) digest(key string, required bool) [32]byte {
	want := "sha256: and 64 lower-case hex digits"
	n, ok := o.scalar(key, required, want)
	if !ok {
		return [32]byte{}
	}
	v, err := signed.ParseDigest(n.Value)
	if err != nil {
		o.bad(key, quote(n.Value), want)
	}
	return v
}

// list reads a sequence of scalars; each gets the text and says what is wanted instead, or "".
func (o object) list(key string, required bool, want string, each func(text string) string) []string {
	n := o.get(key, required, want)
	if n == nil {
		return nil
	}
	if n.Kind != yaml.SequenceNode {
		o.bad(key, describe(n), want)
		return nil
	}
	var out []string
	for i, c := range n.Content {
		path := fmt.Sprintf("%s[%d]", o.sub(key), i)
		if !o.d.isScalar(c, path, want) {
			continue
		}
		switch w := each(c.Value); {
		case w != "":
			o.d.add(c, path, quote(c.Value), w)
		case slices.Contains(out, c.Value):
			o.d.add(c, path, quote(c.Value)+" twice", "each once")
		default:
			out = append(out, c.Value)
		}
	}
	return out
}

// interval reads [lo, hi] with lo < hi.
func (o object) interval(key string) (v [2]float64) {
	want := "[low, high], two numbers with low < high"
	n := o.get(key, true, want)
	if n == nil {
		return v
	}
	if n.Kind != yaml.SequenceNode || len(n.Content) != 2 {
		o.bad(key, describe(n), want)
		return v
	}
	for i, c := range n.Content {
		x, ok := decimal(c)
		if c.Kind != yaml.ScalarNode || !ok {
			o.d.add(c, fmt.Sprintf("%s[%d]", o.sub(key), i), describe(c), "a number")
			return [2]float64{}
		}
		v[i] = x
	}
	if !(v[0] < v[1]) || math.IsInf(v[1]-v[0], 0) {
		o.bad(key, fmt.Sprintf("[%v, %v]", v[0], v[1]), want)
		return [2]float64{}
	}
	return v
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return fmt.Sprintf("a list of %d", len(n.Content))
	case yaml.ScalarNode:
		if n.Value == "" {
			return "nothing"
		}
		return quote(n.Value)
	}
	return "nothing"
}

// quote quotes foreign text for a message, shortened.
func quote(s string) string {
	if len(s) > 80 {
		s = strings.ToValidUTF8(s[:80], "") + "…"
	}
	return strconv.Quote(s)
}

// locate finds the place of a field path in a file that has been parsed before, for problems that are
// found later; 0, 0 where it is not there.
func locate(raw []byte, path string) (line, column int) {
	d := &document{}
	n, err := d.load(raw)
	if err != nil {
		return 0, 0
	}
	for _, key := range strings.Split(path, ".") {
		next := child(n, key)
		if next == nil {
			break
		}
		n = next
	}
	return n.Line, n.Column
}

func child(n *yaml.Node, key string) *yaml.Node {
	name, index, indexed := strings.Cut(strings.TrimSuffix(key, "]"), "[")
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value != name {
			continue
		}
		v := n.Content[i+1]
		if j, err := strconv.Atoi(index); indexed && err == nil && v.Kind == yaml.SequenceNode && j >= 0 && j < len(v.Content) {
			return v.Content[j]
		}
		return v
	}
	return nil
}
