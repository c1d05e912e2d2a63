package main

import (
	"crypto/ed25519"
	"errors"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/consilium-fl/consilium/attest/simtee"
	"github.com/consilium-fl/consilium/internal/keyfile"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/store"
)

type keyResult struct {
	File   string `json:"file"`
	Key    string `json:"key,omitempty"`    // public half
	Anchor string `json:"anchor,omitempty"` // file of a simulated root's public half
}

func (a *app) keyNew() *cobra.Command {
	var out, anchor string
	c := &cobra.Command{
		Use:   "new --out FILE",
		Short: "Make a governance or person key",
		Long: `Makes an Ed25519 key in a new file with mode 0600 and prints its public half, which consortium.yaml lists. A file is never overwritten.

With --simulated-root it makes the key that simulated TEEs sign with instead, for studies on laptops: --out gets the private key, which
every simulated node and coordinator names as sim_root, and FILE gets the public one, which goes into every trust folder as ` + simtee.AnchorFile + `.`,
		Example: "  consilium key new --out governance.key\n  consilium key new --out sim-root.key --simulated-root trust/" + simtee.AnchorFile,
		Args:    takes(),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := required(c, "out"); err != nil {
				return err
			}
			if c.Flags().Changed("simulated-root") {
				return a.newRoot(out, anchor)
			}
			return a.newKey(out)
		},
	}
	c.Flags().StringVar(&out, "out", "", "new key `FILE`")
	c.Flags().StringVar(&anchor, "simulated-root", "", "make the root of simulated TEEs, with its public half in this new `FILE`")
	return c
}

func (a *app) newKey(out string) error {
	if err := absent(out); err != nil {
		return err
	}
	pub, err := keyfile.Make(out)
	if err != nil {
		return err
	}
	a.tell("key in %s: keep it offline and have a copy; whoever reads the file has the key", out)
	return a.print(keyResult{File: out, Key: signed.KeyText(pub)}, signed.KeyText(pub)+"\n")
}

func (a *app) newRoot(out, anchor string) error {
	for _, f := range []string{out, anchor} {
		if err := absent(f); err != nil {
			return err
		}
	}
	root, err := simtee.NewRoot()
	if err != nil {
		return err
	}
	if err := store.WriteFile(out, simtee.MarshalRoot(root), 0o600); err != nil {
		return err
	}
	if err := store.WriteFile(anchor, simtee.MarshalAnchor(&root.PublicKey), 0o644); err != nil {
		return err
	}
	a.tell("SIMULATED: evidence signed by %s proves nothing about a machine; for studies on laptops only", out)
	return a.print(keyResult{File: out, Anchor: anchor}, anchor+"\n")
}

func (a *app) keyShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show FILE",
		Short:   "Print the public half of a key",
		Example: "  consilium key show governance.key",
		Args:    takes("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			key, err := readKey(args[0])
			if err != nil {
				return err
			}
			text := signed.KeyText(key.Public().(ed25519.PublicKey))
			return a.print(keyResult{File: args[0], Key: text}, text+"\n")
		},
	}
}

func readKey(path string) (ed25519.PrivateKey, error) {
	key, err := keyfile.Read(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, hint(badInput{err}, "consilium key new --out %s makes a key", path)
	case err != nil:
		return nil, badInput{err}
	}
	return key, nil
}
