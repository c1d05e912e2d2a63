package refresh

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/internal/signed"
)

const (
	// DefaultEvery is how long after it was fetched a list or a document is fetched anew.
	DefaultEvery = 12 * time.Hour
	// baseEvery is how often the steward's part is read again.
	baseEvery = time.Minute
	// The wait after a first failure, and the longest: it doubles, and a part of it is left to chance.
	firstWait   = 30 * time.Second
	longestWait = time.Hour
	// longestLater is the most that a service may ask us to wait.
	longestLater = 24 * time.Hour
	// offersEvery is how long chips' certificates that were offered wait for each other: a thousand machines that join
	// at once are not to make a thousand snapshots.
	offersEvery = 10 * time.Second

	atOnce    = 4  // fetches that run at once
	maxWanted = 64 // sources that are wanted and have given nothing yet
)

// MaxChips bounds the certificates of chips that are kept; the one that came first goes first.
const MaxChips = 1024

// ErrBusy says that too much is wanted already.
var ErrBusy = errors.New("too many endorsements are wanted already")

// Config says what a Refresher works with. It has no clock and no chance of its own.
type Config struct {
	// Dir is the cache, of this process alone.
	Dir string
	// Base gives the steward's part: the anchors, and whatever else was installed by hand or by a bundle. It is read
	// again each minute. While it fails the last one stands; beside [endorse.ErrExpired] it gives what has not expired,
	// nil for nothing.
	Base func() (*endorse.Snapshot, error)
	// Sources are kept fresh. Others come by Want.
	Sources []Source
	// Every is DefaultEvery if zero.
	Every time.Duration

	Now    func() time.Time                     // time.Now
	After  func(time.Duration) <-chan time.Time // time.After
	Random io.Reader                            // crypto/rand.Reader: spreads the waits
}

// Refresher holds the newest snapshot of a steward's part and of what sources gave. Its methods may be called at once.
type Refresher struct {
	config   Config
	snapshot atomic.Pointer[endorse.Snapshot]
	wake     chan struct{} // holds one: there is something to do

	mu        sync.Mutex // guards what follows, and the folder
	cache     *cache
	base      *endorse.Snapshot
	authority *authority
	baseErr   error // of reading it
	buildErr  error // of putting it and the rest together
	newest    marks // of all that was ever taken
	entries   map[string]*entry
	running   int
	offered   time.Time     // when the first came of what was offered and is in no snapshot; zero: none
	material  [32]byte      // digest of what can turn a verdict
	changed   chan struct{} // closed when it changes, and replaced
}

// entry is what is known of one source.
type entry struct {
	name     string
	source   Source // nil: it is in the cache, and nobody asks for it
	standing bool   // of the Config
	record   record
	item     *admitted // of record, by the present authority; nil: none, or one that it does not admit
	due      time.Time // when to fetch; zero: not
	running  bool
	waiting  chan struct{} // closed when the fetch that is due or running has ended; nil: nobody waits
	failures int
	err      error     // of the last fetch
	not      time.Time // before which it is not tried again
}

// New opens the cache and makes the first snapshot, of the steward's part and of what the cache holds.
func New(c Config) (*Refresher, error) {
	r, err := open(c)
	if err != nil {
		return nil, fmt.Errorf("opening endorsements: %w", err)
	}
	return r, nil
}

func open(c Config) (*Refresher, error) {
	if c.Base == nil || c.Now == nil || c.After == nil || c.Random == nil {
		return nil, errors.New("each of Base, Now, After and Random is needed")
	}
	if c.Every == 0 {
		c.Every = DefaultEvery
	}
	r := &Refresher{config: c, wake: make(chan struct{}, 1), entries: map[string]*entry{}, changed: make(chan struct{})}
	now := c.Now()
	for _, s := range c.Sources {
		if err := checkName(s.Name()); err != nil {
			return nil, err
		}
		if r.entries[s.Name()] != nil {
			return nil, fmt.Errorf("source %q is there twice", s.Name())
		}
		r.entries[s.Name()] = &entry{name: s.Name(), source: s, standing: true, due: now}
	}
	base, err := c.Base()
	if err != nil && (!errors.Is(err, endorse.ErrExpired) || base == nil) {
		return nil, err
	}
	r.baseErr = err
	if r.cache, err = openCache(c.Dir); err != nil {
		return nil, err
	}
	if err := r.load(base); err != nil {
		return nil, errors.Join(err, r.cache.close())
	}
	return r, nil
}

