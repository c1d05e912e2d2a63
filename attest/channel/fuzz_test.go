package channel

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"

	"github.com/consilium-fl/consilium/attest"
)

// FuzzPeer says after an honest TLS handshake what it likes, to a coordinator or to a node. Nothing that was thought
// of before can be admitted, since it does not know the nonce, and a node has said no more than its Hello.
func FuzzPeer(f *testing.F) {
	fed := newFederation(f)
	s, c := server(f, fed.config(f, attest.RoleCoordinator)), client(f, fed.config(f, attest.RoleNode))
	n, e := meet(f, c, s)
	if n.err != nil || e.err != nil {
		f.Fatal(n.err, e.err)
	}
	says := func(atServer bool, frames ...frame) {
		var b bytes.Buffer
		for _, x := range frames {
			if err := writeFrame(&b, x); err != nil {
				f.Fatal(err)
			}
		}
		f.Add(atServer, b.Bytes())
	}
	hello := func(r attest.Role) frame {
		return frame{Hello: &Hello{Version: version, Role: r, Study: fed.study, Nonce: [32]byte{1}}}
	}
	says(true, hello(attest.RoleNode), frame{Proof: &Proof{Record: e.session.Record}})
	says(true, hello(attest.RolePerson), frame{Proof: &Proof{}})
	says(true, hello(attest.RoleNode), frame{Proof: &Proof{Record: e.session.Record, Logs: map[string]uint64{attest.CCEL: 3}}}, frame{Log: &Log{Part: []byte{1, 2, 3}}})
	says(true, hello(attest.RoleNode), frame{Proof: &Proof{Record: e.session.Record, Logs: map[string]uint64{attest.CCEL: 1 << 40}}})
	says(true, hello(attest.RoleCoordinator))
	says(true, frame{Verdict: &Verdict{OK: true}})
	says(false, frame{Proof: &Proof{Record: n.session.Record, Nonce: [32]byte{1}}}, frame{Verdict: &Verdict{OK: true, Until: 1 << 40}})
	says(false, frame{Verdict: &Verdict{OK: true, Until: 1 << 40}})
	says(false, frame{Verdict: &Verdict{Reasons: []attest.Reason{{Code: "\x1b[2J"}}}})
	says(false)

	attacker := map[bool]Config{true: fed.config(f, attest.RoleNode), false: fed.config(f, attest.RoleCoordinator)}
	f.Fuzz(func(t *testing.T, atServer bool, said []byte) {
		ours, theirs := net.Pipe()
		heard := make(chan []byte, 1)
		go func() { heard <- say(attacker[atServer], theirs, said) }()
		var e ended
		if atServer {
			e = serve(s, ours)
		} else {
			e = dial(c, ours)
		}
		_ = ours.Close()
		if e.err == nil {
			t.Fatalf("admitted %+v", e.session)
		}
		got := <-heard
		if atServer {
			return
		}
		r := bytes.NewReader(got)
		if f, err := readFrame(r, maxHello); err != nil || f.Hello == nil || r.Len() != 0 {
			t.Fatalf("the node said %x, want one Hello", got)
		}
	})
}

// say returns what the other side said.
func say(c Config, raw net.Conn, said []byte) []byte {
	h := hostile{config: c}.state()
	if h.startTLS(context.Background(), raw, "x") != nil {
		return nil
	}
	heard := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(h.tls)
		heard <- b
	}()
	_, _ = h.tls.Write(said)
	_ = h.tls.CloseWrite()
	b := <-heard
	_ = raw.Close()
	return b
}
