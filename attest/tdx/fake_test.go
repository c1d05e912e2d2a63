package tdx_test

import (
	"bytes"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/tdx"
	fake "github.com/consilium-fl/consilium/attest/testtee/intel"
)

// world is a quote with everything that it is judged by; a test changes one thing.
type world struct {
	intel, quoted *fake.Intel // the second signs the platform
	machine       fake.Machine
	td            fake.TD
	tcb           fake.TCBInfo
	qe            fake.QEIdentity
	log           *fake.EventLog
	files         func(map[string][]byte) // changes the folder of trust
	endorsements  map[string][]byte
	edit          func(*attest.Policy)
	now           time.Time
	want          *[64]byte // expected report data; the quote's own when it is nil
}

func bound() (data [64]byte) { return sha512.Sum512([]byte("a binding")) }

func newWorld(change func(*x509.Certificate)) *world {
	w := &world{intel: fake.New(change), machine: fake.NewMachine(), td: fake.NewTD(bound()), qe: fake.NewQEIdentity(), now: fake.Now()}
	w.tcb = fake.NewTCBInfo(w.machine)
	return w
}

// sample is a quote with the folder, the moment, the binding and the policy that it is judged by.
type sample struct {
	evidence attest.Evidence
	files    map[string][]byte
	now      time.Time
	want     [64]byte
	policy   attest.Policy
}

func (w *world) sample() sample {
	s := sample{now: w.now, want: w.td.ReportData, files: w.intel.Trust(w.machine)}
	if w.want != nil {
		s.want = *w.want
	}
	if w.log != nil {
		w.endorsements = map[string][]byte{attest.CCEL: w.log.Bytes}
	}
	signer := w.signer()
	s.evidence = attest.Evidence{Format: attest.FormatTDX, Statement: signer.Quote(signer.PCK(w.machine), w.td), Endorsements: w.endorsements}
	s.files[fake.TCBInfoFile], s.files[fake.QEIdentityFile] = w.intel.TCBInfo(w.tcb), w.intel.QEIdentity(w.qe)
	if w.files != nil {
		w.files(s.files)
	}
	s.policy = exact(w.intel.Quote(w.intel.PCK(w.machine), fake.NewTD(bound())))
	s.policy.Revocation = true
	if w.edit != nil {
		w.edit(&s.policy)
	}
	return s
}

func (s sample) check(t testing.TB) attest.Result {
	t.Helper()
	in := attest.Inputs{Now: s.now, Trust: snapshot(t, s.files), ReportData: &s.want}
	return attest.NewVerifiers(tdx.NewVerifier()).Check(s.evidence, in, s.policy)
}

func (w *world) check(t testing.TB) attest.Result {
	t.Helper()
	return w.sample().check(t)
}

// signer is whoever certifies the platform.
func (w *world) signer() *fake.Intel {
	if w.quoted == nil {
		return w.intel
	}
	return w.quoted
}

