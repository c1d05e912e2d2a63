package window

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

// TestNoRawReportData: below attest no exported function, method or interface turns report data into evidence, nor
// hands a Quote out: whoever holds one can attest what is bound to nothing. What only attest imports may, and tests' fakes.
func TestNoRawReportData(t *testing.T) {
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if d != nil && (d.Name() == "testtee" || d.Name() == "internal") {
			return fs.SkipDir
		}
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, name := range quoters(f) {
			if f.Name.Name+"."+name != "window.Quote" {
				t.Errorf("%s: %s is exported and quotes raw report data: give it to window.New unexported", path, name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestQuotersAreSeen(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "x.go", `package x
		type A interface { Quote(ctx context.Context, d [64]byte) (attest.Evidence, error) }
		type B func(d [64]byte) Evidence
		func (d device) C(x []byte, data [64]byte) (Evidence, error) { return d.c(data) }
		func D() window.Quote { return nil }
		type E struct { F window.Quote }
		var G func([64]byte) Evidence
		func (d device) c(data [64]byte) (Evidence, error) { return Evidence{}, nil }
		func H(b Binding) (Evidence, error) { return Evidence{}, nil }
		func New(q window.Quote) *Attester { return nil }
	`, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := quoters(f), []string{"A", "B", "C", "D", "E", "G"}; !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
}

// quoters are the exported declarations of f that are, hold or return a function from report data to evidence.
func quoters(f *ast.File) (names []string) {
	note := func(id *ast.Ident, n ast.Node) {
		if id.IsExported() && quotes(n) {
			names = append(names, id.Name)
		}
	}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			note(d.Name, &ast.FuncType{Params: d.Type.Params, Results: d.Type.Results})
		case *ast.GenDecl:
			for _, s := range d.Specs {
				switch s := s.(type) {
				case *ast.TypeSpec:
					note(s.Name, exportedParts(s.Type))
				case *ast.ValueSpec:
					for _, id := range s.Names {
						if s.Type != nil {
							note(id, s.Type)
						}
					}
				}
			}
		}
	}
	return names
}

// exportedParts leaves out of a struct the fields that no other package can reach.
func exportedParts(e ast.Expr) ast.Node {
	s, ok := e.(*ast.StructType)
	if !ok {
		return e
	}
	out := &ast.FieldList{}
	for _, f := range s.Fields.List {
		if len(f.Names) == 0 || slices.ContainsFunc(f.Names, func(id *ast.Ident) bool { return id.IsExported() }) {
			out.List = append(out.List, f)
		}
	}
	return out
}

func quotes(n ast.Node) (found bool) {
	ast.Inspect(n, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncType:
			found = found || holds(n.Params, func(e ast.Expr) bool {
				a, ok := e.(*ast.ArrayType)
				return ok && isLiteral(a.Len, "64")
			}) && holds(n.Results, isNamed("Evidence")) || holds(n.Results, isNamed("Quote"))
		case *ast.Field:
			found = found || n.Names != nil && ast.IsExported(n.Names[0].Name) && isNamed("Quote")(n.Type)
		}
		return !found
	})
	return found
}

func holds(l *ast.FieldList, is func(ast.Expr) bool) bool {
	return l != nil && slices.ContainsFunc(l.List, func(f *ast.Field) bool { return is(f.Type) })
}

func isNamed(name string) func(ast.Expr) bool {
	return func(e ast.Expr) bool {
		if s, ok := e.(*ast.SelectorExpr); ok {
			return s.Sel.Name == name
		}
		id, ok := e.(*ast.Ident)
		return ok && id.Name == name
	}
}

func isLiteral(e ast.Expr, v string) bool {
	l, ok := e.(*ast.BasicLit)
	return ok && l.Value == v
}
