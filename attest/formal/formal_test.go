package formal

import (
	"context"
	"fmt"
	"os/exec"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest"
)

// query is a search for a state of a scene in which a claim of the model falls.
type query struct {
	name    string
	scene   string
	broken  string // what the attacker has broken elsewhere
	without string // what is left out of the evidence
	claim   string
}

// removals has one or more for every field of attest.Binding, and for what a Record holds beside it.
var removals = []query{
	// The exporter's context says the role a second time: see TestSecondLocks.
	{"Role", "mirror", "neither", "Role Context", "agreement"},
	{"Nonce", "restored", "neither", "Nonce", "agreement"},
	{"Exporter", "relay", "neither", "Exporter", "agreement"},
	{"Exporter", "leakedCoordinator", "neither", "Exporter", "agreement"},
	{"OwnKey", "leakedBoth", "neither", "OwnKey", "record"},
	{"PeerKey", "leakedBoth", "neither", "PeerKey", "agreement"},
	{"Study", "leakedBoth", "neither", "Study", "agreement"},
	{"Study", "honest", "neither", "Study", "record"},
	{"KeyList", "leakedBoth", "neither", "KeyList", "secrecy"},
	{"KeyList", "honest", "neither", "KeyList", "record"},
	{"Config", "hostileCoordinator", "neither", "Config", "agreement"},
	{"Config", "hostileNode", "neither", "Config", "agreement"},
	{"LogSignature", "honest", "brokenChip", "LogSignature", "agreement"},
	{"Evidence", "honest", "stolenLogKey", "Evidence", "agreement"},
}

// TestEveryFieldHasItsRemoval ties the model to the code.
func TestEveryFieldHasItsRemoval(t *testing.T) {
	var fields, removed []string
	for f := range reflect.TypeFor[attest.Binding]().Fields() {
		fields = append(fields, f.Name)
	}
	if got := words(t, "bound"); !sameSet(got, fields) {
		t.Errorf("the model binds %q, attest.Binding has %q", got, fields)
	}
	beside := words(t, "demanded")
	for _, name := range beside {
		if _, ok := reflect.TypeFor[attest.Record]().FieldByName(name); !ok {
			t.Errorf("the model demands %q, which attest.Record has not", name)
		}
	}
	for _, q := range removals {
		removed = append(removed, q.name)
	}
	if got, want := slices.Compact(removed), slices.Concat(fields, beside); !sameSet(got, want) {
		t.Errorf("removed are %q, want %q", got, want)
	}
}

func sameSet(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

func TestNoAttack(t *testing.T) {
	all := []query{
		// A coordinator's evidence and the log signature leave together, so a scene is the same
		// whichever of the two the attacker can make by itself.
		{scene: "honest", broken: "stolenLogKey"},
		{scene: "leakedBoth", broken: "stolenLogKey"},
	}
	for _, scene := range words(t, "scenes") {
		all = append(all, query{scene: scene, broken: "brokenChip"})
	}
	for _, q := range all {
		t.Run(q.scene+"/"+q.broken, func(t *testing.T) {
			t.Parallel()
			q.without = "none"
			if story, ok := attack(t, q); ok {
				t.Errorf("with all fields:\n%s", story)
			}
		})
	}
}

// TestHonestRun keeps TestNoAttack from being about nothing: in every scene with a node and a
// coordinator the two of one session accept each other.
func TestHonestRun(t *testing.T) {
	for _, scene := range words(t, "scenes") {
		if scene == "mirror" {
			continue
		}
		out := maude(t, "search [1] start("+scene+", neither, all) =>* D | RS | MS |"+
			" accepted(belief(coordinator, X, Y, L, L, O, S, K, good)) accepted(belief(node, X, Y, L, O, L, S, K2:Keys, good)) ES .")
		if !solution.MatchString(out) {
			t.Errorf("in %s nobody comes to an end:\n%s", scene, out)
		}
	}
}

func TestRemovals(t *testing.T) {
	for _, q := range removals {
		t.Run(q.name, func(t *testing.T) {
			t.Parallel()
			story, ok := attack(t, q)
			if !ok {
				t.Fatalf("nothing: either the field goes, or its attack is missing")
			}
			t.Logf("%s falls in %s:\n%s", q.claim, q.scene, story)
		})
	}
}

// TestSecondLocks shows which attacks something else stops as well: whoever takes out the one has to
// keep the other.
func TestSecondLocks(t *testing.T) {
	for _, tc := range []struct {
		query
		falls bool
	}{
		{query{"the role, the exporter's context stays", "mirror", "brokenChip", "Role", "agreement"}, false},
		{query{"the exporter's context, the role stays", "mirror", "brokenChip", "Context", "agreement"}, false},
		// Where nothing but one leaf key is lost.
		{query{"the exporter, the peer key stays", "leakedLeaf", "brokenChip", "Exporter", "agreement"}, false},
		{query{"the peer key, the exporter stays", "leakedLeaf", "brokenChip", "PeerKey", "agreement"}, false},
		{query{"both", "leakedLeaf", "neither", "Exporter PeerKey", "agreement"}, true},
		// Where no share repeats.
		{query{"the nonce, the exporter stays", "leakedBoth", "brokenChip", "Nonce", "agreement"}, false},
		// On a live connection: a node proves only to a coordinator that saw the node's leaf.
		{query{"the own key, the peer key and the exporter stay", "leakedBoth", "brokenChip", "OwnKey", "agreement"}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if story, ok := attack(t, tc.query); ok != tc.falls {
				t.Errorf("%s falls: %v, want %v\n%s", tc.claim, ok, tc.falls, story)
			}
		})
	}
}

