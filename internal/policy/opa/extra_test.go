package opa

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"

	"github.com/consilium-fl/consilium/internal/policy"
)

func evalInput(in ast.Value) rego.EvalOption { return rego.EvalParsedInput(in) }

const never = `package consilium.extra

refuse contains "never" if input.method == "never"
`

// consent is a node's request that passes.
func consent(method string) policy.Request {
	return policy.Request{
		Method:  method,
		Now:     now,
		Session: policy.Session{Study: studyA, Status: "affirming", Until: now.Add(time.Hour)},
		Target:  inState("running"),
		Study: policy.Study{
			Hospital: "va", Approved: true, ApprovedUntil: now.Add(time.Hour), Dataset: "cardiology", Registry: "cardiology",
			From: now.Add(-time.Hour), Until: now.Add(time.Hour), EthicsUntil: now.Add(time.Hour), Budget: true,
			Title: "Hearts", Board: "IRB", Rounds: 30, Epsilon: 1, Delta: 1e-5, Noise: "distributed", Mode: "masked",
		},
	}
}

func TestConsentAttacks(t *testing.T) {
	for _, w := range consentAttacks(t, nodeGate(t, nil)) {
		t.Error(w)
	}
}

// consentAttacks returns what is not refused for the one reason named, at train and, where that
// matters there, at join.
func consentAttacks(t *testing.T, g *Gate) (wrong []string) {
	for _, c := range []struct {
		attack string
		change func(r *policy.Request)
		want   string
		join   bool // refused at join too
	}{
		{"no approval of ours", func(r *policy.Request) { r.Study.Approved = false }, "approved", true},
		{"our approval has ended", func(r *policy.Request) { r.Study.ApprovedUntil = now }, "approval_valid", true},
		{"approved for another registry", func(r *policy.Request) { r.Study.Dataset = "oncology" }, "dataset", true},
		{"no registry at all", func(r *policy.Request) { r.Study.Dataset, r.Study.Registry = "", "" }, "dataset", true},
		{"another study", func(r *policy.Request) { r.Target.Study = studyB }, "study", true},
		{"no study at all", func(r *policy.Request) { r.Target.Study, r.Session.Study = "", "" }, "study", true},
		{"the coordinator's attestation has ended", func(r *policy.Request) { r.Session.Until = now }, "session", false},
		{"the coordinator was refused", func(r *policy.Request) { r.Session.Status = "contraindicated" }, "attested", false},
		{"the coordinator showed nothing", func(r *policy.Request) { r.Session.Status = "" }, "attested", false},
		{"a simulated coordinator taken for real", func(r *policy.Request) { r.Session.Simulated = true }, "attested", false},
		{"not a member", func(r *policy.Request) { r.Target.Members = []string{"cleveland"} }, "member", false},
		{"a hospital of no name", func(r *policy.Request) { r.Study.Hospital, r.Target.Members = "", []string{""} }, "member", false},
		{"a study without a beginning", func(r *policy.Request) { r.Study.From = time.Time{} }, "valid", false},
		{"the study has not begun", func(r *policy.Request) { r.Study.From = now.Add(1) }, "valid", false},
		{"the study has ended", func(r *policy.Request) { r.Study.Until = now }, "valid", false},
		{"the ethics vote has ended", func(r *policy.Request) { r.Study.EthicsUntil = now }, "ethics", false},
		{"the budget is spent", func(r *policy.Request) { r.Study.Budget = false }, "budget", false},
		{"something else", func(r *policy.Request) { r.Method = "export" }, "method", true},
	} {
		r := consent(policy.MethodTrain)
		c.change(&r)
		if d := decide(t, g, r); d.Allow || !slices.Contains(d.Reasons, c.want) || len(d.Reasons) > 1 {
			wrong = append(wrong, fmt.Sprintf("%s: allowed %v, %q, want %q", c.attack, d.Allow, d.Reasons, c.want))
		}
		if r.Method == policy.MethodTrain {
			r.Method = policy.MethodJoin
		}
		if d := decide(t, g, r); d.Allow == c.join {
			wrong = append(wrong, fmt.Sprintf("%s, at join: allowed %v, %q", c.attack, d.Allow, d.Reasons))
		}
	}
	return wrong
}

