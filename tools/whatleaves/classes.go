package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// class is what a field could tell about patients.
type class string

const (
	public    class = "public"
	masked    class = "masked"
	noised    class = "noised"
	signature class = "signature"
	never     class = "never" // the type has the field, a node does not send it
)

// A section classifies one message.
type section struct {
	form   string // rpc, proto, cbor, json or layout
	name   string
	about  string
	fields []field
}

// A field of a message; key and kind are filled in from the message itself.
type field struct {
	name  string
	class class
	bytes string // what a field of bytes holds: another section, or words
	about string
	key   string
	kind  string
}

// parse reads classes.txt: a line "== form name", a line ": about", and a line a field.
func parse(text string) ([]section, error) {
	var all []section
	var errs []error
	for i, line := range strings.Split(text, "\n") {
		fail := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("classes.txt:%d: %s", i+1, fmt.Sprintf(format, args...)))
		}
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "== "):
			form, name, ok := strings.Cut(line[3:], " ")
			if !ok || !slices.Contains([]string{"rpc", "proto", "cbor", "json", "layout"}, form) {
				fail("got %q, want a form and a name", line)
			}
			all = append(all, section{form: form, name: name})
		case len(all) == 0:
			fail("a line before the first message")
		case strings.HasPrefix(line, ": "):
			last := &all[len(all)-1]
			last.about = strings.TrimSpace(last.about + " " + line[2:])
		default:
			f, err := parseField(line)
			if err != nil {
				fail("%v", err)
				continue
			}
			last := &all[len(all)-1]
			last.fields = append(last.fields, f)
		}
	}
	return all, errors.Join(errs...)
}

func parseField(line string) (field, error) {
	parts := strings.Split(line, "|")
	if len(parts) != 4 {
		return field{}, fmt.Errorf("got %d columns, want field | class | bytes | about", len(parts))
	}
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	f := field{name: parts[0], class: class(parts[1]), bytes: parts[2], about: parts[3]}
	if !slices.Contains([]class{public, masked, noised, signature, never}, f.class) {
		return field{}, fmt.Errorf("field %q has class %q, want public, masked, noised, signature or never", f.name, f.class)
	}
	if f.about == "" {
		return field{}, fmt.Errorf("field %q says nothing about itself", f.name)
	}
	return f, nil
}

// truth is a message as the code has it.
type truth struct {
	fields []field  // name, key, kind
	uses   []string // messages inside, by the field's name and a tab
}

// match copies key and kind of each field into the section, and complains of every difference.
func (s *section) match(t truth) error {
	var errs []error
	found := map[string]field{}
	for _, f := range t.fields {
		found[f.name] = f
		if !slices.ContainsFunc(s.fields, func(g field) bool { return g.name == f.name }) {
			errs = append(errs, fmt.Errorf("%s.%s is not classified", s.name, f.name))
		}
	}
	seen := map[string]bool{}
	for i := range s.fields {
		f := &s.fields[i]
		is, ok := found[f.name]
		switch {
		case !ok:
			errs = append(errs, fmt.Errorf("%s.%s is classified and does not exist", s.name, f.name))
		case seen[f.name]:
			errs = append(errs, fmt.Errorf("%s.%s is classified twice", s.name, f.name))
		case isBytes(is.kind) && f.bytes == "" && f.class != never:
			errs = append(errs, fmt.Errorf("%s.%s has bytes and does not say what they hold", s.name, f.name))
		}
		seen[f.name] = true
		f.key, f.kind = is.key, is.kind
	}
	return errors.Join(errs...)
}

func isBytes(kind string) bool {
	return strings.HasSuffix(kind, "[]byte") || strings.HasSuffix(kind, "bytes") || strings.HasSuffix(kind, "]byte")
}

// fill takes every section's fields from the code, and makes sure that what is sent is all there: what a node
// calls, what a request holds, what bytes hold.
func fill(top string, sections []section) error {
	by := map[string]*section{}
	var errs []error
	for i := range sections {
		s := &sections[i]
		if by[s.name] != nil {
			errs = append(errs, fmt.Errorf("%s is there twice", s.name))
		}
		by[s.name] = s
	}
	src := source{top: top}
	reached := map[string]bool{}
	var visit func(name, from string)
	visit = func(name, from string) {
		s, ok := by[name]
		if !ok {
			errs = append(errs, fmt.Errorf("%s holds %s, which is not classified", from, name))
			return
		}
		if reached[name] {
			return
		}
		reached[name] = true
		t, err := s.read(&src)
		if err == nil {
			err = s.match(t)
		}
		if err != nil {
			errs = append(errs, err)
			return
		}
		for _, use := range t.uses {
			f, inner, _ := strings.Cut(use, "\t")
			if s.sends(f) {
				visit(inner, name+"."+f)
			}
		}
		for _, f := range s.fields {
			for _, inner := range f.holds() {
				visit(inner, name+"."+f.name)
			}
		}
	}
	for _, name := range []string{"calls", "channel.frame"} {
		visit(name, "a node")
	}
	for _, s := range sections {
		if !reached[s.name] {
			errs = append(errs, fmt.Errorf("%s is classified and nothing that a node sends holds it", s.name))
		}
	}
	return errors.Join(errs...)
}

func (s *section) sends(name string) bool {
	i := slices.IndexFunc(s.fields, func(f field) bool { return f.name == name })
	return i < 0 || s.fields[i].class != never
}

// holds are the messages (package.Type) that bytes hold; none where the column says it in words.
func (f field) holds() []string {
	names := strings.Split(f.bytes, ", ")
	for _, s := range names {
		pkg, name, ok := strings.Cut(s, ".")
		if !ok || pkg == "" || name == "" || strings.Contains(s, " ") {
			return nil
		}
	}
	return names
}

func (s *section) read(src *source) (truth, error) {
	switch s.form {
	case "rpc":
		return calls(src)
	case "proto":
		return protoMessage(s.name)
	case "cbor", "json":
		return src.structure(s.name, s.form)
	}
	// A layout is no struct: its parts are written down here alone, and what they name has to exist.
	t := truth{}
	for _, f := range s.fields {
		t.fields = append(t.fields, field{name: f.name, kind: "bytes"})
	}
	return t, src.exists(s.name)
}
