package coordinator

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/channel"
	"github.com/consilium-fl/consilium/audit"
	"github.com/consilium-fl/consilium/internal/identity"
	"github.com/consilium-fl/consilium/internal/policy"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/terms"
	"github.com/consilium-fl/consilium/internal/transport"
)

// The handlers run after the gate allowed their request: who asks is a member, a person with a role, and
// so on, as the policy says. What they check themselves is what no policy may overturn.

// who is the caller of a request, as the decision saw it.
func who(ctx context.Context) (channel.Session, policy.Peer, error) {
	x, ok := transport.SessionFrom(ctx)
	p, decided := transport.PeerFrom(ctx)
	if !ok || !decided {
		return x, p, refused("nothing was decided about this request")
	}
	return x, p, nil
}

// asMember is the hospital that calls, which must be a member and hold an SVID.
func (c *Coordinator) asMember(ctx context.Context, digest [32]byte) (*dossier, string, channel.Session, error) {
	x, p, err := who(ctx)
	if err != nil {
		return nil, "", x, err
	}
	s, err := c.find(digest)
	if err != nil {
		return nil, "", x, err
	}
	if x.Study != digest || x.PeerRole != attest.RoleNode || !p.SVID || !p.Enrolled || !slices.Contains(s.study.Members, p.Hospital) {
		return nil, "", x, refused("only a member's node may do this, with its SVID, on a connection for the study")
	}
	if !s.approvedBy(p.Hospital) { // what it did would be of no use: no receipt names a hospital without its approval
		return nil, "", x, refused("the approval of %q is not here: hand it in with consilium study approve --submit", p.Hospital)
	}
	return s, p.Hospital, x, nil
}

type identityHandler struct{ c *Coordinator }

// IssueSVID admits an enrolment and answers with a certificate for the leaf key it names.
func (h identityHandler) IssueSVID(ctx context.Context, file []byte) (transport.SVID, error) {
	c := h.c
	x, _, err := who(ctx)
	if err != nil {
		return transport.SVID{}, err
	}
	e, err := c.deps.Consortium.ParseEnrolment(file, c.deps.Now())
	if err != nil {
		return transport.SVID{}, fmt.Errorf("%w: %w", transport.ErrBadInput, err)
	}
	s, err := c.find(x.Study)
	if err != nil {
		return transport.SVID{}, err
	}
	_, key, err := leafKey(x)
	if err != nil {
		return transport.SVID{}, refused("%v", err)
	}
	if err := checkEnrolment(s, e, key, x.PeerKeys); err != nil {
		return transport.SVID{}, err
	}
	if err := c.admit(ctx, e, file); err != nil {
		return transport.SVID{}, err
	}
	id := identity.NodeID{Consortium: c.deps.Consortium.Name, Hospital: e.Hospital, Node: e.Node}
	der, err := c.issuer.Issue(id, key, c.deps.Now())
	if err != nil {
		return transport.SVID{}, err
	}
	return transport.SVID{Certificate: der, Issuer: c.issuer.Certificate().Raw}, nil
}

