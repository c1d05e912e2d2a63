// Package intel plays Intel for tests: a certification authority of TDX platforms, its collateral, and platforms that
// quote whatever a test wants. Its root has the name of the real one and another key.
//
//	x := intel.New(nil)
//	m := intel.NewMachine()
//	quote := x.Quote(x.PCK(m), intel.NewTD(reportData))
//	trust, err := endorse.New(x.Trust(m))
package intel

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"
)

// Now is the moment at which everything that a new Intel makes is valid.
func Now() time.Time { return time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC) }

// RootCRLURL is where certificates say that the revocation list of the root is.
const RootCRLURL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"

// The certificates of a new Intel, by common name.
const (
	RootName      = "Intel SGX Root CA"
	PlatformName  = "Intel SGX PCK Platform CA"
	ProcessorName = "Intel SGX PCK Processor CA"
	SigningName   = "Intel SGX TCB Signing"
	PCKName       = "Intel SGX PCK Certificate"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic("testtee: " + err.Error())
	}
	return v
}

func newKey() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) }

// Holder is a certificate with its key, and those above it.
type Holder struct {
	Cert  *x509.Certificate
	Key   *ecdsa.PrivateKey
	above []*x509.Certificate
}

// Intel is a whole certification authority.
type Intel struct {
	Root, Platform, Processor, Signing Holder
	change                             func(*x509.Certificate)
}

// New makes one. A change, if it is not nil, is made to each template before it is signed.
func New(change func(*x509.Certificate)) *Intel {
	x := &Intel{change: change}
	x.Root = x.issue(Holder{}, template(RootName, x509.KeyUsageCertSign|x509.KeyUsageCRLSign, true))
	for _, c := range []struct {
		to   *Holder
		name string
	}{{&x.Platform, PlatformName}, {&x.Processor, ProcessorName}} {
		*c.to = x.issue(x.Root, template(c.name, x509.KeyUsageCertSign|x509.KeyUsageCRLSign, true))
	}
	x.Signing = x.issue(x.Root, template(SigningName, x509.KeyUsageDigitalSignature, false))
	return x
}

func template(name string, usage x509.KeyUsage, ca bool) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(randomBytes(20)[:19]), Subject: pkix.Name{CommonName: name, Organization: []string{"Intel Corporation"}, Country: []string{"US"}},
		NotBefore: Now().AddDate(-1, 0, 0), NotAfter: Now().AddDate(6, 0, 0),
		KeyUsage: usage, BasicConstraintsValid: true, IsCA: ca, SubjectKeyId: []byte(name), SignatureAlgorithm: x509.ECDSAWithSHA256,
		CRLDistributionPoints: []string{RootCRLURL},
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	must(rand.Read(b))
	return b
}

func (x *Intel) issue(by Holder, t *x509.Certificate) Holder {
	if x.change != nil {
		x.change(t)
	}
	key := newKey()
	parent, signer := by.Cert, by.Key
	if by.Cert == nil {
		parent, signer = t, key
	}
	cert := must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, t, parent, key.Public(), signer))))
	h := Holder{Cert: cert, Key: key}
	if by.Cert != nil {
		h.above = append([]*x509.Certificate{by.Cert}, by.above...)
	}
	return h
}

