package window

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/consilium-fl/consilium/attest"
)

func binding(n uint32) attest.Binding {
	one := [32]byte{31: 1}
	b := attest.Binding{Role: attest.RoleNode, Nonce: one, Exporter: one, OwnKey: one, PeerKey: one, Study: one, KeyList: one, Config: one}
	b.Nonce = [32]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24), 1}
	return b
}

// desk is a quoter that takes a fifth of a second, and cannot be used twice at once.
type desk struct {
	t      testing.TB
	quotes atomic.Int64
	inside atomic.Int64
	fail   func(n int64) error // how the n-th quote ends, from 1; nil: well
}

var errBroken = errors.New("the device is broken")

func (d *desk) quote(ctx context.Context, data [64]byte) (attest.Evidence, error) {
	if d.inside.Add(1) != 1 {
		d.t.Error("two quotes at once")
	}
	defer d.inside.Add(-1)
	n := d.quotes.Add(1)
	select {
	case <-time.After(200 * time.Millisecond):
	case <-ctx.Done():
		return attest.Evidence{}, context.Cause(ctx)
	}
	if d.fail != nil {
		if err := d.fail(n); err != nil {
			return attest.Evidence{}, err
		}
	}
	return attest.Evidence{Format: "desk/1", Statement: data[:], Path: [][32]byte{{1}}}, nil
}

// answers checks that e is over b.
func answers(t testing.TB, e attest.Evidence, b attest.Binding) {
	t.Helper()
	want, err := b.ReportData(e.Path)
	if err != nil {
		t.Error(err)
	} else if [64]byte(e.Statement) != want {
		t.Error("the evidence is over another binding")
	}
}

func TestOneChallenge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &desk{t: t}
		a, start := New(d.quote), time.Now()
		e, err := a.Attest(t.Context(), binding(1))
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != 200*time.Millisecond {
			t.Errorf("answered after %s, want the time of one quote", took)
		}
		if len(e.Path) != 0 {
			t.Errorf("a path of %d for the only binding", len(e.Path))
		}
		answers(t, e, binding(1))
	})
}

// TestWindows: those that arrive during a quote are all answered by the next, within two quotes of their arrival.
func TestWindows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &desk{t: t}
		a, start := New(d.quote), time.Now()
		var wg sync.WaitGroup
		for i := range uint32(1000) {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond) // so 200 a quote
				arrived := time.Now()
				e, err := a.Attest(t.Context(), binding(i))
				if err != nil {
					t.Error(err)
					return
				}
				if took := time.Since(arrived); took > 400*time.Millisecond {
					t.Errorf("challenge %d waited %s", i, took)
				}
				answers(t, e, binding(i))
			})
		}
		wg.Wait()
		if n := d.quotes.Load(); n != 6 || time.Since(start) != 1200*time.Millisecond {
			t.Errorf("%d quotes in %s, want 6 in 1.2s", n, time.Since(start))
		}
	})
}

// TestOwnWait: whoever goes ends its own wait and nobody else's, nor a quote.
func TestOwnWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &desk{t: t}
		a, start := New(d.quote), time.Now()
		gone := errors.New("gone")
		wait := func(n uint32, patience time.Duration) <-chan error {
			out := make(chan error, 1)
			go func() {
				ctx, cancel := context.WithTimeoutCause(t.Context(), patience, gone)
				defer cancel()
				e, err := a.Attest(ctx, binding(n))
				if err == nil {
					answers(t, e, binding(n))
				}
				out <- err
			}()
			synctest.Wait()
			return out
		}
		first := wait(1, 50*time.Millisecond)
		second, third := wait(2, 50*time.Millisecond), wait(3, time.Second)
		for _, c := range []<-chan error{first, second} {
			if err := <-c; !errors.Is(err, gone) || time.Since(start) != 50*time.Millisecond {
				t.Errorf("after %s: %v", time.Since(start), err)
			}
		}
		if err := <-third; err != nil || time.Since(start) != 400*time.Millisecond {
			t.Errorf("who stayed got %v after %s, want an answer after 400ms", err, time.Since(start))
		}
		// A window that everybody left is not quoted.
		before := d.quotes.Load()
		fourth, fifth := wait(4, time.Second), wait(5, 50*time.Millisecond)
		if err := errors.Join(<-fourth, <-fifth); !errors.Is(err, gone) || d.quotes.Load() != before+1 {
			t.Errorf("%d quotes, want one; %v", d.quotes.Load()-before, err)
		}
		if err := <-wait(6, time.Second); err != nil {
			t.Errorf("after an empty window: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := a.Attest(ctx, binding(7)); !errors.Is(err, context.Canceled) || d.inside.Load() != 0 {
			t.Errorf("who was gone before got %v", err)
		}
	})
}