// TestNonceThatGoesBack says where the nonce ends: it has to be drawn after the moment to which the
// machine returns.
func TestNonceThatGoesBack(t *testing.T) {
	if _, ok := attack(t, query{scene: "restoredNonce", broken: "neither", without: "none", claim: "agreement"}); !ok {
		t.Error("a machine that repeats its share and its nonce takes no old proof")
	}
}

const module = "binding.maude"

var (
	solution = regexp.MustCompile(`(?m)^Solution 1 \(state (\d+)\)$`)
	explored = regexp.MustCompile(`(?m)^states: (\d+) `)
)

// attack searches, and tells the way to what it found.
func attack(t *testing.T, q query) (story string, ok bool) {
	t.Helper()
	falls := "broken(STATE) =/= sound"
	if q.claim != "" {
		falls = q.claim + " in broken(STATE)"
	}
	search := fmt.Sprintf("search [1] start(%s, %s, without(%s)) =>* STATE such that %s .", q.scene, q.broken, q.without, falls)
	out := maude(t, search)
	states := explored.FindStringSubmatch(out)
	if states == nil {
		t.Fatalf("no search:\n%s", out)
	}
	t.Logf("%s states", states[1])
	found := solution.FindStringSubmatch(out)
	if found == nil {
		if !strings.Contains(out, "\nNo solution.\n") {
			t.Fatalf("a search without an end:\n%s", out)
		}
		return "", false
	}
	return tell(maude(t, search+"\nshow path "+found[1]+" .")), true
}

// words are those that a constant of the model holds.
func words(t *testing.T, constant string) []string {
	t.Helper()
	out := maude(t, "reduce "+constant+" .")
	_, result, ok := strings.Cut(out, "\nresult ")
	_, result, named := strings.Cut(result, ": ")
	if !ok || !named {
		t.Fatalf("reducing %s:\n%s", constant, out)
	}
	line, _, _ := strings.Cut(result, "\n")
	return strings.Fields(line)
}

const (
	maxTime   = time.Minute
	maxMemory = 1 << 20 // KiB
)

// maude runs commands on the model.
func maude(t *testing.T, commands string) string {
	t.Helper()
	bin, err := exec.LookPath("maude")
	if err != nil {
		t.Skip("maude is not installed")
	}
	ctx, cancel := context.WithTimeout(t.Context(), maxTime)
	defer cancel()
	limited := fmt.Sprintf(`ulimit -v %d; exec "$0" "$@"`, maxMemory)
	cmd := exec.CommandContext(ctx, "sh", "-c", limited, bin, "-no-banner", "-no-wrap", "-no-ansi-color", module)
	cmd.Stdin = strings.NewReader(commands + "\nquit\n")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("running maude: %v\n%s", err, out)
	}
	// Maude warns of an error and goes on.
	if strings.Contains(string(out), "Warning: ") {
		t.Fatalf("maude warns:\n%s", out)
	}
	return string(out)
}

var (
	stateLine = regexp.MustCompile(`(?m)^state \d+, State: (.*)$`)
	labels    = regexp.MustCompile(`\[label ([\w-]+)\] \. \]===>`)
)

// tell makes of Maude's path, which prints each state whole, the steps: whose move it was, and what
// is new among runs and events.
func tell(path string) string {
	var b strings.Builder
	names := labels.FindAllStringSubmatch(path, -1)
	var before []string
	for i, s := range stateLine.FindAllStringSubmatch(path, -1) {
		parts := strings.Split(s[1], " | ") // scene, runs, messages, events
		if len(parts) != 4 {
			return path
		}
		after := terms(parts[1] + " " + parts[3])
		if i > 0 && i <= len(names) {
			fmt.Fprintf(&b, "  %s\n", names[i-1][1])
			for _, term := range after {
				if at := slices.Index(before, term); at >= 0 {
					before = slices.Delete(before, at, at+1)
					continue
				}
				fmt.Fprintf(&b, "      %s\n", term)
			}
		}
		before = after
	}
	return b.String()
}

// terms splits a set as Maude prints it, at the spaces outside of parentheses.
func terms(set string) []string {
	depth := 0
	return strings.FieldsFunc(set, func(r rune) bool {
		switch r {
		case '(':
			depth++
		case ')':
			depth--
		}
		return r == ' ' && depth == 0
	})
}
