package coordinator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/audit"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/store"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/terms"
	"github.com/consilium-fl/consilium/internal/transport"
)

// modelFile is the released model in an output folder.
const modelFile = "model.safetensors"

// finish ends the rounds: it makes the released model, logs its leaf, and notes both. What is left is to
// wait until a checkpoint that counts covers the leaf.
//
// A crash between the leaf and the save logs a second leaf for the same model; the receipt names the last.
func (d *driver) finish(ctx context.Context, state State, why string) (over bool, err error) {
	f := finishRecord{State: state, Why: why}
	if f.Model, err = d.releasedModel(d.rounds); err != nil {
		return false, err
	}
	if f.Model != [32]byte{} {
		p, err := d.s.append(ctx, audit.Release, Subject, f.Model)
		if err != nil {
			return false, err
		}
		f.Leaf = p.Promise.Index
	}
	d.progress.Finish = &f
	if err := d.progressCell.save(ctx, d.progress); err != nil {
		return false, err
	}
	d.lacking, d.said = d.s.c.deps.Now(), ""
	return d.tryRelease(ctx)
}

// releasedModel makes and stores what the closed ones of some rounds release; it is zero for none.
func (d *driver) releasedModel(rounds []roundRecord) ([32]byte, error) {
	var iterates [][]float64
	for _, r := range rounds {
		if r.Outcome != string(aggregate.Closed) {
			continue
		}
		w, err := d.s.readModel(r.Model)
		if err != nil {
			return [32]byte{}, err
		}
		iterates = append(iterates, w)
	}
	if len(iterates) == 0 {
		return [32]byte{}, nil
	}
	return d.s.writeModel(study.EncodeModel(d.s.digest, d.s.study.Released(iterates)))
}

// tryRelease ends the study once the release is in a checkpoint that counts. With Patience it does not wait
// for ever: what is handed over then is of the rounds that the newest checkpoint that counts covers, and its
// receipt names no release leaf, for none counts.
func (d *driver) tryRelease(ctx context.Context) (over bool, err error) {
	f, rounds := *d.progress.Finish, d.rounds
	if f.Model == [32]byte{} {
		return true, d.s.conclude(ctx, f.State, f.Why)
	}
	counted, signers := d.s.marks.current()
	if counted.size <= f.Leaf {
		if !d.tired() {
			return false, nil
		}
		why := fmt.Sprintf("the release is not co-signed by enough hospitals: by %s, %d are needed", orNobody(signers), d.s.terms.Need)
		f.State, f.Why = Short, strings.TrimPrefix(f.Why+"; "+why, "; ")
		rounds = rounds[:slices.IndexFunc(append(slices.Clone(rounds), roundRecord{Leaf: math.MaxUint64}), func(r roundRecord) bool { return r.Leaf >= counted.size })]
		if f.Model, err = d.releasedModel(rounds); err != nil {
			return false, err
		}
	}
	if f.Model != [32]byte{} {
		if err := d.writeOutput(ctx, f, rounds, counted); err != nil {
			return false, err
		}
	}
	return true, d.s.conclude(ctx, f.State, f.Why)
}

// tired says that nobody else is waited for, and until then tells who is.
func (d *driver) tired() bool {
	now, patience := d.s.c.deps.Now(), d.s.c.deps.Patience
	if d.lacking.IsZero() {
		d.lacking = now
	}
	_, signers := d.s.marks.current()
	text := fmt.Sprintf("waiting for co-signatures of the log: by %s so far, %d are needed", orNobody(signers), d.s.terms.Need)
	if text != d.said && now.Sub(d.lacking) >= time.Second {
		d.said = text
		d.s.events.tell(Event{Kind: "missing", Text: text})
		d.s.setWhy(text)
	}
	wait := hint
	if patience > 0 {
		if now.Sub(d.lacking) >= patience {
			return true
		}
		wait = min(wait, patience-now.Sub(d.lacking))
	}
	d.sleep(wait)
	return false
}

func orNobody(names []string) string {
	if len(names) == 0 {
		return "nobody"
	}
	return strings.Join(names, ", ")
}

