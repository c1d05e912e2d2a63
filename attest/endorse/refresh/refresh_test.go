package refresh

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/attest/endorse/internal/durable"
	"github.com/consilium-fl/consilium/internal/signed"
)

// fakeSource gives what it is told to.
type fakeSource struct {
	name string

	mu     sync.Mutex
	answer func() ([][]byte, error)
	asked  []time.Time
	now    func() time.Time
}

func (s *fakeSource) Name() string { return s.name }

func (s *fakeSource) Fetch(context.Context) ([][]byte, error) {
	s.mu.Lock()
	s.asked = append(s.asked, s.now())
	answer := s.answer
	s.mu.Unlock()
	return answer()
}

func (s *fakeSource) set(answer func() ([][]byte, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

func (s *fakeSource) times() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

// lab is a Refresher in a bubble, whose time begins at start, with a steward's part that can change.
type lab struct {
	*Refresher
	t    *testing.T
	now  func() time.Time
	stop func()
	told <-chan struct{} // of the first change

	mu   sync.Mutex
	base func() (*endorse.Snapshot, error)
}

func (l *lab) setBase(f func() (*endorse.Snapshot, error)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.base = f
}

func (l *lab) install(files map[string][]byte) {
	s := snapshotOf(l.t, files)
	l.setBase(func() (*endorse.Snapshot, error) { return s, nil })
}

// clock is a bubble's, moved to start.
func clock() func() time.Time {
	epoch := time.Now()
	return func() time.Time { return start.Add(time.Since(epoch)) }
}

func newLab(t *testing.T, now func() time.Time, dir string, files map[string][]byte, sources ...*fakeSource) *lab {
	t.Helper()
	l := &lab{t: t, now: now}
	l.install(files)
	c := Config{Dir: dir, Now: now, After: time.After, Random: rand.Reader, Base: func() (*endorse.Snapshot, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.base()
	}}
	for _, s := range sources {
		s.now = now
		c.Sources = append(c.Sources, s)
	}
	r, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	l.Refresher, l.told = r, r.Changed()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		r.Run(ctx)
		close(done)
	}()
	l.stop = sync.OnceFunc(func() {
		cancel()
		<-done
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(l.stop)
	return l
}

func (l *lab) status(name string) Status {
	for _, s := range l.Status() {
		if s.Name == name {
			return s
		}
	}
	l.t.Fatalf("no status of %s", name)
	return Status{}
}

// evaluations are those of the TCB infos that are there, newest first.
func (l *lab) evaluations() []uint32 {
	var out []uint32
	for _, d := range l.Snapshot().Index().TCBInfos {
		out = append(out, d.Head.Evaluation)
	}
	return out
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func parts(ps ...[]byte) func() ([][]byte, error) {
	return func() ([][]byte, error) { return ps, nil }
}

func failing(err error) func() ([][]byte, error) {
	return func() ([][]byte, error) { return nil, err }
}

// tcbSource gives a TCB info of evaluation 18, issued within the hour, with its chain.
func tcbSource(now func() time.Time) *fakeSource {
	v := fake()
	return &fakeSource{name: "tcb", now: now, answer: func() ([][]byte, error) {
		return [][]byte{v.info(18, now().Truncate(time.Hour)), slices.Concat(v.tcbSigning.pem(), v.intelRoot.pem())}, nil
	}}
}

func crlSource(now func() time.Time) *fakeSource {
	return &fakeSource{name: "crl", now: now, answer: func() ([][]byte, error) {
		at := now().Truncate(time.Hour)
		return parts(fake().ark.crl(at, at.AddDate(0, 0, 10)))()
	}}
}

func TestKeepsFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := clock()
		tcb, crl := tcbSource(now), crlSource(now)
		chain := &fakeSource{name: "chain", answer: parts(fake().ask.pem(), fake().ark.pem())}
		l := newLab(t, now, t.TempDir(), fake().installed(), tcb, crl, chain)
		synctest.Wait()
		if x := l.Snapshot().Index(); len(x.TCBInfos) != 1 || len(x.CRLs) != 1 || len(x.Certificates) != 4 || len(x.Anchors()) != 2 || len(x.Unknown) != 0 {
			t.Fatalf("%d, %d, %d, %d, unknown %q", len(x.TCBInfos), len(x.CRLs), len(x.Certificates), len(x.Anchors()), x.Unknown)
		}
		if !closed(l.told) || closed(l.Changed()) {
			t.Error("nobody was told, or more than once")
		}
		held, before := l.Snapshot(), l.Changed()
		digest := held.Digest()
		time.Sleep(3 * 24 * time.Hour)
		synctest.Wait()
		for _, s := range []*fakeSource{tcb, crl} {
			if n := len(s.times()); n != 7 {
				t.Errorf("%s: asked %d times in 3 days, want at once and each 12 hours", s.name, n)
			}
		}
		if n := len(chain.times()); n != 1 {
			t.Errorf("what has no end was asked for %d times", n)
		}
		if !closed(before) {
			t.Error("nobody was told of new ones")
		}
		if l.Snapshot().Digest() == digest || held.Digest() != digest || len(l.Snapshot().Index().CRLs) != 1 {
			t.Error("a snapshot changed, or is not replaced")
		}
		s := l.status("tcb")
		if s.Err != nil || s.Failures != 0 || l.now().Sub(s.Fetched) > 12*time.Hour || !s.Until.Equal(s.Issued.AddDate(0, 0, 30)) || s.Next.Sub(s.Fetched) > 12*time.Hour+time.Second {
			t.Errorf("%+v", s)
		}
	})
}

// TestListsOfOneIssuer: AMD's root signs a list for VCEKs and one for VLEKs, which are not issued together.
func TestListsOfOneIssuer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &fakeSource{name: "vcek", answer: parts(fake().ark.crl(start, start.AddDate(1, 0, 0)))}
		b := &fakeSource{name: "vlek", answer: parts(fake().ark.crl(start.AddDate(0, -1, 0), start.AddDate(1, 0, 0)))}
		l := newLab(t, clock(), t.TempDir(), fake().installed(), a, b)
		time.Sleep(13 * time.Hour)
		synctest.Wait()
		if n := len(l.Snapshot().Index().CRLs); n != 2 || l.status("vcek").Err != nil || l.status("vlek").Err != nil {
			t.Errorf("%d lists, %v, %v", n, l.status("vcek").Err, l.status("vlek").Err)
		}
	})
}

