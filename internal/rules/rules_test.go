package rules

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/consilium-fl/consilium"

var write = flag.Bool("write", false, "write the link lists of the daemons instead of comparing them")

// pkg is a package of ours, by its path below the module ("" is the root).
type pkg struct {
	Dir                       string
	ImportPath                string
	Name                      string
	GoFiles                   []string
	Imports                   []string
	TestImports, XTestImports []string
	Deps                      []string
	Standard                  bool
	Module                    *struct{ Path string }
}

func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-e", "-json"}, args...)...)
	cmd.Dir = "../.."
	// The daemons run there; on another system the list would be another.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var all []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// ours is the path below the module, and false for a package of others.
func ours(path string) (string, bool) {
	if path == module {
		return "", true
	}
	return strings.CutPrefix(path, module+"/")
}

// under reports whether path is tree or below it.
func under(path, tree string) bool { return path == tree || strings.HasPrefix(path, tree+"/") }

// leaves import nothing of ours but their own subtree and internal/signed, nor one another.
var leaves = []string{"attest", "aggregate", "dp", "audit", "internal/study", "internal/signed"}

const engineWhy = "engines are wired by cmd, simulation and the wire packages that both start from"

// wires open what a configuration names; cmd and the simulation start from them.
var wires = []string{"node/wire", "coordinator/wire"}

// forbidden says what a tree must not reach, directly or through others, and why.
var forbidden = []struct{ from, to, why string }{
	{"node", "coordinator", "a hospital's daemon must not hold the code that opens sums"},
	{"coordinator", "node", "the coordinator must not hold the code that reads patients"},
	{"node", "modernc.org/sqlite", "the node keeps journals only; an SQL engine is too much to measure beside patients"},
	{"node", "internal/store/sqlite", "the node keeps journals only; an SQL engine is too much to measure beside patients"},
	{"node", "audit/appender", "who checks the log does not write it"},
	{"node", "github.com/transparency-dev/tessera/storage", "who checks the log does not write it"},
	{"coordinator", "modernc.org/sqlite", engineWhy},
	{"coordinator", "internal/store/sqlite", engineWhy},
	{"coordinator", "internal/policy/opa", engineWhy},
	{"node", "internal/policy/opa", engineWhy},
	{"internal/transport", "coordinator", "the wire knows handlers, not who implements them"},
	{"internal/transport", "node", "the wire knows handlers, not who implements them"},
	{"internal/verify", "coordinator", "a regulator verifies without linking the server"},
	{"internal/verify", "node", "a regulator verifies without linking the server"},
	{"internal/verify", "google.golang.org/grpc/internal/transport", "verification is offline"},
	{"internal/policy", "github.com/open-policy-agent/opa", "the plain types have no engine"},
	{"internal/store", "modernc.org/sqlite", "the plain types have no engine"},
	{"audit", "github.com/transparency-dev/tessera/storage", "a regulator links no server"},
	{"cmd/consilium-node", "internal/simulation", "the measured daemon has no seeded chance and no zero noise"},
	{"cmd/consilium-node", "coordinator", "a hospital's daemon must not hold the code that opens sums"},
	{"cmd/consilium-node", "modernc.org/sqlite", "the node keeps journals only; an SQL engine is too much to measure beside patients"},
	{"cmd/consilium-node", "audit/appender", "who checks the log does not write it"},
	{"cmd/consilium-node", "github.com/chromedp/chromedp", "the measured daemon drives no browser"},
	{"cmd/consilium-coordinator", "internal/simulation", "the measured daemon has no seeded chance and no zero noise"},
	{"cmd/consilium-coordinator", "node", "the coordinator must not hold the code that reads patients"},
	{"cmd/consilium-coordinator", "github.com/chromedp/chromedp", "the measured daemon drives no browser"},
}

// engines sit below the plain types of the same name, which a rule about those does not mean.
var engines = map[string][]string{
	"internal/policy": {"internal/policy/opa"},
	"internal/store":  {"internal/store/sqlite"},
	"audit":           {"audit/appender"},
}

func TestForbiddenImports(t *testing.T) {
	for _, p := range list(t, "./...") {
		from, _ := ours(p.ImportPath)
		for _, r := range forbidden {
			if r.why == engineWhy && slices.Contains(wires, from) {
				continue
			}
			if !under(from, r.from) || slices.ContainsFunc(engines[r.from], func(e string) bool { return under(from, e) }) {
				continue
			}
			for _, d := range p.Deps {
				to, is := ours(d)
				if !is {
					to = d
				}
				if under(to, r.to) {
					t.Errorf("%s reaches %s: %s", from, to, r.why)
				}
			}
		}
	}
}

// TestNoSimLinksNoSimulation: a daemon built with the tag nosim does not hold what makes or takes simulated evidence.
func TestNoSimLinksNoSimulation(t *testing.T) {
	for _, p := range list(t, "-tags", "nosim", "-deps", "./cmd/consilium-node", "./cmd/consilium-coordinator") {
		if from, is := ours(p.ImportPath); is && slices.Contains(p.Imports, module+"/attest/simtee") {
			t.Errorf("%s imports attest/simtee in spite of the tag nosim", from)
		}
	}
}

func TestLeavesStandAlone(t *testing.T) {
	for _, p := range list(t, "./...") {
		from, _ := ours(p.ImportPath)
		for _, leaf := range leaves {
			if !under(from, leaf) {
				continue
			}
			for _, d := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
				to, is := ours(d)
				if is && !under(to, leaf) && to != "internal/signed" {
					t.Errorf("%s imports %s: leaves are read, proved and fuzzed alone", from, to)
				}
			}
		}
	}
}