func (r *Refresher) load(base *endorse.Snapshot) error {
	records, m, broken, err := r.cache.load()
	if err != nil {
		return err
	}
	r.newest = m
	for name, err := range broken {
		if e := r.entries[name]; e != nil {
			e.err = err
		}
	}
	for _, rec := range records {
		e := r.entries[rec.Source]
		if e == nil {
			e = &entry{name: rec.Source}
			r.entries[rec.Source] = e
		}
		e.record = rec
	}
	return r.rebase(someBase(base))
}

func someBase(s *endorse.Snapshot) *endorse.Snapshot {
	if s == nil {
		s, _ = endorse.New(nil) // nothing is within the bounds
	}
	return s
}

// Close gives the cache to another process. Run has to have returned.
func (r *Refresher) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cache.close()
}

// Snapshot is the newest, and never nil.
func (r *Refresher) Snapshot() *endorse.Snapshot { return r.snapshot.Load() }

// Changed is closed when a snapshot comes that can turn a verdict: another anchor, revocation list or document.
// A further chip's certificate is in the next snapshot without it. Ask for it before the Snapshot that is to be kept
// up to date.
func (r *Refresher) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// Status tells of one source.
type Status struct {
	Name     string
	Fetched  time.Time // when it last gave something; zero: never
	Issued   time.Time // of the newest list or document; zero: it gives none
	Until    time.Time // the first end of one; past it, verification refuses by the policy
	Next     time.Time // when it is asked next; zero: it is not
	Failures int       // since it last gave something
	Err      error     // the last of them
}

// Stale reports whether what the source gave has ended.
func (s Status) Stale(now time.Time) bool { return !s.Until.IsZero() && !now.Before(s.Until) }

// Status tells of the steward's part, under the name "base", and of each source, in the order of their names.
func (r *Refresher) Status() []Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := []Status{{Name: "base", Err: errors.Join(r.baseErr, r.buildErr)}}
	for _, name := range slices.Sorted(maps.Keys(r.entries)) {
		out = append(out, r.entries[name].status())
	}
	return out
}

func (e *entry) status() Status {
	s := Status{Name: e.name, Next: e.due, Failures: e.failures, Err: e.err}
	if e.record.Source != "" {
		s.Fetched = e.record.fetched()
	}
	if e.item != nil {
		s.Issued, s.Until = e.item.this, e.item.next
	}
	return s
}

// Cached tells of what a cache holds, by a steward's part, without taking it from the process that works with it: nothing
// is written, and nobody asked. A cache that is not there holds nothing.
func Cached(dir string, base *endorse.Snapshot, now time.Time) ([]Status, error) {
	r := &Refresher{config: Config{Now: func() time.Time { return now }}, authority: newAuthority(base, now)}
	records, m, broken, err := (&cache{dir: dir}).load()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading endorsements: %w", err)
	}
	r.newest = m
	var out []Status
	for _, name := range slices.Sorted(maps.Keys(broken)) {
		out = append(out, Status{Name: name, Err: broken[name]})
	}
	r.entries = map[string]*entry{}
	for _, rec := range records {
		r.entries[rec.Source] = &entry{name: rec.Source, record: rec}
	}
	r.readmit(now)
	for _, name := range slices.Sorted(maps.Keys(r.entries)) {
		out = append(out, r.entries[name].status())
	}
	return out, nil
}

// Run fetches what is due until ctx ends, and returns when its last fetch has.
func (r *Refresher) Run(ctx context.Context) {
	var fetches sync.WaitGroup
	defer fetches.Wait()
	next := r.config.Now().Add(baseEvery)
	for {
		now := r.config.Now()
		if !now.Before(next) {
			r.Reload()
			next = now.Add(baseEvery)
		}
		wait := next.Sub(now)
		due, later := r.claim(now)
		wait = min(wait, r.publish(now))
		for _, e := range due {
			fetches.Go(func() { r.fetch(ctx, e) })
		}
		if !later.IsZero() {
			wait = min(wait, later.Sub(now))
		}
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		case <-r.config.After(wait):
		}
	}
}

// Reload reads the steward's part again now.
func (r *Refresher) Reload() {
	base, err := r.config.Base()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil && !errors.Is(err, endorse.ErrExpired) {
		r.baseErr = err
		return
	}
	if base = someBase(base); base.Digest() != r.base.Digest() {
		err = errors.Join(err, r.rebase(base))
	}
	r.baseErr = err
}

// publish puts what was offered into a snapshot, once it has waited, and says how long it has to.
func (r *Refresher) publish(now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.offered.IsZero() {
		return baseEvery
	}
	if left := offersEvery - now.Sub(r.offered); left > 0 {
		return left
	}
	r.rebuild()
	return baseEvery
}

