package channel

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/consilium-fl/consilium/attest"
)

// Session is an attested connection, named by (exporter, study). gRPC hands it to handlers as
// the peer's AuthInfo. It serves one study, and the connection closes at Until.
type Session struct {
	credentials.CommonAuthInfo
	Study    [32]byte // what the client named and the evidence was over
	Exporter [32]byte // TLS exporter with the coordinator's context: the same at both ends
	PeerRole attest.Role
	PeerLeaf []byte         // DER certificate; its issuer has not been checked
	PeerKey  [32]byte       // SHA-256(SPKI)
	PeerKeys [][]byte       // the role keys that the evidence binds, in order
	Person   string         // name, when PeerRole is person
	Result   attest.Result  // of the peer; zero for a person
	Record   []byte         // encoded attest.Record of the peer, as it was appraised; empty for a person
	Posture  attest.Posture // of the peer; zero for a person
	Until    time.Time      // the least of the appraisal, the peer's leaf and the coordinator's verdict
}

// AuthType names the kind of credentials.
func (Session) AuthType() string { return "consilium-attested" }

// Outcome is how a handshake ended, or that a session did before its time. On a refusal Session holds what was known
// by then: enough to say who was refused.
type Outcome struct {
	Session Session
	Own     []byte // encoded attest.Record that this side showed, where it came to that
	Ended   bool   // it was admitted, and a change of policy or trust ended it: see Reappraise
	Err     error  // nil: admitted
	Reasons []attest.Reason
}

// Refused is the error of a handshake that ended in a verdict and not in a failure, and of a session that a later
// verdict ended.
type Refused struct {
	By      attest.Role // who refused the other
	Reasons []attest.Reason
}

func (r *Refused) Error() string {
	texts := make([]string, len(r.Reasons))
	for i, reason := range r.Reasons {
		texts[i] = reason.Error()
	}
	return fmt.Sprintf("refused by %s: %s", r.By, strings.Join(texts, "; "))
}

// Codes of the reasons that belong to the exchange and not to the evidence.
const (
	CodeHello          = "hello.invalid"   // version, nonce or study
	CodeHelloRole      = "hello.role"      // neither a node nor a person
	CodeStudyUnknown   = "study.unknown"   // nothing is served or expected for it
	CodeNoNodes        = "study.closed"    // people alone are admitted, for now or for good
	CodePersonUnlisted = "person.unlisted" // no listed key
	CodeLeafTime       = "leaf.time"       // the TLS leaf is not valid now
	CodeProof          = "parse.proof"     // no record where one is due, or one where none is
	CodeLogKey         = "config.log_key"  // no log key is pinned to check the coordinator by
	CodePolicyChanged  = "policy.changed"  // the session was appraised by a policy that is no more
	CodeTrustChanged   = "trust.changed"   // or with a snapshot that is no more
)

// codesOnly is what a peer is told.
func codesOnly(rs []attest.Reason) []attest.Reason {
	out := make([]attest.Reason, len(rs))
	for i, r := range rs {
		out[i] = attest.Reason{Code: r.Code, Path: r.Path}
	}
	return out
}

const maxHeard = 64

// heard takes a peer's reasons for showing: bounded, and without a byte that a terminal or a log
// would act on.
func heard(rs []attest.Reason) []attest.Reason {
	out := make([]attest.Reason, min(len(rs), maxHeard))
	for i := range out {
		out[i] = attest.Reason{Code: plain(rs[i].Code), Path: plain(rs[i].Path)}
	}
	return out
}

func plain(s string) string {
	odd := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune("._-/:[], ", r)
	}
	if len(s) > maxHeard || strings.ContainsFunc(s, odd) {
		return "unreadable"
	}
	return s
}
