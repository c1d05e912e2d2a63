package intel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/consilium-fl/consilium/attest"
)

// Offsets in an enclave report (Intel SGX ECDSA Quoting Library API, appendix A.4).
const (
	reportMisc       = 16
	reportAttributes = 48
	reportMRSigner   = 128
	reportProdID     = 256
	reportSVN        = 258
	reportData       = 320
)

// tcb writes an outcome as claims; of none, the status is empty.
func (o *outcome) tcb(number int) *attest.TDXTCB {
	t := &attest.TDXTCB{EvaluationNumber: number}
	if o == nil {
		return t
	}
	t.Status, t.Date = o.status, o.date.Format(time.DateOnly)
	if o.advisories != nil {
		d := document{rest: o.advisories}
		d.array(func() { t.Advisories = append(t.Advisories, string(d.text())) })
	}
	return t
}

// platform searches the level of the platform: the first of which every component is reached. From modules 1.5
// on the first two TDX components are the module's own, which has levels of its own.
func (x *tcbInfo) platform(p *pck, teeSVN [16]byte) *attest.TDXTCB {
	from := 0
	if teeSVN[1] > 0 {
		from = 2
	}
	var found *outcome
	for i := range x.levels {
		l := &x.levels[i]
		if reached(p.components[:], l.sgx[:]) && p.pceSVN >= l.pceSVN && reached(teeSVN[from:], l.tdx[from:]) {
			found = &l.outcome
			break
		}
	}
	t := found.tcb(x.number)
	newest := &x.levels[0]
	t.Behind = behind(t.Behind, "sgx", p.components[:], newest.sgx[:], x.names.sgx[:], 0)
	if p.pceSVN < newest.pceSVN {
		t.Behind = append(t.Behind, attest.TDXBehind{Component: "pcesvn", Got: p.pceSVN, Want: newest.pceSVN})
	}
	t.Behind = behind(t.Behind, "tdx", teeSVN[:], newest.tdx[:], x.names.tdx[:], from)
	return t
}

func reached(got, want []byte) bool {
	for i := range want {
		if got[i] < want[i] {
			return false
		}
	}
	return true
}

func behind(out []attest.TDXBehind, kind string, got, want []byte, names [][]byte, from int) []attest.TDXBehind {
	for i := from; i < len(want); i++ {
		if got[i] < want[i] {
			name := fmt.Sprintf("%s[%d]", kind, i)
			if len(names[i]) > 0 {
				name += " " + string(names[i])
			}
			out = append(out, attest.TDXBehind{Component: name, Got: int(got[i]), Want: int(want[i])})
		}
	}
	return out
}

// svnTCB searches the level of what has one SVN alone.
func svnTCB(levels []svnLevel, name []byte, svn, number int) *attest.TDXTCB {
	var found *outcome
	for i := range levels {
		if svn >= levels[i].svn {
			found = &levels[i].outcome
			break
		}
	}
	t := found.tcb(number)
	if len(levels) > 0 && svn < levels[0].svn {
		t.Behind = append(t.Behind, attest.TDXBehind{Component: string(name), Got: svn, Want: levels[0].svn})
	}
	return t
}

// moduleOf returns what is said of the module of that version, nil when nothing is.
func (x *tcbInfo) moduleOf(version byte) *module {
	if version == 0 {
		return &x.module
	}
	for i := range x.modules {
		if bytes.EqualFold(x.modules[i].id, fmt.Appendf(nil, "TDX_%02x", version)) {
			return &x.modules[i]
		}
	}
	return nil
}

// check holds the module that the quote names against Intel's.
func (m *module) check(t *attest.TDXClaims) error {
	if !bytes.Equal(t.MRSignerSEAM, m.mrsigner[:]) {
		return reason(attest.CodeTCBModuleMismatch, "tdx.mr_signer_seam", t.MRSignerSEAM.String(), fmt.Sprintf("%x", m.mrsigner))
	}
	if !masked(t.SEAMAttributes, m.attributes[:], m.attributesOf[:]) {
		return reason(attest.CodeTCBModuleMismatch, "tdx.seam_attributes", t.SEAMAttributes.String(), fmt.Sprintf("%x under mask %x", m.attributes, m.attributesOf))
	}
	return nil
}

func masked(got, want, mask []byte) bool {
	for i := range mask {
		if got[i]&mask[i] != want[i] {
			return false
		}
	}
	return true
}

// check holds the quoting enclave's report against Intel's identity of it.
func (x *qeIdentity) check(report []byte) error {
	for _, c := range []struct {
		field     string
		got, want []byte
		mask      []byte
	}{
		{"miscselect", report[reportMisc:][:4], x.misc[:], x.miscOf[:]},
		{"attributes", report[reportAttributes:][:16], x.attributes[:], x.attributesOf[:]},
		{"mrsigner", report[reportMRSigner:][:32], x.mrsigner[:], bytes.Repeat([]byte{0xff}, 32)},
		{"isvprodid", report[reportProdID:][:2], binary.LittleEndian.AppendUint16(nil, uint16(x.prodID)), []byte{0xff, 0xff}},
	} {
		if !masked(c.got, c.want, c.mask) {
			return reason(attest.CodeCollateralQE, "qe_report."+c.field, fmt.Sprintf("%x", c.got), fmt.Sprintf("%x under mask %x", c.want, c.mask))
		}
	}
	return nil
}
