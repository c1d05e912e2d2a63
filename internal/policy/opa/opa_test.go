package opa

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/consilium-fl/consilium/internal/policy"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

const studyA, studyB = "sha256:aa", "sha256:bb"

func gate(t testing.TB, extra map[string]string) *Gate {
	t.Helper()
	g, err := NewCoordinator(t.Context(), extra)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func nodeGate(t testing.TB, consent map[string]string) *Gate {
	t.Helper()
	g, err := NewNode(t.Context(), consent)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func decide(t testing.TB, g *Gate, r policy.Request) policy.Decision {
	t.Helper()
	d, err := g.Decide(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func node() policy.Peer {
	return policy.Peer{Role: "node", SPIFFE: "spiffe://heart.example/hospital/va/node/1", Hospital: "va", Node: "1", Enrolled: true, SVID: true}
}

func lead() policy.Peer { return policy.Peer{Role: "person", Person: "r.lead", PersonRole: "lead"} }

func auditor() policy.Peer {
	return policy.Peer{Role: "person", Person: "a.board", PersonRole: "auditor"}
}

func inState(state string) policy.Target {
	return policy.Target{
		Study: studyA, Exists: true, State: state, Members: []string{"cleveland", "va"},
		Lead: "r.lead", Release: []string{"r.lead"}, Hospitals: true,
	}
}

// request is one that passes for a peer whose method needs a study in a state; "" is one that does not exist.
func request(method string, p policy.Peer, state string) policy.Request {
	r := policy.Request{
		Method: method, Now: now, Peer: p, Target: inState(state),
		Session: policy.Session{Study: studyA, Until: now.Add(time.Hour)},
	}
	if p.Role == "node" {
		r.Session.Status = "affirming"
	}
	if state == "" {
		r.Target.Exists = false
	}
	return r
}

// rule is one line of who may do what, as interfaces.md has it; the policy is not its source.
type rule struct {
	method string
	peer   func() policy.Peer
	states string // in which it may; "*" for any, "-" for one that does not exist
}

var allowed = []rule{
	{"/grpc.health.v1.Health/Check", node, "*"},
	{"/grpc.health.v1.Health/List", node, "*"},
	{"/grpc.health.v1.Health/Watch", node, "*"},
	{"/consilium.v1.IdentityService/IssueSVID", node, "*"},
	{"/consilium.v1.IdentityService/GetBundle", node, "*"},
	{"/consilium.v1.StudyService/GetStudy", node, "*"},
	{"/consilium.v1.StudyService/ListStudies", node, "*"},
	{"/consilium.v1.RoundService/Follow", node, "running ended short"},
	{"/consilium.v1.RoundService/Send", node, "running"},
	{"/consilium.v1.RoundService/Upload", node, "running"},
	{"/consilium.v1.RoundService/Download", node, "running"},
	{"/consilium.v1.ReleaseService/GetReceipt", node, "ended short"},
	{"/consilium.v1.ReleaseService/DownloadModel", node, "ended short"},
	{"/consilium.v1.AuditService/ReadLog", node, "*"},
	{"/consilium.v1.AuditService/CosignCheckpoint", node, "*"},

	{"/grpc.health.v1.Health/Check", lead, "*-"},
	{"/grpc.health.v1.Health/List", lead, "*-"},
	{"/grpc.health.v1.Health/Watch", lead, "*-"},
	{"/consilium.v1.StudyService/CreateStudy", lead, "-"},
	{"/consilium.v1.StudyService/GetStudy", lead, "*-"},
	{"/consilium.v1.StudyService/ListStudies", lead, "*-"},
	{"/consilium.v1.StudyService/WatchStudy", lead, "*-"},
	{"/consilium.v1.StudyService/ApproveStudy", lead, "proposed running"},
	{"/consilium.v1.StudyService/CancelStudy", lead, "proposed running"},
	{"/consilium.v1.ReleaseService/GetReceipt", lead, "ended short"},
	{"/consilium.v1.ReleaseService/DownloadModel", lead, "ended short"},
	{"/consilium.v1.AuditService/ReadLog", lead, "*-"},

	{"/grpc.health.v1.Health/Check", auditor, "*-"},
	{"/grpc.health.v1.Health/List", auditor, "*-"},
	{"/grpc.health.v1.Health/Watch", auditor, "*-"},
	{"/consilium.v1.StudyService/GetStudy", auditor, "*-"},
	{"/consilium.v1.StudyService/ListStudies", auditor, "*-"},
	{"/consilium.v1.StudyService/WatchStudy", auditor, "*-"},
	{"/consilium.v1.ReleaseService/GetReceipt", auditor, "ended short"},
	{"/consilium.v1.AuditService/ReadLog", auditor, "*-"},
}

func (r rule) in(state string) bool {
	switch {
	case strings.HasPrefix(r.method, "/grpc.health."):
		return true // whatever study
	case state == "":
		return strings.Contains(r.states, "-")
	}
	return strings.Contains(r.states, "*") || slices.Contains(strings.Fields(r.states), state)
}

func TestWhoMayDoWhat(t *testing.T) {
	for _, w := range matrix(t, gateOnce) {
		t.Error(w)
	}
}

// matrix asks for every method, by every kind of peer, in every state, and returns where the answer
// is not the table's.
func matrix(t *testing.T, g *Gate) (wrong []string) {
	methods := map[string]bool{}
	for _, r := range allowed {
		methods[r.method] = true
	}
	methods["/consilium.v1.RoundService/Unknown"], methods[""] = true, true
	for method := range methods {
		for _, p := range []func() policy.Peer{node, lead, auditor, func() policy.Peer { return policy.Peer{} }} {
			for _, state := range []string{"", "proposed", "running", "ended", "short", "cancelled", "else"} {
				want := slices.ContainsFunc(allowed, func(r rule) bool {
					return r.method == method && r.peer() == p() && r.in(state)
				})
				d := decide(t, g, request(method, p(), state))
				if d.Allow != want || d.Allow != (len(d.Reasons) == 0) {
					wrong = append(wrong, fmt.Sprintf("%s by %+v in state %q: allowed %v %q, want %v", method, p(), state, d.Allow, d.Reasons, want))
				}
			}
		}
	}
	return wrong
}

// first is a state in which a rule allows its method.
func (r rule) first() policy.Request {
	for _, s := range []string{"running", "proposed", "ended", ""} {
		if r.in(s) {
			return request(r.method, r.peer(), s)
		}
	}
	panic("a rule that never allows")
}

func TestAttacksAreRefusedByName(t *testing.T) {
	wrong, seen := attacks(t, gateOnce)
	for _, w := range wrong {
		t.Error(w)
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(passes(t, coordinatorRego))), slices.Sorted(maps.Keys(seen))); diff != "" {
		t.Errorf("reasons that no attack asks for (-policy +attacks):\n%s", diff)
	}
}

// attacks tries each way to break a request that passes, and returns those that are not refused for
// the one reason named, and all these reasons.
func attacks(t *testing.T, g *Gate) (wrong []string, seen map[string]bool) {
	const (
		send    = "/consilium.v1.RoundService/Send"
		issue   = "/consilium.v1.IdentityService/IssueSVID"
		follow  = "/consilium.v1.RoundService/Follow"
		model   = "/consilium.v1.ReleaseService/DownloadModel"
		receipt = "/consilium.v1.ReleaseService/GetReceipt"
		create  = "/consilium.v1.StudyService/CreateStudy"
		cancel  = "/consilium.v1.StudyService/CancelStudy"
		list    = "/consilium.v1.StudyService/ListStudies"
		readLog = "/consilium.v1.AuditService/ReadLog"
	)
	seen = map[string]bool{}
	for _, c := range []struct {
		attack string
		method string
		peer   policy.Peer
		state  string
		change func(r *policy.Request)
		want   string
	}{
		{"a session that ends now", send, node(), "running", func(r *policy.Request) { r.Session.Until = now }, "session"},
		{"a session without an end", send, node(), "running", func(r *policy.Request) { r.Session.Until = time.Time{} }, "session"},
		{"evidence that was refused", send, node(), "running", func(r *policy.Request) { r.Session.Status = "contraindicated" }, "attested"},
		{"no evidence", send, node(), "running", func(r *policy.Request) { r.Session.Status = "" }, "attested"},
		{"no evidence, for health", "/grpc.health.v1.Health/Check", node(), "running", func(r *policy.Request) { r.Session.Status = "" }, "attested"},
		{"a simulated TEE taken for real", send, node(), "running", func(r *policy.Request) { r.Session.Simulated = true }, "attested"},
		{"a person with a node's evidence", readLog, lead(), "running", func(r *policy.Request) { r.Session.Status = "affirming" }, "attested"},
		{"a person with a simulated node's evidence", readLog, lead(), "running", func(r *policy.Request) { r.Session.Status, r.Session.Simulated = "warning", true }, "attested"},
		{"a person who was refused", readLog, lead(), "running", func(r *policy.Request) { r.Session.Status = "contraindicated" }, "attested"},
		{"a person marked simulated", readLog, lead(), "running", func(r *policy.Request) { r.Session.Simulated = true }, "attested"},
		{"a hospital of no name", send, node(), "running", func(r *policy.Request) {
			r.Peer.Hospital, r.Peer.SPIFFE, r.Target.Members = "", "spiffe://heart.example/hospital//node/1", []string{""}
		}, "enrolled"},
		{"a node of no name", send, node(), "running", func(r *policy.Request) {
			r.Peer.Node, r.Peer.SPIFFE = "", "spiffe://heart.example/hospital/va/node/"
		}, "enrolled"},
		{"a SPIFFE id from a leaf that is not ours", send, node(), "running", func(r *policy.Request) { r.Peer.SVID = false }, "svid"},
		{"a key that is not enrolled", send, node(), "running", func(r *policy.Request) { r.Peer.Enrolled = false }, "enrolled"},
		{"a key that is not enrolled asks for an SVID", issue, node(), "running", func(r *policy.Request) { r.Peer.Enrolled = false }, "enrolled"},
		{"the self-signed leaf", send, node(), "running", func(r *policy.Request) { r.Peer.SVID, r.Peer.SPIFFE = false, "" }, "svid"},
		{"another hospital's SVID", send, node(), "running", func(r *policy.Request) { r.Peer.SPIFFE = "spiffe://heart.example/hospital/cleveland/node/1" }, "svid"},
		{"another node's SVID", send, node(), "running", func(r *policy.Request) { r.Peer.SPIFFE = "spiffe://heart.example/hospital/va/node/2" }, "svid"},
		{"a hospital whose name ends alike", send, node(), "running", func(r *policy.Request) { r.Peer.SPIFFE = "spiffe://heart.example/hospital/x-va/node/1" }, "svid"},
		{"a hospital that is not a member", send, node(), "running", func(r *policy.Request) { r.Target.Members = []string{"cleveland"} }, "member"},
		{"an SVID for a hospital that is not a member", issue, node(), "running", func(r *policy.Request) { r.Target.Members = nil }, "member"},
		{"another study on the connection", send, node(), "running", func(r *policy.Request) { r.Target.Study = studyB }, "study"},
		{"a node on a connection that serves no one study", send, node(), "running", func(r *policy.Request) { r.Session.Consortium = true }, "study"},
		{"no study at all", send, node(), "running", func(r *policy.Request) { r.Session.Study, r.Target.Study = "", "" }, "study"},
		{"a person without a study", readLog, lead(), "running", func(r *policy.Request) {
			r.Session.Study, r.Target.Study, r.Session.Consortium = "", "", true
		}, "study"},
		{"a person reads another study", readLog, auditor(), "running", func(r *policy.Request) { r.Target.Study = studyB }, "study"},
		{"speaking for another hospital", send, node(), "running", func(r *policy.Request) { r.Target.From = "cleveland" }, "sender"},
		{"a person of a hospital speaks for it", readLog, lead(), "running", func(r *policy.Request) { r.Peer.Hospital, r.Target.From = "va", "va" }, "sender"},
		{"a person speaks for a hospital", readLog, lead(), "running", func(r *policy.Request) { r.Target.From = "va" }, "sender"},
		{"a message before the study runs", send, node(), "proposed", nil, "running"},
		{"a message after the study", send, node(), "ended", nil, "running"},
		{"following a study that was cancelled", follow, node(), "cancelled", nil, "started"},
		{"the model while the study runs", model, node(), "running", nil, "finished"},
		{"the model of a cancelled study", model, lead(), "cancelled", nil, "finished"},
		{"a model not released to hospitals", model, node(), "ended", func(r *policy.Request) { r.Target.Hospitals = false }, "hospitals"},
		{"a model not released to this person", model, lead(), "ended", func(r *policy.Request) { r.Target.Release = []string{"x"} }, "recipient"},
		{"a receipt not released to this lead", receipt, lead(), "ended", func(r *policy.Request) { r.Target.Release = nil }, "recipient_or_auditor"},
		{"a study that exists is created", create, lead(), "proposed", nil, "new"},
		{"a study of another lead is created", create, lead(), "", func(r *policy.Request) { r.Target.Lead = "o.lead" }, "lead"},
		{"another lead cancels", cancel, lead(), "running", func(r *policy.Request) { r.Peer.Person = "o.lead" }, "lead"},
		{"an auditor named as the lead cancels", cancel, auditor(), "running", func(r *policy.Request) { r.Target.Lead = "a.board" }, "lead"},
		{"an ended study is cancelled", cancel, lead(), "ended", nil, "open"},
		{"somebody of no role", list, lead(), "running", func(r *policy.Request) { r.Peer.PersonRole = "steward" }, "person"},
		{"somebody of no name", list, lead(), "running", func(r *policy.Request) { r.Peer.Person = "" }, "person"},
		{"a study that does not exist", issue, node(), "", nil, "exists"},
		{"a person calls a node's method", send, lead(), "running", nil, "method"},
		{"a node cancels", cancel, node(), "running", nil, "method"},
		{"a method nobody knows", "/consilium.v1.RoundService/Steal", node(), "running", nil, "method"},
		{"a peer of no role", send, policy.Peer{Hospital: "va", Enrolled: true, SVID: true}, "running", nil, "method"},
	} {
		r := request(c.method, c.peer, c.state)
		if c.change != nil {
			c.change(&r)
		}
		seen[c.want] = true
		if d := decide(t, g, r); d.Allow || !slices.Equal(d.Reasons, []string{c.want}) {
			wrong = append(wrong, fmt.Sprintf("%s: allowed %v, reasons %q, want %q alone", c.attack, d.Allow, d.Reasons, c.want))
		}
	}
	return wrong, seen
}

// Every single condition of the embedded policies stops something that is tried here: taken out, an
// attack passes or the table of who may do what no longer holds.
func TestEveryConditionStopsAnAttack(t *testing.T) {
	for _, e := range []engine{{"coordinator.rego", "consilium.coordinator", coordinatorRego, "x"}, {"node.rego", "consilium.node", nodeRego, "x"}} {
		lines := strings.Split(e.text, "\n")
		for i, line := range lines {
			weaker, ok := without(line)
			if !ok || inert[strings.TrimSpace(line)] {
				continue
			}
			mutant := e
			mutant.text = strings.Join(slices.Concat(lines[:i], []string{weaker}, lines[i+1:]), "\n")
			g, err := compile(t.Context(), mutant, nil)
			if err != nil {
				t.Fatalf("%s:%d: %v", e.name, i+1, err)
			}
			if !stops(t, e, g) {
				t.Errorf("%s:%d: without %q nothing changes", e.name, i+1, strings.TrimSpace(line))
			}
		}
	}
}

// inert conditions guard against an input of other types than ours, which the tests by field try.
var inert = map[string]bool{
	"input.now > 0 # null is less than any number": true,
	"input.now > 0":                   true,
	"is_string(input.peer.person)":    true,
	"input.session.simulated == true": true, // the rule beside it says the same for false
}

func stops(t *testing.T, e engine, g *Gate) bool {
	if e.name == "node.rego" {
		return len(consentAttacks(t, g)) > 0
	}
	wrong, _ := attacks(t, g)
	return len(wrong)+len(matrix(t, g)) > 0
}

// without returns a line of a rule's body with its condition always true.
func without(line string) (string, bool) {
	if head, cond, ok := strings.Cut(line, " if "); ok && strings.HasPrefix(head, "passed contains") && cond != "{" {
		return head + " if true", true
	}
	for _, p := range []string{"\tinput.", "\tendswith", "\tis_string"} {
		if strings.HasPrefix(line, p) {
			return "\ttrue", true
		}
	}
	return "", false
}

var gateOnce = func() *Gate {
	g, err := NewCoordinator(context.Background(), nil)
	if err != nil {
		panic("the embedded policy always compiles: " + err.Error())
	}
	return g
}()

// A person on a connection for the consortium may ask about any study of it, and about none.
func TestPersonOnTheConsortiumsConnection(t *testing.T) {
	for method, target := range map[string]policy.Target{
		"/consilium.v1.StudyService/ListStudies": {},
		"/consilium.v1.StudyService/GetStudy":    inState("running"),
		"/consilium.v1.AuditService/ReadLog":     {},
		"/consilium.v1.StudyService/CancelStudy": inState("running"),
	} {
		r := request(method, lead(), "running")
		r.Session.Study, r.Session.Consortium, r.Target = "sha256:cc", true, target
		if d := decide(t, gateOnce, r); !d.Allow {
			t.Errorf("%s: %q", method, d.Reasons)
		}
	}
}

func TestSimulatedNode(t *testing.T) {
	r := request("/consilium.v1.RoundService/Send", node(), "running")
	r.Session.Status, r.Session.Simulated, r.Target.From = "warning", true, "va"
	if d := decide(t, gateOnce, r); !d.Allow {
		t.Errorf("a simulated node marked so: %q", d.Reasons)
	}
}

func TestSelfSignedLeafMayAskForAnSVID(t *testing.T) {
	for _, m := range []string{"IssueSVID", "GetBundle"} {
		r := request("/consilium.v1.IdentityService/"+m, node(), "proposed")
		r.Peer.SVID, r.Peer.SPIFFE = false, ""
		if d := decide(t, gateOnce, r); !d.Allow {
			t.Errorf("%s: %q", m, d.Reasons)
		}
	}
}

// passes maps each name in `passed` to the input fields that each of its rules looks at.
func passes(t testing.TB, text string) map[string][]map[string]bool {
	t.Helper()
	m, err := ast.ParseModuleWithOpts("p.rego", text, ast.ParserOptions{RegoVersion: ast.RegoV1})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]map[string]bool{}
	for _, r := range m.Rules {
		if r.Head.Name != "passed" {
			continue
		}
		fields := map[string]bool{}
		ast.WalkRefs(r.Body, func(ref ast.Ref) bool {
			if ref.HasPrefix(ast.InputRootRef) {
				var path []string
				for _, e := range ref[1:] {
					path = append(path, strings.Trim(e.String(), `"`))
				}
				fields[strings.Join(path, ".")] = true
			}
			return false
		})
		name := strings.Trim(r.Head.Key.String(), `"`)
		out[name] = append(out[name], fields)
	}
	return out
}

// required asks the engine what a request has to pass.
func required(t *testing.T, g *Gate, in ast.Value) []string {
	t.Helper()
	rs, err := g.query.Eval(t.Context(), evalInput(in))
	if err != nil {
		t.Fatal(err)
	}
	names, err := texts(rs[0].Expressions[0].Value.(map[string]any)["required"])
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// The generated test: from each request that passes, every field that something required looks at in
// all its rules is taken away in turn, and each time the answer is no, with a reason. Set to null
// instead, which Rego orders before everything else, it is no, or an error.
func removeEachField(t *testing.T, g *Gate, text string, r policy.Request) (removed int) {
	t.Helper()
	full, err := input(r)
	if err != nil {
		t.Fatal(err)
	}
	if d, err := g.eval(t.Context(), full, r.Now); err != nil || !d.Allow {
		t.Fatalf("%s by %s: %q (%v), want a request that passes", r.Method, r.Peer.Role, d.Reasons, err)
	}
	for _, path := range needed(passes(t, text), required(t, g, full)) {
		removed++
		d, err := g.eval(t.Context(), with(full, nil, strings.Split(path, ".")...), r.Now)
		if err != nil || d.Allow || len(d.Reasons) == 0 {
			t.Errorf("%s by %s without %s: allowed %v, reasons %q (%v)", r.Method, r.Peer.Role, path, d.Allow, d.Reasons, err)
		}
		d, err = g.eval(t.Context(), with(full, ast.NullTerm(), strings.Split(path, ".")...), r.Now)
		if err == nil && (d.Allow || len(d.Reasons) == 0) {
			t.Errorf("%s by %s with %s null: allowed %v, reasons %q", r.Method, r.Peer.Role, path, d.Allow, d.Reasons)
		}
	}
	return removed
}

// needed are the fields without which some required name cannot pass.
func needed(rules map[string][]map[string]bool, names []string) []string {
	all := map[string]bool{}
	for _, n := range names {
		for f := range rules[n][0] {
			if !slices.ContainsFunc(rules[n], func(other map[string]bool) bool { return !other[f] }) {
				all[f] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// with returns a copy of an input with one field replaced, or without it.
func with(v ast.Value, to *ast.Term, path ...string) ast.Value {
	out := ast.NewObject()
	v.(ast.Object).Foreach(func(k, e *ast.Term) {
		switch {
		case !k.Equal(ast.StringTerm(path[0])):
			out.Insert(k, e)
		case len(path) > 1:
			out.Insert(k, ast.NewTerm(with(e.Value, to, path[1:]...)))
		case to != nil:
			out.Insert(k, to)
		}
	})
	return out
}

func TestEveryFieldIsNeededAtTheCoordinator(t *testing.T) {
	removed := 0
	for _, r := range allowed {
		removed += removeEachField(t, gateOnce, coordinatorRego, r.first())
	}
	if removed < 10*len(allowed) {
		t.Errorf("%d fields removed over %d rules: the generator found too little", removed, len(allowed))
	}
}

func TestEveryFieldIsNeededAtANode(t *testing.T) {
	g := nodeGate(t, nil)
	for _, m := range []string{policy.MethodJoin, policy.MethodTrain} {
		if n := removeEachField(t, g, nodeRego, consent(m)); n < 8 {
			t.Errorf("%s: %d fields removed", m, n)
		}
	}
}

// An input that is empty, or no object, has every reason against it.
func TestEmptyInputIsRefused(t *testing.T) {
	for _, in := range []ast.Value{ast.NewObject(), ast.String("x"), ast.NullValue} {
		for name, g := range map[string]*Gate{"coordinator": gateOnce, "node": nodeGate(t, nil)} {
			if d, err := g.eval(t.Context(), in, now); err != nil || d.Allow || len(d.Reasons) < 2 {
				t.Errorf("%s on %v: allowed %v, %q, %v", name, in, d.Allow, d.Reasons, err)
			}
		}
	}
}

// The input that is built by hand has the names and values that JSON gives, times apart.
func TestInputIsTheRequestsJSON(t *testing.T) {
	r := request("m", node(), "running")
	r.Study = consent("train").Study
	r.Session.Attestation = `{"format":"snp/1","debug":false,"snp":{"vmpl":0}}`
	in, err := input(r)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ast.JSON(in)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var want any
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(flat("", want), flat("", got)); diff != "" {
		t.Errorf("(-JSON +input):\n%s", diff)
	}
}

// flat prints each leaf by its path; a time in either form becomes its nanoseconds.
func flat(path string, v any) map[string]string {
	out := map[string]string{}
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			maps.Copy(out, flat(path+"."+k, e))
		}
	case string:
		if at, err := time.Parse(time.RFC3339, v); err == nil {
			out[path] = fmt.Sprint(at.UnixNano())
		} else {
			out[path] = v
		}
	case json.Number:
		out[path] = v.String()
	default:
		out[path] = fmt.Sprint(v)
	}
	return out
}

func TestOddNumbersAndTimes(t *testing.T) {
	for _, f := range []float64{math.NaN(), math.Inf(1)} {
		r := consent("train")
		r.Study.Epsilon = f
		if d, err := nodeGate(t, nil).Decide(t.Context(), r); err == nil || d.Allow {
			t.Errorf("epsilon %v: allowed %v, %v", f, d.Allow, err)
		}
	}
	for _, c := range []struct {
		now, until time.Time
		allow      bool
	}{
		{now, time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), true},
		{time.Date(9998, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), false},
		{time.Time{}, time.Date(1960, 1, 1, 0, 0, 0, 0, time.UTC), false},
		{now, now.Add(1), true},
	} {
		r := request("/grpc.health.v1.Health/Check", node(), "running")
		r.Now, r.Session.Until = c.now, c.until
		if d := decide(t, gateOnce, r); d.Allow != c.allow {
			t.Errorf("now %s, until %s: allowed %v, want %v", c.now, c.until, d.Allow, c.allow)
		}
	}
}

func TestDigestIsOfAllText(t *testing.T) {
	seen := map[[32]byte]string{}
	for name, extra := range map[string]map[string]string{
		"none":          nil,
		"one":           {"a.rego": never},
		"other name":    {"b.rego": never},
		"other text":    {"a.rego": never + "\n"},
		"same in parts": {"a.rego": never, "b.rego": never},
	} {
		g := gate(t, extra)
		if other, ok := seen[g.Digest()]; ok {
			t.Errorf("%q and %q have one digest", name, other)
		}
		seen[g.Digest()] = name
		if d := decide(t, g, request("m", node(), "running")); d.Policy != g.Digest() {
			t.Errorf("%q: the decision names another policy", name)
		}
	}
	if n := nodeGate(t, nil); n.Digest() == gateOnce.Digest() {
		t.Error("node and coordinator have one digest")
	}
}

func BenchmarkDecide(b *testing.B) {
	members := []string{"va"}
	for i := range 99 {
		members = append(members, fmt.Sprintf("hospital-%d", i))
	}
	allow := request("/consilium.v1.RoundService/Send", node(), "running")
	allow.Target.Members = members[:10]
	many := allow
	many.Target.Members = members
	deny := request("/consilium.v1.RoundService/Send", node(), "ended")
	deny.Peer.SVID = false
	g := gate(b, nil)
	b.Run("known", func(b *testing.B) {
		for b.Loop() {
			if d, err := g.Decide(b.Context(), allow); err != nil || !d.Allow {
				b.Fatal(d, err)
			}
		}
	})
	g.known = nil
	for name, r := range map[string]policy.Request{"allow": allow, "allow of 100": many, "deny": deny} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if d, err := g.Decide(b.Context(), r); err != nil || d.Allow != (name != "deny") {
					b.Fatal(d, err)
				}
			}
		})
	}
	b.Run("consent", func(b *testing.B) {
		g, r := nodeGate(b, nil), consent("train")
		for b.Loop() {
			if d, err := g.Decide(b.Context(), r); err != nil || !d.Allow {
				b.Fatal(d, err)
			}
		}
	})
}