// fakes are rows of the table of negative cases, and of the rules of Intel's service, that no real file shows.
var fakes = []struct {
	name   string
	change func(*world)
	codes  []string // none: affirming
}{
	{"version 5, TDX 1.5", func(*world) {}, nil},
	{"version 5, TDX 1.0 body", func(w *world) { w.td.Body = 2 }, nil},
	{"version 4", func(w *world) { w.td.Version = 4 }, nil},
	{"a processor CA", func(w *world) { w.machine.PIID = nil }, nil},
	{"zeros after the end", func(w *world) { w.td.Tail = make([]byte, 100) }, nil},
	{"row 13 report data of nothing", func(w *world) { w.td.ReportData = sha512.Sum512(nil); other := bound(); w.want = &other }, []string{attest.CodeBindingTrivial, attest.CodeBindingMismatch}},
	{"report data zero", func(w *world) { w.td.ReportData = [64]byte{}; other := bound(); w.want = &other }, []string{attest.CodeBindingTrivial, attest.CodeBindingMismatch}},
	{"row 15 debug", func(w *world) { w.td.Attributes[0] = 1 }, []string{attest.CodeDebug, attest.CodeTDXAttributes}},
	{"row 15 another bit of the group under debug", func(w *world) { w.td.Attributes[0] = 0x20 }, []string{attest.CodeDebug, attest.CodeTDXAttributes}},
	{"row 41 a byte after the end", func(w *world) { w.td.Tail = []byte{0, 1} }, []string{attest.CodeParseTail}},
	{"row 45 body of type 1", func(w *world) { w.td.Change = func(b []byte) { b[48] = 1 } }, []string{attest.CodeParseBody}},
	{"row 45 body type and size differ", func(w *world) { w.td.Change = func(b []byte) { b[48] = 2 } }, []string{attest.CodeParseBounds}},

	{"row 48 platform out of date, module up to date", func(w *world) { w.machine.Components[0]-- }, []string{"tcb.platform.out_of_date"}},
	{"row 48 by a TDX component", func(w *world) { w.td.TEETCBSVN[2]-- }, []string{attest.CodeTCBNoLevel}},
	{"module out of date, platform up to date", func(w *world) { w.td.TEETCBSVN[0] = 5 }, []string{"tcb.module.out_of_date"}},
	{"quoting enclave out of date", func(w *world) { w.td.QE.SVN = 3 }, []string{"tcb.qe.out_of_date"}},
	{"row 49 no level of the platform", func(w *world) { w.machine.PCESVN-- }, []string{attest.CodeTCBNoLevel}},
	{"row 49 no level of the module", func(w *world) { w.td.TEETCBSVN[0] = 3 }, []string{attest.CodeTCBNoLevel}},
	{"row 49 no level of the quoting enclave", func(w *world) { w.td.QE.SVN = 1 }, []string{attest.CodeTCBNoLevel}},
	{"row 49 a module that Intel does not know", func(w *world) { w.td.TEETCBSVN[1] = 9 }, []string{attest.CodeTCBNoLevel}},
	{"module 1.0 by the platform's level", func(w *world) { w.td.TEETCBSVN[1] = 0; w.tcb.Levels[0].TCB.TDX[1].SVN = 0 }, nil},
	{"module 1.0 whose own components count", func(w *world) { w.td.TEETCBSVN = [16]byte{5, 0, 2}; zeroModule(&w.tcb) }, []string{"tcb.platform.out_of_date"}},
	{"status revoked, which no policy takes", func(w *world) {
		w.tcb.Levels[0].Status = attest.TDXRevoked
		w.edit = func(p *attest.Policy) { p.TDX.Platform = attest.AnySet() }
	}, []string{"tcb.platform.revoked"}},
	{"status that is taken, with an advisory that is", func(w *world) {
		w.tcb.Levels[0].Status, w.tcb.Levels[0].Advisories = attest.TDXSWHardeningNeeded, []string{"INTEL-SA-01111"}
		w.edit = func(p *attest.Policy) {
			p.TDX.Platform, p.TDX.Advisories = attest.SetOf(attest.TDXSWHardeningNeeded), attest.SetOf("INTEL-SA-01111")
		}
	}, nil},
	{"status that is taken, with an advisory that is not", func(w *world) {
		w.tcb.Levels[0].Status, w.tcb.Levels[0].Advisories = attest.TDXSWHardeningNeeded, []string{"INTEL-SA-01111", "INTEL-SA-01112"}
		w.edit = func(p *attest.Policy) {
			p.TDX.Platform, p.TDX.Advisories = attest.SetOf(attest.TDXSWHardeningNeeded), attest.SetOf("INTEL-SA-01111")
		}
	}, []string{"tcb.platform.advisory"}},
	{"status that is not taken", func(w *world) { w.tcb.Levels[0].Status = attest.TDXConfigurationAndSWHardeningNeeded }, []string{"tcb.platform.configuration_and_sw_hardening_needed"}},
	{"date of the TCB", func(w *world) { w.edit = func(p *attest.Policy) { p.TDX.MinTCBDate = "2025-11-13" } }, []string{"tcb.platform.date", "tcb.module.date", "tcb.qe.date"}},
	{"signer of the module", func(w *world) { w.td.MRSignerSEAM[47] = 1 }, []string{attest.CodeTCBModuleMismatch}},
	{"attributes of the module", func(w *world) { w.td.SEAMAttributes[7] = 1 }, []string{attest.CodeTCBModuleMismatch}},
	{"signer of a module 1.0", func(w *world) { w.td.TEETCBSVN[1] = 0; zeroModule(&w.tcb); w.td.MRSignerSEAM[0] = 1 }, []string{attest.CodeTCBModuleMismatch}},

	{"row 50 collateral: none", func(w *world) {
		w.files = func(f map[string][]byte) { delete(f, fake.TCBInfoFile); delete(f, fake.QEIdentityFile) }
	}, []string{attest.CodeCollateralMissing}},
	{"row 50 of another FMSPC", func(w *world) { w.tcb.FMSPC = "00906ed50000" }, []string{attest.CodeCollateralMissing}},
	{"row 50 of another PCE", func(w *world) { w.tcb.PCEID = "0001" }, []string{attest.CodeCollateralMissing}},
	{"FMSPC in upper case", func(w *world) { w.tcb.FMSPC = strings.ToUpper(w.tcb.FMSPC) }, nil},
	{"row 50 expired", func(w *world) { w.now = fake.Now().AddDate(0, 0, 24) }, []string{attest.CodeCRLStale, attest.CodeCollateralExpired}},
	{"row 50 from the future", func(w *world) { w.tcb.IssueDate = fake.Now().Add(time.Minute) }, []string{attest.CodeCertTime}},
	{"row 50 a status edited", func(w *world) {
		w.machine.Components[0]--
		w.files = edit(fake.TCBInfoFile, `"OutOfDate"`, `"UpToDate"`)
	}, []string{attest.CodeCollateralInvalid, attest.CodeCollateralMissing}},
	{"row 50 white space added", func(w *world) { w.files = edit(fake.TCBInfoFile, `"version":3`, `"version": 3`) }, []string{attest.CodeCollateralInvalid, attest.CodeCollateralMissing}},
	{"row 50 identity edited", func(w *world) { w.files = edit(fake.QEIdentityFile, `"isvprodid":2`, `"isvprodid":1`) }, []string{attest.CodeCollateralInvalid, attest.CodeCollateralMissing}},
	{"row 50 signed by a PCK CA", func(w *world) {
		w.files = func(f map[string][]byte) { f[fake.TCBInfoFile] = w.intel.Platform.Document("tcbInfo", encode(w.tcb)) }
	}, []string{attest.CodeCollateralInvalid, attest.CodeCollateralMissing}},
	{"row 50 signed by another Intel", func(w *world) {
		w.files = func(f map[string][]byte) {
			other := fake.New(nil)
			f[fake.TCBInfoFile], f["other.der"] = other.TCBInfo(w.tcb), other.Signing.Cert.Raw
		}
	}, []string{attest.CodeCollateralInvalid, attest.CodeCollateralMissing}},
	{"row 50 below the floor", func(w *world) { w.edit = func(p *attest.Policy) { p.TDX.MinEvaluation = 21 } }, []string{attest.CodeCollateralRollback}},
	{"row 50 a number lower than another of the snapshot", func(w *world) {
		w.tcb.Levels[0].Status = attest.TDXOutOfDate
		w.files = func(f map[string][]byte) {
			old := fake.NewTCBInfo(w.machine)
			old.EvaluationNumber, old.IssueDate = 19, fake.Now().Add(-time.Hour)
			f["0.json"] = w.intel.TCBInfo(old)
		}
	}, []string{"tcb.platform.out_of_date"}},
	{"a higher number that is not issued yet", func(w *world) {
		w.files = func(f map[string][]byte) {
			next := fake.NewTCBInfo(w.machine)
			next.EvaluationNumber, next.IssueDate, next.Levels[0].Status = 21, fake.Now().Add(time.Hour), attest.TDXOutOfDate
			f["0.json"] = w.intel.TCBInfo(next)
		}
	}, nil},
	{"a forged higher number", func(w *world) {
		w.files = func(f map[string][]byte) {
			next := w.tcb
			next.EvaluationNumber = 21
			f["0.json"] = fake.New(nil).TCBInfo(next)
		}
	}, nil},
	{"row 50 TCB info of SGX", func(w *world) { w.tcb.ID = "SGX" }, []string{attest.CodeCollateralMissing}},
	{"row 50 TCB info of version 4", func(w *world) { w.tcb.Version = 4 }, []string{attest.CodeCollateralInvalid, attest.CodeCollateralMissing}},
	{"row 50 a status that nobody knows", func(w *world) { w.tcb.Levels[0].Status = "Fine" }, []string{attest.CodeCollateralInvalid, attest.CodeCollateralMissing}},
	{"TCB info with a member more", func(w *world) { w.tcb.Extra = map[string]any{"a": []any{1, "b", true, nil, map[string]any{}}} }, nil},
	{"row 50 identity of another enclave", func(w *world) { w.qe.ID = "QE" }, []string{attest.CodeCollateralMissing}},
	{"row 50 identity: MRSIGNER", func(w *world) { w.td.QE.MRSigner[31] ^= 1 }, []string{attest.CodeCollateralQE}},
	{"row 50 identity: ISVPRODID", func(w *world) { w.td.QE.ProdID = 1 }, []string{attest.CodeCollateralQE}},
	{"row 50 identity: MISCSELECT", func(w *world) { w.td.QE.MiscSelect = 1 << 31 }, []string{attest.CodeCollateralQE}},
	{"row 50 identity: ATTRIBUTES, debug", func(w *world) { w.td.QE.Attributes[0] |= 2 }, []string{attest.CodeCollateralQE}},
	{"row 50 no revocation lists", func(w *world) {
		w.files = func(f map[string][]byte) { delete(f, fake.RootCRLFile); delete(f, fake.PCKCRLFile) }
	}, []string{attest.CodeCRLMissing}},
	{"row 39 revocation list by another", func(w *world) {
		w.files = func(f map[string][]byte) {
			f[fake.PCKCRLFile] = w.intel.CRL(fake.New(nil).Platform, fake.Now().AddDate(0, 0, -1), fake.Now().AddDate(0, 0, 1))
		}
	}, []string{attest.CodeCollateralInvalid}},
	{"row 39 revocation list of a part of the certificates", func(w *world) {
		w.files = func(f map[string][]byte) {
			f[fake.PCKCRLFile] = w.intel.Platform.List(&x509.RevocationList{
				Number: big.NewInt(1), ThisUpdate: fake.Now().AddDate(0, 0, -1), NextUpdate: fake.Now().AddDate(0, 0, 1),
				ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: []byte{0x30, 0}}}, // issuing distribution point
			})
		}
	}, []string{attest.CodeCollateralInvalid}},
	{"row 39 an older list in the snapshot does not count", func(w *world) {
		w.files = func(f map[string][]byte) {
			f["0.crl"] = w.intel.CRL(w.intel.Root, fake.Now().AddDate(0, -3, 0), fake.Now().AddDate(0, -2, 0), w.intel.Platform.Cert)
		}
	}, nil},
	{"row 39 the intermediate revoked", func(w *world) { w.files = revoke(w, fake.RootCRLFile, w.intel.Root, w.intel.Platform) }, []string{attest.CodeRevoked}},
	{"row 39 the signer of the collateral revoked", func(w *world) { w.files = revoke(w, fake.RootCRLFile, w.intel.Root, w.intel.Signing) }, []string{attest.CodeRevoked}},

	{"row 36 another Intel of the same names", func(w *world) { w.quoted = fake.New(nil) }, []string{attest.CodeChain, attest.CodeCollateralMissing}},
	{"row 36 its root in the folder as collateral alone", func(w *world) {
		w.quoted = fake.New(nil)
		w.endorsements = map[string][]byte{"collateral": collateral(w.quoted, w.machine)}
	}, []string{attest.CodeChain, attest.CodeCollateralMissing}},
	{"row 37 no root in the chain", func(w *world) {
		w.td.Chain = blocks(w.signer().PCK(w.machine).PEM(), 0, 1)
	}, []string{attest.CodeQESignature}},
	{"row 37 root before the intermediate", func(w *world) { w.td.Chain = blocks(w.signer().PCK(w.machine).PEM(), 0, 2, 1) }, []string{attest.CodeChain, attest.CodeCollateralMissing}},
	{"row 37 leaf alone", func(w *world) { w.td.Chain = blocks(w.signer().PCK(w.machine).PEM(), 0) }, []string{attest.CodeParseEncoding, attest.CodeCollateralMissing}},
	{"row 37 four certificates", func(w *world) { w.td.Chain = blocks(w.signer().PCK(w.machine).PEM(), 0, 1, 2, 2) }, []string{attest.CodeParseEncoding, attest.CodeCollateralMissing}},
	{"row 37 text between", func(w *world) {
		w.td.Chain = bytes.Replace(w.signer().PCK(w.machine).PEM(), []byte("-----\n-----BEGIN"), []byte("-----\n# comment\n-----BEGIN"), 1)
	}, []string{attest.CodeParseEncoding, attest.CodeCollateralMissing}},
	{"row 46 the PCK of another platform", func(w *world) { w.td.Chain = w.signer().PCK(w.machine).PEM() }, []string{attest.CodeQESignature}},
	{"row 40 data of the quoting enclave", func(w *world) { w.td.ChangeReport = func(b []byte) { b[320] ^= 1 } }, []string{attest.CodeSignature}},
	{"row 40 rest of the quoting enclave's data", func(w *world) { w.td.ChangeReport = func(b []byte) { b[383] ^= 1 } }, []string{attest.CodeSignature}},

	{"row 51 migratable", func(w *world) { w.td.Attributes[3] |= 0x20 }, []string{attest.CodeTDXAttributes}},
	{"row 51 PERFMON", func(w *world) { w.td.Attributes[7] |= 0x80 }, []string{attest.CodeTDXAttributes}},
	{"row 51 SEPT_VE_DISABLE missing", func(w *world) { w.td.Attributes[3] = 0 }, []string{attest.CodeTDXAttributes}},
	{"row 51 XFAM", func(w *world) { w.td.XFAM[1] |= 1 }, []string{attest.CodeTDXXFAM}},
	{"row 51 MRCONFIGID", func(w *world) { w.td.MRConfigID[0] = 1 }, []string{attest.CodeTDXMRConfig}},
	{"row 51 MROWNER", func(w *world) { w.td.MROwner[0] = 1 }, []string{attest.CodeTDXMROwner}},
	{"row 51 MROWNERCONFIG", func(w *world) { w.td.MROwnerConfig[0] = 1 }, []string{attest.CodeTDXMROwnerConfig}},
	{"row 51 MRSERVICETD", func(w *world) { w.td.MRServiceTD[0] = 1 }, []string{attest.CodeTDXServiceTD}},
	{"another module", func(w *world) { w.td.MRSEAM[0]++ }, []string{attest.CodeTDXMRSEAM}},
	{"another TD", func(w *world) { w.td.MRTD[0]++ }, []string{attest.CodeMeasurementUnlisted}},
	{"another register", func(w *world) { w.td.RTMR[1][0]++ }, []string{attest.CodeRTMRUnlisted}},
	{"a generation that is denied", func(w *world) {
		w.edit = func(p *attest.Policy) { p.DenyGenerations = []string{"fmspc:00806f050000"} }
	}, []string{attest.CodeGeneration}},
	{"a machine that is not listed", func(w *world) { w.edit = func(p *attest.Policy) { p.Machines = attest.SetOf("piid:00") } }, []string{attest.CodeMachineUnlisted}},
	{"a machine that is", func(w *world) {
		w.edit = func(p *attest.Policy) { p.Machines = attest.SetOf("piid:" + hex.EncodeToString(w.machine.PIID)) }
	}, nil},
	{"the zero policy", func(w *world) { w.edit = func(p *attest.Policy) { p.TDX = &attest.TDXPolicy{} } }, []string{
		attest.CodeConfig, "tcb.platform.up_to_date", "tcb.module.up_to_date", "tcb.qe.up_to_date", attest.CodeTDXAttributes, attest.CodeTDXXFAM, attest.CodeTDXMRSEAM, attest.CodeTDXMRConfig,
		attest.CodeTDXMROwner, attest.CodeTDXMROwnerConfig, attest.CodeTDXServiceTD, attest.CodeRTMRUnlisted,
	}},
	{"no block in the policy", func(w *world) { w.edit = func(p *attest.Policy) { p.TDX = nil } }, []string{attest.CodeConfig}},
}

