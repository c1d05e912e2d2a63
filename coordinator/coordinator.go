package coordinator

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/channel"
	"github.com/consilium-fl/consilium/audit"
	"github.com/consilium-fl/consilium/internal/identity"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/store"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/terms"
	"github.com/consilium-fl/consilium/internal/transport"
)

// Coordinator serves one consortium. New makes one, Serve runs it, once.
type Coordinator struct {
	config   Config
	deps     Deps
	log      *slog.Logger
	protocol ed25519.PublicKey
	issuer   *identity.Issuer
	roleKeys [][]byte // protocol, receipt, issuer: SPKI
	leaf     *leaf
	doors    *doorkeeper
	kept     *kept
	trail    Log // the consortium's

	group *errgroup.Group
	life  context.Context // of drivers and logs: ends after the server has
	stop  context.CancelFunc

	opened     chan struct{} // closed when the state was read
	admitting  sync.Mutex    // held while an enrolment or a study is taken in
	mu         sync.Mutex
	studies    map[[32]byte]*dossier
	enrolments map[string]*enrolled // newest of each hospital
	generation uint64               // grows with each change of enrolments

	callers callers
}

// enrolled is the newest enrolment of a hospital.
type enrolled struct {
	study.Enrolment
	file []byte
	cell *cell[enrolmentRecord]
}

// New checks what it is given and makes a coordinator. It opens nothing yet.
func New(c Config, d Deps) (*Coordinator, error) {
	if d.Store == nil {
		return nil, errors.New("making a coordinator: no store is wired in")
	}
	if err := CheckDeps(d); err != nil {
		return nil, fmt.Errorf("making a coordinator: %w", err)
	}
	if c.Insecure.SimulatedTEE != (d.TEE == terms.Simulated) {
		return nil, fmt.Errorf("making a coordinator: tee is %q and insecure.simulated_tee %v, want both or neither", d.TEE, c.Insecure.SimulatedTEE)
	}
	x := &Coordinator{
		config: c, deps: d, log: d.Logger, protocol: d.Keys.Protocol.Public().(ed25519.PublicKey),
		opened: make(chan struct{}), studies: map[[32]byte]*dossier{}, enrolments: map[string]*enrolled{},
	}
	for _, k := range []ed25519.PrivateKey{d.Keys.Protocol, d.Keys.Receipt, d.Keys.Issuer} {
		der, err := x509.MarshalPKIXPublicKey(k.Public())
		if err != nil {
			return nil, fmt.Errorf("making a coordinator: %w", err)
		}
		x.roleKeys = append(x.roleKeys, der)
	}
	var err error
	if x.issuer, err = identity.NewIssuer(d.Consortium.Name, d.Keys.Issuer, d.Now()); err != nil {
		return nil, fmt.Errorf("making a coordinator: %w", err)
	}
	if x.leaf, err = newLeaf(d.Consortium.Name, d.Now); err != nil {
		return nil, fmt.Errorf("making a coordinator: %w", err)
	}
	x.doors = newDoorkeeper(x)
	x.kept = newKept(filepath.Join(c.State, "appraised"), d.Consortium)
	return x, nil
}

// CheckDeps says what is missing from d, or does not belong together. The Store it leaves to New: a check
// of configuration files opens none.
func CheckDeps(d Deps) error {
	for name, missing := range map[string]bool{
		"logger": d.Logger == nil, "consortium": d.Consortium == nil, "gate": d.Gate == nil,
		"attester": d.Attester == nil, "kind of its machine": d.TEE == "", "grounds": d.Grounds == nil, "log": d.OpenLog == nil, "journal": d.Journal == nil,
		"entropy": d.Entropy == nil, "clock": d.Now == nil,
	} {
		if missing {
			return fmt.Errorf("no %s is wired in", name)
		}
	}
	for name, k := range map[string]ed25519.PrivateKey{"log": d.LogKey, "protocol": d.Keys.Protocol, "receipt": d.Keys.Receipt, "issuer": d.Keys.Issuer} {
		if len(k) != ed25519.PrivateKeySize {
			return fmt.Errorf("no %s key", name)
		}
	}
	if !d.Consortium.Log.Equal(d.LogKey.Public()) {
		return fmt.Errorf("the log key is %s, the consortium file pins %s", signed.KeyText(d.LogKey.Public().(ed25519.PublicKey)), signed.KeyText(d.Consortium.Log))
	}
	return nil
}

