package node

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/attest/channel"
	"github.com/consilium-fl/consilium/audit"
	"github.com/consilium-fl/consilium/dp"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/store"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/terms"
	"github.com/consilium-fl/consilium/node/dataset"
	"github.com/consilium-fl/consilium/node/train"
)

// A runner takes part in one study. Its loop (loop in loop.go) owns every field below but inbox; what runs
// beside it gets copies and answers over events.
type runner struct {
	node     *Node
	digest   [32]byte
	approval study.Approval
	log      *slog.Logger
	dir      string

	terms   *terms.Terms // nil until the study file was checked
	trainer Trainer
	ledger  *dp.Ledger
	auditor *audit.Auditor
	spool   spool
	cells   cells

	members   map[string]study.Enrolment // the newest enrolment of each member that is known
	witnesses audit.Witnesses            // from those
	protocol  ed25519.PublicKey          // of the coordinator: what its evidence bound
	attested  channel.Session            // the last one

	cursor   uint64
	epoch    []byte
	bootLeaf *audit.Promised // this process's, promised by the log
	cleared  bool            // it is in a counted checkpoint and the ledger agrees with the log
	held     *heldPlan       // waits for that
	round    *roundState

	inbox  inbox                                      // of the audit
	events chan func(context.Context, *serving) error // run by the loop of the session at hand
	work   sync.WaitGroup                             // training: it outlives a session
	reads  sync.WaitGroup                             // uploads, which read the spool
}

// heldPlan is a Plan with the leaves that the log promised for it.
type heldPlan struct {
	message aggregate.Signed
	leaves  []audit.Leaf
}

// roundState is what belongs to one round.
type roundState struct {
	member   *aggregate.Member
	number   uint64
	ctx      context.Context // ends with the round
	cancel   context.CancelFunc
	training bool
	vector   []int64            // from Trained to Spooled
	sent     []aggregate.Signed // again, byte for byte, when the coordinator restarted or the connection was replaced
	sending  sending
}

// sending is what delivers a round's messages over one session.
type sending struct {
	ctx       context.Context
	stop      context.CancelFunc
	outbox    chan aggregate.Signed
	uploading bool
}

func newRunner(n *Node, digest [32]byte, a study.Approval) *runner {
	dir := n.studyDir(digest)
	return &runner{
		node: n, digest: digest, approval: a, dir: dir, spool: spool{dir: dir},
		log:    n.log.With("study", study.Short(digest)),
		ledger: n.ledgers[a.Dataset].Ledger,
		inbox:  inbox{wake: make(chan struct{}, 1)},
		events: make(chan func(context.Context, *serving) error),
	}
}

// Waits between connections and tries.
const (
	shortestWait = 100 * time.Millisecond
	longestWait  = 5 * time.Second
	unfitAgain   = time.Minute // a study that this node cannot take part in as things are
)

