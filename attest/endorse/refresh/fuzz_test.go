package refresh

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
)

// transport answers without a network.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// FuzzAnswer: whatever Intel's service, or who speaks for it, writes into body and header, what is admitted is signed
// by the vendor, is what was asked for, and is admitted again from the form in which the cache keeps it.
func FuzzAnswer(f *testing.F) {
	v := fake()
	chain := slices.Concat(v.tcbSigning.pem(), v.intelRoot.pem())
	f.Add(v.info(18, start), url.PathEscape(string(chain)), "")
	f.Add(v.info(18, start), url.QueryEscape(string(chain)), "17")
	f.Add(v.identity(18, start), string(chain), "Sun, 01 Nov 2026 12:00:00 GMT")
	f.Add([]byte(nil), "-----BEGIN%20CERTIFICATE-----", "")
	a := newAuthority(snapshotOf(f, v.installed()), start)
	f.Fuzz(func(t *testing.T, b []byte, header, retry string) {
		pcs := NewPCS(transport(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Header: http.Header{http.CanonicalHeaderKey("TCB-Info-Issuer-Chain"): {header}}, Body: io.NopCloser(bytes.NewReader(b))}, nil
		}), "", at(start))
		if d := retryAfter(retry, start); d < 0 {
			t.Fatalf("after %s", d)
		}
		ps, err := must(pcs.TCBInfo(testFMSPC)).Fetch(context.Background())
		if err != nil {
			return
		}
		x, err := a.admit("tcb", ps, "", start)
		if err != nil {
			return
		}
		if len(x.infos) != 1 || !signedJSON(v.tcbSigning.Certificate, x.infos[0]) || x.infos[0].Head.FMSPC != testFMSPC {
			t.Fatalf("admitted %+v", x.infos)
		}
		again, err := a.admit("tcb", x.parts(), "", start)
		if err != nil || !maps.Equal(again.marks, x.marks) {
			t.Fatalf("not admitted again: %v", err)
		}
	})
}

// FuzzAdmit: what is admitted is under the steward's anchors, in parts of any kind.
func FuzzAdmit(f *testing.F) {
	v := fake()
	f.Add(v.vcek(7, genoaTCB), v.ask.pem())
	f.Add(v.ark.crl(start, start.AddDate(1, 0, 0)), v.ark.pem())
	f.Add(v.identity(18, start), v.tcbSigning.Raw)
	stranger := issue("ARK-Genoa", nil, true)
	f.Add(stranger.crl(start, start.AddDate(1, 0, 0)), stranger.Raw)
	a := newAuthority(snapshotOf(f, v.installed()), start)
	f.Fuzz(func(t *testing.T, one, two []byte) {
		x, err := a.admit("a", [][]byte{one, two}, "", start)
		if err != nil {
			return
		}
		if len(x.anchors) != 0 {
			t.Fatal("an anchor was brought")
		}
		for _, c := range slices.Concat(x.chips, x.others, x.known) {
			if a.chain(c, a.index, start) != nil {
				between := snapshotOf(t, map[string][]byte{"1": one, "2": two}).Index()
				if a.chain(c, between, start) != nil {
					t.Fatalf("%s is under no anchor", c.Subject)
				}
			}
		}
		if again, err := a.admit("a", x.parts(), "", start); err != nil || !maps.Equal(again.marks, x.marks) {
			t.Fatalf("not admitted again: %v", err)
		}
	})
}

// FuzzNeeds: evidence of any form asks for what can be asked for, or is an error.
func FuzzNeeds(f *testing.F) {
	kds, pcs := NewKDS(nil, "", at(start)), NewPCS(nil, "", at(start))
	report := make([]byte, 1184)
	report[0] = 3
	f.Add(report)
	f.Add(slices.Concat([]byte("quote"), fake().platformCA.pem()))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, ask := range []func([]byte) ([]Source, error){kds.ForReport, pcs.ForQuote} {
			ss, err := ask(b)
			if err != nil {
				continue
			}
			for _, s := range ss {
				if err := checkName(s.Name()); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// TestRace: everything at once, for the race detector.
func TestRace(t *testing.T) {
	v := fake()
	var mu sync.Mutex
	n := 0
	base := func() (*endorse.Snapshot, error) {
		mu.Lock()
		defer mu.Unlock()
		n++
		files := v.installed()
		files["note"] = fmt.Append(nil, n%3)
		return endorse.New(files)
	}
	s := serve(t, genuine(v, at(start)))
	pcs := NewPCS(s.Transport, "", func() time.Time { return time.Now() }) // with its limit of requests
	tcb := must(pcs.TCBInfo(testFMSPC))
	r, err := New(Config{Dir: t.TempDir(), Base: base, Sources: []Source{tcb, pcs.RootCRL()}, Now: at(start.Add(time.Hour)), After: time.After, Random: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { r.Run(ctx) })
	for i := range 4 {
		wg.Go(func() {
			for j := 0; ctx.Err() == nil; j++ {
				r.Snapshot().Index().Anchors()
				r.Status()
				r.Changed()
				r.Reload()
				if err := r.Offer(v.vcek(byte(4*j+i), attest.SNPTCB{})); err != nil {
					t.Error(err)
				}
				if err := r.Want(ctx, pcs.QEIdentity()); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	if x := r.Snapshot().Index(); len(x.TCBInfos) != 1 || len(x.QEIdentities) != 1 || len(x.CRLs) != 1 {
		t.Errorf("%d, %d, %d", len(x.TCBInfos), len(x.QEIdentities), len(x.CRLs))
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// BenchmarkIndexOfChips is what a snapshot with as many chips as there may be costs the first verification with it.
func BenchmarkIndexOfChips(b *testing.B) {
	v := fake()
	files := v.installed()
	for i := range MaxChips {
		files["chips.der"] = append(files["chips.der"], v.vcek(byte(i), genoaTCB)...)
	}
	for b.Loop() {
		snapshotOf(b, files).Index()
	}
}

func BenchmarkOffer(b *testing.B) {
	v := fake()
	r, err := New(Config{Dir: b.TempDir(), Base: func() (*endorse.Snapshot, error) { return endorse.New(v.installed()) }, Now: at(start), After: time.After, Random: rand.Reader})
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	for b.Loop() {
		if err := r.Offer(v.vcek(1, genoaTCB)); err != nil {
			b.Fatal(err)
		}
	}
}
