package fetch

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/attest/snp"
	"github.com/consilium-fl/consilium/attest/tdx"
	"github.com/consilium-fl/consilium/attest/testtee/amd"
	"github.com/consilium-fl/consilium/attest/testtee/intel"
	"github.com/consilium-fl/consilium/attest/testtee/services"
	"github.com/consilium-fl/consilium/internal/grounds"
	"github.com/consilium-fl/consilium/internal/study"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		from    []string
		mirrors map[string]string
		want    string // of the error; empty: none
	}{
		{nil, nil, ""},
		{[]string{AMD, Intel, Azure}, map[string]string{AMD: "https://kds.hospital.example/amd/", Intel: "https://pccs.hospital.example:8081"}, ""},
		{[]string{"amdd"}, nil, `field "fetch" names "amdd", want some of ["amd" "intel" "azure"]`},
		{[]string{AMD, AMD}, nil, `names "amd" twice`},
		{[]string{AMD}, map[string]string{Intel: "https://a"}, `field "mirrors" names "intel"`},
		{[]string{Azure}, map[string]string{Azure: "https://a"}, `field "mirrors" names "azure"`},
		{[]string{AMD}, map[string]string{AMD: "http://a"}, `field "mirrors.amd" is "http://a", want https://host`},
		{[]string{AMD}, map[string]string{AMD: "https://"}, "want https://host"},
		{[]string{AMD}, map[string]string{AMD: "https://u:p@a"}, "want https://host"},
		{[]string{AMD}, map[string]string{AMD: "https://a?x"}, "want https://host"},
		{[]string{AMD}, map[string]string{AMD: "https://a#x"}, "want https://host"},
		{[]string{AMD}, map[string]string{AMD: "::"}, "want https://host"},
	} {
		got, err := Parse(c.from, c.mirrors, "state")
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q, %q: %v, want %q", c.from, c.mirrors, err, c.want)
		}
		if err == nil && (got.Dir != "state/endorsements" || !slices.Equal(got.From, c.from)) {
			t.Errorf("%+v", got)
		}
	}
	c, err := Parse([]string{AMD}, map[string]string{AMD: "https://kds.hospital.example/amd/"}, "")
	if err != nil || c.Mirrors[AMD] != "https://kds.hospital.example/amd" {
		t.Errorf("%+v, %v", c, err)
	}
}

// place is a Fetcher whose vendors are a server here, and whose time goes by a thousand times as fast.
type place struct {
	*Fetcher
	t      *testing.T
	config Config
	holder *grounds.Holder
	trust  string
	log    *lines
}

type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func at(begin time.Time, s *services.Server, from ...string) Config {
	const hurry = 1000
	started := time.Now()
	return Config{
		From: from, Transport: s.Transport, Every: 10 * time.Minute,
		Now:   func() time.Time { return begin.Add(time.Since(started) * hurry) },
		After: func(d time.Duration) <-chan time.Time { return time.After(d / hurry) },
	}
}

func newPlace(t *testing.T, c Config, files map[string][]byte) *place {
	t.Helper()
	dir := t.TempDir()
	p := &place{t: t, trust: filepath.Join(dir, "trust"), log: &lines{}}
	c.Dir = filepath.Join(dir, "state", Folder)
	for _, d := range []string{p.trust, filepath.Dir(c.Dir)} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(p.trust, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if p.holder, err = grounds.Open(grounds.Config{Trust: p.trust, OwnRoots: true}, grounds.Amenders(&study.Consortium{})); err != nil {
		t.Fatal(err)
	}
	p.config = c
	if p.Fetcher, err = Open(c, p.holder, slog.New(slog.NewTextHandler(p.log, nil))); err != nil {
		t.Fatal(err)
	}
	return p
}

// run is until the test ends, or stop is called.
func (p *place) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() {
		defer close(over)
		p.Run(ctx)
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		<-over
		if err := p.Close(); err != nil {
			p.t.Error(err)
		}
	})
	p.t.Cleanup(stop)
	return stop
}

func (p *place) verify(v attest.Verifier, e attest.Evidence) error {
	g, _ := p.holder.Current()
	_, err := p.Hearing(v).Verify(e, attest.Inputs{Now: p.config.Now(), ReportData: &[64]byte{1}, Trust: g.Trust})
	return err
}

