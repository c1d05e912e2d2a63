package attest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestOnlyCheckGivesClaims lists every exported function, method and variable of this folder that hands
// out Claims, or something that holds them. A new one belongs here only if it verifies and
// appraises.
func TestOnlyCheckGivesClaims(t *testing.T) {
	want := []string{
		"amd.Verify",               // internal to attest: for the formats that contain a report
		"attest.Appraise",          // of claims that the caller brought
		"attest.Unappraise",        // seals them
		"attest.Verifier.Verify",   // sealed
		"attest.Verifiers.Check",   // the way
		"attest.Verifiers.Recheck", // the same, from storage
		"azure.verifier.Verify",    // sealed, as are all verifiers'
		"confspace.verifier.Verify",
		"intel.Verify", // internal to attest: for the formats that contain a quote
		"simtee.verifier.Verify",
		"snp.verifier.Verify",
		"tdx.verifier.Verify",
		"vtpm.verifier.Verify",
	}
	var got []string
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, d := range f.Decls {
			got = append(got, givesClaims(f.Name.Name, d)...)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("claims come from\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	// A sealed value has no exported field or method to open it by.
	if n := len(methodsOf(t, "Unappraised")); n != 0 {
		t.Errorf("Unappraised has %d methods, want none", n)
	}
}

// clocks are the files below here that may ask what time it is, and why. Whoever verifies is given the time.
var clocks = map[string]string{
	"tdx/attester.go":        "it waits for a device, on a machine that attests",
	"internal/tpm/device.go": "the same",
	"simtee/simtee.go":       "the certificate of a simulated machine begins when it is made",
}

// TestVerifiersHaveNoClock: no other file uses the clock, and no chain of certificates is built at the standard library's
// choice of time, which is now.
func TestVerifiersHaveNoClock(t *testing.T) {
	asked := map[string]bool{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if d.IsDir() && slices.Contains([]string{"channel", "endorse/refresh", "testtee", "formal"}, path) {
			return fs.SkipDir // these run on a connection, fetch, or stand in for vendors
		}
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains([]string{"Now", "Since", "Until", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick", "Sleep"}, n.Sel.Name) {
					if asked[path] = true; clocks[path] == "" {
						t.Errorf("%s uses time.%s", path, n.Sel.Name)
					}
				}
			case *ast.CompositeLit:
				if s, ok := n.Type.(*ast.SelectorExpr); ok && s.Sel.Name == "VerifyOptions" && !slices.ContainsFunc(n.Elts, func(e ast.Expr) bool {
					kv, ok := e.(*ast.KeyValueExpr)
					return ok && kv.Key.(*ast.Ident).Name == "CurrentTime"
				}) {
					t.Errorf("%s builds a chain at no given time", path)
				}
			}
			return true
		})
		return nil
	})
	if err != nil || len(asked) != len(clocks) {
		t.Errorf("the clock is used in %d files of %d that may: %v", len(asked), len(clocks), err)
	}
}

func givesClaims(pkg string, d ast.Decl) []string {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if !d.Name.IsExported() || !mentionsClaims(d.Type.Results) {
			return nil
		}
		name := pkg + "."
		if d.Recv != nil {
			name += typeName(d.Recv.List[0].Type) + "."
		}
		return []string{name + d.Name.Name}
	case *ast.GenDecl:
		var out []string
		for _, s := range d.Specs {
			switch s := s.(type) {
			case *ast.ValueSpec:
				for _, n := range s.Names {
					if n.IsExported() && mentionsClaims(s.Type) {
						out = append(out, pkg+"."+n.Name)
					}
				}
			case *ast.TypeSpec:
				iface, ok := s.Type.(*ast.InterfaceType)
				if !ok {
					continue
				}
				for _, m := range iface.Methods.List {
					if f, ok := m.Type.(*ast.FuncType); ok && mentionsClaims(f.Results) {
						out = append(out, pkg+"."+s.Name.Name+"."+m.Names[0].Name)
					}
				}
			}
		}
		return out
	}
	return nil
}

func mentionsClaims(n ast.Node) bool {
	found := false
	switch n := n.(type) {
	case *ast.FieldList:
		if n == nil {
			return false
		}
	case nil:
		return false
	}
	ast.Inspect(n, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok && slices.Contains([]string{"Claims", "Unappraised", "Result"}, id.Name) {
			found = true
		}
		return !found
	})
	return found
}

func typeName(e ast.Expr) string {
	if s, ok := e.(*ast.StarExpr); ok {
		e = s.X
	}
	return e.(*ast.Ident).Name
}

func methodsOf(t *testing.T, name string) []string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "verify.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv != nil && typeName(fn.Recv.List[0].Type) == name {
			out = append(out, fn.Name.Name)
		}
	}
	return out
}