// A hospital's own Rego adds its reasons, and takes none away.
func TestConsentMayOnlyRefuse(t *testing.T) {
	g := nodeGate(t, map[string]string{"consent.rego": `package consilium.consent

refuse contains "epsilon is over a half" if input.study.epsilon > 0.5

refuse contains sprintf("noise is %s", [input.study.noise]) if input.study.noise != "distributed"

refuse contains "only on working days" if time.weekday(time.now_ns()) in {"Saturday", "Sunday"}
`})
	d := decide(t, g, consent(policy.MethodTrain)) // on a Sunday
	if diff := cmp.Diff([]string{"epsilon is over a half", "only on working days"}, d.Reasons); d.Allow || diff != "" {
		t.Errorf("allowed %v (-want +got):\n%s", d.Allow, diff)
	}
	r := consent(policy.MethodTrain)
	r.Now = r.Now.Add(24 * time.Hour)
	r.Session.Until, r.Study.ApprovedUntil, r.Study.Until, r.Study.EthicsUntil = r.Now.Add(1), r.Now.Add(1), r.Now.Add(1), r.Now.Add(1)
	r.Study.Epsilon = 0.25
	if d := decide(t, g, r); !d.Allow {
		t.Errorf("with nothing against it: %q", d.Reasons)
	}
	r.Study.Approved = false
	if d := decide(t, g, r); d.Allow || !slices.Equal(d.Reasons, []string{"approved"}) {
		t.Errorf("without an approval: allowed %v, %q", d.Allow, d.Reasons)
	}
}

// Rego that cannot be held to refusing is an error when it is loaded, not an open door later.
func TestExtraPoliciesThatDoNotLoad(t *testing.T) {
	const head = "package consilium.extra\n\n"
	for name, text := range map[string]string{
		"empty":               "",
		"does not parse":      head + "refuse contains {",
		"does not compile":    head + `refuse contains "x" if unknown_function(input)`,
		"not strict":          head + "import data.other\n\n" + `refuse contains "x" if input.a`,
		"not version 1":       head + `refuse["x"] { input.a }`,
		"nothing that it can": head,
		"another name":        head + `deny contains "x" if input.method == "m"`,
		"a value":             head + `refuse := "x" if input.method == "m"`,
		"an object":           head + `refuse["x"] := 1 if input.method == "m"`,
		"a function":          head + `refuse(x) := 1 if x == 1`,
		"a default":           head + "default refuse := false\n",
		"deeper":              head + `refuse.more contains "x" if input.method == "m"`,
		"another package":     "package consilium.other\n\n" + `refuse contains "x" if input.method == "m"`,
		"our package":         "package consilium.coordinator\n\n" + `passed contains "svid" if true`,
		"a package below":     "package consilium.extra.more\n\n" + `refuse contains "x" if input.method == "m"`,
		"the network":         head + `refuse contains "x" if http.send({"method": "get", "url": "http://127.0.0.1"}).status_code == 200`,
		"chance":              head + `refuse contains "x" if rand.intn("x", 2) == 1`,
		"the environment":     head + `refuse contains "x" if opa.runtime().env.HOME`,
		"a circle":            head + `refuse contains "x" if count(data.consilium.coordinator.decision.missing) > 0`,
	} {
		if _, err := NewCoordinator(t.Context(), map[string]string{"extra.rego": text}); err == nil {
			t.Errorf("%s: it loads", name)
		} else if !strings.Contains(err.Error(), "extra.rego") && !strings.Contains(err.Error(), "rego_recursion_error") {
			t.Errorf("%s: %v, want the file named", name, err)
		}
	}
}

// An evaluation that fails is a refusal and an error, also where Rego by itself would go on.
func TestEvaluationErrorsRefuse(t *testing.T) {
	const head = "package consilium.extra\n\n"
	for name, text := range map[string]string{
		"a function fails": head + `refuse contains "x" if to_number(input.method) > 1`,
		"two values":       head + "f := 1 if input.method\n\nf := 2 if input.method\n\n" + `refuse contains "x" if f == 3`,
		"no end":           head + `refuse contains "x" if count({[a, b, c] | some a in numbers.range(1, 3000); some b in numbers.range(1, 3000); some c in numbers.range(1, 3000); a + b == c * c + 7}) == 1`,
	} {
		g := gate(t, map[string]string{"extra.rego": text})
		ctx, cancel := context.WithCancel(t.Context())
		if name == "no end" {
			cancel() // the second that a decision may take is not waited for here
		}
		d, err := g.Decide(ctx, request("/grpc.health.v1.Health/Check", node(), "running"))
		cancel()
		if err == nil || d.Allow || d.Policy != g.Digest() {
			t.Errorf("%s: allowed %v, %v", name, d.Allow, err)
		}
	}
}

