// Package person connects people to a coordinator: with a person's own key, after appraising the
// coordinator as a node does. A person shows no evidence.
//
//	c, err := person.ReadConfig("consilium.yaml")
//	p, err := person.Open(c)
//	client, err := p.Dial(studyDigest)
package person

import (
	"crypto/ed25519"
	"crypto/tls"
	"fmt"
	"path/filepath"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/channel"
	"github.com/consilium-fl/consilium/internal/config"
	"github.com/consilium-fl/consilium/internal/grounds"
	"github.com/consilium-fl/consilium/internal/identity"
	"github.com/consilium-fl/consilium/internal/keyfile"
	"github.com/consilium-fl/consilium/internal/pinned"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/terms"
	"github.com/consilium-fl/consilium/internal/transport"
)

// Version of consilium.yaml.
const Version = "consilium.cli/v1"

// Config is consilium.yaml.
type Config struct {
	Coordinator string // host:port
	File        string // consortium.yaml
	Digest      [32]byte
	Trust       string // folder of anchors
	References  string // folder of signed manifests of reference values; may be empty
	Attestation string // policy file of the person's own for the coordinator, which can only tighten; may be empty
	Seen        string // file that remembers the highest serials of manifests; beside consilium.yaml
	Person      string // name in the consortium file
	Key         string // file, 0600
}

// ReadConfig reads consilium.yaml; relative paths are relative to its folder.
func ReadConfig(path string) (Config, error) {
	var f struct {
		Version     string `yaml:"version"`
		Coordinator string `yaml:"coordinator"`
		Consortia   []struct {
			File   string        `yaml:"file"`
			Digest config.Digest `yaml:"digest"`
		} `yaml:"consortia"`
		Trust      string `yaml:"trust"`
		References string `yaml:"references"`
		Own        string `yaml:"attestation"`
		Person     string `yaml:"person"`
		Key        string `yaml:"key"`
	}
	if err := config.Read(path, Version, &f); err != nil {
		return Config{}, err
	}
	for _, r := range []struct{ field, value string }{{"coordinator", f.Coordinator}, {"trust", f.Trust}, {"person", f.Person}, {"key", f.Key}} {
		if r.value == "" {
			return Config{}, fmt.Errorf("reading configuration %s: field %q is missing", path, r.field)
		}
	}
	if len(f.Consortia) != 1 {
		return Config{}, fmt.Errorf("reading configuration %s: field \"consortia\" names %d files, want one", path, len(f.Consortia))
	}
	return Config{
		Coordinator: f.Coordinator,
		File:        config.Path(path, f.Consortia[0].File), Digest: f.Consortia[0].Digest,
		Trust: config.Path(path, f.Trust), References: config.Path(path, f.References), Attestation: config.Path(path, f.Own),
		Seen: config.Path(path, grounds.SeenFile), Person: f.Person, Key: config.Path(path, f.Key),
	}, nil
}

// Person is somebody whom a consortium lists.
type Person struct {
	Name        string
	Key         ed25519.PrivateKey
	Consortium  *study.Consortium
	Grounds     *grounds.Grounds
	Coordinator string
	// Simulation allows a simulated TEE at the coordinator. It follows from the consortium file, which the
	// person pins: people run no posture of their own.
	Simulation bool
	Now        func() time.Time
}

// Open reads what the configuration names.
func Open(c Config) (*Person, error) {
	con, err := pinned.Unsigned(c.File, c.Digest)
	if err != nil {
		return nil, err
	}
	key, err := keyfile.Read(c.Key)
	if err != nil {
		return nil, err
	}
	p, ok := con.People[c.Person]
	if !ok {
		return nil, fmt.Errorf("consortium %s lists no person %q", con.Name, c.Person)
	}
	if !p.Key.Equal(key.Public()) {
		return nil, fmt.Errorf("the key in %s is not the one that consortium %s lists for %q", filepath.Base(c.Key), con.Name, c.Person)
	}
	h, err := grounds.Open(grounds.Config{Trust: c.Trust, References: c.References, Own: c.Attestation, Role: attest.RoleCoordinator, Seen: c.Seen}, grounds.Amenders(con))
	if err != nil {
		return nil, err
	}
	g, _ := h.Current()
	return &Person{
		Name: c.Person, Key: key, Consortium: con, Grounds: g, Coordinator: c.Coordinator,
		Simulation: con.Attestation.Coordinator.AllowSimulated, Now: time.Now,
	}, nil
}

// Dial connects for one study, or for none: then the digest is the consortium's.
func (p *Person) Dial(digest [32]byte) (*transport.Client, error) {
	creds, err := channel.NewClient(channel.Config{
		Role: attest.RolePerson,
		Certificate: func() (*tls.Certificate, error) {
			return identity.SelfSigned(p.Name, p.Key, p.Now())
		},
		Verifiers: pinned.Verifiers(),
		Peer: func([32]byte) (channel.Expect, error) {
			policies, err := p.Grounds.Policies(p.Consortium, attest.RoleCoordinator, p.Simulation, p.Now())
			return channel.Expect{
				Policies: policies,
				Posture:  terms.Posture(p.Consortium, p.Simulation),
				Trust:    p.Grounds.Trust,
				LogKey:   p.Consortium.Log,
			}, err
		},
		Posture: func([32]byte) (attest.Posture, error) {
			return terms.OwnPosture(p.Consortium, [32]byte{}, "none", false), nil
		},
		Study: digest,
		Now:   p.Now,
	})
	if err != nil {
		return nil, err
	}
	return transport.Dial(p.Coordinator, creds)
}
