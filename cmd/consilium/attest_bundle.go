package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/attest/endorse/bundle"
	"github.com/consilium-fl/consilium/attest/endorse/pccs"
	"github.com/consilium-fl/consilium/attest/endorse/refresh"
	"github.com/consilium-fl/consilium/attest/endorse/roots"
	"github.com/consilium-fl/consilium/internal/keyfile"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/store"
)

type bundleResult struct {
	Serial  uint64        `json:"serial"`
	Created time.Time     `json:"created"`
	Expires time.Time     `json:"expires"`
	Signers []string      `json:"signers,omitempty"`
	Files   []bundle.File `json:"files"`
	Trust   string        `json:"trust,omitempty"` // digest of the snapshot
	Missing []missing     `json:"missing,omitempty"`
}

// missing is what was asked for and did not come.
type missing struct {
	Source string `json:"source"`
	Error  string `json:"error"`
}

func bundleOf(m bundle.Manifest) bundleResult {
	return bundleResult{Serial: m.Serial, Created: m.Created, Expires: m.Expires, Files: m.Files}
}

func (r bundleResult) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "serial %d, made %s, to be replaced by %s\n", r.Serial, r.Created.Format(time.RFC3339), r.Expires.Format(time.RFC3339))
	for _, s := range r.Signers {
		fmt.Fprintf(&b, "signed by the key of id %s\n", s)
	}
	for _, f := range r.Files {
		fmt.Fprintf(&b, "  %8d bytes  %s\n", f.Size, f.Name)
	}
	for _, m := range r.Missing {
		fmt.Fprintf(&b, "  missing         %s: %s\n", m.Source, m.Error)
	}
	return b.String()
}

func (a *app) bundleFetch() *cobra.Command {
	var trust, evidence []string
	var key, out, cache string
	var serial uint64
	var days int
	var offline, incomplete bool
	c := &cobra.Command{
		Use:   "fetch --serial N --key KEY --out FILE",
		Short: "Fetch what evidence is verified by, and sign it into one file",
		Long: `Asks AMD's and Intel's services for the certificates, revocation lists and collateral by which the evidence given can be verified, and signs them
with the vendors' roots and what --trust names into a bundle for hospitals without a way out. With --offline nobody is asked. AMD's service is asked once in 10 seconds.
Where part of it does not come, the bundle has the rest, what is missing is listed, and the exit code is 6 unless --incomplete is given; where nothing comes there is no bundle.
The serial has to be higher than that of every bundle before.`,
		Example: "  consilium attest bundle fetch --evidence report.bin --evidence quote.bin --serial 8 --key steward.key --out trust-8.tar",
		Args:    takes(),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := required(c, "serial", "key", "out"); err != nil {
				return err
			}
			if days < 1 || days > 400 {
				return usage(c, "--days: got %d, want 1 to 400", days)
			}
			if err := absent(out); err != nil {
				return err
			}
			k, err := keyfile.Read(key)
			if err != nil {
				return badInput{err}
			}
			base, err := readTrust(trust)
			if err != nil {
				return err
			}
			s := base
			var gone []missing
			if !offline {
				if s, gone, err = a.fetchTrust(c.Context(), base, evidence, cache); err != nil {
					return err
				}
			}
			if len(gone) > 0 && s.Digest() == base.Digest() {
				return notCome(gone, "try again later, or from a machine with a way out")
			}
			now := a.now().UTC().Truncate(time.Second)
			b, err := bundle.Export(s, serial, now, now.AddDate(0, 0, days), k)
			if err != nil {
				return badInput{err}
			}
			if err := writeNew(out, b); err != nil {
				return err
			}
			if err := a.showBundle(b, gone...); err != nil || len(gone) == 0 || incomplete {
				return err
			}
			return notCome(gone, "%s has the rest, and --cache keeps it for the next time; --incomplete takes it for enough", out)
		},
	}
	c.Flags().StringArrayVar(&trust, "trust", nil, "`DIR` or file that goes in too; may be given again")
	c.Flags().StringArrayVar(&evidence, "evidence", nil, "`FILE` of a report or quote; may be given again")
	c.Flags().StringVar(&key, "key", "", "Ed25519 key `FILE` that signs, and whose public half the hospitals pin")
	c.Flags().StringVar(&out, "out", "", "new bundle `FILE`")
	c.Flags().StringVar(&cache, "cache", "", "`DIR` that keeps what was fetched; a temporary one without it")
	c.Flags().Uint64Var(&serial, "serial", 0, "serial of the bundle, from 1")
	c.Flags().IntVar(&days, "days", 30, "days until the bundle has to be replaced")
	c.Flags().BoolVar(&offline, "offline", false, "ask nobody")
	c.Flags().BoolVar(&incomplete, "incomplete", false, "end with 0 although part of it did not come")
	return c
}

