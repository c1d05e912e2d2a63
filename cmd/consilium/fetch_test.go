package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest/endorse/bundle"
	"github.com/consilium-fl/consilium/attest/testtee/intel"
	"github.com/consilium-fl/consilium/attest/testtee/services"
	"github.com/consilium-fl/consilium/internal/keyfile"
)

// TestFetchInParts: what came is in the bundle, what did not is named, and the exit code says so unless told otherwise.
func TestFetchInParts(t *testing.T) {
	x, m := intel.New(nil), intel.NewMachine()
	good := services.NewIntel(x, m)
	partly := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/tcb") {
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		}
		good.ServeHTTP(w, r)
	})
	s := services.Serve(t, partly)
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	put := func(name string, b []byte) {
		if err := os.WriteFile(in(name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	quote := x.Quote(x.PCK(m), intel.NewTD([64]byte{1}))
	put("quote.bin", quote)
	put("again.bin", quote)
	put("root.der", x.Root.Cert.Raw)
	if err := keyfile.Write(in("key"), ed25519.NewKeyFromSeed(make([]byte, 32))); err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	fetch := func(more ...string) (code int, out bundleResult, stdout, stderr string) {
		var o, e bytes.Buffer
		a := &app{stdout: &o, stderr: &e, vendors: s.Transport, now: func() time.Time { return intel.Now().Add(time.Since(started) * 20) }}
		root := a.root()
		root.SetArgs(append([]string{"attest", "bundle", "fetch", "--key", in("key"), "--serial", "1", "--trust", in("root.der"), "--evidence", in("quote.bin"), "--evidence", in("again.bin")}, more...))
		code = a.explain(t.Context(), root.ExecuteContext(t.Context()))
		if a.json {
			if err := json.Unmarshal(o.Bytes(), &out); err != nil {
				t.Fatalf("%v: %s", err, o.String())
			}
		}
		return code, out, o.String(), e.String()
	}

	code, out, _, stderr := fetch("--json", "--out", in("part.tar"))
	if code != exitUnreachable || len(out.Missing) != 1 || out.Missing[0].Source != "intel-tcb-00806f050000" || !strings.Contains(out.Missing[0].Error, "answers 503") {
		t.Fatalf("exit %d, missing %+v", code, out.Missing)
	}
	if !strings.Contains(stderr, "intel-tcb-00806f050000") || !strings.Contains(stderr, "part.tar has the rest") || strings.Count(stderr, "asking for intel-qe") != 1 {
		t.Errorf("said %s", stderr)
	}
	b, err := os.ReadFile(in("part.tar"))
	if err != nil {
		t.Fatal(err)
	}
	part, err := bundle.Show(b)
	if err != nil {
		t.Fatal(err)
	}
	if i := part.Trust.Index(); len(i.CRLs) != 2 || len(i.QEIdentities) != 1 || len(i.TCBInfos) != 0 {
		t.Errorf("the bundle has %d lists, %d identities, %d TCB infos", len(i.CRLs), len(i.QEIdentities), len(i.TCBInfos))
	}

	if code, _, stdout, _ := fetch("--incomplete", "--out", in("enough.tar")); code != exitDone || !strings.Contains(stdout, "missing         intel-tcb-00806f050000: ") {
		t.Errorf("exit %d: %s", code, stdout)
	}
	s.Set(services.Down)
	if code, _, _, stderr := fetch("--incomplete", "--out", in("none.tar")); code != exitUnreachable || strings.Count(stderr, "answers 503") != 4 {
		t.Errorf("of nothing: exit %d: %s", code, stderr)
	}
	if _, err := os.Stat(in("none.tar")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a bundle of nothing: %v", err)
	}
	s.Set(good)
	if code, out, _, stderr := fetch("--json", "--out", in("whole.tar")); code != exitDone || len(out.Missing) != 0 {
		t.Errorf("exit %d, missing %+v: %s", code, out.Missing, stderr)
	}
}
