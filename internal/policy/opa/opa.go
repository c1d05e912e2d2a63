// Package opa decides by Rego, embedded: the coordinator's policy for each request, and a hospital's
// consent. It fails closed. The embedded policies name what is required and what passed, and allow
// when nothing is missing; an error, or anything but exactly one answer of the right form, refuses.
//
//	gate, err := opa.NewCoordinator(ctx, map[string]string{"hours.rego": text})
//	…
//	d, err := gate.Decide(ctx, policy.Request{Method: "/consilium.v1.RoundService/Send", …})
//	if err != nil || !d.Allow {
//		refuse(d.Reasons)
//	}
//
// Extra Rego may only refuse, by one rule in its package (consilium.extra at the coordinator,
// consilium.consent at a node):
//
//	package consilium.consent
//
//	refuse contains "epsilon is over one" if input.study.epsilon > 1
//
// What such a rule compares has to be there, or the rule is undefined and refuses nothing; every
// field of policy.Request always is.
package opa

import (
	"context"
	"crypto/sha256"
	_ "embed" // the policies
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"

	"github.com/consilium-fl/consilium/internal/policy"
)

//go:embed coordinator.rego
var coordinatorRego string

//go:embed node.rego
var nodeRego string

// timeout bounds one decision: an extra policy that does not end refuses.
const timeout = time.Second

// Gate is a compiled policy. Its methods may be called from many goroutines.
type Gate struct {
	query  rego.PreparedEvalQuery
	digest [32]byte
	known  *known // nil: each request is evaluated
	extra  bool   // there is extra Rego, which alone may look at claims
}

// engine is an embedded policy and where the extra Rego beside it has its place.
type engine struct {
	name, pkg, text, extra string
}

// NewCoordinator compiles the coordinator's policy with extra Rego files by name, in package
// consilium.extra. One that does not compile strictly, has no `refuse contains reason`, or calls
// what is not the same each time (the network, chance) is an error.
func NewCoordinator(ctx context.Context, extra map[string]string) (*Gate, error) {
	g, err := compile(ctx, engine{"coordinator.rego", "consilium.coordinator", coordinatorRego, "consilium.extra"}, extra)
	if err == nil && len(extra) == 0 {
		g.known = &known{}
	}
	return g, err
}

// NewNode compiles a node's policy with the hospital's consent files by name, in package
// consilium.consent, likewise.
func NewNode(ctx context.Context, consent map[string]string) (*Gate, error) {
	return compile(ctx, engine{"node.rego", "consilium.node", nodeRego, "consilium.consent"}, consent)
}

func compile(ctx context.Context, e engine, extra map[string]string) (*Gate, error) {
	mods := map[string]*ast.Module{}
	for _, name := range slices.Sorted(maps.Keys(extra)) {
		m, err := parseExtra(name, extra[name], e.extra)
		if err != nil {
			return nil, fmt.Errorf("compiling policy %q: %w", name, err)
		}
		mods["extra/"+name] = m
	}
	m, err := ast.ParseModuleWithOpts(e.name, e.text, ast.ParserOptions{RegoVersion: ast.RegoV1})
	if err != nil {
		return nil, fmt.Errorf("compiling policy %q: %w", e.name, err)
	}
	mods[e.name] = m
	c := ast.NewCompiler().WithStrict(true).WithCapabilities(capabilities()).WithDefaultRegoVersion(ast.RegoV1)
	if c.Compile(mods); c.Failed() {
		return nil, fmt.Errorf("compiling policies: %w", c.Errors)
	}
	q, err := rego.New(rego.Query("data."+e.pkg+".decision"), rego.Compiler(c), rego.StrictBuiltinErrors(true)).PrepareForEval(ctx)
	if err != nil {
		return nil, fmt.Errorf("preparing policies: %w", err)
	}
	return &Gate{query: q, digest: digest(e, extra), extra: len(extra) > 0}, nil
}

// capabilities leaves out what answers differently each time. time.now_ns stays: it is Request.Now.
func capabilities() *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion()
	c.Builtins = slices.DeleteFunc(c.Builtins, func(b *ast.Builtin) bool {
		return b.Nondeterministic && b.Name != "time.now_ns"
	})
	return c
}