// claim takes entries that are due, as many as may run, and says when the next one is.
func (r *Refresher) claim(now time.Time) (due []*entry, later time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.entries {
		if !e.due.IsZero() && !e.running {
			due = append(due, e)
		}
	}
	slices.SortFunc(due, func(a, b *entry) int { return cmp.Or(a.due.Compare(b.due), cmp.Compare(a.name, b.name)) })
	for i, e := range due {
		if r.running == atOnce { // whoever ends wakes us
			return due[:i], time.Time{}
		}
		if e.due.After(now) {
			return due[:i], e.due
		}
		e.running = true
		r.running++
	}
	return due, time.Time{}
}

func (r *Refresher) fetch(ctx context.Context, e *entry) {
	parts, err := e.source.Fetch(ctx)
	r.mu.Lock()
	e.running = false
	r.running--
	now := r.config.Now()
	if err == nil {
		if err = r.take(e, parts, now); err == nil {
			r.rebuild()
		}
	}
	r.settle(e, err, now)
	r.mu.Unlock()
	r.poke()
}

func (r *Refresher) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// take checks an answer and keeps it for the next snapshot. It holds the lock.
func (r *Refresher) take(e *entry, parts [][]byte, now time.Time) error {
	if len(parts) == 0 {
		return errors.New("the answer is empty")
	}
	item, err := r.authority.admit(e.name, parts, anchorOf(e.source), now)
	if err != nil {
		return err
	}
	if err := r.newest.refuse(item.marks); err != nil {
		return err
	}
	rec := record{Source: e.name, Fetched: now.Unix(), Parts: item.parts()}
	if err := r.fits(e, rec); err != nil {
		return err
	}
	m := maps.Clone(r.newest)
	m.raiseAll(item.marks)
	if err := r.cache.store(rec); err != nil {
		return err
	}
	// Dying here leaves a record that is ahead of the memory, which raises it again when it is read.
	if !maps.Equal(m, r.newest) {
		if err := r.cache.remember(m); err != nil {
			return err
		}
	}
	r.newest, e.record, e.item = m, rec, item
	r.authority.learn(item)
	return r.evict()
}

// fits refuses what would make the cache too large.
func (r *Refresher) fits(e *entry, rec record) error {
	n, total := 1, rec.size()
	for _, other := range r.entries {
		if other != e && other.record.Source != "" {
			n, total = n+1, total+other.record.size()
		}
	}
	if n > maxRecords || total > maxCache {
		return fmt.Errorf("the cache would have %d records and %d bytes, want at most %d and %d", n, total, maxRecords, maxCache)
	}
	return nil
}

// evict removes the oldest of too many chips.
func (r *Refresher) evict() error {
	var chips []*entry
	for _, e := range r.entries {
		if e.item != nil && e.item.chipsOnly() && !e.standing && !e.running {
			chips = append(chips, e)
		}
	}
	slices.SortFunc(chips, func(a, b *entry) int {
		return cmp.Or(cmp.Compare(b.record.Fetched, a.record.Fetched), cmp.Compare(a.name, b.name))
	})
	for _, e := range chips[min(MaxChips, len(chips)):] {
		if err := r.cache.remove(e.name); err != nil {
			return err
		}
		delete(r.entries, e.name)
	}
	return nil
}

// settle says what comes after a fetch, and tells who waits. It holds the lock.
func (r *Refresher) settle(e *entry, err error, now time.Time) {
	var later *Later
	errors.As(err, &later)
	if later != nil && later.Own { // still to come
		e.due = now.Add(later.Wait)
		return
	}
	e.err = err
	if err == nil {
		e.failures, e.not = 0, time.Time{}
		e.due = r.again(e, now)
	} else {
		e.failures++
		wait := r.backOff(e.failures)
		if later != nil {
			wait = max(wait, min(later.Wait, longestLater))
		}
		e.not, e.due = now.Add(wait), time.Time{}
		if e.standing || e.record.Source != "" {
			e.due = e.not
		}
	}
	if e.waiting != nil {
		close(e.waiting)
		e.waiting = nil
	}
}

// again is when what came at a time is fetched anew: half-way to its end at the latest, and never for what has none.
func (r *Refresher) again(e *entry, at time.Time) time.Time {
	own, _ := e.source.(source)
	switch {
	case e.source == nil, e.item.next.IsZero() && !own.moving:
		return time.Time{}
	case e.item.next.IsZero():
		return at.Add(r.config.Every)
	}
	return at.Add(max(firstWait, min(r.config.Every, e.item.next.Sub(at)/2)))
}

