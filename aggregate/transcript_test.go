package aggregate

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/*.txt anew")

// TestTranscript compares everything that the machines ask for in one round with testdata: in order, with
// the digests of all that is deterministic. Another implementation with the same entropy has to agree.
func TestTranscript(t *testing.T) {
	for name, prepare := range map[string]func(w *world){
		"closed": func(*world) {},
		"drops":  func(w *world) { w.dropAt["basel"], w.dropAt["lugano"] = "upload", "release" },
		"aborted": func(w *world) {
			w.dropAt["basel"], w.dropAt["lugano"] = "deal", "upload"
		},
		"burnt": func(w *world) { w.x["basel"][0] = 1 << 30 },
	} {
		t.Run(name, func(t *testing.T) {
			n := 4
			if name == "drops" {
				n = 6
			}
			w := newWorld(t, names(n), 32, Members)
			w.spread = 20
			prepare(w)
			var b strings.Builder
			w.log = func(who MemberID, e Effect) {
				if who == "" {
					who = "aggregator"
				}
				fmt.Fprintf(&b, "%-12s %s\n", who, describe(e))
			}
			w.run()
			if name == "aborted" {
				b.WriteString("             (the deadline passes)\n")
				w.expire()
			}
			file := "testdata/" + name + ".txt"
			if *update {
				if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if b.String() != string(want) {
				t.Errorf("the round differs from %s:\n%s", file, b.String())
			}
		})
	}
}

// describe leaves out the bytes that an encapsulation or a release's ciphertext makes different each time.
func describe(e Effect) string {
	switch e := e.(type) {
	case Persist:
		return "persists"
	case Send:
		return "sends " + describeMessage(e.Message)
	case StartTraining:
		return fmt.Sprintf("trains on model %.4x", e.Plan.Model)
	case ChargeLedger:
		return fmt.Sprintf("charges round %d, roster %.4x", e.Charge.Number, e.Charge.Roster)
	case FillSpool:
		return "fills the spool"
	case SendVector:
		return "sends the vector and " + describeMessage(e.Upload)
	case Accept:
		return fmt.Sprintf("compares the vector of %s with %.4x", e.Member, e.Vector)
	case Open:
		return fmt.Sprintf("opens the sum of %v", e.Set)
	case Record:
		return "records a " + e.Kind
	case Wait:
		return fmt.Sprintf("waits %v for %s", e.For, e.Phase)
	case Refuse:
		return fmt.Sprintf("refuses %s: %s", e.From, e.Reason)
	case End:
		return fmt.Sprintf("ends: %s %s sum %.4x", e.Result.Outcome, e.Result.Why, e.Result.Sum)
	}
	return fmt.Sprintf("%T", e)
}

func describeMessage(s Signed) string {
	if s.Kind == "release" {
		return fmt.Sprintf("release of %d bytes", len(s.Payload))
	}
	return fmt.Sprintf("%s %.4x", s.Kind, s.Digest())
}