// cancel ends a running study for good. A round that is running stays unfinished: after its certificate its
// charge stands, as the ledger and the log say.
func (d *driver) cancel(ctx context.Context, why string) error {
	if d.progress.Finish == nil {
		d.progress.Finish = &finishRecord{}
	}
	d.progress.Finish.State, d.progress.Finish.Why, d.progress.Finish.Model = Cancelled, why, [32]byte{}
	d.progress.Last = max(d.progress.Last, d.number)
	d.round = nil
	return d.progressCell.save(ctx, d.progress)
}

// conclude stores the final state and ends all streams.
//
// A crash before the save: the next process finds Finish in the progress and comes here again.
func (s *dossier) conclude(ctx context.Context, state State, why string) error {
	err := s.change(ctx, func(r *studyRecord) error {
		if r.State.over() {
			return fmt.Errorf("%w: study %s is over", transport.ErrTooLate, study.Short(s.digest))
		}
		r.State, r.Why = state, why
		return nil
	})
	if err != nil {
		return err
	}
	s.log.Info("study is over", "state", string(state), "why", why)
	if err := removeWords(s.path("rounds")); err != nil {
		s.log.Warn("words of an ended study stay on disk", "error", err)
	}
	s.c.pruneKept()
	s.events.tell(Event{Kind: "state", Text: s.says()})
	s.events.close()
	s.feed.close()
	close(s.ended)
	return nil
}

// output is an output folder that is being written.
type output struct {
	dir      string
	subjects []audit.Subject
	trust    map[[32]byte]bool // snapshots that are written
}

func (o *output) put(name string, b []byte) error {
	path := filepath.Join(o.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	o.subjects = append(o.subjects, audit.Subject{Name: name, Digest: audit.SubjectDigest{SHA256: signed.Digest(b)}})
	return os.WriteFile(path, b, 0o600) // syncTree makes all of them durable at once
}

func (o *output) copy(name, from string) ([]byte, error) {
	b, err := os.ReadFile(from)
	if err != nil {
		return nil, err
	}
	return b, o.put(name, b)
}

// writeOutput writes the output folder beside its place and then renames it there: it is whole or not at
// all, and one that is there already is what an earlier process wrote for the same study.
func (d *driver) writeOutput(ctx context.Context, f finishRecord, rounds []roundRecord, counted mark) (err error) {
	final := d.s.path("out")
	if _, err := os.Stat(final); err == nil {
		return nil
	}
	o := &output{dir: d.s.path("out.part"), trust: map[[32]byte]bool{}}
	if err := os.RemoveAll(o.dir); err != nil {
		return err
	}
	if err := store.PrivateDir(o.dir); err != nil {
		return err
	}
	if err := d.fill(ctx, o, f, rounds, counted); err != nil {
		return fmt.Errorf("writing the output folder: %w", err)
	}
	if err := syncTree(o.dir); err != nil {
		return fmt.Errorf("writing the output folder: %w", err)
	}
	if err := os.Rename(o.dir, final); err != nil {
		return fmt.Errorf("writing the output folder: %w", err)
	}
	return store.SyncDir(d.s.dir)
}

// syncTree makes every file and folder of a tree durable.
func syncTree(dir string) error {
	var group errgroup.Group
	group.SetLimit(16)
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		group.Go(func() error {
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			return errors.Join(f.Sync(), f.Close())
		})
		return nil
	})
	return errors.Join(err, group.Wait())
}

// fill writes every file but the receipt, and then that.
func (d *driver) fill(ctx context.Context, o *output, f finishRecord, rounds []roundRecord, counted mark) error {
	s, c := d.s, d.s.c
	checkpoint, _, err := s.marks.parse(counted.note)
	if err != nil {
		return err
	}
	if _, err := o.copy(modelFile, s.modelPath(f.Model)); err != nil {
		return err
	}
	for name, b := range map[string][]byte{
		"study.yaml": s.study.Raw, "consortium.yaml": c.deps.Consortium.Raw, "consortium.sigs.json": c.deps.Signatures, "log/checkpoint": counted.note,
	} {
		if err := o.put(name, b); err != nil {
			return err
		}
	}
	s.mu.Lock()
	approvals := maps.Clone(s.record.Approvals)
	s.mu.Unlock()
	for h, b := range approvals {
		if err := o.put("approvals/"+h+".json", b); err != nil {
			return err
		}
	}
	for h, b := range s.enrolmentsByHospital() {
		if err := o.put("enrolments/"+h+".json", b); err != nil {
			return err
		}
	}
	references, err := c.kept.references()
	if err != nil {
		return err
	}
	for name, b := range references {
		if err := o.put("references/"+name, b); err != nil {
			return err
		}
	}
	if err := audit.Export(ctx, s.trail, checkpoint.Size, func(resource string, b []byte) error { return o.put("log/"+resource, b) }); err != nil {
		return err
	}
	for _, r := range rounds {
		if err := d.fillRound(ctx, o, r); err != nil {
			return err
		}
	}
	receipt, err := d.receipt(o, f, rounds, checkpoint, approvals)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(o.dir, "receipt.json"), receipt, 0o600)
}