// TestHalfWay: what ends soon is fetched sooner, and not ever faster.
func TestHalfWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := clock()
		end := start.Add(4 * time.Hour)
		crl := &fakeSource{name: "crl", answer: parts(fake().ark.crl(start, end))}
		newLab(t, now, t.TempDir(), fake().installed(), crl)
		time.Sleep(5 * time.Hour)
		synctest.Wait()
		times := crl.times()
		if d := times[1].Sub(times[0]); d < 119*time.Minute || d > 121*time.Minute {
			t.Errorf("asked again after %s, want half of 4 h", d)
		}
		for i := range times[1:] {
			if d := times[i+1].Sub(times[i]); d < 15*time.Second {
				t.Errorf("asked again after %s", d)
			}
		}
		if len(times) > 25 {
			t.Errorf("asked %d times", len(times))
		}
	})
}

// TestSingleFlight: many who want one thing cause one fetch, and all get it.
func TestSingleFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := clock()
		l := newLab(t, now, t.TempDir(), fake().installed())
		v := fake().vcek(7, genoaTCB)
		s := &fakeSource{name: "vcek", now: now, answer: func() ([][]byte, error) { time.Sleep(time.Second); return [][]byte{v}, nil }}
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if err := l.Want(t.Context(), s); err != nil {
					t.Error(err)
				}
				if !slices.ContainsFunc(l.Snapshot().Index().Certificates, func(c *x509.Certificate) bool { return bytes.Equal(c.Raw, v) }) {
					t.Error("it is not there")
				}
			})
		}
		wg.Wait()
		if err := errors.Join(l.Want(t.Context(), s), l.Offer(v)); err != nil {
			t.Error(err)
		}
		if n := len(l.Status()); n != 2 {
			t.Errorf("one certificate is %d records", n-1)
		}
		time.Sleep(1000 * time.Hour)
		if n := len(s.times()); n != 1 {
			t.Errorf("asked %d times", n)
		}
	})
}

// TestAtOnce: few fetches run at once, and none is forgotten.
func TestAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := clock()
		var mu sync.Mutex
		running, most := 0, 0
		count := func(n int) {
			mu.Lock()
			defer mu.Unlock()
			running += n
			most = max(most, running)
		}
		var sources []*fakeSource
		for i := range 3 * atOnce {
			sources = append(sources, &fakeSource{name: fmt.Sprint("source-", i), answer: func() ([][]byte, error) {
				count(1)
				defer count(-1)
				time.Sleep(time.Second)
				return parts(fake().ask.pem())()
			}})
		}
		newLab(t, now, t.TempDir(), fake().installed(), sources...)
		time.Sleep(3*time.Second + time.Millisecond)
		synctest.Wait()
		if most != atOnce {
			t.Errorf("%d at once, want %d", most, atOnce)
		}
		for _, s := range sources {
			if n := len(s.times()); n != 1 {
				t.Errorf("%s was asked %d times", s.name, n)
			}
		}
	})
}

// TestCacheBound: what would make the cache too large is refused, and what is there stays.
func TestCacheBound(t *testing.T) {
	v := fake()
	entries := make([]x509.RevocationListEntry, 24000)
	for i := range entries {
		entries[i] = x509.RevocationListEntry{SerialNumber: big.NewInt(1<<60 + int64(i)), RevocationTime: start}
	}
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: start, NextUpdate: start.AddDate(1, 0, 0), RevokedCertificateEntries: entries}, v.ark.Certificate, v.ark.key)
	if err != nil {
		t.Fatal(err)
	}
	fit := maxCache / len(der)
	c := Config{Dir: t.TempDir(), Base: func() (*endorse.Snapshot, error) { return endorse.New(v.installed()) }, Now: at(start), After: time.After, Random: rand.Reader}
	for i := range fit + 1 {
		c.Sources = append(c.Sources, &fakeSource{name: fmt.Sprint("source-", i)})
	}
	r, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	take := func(i int, b []byte) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		err := r.take(r.entries[fmt.Sprint("source-", i)], [][]byte{b}, start)
		r.rebuild()
		return err
	}
	for i := range fit + 1 {
		if err := take(i, der); (err != nil) != (i == fit) {
			t.Errorf("source %d of %d bytes: %v", i, len(der), err)
		}
	}
	names, err := filepath.Glob(filepath.Join(c.Dir, "*"+recordSuffix))
	if err != nil || len(names) != fit || len(r.Snapshot().Index().CRLs) != 1 {
		t.Errorf("%d files, want %d; %v", len(names), fit, err)
	}
	if err := errors.Join(take(0, v.ark.crl(start, start.AddDate(1, 0, 0))), take(fit, der)); err != nil { // a small one makes room
		t.Error(err)
	}
}

func TestBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := clock()
		a := &fakeSource{name: "a", answer: failing(errors.New("broken"))}
		b := &fakeSource{name: "b", answer: failing(errors.New("broken"))}
		l := newLab(t, now, t.TempDir(), fake().installed(), a, b)
		time.Sleep(12 * time.Hour)
		synctest.Wait()
		same := 0
		times := a.times()
		for i := range times[1:] {
			wait := min(firstWait<<min(i, 16), longestWait)
			if d := times[i+1].Sub(times[i]); d < wait/2 || d > wait {
				t.Errorf("wait %d is %s, want half of %s to all of it", i, d, wait)
			}
			if i+1 < len(b.times()) && b.times()[i+1].Equal(times[i+1]) {
				same++
			}
		}
		if same > 2 {
			t.Error("two that failed together come back together")
		}
		if s := l.status("a"); s.Failures != len(times) || s.Err == nil || s.Next.Before(now()) {
			t.Errorf("%+v", s)
		}
		a.set(crlSource(now).answer)
		time.Sleep(longestWait)
		synctest.Wait()
		if s := l.status("a"); s.Failures != 0 || s.Err != nil || s.Fetched.IsZero() {
			t.Errorf("when it works again: %+v", s)
		}
		// A service that says when is kept to.
		before := len(b.times())
		b.set(failing(&Later{Wait: 5 * time.Hour, Err: errors.New("429")}))
		time.Sleep(longestWait)
		synctest.Wait()
		first := len(b.times())
		time.Sleep(4 * time.Hour)
		synctest.Wait()
		if n := len(b.times()); first != before+1 || n != first {
			t.Errorf("asked %d times, then %d", first-before, n-first)
		}
	})
}

// TestOwnLimitIsNoFailure: who waits for a token goes on waiting.
func TestOwnLimitIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := clock()
		l := newLab(t, now, t.TempDir(), fake().installed())
		limit := newClient(nil, now, 10*time.Second, 1)
		began := now()
		var wg sync.WaitGroup
		for i := range 6 {
			v := fake().vcek(byte(i+1), genoaTCB)
			s := &fakeSource{name: fmt.Sprint("vcek-", i), now: now, answer: func() ([][]byte, error) {
				if err := limit.admit(); err != nil {
					return nil, err
				}
				return [][]byte{v}, nil
			}}
			wg.Go(func() {
				if err := l.Want(t.Context(), s); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if d := now().Sub(began); d < 50*time.Second || d > 51*time.Second {
			t.Errorf("six took %s, want 50 s", d)
		}
		for _, s := range l.Status() {
			if s.Failures != 0 || s.Err != nil {
				t.Errorf("%+v", s)
			}
		}
	})
}

// verifier is one of a format that works with AMD's list and Intel's document of the snapshot, however old.
type verifier struct{}

func (verifier) Format() attest.Format { return "hw/1" }

func (verifier) Verify(_ attest.Evidence, in attest.Inputs) (attest.Unappraised, error) {
	x := in.Trust.Index()
	c := attest.Claims{Format: "hw/1", Measurement: attest.SHA256Measurement([32]byte{1}), NotAfter: in.Now.AddDate(1, 0, 0), ReportData: *in.ReportData}
	for _, l := range x.CRLs {
		c.Dated = append(c.Dated, attest.Dated{Name: "crl", Code: attest.CodeCRLStale, ThisUpdate: l.ThisUpdate, NextUpdate: l.NextUpdate})
	}
	for _, d := range x.TCBInfos {
		c.Dated = append(c.Dated, attest.Dated{Name: "collateral.tcb_info", Code: attest.CodeCollateralExpired, ThisUpdate: d.Head.IssueDate, NextUpdate: d.Head.NextUpdate})
	}
	return attest.Unappraise(c), nil
}

// TestStaleThenClosed: with the services away, what there is serves for as long as the policy says, and then the
// appraisal refuses, not the refresher.
func TestStaleThenClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := clock()
		tcb, crl := tcbSource(now), crlSource(now)
		l := newLab(t, now, t.TempDir(), fake().installed(), tcb, crl)
		synctest.Wait()
		tcb.set(failing(errors.New("away")))
		crl.set(failing(errors.New("away")))
		check := func(age, grace time.Duration) string {
			p := attest.Policy{Role: attest.RoleNode, Accept: []attest.Format{"hw/1"}, Measurements: attest.AnySet(), Machines: attest.AnySet(), EndorsementAge: age, Grace: grace}
			r := attest.NewVerifiers(verifier{}).Check(attest.Evidence{Format: "hw/1", Statement: []byte{1}}, attest.Inputs{Now: now(), ReportData: &[64]byte{1}, Trust: l.Snapshot()}, p)
			out := []string{string(r.Status)}
			for _, x := range r.Reasons {
				out = append(out, x.Code)
			}
			return strings.Join(out, " ")
		}
		digest := l.Snapshot().Digest()
		for _, c := range []struct {
			after      time.Duration // since the first fetch
			age, grace time.Duration
			want       string
		}{
			{47 * time.Hour, 48 * time.Hour, 0, "affirming"},
			{48 * time.Hour, 0, 0, "affirming"},
			{48 * time.Hour, 48 * time.Hour, 0, "contraindicated crl.stale collateral.expired"}, // the policy's age
			{239 * time.Hour, 0, 0, "affirming"},
			{240 * time.Hour, 0, 0, "contraindicated crl.stale"}, // the list's end, after 10 days
			{240 * time.Hour, 0, time.Hour, "warning"},
			{241 * time.Hour, 0, time.Hour, "contraindicated crl.stale"},
			{720 * time.Hour, 0, 0, "contraindicated crl.stale collateral.expired"},
		} {
			time.Sleep(c.after - now().Sub(start))
			synctest.Wait()
			if got := check(c.age, c.grace); got != c.want {
				t.Errorf("after %s, age %s, grace %s: %s, want %s", c.after, c.age, c.grace, got, c.want)
			}
			if l.Snapshot().Digest() != digest {
				t.Errorf("after %s: another snapshot", c.after)
			}
		}
		// Who wants what has ended is told that it cannot be had.
		if err := l.Want(t.Context(), crl); err == nil || !strings.Contains(err.Error(), "away") {
			t.Errorf("wanted: %v", err)
		}
		tcb.set(tcbSource(now).answer)
		crl.set(crlSource(now).answer)
		time.Sleep(longestWait)
		synctest.Wait()
		if got := check(48*time.Hour, 0); got != "affirming" {
			t.Errorf("when they are back: %s", got)
		}
	})
}