func zeroModule(t *fake.TCBInfo) {
	for i := range t.Levels {
		t.Levels[i].TCB.TDX[1].SVN = 0
	}
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func edit(file, from, to string) func(map[string][]byte) {
	return func(f map[string][]byte) { f[file] = bytes.ReplaceAll(f[file], []byte(from), []byte(to)) }
}

func revoke(w *world, file string, issuer, holder fake.Holder) func(map[string][]byte) {
	return func(f map[string][]byte) {
		f[file] = w.intel.CRL(issuer, fake.Now().AddDate(0, 0, -1), fake.Now().AddDate(0, 0, 1), holder.Cert)
	}
}

// blocks picks certificates out of a chain.
func blocks(chain []byte, pick ...int) []byte {
	parts := strings.SplitAfter(string(chain), "-----END CERTIFICATE-----\n")
	var out string
	for _, i := range pick {
		out += parts[i]
	}
	return []byte(out)
}

// collateral is what the common tools save of a quote.
func collateral(x *fake.Intel, m fake.Machine) []byte {
	f := x.Trust(m)
	part := func(file, name string) (body, signature string) {
		var o map[string]json.RawMessage
		if err := json.Unmarshal(f[file], &o); err != nil {
			panic(err)
		}
		if err := json.Unmarshal(o["signature"], &signature); err != nil {
			panic(err)
		}
		return string(o[name]), signature
	}
	tcb, tcbSignature := part(fake.TCBInfoFile, "tcbInfo")
	qe, qeSignature := part(fake.QEIdentityFile, "enclaveIdentity")
	return encode(map[string]string{
		"pck_crl_issuer_chain": string(x.Platform.PEM()), "root_ca_crl": hex.EncodeToString(f[fake.RootCRLFile]), "pck_crl": hex.EncodeToString(f[fake.PCKCRLFile]),
		"tcb_info_issuer_chain": string(x.Signing.PEM()), "tcb_info": tcb, "tcb_info_signature": tcbSignature,
		"qe_identity_issuer_chain": string(x.Signing.PEM()), "qe_identity": qe, "qe_identity_signature": qeSignature,
	})
}

func TestFakes(t *testing.T) {
	for _, c := range fakes {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(nil)
			c.change(w)
			got := w.check(t)
			if !slices.Equal(codes(got.Reasons), c.codes) {
				t.Fatalf("got %q, want %q", got.Reasons, c.codes)
			}
			if c.codes == nil && got.Status != attest.Affirming {
				t.Errorf("got %s: %v", got.Status, got.Warnings)
			}
		})
	}
}

