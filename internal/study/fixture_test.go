package study

import (
	"crypto/ed25519"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/internal/signed"
)

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func testKey(name string) ed25519.PrivateKey {
	seed := signed.Digest([]byte("test key of " + name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func public(name string) ed25519.PublicKey { return testKey(name).Public().(ed25519.PublicKey) }

func testConsortium(t *testing.T, hospitals ...string) *Consortium {
	t.Helper()
	c := &Consortium{
		Name: "heart.example", Serial: 1, Amend: len(hospitals)/2 + 1, Log: public("log"),
		Hospitals: map[string]Hospital{},
		People:    map[string]Person{"r.lead": {RoleLead, public("r.lead")}, "a.auditor": {RoleAuditor, public("a.auditor")}},
		Attestation: Attestation{
			Node:        Accept{Formats: []string{"sim/1"}, AllowSimulated: true, Measurements: [][32]byte{{1}}},
			Coordinator: Accept{Formats: []string{"sim/1"}, AllowSimulated: true, Measurements: [][32]byte{{2}}, Machines: []string{"chip:0123456789abcdef"}},
		},
	}
	for _, h := range hospitals {
		c.Hospitals[h] = Hospital{Governance: public(h), Registries: []string{"cardiology"}, Contact: "dpo@" + h + ".example"}
	}
	return reparse(t, c)
}

func reparse(t *testing.T, c *Consortium) *Consortium {
	t.Helper()
	parsed, err := ParseConsortium(RenderConsortium(c))
	if err != nil {
		t.Fatalf("%v\n%s", err, RenderConsortium(c))
	}
	return parsed
}

// sample reads a file under deploy/samples.
func sample(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "deploy", "samples", filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// heart returns the sample study, naming c, with replacements old, new, …
func heart(t testing.TB, c *Consortium, replace ...string) []byte {
	t.Helper()
	raw, err := WithConsortium(sample(t, "heart/study.yaml"), c.Digest)
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	for i := 0; i < len(replace); i += 2 {
		if strings.Count(text, replace[i]) != 1 {
			t.Fatalf("%q is %d times in the sample, want once", replace[i], strings.Count(text, replace[i]))
		}
		text = strings.Replace(text, replace[i], replace[i+1], 1)
	}
	return []byte(text)
}

var four = []string{"cleveland", "hungarian", "switzerland", "va"}

func heartStudy(t testing.TB, c *Consortium) *Study {
	t.Helper()
	s, err := Parse(heart(t, c))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// place finds text in a file and returns line:column.
func place(raw []byte, text string) string {
	before, _, _ := strings.Cut(string(raw), text)
	line := strings.Count(before, "\n") + 1
	return fmt.Sprintf("%d:%d: ", line, len([]rune(before[strings.LastIndex(before, "\n")+1:]))+1)
}
