package channel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
)

func address(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32)
}

// TestDoorIsFair: a crowd from one address that never leaves by itself delays nobody who comes from another.
func TestDoorIsFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDoor(4)
		crowd := address(0)
		var over atomic.Bool
		for range 20 {
			go func() {
				for !over.Load() && d.enter(crowd, time.Minute) == nil { // and at once again
					time.Sleep(10 * time.Second)
					d.leave(crowd)
				}
			}()
		}
		synctest.Wait()
		start := time.Now()
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				from := address(1 + i)
				if err := d.enter(from, time.Minute); err != nil {
					t.Errorf("visitor %d: %v", i, err)
					return
				}
				if waited, want := time.Since(start), 10*time.Second; waited > want+time.Second {
					t.Errorf("visitor %d waited %s, want no more than the %s of one stay", i, waited, want)
				}
				time.Sleep(100 * time.Millisecond)
				d.leave(from)
			})
			synctest.Wait()
		}
		wg.Wait()
		over.Store(true)
		time.Sleep(2 * time.Minute) // for the crowd to go
	})
}

// TestDoorKeepsOrder among those with equal claims.
func TestDoorKeepsOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDoor(1)
		if err := d.enter(address(0), 0); err != nil {
			t.Fatal(err)
		}
		var order []int
		for i := range 10 {
			go func() {
				if d.enter(address(i), time.Minute) == nil {
					order = append(order, i)
					d.leave(address(i))
				}
			}()
			synctest.Wait()
		}
		d.leave(address(0))
		synctest.Wait()
		if got := fmt.Sprint(order); got != "[0 1 2 3 4 5 6 7 8 9]" {
			t.Errorf("let in as %s", got)
		}
	})
}

func TestDoorsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDoor(2)
		turned, start := map[netip.Prefix]int{}, time.Now()
		var mu sync.Mutex
		for _, crowd := range []struct {
			from  netip.Prefix
			count int
		}{{address(0), 100}, {address(1), 100}, {address(2), 1}} {
			for range crowd.count {
				go func() {
					if d.enter(crowd.from, time.Second) != nil && time.Since(start) == 0 {
						mu.Lock()
						defer mu.Unlock()
						turned[crowd.from]++
					}
				}()
			}
			synctest.Wait()
		}
		mu.Lock()
		// Two run; the room has 32 chairs, 16 for one address.
		if turned[address(0)] != 100-2-16 || turned[address(1)] != 100-16 || turned[address(2)] != 1 {
			t.Errorf("turned away at once: %v", turned)
		}
		mu.Unlock()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n := len(d.waiting); n != 0 {
			t.Errorf("%d wait after their time", n)
		}
		d.leave(address(0))
		d.leave(address(0))
		if d.running != 0 || len(d.inside) != 0 {
			t.Errorf("%d run, %v", d.running, d.inside)
		}
	})
}

// TestDoorStorm is for the race detector: no more than the places are ever taken, and all come back.
func TestDoorStorm(t *testing.T) {
	d := newDoor(3)
	var inside, most atomic.Int64
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			for j := range 50 {
				from := address((i + j) % 5)
				if d.enter(from, time.Duration(j%4)*100*time.Microsecond) != nil {
					continue
				}
				if n := inside.Add(1); n > most.Load() {
					most.Store(n)
				}
				time.Sleep(10 * time.Microsecond)
				inside.Add(-1)
				d.leave(from)
			}
		})
	}
	wg.Wait()
	if n := most.Load(); n > 3 || n == 0 || d.running != 0 || len(d.inside) != 0 || len(d.waiting) != 0 {
		t.Errorf("%d at once, %d left inside (%v), %d waiting", n, d.running, d.inside, len(d.waiting))
	}
}

type from string

func (f from) Network() string { return "tcp" }
func (f from) String() string  { return string(f) }

type located struct {
	net.Conn
	at net.Addr
}

func (l located) RemoteAddr() net.Addr { return l.at }

