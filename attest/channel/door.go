package channel

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// waitingFor is how many handshakes may wait for each that may run.
const waitingFor = 16

var errNoPlace = errors.New("too many handshakes run and wait")

// door bounds the handshakes that run at once; the rest wait in a room that is bounded too. A free place goes to the
// address with the fewest places, and within it to who came first: one that opens many connections and lets them sleep
// waits for itself.
type door struct {
	places int

	mu      sync.Mutex
	running int
	inside  map[netip.Prefix]int // running, by address
	waiting []*visitor           // in order of arrival
}

type visitor struct {
	from netip.Prefix
	in   chan struct{} // closed when it has a place
}

func newDoor(places int) *door { return &door{places: places, inside: map[netip.Prefix]int{}} }

// enter takes a place within patience, or is errNoPlace. Half of the room is the most that one address may fill.
func (d *door) enter(from netip.Prefix, patience time.Duration) error {
	v, err := d.arrive(from)
	if v == nil {
		return err
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-v.in:
		return nil
	case <-timer.C:
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	i := slices.Index(d.waiting, v)
	if i < 0 {
		return nil // it was let in at the last moment
	}
	d.waiting = slices.Delete(d.waiting, i, i+1)
	return errNoPlace
}

// arrive returns who has to wait, or nil.
func (d *door) arrive(from netip.Prefix) (*visitor, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.running < d.places {
		d.running++
		d.inside[from]++
		return nil, nil
	}
	alike := 0
	for _, v := range d.waiting {
		if v.from == from {
			alike++
		}
	}
	if room := d.places * waitingFor; len(d.waiting) >= room || alike >= room/2 {
		return nil, errNoPlace
	}
	v := &visitor{from: from, in: make(chan struct{})}
	d.waiting = append(d.waiting, v)
	return v, nil
}

// leave hands the place on.
func (d *door) leave(from netip.Prefix) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.inside[from]--; d.inside[from] == 0 {
		delete(d.inside, from)
	}
	if len(d.waiting) == 0 {
		d.running--
		return
	}
	next := 0
	for i, v := range d.waiting {
		if d.inside[v.from] < d.inside[d.waiting[next].from] {
			next = i
		}
	}
	v := d.waiting[next]
	d.waiting = slices.Delete(d.waiting, next, next+1)
	d.inside[v.from]++
	close(v.in)
}

// origin is the address that a connection comes from: of IPv6 the 64 bits that one customer gets. What has no
// address is all of one origin.
func origin(c net.Conn) netip.Prefix {
	a := c.RemoteAddr()
	if a == nil {
		return netip.Prefix{}
	}
	p, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Prefix{}
	}
	ip := p.Addr().Unmap()
	from, err := ip.Prefix(min(64, ip.BitLen()))
	if err != nil {
		return netip.Prefix{}
	}
	return from
}
