// Command consilium is for people: it simulates a study on a laptop, makes and shows keys and files, submits and
// watches studies, fetches models, and verifies receipts.
//
//	consilium simulate                             a whole federation in one process, to a verified receipt
//	consilium study new --data DIR                 draft a study
//	consilium study check study.yaml --consortium consortium.yaml
//	consilium audit verify DIR                     check a receipt offline
//
// Results go to stdout, progress and errors to stderr; --json makes results fit for machines. The exit codes are in exit.go.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C does not wait for anybody
	a := &app{stdout: stdout, stderr: stderr, now: time.Now}
	root := a.root()
	root.SetArgs(args)
	return a.explain(ctx, root.ExecuteContext(ctx))
}

// app is what all commands share.
type app struct {
	stdout, stderr io.Writer
	now            func() time.Time
	vendors        http.RoundTripper // by which vendors are asked; nil: http.DefaultTransport
	json           bool
	config         string        // consilium.yaml
	wait           time.Duration // how long an unreachable coordinator is tried
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "consilium",
		Short: "Train one model across hospitals, and prove that nobody else saw their patients",
		Long: `Consilium trains one model across hospitals, and proves to each of them that nobody else saw their patients.

Exit codes: 0 done, 1 our fault, 2 usage, 3 bad input, 4 refused, 5 verification failed, 6 unreachable or late,
7 study ended short, 130 interrupted.`,
		Example:       "  consilium simulate\n  consilium audit verify consilium-out/…",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.ArbitraryArgs,
		RunE:          verbs,
	}
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usage(c, "%w", err) })
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print results for machines")
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(
		a.simulate(),
		group("key", "Make and show keys", "  consilium key new --out governance.key", a.keyNew(), a.keyShow()),
		group("consortium", "Check, show and sign the file that says who belongs", "  consilium consortium show consortium.yaml", a.consortiumCheck(), a.consortiumShow(), a.consortiumSign()),
		group("node", "Enrol a hospital's node", "  consilium node enrol --help", a.nodeEnrol()),
		group("study", "Draft, check, submit, approve and watch studies", "  consilium study check study.yaml --consortium consortium.yaml",
			a.studyNew(), a.studyCheck(), a.studyShow(), a.studySubmit(), a.studyApprove(), a.studyList(), a.studyWatch(), a.studyCancel()),
		group("model", "Fetch a model with its receipt", "  consilium model get study.yaml --out heart-model", a.modelGet()),
		group("attest", "Explain and judge evidence of machines", "  consilium attest show report.bin",
			a.attestShow(), a.attestVerify(), group("policy", "Explain policies", "  consilium attest policy explain node.policy.yaml", a.attestExplain()),
			group("manifest", "Sign and show manifests of reference values", "  consilium attest manifest show heart-nodes.json", a.manifestSign(), a.manifestShow()),
			group("bundle", "Carry trust into a hospital without a way out", "  consilium attest bundle show trust-8.tar", a.bundleFetch(), a.bundleImport(), a.bundleShow()),
			a.attestDoctor(),
			group("measure", "Compute the measurements that a policy lists", "  consilium attest measure image coordinator-image/", a.measureSNP(), a.measureImage())),
		group("audit", "Verify and show what a study left behind", "  consilium audit verify heart-model", a.auditVerify(), a.auditShow()),
	)
	return root
}

// group is a noun; its verbs do the work.
func group(noun, short, example string, verbList ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: noun, Short: short, Example: example, Args: cobra.ArbitraryArgs, RunE: verbs}
	c.AddCommand(verbList...)
	return c
}

// verbs answers a noun without a verb that it knows.
func verbs(c *cobra.Command, args []string) error {
	var names []string
	for _, v := range c.Commands() {
		if v.IsAvailableCommand() && v.Name() != "help" {
			names = append(names, v.Name())
		}
	}
	want := strings.Join(names, ", ")
	if len(args) == 0 {
		return usage(c, "got no command, want one of %s", want)
	}
	return usage(c, "got command %q, want one of %s", args[0], want)
}

// takes says which arguments a command has.
func takes(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != len(names) {
			want := "none"
			if len(names) > 0 {
				want = strings.Join(names, " ")
			}
			return usage(c, "got %d arguments, want %s", len(args), want)
		}
		return nil
	}
}

// required is for flags without which a command means nothing.
func required(c *cobra.Command, names ...string) error {
	var missing []string
	for _, n := range names {
		if !c.Flags().Changed(n) {
			missing = append(missing, "--"+n)
		}
	}
	if len(missing) > 0 {
		return usage(c, "%s missing", strings.Join(missing, ", "))
	}
	return nil
}

// printJSON prints one result for machines.
func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.stdout)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// print prints a result for people, or v for machines.
func (a *app) print(v any, text string) error {
	if a.json {
		return a.printJSON(v)
	}
	_, err := io.WriteString(a.stdout, text)
	return err
}

// tell is for progress and advice.
func (a *app) tell(format string, args ...any) { fmt.Fprintf(a.stderr, format+"\n", args...) }
