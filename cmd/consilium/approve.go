package main

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/consilium-fl/consilium/internal/person"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/transport"
)

type approveFlags struct {
	consortium, hospital, dataset, key, name, role, meaning, out, signed string
	until                                                                instant
	submit                                                               bool
}

type approveResult struct {
	Study     string   `json:"study"`
	Hospital  string   `json:"hospital"`
	Dataset   string   `json:"dataset"`
	Until     string   `json:"until"`
	File      string   `json:"file"`
	Approvals []string `json:"approvals,omitempty"` // that the coordinator counts, after --submit
}

func (a *app) studyApprove() *cobra.Command {
	var f approveFlags
	c := &cobra.Command{
		Use:   "approve FILE",
		Short: "Approve a study for a hospital with its governance key",
		Long: `Signs, offline, that a hospital agrees to a study: who signs, in which role, and what the signature means. The steward copies the file to the node's
approvals folder; without it the node takes no part, whatever the coordinator says, and removing it is the veto. The coordinator counts approvals too:
--submit sends the file, with the configuration of the study's lead. --signed sends one that was signed before.`,
		Example: `  consilium study approve study.yaml --hospital cleveland --key governance.key \
    --name "D. Steward" --role "data steward" --meaning "approved; no patient is in two members" --out approval.json
  consilium study approve study.yaml --signed approval.json --submit`,
		Args: takes("FILE"),
		RunE: func(c *cobra.Command, args []string) error {
			if c.Flags().Changed("signed") {
				if !f.submit {
					return usage(c, "--signed is for --submit")
				}
				return a.submitApproval(c.Context(), args[0], f)
			}
			if err := required(c, "hospital", "key", "name", "role", "meaning", "out"); err != nil {
				return err
			}
			return a.approve(c.Context(), args[0], f)
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.consortium, "consortium", "consortium.yaml", "consortium `FILE` that the study names")
	fl.StringVar(&f.hospital, "hospital", "", "`NAME` of the hospital")
	fl.StringVar(&f.dataset, "dataset", "", "`NAME` of the registry that may be used; the study's by default")
	fl.StringVar(&f.key, "key", "", "governance key `FILE`")
	fl.StringVar(&f.name, "name", "", "`NAME` of the person who signs")
	fl.StringVar(&f.role, "role", "", "`ROLE` of that person")
	fl.StringVar(&f.meaning, "meaning", "", "`TEXT` that says what the signature means")
	fl.Var(&f.until, "until", "end of the approval; the study's by default")
	fl.StringVar(&f.out, "out", "", "new approval `FILE`")
	fl.StringVar(&f.signed, "signed", "", "approval `FILE` that was signed before")
	fl.BoolVar(&f.submit, "submit", false, "send it to the coordinator too")
	a.onlineFlags(c)
	return c
}

func (a *app) approve(ctx context.Context, file string, f approveFlags) error {
	c, s, err := a.readForApproval(file, f)
	if err != nil {
		return err
	}
	key, err := governanceKey(c, f.hospital, f.key)
	if err != nil {
		return err
	}
	b, err := a.signApproval(c, s, key, f)
	if err != nil {
		return err
	}
	if err := writeNew(f.out, b); err != nil {
		return err
	}
	f.signed = f.out
	if f.submit {
		return a.submitApproval(ctx, file, f)
	}
	got, err := c.ParseApproval(b)
	if err != nil {
		return err
	}
	a.tell("next: copy %s to the approvals folder of the node, and hand a copy to %s, who submits it", f.out, s.Lead)
	r := approveResultOf(got, f.out)
	return a.print(r, fmt.Sprintf("%s: %s approves %s until %s\n", f.out, r.Hospital, r.Study, r.Until))
}

// readForApproval reads the two files and makes sure that an approval would count.
func (a *app) readForApproval(file string, f approveFlags) (*study.Consortium, *study.Study, error) {
	s, err := readStudy(file)
	if err != nil {
		return nil, nil, err
	}
	c, err := readConsortium(f.consortium)
	if err != nil {
		return nil, nil, err
	}
	if err := s.Check(c, a.now()); err != nil {
		return nil, nil, place(file, err)
	}
	if !slices.Contains(s.Members, f.hospital) {
		return nil, nil, bad("approving %s: %q is not a member, want one of %s", file, f.hospital, strings.Join(s.Members, ", "))
	}
	return c, s, nil
}

func (a *app) signApproval(c *study.Consortium, s *study.Study, key ed25519.PrivateKey, f approveFlags) ([]byte, error) {
	if f.dataset == "" {
		f.dataset = s.Data.Registry
	}
	if f.dataset != s.Data.Registry {
		return nil, bad("approving: --dataset is %q, the study asks for %q", f.dataset, s.Data.Registry)
	}
	if f.until.IsZero() {
		f.until.Time = s.Until
	}
	if !a.now().Before(f.until.Time) {
		return nil, bad("approving: --until is %s, which is past", f.until.String())
	}
	r, err := describeStudy(s)
	if err != nil {
		return nil, badInput{err}
	}
	a.tell("%s", r.String())
	b, err := study.Approval{
		Study: s.Digest, Hospital: f.hospital, Dataset: f.dataset, Name: f.name, Role: f.role, Meaning: f.meaning, Until: f.until.Time,
	}.Sign(key)
	if err != nil {
		return nil, badInput{err}
	}
	if _, err := c.ParseApproval(b); err != nil { // as everybody will read it
		return nil, badInput{err}
	}
	return b, nil
}

func approveResultOf(got study.Approval, file string) approveResult {
	return approveResult{Study: signed.DigestText(got.Study), Hospital: got.Hospital, Dataset: got.Dataset, Until: (&instant{got.Until}).String(), File: file}
}

// submitApproval sends a signed approval; the coordinator and the nodes check it for themselves.
func (a *app) submitApproval(ctx context.Context, file string, f approveFlags) error {
	digest, err := digestOf(file)
	if err != nil {
		return err
	}
	b, err := readFile("approval", f.signed)
	if err != nil {
		return err
	}
	return a.online(ctx, digest, func(p *person.Person, client *transport.Client) error {
		got, err := p.Consortium.ParseApproval(b)
		if err != nil {
			return place(f.signed, err)
		}
		if got.Study != digest {
			return bad("%s approves study %s, not %s", f.signed, signed.DigestText(got.Study), signed.DigestText(digest))
		}
		all, err := client.ApproveStudy(ctx, b)
		if err != nil {
			return fmt.Errorf("submitting the approval of %s: %w", got.Hospital, err)
		}
		r := approveResultOf(got, f.signed)
		r.Approvals = all
		return a.print(r, fmt.Sprintf("%s approves %s until %s; approved so far by %s\n", r.Hospital, r.Study, r.Until, strings.Join(all, ", ")))
	})
}
