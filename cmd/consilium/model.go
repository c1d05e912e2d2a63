package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/consilium-fl/consilium/internal/person"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/store"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/transport"
	"github.com/consilium-fl/consilium/internal/verify"
)

func (a *app) modelGet() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "get DIGEST|FILE --out DIR",
		Short: "Fetch the released model with its receipt, and verify both",
		Long: `Fetches everything that a study left behind into a new folder and verifies it against the consortium file that the configuration pins. A folder that
does not verify is not kept (exit code 5).`,
		Example: "  consilium model get study.yaml --out heart-model",
		Args:    takes("DIGEST|FILE"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := required(c, "out"); err != nil {
				return err
			}
			return a.getModel(c.Context(), args[0], out)
		},
	}
	c.Flags().StringVar(&out, "out", "", "new `DIR`")
	a.onlineFlags(c)
	return c
}

func (a *app) getModel(ctx context.Context, arg, out string) error {
	digest, err := digestOf(arg)
	if err != nil {
		return err
	}
	out = filepath.Clean(out)
	if err := absent(out); err != nil {
		return err
	}
	return a.online(ctx, digest, func(p *person.Person, client *transport.Client) error {
		return a.fetch(ctx, p, client, digest, out)
	})
}

// fetch builds the folder under a name of its own. A crash leaves that one, which looks like nothing whole.
func (a *app) fetch(ctx context.Context, p *person.Person, client *transport.Client, digest [32]byte, out string) error {
	partial, err := os.MkdirTemp(filepath.Dir(out), "."+filepath.Base(out)+".partial-")
	if err != nil {
		return badInput{err}
	}
	defer os.RemoveAll(partial) //nolint:errcheck // it was moved, or is of no use
	if err := download(ctx, client, digest, partial); err != nil {
		return err
	}
	report, err := verifyModel(ctx, partial, digest, p.Consortium.Digest)
	if err != nil {
		return err
	}
	if !report.OK {
		for _, f := range report.Failures() {
			a.tell("  %s: %s", f.Object, f.Reason)
		}
		return hint(fmt.Errorf("%w: what the coordinator sent for study %s", errUnverified, study.Short(digest)), "nothing was kept; show the lines above to the hospitals and the operator")
	}
	if err := os.Chmod(partial, 0o755); err != nil { //nolint:gosec // a receipt is for everyone
		return err
	}
	if err := store.SyncDir(partial); err != nil {
		return err
	}
	if err := os.Rename(partial, out); err != nil {
		return badInput{err}
	}
	if report.Simulated {
		a.tell("SIMULATED: the evidence proves nothing about a machine")
	}
	a.tell("verified: `consilium audit verify %s --consortium %s` checks it again, offline", out, signed.DigestText(p.Consortium.Digest))
	return a.print(map[string]any{"study": signed.DigestText(digest), "folder": out, "verified": true, "simulated": report.Simulated}, out+"\n")
}

func download(ctx context.Context, client *transport.Client, digest [32]byte, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // the files have their own errors
	put := func(path string, b []byte) error {
		path = filepath.FromSlash(path)
		if err := root.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		return root.WriteFile(path, b, 0o644)
	}
	if err := client.GetReceipt(ctx, digest, put); err != nil {
		return fmt.Errorf("fetching the receipt of study %s: %w", study.Short(digest), err)
	}
	model, err := client.DownloadModel(ctx, digest)
	if err != nil {
		return fmt.Errorf("fetching the model of study %s: %w", study.Short(digest), err)
	}
	return put("model.safetensors", model)
}

// verifyModel checks the folder, and that it is of the study that was asked for.
func verifyModel(ctx context.Context, dir string, digest, consortium [32]byte) (*verify.Report, error) {
	report, err := verify.Folder(ctx, dir, verify.Options{Consortium: &consortium})
	if err != nil {
		return nil, errors.Join(errUnverified, err)
	}
	if want := signed.DigestText(digest); report.OK && report.Study != want {
		return nil, fmt.Errorf("%w: the folder is of study %s, want %s", errUnverified, report.Study, want)
	}
	return report, nil
}
