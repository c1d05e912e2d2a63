package refresh

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/consilium-fl/consilium/attest/endorse"
)

// Source gives one thing that changes as one: a revocation list, a document with the chain of who signed it, the
// certificate of a chip. What it gives is checked by the Refresher; that it is what was asked for, by the Source.
type Source interface {
	// Name is of at most 100 letters, digits, '-' and '_', and names the same thing for ever: the cache keeps it by it.
	Name() string
	// Fetch asks once. The parts are in any form that an [endorse.Index] knows. An error is a [Later] where the source
	// said when to come again.
	Fetch(ctx context.Context) (parts [][]byte, err error)
}

// source is every Source of this package.
type source struct {
	name   string
	pinned string // the fingerprint of the one anchor that it may bring
	moving bool   // what it gives has no end and may be another the next time
	fetch  func(context.Context) ([][]byte, error)
}

func (s source) Name() string                                { return s.name }
func (s source) Fetch(ctx context.Context) ([][]byte, error) { return s.fetch(ctx) }

func anchorOf(s Source) string {
	own, _ := s.(source)
	return own.pinned
}

// expect returns the parts, if they are what was asked for.
func expect(check func(*endorse.Index) error, parts ...[]byte) ([][]byte, error) {
	files := map[string][]byte{}
	for i, p := range parts {
		files[strconv.Itoa(i)] = p
	}
	s, err := endorse.New(files)
	if err != nil {
		return nil, err
	}
	if u := s.Index().Unknown; len(u) > 0 {
		return nil, fmt.Errorf("parts %q of the answer are nothing that is known", u)
	}
	return parts, check(s.Index())
}

// one demands one thing of a name.
func one(n int, name func() string, want string) error {
	if n != 1 {
		return fmt.Errorf("%d of what was asked for, want 1", n)
	}
	if got := name(); got != want {
		return fmt.Errorf("the answer is of %q, want %q", got, want)
	}
	return nil
}

// Later is an error that says when to ask again at the earliest.
type Later struct {
	Wait time.Duration
	Own  bool // our own limit and no failure: nothing was asked
	Err  error
}

func (e *Later) Error() string {
	return fmt.Sprintf("%v; again in %s", e.Err, e.Wait.Round(time.Millisecond))
}

// Unwrap returns what happened.
func (e *Later) Unwrap() error { return e.Err }

const maxName = 100

// checkName keeps names apart from paths and from what else the cache holds.
func checkName(s string) error {
	if s == "" || len(s) > maxName || strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
		return fmt.Errorf("source name %q: want 1 to %d letters, digits, '-' and '_'", s, maxName)
	}
	return nil
}
