package attest_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/importer"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestOnlyAppraisedClaimsGoOut lists every exported function, method and variable below here by whose type somebody
// outside can get at claims of any kind, through whatever fields, elements, results and callbacks. Each has appraised them.
func TestOnlyAppraisedClaimsGoOut(t *testing.T) {
	want := []string{
		"attest.Appraise", // of claims that the caller brought
		"attest.Verifiers.Check",
		"attest.Verifiers.Recheck",
		// Of an accepted peer, or of one whom the verdict at hand refuses.
		"attest/channel.Config.Observe",
	}
	const tree = "github.com/consilium-fl/consilium/"
	cmd := exec.Command("go", "list", "-export", "-deps", "-json=ImportPath,Export", "./...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	exports := map[string]string{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct{ ImportPath, Export string }
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		exports[p.ImportPath] = p.Export
	}
	load := importer.ForCompiler(token.NewFileSet(), "gc", func(p string) (io.ReadCloser, error) { return os.Open(exports[p]) })
	var got []string
	for path := range exports {
		name, ours := strings.CutPrefix(path, tree)
		if !ours || !strings.HasPrefix(name, "attest") || strings.Contains(name, "/internal/") || strings.Contains(name, "/testtee") {
			continue
		}
		pkg, err := load.Import(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range pkg.Scope().Names() {
			got = append(got, gives(name, pkg.Scope().Lookup(n))...)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("claims go out by\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// gives is how an object of a package's scope hands out claims.
func gives(pkg string, o types.Object) (out []string) {
	switch o := o.(type) {
	case *types.Func:
		if o.Exported() && results(o, map[types.Type]bool{}) {
			out = append(out, pkg+"."+o.Name())
		}
	case *types.Var:
		if o.Exported() && reaches(o.Type(), map[types.Type]bool{}) {
			out = append(out, pkg+"."+o.Name())
		}
	case *types.TypeName:
		if s, ok := o.Type().Underlying().(*types.Struct); ok && o.Exported() {
			for f := range s.Fields() {
				if call, ok := f.Type().(*types.Signature); ok && f.Exported() && reaches(call.Params(), map[types.Type]bool{}) {
					out = append(out, pkg+"."+o.Name()+"."+f.Name())
				}
			}
		}
		for m := range types.NewMethodSet(types.NewPointer(o.Type())).Methods() {
			if f, ok := m.Obj().(*types.Func); ok && f.Exported() && results(f, map[types.Type]bool{}) {
				out = append(out, pkg+"."+o.Name()+"."+f.Name())
			}
		}
	}
	return out
}

func results(f *types.Func, seen map[types.Type]bool) bool {
	return reaches(f.Signature().Results(), seen)
}

// reaches reports whether claims can be got at from a value of a type.
func reaches(t types.Type, seen map[types.Type]bool) bool {
	if seen[t] {
		return false
	}
	seen[t] = true
	switch t := t.(type) {
	case *types.Named:
		o := t.Obj()
		if o.Pkg() != nil && o.Pkg().Name() == "attest" && (strings.HasSuffix(o.Name(), "Claims") || o.Name() == "Workload") {
			return true
		}
		return reaches(t.Underlying(), seen)
	case *types.Alias:
		return reaches(types.Unalias(t), seen)
	case *types.Struct:
		for f := range t.Fields() {
			if f.Exported() && reaches(f.Type(), seen) {
				return true
			}
		}
	case *types.Tuple:
		for v := range t.Variables() {
			if reaches(v.Type(), seen) {
				return true
			}
		}
	case *types.Map:
		return reaches(t.Key(), seen) || reaches(t.Elem(), seen)
	case *types.Signature:
		return reaches(t.Results(), seen)
	case interface{ Elem() types.Type }: // pointer, slice, array, channel
		return reaches(t.Elem(), seen)
	}
	return false
}
