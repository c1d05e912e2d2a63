package channel

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/attest/simtee"
)

// TestReplay shows a coordinator the proof of an earlier session of the same node.
func TestReplay(t *testing.T) {
	for _, tc := range []struct {
		name  string
		later time.Duration
	}{{"row 59 nonce replay, in two sessions at once", 0}, {"row 59 nonce replay, two minutes later", 2 * time.Minute}} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFederation(t)
				s, c := server(t, f.config(t, attest.RoleCoordinator)), f.config(t, attest.RoleNode)
				var recorded attest.Record
				end, v := piped(t, s, hostile{config: c, forge: func(r *attest.Record) { recorded = *r }})
				if end.err != nil || !v.OK {
					t.Fatalf("the first session was refused: %v", end.err)
				}
				time.Sleep(tc.later)
				again, _ := piped(t, s, hostile{config: c, forge: func(r *attest.Record) { *r = recorded }})
				wantCodes(t, again.err, attest.RoleCoordinator, attest.CodeFreshness, "binding.exporter", attest.CodeBindingMismatch)
				// The same by one who says that it is fresh.
				again, _ = piped(t, s, hostile{config: c, forge: func(r *attest.Record) { r.Evidence = recorded.Evidence }})
				wantCodes(t, again.err, attest.RoleCoordinator, attest.CodeBindingMismatch)
				_ = end.conn.(*conn).NetConn().Close()
			})
		})
	}
}

// TestOneQuoteManySessions: sessions of one window share a statement, and none can show another's evidence as its own.
func TestOneQuoteManySessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChip(t, "a", 200*time.Millisecond)
		tee := c.attester()
		policy := anyChip()
		policy.Role = attest.RoleNode
		in := attest.Inputs{Now: time.Now(), Trust: trusting(t, nil, c)}
		bindings, evidence := make([]attest.Binding, 6), make([]attest.Evidence, 6)
		var wg sync.WaitGroup
		for i := range bindings {
			one := [32]byte{1}
			bindings[i] = attest.Binding{Role: attest.RoleNode, Nonce: [32]byte{2, byte(i)}, Exporter: one, OwnKey: one, PeerKey: one, Study: one, KeyList: one, Config: one}
			wg.Go(func() {
				var err error
				if evidence[i], err = tee.Attest(t.Context(), bindings[i]); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		wg.Wait()
		for i := 1; i < len(bindings); i++ { // the first was quoted alone
			for j := 1; j < len(bindings); j++ {
				if !slices.Equal(evidence[i].Statement, evidence[j].Statement) {
					t.Errorf("sessions %d and %d have a quote each", i, j)
				}
				want, err := bindings[i].ReportData(evidence[j].Path)
				if err != nil {
					t.Fatal(err)
				}
				in.ReportData = &want
				if r := attest.NewVerifiers(chipVerifier{}).Check(evidence[j], in, policy); r.OK() != (i == j) {
					t.Errorf("session %d with the evidence of %d: %s, %v", i, j, r.Status, r.Reasons)
				}
			}
		}
	})
}

// piped is nodeLies without a network.
func piped(t *testing.T, s *Credentials, p hostile) (end ended, v *Verdict) {
	t.Helper()
	clientEnd, serverEnd := net.Pipe()
	done := make(chan ended, 1)
	go func() { done <- serve(s, serverEnd) }()
	v, err := p.dial(clientEnd)
	if err != nil {
		t.Errorf("the hostile node failed by itself: %v", err)
	}
	return <-done, v
}

