// Package appender writes the log that package audit reads: Tessera on a POSIX folder. Only the
// coordinator links it.
//
//	log, err := appender.Open(ctx, dir, audit.Origin("heart.example", study), logKey, appender.Options{})
//	…
//	promised, err := log.Append(ctx, audit.Leaf{Kind: audit.Plan, Time: time.Now(), Study: study, Round: 3, Object: digest})
//	…
//	for checkpoint := range log.Checkpoints(ctx) { push(checkpoint) }
//
// The folder is a stored log as [audit.DirReader] reads it, plus .state: Tessera's, and the journal of
// leaves that are promised and not in the tree yet. Tessera runs timers of its own, ten a second, while a
// log is open.
package appender

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/consilium-fl/consilium/audit"
)

// Defaults of Options, and bounds.
const (
	DefaultBatch      = 50 * time.Millisecond
	DefaultCheckpoint = 100 * time.Millisecond // also the least that Tessera takes
	DefaultMergeDelay = time.Second

	maxBatch    = 256  // leaves that are put into the tree at once: a full bundle
	maxInFlight = 1024 // leaves on their way into the tree; appends of more wait
)

// ErrInUse says that this folder's log is open already, here or in another process.
var ErrInUse = errors.New("the log is open already")

// ErrClosed says that the log was closed.
var ErrClosed = errors.New("the log is closed")

// Options of a log. The zero value works.
type Options struct {
	Batch      time.Duration // how long a promised leaf waits for others to go into the tree with; 50 ms
	Checkpoint time.Duration // the least time between two checkpoints; 100 ms, not less
	MergeDelay time.Duration // within which a leaf is promised to be covered by a checkpoint; 1 s
	Logger     *slog.Logger  // gets Tessera's own words; nil drops them. There is one for a process: the first Open decides
}

// Check refuses what Open would.
func (o Options) Check() error {
	_, err := o.filled()
	return err
}