// leaf is the TLS key of this process and a certificate for it, made anew when it gets old.
type leaf struct {
	name string
	key  ed25519.PrivateKey
	now  func() time.Time

	mu   sync.Mutex
	cert *tls.Certificate
	made time.Time
}

// leafAge is after how long a certificate is replaced: sessions do not outlive it.
const leafAge = 10 * time.Minute

func newLeaf(name string, now func() time.Time) (*leaf, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return &leaf{name: name, key: key, now: now}, err
}

func (l *leaf) certificate() (*tls.Certificate, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cert != nil && l.now().Sub(l.made) < leafAge {
		return l.cert, nil
	}
	cert, err := identity.SelfSigned(l.name, l.key, l.now())
	if err != nil {
		return nil, err
	}
	l.cert, l.made = cert, l.now()
	return cert, nil
}

// Serve answers on l until ctx ends or something of ours fails, and closes l. Then, in order: requests and
// streams end, drivers stop between two effects, logs publish what they took and close. Whatever a round
// had reached is in the Store, and the next process goes on with it.
func (c *Coordinator) Serve(ctx context.Context, l net.Listener) (err error) {
	c.life, c.stop = context.WithCancel(context.WithoutCancel(ctx))
	defer c.stop()
	var serving context.Context
	c.group, serving = errgroup.WithContext(ctx)
	defer func() { err = errors.Join(err, c.closeLogs()) }()
	server, creds, err := c.open(serving)
	if ctx.Err() != nil {
		return l.Close() // asked to stop before it had begun
	}
	if err != nil {
		return errors.Join(fmt.Errorf("starting the coordinator: %w", err), l.Close())
	}
	close(c.opened)
	c.group.Go(func() error {
		c.deps.Grounds.Heed(serving, c.deps.Consortium, attest.RoleNode, c.deps.Now, creds.Reappraise)
		return nil
	})
	for _, s := range c.all() {
		s.start()
	}
	c.group.Go(func() error {
		defer c.stop()
		return server.Serve(serving, l)
	})
	c.log.Info("serving", "address", l.Addr().String(), "consortium", c.deps.Consortium.Name, "simulated", c.config.Insecure.SimulatedTEE)
	return c.group.Wait()
}

// open reads the state that the process before left.
func (c *Coordinator) open(ctx context.Context) (*transport.Server, *channel.Credentials, error) {
	for _, dir := range []string{c.config.State, filepath.Join(c.config.State, "studies"), c.kept.dir, c.kept.trustDir(), c.kept.referencesDir()} {
		if err := store.PrivateDir(dir); err != nil {
			return nil, nil, err
		}
	}
	var err error
	if c.trail, err = c.deps.OpenLog(c.life, filepath.Join(c.config.State, "log"), audit.Origin(c.deps.Consortium.Name, [32]byte{})); err != nil {
		return nil, nil, err
	}
	if err := c.loadEnrolments(ctx); err != nil {
		return nil, nil, err
	}
	if err := c.loadStudies(ctx); err != nil {
		return nil, nil, err
	}
	if err := c.needKept(ctx); err != nil {
		return nil, nil, err
	}
	creds, err := channel.NewServer(channel.Config{
		Role:        attest.RoleCoordinator,
		Certificate: c.leaf.certificate,
		Attester:    c.deps.Attester,
		Keys:        c.roleKeys,
		Posture:     c.posture,
		Verifiers:   c.deps.Verifiers,
		Peer:        c.expectPeer,
		LogSigner:   bindingSigner{c.deps.LogKey},
		Now:         c.deps.Now,
		Person:      c.person,
		Observe:     c.doors.observe,
	})
	if err != nil {
		return nil, nil, err
	}
	server, err := transport.NewServer(creds, transport.Handlers{
		Identity: identityHandler{c}, Study: studyHandler{c}, Round: roundHandler{c}, Release: releaseHandler{c}, Audit: auditHandler{c},
	}, transport.Options{Facts: facts{c}, Gate: c.deps.Gate, Logger: c.log, Now: c.deps.Now})
	return server, creds, err
}

func (c *Coordinator) posture([32]byte) (attest.Posture, error) {
	return terms.OwnPosture(c.deps.Consortium, c.deps.PolicyDigest, c.deps.TEE, c.config.Insecure.SimulatedTEE), nil
}

// closeLogs publishes what every log took. The drivers are done by now.
func (c *Coordinator) closeLogs() error {
	ctx, cancel := c.background()
	defer cancel()
	var errs []error
	for _, s := range c.all() {
		errs = append(errs, s.closeLog(ctx))
	}
	if c.trail != nil {
		errs = append(errs, c.trail.Close(ctx))
	}
	return errors.Join(errs...)
}

