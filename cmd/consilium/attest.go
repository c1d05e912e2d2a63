package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/attest/endorse/roots"
	"github.com/consilium-fl/consilium/attest/intake"
	"github.com/consilium-fl/consilium/attest/prose"
	"github.com/consilium-fl/consilium/attest/reference"
	"github.com/consilium-fl/consilium/attest/simtee"
	"github.com/consilium-fl/consilium/internal/pinned"
)

// judging is what evidence is looked at with.
type judging struct {
	trust []string
	at    string
	data  string
}

func (j *judging) flags(c *cobra.Command) {
	c.Flags().StringArrayVar(&j.trust, "trust", nil, "`DIR` or file of certificates, revocation lists and collateral, beside the vendors' own roots; may be given again")
	c.Flags().StringVar(&j.at, "at", "", "judge at this `TIME`, as 2026-11-24T12:00:00Z, instead of now")
	c.Flags().StringVar(&j.data, "report-data", "", "what the evidence has to be bound to, as `HEX` of at most 64 bytes; what is shorter is padded with zeros")
}

// inputs reads what the flags name.
func (j *judging) inputs(c *cobra.Command, now time.Time) (attest.Inputs, error) {
	in := attest.Inputs{Now: now}
	if j.at != "" {
		at, err := time.Parse(time.RFC3339, j.at)
		if err != nil {
			return in, usage(c, "--at: got %q, want a time as 2026-11-24T12:00:00Z", j.at)
		}
		in.Now = at
	}
	if c.Flags().Changed("report-data") {
		b, err := hex.DecodeString(j.data)
		if err != nil || len(b) == 0 || len(b) > 64 {
			return in, usage(c, "--report-data: got %d characters, want hex of 1 to 64 bytes", len(j.data))
		}
		in.ReportData = (*[64]byte)(append(b, make([]byte, 64-len(b))...))
	}
	var err error
	in.Trust, err = readTrust(j.trust)
	return in, err
}

// readTrust is the vendors' roots and the files that were named. What is no certificate, list or collateral is left out:
// people keep evidence beside them.
func readTrust(paths []string) (*endorse.Snapshot, error) {
	files, named := roots.Files(), map[string]string{}
	for i, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, bad("reading trust: %w", err)
		}
		if !info.IsDir() {
			name := fmt.Sprintf("%d-%s", i, filepath.Base(path))
			if files[name], err = readFile("trust", path); err != nil {
				return nil, err
			}
			named[name] = path
			continue
		}
		s, err := endorse.Load(path)
		if err != nil {
			return nil, badInput{err}
		}
		unknown := s.Index().Unknown
		for name, b := range s.Files() {
			if !slices.Contains(unknown, name) {
				files[fmt.Sprintf("%d-%s", i, name)] = b
			}
		}
	}
	s, err := endorse.New(files)
	if err != nil {
		return nil, badInput{err}
	}
	for _, name := range s.Index().Unknown {
		if path := named[name]; path != "" { // of a folder it was left out, but this one was asked for
			return nil, bad("reading trust: %s: neither certificates in PEM or DER, nor a revocation list, Intel's collateral or a set of keys", path)
		}
	}
	return s, nil
}

func readEvidence(path string) (attest.Evidence, string, error) {
	b, err := readBounded("evidence", path, intake.MaxFile)
	if err != nil {
		return attest.Evidence{}, "", err
	}
	return intake.Read(b)
}

func (a *app) attestShow() *cobra.Command {
	var j judging
	c := &cobra.Command{
		Use:   "show FILE",
		Short: "Explain evidence in words",
		Long: `Says what machine evidence is of, what firmware it ran, what of that is behind, what its signature is worth, and what it does not prove.
It admits nobody: consilium attest verify judges by a policy.`,
		Example: "  consilium attest show report.bin --trust certificates",
		Args:    takes("FILE"),
		RunE: func(c *cobra.Command, args []string) error {
			in, err := j.inputs(c, a.now())
			if err != nil {
				return err
			}
			e, how, err := readEvidence(args[0])
			if err != nil {
				return badInput{err}
			}
			// A policy that takes every format, and says nothing of any: the verifiers run, and nobody is admitted.
			r := pinned.Verifiers().Check(e, in, attest.Policy{Role: attest.RoleNode, Accept: append(attest.Formats(), simtee.Format), Measurements: attest.AnySet(), Machines: attest.AnySet()})
			s := shown{File: args[0], Format: e.Format, How: how, Authentic: r.Authentic(), NotChecked: append([]string{}, r.NotChecked...)}
			if s.Authentic {
				s.Claims = &r.Claims
			} else {
				s.Reasons = r.Reasons
			}
			return a.print(s, prose.Evidence(how, e, r, in))
		},
	}
	j.flags(c)
	return c
}

