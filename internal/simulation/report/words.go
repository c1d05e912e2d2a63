package report

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// minus, and a space that neither breaks nor is wide.
const (
	minus = "−"
	thin  = "\u202f"
)

// absent stands where a figure is not defined.
const absent = "n/a"

// score writes a score with three digits.
func score(s *float64) string {
	if s == nil || math.IsNaN(*s) {
		return absent
	}
	return fmt.Sprintf("%.3f", *s)
}

// plain writes a number with as few digits as it has, and the sign of print.
func plain(v float64) string {
	return strings.Replace(strconv.FormatFloat(v, 'f', -1, 64), "-", minus, 1)
}

// digits writes three significant digits, and more before the point.
func digits(v float64) string {
	if math.Abs(v) >= 100 {
		return strings.Replace(grouped(int64(math.Round(v))), "-", minus, 1)
	}
	return plain(rounded(v, 3))
}

// rounded keeps so many significant digits.
func rounded(v float64, digits int) float64 {
	r, err := strconv.ParseFloat(strconv.FormatFloat(v, 'g', digits, 64), 64)
	if err != nil {
		return v // cannot happen: FormatFloat wrote it
	}
	return r
}

// grouped writes an integer in groups of three.
func grouped[T int | int64 | uint64](v T) string {
	s := fmt.Sprint(v)
	sign := ""
	if s[0] == '-' {
		sign, s = minus, s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + thin + s[i:]
	}
	return sign + s
}

// seconds writes a time in ms below one second.
func seconds(s float64) string {
	switch {
	case s < 0.01:
		return digits(s*1e3) + " ms"
	case s < 1:
		return fmt.Sprintf("%.0f ms", s*1e3)
	case s < 120:
		return digits(s) + " s"
	default:
		whole := int(math.Round(s))
		return fmt.Sprintf("%d min %d s", whole/60, whole%60)
	}
}

// size writes bytes in decimal units.
func size(b float64) string {
	for _, u := range []struct {
		of   float64
		name string
	}{{1e9, "GB"}, {1e6, "MB"}, {1e3, "kB"}} {
		if b >= u.of {
			return digits(b/u.of) + " " + u.name
		}
	}
	return digits(b) + " bytes"
}

// units is a divisor that makes the numbers of an axis short, and its name.
func units(most float64) (divisor float64, name string) {
	switch {
	case most >= 1e13:
		e := math.Floor(math.Log10(most))
		return math.Pow(10, e), "× 10" + superscript(int(e))
	case most >= 2e9:
		return 1e9, "billions"
	case most >= 2e6:
		return 1e6, "millions"
	case most >= 5e3:
		return 1e3, "thousands"
	}
	return 1, ""
}

func superscript(n int) string {
	return strings.NewReplacer("0", "⁰", "1", "¹", "2", "²", "3", "³", "4", "⁴", "5", "⁵", "6", "⁶", "7", "⁷", "8", "⁸", "9", "⁹").Replace(strconv.Itoa(n))
}

// shorten takes letters out of the middle: names of columns often differ at their ends.
func shorten(s string, most int) string {
	r := []rune(s)
	if len(r) <= most {
		return s
	}
	head := (most - 1) / 2
	return string(r[:head]) + "…" + string(r[len(r)-(most-1-head):])
}

// list joins names as a sentence does.
func list(names []string) string {
	switch len(names) {
	case 0:
		return "none"
	case 1:
		return names[0]
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}

// count writes a number and its noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return grouped(n) + " " + noun + "s"
}