func (o Options) filled() (Options, error) {
	for _, f := range []struct {
		d        *time.Duration
		standard time.Duration
	}{{&o.Batch, DefaultBatch}, {&o.Checkpoint, DefaultCheckpoint}, {&o.MergeDelay, DefaultMergeDelay}} {
		if *f.d == 0 {
			*f.d = f.standard
		}
	}
	if o.Batch < 0 || o.Batch > o.Checkpoint || o.Checkpoint < DefaultCheckpoint || o.MergeDelay < 2*o.Checkpoint {
		return o, fmt.Errorf("batch %s, checkpoint %s, merge delay %s: want a batch above zero and no longer than a checkpoint, at least %s between checkpoints, and a merge delay of two checkpoints",
			o.Batch, o.Checkpoint, o.MergeDelay, DefaultCheckpoint)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

// tesseraLog sets klog's logger, of which there is one and which may not be set while it is in use.
var tesseraLog sync.Once

// A Log is open for appending. Close it to let go of the folder.
type Log struct {
	dir, origin string
	key         ed25519.PrivateKey
	o           Options

	add      tessera.AddFn
	shutdown func(context.Context) error
	stop     context.CancelFunc // ends Tessera's goroutines
	lock     *os.File
	journal  *journal
	slots    chan struct{}   // one for each leaf that is not in the tree yet
	writes   chan *write     // to the journal; closed when no more come
	planting chan struct{}   // of one: there are leaves to put into the tree
	work     sync.WaitGroup  // writer and planter
	running  context.Context // ends with stop

	mu       sync.Mutex
	closed   bool // takes no more leaves
	drained  bool // and none is on its way to the journal
	ended    bool // and publishes no more checkpoints
	inFlight sync.WaitGroup
	unplaced []entry // journaled, in order, and not in the tree
	placed   uint64  // leaves in the tree, each where it was promised
	known    bool    // placed is
	fault    error   // for good: the disk failed, or a leaf is not where it was promised
	latest   []byte  // newest checkpoint; nil: none yet
	size     uint64
	changed  chan struct{} // closed when anything above changes
}

// write is a leaf that waits for its place in the journal.
type write struct {
	leaf  []byte
	index uint64
	done  chan error
}

// Open opens the log of that origin in dir, or creates it. ctx bounds the opening alone. A folder
// that holds another log, or a log signed by another key, is an error; so is one that is open.
// After a crash Open returns once a checkpoint covers all that was appended before.
func Open(ctx context.Context, dir, origin string, key ed25519.PrivateKey, o Options) (*Log, error) {
	o, err := o.filled()
	if err == nil {
		err = audit.CheckOrigin(origin)
	}
	if err != nil {
		return nil, fmt.Errorf("opening log %q: %w", origin, err)
	}
	l := &Log{
		dir: dir, origin: origin, key: key, o: o, changed: make(chan struct{}),
		slots: make(chan struct{}, maxInFlight), writes: make(chan *write, maxInFlight), planting: make(chan struct{}, 1),
	}
	if err := l.open(ctx); err != nil {
		l.settle()
		l.release()
		return nil, fmt.Errorf("opening log %q in %q: %w", origin, dir, err)
	}
	return l, nil
}

func (l *Log) open(ctx context.Context) error {
	state := filepath.Join(l.dir, ".state")
	if err := os.MkdirAll(state, 0o700); err != nil {
		return err
	}
	// Tessera's own locks are fcntl locks, which do not keep a process out twice.
	f, err := os.OpenFile(filepath.Join(state, "open.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	l.lock = f
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return ErrInUse
	} else if err != nil {
		return err
	}
	if err := l.readLatest(ctx); err != nil {
		return err
	}
	tesseraLog.Do(func() { klog.SetSlogLogger(l.o.Logger) })

	l.running, l.stop = context.WithCancel(context.WithoutCancel(ctx))
	driver, err := posix.New(l.running, posix.Config{Path: l.dir})
	if err != nil {
		return err
	}
	a, shutdown, reader, err := tessera.NewAppender(l.running, driver, tessera.NewAppendOptions().
		WithCheckpointSigner(signer{l}).
		WithCheckpointInterval(l.o.Checkpoint).
		WithCheckpointRepublishInterval(0).       // a log that does not grow says nothing new
		WithBatching(maxBatch, time.Millisecond)) // the leaves of a batch are added at once
	if err != nil {
		return err
	}
	l.add, l.shutdown = a.Add, shutdown
	return l.recover(ctx, reader)
}

// readLatest takes up the checkpoint in the folder, and refuses another log's.
func (l *Log) readLatest(ctx context.Context) error {
	b, err := audit.DirReader(l.dir).Read(ctx, "checkpoint")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	c, err := audit.ParseCheckpoint(b, l.origin, l.key.Public().(ed25519.PublicKey), audit.Witnesses{})
	if err != nil {
		return err
	}
	l.latest, l.size = b, c.Size
	return nil
}

// recover puts what was promised into the tree, and waits until a checkpoint covers all of it. What if we
// crashed between the two? Leaves are durable, and promised, before a checkpoint covers them; one that was
// signed and shown may not have reached the disk. Until it has been signed again we would seem to have
// gone back.
func (l *Log) recover(ctx context.Context, r tessera.LogReader) error {
	size, err := r.IntegratedSize(ctx)
	if err != nil {
		return err
	}
	l.mu.Lock()
	published := l.size
	l.mu.Unlock()
	if published > size {
		return fmt.Errorf("the folder holds %d leaves, its checkpoint covers %d: an older copy", size, published)
	}
	j, promised, err := openJournal(filepath.Join(l.dir, ".state", "promised"))
	if err != nil {
		return err
	}
	next := size
	for _, e := range promised {
		switch {
		case e.index < size: // in the tree already
		case e.index != next:
			return errors.Join(fmt.Errorf("the folder holds %d leaves, its journal goes on at %d: an older copy", next, e.index), j.f.Close())
		case next-size == maxInFlight:
			return errors.Join(fmt.Errorf("the journal is more than %d leaves ahead of the tree", maxInFlight), j.f.Close())
		default:
			l.slots <- struct{}{}
			l.unplaced, next = append(l.unplaced, e), next+1
		}
	}
	l.mu.Lock()
	l.placed, l.known = size, true
	l.notify()
	l.mu.Unlock()
	l.journal = j
	l.work.Go(func() { l.journalAll(next) })
	l.work.Go(l.plant)
	l.wakePlanter()
	return l.await(ctx, func() bool { return l.latest != nil && l.size >= next })
}

// await waits for something under mu, or for a fault.
func (l *Log) await(ctx context.Context, done func() bool) error {
	for {
		l.mu.Lock()
		ok, err, changed := done(), l.fault, l.changed
		l.mu.Unlock()
		if ok || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// signer signs for Tessera, and so learns of each checkpoint the moment it is made. The tree that
// it commits to is durable by then; the file that holds it follows, and a crash in between is made
// good by recover.
type signer struct{ l *Log }

func (s signer) Name() string { return s.l.origin }

func (s signer) KeyHash() uint32 {
	return audit.LogKeyHash(s.l.origin, s.l.key.Public().(ed25519.PublicKey))
}

func (s signer) Sign(text []byte) ([]byte, error) {
	sig, err := s.l.key.Sign(nil, text, crypto.Hash(0))
	if err != nil {
		return nil, err
	}
	b, err := note.Sign(&note.Note{Text: string(text)}, signature{s, sig})
	if err != nil {
		return nil, err
	}
	c, err := audit.ParseCheckpoint(b, s.l.origin, s.l.key.Public().(ed25519.PublicKey), audit.Witnesses{})
	if err != nil {
		return nil, err
	}
	// A tree that holds a leaf where another was promised is never shown.
	if err := s.l.await(s.l.running, func() bool { return c.Size == 0 || s.l.known && c.Size <= s.l.placed }); err != nil {
		return nil, err
	}
	s.l.publish(b, c.Size)
	return sig, nil
}

// signature is a note.Signer whose signature is made.
type signature struct {
	signer
	sig []byte
}

func (s signature) Sign([]byte) ([]byte, error) { return s.sig, nil }

func (l *Log) publish(b []byte, size uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.latest != nil && size <= l.size {
		return
	}
	l.latest, l.size = b, size
	l.notify()
}

func (l *Log) notify() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// Append returns when the leaf is on disk and has its place in the tree, with the log's promise that a
// checkpoint covers it within the merge delay. ctx is looked at until the leaf is queued and no more: after
// that it is in the log. On an error from the disk it may be there, unpromised, and the log takes no more.
func (l *Log) Append(ctx context.Context, leaf audit.Leaf) (audit.Promised, error) {
	p, err := l.append(ctx, leaf)
	if err != nil {
		return audit.Promised{}, fmt.Errorf("appending %q leaf to log %q: %w", leaf.Kind, l.origin, err)
	}
	return p, nil
}

func (l *Log) append(ctx context.Context, leaf audit.Leaf) (audit.Promised, error) {
	b := leaf.Encode()
	if _, err := audit.ParseLeaf(b); err != nil {
		return audit.Promised{}, err
	}
	if err := leaf.CheckOrigin(l.origin); err != nil {
		return audit.Promised{}, err
	}
	select {
	case l.slots <- struct{}{}: // plant lets go of it
	case <-ctx.Done():
		return audit.Promised{}, ctx.Err()
	}
	if err := l.enter(); err != nil {
		<-l.slots
		return audit.Promised{}, err
	}
	defer l.inFlight.Done()
	w := &write{leaf: b, done: make(chan error, 1)}
	l.writes <- w
	if err := <-w.done; err != nil {
		return audit.Promised{}, err
	}
	// What if we crash on this line? The leaf is in the journal, and goes into the tree at the next start;
	// nobody holds its promise: whoever asked does not know, and asks again.
	return audit.MakePromise(l.origin, w.index, b, time.Now().Add(l.o.MergeDelay), l.key)
}

// journalAll writes what is appended to the journal, what waits at once with one write.
func (l *Log) journalAll(next uint64) {
	for w := range l.writes {
		ws := []*write{w}
		for len(l.writes) > 0 && len(ws) < maxBatch {
			ws = append(ws, <-l.writes)
		}
		es := make([]entry, len(ws))
		for i, w := range ws {
			w.index = next + uint64(i)
			es[i] = entry{w.index, w.leaf}
		}
		err := l.journalSome(es)
		for _, w := range ws {
			w.done <- err
		}
		next += uint64(len(ws))
	}
	l.mu.Lock()
	l.drained = true
	l.mu.Unlock()
	l.wakePlanter()
}

func (l *Log) journalSome(es []entry) error {
	l.mu.Lock()
	err, all := l.fault, len(l.unplaced) == 0
	l.mu.Unlock()
	if err != nil {
		return err
	}
	if !all && l.journal.full() {
		if err := l.await(l.running, func() bool { return len(l.unplaced) == 0 }); err != nil {
			return err
		}
		all = true
	}
	if all && l.journal.at > journalSize/2 {
		l.journal.rewind()
	}
	if err := l.journal.write(es); err != nil {
		// What is on disk is not known now: a leaf after these could get a place that one of them has.
		return l.fail(fmt.Errorf("writing the journal: %w", err))
	}
	l.mu.Lock()
	l.unplaced = append(l.unplaced, es...)
	l.mu.Unlock()
	l.wakePlanter()
	return nil
}

// fail stops the log for good.
func (l *Log) fail(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fault == nil {
		l.fault = err
		l.notify()
	}
	return l.fault
}

func (l *Log) wakePlanter() {
	select {
	case l.planting <- struct{}{}:
	default:
	}
}

// plant puts journaled leaves into the tree, batch by batch.
func (l *Log) plant() {
	for {
		l.mu.Lock()
		some, full, drained := len(l.unplaced) > 0, len(l.unplaced) >= maxBatch, l.drained
		l.mu.Unlock()
		switch {
		case !some && drained:
			return
		case !some:
			<-l.planting
			continue
		case !full && !drained:
			l.linger()
		}
		if err := l.plantBatch(); err != nil {
			_ = l.fail(err) // who appends or closes hears of it
			return
		}
	}
}

// linger lets a batch grow, until it is full or the log is closed.
func (l *Log) linger() {
	t := time.NewTimer(l.o.Batch)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			return
		case <-l.planting:
		}
		l.mu.Lock()
		enough := len(l.unplaced) >= maxBatch || l.drained
		l.mu.Unlock()
		if enough {
			return
		}
	}
}

func (l *Log) plantBatch() error {
	l.mu.Lock()
	batch := l.unplaced[:min(len(l.unplaced), maxBatch)]
	l.mu.Unlock()
	placed := make([]tessera.IndexFuture, len(batch))
	for i, e := range batch {
		placed[i] = l.add(l.running, tessera.NewEntry(e.leaf))
	}
	for i, e := range batch {
		got, err := placed[i]()
		if err != nil {
			return fmt.Errorf("putting leaf %d into the tree: %w", e.index, err)
		}
		if got.Index != e.index {
			return fmt.Errorf("leaf %d has got place %d in the tree", e.index, got.Index)
		}
	}
	l.mu.Lock()
	l.unplaced = l.unplaced[len(batch):]
	l.placed += uint64(len(batch))
	l.notify()
	l.mu.Unlock()
	for range batch {
		<-l.slots
	}
	return nil
}

func (l *Log) enter() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.fault != nil:
		return l.fault
	case l.closed:
		return ErrClosed
	}
	l.inFlight.Add(1)
	return nil
}

// Checkpoints yields the newest checkpoint (a signed note), then each newer one as it is signed; a
// reader that is slower gets the newest alone. The channel is closed when ctx ends or the log is
// closed. Nothing polls.
func (l *Log) Checkpoints(ctx context.Context) <-chan []byte {
	out := make(chan []byte)
	go func() {
		defer close(out)
		sent := uint64(0)
		first := true
		for {
			l.mu.Lock()
			b, size, changed, ended := l.latest, l.size, l.changed, l.ended
			l.mu.Unlock()
			to := out
			if b == nil || (!first && size == sent) {
				if ended {
					return
				}
				to = nil // nothing new: only wait
			}
			select {
			case to <- b:
				first, sent = false, size
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// Read returns a resource of the log, as [audit.Reader]; a path that tlog-tiles does not name is an
// error. The checkpoint is never older than one that Checkpoints yielded.
func (l *Log) Read(ctx context.Context, resource string) ([]byte, error) {
	if resource == "checkpoint" {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.latest == nil {
			return nil, fmt.Errorf("reading log: resource %q: %w", resource, fs.ErrNotExist)
		}
		return l.latest, nil
	}
	return audit.DirReader(l.dir).Read(ctx, resource)
}

// Close takes no more leaves, waits until those in flight are written and a checkpoint that covers
// them is published, and lets go of the folder. When ctx ends first the error says so, and the
// folder is let go of all the same.
func (l *Log) Close(ctx context.Context) error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.mu.Unlock()
	l.inFlight.Wait()
	l.settle()
	l.mu.Lock()
	err := l.fault
	l.mu.Unlock()
	if err == nil {
		err = l.shutdown(ctx)
	}
	l.mu.Lock()
	l.ended = true
	l.notify()
	l.mu.Unlock()
	l.release()
	if err != nil {
		return fmt.Errorf("closing log %q: publishing its last checkpoint: %w", l.origin, err)
	}
	return nil
}

// settle ends the writer, and the planter once the tree has all that is journaled.
func (l *Log) settle() {
	if l.journal != nil {
		close(l.writes)
		l.work.Wait()
	}
}

func (l *Log) release() {
	if l.stop != nil {
		l.stop()
	}
	if l.journal != nil {
		_ = l.journal.f.Close() // each write was synchronous
	}
	if l.lock != nil {
		_ = l.lock.Close() // lets go of the lock; the file is empty
	}
}
