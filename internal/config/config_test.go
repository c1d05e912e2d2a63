package config

import (
	"strings"
	"testing"
)

func TestDecodeRefuses(t *testing.T) {
	type file struct {
		Version string `yaml:"version"`
		Listen  string `yaml:"listen"`
		Digest  Digest `yaml:"digest"`
	}
	const v = "consilium.test/v1"
	for name, c := range map[string]struct{ text, want string }{
		"unknown key":    {"version: consilium.test/v1\nlisten: a\nspeed: 9\n", "speed"},
		"duplicate key":  {"version: consilium.test/v1\nlisten: a\nlisten: b\n", "already defined"},
		"anchor":         {"version: consilium.test/v1\nlisten: &a b\n", "2:9"},
		"alias":          {"version: consilium.test/v1\nlisten: *a\n", "unknown anchor"},
		"tag":            {"version: consilium.test/v1\nlisten: !!str b\n", "2:9"},
		"other version":  {"version: consilium.test/v2\n", `want "consilium.test/v1"`},
		"no version":     {"listen: a\n", "version is missing"},
		"two documents":  {"version: consilium.test/v1\n---\nversion: consilium.test/v1\n", "more than one document"},
		"a list":         {"- a\n", "want one mapping"},
		"nothing":        {"", "want one mapping"},
		"digest letters": {"version: consilium.test/v1\ndigest: sha256:AA\n", "2:9"},
		"too large":      {"version: consilium.test/v1\nlisten: " + strings.Repeat("a", MaxFile), "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			var f file
			err := Decode("f.yaml", []byte(c.text), v, &f)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want an error with %q", err, c.want)
			}
		})
	}
	var f file
	if err := Decode("f.yaml", []byte("version: consilium.test/v1\nlisten: here\n"), v, &f); err != nil || f.Listen != "here" {
		t.Fatalf("got %+v, %v", f, err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("version: consilium.test/v1\nlisten: a\n"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		var v struct {
			Version string `yaml:"version"`
			Digest  Digest `yaml:"digest"`
		}
		_ = Decode("f.yaml", b, "consilium.test/v1", &v) //nolint:errcheck // it must not panic
	})
}
