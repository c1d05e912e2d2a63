package node_test

import (
	"context"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse/roots"
	"github.com/consilium-fl/consilium/attest/testtee/amd"
	"github.com/consilium-fl/consilium/attest/testtee/services"
	"github.com/consilium-fl/consilium/node"
	"github.com/consilium-fl/consilium/node/wire"
)

func findings(fs []node.Finding) string {
	var all []string
	for _, f := range fs {
		kind := "problem"
		if f.Hint {
			kind = "hint"
		}
		all = append(all, kind+" "+f.Object+": "+f.Text)
	}
	return strings.Join(all, "\n")
}

// TestCheckFetched: check says what of the fetched endorsements is there, while another process works with them.
func TestCheckFetched(t *testing.T) {
	w := newWorld(t)
	w.own = "fetch: [amd]\nown_roots: true\n"
	if _, err := wire.Open(t.Context(), w.config(), quiet()); err == nil || !strings.Contains(err.Error(), `field "fetch" names "amd": no root of the vendor is in the trust folder`) {
		t.Errorf("without a root: %v", err)
	}
	w.write(amd.PEM(amd.Shared().ARK(amd.Genoa)), "trust", "ark.pem")
	w.write(amd.PEM(amd.Shared().ASK(amd.Genoa)), "trust", "ask.pem")
	c := w.config()
	d := must(wire.Open(t.Context(), c, quiet()))(t)
	if got := findings(must(node.Check(c, d, nil))(t)); got != "hint endorsements: none was fetched yet" {
		t.Errorf("before: %s", got)
	}

	s := services.Serve(t, services.NewAMD(amd.Shared()))
	const hurry = 1000 // AMD's service is asked once in ten seconds
	started := time.Now()
	c.Fetch.Transport, c.Fetch.Now = s.Transport, func() time.Time { return started.Add(time.Since(started) * hurry) }
	c.Fetch.After = func(d time.Duration) <-chan time.Time { return time.After(d / hurry) }
	f := must(wire.Fetch(c, &d))(t)
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() {
		defer close(over)
		f.Run(ctx)
	}()
	holds := func(name string) {
		t.Helper()
		for end := time.Now().Add(patience); len(must(filepath.Glob(filepath.Join(w.path("state", "endorsements"), name+".record")))(t)) == 0; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s was not fetched", name)
			}
		}
	}
	holds("amd-crl-vcek-Genoa")
	got := findings(must(node.Check(c, d, nil))(t))
	if !strings.HasPrefix(got, "hint endorsements amd-crl-vcek-Genoa: fetched 20") || !strings.HasSuffix(got, "issued 2000-01-01T00:00:00Z, ends 2099-01-01T00:00:00Z") {
		t.Errorf("after: %s", got)
	}
	// What the coordinator's evidence does not bring is asked for.
	report, _ := amd.Shared().Report(amd.Options{ReportData: [64]byte{1}})
	g, _ := d.Grounds.Current()
	r := d.Verifiers.Check(attest.Evidence{Format: attest.FormatSNP, Statement: report}, attest.Inputs{Now: started, ReportData: &[64]byte{1}, Trust: g.Trust},
		attest.Policy{Role: attest.RoleCoordinator, Accept: []attest.Format{attest.FormatSNP}})
	if len(r.Reasons) == 0 || r.Reasons[0].Code != attest.CodeChain {
		t.Errorf("without its certificate: %v", r.Reasons)
	}
	holds("amd-vcek-Genoa-*")
	cancel()
	<-over
	ok(t, f.Close())
}

// TestStartsWithoutVendors: a vendor that is away stops no node from starting; a root that is not the published one does.
func TestStartsWithoutVendors(t *testing.T) {
	w := newWorld(t)
	w.own = "fetch: [amd]\n"
	w.write(amd.PEM(amd.Shared().ARK(amd.Genoa)), "trust", "ark.pem")
	if _, err := wire.Open(t.Context(), w.config(), quiet()); err == nil || !strings.Contains(err.Error(), "own_roots: true") {
		t.Errorf("another's root: %v", err)
	}
	w.write(roots.Files()["amd-genoa.pem"], "trust", "ark.pem")
	c := w.config()
	d := must(wire.Open(t.Context(), c, quiet()))(t)
	s := services.Serve(t, http.NotFoundHandler())
	c.Fetch.Transport = s.Transport
	f := must(wire.Fetch(c, &d))(t)
	n := must(node.New(c, d))(t)
	ok(t, n.Close())
	ok(t, f.Close())
}