// PEM writes the certificate and those above it.
func (h Holder) PEM() []byte {
	var out []byte
	for _, c := range append([]*x509.Certificate{h.Cert}, h.above...) {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// Sign writes r ‖ s over b.
func (h Holder) Sign(b []byte) []byte {
	digest := sha256.Sum256(b)
	r, s, err := ecdsa.Sign(rand.Reader, h.Key, digest[:])
	must(0, err)
	return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
}

// Machine is what a PCK certificate says of a platform.
type Machine struct {
	FMSPC, PCEID, PPID, PIID []byte // no PIID makes one of a processor CA
	Components               [16]byte
	PCESVN                   int
	// Change, if it is not nil, alters the SGX extension before the certificate is signed.
	Change func(*Extension)
}

// NewMachine is a platform that is up to date by NewTCBInfo.
func NewMachine() Machine {
	return Machine{
		FMSPC: []byte{0, 0x80, 0x6f, 5, 0, 0}, PCEID: []byte{0, 0}, PPID: randomBytes(16), PIID: randomBytes(16),
		Components: [16]byte{7, 7, 2, 2, 3, 1, 0, 5}, PCESVN: 11,
	}
}

// Extension is the SGX extension of a PCK certificate: TCB is its element 2.
type Extension struct{ All, TCB []Pair }

// Pair is an element of the extension; Arc is the last of its OID.
type Pair struct {
	Arc   int
	Value any
}

// PCK certifies a platform.
func (x *Intel) PCK(m Machine) Holder {
	ca := x.Platform
	e := Extension{All: []Pair{{1, m.PPID}, {2, nil}, {3, m.PCEID}, {4, m.FMSPC}, {5, asn1.Enumerated(1)}}}
	if m.PIID == nil {
		ca = x.Processor
	} else {
		e.All = append(e.All, Pair{6, m.PIID}, Pair{7, asn1.RawValue{FullBytes: []byte{0x30, 0}}})
	}
	for i, svn := range m.Components {
		e.TCB = append(e.TCB, Pair{i + 1, int(svn)})
	}
	e.TCB = append(e.TCB, Pair{17, m.PCESVN}, Pair{18, m.Components[:]})
	if m.Change != nil {
		m.Change(&e)
	}
	t := template(PCKName, x509.KeyUsageDigitalSignature|x509.KeyUsageContentCommitment, false)
	t.ExtraExtensions = []pkix.Extension{{Id: sgx(), Value: e.der()}}
	return x.issue(ca, t)
}

func sgx(arcs ...int) asn1.ObjectIdentifier {
	return append(asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}, arcs...)
}

func (e Extension) der() []byte {
	type element struct {
		OID   asn1.ObjectIdentifier
		Value any
	}
	var all, tcb []element
	for _, p := range e.TCB {
		tcb = append(tcb, element{sgx(2, p.Arc), p.Value})
	}
	for _, p := range e.All {
		if p.Arc == 2 && p.Value == nil {
			p.Value = asn1.RawValue{FullBytes: must(asn1.Marshal(tcb))}
		}
		all = append(all, element{sgx(p.Arc), p.Value})
	}
	return must(asn1.Marshal(all))
}

// CRL lists certificates that an issuer revoked.
func (x *Intel) CRL(issuer Holder, thisUpdate, nextUpdate time.Time, revoked ...*x509.Certificate) []byte {
	t := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: thisUpdate, NextUpdate: nextUpdate}
	for _, c := range revoked {
		t.RevokedCertificateEntries = append(t.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: thisUpdate})
	}
	return issuer.List(t)
}

// List signs a revocation list.
func (h Holder) List(t *x509.RevocationList) []byte {
	return must(x509.CreateRevocationList(rand.Reader, t, h.Cert, h.Key))
}

// TCBInfo is the document of version 3 of PCS API v4.
type TCBInfo struct {
	ID               string         `json:"id"`
	Version          int            `json:"version"`
	IssueDate        time.Time      `json:"issueDate"`
	NextUpdate       time.Time      `json:"nextUpdate"`
	FMSPC            string         `json:"fmspc"`
	PCEID            string         `json:"pceId"`
	TCBType          int            `json:"tcbType"`
	EvaluationNumber int            `json:"tcbEvaluationDataNumber"`
	Module           Module         `json:"tdxModule"`
	Modules          []Module       `json:"tdxModuleIdentities,omitempty"`
	Levels           []Level        `json:"tcbLevels"`
	Extra            map[string]any `json:"extra,omitempty"`
}

// Module is what is said of a TDX module.
type Module struct {
	ID             string     `json:"id,omitempty"`
	MRSigner       string     `json:"mrsigner"`
	Attributes     string     `json:"attributes"`
	AttributesMask string     `json:"attributesMask"`
	Levels         []SVNLevel `json:"tcbLevels,omitempty"`
}

// Verdict is what a level comes to.
type Verdict struct {
	Date       time.Time `json:"tcbDate"`
	Status     string    `json:"tcbStatus"`
	Advisories []string  `json:"advisoryIDs,omitempty"`
}

// SVNLevel is a level of one number.
type SVNLevel struct {
	TCB struct {
		SVN int `json:"isvsvn"`
	} `json:"tcb"`
	Verdict
}

// SVN makes one.
func SVN(n int, v Verdict) SVNLevel {
	l := SVNLevel{Verdict: v}
	l.TCB.SVN = n
	return l
}

// Component is one of sixteen.
type Component struct {
	SVN  int    `json:"svn"`
	Type string `json:"type,omitempty"`
}

// Level is one of the platform's.
type Level struct {
	TCB struct {
		SGX    [16]Component `json:"sgxtcbcomponents"`
		PCESVN int           `json:"pcesvn"`
		TDX    [16]Component `json:"tdxtcbcomponents"`
	} `json:"tcb"`
	Verdict
}

// PlatformLevel makes one.
func PlatformLevel(sgx, tdx [16]byte, pceSVN int, v Verdict) Level {
	l := Level{Verdict: v}
	for i := range sgx {
		l.TCB.SGX[i].SVN, l.TCB.TDX[i].SVN = int(sgx[i]), int(tdx[i])
	}
	l.TCB.SGX[0].Type, l.TCB.TDX[0].Type = "Early Microcode Update", "TDX Module"
	l.TCB.PCESVN = pceSVN
	return l
}

