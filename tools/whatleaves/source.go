package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

// folders are the packages whose structs travel.
var folders = map[string]string{
	"aggregate": "aggregate",
	"attest":    "attest",
	"channel":   "attest/channel",
	"simtee":    "attest/simtee",
	"study":     "internal/study",
	"signed":    "internal/signed",
	"audit":     "audit",
	"node":      "node",
}

// source reads structs as they are written: many that travel are unexported, out of reflection's reach.
type source struct {
	top    string
	parsed map[string][]*ast.File
}

func (s *source) files(pkg string) ([]*ast.File, error) {
	if f, ok := s.parsed[pkg]; ok {
		return f, nil
	}
	dir, ok := folders[pkg]
	if !ok {
		return nil, fmt.Errorf("package %s: its folder is not known", pkg)
	}
	names, err := filepath.Glob(filepath.Join(s.top, dir, "*.go"))
	if err != nil {
		return nil, err
	}
	var all []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, b, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	if s.parsed == nil {
		s.parsed = map[string][]*ast.File{}
	}
	s.parsed[pkg] = all
	return all, nil
}

// find returns the declaration of package.Name: a type's expression, or nil for a function or a constant.
func (s *source) find(name string) (expr ast.Expr, err error) {
	pkg, id, _ := strings.Cut(name, ".")
	files, err := s.files(pkg)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.Name == id && d.Recv == nil {
					return nil, nil
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if t, ok := spec.(*ast.TypeSpec); ok && t.Name.Name == id {
						return t.Type, nil
					}
				}
			}
		}
	}
	return nil, fmt.Errorf("%s is classified and does not exist", name)
}

func (s *source) exists(name string) error {
	_, err := s.find(name)
	return err
}

// structure reads a struct by the tags of its encoding.
func (s *source) structure(name, tag string) (truth, error) {
	expr, err := s.find(name)
	if err != nil {
		return truth{}, err
	}
	st, ok := expr.(*ast.StructType)
	if !ok {
		return truth{}, fmt.Errorf("%s is no struct", name)
	}
	pkg, _, _ := strings.Cut(name, ".")
	var t truth
	for _, f := range st.Fields.List {
		if len(f.Names) == 0 || f.Tag == nil {
			return truth{}, fmt.Errorf("%s has a field that is embedded or has no %s tag", name, tag)
		}
		key, _, _ := strings.Cut(reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Get(tag), ",")
		if key == "" || key == "-" {
			return truth{}, fmt.Errorf("%s.%s has no %s key", name, f.Names[0].Name, tag)
		}
		for _, n := range f.Names {
			label := n.Name
			if tag == "json" {
				label = key
			}
			t.fields = append(t.fields, field{name: label, key: key, kind: types.ExprString(f.Type)})
			used, err := s.structs(pkg, f.Type)
			if err != nil {
				return truth{}, fmt.Errorf("%s.%s: %w", name, label, err)
			}
			for _, u := range used {
				t.uses = append(t.uses, label+"\t"+u)
			}
		}
	}
	return t, nil
}

// basic are the types of the language that hold no other.
var basic = []string{"bool", "string", "byte", "int", "int64", "uint8", "uint32", "uint64", "float64"}

// structs names the structs of ours that a type holds. A type that it cannot see through is an error.
func (s *source) structs(pkg string, e ast.Expr) ([]string, error) {
	switch e := e.(type) {
	case *ast.StarExpr:
		return s.structs(pkg, e.X)
	case *ast.ArrayType:
		return s.structs(pkg, e.Elt)
	case *ast.MapType:
		k, err := s.structs(pkg, e.Key)
		if err != nil {
			return nil, err
		}
		v, err := s.structs(pkg, e.Value)
		return append(k, v...), err
	case *ast.SelectorExpr:
		return s.named(types.ExprString(e))
	case *ast.Ident:
		if slices.Contains(basic, e.Name) {
			return nil, nil
		}
		return s.named(pkg + "." + e.Name)
	}
	return nil, fmt.Errorf("type %s cannot be seen through", types.ExprString(e))
}

func (s *source) named(name string) ([]string, error) {
	expr, err := s.find(name)
	if err != nil {
		return nil, err
	}
	if _, ok := expr.(*ast.StructType); ok {
		return []string{name}, nil
	}
	pkg, _, _ := strings.Cut(name, ".")
	return s.structs(pkg, expr)
}

// clientCalls are the methods that a package calls on something named client.
func (s *source) clientCalls(pkg string) ([]string, error) {
	files, err := s.files(pkg)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if on, ok := call.X.(*ast.SelectorExpr); ok && on.Sel.Name == "client" {
				names = append(names, call.Sel.Name)
			}
			return true
		})
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}
