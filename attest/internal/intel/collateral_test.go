package intel

import (
	"encoding/json"
	"strings"
	"testing"

	fake "github.com/consilium-fl/consilium/attest/testtee/intel"
)

// TestStrictDocuments changes one thing of a document that whoever signs could write, and that no two readers may
// take for different things.
func TestStrictDocuments(t *testing.T) {
	encode := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	tcb, qe := encode(fake.NewTCBInfo(fake.NewMachine())), encode(fake.NewQEIdentity())
	for _, c := range []struct {
		name, from, to string
		taken          bool
	}{
		{"as it is", "", "", true},
		{"white space", `,"`, ` ,` + "\r\n\t" + `"`, true},
		{"a name that nobody knows", `"version":`, `"new":{"a":[1,"b",true,false,null,[],{}]},"version":`, true},
		{"a name twice", `"version":`, `"id":"TDX","id":"TD_QE","version":`, false},
		{"a name that nobody knows, twice", `"version":`, `"new":1,"new":2,"version":`, false},
		{"a name of another case", `"version":`, `"Version":`, false},
		{"an escape", `"version":`, `"ve\u0072sion":`, false},
		{"a letter that is not ASCII", `"UpToDate"`, `"UpToDáte"`, false},
		{"a leading zero", `"tcbEvaluationDataNumber":20`, `"tcbEvaluationDataNumber":020`, false},
		{"a fraction", `"tcbEvaluationDataNumber":20`, `"tcbEvaluationDataNumber":20.0`, false},
		{"an exponent", `"tcbEvaluationDataNumber":20`, `"tcbEvaluationDataNumber":2e1`, false},
		{"below zero", `"tcbEvaluationDataNumber":20`, `"tcbEvaluationDataNumber":-20`, false},
		{"too great a number", `"tcbEvaluationDataNumber":20`, `"tcbEvaluationDataNumber":18446744073709551636`, false},
		{"a text for a number", `"tcbEvaluationDataNumber":20`, `"tcbEvaluationDataNumber":"20"`, false},
		{"no version", `"version":`, `"revision":`, false},
		{"no levels", `"tcbLevels":`, `"levels":`, false},
		{"no date of a level", `"tcbDate":`, `"date":`, false},
		{"no status of a level", `"tcbStatus":`, `"status":`, false},
		{"a date that is none", `"2025-11-12T00:00:00Z"`, `"2025-13-12T00:00:00Z"`, false},
		{"a comma too many", `}]}`, `},]}`, false},
		{"deep nesting", `"version":`, `"new":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `,"version":`, false},
		{"many names", `"version":`, manyNames() + `"version":`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			change := func(s string) string {
				if c.from == "" {
					return s
				}
				return strings.ReplaceAll(s, c.from, c.to)
			}
			if got := parseTCBInfo([]byte(change(tcb))) != nil; got != c.taken {
				t.Errorf("TCB info: taken %t, want %t", got, c.taken)
			}
			if got := parseQEIdentity([]byte(change(qe))) != nil; got != c.taken {
				t.Errorf("QE identity: taken %t, want %t", got, c.taken)
			}
		})
	}
	for _, c := range []struct{ name, from, to string }{
		{"a component of 256", `{"svn":7,"type":"Early Microcode Update"}`, `{"svn":256}`},
		{"a component without a number", `{"svn":7,"type":"Early Microcode Update"}`, `{}`},
		{"fifteen components", `{"svn":7,"type":"Early Microcode Update"},`, ``},
		{"seventeen components", `{"svn":7,"type":"Early Microcode Update"},`, `{"svn":7},{"svn":7},`},
		{"PCESVN of 65536", `"pcesvn":11`, `"pcesvn":65536`},
		{"no TDX components", `"tdxtcbcomponents":`, `"components":`},
		{"FMSPC of 5 bytes", `"fmspc":"00806f050000"`, `"fmspc":"00806f0500"`},
		{"FMSPC not in hex", `"fmspc":"00806f050000"`, `"fmspc":"0080gf050000"`},
		{"of another kind of TCB", `"tcbType":0`, `"tcbType":1`},
		{"a module without a name", `"id":"TDX_01"`, `"name":"TDX_01"`},
		{"a module without a mask", `"attributesMask":`, `"mask":`},
		{"text behind it", `"tcbLevels":[{"tcb":{"sgx`, `"x":0}{"tcbLevels":[{"tcb":{"sgx`},
	} {
		changed := strings.ReplaceAll(tcb, c.from, c.to)
		if changed == tcb {
			t.Errorf("%s: nothing changed", c.name)
		}
		if parseTCBInfo([]byte(changed)) != nil {
			t.Errorf("%s: taken", c.name)
		}
	}
}

func manyNames() string {
	var b strings.Builder
	for i := range 30 {
		b.WriteString(`"n` + strings.Repeat("x", i) + `":1,`)
	}
	return b.String()
}
