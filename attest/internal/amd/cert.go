package amd

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/consilium-fl/consilium/attest"
)

// key is a certificate of a VCEK or a VLEK with what AMD's extensions say (KDS specification 57230, tables 8 and 9).
type key struct {
	cert    *x509.Certificate
	public  *ecdsa.PublicKey
	line    string // by the issuer's name
	signer  string
	product string // "Milan-B0", "Genoa"
	csp     string
	hwid    []byte // 64 bytes, Turin 8
	spl     [10]uint8
}

// The arcs under 1.3.6.1.4.1.3704.1, and those of patch levels under its 3.
const (
	arcProduct = 2
	arcSPL     = 3
	arcHWID    = 4
	arcCSP     = 5

	splBootloader = 1
	splTEE        = 2
	splSNP        = 3
	splUcode      = 8
	splFMC        = 9
)

var amdArc = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}

// parseKey reads one certificate, which has to be DER with nothing after it.
func parseKey(der []byte, path string) (*key, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, attest.Reason{Code: attest.CodeParseEncoding, Path: path, Got: err.Error(), Want: "one certificate in DER"}
	}
	return newKey(cert, path)
}

func newKey(cert *x509.Certificate, path string) (*key, error) {
	k := &key{cert: cert}
	if err := k.readNames(path); err != nil {
		return nil, err
	}
	public, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P384() {
		return nil, attest.Reason{Code: attest.CodeParseEncoding, Path: path + ".key", Got: cert.PublicKeyAlgorithm.String(), Want: "ECDSA P-384"}
	}
	k.public = public
	if err := k.readExtensions(path); err != nil {
		return nil, err
	}
	return k, nil
}

// readNames takes kind and line from the names: a VCEK is of SEV-VCEK by SEV-Milan, a VLEK of SEV-VLEK by
// SEV-VLEK-Milan.
func (k *key) readNames(path string) error {
	for line, n := range names {
		switch k.cert.Issuer.CommonName {
		case n.ask:
			k.line, k.signer = line, attest.SignerVCEK
		case n.asvk:
			k.line, k.signer = line, attest.SignerVLEK
		}
	}
	if k.line == "" {
		return attest.Reason{Code: attest.CodeChain, Path: path + ".issuer", Got: fmt.Sprintf("%q", k.cert.Issuer.CommonName), Want: "SEV-Milan, SEV-VLEK-Milan or the like"}
	}
	if want := subject(k.signer); k.cert.Subject.CommonName != want {
		return attest.Reason{Code: attest.CodeCertKind, Path: path + ".subject", Got: fmt.Sprintf("%q", k.cert.Subject.CommonName), Want: fmt.Sprintf("%q", want)}
	}
	return nil
}

func (k *key) readExtensions(path string) error {
	var seen [10]bool
	for _, e := range k.cert.Extensions {
		if len(e.Id) <= len(amdArc) || !slices.Equal(e.Id[:len(amdArc)], amdArc) {
			continue
		}
		var err error
		switch arcs := e.Id[len(amdArc):]; {
		case len(arcs) == 2 && arcs[0] == arcSPL && arcs[1] >= 1 && arcs[1] <= splFMC:
			k.spl[arcs[1]], err = octet(e.Value)
			seen[arcs[1]] = true
		case arcs[0] == arcSPL:
			err = errors.New("a patch level of no known component")
		case len(arcs) == 1 && arcs[0] == arcProduct:
			k.product, err = ia5(e.Value)
		case len(arcs) == 1 && arcs[0] == arcCSP:
			k.csp, err = ia5(e.Value)
		case len(arcs) == 1 && arcs[0] == arcHWID:
			k.hwid, err = k.hardwareID(e.Value)
		}
		if err != nil {
			return attest.Reason{Code: attest.CodeParseEncoding, Path: path + "." + e.Id.String(), Got: err.Error()}
		}
	}
	for _, i := range []int{splBootloader, splTEE, splSNP, splUcode} {
		if !seen[i] {
			return attest.Reason{Code: attest.CodeParseEncoding, Path: fmt.Sprintf("%s.%s.%d.%d", path, amdArc, arcSPL, i), Got: "absent", Want: "a patch level"}
		}
	}
	if fmc := k.line == turin; seen[splFMC] != fmc {
		return attest.Reason{Code: attest.CodeCertProduct, Path: fmt.Sprintf("%s.%s.%d.%d", path, amdArc, arcSPL, splFMC), Got: fmt.Sprintf("present %t", seen[splFMC]), Want: fmt.Sprintf("%t for %s", fmc, k.line)}
	}
	return k.checkKind(path)
}

// checkKind demands that extensions and names tell of one kind and one product.
func (k *key) checkKind(path string) error {
	if vcek := k.signer == attest.SignerVCEK; (k.hwid != nil) != vcek || (k.csp != "") == vcek {
		return attest.Reason{Code: attest.CodeCertKind, Path: path, Got: fmt.Sprintf("hardware id %t, provider %q", k.hwid != nil, k.csp), Want: "what a " + k.signer + " has"}
	}
	if line, _, _ := strings.Cut(k.product, "-"); line != k.line {
		return attest.Reason{Code: attest.CodeCertProduct, Path: path + ".product", Got: fmt.Sprintf("%q", k.product), Want: k.line + ", by its issuer"}
	}
	return nil
}

// tcb is the patch levels that the certificate vouches for.
func (k *key) tcb() attest.SNPTCB {
	return attest.SNPTCB{FMC: k.spl[splFMC], Bootloader: k.spl[splBootloader], TEE: k.spl[splTEE], SNP: k.spl[splSNP], Ucode: k.spl[splUcode]}
}

// reservedSPL says whether a level is set that no report has a byte for.
func (k *key) reservedSPL() bool { return !zero(k.spl[splSNP+1 : splUcode]) }

// turinHWID is the length of a Turin's hardware id, in bytes. It is the beginning of a longer field in reports.
const turinHWID = 8

// hardwareID takes the bytes bare, as AMD writes them, or as an OCTET STRING, as AMD specifies them.
func (k *key) hardwareID(b []byte) ([]byte, error) {
	size := 64
	if k.line == turin {
		size = turinHWID
	}
	if len(b) == size+2 && b[0] == asn1.TagOctetString && int(b[1]) == size {
		b = b[2:]
	}
	if len(b) != size {
		return nil, fmt.Errorf("a hardware id of %d bytes, want %d", len(b), size)
	}
	return b, nil
}

// is says whether the certificate is of the chip. Turin's id is the first 8 bytes of the report's field.
func (k *key) is(chip []byte) bool {
	return bytes.HasPrefix(chip, k.hwid) && zero(chip[len(k.hwid):])
}

// octet reads a DER INTEGER from 0 to 255.
func octet(b []byte) (uint8, error) {
	switch {
	case len(b) == 3 && b[0] == asn1.TagInteger && b[1] == 1 && b[2] < 0x80:
		return b[2], nil
	case len(b) == 4 && b[0] == asn1.TagInteger && b[1] == 2 && b[2] == 0 && b[3] >= 0x80:
		return b[3], nil
	}
	return 0, errors.New("no INTEGER from 0 to 255")
}

// ia5 reads a DER IA5String of printable characters.
func ia5(b []byte) (string, error) {
	if len(b) < 3 || b[0] != asn1.TagIA5String || int(b[1]) != len(b)-2 || len(b) > 2+127 {
		return "", errors.New("no IA5String of 1 to 127 characters")
	}
	for _, c := range b[2:] {
		if c < 0x20 || c > 0x7e {
			return "", errors.New("an IA5String with characters that do not print")
		}
	}
	return string(b[2:]), nil
}
