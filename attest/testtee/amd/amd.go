// Package amd is an AMD for tests: roots of its own, and a secure processor that signs any report. What it makes is
// of the form that real hardware makes, down to the names in the certificates, so that a verifier tells the two
// apart by nothing but the root that it was given. No product code imports it.
//
//	world := amd.Shared()
//	trust, err := endorse.New(world.Files())
//	report, endorsements := world.Report(amd.Options{Line: amd.Genoa, ReportData: data})
package amd

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/consilium-fl/consilium/attest"
)

// The product lines.
const (
	Milan = "Milan"
	Genoa = "Genoa"
	Turin = "Turin"
)

// Everything is valid from From to Until, unless a test says otherwise.
var (
	From  = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	Until = time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)
)

// World is one AMD: a root and two intermediates a line, and the keys of a chip (VCEK) and of a cloud (VLEK). The lines
// share their keys, so that only names keep them apart.
type World struct {
	rootKey, askKey *rsa.PrivateKey
	vcek, vlek      *ecdsa.PrivateKey
	ark, ask, asvk  map[string]*x509.Certificate
}

// Shared is one world a test binary; making one takes a second or two.
var Shared = sync.OnceValue(New)

// New makes a world of its own, whose names are those of every other.
func New() *World {
	w := &World{ark: map[string]*x509.Certificate{}, ask: map[string]*x509.Certificate{}, asvk: map[string]*x509.Certificate{}}
	var wg sync.WaitGroup
	for _, to := range []**rsa.PrivateKey{&w.rootKey, &w.askKey} {
		wg.Go(func() { *to = must(rsa.GenerateKey(rand.Reader, 4096)) })
	}
	wg.Wait()
	w.vcek = must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	w.vlek = must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	for i, line := range []string{Milan, Genoa, Turin} {
		serial := int64(i+1) << 16
		w.ark[line] = w.authority("ARK-"+line, serial, nil, w.rootKey)
		w.ask[line] = w.authority("SEV-"+line, serial+1, w.ark[line], w.askKey)
		w.asvk[line] = w.authority("SEV-VLEK-"+line, serial+0x101, w.ark[line], w.askKey)
	}
	return w
}

func must[T any](v T, err error) T {
	if err != nil {
		panic("making a fake AMD: " + err.Error())
	}
	return v
}

func name(common string) pkix.Name {
	return pkix.Name{
		Country: []string{"US"}, Organization: []string{"Advanced Micro Devices"}, OrganizationalUnit: []string{"Engineering"},
		Locality: []string{"Santa Clara"}, Province: []string{"CA"}, CommonName: common,
	}
}

func (w *World) authority(common string, serial int64, parent *x509.Certificate, key *rsa.PrivateKey) *x509.Certificate {
	c := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: name(common), NotBefore: From, NotAfter: Until, IsCA: true, BasicConstraintsValid: true,
		SignatureAlgorithm: x509.SHA384WithRSAPSS, KeyUsage: x509.KeyUsageCertSign, SubjectKeyId: []byte(common),
	}
	if parent == nil {
		parent = c
		c.KeyUsage |= x509.KeyUsageCRLSign
	} else {
		c.MaxPathLenZero = true
	}
	return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, c, parent, key.Public(), w.rootKey))))
}

// Files are what a snapshot holds: a file of intermediate and root for each kind and line, as AMD's service gives them,
// and the revocation list of each root, on which nothing is.
func (w *World) Files() map[string][]byte {
	files := map[string][]byte{}
	for _, line := range []string{Milan, Genoa, Turin} {
		lower := strings.ToLower(line)
		files["ask_ark_"+lower+".pem"] = chain(w.ask[line], w.ark[line])
		files["ask_ark_"+lower+"_vlek.pem"] = chain(w.asvk[line], w.ark[line])
		files["crl_"+lower+".der"] = w.CRL(line, From, Until)
	}
	return files
}

func chain(cs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range cs {
		out = append(out, PEM(c.Raw)...)
	}
	return out
}

// PEM is a certificate in the form in which AMD's service gives chains.
func PEM(der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}) }

// ARK, ASK and ASVK are the authorities of a line, in DER.
func (w *World) ARK(line string) []byte { return w.ark[line].Raw }

// ASK issues the VCEKs of a line.
func (w *World) ASK(line string) []byte { return w.ask[line].Raw }

// ASVK issues its VLEKs.
func (w *World) ASVK(line string) []byte { return w.asvk[line].Raw }

// CRL is the list of a line's root, with the serials of the certificates given in DER.
func (w *World) CRL(line string, this, next time.Time, revoked ...[]byte) []byte {
	return w.list(line, this, next, nil, revoked)
}

