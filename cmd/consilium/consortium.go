package main

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/store"
	"github.com/consilium-fl/consilium/internal/study"
)

type consortiumResult struct {
	File      string           `json:"file"`
	Digest    string           `json:"digest"`
	Name      string           `json:"name"`
	Serial    uint64           `json:"serial"`
	Amend     int              `json:"amend"`
	Log       string           `json:"log"`
	Hospitals []hospitalResult `json:"hospitals"`
	People    []personResult   `json:"people"`
	Simulated bool             `json:"allow_simulated"`
}

type hospitalResult struct {
	Name       string   `json:"name"`
	Governance string   `json:"governance"`
	Registries []string `json:"registries"`
	Contact    string   `json:"contact,omitempty"`
	Signed     bool     `json:"signed"`
}

type personResult struct {
	Name string `json:"name"`
	Role string `json:"role"`
	Key  string `json:"key"`
}

// describeConsortium says what a consortium file holds and who has signed it so far; sigs may be nil.
func describeConsortium(file string, c *study.Consortium, sigs []byte) consortiumResult {
	r := consortiumResult{
		File: file, Digest: signed.DigestText(c.Digest), Name: c.Name, Serial: c.Serial, Amend: c.Amend, Log: signed.KeyText(c.Log),
		Simulated: c.Attestation.Node.AllowSimulated || c.Attestation.Coordinator.AllowSimulated,
	}
	for _, name := range slices.Sorted(maps.Keys(c.Hospitals)) {
		h := c.Hospitals[name]
		r.Hospitals = append(r.Hospitals, hospitalResult{name, signed.KeyText(h.Governance), h.Registries, h.Contact, sigs != nil && c.SignedBy(sigs, name)})
	}
	for _, name := range slices.Sorted(maps.Keys(c.People)) {
		p := c.People[name]
		r.People = append(r.People, personResult{name, p.Role, signed.KeyText(p.Key)})
	}
	return r
}

func (r consortiumResult) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "consortium  %s, serial %d\ndigest      %s\nlog key     %s\nnext file   needs %d signatures\n", r.Name, r.Serial, r.Digest, r.Log, r.Amend)
	if r.Simulated {
		b.WriteString("SIMULATED   this consortium takes evidence of simulated TEEs, which proves nothing about a machine\n")
	}
	t := grid{head: []string{"hospital", "signed", "registries", "contact", "governance key"}}
	for _, h := range r.Hospitals {
		t.add(h.Name, yesNo(h.Signed), strings.Join(h.Registries, ", "), h.Contact, h.Governance)
	}
	b.WriteString("\n" + t.String())
	t = grid{head: []string{"person", "role", "key"}}
	for _, p := range r.People {
		t.add(p.Name, p.Role, p.Key)
	}
	b.WriteString("\n" + t.String())
	return b.String()
}

func yesNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}

// readSignatures returns nil where nobody has signed yet.
func readSignatures(path string) ([]byte, error) {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return readFile("signatures", path)
}

func (a *app) consortiumCheck() *cobra.Command {
	var sigsFile, previous string
	c := &cobra.Command{
		Use:   "check FILE",
		Short: "Check a consortium file and its signatures",
		Long: `Lists every mistake of consortium.yaml with line and column, then checks consortium.sigs.json beside it: the first serial has to be signed
by every hospital, a later one by as many hospitals of its predecessor as that asks for.`,
		Example: "  consilium consortium check consortium.yaml",
		Args:    takes("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			return a.checkConsortium(args[0], sigsFile, previous)
		},
	}
	c.Flags().StringVar(&sigsFile, "sigs", "", "signature `FILE`, consortium.sigs.json beside the consortium file by default")
	c.Flags().StringVar(&previous, "previous", "", "consortium `FILE` of the serial before, for a later one")
	return c
}

