// Package fetch has a daemon ask the vendors, in the background, for what evidence is verified by: the refresher of
// attest/endorse/refresh beside a [grounds.Holder], whose values then have what was fetched beside the files.
//
//	f, err := fetch.Open(config.Fetch, deps.Grounds, logger)
//	deps.Verifiers = pinned.Verifiers(f.Hearing)
//	go f.Run(ctx)
//
// No handshake waits for it. Revocation lists, and Intel's documents that are of no platform in particular, are kept
// fresh from the start. What one machine needs is asked for once its evidence has come and brought none: that evidence
// is refused, since endorsements are missing, and the next is not. Certificates that evidence brought, and that led to
// an anchor, are kept.
package fetch

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/attest/endorse/refresh"
	"github.com/consilium-fl/consilium/attest/endorse/roots"
	"github.com/consilium-fl/consilium/internal/grounds"
	"github.com/consilium-fl/consilium/internal/study"
)

const (
	// waiting bounds the evidence that waits to be looked at; more is let go, and comes again with the next handshake.
	waiting = 64
	// look is how often the state of the sources is looked at for the log.
	look = 10 * time.Second
	// quietFor is how often the log is told of what anybody can bring about.
	quietFor = time.Hour
)

// Fetcher keeps a daemon's endorsements. One that asks nobody does nothing.
type Fetcher struct {
	config    Config
	log       *slog.Logger
	refresher *refresh.Refresher // nil: nobody is asked
	kds       *refresh.KDS       // nil: not asked
	pcs       *refresh.PCS
	seen      chan seen
	said      map[string]string // of each source, what the log has
	quiet     time.Time         // until when the log is not told again that too much is wanted
}

// seen is evidence that a verifier has looked at.
type seen struct {
	evidence  attest.Evidence
	authentic bool
}

// Grounds opens what a daemon appraises a role's evidence by. A root is demanded of each vendor that is to be asked, and
// of one at least of those whose evidence the consortium takes from the role.
func Grounds(c Config, files grounds.Config, of *study.Consortium, role attest.Role, log *slog.Logger) (*grounds.Holder, error) {
	c.fill()
	h, err := grounds.Open(files, grounds.Amenders(of))
	if err != nil {
		return nil, err
	}
	if err := checkRoots(c, h.Base()); err != nil {
		return nil, err
	}
	without, err := h.Rooted(of, role, c.Now())
	if err != nil {
		return nil, err
	}
	if len(without) > 0 {
		log.Warn("evidence of these formats is accepted, and no root of their vendor is there", "formats", without)
	}
	return h, nil
}

// Open takes the cache and adds to the holder, which Grounds opened, what it has. A vendor that does not answer is no error, now or later.
func Open(c Config, h *grounds.Holder, log *slog.Logger) (*Fetcher, error) {
	c.fill()
	f := &Fetcher{config: c, log: log, seen: make(chan seen, waiting), said: map[string]string{}}
	if len(c.From) == 0 {
		return f, nil
	}
	sources, err := f.standing(h.Base().Index())
	if err != nil {
		return nil, fmt.Errorf("fetching endorsements: %w", err)
	}
	f.refresher, err = refresh.New(refresh.Config{
		Dir: c.Dir, Base: func() (*endorse.Snapshot, error) { return h.Base(), nil }, Sources: sources, Every: c.Every,
		Now: c.Now, After: c.After, Random: rand.Reader,
	})
	if err != nil {
		return nil, fmt.Errorf("fetching endorsements: %w", err)
	}
	h.Add(f.refresher)
	return f, nil
}

// checkRoots demands a root of each vendor that is to be asked: what it gives leads to nothing without.
func checkRoots(c Config, base *endorse.Snapshot) error {
	for _, v := range c.From {
		whose := map[string]string{AMD: roots.AMD, Azure: roots.AMD, Intel: roots.Intel}[v]
		if !roots.Has(base.Index(), whose) {
			return fmt.Errorf("field \"fetch\" names %q: %w %s: %s", v, grounds.ErrNoRoot, whose, grounds.RootsFrom)
		}
	}
	return nil
}

// standing are the sources that are kept fresh whoever comes.
func (f *Fetcher) standing(x *endorse.Index) (out []refresh.Source, err error) {
	add := func(s refresh.Source, e error) { out, err = append(out, s), errors.Join(err, e) }
	if slices.Contains(f.config.From, AMD) {
		f.kds = refresh.NewKDS(f.config.Transport, f.config.Mirrors[AMD], f.config.Now)
		for _, c := range x.Anchors() {
			line, ok := strings.CutPrefix(c.Subject.CommonName, "ARK-")
			if !ok {
				continue
			}
			add(f.kds.CRL(line, attest.SignerVCEK))
			if !slices.ContainsFunc(x.Certificates, func(c *x509.Certificate) bool { return c.Subject.CommonName == "SEV-"+line }) {
				add(f.kds.Chain(line, attest.SignerVCEK))
			}
		}
	}
	if slices.Contains(f.config.From, Intel) {
		f.pcs = refresh.NewPCS(f.config.Transport, f.config.Mirrors[Intel], f.config.Now)
		add(f.pcs.RootCRL(), nil)
		add(f.pcs.PCKCRL(refresh.CAPlatform))
		add(f.pcs.PCKCRL(refresh.CAProcessor))
		add(f.pcs.QEIdentity(), nil)
	}
	if slices.Contains(f.config.From, Azure) {
		add(refresh.NewTHIM(f.config.Transport, f.config.Now), nil)
	}
	return out, err
}