// TestMonotone: nothing older follows, in either figure, in one process or the next, with the record or without.
func TestMonotone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := fake()
		chain := v.tcbSigning.pem()
		now := clock()
		dir := t.TempDir()
		tcb := &fakeSource{name: "tcb", answer: parts(v.info(18, start), chain)}
		l := newLab(t, now, dir, v.installed(), tcb)
		synctest.Wait()
		give := func(name string, b []byte, err error, want ...uint32) {
			t.Helper()
			tcb.set(parts(b, chain))
			time.Sleep(13 * time.Hour) // more than one due time
			synctest.Wait()
			if got := l.status("tcb").Err; !errors.Is(got, err) {
				t.Errorf("%s: %v, want %v", name, got, err)
			}
			if got := l.evaluations(); !slices.Equal(got, want) {
				t.Errorf("%s: evaluations %d, want %d", name, got, want)
			}
		}
		give("the same", v.info(18, start), nil, 18)
		give("a lower evaluation of later", v.info(17, start.Add(time.Hour)), ErrOlder, 18)
		give("a higher evaluation of earlier", v.info(19, start.Add(-time.Hour)), ErrOlder, 18)
		give("an earlier date", v.info(18, start.Add(-time.Second)), ErrOlder, 18)
		give("a later date", v.info(18, start.Add(time.Hour)), nil, 18)
		give("that which was good before", v.info(18, start), ErrOlder, 18)
		give("a higher evaluation", v.info(19, start.Add(2*time.Hour)), nil, 19)

		again := func(name string, b []byte, want ...uint32) {
			t.Helper()
			l.stop()
			tcb.set(parts(b, chain))
			l = newLab(t, now, dir, v.installed(), tcb)
			time.Sleep(13 * time.Hour)
			synctest.Wait()
			if got := l.evaluations(); !slices.Equal(got, want) {
				t.Errorf("%s: evaluations %d, want %d", name, got, want)
			}
		}
		again("after a restart", v.info(18, start.Add(time.Hour)), 19)
		if err := os.Remove(filepath.Join(dir, "tcb"+recordSuffix)); err != nil {
			t.Fatal(err)
		}
		again("without the record", v.info(18, start.Add(time.Hour)))
		again("and when it is good", v.info(19, start.Add(3*time.Hour)), 19)

		// An older record put back is no way either.
		old, err := os.ReadFile(filepath.Join(dir, "tcb"+recordSuffix))
		if err != nil {
			t.Fatal(err)
		}
		again("on", v.info(20, start.Add(4*time.Hour)), 20)
		l.stop()
		if err := os.WriteFile(filepath.Join(dir, "tcb"+recordSuffix), old, 0o600); err != nil {
			t.Fatal(err)
		}
		again("with an older record", v.info(19, start.Add(3*time.Hour)))
		// Nor is the steward's own folder, unless something newer is beside it.
		l.install(map[string][]byte{"intel.pem": v.intelRoot.pem(), "tcb.json": v.info(19, start.Add(3*time.Hour)), "signer.pem": chain})
		l.Reload()
		if got := l.evaluations(); len(got) != 0 {
			t.Errorf("installed by hand: evaluations %d", got)
		}
		l.install(map[string][]byte{"intel.pem": v.intelRoot.pem(), "tcb.json": v.info(19, start.Add(3*time.Hour)), "newer.json": v.info(20, start.Add(4*time.Hour)), "signer.pem": chain})
		l.Reload()
		if got := l.evaluations(); !slices.Equal(got, []uint32{20, 19}) {
			t.Errorf("both installed by hand: evaluations %d", got)
		}
		// What the steward installs is remembered as well.
		l.install(map[string][]byte{"intel.pem": v.intelRoot.pem(), "newer.json": v.info(21, start.Add(5*time.Hour)), "signer.pem": chain})
		l.Reload()
		l.install(v.installed())
		again("older than what was installed", v.info(20, start.Add(6*time.Hour)))
		// What nobody signed is not.
		l.install(map[string][]byte{"intel.pem": v.intelRoot.pem(), "forged.json": v.ark.signedBody("tcbInfo", body("TDX", testFMSPC, 99, start, start.AddDate(1, 0, 0))), "signer.pem": chain})
		l.Reload()
		again("beside a forged one", v.info(22, start.Add(7*time.Hour)), 22)
		// Nor what is still to come.
		l.install(map[string][]byte{"intel.pem": v.intelRoot.pem(), "future.json": v.info(98, start.AddDate(1, 0, 0)), "signer.pem": chain})
		l.Reload()
		again("beside one to come", v.info(23, start.Add(8*time.Hour)), 23)
	})
}