// TestRelay plays the man in the middle: TLS with both, the frames passed on unread. He may hold both parties' leaf
// keys too; then it is the exporter alone that tells two connections from one.
func TestRelay(t *testing.T) {
	f := newFederation(t)
	node, coordinator := f.config(t, attest.RoleNode), f.config(t, attest.RoleCoordinator)
	own := func(role attest.Role) func() (*tls.Certificate, error) { return f.config(t, role).Certificate }
	seen := []string{attest.CodeBindingMismatch, attest.CodeLogSignature, "binding.exporter"}
	for _, tc := range []struct {
		name             string
		toNode, toServer func() (*tls.Certificate, error)
		differences      []string
	}{
		{"row 60 relay", own(attest.RoleCoordinator), own(attest.RoleNode), []string{"binding.own_key", "binding.peer_key"}},
		{"row 60 relay with the coordinator's leaf key", coordinator.Certificate, own(attest.RoleNode), []string{"binding.peer_key"}},
		{"row 60 relay with the node's leaf key", own(attest.RoleCoordinator), node.Certificate, []string{"binding.own_key"}},
		{"row 60 relay with both leaf keys", coordinator.Certificate, node.Certificate, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			clientEnd, toVictim := wire(t)
			toCoordinator, serverEnd := wire(t)
			var wg sync.WaitGroup
			var atServer ended
			wg.Go(func() { atServer = serve(server(t, coordinator), serverEnd) })
			wg.Go(func() {
				defer func() { _ = toVictim.Close(); _ = toCoordinator.Close() }()
				ac, bc := f.config(t, attest.RoleCoordinator), f.config(t, attest.RoleNode)
				ac.Certificate, bc.Certificate = tc.toNode, tc.toServer
				a, b := hostile{config: ac}.state(), hostile{config: bc}.state()
				if err := errors.Join(a.startTLS(t.Context(), toVictim, ""), b.startTLS(t.Context(), toCoordinator, "x")); err != nil {
					t.Error(err)
					return
				}
				var pass sync.WaitGroup
				pass.Go(func() { _, _ = io.Copy(a.tls, b.tls); _ = toVictim.Close() })
				_, _ = io.Copy(b.tls, a.tls)
				_ = toCoordinator.Close()
				pass.Wait()
			})
			end := dial(client(t, node), clientEnd)
			wg.Wait()
			wantCodes(t, end.err, attest.RoleNode, append(slices.Clone(seen), tc.differences...)...)
			if atServer.err == nil {
				t.Error("the coordinator admitted the relay")
			}
		})
	}
}

// TestReflection sends a party its own proof back.
func TestReflection(t *testing.T) {
	f := newFederation(t)
	t.Run("row 60 reflection", func(t *testing.T) {
		clientEnd, serverEnd := wire(t)
		var wg sync.WaitGroup
		var atServer ended
		wg.Go(func() { atServer = serve(server(t, f.config(t, attest.RoleCoordinator)), serverEnd) })
		h := hostile{config: f.config(t, attest.RoleNode)}.state()
		if err := h.startTLS(context.Background(), clientEnd, "x"); err != nil {
			t.Fatal(err)
		}
		if err := writeFrame(h.tls, frame{Hello: &Hello{Version: version, Role: attest.RoleNode, Study: f.study, Nonce: h.nonce}}); err != nil {
			t.Fatal(err)
		}
		got, err := readFrame(h.tls, MaxFrame)
		if err != nil {
			t.Fatal(err)
		}
		if err := writeFrame(h.tls, frame{Proof: &Proof{Record: got.Proof.Record}}); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		wantCodes(t, atServer.err, attest.RoleCoordinator, "binding.role", attest.CodeFreshness, "binding.exporter", "binding.own_key", "binding.peer_key",
			attest.CodeBindingMismatch, attest.CodeMeasurementUnlisted, attest.CodeMachineUnlisted)
	})
	t.Run("row 60 reflection at a node", func(t *testing.T) {
		var nodes attest.Record
		if end, _ := nodeLies(t, server(t, f.config(t, attest.RoleCoordinator)), hostile{config: f.config(t, attest.RoleNode), forge: func(r *attest.Record) { nodes = *r }}); end.err != nil {
			t.Fatal(end.err)
		}
		_, err := coordinatorLies(t, f, hostile{config: f.config(t, attest.RoleCoordinator), forge: func(r *attest.Record) { *r = nodes }})
		wantCodes(t, err, attest.RoleNode, "binding.role", attest.CodeFreshness, "binding.exporter", "binding.own_key", "binding.peer_key",
			attest.CodeBindingMismatch, attest.CodeMeasurementUnlisted, attest.CodeMachineUnlisted, attest.CodeLogSignature)
	})
}

