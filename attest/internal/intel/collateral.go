package intel

import (
	"time"

	"github.com/consilium-fl/consilium/attest"
)

// dated is what both documents of Intel's service begin with.
type dated struct {
	issued, next time.Time
	number       int // tcbEvaluationDataNumber
}

func (x *dated) date() *dated { return x }

// outcome is what a level says of whoever reaches it.
type outcome struct {
	status     string
	date       time.Time
	advisories []byte // a list in JSON, or nil
}

// svnLevel is a level of the QE or of a TDX module.
type svnLevel struct {
	svn int
	outcome
}

// module is what TCB info says of the TDX module of one major version.
type module struct {
	id                       []byte // "TDX_03"; nil for the one of modules 1.0
	mrsigner                 [48]byte
	attributes, attributesOf [8]byte // value and mask
	levels                   []svnLevel
}

// level is one of the platform's.
type level struct {
	sgx, tdx [16]byte
	pceSVN   int
	outcome
}

// tcbInfo is Intel's appraisal of the TCB of platforms of one FMSPC (PCS API v4, "Get TDX TCB Info").
type tcbInfo struct {
	dated
	fmspc   [6]byte
	pceID   [2]byte
	module  module // of version 1.0
	modules []module
	levels  []level                       // the newest first
	names   struct{ sgx, tdx [16][]byte } // of the newest level
}

// qeIdentity says which quoting enclave is Intel's (PCS API v4, "Get TDX QE Identity").
type qeIdentity struct {
	dated
	misc, miscOf             [4]byte // value and mask
	attributes, attributesOf [16]byte
	mrsigner                 [32]byte
	prodID                   int
	levels                   []svnLevel
}

// maxLevels bounds the lists of a document.
const maxLevels = 256

func (d *document) time() (t time.Time) {
	if t.UnmarshalText(d.text()) != nil {
		d.fail()
	}
	return t
}

// parse reads a document of that id and version, and says whether it is one and has that many of the names that it has
// to have; field reads those that are its own, or returns false.
func (x *dated) parse(body []byte, id string, version, names int, field func(d *document, name []byte) bool) bool {
	d := &document{rest: body}
	seen := 0
	d.object(func(name []byte) {
		switch string(name) {
		case "id":
			if string(d.text()) != id {
				d.fail()
			}
		case "version":
			if d.number(version) != version {
				d.fail()
			}
		case "issueDate":
			x.issued = d.time()
		case "nextUpdate":
			x.next = d.time()
		case "tcbEvaluationDataNumber":
			x.number = d.number(1 << 30)
		default:
			if !field(d, name) {
				return
			}
		}
		seen++
	})
	return d.end() && seen == names
}

// outcome reads what every kind of level has; it says whether name was one of these.
func (o *outcome) common(d *document, name []byte) bool {
	switch string(name) {
	case "tcbDate":
		o.date = d.time()
	case "tcbStatus":
		o.status = status(d.text())
		if o.status == "" {
			d.fail()
		}
	case "advisoryIDs":
		d.peek()
		all := d.rest
		d.array(func() { d.text() })
		o.advisories = all[:len(all)-len(d.rest)]
	default:
		return false
	}
	return true
}

func (o *outcome) complete() bool { return o.status != "" && !o.date.IsZero() }

// status knows those of the service's specification; another one would be judged by nobody.
func status(b []byte) string {
	for _, s := range [...]string{
		attest.TDXUpToDate, attest.TDXSWHardeningNeeded, attest.TDXConfigurationNeeded, attest.TDXConfigurationAndSWHardeningNeeded,
		attest.TDXOutOfDate, attest.TDXOutOfDateConfigurationNeeded, attest.TDXRevoked,
	} {
		if string(b) == s {
			return s
		}
	}
	return ""
}

// parseTCBInfo returns nil for what is not TCB info of version 3 of TDX.
func parseTCBInfo(body []byte) *tcbInfo {
	x := &tcbInfo{modules: make([]module, 0, 4), levels: make([]level, 0, 8)}
	if !x.parse(body, "TDX", 3, 10, x.field) || len(x.levels) == 0 {
		return nil
	}
	return x
}

