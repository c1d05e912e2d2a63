package coordinator

import (
	"crypto/rand"
	"slices"
	"sync"

	"github.com/consilium-fl/consilium/aggregate"
)

// A feed is what the members of one study follow: a buffer of items that is replayed by cursor. Its epoch
// is drawn anew by each process, for sequences do not outlive one. It holds the current round, the Result
// of the one before, and the newest checkpoints, so its size is bounded by what one round says.
type feed struct {
	epoch []byte

	mu      sync.Mutex
	seq     uint64
	items   []feedItem
	changed chan struct{} // closed at the next change
	closed  bool
}

// feedItem is one item and to whom it goes: everyone when To is nil.
type feedItem struct {
	Sequence uint64
	To       []aggregate.MemberID

	Message    *aggregate.Signed
	Promises   [][]byte
	Checkpoint []byte
	Counted    bool
	Enrolments [][]byte
}

const kindResult = "result"

func newFeed() *feed {
	f := &feed{epoch: make([]byte, 16), changed: make(chan struct{})}
	rand.Read(f.epoch) //nolint:errcheck // crypto/rand.Read never fails
	return f
}

func (f *feed) wake() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// publish adds an item. A checkpoint replaces the one of its sort before it: only the newest is of use.
func (f *feed) publish(it feedItem) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if it.Checkpoint != nil {
		f.items = slices.DeleteFunc(f.items, func(old feedItem) bool { return old.Checkpoint != nil && old.Counted == it.Counted })
	}
	f.seq++
	it.Sequence = f.seq
	f.items = append(f.items, it)
	f.wake()
}

// turn makes room for a new round: of the old one only its Result stays.
func (f *feed) turn() {
	f.mu.Lock()
	defer f.mu.Unlock()
	last := -1
	for i, it := range f.items {
		if it.Message != nil && it.Message.Kind == kindResult {
			last = i
		}
	}
	var kept []feedItem
	for i, it := range f.items {
		if i == last || it.Checkpoint != nil {
			kept = append(kept, it)
		}
	}
	f.items = kept
}

// close ends every stream, once it has sent what there is.
func (f *feed) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.closed = true
		f.wake()
	}
}

// start resolves a follower's cursor: fresh says that it gets everything anew.
func (f *feed) start(epoch []byte, cursor uint64) (from uint64, fresh bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Equal(epoch, f.epoch) || cursor == 0 || cursor > f.seq {
		return 0, true
	}
	return cursor, false
}

// after returns the items past a cursor that concern a member, where to go on, and what to wait for.
func (f *feed) after(cursor uint64, member aggregate.MemberID) (items []feedItem, next uint64, changed <-chan struct{}, closed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, it := range f.items {
		if it.Sequence > cursor && (it.To == nil || slices.Contains(it.To, member)) {
			items = append(items, it)
		}
	}
	return items, f.seq, f.changed, f.closed
}
