package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// command is this very test binary as the command consilium.
func command(t *testing.T, dir string, args ...string) *exec.Cmd {
	t.Helper()
	path, err := exec.LookPath("consilium") // testscript.Main puts it there
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(path, args...)
	c.Dir = dir
	return c
}

func code(t *testing.T, err error) int {
	t.Helper()
	if err == nil {
		return 0
	}
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		t.Fatal(err)
	}
	return exit.ExitCode()
}

// TestInterrupted: Ctrl-C in the middle of a study ends it with 130, and leaves nothing that looks whole.
func TestInterrupted(t *testing.T) {
	dir := t.TempDir()
	c := command(t, dir, "simulate", "--rounds", "1000", "--out", "out")
	c.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	stderr, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	var said []string
	for lines.Scan() {
		said = append(said, lines.Text())
		if strings.HasPrefix(lines.Text(), "round 2 of 1000: closed") {
			break
		}
	}
	if err := c.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(stderr)
	if err != nil {
		t.Fatal(err)
	}
	if got := code(t, c.Wait()); got != exitInterrupted {
		t.Errorf("got exit code %d, want %d\n%s\n%s", got, exitInterrupted, strings.Join(said, "\n"), rest)
	}
	if !bytes.Contains(rest, []byte("consilium: interrupted")) {
		t.Errorf("not said: %s", rest)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// TestPortInUse: the address that somebody else listens on is named, with a way out.
func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var stderr bytes.Buffer
	c := command(t, t.TempDir(), "simulate", "--listen", l.Addr().String())
	c.Stderr = &stderr
	if got := code(t, c.Run()); got != exitBadInput {
		t.Errorf("got exit code %d, want %d", got, exitBadInput)
	}
	if got := stderr.String(); !strings.Contains(got, l.Addr().String()) || !strings.Contains(got, "--listen") {
		t.Errorf("got %q, want the address and the flag", got)
	}
}
