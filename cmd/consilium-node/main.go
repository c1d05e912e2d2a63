// Command consilium-node is the agent beside a hospital's data.
//
//	consilium-node init  --config node.yaml   make the node's keys; print what governance enrols
//	consilium-node check --config node.yaml   check configuration, keys, approvals and data before anything runs
//	consilium-node run   --config node.yaml   take part in every approved study until stopped
//	consilium-node stop  --config node.yaml   sign that this node has stopped for good, and print it
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/node"
	"github.com/consilium-fl/consilium/node/wire"
)

// The exit codes of all three commands.
const (
	exitDone        = 0
	exitOurs        = 1
	exitUsage       = 2
	exitBadInput    = 3
	exitRefused     = 4
	exitInterrupted = 130
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

const usage = `usage: consilium-node COMMAND --config node.yaml

  init    make the node's keys in its state folder and print what the governance key enrols
  check   check configuration, keys, enrolment, approvals and data [--study FILE] [--show-values] [--json]
  run     take part in every approved study until stopped [--json-log]
  stop    sign that this node has stopped for good, for its successor's enrolment; it never runs again
`

func run(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return exitUsage
	}
	fs := flag.NewFlagSet("consilium-node "+args[0], flag.ContinueOnError)
	fs.SetOutput(stderr)
	c := &command{stdout: stdout, stderr: stderr}
	fs.StringVar(&c.config, "config", "node.yaml", "configuration `file`")
	fs.BoolVar(&c.json, "json", false, "print for machines")
	var do func(context.Context) error
	switch args[0] {
	case "init":
		do = c.init
	case "check":
		fs.StringVar(&c.study, "study", "", "also check the data against this study `file`")
		fs.BoolVar(&c.showValues, "show-values", false, "show the values of cells that cannot be read, on this terminal only")
		do = c.check
	case "run":
		fs.BoolVar(&c.jsonLog, "json-log", false, "log JSON lines")
		do = c.run
	case "stop":
		do = c.stop
	case "help", "-h", "--help":
		fmt.Fprint(stdout, usage)
		return exitDone
	default:
		fmt.Fprintf(stderr, "consilium-node: no command %q\n%s", args[0], usage)
		return exitUsage
	}
	if err := fs.Parse(args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return exitDone
		}
		return exitUsage
	}
	if fs.NArg() > 0 {
		fmt.Fprintf(stderr, "consilium-node %s: unexpected argument %q\n", args[0], fs.Arg(0))
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := do(ctx)
	if err != nil {
		fmt.Fprintf(stderr, "consilium-node %s: %v\n", args[0], err)
	}
	return exitCode(err)
}

type command struct {
	stdout, stderr            io.Writer
	config, study             string
	json, jsonLog, showValues bool
}

// badInput marks what a person has to mend in a file or a command.
type badInput struct{ error }

func (b badInput) Unwrap() error { return b.error }

func exitCode(err error) int {
	var bad badInput
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.Is(err, node.ErrStopped):
		return exitRefused
	case errors.As(err, &bad):
		return exitBadInput
	}
	return exitOurs
}

func (c *command) read() (node.Config, error) {
	cfg, err := node.ReadConfig(c.config)
	if err != nil {
		return node.Config{}, badInput{err}
	}
	return cfg, nil
}

func (c *command) init(context.Context) error {
	cfg, err := c.read()
	if err != nil {
		return err
	}
	keys, err := node.Init(cfg.State)
	if err != nil {
		return badInput{err}
	}
	return c.printKeys(cfg, keys)
}

func (c *command) run(ctx context.Context) error {
	cfg, err := c.read()
	if err != nil {
		return err
	}
	var h slog.Handler = slog.NewTextHandler(c.stderr, nil)
	if c.jsonLog {
		h = slog.NewJSONHandler(c.stderr, nil)
	}
	d, err := wire.Open(ctx, cfg, slog.New(h))
	if err != nil {
		return badInput{err}
	}
	f, err := wire.Fetch(cfg, &d)
	if err != nil {
		return badInput{err}
	}
	n, err := node.New(cfg, d)
	if err != nil {
		return badInput{errors.Join(err, f.Close())}
	}
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGHUP)
	defer signal.Stop(asked)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var beside sync.WaitGroup
	beside.Go(func() { d.Grounds.Watch(ctx, groundsEvery, asked, d.Logger) })
	beside.Go(func() { f.Run(ctx) })
	// A node that is told to stop has done its work: what it must not forget is on disk already.
	if err = n.Run(ctx); err != nil {
		err = badInput{err}
	}
	stop()
	beside.Wait()
	return errors.Join(err, n.Close(), f.Close())
}

// groundsEvery is how often trust, references and the own policy are read again; SIGHUP asks for it at once.
const groundsEvery = time.Minute

func (c *command) stop(ctx context.Context) error {
	cfg, err := c.read()
	if err != nil {
		return err
	}
	d, err := wire.Open(ctx, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return badInput{err}
	}
	b, err := node.Stop(cfg, d)
	if err != nil {
		return badInput{err}
	}
	_, err = c.stdout.Write(b)
	return err
}

func (c *command) printKeys(cfg node.Config, k node.Keys) error {
	nodeKey, witness := signed.KeyText(k.Public().Node), signed.KeyText(k.Public().Witness)
	if c.json {
		return json.NewEncoder(c.stdout).Encode(map[string]string{"hospital": cfg.Hospital, "node": cfg.Node, "node_key": nodeKey, "witness_key": witness})
	}
	_, err := fmt.Fprintf(c.stdout, "node key     %s\nwitness key  %s\n\nThe hospital's governance key enrols them, on the computer where it is kept:\n  consilium node enrol --hospital %s --node %s --node-key %s --witness-key %s --key governance.key --out enrolment.json\n",
		nodeKey, witness, cfg.Hospital, cfg.Node, nodeKey, witness)
	return err
}
