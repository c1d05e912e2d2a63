package strict

import (
	"strings"
	"testing"
)

func TestPEM(t *testing.T) {
	const good = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"
	block, rest, ok := PEM([]byte(good + "\nmore"))
	if !ok || block.Type != "CERTIFICATE" || len(block.Bytes) != 3 || string(rest) != "\nmore" {
		t.Errorf("got %+v, rest %q, %v", block, rest, ok)
	}
	for name, text := range map[string]string{
		"nothing":                 "",
		"text before":             "text\n" + good,
		"no end":                  strings.TrimSuffix(good, "-----END CERTIFICATE-----"),
		"a cut end":               strings.TrimSuffix(good, "-----"),
		"one that cannot be read": strings.Replace(good, "AAAA", "A*", 1) + "\n" + good,
		"one in another":          strings.Replace(good, "AAAA", good, 1),
	} {
		if block, _, ok := PEM([]byte(text)); ok {
			t.Errorf("%s: taken as %+v", name, block)
		}
	}
}
