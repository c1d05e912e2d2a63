package coordinator_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest/simtee"
	"github.com/consilium-fl/consilium/coordinator"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/transport"
)

// version is a version of the nodes' reference values that takes the machines of all, and no other has its digest.
func (f *federation) version(serial int, all map[string]*hospital) {
	machines := []string{fmt.Sprintf(`"chip:%d"`, serial)}
	for _, h := range all {
		machines = append(machines, fmt.Sprintf("%q", machineOf(h.key)))
	}
	f.manifest(serial, "["+strings.Join(machines, ", ")+"]")
}

// turn gives the coordinator another snapshot of trust and the next version, in place of the one before.
func (f *federation) turn(serial int, all map[string]*hospital) {
	f.t.Helper()
	f.write("trust/more.pem", simtee.MarshalAnchor(&must(simtee.NewRoot())(f.t).PublicKey))
	f.version(serial, all)
	if err := os.Remove(f.path("references", fmt.Sprintf("nodes-%d.json", serial-1))); err != nil {
		f.t.Fatal(err)
	}
	if changed, err := f.deps.Grounds.Reload(); err != nil || !changed {
		f.t.Fatal(changed, err)
	}
}

func (f *federation) kept(folder string) (names []string) {
	f.t.Helper()
	for _, e := range must(os.ReadDir(f.path("state", "appraised", folder)))(f.t) {
		names = append(names, e.Name())
	}
	return names
}

func (f *federation) trustNow() string {
	g, _ := f.deps.Grounds.Current()
	d := g.Trust.Digest()
	return strings.TrimPrefix(signed.DigestText(d), "sha256:")
}

// TestKept: three studies by three snapshots and manifests. What a study that goes on was appraised by stays while another
// ends, over a restart too, and what nobody's receipt can name goes.
func TestKept(t *testing.T) {
	f := found(t, study.Accept{Reference: "nodes", AllowSimulated: true}, "basel", "cleveland", "va")
	f.manifest(1, "any")
	_, stop := f.serve()

	// The first study waits with its uploads in, so that its receipt is going to name what its nodes came by.
	first := f.propose()
	f.approve(first)
	all := f.playAll(first, "vote")
	f.watch(first, func(e transport.WatchEvent) bool { return e.Kind == "phase" && e.Phase == "voting" })
	early := f.trustNow()

	// The second comes and goes by other trust and reference values.
	f.turn(2, all)
	late := f.trustNow()
	if got := f.kept("trust"); !slices.Equal(got, []string{early}) {
		t.Fatalf("kept before anybody came by it: %q, want %q", got, early)
	}
	second := f.propose("A small study", "Another study")
	f.approve(second)
	for _, h := range all {
		n := f.newHospital(h.name, 1)
		n.key, n.witness, n.enrolment, n.svid = h.key, h.witness, h.enrolment, h.svid
		n.play(second)
	}
	f.watch(second, func(e transport.WatchEvent) bool { return e.Kind == "state" && strings.HasPrefix(e.Text, "ended") })
	output := func(s *study.Study) string { return f.path("state", "studies", fmt.Sprintf("%x", s.Digest), "out") }
	verifies(t, f, output(second))
	f.wantKept(t, []string{early}, []string{"nodes-1.json", "nodes-2.json"})
	if _, err := os.Stat(output(second) + "/trust/" + late); err != nil {
		t.Error(err)
	}

	// A process that is killed leaves what nobody names: half a snapshot, half a manifest, a whole one of each.
	stop()
	f.write("state/appraised/trust/"+strings.Repeat("ab", 32)+".part/more.pem", []byte("half"))
	f.write("state/appraised/trust/"+late+"/more.pem", []byte("of a study that is over"))
	f.write("state/appraised/references/.nodes-3.json.1.tmp", []byte("half"))
	f.version(3, all)
	f.write("state/appraised/references/nodes-3.json", must(os.ReadFile(f.path("references", "nodes-3.json")))(t))
	for _, file := range []string{"nodes-2.json", "nodes-3.json"} {
		if err := os.Remove(f.path("references", file)); err != nil {
			t.Fatal(err)
		}
	}
	f.version(4, all) // what holds now, so that the nodes of the first study come by it after the restart
	c, _ := f.serve()
	f.wantKept(t, []string{early, late}, []string{"nodes-1.json", "nodes-4.json"})
	for _, h := range all {
		h.silence()
		for _, m := range h.outbox() {
			h.deliver(t.Context(), m)
		}
	}
	state, why, dir := waitOver(t, c, first)
	if state != coordinator.Ended {
		t.Fatalf("state %q (%s), want ended", state, why)
	}
	verifies(t, f, dir)
	f.wantKept(t, nil, []string{"nodes-4.json"})
}

// wantKept waits, since a study is over before what it needed is gone.
func (f *federation) wantKept(t *testing.T, trust, references []string) {
	t.Helper()
	slices.Sort(trust)
	var gotTrust, gotReferences []string
	for range 100 {
		gotTrust, gotReferences = f.kept("trust"), f.kept("references")
		if slices.Equal(gotTrust, trust) && slices.Equal(gotReferences, references) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("kept trust %q and references %q, want %q and %q", gotTrust, gotReferences, trust, references)
}