// TestCollateralOfEvidence counts where the snapshot has none, and never where it has some.
func TestCollateralOfEvidence(t *testing.T) {
	bare := func(f map[string][]byte) {
		maps.DeleteFunc(f, func(name string, _ []byte) bool { return name != fake.RootFile })
	}
	w := newWorld(nil)
	w.endorsements = map[string][]byte{"collateral": collateral(w.intel, w.machine)}
	w.files = bare
	if got := w.check(t); got.Status != attest.Affirming {
		t.Errorf("got %s: %v", got.Status, got.Reasons)
	}
	w = newWorld(nil)
	w.endorsements = map[string][]byte{"collateral": collateral(w.intel, w.machine)}
	w.tcb.Levels[0].Status = attest.TDXOutOfDate
	if got := w.check(t); !slices.Equal(codes(got.Reasons), []string{"tcb.platform.out_of_date"}) {
		t.Errorf("got %v", got.Reasons)
	}
	w = newWorld(nil)
	w.endorsements = map[string][]byte{"collateral": []byte("{}")}
	w.files = bare
	if got := w.check(t); !slices.Equal(codes(got.Reasons), []string{attest.CodeCRLMissing, attest.CodeCollateralMissing}) {
		t.Errorf("got %v", got.Reasons)
	}
}