// Hearing is a verifier of whose evidence the Fetcher hears. What it decides stays its own.
func (f *Fetcher) Hearing(v attest.Verifier) attest.Verifier {
	if f.refresher == nil {
		return v
	}
	return hearing{v, f}
}

type hearing struct {
	attest.Verifier
	f *Fetcher
}

// Verify is that of the verifier.
func (h hearing) Verify(e attest.Evidence, in attest.Inputs) (attest.Unappraised, error) {
	u, err := h.Verifier.Verify(e, in)
	h.f.hear(e, err)
	return u, err
}

// hear never waits: it is called within a handshake.
func (f *Fetcher) hear(e attest.Evidence, err error) {
	e.Endorsements = maps.Clone(e.Endorsements)
	delete(e.Endorsements, attest.EventLog) // large, and of no use here
	delete(e.Endorsements, attest.CCEL)
	select {
	case f.seen <- seen{e, err == nil}:
	default:
	}
}

// Run asks until ctx ends, and returns when its last question has been answered or given up.
func (f *Fetcher) Run(ctx context.Context) {
	if f.refresher == nil {
		return
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		f.refresher.Run(ctx)
	}()
	defer func() { <-over }()
	next := f.config.After(0)
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-f.seen:
			f.take(s)
		case <-next:
			f.tell()
			next = f.config.After(look)
		}
	}
}

// Close gives the cache to another process. Run has to have returned.
func (f *Fetcher) Close() error {
	if f.refresher == nil {
		return nil
	}
	return f.refresher.Close()
}

// take keeps what evidence brought, and asks for what it did not bring. Whatever a stranger's bytes do to a parser, the
// daemon goes on.
func (f *Fetcher) take(s seen) {
	defer func() {
		if p := recover(); p != nil {
			f.log.Error("reading what evidence needs", "panic", fmt.Sprintf("%T", p)) // the text may quote the bytes
		}
	}()
	brought := false
	if s.authentic {
		brought = f.keep(s.evidence)
	}
	sources, err := refresh.ForEvidence(f.kds, f.pcs, s.evidence)
	if err != nil {
		f.log.Debug("evidence names nothing that could be fetched for it", "error", err)
		return
	}
	for _, x := range sources {
		if brought && refresh.OfChip(x) {
			continue
		}
		// Of one that failed its state is told.
		err := f.refresher.Ask(x)
		if now := f.config.Now(); errors.Is(err, refresh.ErrBusy) && !now.Before(f.quiet) {
			f.log.Warn("endorsements cannot be asked for", "source", x.Name(), "error", err)
			f.quiet = now.Add(quietFor)
		}
	}
}

// keep offers the certificates of chips that came with authentic evidence.
func (f *Fetcher) keep(e attest.Evidence) (brought bool) {
	s, err := endorse.New(e.Endorsements)
	if err != nil {
		return false
	}
	for _, c := range s.Index().Certificates {
		if name := c.Subject.CommonName; name != "SEV-VCEK" && name != "SEV-VLEK" {
			continue
		}
		if err := f.refresher.Offer(c.Raw); err != nil {
			f.log.Warn("the certificate that evidence brought is not kept", "error", err)
			continue
		}
		brought = true
	}
	return brought
}

// State is what a person is told of one source.
type State struct {
	Source string
	OK     bool
	Text   string
}

// tell logs each source whose state is another than the log has. Texts of errors do not make a state: the same failure
// may have another port in it each time.
func (f *Fetcher) tell() {
	now := f.config.Now()
	here := map[string]bool{}
	for _, s := range f.refresher.Status() {
		here[s.Name] = true
		state := "fresh"
		switch {
		case s.Stale(now):
			state = "past its end"
		case s.Err != nil:
			state = "failing"
		case s.Name == "base" || s.Fetched.IsZero():
			state = ""
		}
		if f.said[s.Name] == state {
			continue
		}
		f.said[s.Name] = state
		attrs := []any{"source", s.Name, "state", state}
		if !s.Until.IsZero() {
			attrs = append(attrs, "until", s.Until.UTC().Format(time.RFC3339))
		}
		switch state {
		case "fresh", "":
			f.log.Info("endorsements", attrs...)
		default:
			f.log.Warn("endorsements", append(attrs, "fetched", stamp(s.Fetched), "error", s.Err)...)
		}
	}
	maps.DeleteFunc(f.said, func(name, _ string) bool { return !here[name] })
}

// Cached says what the cache holds, whoever works with it, for people.
func Cached(c Config, base *endorse.Snapshot) ([]State, error) {
	if len(c.From) == 0 {
		return nil, nil
	}
	c.fill()
	now := c.Now()
	all, err := refresh.Cached(c.Dir, base, now)
	if err != nil {
		return nil, err
	}
	var out []State
	for _, s := range all {
		x := State{Source: s.Name, OK: s.Err == nil && !s.Stale(now)}
		switch {
		case s.Err != nil:
			x.Text = s.Err.Error()
		case s.Until.IsZero():
			x.Text = "fetched " + stamp(s.Fetched)
		default:
			x.Text = fmt.Sprintf("fetched %s, issued %s, ends %s", stamp(s.Fetched), stamp(s.Issued), stamp(s.Until))
		}
		out = append(out, x)
	}
	return out, nil
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format(time.RFC3339)
}
