package channel

import (
	"testing"

	"github.com/consilium-fl/consilium/attest"
)

// BenchmarkHandshake is a node's whole join, both sides and both proofs, over TCP on loopback.
func BenchmarkHandshake(b *testing.B) {
	f := newFederation(b)
	s, c := server(b, f.config(b, attest.RoleCoordinator)), client(b, f.config(b, attest.RoleNode))
	b.ReportAllocs()
	for b.Loop() {
		clientEnd, serverEnd := wire(b)
		done := make(chan ended, 1)
		go func() { done <- serve(s, serverEnd) }()
		n, e := dial(c, clientEnd), <-done
		if n.err != nil || e.err != nil {
			b.Fatal(n.err, e.err)
		}
		_, _ = n.conn.Close(), e.conn.Close()
	}
}
