package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/prose"
	"github.com/consilium-fl/consilium/attest/reference"
	"github.com/consilium-fl/consilium/internal/grounds"
	"github.com/consilium-fl/consilium/internal/keyfile"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/store"
	"github.com/consilium-fl/consilium/internal/study"
)

type manifestResult struct {
	Name       string       `json:"name"`
	Consortium string       `json:"consortium"`
	Role       attest.Role  `json:"role"`
	Serial     uint64       `json:"serial"`
	Least      uint64       `json:"least"`
	From       time.Time    `json:"from"`
	Until      time.Time    `json:"until"`
	Digest     string       `json:"digest"`
	Policy     string       `json:"policy"`
	Signed     *bool        `json:"signed,omitempty"` // by enough amenders of the consortium that was given
	Rules      []prose.Rule `json:"rules,omitempty"`
}

func resultOf(m reference.Manifest) manifestResult {
	return manifestResult{
		Name: m.Name, Consortium: m.Consortium, Role: m.Policy.Role, Serial: m.Serial, Least: m.Least, From: m.From, Until: m.Until,
		Digest: signed.DigestText(m.Digest), Policy: signed.DigestText(m.Policy.Digest()),
	}
}

func (a *app) manifestSign() *cobra.Command {
	var key, out string
	c := &cobra.Command{
		Use:   "sign MANIFEST.yaml --key governance.key --out FILE",
		Short: "Sign a manifest of reference values",
		Long: `Adds this hospital's signature to the envelope in FILE, or begins one. As many hospitals sign as the consortium's amend says; the file then goes into
the references folder of every node, coordinator and person.`,
		Example: "  consilium attest manifest sign heart-nodes-2.yaml --key governance.key --out heart-nodes-2.json",
		Args:    takes("MANIFEST.yaml"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := required(c, "key", "out"); err != nil {
				return err
			}
			payload, err := readFile("manifest", args[0])
			if err != nil {
				return err
			}
			m, err := reference.ParseManifest(payload)
			if err != nil {
				return bad("%s: %w", args[0], err)
			}
			k, err := keyfile.Read(key)
			if err != nil {
				return badInput{err}
			}
			before, err := os.ReadFile(out)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return bad("reading signatures: %w", err)
			}
			if errors.Is(err, fs.ErrNotExist) {
				before = nil
			}
			e, err := reference.Sign(payload, before, k)
			if err != nil {
				return badInput{err}
			}
			if err := store.WriteFile(out, e, 0o644); err != nil {
				return err
			}
			return a.print(resultOf(m), fmt.Sprintf("%s, serial %d, signed into %s\n", m.Name, m.Serial, out))
		},
	}
	c.Flags().StringVar(&key, "key", "", "governance key `FILE`")
	c.Flags().StringVar(&out, "out", "", "envelope `FILE`, made or added to")
	return c
}

func (a *app) manifestShow() *cobra.Command {
	var consortium string
	c := &cobra.Command{
		Use:     "show FILE",
		Short:   "Explain a manifest of reference values, and say whether enough amenders have signed it",
		Example: "  consilium attest manifest show heart-nodes-2.json --consortium consortium.yaml",
		Args:    takes("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			b, err := readFile("manifest", args[0])
			if err != nil {
				return err
			}
			payload := b
			e, err := signed.ParseEnvelope(b, reference.ManifestType)
			enveloped := err == nil
			if enveloped {
				payload = e.Payload
			}
			m, err := reference.ParseManifest(payload)
			if err != nil {
				return bad("%s: %w", args[0], err)
			}
			r := resultOf(m)
			r.Rules = prose.PolicyTable(m.Policy)
			text := fmt.Sprintf("%s of %s, serial %d (ends those below %d), from %s until %s\n", m.Name, m.Consortium, m.Serial, m.Least, m.From.Format(time.RFC3339), m.Until.Format(time.RFC3339))
			if consortium != "" {
				ok, why, err := signedBy(b, enveloped, consortium)
				if err != nil {
					return err
				}
				r.Signed = &ok
				text += why + "\n"
			}
			return a.print(r, text+prose.Policy(m.Policy))
		},
	}
	c.Flags().StringVar(&consortium, "consortium", "", "consortium `FILE` whose amenders have to have signed")
	return c
}

func signedBy(envelope []byte, enveloped bool, path string) (ok bool, why string, err error) {
	b, err := readFile("consortium", path)
	if err != nil {
		return false, "", err
	}
	c, err := study.ParseConsortium(b)
	if err != nil {
		return false, "", badInput{place(path, err)}
	}
	if !enveloped {
		return false, "not signed by anybody: this is the text", nil
	}
	if _, err := reference.Open(envelope, grounds.Amenders(c)); err != nil {
		return false, err.Error(), nil
	}
	return true, fmt.Sprintf("signed by %d amenders at least, as %s demands", c.Amend, c.Name), nil
}
