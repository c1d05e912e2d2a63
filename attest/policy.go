package attest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"github.com/consilium-fl/consilium/internal/signed"
)

// MaxAge is the longest that an appraisal holds, and what a Policy without MaxAge means.
const MaxAge = time.Hour

// Policy says which evidence of one role is taken. What is absent is refused: the zero Policy
// admits nobody. Machines alone may be left out, where a consortium does not know them; the
// Result then says that the machine was not checked.
type Policy struct {
	Role           Role     // whose evidence this is about
	Accept         []Format // formats
	AllowSimulated bool     // the policy's half of taking a simulated TEE
	// Simulation is the process's half: its own file says `insecure: {simulated_tee: true}`.
	// Evidence of a simulated TEE needs both. It is no part of the digest, for it describes
	// who appraises and not what a consortium agreed on.
	Simulation   bool
	Measurements [][32]byte
	Machines     []string      // "chip:…"
	MaxAge       time.Duration // how long an appraisal holds; zero means one hour, which is also the most
}

func (p Policy) maxAge() time.Duration {
	if p.MaxAge == 0 {
		return MaxAge
	}
	return min(p.MaxAge, MaxAge)
}

func (p Policy) check() []Reason {
	var rs []Reason
	if p.Role != RoleCoordinator && p.Role != RoleNode {
		rs = append(rs, Reason{Code: CodeConfigRole, Path: "policy.role", Got: fmt.Sprintf("%q", p.Role), Want: "coordinator or node"})
	}
	if p.MaxAge < 0 {
		rs = append(rs, Reason{Code: CodeConfigAge, Path: "policy.max_age", Got: p.MaxAge.String(), Want: "more than zero"})
	}
	return rs
}

// Narrow returns p restricted to what q also admits: p is a consortium's, q a study's. A list,
// role or age that q leaves out stays as p has it. Simulated TEEs are taken only where both say
// so. A q that names anything p does not admit is an error that names the field: a study never
// widens its consortium.
func (p Policy) Narrow(q Policy) (Policy, error) {
	out := p
	var err error
	if out.Accept, err = subset("accept", p.Accept, q.Accept); err != nil {
		return Policy{}, err
	}
	if out.Measurements, err = subset("measurements", p.Measurements, q.Measurements); err != nil {
		return Policy{}, err
	}
	// No machine listed means any machine, so any list is narrower than none.
	if len(p.Machines) == 0 {
		out.Machines = slices.Clone(q.Machines)
	} else if out.Machines, err = subset("machines", p.Machines, q.Machines); err != nil {
		return Policy{}, err
	}
	switch {
	case q.Role != "" && q.Role != p.Role:
		return Policy{}, fmt.Errorf("narrowing policy: role: got %q, want %q", q.Role, p.Role)
	case q.AllowSimulated && !p.AllowSimulated:
		return Policy{}, fmt.Errorf("narrowing policy: allow_simulated: got true, want false")
	case q.Simulation && !p.Simulation:
		return Policy{}, fmt.Errorf("narrowing policy: simulation: got true, want false")
	case q.MaxAge < 0 || q.MaxAge > p.maxAge():
		return Policy{}, fmt.Errorf("narrowing policy: max_age: got %s, want at most %s", q.MaxAge, p.maxAge())
	}
	out.AllowSimulated = q.AllowSimulated
	if q.MaxAge != 0 {
		out.MaxAge = q.MaxAge
	}
	return out, nil
}

// subset returns q, all of whose items have to be in p; an absent q is p.
func subset[T comparable](field string, p, q []T) ([]T, error) {
	if len(q) == 0 {
		return slices.Clone(p), nil
	}
	for _, v := range q {
		if !slices.Contains(p, v) {
			if d, ok := any(v).([32]byte); ok {
				return nil, fmt.Errorf("narrowing policy: %s: %s is not in the wider policy", field, signed.DigestText(d))
			}
			return nil, fmt.Errorf("narrowing policy: %s: %q is not in the wider policy", field, fmt.Sprint(v))
		}
	}
	return slices.Clone(q), nil
}

// Digest names what the policy admits: lists are sets, so order and repeats do not count.
func (p Policy) Digest() [32]byte {
	measurements := slices.Clone(p.Measurements)
	slices.SortFunc(measurements, func(a, b [32]byte) int { return bytes.Compare(a[:], b[:]) })
	b, err := signed.Encode(struct {
		_              struct{} `cbor:",toarray"`
		Domain         string
		Role           Role
		Accept         []Format
		AllowSimulated bool
		Measurements   [][32]byte
		Machines       []string
		MaxAgeSeconds  int64
	}{
		Domain: "consilium/policy/v1", Role: p.Role, Accept: sortedSet(p.Accept), AllowSimulated: p.AllowSimulated,
		Measurements: slices.Compact(measurements), Machines: sortedSet(p.Machines), MaxAgeSeconds: int64(p.maxAge() / time.Second),
	})
	if err != nil {
		panic("attest: strings, bytes and numbers always encode: " + err.Error())
	}
	return sha256.Sum256(b)
}

func sortedSet[T ~string](s []T) []T {
	s = slices.Clone(s)
	slices.Sort(s)
	return slices.Compact(s)
}