func (a *app) checkConsortium(file, sigsFile, previous string) error {
	c, err := readConsortium(file)
	if err != nil {
		return err
	}
	var before *study.Consortium
	if previous != "" {
		if before, err = readConsortium(previous); err != nil {
			return err
		}
	}
	if sigsFile == "" {
		sigsFile = sigsBeside(file)
	}
	sigs, err := readSignatures(sigsFile)
	if err != nil {
		return err
	}
	if sigs == nil {
		err = fmt.Errorf("checking signatures of consortium %s: nobody has signed: there is no %s", study.Short(c.Digest), sigsFile)
	} else {
		err = c.CheckSignatures(sigs, before)
	}
	if err != nil {
		return hint(fmt.Errorf("%w: %w", errRefused, err), "each hospital signs with `consilium consortium sign %s --key governance.key`", file)
	}
	r := describeConsortium(file, c, sigs)
	return a.print(r, fmt.Sprintf("%s serial %d is signed as it has to be\n%s\n", c.Name, c.Serial, r.Digest))
}

func (a *app) consortiumShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show FILE",
		Short:   "Show a consortium file, its digest, and who has signed it so far",
		Example: "  consilium consortium show consortium.yaml",
		Args:    takes("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := readConsortium(args[0])
			if err != nil {
				return err
			}
			sigs, err := readSignatures(sigsBeside(args[0]))
			if err != nil {
				return err
			}
			r := describeConsortium(args[0], c, sigs)
			return a.print(r, r.String())
		},
	}
}

func (a *app) consortiumSign() *cobra.Command {
	var keyFile, sigsFile, previous string
	c := &cobra.Command{
		Use:   "sign FILE --key KEY",
		Short: "Sign a consortium file with a hospital's governance key",
		Long: `Adds a hospital's signature to consortium.sigs.json beside the file. Hospitals hand the two files on from one to the next; the order
does not matter. Read the file first: consilium consortium show.`,
		Example: "  consilium consortium sign consortium.yaml --key governance.key",
		Args:    takes("FILE"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := required(c, "key"); err != nil {
				return err
			}
			if sigsFile == "" {
				sigsFile = sigsBeside(args[0])
			}
			return a.signConsortium(args[0], sigsFile, previous, keyFile)
		},
	}
	c.Flags().StringVar(&keyFile, "key", "", "governance key `FILE`")
	c.Flags().StringVar(&sigsFile, "sigs", "", "signature `FILE`, consortium.sigs.json beside the consortium file by default")
	c.Flags().StringVar(&previous, "previous", "", "consortium `FILE` of the serial before, for a hospital that leaves")
	return c
}

func (a *app) signConsortium(file, sigsFile, previous, keyFile string) error {
	c, err := readConsortium(file)
	if err != nil {
		return err
	}
	key, err := readKey(keyFile)
	if err != nil {
		return err
	}
	pub := key.Public().(ed25519.PublicKey)
	who, known := owner(c, pub)
	if !known && previous != "" {
		before, err := readConsortium(previous)
		if err != nil {
			return err
		}
		who, known = owner(before, pub)
	}
	if !known {
		return bad("signing %s: the key in %s, %s, is the governance key of no hospital of %s", file, keyFile, signed.KeyText(pub), c.Name)
	}
	sigs, err := readSignatures(sigsFile)
	if err != nil {
		return err
	}
	if sigs, err = c.Sign(sigs, key); err != nil {
		return place(sigsFile, err)
	}
	if err := store.WriteFile(sigsFile, sigs, 0o644); err != nil {
		return err
	}
	r := describeConsortium(file, c, sigs)
	var open []string
	for _, h := range r.Hospitals {
		if !h.Signed {
			open = append(open, h.Name)
		}
	}
	text := fmt.Sprintf("%s has signed %s serial %d, %s\n", who, c.Name, c.Serial, r.Digest)
	if len(open) > 0 {
		text += "not yet signed by " + strings.Join(open, ", ") + "\n"
	}
	return a.print(r, text)
}

// owner is the hospital whose governance key it is.
func owner(c *study.Consortium, key ed25519.PublicKey) (string, bool) {
	for name, h := range c.Hospitals {
		if h.Governance.Equal(key) {
			return name, true
		}
	}
	return "", false
}
