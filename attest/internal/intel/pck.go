package intel

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/consilium-fl/consilium/attest/internal/strict"
)

// Common names of Intel's certificates (SGX PCK Certificate and CRL Profile Specification, section 1.3).
const (
	rootName      = "Intel SGX Root CA"
	platformName  = "Intel SGX PCK Platform CA"
	processorName = "Intel SGX PCK Processor CA"
	leafName      = "Intel SGX PCK Certificate"
	signingName   = "Intel SGX TCB Signing"
)

// chain is what a quote carries of certificates: the platform's, the authority that issued it, and the root, which is
// compared with that of the snapshot and never parsed.
type chain struct {
	leaf, ca *x509.Certificate
	root     []byte // DER, nil where the quote has none
}

// parseChain reads two or three certificates in PEM, the leaf first. Past the last one there may be a zero byte, for
// Intel's library writes a C string.
func parseChain(b []byte) (*chain, error) {
	var ders [3][]byte
	n := 0
	b = bytes.TrimSpace(bytes.TrimRight(b, "\x00"))
	for ; len(b) > 0; n++ {
		if n == 3 {
			return nil, errors.New("certificate 3: want two or three in PEM and nothing else")
		}
		block, rest, ok := strict.PEM(b)
		if !ok || block.Type != "CERTIFICATE" || len(block.Headers) != 0 {
			return nil, fmt.Errorf("certificate %d: not PEM", n)
		}
		ders[n], b = block.Bytes, bytes.TrimSpace(rest)
	}
	if n < 2 {
		return nil, fmt.Errorf("%d certificates, want two or three", n)
	}
	leaf, err := x509.ParseCertificate(ders[0])
	if err != nil {
		return nil, errors.New("certificate 0: not a certificate")
	}
	ca, err := x509.ParseCertificate(ders[1])
	if err != nil {
		return nil, errors.New("certificate 1: not a certificate")
	}
	return &chain{leaf: leaf, ca: ca, root: ders[2]}, nil
}

// issued says whether parent signed c as Intel does: ECDSA with SHA-256 by a certification authority of that subject,
// with nothing critical in c that nobody here understands.
func issued(c, parent *x509.Certificate) bool {
	return bytes.Equal(c.RawIssuer, parent.RawSubject) &&
		len(c.UnhandledCriticalExtensions) == 0 &&
		c.SignatureAlgorithm == x509.ECDSAWithSHA256 &&
		c.CheckSignatureFrom(parent) == nil
}

// p256 is a certificate's key, nil when it is of another kind.
func p256(c *x509.Certificate) *ecdsa.PublicKey {
	if k, ok := c.PublicKey.(*ecdsa.PublicKey); ok && k.Curve == elliptic.P256() {
		return k
	}
	return nil
}

// verifyRaw checks r ‖ s, 32 bytes each, as Intel writes signatures.
func verifyRaw(key *ecdsa.PublicKey, digest [32]byte, rs []byte) bool {
	if key == nil || len(rs) != signatureLen {
		return false
	}
	sig := make([]byte, 2, 72)
	sig[0] = tagSequence
	for _, n := range [][]byte{rs[:32], rs[32:]} {
		for len(n) > 1 && n[0] == 0 {
			n = n[1:]
		}
		pad := n[0] >> 7
		sig = append(sig, tagInteger, byte(len(n))+pad)
		if pad == 1 {
			sig = append(sig, 0)
		}
		sig = append(sig, n...)
	}
	sig[1] = byte(len(sig) - 2)
	return ecdsa.VerifyASN1(key, digest[:], sig)
}

// pck is what a PCK certificate says of its platform.
type pck struct {
	ppid, fmspc, pceID, piid []byte
	components               [16]byte
	pceSVN                   int
}

var oidSGX = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}

// sgxOID is how an OID below 1.2.840.113741.1.13.1 begins in DER.
const sgxOID = "\x2a\x86\x48\x86\xf8\x4d\x01\x0d\x01"

// parsePCK reads the SGX extension (SGX PCK Certificate and CRL Profile Specification, section 1.4.1).
func parsePCK(c *x509.Certificate) (*pck, error) {
	for _, e := range c.Extensions {
		if e.Id.Equal(oidSGX) {
			return parseSGX(e.Value)
		}
	}
	return nil, errors.New("no SGX extension")
}

func parseSGX(b []byte) (*pck, error) {
	var p pck
	outer := der{rest: b}
	seen, bad := eachOID(outer.sequence(), sgxOID, func(arc byte, value *der) {
		switch arc {
		case 1:
			p.ppid = value.octets(16)
		case 2:
			p.tcb(value)
		case 3:
			p.pceID = value.octets(2)
		case 4:
			p.fmspc = value.octets(6)
		case 6:
			p.piid = value.octets(16)
		default: // kind of SGX, configuration: nothing that a TD's appraisal asks for
			value.any()
		}
	})
	const wanted = 1<<1 | 1<<2 | 1<<3 | 1<<4
	if bad || outer.more() || outer.bad || seen&wanted != wanted {
		return nil, errors.New("the SGX extension is not as its profile says")
	}
	return &p, nil
}

// tcb reads SVNs of components 1 to 16, PCESVN and CPUSVN, each once.
func (p *pck) tcb(d *der) {
	seen, bad := eachOID(d.sequence(), sgxOID+"\x02", func(arc byte, value *der) {
		switch {
		case 1 <= arc && arc <= 16:
			p.components[arc-1] = byte(value.number(255))
		case arc == 17:
			p.pceSVN = value.number(65535)
		case arc == 18:
			value.octets(16)
		default:
			value.any()
		}
	})
	const wanted = 1<<19 - 2 // arcs 1 to 18
	d.bad = d.bad || bad || seen&wanted != wanted
}

// eachOID walks over a sequence of pairs of an OID, prefix and one arc, and a value. It returns the arcs it
// saw; one of 32 and above, or one that comes twice, is bad.
func eachOID(seq der, prefix string, read func(arc byte, value *der)) (seen uint32, bad bool) {
	var pair der // one for all: read keeps it from the stack
	for seq.more() {
		pair = seq.sequence()
		arc, ok := bytes.CutPrefix(pair.take(tagOID), []byte(prefix))
		if !ok || len(arc) != 1 || arc[0] >= 32 || seen&(1<<arc[0]) != 0 {
			return seen, true
		}
		seen |= 1 << arc[0]
		read(arc[0], &pair)
		if pair.bad || len(pair.rest) != 0 {
			return seen, true
		}
	}
	return seen, seq.bad
}
