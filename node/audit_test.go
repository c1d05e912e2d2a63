package node

import (
	"slices"
	"testing"
)

// A checkpoint that counts comes while a newer published one still waits: the audit gets both. Were the
// newer one lost, nobody would co-sign it, and on a log that does not grow nobody ever would.
func TestCheckpointsDoNotPushEachOtherOut(t *testing.T) {
	c := newCheckpoints()
	c.offer([]byte("published, size 39"))
	c.offer([]byte("counted, size 38"))
	<-c.arrived
	var got []string
	for _, cp := range c.take() {
		got = append(got, string(cp))
	}
	if want := []string{"published, size 39", "counted, size 38"}; !slices.Equal(got, want) {
		t.Errorf("the audit got %q, want %q", got, want)
	}
	for range 100 {
		c.offer([]byte("more"))
	}
	if n := len(c.take()); n > mostWaiting {
		t.Errorf("%d checkpoints wait, want at most %d", n, mostWaiting)
	}
}
