package amd

import (
	"strings"

	"github.com/consilium-fl/consilium/attest"
)

// The product lines for which AMD has roots (KDS specification 57230, section 2).
const (
	milan = "Milan"
	genoa = "Genoa"
	turin = "Turin"
)

// lineOf is the product line under whose root AMD certifies a processor; empty for one that is none of these. Siena
// and Bergamo are certified as Genoa.
func lineOf(c attest.SNPCPU) string {
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
	return strings.ToLower(line)
}