// notCome is the error of a fetch of which something is missing.
func notCome(gone []missing, next string, args ...any) error {
	var errs []error
	for _, m := range gone {
		errs = append(errs, fmt.Errorf("%s: %s", m.Source, m.Error))
	}
	return hint(fmt.Errorf("%w: %w", errVendor, errors.Join(errs...)), next, args...)
}

// fetchTrust asks for what each file of evidence needs, and says what of it did not come.
func (a *app) fetchTrust(ctx context.Context, base *endorse.Snapshot, evidence []string, cache string) (_ *endorse.Snapshot, gone []missing, err error) {
	if len(evidence) == 0 {
		return base, nil, nil
	}
	var wanted []refresh.Source
	kds, pcs := refresh.NewKDS(a.vendors, "", a.now), refresh.NewPCS(a.vendors, "", a.now)
	for _, path := range evidence {
		e, _, err := readEvidence(path)
		if err != nil {
			return nil, nil, badInput{err}
		}
		of, err := refresh.ForEvidence(kds, pcs, e)
		if err == nil && len(of) == 0 {
			err = fmt.Errorf("%s: evidence of format %q names nothing that could be fetched for it", path, e.Format)
		}
		if err != nil {
			return nil, nil, badInput{err}
		}
		for _, x := range of {
			if !slices.ContainsFunc(wanted, func(w refresh.Source) bool { return w.Name() == x.Name() }) {
				wanted = append(wanted, x)
			}
		}
	}
	if cache == "" {
		dir, err := os.MkdirTemp("", "consilium-endorsements-")
		if err != nil {
			return nil, nil, err
		}
		defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
		cache = dir
	}
	r, err := refresh.New(refresh.Config{Dir: cache, Base: func() (*endorse.Snapshot, error) { return base, nil }, Now: a.now, After: time.After, Random: rand.Reader})
	if err != nil {
		return nil, nil, badInput{err}
	}
	ctx, cancel := context.WithCancel(ctx)
	over := make(chan struct{})
	go func() {
		defer close(over)
		r.Run(ctx)
	}()
	defer func() {
		cancel()
		<-over
		_ = r.Close() // of the cache, which is whole
	}()
	for _, s := range wanted {
		a.tell("asking for %s", s.Name())
		if err := r.Want(ctx, s); err != nil {
			gone = append(gone, missing{s.Name(), err.Error()})
		}
	}
	return r.Snapshot(), gone, ctx.Err()
}

func (a *app) showBundle(b []byte, gone ...missing) error {
	s, err := bundle.Show(b)
	if err != nil {
		return badInput{err}
	}
	r := bundleOf(s.Manifest)
	r.Signers, r.Trust, r.Missing = s.Signers, signed.DigestText(s.Trust.Digest()), gone
	return a.print(r, r.String())
}

func readBundle(path string) ([]byte, error) { return readBounded("bundle", path, bundle.MaxBundle) }

func (a *app) bundleShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show FILE",
		Short:   "Show what is in a bundle; nobody checks who signed it",
		Example: "  consilium attest bundle show trust-8.tar",
		Args:    takes("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			b, err := readBundle(args[0])
			if err != nil {
				return err
			}
			return a.showBundle(b)
		},
	}
}

