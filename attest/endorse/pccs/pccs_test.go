package pccs

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/attest/endorse/refresh"
	"github.com/consilium-fl/consilium/attest/endorse/roots"
	"github.com/consilium-fl/consilium/attest/testtee/intel"
	"github.com/consilium-fl/consilium/attest/testtee/services"
	"github.com/consilium-fl/consilium/attest/testtee/shared"
)

type object = map[string]any

// collaterals is what Intel's tool writes of a fake Intel.
func collaterals(x *intel.Intel, m intel.Machine) object {
	trust := x.Trust(m)
	processor := x.CRL(x.Processor, intel.Now().AddDate(0, 0, -7), intel.Now().AddDate(0, 0, 23))
	chain := services.IssuerChain(x.Signing.Cert, x.Root.Cert)
	info := json.RawMessage(trust[intel.TCBInfoFile])
	return object{
		"version": 4,
		"pck_certs": []object{{
			"qe_id": "00", "pce_id": "0000", "enc_ppid": "secret", "platform_manifest": "secret",
			"certs": []object{{"tcbm": "00", "cert": services.IssuerChain(x.PCK(m).Cert)}},
		}},
		"tcbinfos":     []object{{"fmspc": "00806F050000", "sgx_tcbinfo": info, "tdx_tcbinfo": info, "tdx_tcbinfo_early": info}, {"fmspc": "00906ED50000", "sgx_tcbinfo": info}},
		"pckcacrl":     object{"processorCrl": hex.EncodeToString(processor), "platformCrl": hex.EncodeToString(trust[intel.PCKCRLFile])},
		"qeidentity":   "{}",
		"tdqeidentity": string(trust[intel.QEIdentityFile]),
		"qveidentity":  "{}",
		"certificates": object{
			"SGX-PCK-Certificate-Issuer-Chain":  object{"platform": services.IssuerChain(x.Platform.Cert, x.Root.Cert)},
			"TCB-Info-Issuer-Chain":             chain,
			"SGX-Enclave-Identity-Issuer-Chain": chain,
		},
		"rootcacrl_cdp": intel.RootCRLURL,
		"rootcacrl":     hex.EncodeToString(trust[intel.RootCRLFile]),
	}
}

