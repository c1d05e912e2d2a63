package coordinator

import (
	"context"
	"crypto/ed25519"
	"io"
	"log/slog"
	"time"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/audit"
	"github.com/consilium-fl/consilium/dp"
	"github.com/consilium-fl/consilium/internal/grounds"
	"github.com/consilium-fl/consilium/internal/grounds/fetch"
	"github.com/consilium-fl/consilium/internal/policy"
	"github.com/consilium-fl/consilium/internal/store"
	"github.com/consilium-fl/consilium/internal/study"
)

// Config is coordinator.yaml; every field is documented there and here. ReadConfig parses it.
type Config struct {
	Listen    string
	Consortia []ConsortiumRef
	State     string // folder, 0700
	Policy    string // folder of extra Rego that may only refuse; may be empty
	Log       LogConfig
	Trust     string         // folder of anchors
	Bundle    grounds.Bundle // signed trust bundle beside the trust folder; none where its Dir is empty
	Fetch     fetch.Config   // vendors that are asked for endorsements, into a cache in State; none in the zero value
	OwnRoots  bool           // take anchors that bear the name of a vendor's root and are not it
	// References is a folder of signed manifests of reference values; may be empty.
	References string
	TEE        string // one of terms.TEEs
	SimRoot    string // sim only: the file of the key that a simulated TEE signs with
	VMPL       *int   // snp only: the privilege level to ask from; nil: the most privileged that the guest may use
	Audience   string // gcp-cs-pki and gcp-cs-oidc: whom tokens are for
	Insecure   Insecure
}

// ConsortiumRef pins a consortium file.
type ConsortiumRef struct {
	File   string
	Digest [32]byte
}

// LogConfig tunes the transparency log; a zero field is audit/appender's default.
type LogConfig struct {
	Batch      time.Duration // how long a promised leaf waits for others to go into the tree with
	Checkpoint time.Duration // the least time between two checkpoints
	MergeDelay time.Duration // within which a leaf is promised to be covered by a checkpoint
}

// Insecure are the flags that everybody sees in the posture.
type Insecure struct{ SimulatedTEE bool }

// Deps are what main (or the simulation) wires in. All but the last three are needed.
type Deps struct {
	Logger       *slog.Logger
	Consortium   *study.Consortium
	Signatures   []byte // consortium.sigs.json
	Store        Store
	Gate         Gate
	PolicyDigest [32]byte // of the built-in policy: goes into the posture
	Attester     attest.Attester
	TEE          string // kind of machine that Attester speaks for, as the posture names it
	Verifiers    attest.Verifiers
	Grounds      *grounds.Holder                                            // by what nodes are appraised
	LogKey       ed25519.PrivateKey                                         // pinned in consortium.yaml
	Keys         Keys                                                       // made inside the TEE, sealed; on a laptop 0600 files
	OpenLog      func(ctx context.Context, dir, origin string) (Log, error) // audit/appender, wired by main
	Journal      func(path string) (dp.Journal, error)
	Entropy      io.Reader // crypto/rand.Reader
	Now          func() time.Time
	Noise        func(m dp.Mechanism, key [32]byte) aggregate.Noiser // nil: dp's own; the simulation's constructor may replace it
	// Patience is how long a study may lack members that were here before, or co-signatures, before it ends
	// short. Zero: until it expires, which is what a daemon does; the simulation knows that a hospital it
	// dropped will not come back.
	Patience time.Duration
	// Observe sees the words as they arrive; only the simulation's constructor sets it (for "what the coordinator saw").
	Observe func(round uint64, member aggregate.MemberID, words []byte)
}

// Keys are the coordinator's own keys: Protocol signs Plan to Result, Receipt the receipt, Issuer the SVIDs.
type Keys struct{ Protocol, Receipt, Issuer ed25519.PrivateKey }

// Store keeps studies, rounds and admissions: compare-and-swap by revision. Load of an absent key is
// store.ErrNotFound; SwapAll makes all changes or none, with another revision than a stored one none and
// store.ErrStale; revision 0 creates. Whatever returned nil is on disk.
type Store interface {
	Load(ctx context.Context, key string) (value []byte, rev int64, err error)
	SwapAll(ctx context.Context, changes ...store.Change) ([]int64, error)
	Delete(ctx context.Context, key string) error
	List(ctx context.Context, prefix string, f func(key string, value []byte, rev int64) error) error
}

// Gate decides; any error is a refusal.
type Gate interface {
	Decide(ctx context.Context, r policy.Request) (policy.Decision, error)
}

// Log is a transparency log that this process appends to.
type Log interface {
	Append(ctx context.Context, leaf audit.Leaf) (audit.Promised, error)
	Checkpoints(ctx context.Context) <-chan []byte
	Read(ctx context.Context, resource string) ([]byte, error)
	Close(ctx context.Context) error
}
