// Package pccs reads the file in which Intel's administration tool for a PCCS brings collateral to where there is no way
// out, platform_collaterals.json (github.com/intel/SGXDataCenterAttestationPrimitives, tools/PccsAdminTool, the command
// `pccsadmin fetch`), and takes from it what TDX quotes are verified by, as files for a trust folder.
//
//	c, err := pccs.Read(b)
//	wrong := refresh.Check(base, c.Files, c.Signers, now) // by name
//
// Nothing in it is authentic before it is checked. What it says of a hospital's own platforms, encrypted PPIDs and PCK
// certificates among them, is left out: quotes bring theirs, and a snapshot is handed on. What Intel announces early is
// left out too, since what its service gives meanwhile would be older.
package pccs

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/consilium-fl/consilium/attest/endorse"
)

// MaxFile bounds a file, in bytes: what is known of all of Intel's platforms takes some four MiB.
const MaxFile = endorse.MaxTotal

// Collateral is what a file holds for verifiers of TDX quotes.
type Collateral struct {
	// Files are by name: intel-tcb-<FMSPC>.json, intel-qe.json, intel-crl-{root,platform,processor}.der.
	Files map[string][]byte
	// Signers are the certificates of who signed them, in PEM, for intel-signers.pem. There is no root among them: one in
	// a file of certificates would be an anchor.
	Signers []byte
}

type file struct {
	Collaterals *struct {
		Version  int `json:"version"` // of the service's API
		TCBInfos []struct {
			FMSPC string          `json:"fmspc"`
			TDX   json.RawMessage `json:"tdx_tcbinfo"`
		} `json:"tcbinfos"`
		PCKCRL struct {
			Processor string `json:"processorCrl"`
			Platform  string `json:"platformCrl"`
		} `json:"pckcacrl"`
		TDQE         json.RawMessage `json:"tdqeidentity"`
		Certificates struct {
			PCK map[string]string `json:"SGX-PCK-Certificate-Issuer-Chain"` // by kind of authority
			TCB string            `json:"TCB-Info-Issuer-Chain"`
			QE  string            `json:"SGX-Enclave-Identity-Issuer-Chain"`
		} `json:"certificates"`
		RootCRL string `json:"rootcacrl"`
	} `json:"collaterals"`
}

// Is reports whether bytes look like such a file, to whoever takes other files too.
func Is(b []byte) bool {
	b = bytes.TrimSpace(b)
	return len(b) <= MaxFile && bytes.HasPrefix(b, []byte("{")) && bytes.Contains(b, []byte(`"collaterals"`))
}

// Read takes a file apart.
func Read(b []byte) (Collateral, error) {
	c, err := read(b)
	if err != nil {
		return Collateral{}, fmt.Errorf("reading collateral of Intel's tool: %w", err)
	}
	return c, nil
}

func read(b []byte) (Collateral, error) {
	if len(b) > MaxFile {
		return Collateral{}, fmt.Errorf("%d bytes, want at most %d", len(b), MaxFile)
	}
	var f file
	if err := json.Unmarshal(b, &f); err != nil {
		return Collateral{}, err
	}
	x := f.Collaterals
	if x == nil {
		return Collateral{}, errors.New("no collaterals in it")
	}
	if x.Version != 4 {
		return Collateral{}, fmt.Errorf("collaterals.version %d, want 4: those before know no TDX", x.Version)
	}
	out := Collateral{Files: map[string][]byte{}}
	for i, t := range x.TCBInfos {
		if t.TDX == nil {
			continue // a kind of platform without TDX
		}
		fmspc := strings.ToLower(t.FMSPC)
		name := "intel-tcb-" + fmspc + ".json"
		if raw, err := hex.DecodeString(fmspc); err != nil || len(raw) != 6 || out.Files[name] != nil {
			return Collateral{}, fmt.Errorf("collaterals.tcbinfos[%d].fmspc %q, want 12 digits of hex that are there once", i, t.FMSPC)
		}
		if err := out.add(name, t.TDX, func(x *endorse.Index) bool {
			return len(x.TCBInfos) == 1 && x.TCBInfos[0].Head.ID == "TDX" && x.TCBInfos[0].Head.FMSPC == fmspc
		}); err != nil {
			return Collateral{}, fmt.Errorf("collaterals.tcbinfos[%d].tdx_tcbinfo: %w", i, err)
		}
	}
	if len(x.TDQE) > 0 && string(x.TDQE) != `""` && string(x.TDQE) != "null" {
		if err := out.add("intel-qe.json", x.TDQE, func(x *endorse.Index) bool {
			return len(x.QEIdentities) == 1 && x.QEIdentities[0].Head.ID == "TD_QE"
		}); err != nil {
			return Collateral{}, fmt.Errorf("collaterals.tdqeidentity: %w", err)
		}
	}
	for name, text := range map[string]string{"root": x.RootCRL, "platform": x.PCKCRL.Platform, "processor": x.PCKCRL.Processor} {
		if text == "" {
			continue
		}
		der, err := hex.DecodeString(text)
		if err != nil || !is(der, func(x *endorse.Index) bool { return len(x.CRLs) == 1 }) {
			return Collateral{}, fmt.Errorf("collaterals: the revocation list of the %s authority is none in hex", name)
		}
		out.Files["intel-crl-"+name+".der"] = der
	}
	if len(out.Files) == 0 {
		return Collateral{}, errors.New("nothing in it by which TDX quotes are verified")
	}
	chains := []string{x.Certificates.TCB, x.Certificates.QE}
	for _, c := range x.Certificates.PCK {
		chains = append(chains, c)
	}
	var err error
	out.Signers, err = signers(chains)
	return out, err
}

// add takes a document of Intel's: the text as it was, or one that was read and written again with other blanks. Intel
// signs it without any.
func (c *Collateral) add(name string, raw json.RawMessage, want func(*endorse.Index) bool) error {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		raw = json.RawMessage(text)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, raw); err != nil {
		return err
	}
	if !is(compact.Bytes(), want) {
		return errors.New("it is not the signed document that it is to be")
	}
	c.Files[name] = compact.Bytes()
	return nil
}

// is reports whether bytes are what is wanted.
func is(b []byte, want func(*endorse.Index) bool) bool {
	s, err := endorse.New(map[string][]byte{"x": b})
	return err == nil && want(s.Index())
}

// signers are the certificates of chains, each once and without roots.
func signers(chains []string) ([]byte, error) {
	files := map[string][]byte{}
	for i, c := range chains {
		if c != "" {
			files[fmt.Sprint(i)] = []byte(c)
		}
	}
	s, err := endorse.New(files)
	if err != nil {
		return nil, err
	}
	x := s.Index()
	if len(x.Unknown) > 0 {
		return nil, errors.New("collaterals.certificates: a chain that is none")
	}
	var blocks [][]byte
	for _, c := range x.Certificates {
		if !bytes.Equal(c.RawSubject, c.RawIssuer) {
			blocks = append(blocks, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
		}
	}
	slices.SortFunc(blocks, bytes.Compare)
	return slices.Concat(blocks...), nil
}
