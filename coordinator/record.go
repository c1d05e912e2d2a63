package coordinator

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/store"
)

// State is where a study stands.
type State string

// The states of a study. The last three are final.
const (
	Proposed  State = "proposed"  // waits for approvals
	Running   State = "running"   // has rounds to run, or a release to be co-signed
	Ended     State = "ended"     // all rounds closed, the model is released
	Short     State = "short"     // ended before; the model of the rounds that closed is released, if any did
	Cancelled State = "cancelled" // by its lead; nothing is released
)

func (s State) over() bool { return s == Ended || s == Short || s == Cancelled }

// studyRecord is what the Store keeps of a study, under "study/<hex>".
type studyRecord struct {
	File      []byte            `cbor:"1,keyasint"` // study.yaml
	Signature []byte            `cbor:"2,keyasint"` // the lead's
	State     State             `cbor:"3,keyasint"`
	Why       string            `cbor:"4,keyasint"`
	Approvals map[string][]byte `cbor:"5,keyasint"` // by hospital: the DSSE file that counts
	Logged    []string          `cbor:"6,keyasint"` // whose approvals have their leaf, sorted; "" for the study itself
}

// progressRecord is what the Store keeps of a study's rounds, under "progress/<hex>": its driver alone
// writes it, at the end of each round.
type progressRecord struct {
	Last     uint64            `cbor:"1,keyasint"` // highest round number ever used
	Closed   uint64            `cbor:"2,keyasint"` // rounds
	Model    [32]byte          `cbor:"3,keyasint"` // the next round trains on it
	Evidence map[string]seenAs `cbor:"4,keyasint"` // by hospital: by which session it served the last set it was in
	Charged  uint64            `cbor:"5,keyasint"`
	Finish   *finishRecord     `cbor:"6,keyasint,omitempty"`
	Spent    []string          `cbor:"7,keyasint"` // hospitals whose charge a round has seen, sorted
	LeftOut  []string          `cbor:"8,keyasint"` // dealers whose deals were bad: of no further round, sorted
}

// roundRecord is one ended round, under "ended/<hex>/<number>". It is written with the progress that counts it.
type roundRecord struct {
	Number      uint64   `cbor:"1,keyasint"`
	Outcome     string   `cbor:"2,keyasint"`
	Plan        [32]byte `cbor:"3,keyasint"`
	Set         []string `cbor:"4,keyasint"` // of the certificate; empty without one
	Certificate [32]byte `cbor:"5,keyasint"`
	Model       [32]byte `cbor:"6,keyasint"`
	Sum         [32]byte `cbor:"7,keyasint"`
	Why         string   `cbor:"8,keyasint"`
	Leaf        uint64   `cbor:"9,keyasint"` // index of its result's leaf
}

// finishRecord says that a study has no more rounds, and which leaf releases what.
type finishRecord struct {
	State State    `cbor:"1,keyasint"`
	Why   string   `cbor:"2,keyasint"`
	Model [32]byte `cbor:"3,keyasint"` // digest of model.safetensors; zero: no round closed
	Leaf  uint64   `cbor:"4,keyasint"` // index of the release leaf
}

// machineRecord is the state of a round's machine, under "round/<hex>/<number>". The last one of a round that has ended
// holds its signed messages.
type machineRecord struct {
	State []byte `cbor:"1,keyasint"` // of aggregate.Round
}

// bootRecord is what is known of the members' processes, under "boots/<hex>".
type bootRecord map[string]bootEntry

type bootEntry struct {
	Boot []byte `cbor:"1,keyasint"`
	Lost uint64 `cbor:"2,keyasint"` // the round that this process cannot take part in, having lost its one-time keys
	By   seenAs `cbor:"3,keyasint"` // the session of its last upload
}

// seenAs is how a node was appraised in a session: by which record, with what result, and by what.
type seenAs struct {
	Record [32]byte `cbor:"1,keyasint"`
	Status string   `cbor:"2,keyasint"`
	Policy [32]byte `cbor:"3,keyasint"`
	Trust  [32]byte `cbor:"4,keyasint"`
}

// shownAs is the coordinator's own evidence that a study's folder keeps, under "shown/<hex>", and when a
// node took it: it is appraised again as of then.
type shownAs struct {
	Record [32]byte `cbor:"1,keyasint"`
	At     int64    `cbor:"2,keyasint"` // Unix milliseconds, as its admission leaf has it
	Trust  [32]byte `cbor:"3,keyasint"` // the coordinator's own snapshot then
	Policy [32]byte `cbor:"4,keyasint"` // and by which of the consortium's policies it passed itself
}

// enrolmentRecord is the newest enrolment of a hospital, under "enrolment/<hospital>".
type enrolmentRecord struct {
	Serial uint64 `cbor:"1,keyasint"`
	File   []byte `cbor:"2,keyasint"`
}

// A cell is one key of the Store with one writer, who therefore knows its revision.
type cell[T any] struct {
	store Store
	key   string
	rev   int64
}

func (c *cell[T]) load(ctx context.Context) (v T, found bool, err error) {
	b, rev, err := c.store.Load(ctx, c.key)
	if errors.Is(err, store.ErrNotFound) {
		return v, false, nil
	}
	if err == nil {
		err = signed.Decode(b, &v)
	}
	if err != nil {
		return v, false, fmt.Errorf("loading %q: %w", c.key, err)
	}
	c.rev = rev
	return v, true, nil
}

// save is durable when it returns nil. store.ErrStale here means that another process writes the same
// state: this one must stop.
func (c *cell[T]) save(ctx context.Context, v T) error {
	return saveAll(ctx, c.store, c.with(v))
}

// with is a cell about to hold v.
func (c *cell[T]) with(v T) holding {
	b, err := signed.Encode(v)
	return holding{store.Change{Key: c.key, Rev: c.rev, Value: b}, err, func(rev int64) { c.rev = rev }}
}

type holding struct {
	store.Change
	err  error // of encoding it
	took func(rev int64)
}

// saveAll saves several cells as one: all, or none. It does not give up half way: a request that is cancelled
// while its answer is being written would leave memory and disk apart.
func saveAll(ctx context.Context, s Store, all ...holding) error {
	changes := make([]store.Change, 0, len(all))
	for _, h := range all {
		if h.err != nil {
			return fmt.Errorf("saving %q: %w", h.Key, h.err)
		}
		changes = append(changes, h.Change)
	}
	revs, err := s.SwapAll(context.WithoutCancel(ctx), changes...)
	if err != nil {
		return fmt.Errorf("saving %q: %w", all[0].Key, err)
	}
	for i, h := range all {
		h.took(revs[i])
	}
	return nil
}

func hexOf(d [32]byte) string { return hex.EncodeToString(d[:]) }
