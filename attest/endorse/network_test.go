package endorse

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const tree = "github.com/consilium-fl/consilium/attest"

// dialling are the packages below attest that link what opens connections, and why.
var dialling = map[string]string{
	"/endorse/refresh": "it fetches, in the background",
	"/channel":         "it runs on a connection that it is given",
	"/azure":           "its attester asks the host's metadata service; Verify reaches none of that",
	"/confspace":       "its attester asks the launcher's socket; Verify reaches none of that",
	"/intake":          "it links the packages of all formats, those two among them",
}

// harmless are others' packages that import net, and why a verifier may link them.
var harmless = map[string]string{
	"github.com/google/go-tpm/tpmutil": "opens a TPM's socket where it is told to; verifiers use go-tpm's types",
}

type listed struct {
	Dir, ImportPath, Export string
	GoFiles                 []string
	Imports, Deps           []string
	Standard                bool
}

func list(t *testing.T) map[string]listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-export", "-deps", "-json=Dir,ImportPath,Export,GoFiles,Imports,Deps,Standard", "./attest/...")
	cmd.Dir = "../.."
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]listed{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all[p.ImportPath] = p
	}
}

// dials reports whether a package opens connections itself. The standard library uses net for the form of addresses
// too; what opens connections there is net/http.
func dials(p listed) bool {
	return p.ImportPath == "net/http" || !p.Standard && harmless[p.ImportPath] == "" && (slices.Contains(p.Imports, "net") || slices.Contains(p.Imports, "net/http"))
}

// TestVerifiersDoNotDial: no verifier links what opens a connection; where the attester of the same package does, no
// function that Verify can reach stands in a file that imports it.
func TestVerifiersDoNotDial(t *testing.T) {
	all := list(t)
	for path, p := range all {
		below, ours := strings.CutPrefix(path, tree)
		if !ours || dialling[below] != "" || strings.HasPrefix(below, "/testtee") {
			continue
		}
		for _, d := range append(slices.Clone(p.Deps), path) {
			if dials(all[d]) {
				t.Errorf("%s links %s, which opens connections", path, d)
			}
		}
	}
	for _, below := range []string{"/azure", "/confspace"} {
		for _, d := range all[tree+below].Deps {
			if !all[d].Standard && dials(all[d]) {
				t.Errorf("%s links %s, which opens connections", below, d)
			}
		}
		for _, f := range connecting(t, all, tree+below, "Verify") {
			t.Errorf("%s: Verify can reach %s, in a file that imports what opens connections", below, f)
		}
	}
}

// TestReachIsSeen: the search above finds what an attester reaches.
func TestReachIsSeen(t *testing.T) {
	all := list(t)
	for _, below := range []string{"/azure", "/confspace"} {
		if len(connecting(t, all, tree+below, "NewAttester")) == 0 {
			t.Errorf("%s: NewAttester reaches nothing that opens connections", below)
		}
	}
}

// connecting are the functions that those of a name can reach within their package, and that stand in a file that
// imports net or net/http. A call through an interface reaches every method of its name.
func connecting(t *testing.T, all map[string]listed, path, from string) []string {
	t.Helper()
	set := token.NewFileSet()
	var files []*ast.File
	for _, name := range all[path].GoFiles {
		f, err := parser.ParseFile(set, filepath.Join(all[path].Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	info := &types.Info{Defs: map[*ast.Ident]types.Object{}, Uses: map[*ast.Ident]types.Object{}}
	conf := types.Config{Importer: importer.ForCompiler(set, "gc", func(p string) (io.ReadCloser, error) { return os.Open(all[p].Export) })}
	if _, err := conf.Check(path, set, files, info); err != nil {
		t.Fatal(err)
	}
	type function struct {
		name  string
		opens bool
		uses  []types.Object
	}
	functions := map[types.Object]*function{}
	byName := map[string][]types.Object{}
	for _, f := range files {
		opens := slices.ContainsFunc(f.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == `"net"` || i.Path.Value == `"net/http"` })
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			x := &function{name: fn.Name.Name, opens: opens}
			ast.Inspect(fn, func(n ast.Node) bool {
				if id, ok := n.(*ast.Ident); ok {
					if o, ok := info.Uses[id].(*types.Func); ok {
						x.uses = append(x.uses, o)
					}
				}
				return true
			})
			functions[info.Defs[fn.Name]] = x
			byName[x.name] = append(byName[x.name], info.Defs[fn.Name])
		}
	}
	if len(byName[from]) == 0 {
		t.Fatalf("%s has no %s", path, from)
	}
	seen := map[types.Object]bool{}
	var out []string
	for todo := slices.Clone(byName[from]); len(todo) > 0; todo = todo[1:] {
		x := functions[todo[0]]
		if seen[todo[0]] {
			continue
		}
		seen[todo[0]] = true
		if x == nil { // of another package, or of an interface
			if s := todo[0].Type().(*types.Signature); s.Recv() != nil && types.IsInterface(s.Recv().Type()) {
				todo = append(todo, byName[todo[0].Name()]...)
			}
			continue
		}
		if x.opens {
			out = append(out, x.name)
		}
		todo = append(todo, x.uses...)
	}
	return out
}
