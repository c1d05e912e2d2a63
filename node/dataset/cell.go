package dataset

import (
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/consilium-fl/consilium/internal/study"
)

// Cut is where a scaled value is cut: three times the typical half range from its middle.
const Cut = 3

// Rules that a cell breaks: its row is lost.
var (
	errMissing  = errors.New("empty")
	errNumber   = errors.New("not a number: want decimal digits with a point")
	errComma    = errors.New("not a number: want a point where there is a comma")
	errNaN      = errors.New("not a number: text for NaN or infinity; where nothing was measured the cell is empty")
	errUnlisted = errors.New("not one of the study's levels")
)

// trim takes the spaces off that programs put around a value.
func trim(s string) string { return strings.Trim(s, " \t") }

// number reads a decimal number: no hexadecimal, no underscore, no NaN, no infinity, no thousands.
func number(cell string) (float64, error) {
	s := trim(cell)
	if s == "" {
		return 0, errMissing
	}
	if strings.ContainsFunc(s, func(r rune) bool { return !strings.ContainsRune("0123456789+-.eE", r) }) {
		return 0, notNumber(s)
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsInf(v, 0) {
		return 0, errNumber
	}
	return v, nil
}

func notNumber(s string) error {
	switch strings.ToLower(strings.TrimLeft(s, "+-")) {
	case "nan", "inf", "infinity", "na", "n/a", "null", "none", "#n/a":
		return errNaN
	}
	if strings.Count(s, ",") == 1 && strings.Trim(s, "0123456789+-,") == "" {
		return errComma
	}
	return errNumber
}

// level finds which of the levels a cell is.
func level(cell string, levels []string) (int, error) {
	s := trim(cell)
	if s == "" {
		return 0, errMissing
	}
	if i := slices.Index(levels, study.CanonicalLevel(s)); i >= 0 {
		return i, nil
	}
	return 0, errUnlisted
}

// scale takes typical to [−1, 1] and cuts at ±3.
func scale(v float64, typical [2]float64) (scaled float64, cut bool) {
	z := 2*((v-typical[0])/(typical[1]-typical[0])) - 1
	switch {
	case z > Cut:
		return Cut, true
	case z < -Cut:
		return -Cut, true
	}
	return z, false
}
