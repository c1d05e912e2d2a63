// Package pinned opens what configurations name by digest or by key: the consortium file that a steward,
// an operator or a person pinned, and the attester of the TEE that a process says it runs in.
package pinned

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/study"
)

// SignaturesFile is the name beside a consortium file of the envelope that signs it.
const SignaturesFile = "consortium.sigs.json"

// Consortium reads a consortium file, which must have the pinned digest, and its signatures, which must be
// those of all hospitals.
func Consortium(file string, pin [32]byte) (c *study.Consortium, sigs []byte, err error) {
	if c, err = Unsigned(file, pin); err != nil {
		return nil, nil, err
	}
	sigs, err = os.ReadFile(filepath.Join(filepath.Dir(file), SignaturesFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("reading the consortium's signatures: %w: each hospital signs with consilium consortium sign", err)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reading the consortium's signatures: %w", err)
	}
	if c.Serial == 1 {
		if err := c.CheckSignatures(sigs, nil); err != nil {
			return nil, nil, err
		}
	}
	return c, sigs, nil
}

// Unsigned reads a consortium file by its pinned digest alone, for people, who decide nothing for a hospital.
func Unsigned(file string, pin [32]byte) (*study.Consortium, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the consortium file: %w", err)
	}
	if got := signed.Digest(b); got != pin {
		return nil, fmt.Errorf("reading the consortium file %s: its digest is %s, the configuration pins %s", filepath.Base(file), signed.DigestText(got), signed.DigestText(pin))
	}
	c, err := study.ParseConsortium(b)
	if err != nil {
		return nil, fmt.Errorf("reading the consortium file %s: %w", filepath.Base(file), err)
	}
	return c, nil
}

// Rego reads the .rego files of a folder, or nothing where there is none.
func Rego(dir string) (map[string]string, error) {
	files := map[string]string{}
	if dir == "" {
		return files, nil
	}
	names, err := filepath.Glob(filepath.Join(dir, "*.rego"))
	if err != nil {
		return nil, fmt.Errorf("reading policies: %w", err)
	}
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("reading policies: %w", err)
	}
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			return nil, fmt.Errorf("reading policies: %w", err)
		}
		files[filepath.Base(n)] = string(b)
	}
	return files, nil
}
