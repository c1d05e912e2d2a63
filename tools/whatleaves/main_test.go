package main

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/consilium-fl/consilium/aggregate"
)

const top = "../.."

func TestWhatLeavesIsCurrent(t *testing.T) {
	want, err := document(top, classes)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(top + "/docs/what-leaves.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("docs/what-leaves.md is not what the messages say: run go generate ./tools/whatleaves")
	}
}

// A message that grows, shrinks or is not looked into fails the build.
func TestEveryDoubtFails(t *testing.T) {
	for _, tc := range []struct{ name, old, new, want string }{
		{"a field is not classified", "cursor | public | | the last item taken\n", "", "v1.FollowRequest.cursor is not classified"},
		{"a CBOR field is not classified", "MaskKey | public | X25519 public key | for this round only\n", "", "aggregate.Ready.MaskKey is not classified"},
		{"an unexported one", "Random | public | 32 random bytes | go into the key of central noise\n", "", "aggregate.releaseText.Random is not classified"},
		{"a JSON key", "serial | public | | of the enrolment\n", "", "study.enrolmentJSON.serial is not classified"},
		{"a field is gone", "To | public", "Loss | public | | x\nTo | public", "aggregate.Share.Loss is classified and does not exist"},
		{"a field comes twice", "To | public", "To | public | | x\nTo | public", "aggregate.Share.To is classified twice"},
		{"bytes hold nothing known", "boot | public | 16 random bytes |", "boot | public | |", "v1.FollowRequest.boot has bytes"},
		{"bytes hold an unclassified message", "attest.Posture |", "attest.Claims |", "attest.Record.Posture holds attest.Claims, which is not classified"},
		{"a message inside is not classified", "== cbor aggregate.Share\n", "== cbor aggregate.Opening\n", "aggregate.Deal.Shares holds aggregate.Share, which is not classified"},
		{"a kind of message is left out", ", aggregate.Vote,", ",", "aggregate.Vote is classified and nothing that a node sends holds it"},
		{"a call is not classified", "RoundService.Download | public | | to get the model of a round\n", "", "calls.RoundService.Download is not classified"},
		{"an unknown class", "To | public", "To | harmless", `class "harmless"`},
		{"no word about it", "| the holder's name", "|", `"To" says nothing`},
		{"a message comes twice", "== cbor aggregate.Vote\n", "== cbor aggregate.Vote\n== cbor aggregate.Vote\n", "aggregate.Vote is there twice"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			text := strings.Replace(classes, tc.old, tc.new, 1)
			if text == classes {
				t.Fatalf("classes.txt does not have %q", tc.old)
			}
			_, err := document(top, text)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// What a member signs, by the table that its machine runs, is what a SignedMessage of a node may hold.
func TestEveryKindOfMessage(t *testing.T) {
	_, member := aggregate.Table()
	var want []string
	for _, row := range member {
		for _, a := range row.Then {
			_, name, ok := strings.Cut(string(a), "sign ")
			if ok && !slices.Contains(want, "aggregate."+name) {
				want = append(want, "aggregate."+name)
			}
		}
	}
	sections, err := parse(classes)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(sections, func(s section) bool { return s.name == "v1.SignedMessage" })
	j := slices.IndexFunc(sections[i].fields, func(f field) bool { return f.name == "payload" })
	if got := sections[i].fields[j].holds(); !slices.Equal(got, want) {
		t.Errorf("a SignedMessage holds %q, the table signs %q", got, want)
	}
}
