// Package docs keeps the documents true where a program can tell.
package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/internal/policy/opa"
	"github.com/consilium-fl/consilium/internal/simulation/summary"
)

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// pages are README.md and every page below docs, by their path from here.
func pages(t *testing.T) []string {
	t.Helper()
	all := []string{"../README.md"}
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if filepath.Ext(path) == ".md" {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// What operations.md tells people to type is what the test script executes.
func TestOperationsAreExecuted(t *testing.T) {
	script := read(t, "../cmd/consilium/testdata/script/operations.txtar")
	script, _, _ = strings.Cut(script, "\n-- ")
	var executed []string
	for line := range strings.Lines(script) {
		if c, ok := strings.CutPrefix(strings.TrimSpace(line), "exec "); ok {
			executed = append(executed, command(c))
		}
	}
	if len(executed) < 20 {
		t.Fatalf("the script executes %d commands: is it still the one?", len(executed))
	}
	told := 0
	for _, block := range blocks(read(t, "operations.md"), "console") {
		for _, c := range strings.Split("\n"+block, "\n$ ")[1:] {
			told++
			if got := command(c); !slices.Contains(executed, got) {
				t.Errorf("operations.md says %q, which the script does not execute", got)
			}
		}
	}
	if told < 15 {
		t.Errorf("operations.md has %d commands", told)
	}
}

// values are what a person copies from a terminal, and a script keeps in a variable.
var values = regexp.MustCompile(`\$[A-Z]+|(ed25519|sha256):…`)

// command brings a command into one form: in one line, without the script's own ways to run it.
func command(s string) string {
	s = strings.ReplaceAll(s, "\\\n", " ")
	s = regexp.MustCompile(` &[a-z]+&$`).ReplaceAllString(strings.TrimSpace(s), "")
	s = strings.ReplaceAll(s, " --json", "")
	return strings.Join(strings.Fields(values.ReplaceAllString(s, "VALUE")), " ")
}

func blocks(doc, language string) []string {
	var found []string
	for _, part := range strings.Split(doc, "\n```"+language+"\n")[1:] {
		block, _, _ := strings.Cut(part, "\n```")
		found = append(found, block)
	}
	return found
}

// What is shown of Rego compiles as a hospital's own policy.
func TestRego(t *testing.T) {
	shown := blocks(read(t, "operations.md"), "rego")
	if len(shown) == 0 {
		t.Error("operations.md shows none")
	}
	for _, text := range shown {
		if _, err := opa.NewNode(t.Context(), map[string]string{"consent.rego": text}); err != nil {
			t.Error(err)
		}
	}
}

// The table of thresholds is what the code computes.
func TestThresholds(t *testing.T) {
	rows := 0
	for line := range strings.Lines(read(t, "protocol.md")) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		var n []int
		for _, c := range cells {
			v, err := strconv.Atoi(strings.TrimSpace(c))
			if err != nil {
				break
			}
			n = append(n, v)
		}
		if len(n) != 6 {
			continue
		}
		rows++
		members, colluding, minimum, threshold, away, honest := n[0], n[1], n[2], n[3], n[4], n[5]
		c, th, err := aggregate.Thresholds(members, members, minimum)
		if err != nil {
			t.Errorf("%d members: %v", members, err)
			continue
		}
		if want := max(3, (members+c)/2+1); colluding != c || minimum != want || threshold != th || away != members-max(minimum, th) || honest != minimum-c {
			t.Errorf("row %v: the code has c %d, minimum %d, t %d, away %d, honest shares %d", n, c, want, th, members-max(minimum, th), minimum-c)
		}
	}
	if rows < 10 {
		t.Errorf("the table has %d rows", rows)
	}
}

// Every field of a summary is documented.
func TestSummaryFields(t *testing.T) {
	doc := read(t, "summary.md")
	var look func(of reflect.Type)
	look = func(of reflect.Type) {
		for of.Kind() == reflect.Slice || of.Kind() == reflect.Pointer {
			of = of.Elem()
		}
		if of.Kind() != reflect.Struct {
			return
		}
		for i := range of.NumField() {
			name, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ",")
			if !regexp.MustCompile("[`.\"]" + name + "[`\".\\[]").MatchString(doc) {
				t.Errorf("summary.md does not say what %s.%s (%q) is", of.Name(), of.Field(i).Name, name)
			}
			look(of.Field(i).Type)
		}
	}
	look(reflect.TypeFor[summary.Summary]())
	if !strings.Contains(doc, summary.Version) {
		t.Errorf("summary.md does not name version %q", summary.Version)
	}
}

// Every module that the product requires directly is explained, and nothing else is.
func TestDependenciesAreExplained(t *testing.T) {
	doc := read(t, "decisions/dependencies.md")
	mod, err := modfile.Parse("go.mod", []byte(read(t, "../go.mod")), nil)
	if err != nil {
		t.Fatal(err)
	}
	required := map[string]bool{}
	for _, r := range mod.Require {
		if r.Indirect {
			continue
		}
		required[r.Mod.Path] = true
		if !strings.Contains(doc, "| "+r.Mod.Path+" |") && !strings.Contains(doc, r.Mod.Path+", ") && !strings.Contains(doc, ", "+r.Mod.Path+" |") {
			t.Errorf("decisions/dependencies.md does not say why %s", r.Mod.Path)
		}
	}
	for line := range strings.Lines(doc) {
		cell, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " |")
		for _, m := range strings.Split(cell, ", ") {
			if strings.HasPrefix(line, "| ") && strings.Contains(m, ".") && !required[m] {
				t.Errorf("decisions/dependencies.md explains %s, which go.mod does not require directly", m)
			}
		}
	}
}

var link = regexp.MustCompile(`\]\(([^)#][^)]*)\)`)

// Every link to a file leads somewhere.
func TestLinks(t *testing.T) {
	for _, page := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(read(t, page), -1) {
			target, _, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), target)); err != nil {
				t.Errorf("%s links to %s: %v", page, m[1], err)
			}
		}
	}
}

var (
	named  = regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Z][A-Za-z0-9]*)`")
	tested = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)[A-Z][A-Za-z0-9]*)\(`)
)

// A guarantee names its test, and that test exists.
func TestNamedTestsExist(t *testing.T) {
	exist := map[string]bool{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "node_modules" || d.Name() == ".git") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		for _, m := range tested.FindAllStringSubmatch(read(t, path), -1) {
			exist[m[1]] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages(t) {
		for _, m := range named.FindAllStringSubmatch(read(t, page), -1) {
			if !exist[m[1]] {
				t.Errorf("%s names %s, which is no test", page, m[1])
			}
		}
	}
}