// TestProtoStaysAtTheEdge: only internal/transport and files named rpc*.go see generated code.
func TestProtoStaysAtTheEdge(t *testing.T) {
	for _, p := range list(t, "./...") {
		from, _ := ours(p.ImportPath)
		if under(from, "internal/transport") || under(from, "proto") {
			continue
		}
		for _, f := range p.GoFiles {
			if strings.HasPrefix(f, "rpc") {
				continue
			}
			for _, path := range imports(t, filepath.Join(p.Dir, f)) {
				if to, is := ours(path); is && under(to, "proto") {
					t.Errorf("%s/%s imports %s: domain code speaks domain types", from, f, to)
				}
			}
		}
	}
}

func imports(t *testing.T, file string) []string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, s := range f.Imports {
		path, err := strconv.Unquote(s.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, path)
	}
	return all
}

// TestLeavesHaveNoChance: security randomness is crypto/rand or a DRBG keyed from it.
func TestLeavesHaveNoChance(t *testing.T) {
	for _, p := range list(t, "./...") {
		from, _ := ours(p.ImportPath)
		for _, tree := range append(slices.Clone(leaves), "node", "coordinator", "internal/transport", "internal/identity") {
			if !under(from, tree) {
				continue
			}
			for _, d := range p.Imports {
				if under(d, "math/rand") {
					t.Errorf("%s imports %s: its numbers can be guessed", from, d)
				}
			}
			if from != "audit/appender" && slices.Contains(leaves, tree) && slices.Contains(p.Imports, "log/slog") { // the appender hands Tessera's words on
				t.Errorf("%s imports log/slog: leaves log nothing", from)
			}
		}
	}
}

// clocks may read the wall clock: they act now, and no verdict depends on what they read.
var clocks = map[string]string{
	"attest/channel":            "a handshake happens now; it hands the time to the verifiers",
	"audit/appender":            "a leaf is appended now",
	"attest/simtee Attest":      "it stands in for a chip, which has a clock",
	"attest/tdx ask":            "it waits for a host that makes one quote at a time; no verifier calls it",
	"attest/internal/tpm Sleep": "it waits for a TPM that another process uses; no verifier calls it",
	"audit cosign":              "a witness signs when it saw the checkpoint",
}

// TestVerifiersReadNoClock: what is checked offline years later gets its time from the caller.
func TestVerifiersReadNoClock(t *testing.T) {
	for _, p := range list(t, "./...") {
		from, _ := ours(p.ImportPath)
		if !slices.ContainsFunc(append(slices.Clone(leaves), "internal/verify"), func(l string) bool { return under(from, l) }) || clocks[from] != "" {
			continue
		}
		for _, f := range p.GoFiles {
			for function, at := range clockReads(t, filepath.Join(p.Dir, f)) {
				if clocks[from+" "+function] == "" {
					t.Errorf("%s/%s, in %s: a verifier reads the wall clock", from, at, function)
				}
			}
		}
	}
}

// clockReads returns where the functions of a file use the clock.
func clockReads(t *testing.T, file string) map[string]string {
	t.Helper()
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, d := range f.Decls {
		name := "a declaration"
		if fn, ok := d.(*ast.FuncDecl); ok {
			name = fn.Name.Name
		}
		ast.Inspect(d, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := s.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(clockFuncs, s.Sel.Name) {
				at := set.Position(s.Pos())
				all[name] = fmt.Sprintf("%s:%d time.%s", filepath.Base(at.Filename), at.Line, s.Sel.Name)
			}
			return true
		})
	}
	return all
}

var clockFuncs = []string{"Now", "Since", "Until", "After", "Tick", "NewTimer", "NewTicker", "AfterFunc", "Sleep"}

// TestLinks compares what each daemon links with its checked-in list: a new line there is a new thing to
// trust, and shows in review. `go generate ./internal/rules` writes the lists.
func TestLinks(t *testing.T) {
	for _, daemon := range []string{"cmd/consilium-node", "cmd/consilium-coordinator"} {
		file := filepath.Join("../..", daemon, "links.txt")
		if _, err := os.Stat(filepath.Dir(file)); errors.Is(err, os.ErrNotExist) {
			continue
		}
		want := links(t, daemon)
		if *write {
			if err := os.WriteFile(file, want, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range missing(want, got) {
			t.Errorf("%s links %s, which %s does not list; `go generate ./internal/rules` if that is meant", daemon, l, file)
		}
		for _, l := range missing(got, want) {
			t.Errorf("%s lists %s, which %s no longer links; `go generate ./internal/rules`", file, l, daemon)
		}
	}
}

// missing returns the lines of a that b lacks.
func missing(a, b []byte) []string {
	have := strings.Split(string(b), "\n")
	return slices.DeleteFunc(strings.Split(string(a), "\n"), func(l string) bool { return slices.Contains(have, l) })
}

func links(t *testing.T, daemon string) []byte {
	t.Helper()
	var of, others []string
	modules := map[string]bool{}
	for _, p := range list(t, "-deps", "./"+daemon) {
		switch path, is := ours(p.ImportPath); {
		case p.Standard:
		case is:
			of = append(of, path)
		default:
			if p.Module != nil {
				modules[p.Module.Path] = true
			}
			others = append(others, p.ImportPath)
		}
	}
	slices.Sort(of)
	slices.Sort(others)
	var b bytes.Buffer
	fmt.Fprintf(&b, "# What %s links on linux/amd64 beside the standard library: %d packages of ours, %d of %d other modules.\n", filepath.Base(daemon), len(of), len(others), len(modules))
	fmt.Fprintln(&b, "# Written by go generate ./internal/rules; a test compares.")
	for _, p := range append(of, others...) {
		fmt.Fprintln(&b, p)
	}
	return b.Bytes()
}
