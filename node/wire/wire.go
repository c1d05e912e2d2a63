// Package wire opens what a node.yaml names and hands it to node.New: keys, trust, the hospital's own
// policy, the journals. The daemon and the simulation both start from here, so that one runs what the
// other does.
//
//	c, err := node.ReadConfig("node.yaml")
//	d, err := wire.Open(ctx, c, logger)
//	n, err := node.New(c, d)
package wire

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/internal/grounds"
	"github.com/consilium-fl/consilium/internal/grounds/fetch"
	"github.com/consilium-fl/consilium/internal/pinned"
	"github.com/consilium-fl/consilium/internal/policy/opa"
	"github.com/consilium-fl/consilium/internal/store"
	"github.com/consilium-fl/consilium/node"
)

// Open reads and checks every file that the configuration names but the data.
func Open(ctx context.Context, c node.Config, log *slog.Logger) (node.Deps, error) {
	d, err := open(ctx, c, log)
	if err != nil {
		return node.Deps{}, fmt.Errorf("opening node %s/%s: %w", c.Hospital, c.Node, err)
	}
	return d, nil
}

func open(ctx context.Context, c node.Config, log *slog.Logger) (node.Deps, error) {
	con, sigs, err := pinned.Consortium(c.Consortia[0].File, c.Consortia[0].Digest)
	if err != nil {
		return node.Deps{}, err
	}
	keys, err := node.LoadKeys(c.State)
	if err != nil {
		return node.Deps{}, err
	}
	enrolment, err := os.ReadFile(c.Enrolment)
	if errors.Is(err, fs.ErrNotExist) {
		return node.Deps{}, fmt.Errorf("reading the enrolment: %w: the hospital's governance key makes it with consilium node enrol", err)
	}
	if err != nil {
		return node.Deps{}, fmt.Errorf("reading the enrolment: %w", err)
	}
	files := grounds.Config{Trust: c.Trust, Bundle: c.Bundle, References: c.References, Own: c.Attestation, Role: attest.RoleCoordinator, Seen: filepath.Join(c.State, grounds.SeenFile), OwnRoots: c.OwnRoots}
	held, err := fetch.Grounds(c.Fetch, files, con, attest.RoleCoordinator, log)
	if err != nil {
		return node.Deps{}, err
	}
	attester, tee, err := pinned.Attester(pinned.TEE{Kind: c.TEE, SimRoot: c.SimRoot, VMPL: c.VMPL, Audience: c.Audience}, attest.RoleNode, "chip:"+c.Hospital+"-"+c.Node)
	if err != nil {
		return node.Deps{}, err
	}
	gate, err := gate(ctx, c.Consent)
	if err != nil {
		return node.Deps{}, err
	}
	return node.Deps{
		Logger: log, Consortium: con, Signatures: sigs, Enrolment: enrolment,
		NodeKey: keys.Node, WitnessKey: keys.Witness,
		Attester: attester, TEE: tee, Verifiers: pinned.Verifiers(), Grounds: held,
		Gate: gate, PolicyDigest: gate.Digest(),
		Journal: func(path string) (node.Journal, error) { return store.OpenJournal(path) },
		Entropy: rand.Reader, Now: time.Now,
	}, nil
}

// Fetch has the vendors that the configuration names asked for what d.Grounds are to have, once its Run is called.
func Fetch(c node.Config, d *node.Deps) (*fetch.Fetcher, error) {
	f, err := fetch.Open(c.Fetch, d.Grounds, d.Logger)
	if err != nil {
		return nil, fmt.Errorf("opening node %s/%s: %w", c.Hospital, c.Node, err)
	}
	d.Verifiers = pinned.Verifiers(f.Hearing)
	return f, nil
}

func gate(ctx context.Context, consent string) (*opa.Gate, error) {
	extra := map[string]string{}
	if consent != "" {
		b, err := os.ReadFile(consent)
		if err != nil {
			return nil, fmt.Errorf("reading the hospital's own policy: %w", err)
		}
		extra[filepath.Base(consent)] = string(b)
	}
	return opa.NewNode(ctx, extra)
}
