package audit

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/consilium-fl/consilium/internal/signed"
)

var (
	// ErrRewound says that the log shows less than it showed before. Nothing is proved by it: it may
	// come back.
	ErrRewound = errors.New("the log was rewound")
	// ErrForked says that the log key signed two things that cannot both be true. It is for good.
	ErrForked = errors.New("the log was forked")
	// ErrOverdue says that a promise is due and no counted checkpoint includes it yet: wait.
	ErrOverdue = errors.New("a promise of the log is overdue")
)

const (
	maxPending = 1 << 16 // promises that wait for a counted checkpoint
	maxPutOff  = 64      // of them, while its co-signatures are not looked at
	maxSettled = 1 << 12 // promises remembered after that, so that one that comes again is settled at once
	maxRecent  = 64      // roots of checkpoints seen, to take a counted checkpoint without reading tiles
	maxCached  = 4       // level-0 tiles, 256 leaves each
)

// Memory is where an auditor keeps its last checkpoint and pending promises, durably: Store has
// fsynced and replaced the whole, or has failed and changed nothing. What Put takes, promises alone, may become
// durable later: with the next Store, or when the memory's owner sees to it, which it does before it gives any
// answer to what they came with. Load returns nil when nothing was stored.
type Memory interface {
	Load() ([]byte, error)
	Store([]byte) error
	Put([]byte) error
}

// AuditorConfig says which log is audited, and who co-signs it.
type AuditorConfig struct {
	Origin    string
	Log       ed25519.PublicKey
	Witnesses Witnesses
	Witness   crypto.Signer // own witness key; nil for a reader that only checks
	Name      string        // own hospital; without Witness unused
	Memory    Memory
}

// An Auditor follows one log, for as long as its memory is kept: it sees a single history or stops.
// Its methods may be called from several goroutines.
type Auditor struct {
	c    AuditorConfig // Witnesses change with step and mu held
	step sync.Mutex    // held over Advance and Counted, so that the log is read by one at a time
	once once

	mu        sync.Mutex // guards what follows, and Memory
	seen      Checkpoint // zero Origin: none yet
	seenNote  []byte
	counted   Checkpoint // a prefix of seen
	countNote []byte
	putOff    []byte               // a newer one that was seen, but for its co-signatures
	putOffAt  Checkpoint           // it
	waiting   int                  // who waits for a counted checkpoint
	pending   map[uint64]*expected // by index
	settled   map[uint64][32]byte  // leaf hash by index
	recent    []Checkpoint         // prefixes of seen
	leaves    map[int64][]byte     // leaf hashes of seen by tile number; authenticated
	cosigned  []byte               // own line on cosignedAt
	signedAt  Checkpoint           // what this process co-signed last
	fault     error                // for good
	evidence  [][]byte
	changed   chan struct{} // closed when anything above changes
}

type expected struct {
	p        Promised
	raw      []byte // its encoding, for each store
	included bool   // in seen
}

// MarshalCBOR makes an expected promise a Promised in Memory.
func (e *expected) MarshalCBOR() ([]byte, error) { return e.raw, nil }

type memoryCBOR struct {
	Origin   string     `cbor:"1,keyasint"`
	Seen     []byte     `cbor:"2,keyasint"`
	Counted  []byte     `cbor:"3,keyasint"`
	Pending  []Promised `cbor:"4,keyasint"`
	Fault    string     `cbor:"5,keyasint"`
	Evidence [][]byte   `cbor:"6,keyasint"`
}

// storedCBOR is memoryCBOR with promises that are encoded once.
type storedCBOR struct {
	Origin   string      `cbor:"1,keyasint"`
	Seen     []byte      `cbor:"2,keyasint"`
	Counted  []byte      `cbor:"3,keyasint"`
	Pending  []*expected `cbor:"4,keyasint"`
	Fault    string      `cbor:"5,keyasint"`
	Evidence [][]byte    `cbor:"6,keyasint"`
}

