package coordinator

import (
	"sync"
	"time"

	"github.com/consilium-fl/consilium/internal/transport"
)

// watchBuffer is how many events of a study are kept for those who come later.
const watchBuffer = 4096

// Event is something that people who watch a study are told, as it travels.
type Event = transport.WatchEvent

// watch keeps the last events of a study. Sequences start at the time the process started, in
// microseconds, so that they grow over restarts and a cursor of an earlier process is understood.
type watch struct {
	now func() time.Time

	mu      sync.Mutex
	seq     uint64
	events  []Event
	changed chan struct{}
	closed  bool
}

func newWatch(now func() time.Time) *watch {
	return &watch{now: now, seq: uint64(now().UnixMicro()), changed: make(chan struct{})}
}

func (w *watch) tell(e Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seq++
	e.Sequence, e.Time = w.seq, w.now()
	if len(w.events) == watchBuffer {
		w.events = append(w.events[:0], w.events[watchBuffer/4:]...)
	}
	w.events = append(w.events, e)
	close(w.changed)
	w.changed = make(chan struct{})
}

// close ends every stream, once it has sent what there is: the study is over.
func (w *watch) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.closed = true
		close(w.changed)
		w.changed = make(chan struct{})
	}
}

func (w *watch) after(cursor uint64) (events []Event, changed <-chan struct{}, closed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, e := range w.events {
		if e.Sequence > cursor {
			events = append(events, w.events[i:]...)
			break
		}
	}
	return events, w.changed, w.closed
}