// Odd reasons are reasons.
func TestReasonsOfOtherTypes(t *testing.T) {
	g := gate(t, map[string]string{"extra.rego": "package consilium.extra\n\nrefuse contains false\n\nrefuse contains null\n\nrefuse contains 7\n\nrefuse contains \"\"\n"})
	d := decide(t, g, request("/grpc.health.v1.Health/Check", node(), "running"))
	if d.Allow || len(d.Reasons) != 4 {
		t.Errorf("allowed %v, %q", d.Allow, d.Reasons)
	}
}

// Whatever comes back that is not one answer of the form that our policies give is an error.
func TestOtherAnswersAreErrors(t *testing.T) {
	good := map[string]any{"required": []any{"a"}, "missing": []any{}, "refused": []any{}}
	one := func(v any) rego.ResultSet {
		return rego.ResultSet{{Expressions: []*rego.ExpressionValue{{Value: v}}}}
	}
	if _, _, _, err := answer(one(good)); err != nil {
		t.Fatal(err)
	}
	for name, rs := range map[string]rego.ResultSet{
		"none":          nil,
		"two":           append(one(good), one(good)...),
		"a boolean":     one(true),
		"nothing in it": one(map[string]any{}),
		"no set":        one(map[string]any{"required": []any{"a"}, "missing": "", "refused": []any{}}),
		"more":          one(map[string]any{"required": []any{"a"}, "missing": []any{}, "refused": []any{}, "allow": true}),
		"another":       one(map[string]any{"required": []any{"a"}, "missing": []any{}, "denied": []any{}}),
	} {
		if _, _, _, err := answer(rs); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

// An embedded policy that requires nothing decides nothing.
func TestPolicyThatRequiresNothing(t *testing.T) {
	e := engine{"p.rego", "p", "package p\n\ndecision := {\"required\": set(), \"missing\": set(), \"refused\": set()}\n", "x"}
	g, err := compile(t.Context(), e, nil)
	if err != nil {
		t.Fatal(err)
	}
	if d, err := g.Decide(t.Context(), policy.Request{}); err == nil || d.Allow {
		t.Errorf("allowed %v, %v", d.Allow, err)
	}
	e.text = "package p\n\ndecision := true if input.method == \"m\"\n"
	if g, err = compile(t.Context(), e, nil); err != nil {
		t.Fatal(err)
	}
	if d, err := g.Decide(t.Context(), policy.Request{}); err == nil || d.Allow || errors.Is(err, context.Canceled) {
		t.Errorf("an undefined decision: allowed %v, %v", d.Allow, err)
	}
}

// TestClaims: an extra rule can refuse by what a machine's evidence says, and cannot admit.
func TestClaims(t *testing.T) {
	milan, genoa := policy.JSON(`{"format":"snp/1","generation":"milan"}`), policy.JSON(`{"format":"snp/1","generation":"genoa"}`)
	rule := func(pkg string) map[string]string {
		return map[string]string{"claims.rego": "package " + pkg + `

refuse contains "no Milan" if input.session.attestation.generation == "milan"

refuse contains "no machine" if not input.session.attestation.format

allow := true
`}
	}
	for name, c := range map[string]struct {
		gate *Gate
		ask  policy.Request
	}{
		"coordinator": {gate(t, rule("consilium.extra")), sending(sendMethod)},
		"node":        {nodeGate(t, rule("consilium.consent")), consent(policy.MethodTrain)},
	} {
		for claims, want := range map[policy.JSON]string{milan: "no Milan", genoa: "", "": "no machine"} {
			c.ask.Session.Attestation = claims
			if d := decide(t, c.gate, c.ask); d.Allow != (want == "") || want != "" && !slices.Equal(d.Reasons, []string{want}) {
				t.Errorf("%s, %s: allowed %t, %v", name, claims, d.Allow, d.Reasons)
			}
		}
		c.ask.Session.Attestation, c.ask.Session.Until = genoa, now
		if d := decide(t, c.gate, c.ask); d.Allow {
			t.Errorf("%s: claims admitted what the session's end refuses", name)
		}
		for _, bad := range []policy.JSON{"[]", "{", `"x"`} {
			c.ask.Session.Attestation = bad
			if d, err := c.gate.Decide(t.Context(), c.ask); err == nil || d.Allow {
				t.Errorf("%s: claims %q: %v", name, bad, err)
			}
		}
	}
}

// TestClaimsAreForExtraRules: where there are none, nobody reads them, whatever they are.
func TestClaimsAreForExtraRules(t *testing.T) {
	r := sending(sendMethod)
	r.Session.Attestation = "["
	if d := decide(t, gate(t, nil), r); !d.Allow {
		t.Error(d.Reasons)
	}
}
