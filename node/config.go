package node

import (
	"context"
	"crypto/ed25519"
	"io"
	"iter"
	"log/slog"
	"time"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/dp"
	"github.com/consilium-fl/consilium/internal/grounds"
	"github.com/consilium-fl/consilium/internal/grounds/fetch"
	"github.com/consilium-fl/consilium/internal/policy"
	"github.com/consilium-fl/consilium/internal/study"
)

// Config is node.yaml. ReadConfig parses it.
type Config struct {
	Hospital    string
	Node        string
	Coordinator string // host:port
	Consortia   []ConsortiumRef
	State       string         // folder, 0700: keys, ledger, log memory, last round, spool
	Enrolment   string         // file
	Trust       string         // folder of anchors
	Bundle      grounds.Bundle // signed trust bundle beside the trust folder; none where its Dir is empty
	Fetch       fetch.Config   // vendors that are asked for endorsements, into a cache in State; none in the zero value
	OwnRoots    bool           // take anchors that bear the name of a vendor's root and are not it
	References  string         // folder of signed manifests of reference values; may be empty
	Attestation string         // policy file of the hospital's own for the coordinator, which can only tighten; may be empty
	Approvals   string         // folder: one signed file per study; removing it is the veto
	Consent     string         // Rego file that may only refuse; may be empty
	Registries  map[string]Registry
	TEE         string // one of terms.TEEs
	SimRoot     string // sim only: the file of the key that a simulated TEE signs with
	VMPL        *int   // snp only: the privilege level to ask from; nil: the most privileged that the guest may use
	Audience    string // gcp-cs-pki and gcp-cs-oidc: whom tokens are for
	Insecure    Insecure
}

// ConsortiumRef pins a consortium file; the steward does, nothing fetches one.
type ConsortiumRef struct {
	File   string
	Digest [32]byte
}

// Registry is one data set and its lifetime budget over all studies of the consortium.
type Registry struct {
	File    string
	Exclude Exclude
	Budget  dp.Budget
}

// Exclude lists values of a named identifier column, never line numbers.
type Exclude struct{ Column, File string }

// Insecure are the flags that everybody sees in the posture.
type Insecure struct{ SimulatedTEE bool }

// Deps are what main (or the simulation) wires in.
type Deps struct {
	Logger       *slog.Logger
	Consortium   *study.Consortium
	Signatures   []byte
	Enrolment    []byte
	NodeKey      ed25519.PrivateKey
	WitnessKey   ed25519.PrivateKey
	Attester     attest.Attester
	TEE          string // kind of machine that Attester speaks for, as the posture names it
	Verifiers    attest.Verifiers
	Grounds      *grounds.Holder // by what the coordinator is appraised
	Gate         Gate            // consent
	PolicyDigest [32]byte
	Journal      func(path string) (Journal, error)
	Entropy      io.Reader
	Noise        func(m dp.Mechanism, key [32]byte) aggregate.Noiser // nil: dp's own; only the simulation's constructor replaces it
	Now          func() time.Time
	// Observe sees this hospital's plain and masked vectors; only the simulation's constructor sets it.
	Observe func(round uint64, plain []int64, masked []byte)
	// Drop, set by the simulation alone, says before which message of which round this node goes away for good.
	Drop func(round uint64, kind string) bool
}

// Journal is an append-only file that holds one ledger.
type Journal interface {
	dp.Journal
	io.Closer
}

// Gate is the hospital's own policy; any error is a refusal.
type Gate interface {
	Decide(ctx context.Context, r policy.Request) (policy.Decision, error)
}

// Trainer yields one unclipped gradient a patient: the node clips. Each depends on that patient's rows and the model alone;
// an error is that patient's, the iteration goes on, and it counts as zero.
type Trainer interface {
	Dim() int
	Gradients(ctx context.Context, model []float64) iter.Seq2[[]float64, error]
}