// TestDiversion leads a party to a genuine machine that is not the one it means. All that such a machine says is
// bound to the connection and true.
func TestDiversion(t *testing.T) {
	for _, tc := range []struct {
		name   string
		policy func(*attest.Policy) // of everybody
		divert func(t *testing.T, f *federation, r *regime) (at attest.Role, err error)
		codes  []string
	}{
		{"row 60 diversion to the same image with another consortium", nil, posing("coordinator", true, func(p *attest.Posture) { p.Consortium[0] ^= 1 }), []string{attest.CodePostureConsortium}},
		{"row 60 diversion to the same image with a flag", nil, posing("coordinator", true, func(p *attest.Posture) { p.Insecure = []string{"plaintext_updates"} }), []string{attest.CodePostureInsecure}},
		{"row 60 diversion to the same image with other rules", nil, posing("coordinator", true, func(p *attest.Posture) { p.Policy[0] ^= 1 }), []string{attest.CodePosturePolicy}},
		{"row 60 diversion to a broken chip of an accepted generation", nil, posing("b", false, nil), []string{attest.CodeLogSignature}},
		{"row 60 diversion to the coordinator's own chip, broken", nil, posing("coordinator", false, nil), []string{attest.CodeLogSignature}},
		{"row 60 diversion to a broken chip where machines are pinned", pins, posing("b", false, nil), []string{attest.CodeLogSignature, attest.CodeMachineUnlisted}},
		{"row 60 diversion to a broken chip with the log key where machines are pinned", pins, posing("b", true, nil), []string{attest.CodeMachineUnlisted}},
		{"row 60 diversion to a broken chip of a denied generation", func(p *attest.Policy) { p.DenyGenerations = []string{"test"} }, posing("b", true, nil), []string{attest.CodeGeneration}},
		{"row 60 diversion of a coordinator to a broken chip where machines are pinned", pins, posingAsNode("b"), []string{attest.CodeMachineUnlisted}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFederation(t)
			r := newRegime(t, f, 0)
			p := anyChip()
			if tc.policy != nil {
				tc.policy(&p)
			}
			r.set(p)
			at, err := tc.divert(t, f, r)
			wantCodes(t, err, at, tc.codes...)
		})
	}
	// Where no machines are pinned and none is denied, a node's evidence cannot tell: the session says so, and it is for
	// the enrolled key to tell one hospital's node from another machine of the same code.
	r := newRegime(t, newFederation(t), 0)
	_, c := meet(t, client(t, r.node(t, "b")), server(t, r.coordinator(t)))
	if c.err != nil || !slices.Contains(c.session.Result.NotChecked, attest.NotCheckedMachine) {
		t.Errorf("not checked: %q, %v", c.session.Result.NotChecked, c.err)
	}
}

func pins(p *attest.Policy) { p.Machines = attest.SetOf("chip:a", "chip:coordinator") }

// posing has a node meet a coordinator of the right code on the chip named, with the log key or with one of its own.
func posing(machine string, logKey bool, posture func(*attest.Posture)) func(*testing.T, *federation, *regime) (attest.Role, error) {
	return func(t *testing.T, f *federation, r *regime) (attest.Role, error) {
		c := r.party(t, attest.RoleCoordinator, r.chips[machine])
		if !logKey {
			c.LogSigner = logSigner{newKey(t)}
		}
		if posture != nil {
			p, err := c.Posture(f.study)
			if err != nil {
				t.Fatal(err)
			}
			posture(&p)
			c.Posture = func([32]byte) (attest.Posture, error) { return p, nil }
		}
		n, _ := meet(t, client(t, r.node(t, "a")), server(t, c))
		return attest.RoleNode, n.err
	}
}