// TestFailures: however a quote fails, all of its window hear of it and the next window is quoted anew.
func TestFailures(t *testing.T) {
	for name, fail := range map[string]func() error{
		"an error":               func() error { return errBroken },
		"a panic":                func() error { panic("the key is 42") },
		"a goroutine that ended": func() error { runtime.Goexit(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { failures(t, fail) })
		})
	}
}

func failures(t *testing.T, fail func() error) {
	t.Helper()
	d := &desk{t: t, fail: func(n int64) error {
		if n == 2 {
			return fail()
		}
		return nil
	}}
	a := New(d.quote)
	var wg sync.WaitGroup
	errs := make([]error, 12)
	for i := range errs {
		wg.Go(func() { _, errs[i] = a.Attest(t.Context(), binding(uint32(i))) })
		synctest.Wait()
	}
	wg.Wait()
	for i, err := range errs {
		if (i > 0) != (err != nil) {
			t.Errorf("challenge %d: %v", i, err)
		}
		if err != nil && strings.Contains(err.Error(), "42") {
			t.Errorf("the error quotes the panic: %v", err)
		}
	}
	if e, err := a.Attest(t.Context(), binding(99)); err != nil {
		t.Errorf("the next window: %v", err)
	} else {
		answers(t, e, binding(99))
	}
	if n := d.quotes.Load(); n != 3 {
		t.Errorf("%d quotes, want 3", n)
	}
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &desk{t: t}
		a, start := New(d.quote), time.Now()
		var wg sync.WaitGroup
		for i := range uint32(3) {
			wg.Go(func() {
				if _, err := a.Attest(t.Context(), binding(i)); !errors.Is(err, ErrClosed) {
					t.Errorf("challenge %d: %v", i, err)
				}
			})
			synctest.Wait()
		}
		if err := a.Close(); err != nil || d.inside.Load() != 0 || time.Since(start) != 0 {
			t.Errorf("%v after %s; %d quotes run", err, time.Since(start), d.inside.Load())
		}
		wg.Wait()
		if _, err := a.Attest(t.Context(), binding(4)); !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
		if synctest.Wait(); d.quotes.Load() != 1 {
			t.Errorf("%d quotes, want the one before Close", d.quotes.Load())
		}
		if err := a.Close(); err != nil {
			t.Errorf("closing twice: %v", err)
		}
	})
}

// TestStuckQuote: a device that answers nobody is given up after a minute.
func TestStuckQuote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		a := New(func(ctx context.Context, _ [64]byte) (attest.Evidence, error) {
			<-ctx.Done()
			return attest.Evidence{}, context.Cause(ctx)
		})
		if _, err := a.Attest(t.Context(), binding(1)); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != MaxQuote {
			t.Errorf("got %v after %s", err, time.Since(start))
		}
	})
}

// TestIncompleteBinding: a mistake of one caller fails nobody else's window.
func TestIncompleteBinding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &desk{t: t}
		a := New(d.quote)
		var wg sync.WaitGroup
		for i := range uint32(4) {
			wg.Go(func() {
				b := binding(i)
				if i == 2 {
					b.Study = [32]byte{}
				}
				if _, err := a.Attest(t.Context(), b); (err != nil) != (i == 2) {
					t.Errorf("challenge %d: %v", i, err)
				}
			})
			synctest.Wait()
		}
		wg.Wait()
	})
}