// fillRound writes a round's signed messages, and copies its opened sum where it closed.
func (d *driver) fillRound(ctx context.Context, o *output, r roundRecord) error {
	transcript, err := d.s.transcript(ctx, r.Number)
	if err != nil {
		return err
	}
	dir := fmt.Sprintf("rounds/%04d/", r.Number)
	for _, s := range transcript {
		b, err := signed.Encode(s)
		if err != nil {
			return err
		}
		if err := o.put(dir+s.Kind+".cbor", b); err != nil {
			return err
		}
	}
	if r.Outcome != string(aggregate.Closed) {
		return nil
	}
	_, err = o.copy(dir+sumFile, filepath.Join(d.roundDir(r.Number), sumFile))
	return err
}

// receipt copies the evidence and writes down what the study was, signed by the receipt key.
func (d *driver) receipt(o *output, f finishRecord, rounds []roundRecord, checkpoint audit.Checkpoint, approvals map[string][]byte) ([]byte, error) {
	s, c := d.s, d.s.c
	p := audit.Predicate{
		Study: s.digest, Consortium: c.deps.Consortium.Digest, Simulated: c.config.Insecure.SimulatedTEE,
		Log: audit.ReceiptLog{
			Origin: s.origin(), Size: checkpoint.Size, Root: checkpoint.Root, Cosigned: checkpoint.Cosigned, Leaves: map[string]uint64{},
		},
	}
	if f.Leaf < checkpoint.Size {
		p.Log.Leaves[string(audit.Release)] = f.Leaf
	}
	var err error
	if p.Coordinator, err = d.receiptCoordinator(o); err != nil {
		return nil, err
	}
	if p.Hospitals, err = d.receiptHospitals(o, rounds, approvals); err != nil {
		return nil, err
	}
	p.Rounds, p.HiddenAmong = d.receiptRounds(rounds)
	if p.Privacy, err = d.receiptPrivacy(); err != nil {
		return nil, err
	}
	return audit.MakeReceipt(audit.Receipt{Subject: o.subjects, Predicate: p}, c.deps.Keys.Receipt)
}

// putTrust writes a snapshot that the receipt names.
func (d *driver) putTrust(o *output, digest [32]byte) (*endorse.Snapshot, error) {
	trust, err := d.s.c.kept.snapshot(digest)
	if err != nil || o.trust[digest] {
		return trust, err
	}
	o.trust[digest] = true
	for name, b := range trust.Files() {
		if err := o.put("trust/"+hexOf(digest)+"/"+name, b); err != nil {
			return nil, err
		}
	}
	return trust, nil
}

// receiptCoordinator appraises the own evidence as of when a node took it.
func (d *driver) receiptCoordinator(o *output) (audit.ReceiptCoordinator, error) {
	s, c := d.s, d.s.c
	own, err := o.copy("evidence/"+ownEvidence, s.path("evidence", ownEvidence))
	if err != nil {
		return audit.ReceiptCoordinator{}, err
	}
	s.ownMu.Lock()
	defer s.ownMu.Unlock()
	shown, found, err := s.shown.load(context.Background())
	if err != nil {
		return audit.ReceiptCoordinator{}, err
	}
	if !found || shown.Record != signed.Digest(own) {
		return audit.ReceiptCoordinator{}, errors.New("the own evidence on disk is not the one that was logged")
	}
	record, err := attest.ParseRecord(own)
	if err != nil {
		return audit.ReceiptCoordinator{}, err
	}
	sim := c.config.Insecure.SimulatedTEE
	at := time.UnixMilli(shown.At)
	trust, err := d.putTrust(o, shown.Trust)
	if err != nil {
		return audit.ReceiptCoordinator{}, err
	}
	policy, err := c.stood(attest.RoleCoordinator, at, shown.Policy)
	if err != nil {
		return audit.ReceiptCoordinator{}, err
	}
	r := c.deps.Verifiers.Recheck(record, at, trust, terms.Posture(c.deps.Consortium, sim), policy)
	if !r.OK() {
		return audit.ReceiptCoordinator{}, fmt.Errorf("the own evidence does not hold: %v", r.Reasons)
	}
	return audit.ReceiptCoordinator{
		Measurement: string(r.Claims.Measurement), Evidence: signed.Digest(own), Status: string(r.Status),
		Policy: r.Policy, Trust: r.Trust,
	}, nil
}