// TestCertificates gives one certificate another template.
func TestCertificates(t *testing.T) {
	late, early := fake.Now().Add(time.Minute), fake.Now().Add(-time.Minute)
	for _, c := range []struct {
		name, of string
		change   func(*x509.Certificate)
		codes    []string
	}{
		{"PCK expired", fake.PCKName, func(c *x509.Certificate) { c.NotAfter = early }, []string{attest.CodeCertExpired}},
		{"PCK begins later, as Intel's library takes it", fake.PCKName, func(c *x509.Certificate) { c.NotBefore = late }, nil},
		{"intermediate expired", fake.PlatformName, func(c *x509.Certificate) { c.NotAfter = early }, []string{attest.CodeCertExpired}},
		{"intermediate not valid yet", fake.PlatformName, func(c *x509.Certificate) { c.NotBefore = late }, []string{attest.CodeCertTime}},
		{"root expired", fake.RootName, func(c *x509.Certificate) { c.NotAfter = early }, []string{attest.CodeCertExpired}},
		{"signer of the collateral expired", fake.SigningName, func(c *x509.Certificate) { c.NotAfter = early }, []string{attest.CodeCertExpired}},
		{"signer of the collateral not valid yet", fake.SigningName, func(c *x509.Certificate) { c.NotBefore = late }, []string{attest.CodeCertTime}},
		{"signer of the collateral of another name", fake.SigningName, func(c *x509.Certificate) { c.Subject.CommonName = "TCB" }, []string{attest.CodeCollateralInvalid, attest.CodeCollateralMissing}},
		{"PCK of another name", fake.PCKName, func(c *x509.Certificate) { c.Subject.CommonName = "PCK" }, []string{attest.CodeCertKind, attest.CodeCollateralMissing}},
		{"intermediate of another name", fake.PlatformName, func(c *x509.Certificate) { c.Subject.CommonName = "CA" }, []string{attest.CodeCertKind, attest.CodeCollateralMissing}},
		{"intermediate that is none", fake.PlatformName, func(c *x509.Certificate) { c.IsCA = false }, []string{attest.CodeChain, attest.CodeCollateralMissing}},
		{"root of another name", fake.RootName, func(c *x509.Certificate) { c.Subject.CommonName = "Root" }, []string{attest.CodeChain, attest.CodeCollateralMissing}},
		{"PCK with a critical extension", fake.PCKName, func(c *x509.Certificate) { c.ExtraExtensions[0].Critical = true }, []string{attest.CodeChain, attest.CodeCollateralMissing}},
		{"PCK without the extension", fake.PCKName, func(c *x509.Certificate) { c.ExtraExtensions = nil }, []string{attest.CodeParseEncoding, attest.CodeCollateralMissing}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(func(x *x509.Certificate) {
				if x.Subject.CommonName == c.of {
					c.change(x)
				}
			})
			got := w.check(t)
			if !slices.Equal(codes(got.Reasons), c.codes) {
				t.Errorf("got %q, want %q", got.Reasons, c.codes)
			}
		})
	}
}

