// Package policy holds the plain types in which coordinator and node ask for decisions. The engine
// is internal/policy/opa; whoever asks takes an interface:
//
//	type Gate interface {
//		Decide(ctx context.Context, r policy.Request) (policy.Decision, error)
//	}
//
// Any error is a refusal. A field that is not known stays at its zero value, which never makes a
// decision more lenient: what is required has to be stated.
package policy

import "time"

// Request is the whole input of one decision. The JSON names are those of Rego's input; a time is
// there a number of nanoseconds since 1970 in UTC, as Rego's time functions take it, and the zero
// time is 0.
type Request struct {
	Method  string    `json:"method"` // full gRPC method at the coordinator; MethodJoin or MethodTrain at a node
	Now     time.Time `json:"now"`
	Peer    Peer      `json:"peer"`
	Session Session   `json:"session"`
	Target  Target    `json:"target"`
	Study   Study     `json:"study"` // at a node only
}

// What a node asks its hospital's policy.
const (
	MethodJoin  = "join"  // may the node follow this study: its approval has to be there
	MethodTrain = "train" // may a round use this hospital's patients: everything has to hold
)

// Peer is who asks. At a node it is left empty: the session tells of the coordinator.
type Peer struct {
	Role       string `json:"role"`   // node, person
	SPIFFE     string `json:"spiffe"` // "" before an SVID was issued
	Hospital   string `json:"hospital"`
	Node       string `json:"node"`
	Person     string `json:"person"`
	PersonRole string `json:"person_role"` // lead, auditor
	Enrolled   bool   `json:"enrolled"`    // leaf key is that of the hospital's newest enrolment
	SVID       bool   `json:"svid"`        // leaf is a valid SVID of ours
}

// Session is the attested connection. Its status is that of the peer's appraisal: affirming, warning
// or contraindicated, and empty for a person, who shows no evidence.
type Session struct {
	Study      string    `json:"study"`      // sha256:…
	Consortium bool      `json:"consortium"` // Study is a consortium's digest: the connection serves no one study
	Status     string    `json:"status"`
	Simulated  bool      `json:"simulated"` // never affirming
	Until      time.Time `json:"until"`
	// Attestation is the claims of the peer's evidence, an object whose names are those of attest.Claims. It is there for
	// extra rules alone, which can refuse by it: no decision of ours looks at it. What it holds depends on the format, so a
	// rule says `not input.session.attestation.generation in {"genoa", "turin"}` where absence is to refuse.
	Attestation JSON `json:"attestation"`
}

// JSON is the text of a JSON object; empty it is the empty object.
type JSON string

// MarshalJSON writes the text itself.
func (j JSON) MarshalJSON() ([]byte, error) {
	if j == "" {
		return []byte("{}"), nil
	}
	return []byte(j), nil
}

// Target is what is asked about: the study that a request names or, where it names none and the
// connection serves one, that one. It is empty where there is neither.
type Target struct {
	Study     string   `json:"study"`
	Exists    bool     `json:"exists"`
	State     string   `json:"state"` // proposed, running, ended, short, cancelled; "" where it does not exist
	Members   []string `json:"members"`
	Lead      string   `json:"lead"`
	Release   []string `json:"release"`
	Hospitals bool     `json:"hospitals"` // release.hospitals
	From      string   `json:"from"`      // sender named in a message; must be the peer's hospital
}

// Study is what a node knows of a study on its own side: the facts that consent needs, then those
// that only a hospital's own Rego may look at.
type Study struct {
	Hospital      string    `json:"hospital"`       // whose node asks
	Approved      bool      `json:"approved"`       // this hospital's signed approval of the target study is in the approvals folder
	ApprovedUntil time.Time `json:"approved_until"` // when that approval ends
	Dataset       string    `json:"dataset"`        // the registry it names
	Registry      string    `json:"registry"`       // the registry that the study names
	From          time.Time `json:"from"`           // of the study's validity
	Until         time.Time `json:"until"`
	EthicsUntil   time.Time `json:"ethics_until"`
	Budget        bool      `json:"budget"` // the registry's ledger covers what the study may still spend

	Title   string  `json:"title"`
	Board   string  `json:"board"`
	Rounds  int     `json:"rounds"`
	Epsilon float64 `json:"epsilon"`
	Delta   float64 `json:"delta"`
	Noise   string  `json:"noise"` // distributed, central
	Mode    string  `json:"mode"`  // masked
}

// Decision is the answer; not Allow unless everything required passed.
type Decision struct {
	Allow   bool     `json:"allow"`
	Reasons []string `json:"reasons"` // sorted names of what is missing, then what an extra policy refused; empty when allowed
	Policy  [32]byte `json:"-"`       // digest of all Rego text that decided
}
