// Package node is the agent beside a hospital's data. It trains where its own hospital has signed an
// approval, clips each patient, adds its share of noise, masks, and sends one vector a round; it checks
// whom it talks to before a byte leaves, charges its own ledger before the first masked byte does, and
// co-signs the log of each study it takes part in.
//
//	n, err := node.New(config, deps)
//	err = n.Run(ctx) // until ctx ends; errors of one study end that study alone
//
// For each approved study a runner connects, follows the coordinator's messages and drives one
// aggregate.Member a round. The runner's loop owns all of its state; training, uploads and the audit of
// the log run beside it and report back over a channel. Training outlives a connection, all else ends
// with it. On shutdown the loops end first, then training, then files close.
package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/store"
	"github.com/consilium-fl/consilium/internal/study"
)

// rescan is how often the approvals folder is read for what is new or gone.
const rescan = time.Second

// lockFile keeps a second process off a state folder: two would each answer one round.
const lockFile = "lock"

// Node is one hospital's agent.
type Node struct {
	config  Config
	deps    Deps
	log     *slog.Logger
	lock    io.Closer
	ledgers map[string]ledger
	newest  *newest
	boot    [16]byte

	mu         sync.Mutex
	complaints map[string]string           // by approval file: what was last logged
	verified   map[[32]byte]study.Approval // by digest of the file
}

// New checks that the pieces fit together: the consortium is the pinned one and signed by the own
// hospital, the enrolment is this node's and the newest of its hospital, no other process uses the state
// folder, the ledgers open and go on where a predecessor stopped.
func New(c Config, d Deps) (*Node, error) {
	n, err := open(c, d)
	if err != nil {
		return nil, fmt.Errorf("starting node %s/%s: %w", c.Hospital, c.Node, err)
	}
	if b, err := n.stopped(); b != nil || err != nil {
		if err == nil {
			err = fmt.Errorf("%w: it has signed its stop, and its successor takes over from %s", ErrStopped, filepath.Join(c.State, stopFile))
		}
		return nil, errors.Join(fmt.Errorf("starting node %s/%s: %w", c.Hospital, c.Node, err), n.Close())
	}
	return n, nil
}

func open(c Config, d Deps) (_ *Node, err error) {
	e, err := checkDeps(c, d)
	if err != nil {
		return nil, err
	}
	if err := store.PrivateDir(c.State); err != nil {
		return nil, err
	}
	n := &Node{config: c, deps: d, log: d.Logger.With("hospital", c.Hospital, "node", c.Node), complaints: map[string]string{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	if n.lock, err = store.Lock(filepath.Join(c.State, lockFile)); err != nil {
		return nil, err
	}
	if n.ledgers, err = openLedgers(c, d.Journal); err != nil {
		return nil, err
	}
	if n.newest, err = openNewest(filepath.Join(c.State, "enrolments"), d.Consortium); err != nil {
		return nil, err
	}
	if _, err := n.newest.admit(d.Enrolment, d.Now()); err != nil {
		return nil, err
	}
	if err := n.succeed(e); err != nil {
		return nil, err
	}
	n.boot, err = newBoot()
	return n, err
}

func checkDeps(c Config, d Deps) (e study.Enrolment, err error) {
	if len(c.Consortia) != 1 || d.Consortium.Digest != c.Consortia[0].Digest {
		return e, fmt.Errorf("the consortium file has digest %s, which is not the one pinned", signed.DigestText(d.Consortium.Digest))
	}
	h, ok := d.Consortium.Hospitals[c.Hospital]
	if !ok {
		return e, fmt.Errorf("consortium %s has no hospital %q", d.Consortium.Name, c.Hospital)
	}
	if !d.Consortium.SignedBy(d.Signatures, c.Hospital) {
		return e, fmt.Errorf("the consortium file lacks the signature of hospital %q itself", c.Hospital)
	}
	for name := range c.Registries {
		if !slices.Contains(h.Registries, name) {
			return e, fmt.Errorf("registry %q is not among those of hospital %q in the consortium file", name, c.Hospital)
		}
	}
	if e, err = d.Consortium.ParseEnrolment(d.Enrolment, d.Now()); err != nil {
		return e, err
	}
	switch {
	case e.Hospital != c.Hospital || e.Node != c.Node:
		return e, fmt.Errorf("the enrolment is of node %s/%s", e.Hospital, e.Node)
	case !e.NodeKey.Equal(d.NodeKey.Public()):
		return e, errors.New("the enrolment names another node key than the one in the state folder")
	case !e.WitnessKey.Equal(d.WitnessKey.Public()):
		return e, errors.New("the enrolment names another witness key than the one in the state folder")
	}
	return e, nil
}

// Close releases the state folder; call it after Run has returned.
func (n *Node) Close() error {
	var errs []error
	for _, l := range n.ledgers {
		errs = append(errs, l.journal.Close())
	}
	if n.newest != nil {
		errs = append(errs, n.newest.cell.Close())
	}
	if n.lock != nil {
		errs = append(errs, n.lock.Close())
	}
	return errors.Join(errs...)
}

// ErrStopped says that a study's log contradicted itself, or its ledger and the log disagree: this node
// takes no further part in it until a person has looked.
var ErrStopped = errors.New("stopped for good")

// errDropped ends a node that the simulation takes away.
var errDropped = errors.New("dropped by the simulation")

// Run takes part in every approved study until ctx ends. It fails only when the approvals folder cannot be
// read at the start; one that cannot be read later approves nothing.
func (n *Node) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	as, err := n.approvals()
	if err != nil {
		return fmt.Errorf("running node %s/%s: %w", n.config.Hospital, n.config.Node, err)
	}
	n.log.Info("node started", "coordinator", n.config.Coordinator, "simulated", n.config.Insecure.SimulatedTEE)
	started := map[[32]byte]bool{}
	tick := time.NewTicker(rescan)
	defer tick.Stop()
	for {
		for digest, a := range as {
			if started[digest] {
				continue
			}
			started[digest] = true
			wg.Go(func() {
				if err := n.study(ctx, digest, a); errors.Is(err, errDropped) {
					cancel(errDropped)
				}
			})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if as, err = n.approvals(); err != nil {
			n.complain("", err)
		}
	}
}

// study runs one study to its end and logs how it ended.
func (n *Node) study(ctx context.Context, digest [32]byte, a study.Approval) error {
	r := newRunner(n, digest, a)
	err := r.run(ctx)
	switch {
	case err == nil:
		r.log.Info("study is over")
	case ctx.Err() != nil || errors.Is(err, errDropped):
	default:
		r.log.Error("study stopped", "error", err)
	}
	return err
}

// studyDir is where a study's log memory, last round and spool are kept.
func (n *Node) studyDir(digest [32]byte) string { return studyDir(n.config.State, digest) }

func studyDir(state string, digest [32]byte) string {
	return filepath.Join(state, "study-"+hex.EncodeToString(digest[:]))
}
