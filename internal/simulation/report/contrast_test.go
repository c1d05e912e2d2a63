package report

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestContrast holds the colours of both themes to WCAG 2.2: 4.5 for text (1.4.3), 3 for marks (1.4.11). The
// accessibility rules in the browser look at the page's text, and not at what is inside a plot.
func TestContrast(t *testing.T) {
	light, dark, ok := strings.Cut(style, "@media (prefers-color-scheme: dark)")
	if !ok {
		t.Fatal("the style has no dark theme")
	}
	for theme, css := range map[string]string{"light": light, "dark": dark[:strings.Index(dark, "* {")]} {
		c := map[string]string{}
		for _, m := range regexp.MustCompile(`--([a-z-]+): (#[0-9a-f]{6});`).FindAllStringSubmatch(css, -1) {
			c[m[1]] = m[2]
		}
		check := func(least float64, on string, names ...string) {
			for _, n := range names {
				if c[n] == "" || c[on] == "" {
					t.Fatalf("%s: no colour %q or %q", theme, n, on)
				}
				if got := contrast(c[n], c[on]); got < least {
					t.Errorf("%s: %s on %s has a contrast of %.2f, want %v", theme, n, on, got, least)
				}
			}
		}
		for _, ground := range []string{"paper", "raised", "zebra", "ground"} {
			check(4.5, ground, "ink", "soft")
		}
		check(4.5, "warn", "warn-ink")
		check(4.5, "raised", "warn-ink", "teal")
		check(4.5, "secret", "secret-ink")
		check(4.5, "seen", "seen-ink")
		check(3, "paper", "teal", "blue", "rust", "plum", "slate", "gold", "sky", "sand", "bad", "axis")
		check(3, "zebra", "teal", "rust", "slate")
	}
}

// contrast is (L1+0.05)/(L2+0.05) of the relative luminances (WCAG 2.2, relative luminance).
func contrast(a, b string) float64 {
	l, m := luminance(a), luminance(b)
	return (max(l, m) + .05) / (min(l, m) + .05)
}

func luminance(hex string) float64 {
	var l float64
	for i, weight := range []float64{.2126, .7152, .0722} {
		n, err := strconv.ParseUint(hex[1+2*i:3+2*i], 16, 8)
		if err != nil {
			panic(err) // the pattern lets digits through alone
		}
		v := float64(n) / 255
		if v <= .04045 {
			v /= 12.92
		} else {
			v = math.Pow((v+.055)/1.055, 2.4)
		}
		l += weight * v
	}
	return l
}
