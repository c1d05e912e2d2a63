package dataset

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/consilium-fl/consilium/internal/study"
)

// maxDraftLevels is up to how many different whole numbers a column is drafted as levels; text always is.
const maxDraftLevels = 8

// Survey collects, over one or more files, what a draft of a study can know: names and levels. It reads patients'
// rows, so its result is for the eyes of those who may see them.
type Survey struct {
	columns []string
	values  map[string]map[string]bool // distinct values, until there are too many
	text    map[string]bool            // holds something that is no number
	decimal map[string]bool            // holds a number with a fraction
}

// Add reads one file. Columns that not all files have are left out of the draft.
func (s *Survey) Add(r io.Reader, name string) error {
	l := newLines(r)
	header, err := l.header()
	if err != nil {
		return fmt.Errorf("surveying %s: %w", name, err)
	}
	if s.values == nil {
		s.values, s.text, s.decimal = map[string]map[string]bool{}, map[string]bool{}, map[string]bool{}
		s.columns = slices.Clone(header)
	}
	s.columns = slices.DeleteFunc(s.columns, func(c string) bool { return c == "" || !slices.Contains(header, c) })
	for {
		line, damage, err := l.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("surveying %s: %w", name, err)
		}
		if damage != nil {
			continue
		}
		if fields, err := split(line, nil); err == nil && len(fields) == len(header) {
			s.add(header, fields)
		}
	}
}

func (s *Survey) add(header, fields []string) {
	for i, column := range header {
		v := trim(fields[i])
		if v == "" {
			continue
		}
		n, err := number(v)
		switch {
		case err != nil:
			s.text[column] = true
		case n != float64(int64(n)):
			s.decimal[column] = true
		}
		if s.values[column] == nil {
			s.values[column] = map[string]bool{}
		}
		if len(s.values[column]) <= 64 {
			s.values[column][study.CanonicalLevel(v)] = true
		}
	}
}

// Columns are the columns that all files have, in the order of the first: with levels where the values are text or a few
// whole numbers.
func (s *Survey) Columns() []study.DraftColumn {
	var out []study.DraftColumn
	for _, c := range s.columns {
		n := len(s.values[c])
		d := study.DraftColumn{Name: c}
		if n > 0 && n <= 64 && (s.text[c] || (!s.decimal[c] && n <= maxDraftLevels)) {
			for v := range s.values[c] {
				d.Levels = append(d.Levels, v)
			}
			slices.SortFunc(d.Levels, byNumber)
		}
		out = append(out, d)
	}
	return out
}

func byNumber(a, b string) int {
	x, errX := strconv.ParseFloat(a, 64)
	y, errY := strconv.ParseFloat(b, 64)
	if errX == nil && errY == nil && x != y {
		if x < y {
			return -1
		}
		return 1
	}
	return strings.Compare(a, b)
}
