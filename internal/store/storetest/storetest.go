// Package storetest holds what every engine of keys and revisions has to pass, and a fake engine in
// memory for the tests of those who use one.
//
//	func TestStore(t *testing.T) {
//		storetest.Test(t, func(t *testing.T, dir string) storetest.Store {
//			s, err := sqlite.Open(filepath.Join(dir, "state.db"))
//			if err != nil {
//				t.Fatal(err)
//			}
//			return s
//		})
//	}
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/consilium-fl/consilium/internal/store"
)

// Store is the contract; its comments are in internal/store/sqlite.
type Store interface {
	Load(ctx context.Context, key string) (value []byte, rev int64, err error)
	SwapAll(ctx context.Context, changes ...store.Change) (revs []int64, err error)
	Delete(ctx context.Context, key string) error
	List(ctx context.Context, prefix string, f func(key string, value []byte, rev int64) error) error
	Close() error
}

// Test runs the suite. open opens the store whose state lives in dir: after Close, the same dir
// gives the same store again.
func Test(t *testing.T, open func(t *testing.T, dir string) Store) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, s Store)
	}{
		{"swap", testSwap},
		{"stale", testStale},
		{"all or none", testSwapAll},
		{"deleted and made again", testAgain},
		{"bounds", testBounds},
		{"copies", testCopies},
		{"list", testList},
		{"list and call", testListAndCall},
		{"cancelled", testCancelled},
		{"one winner", testOneWinner},
		{"counter", testCounter},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t, t.TempDir())
			c.run(t, s)
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("reopened", func(t *testing.T) { testReopened(t, open) })
}

// Swap is a SwapAll of one key.
func Swap(ctx context.Context, s Store, key string, rev int64, value []byte) (newRev int64, err error) {
	revs, err := s.SwapAll(ctx, store.Change{Key: key, Rev: rev, Value: value})
	if err != nil {
		return 0, err
	}
	return revs[0], nil
}

func swap(t *testing.T, s Store, key string, rev int64, value string) int64 {
	t.Helper()
	got, err := Swap(t.Context(), s, key, rev, []byte(value))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func holds(t *testing.T, s Store, key, value string, rev int64) {
	t.Helper()
	v, r, err := s.Load(t.Context(), key)
	if err != nil || string(v) != value || r != rev {
		t.Errorf("%q is %q at %d (%v), want %q at %d", key, v, r, err, value, rev)
	}
}

func fails(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got error %v, want %v", err, want)
	}
}

