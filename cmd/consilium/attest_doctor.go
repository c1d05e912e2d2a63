package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/azure"
	"github.com/consilium-fl/consilium/attest/confspace"
	"github.com/consilium-fl/consilium/attest/snp"
	"github.com/consilium-fl/consilium/attest/tdx"
	"github.com/consilium-fl/consilium/attest/vtpm"
)

// examined is what one probe found. Present says that this machine has such a TEE at all.
type examined struct {
	TEE      string           `json:"tee"` // as `tee:` in node.yaml names it
	Present  bool             `json:"present"`
	Works    bool             `json:"works"`
	Findings []attest.Finding `json:"findings"`
}

func examine(tee string, findings []attest.Finding) examined {
	e := examined{TEE: tee, Present: len(findings) > 0 && findings[0].OK, Works: len(findings) > 0, Findings: findings}
	for _, f := range findings {
		e.Works = e.Works && f.OK
	}
	return e
}

func (a *app) attestDoctor() *cobra.Command {
	var audience string
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Say which TEE this machine has, what works and what is missing",
		Long: `Looks for each kind of TEE on this machine and tries it: a report over random data is asked for, looked at, and thrown away.
Exit code 4 when there is none that works.`,
		Example: "  consilium attest doctor",
		Args:    takes(),
		RunE: func(c *cobra.Command, _ []string) error {
			ctx := c.Context()
			all := []examined{
				examine("snp", snp.Probe(ctx)),
				examine("tdx", tdx.Probe(ctx)),
				examine("azure", azure.Probe(ctx)),
				examine("gcp-cs", confspace.Probe(ctx, confspace.Socket, audience)),
				examine("vtpm-gce", vtpm.Probe(ctx)),
			}
			if err := a.print(all, doctorText(all)); err != nil {
				return err
			}
			for _, e := range all {
				if e.Present && e.Works {
					return nil
				}
			}
			return hint(fmt.Errorf("%w: no TEE on this machine works", errRefused), "a laptop has none: studies there use tee: sim, which proves nothing")
		},
	}
	c.Flags().StringVar(&audience, "audience", "https://consilium-fl.dev", "audience of the token that the launcher of Confidential Space is asked for")
	return c
}

func doctorText(all []examined) string {
	var b strings.Builder
	for _, e := range all {
		state := "not here"
		switch {
		case e.Present && e.Works:
			state = "works"
		case e.Present:
			state = "here, and something is missing"
		}
		fmt.Fprintf(&b, "%-10s %s\n", e.TEE, state)
		for _, f := range e.Findings {
			mark := "+"
			if !f.OK {
				mark = "-"
			}
			fmt.Fprintf(&b, "  %s %s\n", mark, f.Text)
		}
	}
	return b.String()
}