func (p *place) until(what string, holds func() bool) {
	p.t.Helper()
	for range 1000 {
		if holds() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	p.t.Fatalf("%s: not within ten seconds; the log:\n%s", what, p.log)
}

// TestNobody: without a vendor nothing is made, asked or heard.
func TestNobody(t *testing.T) {
	p := newPlace(t, Config{}, nil)
	stop := p.run()
	v := snp.NewVerifier()
	if p.Hearing(v) != v {
		t.Error("somebody listens")
	}
	if _, err := os.Stat(p.config.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a cache: %v", err)
	}
	if all, err := Cached(p.config, p.holder.Base()); all != nil || err != nil {
		t.Errorf("%v, %v", all, err)
	}
	stop()
}

// TestAsksIntel: of a quote that brings no collateral, what is missing is fetched, and the next misses nothing.
func TestAsksIntel(t *testing.T) {
	x, m := intel.New(nil), intel.NewMachine()
	s := services.Serve(t, services.NewIntel(x, m))
	p := newPlace(t, at(intel.Now(), s, Intel), map[string][]byte{"root.der": x.Root.Cert.Raw})
	p.run()
	e := attest.Evidence{Format: attest.FormatTDX, Statement: x.Quote(x.PCK(m), intel.NewTD([64]byte{1}))}
	missing := func() bool {
		g, _ := p.holder.Current()
		r := attest.NewVerifiers(p.Hearing(tdx.NewVerifier())).Check(e, attest.Inputs{Now: p.config.Now(), ReportData: &[64]byte{1}, Trust: g.Trust},
			attest.Policy{Role: attest.RoleNode, Accept: []attest.Format{attest.FormatTDX}, Revocation: true, TDX: &attest.TDXPolicy{}})
		return slices.ContainsFunc(r.Reasons, func(r attest.Reason) bool {
			return r.Code == attest.CodeCollateralMissing || r.Code == attest.CodeCRLMissing
		})
	}
	if !missing() {
		t.Fatal("nothing is missing")
	}
	p.until("a second attempt", func() bool { return !missing() })
	asked := strings.Join(s.Requests(), "\n")
	for _, want := range []string{
		"https://certificates.trustedservices.intel.com/IntelSGXRootCA.der", "pckcrl?ca=platform", "pckcrl?ca=processor", "/tdx/certification/v4/qe/identity", "/tdx/certification/v4/tcb?fmspc=00806f050000",
	} {
		if !strings.Contains(asked, want) {
			t.Errorf("asked for\n%s\nand not for %s", asked, want)
		}
	}
}

// TestMirror: a mirror is asked in the vendor's place, for all.
func TestMirror(t *testing.T) {
	x, m := intel.New(nil), intel.NewMachine()
	s := services.Serve(t, services.NewIntel(x, m))
	c := at(intel.Now(), s, Intel)
	c.Mirrors = map[string]string{Intel: "https://pccs.hospital.example"}
	p := newPlace(t, c, map[string][]byte{"root.der": x.Root.Cert.Raw})
	p.run()
	p.until("four sources", func() bool { return strings.Count(p.log.String(), "state=fresh") == 4 })
	for _, r := range s.Requests() {
		if !strings.HasPrefix(r, "https://pccs.hospital.example/") {
			t.Errorf("asked for %s", r)
		}
	}
}

func genoa() map[string][]byte {
	return map[string][]byte{"ark.pem": amd.PEM(amd.Shared().ARK(amd.Genoa)), "ask.pem": amd.PEM(amd.Shared().ASK(amd.Genoa))}
}

// TestKeepsWhatCame: the certificate that authentic evidence brought serves the next that brings none, and nobody is
// asked for it. What a stranger's evidence brought is not kept.
func TestKeepsWhatCame(t *testing.T) {
	s := services.Serve(t, services.NewAMD(amd.Shared()))
	p := newPlace(t, at(time.Now(), s, AMD), genoa())
	p.run()
	e := func(w *amd.World) attest.Evidence {
		report, with := w.Report(amd.Options{ReportData: [64]byte{1}})
		return attest.Evidence{Format: attest.FormatSNP, Statement: report, Endorsements: with}
	}
	good := e(amd.Shared())
	stranger := good
	stranger.Endorsements = maps.Clone(good.Endorsements)
	stranger.Endorsements["vcek"] = good.Endorsements["ask"]
	if err := p.verify(snp.NewVerifier(), stranger); err == nil {
		t.Error("authentic")
	}
	good.Endorsements[attest.EventLog] = make([]byte, attest.MaxEventLog)
	if err := p.verify(snp.NewVerifier(), good); err != nil {
		t.Fatal(err)
	}
	if len(good.Endorsements[attest.EventLog]) == 0 {
		t.Error("the evidence was changed")
	}
	kept := func() bool {
		all, err := filepath.Glob(filepath.Join(p.config.Dir, "offered-*.record"))
		return err == nil && len(all) == 1
	}
	p.until("a kept certificate", kept)
	bare := good
	bare.Endorsements = nil
	p.until("evidence that brings none", func() bool { return p.verify(snp.NewVerifier(), bare) == nil })
}

// TestNotAskedForWhatCame: a chip's certificate that came is not asked for, and one that did not is.
func TestNotAskedForWhatCame(t *testing.T) {
	s := services.Serve(t, services.NewAMD(amd.Shared()))
	p := newPlace(t, at(time.Now(), s, AMD), genoa())
	report, with := amd.Shared().Report(amd.Options{ReportData: [64]byte{1}})
	take := func(with map[string][]byte, authentic bool) string {
		p.take(seen{attest.Evidence{Format: attest.FormatSNP, Statement: report, Endorsements: with}, authentic})
		var names []string
		for _, x := range p.refresher.Status() {
			names = append(names, x.Name)
		}
		return strings.Join(names, " ")
	}
	if got := take(with, false); !strings.Contains(got, "amd-vcek") || strings.Contains(got, "offered-") {
		t.Errorf("what is not authentic: of %s", got)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	p = newPlace(t, at(time.Now(), s, AMD), genoa())
	if got := take(with, true); strings.Contains(got, "amd-vcek") || !strings.Contains(got, "offered-") || !strings.Contains(got, "amd-chain-vcek-Genoa") {
		t.Errorf("of %s", got)
	}
	if got := take(with, false); !strings.Contains(got, "amd-vcek") {
		t.Errorf("of %s", got)
	}
	p.take(seen{evidence: attest.Evidence{Format: attest.FormatSNP, Statement: report[1:]}}) // nothing to ask for
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// TestHearNeverWaits: with nobody to look at it, evidence is let go.
func TestHearNeverWaits(t *testing.T) {
	s := services.Serve(t, services.Down)
	p := newPlace(t, at(time.Now(), s, AMD), genoa())
	for range 10 * waiting {
		p.hear(attest.Evidence{}, nil)
	}
	if len(p.seen) != waiting {
		t.Errorf("%d wait", len(p.seen))
	}
	for len(p.seen) > 0 {
		<-p.seen
	}
	p.hear(attest.Evidence{}, nil)
	p.hear(attest.Evidence{}, errors.New("a false signature"))
	if good, bad := <-p.seen, <-p.seen; !good.authentic || bad.authentic {
		t.Errorf("authentic: %t, then %t", good.authentic, bad.authentic)
	}
	if _, err := Open(p.config, p.holder, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "another process has it") {
		t.Errorf("two with one cache: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// TestStrangers: made-up chips cost a bounded number of wishes and one line in the log, and a parser that panics is no
// end of the daemon.
func TestStrangers(t *testing.T) {
	s := services.Serve(t, services.Down)
	c := at(time.Now(), s, AMD)
	c.Now, c.After = nil, nil // an hour is one
	p := newPlace(t, c, genoa())
	for i := range 200 {
		report, _ := amd.Shared().Report(amd.Options{Edit: func(r []byte) { r[0x1a0] = byte(i) }})
		p.take(seen{evidence: attest.Evidence{Format: attest.FormatSNP, Statement: report}})
	}
	if n := len(p.refresher.Status()); n > 70 {
		t.Errorf("%d sources", n)
	}
	if n := strings.Count(p.log.String(), "too many endorsements are wanted already"); n != 1 {
		t.Errorf("told %d times:\n%s", n, p.log)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	_, with := amd.Shared().Report(amd.Options{})
	p.refresher = nil // what a parser's panic would be
	p.take(seen{attest.Evidence{Format: attest.FormatSNP, Endorsements: with}, true})
	if !strings.Contains(p.log.String(), "panic=runtime.") {
		t.Errorf("the log:\n%s", p.log)
	}
}

// TestToldOnce: the log has each change of a source's state once.
func TestToldOnce(t *testing.T) {
	kds := services.NewAMD(amd.Shared())
	s := services.Serve(t, services.Down)
	p := newPlace(t, at(time.Now(), s, AMD), genoa())
	p.run()
	failing, fresh := "source=amd-crl-vcek-Genoa state=failing", "source=amd-crl-vcek-Genoa state=fresh"
	p.until("a failure", func() bool { return strings.Contains(p.log.String(), failing) })
	p.until("further failures", func() bool { return p.refresher.Status()[1].Failures > 3 })
	if n := strings.Count(p.log.String(), failing); n != 1 {
		t.Errorf("told %d times:\n%s", n, p.log)
	}
	s.Set(kds)
	p.until("an answer", func() bool { return strings.Contains(p.log.String(), fresh) })
	more := 0
	p.until("further answers", func() bool { more += len(s.Requests()); return more > 3 })
	if n := strings.Count(p.log.String(), fresh); n != 1 {
		t.Errorf("told %d times:\n%s", n, p.log)
	}
	s.Set(http.NotFoundHandler())
	p.until("another failure", func() bool { return strings.Count(p.log.String(), failing) == 2 })
}

func TestCached(t *testing.T) {
	x, m := intel.New(nil), intel.NewMachine()
	s := services.Serve(t, services.NewIntel(x, m))
	p := newPlace(t, at(intel.Now(), s, Intel), map[string][]byte{"root.der": x.Root.Cert.Raw})
	if all, err := Cached(p.config, p.holder.Base()); err != nil || len(all) != 0 {
		t.Errorf("before: %v, %v", all, err)
	}
	stop := p.run()
	p.until("four sources", func() bool { return strings.Count(p.log.String(), "state=fresh") == 4 })
	look := func(now time.Time, base *endorse.Snapshot) []State {
		c := p.config
		c.Now = func() time.Time { return now }
		all, err := Cached(c, base)
		if err != nil || len(all) != 4 {
			t.Fatalf("%v, %v", all, err)
		}
		return all
	}
	for _, state := range look(intel.Now().AddDate(0, 0, 1), p.holder.Base()) { // while the other has it
		if !state.OK || !strings.Contains(state.Text, "issued 2026-01-08T12:00:00Z, ends 2026-02-07T12:00:00Z") {
			t.Errorf("%+v", state)
		}
	}
	stop()
	for _, state := range look(intel.Now().AddDate(0, 0, 23), p.holder.Base()) {
		if state.OK {
			t.Errorf("past its end: %+v", state)
		}
	}
	for _, state := range look(intel.Now().AddDate(0, 0, 1), nil) {
		if state.OK || !strings.Contains(state.Text, "Intel") {
			t.Errorf("without the root: %+v", state)
		}
	}
	if err := os.WriteFile(filepath.Join(p.config.Dir, "newest"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Cached(p.config, nil); err == nil {
		t.Error("a memory that cannot be read was taken")
	}
	if _, err := Open(p.config, p.holder, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a daemon starts without its memory")
	}
}

// TestStanding: what is kept fresh whoever comes, by the roots that are there.
func TestStanding(t *testing.T) {
	s := services.Serve(t, services.Down)
	x := intel.New(nil)
	files := map[string][]byte{"milan.pem": amd.PEM(amd.Shared().ARK(amd.Milan)), "intel.der": x.Root.Cert.Raw}
	maps.Copy(files, genoa())
	p := newPlace(t, at(time.Now(), s, AMD, Intel, Azure), files)
	var names []string
	for _, x := range p.refresher.Status() {
		names = append(names, x.Name)
	}
	want := []string{
		"base", "amd-chain-vcek-Milan", "amd-crl-vcek-Genoa", "amd-crl-vcek-Milan", "azure-thim", "intel-crl-platform", "intel-crl-processor", "intel-crl-root", "intel-qe",
	}
	if !slices.Equal(names, want) {
		t.Errorf("%q", names)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// TestCheckRoots: nobody is asked for what would lead to no root.
func TestCheckRoots(t *testing.T) {
	s, err := endorse.New(genoa())
	if err != nil {
		t.Fatal(err)
	}
	for v, ok := range map[string]bool{AMD: true, Azure: true, Intel: false} {
		err := checkRoots(Config{From: []string{v}}, s)
		if (err == nil) != ok || err != nil && (!errors.Is(err, grounds.ErrNoRoot) || !strings.Contains(err.Error(), `"intel"`) || !strings.Contains(err.Error(), "Intel_SGX_Provisioning_Certification_RootCA.pem")) {
			t.Errorf("%s: %v", v, err)
		}
	}
}
