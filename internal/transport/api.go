package transport

import (
	"context"
	"io"
	"iter"
	"time"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/attest/channel"
	"github.com/consilium-fl/consilium/internal/policy"
)

// Gate decides. Any error is a refusal.
type Gate interface {
	Decide(ctx context.Context, r policy.Request) (policy.Decision, error)
}

// Facts says what a decision is about. The coordinator implements it.
type Facts interface {
	// Consortium reports whether digest is a consortium file's: a session with it serves no one study.
	Consortium(digest [32]byte) bool
	// Facts says who asks and about what. Target.Study is the digest's text of the study in question and
	// empty for none: when Ask.Study is not zero it is that one; for an approval it is the one approved.
	// A study that does not exist is a Target that says so. An error is a refusal; one that wraps
	// ErrBadInput tells the caller that a file could not be read.
	Facts(ctx context.Context, a Ask) (policy.Peer, policy.Target, error)
}

// Ask is what a request says of itself.
type Ask struct {
	Method  string          // full gRPC method, "/consilium.v1.RoundService/Follow"
	Session channel.Session // the attested connection
	Study   [32]byte        // the study it names; zero when it names none
	From    string          // the sender of a Send
	Kind    string          // the kind of a Send
	File    []byte          // the study of a CreateStudy, the approval of an ApproveStudy, the enrolment of an IssueSVID
}

// Handlers answer what was decided. Each may read SessionFrom and PeerFrom.
//
// An error that wraps one of this package's sentinels, or is a *Refused, reaches the client as such with
// its text. Any other is logged, and the client hears only that the fault is ours.
type Handlers struct {
	Identity IdentityHandler
	Study    StudyHandler
	Round    RoundHandler
	Release  ReleaseHandler
	Audit    AuditHandler
}

// IdentityHandler issues SVIDs.
type IdentityHandler interface {
	// IssueSVID makes a certificate for the session's leaf key, which the enrolment file must name.
	IssueSVID(ctx context.Context, enrolment []byte) (SVID, error)
	// GetBundle returns the issuer's certificate, DER.
	GetBundle(ctx context.Context) ([]byte, error)
}

// SVID is an X.509-SVID and its issuer, both DER.
type SVID struct{ Certificate, Issuer []byte }

// StudyHandler is the life of a study up to its rounds.
type StudyHandler interface {
	// CreateStudy takes study.yaml byte for byte and its lead's DSSE envelope, and returns its digest.
	CreateStudy(ctx context.Context, file, signature []byte) ([32]byte, error)
	GetStudy(ctx context.Context, study [32]byte) (StudyInfo, error)
	ListStudies(ctx context.Context) ([]StudyInfo, error)
	// ApproveStudy takes a hospital's approval and returns whose approvals count now.
	ApproveStudy(ctx context.Context, approval []byte) ([]string, error)
	CancelStudy(ctx context.Context, study [32]byte, why string) error
	// WatchStudy sends events after cursor until ctx ends or the study is over. Then it returns nil.
	WatchStudy(ctx context.Context, study [32]byte, cursor uint64, send func(WatchEvent) error) error
}

// The states of a study.
const (
	StateProposed  = "proposed"
	StateRunning   = "running"
	StateEnded     = "ended" // all rounds done
	StateShort     = "short" // ended before
	StateCancelled = "cancelled"
)

// StudyInfo is what the coordinator says of a study.
type StudyInfo struct {
	Digest        [32]byte
	File          []byte // study.yaml, byte for byte; a client checks it against Digest
	State         string
	Approvals     []string // hospitals whose approval counts
	RoundsClosed  uint64
	RoundsCharged uint64
	Why           string // why it ended short or waits, in words
}

// WatchEvent is something that happened in a study. Nothing in it is computed from patients.
type WatchEvent struct {
	Sequence uint64
	Time     time.Time
	Kind     string // state, round, phase, arrived, missing, refused, closed, aborted, burnt, log
	Round    uint64
	Phase    string
	Hospital string
	Bytes    uint64
	Text     string
}

// RoundHandler carries messages and vectors.
type RoundHandler interface {
	// Follow sends what a member has to hear after p, until ctx ends; then it returns nil or ctx's error.
	// While it runs the member is present.
	Follow(ctx context.Context, p Position, send func(FollowItem) error) error
	// Send takes a member's signed message. The same message again is the same answer.
	Send(ctx context.Context, study [32]byte, m aggregate.Signed) error
	// Upload stores the chunks of a member's masked vector and says what it holds; without any chunk it
	// only says that. A chunk's words are the handler's until the next one is asked for. An error from
	// the sequence ends it; what came before stays held.
	Upload(ctx context.Context, v Vector, chunks iter.Seq2[Chunk, error]) (Held, error)
	// Download opens a model at an offset. The caller closes it.
	Download(ctx context.Context, study, model [32]byte, offset uint64) (Blob, error)
}

// Position is how far a member has followed.
type Position struct {
	Study  [32]byte
	Cursor uint64   // sequence of the last item taken in Epoch; zero for none
	Boot   [16]byte // of the node's process; a new one is a restart
	Epoch  []byte   // what the last item named; a coordinator that restarted starts another; at most 64 bytes
}

// FollowItem is one item of a Follow. Any of the last three may be empty.
type FollowItem struct {
	Sequence   uint64
	Epoch      []byte
	Message    *aggregate.Signed
	Promises   [][]byte // audit's encoding of {leaf, promise}
	Checkpoint []byte   // a signed note with the co-signatures collected so far
	Enrolments [][]byte // members' enrolment files; a client checks each against its own consortium file
}

// Vector names a masked vector; whose it is says the session.
type Vector struct {
	Study  [32]byte
	Round  uint64
	Roster [32]byte // digest of the roster it is masked under
}

// Chunk is one piece of a vector: aggregate.ChunkBytes long but for the last.
type Chunk struct {
	Index uint32
	Words []byte
}

// Held says which chunks of a vector are stored: one bit a chunk, least significant first.
type Held struct {
	Bits  []byte
	Whole bool
}

// Has reports whether chunk i is held.
func (h Held) Has(i uint32) bool {
	return h.Whole || (int64(i/8) < int64(len(h.Bits)) && h.Bits[i/8]&(1<<(i%8)) != 0)
}

// Blob is the rest of a file from an offset. Total is the length of the whole.
type Blob struct {
	Total uint64
	io.ReadCloser
}

// ReleaseHandler hands over what a finished study released.
type ReleaseHandler interface {
	// GetReceipt calls file for each file of the output folder but the model. Paths are relative and
	// slash separated.
	GetReceipt(ctx context.Context, study [32]byte, file func(path string, data io.Reader) error) error
	// DownloadModel opens model.safetensors at an offset. The caller closes it.
	DownloadModel(ctx context.Context, study [32]byte, offset uint64) (Blob, error)
}

// AuditHandler serves logs and takes co-signatures.
type AuditHandler interface {
	// ReadLog reads one tlog-tiles resource of a study's log, or of the consortium's when study is zero.
	// What is not there is fs.ErrNotExist or ErrNotFound.
	ReadLog(ctx context.Context, study [32]byte, resource string) ([]byte, error)
	// CosignCheckpoint takes the co-signature line of the session's hospital for the checkpoint of this
	// size and returns the newest checkpoint that counts, nil for none.
	CosignCheckpoint(ctx context.Context, study [32]byte, size uint64, cosignature []byte) ([]byte, error)
}
