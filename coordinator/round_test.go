package coordinator_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/coordinator"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/transport"
	"github.com/consilium-fl/consilium/internal/verify"
)

func waitOver(t testing.TB, c *coordinator.Coordinator, s *study.Study) (coordinator.State, string, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	state, why, dir, err := c.Output(ctx, s.Digest)
	if err != nil {
		t.Fatal(err)
	}
	return state, why, dir
}

// A whole study between real gRPC endpoints, to a folder that verifies.
func TestStudy(t *testing.T) {
	f := newFederation(t, "basel", "cleveland", "va")
	c, _ := f.serve()
	s := f.propose()
	f.approve(s)
	f.playAll(s)
	state, why, dir := waitOver(t, c, s)
	if state != coordinator.Ended || dir == "" {
		t.Fatalf("state %q (%s), folder %q, want an ended study with its folder", state, why, dir)
	}
	checkSums(t, f, dir)
	verifies(t, f, dir)
	lead := f.asLead(s.Digest)
	model, err := lead.DownloadModel(t.Context(), s.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if want := must(os.ReadFile(filepath.Join(dir, "model.safetensors")))(t); !bytes.Equal(model, want) {
		t.Error("the model handed over is not the one in the folder")
	}
}

// verifies is what an auditor would say of a folder.
func verifies(t *testing.T, f *federation, dir string) {
	t.Helper()
	report, err := verify.Folder(t.Context(), dir, verify.Options{Consortium: &f.consortium.Digest})
	if err != nil {
		t.Fatal(err)
	}
	if !report.OK {
		t.Errorf("the folder does not verify:\n%s", report)
	}
}

// checkSums compares opened sums with what the hospitals put in: the noise is what is left.
func checkSums(t *testing.T, f *federation, dir string) {
	t.Helper()
	for _, round := range []string{"0001", "0002"} {
		b, err := os.ReadFile(filepath.Join(dir, "rounds", round, "sum.bin"))
		if err != nil {
			t.Fatal(err)
		}
		var want [3]int64
		for _, name := range f.hospitals {
			for i, v := range []int64{100, -200, int64(len(name))} {
				want[i] += v
			}
		}
		for i := range want {
			got := int64(binary.LittleEndian.Uint64(b[8*i:]))
			if d := got - want[i]; d > 1<<24 || d < -(1<<24) {
				t.Errorf("round %s: sum[%d] is %d, want about %d", round, i, got, want[i])
			}
		}
	}
}

// The coordinator stops and another process takes over its state. Before the certificate the same round
// goes on with what was stored; from then on it burns, its charge stands, and the next one runs.
func TestRestartInEachPhase(t *testing.T) {
	for _, x := range []struct {
		phase, silent string
		outcome       aggregate.Outcome
	}{
		{"gathering", "ready", aggregate.Closed},
		{"dealing", "deal", aggregate.Closed},
		{"collecting", "upload", aggregate.Closed},
		{"voting", "vote", aggregate.Closed},
		{"releasing", "release", aggregate.Burnt},
	} {
		t.Run(x.phase, func(t *testing.T) {
			t.Parallel()
			f := newFederation(t, "basel", "cleveland", "va")
			_, stop := f.serve()
			s := f.propose()
			f.approve(s)
			all := map[string]*hospital{}
			for i, name := range f.hospitals {
				all[name] = f.newHospital(name, 1)
				if i > 0 || x.phase == "releasing" || x.phase == "voting" {
					all[name].silence(x.silent) // the first has answered when the process ends, where one may
				}
				all[name].play(s)
			}
			f.watch(s, func(e transport.WatchEvent) bool {
				if x.phase == "releasing" || x.phase == "voting" {
					return e.Kind == "phase" && e.Phase == x.phase
				}
				return e.Kind == "arrived" && e.Phase == x.phase
			})
			stop()
			for _, h := range all {
				h.silence()
			}
			c, _ := f.serve()
			state, why, dir := waitOver(t, c, s)
			if state != coordinator.Ended {
				t.Fatalf("state %q (%s), want ended", state, why)
			}
			verifies(t, f, dir)
			if got := result(t, dir, 1); got.Outcome != x.outcome {
				t.Errorf("round 1 is %s (%s), want %s", got.Outcome, got.Why, x.outcome)
			}
			info := must(f.asLead(s.Digest).GetStudy(t.Context(), s.Digest))(t)
			wantCharges := uint64(2)
			if x.outcome == aggregate.Burnt {
				wantCharges = 3
			}
			if info.RoundsClosed != 2 || info.RoundsCharged != wantCharges {
				t.Errorf("%d rounds closed and %d charged, want 2 and %d", info.RoundsClosed, info.RoundsCharged, wantCharges)
			}
			for name, h := range all {
				if h.plans != int(wantCharges) {
					t.Errorf("%s saw %d plans, want %d: a number has one plan", name, h.plans, wantCharges)
				}
			}
		})
	}
}

func result(t *testing.T, dir string, round int) aggregate.Result {
	t.Helper()
	b := must(os.ReadFile(filepath.Join(dir, "rounds", fmt.Sprintf("%04d", round), "result.cbor")))(t)
	var m aggregate.Signed
	if err := signed.Decode(b, &m); err != nil {
		t.Fatal(err)
	}
	return must(aggregate.Parse(m))(t).(aggregate.Result)
}

// Without enough good releases each round burns, and each has its charge. When the spare ones are used the
// study ends short: nothing closed, so nothing is released.
func TestChargesRunOut(t *testing.T) {
	f := newFederation(t, "basel", "cleveland", "va")
	c, _ := f.serve()
	s := f.propose("release: 20s", "release: 100ms")
	f.approve(s)
	f.playAll(s, "release")
	state, why, dir := waitOver(t, c, s)
	if state != coordinator.Short || dir != "" || !strings.Contains(why, "all 4 charges") {
		t.Fatalf("state %q (%s), folder %q, want short without a folder, after 4 charges", state, why, dir)
	}
	lead := f.asLead(s.Digest)
	if _, err := lead.DownloadModel(t.Context(), s.Digest); !errors.Is(err, transport.ErrNotFound) {
		t.Errorf("a model was handed over: %v", err)
	}
}

// A member that goes away is done without, as long as enough are left; when too few are, a coordinator
// that was told to have patience only so long ends the study with what closed.
func TestMembersGoAway(t *testing.T) {
	f := newFederation(t, "basel", "cleveland", "hungarian", "va")
	f.patience = 200 * time.Millisecond
	c, _ := f.serve()
	s := f.propose("away: 2s", "away: 100ms", "rounds: 2", "rounds: 50", "average_last: 2", "average_last: 25")
	f.approve(s)
	stops := map[string]func(){}
	for _, name := range f.hospitals {
		stops[name] = f.newHospital(name, 1).play(s)
	}
	closed := func(at uint64) func(transport.WatchEvent) bool {
		return func(e transport.WatchEvent) bool { return e.Kind == "closed" && e.Round >= at }
	}
	f.watch(s, closed(1))
	stops["va"]()
	var gone uint64
	f.watch(s, func(e transport.WatchEvent) bool { gone = e.Round; return e.Kind == "missing" && e.Hospital == "va" })
	f.watch(s, closed(gone+12)) // three of four go on, for longer than checkpoints are apart
	stops["hungarian"]()
	state, why, dir := waitOver(t, c, s)
	if state != coordinator.Short || dir == "" || !strings.Contains(why, "too few hospitals") {
		t.Fatalf("state %q (%s), folder %q, want short with the folder of what closed", state, why, dir)
	}
	// Nobody can make the release count any more. What is handed over is of the rounds that do.
	verifies(t, f, dir)
}
