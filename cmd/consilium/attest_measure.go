package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/confspace"
	"github.com/consilium-fl/consilium/attest/snpmeasure"
)

type measured struct {
	Measurement attest.Measurement `json:"measurement"`
	Platform    attest.Measurement `json:"platform,omitempty"` // of a container image of several platforms: that for linux/amd64
	ID          attest.Measurement `json:"image_id,omitempty"`
}

func (a *app) measureSNP() *cobra.Command {
	var firmware, kernel, initrd, cmdline, vmm, cpu, features string
	var vcpus int
	c := &cobra.Command{
		Use:   "snp --firmware OVMF.fd --vcpus N",
		Short: "Compute the launch measurement of an SEV-SNP guest",
		Long: `Computes, from the very files that a guest is started with, the launch measurement that its report will show, for the measurements of a policy.
The hypervisor, the number of virtual CPUs and, under QEMU, their model are part of it. A kernel is measured where the firmware checks it (kernel-hashes=on).`,
		Example: "  consilium attest measure snp --firmware OVMF.fd --kernel vmlinuz --initrd initrd.img --cmdline 'console=ttyS0' --vcpus 4 --cpu EPYC-v4",
		Args:    takes(),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := required(c, "firmware", "vcpus"); err != nil {
				return err
			}
			l := snpmeasure.Launch{VMM: snpmeasure.VMM(vmm), VCPUs: vcpus}
			var err error
			if l.Features, err = strconv.ParseUint(features, 0, 64); err != nil {
				return usage(c, "--features: got %q, want a number", features)
			}
			if l.CPU, err = snpmeasure.ParseCPU(cpu); err != nil {
				return usage(c, "--cpu: %w", err)
			}
			if l.Firmware, err = readBounded("firmware", firmware, maxFirmware); err != nil {
				return err
			}
			if kernel != "" {
				l.Kernel = &snpmeasure.Kernel{Cmdline: cmdline}
				done, err := open(map[string]*io.Reader{kernel: &l.Kernel.Image, initrd: &l.Kernel.Initrd})
				defer done()
				if err != nil {
					return err
				}
			} else if initrd != "" || cmdline != "" {
				return usage(c, "--initrd and --cmdline are measured with a --kernel only")
			}
			m, err := snpmeasure.Measure(l)
			if err != nil {
				return badInput{err}
			}
			return a.print(measured{Measurement: m}, string(m)+"\n")
		},
	}
	c.Flags().StringVar(&firmware, "firmware", "", "OVMF `FILE`, with SEV metadata")
	c.Flags().StringVar(&kernel, "kernel", "", "kernel `FILE` that QEMU starts directly")
	c.Flags().StringVar(&initrd, "initrd", "", "initial RAM disk `FILE`")
	c.Flags().StringVar(&cmdline, "cmdline", "", "kernel command line")
	c.Flags().IntVar(&vcpus, "vcpus", 0, "number of virtual CPUs")
	c.Flags().StringVar(&vmm, "vmm", string(snpmeasure.QEMU), "hypervisor: "+vmms())
	c.Flags().StringVar(&cpu, "cpu", "EPYC-v4", "model of the virtual CPU under QEMU")
	c.Flags().StringVar(&features, "features", strconv.Itoa(snpmeasure.FeatureSNP), "SEV features of each virtual CPU, as a number")
	return c
}

func vmms() string {
	var names []string
	for _, v := range snpmeasure.VMMs() {
		names = append(names, string(v))
	}
	return strings.Join(names, ", ")
}

// maxFirmware bounds an OVMF image: they are of 4 or 16 MiB at most.
const maxFirmware = 64 << 20

// open opens each file that has a name, and returns what closes them.
func open(files map[string]*io.Reader) (done func(), err error) {
	var opened []*os.File
	done = func() {
		for _, f := range opened {
			_ = f.Close() // only read
		}
	}
	for path, to := range files {
		if path == "" {
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			return done, bad("reading what is measured: %w", err)
		}
		opened, *to = append(opened, f), f
	}
	return done, nil
}

func (a *app) measureImage() *cobra.Command {
	var ref string
	c := &cobra.Command{
		Use:   "image PATH",
		Short: "Compute the digest by which Confidential Space names a container image",
		Long: `Reads an OCI layout (a folder, or a tar archive of one) or the manifest file of an image, and prints the image_digest that a token will carry.
An image that was never pushed may have none yet: then take the manifest from the registry.`,
		Example: "  consilium attest measure image coordinator-image/",
		Args:    takes("PATH"),
		RunE: func(_ *cobra.Command, args []string) error {
			img, err := imageDigest(args[0], ref)
			if err != nil {
				return badInput{err}
			}
			m := measured{Measurement: img.Digest, ID: img.ID}
			if img.Platform != img.Digest {
				m.Platform = img.Platform
			}
			text := string(img.Digest) + "\n"
			if m.Platform != "" {
				text += fmt.Sprintf("%s for linux/amd64, where the reference names that digest\n", m.Platform)
			}
			return a.print(m, text)
		},
	}
	c.Flags().StringVar(&ref, "ref", "", "`TAG` of the image, where a layout holds several")
	return c
}

func imageDigest(path, ref string) (confspace.Image, error) {
	info, err := os.Stat(path)
	if err != nil {
		return confspace.Image{}, err
	}
	if info.IsDir() {
		return confspace.ImageDigest(os.DirFS(path), ref)
	}
	if filepath.Ext(path) == ".json" {
		b, err := readFile("image manifest", path)
		if err != nil {
			return confspace.Image{}, err
		}
		return confspace.ImageDigestOfManifest(b)
	}
	f, err := os.Open(path)
	if err != nil {
		return confspace.Image{}, err
	}
	defer f.Close() //nolint:errcheck // only read
	return confspace.ImageDigestOfArchive(f, ref)
}