// backOff is half of the wait, and a part by chance of the other half, so that many who failed together do not come
// back together.
func (r *Refresher) backOff(failures int) time.Duration {
	wait := longestWait
	if n := failures - 1; n < 16 {
		wait = min(firstWait<<n, longestWait)
	}
	var b [8]byte
	if _, err := io.ReadFull(r.config.Random, b[:]); err != nil {
		return wait
	}
	return wait/2 + time.Duration(binary.BigEndian.Uint64(b[:])%uint64(wait/2+1))
}

// Want adds a source and waits until it has given something, or has failed: what it then needs is in the Snapshot.
// One that has given what still holds is not asked, and one that failed is asked when its time has come. Run has to be
// running.
func (r *Refresher) Want(ctx context.Context, s Source) error {
	waiting, err := r.want(s)
	if err != nil || waiting == nil {
		return err
	}
	select {
	case <-waiting:
	case <-ctx.Done():
		return fmt.Errorf("waiting for %s: %w", s.Name(), context.Cause(ctx))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.entries[s.Name()]; e != nil && !e.holds(r.config.Now()) {
		return fmt.Errorf("fetching %s: %w", s.Name(), e.err)
	}
	return nil
}

// Ask adds a source as Want does, and does not wait.
func (r *Refresher) Ask(s Source) error {
	_, err := r.want(s)
	return err
}

// holds reports whether there is something whose end has not come.
func (e *entry) holds(now time.Time) bool {
	return e.item != nil && (e.item.next.IsZero() || now.Before(e.item.next))
}

// want returns what to wait for, or nil where there is nothing to wait for.
func (r *Refresher) want(s Source) (<-chan struct{}, error) {
	if err := checkName(s.Name()); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.config.Now()
	e := r.entries[s.Name()]
	if e == nil {
		if err := r.makeRoom(now); err != nil {
			return nil, err
		}
		e = &entry{name: s.Name()}
		r.entries[e.name] = e
	}
	if e.source == nil {
		e.source = s
	}
	switch {
	case e.holds(now):
		if e.due.IsZero() {
			e.due = r.again(e, e.record.fetched())
			r.poke()
		}
		return nil, nil
	case now.Before(e.not):
		return nil, fmt.Errorf("fetching %s: %w", e.name, &Later{Wait: e.not.Sub(now), Err: e.err})
	}
	if e.waiting == nil {
		e.waiting = make(chan struct{})
		if !e.running {
			e.due = now
		}
	}
	r.poke()
	return e.waiting, nil
}

// makeRoom forgets a source that was wanted and failed, where there are many. It holds the lock.
func (r *Refresher) makeRoom(now time.Time) error {
	n := 0
	var failed *entry
	for _, e := range r.entries {
		if e.standing || e.record.Source != "" {
			continue
		}
		if n++; e.waiting == nil && !e.running && (failed == nil || e.not.Before(failed.not)) {
			failed = e
		}
	}
	if n < maxWanted {
		return nil
	}
	// One whose time has not come is a reason not to ask yet: forgetting it would let whoever makes up chips ask for ever.
	if failed == nil || now.Before(failed.not) {
		return ErrBusy
	}
	delete(r.entries, failed.name)
	return nil
}

// Offer keeps the certificate of a chip that evidence brought and that a verifier has accepted, in DER, so that later
// evidence may come without it: it is in a Snapshot within ten seconds. One that leads to no anchor is refused.
func (r *Refresher) Offer(der []byte) error {
	digest := signed.Digest(der)
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.config.Now()
	item, err := r.authority.admit("offer", [][]byte{der}, "", now)
	if err != nil {
		return fmt.Errorf("keeping a certificate: %w", err)
	}
	if len(item.known) > 0 {
		return nil
	}
	if !item.chipsOnly() || len(item.chips) != 1 {
		return errors.New("keeping a certificate: it is not that of a chip")
	}
	if r.has(item.chips[0]) {
		return nil
	}
	name := fmt.Sprintf("offered-%x", digest[:16])
	e := &entry{name: name}
	r.entries[name] = e
	if err := r.take(e, item.parts(), now); err != nil {
		delete(r.entries, name)
		return fmt.Errorf("keeping a certificate: %w", err)
	}
	if r.offered.IsZero() {
		r.offered = now
		r.poke()
	}
	return nil
}

func (r *Refresher) has(c *x509.Certificate) bool {
	for _, e := range r.entries {
		if e.item != nil && slices.ContainsFunc(e.item.chips, c.Equal) {
			return true
		}
	}
	return false
}