// TestRefusedAnswers: what is not signed under an installed anchor changes nothing.
func TestRefusedAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := fake()
		chain := v.tcbSigning.pem()
		now := clock()
		stranger := issue("Intel SGX Root CA", nil, true)
		strangersSigner := issue(tcbSigner, &stranger, false)
		leaf := issue("Intel SGX PCK Certificate", &v.platformCA, false)
		old := issue(tcbSigner, &v.intelRoot, false, func(c *x509.Certificate) { c.NotAfter = start.AddDate(0, 0, -1) })
		edited := bytes.Replace(v.info(18, start), []byte(":18"), []byte(":19"), 1)
		many := make([][]byte, maxParts+1)
		for i := range many {
			many[i] = v.ask.Raw
		}
		good := v.info(18, start)
		tcb := &fakeSource{name: "tcb", answer: parts(good, chain)}
		files := v.installed()
		files["stray.pem"] = strangersSigner.pem() // which no root of the steward's signed
		l := newLab(t, now, t.TempDir(), files, tcb)
		synctest.Wait()
		digest := l.Snapshot().Digest()
		for name, answer := range map[string][][]byte{
			"nothing":                 {},
			"many parts":              many,
			"no chain":                {v.info(18, start)},
			"edited":                  {edited, chain},
			"a stranger's":            {strangersSigner.signedBody("tcbInfo", body("TDX", testFMSPC, 18, start, start.AddDate(0, 1, 0))), strangersSigner.pem(), stranger.pem()},
			"a stranger's, no root":   {strangersSigner.signedBody("tcbInfo", body("TDX", testFMSPC, 18, start, start.AddDate(0, 1, 0))), strangersSigner.pem()},
			"a root beside":           {v.info(18, start), chain, stranger.pem()},
			"a root of the same key":  {v.info(18, start), chain, v.intelRoot.renewed().pem()},
			"another signer":          {leaf.signedBody("tcbInfo", body("TDX", testFMSPC, 18, start, start.AddDate(0, 1, 0))), leaf.pem(), v.platformCA.pem()},
			"an old signer":           {old.signedBody("tcbInfo", body("TDX", testFMSPC, 18, start, start.AddDate(0, 1, 0))), old.pem()},
			"to come":                 {v.info(18, start.AddDate(1, 0, 0)), chain},
			"ended":                   {v.info(18, start.AddDate(0, 0, -31)), chain},
			"a list by another":       {stranger.crl(start, start.AddDate(0, 1, 0))},
			"a list by a signer":      {v.tcbSigning.crlUnchecked(start, start.AddDate(0, 1, 0)), chain},
			"a list that ended":       {v.ark.crl(start.AddDate(0, -2, 0), start.AddDate(0, -1, 0))},
			"a list to come":          {v.ark.crl(start.AddDate(1, 0, 0), start.AddDate(2, 0, 0))},
			"a certificate by nobody": {issue(tcbSigner, &stranger, false).Raw},
			"keys":                    {[]byte(`{"keys":[{"kty":"RSA"}]}`)},
			"a page":                  {[]byte("<html>")},
			"a large one":             {bytes.Repeat(v.ask.Raw, endorse.MaxFile/len(v.ask.Raw)+1)},
		} {
			tcb.set(parts(answer...))
			time.Sleep(13 * time.Hour)
			synctest.Wait()
			if s := l.status("tcb"); s.Err == nil {
				t.Errorf("%s: taken", name)
			}
			if l.Snapshot().Digest() != digest {
				t.Fatalf("%s: another snapshot", name)
			}
			// Back to good, so that the next one is due soon.
			tcb.set(parts(good, chain))
			time.Sleep(longestWait)
			synctest.Wait()
			if s := l.status("tcb"); s.Err != nil {
				t.Fatalf("after %s: %v", name, s.Err)
			}
		}
	})
}

// TestBase: anchors are the steward's, from one minute to the next.
func TestBase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := fake()
		now := clock()
		tcb, crl := tcbSource(now), crlSource(now)
		l := newLab(t, now, t.TempDir(), v.installed(), tcb, crl)
		synctest.Wait()
		have := func(name string, infos, crls, anchors int) {
			t.Helper()
			time.Sleep(baseEvery)
			synctest.Wait()
			x := l.Snapshot().Index()
			if len(x.TCBInfos) != infos || len(x.CRLs) != crls || len(x.Anchors()) != anchors {
				t.Errorf("%s: %d infos, %d lists, %d anchors, want %d, %d, %d", name, len(x.TCBInfos), len(x.CRLs), len(x.Anchors()), infos, crls, anchors)
			}
		}
		have("at first", 1, 1, 2)
		before := l.Changed()
		l.install(map[string][]byte{"ark.pem": v.ark.pem(), "ask.pem": v.ask.pem()})
		have("Intel's root taken away", 0, 1, 1)
		if !closed(before) || l.status("tcb").Err == nil {
			t.Error("nobody was told")
		}
		l.install(v.installed())
		time.Sleep(longestWait)
		have("and back", 1, 1, 2)
		l.setBase(func() (*endorse.Snapshot, error) { return nil, errors.New("the disk is gone") })
		have("unreadable", 1, 1, 2)
		if err := l.status("base").Err; err == nil || !strings.Contains(err.Error(), "disk") {
			t.Errorf("unreadable: %v", err)
		}
		l.setBase(func() (*endorse.Snapshot, error) { return nil, fmt.Errorf("loading: %w", endorse.ErrExpired) })
		have("expired", 0, 0, 0)
		if err := l.status("base").Err; !errors.Is(err, endorse.ErrExpired) {
			t.Errorf("expired: %v", err)
		}
		part := snapshotOf(t, map[string][]byte{"ark.pem": v.ark.pem()})
		l.setBase(func() (*endorse.Snapshot, error) { return part, fmt.Errorf("loading: %w", endorse.ErrExpired) })
		time.Sleep(longestWait)
		have("expired in part", 0, 1, 1)
		if err := l.status("base").Err; !errors.Is(err, endorse.ErrExpired) {
			t.Errorf("expired in part: %v", err)
		}
		l.setBase(func() (*endorse.Snapshot, error) { return nil, nil })
		have("none", 0, 0, 0)
		l.install(v.installed())
		time.Sleep(longestWait)
		have("at last", 1, 1, 2)
		if err := l.status("base").Err; err != nil {
			t.Error(err)
		}
		// What is too much together leaves the steward's part, which is within the bounds alone.
		files := v.installed()
		for i := range endorse.MaxFiles - len(files) {
			files[fmt.Sprint("note ", i)] = nil
		}
		l.install(files)
		have("as many files as there may be", 0, 0, 2)
		if err := l.status("base").Err; err == nil || !strings.Contains(err.Error(), "files") {
			t.Errorf("too many files: %v", err)
		}
	})
}

