package node

import (
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"

	"github.com/consilium-fl/consilium/dp"
	"github.com/consilium-fl/consilium/internal/config"
	"github.com/consilium-fl/consilium/internal/grounds"
	"github.com/consilium-fl/consilium/internal/grounds/fetch"
	"github.com/consilium-fl/consilium/internal/terms"
)

// Version of node.yaml.
const Version = "consilium.node/v1"

type configFile struct {
	Version     string `yaml:"version"`
	Hospital    string `yaml:"hospital"`
	Node        string `yaml:"node"`
	Coordinator string `yaml:"coordinator"`
	Consortia   []struct {
		File   string        `yaml:"file"`
		Digest config.Digest `yaml:"digest"`
	} `yaml:"consortia"`
	State     string `yaml:"state"`
	Enrolment string `yaml:"enrolment"`
	Trust     string `yaml:"trust"`
	Bundle    struct {
		Dir  string   `yaml:"dir"`
		Keys []string `yaml:"keys"`
	} `yaml:"bundle"`
	Fetch      []string                `yaml:"fetch"`
	Mirrors    map[string]string       `yaml:"mirrors"`
	OwnRoots   bool                    `yaml:"own_roots"`
	References string                  `yaml:"references"`
	Own        string                  `yaml:"attestation"`
	Approvals  string                  `yaml:"approvals"`
	Consent    string                  `yaml:"consent"`
	Registries map[string]registryFile `yaml:"registries"`
	TEE        string                  `yaml:"tee"`
	SimRoot    string                  `yaml:"sim_root"`
	VMPL       *int                    `yaml:"vmpl"`
	Audience   string                  `yaml:"audience"`
	Insecure   struct {
		SimulatedTEE bool `yaml:"simulated_tee"`
	} `yaml:"insecure"`
}

type registryFile struct {
	File    string `yaml:"file"`
	Exclude struct {
		Column string `yaml:"column"`
		File   string `yaml:"file"`
	} `yaml:"exclude"`
	Budget struct {
		Epsilon float64 `yaml:"epsilon"`
		Delta   float64 `yaml:"delta"`
	} `yaml:"budget"`
}

// ReadConfig reads node.yaml; relative paths are relative to its folder. A missing field is an error
// that names it.
func ReadConfig(path string) (Config, error) {
	var f configFile
	if err := config.Read(path, Version, &f); err != nil {
		return Config{}, err
	}
	c := Config{
		Hospital: f.Hospital, Node: f.Node, Coordinator: f.Coordinator,
		State: config.Path(path, f.State), Enrolment: config.Path(path, f.Enrolment), Trust: config.Path(path, f.Trust),
		References: config.Path(path, f.References), Attestation: config.Path(path, f.Own),
		Approvals: config.Path(path, f.Approvals), Consent: config.Path(path, f.Consent),
		Registries: map[string]Registry{}, TEE: f.TEE, SimRoot: config.Path(path, f.SimRoot), VMPL: f.VMPL, Audience: f.Audience,
		OwnRoots: f.OwnRoots, Insecure: Insecure{SimulatedTEE: f.Insecure.SimulatedTEE},
	}
	for _, r := range f.Consortia {
		c.Consortia = append(c.Consortia, ConsortiumRef{File: config.Path(path, r.File), Digest: r.Digest})
	}
	for name, r := range f.Registries {
		c.Registries[name] = Registry{
			File:    config.Path(path, r.File),
			Exclude: Exclude{Column: r.Exclude.Column, File: config.Path(path, r.Exclude.File)},
			Budget:  dp.Budget{Epsilon: r.Budget.Epsilon, Delta: r.Budget.Delta},
		}
	}
	var err error
	if c.Bundle, err = grounds.ParseBundle(config.Path(path, f.Bundle.Dir), f.Bundle.Keys); err != nil {
		return Config{}, fmt.Errorf("reading configuration %s: %w", filepath.Base(path), err)
	}
	if c.Fetch, err = fetch.Parse(f.Fetch, f.Mirrors, c.State); err != nil {
		return Config{}, fmt.Errorf("reading configuration %s: %w", filepath.Base(path), err)
	}
	if err := c.validate(); err != nil {
		return Config{}, fmt.Errorf("reading configuration %s: %w", filepath.Base(path), err)
	}
	return c, nil
}

func (c Config) validate() error {
	required := []struct{ field, value string }{
		{"hospital", c.Hospital},
		{"node", c.Node},
		{"coordinator", c.Coordinator},
		{"state", c.State},
		{"enrolment", c.Enrolment},
		{"trust", c.Trust},
		{"approvals", c.Approvals},
	}
	for _, r := range required {
		if r.value == "" {
			return fmt.Errorf("field %q is missing", r.field)
		}
	}
	if host, port, err := net.SplitHostPort(c.Coordinator); err != nil || host == "" || port == "" {
		return fmt.Errorf("field \"coordinator\" is %q, want host:port", c.Coordinator)
	}
	if len(c.Consortia) != 1 {
		return fmt.Errorf("field \"consortia\" names %d files, want one", len(c.Consortia))
	}
	if len(c.Registries) == 0 {
		return fmt.Errorf("field \"registries\" is missing: name at least one data set")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Registries)) {
		r := c.Registries[name]
		if r.File == "" {
			return fmt.Errorf("field \"registries.%s.file\" is missing", name)
		}
		if !(r.Budget.Epsilon > 0) || !(r.Budget.Delta > 0 && r.Budget.Delta < 1) {
			return fmt.Errorf("field \"registries.%s.budget\" is epsilon %v, delta %v; want both positive and delta below 1: it is the lifetime budget over all studies", name, r.Budget.Epsilon, r.Budget.Delta)
		}
		if (r.Exclude.Column == "") != (r.Exclude.File == "") {
			return fmt.Errorf("field \"registries.%s.exclude\" wants both column and file", name)
		}
	}
	return terms.CheckTEE(c.TEE, c.SimRoot, c.Audience, c.Insecure.SimulatedTEE)
}
