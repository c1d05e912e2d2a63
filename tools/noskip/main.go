// Noskip runs go test and fails on a skipped test, when CI is set: a machine that checks everything lacks
// nothing. Tests on data that the repository does not carry may skip; their message names CONSILIUM_SHARED.
//
//	go run ./tools/noskip ./...
//
// Its output is that of go test without -v, and each skip with its reason.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// event is one line of go test -json.
type event struct {
	Action     string
	Package    string
	Test       string
	ImportPath string
	Output     string
}

func main() {
	cmd := exec.Command("go", append([]string{"test", "-json"}, os.Args[1:]...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		fatal(err)
	}
	if err := cmd.Start(); err != nil {
		fatal(err)
	}
	skipped, err := report(out, os.Stdout)
	if err != nil {
		fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			os.Exit(exit.ExitCode())
		}
		fatal(err)
	}
	if skipped > 0 && os.Getenv("CI") != "" {
		fmt.Printf("FAIL: %d tests skipped, and CI is set\n", skipped)
		os.Exit(1)
	}
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "noskip:", err)
	os.Exit(1)
}

// report prints what go test would, and counts the skips that have no excuse.
func report(in io.Reader, out io.Writer) (skipped int, err error) {
	said := map[string]*strings.Builder{} // output of tests that have not ended
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return skipped, fmt.Errorf("reading %q: %w", lines.Text(), err)
		}
		key := e.Package + " " + e.Test
		switch {
		case e.Test == "" && e.Output != "":
			if e.Output != "PASS\n" && !strings.HasPrefix(e.Output, "testing: warning") {
				fmt.Fprint(out, e.Output)
			}
		case e.Action == "output":
			if said[key] == nil {
				said[key] = &strings.Builder{}
			}
			said[key].WriteString(e.Output)
		case e.Action == "fail" && said[key] != nil:
			fmt.Fprint(out, said[key])
			delete(said, key)
		case e.Action == "skip" && e.Test != "":
			if excused := said[key] != nil && strings.Contains(said[key].String(), "CONSILIUM_SHARED"); !excused {
				skipped++
			}
			fmt.Fprintf(out, "skip\t%s %s: %s\n", e.Package, e.Test, reason(said[key]))
			delete(said, key)
		case e.Action == "pass":
			delete(said, key)
		}
	}
	return skipped, lines.Err()
}

// reason is what a test said, without the lines of go test itself.
func reason(b *strings.Builder) string {
	if b == nil {
		return "no reason"
	}
	var kept []string
	for l := range strings.Lines(b.String()) {
		l = strings.TrimSpace(l)
		if l != "" && !strings.HasPrefix(l, "===") && !strings.HasPrefix(l, "---") {
			kept = append(kept, l)
		}
	}
	return strings.Join(kept, " ")
}