// encode writes a file with blanks in it, as the tool does, which reads documents and writes them again.
func encode(t testing.TB, c object) []byte {
	t.Helper()
	b, err := json.MarshalIndent(object{"platforms": []object{{"enc_ppid": "secret"}}, "collaterals": c}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRead(t *testing.T) {
	x, m := intel.New(nil), intel.NewMachine()
	b := encode(t, collaterals(x, m))
	if !Is(b) || Is([]byte("{}")) || Is(append([]byte("x"), b...)) {
		t.Error("not told from others")
	}
	c, err := Read(b)
	if err != nil {
		t.Fatal(err)
	}
	if got := slices.Sorted(maps.Keys(c.Files)); !slices.Equal(got, []string{"intel-crl-platform.der", "intel-crl-processor.der", "intel-crl-root.der", "intel-qe.json", "intel-tcb-00806f050000.json"}) {
		t.Errorf("files %q", got)
	}
	for name, f := range c.Files {
		if bytes.Contains(f, []byte("secret")) {
			t.Errorf("%s: a platform's own", name)
		}
	}
	signers, err := endorse.New(map[string][]byte{"a": c.Signers})
	if err != nil || len(signers.Index().Certificates) != 2 || len(signers.Index().Anchors()) != 0 {
		t.Errorf("%d certificates, %d anchors, %v", len(signers.Index().Certificates), len(signers.Index().Anchors()), err)
	}

	base, err := endorse.New(map[string][]byte{"root.der": x.Root.Cert.Raw})
	if err != nil {
		t.Fatal(err)
	}
	wrong := refresh.Check(base, c.Files, c.Signers, intel.Now())
	if len(wrong) != 1 || !errors.Is(wrong["intel-crl-processor.der"], refresh.ErrNoSigner) {
		t.Errorf("all but the list whose issuer is not there: %v", wrong)
	}
	if wrong := refresh.Check(roots.Snapshot(), c.Files, c.Signers, intel.Now()); len(wrong) != len(c.Files) {
		t.Errorf("under another root: %v", wrong)
	}
	if wrong := refresh.Check(base, c.Files, c.Signers, intel.Now().AddDate(0, 0, 23)); len(wrong) != len(c.Files) || !errors.Is(wrong["intel-qe.json"], endorse.ErrExpired) {
		t.Errorf("past its end: %v", wrong)
	}
	newer := intel.NewQEIdentity()
	newer.EvaluationNumber++
	later := x.CRL(x.Root, intel.Now().AddDate(0, 0, -1), intel.Now().AddDate(0, 0, 23))
	if base, err = endorse.New(map[string][]byte{"root.der": x.Root.Cert.Raw, "s.der": x.Signing.Cert.Raw, "qe.json": x.QEIdentity(newer), "root.crl": later}); err != nil {
		t.Fatal(err)
	}
	wrong = refresh.Check(base, c.Files, c.Signers, intel.Now())
	if len(wrong) != 3 || !errors.Is(wrong["intel-qe.json"], refresh.ErrOlder) || !errors.Is(wrong["intel-crl-root.der"], refresh.ErrOlder) {
		t.Errorf("older than what is there: %v", wrong)
	}
}

// TestRealCollateral: real documents that a tool wrote with other blanks are signed again once they are read.
func TestRealCollateral(t *testing.T) {
	var genuine map[string]string
	if err := json.Unmarshal(shared.File(t, "tdx/v4-phala.collateral.json"), &genuine); err != nil {
		t.Fatal(err)
	}
	info := []byte(`{"tcbInfo":` + genuine["tcb_info"] + `,"signature":"` + genuine["tcb_info_signature"] + `"}`)
	c, err := Read(encode(t, object{
		"version":  4,
		"tcbinfos": []object{{"fmspc": "B0C06F000000", "tdx_tcbinfo": json.RawMessage(info)}},
		"certificates": object{
			"TCB-Info-Issuer-Chain": genuine["tcb_info_issuer_chain"],
		},
	}))
	if err != nil {
		t.Fatal(err)
	}
	if wrong := refresh.Check(roots.Snapshot(), c.Files, c.Signers, time.Date(2025, 6, 25, 12, 0, 0, 0, time.UTC)); len(wrong) != 0 || len(c.Files) != 1 {
		t.Errorf("%v", wrong)
	}
}

func TestRefused(t *testing.T) {
	x, m := intel.New(nil), intel.NewMachine()
	for name, c := range map[string]struct {
		change func(object)
		want   string
	}{
		"another version":  {func(o object) { o["version"] = 3 }, "version 3, want 4"},
		"no version":       {func(o object) { delete(o, "version") }, "version 0"},
		"another FMSPC":    {func(o object) { o["tcbinfos"].([]object)[0]["fmspc"] = "00806F050001" }, "tcbinfos[0].tdx_tcbinfo"},
		"a path":           {func(o object) { o["tcbinfos"].([]object)[0]["fmspc"] = "../../../x" }, "12 digits of hex"},
		"one twice":        {func(o object) { l := o["tcbinfos"].([]object); o["tcbinfos"] = append(l, l[0]) }, "there once"},
		"another identity": {func(o object) { o["tdqeidentity"] = "{}" }, "tdqeidentity: it is not the signed document"},
		"no JSON":          {func(o object) { o["tdqeidentity"] = "{" }, "tdqeidentity"},
		"a list in base64": {func(o object) { o["rootcacrl"] = "MIIB" }, "list of the root authority"},
		"no list":          {func(o object) { o["rootcacrl"] = hex.EncodeToString(x.Root.Cert.Raw) }, "list of the root authority"},
		"a list and more":  {func(o object) { o["rootcacrl"] = o["rootcacrl"].(string) + "00" }, "list of the root authority"},
		"no chain":         {func(o object) { o["certificates"].(object)["TCB-Info-Issuer-Chain"] = "x" }, "a chain that is none"},
		"SGX alone":        {func(o object) { clear(o); o["version"] = 4 }, "nothing in it"},
		"other types":      {func(o object) { o["tcbinfos"] = "x" }, "cannot unmarshal"},
	} {
		o := collaterals(x, m)
		c.change(o)
		if _, err := Read(encode(t, o)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, err := Read([]byte(`{"platforms":[]}`)); err == nil || !strings.Contains(err.Error(), "no collaterals") {
		t.Errorf("something else: %v", err)
	}
	if _, err := Read(make([]byte, MaxFile+1)); err == nil || !strings.Contains(err.Error(), "want at most") {
		t.Errorf("too much: %v", err)
	}
}

// FuzzRead: what comes out is what it is named, and brings no anchor.
func FuzzRead(f *testing.F) {
	x, m := intel.New(nil), intel.NewMachine()
	f.Add(encode(f, collaterals(x, m)))
	f.Add([]byte(`{"collaterals":{"version":4}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Read(b)
		if err != nil {
			return
		}
		files := maps.Clone(c.Files)
		if len(c.Signers) > 0 {
			files["signers"] = c.Signers
		}
		s, err := endorse.New(files)
		if err != nil {
			return // more than a snapshot holds
		}
		if i := s.Index(); len(i.Unknown) > 0 || len(i.Anchors()) > 0 || len(i.KeySets) > 0 {
			t.Errorf("unknown %q, %d anchors", i.Unknown, len(i.Anchors()))
		}
	})
}
