package main

import (
	"encoding/json"
	"errors"
	"flag"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

var update = flag.Bool("update", false, "write what the scripts printed where they compare files")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"consilium": main})
}

// daemonScripts start the daemons as processes of their own, from binaries that are built for them.
var daemonScripts = []string{"fetch.txtar", "operations.txtar", "kept.txtar", "rotate.txtar"}

func scripts(t *testing.T, daemons bool) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(files, func(f string) bool {
		return slices.Contains(daemonScripts, filepath.Base(f)) != daemons
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Files: scripts(t, false), Cmds: commands, RequireExplicitExec: true, RequireUniqueNames: true, UpdateScripts: *update,
	})
}

// TestDaemons runs the three real binaries as separate processes. No Go code stands between them.
func TestDaemons(t *testing.T) {
	if testing.Short() {
		t.Skip("builds three binaries and starts daemons")
	}
	bin := binaries(t)
	testscript.Run(t, testscript.Params{
		Files: scripts(t, true), Cmds: commands, RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", bin+string(os.PathListSeparator)+e.Getenv("PATH"))
			return nil
		},
	})
}

// binaries builds the three commands into a folder.
func binaries(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	out, err := exec.Command("go", "build", "-o", dir+string(os.PathSeparator), "github.com/consilium-fl/consilium/cmd/...").CombinedOutput()
	if err != nil {
		t.Fatalf("building the commands: %v\n%s", err, out)
	}
	return dir
}

// commands are what a person at a terminal does with a shell and an editor.
var commands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"exits":    exitsWith,
	"keep":     keep,
	"fill":     fill,
	"freeport": freeport,
	"flip":     flip,
}

// exits CODE PROGRAM ARGS… runs a program, which has to end with that code.
func exitsWith(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%s: %v", args[1], err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("%s: exit code %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}

// keep NAME [FIELD] puts what was printed, or a field of that as JSON, into a variable.
func keep(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: keep NAME [FIELD]")
	}
	text := ts.ReadFile("stdout")
	if len(args) == 2 {
		var fields map[string]any
		ts.Check(json.Unmarshal([]byte(text), &fields))
		value, ok := fields[args[1]].(string)
		if !ok {
			ts.Fatalf("no text field %q in %s", args[1], text)
		}
		text = value
	}
	ts.Setenv(args[0], strings.TrimSpace(text))
}

// fill FROM TO copies a file with its variables filled in.
func fill(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: fill FROM TO")
	}
	text := os.Expand(ts.ReadFile(args[0]), ts.Getenv)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(text), 0o600))
}

// freeport NAME puts a port of loopback on which nobody listens into a variable.
func freeport(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: freeport NAME")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	_, port, err := net.SplitHostPort(l.Addr().String())
	ts.Check(err)
	ts.Check(l.Close())
	ts.Setenv(args[0], port)
}

// flip FILE OFFSET flips a bit; a negative offset counts from the end.
func flip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: flip FILE OFFSET")
	}
	at, err := strconv.Atoi(args[1])
	ts.Check(err)
	b := []byte(ts.ReadFile(args[0]))
	if at < 0 {
		at += len(b)
	}
	b[at] ^= 1
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o600))
}
