package aggregate

import (
	"crypto/ed25519"
	"time"
)

// MemberID is the name of a hospital in its consortium. Members are always listed sorted.
type MemberID string

// RoundID names a round: a study's digest and a number that only grows.
type RoundID struct {
	Study  [32]byte `cbor:"1,keyasint"`
	Number uint64   `cbor:"2,keyasint"`
}

// Source says who adds the noise.
type Source uint8

// The two sources of noise of a Plan.
const (
	Members    Source = 1 // each member adds its own share before masking
	Aggregator Source = 2 // the aggregator adds one vector to the masked accumulator
)

// Noise is the noise of a round. Mechanism is dp's encoding, opaque here.
type Noise struct {
	Source    Source `cbor:"1,keyasint"`
	Shares    int    `cbor:"2,keyasint"` // honest shares that make the full noise: minimum - c; 1 under Aggregator
	Mechanism []byte `cbor:"3,keyasint"`
	Bound     uint64 `cbor:"4,keyasint"` // 14·σ_share·√members or 14·σ, in grid units, rounded up
}

// Deadlines are the longest each phase may take, in milliseconds.
type Deadlines struct {
	Ready   uint32 `cbor:"1,keyasint"`
	Deal    uint32 `cbor:"2,keyasint"`
	Upload  uint32 `cbor:"3,keyasint"`
	Vote    uint32 `cbor:"4,keyasint"`
	Release uint32 `cbor:"5,keyasint"`
}

// Message is one of the eleven messages of a round. kind is the signing domain.
type Message interface{ kind() string }

// Plan opens a round. A member computes every field but Round.Number, Model, Ledger and Deadlines
// from its own study.yaml and refuses a Plan that differs.
type Plan struct {
	Round     RoundID    `cbor:"1,keyasint"`
	Model     [32]byte   `cbor:"2,keyasint"` // digest of the model's bytes to train on
	Dim       int        `cbor:"3,keyasint"`
	WordBits  uint8      `cbor:"4,keyasint"` // 24, 32 or 64
	Members   []MemberID `cbor:"5,keyasint"`
	Minimum   int        `cbor:"6,keyasint"`
	Colluding int        `cbor:"7,keyasint"`
	SumBound  uint64     `cbor:"8,keyasint"` // members·max_patients·2^grid_bits
	Noise     Noise      `cbor:"9,keyasint"`
	Ledger    [32]byte   `cbor:"10,keyasint"` // head of the coordinator's ledger
	Deadlines Deadlines  `cbor:"11,keyasint"`
}

// Ready offers the two one-time X25519 keys of a member for this round.
type Ready struct {
	Plan      [32]byte `cbor:"1,keyasint"`
	MaskKey   [32]byte `cbor:"2,keyasint"`
	SealKey   [32]byte `cbor:"3,keyasint"`
	Enrolment []byte   `cbor:"4,keyasint"` // the hospital's enrolment file, checked against its governance key
}

// Committee fixes who deals. It carries the members' own signed Readys, so that the coordinator
// introduces no key.
type Committee struct {
	Plan      [32]byte `cbor:"1,keyasint"`
	Readys    []Signed `cbor:"2,keyasint"` // sorted by member
	Colluding int      `cbor:"3,keyasint"`
	Threshold int      `cbor:"4,keyasint"`
}

// Deal is one member's secrets shared to the committee, its own share kept and only committed to.
type Deal struct {
	Committee [32]byte `cbor:"1,keyasint"`
	Seed      [32]byte `cbor:"2,keyasint"` // commitment to the self seed
	Shares    []Share  `cbor:"3,keyasint"` // one for each committee member, sorted
}

// Share is what a Deal holds for one committee member.
type Share struct {
	To         MemberID `cbor:"1,keyasint"`
	SeedCommit [32]byte `cbor:"2,keyasint"`
	KeyCommit  [32]byte `cbor:"3,keyasint"`
	Box        []byte   `cbor:"4,keyasint"` // both shares and their openings, sealed to To; empty for the dealer's own
}

// Roster fixes who dealt. Its digest is the salt of every mask.
type Roster struct {
	Committee [32]byte `cbor:"1,keyasint"`
	Deals     []Signed `cbor:"2,keyasint"` // sorted by member
}

// Upload says which masked vector a member sent, under which charge, and whose shares were bad.
type Upload struct {
	Roster     [32]byte   `cbor:"1,keyasint"`
	Vector     [32]byte   `cbor:"2,keyasint"` // VectorDigest of the masked words
	Charge     []byte     `cbor:"3,keyasint"` // encoded Charge, as the member's ledger holds it
	Complaints []MemberID `cbor:"4,keyasint"` // dealers whose share did not open or match
}

