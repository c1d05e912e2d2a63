package pinned

import (
	"errors"
	"fmt"
	"os"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/azure"
	"github.com/consilium-fl/consilium/attest/confspace"
	"github.com/consilium-fl/consilium/attest/snp"
	"github.com/consilium-fl/consilium/attest/tdx"
	"github.com/consilium-fl/consilium/attest/vtpm"
	"github.com/consilium-fl/consilium/internal/terms"
)

// Verifiers are those of every format, each within what is given; what is accepted, policies say.
func Verifiers(within ...func(attest.Verifier) attest.Verifier) attest.Verifiers {
	all := append(simulated(),
		snp.NewVerifier(), tdx.NewVerifier(), azure.NewSNPVerifier(), azure.NewTDXVerifier(), vtpm.NewVerifier(),
		confspace.NewVerifier(), confspace.NewOIDCVerifier(),
	)
	for _, in := range within {
		for i, v := range all {
			all[i] = in(v)
		}
	}
	return attest.NewVerifiers(all...)
}

// TEE is what a configuration says of the machine that its process runs in.
type TEE struct {
	Kind     string // one of terms.TEEs
	SimRoot  string // sim: file of the key that a simulated TEE signs with
	VMPL     *int   // snp: privilege level to ask from; nil: the most privileged that the guest may use
	Audience string // gcp-cs-pki and gcp-cs-oidc: whom tokens are for
}

// Attester makes the attester that a configuration names, and tells of which kind it is, as a posture says it: for auto,
// what was found.
func Attester(t TEE, role attest.Role, machine string) (a attest.Attester, kind string, err error) {
	if t.Kind == terms.Simulated {
		a, err = simAttester(t.SimRoot, role, machine)
		return a, terms.Simulated, err
	}
	var errs []error
	for _, p := range t.places() {
		a, f, err := p()
		if errors.Is(err, errAudience) {
			return nil, "", fmt.Errorf("making the attester: %w", err)
		}
		if err == nil && (t.Kind == terms.Auto || t.Kind == f.TEE()) {
			return a, f.TEE(), nil
		}
		if err == nil {
			err = fmt.Errorf("this machine is %s", f.TEE())
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return nil, "", fmt.Errorf("making the attester: tee is %q, want one of %q", t.Kind, terms.TEEs())
	}
	return nil, "", fmt.Errorf("making the attester for tee %q: %w", t.Kind, errors.Join(errs...))
}

// A place is where a machine's evidence may come from; the format is set where there is no error.
type place func() (attest.Attester, attest.Format, error)

// places are those to look at, the most particular first: a guest of Azure or a container of Confidential Space may see
// devices of the hardware below, which do not speak for it.
func (t TEE) places() []place {
	all := []struct {
		formats []attest.Format
		open    place
	}{
		{[]attest.Format{attest.FormatAzureSNP, attest.FormatAzureTDX}, azure.NewAttester},
		{[]attest.Format{attest.FormatCSPKI, attest.FormatCSOIDC}, t.confidentialSpace},
		{[]attest.Format{attest.FormatTDX}, func() (attest.Attester, attest.Format, error) { return of(attest.FormatTDX)(tdx.NewAttester()) }},
		{[]attest.Format{attest.FormatSNP}, t.snp},
		{[]attest.Format{attest.FormatVTPM}, func() (attest.Attester, attest.Format, error) { return of(attest.FormatVTPM)(vtpm.NewAttester()) }},
	}
	var out []place
	for _, p := range all {
		for _, f := range p.formats {
			if t.Kind == terms.Auto || t.Kind == f.TEE() {
				out = append(out, p.open)
				break
			}
		}
	}
	return out
}

func of(f attest.Format) func(attest.Attester, error) (attest.Attester, attest.Format, error) {
	return func(a attest.Attester, err error) (attest.Attester, attest.Format, error) { return a, f, err }
}

func (t TEE) snp() (attest.Attester, attest.Format, error) {
	level := snp.LowestLevel
	if t.VMPL != nil {
		level = *t.VMPL
	}
	return of(attest.FormatSNP)(snp.NewAttester(level))
}

// errAudience ends the search: what else such a container sees does not speak for it.
var errAudience = errors.New("this is a container of Confidential Space, and audience is missing: whom tokens are for, as policies list it")

func (t TEE) confidentialSpace() (attest.Attester, attest.Format, error) {
	if _, err := os.Stat(confspace.Socket); err != nil {
		return nil, "", fmt.Errorf("finding the launcher of Confidential Space: %w", err)
	}
	if t.Audience == "" {
		return nil, "", errAudience
	}
	if t.Kind == attest.FormatCSOIDC.TEE() { // only where it was asked for: whoever verifies needs Google's keys of the day
		return confspace.NewOIDCAttester(confspace.Socket, t.Audience), attest.FormatCSOIDC, nil
	}
	return confspace.NewAttester(confspace.Socket, t.Audience), attest.FormatCSPKI, nil
}
