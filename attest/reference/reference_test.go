package reference

import (
	"crypto/ed25519"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest"
)

const simPolicy = `version: consilium.policy/v1
role: node
accept: [sim/1]
allow_simulated: true
measurements: ["sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"]
machines: any
max_age: 30m
deny_generations: [milan]
warn_generations: []
revocation: false
endorsement_age: 0s
grace: 24h
`

func TestParsePolicy(t *testing.T) {
	p, err := ParsePolicy([]byte(simPolicy))
	if err != nil {
		t.Fatal(err)
	}
	if p.Role != attest.RoleNode || !p.AllowSimulated || !p.Machines.Any || len(p.Measurements.Of) != 1 || p.MaxAge != 30*time.Minute || p.Grace != 24*time.Hour || p.DenyGenerations[0] != "milan" {
		t.Errorf("%+v", p)
	}
	if p.Simulation {
		t.Error("a file decided for the process")
	}
}

// TestAbsenceIsAnError: no key can be left out, and each mistake is named with its line.
func TestAbsenceIsAnError(t *testing.T) {
	lines := strings.SplitAfter(simPolicy, "\n")
	for i, l := range lines[:len(lines)-1] {
		text := strings.Join(append(append([]string{}, lines[:i]...), lines[i+1:]...), "")
		key, _, _ := strings.Cut(l, ":")
		if _, err := ParsePolicy([]byte(text)); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("without %s: %v", key, err)
		}
	}
	if _, err := ParsePolicy(nil); err == nil {
		t.Error("an empty file is a policy")
	}
}

func TestBadPolicies(t *testing.T) {
	for name, tc := range map[string]struct{ old, put, want string }{
		"unknown key":       {"grace: 24h", "grace: 24h\nvmpl: 0", "line 13: vmpl: no such key"},
		"twice":             {"grace: 24h", "grace: 24h\ngrace: 1h", "there twice"},
		"anchor":            {"machines: any", "machines: &a any", "anchors"},
		"tag":               {"machines: any", "machines: !!str any", "tags"},
		"two documents":     {"grace: 24h", "grace: 24h\n---\nx: 1", "more than one"},
		"version":           {"policy/v1", "policy/v2", "version"},
		"role":              {"role: node", "role: person", "policy.role"},
		"measurement":       {"sha256:0123", "sha256:012G", "measurement"},
		"duration":          {"max_age: 30m", "max_age: 30", "duration"},
		"no age":            {"max_age: 30m", "max_age: 0s", "max_age"},
		"long grace":        {"grace: 24h", "grace: 200h", "policy.grace"},
		"nothing accepted":  {"accept: [sim/1]", "accept: []", "policy.accept"},
		"unknown format":    {"accept: [sim/1]", "accept: [snp/9]", "snp/9"},
		"no block":          {"accept: [sim/1]", "accept: [sim/1, snp/1]", "policy.snp"},
		"a set of one word": {"machines: any", "machines: all", "want a list, or the word any"},
		"a value twice":     {"machines: any", "machines: [a, a]", "twice"},
		"null":              {"revocation: false", "revocation:", "revocation"},
		"a list for a word": {"role: node", "role: [node]", "role"},
	} {
		if _, err := ParsePolicy([]byte(strings.Replace(simPolicy, tc.old, tc.put, 1))); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", name, err, tc.want)
		}
	}
}

// manifest is a payload with the given head.
func manifest(name string, serial, least, from, until string) []byte {
	_, body, _ := strings.Cut(simPolicy, "role: node\n")
	body = "  " + strings.ReplaceAll(strings.TrimSuffix(body, "\n"), "\n", "\n  ") + "\n"
	return []byte("version: consilium.reference/v1\nname: " + name + "\nconsortium: heart.example\nrole: node\nserial: " + serial + "\nleast: " + least +
		"\nvalid: {from: " + from + ", until: " + until + "}\npolicy:\n" + body)
}

func keys(n int) (private []ed25519.PrivateKey, by Amenders) {
	by = Amenders{Consortium: "heart.example", Need: 2}
	for i := range n {
		k := ed25519.NewKeyFromSeed(append(make([]byte, 31), byte(i+1)))
		private = append(private, k)
		by.Keys = append(by.Keys, k.Public().(ed25519.PublicKey))
	}
	return private, by
}

