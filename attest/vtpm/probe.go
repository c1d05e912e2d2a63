package vtpm

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"fmt"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/internal/tpm"
)

// Finding is [attest.Finding].
type Finding = attest.Finding

// Probe looks for what a machine of Google Compute Engine needs in order to attest by its virtual TPM, and tries it
// over a random nonce. The first finding says whether there is such a TPM at all. Nothing is verified against Google's
// roots.
func Probe(ctx context.Context) []Finding { return newAttester(tpm.Open, tpm.EventLogPath).probe(ctx) }

func (a attester) probe(ctx context.Context) []Finding {
	const place, quote, log = "vtpm", "vtpm quote", "event log"
	if err := ctx.Err(); err != nil {
		return []Finding{{Name: place, Text: fmt.Sprintf("Nothing was looked at: %v.", err)}}
	}
	t, err := a.open()
	if err != nil {
		return []Finding{{Name: place, Text: fmt.Sprintf("There is no TPM to talk to: %v. It takes root, or membership of the group tss.", err)}}
	}
	der, _, err := certificate(t)
	t.Close()
	if err != nil {
		return []Finding{{Name: place, Text: fmt.Sprintf("There is a TPM, and not one of Google Compute Engine: %v.", err)}}
	}
	out := []Finding{{Name: place, OK: true, Text: "The TPM has an attestation key that Google certified."}}
	if c, err := x509.ParseCertificate(der); err == nil {
		if i, err := instanceOf(c); err != nil {
			out = append(out, Finding{Name: place, Text: fmt.Sprintf("The certificate names no machine: %v.", err)})
		} else {
			out = append(out, Finding{Name: place, OK: true, Text: fmt.Sprintf("Its certificate is of machine %s (%d) in zone %s of project %s, until %s.", i.Name, i.ID, i.Zone, i.Project, c.NotAfter.Format("2006-01-02"))})
		}
	}
	var nonce [32]byte
	_, _ = rand.Read(nonce[:]) // never fails, see crypto/rand
	m, err := a.quote(nonce[:])
	if err != nil {
		return append(out, Finding{Name: quote, Text: fmt.Sprintf("The TPM makes no quote: %v.", err)})
	}
	out = append(out, Finding{Name: quote, OK: true, Text: "The TPM makes quotes of its SHA-256 registers."})
	if m.quote.EventLog, err = tpm.ReadEventLog(a.log); err != nil || len(m.quote.EventLog) == 0 {
		return append(out, Finding{Name: log, Text: fmt.Sprintf("There is no event log at %s, and policies that ask for one refuse this machine.", a.log)})
	}
	c, err := m.attestationKey()
	if err != nil {
		return append(out, Finding{Name: log, Text: fmt.Sprintf("The key cannot be read: %v.", err)})
	}
	claims, err := m.quote.Verify(c.PublicKey)
	switch {
	case err != nil:
		return append(out, Finding{Name: log, Text: fmt.Sprintf("The event log does not lead to the registers: %v.", err)})
	case claims.EventLog.SecureBoot == nil || !*claims.EventLog.SecureBoot:
		return append(out, Finding{Name: log, Text: "The event log does not say that secure boot is on."})
	}
	return append(out, Finding{Name: log, OK: true, Text: "The event log leads to the registers, and secure boot is on."})
}
