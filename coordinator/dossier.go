package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/consilium-fl/consilium/audit"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/store"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/terms"
	"github.com/consilium-fl/consilium/internal/transport"
)

// A dossier is everything the coordinator has of one study.
type dossier struct {
	c     *Coordinator
	known terms.Known // enrolments of the members

	logging sync.Mutex // held over logAgain: one at a time appends what is not logged yet
	digest  [32]byte
	study   *study.Study
	terms   *terms.Terms
	dir     string
	log     *slog.Logger

	events *watch
	feed   *feed
	trail  Log // the study's log; nil once the study is over: then the folder is read
	marks  *marks

	cosigners struct { // of the log, as computed last
		sync.Mutex
		audit.Witnesses
		generation uint64 // of the coordinator's enrolments
		at         time.Time
	}

	ownMu    sync.Mutex // guards shown
	shownYet bool       // by this process

	mu       sync.Mutex
	record   studyRecord
	cell     *cell[studyRecord]
	driver   *driver // once the study runs, to its end
	boots    map[string]bootLeaf
	streams  map[string]*stream    // by hospital: its Follow
	evidence map[string][][32]byte // by hospital: records kept, oldest first
	pinned   map[[32]byte]bool     // records that stay
	shown    *cell[shownAs]
	closed   uint64 // rounds
	charged  uint64
	spent    map[string]bool // hospitals that a round of this study has charged
	ended    chan struct{}   // closed when a final state is stored
}

type bootLeaf struct {
	boot    [16]byte
	promise []byte
}

func newDossier(c *Coordinator, s *study.Study, t *terms.Terms) *dossier {
	x := &dossier{
		c: c, digest: s.Digest, study: s, terms: t, log: c.log.With("study", study.Short(s.Digest)),
		events: newWatch(c.deps.Now), feed: newFeed(), boots: map[string]bootLeaf{}, streams: map[string]*stream{},
		evidence: map[string][][32]byte{},
		shown:    &cell[shownAs]{store: c.deps.Store, key: "shown/" + hexOf(s.Digest)},
		spent:    map[string]bool{}, ended: make(chan struct{}),
		cell: &cell[studyRecord]{store: c.deps.Store, key: studyPrefix + hexOf(s.Digest)},
	}
	x.dir = c.studyDir(s.Digest)
	x.marks = newMarks(x)
	return x
}

func (c *Coordinator) studyDir(d [32]byte) string {
	return c.config.State + "/studies/" + hexOf(d)
}

// open opens the log of a study that is not over, and reads what counts already.
func (s *dossier) open(ctx context.Context) error {
	for _, dir := range []string{s.dir, s.path("models"), s.path("evidence"), s.path("rounds")} {
		if err := store.PrivateDir(dir); err != nil {
			return err
		}
	}
	if err := s.listEvidence(); err != nil {
		return err
	}
	if s.record.State.over() {
		close(s.ended)
		s.feed.close()
		s.events.tell(Event{Kind: "state", Text: s.says()})
		s.events.close()
		p, _, err := (&cell[progressRecord]{store: s.c.deps.Store, key: "progress/" + hexOf(s.digest)}).load(ctx)
		if err == nil {
			s.setFigures(p, p.Charged)
		}
		return err
	}
	var err error
	if s.trail, err = s.c.deps.OpenLog(s.c.life, s.path("log"), s.origin()); err != nil {
		return err
	}
	s.events.tell(Event{Kind: "state", Text: s.says()})
	if _, _, err := s.shown.load(ctx); err != nil {
		return err
	}
	return s.marks.load(ctx)
}

func (s *dossier) origin() string { return audit.Origin(s.c.deps.Consortium.Name, s.digest) }

// start runs what a study that is not over needs; Serve calls it, and whoever makes a study.
func (s *dossier) start() {
	if s.trail == nil {
		return
	}
	s.c.group.Go(func() error { return s.marks.run(s.c.life) })
	if s.state() == Running {
		s.drive()
	}
}

// drive starts the driver, once.
func (s *dossier) drive() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.driver != nil {
		return
	}
	s.driver = newDriver(s)
	d := s.driver
	s.c.group.Go(func() error { return d.run(s.c.life) })
}

func (s *dossier) closeLog(ctx context.Context) error {
	if s.trail == nil {
		return nil
	}
	return s.trail.Close(ctx)
}

func (s *dossier) state() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.record.State
}

// running returns the driver of a running study.
func (s *dossier) running() (*driver, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.record.State == Proposed:
		return nil, refused("study %s is not approved yet", study.Short(s.digest))
	case s.driver == nil || s.record.State.over():
		return nil, fmt.Errorf("study %s is over: %w", study.Short(s.digest), transport.ErrNotFound)
	}
	return s.driver, nil
}

// says is the state in words.
func (s *dossier) says() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.record.Why == "" {
		return string(s.record.State)
	}
	return string(s.record.State) + ": " + s.record.Why
}

