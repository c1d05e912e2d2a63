// Package wire opens what a coordinator.yaml names and hands it to coordinator.New: keys, trust, policy,
// the store, the log. The daemon and the simulation both start from here, so that one runs what the other
// does.
//
//	c, err := coordinator.ReadConfig("coordinator.yaml")
//	d, done, err := wire.Open(ctx, c, logger)
//	co, err := coordinator.New(c, d)
//	err = errors.Join(co.Serve(ctx, listener), done())
package wire

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/audit/appender"
	"github.com/consilium-fl/consilium/coordinator"
	"github.com/consilium-fl/consilium/dp"
	"github.com/consilium-fl/consilium/internal/grounds"
	"github.com/consilium-fl/consilium/internal/grounds/fetch"
	"github.com/consilium-fl/consilium/internal/pinned"
	"github.com/consilium-fl/consilium/internal/policy/opa"
	"github.com/consilium-fl/consilium/internal/store"
	"github.com/consilium-fl/consilium/internal/store/sqlite"
)

// Open reads and checks every file that the configuration names, and opens the state folder for this
// process alone. done closes what was opened; it is called once nothing uses the Deps any more.
func Open(ctx context.Context, c coordinator.Config, log *slog.Logger) (d coordinator.Deps, done func() error, err error) {
	d, err = Check(ctx, c, log)
	if err != nil {
		return coordinator.Deps{}, nil, err
	}
	if err := store.PrivateDir(c.State); err != nil {
		return coordinator.Deps{}, nil, fmt.Errorf("opening the coordinator's state: %w", err)
	}
	lock, err := store.Lock(filepath.Join(c.State, "lock"))
	if err != nil {
		return coordinator.Deps{}, nil, fmt.Errorf("opening the coordinator's state: %w", err)
	}
	db, err := sqlite.Open(filepath.Join(c.State, "coordinator.db"))
	if err != nil {
		return coordinator.Deps{}, nil, errors.Join(fmt.Errorf("opening the coordinator's state: %w", err), lock.Close())
	}
	d.Store = db
	return d, func() error { return closeAll(db, lock) }, nil
}

// Fetch has the vendors that the configuration names asked for what d.Grounds are to have, once its Run is called. d is
// of Open, whose lock on the state folder holds.
func Fetch(c coordinator.Config, d *coordinator.Deps) (*fetch.Fetcher, error) {
	f, err := fetch.Open(c.Fetch, d.Grounds, d.Logger)
	if err != nil {
		return nil, fmt.Errorf("opening the coordinator: %w", err)
	}
	d.Verifiers = pinned.Verifiers(f.Hearing)
	return f, nil
}

func closeAll(cs ...io.Closer) error {
	var errs []error
	for _, c := range cs {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// Check reads and checks every file that the configuration names, and opens nothing: its Deps have no Store.
func Check(ctx context.Context, c coordinator.Config, log *slog.Logger) (coordinator.Deps, error) {
	d, err := check(ctx, c, log)
	if err != nil {
		return coordinator.Deps{}, fmt.Errorf("opening the coordinator: %w", err)
	}
	return d, nil
}

func check(ctx context.Context, c coordinator.Config, log *slog.Logger) (d coordinator.Deps, err error) {
	d = coordinator.Deps{
		Logger: log, Verifiers: pinned.Verifiers(), Entropy: rand.Reader, Now: time.Now,
		Journal: func(path string) (dp.Journal, error) { return store.OpenJournal(path) },
	}
	if d.Consortium, d.Signatures, err = pinned.Consortium(c.Consortia[0].File, c.Consortia[0].Digest); err != nil {
		return d, err
	}
	if d.LogKey, d.Keys, err = coordinator.ReadKeys(c.State); err != nil {
		return d, err
	}
	files := grounds.Config{Trust: c.Trust, Bundle: c.Bundle, References: c.References, Seen: filepath.Join(c.State, grounds.SeenFile), OwnRoots: c.OwnRoots}
	if d.Grounds, err = fetch.Grounds(c.Fetch, files, d.Consortium, attest.RoleNode, log); err != nil {
		return d, err
	}
	tee := pinned.TEE{Kind: c.TEE, SimRoot: c.SimRoot, VMPL: c.VMPL, Audience: c.Audience}
	if d.Attester, d.TEE, err = pinned.Attester(tee, attest.RoleCoordinator, "chip:coordinator"); err != nil {
		return d, err
	}
	extra, err := pinned.Rego(c.Policy)
	if err != nil {
		return d, err
	}
	gate, err := opa.NewCoordinator(ctx, extra)
	if err != nil {
		return d, err
	}
	d.Gate, d.PolicyDigest = gate, gate.Digest()
	options := appender.Options{Batch: c.Log.Batch, Checkpoint: c.Log.Checkpoint, MergeDelay: c.Log.MergeDelay, Logger: log}
	if err := options.Check(); err != nil {
		return d, fmt.Errorf("log: %w", err)
	}
	key := d.LogKey
	d.OpenLog = func(ctx context.Context, dir, origin string) (coordinator.Log, error) {
		l, err := appender.Open(ctx, dir, origin, key, options)
		if err != nil {
			return nil, err // no interface that holds a nil Log
		}
		return l, nil
	}
	return d, coordinator.CheckDeps(d)
}
