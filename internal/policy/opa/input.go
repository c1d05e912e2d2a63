package opa

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/consilium-fl/consilium/internal/policy"
)

// input builds Rego's input by hand: through JSON it would cost more than the decision. A test
// compares its names with the JSON names of policy.Request.
func input(r policy.Request) (ast.Value, error) {
	if !finite(r.Study.Epsilon) || !finite(r.Study.Delta) {
		return nil, fmt.Errorf("epsilon %v and delta %v: want finite numbers", r.Study.Epsilon, r.Study.Delta)
	}
	attested, err := document(r.Session.Attestation)
	if err != nil {
		return nil, err
	}
	return ast.NewObject(
		field("method", text(r.Method)),
		field("now", moment(r.Now)),
		field("peer", peer(r.Peer)),
		field("session", session(r.Session, attested)),
		field("target", target(r.Target)),
		field("study", study(r.Study)),
	), nil
}

func peer(p policy.Peer) *ast.Term {
	return ast.ObjectTerm(
		field("role", text(p.Role)),
		field("spiffe", text(p.SPIFFE)),
		field("hospital", text(p.Hospital)),
		field("node", text(p.Node)),
		field("person", text(p.Person)),
		field("person_role", text(p.PersonRole)),
		field("enrolled", ast.InternedTerm(p.Enrolled)),
		field("svid", ast.InternedTerm(p.SVID)),
	)
}

// document is an object of its own each time: the engine sorts it when it is first looked into.
func document(j policy.JSON) (*ast.Term, error) {
	if j == "" {
		return ast.ObjectTerm(), nil
	}
	v, err := ast.ValueFromReader(strings.NewReader(string(j)))
	if err != nil {
		return nil, fmt.Errorf("reading the claims of the attestation: %w", err)
	}
	if _, ok := v.(ast.Object); !ok {
		return nil, fmt.Errorf("the claims of the attestation are %T, want an object", v)
	}
	return ast.NewTerm(v), nil
}

func session(s policy.Session, attested *ast.Term) *ast.Term {
	return ast.ObjectTerm(
		field("study", text(s.Study)),
		field("consortium", ast.InternedTerm(s.Consortium)),
		field("status", text(s.Status)),
		field("simulated", ast.InternedTerm(s.Simulated)),
		field("until", moment(s.Until)),
		field("attestation", attested),
	)
}

func target(t policy.Target) *ast.Term {
	return ast.ObjectTerm(
		field("study", text(t.Study)),
		field("exists", ast.InternedTerm(t.Exists)),
		field("state", text(t.State)),
		field("members", set(t.Members)),
		field("lead", text(t.Lead)),
		field("release", set(t.Release)),
		field("hospitals", ast.InternedTerm(t.Hospitals)),
		field("from", text(t.From)),
	)
}

func study(s policy.Study) *ast.Term {
	return ast.ObjectTerm(
		field("hospital", text(s.Hospital)),
		field("approved", ast.InternedTerm(s.Approved)),
		field("approved_until", moment(s.ApprovedUntil)),
		field("dataset", text(s.Dataset)),
		field("registry", text(s.Registry)),
		field("from", moment(s.From)),
		field("until", moment(s.Until)),
		field("ethics_until", moment(s.EthicsUntil)),
		field("budget", ast.InternedTerm(s.Budget)),
		field("title", text(s.Title)),
		field("board", text(s.Board)),
		field("rounds", ast.InternedTerm(s.Rounds)),
		field("epsilon", number(s.Epsilon)),
		field("delta", number(s.Delta)),
		field("noise", text(s.Noise)),
		field("mode", text(s.Mode)),
	)
}

func field(name string, v *ast.Term) [2]*ast.Term { return [2]*ast.Term{ast.InternedTerm(name), v} }

func text(s string) *ast.Term { return ast.InternedTerm(s) }

// set makes membership a look-up: `in` on an array is linear.
func set(names []string) *ast.Term {
	terms := make([]*ast.Term, len(names))
	for i, n := range names {
		terms[i] = text(n)
	}
	return ast.SetTerm(terms...)
}

func number(f float64) *ast.Term {
	return ast.NewTerm(ast.Number(strconv.FormatFloat(f, 'g', -1, 64)))
}

func finite(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) }

// moment is nanoseconds since 1970, held at the ends of what an int64 of them can say: before 1970
// it is 0, which no policy takes for a time that is still to come, and after 2262 the last one.
func moment(t time.Time) *ast.Term {
	n := int64(0)
	switch s := t.Unix(); {
	case s >= math.MaxInt64/int64(time.Second):
		n = math.MaxInt64
	case s >= 0:
		n = t.UnixNano()
	}
	return ast.NewTerm(ast.Number(strconv.FormatInt(n, 10)))
}