// NewAuditor goes on from what Memory holds, and refuses a memory of another log.
func NewAuditor(c AuditorConfig) (*Auditor, error) {
	a := &Auditor{
		c: c, pending: map[uint64]*expected{}, settled: map[uint64][32]byte{},
		leaves: map[int64][]byte{}, changed: make(chan struct{}),
	}
	if err := a.c.check(); err != nil {
		return nil, fmt.Errorf("auditing log %q: %w", c.Origin, err)
	}
	b, err := c.Memory.Load()
	if err == nil && len(b) > 0 {
		err = a.restore(b)
	}
	if err != nil {
		return nil, fmt.Errorf("auditing log %q: restoring memory: %w", c.Origin, err)
	}
	return a, nil
}

func (c AuditorConfig) check() error {
	if _, err := c.Witnesses.verifiers(c.Origin, c.Log); err != nil {
		return err
	}
	if n := len(c.Witnesses.Keys); c.Witnesses.Need > maxCosignatures || 2*c.Witnesses.Need <= n {
		return fmt.Errorf("need %d co-signatures of %d witnesses, want more than half and at most %d", c.Witnesses.Need, n, maxCosignatures)
	}
	if c.Memory == nil {
		return fmt.Errorf("no memory")
	}
	if c.Witness != nil {
		k, ok := c.Witness.Public().(ed25519.PublicKey)
		if own := c.Witnesses.Keys[c.Name]; !ok || !own.Equal(k) {
			return fmt.Errorf("own witness key is not the one of %q", c.Name)
		}
	}
	return nil
}

func (a *Auditor) restore(b []byte) error {
	var m memoryCBOR
	if err := signed.Decode(b, &m); err != nil {
		return err
	}
	if m.Origin != a.c.Origin {
		return fmt.Errorf("it is of log %q", m.Origin)
	}
	for _, p := range m.Pending {
		if _, err := p.verify(a.c.Origin, a.c.Log); err != nil {
			return err
		}
		a.pending[p.Promise.Index] = &expected{p: p, raw: p.Encode()}
	}
	if m.Fault != "" {
		a.fault = fmt.Errorf("%s: %w", m.Fault, ErrForked)
	}
	a.evidence = m.Evidence
	var err error
	if len(m.Seen) > 0 {
		a.seenNote = m.Seen
		if a.seen, err = ParseCheckpoint(m.Seen, a.c.Origin, a.c.Log, Witnesses{}); err != nil {
			return err
		}
	}
	if len(m.Counted) > 0 {
		a.countNote = m.Counted
		// It counted when it was stored; a witness key may have been replaced since.
		if a.counted, err = ParseCheckpoint(m.Counted, a.c.Origin, a.c.Log, Witnesses{}); err != nil {
			return err
		}
	}
	return nil
}

// store writes the state down as it would be with the given checkpoint seen. Called with mu held.
func (a *Auditor) store(seenNote []byte) error { return a.write(seenNote, a.c.Memory.Store) }

func (a *Auditor) write(seenNote []byte, to func([]byte) error) error {
	m := storedCBOR{Origin: a.c.Origin, Seen: seenNote, Counted: a.countNote, Evidence: a.evidence}
	if a.fault != nil {
		m.Fault = a.fault.Error()
	}
	for _, i := range sortedKeys(a.pending) {
		m.Pending = append(m.Pending, a.pending[i])
	}
	b, err := signed.Encode(m)
	if err == nil {
		err = to(b)
	}
	if err != nil {
		return fmt.Errorf("auditing log %q: storing memory: %w", a.c.Origin, err)
	}
	return nil
}

func sortedKeys[V any](m map[uint64]V) []uint64 {
	ks := make([]uint64, 0, len(m))
	for k := range m {
		ks = append(ks, k)
	}
	slices.Sort(ks)
	return ks
}

// notify wakes who waits. Called with mu held.
func (a *Auditor) notify() {
	close(a.changed)
	a.changed = make(chan struct{})
}

// stop ends the audit: the evidence is what the log key signed and cannot all be true. Should
// storing fail, this process stops all the same, and the next sees the same contradiction. Called
// with mu held.
func (a *Auditor) stop(err error, evidence ...[]byte) error {
	if a.fault == nil {
		a.fault, a.evidence = err, evidence
		err = errors.Join(err, a.store(a.seenNote))
		a.notify()
	}
	return err
}