// Charge is what a member's (or the coordinator's) ledger entry for a round is about; its digest is
// the charge's identity.
type Charge struct {
	Study  [32]byte `cbor:"1,keyasint"`
	Number uint64   `cbor:"2,keyasint"`
	Plan   [32]byte `cbor:"3,keyasint"`
	Roster [32]byte `cbor:"4,keyasint"`
	Head   [32]byte `cbor:"5,keyasint"` // ledger head after the entry
}

// Proposal asks for votes on a surviving set.
type Proposal struct {
	Roster        [32]byte       `cbor:"1,keyasint"`
	Contributions []Contribution `cbor:"2,keyasint"` // sorted by member: the set
	Charge        []byte         `cbor:"3,keyasint"` // the coordinator's own encoded Charge
}

// Contribution is a member of a proposed set, with its signed Upload and the log's promise for its charge.
type Contribution struct {
	Upload  Signed `cbor:"1,keyasint"`
	Promise []byte `cbor:"2,keyasint"` // opaque here: audit's encoding of {leaf, promise}
}

// Vote approves a Proposal; one per own Deal.
type Vote struct {
	Proposal [32]byte `cbor:"1,keyasint"`
}

// Certificate is t votes and the key that releases are sealed to, made for it.
type Certificate struct {
	Proposal [32]byte `cbor:"1,keyasint"`
	Votes    []Signed `cbor:"2,keyasint"`
	Opening  []byte   `cbor:"3,keyasint"` // HPKE public key, MLKEM768-X25519
}

// Release is a member's shares for a certified set, sealed to the opening key: for each dealer the
// self-seed share if it uploaded, the mask-key share if it did not; and 32 random bytes. Once.
type Release struct {
	Certificate [32]byte `cbor:"1,keyasint"`
	Sealed      []byte   `cbor:"2,keyasint"`
}

// Outcome is how a round ended.
type Outcome string

// The outcomes. Aborted: nothing was opened. Burnt: something may have been; the charge stands.
const (
	Closed  Outcome = "closed"
	Aborted Outcome = "aborted"
	Burnt   Outcome = "burnt"
)

// Result ends a round.
type Result struct {
	Plan        [32]byte   `cbor:"1,keyasint"`
	Certificate [32]byte   `cbor:"2,keyasint"` // zero when aborted
	Outcome     Outcome    `cbor:"3,keyasint"`
	Model       [32]byte   `cbor:"4,keyasint"` // the model after the round; the round's own when not closed
	Sum         [32]byte   `cbor:"5,keyasint"` // SumDigest of the opened sum; zero when not closed
	Excluded    []MemberID `cbor:"6,keyasint"` // dealers left out for the rest of the study
	Why         string     `cbor:"7,keyasint"` // in words, for people; empty when closed
}

// Signed is a message as it travels: the payload is the message's deterministic CBOR, the
// signature is over its kind and payload. From is empty for the coordinator.
type Signed struct {
	From      MemberID `cbor:"1,keyasint"`
	Kind      string   `cbor:"2,keyasint"`
	Payload   []byte   `cbor:"3,keyasint"`
	Signature []byte   `cbor:"4,keyasint"`
}

// Keyring says whose signatures count. internal/study implements it for a consortium file.
type Keyring interface {
	Coordinator() ed25519.PublicKey
	// Member checks an enrolment file against the consortium and returns its hospital and node key.
	Member(enrolment []byte) (MemberID, ed25519.PublicKey, error)
}

// Noiser fills dst with the next len(dst) samples of one vector of noise.
type Noiser interface{ Fill(dst []int64) error }

// Phase is where a round stands.
type Phase string

// The phases of a round, in order, and its end.
const (
	Gathering  Phase = "gathering"
	Dealing    Phase = "dealing"
	Collecting Phase = "collecting"
	Voting     Phase = "voting"
	Releasing  Phase = "releasing"
	Opening    Phase = "opening" // the driver sums and unmasks
	Ended      Phase = "ended"
)

// Event is what happens to a machine.
type Event interface{ event() }

