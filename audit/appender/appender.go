// Package appender writes the log that package audit reads: Tessera on a POSIX folder. Only the
// coordinator links it.
//
//	log, err := appender.Open(ctx, dir, audit.Origin("heart.example", study), logKey, appender.Options{})
//	…
//	promised, err := log.Append(ctx, audit.Leaf{Kind: audit.Plan, Time: time.Now(), Study: study, Round: 3, Object: digest})
//	…
//	for checkpoint := range log.Checkpoints(ctx) { push(checkpoint) }
//
// The folder is a stored log as [audit.DirReader] reads it, plus Tessera's .state. Tessera runs
// timers of its own, ten a second, while a log is open.
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
	DefaultBatch      = time.Millisecond
	DefaultCheckpoint = 100 * time.Millisecond // also the least that Tessera takes
	DefaultMergeDelay = time.Second

	maxBatch    = 256  // leaves that are written at once: a full bundle
	maxInFlight = 1024 // appends that wait; more wait outside Tessera, which has no bound on POSIX
)

// ErrInUse says that this folder's log is open already, here or in another process.
var ErrInUse = errors.New("the log is open already")

// ErrClosed says that the log was closed.
var ErrClosed = errors.New("the log is closed")

// Options of a log. The zero value works.
type Options struct {
	Batch      time.Duration // how long a leaf waits for others to be written with; 1 ms
	Checkpoint time.Duration // the least time between two checkpoints; 100 ms, not less
	MergeDelay time.Duration // within which a leaf is promised to be covered by a checkpoint; 1 s
	Logger     *slog.Logger  // gets Tessera's own words; nil drops them. There is one for a process: the first Open decides
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
	if o.Batch < 0 || o.Checkpoint < DefaultCheckpoint || o.MergeDelay < 2*o.Checkpoint {
		return o, fmt.Errorf("batch %s, checkpoint %s, merge delay %s: want a batch above zero, at least %s between checkpoints, and a merge delay of two checkpoints",
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
	slots    chan struct{} // one for each append in flight

	mu       sync.Mutex
	closed   bool // takes no more leaves
	ended    bool // and publishes no more checkpoints
	inFlight sync.WaitGroup
	latest   []byte // newest checkpoint; nil: none yet
	size     uint64
	changed  chan struct{} // closed when latest or ended changes
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
	l := &Log{dir: dir, origin: origin, key: key, o: o, slots: make(chan struct{}, maxInFlight), changed: make(chan struct{})}
	if err := l.open(ctx); err != nil {
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

	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	l.stop = stop
	driver, err := posix.New(running, posix.Config{Path: l.dir})
	if err != nil {
		return err
	}
	a, shutdown, reader, err := tessera.NewAppender(running, driver, tessera.NewAppendOptions().
		WithCheckpointSigner(signer{l}).
		WithCheckpointInterval(l.o.Checkpoint).
		WithCheckpointRepublishInterval(0). // a log that does not grow says nothing new
		WithBatching(maxBatch, l.o.Batch))
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

// recover waits until a checkpoint covers what was integrated. What if we crashed between the two?
// Leaves are durable, and promised, before a checkpoint covers them; one that was signed and shown
// may not have reached the disk. Until it has been signed again we would seem to have gone back.
func (l *Log) recover(ctx context.Context, r tessera.LogReader) error {
	size, err := r.IntegratedSize(ctx)
	if err != nil {
		return err
	}
	for {
		l.mu.Lock()
		published, have, changed := l.size, l.latest != nil, l.changed
		l.mu.Unlock()
		if published > size {
			return fmt.Errorf("the folder holds %d leaves, its checkpoint covers %d: an older copy", size, published)
		}
		if have && published == size {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("waiting for a checkpoint of size %d: %w", size, ctx.Err())
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

// Append returns when the leaf is on disk and in the tree, with the log's promise that a checkpoint
// covers it within the merge delay. ctx is looked at until the leaf is queued and no more: after
// that it is in the log. On an error from the disk it may be there, unpromised.
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
	case l.slots <- struct{}{}:
		defer func() { <-l.slots }()
	case <-ctx.Done():
		return audit.Promised{}, ctx.Err()
	}
	if !l.enter() {
		return audit.Promised{}, ErrClosed
	}
	defer l.inFlight.Done()
	i, err := l.add(ctx, tessera.NewEntry(b))()
	if err != nil {
		return audit.Promised{}, err
	}
	// What if we crash on this line? The leaf is in the log and nobody holds its promise: whoever
	// asked does not know, and asks again.
	return audit.MakePromise(l.origin, i.Index, b, time.Now().Add(l.o.MergeDelay), l.key)
}

func (l *Log) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.inFlight.Add(1)
	}
	return !l.closed
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
	err := l.shutdown(ctx)
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

func (l *Log) release() {
	if l.stop != nil {
		l.stop()
	}
	if l.lock != nil {
		_ = l.lock.Close() // lets go of the lock; the file is empty
	}
}