// TestExtension changes one thing of the PCK certificate's SGX extension.
func TestExtension(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*fake.Extension)
		taken  bool
	}{
		{"as it is", func(*fake.Extension) {}, true},
		{"in another order", func(e *fake.Extension) { slices.Reverse(e.All); slices.Reverse(e.TCB) }, true},
		{"an element more", func(e *fake.Extension) { e.All = append(e.All, fake.Pair{Arc: 9, Value: 1}) }, true},
		{"no FMSPC", func(e *fake.Extension) { e.All = slices.Delete(e.All, 3, 4) }, false},
		{"FMSPC twice", func(e *fake.Extension) { e.All = append(e.All, e.All[3]) }, false},
		{"FMSPC of 5 bytes", func(e *fake.Extension) { e.All[3].Value = make([]byte, 5) }, false},
		{"FMSPC is a number", func(e *fake.Extension) { e.All[3].Value = 1 }, false},
		{"a component of 256", func(e *fake.Extension) { e.TCB[0].Value = 256 }, false},
		{"a component below zero", func(e *fake.Extension) { e.TCB[0].Value = -1 }, false},
		{"a component is missing", func(e *fake.Extension) { e.TCB = e.TCB[1:] }, false},
		{"a component twice", func(e *fake.Extension) { e.TCB = append(e.TCB, e.TCB[0]) }, false},
		{"PCESVN of 65536", func(e *fake.Extension) { e.TCB[16].Value = 65536 }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(nil)
			w.machine.Change = c.change
			got := w.check(t)
			if taken := !slices.Contains(codes(got.Reasons), attest.CodeParseEncoding); taken != c.taken || c.taken != got.OK() {
				t.Errorf("got %s: %v", got.Status, got.Reasons)
			}
		})
	}
}