// DeltaCRL is one that lists what came to be since another (RFC 5280, section 5.2.4), and not the rest.
func (w *World) DeltaCRL(line string, this, next time.Time, revoked ...[]byte) []byte {
	return w.list(line, this, next, []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: []byte{asn1.TagInteger, 1, 1}}}, revoked)
}

func (w *World) list(line string, this, next time.Time, extensions []pkix.Extension, revoked [][]byte) []byte {
	list := &x509.RevocationList{Number: big.NewInt(this.Unix()), ThisUpdate: this, NextUpdate: next, SignatureAlgorithm: x509.SHA384WithRSAPSS, ExtraExtensions: extensions}
	for _, der := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: must(x509.ParseCertificate(der)).SerialNumber, RevocationTime: this})
	}
	return must(x509.CreateRevocationList(rand.Reader, list, w.ark[line], w.rootKey))
}

// Options say what a report is to be. The zero Options make a good one, of a Genoa signed by its VCEK.
type Options struct {
	Line        string
	VLEK        bool
	Version     uint32         // zero: 3, of Turin 5
	CPU         *attest.SNPCPU // nil: of the line
	TCB         *attest.SNPTCB // nil: of the line; all four of the report and that of the certificate
	ReportData  [64]byte
	Measurement [48]byte // zero: that of nothing in particular

	Edit        func(report []byte) // changes fields before they are signed
	Certificate func(*Certificate)  // changes what the certificate says
}

// Certificate is what a VCEK or VLEK is to say.
type Certificate struct {
	Subject, Issuer string // common names
	Product         string
	TCB             attest.SNPTCB
	Reserved        uint8  // what the levels 4 to 7 are; Turin has none
	HWID            []byte // of a VCEK
	CSP             string // of a VLEK
	From, Until     time.Time
	Extensions      []pkix.Extension // after AMD's
	Key             crypto.PublicKey // the key that signs the report
	Algorithm       x509.SignatureAlgorithm
	Tamper          func(der []byte) []byte // after it is signed
}

var cpus = map[string]attest.SNPCPU{Milan: {Family: 0x19, Model: 1, Stepping: 1}, Genoa: {Family: 0x19, Model: 0x11, Stepping: 1}, Turin: {Family: 0x1a, Model: 2, Stepping: 1}}

// What was current in 2026.
var tcbs = map[string]attest.SNPTCB{Milan: {Bootloader: 4, SNP: 27, Ucode: 222}, Genoa: {Bootloader: 10, SNP: 23, Ucode: 84}, Turin: {FMC: 1, Bootloader: 3, TEE: 2, SNP: 5, Ucode: 97}}

func (o *Options) fill() {
	if o.Line == "" {
		o.Line = Genoa
	}
	if o.Version == 0 {
		o.Version = 3
		if o.Line == Turin {
			o.Version = 5
		}
	}
	if cpu := cpus[o.Line]; o.CPU == nil {
		o.CPU = &cpu
	}
	if tcb := tcbs[o.Line]; o.TCB == nil {
		o.TCB = &tcb
	}
	if o.Measurement == [48]byte{} {
		o.Measurement = sha512.Sum384([]byte("a measurement"))
	}
}

// Report makes a signed report and the endorsements that travel with it: "vcek" or "vlek", and "ask".
func (w *World) Report(o Options) (report []byte, endorsements map[string][]byte) {
	o.fill()
	report = o.report()
	if o.Edit != nil {
		o.Edit(report)
	}
	signer, key, ask := attest.SignerVCEK, w.vcek, w.ask[o.Line]
	if o.VLEK {
		signer, key, ask = attest.SignerVLEK, w.vlek, w.asvk[o.Line]
	}
	Sign(report, key)
	return report, map[string][]byte{signer: w.certificate(o, report, key, ask), "ask": ask.Raw}
}

func (o *Options) report() []byte {
	r := make([]byte, 0x4a0)
	le := binary.LittleEndian
	le.PutUint32(r, o.Version)
	le.PutUint64(r[0x08:], 0x30000) // bit 17, and SMT allowed
	le.PutUint32(r[0x34:], 1)
	le.PutUint64(r[0x40:], 0x25) // SMT, ECC, no aliased memory
	copy(r[0x50:], o.ReportData[:])
	copy(r[0x90:], o.Measurement[:])
	copy(r[0x140:], "a report's id, of 32 bytes in all")
	copy(r[0x160:0x180], slices.Repeat([]byte{0xff}, 32))
	for _, at := range []int{0x38, 0x180, 0x1e0, 0x1f0} {
		PutTCB(r[at:], o.Line, *o.TCB)
	}
	if o.Version >= 3 {
		copy(r[0x188:], []byte{o.CPU.Family, o.CPU.Model, o.CPU.Stepping})
	}
	chip := sha512.Sum512([]byte("a chip"))
	switch {
	case o.VLEK: // the cloud masks the chip
		r[0x48] = 1 << 2
	case o.Line == Turin:
		copy(r[0x1a0:], chip[:8])
	default:
		copy(r[0x1a0:], chip[:])
	}
	firmware := []byte{40, 55, 1, 0}
	if o.Line == Turin {
		firmware = []byte{3, 58, 1, 0}
	}
	copy(r[0x1e8:], firmware)
	copy(r[0x1ec:], firmware)
	if o.Version >= 5 {
		le.PutUint64(r[0x1f8:], 0x3f)
		le.PutUint64(r[0x200:], 0x3f)
	}
	return r
}