// TestOwnSnapshotInstalled: what one refresher made can be installed for another, name for name.
func TestOwnSnapshotInstalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := clock()
		v := fake()
		one := newLab(t, now, t.TempDir(), v.installed(), tcbSource(now), crlSource(now))
		if err := one.Offer(v.vcek(1, genoaTCB)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(offersEvery)
		synctest.Wait()
		two := newLab(t, now, t.TempDir(), one.Snapshot().Files(), crlSource(now))
		if err := two.Offer(v.vcek(2, genoaTCB)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(offersEvery)
		synctest.Wait()
		chips := 0
		for _, c := range two.Snapshot().Index().Certificates {
			if isChip(c) {
				chips++
			}
		}
		if x := two.Snapshot().Index(); chips != 2 || len(x.TCBInfos) != 1 || len(x.Unknown) != 0 {
			t.Errorf("%d chips, %d infos, unknown %q", chips, len(x.TCBInfos), x.Unknown)
		}
	})
}

func TestOffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := clock()
		v := fake()
		dir := t.TempDir()
		l := newLab(t, now, dir, v.installed())
		changed := l.Changed()
		stranger := issue("SEV-Genoa", nil, true)
		for name, der := range map[string][]byte{
			"nothing":         nil,
			"a list":          v.ark.crl(start, start.AddDate(1, 0, 0)),
			"an intermediate": issue("SEV-Genoa", &v.ark, true).Raw,
			"no chip":         issue("SEV-VCEK", &v.ask, false).Raw,
			"a stranger's":    issue("SEV-VCEK", &stranger, false, func(c *x509.Certificate) { c.ExtraExtensions = vcekExtensions(chip(7), genoaTCB) }).Raw,
			"a root":          stranger.Raw,
			"two":             slices.Concat(v.vcek(1, genoaTCB), v.vcek(2, genoaTCB)),
			"a tail":          append(v.vcek(1, genoaTCB), 0),
			"one that ended": issue("SEV-VCEK", &v.ask, false, func(c *x509.Certificate) {
				c.ExtraExtensions, c.NotAfter = vcekExtensions(chip(7), genoaTCB), start.AddDate(0, 0, -1)
			}).Raw,
		} {
			if err := l.Offer(der); err == nil {
				t.Errorf("%s: kept", name)
			}
		}
		good := v.vcek(7, genoaTCB)
		for range 2 {
			if err := l.Offer(good); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Offer(v.ask.Raw); err != nil {
			t.Errorf("what is installed: %v", err)
		}
		has := func() bool {
			return slices.ContainsFunc(l.Snapshot().Index().Certificates, func(c *x509.Certificate) bool { return bytes.Equal(c.Raw, good) })
		}
		time.Sleep(offersEvery)
		synctest.Wait()
		if !has() || closed(changed) {
			t.Error("it is not there, or it turned verdicts")
		}
		l.stop()
		l = newLab(t, now, dir, v.installed())
		time.Sleep(30 * 24 * time.Hour)
		if !has() {
			t.Error("after a restart and a month it is gone")
		}
		if n := len(l.Status()); n != 2 {
			t.Errorf("%d records", n-1)
		}
	})
}

// TestEvict: of too many chips the first to come is the first to go, on disk too.
func TestEvict(t *testing.T) {
	v := fake()
	dir := t.TempDir()
	// A key for each would take its time.
	one := issue("SEV-VCEK", &v.ask, false)
	chipOf := func(i int) []byte {
		c := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 1)), Subject: one.Subject, NotBefore: one.NotBefore, NotAfter: one.NotAfter,
			ExtraExtensions: vcekExtensions(chip(byte(i)), genoaTCB),
		}
		der, err := x509.CreateCertificate(rand.Reader, c, v.ask.Certificate, one.key.Public(), v.ask.key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	for i := range MaxChips {
		name := fmt.Sprintf("offered-%d", i)
		b, err := signed.Encode(record{Source: name, Fetched: start.Unix() + int64((i+MaxChips-7)%MaxChips), Parts: [][]byte{chipOf(i)}}) // the eighth is the oldest
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name+recordSuffix), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	crl := &fakeSource{name: "crl"}
	r, err := New(Config{
		Dir: dir, Now: at(start.Add(time.Hour)), After: time.After, Random: rand.Reader, Sources: []Source{crl},
		Base: func() (*endorse.Snapshot, error) { return endorse.New(v.installed()) },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for i := range 3 {
		if err := r.Offer(chipOf(MaxChips + i)); err != nil {
			t.Fatal(err)
		}
	}
	if d := r.publish(start.Add(time.Hour + offersEvery - time.Second)); d != time.Second || len(r.Snapshot().Index().Certificates) != MaxChips+3 {
		t.Errorf("in a snapshot before its time, or in %s", d)
	}
	before := r.Snapshot()
	if r.publish(start.Add(time.Hour + offersEvery)); r.Snapshot() == before {
		t.Error("no new snapshot")
	}
	if n := len(r.Snapshot().Index().Certificates); n != MaxChips+3 { // and three of the steward's
		t.Errorf("%d certificates", n)
	}
	for i := range MaxChips {
		_, err := os.Stat(filepath.Join(dir, fmt.Sprintf("offered-%d%s", i, recordSuffix)))
		if gone := errors.Is(err, os.ErrNotExist); gone != (i >= 7 && i < 10) {
			t.Errorf("chip %d: gone %t", i, gone)
		}
	}
}

// TestWantMany: who makes up chips cannot make the refresher ask without end, nor fill it.
func TestWantMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := clock()
		l := newLab(t, now, t.TempDir(), fake().installed())
		made := func(i int) *fakeSource {
			return &fakeSource{name: fmt.Sprint("made-up-", i), now: now, answer: failing(errors.New("404"))}
		}
		one := made(0)
		if err := l.Want(t.Context(), one); err == nil || !strings.Contains(err.Error(), "404") {
			t.Errorf("%v", err)
		}
		var later *Later
		if err := l.Want(t.Context(), one); !errors.As(err, &later) || len(one.times()) != 1 {
			t.Errorf("asked %d times, %v", len(one.times()), err)
		}
		for i := range 3 * maxWanted {
			if err := l.Want(t.Context(), made(i)); err == nil {
				t.Fatal("there is none")
			} else if busy := errors.Is(err, ErrBusy); busy != (i >= maxWanted) {
				t.Fatalf("%d: %v", i, err)
			}
		}
		if n := len(l.Status()); n != maxWanted+1 {
			t.Errorf("%d are known", n-1)
		}
		time.Sleep(firstWait) // when the first may be forgotten
		good := &fakeSource{name: "good", now: now, answer: parts(fake().vcek(7, genoaTCB))}
		if err := l.Want(t.Context(), good); err != nil {
			t.Error(err)
		}
		time.Sleep(100 * time.Hour)
		if n := len(one.times()); n != 1 {
			t.Errorf("what failed and nobody wants is asked for %d times", n)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		slow := &fakeSource{name: "slow", now: now, answer: func() ([][]byte, error) { time.Sleep(time.Minute); return nil, errors.New("x") }}
		if err := l.Want(ctx, slow); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		if err := l.Want(t.Context(), &fakeSource{name: "../x"}); err == nil {
			t.Error("a path is a name")
		}
		time.Sleep(time.Minute)
	})
}