func posingAsNode(machine string) func(*testing.T, *federation, *regime) (attest.Role, error) {
	return func(t *testing.T, _ *federation, r *regime) (attest.Role, error) {
		c := r.node(t, "a")
		c.Attester = r.chips[machine].attester()
		_, s := meet(t, client(t, c), server(t, r.coordinator(t)))
		return attest.RoleCoordinator, s.err
	}
}

// TestSimulationNeedsBoth at each end of a live connection.
func TestSimulationNeedsBoth(t *testing.T) {
	f := newFederation(t)
	for name, change := range map[string]func(*attest.Policy){
		"the policy":  func(p *attest.Policy) { p.AllowSimulated = false },
		"the process": func(p *attest.Policy) { p.Simulation = false },
	} {
		t.Run(name, func(t *testing.T) {
			bothRefuse(t, f, func(_ *Config, e *Expect) { change(&e.Policies[0]) }, attest.CodeSimDenied)
		})
	}
}

// bothRefuse has either end appraise honest simulated evidence by what change makes of its configuration.
func bothRefuse(t *testing.T, f *federation, change func(*Config, *Expect), code ...string) {
	t.Helper()
	strict := func(role, peer attest.Role) Config {
		c := f.config(t, role)
		e := f.expect(peer)
		change(&c, &e)
		c.Peer = func([32]byte) (Expect, error) { return e, nil }
		return c
	}
	n, _ := meet(t, client(t, strict(attest.RoleNode, attest.RoleCoordinator)), server(t, f.config(t, attest.RoleCoordinator)))
	wantCodes(t, n.err, attest.RoleNode, code...)
	_, c := meet(t, client(t, f.config(t, attest.RoleNode)), server(t, strict(attest.RoleCoordinator, attest.RoleNode)))
	wantCodes(t, c.err, attest.RoleCoordinator, code...)
}

// TestSimulatedInProduction: simulated evidence before who takes hardware alone.
func TestSimulatedInProduction(t *testing.T) {
	f := newFederation(t)
	hardware := attest.NewVerifiers(chipVerifier{})
	for _, tc := range []struct {
		name   string
		change func(*Config, *Expect)
		codes  []string
	}{
		{"row 61 simulated evidence to a production policy", func(_ *Config, e *Expect) {
			e.Policies[0].Accept = append(e.Policies[0].Accept, chipFormat)
			e.Policies[0].AllowSimulated, e.Policies[0].Simulation = false, false
		}, []string{attest.CodeSimDenied}},
		{
			"row 61 simulated evidence to a policy of hardware formats", func(_ *Config, e *Expect) { e.Policies[0].Accept = []attest.Format{chipFormat} },
			[]string{attest.CodeFormatUnlisted},
		},
		{
			"row 61 simulated evidence to a program without its verifier", func(c *Config, _ *Expect) { c.Verifiers = hardware },
			[]string{attest.CodeFormatUnlisted},
		},
		{"row 61 a simulated root under a vendor's name", func(_ *Config, e *Expect) {
			trust, err := endorse.New(map[string][]byte{"ark-genoa.pem": simtee.MarshalAnchor(&f.root.PublicKey)})
			if err != nil {
				t.Fatal(err)
			}
			e.Trust = trust
		}, []string{attest.CodeChain}},
	} {
		t.Run(tc.name, func(t *testing.T) { bothRefuse(t, f, tc.change, tc.codes...) })
	}
	t.Run("row 61 simulated evidence under a vendor's name", func(t *testing.T) {
		r := newRegime(t, f, 0)
		c := r.node(t, "a")
		c.Attester = relabelled{simtee.NewAttester(f.root, attest.RoleNode, "chip:a")}
		_, s := meet(t, client(t, c), server(t, r.coordinator(t)))
		wantCodes(t, s.err, attest.RoleCoordinator, attest.CodeChain)
	})
}

type relabelled struct{ attest.Attester }

func (r relabelled) Attest(ctx context.Context, b attest.Binding) (attest.Evidence, error) {
	e, err := r.Attester.Attest(ctx, b)
	e.Format = chipFormat
	return e, err
}