// TestFullWindow: one more than fits is in the window after.
func TestFullWindow(t *testing.T) {
	if testing.Short() {
		t.Skip("it hashes 65,536 bindings")
	}
	synctest.Test(t, func(t *testing.T) {
		d := &desk{t: t}
		a := New(d.quote)
		var windows []*window
		places := map[*window]int{}
		for i := range uint32(Max + 2) { // the first is quoted alone
			w, place, err := a.join(t.Context(), binding(i))
			if err != nil {
				t.Fatal(err)
			}
			if places[w] != place {
				t.Fatalf("challenge %d has place %d, want %d", i, place, places[w])
			}
			if places[w]++; place == 0 {
				windows = append(windows, w)
			}
		}
		for i, want := range []int{1, Max, 1} {
			w := windows[i]
			<-w.done
			if w.err != nil || len(w.bindings) != want {
				t.Fatalf("window %d of %d: %v; want %d", i, len(w.bindings), w.err, want)
			}
			last := attest.Evidence{Statement: w.evidence.Statement, Path: w.paths[want-1]}
			answers(t, last, w.bindings[want-1])
			if len(last.Path) > 16 {
				t.Errorf("a path of %d", len(last.Path))
			}
		}
		if len(windows) != 3 || d.quotes.Load() != 3 {
			t.Errorf("%d windows, %d quotes, want 3", len(windows), d.quotes.Load())
		}
	})
}

// TestStorm is for the race detector: callers that come, go and close while quotes fail.
func TestStorm(t *testing.T) {
	d := &desk{t: t}
	a := New(func(ctx context.Context, data [64]byte) (attest.Evidence, error) {
		if n := d.quotes.Add(1); n%7 == 0 {
			return attest.Evidence{}, errBroken
		} else if n%11 == 0 {
			panic("storm")
		}
		if d.inside.Add(1) != 1 {
			t.Error("two quotes at once")
		}
		defer d.inside.Add(-1)
		runtime.Gosched()
		return attest.Evidence{Format: "desk/1", Statement: data[:]}, ctx.Err()
	})
	var wg sync.WaitGroup
	var good atomic.Int64
	for i := range uint32(64) {
		wg.Go(func() {
			for j := range uint32(100) {
				ctx, cancel := context.WithCancel(t.Context())
				if (i+j)%5 == 0 {
					go cancel()
				}
				b := binding(i<<16 | j)
				if e, err := a.Attest(ctx, b); err == nil {
					answers(t, e, b)
					good.Add(1)
				}
				cancel()
				if i == 63 && j == 90 && a.Close() != nil {
					t.Error("closing")
				}
			}
		})
	}
	wg.Wait()
	if good.Load() == 0 {
		t.Error("nobody was answered")
	}
	if _, err := a.Attest(t.Context(), binding(1)); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// Benchmark is one window from its first challenge to its last answer, the quote itself taking no time.
func Benchmark(b *testing.B) {
	for _, n := range []int{1, 100, 10_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			bindings := make([]attest.Binding, n+1)
			for i := range bindings {
				bindings[i] = binding(uint32(i))
			}
			b.ReportAllocs()
			for b.Loop() {
				oneWindow(b, bindings)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/challenge")
		})
	}
}

// oneWindow holds a first quote until all others wait, when there is more than one.
func oneWindow(b *testing.B, bindings []attest.Binding) {
	b.Helper()
	gate := make(chan struct{})
	a := New(func(_ context.Context, data [64]byte) (attest.Evidence, error) {
		<-gate
		return attest.Evidence{Format: "desk/1", Statement: data[:]}, nil
	})
	var wg sync.WaitGroup
	ask := func(x attest.Binding) {
		if e, err := a.Attest(context.Background(), x); err != nil || len(e.Statement) != 64 {
			b.Error(err)
		}
	}
	if len(bindings) == 2 {
		close(gate)
		ask(bindings[0])
		return
	}
	wg.Go(func() { ask(bindings[0]) })
	for a.waiting() != 0 || !a.quoting() {
		runtime.Gosched()
	}
	for _, x := range bindings[1:] {
		wg.Go(func() { ask(x) })
	}
	for a.waiting() != len(bindings)-1 {
		runtime.Gosched()
	}
	close(gate)
	wg.Wait()
}

func (a *Attester) waiting() (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, w := range a.queue {
		n += w.waiting
	}
	return n
}

func (a *Attester) quoting() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.busy
}

func ExampleNew() {
	device := func(_ context.Context, reportData [64]byte) (attest.Evidence, error) {
		return attest.Evidence{Format: "example/1", Statement: reportData[:]}, nil // a quote of the hardware
	}
	a := New(device)
	defer func() { _ = a.Close() }()
	e, err := a.Attest(context.Background(), binding(1))
	fmt.Println(len(e.Statement), len(e.Path), err)
	// Output: 64 0 <nil>
}