func sign(t *testing.T, payload []byte, by ...ed25519.PrivateKey) []byte {
	t.Helper()
	var e []byte
	for _, k := range by {
		var err error
		if e, err = Sign(payload, e, k); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

const spring, summer, autumn = "2026-03-01T00:00:00Z", "2026-06-01T00:00:00Z", "2026-09-01T00:00:00Z"

func at(s string) time.Time {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		panic(err)
	}
	return t
}

func TestManifestNeedsAmenders(t *testing.T) {
	k, by := keys(3)
	p := manifest("heart-nodes", "1", "1", spring, autumn)
	if m, err := Open(sign(t, p, k[0], k[2]), by); err != nil || m.Name != "heart-nodes" || m.Serial != 1 {
		t.Fatalf("%+v, %v", m, err)
	}
	stranger := ed25519.NewKeyFromSeed(make([]byte, 32))
	elsewhere := by
	elsewhere.Consortium = "lung.example"
	for name, tc := range map[string]struct {
		envelope []byte
		by       Amenders
	}{
		"one":                 {sign(t, p, k[0]), by},
		"one and a stranger":  {sign(t, p, k[0], stranger), by},
		"one listed twice":    {sign(t, p, k[0]), Amenders{"heart.example", []ed25519.PublicKey{by.Keys[0], by.Keys[0]}, 2}},
		"nobody needed":       {sign(t, p, stranger), Amenders{"heart.example", by.Keys, 0}},
		"another consortium":  {sign(t, p, k...), elsewhere},
		"garbage":             {[]byte("{}"), by},
		"more than a file is": {make([]byte, maxEnvelope+1), by},
	} {
		if _, err := Open(tc.envelope, tc.by); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := Sign(p, sign(t, manifest("other", "1", "1", spring, autumn), k[0]), k[1]); err == nil {
		t.Error("signed over another text than the first signature")
	}
}

func TestBadManifests(t *testing.T) {
	for name, p := range map[string][]byte{
		"no serial":      manifest("a", "0", "1", spring, autumn),
		"least above":    manifest("a", "1", "2", spring, autumn),
		"no least":       manifest("a", "1", "0", spring, autumn),
		"ends first":     manifest("a", "1", "1", autumn, spring),
		"for ever":       manifest("a", "1", "1", spring, "2036-03-01T00:00:00Z"),
		"name":           manifest("A b", "1", "1", spring, autumn),
		"no policy":      manifest("a", "1", "1", spring, autumn)[:100],
		"a policy's key": append(manifest("a", "1", "1", spring, autumn), "  vmpl: 1\n"...),
		"a key":          append(manifest("a", "1", "1", spring, autumn), "vmpl: 1\n"...),
	} {
		if _, err := ParseManifest(p); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// TestVersionsOverlap: an old version holds beside a new one until its end, or until the new one ends it.
func TestVersionsOverlap(t *testing.T) {
	k, by := keys(2)
	shelf := func(payloads ...[]byte) *Shelf {
		files := map[string][]byte{}
		for i, p := range payloads {
			files[string(rune('a'+i))+".json"] = sign(t, p, k...)
		}
		s, err := NewShelf(files, by)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	one, two := manifest("heart", "1", "1", spring, summer), manifest("heart", "2", "1", "2026-05-01T00:00:00Z", autumn)
	ends := manifest("heart", "2", "2", "2026-05-01T00:00:00Z", autumn)
	for _, tc := range []struct {
		name string
		s    *Shelf
		at   string
		n    int
	}{
		{"before", shelf(one, two), "2026-02-01T00:00:00Z", 0},
		{"the first", shelf(one, two), spring, 1},
		{"both", shelf(one, two), "2026-05-15T00:00:00Z", 2},
		{"the second", shelf(two, one), summer, 1},
		{"after", shelf(one, two), autumn, 0},
		{"ended by the second", shelf(one, ends), "2026-05-15T00:00:00Z", 1},
		{"ended before the second holds", shelf(one, ends), "2026-04-15T00:00:00Z", 0},
	} {
		if n := map[string]int{"ended by the second": 2, "ended before the second holds": 1}[tc.name]; n > 0 && len(tc.s.Versions("heart", attest.RoleNode, at(tc.at))) != n {
			t.Errorf("%s: in retrospect %d versions held", tc.name, n)
		}
		ps, err := tc.s.Policies("heart", attest.RoleNode, at(tc.at))
		if len(ps) != tc.n || (err == nil) != (tc.n > 0) {
			t.Errorf("%s: %d policies, want %d: %v", tc.name, len(ps), tc.n, err)
		}
	}
	s := shelf(one, two)
	if _, err := s.Policies("heart", attest.RoleCoordinator, at(spring)); err == nil {
		t.Error("a manifest for nodes was taken for the coordinator")
	}
	if _, err := s.Policies("lung", attest.RoleNode, at(spring)); err == nil {
		t.Error("a name that is not there")
	}
	var none *Shelf
	if _, err := none.Policies("heart", attest.RoleNode, at(spring)); err == nil || len(none.Files()) != 0 {
		t.Error("no shelf has policies")
	}
	if len(s.Versions("heart", attest.RoleCoordinator, at(spring)))+len(s.Versions("lung", attest.RoleNode, at(spring)))+len(none.Versions("heart", attest.RoleNode, at(spring))) > 0 {
		t.Error("versions of another role or name held")
	}
	if err := s.Since(map[string]uint64{"heart": 2}); err != nil {
		t.Error(err)
	}
	if err := shelf(one).Since(s.Serials()); err == nil {
		t.Error("the newest version was taken back")
	}
	if err := none.Since(s.Serials()); err == nil {
		t.Error("all versions were taken back")
	}
	same := manifest("heart", "1", "1", spring, autumn)
	if _, err := NewShelf(map[string][]byte{"a.json": sign(t, one, k...), "b.json": sign(t, same, k...)}, by); err == nil {
		t.Error("two manifests of one serial")
	}
}

// TestNoneHolds: why no version holds, as a reason with the manifest's name, its end, and what is to be done.
func TestNoneHolds(t *testing.T) {
	k, by := keys(2)
	one, two := manifest("heart", "1", "1", spring, summer), manifest("heart", "2", "1", autumn, "2026-12-01T00:00:00Z")
	ends := manifest("heart", "3", "2", "2026-07-01T00:00:00Z", autumn)
	for _, tc := range []struct {
		name     string
		files    [][]byte
		at       string
		of       string
		code     string
		got, has string
	}{
		{"nothing is here", nil, spring, "heart", "reference.missing", `no manifest "heart" for role node`, "signed by the amenders"},
		{"another name", [][]byte{one}, spring, "lung", "reference.missing", `no manifest "lung" for role node`, "signed by the amenders"},
		{"all begin later", [][]byte{one, two}, "2026-02-01T00:00:00Z", "heart", "reference.time", `manifest "heart" at 2026-02-01T00:00:00Z`, "serial 1, which holds from 2026-03-01T00:00:00Z"},
		{"the only one has ended", [][]byte{one}, summer, "heart", "reference.expired", `manifest "heart", whose serial 1 ended at 2026-06-01T00:00:00Z`, "consilium attest manifest sign"},
		{"between two", [][]byte{two, one}, summer, "heart", "reference.expired", `manifest "heart", whose serial 1 ended at 2026-06-01T00:00:00Z`, "serial 2, which holds from 2026-09-01T00:00:00Z"},
		{"an older one was withdrawn", [][]byte{one, ends}, spring, "heart", "reference.time", `manifest "heart" at 2026-03-01T00:00:00Z`, "serial 3, which holds from 2026-07-01T00:00:00Z"},
		{"the last of two", [][]byte{one, two}, "2026-12-01T00:00:00Z", "heart", "reference.expired", `manifest "heart", whose serial 2 ended at 2026-12-01T00:00:00Z`, "consilium attest manifest sign"},
	} {
		files := map[string][]byte{}
		for i, p := range tc.files {
			files[string(rune('a'+i))+".json"] = sign(t, p, k...)
		}
		s, err := NewShelf(files, by)
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Policies(tc.of, attest.RoleNode, at(tc.at))
		r, ok := errors.AsType[attest.Reason](err)
		if !ok || r.Code != tc.code || r.Path != "reference" || r.Got != tc.got || !strings.Contains(r.Want, tc.has) {
			t.Errorf("%s: got %+v in %v, want %s: got %s, want %s", tc.name, r, err, tc.code, tc.got, tc.has)
		}
	}
}

func TestLoad(t *testing.T) {
	k, by := keys(2)
	dir := t.TempDir()
	for name, b := range map[string][]byte{"a.json": sign(t, manifest("heart", "1", "1", spring, autumn), k...), "notes.txt": []byte("x"), ".swap.json": []byte("y")} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := Load(dir, by)
	if err != nil || len(s.Files()) != 1 {
		t.Fatalf("%v, %v", s, err)
	}
	maps.DeleteFunc(s.Files(), func(string, []byte) bool { return true })
	if len(s.Files()) != 1 {
		t.Error("a shelf can be changed")
	}
	if s, err := Load(filepath.Join(dir, "none"), by); err != nil || len(s.Files()) != 0 {
		t.Errorf("no folder: %v", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "b.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir, by); err == nil {
		t.Error("a folder was read as a file")
	}
}

func FuzzParsePolicy(f *testing.F) {
	f.Add([]byte(simPolicy))
	f.Add([]byte("a: [b, {c: d}]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePolicy(b)
		if err == nil && p.Validate() != nil {
			t.Error("a policy that does not hold was read")
		}
	})
}

func FuzzParseManifest(f *testing.F) {
	f.Add(manifest("heart", "1", "1", spring, autumn))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseManifest(b)
		if err == nil && (m.Serial == 0 || !m.Until.After(m.From)) {
			t.Errorf("%+v", m)
		}
	})
}