func (a *Auditor) stopped() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.fault
}

// Expect remembers promises, in one Put of Memory: each must be included by the time it is due.
// One that is already known costs nothing. A promise that contradicts another, or the log as seen,
// is [ErrForked]. One for an index that the last checkpoint covers is settled at once while that
// part of the log is still at hand, else by the next [Auditor.Advance].
func (a *Auditor) Expect(ps ...Promised) error {
	for _, p := range ps {
		if err := p.check(a.c.Origin, a.c.Log); err != nil {
			return fmt.Errorf("expecting promise: %w", err)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fault != nil {
		return a.fault
	}
	var added []uint64
	var err error
	for _, p := range ps {
		fresh, expectErr := a.expect(p)
		if expectErr != nil {
			err = fmt.Errorf("expecting promise: %w", expectErr)
			break
		}
		if fresh {
			added = append(added, p.Promise.Index)
		}
	}
	a.settle()
	added = slices.DeleteFunc(added, func(i uint64) bool { return a.pending[i] == nil })
	if len(added) > 0 {
		if storeErr := a.write(a.seenNote, a.c.Memory.Put); storeErr != nil {
			for _, i := range added {
				delete(a.pending, i) // the caller knows that it is not remembered
			}
			err = errors.Join(err, storeErr)
		}
	}
	return err
}

// expect takes in one promise; fresh is one that was not known.
func (a *Auditor) expect(p Promised) (fresh bool, err error) {
	i := p.Promise.Index
	if leaf, ok := a.settled[i]; ok {
		return false, a.same(leaf, p, a.seenNote)
	}
	if e, ok := a.pending[i]; ok {
		return false, a.same(e.p.Promise.Leaf, p, e.p.Encode())
	}
	if len(a.pending) >= maxPending {
		return false, fmt.Errorf("%d are pending, want fewer than %d", len(a.pending), maxPending)
	}
	e := &expected{p: p, raw: p.Encode()}
	if err := a.match(e); err != nil {
		return false, err
	}
	a.pending[i] = e
	return true, nil
}

// match compares a promise with the leaves at hand.
func (a *Auditor) match(e *expected) error {
	leaf, ok := a.cachedLeaf(e.p.Promise.Index)
	if !ok {
		return nil
	}
	e.included = true
	return a.same(leaf, e.p, a.seenNote)
}

// same stops the audit when the log promised p and has, or promised, another leaf there.
func (a *Auditor) same(leaf [32]byte, p Promised, other []byte) error {
	if leaf == p.Promise.Leaf {
		return nil
	}
	return a.stop(contradiction(p, leaf), p.Encode(), other)
}

func contradiction(p Promised, got [32]byte) error {
	return fmt.Errorf("leaf %d is %x, promised was %x: %w", p.Promise.Index, got, p.Promise.Leaf, ErrForked)
}

func (a *Auditor) cachedLeaf(i uint64) (leaf [32]byte, ok bool) {
	tile, at := a.leaves[int64(i/tileWidth)], int(i%tileWidth)*tlog.HashSize
	if i >= a.seen.Size || len(tile) < at+tlog.HashSize {
		return leaf, false
	}
	return [32]byte(tile[at : at+tlog.HashSize]), true
}

// settle forgets the promises that a counted checkpoint includes. Called with mu held.
func (a *Auditor) settle() {
	for i, e := range a.pending {
		if e.included && i < a.counted.Size {
			delete(a.pending, i)
			a.settled[i] = e.p.Promise.Leaf
		}
	}
	if over := len(a.settled) - maxSettled; over > 0 {
		for _, i := range sortedKeys(a.settled)[:over] {
			delete(a.settled, i)
		}
	}
	a.notify()
}

// Advance reads the newest checkpoint, checks that it continues the last one and includes every
// promise that it covers, writes it down, and returns own co-signature of it: one line of a signed
// note, nil when this process has co-signed that checkpoint already or has no witness key. A
// checkpoint smaller than the last is [ErrRewound]; a contradiction is [ErrForked], for good, and
// with [Auditor.Evidence]. Any other error (the reader's, tiles that are not of the checkpoint)
// changes nothing.
func (a *Auditor) Advance(ctx context.Context, r Reader) (cosigned []byte, err error) {
	a.step.Lock()
	defer a.step.Unlock()
	if err := a.stopped(); err != nil {
		return nil, err
	}
	b, err := r.Read(ctx, "checkpoint")
	if err != nil {
		return nil, fmt.Errorf("advancing: %w", err)
	}
	c, err := a.Parse(b) // whose co-signatures it has is Counted's matter
	if err != nil {
		return nil, fmt.Errorf("advancing: %w", err)
	}
	if err := a.observe(ctx, b, c, r); err != nil {
		return nil, fmt.Errorf("advancing: %w", err)
	}
	if cosigned, err = a.cosign(c); err != nil {
		return nil, fmt.Errorf("advancing: co-signing: %w", err)
	}
	return cosigned, nil
}

// observe checks c against what was seen and promised, and makes it the last one seen. Called with
// step held.
func (a *Auditor) observe(ctx context.Context, b []byte, c Checkpoint, r Reader) error {
	a.mu.Lock()
	last, cold := a.seen, len(a.leaves) == 0
	var covered []uint64
	var want []Promised
	for _, i := range sortedKeys(a.pending) {
		if e := a.pending[i]; i < c.Size && !e.included {
			covered, want = append(covered, i), append(want, e.p)
		}
	}
	a.mu.Unlock()

	t := newTree(ctx, r, c)
	if last.Origin != "" {
		if err := consistent(last, c, t); err != nil {
			return a.contradicted(err, b)
		}
	}
	got, err := t.leafHashes(covered)
	if err == nil && cold && c.Size > 0 {
		_, err = t.rootAt(c.Size) // brings the right edge to hand, for promises that come later
	}
	if err != nil {
		return err
	}
	for i, h := range got {
		if h != tlog.Hash(want[i].Promise.Leaf) {
			return a.contradicted(contradiction(want[i], h), b, want[i].Encode())
		}
	}

	a.mu.Lock()
	defer a.mu.Unlock()
	if grown := last.Origin == "" || c.Size > last.Size; grown {
		// What if we crash on this line? Nothing was co-signed yet. One line later: the checkpoint
		// is ours, and only what continues it will be co-signed.
		if err := a.store(b); err != nil {
			return err
		}
		a.seen, a.seenNote = c, b
		a.recent = append(a.recent, c)
		a.recent = a.recent[max(0, len(a.recent)-maxRecent):]
	}
	for _, i := range covered {
		if e := a.pending[i]; e != nil {
			e.included = true
		}
	}
	a.cache(t.leaves)
	for _, e := range a.pending { // those that came while the log was read
		if err := a.match(e); err != nil {
			return err
		}
	}
	a.settle()
	return nil
}

func (a *Auditor) contradicted(err error, evidence ...[]byte) error {
	if !errors.Is(err, ErrForked) {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.stop(err, append(evidence, a.seenNote)...)
}

// cache keeps the last tiles of leaf hashes. Called with mu held.
func (a *Auditor) cache(leaves map[int64][]byte) {
	for n, b := range leaves {
		if len(b) > len(a.leaves[n]) {
			a.leaves[n] = b
		}
	}
	for len(a.leaves) > maxCached {
		first := int64(maxSize)
		for n := range a.leaves {
			first = min(first, n)
		}
		delete(a.leaves, first)
	}
}

// cosign signs c, which has been seen and written down.
func (a *Auditor) cosign(c Checkpoint) ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.c.Witness == nil || (a.signedAt.Size == c.Size && a.signedAt.Root == c.Root) {
		return nil, nil
	}
	line, err := cosign(c, a.c.Name, time.Now(), a.c.Witness)
	if err != nil {
		return nil, err
	}
	a.signedAt, a.cosigned = c, line
	return line, nil
}

// Parse is [ParseCheckpoint] of a checkpoint of this log, but for its co-signatures, which it counts as
// ignored. This Auditor does not verify again what it has verified.
func (a *Auditor) Parse(b []byte) (Checkpoint, error) {
	return parseCheckpoint(b, a.c.Origin, a.c.Log, Witnesses{}, &a.once)
}

// SetWitnesses replaces the co-signers: members become known as they are admitted, and fewer known than
// needed only means that no checkpoint counts yet. Need stays what it was.
func (a *Auditor) SetWitnesses(keys map[string]ed25519.PublicKey) error {
	a.step.Lock()
	defer a.step.Unlock()
	c := a.c
	c.Witnesses.Keys = maps.Clone(keys)
	if err := c.check(); err != nil {
		return fmt.Errorf("auditing log %q: %w", a.c.Origin, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.c.Witnesses = c.Witnesses
	return nil
}

// Cosignature is the line that Advance returned last in this process, to be sent again.
func (a *Auditor) Cosignature() []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cosigned
}

// parseCounted wants enough good co-signatures. Called with step or mu held.
func (a *Auditor) parseCounted(b []byte) (Checkpoint, error) {
	c, err := parseCheckpoint(b, a.c.Origin, a.c.Log, a.c.Witnesses, &a.once)
	if err == nil && !a.c.Witnesses.Counts(c) {
		err = fmt.Errorf("checkpoint of size %d has %d co-signatures, want %d", c.Size, len(c.Cosigned), a.c.Witnesses.Need)
	}
	return c, err
}

// Counted takes a checkpoint with co-signatures. When enough members' are good and it tells the
// history that was seen, it is the counted checkpoint from now on, unless a larger one is; size is
// that of the one that counts. It goes on as Advance does where the checkpoint is newer than the last seen.
//
// The co-signatures of one that was seen before are put off until something hangs on them: a promise that
// is due, somebody who waits or asks, or many promises. Should they turn out bad, it does not count.
func (a *Auditor) Counted(ctx context.Context, checkpoint []byte, r Reader) (size uint64, err error) {
	a.step.Lock()
	defer a.step.Unlock()
	if err := a.stopped(); err != nil {
		return 0, err
	}
	if size, ok := a.postpone(checkpoint); ok {
		return size, nil
	}
	c, err := a.parseCounted(checkpoint)
	if err == nil {
		err = a.belongs(ctx, checkpoint, c, r)
	}
	if err != nil {
		return 0, fmt.Errorf("counting checkpoint: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.counts(checkpoint, c)
	a.catchUp()
	return a.counted.Size, nil
}

// counts takes a checkpoint that is part of what was seen and has enough co-signatures. Called with mu held.
func (a *Auditor) counts(note []byte, c Checkpoint) {
	if a.beyond(c) {
		a.counted, a.countNote = c, note
		a.settle()
	}
}

// beyond says that c covers more than what counts. Called with mu held.
func (a *Auditor) beyond(c Checkpoint) bool { return a.counted.Origin == "" || c.Size > a.counted.Size }

// postpone keeps a checkpoint whose co-signatures nobody needs yet.
func (a *Auditor) postpone(note []byte) (size uint64, ok bool) {
	c, err := a.Parse(note)
	if err != nil || c.Ignored < a.c.Witnesses.Need {
		return 0, false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.waiting > 0 || len(a.pending) > maxPutOff || !a.sawLately(c) {
		return 0, false
	}
	if a.beyond(c) && (a.putOff == nil || c.Size > a.putOffAt.Size) {
		a.putOff, a.putOffAt = note, c
	}
	return a.counted.Size, true
}

// catchUp looks at the co-signatures that were put off. Called with mu held.
func (a *Auditor) catchUp() {
	if a.putOff == nil {
		return
	}
	if a.beyond(a.putOffAt) {
		if c, err := a.parseCounted(a.putOff); err == nil {
			a.counts(a.putOff, c)
		}
	}
	a.putOff, a.putOffAt = nil, Checkpoint{}
}

// sawLately says that c was seen, without a look at the log. Called with mu held.
func (a *Auditor) sawLately(c Checkpoint) bool {
	return slices.ContainsFunc(a.recent, func(o Checkpoint) bool { return o.Size == c.Size && o.Root == c.Root })
}

// belongs checks that c is seen, or a prefix of it, or continues it.
func (a *Auditor) belongs(ctx context.Context, b []byte, c Checkpoint, r Reader) error {
	a.mu.Lock()
	seen, lately := a.seen, a.sawLately(c)
	a.mu.Unlock()
	if lately {
		return nil
	}
	if c.Size >= seen.Size {
		return a.observe(ctx, b, c, r)
	}
	return a.contradicted(consistent(c, seen, newTree(ctx, r, seen)), b)
}

// CountedSize is the size of the largest counted checkpoint.
func (a *Auditor) CountedSize() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.catchUp()
	return a.counted.Size
}

// CountedCheckpoint is the largest counted checkpoint, with its co-signatures; nil when there is
// none.
func (a *Auditor) CountedCheckpoint() []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.catchUp()
	return a.countNote
}

// Due returns an error that is [ErrOverdue] while a promise due at now is in no counted checkpoint,
// and [ErrForked] for good once the log has contradicted itself.
func (a *Auditor) Due(now time.Time) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fault != nil {
		return a.fault
	}
	if late, _ := a.late(now); late > 0 {
		a.catchUp()
	}
	if late, first := a.late(now); late > 0 {
		return fmt.Errorf("%d promises, the first of index %d, due %s, and %d leaves counted: %w", late, first,
			a.pending[first].p.Promise.Due.Format(time.RFC3339Nano), a.counted.Size, ErrOverdue)
	}
	return nil
}

// late counts the promises that are due at now, and finds the first. Called with mu held.
func (a *Auditor) late(now time.Time) (n int, first uint64) {
	for i, e := range a.pending {
		if !e.p.Promise.Due.After(now) {
			if n == 0 || i < first {
				first = i
			}
			n++
		}
	}
	return n, first
}

// Evidence is what the log key signed and cannot all be true, after ErrForked: checkpoints and
// promises (CBOR).
func (a *Auditor) Evidence() [][]byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.evidence
}

// WaitCounted returns when a counted checkpoint has at least that size, or with the error that ends
// the audit or ctx.
func (a *Auditor) WaitCounted(ctx context.Context, size uint64) error {
	return a.wait(ctx, func() bool { return a.counted.Size >= size })
}

// ExpectedSize is the least size of a log that has every leaf that was promised and not yet counted.
func (a *Auditor) ExpectedSize() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	size := a.counted.Size
	for i := range a.pending {
		size = max(size, i+1)
	}
	return size
}

// WaitIncluded expects the promise, if it was not yet, and returns when a counted checkpoint
// includes its leaf.
func (a *Auditor) WaitIncluded(ctx context.Context, p Promised) error {
	if err := a.Expect(p); err != nil {
		return err
	}
	i := p.Promise.Index
	return a.wait(ctx, func() bool { return a.pending[i] == nil })
}

// WaitDue waits until nothing due at now is overdue.
func (a *Auditor) WaitDue(ctx context.Context, now time.Time) error {
	return a.wait(ctx, func() bool {
		n, _ := a.late(now)
		return n == 0
	})
}

func (a *Auditor) wait(ctx context.Context, done func() bool) error {
	a.mu.Lock()
	a.waiting++
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		a.waiting--
		a.mu.Unlock()
	}()
	for {
		a.mu.Lock()
		if !done() {
			a.catchUp()
		}
		err, ok, changed := a.fault, done(), a.changed
		a.mu.Unlock()
		if err != nil || ok {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Leaves calls f with the leaves [from, to) of the log, each checked against the counted
// checkpoint, which must cover them.
func (a *Auditor) Leaves(ctx context.Context, r Reader, from, to uint64, f func(index uint64, l Leaf) error) error {
	a.mu.Lock()
	a.catchUp()
	c, err := a.counted, a.fault
	a.mu.Unlock()
	if err == nil && to > c.Size {
		err = fmt.Errorf("%d leaves are counted", c.Size)
	}
	if err == nil {
		err = readLeaves(ctx, r, c, from, to, f)
	}
	if err != nil {
		return fmt.Errorf("reading leaves %d to %d of log %q: %w", from, to, a.c.Origin, err)
	}
	return nil
}