func testSwap(t *testing.T, s Store) {
	_, _, err := s.Load(t.Context(), "k")
	fails(t, err, store.ErrNotFound)
	one := swap(t, s, "k", 0, "one")
	holds(t, s, "k", "one", one)
	two := swap(t, s, "k", one, "two")
	if one == 0 || two <= one {
		t.Errorf("revisions %d, then %d: want rising ones over 0", one, two)
	}
	holds(t, s, "k", "two", two)
	empty, err := Swap(t.Context(), s, "empty", 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	holds(t, s, "empty", "", empty)
}

func testSwapAll(t *testing.T, s Store) {
	one := swap(t, s, "one", 0, "1")
	two := swap(t, s, "two", 0, "2")
	revs, err := s.SwapAll(t.Context(), store.Change{Key: "one", Rev: one, Value: []byte("1+")}, store.Change{Key: "three", Value: []byte("3")})
	if err != nil || len(revs) != 2 {
		t.Fatalf("got %d revisions, %v", len(revs), err)
	}
	holds(t, s, "one", "1+", revs[0])
	holds(t, s, "three", "3", revs[1])
	for name, bad := range map[string]store.Change{
		"stale":      {Key: "one", Rev: one, Value: []byte("late")},
		"made twice": {Key: "three", Value: []byte("again")},
		"no key":     {Value: []byte("x")},
	} {
		if _, err := s.SwapAll(t.Context(), store.Change{Key: "two", Rev: two, Value: []byte("not")}, store.Change{Key: "new", Value: []byte("not")}, bad); err == nil {
			t.Errorf("%s: done", name)
		} else if name != "no key" && !errors.Is(err, store.ErrStale) {
			t.Errorf("%s: %v, want %v", name, err, store.ErrStale)
		}
		holds(t, s, "two", "2", two)
		if _, _, err := s.Load(t.Context(), "new"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: half of it was done: %v", name, err)
		}
	}
}

func testStale(t *testing.T, s Store) {
	one := swap(t, s, "k", 0, "one")
	_, err := Swap(t.Context(), s, "k", 0, []byte("made twice"))
	fails(t, err, store.ErrStale)
	two := swap(t, s, "k", one, "two")
	_, err = Swap(t.Context(), s, "k", one, []byte("late"))
	fails(t, err, store.ErrStale)
	gone := swap(t, s, "gone", 0, "x")
	if err := s.Delete(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	_, err = Swap(t.Context(), s, "gone", gone, []byte("y"))
	fails(t, err, store.ErrStale)
	holds(t, s, "k", "two", two)
}

// A revision from before a deletion does not fit what was made after it.
func testAgain(t *testing.T, s Store) {
	old := swap(t, s, "k", 0, "old")
	for range 2 {
		if err := s.Delete(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err := s.Load(t.Context(), "k")
	fails(t, err, store.ErrNotFound)
	made := swap(t, s, "k", 0, "new")
	_, err = Swap(t.Context(), s, "k", old, []byte("from before"))
	fails(t, err, store.ErrStale)
	holds(t, s, "k", "new", made)
}

func testBounds(t *testing.T, s Store) {
	for _, key := range []string{"", "a\x00b", "\xff", strings.Repeat("k", store.MaxKey+1)} {
		if _, err := Swap(t.Context(), s, key, 0, []byte("x")); err == nil {
			t.Errorf("key %q was taken", key)
		}
	}
	if _, err := Swap(t.Context(), s, "big", 0, make([]byte, store.MaxValue+1)); err == nil {
		t.Error("a value over MaxValue was taken")
	}
	if _, _, err := s.Load(t.Context(), "big"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a refused value left something: %v", err)
	}
}

// Neither side's later changes to a slice are seen by the other.
func testCopies(t *testing.T, s Store) {
	in := []byte("value")
	rev, err := Swap(t.Context(), s, "k", 0, in)
	if err != nil {
		t.Fatal(err)
	}
	copy(in, "XXXXX")
	out, _, err := s.Load(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	copy(out, "YYYYY")
	holds(t, s, "k", "value", rev)
}

func keys(t *testing.T, s Store, prefix string) []string {
	t.Helper()
	var all []string
	err := s.List(t.Context(), prefix, func(key string, value []byte, rev int64) error {
		if string(value) != "v "+key || rev == 0 {
			t.Errorf("%q is %q at %d", key, value, rev)
		}
		all = append(all, key)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func testList(t *testing.T, s Store) {
	for _, k := range []string{"round/10", "round/2", "round", "round0", "round/é", "round/\U0010ffff", "study/%", "Round/1"} {
		swap(t, s, k, 0, "v "+k)
	}
	for prefix, want := range map[string][]string{
		"round/":  {"round/10", "round/2", "round/é", "round/\U0010ffff"},
		"study/%": {"study/%"},
		"study/_": nil,
		"":        {"Round/1", "round", "round/10", "round/2", "round/é", "round/\U0010ffff", "round0", "study/%"},
	} {
		if diff := cmp.Diff(want, keys(t, s, prefix)); diff != "" {
			t.Errorf("prefix %q (-want +got):\n%s", prefix, diff)
		}
	}
	enough, n := errors.New("enough"), 0
	err := s.List(t.Context(), "", func(string, []byte, int64) error { n++; return enough })
	if fails(t, err, enough); n != 1 {
		t.Errorf("%d calls after an error, want 1", n)
	}
}

// A callback may write: it sees the list as it was when it began.
func testListAndCall(t *testing.T, s Store) {
	for i := range 5 {
		swap(t, s, fmt.Sprintf("a/%d", i), 0, "x")
	}
	n := 0
	err := s.List(t.Context(), "a/", func(key string, _ []byte, rev int64) error {
		n++
		if _, err := Swap(t.Context(), s, key, rev, []byte("y")); err != nil {
			return err
		}
		_, err := Swap(t.Context(), s, key+"/new", 0, []byte("z"))
		return err
	})
	if err != nil || n != 5 {
		t.Errorf("%d calls, %v; want 5", n, err)
	}
}

func testCancelled(t *testing.T, s Store) {
	rev := swap(t, s, "k", 0, "v")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Swap(ctx, s, "k", rev, []byte("w"))
	fails(t, err, context.Canceled)
	fails(t, s.Delete(ctx, "k"), context.Canceled)
	_, _, err = s.Load(ctx, "k")
	fails(t, err, context.Canceled)
	holds(t, s, "k", "v", rev)
}

// Of many that swap from one revision, one wins.
func testOneWinner(t *testing.T, s Store) {
	rev := swap(t, s, "k", 0, "start")
	var wg sync.WaitGroup
	won := make(chan string, 16)
	for i := range cap(won) {
		wg.Go(func() {
			v := fmt.Sprintf("writer %d", i)
			_, err := Swap(t.Context(), s, "k", rev, []byte(v))
			if err == nil {
				won <- v
			} else if !errors.Is(err, store.ErrStale) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	close(won)
	var winners []string
	for v := range won {
		winners = append(winners, v)
	}
	v, _, err := s.Load(t.Context(), "k")
	if err != nil || len(winners) != 1 || string(v) != winners[0] {
		t.Errorf("winners %q, stored %q (%v)", winners, v, err)
	}
}

// Increments by compare-and-swap are never lost.
func testCounter(t *testing.T, s Store) {
	const writers, each = 4, 10
	swap(t, s, "n", 0, "")
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				for increment(t, s) {
				}
			}
		})
	}
	wg.Wait()
	v, _, err := s.Load(t.Context(), "n")
	if err != nil || len(v) != writers*each {
		t.Errorf("counted %d (%v), want %d", len(v), err, writers*each)
	}
}

func increment(t *testing.T, s Store) (again bool) {
	v, rev, err := s.Load(t.Context(), "n")
	if err != nil {
		t.Error(err)
		return false
	}
	_, err = Swap(t.Context(), s, "n", rev, append(v, '|'))
	if err != nil && !errors.Is(err, store.ErrStale) {
		t.Error(err)
		return false
	}
	return err != nil
}

func testReopened(t *testing.T, open func(t *testing.T, dir string) Store) {
	dir := t.TempDir()
	s := open(t, dir)
	big := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	rev := swap(t, s, "k", 0, string(big))
	gone := swap(t, s, "gone", 0, "x")
	if err := errors.Join(s.Delete(t.Context(), "gone"), s.Close()); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	v, r, err := s.Load(t.Context(), "k")
	if err != nil || !bytes.Equal(v, big) || r != rev {
		t.Errorf("after opening again: %d bytes at %d (%v), want %d at %d", len(v), r, err, len(big), rev)
	}
	if made := swap(t, s, "gone", 0, "y"); made <= gone {
		t.Errorf("revision %d was given out before", made)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
