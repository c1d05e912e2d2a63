// Command consilium-coordinator serves a consortium: it runs studies, and sees no hospital's update.
//
//	consilium-coordinator init  --config coordinator.yaml   make the keys; print the log key for consortium.yaml
//	consilium-coordinator check --config coordinator.yaml   check configuration, consortium, keys, trust and policy
//	consilium-coordinator run   --config coordinator.yaml   serve until stopped
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/coordinator"
	"github.com/consilium-fl/consilium/coordinator/wire"
	"github.com/consilium-fl/consilium/internal/grounds/fetch"
	"github.com/consilium-fl/consilium/internal/signed"
)

// The exit codes of all three commands.
const (
	exitDone        = 0
	exitOurs        = 1
	exitUsage       = 2
	exitBadInput    = 3
	exitInterrupted = 130
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

const usage = `usage: consilium-coordinator COMMAND --config coordinator.yaml

  init    make the coordinator's keys in its state folder and print the log key for consortium.yaml [--json]
  check   check configuration, consortium file, keys, trust and policy [--json]
  run     serve until stopped [--json-log]
`

func run(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return exitUsage
	}
	c := &command{stdout: stdout, stderr: stderr}
	fs := flag.NewFlagSet("consilium-coordinator "+args[0], flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&c.config, "config", "coordinator.yaml", "configuration `file`")
	var do func(context.Context) error
	switch args[0] {
	case "init":
		fs.BoolVar(&c.json, "json", false, "print for machines")
		do = c.init
	case "check":
		fs.BoolVar(&c.json, "json", false, "print for machines")
		do = c.check
	case "run":
		fs.BoolVar(&c.jsonLog, "json-log", false, "log JSON lines")
		do = c.run
	case "help", "-h", "--help":
		fmt.Fprint(stdout, usage)
		return exitDone
	default:
		fmt.Fprintf(stderr, "consilium-coordinator: no command %q\n%s", args[0], usage)
		return exitUsage
	}
	if err := fs.Parse(args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return exitDone
		}
		return exitUsage
	}
	if fs.NArg() > 0 {
		fmt.Fprintf(stderr, "consilium-coordinator %s: unexpected argument %q\n", args[0], fs.Arg(0))
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := do(ctx)
	if err != nil && !errors.Is(err, errInterrupted) {
		fmt.Fprintf(stderr, "consilium-coordinator %s: %v\n", args[0], err)
	}
	return exitCode(err)
}

type command struct {
	stdout, stderr io.Writer
	config         string
	json, jsonLog  bool
}

// badInput marks what a person has to mend in a file or a command.
type badInput struct{ error }

func (b badInput) Unwrap() error { return b.error }

// errInterrupted is how run ends when it is asked to.
var errInterrupted = errors.New("interrupted")

func exitCode(err error) int {
	var bad badInput
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, errInterrupted):
		return exitInterrupted
	case errors.As(err, &bad):
		return exitBadInput
	}
	return exitOurs
}

func (c *command) read() (coordinator.Config, error) {
	cfg, err := coordinator.ReadConfig(c.config)
	if err != nil {
		return coordinator.Config{}, badInput{err}
	}
	return cfg, nil
}

func (c *command) init(context.Context) error {
	cfg, err := c.read()
	if err != nil {
		return err
	}
	key, err := coordinator.Init(cfg.State)
	if err != nil {
		return badInput{err}
	}
	if c.json {
		return json.NewEncoder(c.stdout).Encode(map[string]string{"log": key})
	}
	_, err = fmt.Fprintf(c.stdout, "log: %s   # for consortium.yaml\n", key)
	return err
}

func (c *command) check(ctx context.Context) error {
	cfg, err := c.read()
	if err != nil {
		return err
	}
	d, err := wire.Check(ctx, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return badInput{err}
	}
	if _, err := net.ResolveTCPAddr("tcp", cfg.Listen); err != nil {
		return badInput{fmt.Errorf("checking listen: %w", err)}
	}
	g, _ := d.Grounds.Current()
	endorsements, err := fetched(cfg, g.Trust)
	if err != nil {
		return badInput{err}
	}
	facts := []struct{ Name, Value string }{
		{"consortium", d.Consortium.Name + " " + signed.DigestText(d.Consortium.Digest)},
		{"hospitals", fmt.Sprint(len(d.Consortium.Hospitals))},
		{"log", signed.KeyText(d.Consortium.Log)},
		{"policy", signed.DigestText(d.PolicyDigest)},
		{"trust", signed.DigestText(g.Trust.Digest())},
		{"references", fmt.Sprint(len(g.References.Files()))},
		{"fetch", endorsements},
		{"tee", d.TEE + map[bool]string{true: " (simulated: proves nothing about the machine)"}[cfg.Insecure.SimulatedTEE]},
		{"listen", cfg.Listen},
	}
	if c.json {
		out := map[string]string{}
		for _, f := range facts {
			out[f.Name] = f.Value
		}
		return json.NewEncoder(c.stdout).Encode(out)
	}
	for _, f := range facts {
		if _, err := fmt.Fprintf(c.stdout, "%-10s  %s\n", f.Name, f.Value); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintln(c.stdout, "nothing to mend")
	return err
}

// fetched says whom the configuration has asked, what the cache holds of it, and what of that is of no use any more.
func fetched(cfg coordinator.Config, base *endorse.Snapshot) (string, error) {
	if len(cfg.Fetch.From) == 0 {
		return "from nobody", nil
	}
	from := "from " + strings.Join(cfg.Fetch.From, ", ")
	all, err := fetch.Cached(cfg.Fetch, base)
	if err != nil {
		return "", err
	}
	if len(all) == 0 {
		return from + "; nothing cached yet", nil
	}
	text := fmt.Sprintf("%s; %d cached", from, len(all))
	for _, s := range all {
		if !s.OK {
			text += fmt.Sprintf("; %s is of no use: %s", s.Source, s.Text)
		}
	}
	return text, nil
}

// groundsEvery is how often trust and references are read again; SIGHUP asks for it at once.
const groundsEvery = time.Minute

func (c *command) run(ctx context.Context) (err error) {
	cfg, err := c.read()
	if err != nil {
		return err
	}
	var handler slog.Handler = slog.NewTextHandler(c.stderr, nil)
	if c.jsonLog {
		handler = slog.NewJSONHandler(c.stderr, nil)
	}
	d, done, err := wire.Open(ctx, cfg, slog.New(handler))
	if err != nil {
		return badInput{err}
	}
	defer func() { err = errors.Join(err, done()) }()
	f, err := wire.Fetch(cfg, &d)
	if err != nil {
		return badInput{err}
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	co, err := coordinator.New(cfg, d)
	if err != nil {
		return badInput{err}
	}
	l, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return badInput{fmt.Errorf("listening: %w", err)}
	}
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGHUP)
	defer signal.Stop(asked)
	ctx, stop := context.WithCancel(ctx)
	var beside sync.WaitGroup
	defer func() { stop(); beside.Wait() }()
	beside.Go(func() { d.Grounds.Watch(ctx, groundsEvery, asked, d.Logger) })
	beside.Go(func() { f.Run(ctx) })
	if err := co.Serve(ctx, l); err != nil {
		return err
	}
	return errInterrupted // Serve ends well only when it is asked to
}
