package prose

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/consilium-fl/consilium/attest"
)

// jsonText is JSON without its quotes, which are of no use to a reader.
func jsonText(v any) string {
	b, err := json.Marshal(v)
	var plain any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err != nil || d.Decode(&plain) != nil {
		return fmt.Sprintf("%v", v)
	}
	return plainText(plain)
}

func plainText(v any) string {
	var parts []string
	switch v := v.(type) {
	case nil:
		return "none"
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			parts = append(parts, plainText(name)+": "+plainText(v[name]))
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case []any:
		for _, x := range v {
			parts = append(parts, plainText(x))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case string:
		if quoted := strconv.Quote(v); quoted[1:len(quoted)-1] != v { // what would not print as itself
			return quoted
		}
		return v
	}
	return fmt.Sprint(v)
}

// Rule is one line of a policy.
type Rule struct {
	Path  string `json:"path"`
	Takes string `json:"takes"`
	// Open says that this is not compared, or that more is taken than a careful policy would.
	Open bool `json:"open"`
}

// PolicyTable is a policy as rules, in the order of its file.
func PolicyTable(p attest.Policy) []Rule {
	var rules []Rule
	collect(&rules, "", reflect.ValueOf(struct {
		Accept         []attest.Format        `yaml:"accept"`
		AllowSimulated bool                   `yaml:"allow_simulated"`
		Measurements   attest.Set             `yaml:"measurements"`
		Machines       attest.Set             `yaml:"machines"`
		Deny           []string               `yaml:"deny_generations"`
		Warn           []string               `yaml:"warn_generations"`
		Revocation     bool                   `yaml:"revocation"`
		SNP            *attest.SNPPolicy      `yaml:"snp"`
		TDX            *attest.TDXPolicy      `yaml:"tdx"`
		TPM            *attest.TPMPolicy      `yaml:"tpm"`
		Azure          *attest.AzurePolicy    `yaml:"azure"`
		Workload       *attest.WorkloadPolicy `yaml:"workload"`
	}{p.Accept, p.AllowSimulated, p.Measurements, p.Machines, p.DenyGenerations, p.WarnGenerations, p.Revocation, p.SNP, p.TDX, p.TPM, p.Azure, p.Workload}))
	return rules
}

func collect(rules *[]Rule, path string, v reflect.Value) {
	switch s := v.Interface().(type) {
	case attest.Set:
		*rules = append(*rules, Rule{path, setText(s), s.Any})
		return
	case attest.SNPTCB:
		*rules = append(*rules, Rule{path, level(s), false})
		return
	case attest.List:
		*rules = append(*rules, Rule{path, jsonText(s), s.Any})
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			collect(rules, path, v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			if name == "" {
				name = strings.ToLower(f.Name)
			}
			if path != "" {
				name = path + "." + name
			}
			collect(rules, name, v.Field(i))
		}
	case reflect.Map:
		for _, key := range sortedKeys(v) {
			collect(rules, fmt.Sprintf("%s.%v", path, key), v.MapIndex(key))
		}
	case reflect.Bool:
		*rules = append(*rules, Rule{path, fmt.Sprint(v.Bool()), strings.HasSuffix(path, "revocation") != v.Bool() && looser(path)})
	default:
		*rules = append(*rules, Rule{path, fmt.Sprint(v.Interface()), v.Kind() == reflect.String && v.String() == string(attest.Optional)})
	}
}

// looser names the flags by which a policy takes more.
func looser(path string) bool {
	for _, name := range []string{"allow_simulated", "revocation", "provisional"} {
		if strings.HasSuffix(path, name) {
			return true
		}
	}
	return false
}

func sortedKeys(v reflect.Value) []reflect.Value {
	keys := v.MapKeys()
	for i := range keys {
		for j := i; j > 0 && fmt.Sprint(keys[j]) < fmt.Sprint(keys[j-1]); j-- {
			keys[j], keys[j-1] = keys[j-1], keys[j]
		}
	}
	return keys
}

func setText(s attest.Set) string {
	switch {
	case s.Any:
		return "any"
	case len(s.Of) == 0:
		return "none"
	}
	return strings.Join(s.Of, ", ")
}

// Policy explains a policy: each rule, then what it leaves open.
func Policy(p attest.Policy) string {
	var out page
	out.say("Policy", "for evidence of a %s; an appraisal holds for %s", p.Role, orHour(p.MaxAge))
	out.say("Dated things", "collateral and revocation lists are taken until they end%s%s", graceText(p.Grace), ageText(p.EndorsementAge))
	var open []string
	for _, r := range PolicyTable(p) {
		out.say(fmt.Sprintf("  %-36s", r.Path), "%s", r.Takes)
		if r.Open {
			open = append(open, r.Path+": "+r.Takes)
		}
	}
	if len(open) == 0 {
		open = []string{"nothing"}
	}
	out.list("Left open", open)
	return out.b.String()
}

func orHour(d time.Duration) time.Duration {
	if d == 0 {
		return attest.MaxAge
	}
	return d
}

func graceText(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return fmt.Sprintf(", and with a warning for %s longer", d)
}

func ageText(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return fmt.Sprintf(", at most %s after their issue", d)
}
