package study

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/consilium-fl/consilium/internal/signed"
)

// ConsortiumVersion is the version of consortium.yaml.
const ConsortiumVersion = "consilium.consortium/v1"

const consortiumType = "application/vnd.consilium.consortium+yaml"

// maxHospitals bounds a consortium: pair masks cost each member one agreement a peer.
const maxHospitals = 1000

// Consortium is consortium.yaml: who belongs, whose keys count, which machines are accepted.
type Consortium struct {
	Name        string            // SPIFFE trust domain
	Serial      uint64            // from 1; each later file names the one before
	Previous    [32]byte          // digest of serial-1, zero for the first
	Amend       int               // signatures of these hospitals that the next serial needs: a majority at least
	Log         ed25519.PublicKey // log key
	Hospitals   map[string]Hospital
	People      map[string]Person
	Attestation Attestation
	Digest      [32]byte // SHA-256 of Raw: the consortium's name in studies
	Raw         []byte   // the file's exact bytes
}

// Hospital is one hospital of a consortium.
type Hospital struct {
	Governance ed25519.PublicKey // approves and enrols; kept offline by a person
	Registries []string          // names of data sets, sorted; the privacy ledger is keyed by them
	Contact    string
}

// Person is one of the people of a consortium.
type Person struct {
	Role string // RoleLead or RoleAuditor
	Key  ed25519.PublicKey
}

// Roles of people.
const (
	RoleLead    = "lead"
	RoleAuditor = "auditor"
)

// Attestation says what evidence is accepted of nodes and of the coordinator. What is absent is refused.
type Attestation struct{ Node, Coordinator Accept }

// Accept lists acceptable evidence of one role: by a manifest of reference values, whose versions the amenders
// sign, or for a simulated TEE by what stands here.
type Accept struct {
	Reference      string   // name of the manifest; formats and measurements are then its
	Formats        []string // as sim/1
	AllowSimulated bool     // one half of the agreement to simulated TEEs; the process holds the other
	Measurements   [][32]byte
	Machines       []string // "chip:" and hex; any machine where empty
}

// ParseConsortium reads consortium.yaml. The error is Problems: all of them, each with its place.
func ParseConsortium(yaml []byte) (*Consortium, error) {
	d, o := parseDocument(yaml)
	seen := map[string]string{}
	o.choice("version", ConsortiumVersion)
	c := &Consortium{
		Name:      o.match("name", dottedForm, wantDotted),
		Serial:    uint64(o.integer("serial", true, 1, 1<<30)),
		Log:       o.key("log", seen),
		Hospitals: map[string]Hospital{},
		People:    map[string]Person{},
		Digest:    signed.Digest(yaml),
		Raw:       bytes.Clone(yaml),
	}
	c.Previous = c.previous(o)
	hospitals := o.object("hospitals", true)
	for _, name := range hospitals.keys {
		c.Hospitals[name] = hospital(hospitals, name, seen)
	}
	hospitals.done()
	if n := len(c.Hospitals); hospitals.fields != nil && (n < 1 || n > maxHospitals) {
		o.bad("hospitals", strconv.Itoa(n), fmt.Sprintf("1 to %d hospitals", maxHospitals))
	}
	n := max(1, len(c.Hospitals))
	c.Amend = o.integer("amend", true, n/2+1, n) // with less, two next files could both be signed
	people := o.object("people", true)
	for _, name := range people.keys {
		c.People[name] = person(people, name, seen)
	}
	people.done()
	a := o.object("attestation", true)
	c.Attestation = Attestation{Node: accept(a, "node"), Coordinator: accept(a, "coordinator")}
	a.done()
	o.done()
	return c, d.err()
}

func (c *Consortium) previous(o object) [32]byte {
	p := o.digest("previous", c.Serial > 1)
	if c.Serial == 1 && o.has("previous") {
		o.bad("previous", "the digest of a file before the first", "no such key in serial 1")
	}
	return p
}

// coordinatorName is taken: it is the subject of the coordinator's own leaves.
const coordinatorName = "coordinator"

func hospital(hospitals object, name string, seen map[string]string) Hospital {
	named(hospitals, name, labelForm, wantLabel)
	if name == coordinatorName {
		hospitals.bad(name, quote(name), "another name: the log tells the coordinator's own acts by it")
	}
	o := hospitals.object(name, true)
	h := Hospital{
		Governance: o.key("governance", seen),
		Registries: o.list("registries", true, "a list of names of data sets", wants(labelForm, wantLabel)),
		Contact:    o.text("contact", false, 254),
	}
	slices.Sort(h.Registries)
	o.done()
	return h
}

func person(people object, name string, seen map[string]string) Person {
	named(people, name, dottedForm, wantDotted)
	o := people.object(name, true)
	p := Person{Role: o.choice("role", RoleLead, RoleAuditor), Key: o.key("key", seen)}
	o.done()
	return p
}

