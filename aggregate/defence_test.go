package aggregate

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// edit takes a defence out of a file.
type edit struct{ file, old, new string }

// TestDefences takes out one defence at a time, by an overlay on the source, and wants the attack that it
// stops to succeed: an attack that fails for some other reason proves nothing.
func TestDefences(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles the package once for each defence")
	}
	tool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("no go command")
	}
	for _, c := range []struct {
		name, attack string
		edits        []edit
	}{
		{"names in pair masks", "TestA1CopiedMaskKey", []edit{{"derive.go", "min(a, b), max(a, b)", `MemberID(""), MemberID("")`}}},
		{"names apart in pair masks", "TestA1CopiedMaskKey", []edit{{"derive.go", `info("mask", lower, higher,`, `info("mask", string(lower)+string(higher),`}}},
		{"a key shown once", "TestA1CopiedMaskKey", []edit{{"check.go", "owner[string(k)]; ok {", "owner[string(k)]; ok && false {"}}},
		{"noise of members", "TestA2DifferenceOfTwoRounds", []edit{{"member.go", "if p.Noise.Source == Members {", "if false {"}}},
		{"counter of the lane", "TestA3OverlappingChunks", []edit{{"mask.go", "uint64(word) * uint64(laneBytes(wordBits))", "uint64(word) * 4"}}},
		{"an offset once", "TestA3OverlappingChunks", []edit{{"mask.go", "case offset != k.next:", "case false:"}}},
		{"a key for each direction", "TestA4OneKeyForBothDirections", []edit{{"derive.go", `info("seal", from, to)`, `info("seal", min(from, to), max(from, to))`}}},
		{"opening key erased", "TestA5OpeningKeyThatLives", []edit{{"round.go", "defer func() { r.opening = nil }()", ""}}},
		{"restored nodes silent", "TestA6RestoredNode", []edit{
			{"table.go", "{stRestored, Collecting, onBegin,", `{stRestored, Collecting, "proposal", "", always, []Action{doVote, doPersist, doSend}, stRestored, "", ""}, {stRestored, Collecting, onBegin,`},
			{"member.go", `case "proposal":`, "case \"proposal\":\n\t\tif m.at == stRestored {\n\t\t\treturn nil\n\t\t}\n"},
		}},
		{"plan from the own study", "TestA12PlanThatDiffers", []edit{{"member.go", "p.agrees(c.Want)", "p.agrees(p.Plan)"}}},
		{"numbers close by", "TestA13NumbersAndCharges", []edit{{"threshold.go", "|| id.Number-last > 1024", ""}}},
		{"plan and roster in a charge", "TestA13NumbersAndCharges", []edit{{"check.go", "if c != want {", "if c.Study != want.Study || c.Number != want.Number {"}}},
		{"more than c complaints", "TestA14FramedDealer", []edit{{"round.go", "about[d.id] > r.facts.terms.Colluding", "about[d.id] >= r.facts.terms.Colluding"}}},
		{"a share for its commitment", "TestHolderThatReleasesGarbage", []edit{{"release.go", "subtle.ConstantTimeCompare(got[:], want[:]) == 0", "subtle.ConstantTimeCompare(got[:], want[:]) == 2"}}},
		{"a seed for its commitment", "TestDealerWhoseSharesDoNotOpen", []edit{{"round.go", "seed, opening) != d.deal.Seed", "seed, opening) == [32]byte{}"}}},
		{"one deal", "TestTwoCommittees", []edit{{"table.go", "{stDealt, Dealing, \"roster\", \"\", guardNamed,", "{stDealt, Dealing, \"committee\", \"\", always, []Action{doSend}, stDealt, \"\", \"\"}, {stDealt, Dealing, \"roster\", \"\", guardNamed,"}}},
		{"one roster", "TestTwoRosters", []edit{{"table.go", "{stUploaded, Collecting, \"proposal\",", "{stUploaded, Collecting, \"roster\", \"\", always, []Action{doSendVector}, stUploaded, \"\", \"\"}, {stUploaded, Collecting, \"proposal\","}}},
		{"one vote", "TestTwoSets", []edit{{"table.go", "{stVoted, Voting, \"certificate\",", "{stVoted, Voting, \"proposal\", \"\", always, []Action{doVote, doPersist, doSend}, stVoted, \"\", \"\"}, {stVoted, Voting, \"certificate\","}}},
		{"t votes", "TestTwoSets", []edit{{"check.go", "len(m.Votes) < r.threshold", "len(m.Votes) < 0"}}},
		{"a vote for one set", "TestTwoSets", []edit{{"check.go", "m.Proposal != v.digest {\n\t\treturn fmt.Errorf(\"vote", "m.Proposal == v.digest && false {\n\t\treturn fmt.Errorf(\"vote"}}},
		{"one release", "TestTwoSets", []edit{{"table.go", "{stReleased, Releasing, onResult,", "{stReleased, Releasing, \"certificate\", \"\", always, []Action{doRelease, doPersist, doSend}, stReleased, \"\", \"\"}, {stReleased, Releasing, onResult,"}}},
		{"one share of a dealer", "TestBothShares", []edit{{"release.go", "s.Value, s.Opening = p.key()", "s.Value, s.Opening = p[:], nil"}}},
		{"a set of enough", "TestTinyCohort", []edit{{"check.go", "len(m.Contributions) < r.quorum(p)", "len(m.Contributions) < 0"}}},
		{"a floor of three", "TestTinyCohort", []edit{{"threshold.go", "floor := max(3, colluding+2)", "floor := 2"}}},
		{"a ready signed by its node", "TestMintedNode", []edit{{"check.go", "return signed.Verify(key, s.Kind, s.Payload, s.Signature)", "_ = signed.Verify\n\treturn nil"}}},
		{"an own message byte for byte", "TestOwnMessages", []edit{{"check.go", " && bytes.Equal(x.Signature, s.Signature)", ""}}},
		{"an own message by the own key", "TestOwnMessages", []edit{{"check.go", "o.key.Equal(key)", "len(key) > 0"}}},
		{"a ready for its plan", "TestReplayedRound", []edit{{"check.go", "if r.Plan != p.digest {", "if false {"}}},
		{"a deal for its committee", "TestAnotherStudysDeal", []edit{{"check.go", "if m.Committee != c.digest {\n\t\treturn dealt{}", "if false {\n\t\treturn dealt{}"}}},
		{"t votes in a transcript", "TestForgedTranscript", []edit{{"check.go", "len(m.Votes) < r.threshold", "len(m.Votes) < 0"}}},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			out, err := runWithout(t, tool, c.attack, c.edits)
			if err == nil || !bytes.Contains(out, []byte("--- FAIL: "+c.attack)) {
				t.Errorf("%s passes without it: %v\n%s", c.attack, err, out)
			}
		})
	}
}

func runWithout(t *testing.T, tool, attack string, edits []edit) ([]byte, error) {
	t.Helper()
	dir := t.TempDir()
	replaced := map[string]string{}
	for _, e := range edits {
		source, err := filepath.Abs(e.file)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Count(b, []byte(e.old)) != 1 {
			t.Fatalf("%s holds %q %d times, want once", e.file, e.old, bytes.Count(b, []byte(e.old)))
		}
		b = bytes.Replace(b, []byte(e.old), []byte(e.new), 1)
		replaced[source] = filepath.Join(dir, e.file)
		if err := os.WriteFile(replaced[source], b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replaced})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), tool, "test", "-count=1", "-vet=off", "-ldflags=-s -w", "-overlay", file, "-run", "^"+attack+"$", ".")
	return cmd.CombinedOutput()
}