type (
	// Begin starts a fresh machine: the aggregator sends its Plan, a member starts training.
	Begin struct{}
	// Received is a message from the other side.
	Received struct{ Message Signed }
	// Trained says that a member's integer vector is ready.
	Trained struct{}
	// Charged answers ChargeLedger: the ledger holds the charge, durably. Charge is the encoded Charge.
	Charged struct{ Charge []byte }
	// ChargeRefused answers ChargeLedger when the budget does not allow it.
	ChargeRefused struct{ Why string }
	// Spooled answers FillSpool: the masked vector is whole and fsynced.
	Spooled struct{ Vector [32]byte }
	// Uploaded answers Accept: the member's stored vector has the digest of its Upload, and the log has
	// promised its charge.
	Uploaded struct {
		Member  MemberID
		Promise []byte
	}
	// Opened answers Open: the sum was unmasked and, from it, the next model made; both are stored.
	Opened struct{ Sum, Model [32]byte }
	// Spoilt answers Open when the sum cannot be used (outside its bound). The round burns.
	Spoilt struct{ Why string }
	// Away and Back tell who is connected; a member is present from the start unless Away says otherwise.
	Away struct{ Member MemberID }
	// Back ends an Away.
	Back struct{ Member MemberID }
	// Revoked says that a member's machine is not trusted any more: nothing more of it is taken in this round, and what
	// of it no set is signed over yet is dropped. The aggregator's alone.
	Revoked struct {
		Member MemberID
		Why    string
	}
	// Expired says that the deadline of a Wait passed.
	Expired struct{ Phase Phase }
)

func (Begin) event()         {}
func (Revoked) event()       {}
func (Received) event()      {}
func (Trained) event()       {}
func (Charged) event()       {}
func (ChargeRefused) event() {}
func (Spooled) event()       {}
func (Uploaded) event()      {}
func (Opened) event()        {}
func (Spoilt) event()        {}
func (Away) event()          {}
func (Back) event()          {}
func (Expired) event()       {}

// Effect is what a machine asks of its driver, in order: a Persist is durable before what follows it
// happens.
type Effect interface{ effect() }

type (
	// Persist stores the machine's state, replacing what was stored; RestoreRound and RestoreMember take it.
	Persist struct{ State []byte }
	// Send delivers a message: to everyone who follows when To is nil, else to those named. A member's
	// Send goes to the aggregator.
	Send struct {
		To      []MemberID
		Message Signed
	}
	// StartTraining asks a member's driver to train on the plan's model; it answers with Trained.
	StartTraining struct{ Plan Plan }
	// ChargeLedger asks for a durable charge; the driver sets Charge.Head, and answers with Charged or ChargeRefused.
	ChargeLedger struct{ Charge Charge }
	// FillSpool asks a member's driver to write the whole masked vector, by Member.Mask in order, fsync it,
	// and answer with Spooled.
	FillSpool struct{}
	// SendVector asks a member's driver to send the spooled vector and then the Upload, again after every
	// reconnect until the round ends.
	SendVector struct{ Upload Signed }
	// Accept asks the aggregator's driver to compare a stored vector with its signed digest, log the charge,
	// and answer with Uploaded; a vector that differs is not accepted and the member may send it again.
	Accept struct {
		Member MemberID
		Vector [32]byte
		Charge []byte
	}
	// Open asks the aggregator's driver to sum the set's vectors, add central noise keyed by NoiseKey where
	// the plan says so, unmask with Opening, and answer with Opened or Spoilt.
	Open struct {
		Set      []MemberID
		NoiseKey [32]byte // zero under Members
		Opening  UnmaskKey
	}
	// Record asks for a leaf in the study's log: the digest of an object, by kind ("plan", "set", "release"…).
	Record struct {
		Kind   string
		Member MemberID // empty for the coordinator's own
		Object [32]byte
	}
	// Wait starts the deadline of a phase, replacing the one before; after For the driver answers with Expired.
	Wait struct {
		Phase Phase
		For   time.Duration
	}
	// Refuse tells that a foreign message was not taken, and why. It is never an error of ours.
	Refuse struct {
		From   MemberID
		Reason string
	}
	// End says that the machine is done and its secrets are erased. Nothing follows it.
	End struct{ Result Result }
)

func (Persist) effect()       {}
func (Send) effect()          {}
func (StartTraining) effect() {}
func (ChargeLedger) effect()  {}
func (FillSpool) effect()     {}
func (SendVector) effect()    {}
func (Accept) effect()        {}
func (Open) effect()          {}
func (Record) effect()        {}
func (Wait) effect()          {}
func (Refuse) effect()        {}
func (End) effect()           {}

func (Plan) kind() string        { return "plan" }
func (Ready) kind() string       { return "ready" }
func (Committee) kind() string   { return "committee" }
func (Deal) kind() string        { return "deal" }
func (Roster) kind() string      { return "roster" }
func (Upload) kind() string      { return "upload" }
func (Proposal) kind() string    { return "proposal" }
func (Vote) kind() string        { return "vote" }
func (Certificate) kind() string { return "certificate" }
func (Release) kind() string     { return "release" }
func (Result) kind() string      { return "result" }