// named checks a key that is a name.
func named(o object, name string, form *regexp.Regexp, want string) {
	if !form.MatchString(name) || len(name) > 255 {
		o.d.add(o.places[name], o.path, quote(name)+" as a name", want)
	}
}

func wants(form *regexp.Regexp, want string) func(string) string {
	return func(text string) string {
		if len(text) > 255 || !form.MatchString(text) {
			return want
		}
		return ""
	}
}

func accept(parent object, role string) Accept {
	o := parent.object(role, false)
	if o.fields == nil {
		return Accept{}
	}
	a := Accept{
		Formats:        o.list("accept", !o.has("reference"), "a list of evidence formats", wants(formatForm, "a format such as sim/1")),
		AllowSimulated: o.boolean("allow_simulated", false),
		Machines:       o.list("machines", false, "a list of machines", wants(machineForm, "chip: and lower-case hex digits")),
	}
	o.list("measurements", false, "a list of digests", func(text string) string {
		m, err := signed.ParseDigest(text)
		if err != nil {
			return "sha256: and 64 lower-case hex digits"
		}
		a.Measurements = append(a.Measurements, m)
		return ""
	})
	if o.has("reference") {
		a.Reference = o.match("reference", labelForm, wantLabel)
	}
	if a.Reference != "" && len(a.Formats)+len(a.Measurements) > 0 {
		o.bad("reference", quote(a.Reference), "either a manifest, or accept and measurements here")
	}
	o.done()
	return a
}

// Amenders are the governance keys of the hospitals, by hospital: those that sign the next serial, and the manifests
// of reference values. It takes Amend of them.
func (c *Consortium) Amenders() []ed25519.PublicKey {
	var keys []ed25519.PublicKey
	for _, name := range slices.Sorted(maps.Keys(c.Hospitals)) {
		keys = append(keys, c.Hospitals[name].Governance)
	}
	return keys
}

// Sign adds key's signature to the signatures of this file; nil sigs begins a new signature file.
func (c *Consortium) Sign(sigs []byte, key crypto.Signer) ([]byte, error) {
	e := signed.Envelope{PayloadType: consortiumType, Payload: c.Raw}
	if sigs != nil {
		var err error
		if e, err = c.envelope(sigs); err != nil {
			return nil, fmt.Errorf("signing consortium: %w", err)
		}
	}
	if err := e.Sign(key); err != nil {
		return nil, fmt.Errorf("signing consortium: %w", err)
	}
	return e.Encode(), nil
}

// CheckSignatures checks consortium.sigs.json: the first serial is signed by every hospital; a later one by
// as many hospitals of its predecessor as that asks for, and by each hospital that joins or has a new key.
// Every signature in the file must be of a key that may be there, and good.
func (c *Consortium) CheckSignatures(sigs []byte, predecessor *Consortium) error {
	e, err := c.envelope(sigs)
	if err != nil {
		return fmt.Errorf("checking signatures of consortium %s: %w", Short(c.Digest), err)
	}
	if c.Serial == 1 {
		err = c.checkFirst(e)
	} else {
		err = c.checkLater(e, predecessor)
	}
	if err != nil {
		return fmt.Errorf("checking signatures of consortium %s: %w", Short(c.Digest), err)
	}
	return nil
}

func (c *Consortium) checkFirst(e signed.Envelope) error {
	if err := allGood(e, c.governance()); err != nil {
		return err
	}
	var missing []string
	for _, name := range slices.Sorted(maps.Keys(c.Hospitals)) {
		if !e.SignedBy(c.Hospitals[name].Governance) {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("not signed by %s, want every hospital under serial 1", strings.Join(missing, ", "))
	}
	return nil
}

func (c *Consortium) checkLater(e signed.Envelope, p *Consortium) error {
	switch {
	case p == nil:
		return fmt.Errorf("serial %d without its predecessor", c.Serial)
	case c.Name != p.Name || c.Serial != p.Serial+1 || c.Previous != p.Digest:
		return fmt.Errorf("names %q serial %d after %s, want %q serial %d after %s", c.Name, c.Serial, Short(c.Previous), p.Name, p.Serial+1, Short(p.Digest))
	}
	keys := p.governance()
	maps.Copy(keys, c.governance())
	if err := allGood(e, keys); err != nil {
		return err
	}
	var amenders int
	for _, h := range p.Hospitals {
		if e.SignedBy(h.Governance) {
			amenders++
		}
	}
	if amenders < p.Amend {
		return fmt.Errorf("signed by %d hospitals of serial %d, want %d", amenders, p.Serial, p.Amend)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Hospitals)) {
		now, before := c.Hospitals[name].Governance, p.Hospitals[name].Governance
		if !now.Equal(before) && !e.SignedBy(now) {
			return fmt.Errorf("not signed by %s, which joins or has a new key", name)
		}
	}
	return nil
}