// checkEnrolment holds an enrolment against the session: it names the leaf key, and the witness key that
// the evidence binds.
func checkEnrolment(s *dossier, e study.Enrolment, key ed25519.PublicKey, roleKeys [][]byte) error {
	witness, err := x509.MarshalPKIXPublicKey(e.WitnessKey)
	if err != nil {
		return refused("witness key of %q: %v", e.Hospital, err)
	}
	switch {
	case !slices.Contains(s.study.Members, e.Hospital):
		return refused("hospital %q is not a member of study %s", e.Hospital, study.Short(s.digest))
	case !e.NodeKey.Equal(key):
		return refused("the enrolment of %q names another node key than this connection's", e.Hospital)
	case len(roleKeys) != 1 || string(roleKeys[0]) != string(witness):
		return refused("the evidence of %q does not bind the witness key of its enrolment", e.Hospital)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.Serial > 1 && e.Predecessor == nil && s.spent[e.Hospital] {
		return refused("study %s is closed for %q: its enrolment brings no stop of the node that was charged before", study.Short(s.digest), e.Hospital)
	}
	return nil
}

// admit makes an enrolment the hospital's newest: stored and logged before anything is issued on it.
func (c *Coordinator) admit(ctx context.Context, e study.Enrolment, file []byte) error {
	c.admitting.Lock()
	defer c.admitting.Unlock()
	if err := c.newest(e, file); err != nil {
		return err
	}
	c.mu.Lock()
	have := c.enrolments[e.Hospital]
	c.mu.Unlock()
	if have != nil && have.Serial == e.Serial && have.file != nil {
		return nil
	}
	cell := c.enrolmentCell(e.Hospital)
	if have != nil {
		cell = have.cell
	}
	// A crash between the save and the leaf: the node asks again, and finds it known. The leaf is for people
	// who audit the consortium; no round relies on it.
	if err := cell.save(ctx, enrolmentRecord{Serial: e.Serial, File: file}); err != nil {
		return err
	}
	leaf := audit.Leaf{Kind: audit.Enrolment, Time: c.deps.Now(), Subject: e.Hospital, Object: signed.Digest(file)}
	if _, err := c.trail.Append(ctx, leaf); err != nil {
		return err
	}
	c.mu.Lock()
	c.enrolments[e.Hospital] = &enrolled{Enrolment: e, file: file, cell: cell}
	c.generation++
	c.mu.Unlock()
	for _, s := range c.all() {
		if slices.Contains(s.study.Members, e.Hospital) {
			s.feed.publish(feedItem{Enrolments: [][]byte{file}})
		}
	}
	return nil
}

// GetBundle returns the issuer's certificate.
func (h identityHandler) GetBundle(context.Context) ([]byte, error) {
	return h.c.issuer.Certificate().Raw, nil
}

type studyHandler struct{ c *Coordinator }

// maxStudies bounds what leads can make this process hold.
const maxStudies = 1024

// CreateStudy takes a study that its lead signed and that can be run: it fits its consortium, and its
// figures do not contradict each other.
func (h studyHandler) CreateStudy(ctx context.Context, file, signature []byte) ([32]byte, error) {
	c := h.c
	_, p, err := who(ctx)
	if err != nil {
		return [32]byte{}, err
	}
	s, err := study.Parse(file)
	if err != nil {
		return [32]byte{}, fmt.Errorf("%w: %w", transport.ErrBadInput, err)
	}
	if p.Person != s.Lead {
		return [32]byte{}, refused("study %s names %q as its lead, and %q hands it in", study.Short(s.Digest), s.Lead, p.Person)
	}
	if err := s.Check(c.deps.Consortium, c.deps.Now()); err != nil {
		return [32]byte{}, fmt.Errorf("%w: %w", transport.ErrBadInput, err)
	}
	if err := c.deps.Consortium.CheckStudySignature(s, signature); err != nil {
		return [32]byte{}, fmt.Errorf("%w: %w", transport.ErrBadInput, err)
	}
	t, err := terms.New(c.deps.Consortium, s)
	if err != nil {
		return [32]byte{}, fmt.Errorf("%w: %w", transport.ErrBadInput, err)
	}
	return s.Digest, c.create(ctx, newDossier(c, s, t), signature)
}

// create stores a new study, and then logs it. A crash between the two: the next start logs it.
func (c *Coordinator) create(ctx context.Context, s *dossier, signature []byte) error {
	c.admitting.Lock()
	defer c.admitting.Unlock()
	if known, err := c.find(s.digest); err == nil {
		return known.logAgain(ctx)
	}
	if len(c.all()) >= maxStudies {
		return fmt.Errorf("%w: %d studies are kept here, and no more", transport.ErrConflict, maxStudies)
	}
	s.record.State = Proposed
	if err := s.open(ctx); err != nil {
		return err
	}
	if err := s.change(ctx, func(r *studyRecord) error {
		*r = studyRecord{File: s.study.Raw, Signature: signature, State: Proposed}
		return nil
	}); err != nil {
		return errors.Join(err, s.closeLog(ctx))
	}
	if err := s.logAgain(ctx); err != nil {
		return errors.Join(err, s.closeLog(ctx))
	}
	c.mu.Lock()
	c.studies[s.digest] = s
	c.mu.Unlock()
	s.start()
	return nil
}

// GetStudy returns one study.
func (h studyHandler) GetStudy(_ context.Context, digest [32]byte) (transport.StudyInfo, error) {
	s, err := h.c.find(digest)
	if err != nil {
		return transport.StudyInfo{}, err
	}
	return s.info(), nil
}

// ListStudies returns all.
func (h studyHandler) ListStudies(context.Context) ([]transport.StudyInfo, error) {
	var out []transport.StudyInfo
	for _, s := range h.c.all() {
		out = append(out, s.info())
	}
	return out, nil
}

// ApproveStudy takes a hospital's approval. The one that completes what the study asks for starts it.
func (h studyHandler) ApproveStudy(ctx context.Context, file []byte) ([]string, error) {
	c := h.c
	a, err := c.deps.Consortium.ParseApproval(file)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", transport.ErrBadInput, err)
	}
	s, err := c.find(a.Study)
	if err != nil {
		return nil, err
	}
	if err := s.approve(ctx, a, file); err != nil {
		return nil, err
	}
	return s.info().Approvals, nil
}

