package coordinator_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/channel"
	"github.com/consilium-fl/consilium/coordinator"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/transport"
)

func isRefused(err error) bool {
	_, ok := errors.AsType[*transport.Refused](err)
	return ok
}

func refusedWith(t *testing.T, what string, err error, text string) {
	t.Helper()
	if err == nil || !isRefused(err) || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: got %v, want a refusal with %q", what, err, text)
	}
}

// What nodes and people must not get before, or without, the hospitals' approval.
func TestRefusedAtTheDoor(t *testing.T) {
	f := newFederation(t, "basel", "cleveland", "va")
	f.serve()
	s := f.propose()
	h := f.newHospital("basel", 1)
	if err := h.join(s); !isRefused(err) {
		t.Errorf("a node was admitted to a study that is not approved: %v", err)
	}
	lead := f.asLead(f.consortium.Digest)
	for _, name := range []string{"basel", "cleveland"} {
		must(lead.ApproveStudy(t.Context(), f.approval(s, name)))(t)
	}
	if err := h.join(s); !isRefused(err) {
		t.Errorf("a node was admitted to a study with two of three approvals: %v", err)
	}
	forged := study.Approval{
		Study: s.Digest, Hospital: "va", Dataset: "cardiology", Name: "x", Role: "x", Meaning: "x", Until: time.Now().Add(time.Hour).Truncate(time.Second).UTC(),
	}
	if _, err := lead.ApproveStudy(t.Context(), must(forged.Sign(f.governance["basel"]))(t)); !errors.Is(err, transport.ErrBadInput) {
		t.Errorf("basel approved for va: %v", err)
	}
	if info := must(lead.GetStudy(t.Context(), s.Digest))(t); info.State != transport.StateProposed || len(info.Approvals) != 2 {
		t.Errorf("state %q with approvals %q, want proposed with two", info.State, info.Approvals)
	}
	other := signed.Digest([]byte("no such study"))
	h.svid = nil
	h.study = s
	client := f.dial(other, attest.RoleNode, h.key, nil, public(h.witness))
	if _, err := client.IssueSVID(t.Context(), h.enrolment); !isRefused(err) {
		t.Errorf("a node was admitted to a study that does not exist: %v", err)
	}
	stranger := f.dial(f.consortium.Digest, attest.RolePerson, newKey(t), nil, nil)
	if _, err := stranger.ListStudies(t.Context()); !isRefused(err) {
		t.Errorf("somebody who is not listed saw the studies: %v", err)
	}
}

// A study reaches the store only with its lead's signature and when it can be run.
func TestCreateRefuses(t *testing.T) {
	f := newFederation(t, "basel", "cleveland", "va")
	f.serve()
	text := fmt.Sprintf(studyText, signed.DigestText(f.consortium.Digest), "basel, cleveland, va", 3)
	for name, x := range map[string]struct {
		replace []string
		key     bool // of another person
		want    string
	}{
		"unsigned":             {key: true, want: "sign"},
		"two hospitals":        {replace: []string{"[basel, cleveland, va]", "[basel, cleveland]"}, want: "members"},
		"no epsilon":           {replace: []string{"epsilon: 1,", "epsilon: 0,"}, want: "epsilon"},
		"a large delta":        {replace: []string{"delta: 1e-5", "delta: 1e-2"}, want: "delta"},
		"expired":              {replace: []string{"until: 2046-01-01T00:00:00Z", "until: 2021-01-01T00:00:00Z"}, want: "valid"},
		"another's hospital":   {replace: []string{"[basel, cleveland, va]", "[basel, cleveland, zurich]"}, want: "zurich"},
		"sums that may wrap":   {replace: []string{"word_bits: 32", "word_bits: 24"}, want: "word_bits"},
		"another consortium":   {replace: []string{signed.DigestText(f.consortium.Digest), signed.DigestText([32]byte{1})}, want: "consortium"},
		"another person leads": {replace: []string{"lead: r.lead", "lead: somebody"}, want: ""},
	} {
		raw := []byte(strings.NewReplacer(x.replace...).Replace(text))
		key := f.lead
		if x.key {
			key = newKey(t)
		}
		sig := must(study.SignStudy(raw, key))(t)
		_, err := f.asLead(f.consortium.Digest).CreateStudy(t.Context(), raw, sig)
		if err == nil || !errors.Is(err, transport.ErrBadInput) && !isRefused(err) || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: got %v, want bad input with %q", name, err, x.want)
		}
	}
	if all := must(f.asLead(f.consortium.Digest).ListStudies(t.Context()))(t); len(all) != 0 {
		t.Errorf("%d studies are kept, want none", len(all))
	}
}