// SignedBy reports whether the hospital's governance key has signed: a node takes a consortium only
// with its own hospital's signature.
func (c *Consortium) SignedBy(sigs []byte, hospital string) bool {
	e, err := c.envelope(sigs)
	h, known := c.Hospitals[hospital]
	return err == nil && known && e.SignedBy(h.Governance)
}

func (c *Consortium) envelope(sigs []byte) (signed.Envelope, error) {
	e, err := signed.ParseEnvelope(sigs, consortiumType)
	if err != nil {
		return signed.Envelope{}, err
	}
	if !bytes.Equal(e.Payload, c.Raw) {
		return signed.Envelope{}, errors.New("signatures are over another file")
	}
	return e, nil
}

// governance maps key ids to keys.
func (c *Consortium) governance() map[string]ed25519.PublicKey {
	keys := map[string]ed25519.PublicKey{}
	for _, h := range c.Hospitals {
		keys[signed.KeyID(h.Governance)] = h.Governance
	}
	return keys
}

// allGood refuses a file with a signature that is unknown, bad, or there twice: a file that holds
// junk is not the file that was checked when the junk was made.
func allGood(e signed.Envelope, keys map[string]ed25519.PublicKey) error {
	seen := map[string]bool{}
	for i, s := range e.Signatures {
		k, known := keys[s.KeyID]
		if !known || seen[s.KeyID] {
			return fmt.Errorf("signature %d is of key %s, want each key that may sign at most once", i, quote(s.KeyID))
		}
		seen[s.KeyID] = true
		one := signed.Envelope{PayloadType: e.PayloadType, Payload: e.Payload, Signatures: []signed.EnvelopeSignature{s}}
		if !one.SignedBy(k) {
			return fmt.Errorf("signature %d of key %s: %w", i, s.KeyID, signed.ErrSignature)
		}
	}
	return nil
}

// RenderConsortium writes c as YAML that ParseConsortium reads back to the same fields.
func RenderConsortium(c *Consortium) []byte {
	var b bytes.Buffer
	p := func(format string, a ...any) { fmt.Fprintf(&b, format, a...) }
	p("version: %s\nname: %s\nserial: %d\n", ConsortiumVersion, strconv.Quote(c.Name), c.Serial)
	if c.Serial > 1 {
		p("previous: %s\n", signed.DigestText(c.Previous))
	}
	p("amend: %d\nlog: %s\nhospitals:\n", c.Amend, signed.KeyText(c.Log))
	for _, name := range slices.Sorted(maps.Keys(c.Hospitals)) {
		h := c.Hospitals[name]
		p("  %s: {governance: %q, registries: %s", strconv.Quote(name), signed.KeyText(h.Governance), flow(h.Registries))
		if h.Contact != "" {
			p(", contact: %s", strconv.Quote(h.Contact))
		}
		p("}\n")
	}
	p("people:%s\n", empty(len(c.People)))
	for _, name := range slices.Sorted(maps.Keys(c.People)) {
		p("  %s: {role: %s, key: %q}\n", strconv.Quote(name), c.People[name].Role, signed.KeyText(c.People[name].Key))
	}
	p("attestation:%s\n", empty(len(c.Attestation.Node.Formats)+len(c.Attestation.Node.Reference)+len(c.Attestation.Coordinator.Formats)+len(c.Attestation.Coordinator.Reference)))
	renderAccept(&b, "node", c.Attestation.Node)
	renderAccept(&b, "coordinator", c.Attestation.Coordinator)
	return b.Bytes()
}

func empty(n int) string {
	if n == 0 {
		return " {}"
	}
	return ""
}

func renderAccept(b *bytes.Buffer, role string, a Accept) {
	switch {
	case a.Reference != "":
		fmt.Fprintf(b, "  %s: {reference: %s, allow_simulated: %t", role, a.Reference, a.AllowSimulated)
	case len(a.Formats) > 0:
		fmt.Fprintf(b, "  %s: {accept: %s, allow_simulated: %t", role, flow(a.Formats), a.AllowSimulated)
	default:
		return
	}
	if len(a.Measurements) > 0 {
		var m []string
		for _, d := range a.Measurements {
			m = append(m, signed.DigestText(d))
		}
		fmt.Fprintf(b, ", measurements: %s", flow(m))
	}
	if len(a.Machines) > 0 {
		fmt.Fprintf(b, ", machines: %s", flow(a.Machines))
	}
	b.WriteString("}\n")
}

// flow writes a YAML flow sequence of quoted strings.
func flow(items []string) string {
	q := make([]string, len(items))
	for i, s := range items {
		q[i] = strconv.Quote(s)
	}
	return "[" + strings.Join(q, ", ") + "]"
}