// pause waits for half of d to d, so that nodes that lost one coordinator do not come back as one.
func pause(ctx context.Context, d time.Duration) error {
	var b [2]byte
	rand.Read(b[:]) //nolint:errcheck // crypto/rand.Read never fails
	t := time.NewTimer(d/2 + d/2*time.Duration(binary.BigEndian.Uint16(b[:]))/(1<<16))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// run connects again and again until the study is over or this node has to stop.
func (r *runner) run(ctx context.Context) error {
	if err := store.PrivateDir(r.dir); err != nil {
		return fmt.Errorf("preparing the study folder: %w", err)
	}
	if err := r.stopped(); err != nil {
		return err
	}
	if err := r.cells.open(r.dir); err != nil {
		return err
	}
	defer r.cells.close(r.log)
	defer r.leave()
	wait := shortestWait
	for {
		if err := r.awaitApproval(ctx); err != nil {
			return err
		}
		began := r.node.deps.Now()
		over, err := r.session(ctx)
		if r.node.deps.Now().Sub(began) > longestWait {
			wait = shortestWait
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case over:
			return r.spool.remove()
		case errors.Is(err, ErrStopped), errors.Is(err, errDropped):
			return err
		case errors.Is(err, errVeto):
			err = r.sitOut(ctx)
		case errors.Is(err, errUnfit):
			r.log.Error("not taking part", "error", err, "again_in", unfitAgain)
			err = pause(ctx, unfitAgain)
		case err == nil: // the session is to be renewed
			wait = shortestWait
		default:
			r.log.Info("connection ended", "error", err, "again_in", wait)
			err = pause(ctx, wait)
			wait = min(2*wait, longestWait)
		}
		if err != nil {
			return err
		}
	}
}

// leave ends what runs and erases a round's secrets. Its spool stays: what it holds may be sent again.
func (r *runner) leave() {
	if r.round != nil {
		r.round.forget()
		r.round = nil
	}
	r.work.Wait()
}

// errUnfit says that the study is not one this node can take part in as things are.
var errUnfit = errors.New("this node cannot take part")

// prepare checks the study file once and opens what the study needs.
func (r *runner) prepare(file []byte) error {
	if _, err := r.node.newest.admit(r.node.deps.Enrolment, r.node.deps.Now()); err != nil {
		return fmt.Errorf("%w: %w", errUnfit, err)
	}
	if r.terms != nil {
		if err := r.rightRegistry(r.terms.Study); err != nil {
			return fmt.Errorf("%w: %w", errUnfit, err)
		}
		return nil
	}
	if got := signed.Digest(file); got != r.digest {
		return fmt.Errorf("checking the study file: its digest is %s, want %s", signed.DigestText(got), signed.DigestText(r.digest))
	}
	t, err := r.check(file)
	if err != nil {
		return fmt.Errorf("%w: %w", errUnfit, err)
	}
	if err := r.openAuditor(t); err != nil {
		return err
	}
	r.terms = t
	return nil
}

// check says what study.yaml fixes, if it is a study for this node, and loads the data.
func (r *runner) check(file []byte) (*terms.Terms, error) {
	c := r.node.deps.Consortium
	s, err := study.Parse(file)
	if err != nil {
		return nil, err
	}
	if err := s.Check(c, r.node.deps.Now()); err != nil {
		return nil, err
	}
	if !slices.Contains(s.Members, r.node.config.Hospital) {
		return nil, fmt.Errorf("hospital %q is not a member of the study", r.node.config.Hospital)
	}
	if err := r.rightRegistry(s); err != nil {
		return nil, err
	}
	t, err := terms.New(c, s)
	if err != nil {
		return nil, err
	}
	r.trainer, err = r.load(s)
	return t, err
}

func (r *runner) rightRegistry(s *study.Study) error {
	if s.Data.Registry != r.approval.Dataset {
		return fmt.Errorf("the approval is for registry %q, the study wants %q", r.approval.Dataset, s.Data.Registry)
	}
	return nil
}

// load reads the registry's file under the study's data contract. Rows that cannot be used are counted
// here, for the local log alone.
func (r *runner) load(s *study.Study) (Trainer, error) {
	reg := r.node.config.Registries[s.Data.Registry]
	exclude, err := dataset.ReadExclusionFile(reg.Exclude.File, reg.Exclude.Column)
	if err != nil {
		return nil, err
	}
	d, report, err := dataset.LoadFile(reg.File, s.Data, exclude)
	if err != nil {
		return nil, err
	}
	r.log.Info("data set loaded", "registry", s.Data.Registry, "lines", report.Lines, "rows_used", report.Rows, "patients_used", report.Patients)
	return train.New(d, s.Model), nil
}

func (r *runner) openAuditor(t *terms.Terms) error {
	own, err := r.node.newest.admit(r.node.deps.Enrolment, r.node.deps.Now())
	if err != nil {
		return err
	}
	r.members = map[string]study.Enrolment{own.Hospital: own}
	r.witnesses = audit.Witnesses{Keys: map[string]ed25519.PublicKey{own.Hospital: own.WitnessKey}, Need: t.Need}
	r.auditor, err = audit.NewAuditor(audit.AuditorConfig{
		Origin:    audit.Origin(r.node.deps.Consortium.Name, r.digest),
		Log:       r.node.deps.Consortium.Log,
		Witnesses: audit.Witnesses{Keys: maps.Clone(r.witnesses.Keys), Need: t.Need},
		Witness:   r.node.deps.WitnessKey,
		Name:      r.node.config.Hospital,
		Memory:    logMemory{&r.cells},
	})
	if err != nil {
		return fmt.Errorf("opening the log memory: %w", err)
	}
	return nil
}

const stoppedFile = "stopped"

// stopped says why this node has stopped for good in this study, if it has.
func (r *runner) stopped() error {
	b, err := os.ReadFile(filepath.Join(r.dir, stoppedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("%w: %s (remove %s once it is understood)", ErrStopped, b, filepath.Join(r.dir, stoppedFile))
}

// stop stops for good, durably.
func (r *runner) stop(why error) error {
	err := store.WriteFile(filepath.Join(r.dir, stoppedFile), []byte(why.Error()), 0o600)
	return errors.Join(fmt.Errorf("%w: %w", ErrStopped, why), err)
}