// TestWantedAgain: a wanted document is kept fresh while the process runs, and after a restart once it is wanted again.
func TestWantedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := clock()
		dir := t.TempDir()
		l := newLab(t, now, dir, fake().installed())
		s := tcbSource(now)
		if err := l.Want(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		time.Sleep(25 * time.Hour)
		synctest.Wait()
		if n := len(s.times()); n != 3 {
			t.Errorf("asked %d times in 25 hours", n)
		}
		l.stop()
		l = newLab(t, now, dir, fake().installed())
		time.Sleep(25 * time.Hour)
		if n := len(s.times()); n != 3 || len(l.evaluations()) != 1 {
			t.Errorf("asked %d times, and %d are here", n, len(l.evaluations()))
		}
		if err := l.Want(t.Context(), s); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if n := len(s.times()); n != 4 {
			t.Errorf("asked %d times", n)
		}
	})
}

// TestMovingSource: a chip that may be another the next time is asked for each day.
func TestMovingSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := clock()
		v := fake()
		n := byte(0)
		s := source{name: "thim", moving: true, fetch: func(context.Context) ([][]byte, error) {
			n++
			return [][]byte{v.vcek(n, genoaTCB), v.ask.pem(), v.ark.pem()}, nil
		}}
		r, err := New(Config{
			Dir: t.TempDir(), Now: now, After: time.After, Random: rand.Reader, Sources: []Source{s}, Every: 24 * time.Hour,
			Base: func() (*endorse.Snapshot, error) { return endorse.New(v.installed()) },
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { r.Run(ctx); close(done) }()
		time.Sleep(50 * time.Hour)
		synctest.Wait()
		cancel()
		<-done
		if x := r.Snapshot().Index(); n != 3 || len(x.Certificates) != 4 {
			t.Errorf("asked %d times, %d certificates", n, len(x.Certificates))
		}
	})
}

// TestCache: what the disk holds is checked as an answer is.
func TestCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := clock()
		v := fake()
		dir := t.TempDir()
		tcb, crl := tcbSource(now), crlSource(now)
		l := newLab(t, now, dir, v.installed(), tcb, crl)
		synctest.Wait()
		digest := l.Snapshot().Digest()
		if _, err := New(Config{Dir: dir, Now: now, After: time.After, Random: rand.Reader, Base: l.base}); !errors.Is(err, durable.ErrLocked) {
			t.Errorf("opened twice: %v", err)
		}
		l.stop()
		read := func(name string) []byte {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		write := func(name string, b []byte) {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		good, memory := read("tcb"+recordSuffix), read(marksName)
		reopen := func(name string, infos int, sources ...*fakeSource) {
			t.Helper()
			l := newLab(t, now, dir, v.installed(), sources...)
			defer l.stop()
			synctest.Wait()
			if n := len(l.evaluations()); n != infos {
				t.Errorf("%s: %d infos, want %d", name, n, infos)
			}
		}
		asked := len(tcb.times())
		l = newLab(t, now, dir, v.installed(), tcb, crl)
		if l.Snapshot().Digest() != digest || len(tcb.times()) != asked {
			t.Error("a restart gives another snapshot, or asks")
		}
		l.stop()
		reopen("as it was", 1)

		encode := func(r record) []byte {
			b, err := signed.Encode(r)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		var rec record
		if err := signed.Decode(good, &rec); err != nil {
			t.Fatal(err)
		}
		edited := rec
		edited.Parts = slices.Clone(rec.Parts)
		edited.Parts[0] = bytes.Replace(rec.Parts[0], []byte(":18"), []byte(":99"), 1)
		early := rec
		early.Fetched = start.Add(time.Hour).Unix()
		foreign := rec
		stranger := issue(tcbSigner, nil, true)
		foreign.Parts = [][]byte{stranger.signedBody("tcbInfo", body("TDX", testFMSPC, 99, start, start.AddDate(0, 1, 0))), stranger.Raw}
		for name, b := range map[string][]byte{
			"empty": nil, "half": good[:len(good)/2], "a byte more": append(bytes.Clone(good), 0), "large": make([]byte, maxRecord+1),
			"edited": encode(edited), "to come": encode(early), "a stranger's": encode(foreign), "another's name": read("crl" + recordSuffix),
		} {
			write("tcb"+recordSuffix, b)
			reopen(name, 0)
			reopen(name+", and asked again", 1, tcb)
			if !bytes.Equal(read(marksName), memory) {
				t.Errorf("%s: another memory", name)
			}
		}
		write("..evil"+recordSuffix, good)
		write("tcb-2"+recordSuffix, good)
		c, err := openCache(dir)
		if err != nil {
			t.Fatal(err)
		}
		records, _, broken, err := c.load()
		if len(records) != 2 || len(broken) != 2 || err != nil {
			t.Errorf("under other names: %d records, broken %v, %v", len(records), broken, err)
		}
		if err := c.close(); err != nil {
			t.Fatal(err)
		}
		reopen("under other names", 1)
		// A record that is ahead of the memory, as a crash leaves it, raises it.
		if err := os.Remove(filepath.Join(dir, marksName)); err != nil {
			t.Fatal(err)
		}
		reopen("without the memory", 1)
		if !bytes.Equal(read(marksName), memory) {
			t.Error("the memory is not raised by what is there")
		}
		for name, b := range map[string][]byte{"empty": nil, "half": memory[:len(memory)/2], "a byte more": append(bytes.Clone(memory), 0), "large": make([]byte, maxMarks+1)} {
			write(marksName, b)
			if _, err := New(Config{Dir: dir, Now: now, After: time.After, Random: rand.Reader, Base: l.base}); err == nil {
				t.Errorf("a memory that is %s is no memory", name)
			}
		}
	})
}

