package node_test

import (
	"context"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

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
	c.Fetch.Transport = s.Transport
	f := must(wire.Fetch(c, &d))(t)
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() {
		defer close(over)
		f.Run(ctx)
	}()
	held := func() bool {
		return len(must(filepath.Glob(filepath.Join(w.path("state", "endorsements"), "*.record")))(t)) == 1
	}
	for end := time.Now().Add(patience); !held(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nothing was fetched")
		}
	}
	got := findings(must(node.Check(c, d, nil))(t))
	if !strings.HasPrefix(got, "hint endorsements amd-crl-vcek-Genoa: fetched 20") || !strings.HasSuffix(got, "issued 2000-01-01T00:00:00Z, ends 2099-01-01T00:00:00Z") {
		t.Errorf("after: %s", got)
	}
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
