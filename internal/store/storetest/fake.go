package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/consilium-fl/consilium/internal/store"
)

// ErrInjected is the error of a fault.
var ErrInjected = errors.New("injected fault")

// Fault says how one call of a Fake fails.
type Fault int

// A call works, fails and did nothing, or did its work and fails all the same, as when a commit
// went through and its answer was lost.
const (
	None Fault = iota
	Before
	After
)

// Fake is a store in memory that watches its callers. It fails the test when a call comes after
// Close, or names a revision that this store never gave out for that key: the caller made it up or
// mixed up two keys.
type Fake struct {
	tb    testing.TB
	world *world

	mu     sync.Mutex
	closed bool
	fail   func(op, key string) Fault
}

// world outlives Close, as a disk does.
type world struct {
	mu      sync.Mutex
	last    int64
	entries map[string]entry
	given   map[string]map[int64]bool
}

type entry struct {
	value []byte
	rev   int64
}

// NewFake returns an empty store.
func NewFake(tb testing.TB) *Fake {
	return &Fake{tb: tb, world: &world{entries: map[string]entry{}, given: map[string]map[int64]bool{}}}
}

// Reopen returns a new handle on the same state, as a process gets that starts again; the old
// handle must not be used any more.
func (f *Fake) Reopen(tb testing.TB) *Fake {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	return &Fake{tb: tb, world: f.world}
}

// Fail asks `with` before every call how it is to fail; op is load, swap, delete or list. Reads that
// fail After return nothing.
func (f *Fake) Fail(with func(op, key string) Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = with
}

// enter checks the handle and returns the fault of this call.
func (f *Fake) enter(ctx context.Context, op, key string) (Fault, error) {
	f.mu.Lock()
	closed, fail := f.closed, f.fail
	f.mu.Unlock()
	if closed {
		f.tb.Errorf("%s of %q on a closed store", op, key)
		return None, errors.New("store is closed")
	}
	if err := ctx.Err(); err != nil {
		return None, err
	}
	if fail == nil {
		return None, nil
	}
	fault := fail(op, key)
	if fault == Before {
		return fault, ErrInjected
	}
	return fault, nil
}

func leave(fault Fault) error {
	if fault == After {
		return ErrInjected
	}
	return nil
}

// Load is Store's.
func (f *Fake) Load(ctx context.Context, key string) (value []byte, rev int64, err error) {
	fault, err := f.enter(ctx, "load", key)
	if err := errors.Join(err, leave(fault)); err != nil {
		return nil, 0, fmt.Errorf("loading %q: %w", key, err)
	}
	f.world.mu.Lock()
	defer f.world.mu.Unlock()
	e, ok := f.world.entries[key]
	if !ok {
		return nil, 0, fmt.Errorf("loading %q: %w", key, store.ErrNotFound)
	}
	return bytes.Clone(e.value), e.rev, nil
}

// SwapAll is Store's. Fail is asked about the first key.
func (f *Fake) SwapAll(ctx context.Context, changes ...store.Change) (revs []int64, err error) {
	if len(changes) == 0 {
		return nil, nil
	}
	fault, err := f.enter(ctx, "swap", changes[0].Key)
	for _, c := range changes {
		err = errors.Join(err, store.CheckKey(c.Key), store.CheckValue(c.Value))
	}
	if err != nil {
		return nil, fmt.Errorf("swapping %q: %w", changes[0].Key, err)
	}
	revs, err = f.swapAll(changes)
	if err := errors.Join(err, leave(fault)); err != nil {
		return nil, fmt.Errorf("swapping %q at revision %d: %w", changes[0].Key, changes[0].Rev, err)
	}
	return revs, nil
}

func (f *Fake) swapAll(changes []store.Change) (revs []int64, err error) {
	w := f.world
	w.mu.Lock()
	defer w.mu.Unlock()
	before := maps.Clone(w.entries)
	for _, c := range changes {
		rev, err := f.swapOne(c.Key, c.Rev, c.Value)
		if err != nil {
			w.entries = before
			return nil, err
		}
		revs = append(revs, rev)
	}
	return revs, nil
}

// swapOne is called with the world held.
func (f *Fake) swapOne(key string, rev int64, value []byte) (int64, error) {
	w := f.world
	if rev != 0 && !w.given[key][rev] {
		f.tb.Errorf("swap of %q at revision %d, which it never had", key, rev)
	}
	if w.entries[key].rev != rev {
		return 0, store.ErrStale
	}
	w.last++
	if w.given[key] == nil {
		w.given[key] = map[int64]bool{}
	}
	w.given[key][w.last] = true
	w.entries[key] = entry{append([]byte{}, value...), w.last}
	return w.last, nil
}

// Delete is Store's.
func (f *Fake) Delete(ctx context.Context, key string) error {
	fault, err := f.enter(ctx, "delete", key)
	if err != nil {
		return fmt.Errorf("deleting %q: %w", key, err)
	}
	f.world.mu.Lock()
	defer f.world.mu.Unlock()
	delete(f.world.entries, key)
	if err := leave(fault); err != nil {
		return fmt.Errorf("deleting %q: %w", key, err)
	}
	return nil
}

// List is Store's.
func (f *Fake) List(ctx context.Context, prefix string, each func(key string, value []byte, rev int64) error) error {
	fault, err := f.enter(ctx, "list", prefix)
	if err := errors.Join(err, leave(fault)); err != nil {
		return fmt.Errorf("listing %q: %w", prefix, err)
	}
	f.world.mu.Lock()
	snapshot := maps.Clone(f.world.entries)
	f.world.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(snapshot)) {
		if !strings.HasPrefix(key, prefix) {
			continue
		}
		if err := each(key, bytes.Clone(snapshot[key].value), snapshot[key].rev); err != nil {
			return err
		}
	}
	return nil
}

// Close is Store's.
func (f *Fake) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	return nil
}
