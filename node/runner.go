package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/audit"
	"github.com/consilium-fl/consilium/dp"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/store"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/terms"
	"github.com/consilium-fl/consilium/node/dataset"
	"github.com/consilium-fl/consilium/node/train"
)

// A runner takes part in one study. Its loop (loop in loop.go) owns every field below; what runs beside
// it gets copies and answers over r.events.
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

	enrolments [][]byte
	protocol   ed25519.PublicKey // of the coordinator: what its evidence bound

	cursor     uint64
	epoch      []byte
	cleared    bool              // the boot leaf is in a counted checkpoint and the ledger agrees with the log
	held       *aggregate.Signed // a Plan that waits for that
	heldLeaves []audit.Leaf      // with the leaves promised for it
	restored   []byte            // state of a former process's round
	round      *roundState

	cells  cells
	known  terms.Known // enrolments of the members
	events chan func() error
}

// roundState is what belongs to one round.
type roundState struct {
	member  *aggregate.Member
	number  uint64
	roster  [32]byte
	vector  []int64
	sent    []aggregate.Signed // again, byte for byte, after a coordinator has restarted
	upload  *aggregate.Signed
	cancel  context.CancelFunc
	ctx     context.Context
	outbox  chan aggregate.Signed
	started time.Time
}

func newRunner(n *Node, digest [32]byte, a study.Approval) *runner {
	dir := n.studyDir(digest)
	return &runner{
		node: n, digest: digest, approval: a, dir: dir, spool: spool{dir: dir},
		log:    n.log.With("study", study.Short(digest)),
		ledger: n.ledgers[a.Dataset].Ledger,
		events: make(chan func() error),
	}
}

// Backoff between connections.
const (
	backoffMin = 100 * time.Millisecond
	backoffMax = 5 * time.Second
)

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
	wait := backoffMin
	for {
		began := r.node.deps.Now()
		over, err := r.session(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case over:
			return nil
		case errors.Is(err, ErrStopped), errors.Is(err, errDropped), errors.Is(err, errUnfit):
			return err
		case err != nil:
			r.log.Info("connection ended", "error", err, "again_in", wait)
		}
		if r.node.deps.Now().Sub(began) > backoffMax {
			wait = backoffMin
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		wait = min(2*wait, backoffMax)
	}
}

// errUnfit says that the study is not one this node can take part in, whatever the coordinator does.
var errUnfit = errors.New("this node cannot take part")

// prepare checks the study file once and opens what the study needs.
func (r *runner) prepare(file []byte) error {
	if r.terms != nil {
		return nil
	}
	if got := signed.Digest(file); got != r.digest {
		return fmt.Errorf("checking the study file: its digest is %s, want %s", signed.DigestText(got), signed.DigestText(r.digest))
	}
	s, err := study.Parse(file)
	if err != nil {
		return fmt.Errorf("%w: %w", errUnfit, err)
	}
	if err := s.Check(r.node.deps.Consortium, r.node.deps.Now()); err != nil {
		return fmt.Errorf("%w: %w", errUnfit, err)
	}
	if !contains(s.Members, r.node.config.Hospital) {
		return fmt.Errorf("%w: hospital %q is not a member of the study", errUnfit, r.node.config.Hospital)
	}
	if s.Data.Registry != r.approval.Dataset {
		return fmt.Errorf("%w: the approval is for registry %q, the study wants %q", errUnfit, r.approval.Dataset, s.Data.Registry)
	}
	t, err := terms.New(r.node.deps.Consortium, s)
	if err != nil {
		return fmt.Errorf("%w: %w", errUnfit, err)
	}
	if r.trainer, err = r.load(s); err != nil {
		return fmt.Errorf("%w: %w", errUnfit, err)
	}
	if err := r.openAuditor(t); err != nil {
		return err
	}
	r.terms = t
	return r.restore()
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
	r.enrolments = [][]byte{r.node.deps.Enrolment}
	w, err := t.Witnesses(r.enrolments, r.node.deps.Now())
	if err != nil {
		return err
	}
	r.auditor, err = audit.NewAuditor(audit.AuditorConfig{
		Origin:    audit.Origin(r.node.deps.Consortium.Name, r.digest),
		Log:       r.node.deps.Consortium.Log,
		Witnesses: w,
		Witness:   r.node.deps.WitnessKey,
		Name:      r.node.config.Hospital,
		Memory:    r.cells.memory,
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