// parseExtra holds an extra module to its package and to a rule that can refuse: a rule of another
// name or form would compile, be read by nobody, and refuse nothing.
func parseExtra(name, text, pkg string) (*ast.Module, error) {
	m, err := ast.ParseModuleWithOpts(name, text, ast.ParserOptions{RegoVersion: ast.RegoV1})
	if err != nil {
		return nil, err
	}
	if got := m.Package.Path.String(); got != "data."+pkg {
		return nil, fmt.Errorf("its package is %s, want %s", got, pkg)
	}
	refuses := false
	for _, r := range m.Rules {
		if len(r.Head.Ref()) == 0 || !r.Head.Ref()[0].Equal(ast.VarTerm("refuse")) {
			continue
		}
		if r.Default || r.Head.Key == nil || r.Head.Value != nil || len(r.Head.Ref()) != 1 {
			return nil, fmt.Errorf("line %d: rule refuse has another form, want `refuse contains reason if …`", r.Location.Row)
		}
		refuses = true
	}
	if !refuses {
		return nil, errors.New("it has no rule `refuse contains reason if …`, so it would refuse nothing")
	}
	return m, nil
}

// digest is SHA-256 over the names and texts, each with its length before it.
func digest(e engine, extra map[string]string) [32]byte {
	h := sha256.New()
	write := func(s string) {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(s))))
		h.Write([]byte(s))
	}
	write(e.name)
	write(e.text)
	for _, name := range slices.Sorted(maps.Keys(extra)) {
		write(name)
		write(extra[name])
	}
	return [32]byte(h.Sum(nil))
}

// Digest is of all Rego text: the embedded policy and the extra ones with their names.
func (g *Gate) Digest() [32]byte { return g.digest }

// Decide answers r. After an error the decision is a refusal, and the error says why there is none.
func (g *Gate) Decide(ctx context.Context, r policy.Request) (policy.Decision, error) {
	if !g.extra {
		r.Session.Attestation = ""
	}
	if d, ok := g.known.find(r); ok {
		return d, nil
	}
	in, err := input(r)
	if err != nil {
		return policy.Decision{Policy: g.digest}, fmt.Errorf("deciding on %q: %w", r.Method, err)
	}
	d, err := g.eval(ctx, in, r.Now)
	if err != nil {
		return policy.Decision{Policy: g.digest}, fmt.Errorf("deciding on %q: %w", r.Method, err)
	}
	g.known.add(r, d)
	return d, nil
}

func (g *Gate) eval(ctx context.Context, in ast.Value, now time.Time) (d policy.Decision, err error) {
	defer func() {
		if p := recover(); p != nil {
			d, err = policy.Decision{Policy: g.digest}, fmt.Errorf("the policy engine panicked: %v", p)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	rs, err := g.query.Eval(ctx, rego.EvalParsedInput(in), rego.EvalTime(now))
	if err != nil {
		return policy.Decision{}, err
	}
	required, missing, refused, err := answer(rs)
	if err != nil {
		return policy.Decision{}, err
	}
	if required == 0 {
		return policy.Decision{}, errors.New("the policy requires nothing")
	}
	return policy.Decision{Allow: len(missing)+len(refused) == 0, Reasons: append(missing, refused...), Policy: g.digest}, nil
}

// answer reads the one result, which has exactly the form that the embedded policies give it.
func answer(rs rego.ResultSet) (required int, missing, refused []string, err error) {
	if len(rs) != 1 || len(rs[0].Expressions) != 1 || len(rs[0].Bindings) != 0 {
		return 0, nil, nil, fmt.Errorf("%d results, want exactly one", len(rs))
	}
	m, ok := rs[0].Expressions[0].Value.(map[string]any)
	if !ok || len(m) != 3 {
		return 0, nil, nil, fmt.Errorf("result is %T, want an object of required, missing and refused", rs[0].Expressions[0].Value)
	}
	all, err := texts(m["required"])
	if err != nil {
		return 0, nil, nil, fmt.Errorf("required: %w", err)
	}
	if missing, err = texts(m["missing"]); err != nil {
		return 0, nil, nil, fmt.Errorf("missing: %w", err)
	}
	if refused, err = texts(m["refused"]); err != nil {
		return 0, nil, nil, fmt.Errorf("refused: %w", err)
	}
	return len(all), missing, refused, nil
}

// texts reads a set, sorted. A reason that an extra policy gives as a number is a reason all the same.
func texts(v any) ([]string, error) {
	set, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("got %T, want a set", v)
	}
	out := make([]string, len(set))
	for i, e := range set {
		out[i] = fmt.Sprint(e)
	}
	slices.Sort(out)
	return out, nil
}
