// Package simulation runs a whole federation in one process: one real coordinator and one real node a
// hospital, talking gRPC over attested TLS 1.3 on loopback, started from the same files and through the
// same constructors as the daemons. It alone owns all the data, so it alone can say how good a model is.
//
//	r, err := simulation.Run(ctx, simulation.Options{})
//	fmt.Println(r.Summary.Federated, r.Out)
package simulation

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/consilium-fl/consilium/coordinator"
	coordinatorwire "github.com/consilium-fl/consilium/coordinator/wire"
	"github.com/consilium-fl/consilium/internal/person"
	"github.com/consilium-fl/consilium/internal/store"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/transport"
	"github.com/consilium-fl/consilium/node"
	nodewire "github.com/consilium-fl/consilium/node/wire"
)

// ErrShort says that the study ended before its last round; its last released model is in the folder.
var ErrShort = errors.New("the study ended short")

// patience is how long the simulated coordinator waits for members that will not come back.
const patience = 3 * time.Second

// gcPercent lets the heap grow to some tens of megabytes before it is collected: what eleven parties allocate in
// one process is garbage a round later.
const gcPercent = 500

// overlap lets the process run four times as many goroutines at once as it has processors. Each party waits for its disk
// some ten times a round, in a system call that keeps its place until the runtime takes it away: apart, on a
// machine each, they would not wait for each other. Whoever sets GOMAXPROCS is heeded.
var overlap = sync.OnceFunc(func() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(4 * runtime.GOMAXPROCS(0))
	}
})

// Run simulates one study from its files to a verified receipt.
func Run(ctx context.Context, o Options) (*Result, error) {
	return simulate(ctx, o, wiring{})
}

// wiring changes what a constructor gets, after what Run itself sets: another sampler, an observer, a
// journal that fails. Only this package's tests have one, so that a zero Noiser, under which there is no
// privacy, is out of the reach of any option.
type wiring struct {
	consortium  func(c *study.Consortium) // before it is signed
	built       func(f *federation) error // once all files are there
	coordinator func(d *coordinator.Deps)
	node        func(hospital string, d *node.Deps)
}

func simulate(ctx context.Context, o Options, w wiring) (*Result, error) {
	began := time.Now()
	defer debug.SetGCPercent(debug.SetGCPercent(gcPercent))
	overlap()
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	for _, dir := range []string{o.Out, o.Keep} {
		if err := absent(dir); err != nil {
			return nil, err
		}
	}
	text, sites, err := prepare(o)
	if err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp("", "consilium-simulation-")
	if err != nil {
		return nil, fmt.Errorf("simulating: %w", err)
	}
	defer func() {
		if err := removeAll(work); err != nil {
			o.Logger.Warn("a temporary folder with keys of this simulation stays on disk", "error", err)
		}
	}()
	f, err := build(filepath.Join(work, "federation"), text, sites, o, w.consortium)
	if err != nil {
		return nil, err
	}
	if w.built != nil {
		if err := w.built(f); err != nil {
			return nil, err
		}
	}
	if err := f.check(ctx); err != nil {
		return nil, err
	}
	if o.Keep != "" {
		if err := keep(o.Keep, os.DirFS(f.dir)); err != nil {
			return nil, errors.Join(fmt.Errorf("keeping the files: %w", err), os.RemoveAll(o.Keep))
		}
	}
	s := &run{federation: f, options: o, began: began, wiring: w, seen: newSeen(f)}
	return s.run(ctx)
}

// absent looks before anything runs whether a folder that is to be written is there already.
func absent(dir string) error {
	if dir == "" {
		return nil
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return badInput("writing %s: it exists already, and nothing is overwritten", dir)
	}
	return nil
}

// keep copies a federation, for its owner's eyes only: it holds keys.
func keep(to string, from fs.FS) error {
	return fs.WalkDir(from, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := filepath.Join(to, filepath.FromSlash(path))
		if d.IsDir() {
			return store.PrivateDir(target)
		}
		b, err := fs.ReadFile(from, path)
		if err != nil {
			return err
		}
		return store.WriteFile(target, b, 0o600)
	})
}

