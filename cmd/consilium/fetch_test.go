package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest/endorse"
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

// TestImportCollateral: of what Intel's tool fetched, the parts that lead to a root go into the trust folder, or none do.
func TestImportCollateral(t *testing.T) {
	x, m := intel.New(nil), intel.NewMachine()
	trust := x.Trust(m)
	write := func(dir, name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	collaterals := func(qe []byte) []byte {
		b, err := json.Marshal(map[string]any{"platforms": []string{}, "collaterals": map[string]any{
			"version":      4,
			"tcbinfos":     []map[string]any{{"fmspc": "00806F050000", "tdx_tcbinfo": json.RawMessage(trust[intel.TCBInfoFile])}},
			"tdqeidentity": string(qe),
			"pckcacrl":     map[string]string{"platformCrl": hex.EncodeToString(trust[intel.PCKCRLFile])},
			"rootcacrl":    hex.EncodeToString(trust[intel.RootCRLFile]),
			"certificates": map[string]any{"TCB-Info-Issuer-Chain": services.IssuerChain(x.Signing.Cert, x.Root.Cert)},
		}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	run := func(args ...string) (int, string, string) {
		var o, e bytes.Buffer
		a := &app{stdout: &o, stderr: &e, now: intel.Now}
		root := a.root()
		root.SetArgs(append([]string{"attest", "bundle", "import"}, args...))
		code := a.explain(t.Context(), root.ExecuteContext(t.Context()))
		return code, o.String(), e.String()
	}
	file := write(t.TempDir(), "platform_collaterals.json", collaterals(trust[intel.QEIdentityFile]))
	has := func(dir string) int {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}

	stranger := t.TempDir()
	if code, _, stderr := run(file, "--dir", stranger); code != exitUnverified || has(stranger) != 0 || !strings.Contains(stderr, "nothing was written") {
		t.Errorf("without the root: exit %d, %d files: %s", code, has(stranger), stderr)
	}
	dir := t.TempDir()
	write(dir, "root.der", x.Root.Cert.Raw)
	if code, _, stderr := run(write(t.TempDir(), "forged.json", collaterals(bytes.Replace(trust[intel.QEIdentityFile], []byte(`"isvprodid":2`), []byte(`"isvprodid":3`), 1))), "--dir", dir); code != exitUnverified || has(dir) != 1 || !strings.Contains(stderr, "intel-qe.json: ") {
		t.Errorf("a forged part: exit %d, %d files: %s", code, has(dir), stderr)
	}
	code, stdout, _ := run(file, "--dir", dir)
	if code != exitDone || has(dir) != 5 || !strings.Contains(stdout, "left out  intel-crl-platform.der: ") {
		t.Errorf("exit %d, %d files: %s", code, has(dir), stdout)
	}
	s, err := endorse.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if i := s.Index(); len(i.Unknown) != 0 || len(i.Anchors()) != 1 || len(i.TCBInfos) != 1 || len(i.QEIdentities) != 1 || len(i.CRLs) != 1 {
		t.Errorf("unknown %q, %d anchors", i.Unknown, len(i.Anchors()))
	}
	if code, _, stderr := run(file, "--dir", dir); code != exitDone {
		t.Errorf("again: exit %d: %s", code, stderr)
	}
	if code, _, _ := run(file, "--dir", dir, "--key", "ed25519:00"); code != exitUsage {
		t.Errorf("with a key: exit %d", code)
	}
	if code, _, _ := run(write(t.TempDir(), "x.json", []byte(`{"collaterals":{}}`)), "--dir", dir); code != exitBadInput {
		t.Errorf("nothing in it: exit %d", code)
	}
	if code, _, _ := run(file, "--dir", filepath.Join(dir, "none")); code != exitBadInput {
		t.Errorf("no folder: exit %d", code)
	}
}