// approve stores an approval that counts, and then logs it. A crash between the two: the approval counts,
// and the next start logs it.
func (s *dossier) approve(ctx context.Context, a study.Approval, file []byte) error {
	c := s.c
	// By itself it is too few; that it counts at all is what is asked.
	if got, err := c.deps.Consortium.Approved(s.study, [][]byte{file}, c.deps.Now()); len(got) != 1 {
		return fmt.Errorf("%w: the approval of %q does not count: %w", transport.ErrBadInput, a.Hospital, orElse(err))
	}
	started := false
	err := s.change(ctx, func(r *studyRecord) error {
		if r.State.over() {
			return fmt.Errorf("%w: study %s is over", transport.ErrTooLate, study.Short(s.digest))
		}
		if r.Approvals == nil {
			r.Approvals = map[string][]byte{}
		}
		r.Approvals[a.Hospital] = file
		r.Logged = slices.DeleteFunc(slices.Clone(r.Logged), func(h string) bool { return h == a.Hospital })
		if r.State == Proposed {
			_, missing := c.deps.Consortium.Approved(s.study, slices.Collect(maps.Values(r.Approvals)), c.deps.Now())
			started = missing == nil
		}
		if started {
			r.State, r.Why = Running, ""
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.logAgain(ctx); err != nil {
		return err
	}
	s.events.tell(Event{Kind: "state", Hospital: a.Hospital, Text: a.Hospital + " approved"})
	if started {
		s.events.tell(Event{Kind: "state", Text: s.says()})
		s.drive()
	}
	return nil
}

func orElse(err error) error {
	if err == nil {
		return errors.New("it is not one of this study")
	}
	return err
}

// CancelStudy ends a study for good; nothing is released.
func (h studyHandler) CancelStudy(ctx context.Context, digest [32]byte, why string) error {
	s, err := h.c.find(digest)
	if err != nil {
		return err
	}
	_, p, err := who(ctx)
	if err != nil {
		return err
	}
	if p.Person != s.study.Lead {
		return refused("only %q, who leads study %s, may cancel it", s.study.Lead, study.Short(digest))
	}
	if s.state().over() {
		return fmt.Errorf("%w: study %s is over", transport.ErrTooLate, study.Short(digest))
	}
	if _, err := s.append(ctx, audit.Cancel, p.Person, signed.Digest([]byte(why))); err != nil {
		return err
	}
	d, err := s.running()
	if err != nil { // it never ran
		return s.conclude(ctx, Cancelled, why)
	}
	return d.call(ctx, func(ctx context.Context) error { return d.cancel(ctx, why) })
}

// WatchStudy sends what happens until the study is over.
func (h studyHandler) WatchStudy(ctx context.Context, digest [32]byte, cursor uint64, send func(transport.WatchEvent) error) error {
	s, err := h.c.find(digest)
	if err != nil {
		return err
	}
	for {
		events, changed, closed := s.events.after(cursor)
		for _, e := range events {
			if err := send(e); err != nil {
				return err
			}
			cursor = e.Sequence
		}
		if closed {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

type roundHandler struct{ c *Coordinator }

// Follow makes its member present while it runs. The first item is a preamble of sequence 0: the
// enrolments, the promise of the boot leaf, the newest checkpoint that counts.
func (h roundHandler) Follow(ctx context.Context, p transport.Position, send func(transport.FollowItem) error) error {
	s, hospital, _, err := h.c.asMember(ctx, p.Study)
	if err != nil {
		return err
	}
	d, err := s.running()
	if err != nil {
		return err
	}
	ctx, leave := s.onlyOne(ctx, hospital)
	defer leave()
	member := aggregate.MemberID(hospital)
	if err := d.call(ctx, func(ctx context.Context) error { return d.arrive(ctx, member, p.Boot[:]) }); err != nil {
		return s.overOr(err)
	}
	defer d.post(context.WithoutCancel(ctx), func(context.Context) error {
		d.leave(member)
		return nil
	})
	preamble, err := s.preamble(ctx, hospital, p.Boot)
	if err != nil {
		return err
	}
	if err := send(preamble); err != nil {
		return err
	}
	return s.stream(ctx, member, p, send)
}

// stream sends what there is after a position, and what comes.
func (s *dossier) stream(ctx context.Context, member aggregate.MemberID, p transport.Position, send func(transport.FollowItem) error) error {
	cursor, _ := s.feed.start(p.Epoch, p.Cursor)
	for {
		items, next, changed, closed := s.feed.after(cursor, member)
		for _, it := range items {
			if err := send(transport.FollowItem{Sequence: it.Sequence, Epoch: s.feed.epoch, Message: it.Message, Promises: it.Promises, Checkpoint: it.Checkpoint, Enrolments: it.Enrolments}); err != nil {
				return err
			}
		}
		cursor = next
		if closed {
			return fmt.Errorf("study %s is over: %w", study.Short(s.digest), transport.ErrNotFound)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// overOr says that the study is over, where that is why err came.
func (s *dossier) overOr(err error) error {
	if s.state().over() {
		return fmt.Errorf("study %s is over: %w", study.Short(s.digest), transport.ErrNotFound)
	}
	return err
}

// onlyOne ends the stream of the same hospital that was there before.
func (s *dossier) onlyOne(ctx context.Context, hospital string) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.streams[hospital]; old != nil {
		old.end()
	}
	own := &stream{end: cancel}
	s.streams[hospital] = own
	return ctx, func() {
		cancel()
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.streams[hospital] == own {
			delete(s.streams, hospital)
		}
	}
}

// stream is a Follow that can be ended.
type stream struct{ end context.CancelFunc }

func (s *dossier) preamble(ctx context.Context, hospital string, boot [16]byte) (transport.FollowItem, error) {
	s.mu.Lock()
	known := s.boots[hospital]
	s.mu.Unlock()
	if known.boot != boot || known.promise == nil {
		p, err := s.append(ctx, audit.Boot, hospital, signed.Digest(boot[:]))
		if err != nil {
			return transport.FollowItem{}, err
		}
		known = bootLeaf{boot: boot, promise: p.Encode()}
		s.mu.Lock()
		s.boots[hospital] = known
		s.mu.Unlock()
	}
	counted, _ := s.marks.current()
	return transport.FollowItem{Epoch: s.feed.epoch, Enrolments: s.enrolmentFiles(), Promises: [][]byte{known.promise}, Checkpoint: counted.note}, nil
}

// Send gives a message to the machine and waits for what it says.
func (h roundHandler) Send(ctx context.Context, digest [32]byte, m aggregate.Signed) error {
	s, hospital, x, err := h.c.asMember(ctx, digest)
	if err != nil {
		return err
	}
	if string(m.From) != hospital {
		return refused("%q sends a message of %q", hospital, m.From)
	}
	d, err := s.running()
	if err != nil {
		return err
	}
	reply := make(chan error, 1)
	if err := d.call(ctx, func(ctx context.Context) error {
		return d.receive(ctx, m, seenAs{Record: signed.Digest(x.Record), Status: string(x.Result.Status), Policy: x.Result.Policy, Trust: x.Result.Trust}, reply)
	}); err != nil {
		return err
	}
	select {
	case err := <-reply:
		return err
	case <-d.done:
		return fmt.Errorf("%w: study %s is over or the coordinator is stopping", transport.ErrTooLate, study.Short(digest))
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Upload stores chunks. It never waits for the driver, and no driver waits for it.
func (h roundHandler) Upload(ctx context.Context, v transport.Vector, chunks iter.Seq2[transport.Chunk, error]) (transport.Held, error) {
	s, hospital, _, err := h.c.asMember(ctx, v.Study)
	if err != nil {
		return transport.Held{}, err
	}
	d, err := s.running()
	if err != nil {
		return transport.Held{}, err
	}
	vs := d.currentVectors()
	if vs == nil {
		return transport.Held{}, fmt.Errorf("%w: no round is collecting vectors", transport.ErrTooLate)
	}
	member := aggregate.MemberID(hospital)
	for c, err := range chunks {
		if err != nil {
			return transport.Held{}, err
		}
		if err := vs.put(member, v.Round, v.Roster, c.Index, c.Words); err != nil {
			return transport.Held{}, err
		}
	}
	held, whole, err := vs.heldOf(member, v.Round, v.Roster)
	return transport.Held{Bits: held, Whole: whole}, err
}

// Download opens a model of the study.
func (h roundHandler) Download(ctx context.Context, digest, model [32]byte, offset uint64) (transport.Blob, error) {
	s, _, _, err := h.c.asMember(ctx, digest)
	if err != nil {
		return transport.Blob{}, err
	}
	return openBlob(s.modelPath(model), offset)
}

func openBlob(path string, offset uint64) (transport.Blob, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return transport.Blob{}, fmt.Errorf("%w: no such file is released", transport.ErrNotFound)
	}
	if err != nil {
		return transport.Blob{}, err
	}
	fi, err := f.Stat()
	if err == nil && offset > uint64(fi.Size()) {
		err = fmt.Errorf("%w: offset %d of %d bytes", transport.ErrBadInput, offset, fi.Size())
	}
	if err == nil {
		_, err = f.Seek(int64(offset), io.SeekStart)
	}
	if err != nil {
		return transport.Blob{}, errors.Join(err, f.Close())
	}
	return transport.Blob{Total: uint64(fi.Size()), ReadCloser: f}, nil
}

type releaseHandler struct{ c *Coordinator }

func (h releaseHandler) folder(digest [32]byte) (string, error) {
	s, err := h.c.find(digest)
	if err != nil {
		return "", err
	}
	if st := s.state(); st != Ended && st != Short {
		return "", fmt.Errorf("study %s is %s: %w", study.Short(digest), st, transport.ErrNotFound)
	}
	return s.path("out"), nil
}

// GetReceipt sends the output folder, file by file in the order of their paths, but for the model.
func (h releaseHandler) GetReceipt(_ context.Context, digest [32]byte, file func(path string, data io.Reader) error) error {
	dir, err := h.folder(digest)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: study %s released nothing", transport.ErrNotFound, study.Short(digest))
	}
	if err != nil {
		return err
	}
	err = fs.WalkDir(root.FS(), ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || path == modelFile {
			return err
		}
		f, err := root.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(file(path, f), f.Close())
	})
	return errors.Join(err, root.Close())
}

// DownloadModel opens the released model.
func (h releaseHandler) DownloadModel(_ context.Context, digest [32]byte, offset uint64) (transport.Blob, error) {
	dir, err := h.folder(digest)
	if err != nil {
		return transport.Blob{}, err
	}
	return openBlob(filepath.Join(dir, modelFile), offset)
}

type auditHandler struct{ c *Coordinator }

// ReadLog reads a resource of a log. Its checkpoint is the newest published one, with its co-signatures once
// it counts; of a study that is over, the one that counted for its receipt.
func (h auditHandler) ReadLog(ctx context.Context, digest [32]byte, resource string) ([]byte, error) {
	if digest == [32]byte{} {
		return h.c.trail.Read(ctx, resource)
	}
	s, err := h.c.find(digest)
	if err != nil {
		return nil, err
	}
	if resource == "checkpoint" {
		if note, ok := s.marks.newest(); ok {
			return note, nil
		}
	}
	if s.trail == nil {
		return audit.DirReader(s.path("log")).Read(ctx, resource)
	}
	return s.trail.Read(ctx, resource)
}

// CosignCheckpoint takes a member's co-signature.
func (h auditHandler) CosignCheckpoint(ctx context.Context, digest [32]byte, size uint64, line []byte) ([]byte, error) {
	s, hospital, _, err := h.c.asMember(ctx, digest)
	if err != nil {
		return nil, err
	}
	if err := s.marks.cosign(ctx, hospital, size, line); err != nil {
		return nil, err
	}
	counted, _ := s.marks.current()
	return counted.note, nil
}