// removeAll removes a working folder. The library that keeps a log may be at its last checkpoint for some
// milliseconds after the log was closed, so a folder that fills again is emptied again.
func removeAll(dir string) (err error) {
	for range 100 {
		if err = os.RemoveAll(dir); err == nil {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

// check is what consilium-node check does at each hospital before it approves.
func (f *federation) check(ctx context.Context) error {
	for _, s := range f.sites {
		c, err := node.ReadConfig(f.path(s.name, "node.yaml"))
		if err != nil {
			return err
		}
		d, err := nodewire.Open(ctx, c, slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		fs, err := node.Check(c, d, f.study.Raw)
		if err != nil {
			return err
		}
		if err := problems(s.name, fs); err != nil {
			return err
		}
	}
	return nil
}

// mostProblems is how many a person is shown at once.
const mostProblems = 20

func problems(hospital string, fs []node.Finding) error {
	var errs []error
	for _, f := range fs {
		if f.Hint {
			continue
		}
		if len(errs) == mostProblems {
			errs = append(errs, errors.New("and more: consilium-node check lists all"))
			break
		}
		errs = append(errs, fmt.Errorf("%s: %s", f.Object, f.Text))
	}
	if len(errs) == 0 {
		return nil
	}
	return badInput("checking hospital %q before it approves:\n%w", hospital, errors.Join(errs...))
}

// run is one federation while it lives.
type run struct {
	*federation
	options Options
	began   time.Time
	wiring  wiring
	seen    *seen
	story   story
	ended   transport.StudyInfo
	wg      sync.WaitGroup
}

func (r *run) step(text string) {
	r.options.Progress(Progress{Time: time.Now(), Kind: "step", Text: text})
}

func (r *run) run(ctx context.Context) (*Result, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer r.wg.Wait()
	defer cancel(nil)
	if err := r.startCoordinator(ctx, cancel); err != nil {
		return nil, err
	}
	lead, err := r.submit(ctx)
	if err != nil {
		return nil, because(ctx, err)
	}
	for _, s := range r.sites {
		if err := r.startNode(ctx, cancel, s.name); err != nil {
			return nil, err
		}
	}
	if err := r.watch(ctx, lead); err != nil {
		return nil, because(ctx, err)
	}
	return r.collect(ctx, lead)
}

// because prefers what ended the context over the error that followed from it.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

func (r *run) startCoordinator(ctx context.Context, fail context.CancelCauseFunc) error {
	c, err := coordinator.ReadConfig(r.path("coordinator", "coordinator.yaml"))
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return badInput("listening on %s: %w: choose another address with --listen", c.Listen, err)
	}
	d, done, err := coordinatorwire.Open(ctx, c, r.options.Logger.With("role", "coordinator"))
	if err != nil {
		return errors.Join(err, l.Close())
	}
	d.Observe, d.Patience = r.seen.arrived, patience
	if r.wiring.coordinator != nil {
		r.wiring.coordinator(&d)
	}
	co, err := coordinator.New(c, d)
	if err != nil {
		return errors.Join(err, l.Close(), done())
	}
	r.wg.Go(func() {
		if err := errors.Join(co.Serve(ctx, l), done()); err != nil {
			fail(fmt.Errorf("the coordinator stopped: %w", err))
		}
	})
	r.step("coordinator started at " + l.Addr().String())
	return nil
}

func (r *run) startNode(ctx context.Context, fail context.CancelCauseFunc, hospital string) error {
	c, err := node.ReadConfig(r.path(hospital, "node.yaml"))
	if err != nil {
		return err
	}
	d, err := nodewire.Open(ctx, c, r.options.Logger.With("role", "node"))
	if err != nil {
		return err
	}
	d.Observe = func(round uint64, plain []int64, masked []byte) { r.seen.sent(hospital, round, plain, masked) }
	d.Drop = r.dropped(hospital)
	if r.wiring.node != nil {
		r.wiring.node(hospital, &d)
	}
	n, err := node.New(c, d)
	if err != nil {
		return err
	}
	r.wg.Go(func() {
		if err := errors.Join(n.Run(ctx), n.Close()); err != nil {
			fail(fmt.Errorf("the node of %s stopped: %w", hospital, err))
		}
	})
	return nil
}

// dropped says when a hospital goes away: before that message of that round, or of any later one.
func (r *run) dropped(hospital string) func(uint64, string) bool {
	order := map[string]int{"ready": 1, "deal": 2, "upload": 3, "vote": 4, "release": 5}
	return func(round uint64, kind string) bool {
		for _, d := range r.options.Drops {
			if d.Hospital == hospital && (round > d.Round || round == d.Round && order[kind] >= order[d.Phase]) {
				return true
			}
		}
		return false
	}
}

// submit does the lead's and the stewards' part: create the study and hand in the approvals.
func (r *run) submit(ctx context.Context) (*person.Person, error) {
	c, err := person.ReadConfig(r.path("consilium.yaml"))
	if err != nil {
		return nil, err
	}
	p, err := person.Open(c)
	if err != nil {
		return nil, err
	}
	client, err := p.Dial(r.consortium.Digest)
	if err != nil {
		return nil, err
	}
	defer client.Close() //nolint:errcheck // the calls' own errors say it all
	signature, err := study.SignStudy(r.study.Raw, p.Key)
	if err != nil {
		return nil, err
	}
	if _, err := client.CreateStudy(ctx, r.study.Raw, signature); err != nil {
		return nil, fmt.Errorf("submitting the study: %w", err)
	}
	for _, s := range r.sites {
		if _, err := client.ApproveStudy(ctx, r.approvals[s.name]); err != nil {
			return nil, fmt.Errorf("handing in the approval of %s: %w", s.name, err)
		}
	}
	r.step(fmt.Sprintf("study %s submitted and approved by %d hospitals", study.Short(r.study.Digest), len(r.sites)))
	return p, nil
}

// fetch writes what the study released into a new folder.
func (r *run) fetch(ctx context.Context, p *person.Person, dir string) (err error) {
	client, err := p.Dial(r.study.Digest)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	if err := client.GetReceipt(ctx, r.study.Digest, func(path string, data []byte) error {
		return write(filepath.Join(dir, filepath.FromSlash(path)), data)
	}); err != nil {
		return fmt.Errorf("fetching the receipt: %w", err)
	}
	model, err := client.DownloadModel(ctx, r.study.Digest)
	if err != nil {
		return fmt.Errorf("fetching the model: %w", err)
	}
	return write(filepath.Join(dir, "model.safetensors"), model)
}

func write(path string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o644)
}