func TestOrigin(t *testing.T) {
	for at, want := range map[string]string{
		"192.0.2.7:443":                  "192.0.2.7/32",
		"[::ffff:192.0.2.7]:443":         "192.0.2.7/32",
		"[2001:db8:1:2:3:4:5:6]:443":     "2001:db8:1:2::/64",
		"[fe80::1%eth0]:443":             "fe80::/64",
		"pipe":                           "invalid Prefix",
		"@":                              "invalid Prefix",
		"coordinator.example:443":        "invalid Prefix",
		"[2001:db8:1:2:ffff:4:5:6]:1024": "2001:db8:1:2::/64",
	} {
		if got := origin(located{at: from(at)}).String(); got != want {
			t.Errorf("%s: %s, want %s", at, got, want)
		}
	}
	if got := origin(located{}); got.IsValid() {
		t.Errorf("no address: %s", got)
	}
}

// TestSleepersShutNobodyOut: all places are held by connections from one address that say nothing, and more of them
// wait. A node from another address is in as soon as the first of them has had its time.
func TestSleepersShutNobodyOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation(t)
		sc := f.config(t, attest.RoleCoordinator)
		sc.MaxHandshakes = 8
		s := server(t, sc)
		crowd := func(size int) {
			for range size {
				a, b := net.Pipe()
				go serve(s, located{b, from("192.0.2.1:1")})
				t.Cleanup(func() { _ = a.Close() })
				synctest.Wait()
			}
		}
		crowd(40)
		time.Sleep(12 * time.Second) // those who still waited were turned away after ten
		crowd(32)
		start := time.Now()
		n, c := meetFrom(t, f, s, "198.51.100.1:1")
		if n.err != nil || c.err != nil {
			t.Fatal(n.err, c.err)
		}
		if took := time.Since(start); took > 8*time.Second {
			t.Errorf("it took %s", took)
		}
		_, _ = n.conn.NetConn().Close(), c.conn.NetConn().Close()
		time.Sleep(time.Minute)
	})
}

// TestSlowNodes: many more nodes than places, and every quote takes three seconds, the coordinator's too. Whoever gets
// a place finishes, whoever does not tries again, and all get in.
func TestSlowNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const nodes, places = 60, 8
		f := newFederation(t)
		coordinator, machine := newChip(t, "coordinator", 3*time.Second), newChip(t, "node", 3*time.Second)
		trust := trusting(t, nil, coordinator, machine)
		party := f.onChips(func() *endorse.Snapshot { return trust }, anyChip)
		var turned, failed atomic.Int64
		sc := party(t, attest.RoleCoordinator, coordinator)
		sc.MaxHandshakes = places
		sc.Observe = func(o Outcome) {
			switch {
			case errors.Is(o.Err, errNoPlace):
				turned.Add(1)
			case o.Err != nil:
				failed.Add(1)
			}
		}
		s, start := server(t, sc), time.Now()
		var wg sync.WaitGroup
		for i := range nodes {
			nc := party(t, attest.RoleNode, &chip{t: t, key: machine.key, machine: "node", takes: machine.takes})
			c := client(t, nc)
			wg.Go(func() {
				for try := 0; ; try++ {
					if try == 100 {
						t.Errorf("node %d is still outside", i)
						return
					}
					clientEnd, serverEnd := net.Pipe()
					done := make(chan ended, 1)
					go func() { done <- serve(s, serverEnd) }()
					n, c := dial(c, clientEnd), <-done
					if n.err == nil && c.err == nil {
						_ = c.conn.Close()
						_ = clientEnd.Close()
						return
					}
					time.Sleep(time.Duration(50+i*7) * time.Millisecond)
				}
			})
		}
		wg.Wait()
		took := time.Since(start)
		if most := (nodes/places + 2) * 9 * time.Second; took > most { // two quotes of waiting, and the own
			t.Errorf("%d nodes took %s, want at most %s", nodes, took, most)
		}
		if turned.Load() == 0 || failed.Load() != 0 {
			t.Errorf("%d were turned away, %d failed within: want only the former", turned.Load(), failed.Load())
		}
	})
}

type pair struct {
	conn *conn
	err  error
}

func meetFrom(t *testing.T, f *federation, s credentials.TransportCredentials, at string) (n, c pair) {
	t.Helper()
	clientEnd, serverEnd := net.Pipe()
	done := make(chan ended, 1)
	go func() { done <- serve(s, located{serverEnd, from(at)}) }()
	a := dial(client(t, f.config(t, attest.RoleNode)), clientEnd)
	b := <-done
	n.err, c.err = a.err, b.err
	if a.err == nil && b.err == nil {
		n.conn, c.conn = a.conn.(*conn), b.conn.(*conn)
	}
	return n, c
}
