package coordinator

import (
	"errors"
	"fmt"
	"time"

	"github.com/consilium-fl/consilium/internal/config"
	"github.com/consilium-fl/consilium/internal/grounds"
	"github.com/consilium-fl/consilium/internal/grounds/fetch"
	"github.com/consilium-fl/consilium/internal/terms"
)

const configVersion = "consilium.coordinator/v1"

// file is coordinator.yaml as it is written.
type file struct {
	Version   string `yaml:"version"`
	Listen    string `yaml:"listen"`
	Consortia []struct {
		File   string        `yaml:"file"`
		Digest config.Digest `yaml:"digest"`
	} `yaml:"consortia"`
	State  string `yaml:"state"`
	Policy string `yaml:"policy"`
	Log    struct {
		Batch      time.Duration `yaml:"batch"`
		Checkpoint time.Duration `yaml:"checkpoint"`
		MergeDelay time.Duration `yaml:"merge_delay"`
	} `yaml:"log"`
	Trust  string `yaml:"trust"`
	Bundle struct {
		Dir  string   `yaml:"dir"`
		Keys []string `yaml:"keys"`
	} `yaml:"bundle"`
	Fetch      []string          `yaml:"fetch"`
	Mirrors    map[string]string `yaml:"mirrors"`
	OwnRoots   bool              `yaml:"own_roots"`
	References string            `yaml:"references"`
	TEE        string            `yaml:"tee"`
	SimRoot    string            `yaml:"sim_root"`
	VMPL       *int              `yaml:"vmpl"`
	Audience   string            `yaml:"audience"`
	Insecure   struct {
		SimulatedTEE bool `yaml:"simulated_tee"`
	} `yaml:"insecure"`
}

// ReadConfig reads coordinator.yaml. Relative paths in it are relative to its folder. Every missing or
// contradicting field is told at once; a mistake in the YAML comes with its line.
func ReadConfig(path string) (Config, error) {
	var f file
	if err := config.Read(path, configVersion, &f); err != nil {
		return Config{}, err
	}
	c := Config{
		Listen: f.Listen, State: config.Path(path, f.State), Policy: config.Path(path, f.Policy),
		Log:   LogConfig{Batch: f.Log.Batch, Checkpoint: f.Log.Checkpoint, MergeDelay: f.Log.MergeDelay},
		Trust: config.Path(path, f.Trust), References: config.Path(path, f.References),
		TEE: f.TEE, SimRoot: config.Path(path, f.SimRoot), VMPL: f.VMPL, Audience: f.Audience,
		OwnRoots: f.OwnRoots, Insecure: Insecure{SimulatedTEE: f.Insecure.SimulatedTEE},
	}
	for _, r := range f.Consortia {
		c.Consortia = append(c.Consortia, ConsortiumRef{File: config.Path(path, r.File), Digest: r.Digest})
	}
	var err error
	if c.Bundle, err = grounds.ParseBundle(config.Path(path, f.Bundle.Dir), f.Bundle.Keys); err != nil {
		return Config{}, fmt.Errorf("reading configuration %s: %w", path, err)
	}
	if c.Fetch, err = fetch.Parse(f.Fetch, f.Mirrors, c.State); err != nil {
		return Config{}, fmt.Errorf("reading configuration %s: %w", path, err)
	}
	if err := c.check(); err != nil {
		return Config{}, fmt.Errorf("reading configuration %s: %w", path, err)
	}
	return c, nil
}

func (c Config) check() error {
	var errs []error
	need := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	need(c.Listen != "", "listen is missing, want an address such as \":443\"")
	need(c.State != "", "state is missing, want a folder")
	need(c.Trust != "", "trust is missing, want the folder of anchors")
	need(len(c.Consortia) == 1, "consortia has %d entries, want one: a coordinator serves one consortium", len(c.Consortia))
	for i, r := range c.Consortia {
		// All zeros stand for a digest that is not known yet: init comes before the consortium file, and no file has it.
		need(r.File != "", "consortia[%d]: want file and digest", i)
	}
	for name, d := range map[string]time.Duration{"batch": c.Log.Batch, "checkpoint": c.Log.Checkpoint, "merge_delay": c.Log.MergeDelay} {
		need(d >= 0, "log.%s is %v, want no negative time", name, d)
	}
	return errors.Join(append(errs, terms.CheckTEE(c.TEE, c.SimRoot, c.Audience, c.Insecure.SimulatedTEE))...)
}
