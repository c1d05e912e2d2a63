package azure

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"

	"github.com/google/go-tpm/tpm2/transport"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/internal/tpm"
)

// Finding is [attest.Finding].
type Finding = attest.Finding

// Probe looks for what a confidential machine of Azure needs in order to attest, and tries each part. The first finding
// says whether it is such a machine at all. It writes no user data, and verifies nothing against AMD's or Intel's roots.
func Probe(ctx context.Context) []Finding {
	return newAttester(tpm.Open, tpm.DevicePath, tpm.EventLogPath, imdsURL).probe(ctx)
}

func (a attester) probe(ctx context.Context) []Finding {
	const place = "azure"
	t, err := a.open()
	if err != nil {
		return []Finding{{Name: place, Text: fmt.Sprintf("There is no TPM to talk to: %v. It takes root, or membership of the group tss.", err)}}
	}
	defer t.Close()
	raw, err := tpm.ReadNV(t, indexReport)
	if err != nil {
		return []Finding{{Name: place, Text: fmt.Sprintf("There is a TPM, and not one of a confidential machine of Azure: %v.", err)}}
	}
	r, err := parseReport(raw)
	if err != nil {
		return []Finding{{Name: place, Text: fmt.Sprintf("The HCL report cannot be read: %v.", err)}}
	}
	out := []Finding{{Name: place, OK: true, Text: fmt.Sprintf("This is a confidential machine of Azure; its evidence is %s.", r.format)}}
	c, ak, err := parseClaims(r.claims)
	if err != nil {
		return append(out, Finding{Name: "claims", Text: fmt.Sprintf("The runtime claims cannot be read: %v.", err)})
	}
	out = append(out, Finding{Name: "secure boot", OK: c.SecureBoot, Text: fmt.Sprintf("Secure boot is %s.", onOff(c.SecureBoot))}, probeUserData(c))
	out = append(out, a.probeQuote(t, ak)...)
	return append(out, a.probeHost(ctx, r))
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off, and policies that ask for it refuse this machine"
}

func probeUserData(c *attest.AzureClaims) Finding {
	if c.UserData == nil {
		return Finding{Name: "user data", Text: "The report has no room for user data: this version of the paravisor cannot bind a session under the hardware's signature."}
	}
	return Finding{Name: "user data", OK: true, Text: "The report has room for user data."}
}

// probeHost asks the metadata service for what it has to add.
func (a attester) probeHost(ctx context.Context, r *report) Finding {
	if r.format == attest.FormatAzureTDX {
		quote, err := a.imds.quote(ctx, r.hardware)
		if err != nil {
			return Finding{Name: "metadata service", Text: fmt.Sprintf("There is no TD quote: %v.", err)}
		}
		return Finding{Name: "metadata service", OK: true, Text: fmt.Sprintf("The metadata service gives TD quotes, of %d bytes.", len(quote))}
	}
	vcek, _, err := a.imds.certificates(ctx)
	if err != nil {
		return Finding{Name: "metadata service", Text: fmt.Sprintf("There is no VCEK: %v.", err)}
	}
	f := Finding{Name: "metadata service", Text: "The metadata service's VCEK cannot be read."}
	if block, _ := pem.Decode(vcek); block != nil {
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			f.OK, f.Text = true, fmt.Sprintf("The metadata service has the chip's certificate, until %s.", c.NotAfter.Format("2006-01-02"))
		}
	}
	return f
}

// probeQuote makes one, and holds the event log against it.
func (a attester) probeQuote(t transport.TPM, ak *rsa.PublicKey) []Finding {
	var nonce [32]byte
	_, _ = rand.Read(nonce[:]) // never fails, see crypto/rand
	q, err := quoteBy(t, ak, nonce[:])
	if err != nil {
		return []Finding{{Name: "quote", Text: fmt.Sprintf("The TPM makes no quote: %v.", err)}}
	}
	out := []Finding{{Name: "quote", OK: true, Text: "The TPM makes quotes by the key that the hardware vouches for."}}
	if q.EventLog, err = tpm.ReadEventLog(a.log); err != nil || len(q.EventLog) == 0 {
		return append(out, Finding{Name: "event log", Text: fmt.Sprintf("There is no event log at %s, and policies that ask for one refuse this machine.", a.log)})
	}
	if _, err := q.Verify(ak); err != nil {
		return append(out, Finding{Name: "event log", Text: fmt.Sprintf("The event log does not lead to the registers: %v.", err)})
	}
	return append(out, Finding{Name: "event log", OK: true, Text: "The event log leads to the registers."})
}