// One live node a hospital: the highest serial wins, and is remembered by the next process.
func TestEnrolments(t *testing.T) {
	f := newFederation(t, "basel", "cleveland", "va")
	_, stop := f.serve()
	s := f.propose()
	f.approve(s)
	old, first := f.newHospital("basel", 1), f.newHospital("basel", 2)
	if err := old.join(s); err != nil {
		t.Fatal(err)
	}
	must(old.client.GetStudy(t.Context(), s.Digest))(t)
	if err := first.join(s); err != nil {
		t.Fatal(err)
	}
	if _, err := old.client.GetStudy(t.Context(), s.Digest); !isRefused(err) {
		t.Errorf("the older node is still answered: %v", err)
	}
	again, twin := f.newHospital("basel", 1), f.newHospital("basel", 2)
	refusedWith(t, "a lower serial", again.join(s), "enrolled")
	refusedWith(t, "the same serial for another key", twin.join(s), "enrolled")
	stolen := f.newHospital("cleveland", 1)
	stolen.enrolment = first.enrolment
	refusedWith(t, "another's enrolment", stolen.join(s), "enrolled")
	witness := f.newHospital("cleveland", 1)
	witness.witness = newKey(t)
	refusedWith(t, "a witness key that the enrolment does not name", witness.join(s), "witness")
	stop()
	f.serve()
	old.svid = nil
	refusedWith(t, "a lower serial after a restart", old.join(s), "enrolled")
	if err := first.join(s); err != nil {
		t.Errorf("the newest node after a restart: %v", err)
	}
	must(first.client.GetStudy(t.Context(), s.Digest))(t)
}

// A new enrolment without the stop of its predecessor: what that had charged is closed for the hospital.
func TestLostMachineIsClosedOut(t *testing.T) {
	f := newFederation(t, "basel", "cleveland", "va")
	c, _ := f.serve()
	s := f.propose("rounds: 2", "rounds: 200", "average_last: 2", "average_last: 100")
	f.approve(s)
	f.playAll(s)
	f.watch(s, func(e transport.WatchEvent) bool { return e.Kind == "closed" })
	refusedWith(t, "a node without its predecessor's stop", f.newHospital("basel", 2).join(s), "closed for")
	if err := f.asLead(s.Digest).CancelStudy(t.Context(), s.Digest, "enough seen"); err != nil {
		t.Fatal(err)
	}
	if state, why, dir := waitOver(t, c, s); state != coordinator.Cancelled || why != "enough seen" || dir != "" {
		t.Errorf("state %q (%s), folder %q, want cancelled and nothing released", state, why, dir)
	}
}

// What a member may send is taken or refused; the round goes on either way, and so does the process.
func TestHostileMember(t *testing.T) {
	f := newFederation(t, "basel", "cleveland", "va")
	c, _ := f.serve()
	s := f.propose()
	f.approve(s)
	all := f.playAll(s, "deal")
	f.watch(s, func(e transport.WatchEvent) bool { return e.Kind == "phase" && e.Phase == string(aggregate.Dealing) })
	evil := all["va"]
	ctx := t.Context()
	send := func(m aggregate.Signed) error { return evil.client.Send(ctx, s.Digest, m) }
	garbage := make([]byte, 300)
	_, _ = rand.Read(garbage)
	refusedWith(t, "in another's name", send(aggregate.Signed{From: "basel", Kind: "deal", Payload: garbage, Signature: make([]byte, 64)}), "sender")
	refusedWith(t, "in nobody's name", send(aggregate.Signed{Kind: "deal", Payload: garbage, Signature: make([]byte, 64)}), "")
	for _, kind := range []string{"deal", "ready", "plan", "result", "certificate", "no such kind"} {
		if err := send(aggregate.Signed{From: "va", Kind: kind, Payload: garbage, Signature: make([]byte, 64)}); err == nil {
			t.Errorf("garbage as %q was taken", kind)
		}
	}
	if err := send(aggregate.Signed{From: "va", Kind: "deal", Payload: make([]byte, 7<<20), Signature: make([]byte, 64)}); err == nil {
		t.Error("seven megabytes were taken as a deal")
	}
	v := transport.Vector{Study: s.Digest, Round: 1, Roster: [32]byte{1}}
	if err := evil.client.Upload(ctx, v, bytes.NewReader(garbage), int64(len(garbage)), nil); !errors.Is(err, transport.ErrTooLate) {
		t.Errorf("a vector before any roster: got %v, want too late", err)
	}
	if _, err := evil.client.CosignCheckpoint(ctx, s.Digest, 1<<40, []byte("no line")); !errors.Is(err, transport.ErrTooLate) {
		t.Errorf("a checkpoint that was never published was co-signed: %v", err)
	}
	if _, err := evil.client.Download(ctx, s.Digest, [32]byte{7}); !errors.Is(err, transport.ErrNotFound) {
		t.Errorf("a model that is not there: got %v", err)
	}
	for _, resource := range []string{"../ledger", "checkpoint/../../ledger", "tile/0/../../../../coordinator.db", "/etc/passwd", ""} {
		if b, err := evil.client.LogReader(s.Digest).Read(ctx, resource); err == nil {
			t.Errorf("read %q of the log: %d bytes", resource, len(b))
		}
	}
	if err := evil.client.GetReceipt(ctx, s.Digest, func(string, []byte) error { return nil }); !isRefused(err) {
		t.Errorf("the receipt of a study that runs: %v", err)
	}
	if err := evil.client.CancelStudy(ctx, s.Digest, "x"); !isRefused(err) {
		t.Errorf("a node cancelled a study: %v", err)
	}
	for _, h := range all {
		h.silence()
		for _, m := range h.outbox() {
			h.deliver(ctx, m)
		}
	}
	if state, why, _ := waitOver(t, c, s); state != coordinator.Ended {
		t.Errorf("state %q (%s), want ended", state, why)
	}
}