func (x *tcbInfo) field(d *document, name []byte) bool {
	switch string(name) {
	case "tcbType":
		d.number(0)
	case "fmspc":
		d.hex(x.fmspc[:])
	case "pceId":
		d.hex(x.pceID[:])
	case "tdxModule":
		x.module.parse(d)
	case "tdxModuleIdentities":
		d.array(func() { x.addModule(d) })
		return false // optional
	case "tcbLevels":
		d.array(func() { x.addLevel(d) })
	default:
		d.skip(0)
		return false
	}
	return true
}

func (x *tcbInfo) addModule(d *document) {
	if len(x.modules) == maxLevels {
		d.fail()
		return
	}
	var m module
	m.parse(d)
	if len(m.id) == 0 {
		d.fail()
	}
	x.modules = append(x.modules, m)
}

func (m *module) parse(d *document) {
	seen := 0
	d.object(func(name []byte) {
		switch string(name) {
		case "id":
			m.id = d.text()
			return // absent where there is only one
		case "mrsigner":
			d.hex(m.mrsigner[:])
		case "attributes":
			d.hex(m.attributes[:])
		case "attributesMask":
			d.hex(m.attributesOf[:])
		case "tcbLevels":
			m.levels = parseSVNLevels(d)
			return
		default:
			d.skip(0)
			return
		}
		seen++
	})
	if seen != 3 {
		d.fail()
	}
}

func parseSVNLevels(d *document) []svnLevel {
	out := make([]svnLevel, 0, 4) // as many as there are, most often
	d.array(func() {
		l := svnLevel{svn: -1}
		d.object(func(name []byte) {
			switch {
			case l.common(d, name):
			case string(name) == "tcb":
				d.object(func(name []byte) {
					if string(name) == "isvsvn" {
						l.svn = d.number(65535)
					} else {
						d.skip(0)
					}
				})
			default:
				d.skip(0)
			}
		})
		if l.svn < 0 || !l.complete() || len(out) == maxLevels {
			d.fail()
		}
		out = append(out, l)
	})
	return out
}

func (x *tcbInfo) addLevel(d *document) {
	var l level
	var names struct{ sgx, tdx [16][]byte }
	seen := 0
	d.object(func(name []byte) {
		switch {
		case l.common(d, name):
		case string(name) == "tcb":
			d.object(func(name []byte) {
				switch string(name) {
				case "sgxtcbcomponents":
					components(d, &l.sgx, &names.sgx)
				case "tdxtcbcomponents":
					components(d, &l.tdx, &names.tdx)
				case "pcesvn":
					l.pceSVN = d.number(65535)
				default:
					d.skip(0)
					return
				}
				seen++
			})
		default:
			d.skip(0)
		}
	})
	if seen != 3 || !l.complete() || len(x.levels) == maxLevels {
		d.fail()
	}
	if len(x.levels) == 0 {
		x.names = names
	}
	x.levels = append(x.levels, l)
}

func components(d *document, svns *[16]byte, names *[16][]byte) {
	n := 0
	d.array(func() {
		if n == 16 {
			d.fail()
			return
		}
		found := false
		d.object(func(name []byte) {
			switch string(name) {
			case "svn":
				svns[n] = byte(d.number(255))
				found = true
			case "type":
				names[n] = d.text()
			default:
				d.skip(0)
			}
		})
		if !found {
			d.fail()
		}
		n++
	})
	if n != 16 {
		d.fail()
	}
}

// parseQEIdentity returns nil for what is not the identity, of version 2, of a TD's quoting enclave.
func parseQEIdentity(body []byte) *qeIdentity {
	x := &qeIdentity{}
	if !x.parse(body, "TD_QE", 2, 12, x.field) || len(x.levels) == 0 {
		return nil
	}
	return x
}

func (x *qeIdentity) field(d *document, name []byte) bool {
	switch string(name) {
	case "miscselect":
		d.hex(x.misc[:])
	case "miscselectMask":
		d.hex(x.miscOf[:])
	case "attributes":
		d.hex(x.attributes[:])
	case "attributesMask":
		d.hex(x.attributesOf[:])
	case "mrsigner":
		d.hex(x.mrsigner[:])
	case "isvprodid":
		x.prodID = d.number(65535)
	case "tcbLevels":
		x.levels = parseSVNLevels(d)
	default:
		d.skip(0)
		return false
	}
	return true
}