// receiptHospitals are those that were in a set, with the evidence by which they served the last of theirs.
func (d *driver) receiptHospitals(o *output, ended []roundRecord, approvals map[string][]byte) ([]audit.ReceiptHospital, error) {
	rounds := map[string][]uint64{}
	for _, r := range ended {
		for _, h := range r.Set {
			rounds[h] = append(rounds[h], r.Number)
		}
	}
	var out []audit.ReceiptHospital
	for _, h := range slices.Sorted(maps.Keys(rounds)) {
		by := d.progress.Evidence[h]
		if _, err := o.copy("evidence/"+h+".cbor", d.s.evidencePath(h, by.Record)); err != nil {
			return nil, err
		}
		if _, err := d.putTrust(o, by.Trust); err != nil {
			return nil, err
		}
		x := audit.ReceiptHospital{Name: h, Evidence: by.Record, Status: by.Status, Policy: by.Policy, Trust: by.Trust, Rounds: rounds[h]}
		if a, ok := approvals[h]; ok {
			x.Approval = signed.Digest(a)
		}
		out = append(out, x)
	}
	return out, nil
}

func (d *driver) receiptRounds(rounds []roundRecord) (out []audit.ReceiptRound, hiddenAmong int) {
	least := -1
	for _, r := range rounds {
		x := audit.ReceiptRound{Number: r.Number, Outcome: r.Outcome, Plan: r.Plan, Set: r.Set}
		if r.Certificate != [32]byte{} {
			certificate := audit.Digest(r.Certificate)
			x.Certificate = &certificate
			if least < 0 || len(r.Set) < least {
				least = len(r.Set)
			}
		}
		if r.Outcome == string(aggregate.Closed) {
			model := audit.Digest(r.Model)
			x.Model = &model
		}
		out = append(out, x)
	}
	return out, max(0, least-d.s.terms.Colluding)
}

func (d *driver) receiptPrivacy() (audit.ReceiptPrivacy, error) {
	s := d.s.study.Privacy
	figures, err := d.s.terms.Figures(d.ledger.Charges(d.s.digest))
	if err != nil {
		return audit.ReceiptPrivacy{}, err
	}
	p := audit.ReceiptPrivacy{
		Unit: s.Unit, Neighbours: s.Neighbours, Epsilon: figures.Epsilon, EpsilonBudget: s.Epsilon,
		EpsilonIfTEEBroken: figures.EpsilonIfBroken, EpsilonOwnNoise: figures.EpsilonOwnNoise,
		Delta: s.Delta, Noise: s.Noise, HonestShares: figures.HonestShares, Ledger: d.ledger.Head(),
	}
	for _, e := range figures.Events {
		p.Events = append(p.Events, audit.ReceiptEvent{Kind: e.Kind, Multiplier: e.Multiplier, Count: e.Count})
	}
	return p, nil
}

// Output waits until a study is over and returns its state, why, and its output folder; the folder is
// empty when nothing was released. It is for those in the same process.
func (c *Coordinator) Output(ctx context.Context, digest [32]byte) (state State, why, folder string, err error) {
	select {
	case <-c.opened:
	case <-ctx.Done():
		return "", "", "", ctx.Err()
	}
	s, err := c.find(digest)
	if err != nil {
		return "", "", "", err
	}
	select {
	case <-s.ended:
	case <-ctx.Done():
		return "", "", "", ctx.Err()
	}
	info := s.info()
	dir := s.path("out")
	if _, err := os.Stat(dir); err != nil {
		dir = ""
	}
	return State(info.State), info.Why, dir, nil
}
