package study

import (
	"fmt"
	"strings"
)

// Problem is one mistake in a file: where, what was found and what is wanted.
type Problem struct {
	File         string // "" until WithFile names it
	Line, Column int    // from 1; 0 where the file has no such place
	Field        string // path, as data.features.age.typical
	Got, Want    string
}

// String prints file:line:column: field: got, want, leaving out what is unknown.
func (p Problem) String() string {
	var b strings.Builder
	switch {
	case p.File != "" && p.Line > 0:
		fmt.Fprintf(&b, "%s:%d:%d: ", p.File, p.Line, p.Column)
	case p.File != "":
		fmt.Fprintf(&b, "%s: ", p.File)
	case p.Line > 0:
		fmt.Fprintf(&b, "%d:%d: ", p.Line, p.Column)
	}
	if p.Field != "" {
		fmt.Fprintf(&b, "%s: ", p.Field)
	}
	fmt.Fprintf(&b, "got %s, want %s", p.Got, p.Want)
	return b.String()
}

// Problems are all mistakes found in a file, in the order of the file. It is an error; an empty list is
// returned as nil.
type Problems []Problem

// Error lists every problem, one a line.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, q := range p {
		lines[i] = q.String()
	}
	return strings.Join(lines, "\n")
}

// WithFile returns the problems with the name of the file they are in.
func (p Problems) WithFile(name string) Problems {
	named := make(Problems, len(p))
	for i, q := range p {
		q.File = name
		named[i] = q
	}
	return named
}

func (p Problems) err() error {
	if len(p) == 0 {
		return nil
	}
	return p
}