// TestLeafRevoked revokes a PCK certificate, which the quote has to be made with.
func TestLeafRevoked(t *testing.T) {
	w := newWorld(nil)
	pck := w.intel.PCK(w.machine)
	files := w.intel.Trust(w.machine)
	files[fake.PCKCRLFile] = w.intel.CRL(w.intel.Platform, fake.Now().AddDate(0, 0, -1), fake.Now().AddDate(0, 0, 1), pck.Cert)
	quote, data := w.intel.Quote(pck, w.td), bound()
	in := attest.Inputs{Now: fake.Now(), Trust: snapshot(t, files), ReportData: &data}
	got := attest.NewVerifiers(tdx.NewVerifier()).Check(attest.Evidence{Format: attest.FormatTDX, Statement: quote}, in, exact(quote))
	if !slices.Equal(codes(got.Reasons), []string{attest.CodeRevoked}) {
		t.Errorf("got %v", got.Reasons)
	}
}

// TestWhatIsBehind names each component that is short, and what is open.
func TestWhatIsBehind(t *testing.T) {
	w := newWorld(nil)
	w.machine.Components[0]--
	w.td.TEETCBSVN[0] = 4
	var got []string
	for _, r := range w.check(t).Reasons {
		got = append(got, r.Error())
	}
	want := []string{
		`tcb.platform.out_of_date: tdx.platform.status, got "OutOfDate" of 2024-03-13, INTEL-SA-01036 INTEL-SA-01099, want one of ["UpToDate"]`,
		`tcb.platform.out_of_date: tdx.platform.sgx[0] Early Microcode Update, got 6, want 7`,
		`tcb.module.out_of_date: tdx.module.status, got "OutOfDate" of 2024-03-13, INTEL-SA-01036 INTEL-SA-01099, want one of ["UpToDate"]`,
		`tcb.module.out_of_date: tdx.module.TDX_01, got 4, want 6`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// withLog boots a TD that measures, with any value of the registers taken that a log leads to.
func withLog(change func(*fake.EventLog)) func(*world) {
	return func(w *world) {
		w.log = fake.NewEventLog()
		w.log.Measure(0, 0xa, [48]byte{1}, []byte("ACPI DATA"))
		w.log.Measure(0, 0x4, sha512.Sum384(make([]byte, 4)), make([]byte, 4))
		w.log.Measure(2, 0xd, sha512.Sum384([]byte("quiet")), []byte("kernel_cmdline: quiet\x00"))
		if change != nil {
			change(w.log)
		}
		w.td.RTMR = w.log.RTMR
		w.edit = func(p *attest.Policy) {
			p.TDX.RTMR0, p.TDX.RTMR1, p.TDX.RTMR2, p.TDX.RTMR3 = attest.AnySet(), attest.AnySet(), attest.AnySet(), attest.AnySet()
			p.TDX.Events = attest.SetOf(attest.TDXEventACPI, attest.TDXEventKernelCmdline)
		}
	}
}

func TestEventLog(t *testing.T) {
	then := func(first, second func(*world)) func(*world) { return func(w *world) { first(w); second(w) } }
	for _, c := range []struct {
		name   string
		change func(*world)
		codes  []string
	}{
		{"it leads to the registers", withLog(nil), nil},
		{"none", then(withLog(nil), func(w *world) { w.log = nil }), []string{attest.CodeRTMRReplay, attest.CodeRTMRUnmeasured}},
		{"none, where registers are listed", then(withLog(nil), func(w *world) {
			rtmr := w.td.RTMR
			w.log = nil
			w.edit = func(p *attest.Policy) {
				p.TDX.RTMR0, p.TDX.RTMR2, p.TDX.RTMR1, p.TDX.RTMR3 = attest.SetOf(hex.EncodeToString(rtmr[0][:])), attest.SetOf(hex.EncodeToString(rtmr[2][:])), attest.SetOf("zero"), attest.SetOf("zero")
			}
		}), nil},
		{"a register went on without it", then(withLog(nil), func(w *world) { w.td.RTMR[2][0] ^= 1 }), []string{attest.CodeRTMRMismatch, attest.CodeRTMRUnmeasured}},
		{"a register that it does not name", then(withLog(nil), func(w *world) { w.td.RTMR[3][0] = 1 }), []string{attest.CodeRTMRReplay}},
		{"an event more", withLog(func(l *fake.EventLog) { l.Write(0, 0x4, sha512.Sum384(nil), nil) }), []string{attest.CodeRTMRMismatch, attest.CodeRTMRUnmeasured}},
		{"ACPI tables outside it", withLog(func(l *fake.EventLog) {
			*l = *fake.NewEventLog()
			l.Measure(2, 0xd, sha512.Sum384([]byte("quiet")), []byte("kernel_cmdline: quiet\x00"))
		}), []string{attest.CodeRTMRUnmeasured}},
		{"an environment loaded after the measurement", withLog(func(l *fake.EventLog) {
			*l = *fake.NewEventLog()
			l.Measure(0, 0xa, [48]byte{1}, []byte("ACPI DATA"))
		}), []string{attest.CodeRTMRUnmeasured}},
		{"a command line that was not the one measured", withLog(func(l *fake.EventLog) {
			*l = *fake.NewEventLog()
			l.Measure(0, 0xa, [48]byte{1}, []byte("ACPI DATA"))
			l.Measure(2, 0xd, sha512.Sum384([]byte("init=/bin/sh")), []byte("kernel_cmdline: quiet\x00"))
		}), []string{attest.CodeRTMRUnmeasured}},
		{"no log", then(withLog(nil), func(w *world) { w.log.Bytes = []byte("no log") }), []string{attest.CodeParseBounds, attest.CodeRTMRReplay, attest.CodeRTMRUnmeasured}},
		{"optional", then(withLog(nil), func(w *world) {
			w.log = nil
			edit := w.edit
			w.edit = func(p *attest.Policy) { edit(p); p.TDX.Replay, p.TDX.Events = attest.Optional, attest.Set{} }
		}), nil},
		{"a policy of any event", then(withLog(nil), func(w *world) {
			edit := w.edit
			w.edit = func(p *attest.Policy) { edit(p); p.TDX.Events = attest.AnySet() }
		}), []string{attest.CodeConfig}},
		{"a policy of an unknown event", then(withLog(nil), func(w *world) {
			edit := w.edit
			w.edit = func(p *attest.Policy) { edit(p); p.TDX.Events = attest.SetOf("environment") }
		}), []string{attest.CodeConfig, attest.CodeRTMRUnmeasured}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(nil)
			c.change(w)
			if got := w.check(t); !slices.Equal(codes(got.Reasons), c.codes) {
				t.Errorf("got %q, want %q", got.Reasons, c.codes)
			}
		})
	}
}