// shown is what attest show --json prints.
type shown struct {
	File       string          `json:"file"`
	Format     attest.Format   `json:"format"`
	How        string          `json:"recognised_as"`
	Authentic  bool            `json:"authentic"`
	Reasons    []attest.Reason `json:"reasons,omitempty"` // why it is not
	NotChecked []string        `json:"not_checked"`
	Claims     *attest.Claims  `json:"claims"`
}

// judged is one line of attest verify --json.
type judged struct {
	File       string          `json:"file"`
	Format     attest.Format   `json:"format"`
	Status     attest.Status   `json:"status"`
	Reasons    []attest.Reason `json:"reasons"`
	Warnings   []attest.Reason `json:"warnings"`
	NotChecked []string        `json:"not_checked"`
	Until      *time.Time      `json:"until,omitempty"`
	Claims     *attest.Claims  `json:"claims"`
}

func (a *app) attestVerify() *cobra.Command {
	var j judging
	var policies []string
	c := &cobra.Command{
		Use:   "verify --policy P FILE...",
		Short: "Judge evidence by a policy, offline",
		Long: `Judges each file and prints every reason. Without --report-data nobody knows whom the evidence answers, so it is never affirming.
Of several policies one has to take the evidence. Exit code 5 when a file is refused.`,
		Example: "  consilium attest verify --policy node.policy.yaml --trust trust --report-data 5f0c… report.bin",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := required(c, "policy"); err != nil {
				return err
			}
			in, err := j.inputs(c, a.now())
			if err != nil {
				return err
			}
			var ps []attest.Policy
			for _, path := range policies {
				p, err := readPolicy(path)
				if err != nil {
					return err
				}
				ps = append(ps, p)
			}
			return a.judge(args, in, ps)
		},
	}
	j.flags(c)
	c.Flags().StringArrayVar(&policies, "policy", nil, "policy `FILE`; may be given again")
	return c
}

func readPolicy(path string) (attest.Policy, error) {
	b, err := readFile("policy", path)
	if err != nil {
		return attest.Policy{}, err
	}
	p, err := reference.ParsePolicy(b)
	if err != nil {
		return attest.Policy{}, bad("%s: %w", path, err)
	}
	return p, nil
}

// judge prints a verdict a file. A file that is no evidence is refused like any other, after which the next is judged.
func (a *app) judge(files []string, in attest.Inputs, ps []attest.Policy) error {
	vs := pinned.Verifiers()
	refused := 0
	enc := json.NewEncoder(a.stdout)
	enc.SetEscapeHTML(false)
	for _, file := range files {
		line := judged{File: file, Status: attest.Contraindicated, Reasons: []attest.Reason{}, Warnings: []attest.Reason{}, NotChecked: []string{}}
		e, how, err := readEvidence(file)
		if isA[*fs.PathError](err) {
			return badInput{err}
		}
		var r attest.Result
		if err != nil {
			r = attest.Result{Status: attest.Contraindicated, Reasons: []attest.Reason{{Code: attest.CodeParseEncoding, Path: "file", Got: err.Error(), Want: "evidence"}}}
		} else {
			r = vs.Check(e, in, ps...)
		}
		line.Format, line.Status = e.Format, r.Status
		line.Reasons, line.Warnings, line.NotChecked = append(line.Reasons, r.Reasons...), append(line.Warnings, r.Warnings...), append(line.NotChecked, r.NotChecked...)
		if r.Authentic() {
			line.Claims = &r.Claims
		}
		if r.Status == attest.Contraindicated {
			refused++
		} else {
			line.Until = &r.Until
		}
		if a.json {
			err = enc.Encode(line)
		} else {
			_, err = fmt.Fprint(a.stdout, prose.Verdict(file, how, r))
		}
		if err != nil {
			return err
		}
	}
	if refused > 0 {
		return hinted{fmt.Errorf("%w: %d of %d refused", errUnverified, refused, len(files)), "`consilium attest show FILE` explains the evidence, and `consilium attest policy explain FILE` the policy"}
	}
	return nil
}

func (a *app) attestExplain() *cobra.Command {
	return &cobra.Command{
		Use:     "explain FILE",
		Short:   "Say in words what a policy takes, and what it leaves unchecked",
		Example: "  consilium attest policy explain node.policy.yaml",
		Args:    takes("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := readPolicy(args[0])
			if err != nil {
				return err
			}
			return a.print(prose.PolicyTable(p), prose.Policy(p))
		},
	}
}