// A vector that is not the signed one is not taken, and may be sent again.
func TestSpoiltVector(t *testing.T) {
	f := newFederation(t, "basel", "cleveland", "va")
	c, _ := f.serve()
	s := f.propose()
	f.approve(s)
	var once sync.Once
	var h *hospital
	for _, name := range f.hospitals {
		h = f.newHospital(name, 1)
		if name == "va" {
			h.spoil = func(words []byte) { once.Do(func() { words[0] ^= 1 }) }
		}
		h.play(s)
	}
	if state, why, _ := waitOver(t, c, s); state != coordinator.Ended {
		t.Fatalf("state %q (%s), want ended", state, why)
	}
}

// A member whose process was restarted after its Ready has lost its keys: nobody waits for it in that
// round, and in the next it takes part again.
func TestRestartedMember(t *testing.T) {
	f := newFederation(t, "basel", "cleveland", "hungarian", "va")
	c, _ := f.serve()
	s := f.propose()
	f.approve(s)
	all := map[string]*hospital{}
	stops := map[string]func(){}
	for _, name := range f.hospitals {
		all[name] = f.newHospital(name, 1)
		if name == "va" {
			all[name].silence("deal")
		}
		stops[name] = all[name].play(s)
	}
	arrived := map[string]bool{}
	f.watch(s, func(e transport.WatchEvent) bool {
		if e.Kind == "arrived" && e.Phase == string(aggregate.Dealing) {
			arrived[e.Hospital] = true
		}
		return len(arrived) == 3
	})
	stops["va"]()
	va := all["va"]
	_, _ = rand.Read(va.boot[:])
	va.silence()
	va.member, va.sent, va.epoch = nil, nil, nil
	va.play(s)
	state, why, dir := waitOver(t, c, s)
	if state != coordinator.Ended {
		t.Fatalf("state %q (%s), want ended", state, why)
	}
	verifies(t, f, dir)
	if set := rounds(t, dir, 1); len(set) != 3 || strings.Contains(strings.Join(set, " "), "va") {
		t.Errorf("round 1 was of %q, want it without va", set)
	}
	if set := rounds(t, dir, 2); len(set) != 4 {
		t.Errorf("round 2 was of %q, want all four", set)
	}
}

// rounds reads the set of a round from its proposal.
func rounds(t *testing.T, dir string, number int) (set []string) {
	t.Helper()
	b := must(os.ReadFile(fmt.Sprintf("%s/rounds/%04d/proposal.cbor", dir, number)))(t)
	var m aggregate.Signed
	if err := signed.Decode(b, &m); err != nil {
		t.Fatal(err)
	}
	for _, c := range must(aggregate.Parse(m))(t).(aggregate.Proposal).Contributions {
		set = append(set, string(c.Upload.From))
	}
	return set
}

// Strangers who talk TLS, or nothing, cost a bounded time and no more.
func TestStrangers(t *testing.T) {
	f := newFederation(t, "basel", "cleveland", "va")
	f.serve()
	for _, first := range []string{"", "GET / HTTP/1.1\r\n\r\n", strings.Repeat("\x16\x03\x01", 1000)} {
		c := must(net.Dial("tcp", f.address))(t)
		if _, err := io.WriteString(c, first); err != nil {
			t.Fatal(err)
		}
		defer c.Close() //nolint:errcheck // only to be there
	}
	must(f.asLead(f.consortium.Digest).ListStudies(t.Context()))(t)
}

// A refused handshake tells its reasons, and is one leaf however often it comes.
func TestRefusalIsLogged(t *testing.T) {
	f := newFederation(t, "basel", "cleveland", "va")
	f.serve()
	s := f.propose()
	h := f.newHospital("basel", 1)
	for range 3 {
		err := h.join(s)
		if r := (*channel.Refused)(nil); !errors.As(err, &r) || len(r.Reasons) == 0 {
			t.Fatalf("got %v, want the reasons of a refused handshake", err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	lead := f.asLead(s.Digest)
	for {
		b, err := lead.LogReader(s.Digest).Read(ctx, "checkpoint")
		if err == nil && strings.Split(string(b), "\n")[1] == "3" { // study, refusal, the lead's own admission
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("the log did not come to three leaves: %q, %v", b, err)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}