// background bounds what has to be done whoever has given up.
func (c *Coordinator) background() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 10*time.Second)
}

func (c *Coordinator) loadEnrolments(ctx context.Context) error {
	type stored struct {
		hospital string
		rev      int64
		value    []byte
	}
	var all []stored
	err := c.deps.Store.List(ctx, enrolmentPrefix, func(key string, value []byte, rev int64) error {
		all = append(all, stored{key[len(enrolmentPrefix):], rev, slices.Clone(value)})
		return nil
	})
	if err != nil {
		return fmt.Errorf("loading enrolments: %w", err)
	}
	for _, x := range all {
		var r enrolmentRecord
		if err := signed.Decode(x.value, &r); err != nil {
			return fmt.Errorf("loading the enrolment of %q: %w", x.hospital, err)
		}
		cell := c.enrolmentCell(x.hospital)
		cell.rev = x.rev
		e, err := c.deps.Consortium.ParseEnrolment(r.File, c.deps.Now())
		if err != nil {
			// It has run out, or the consortium changed: its serial still counts, its key no more.
			c.log.Warn("a stored enrolment does not hold any more", "hospital", x.hospital, "error", err)
			e = study.Enrolment{Hospital: x.hospital, Serial: r.Serial}
			r.File = nil
		}
		c.enrolments[x.hospital] = &enrolled{Enrolment: e, file: r.File, cell: cell}
	}
	return nil
}

const enrolmentPrefix = "enrolment/"

func (c *Coordinator) enrolmentCell(hospital string) *cell[enrolmentRecord] {
	return &cell[enrolmentRecord]{store: c.deps.Store, key: enrolmentPrefix + hospital}
}

func (c *Coordinator) loadStudies(ctx context.Context) error {
	found := map[[32]byte]studyRecord{}
	revs := map[[32]byte]int64{}
	err := c.deps.Store.List(ctx, studyPrefix, func(key string, value []byte, rev int64) error {
		var r studyRecord
		if err := signed.Decode(value, &r); err != nil {
			return fmt.Errorf("loading %q: %w", key, err)
		}
		d := signed.Digest(r.File)
		if studyPrefix+hexOf(d) != key {
			return fmt.Errorf("loading %q: it holds study %s", key, signed.DigestText(d))
		}
		found[d], revs[d] = r, rev
		return nil
	})
	if err != nil {
		return fmt.Errorf("loading studies: %w", err)
	}
	for d, r := range found {
		s, err := study.Parse(r.File)
		if err != nil {
			return fmt.Errorf("loading study %s: %w", study.Short(d), err)
		}
		t, err := terms.New(c.deps.Consortium, s)
		if err != nil {
			return fmt.Errorf("loading study %s: %w", study.Short(d), err)
		}
		x := newDossier(c, s, t)
		x.record, x.cell.rev = r, revs[d]
		if err := x.open(ctx); err != nil {
			return fmt.Errorf("loading study %s: %w", study.Short(d), err)
		}
		if !r.State.over() {
			if err := x.logAgain(ctx); err != nil {
				return fmt.Errorf("logging study %s: %w", study.Short(d), err)
			}
		}
		c.studies[d] = x
	}
	return nil
}

const studyPrefix = "study/"

// all returns every study, in the order of their digests.
func (c *Coordinator) all() []*dossier {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]*dossier, 0, len(c.studies))
	for _, s := range c.studies {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b *dossier) int { return slices.Compare(a.digest[:], b.digest[:]) })
	return out
}

// find returns a study, or transport.ErrNotFound.
func (c *Coordinator) find(digest [32]byte) (*dossier, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.studies[digest]; s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("study %s: %w", study.Short(digest), transport.ErrNotFound)
}

func refused(format string, args ...any) error {
	return &transport.Refused{Reasons: []string{fmt.Sprintf(format, args...)}}
}

// isForeign reports whether an error is about what a peer asked for, and not a fault of ours.
func isForeign(err error) bool {
	if _, ok := errors.AsType[*transport.Refused](err); ok {
		return true
	}
	for _, is := range []error{transport.ErrBadInput, transport.ErrNotFound, transport.ErrConflict, transport.ErrTooLate} {
		if errors.Is(err, is) {
			return true
		}
	}
	return false
}

func (s *dossier) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}
