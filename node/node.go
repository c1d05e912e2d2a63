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
// the log run beside it and report back over channels. On shutdown the loops end first, then
// connections and files close.
package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/store"
	"github.com/consilium-fl/consilium/internal/study"
)

// rescan is how often the approvals folder is read for a study that is new.
const rescan = time.Second

// Node is one hospital's agent.
type Node struct {
	config     Config
	deps       Deps
	log        *slog.Logger
	ledgers    map[string]ledger
	boot       [16]byte
	complaints map[string]string // by approval file: what was last logged; guarded by mu
	mu         sync.Mutex
}

// New checks that the pieces fit together: the consortium is the pinned one and signed by the own
// hospital, the enrolment is this node's, the ledgers open.
func New(c Config, d Deps) (*Node, error) {
	if err := checkDeps(c, d); err != nil {
		return nil, fmt.Errorf("starting node %s/%s: %w", c.Hospital, c.Node, err)
	}
	if err := store.PrivateDir(c.State); err != nil {
		return nil, fmt.Errorf("starting node %s/%s: %w", c.Hospital, c.Node, err)
	}
	ls, err := openLedgers(c, d.Journal)
	if err != nil {
		return nil, fmt.Errorf("starting node %s/%s: %w", c.Hospital, c.Node, err)
	}
	boot, err := newBoot()
	if err != nil {
		return nil, fmt.Errorf("starting node %s/%s: %w", c.Hospital, c.Node, err)
	}
	return &Node{
		config: c, deps: d, ledgers: ls, boot: boot, complaints: map[string]string{},
		log: d.Logger.With("hospital", c.Hospital, "node", c.Node),
	}, nil
}

func checkDeps(c Config, d Deps) error {
	if len(c.Consortia) != 1 || d.Consortium.Digest != c.Consortia[0].Digest {
		return fmt.Errorf("the consortium file has digest %s, which is not the one pinned", signed.DigestText(d.Consortium.Digest))
	}
	h, ok := d.Consortium.Hospitals[c.Hospital]
	if !ok {
		return fmt.Errorf("consortium %s has no hospital %q", d.Consortium.Name, c.Hospital)
	}
	if !d.Consortium.SignedBy(d.Signatures, c.Hospital) {
		return fmt.Errorf("the consortium file lacks the signature of hospital %q itself", c.Hospital)
	}
	for name := range c.Registries {
		if !contains(h.Registries, name) {
			return fmt.Errorf("registry %q is not among those of hospital %q in the consortium file", name, c.Hospital)
		}
	}
	e, err := d.Consortium.ParseEnrolment(d.Enrolment, d.Now())
	if err != nil {
		return err
	}
	switch {
	case e.Hospital != c.Hospital || e.Node != c.Node:
		return fmt.Errorf("the enrolment is of node %s/%s", e.Hospital, e.Node)
	case !e.NodeKey.Equal(d.NodeKey.Public()):
		return errors.New("the enrolment names another node key than the one in the state folder")
	case !e.WitnessKey.Equal(d.WitnessKey.Public()):
		return errors.New("the enrolment names another witness key than the one in the state folder")
	}
	return nil
}

func contains(names []string, name string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}

// Close releases the ledgers' files; call it after Run has returned.
func (n *Node) Close() error {
	var errs []error
	for _, l := range n.ledgers {
		errs = append(errs, l.journal.Close())
	}
	return errors.Join(errs...)
}

// ErrStopped says that a study's log contradicted itself, or its ledger and the log disagree: this node
// takes no further part in it until a person has looked.
var ErrStopped = errors.New("stopped for good")

// errDropped ends a node that the simulation takes away.
var errDropped = errors.New("dropped by the simulation")

// Run takes part in every approved study until ctx ends.
func (n *Node) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	defer wg.Wait()
	started := map[[32]byte]bool{}
	tick := time.NewTicker(rescan)
	defer tick.Stop()
	n.log.Info("node started", "coordinator", n.config.Coordinator, "simulated", n.config.Insecure.SimulatedTEE)
	for {
		as, err := n.approvals()
		if err != nil {
			return fmt.Errorf("running node %s/%s: %w", n.config.Hospital, n.config.Node, err)
		}
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
			wg.Wait()
			return nil
		case <-tick.C:
		}
	}
}

// study runs one study to its end and logs how it ended.
func (n *Node) study(ctx context.Context, digest [32]byte, a study.Approval) error {
	r := newRunner(n, digest, a)
	err := r.run(ctx)
	switch {
	case err == nil:
		n.log.Info("study is over", "study", study.Short(digest))
	case ctx.Err() != nil || errors.Is(err, errDropped):
	default:
		n.log.Error("study stopped", "study", study.Short(digest), "error", err)
	}
	return err
}

// studyDir is where a study's log memory, last round and spool are kept.
func (n *Node) studyDir(digest [32]byte) string {
	return filepath.Join(n.config.State, "study-"+hexName(digest))
}

func hexName(d [32]byte) string {
	return string(bytes.TrimPrefix([]byte(signed.DigestText(d)), []byte("sha256:")))
}
