package amd

import "github.com/consilium-fl/consilium/attest"

// The product lines for which AMD has roots (KDS specification 57230, section 2).
const (
	milan = "Milan"
	genoa = "Genoa"
	turin = "Turin"
)

// names are what a line is called: its authorities, and its generation in policies.
var names = map[string]struct{ ark, ask, asvk, generation, crl string }{
	milan: {"ARK-Milan", "SEV-Milan", "SEV-VLEK-Milan", "milan", "crl:ark-milan"},
	genoa: {"ARK-Genoa", "SEV-Genoa", "SEV-VLEK-Genoa", "genoa", "crl:ark-genoa"},
	turin: {"ARK-Turin", "SEV-Turin", "SEV-VLEK-Turin", "turin", "crl:ark-turin"},
}

// LineOf is the product line under whose root AMD certifies a processor; empty for one that is none of these. Siena
// and Bergamo are certified as Genoa.
func LineOf(c attest.SNPCPU) string {
	switch {
	case c.Family == 0x19 && c.Model < 0x10:
		return milan
	case c.Family == 0x19 && c.Model>>4 == 1, c.Family == 0x19 && c.Model>>4 == 0xa:
		return genoa
	case c.Family == 0x1a && c.Model < 0x20:
		return turin
	}
	return ""
}

// generation names a processor for policies that deny some: by CPUID, or by its line where the report has none.
func generation(c attest.SNPCPU, line string) string {
	if c.Family == 0x19 && c.Model>>4 == 0xa {
		return "bergamo"
	}
	return names[line].generation
}

// subject is the common name of the certificates of a signing key.
func subject(signer string) string {
	if signer == attest.SignerVLEK {
		return "SEV-VLEK"
	}
	return "SEV-VCEK"
}
