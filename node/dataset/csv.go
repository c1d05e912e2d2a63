package dataset

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// Bounds of a CSV file. A file beyond them is an error; they are far above any registry, so that no patient decides it.
const (
	MaxFile    = 4 << 30 // bytes
	MaxRows    = 1 << 24
	MaxColumns = 1 << 14
	MaxLine    = 1 << 20 // bytes; a longer row is lost by itself
)

// Rules that a line breaks: the line is lost, the others are not.
var (
	errLong   = errors.New("a line longer than 1 MiB")
	errEnd    = errors.New("a last line without a line feed, as where a file was cut short")
	errUTF8   = errors.New("bytes that are not UTF-8")
	errQuote  = errors.New("a quote that does not open and close one whole field: quoted fields never span lines")
	errFields = errors.New("not as many fields as the header")
)

// lines yields the rows of a file one line at a time: a row is one line ending in LF, whatever is in it.
type lines struct {
	r    *bufio.Reader
	read int64
	line int // number of the line last returned, from 1
	buf  []byte
}

func newLines(r io.Reader) *lines { return &lines{r: bufio.NewReaderSize(r, 64<<10)} }

// next returns the next line without its end; the slice is good until the next call. damage is a rule that
// this line breaks; err is io.EOF, or what the whole file broke.
func (l *lines) next() (text []byte, damage, err error) {
	l.buf = l.buf[:0]
	long := false
	for {
		part, err := l.r.ReadSlice('\n')
		l.read += int64(len(part))
		if l.read > MaxFile {
			return nil, nil, fmt.Errorf("more than %d bytes", int64(MaxFile))
		}
		if len(l.buf)+len(part) > MaxLine {
			long = true
		} else {
			l.buf = append(l.buf, part...)
		}
		switch {
		case err == nil:
			l.line++
			return l.finish(long)
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && (len(l.buf) > 0 || long):
			l.line++
			return nil, errEnd, nil
		default:
			return nil, nil, err
		}
	}
}

func (l *lines) finish(long bool) (text []byte, damage, err error) {
	switch {
	case long:
		return nil, errLong, nil
	case !utf8.Valid(l.buf):
		return nil, errUTF8, nil
	}
	return bytes.TrimSuffix(l.buf[:len(l.buf)-1], []byte("\r")), nil, nil
}

// split cuts a line into fields (RFC 4180 within one line).
func split(line []byte, fields []string) ([]string, error) {
	fields = fields[:0]
	rest := string(line)
	for {
		field, tail, more, err := cut(rest)
		if err != nil {
			return nil, err
		}
		fields = append(fields, field)
		if !more {
			return fields, nil
		}
		if len(fields) > MaxColumns {
			return nil, errFields
		}
		rest = tail
	}
}

// cut takes the first field off a line.
func cut(s string) (field, rest string, more bool, err error) {
	if !strings.HasPrefix(s, `"`) {
		field, rest, more = strings.Cut(s, ",")
		if strings.Contains(field, `"`) {
			return "", "", false, errQuote
		}
		return field, rest, more, nil
	}
	s = s[1:]
	var b strings.Builder
	for {
		before, after, closed := strings.Cut(s, `"`)
		if !closed {
			return "", "", false, errQuote
		}
		b.WriteString(before)
		switch {
		case after == "":
			return b.String(), "", false, nil
		case after[0] == ',':
			return b.String(), after[1:], true, nil
		case after[0] != '"':
			return "", "", false, errQuote
		}
		b.WriteByte('"')
		s = after[1:]
	}
}

// header reads the first line. What is wrong with it is wrong with the file.
func (l *lines) header() ([]string, error) {
	text, damage, err := l.next()
	switch {
	case errors.Is(err, io.EOF):
		return nil, errors.New("the file is empty, want a header with the names of the columns")
	case err != nil:
		return nil, err
	case damage != nil:
		return nil, fmt.Errorf("the header: %w", damage)
	}
	names, err := split(bytes.TrimPrefix(text, []byte("\ufeff")), nil)
	if err != nil {
		return nil, fmt.Errorf("the header: %w", err)
	}
	if len(names) > MaxColumns {
		return nil, fmt.Errorf("the header has more than %d columns", MaxColumns)
	}
	for i := range names {
		names[i] = strings.TrimSpace(names[i])
	}
	return names, nil
}

// find returns where the column is. The header's own text is never in the error: where a file has none, its first line is
// a patient.
func find(header []string, column string) (int, error) {
	i := slices.Index(header, column)
	switch {
	case i >= 0 && slices.Contains(header[i+1:], column):
		return 0, fmt.Errorf("column %q is twice in the header", column)
	case i >= 0:
		return i, nil
	case slices.ContainsFunc(header, func(h string) bool { return strings.EqualFold(h, column) }):
		return 0, fmt.Errorf("column %q is missing from the header, which has it in other upper and lower case", column)
	}
	return 0, fmt.Errorf("column %q is missing from the header, which has %d columns", column, len(header))
}
