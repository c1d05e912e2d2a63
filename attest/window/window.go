package window

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/consilium-fl/consilium/attest"
)

// Max is how many challenges one quote answers at most: [attest.Merkle] takes no more.
const Max = 1 << 16

// MaxQuote is how long one quote may take before its context ends.
const MaxQuote = time.Minute

// ErrClosed is what a challenge gets after Close.
var ErrClosed = errors.New("the attester is closed")

// Quote makes evidence over report data, with an empty Path. It is never called twice at once. Its context is not that
// of a challenge: it ends after MaxQuote and by Close.
type Quote func(ctx context.Context, reportData [64]byte) (attest.Evidence, error)

// Attester answers windows of challenges with one quote each. It owns a goroutine only while a quote is made.
type Attester struct {
	quote Quote
	life  context.Context
	end   context.CancelFunc

	mu      sync.Mutex
	busy    bool
	queue   []*window // the last one still takes challenges, the others are full
	running sync.WaitGroup
}

// window is the challenges that one quote answers.
type window struct {
	bindings []attest.Binding
	waiting  int // challenges whose callers have not gone; guarded by Attester.mu

	done     chan struct{} // closed when the rest is set, which does not change any more
	evidence attest.Evidence
	paths    [][][32]byte
	err      error
}

// New makes an attester that quotes by q.
func New(q Quote) *Attester {
	a := &Attester{quote: q}
	a.life, a.end = context.WithCancel(context.Background())
	return a
}

// Attest waits for a quote that begins after it is called. When ctx ends, only this wait does. An error of the quote
// goes to its whole window; the next window is quoted anew. The parts of the evidence but for its Path are shared with
// the rest of the window, and are not to be changed.
func (a *Attester) Attest(ctx context.Context, b attest.Binding) (attest.Evidence, error) {
	if _, err := b.Encode(); err != nil { // it would fail the window of others
		return attest.Evidence{}, fmt.Errorf("attesting: %w", err)
	}
	w, i, err := a.join(ctx, b)
	if err != nil {
		return attest.Evidence{}, fmt.Errorf("attesting: %w", err)
	}
	select {
	case <-w.done:
	case <-ctx.Done():
		a.leave(w)
		return attest.Evidence{}, fmt.Errorf("attesting: waiting for a quote: %w", context.Cause(ctx))
	case <-a.life.Done():
		return attest.Evidence{}, fmt.Errorf("attesting: %w", ErrClosed)
	}
	if w.err != nil {
		return attest.Evidence{}, fmt.Errorf("attesting a window of %d: %w", len(w.bindings), w.err)
	}
	e := w.evidence
	e.Path = w.paths[i]
	return e, nil
}

// Close ends all waits and the quote in flight, and returns when that has returned.
func (a *Attester) Close() error {
	a.mu.Lock()
	a.end()
	a.queue = nil
	a.mu.Unlock()
	a.running.Wait()
	return nil
}

// join takes the next place in the window that is quoted next.
func (a *Attester) join(ctx context.Context, b attest.Binding) (*window, int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.life.Err() != nil {
		return nil, 0, ErrClosed
	}
	if ctx.Err() != nil {
		return nil, 0, context.Cause(ctx)
	}
	if n := len(a.queue); n == 0 || len(a.queue[n-1].bindings) == Max {
		a.queue = append(a.queue, &window{done: make(chan struct{})})
	}
	w := a.queue[len(a.queue)-1]
	w.bindings = append(w.bindings, b)
	w.waiting++
	if !a.busy {
		a.next()
	}
	return w, len(w.bindings) - 1, nil
}

func (a *Attester) leave(w *window) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w.waiting--
}

// next starts on the first window that anybody still waits for. The caller holds mu.
func (a *Attester) next() {
	a.busy = false
	for len(a.queue) > 0 && !a.busy {
		w := a.queue[0]
		a.queue = a.queue[1:]
		if w.waiting > 0 {
			a.busy = true
			a.running.Go(func() { a.answer(w) })
		}
	}
}

// answer goes on to the next window whatever the quote does.
func (a *Attester) answer(w *window) {
	w.err = errors.New("quoting: it ended its goroutine")
	defer func() {
		if p := recover(); p != nil {
			w.err = fmt.Errorf("quoting: it panicked with a %T", p) // the text could quote what is secret
		}
		close(w.done)
		a.mu.Lock()
		defer a.mu.Unlock()
		a.next()
	}()
	w.err = a.ask(w)
}

func (a *Attester) ask(w *window) (err error) {
	if _, w.paths, err = attest.Merkle(w.bindings); err != nil {
		return err
	}
	data, err := w.bindings[0].ReportData(w.paths[0]) // the same for all
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(a.life, MaxQuote)
	defer cancel()
	if w.evidence, err = a.quote(ctx, data); err != nil {
		return fmt.Errorf("quoting: %w", err)
	}
	return nil
}
