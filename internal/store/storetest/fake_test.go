package storetest

import (
	"errors"
	"fmt"
	"testing"

	"github.com/consilium-fl/consilium/internal/store"
)

func TestFakePassesTheSuite(t *testing.T) {
	disks := map[string]*Fake{}
	Test(t, func(t *testing.T, dir string) Store {
		if f := disks[dir]; f != nil {
			disks[dir] = f.Reopen(t)
		} else {
			disks[dir] = NewFake(t)
		}
		return disks[dir]
	})
}

// recorder catches what a Fake says about its caller.
type recorder struct {
	testing.TB
	said []string
}

func (r *recorder) Errorf(format string, args ...any) {
	r.said = append(r.said, fmt.Sprintf(format, args...))
}

func TestFakeTellsOnItsCaller(t *testing.T) {
	r := &recorder{TB: t}
	f := NewFake(r)
	rev, err := Swap(t.Context(), f, "a", 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Swap(t.Context(), f, "a", rev+7, nil); !errors.Is(err, store.ErrStale) || len(r.said) != 1 {
		t.Errorf("a made-up revision: %v, said %q", err, r.said)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.Load(t.Context(), "a"); err == nil || len(r.said) != 2 {
		t.Errorf("after Close: %v, said %q", err, r.said)
	}
}

func TestFakeFaults(t *testing.T) {
	f := NewFake(t)
	fault := Before
	f.Fail(func(op, _ string) Fault {
		if op == "swap" {
			return fault
		}
		return None
	})
	if _, err := Swap(t.Context(), f, "k", 0, []byte("before")); !errors.Is(err, ErrInjected) {
		t.Fatal(err)
	}
	if _, _, err := f.Load(t.Context(), "k"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a fault before the effect had one: %v", err)
	}
	fault = After
	if _, err := Swap(t.Context(), f, "k", 0, []byte("after")); !errors.Is(err, ErrInjected) {
		t.Fatal(err)
	}
	if v, _, err := f.Load(t.Context(), "k"); err != nil || string(v) != "after" {
		t.Errorf("a fault after the effect: %q, %v", v, err)
	}
}