// QEIdentity is the document of version 2.
type QEIdentity struct {
	ID               string     `json:"id"`
	Version          int        `json:"version"`
	IssueDate        time.Time  `json:"issueDate"`
	NextUpdate       time.Time  `json:"nextUpdate"`
	EvaluationNumber int        `json:"tcbEvaluationDataNumber"`
	MiscSelect       string     `json:"miscselect"`
	MiscSelectMask   string     `json:"miscselectMask"`
	Attributes       string     `json:"attributes"`
	AttributesMask   string     `json:"attributesMask"`
	MRSigner         string     `json:"mrsigner"`
	ProdID           int        `json:"isvprodid"`
	Levels           []SVNLevel `json:"tcbLevels"`
}

const zeros = "0000000000000000"

// NewTCBInfo is of a machine's kind: the newest level is the machine's own, and the one below is of components one
// less.
func NewTCBInfo(m Machine) TCBInfo {
	fresh := Verdict{Date: time.Date(2025, 11, 12, 0, 0, 0, 0, time.UTC), Status: "UpToDate"}
	old := Verdict{Date: time.Date(2024, 3, 13, 0, 0, 0, 0, time.UTC), Status: "OutOfDate", Advisories: []string{"INTEL-SA-01036", "INTEL-SA-01099"}}
	module := Module{MRSigner: zeros + zeros + zeros + zeros + zeros + zeros, Attributes: zeros, AttributesMask: "FFFFFFFFFFFFFFFF"}
	one := module
	one.ID, one.Levels = "TDX_01", []SVNLevel{SVN(6, fresh), SVN(4, old)}
	below := m.Components
	below[0]--
	return TCBInfo{
		ID: "TDX", Version: 3, IssueDate: Now().AddDate(0, 0, -7), NextUpdate: Now().AddDate(0, 0, 23),
		FMSPC: hex.EncodeToString(m.FMSPC), PCEID: hex.EncodeToString(m.PCEID), EvaluationNumber: 20, Module: module, Modules: []Module{one},
		Levels: []Level{
			PlatformLevel(m.Components, [16]byte{6, 1, 2}, m.PCESVN, fresh),
			PlatformLevel(below, [16]byte{4, 1, 2}, m.PCESVN, old),
		},
	}
}

// NewQEIdentity is of the enclave that NewTD has.
func NewQEIdentity() QEIdentity {
	fresh := Verdict{Date: time.Date(2025, 11, 12, 0, 0, 0, 0, time.UTC), Status: "UpToDate"}
	old := Verdict{Date: time.Date(2024, 3, 13, 0, 0, 0, 0, time.UTC), Status: "OutOfDate", Advisories: []string{"INTEL-SA-01099"}}
	return QEIdentity{
		ID: "TD_QE", Version: 2, IssueDate: Now().AddDate(0, 0, -7), NextUpdate: Now().AddDate(0, 0, 23), EvaluationNumber: 20,
		MiscSelect: "00000000", MiscSelectMask: "FFFFFFFF", Attributes: "11" + zeros[2:] + zeros, AttributesMask: "FBFFFFFFFFFFFFFF" + zeros,
		MRSigner: hex.EncodeToString(qeSigner[:]), ProdID: 2, Levels: []SVNLevel{SVN(4, fresh), SVN(3, old)},
	}
}

var qeSigner = sha256.Sum256([]byte("a quoting enclave's signer"))

// Document signs the body of TCB info or of a QE identity, which is name: "tcbInfo", "enclaveIdentity".
func (h Holder) Document(name string, body []byte) []byte {
	return fmt.Appendf(nil, `{%q:%s,"signature":"%x"}`, name, body, h.Sign(body))
}

// TCBInfo signs one.
func (x *Intel) TCBInfo(t TCBInfo) []byte {
	return x.Signing.Document("tcbInfo", must(json.Marshal(t)))
}

// QEIdentity signs one.
func (x *Intel) QEIdentity(t QEIdentity) []byte {
	return x.Signing.Document("enclaveIdentity", must(json.Marshal(t)))
}

// The files of Trust.
const (
	RootFile       = "root.der"
	SigningFile    = "signing.der"
	RootCRLFile    = "root.crl"
	PCKCRLFile     = "platform.crl"
	TCBInfoFile    = "tcbinfo.json"
	QEIdentityFile = "qeidentity.json"
)

// Trust is a folder with everything that a quote of the machine is judged by.
func (x *Intel) Trust(m Machine) map[string][]byte {
	ca := x.Platform
	if m.PIID == nil {
		ca = x.Processor
	}
	from, until := Now().AddDate(0, 0, -7), Now().AddDate(0, 0, 23)
	return map[string][]byte{
		RootFile: x.Root.Cert.Raw, SigningFile: x.Signing.Cert.Raw,
		RootCRLFile: x.CRL(x.Root, from, until), PCKCRLFile: x.CRL(ca, from, until),
		TCBInfoFile: x.TCBInfo(NewTCBInfo(m)), QEIdentityFile: x.QEIdentity(NewQEIdentity()),
	}
}