func TestConfig(t *testing.T) {
	good := func() Config {
		return Config{
			Dir: t.TempDir(), Now: at(start), After: time.After, Random: rand.Reader,
			Base: func() (*endorse.Snapshot, error) { return endorse.New(nil) },
		}
	}
	for name, change := range map[string]func(*Config){
		"no base":     func(c *Config) { c.Base = nil },
		"no clock":    func(c *Config) { c.Now = nil },
		"no timer":    func(c *Config) { c.After = nil },
		"no chance":   func(c *Config) { c.Random = nil },
		"no folder":   func(c *Config) { c.Dir = filepath.Join(c.Dir, "a\x00") },
		"a bad name":  func(c *Config) { c.Sources = []Source{&fakeSource{name: "a/b"}} },
		"a name long": func(c *Config) { c.Sources = []Source{&fakeSource{name: strings.Repeat("a", maxName+1)}} },
		"one twice":   func(c *Config) { c.Sources = []Source{&fakeSource{name: "a"}, &fakeSource{name: "a"}} },
		"base fails":  func(c *Config) { c.Base = func() (*endorse.Snapshot, error) { return nil, endorse.ErrExpired } },
	} {
		c := good()
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	c := good()
	c.Base = func() (*endorse.Snapshot, error) { return snapshotOf(t, fake().installed()), endorse.ErrExpired }
	r, err := New(c)
	if err != nil || len(r.Snapshot().Index().Anchors()) != 2 || !errors.Is(r.Status()[0].Err, endorse.ErrExpired) {
		t.Fatalf("what has not expired: %v", err)
	}
	if r, err = New(good()); err != nil {
		t.Fatal(err)
	}
	if r.Snapshot() == nil {
		t.Error("no snapshot")
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// TestIssuerOfItsOwn: with the root alone installed, a chip's certificate is taken once its issuer has come from another
// source, and is still there when the cache is read again; a stranger's issuer is none.
func TestIssuerOfItsOwn(t *testing.T) {
	v := fake()
	dir := t.TempDir()
	base := snapshotOf(t, map[string][]byte{"ark.pem": v.ark.pem()})
	synctest.Test(t, func(t *testing.T) {
		now := clock()
		chain := &fakeSource{name: "z-chain", now: now, answer: parts(v.ask.pem(), v.ark.pem())} // read after the chip's
		chip := &fakeSource{name: "a-chip", now: now, answer: parts(v.vcek(7, genoaTCB))}
		other := issue("SEV-Genoa", nil, true)
		stranger := &fakeSource{name: "stranger", now: now, answer: parts(issue("SEV-VCEK", &other, false).Raw)}
		l := newLab(t, now, dir, base.Files())
		defer l.stop()
		if err := l.Want(t.Context(), chip); err == nil || !strings.Contains(err.Error(), "unknown authority") {
			t.Errorf("before its issuer: %v", err)
		}
		if err := l.Want(t.Context(), chain); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		if err := l.Want(t.Context(), chip); err != nil {
			t.Errorf("after its issuer: %v", err)
		}
		if err := l.Want(t.Context(), stranger); err == nil {
			t.Error("a stranger's was taken")
		}
		if err := l.Ask(chip); err != nil || len(chip.times()) != 2 {
			t.Errorf("what is held was asked for: %v, %d times", err, len(chip.times()))
		}
	})
	for range 10 { // whichever is read first
		all, err := Cached(dir, base, start.Add(time.Hour))
		if err != nil || len(all) != 2 || all[0].Err != nil || all[1].Err != nil || all[0].Name != "a-chip" {
			t.Fatalf("%+v, %v", all, err)
		}
	}
	all, err := Cached(dir, snapshotOf(t, nil), start.Add(time.Hour))
	if err != nil || len(all) != 2 || all[0].Err == nil {
		t.Errorf("without the root: %+v, %v", all, err)
	}
	if all, err := Cached(filepath.Join(dir, "none"), base, start); err != nil || all != nil {
		t.Errorf("no cache: %+v, %v", all, err)
	}
}
