package channel

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
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

// BenchmarkThousandNodes: all join at once, each on a machine of its own whose quotes take as long as the coordinator's
// do: 200 ms, or the three seconds of Azure. A join is two connections, as a node makes them: one to ask for its SVID
// and one with it.
func BenchmarkThousandNodes(b *testing.B) {
	for _, quote := range []time.Duration{200 * time.Millisecond, 3 * time.Second} {
		b.Run(quote.String(), func(b *testing.B) { thousandNodes(b, quote) })
	}
}

func thousandNodes(b *testing.B, quote time.Duration) {
	const nodes = 1000
	f := newFederation(b)
	coordinator := newChip(b, "coordinator", quote)
	machines := make([]*chip, nodes)
	for i := range machines {
		machines[i] = newChip(b, fmt.Sprintf("node-%d", i%400), quote)
		if i >= 400 { // a snapshot holds at most 512 files
			machines[i].key = machines[i%400].key
		}
	}
	trust := trusting(b, nil, append(machines[:400:400], coordinator)...)
	party := f.onChips(func() *endorse.Snapshot { return trust }, anyChip)
	var handshakes, failed atomic.Int64
	sc := party(b, attest.RoleCoordinator, coordinator)
	sc.Observe = func(o Outcome) {
		handshakes.Add(1)
		if o.Err != nil {
			failed.Add(1)
		}
	}
	creds := server(b, sc)
	clients := make([]grpc.DialOption, nodes)
	for i, m := range machines {
		clients[i] = grpc.WithTransportCredentials(client(b, party(b, attest.RoleNode, m)))
	}
	var peak uint64
	b.ResetTimer()
	for range b.N {
		peak = max(peak, join(b, creds, clients))
	}
	seconds := b.Elapsed().Seconds()
	b.ReportMetric(seconds/float64(b.N), "s/join")
	b.ReportMetric(float64(handshakes.Load()-failed.Load())/seconds, "handshakes/s")
	b.ReportMetric(float64(failed.Load())/float64(b.N), "failed")
	b.ReportMetric(float64(peak>>20), "MiB")
}

// join has all clients make two connections and one request on each, and returns the most memory that was in use.
func join(b *testing.B, creds credentials.TransportCredentials, clients []grpc.DialOption) (peak uint64) {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s := grpc.NewServer(grpc.Creds(creds), grpc.ConnectionTimeout(time.Minute))
	healthpb.RegisterHealthServer(s, health.NewServer())
	go func() { _ = s.Serve(l) }()
	defer s.Stop()
	done := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() { peak = memory(done) })
	var wg sync.WaitGroup
	for _, creds := range clients {
		wg.Go(func() {
			for range 2 {
				if err := ask(l.Addr().String(), creds); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	close(done)
	watch.Wait()
	return peak
}

func ask(address string, creds grpc.DialOption) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	conn, err := grpc.NewClient(address, creds, grpc.WithConnectParams(grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
		MinConnectTimeout: time.Minute,
	}))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_, err = healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
	return err
}

func memory(done <-chan struct{}) (peak uint64) {
	for {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		peak = max(peak, m.HeapInuse+m.StackInuse)
		select {
		case <-done:
			return peak
		case <-time.After(100 * time.Millisecond):
		}
	}
}
