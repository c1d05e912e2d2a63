package opa

import (
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/consilium-fl/consilium/internal/policy"
)

const sendMethod = "/consilium.v1.RoundService/Send"

// What is known is what would be decided, whatever changes in a request and whenever it is asked.
func TestKnownDecisionsAreTheDecisions(t *testing.T) {
	g := gate(t, nil)
	base := sending(sendMethod)
	if d := decide(t, g, base); !d.Allow {
		t.Fatalf("the base is refused: %v", d.Reasons)
	}
	if _, ok := g.known.find(base); !ok {
		t.Fatal("an allowed request is not known")
	}
	fresh := func(r policy.Request) policy.Decision {
		in, err := input(r)
		if err != nil {
			t.Fatal(err)
		}
		d, err := g.eval(t.Context(), in, r.Now)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for _, at := range []time.Time{now, now.Add(time.Minute), base.Session.Until.Add(-1), base.Session.Until, base.Session.Until.Add(time.Hour), {}, time.Unix(0, 0), time.Unix(0, 1), time.Unix(-5, 0)} {
		r := base
		r.Now = at
		if diff := cmp.Diff(fresh(r), decide(t, g, r)); diff != "" {
			t.Errorf("at %v (-evaluated +known):\n%s", at, diff)
		}
	}
}

// No field is left out of what is compared.
func TestKnownRequestsDifferInEveryField(t *testing.T) {
	base := sending(sendMethod)
	id := askedOf(base)
	var fields func(v reflect.Value, path string, check func(path string))
	fields = func(v reflect.Value, path string, check func(string)) {
		for i := range v.NumField() {
			f, name := v.Field(i), path+"."+v.Type().Field(i).Name
			old := reflect.New(f.Type()).Elem()
			old.Set(f)
			switch x := f.Interface().(type) {
			case time.Time:
				f.Set(reflect.ValueOf(x.Add(time.Second)))
			case string:
				f.SetString(x + "x")
			case policy.JSON:
				f.SetString(string(x) + " ")
			case bool:
				f.SetBool(!x)
			case []string:
				f.Set(reflect.ValueOf(append([]string{"x"}, x...)))
			case int:
				f.SetInt(int64(x) + 1)
			case float64:
				f.SetFloat(x + 1)
			default:
				fields(f, name, check)
				continue
			}
			check(name)
			f.Set(old)
		}
	}
	fields(reflect.ValueOf(&base).Elem(), "", func(path string) {
		if same := askedOf(base) == id; same != (path == ".Now") {
			t.Errorf("a request with another %s is the same: %v", path, same)
		}
	})
}

// Refusals, extra Rego and nodes are evaluated each time.
func TestWhatIsNotKnown(t *testing.T) {
	g := gate(t, nil)
	refused := sending(sendMethod)
	refused.Target.State = "ended"
	if d := decide(t, g, refused); d.Allow || len(g.known.allowed) > 0 {
		t.Errorf("allowed %v, %d known", d.Allow, len(g.known.allowed))
	}
	if gate(t, map[string]string{"hours.rego": "package consilium.extra\n\nrefuse contains \"late\" if input.now > 1e30"}).known != nil {
		t.Error("decisions beside extra Rego are known")
	}
	if nodeGate(t, nil).known != nil {
		t.Error("a node's decisions are known")
	}
}

func sending(method string) policy.Request {
	r := request(method, node(), "running")
	r.Target.From = "va"
	return r
}
