package refresh

import (
	"fmt"
	"strings"

	"github.com/consilium-fl/consilium/attest"
)

// Where an HCL report of Azure's has the report of the hardware, and under which name a TD's quote goes with one.
const (
	hclHeader = 32
	snpReport = 1184
	hclQuote  = "td-quote"
)

// ForEvidence are the sources of what evidence is verified by: by AMD's service for a report, by Intel's for a quote,
// whatever it came in. A service that is nil is not asked, and evidence of another kind needs neither.
func ForEvidence(kds *KDS, pcs *PCS, e attest.Evidence) ([]Source, error) {
	switch e.Format {
	case attest.FormatSNP, attest.FormatAzureSNP:
		if kds == nil {
			return nil, nil
		}
		report := e.Statement
		if e.Format == attest.FormatAzureSNP {
			if len(report) < hclHeader+snpReport {
				return nil, fmt.Errorf("reading what evidence needs: an HCL report of %d bytes, want at least %d", len(report), hclHeader+snpReport)
			}
			report = report[hclHeader : hclHeader+snpReport]
		}
		return kds.ForReport(report)
	case attest.FormatTDX, attest.FormatAzureTDX:
		if pcs == nil {
			return nil, nil
		}
		quote := e.Statement
		if e.Format == attest.FormatAzureTDX {
			quote = e.Endorsements[hclQuote]
		}
		return pcs.ForQuote(quote)
	}
	return nil, nil
}

// OfChip reports whether what a source gives is the certificate of one chip, which evidence may bring in its place.
func OfChip(s Source) bool { return strings.HasPrefix(s.Name(), chipPrefix) }

const chipPrefix = "amd-vcek-"