// change alters the record and stores it. What f returns an error for is not changed.
func (s *dossier) change(ctx context.Context, f func(r *studyRecord) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.record
	next.Approvals = maps.Clone(s.record.Approvals)
	if err := f(&next); err != nil {
		return err
	}
	if err := s.cell.save(ctx, next); err != nil {
		return err
	}
	s.record = next
	return nil
}

// approvedBy says whether a hospital's approval is here.
func (s *dossier) approvedBy(hospital string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.record.Approvals[hospital]
	return ok
}

// logAgain appends the leaves of the study and of its approvals that are stored and not yet logged. A crash
// between a leaf and the note that it is there repeats the leaf, which says the same.
func (s *dossier) logAgain(ctx context.Context) error {
	s.logging.Lock()
	defer s.logging.Unlock()
	s.mu.Lock()
	r := s.record
	s.mu.Unlock()
	logged := slices.Clone(r.Logged)
	add := func(name string, kind audit.Kind, subject string, object [32]byte) error {
		at, found := slices.BinarySearch(logged, name)
		if found {
			return nil
		}
		if _, err := s.append(ctx, kind, subject, object); err != nil {
			return err
		}
		logged = slices.Insert(logged, at, name)
		return nil
	}
	if err := add("", audit.Study, s.study.Lead, s.digest); err != nil {
		return err
	}
	for _, h := range slices.Sorted(maps.Keys(r.Approvals)) {
		if err := add(h, audit.Approval, h, signed.Digest(r.Approvals[h])); err != nil {
			return err
		}
	}
	if len(logged) == len(r.Logged) {
		return nil
	}
	return s.change(ctx, func(r *studyRecord) error {
		// An approval that was replaced meanwhile is logged by whoever replaced it.
		r.Logged = logged
		return nil
	})
}

// setWhy says for what a running study waits. It is not stored: after a restart it is found out anew.
func (s *dossier) setWhy(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.record.State == Running {
		s.record.Why = text
	}
}

func (s *dossier) setFigures(p progressRecord, charged uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed, s.charged = p.Closed, charged
	for _, h := range p.Spent {
		s.spent[h] = true
	}
}

func (s *dossier) info() transport.StudyInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	return transport.StudyInfo{
		Digest: s.digest, File: s.record.File, State: string(s.record.State), Why: s.record.Why,
		Approvals: slices.Sorted(maps.Keys(s.record.Approvals)), RoundsClosed: s.closed, RoundsCharged: s.charged,
	}
}

// append logs a leaf of this study.
func (s *dossier) append(ctx context.Context, kind audit.Kind, subject string, object [32]byte) (audit.Promised, error) {
	if s.trail == nil {
		return audit.Promised{}, fmt.Errorf("study %s is over: %w", study.Short(s.digest), transport.ErrTooLate)
	}
	return s.trail.Append(ctx, audit.Leaf{Kind: kind, Time: s.c.deps.Now(), Study: s.digest, Subject: subject, Object: object})
}

// witnesses are the co-signers known by now: computed anew when an enrolment came, and every minute, since
// enrolments end.
func (s *dossier) witnesses() (audit.Witnesses, error) {
	s.c.mu.Lock()
	generation := s.c.generation
	s.c.mu.Unlock()
	last := &s.cosigners
	last.Lock()
	defer last.Unlock()
	now := s.c.deps.Now()
	if last.Keys != nil && last.generation == generation && now.Sub(last.at) < time.Minute {
		return last.Witnesses, nil
	}
	w, err := s.terms.Witnesses(s.enrolmentFiles(), now)
	if err != nil {
		return audit.Witnesses{}, err
	}
	last.Witnesses, last.generation, last.at = w, generation, now
	return w, nil
}

// enrolmentFiles are those of the members, by hospital's name.
func (s *dossier) enrolmentFiles() [][]byte {
	files := s.enrolmentsByHospital()
	var out [][]byte
	for _, h := range slices.Sorted(maps.Keys(files)) {
		out = append(out, files[h])
	}
	return out
}

func (s *dossier) enrolmentsByHospital() map[string][]byte {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	out := map[string][]byte{}
	for _, h := range s.study.Members {
		if e := s.c.enrolments[h]; e != nil && e.file != nil && s.c.deps.Now().Before(e.Until) {
			out[h] = e.file
		}
	}
	return out
}

func (s *dossier) modelPath(d [32]byte) string { return s.path("models", hexOf(d)+".safetensors") }

// writeModel stores a model under its digest.
func (s *dossier) writeModel(b []byte) ([32]byte, error) {
	d := signed.Digest(b)
	return d, store.WriteFile(s.modelPath(d), b, 0)
}

func (s *dossier) readModel(d [32]byte) ([]float64, error) {
	b, err := os.ReadFile(s.modelPath(d))
	if err != nil {
		return nil, fmt.Errorf("reading a model: %w", err)
	}
	if signed.Digest(b) != d {
		return nil, fmt.Errorf("reading model %s: the file has changed", signed.DigestText(d))
	}
	of, w, err := study.DecodeModel(b)
	if err == nil && of != s.digest {
		err = errors.New("it is of another study")
	}
	return w, err
}