// PutTCB writes patch levels as a line lays them out.
func PutTCB(b []byte, line string, t attest.SNPTCB) {
	if line == Turin {
		copy(b, []byte{t.FMC, t.Bootloader, t.TEE, t.SNP, 0, 0, 0, t.Ucode})
	} else {
		copy(b, []byte{t.Bootloader, t.TEE, 0, 0, 0, 0, t.SNP, t.Ucode})
	}
}

// Sign puts a signature under a report.
func Sign(report []byte, key *ecdsa.PrivateKey) {
	digest := sha512.Sum384(report[:0x2a0])
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		panic("making a fake AMD: " + err.Error())
	}
	for i, n := range []*big.Int{r, s} {
		le := n.FillBytes(make([]byte, 72))
		slices.Reverse(le)
		copy(report[0x2a0+72*i:], le)
	}
}

func (w *World) certificate(o Options, report []byte, key *ecdsa.PrivateKey, ask *x509.Certificate) []byte {
	c := Certificate{Subject: "SEV-VCEK", Issuer: ask.Subject.CommonName, Product: o.Line, TCB: *o.TCB, From: From, Until: Until, Key: key.Public(), Algorithm: x509.SHA384WithRSAPSS}
	switch {
	case o.VLEK:
		c.Subject, c.CSP = "SEV-VLEK", "CN=cc-test.example"
	case o.Line == Turin:
		c.HWID = report[0x1a0:0x1a8]
	default:
		if o.Line == Milan {
			c.Product = "Milan-B0"
		}
		c.HWID = report[0x1a0:0x1e0]
	}
	if o.Certificate != nil {
		o.Certificate(&c)
	}
	template := &x509.Certificate{
		SerialNumber: new(big.Int), Subject: name(c.Subject), NotBefore: c.From, NotAfter: c.Until, SignatureAlgorithm: c.Algorithm, ExtraExtensions: append(c.extensions(o.Line), c.Extensions...),
	}
	parent := *ask
	parent.RawSubject, parent.Subject = nil, name(c.Issuer)
	der := must(x509.CreateCertificate(rand.Reader, template, &parent, c.Key, w.askKey))
	if c.Tamper != nil {
		der = c.Tamper(der)
	}
	return der
}

// Extension writes one of AMD's: 1.3.6.1.4.1.3704.1 and the arcs given.
func Extension(value []byte, arcs ...int) pkix.Extension {
	return pkix.Extension{Id: append(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}, arcs...), Value: value}
}

func (c *Certificate) extensions(line string) []pkix.Extension {
	number := func(v uint8) []byte { return must(asn1.Marshal(int(v))) }
	text := func(s string) []byte { return must(asn1.MarshalWithParams(s, "ia5")) }
	out := []pkix.Extension{
		Extension(number(1), 1), Extension(text(c.Product), 2),
		Extension(number(c.TCB.Bootloader), 3, 1), Extension(number(c.TCB.TEE), 3, 2), Extension(number(c.TCB.SNP), 3, 3), Extension(number(c.TCB.Ucode), 3, 8),
	}
	if line == Turin {
		out = append(out, Extension(number(c.TCB.FMC), 3, 9))
	} else {
		for i := 4; i < 8; i++ {
			out = append(out, Extension(number(c.Reserved), 3, i))
		}
	}
	if c.HWID != nil {
		out = append(out, Extension(c.HWID, 4)) // bare, as AMD writes it
	}
	if c.CSP != "" {
		out = append(out, Extension(text(c.CSP), 5))
	}
	return out
}

type attester struct {
	world *World
	opts  Options
}

// Attester is a guest on a machine of this world: what it attests has the report data of the binding.
func (w *World) Attester(o Options) attest.Attester { return attester{w, o} }

func (a attester) Attest(_ context.Context, b attest.Binding) (attest.Evidence, error) {
	data, err := b.ReportData(nil)
	if err != nil {
		return attest.Evidence{}, err
	}
	a.opts.ReportData = data
	report, endorsements := a.world.Report(a.opts)
	return attest.Evidence{Format: attest.FormatSNP, Statement: report, Endorsements: endorsements}, nil
}