func (a *app) bundleImport() *cobra.Command {
	var dir string
	var keys []string
	c := &cobra.Command{
		Use:   "import FILE --dir DIR [--key ed25519:…]",
		Short: "Keep a bundle, if a pinned key signed it and its serial is higher than all before; or what Intel's tool fetched",
		Long: `Keeps the bundle in DIR, which a node's configuration then names under bundle. A bundle of a lower serial than one that DIR has seen is refused: with it
older revocation lists would come back. A root that bears a vendor's name and is not the vendor's is refused.

A file of Intel's PCCS administration tool (pccsadmin fetch, platform_collaterals.json) is known by its content and needs no --key, since Intel has signed each
part of it. DIR is then a trust folder, which gets a file for each part by which TDX quotes are verified. Each has to lead to a root in DIR or Intel's published
one, to hold now, and to be no older than what DIR has; if one is not, none is written. A list whose issuer's certificate is not in the file is left out.`,
		Example: "  consilium attest bundle import trust-8.tar --dir /var/lib/consilium/trust --key ed25519:…\n  consilium attest bundle import platform_collaterals.json --dir /etc/consilium/trust",
		Args:    takes("FILE"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := required(c, "dir"); err != nil {
				return err
			}
			b, err := readBundle(args[0])
			if err != nil {
				return err
			}
			if pccs.Is(b) {
				if len(keys) > 0 {
					return usage(c, "--key: got one, want none for a file of Intel's tool")
				}
				return a.importCollateral(dir, b)
			}
			if err := required(c, "key"); err != nil {
				return err
			}
			var pinned []ed25519.PublicKey
			for _, text := range keys {
				k, err := signed.ParseKey(text)
				if err != nil {
					return usage(c, "--key: %w", err)
				}
				pinned = append(pinned, k)
			}
			m, err := bundle.Import(dir, b, a.now(), pinned...)
			if err != nil {
				return fmt.Errorf("%w: %w", errUnverified, err)
			}
			r := bundleOf(m)
			return a.print(r, r.String())
		},
	}
	c.Flags().StringVar(&dir, "dir", "", "`DIR` that keeps the bundle, made if it is not there; or a trust folder")
	c.Flags().StringArrayVar(&keys, "key", nil, "public `KEY` that may sign a bundle, ed25519:…; may be given again")
	return c
}

type collateralResult struct {
	Dir     string    `json:"dir"`
	Files   []string  `json:"files"`
	Missing []missing `json:"missing,omitempty"`
}

func (r collateralResult) String() string {
	var b strings.Builder
	for _, f := range r.Files {
		fmt.Fprintf(&b, "%s\n", filepath.Join(r.Dir, f))
	}
	for _, m := range r.Missing {
		fmt.Fprintf(&b, "left out  %s: %s\n", m.Source, m.Error)
	}
	return b.String()
}

// importCollateral writes what Intel's tool fetched into a trust folder, if all of it is good.
func (a *app) importCollateral(dir string, b []byte) error {
	c, err := pccs.Read(b)
	if err != nil {
		return badInput{err}
	}
	has, err := endorse.Load(dir)
	if err != nil {
		return badInput{err}
	}
	base, err := endorse.Union(has, roots.Snapshot())
	if err != nil {
		return badInput{err}
	}
	r := collateralResult{Dir: dir}
	var errs []error
	wrong := refresh.Check(base, c.Files, c.Signers, a.now())
	for _, name := range slices.Sorted(maps.Keys(c.Files)) {
		switch err := wrong[name]; {
		case err == nil:
			r.Files = append(r.Files, name)
		case errors.Is(err, refresh.ErrNoSigner) && strings.HasSuffix(name, ".der"):
			r.Missing = append(r.Missing, missing{name, err.Error()})
		default:
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	if len(errs) > 0 || len(r.Files) == 0 {
		for _, m := range r.Missing {
			errs = append(errs, fmt.Errorf("%s: %s", m.Source, m.Error))
		}
		return hint(fmt.Errorf("%w: %w", errUnverified, errors.Join(errs...)), "nothing was written; `pccsadmin fetch` makes a new file")
	}
	// Who signed comes first: a crash in between leaves nothing that cannot be verified.
	if len(c.Signers) > 0 {
		digest := signed.Digest(c.Signers)
		name := fmt.Sprintf("intel-signers-%x.pem", digest[:4])
		c.Files[name] = c.Signers
		r.Files = slices.Insert(r.Files, 0, name)
	}
	for _, name := range r.Files {
		if err := store.WriteFile(filepath.Join(dir, name), c.Files[name], 0o644); err != nil {
			return err
		}
	}
	return a.print(r, r.String())
}
