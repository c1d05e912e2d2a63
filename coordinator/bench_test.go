package coordinator_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/internal/transport"
)

// BenchmarkRound drives rounds of three parameters and ten hospitals over loopback, state on disk, with the
// test's own hospitals: what is left of a round when training and spools cost nothing.
func BenchmarkRound(b *testing.B) {
	var names []string
	for i := range 10 {
		names = append(names, fmt.Sprintf("h%02d", i))
	}
	f := newFederation(b, names...)
	c, _ := f.serve()
	s := f.propose("rounds: 2", fmt.Sprintf("rounds: %d", max(2, b.N)), "average_last: 2", fmt.Sprintf("average_last: %d", max(1, max(2, b.N)/2)))
	f.approve(s)
	f.playAll(s)
	var times []time.Duration
	var began time.Time
	f.watch(s, func(e transport.WatchEvent) bool {
		switch e.Kind {
		case "round":
			began = e.Time
		case "closed":
			times = append(times, e.Time.Sub(began))
		}
		return len(times) == max(2, b.N)
	})
	waitOver(b, c, s)
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, "ms/round-median")
}
