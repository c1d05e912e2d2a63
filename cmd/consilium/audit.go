package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/verify"
)

func (a *app) auditVerify() *cobra.Command {
	var pin string
	c := &cobra.Command{
		Use:   "verify DIR",
		Short: "Verify, offline, what a study left behind",
		Long: `Checks log, proofs, co-signatures, receipt, approvals, evidence, rounds, model and ε of an output folder, and says what it checked and what it did not.
--consortium pins the consortium file by its digest, known from elsewhere; without it the folder's own is trusted. Exit code 5 when anything does not hold.`,
		Example: "  consilium audit verify heart-model --consortium sha256:…",
		Args:    takes("DIR"),
		RunE: func(c *cobra.Command, args []string) error {
			o := verify.Options{Now: a.now()}
			if c.Flags().Changed("consortium") {
				d, err := signed.ParseDigest(pin)
				if err != nil {
					return usage(c, "--consortium: %w", err)
				}
				o.Consortium = &d
			}
			return a.verify(c.Context(), args[0], o)
		},
	}
	c.Flags().StringVar(&pin, "consortium", "", "`DIGEST` of the consortium file, sha256:…")
	return c
}

func (a *app) verify(ctx context.Context, dir string, o verify.Options) error {
	if err := folder(dir); err != nil {
		return err
	}
	r, err := verify.Folder(ctx, dir, o)
	if err != nil {
		return fmt.Errorf("%w: %w", errUnverified, err)
	}
	if err := a.print(r, r.String()); err != nil {
		return err
	}
	if !r.OK {
		return fmt.Errorf("%w: %s", errUnverified, dir)
	}
	return nil
}

func folder(dir string) error {
	fi, err := os.Stat(dir)
	if err != nil {
		return badInput{err}
	}
	if !fi.IsDir() {
		return bad("%s is a file, want the output folder of a study", dir)
	}
	return nil
}

func (a *app) auditShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show DIR",
		Short:   "Show what an output folder is about",
		Long:    "Sums up an output folder in its receipt's words. Only the receipt's signature is checked: consilium audit verify checks the rest.",
		Example: "  consilium audit show heart-model",
		Args:    takes("DIR"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := folder(args[0]); err != nil {
				return err
			}
			s, err := verify.Show(c.Context(), args[0])
			if err != nil {
				return fmt.Errorf("%w: %w", errUnverified, err)
			}
			return a.print(s, s.String())
		},
	}
}
