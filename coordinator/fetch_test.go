package coordinator_test

import (
	"context"
	"crypto/sha512"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/reference"
	"github.com/consilium-fl/consilium/attest/testtee/amd"
	"github.com/consilium-fl/consilium/attest/testtee/services"
	"github.com/consilium-fl/consilium/coordinator"
	"github.com/consilium-fl/consilium/coordinator/wire"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/transport"
)

// bare is a guest whose host hands out no certificate.
type bare struct{ attest.Attester }

func (b bare) Attest(ctx context.Context, of attest.Binding) (attest.Evidence, error) {
	e, err := b.Attester.Attest(ctx, of)
	e.Endorsements = nil
	return e, err
}

// fetching is a coordinator that takes SNP machines, trusts the root of a fake AMD, and asks its service.
type fetching struct {
	*federation
	kds   *services.AMD
	vends *services.Server
	begin time.Time

	stopFetching func()
}

// hurry is how much faster the time of what is fetched goes by: AMD's service is asked once in ten seconds.
const hurry = 600

func (f *fetching) now() time.Time { return f.begin.Add(time.Since(f.begin) * hurry) }

func newFetching(t *testing.T) *fetching {
	t.Helper()
	world := amd.Shared()
	f := &fetching{federation: found(t, study.Accept{Reference: "nodes"}, "basel", "cleveland", "hungarian", "va"), kds: services.NewAMD(world), begin: time.Now()}
	f.vends = services.Serve(t, f.kds)
	f.attester, f.machine = bare{world.Attester(amd.Options{})}, "snp"
	f.write("trust/ark.pem", amd.PEM(world.ARK(amd.Genoa)))
	f.write("references/nodes-1.json", f.snpManifest())
	f.configure("fetch: [amd]\nown_roots: true\n")
	f.change = f.fetch
	return f
}

func (f *fetching) configure(more string) {
	f.write("coordinator.yaml", append(must(os.ReadFile(f.path("coordinator.yaml")))(f.t), more...))
}

// fetch is what the daemon does beside the coordinator.
func (f *fetching) fetch(d *coordinator.Deps) {
	f.t.Helper()
	c := must(coordinator.ReadConfig(f.path("coordinator.yaml")))(f.t)
	c.Fetch.Transport, c.Fetch.Now, c.Fetch.Every = f.vends.Transport, f.now, time.Minute
	c.Fetch.After = func(d time.Duration) <-chan time.Time { return time.After(d / hurry) }
	x, err := wire.Fetch(c, d)
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var beside sync.WaitGroup
	beside.Go(func() { x.Run(ctx) })
	beside.Go(func() { d.Grounds.Watch(ctx, time.Minute, nil, d.Logger) })
	f.stopFetching = sync.OnceFunc(func() {
		cancel()
		beside.Wait()
		if err := x.Close(); err != nil {
			f.t.Error(err)
		}
	})
	f.t.Cleanup(f.stopFetching)
}

func (f *fetching) snpManifest() []byte {
	f.t.Helper()
	measurement := sha512.Sum384([]byte("a measurement"))
	now := time.Now().UTC()
	payload := fmt.Appendf(nil, `version: consilium.reference/v1
name: nodes
consortium: heart.example
role: node
serial: 1
least: 1
valid: {from: %s, until: %s}
policy:
  accept: [snp/1]
  allow_simulated: false
  measurements: ["sha384:%x"]
  machines: any
  max_age: 1h
  deny_generations: []
  warn_generations: []
  revocation: true
  endorsement_age: 0s
  grace: 0s
  snp:
    signers: [vcek]
    csps: []
    min_report_version: 3
    vmpl: ["0"]
    guest_policy: {allow: [smt], require: []}
    min_abi: "0.0"
    platform: {allow: [smt], require: [ecc, alias_check]}
    provisional: false
    tcb:
      "19/11/01": {minimum: {fmc: 0, bootloader: 10, tee: 0, snp: 23, ucode: 84}, launch: {fmc: 0, bootloader: 0, tee: 0, snp: 0, ucode: 0}, firmware: "1.55.0", launch_mitigations: 0, current_mitigations: 0}
    id_keys: [zero]
    author_keys: [zero]
    host_data: [zero]
    min_guest_svn: 0
`, now.AddDate(0, 0, -1).Format(time.RFC3339), now.AddDate(0, 0, 1).Format(time.RFC3339), measurement)
	var e []byte
	for _, h := range f.hospitals {
		e = must(reference.Sign(payload, e, f.governance[h]))(f.t)
	}
	return e
}

// reasons are the coordinator's for a refusal: code and path.
func reasons(err error) []string {
	if refused, ok := errors.AsType[*transport.Refused](err); ok {
		return refused.Reasons
	}
	return nil
}

// joins has a hospital try until it is admitted, and returns the reasons of the first refusal.
func (f *fetching) joins(h *hospital, s *study.Study) (first []string) {
	f.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := h.join(s)
		if err == nil {
			return first
		}
		if first == nil {
			first = reasons(err)
		}
		if time.Now().After(end) {
			f.t.Fatalf("%s is not admitted: %v", h.name, err)
		}
	}
}

// TestFetch, over real connections: a machine whose evidence brings no certificate is refused for want of it, the
// coordinator asks AMD's service, and the next attempt is admitted. AMD's list then ends the session. With the service
// away, what was fetched serves over a restart.
func TestFetch(t *testing.T) {
	f := newFetching(t)
	_, stop := f.serve()
	s := f.propose("away: 2s", "away: 4s")
	f.approve(s)
	h := f.newHospital("basel", 1)
	if first := f.joins(h, s); !slices.Contains(first, attest.CodeChain+": endorsements.vcek") {
		t.Errorf("first refused for %q, want the missing certificate", first)
	}
	asked := strings.Join(f.vends.Requests(), "\n")
	for _, want := range []string{"https://kdsintf.amd.com/vcek/v1/Genoa/crl", "https://kdsintf.amd.com/vcek/v1/Genoa/cert_chain", "?blSPL=10&teeSPL=00&snpSPL=23&ucodeSPL=84"} {
		if !strings.Contains(asked, want) {
			t.Errorf("asked for\n%s\nand not for %s", asked, want)
		}
	}
	stop()
	f.stopFetching()

	f.vends.Set(services.Down)
	_, stop = f.serve()
	again := f.newHospital("basel", 2)
	if first := f.joins(again, s); first != nil {
		t.Errorf("with the service away, and a cache: refused for %q", first)
	}
	if held := must(filepath.Glob(f.path("state/endorsements/*.record")))(t); len(held) < 3 {
		t.Errorf("the cache holds %q", held)
	}

	f.kds.SetList(amd.Genoa, amd.Shared().CRL(amd.Genoa, f.begin.Add(-time.Hour), amd.Until, amd.Shared().ASK(amd.Genoa)))
	connected := make(chan struct{})
	once := sync.OnceFunc(func() { close(connected) })
	again.hear = func(transport.FollowItem) { once() }
	again.silence("that it is refused")
	again.play(s)
	<-connected
	f.vends.Set(f.kds)
	f.watch(s, func(e transport.WatchEvent) bool {
		return e.Kind == "refused" && e.Hospital == "basel" && strings.Contains(e.Text, "trust.changed, revoked")
	})
	if err := f.newHospital("cleveland", 1).join(s); !slices.ContainsFunc(reasons(err), func(r string) bool { return strings.HasPrefix(r, attest.CodeRevoked+": ") }) {
		t.Errorf("after the revocation: %v", err)
	}
	stop()
}
