package channel

import (
	"bytes"
	"context"
	"errors"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/simtee"
)

// logging adds event logs to what a machine attests.
type logging struct {
	attest.Attester
	logs map[string][]byte
}

func (l logging) Attest(ctx context.Context, b attest.Binding) (attest.Evidence, error) {
	e, err := l.Attester.Attest(ctx, b)
	e.Endorsements = l.logs
	return e, err
}

// reading verifies what comes beside event logs, and remembers those.
type reading struct {
	attest.Verifier
	mu   sync.Mutex
	logs []map[string][]byte
}

func (r *reading) Verify(e attest.Evidence, in attest.Inputs) (attest.Unappraised, error) {
	r.mu.Lock()
	r.logs = append(r.logs, e.Endorsements)
	r.mu.Unlock()
	e.Endorsements = nil
	return r.Verifier.Verify(e, in)
}

// logged are the configurations of two sides that attest with event logs.
func logged(t testing.TB, f *federation, ofNode, ofCoordinator map[string][]byte) (node, coordinator Config, seen *reading) {
	seen = &reading{Verifier: simtee.NewVerifier()}
	node, coordinator = f.config(t, attest.RoleNode), f.config(t, attest.RoleCoordinator)
	node.Attester, coordinator.Attester = logging{node.Attester, ofNode}, logging{coordinator.Attester, ofCoordinator}
	node.Verifiers, coordinator.Verifiers = attest.NewVerifiers(seen), attest.NewVerifiers(seen)
	return node, coordinator, seen
}

func logOf(n int) []byte { return bytes.Repeat([]byte{0xa5, 1, 2}, n/3+1)[:n] }

// TestEventLogs: an event log of more than a frame passes, in both directions, and is in the record that is kept.
func TestEventLogs(t *testing.T) {
	f := newFederation(t)
	for name, tc := range map[string][2]map[string][]byte{
		"small":             {{attest.CCEL: logOf(1000)}, nil},
		"just a frame":      {{attest.CCEL: logOf(logChunk - 1500)}, nil},
		"more than a frame": {{attest.CCEL: logOf(MaxFrame)}, nil},
		"3 MiB":             {{attest.CCEL: logOf(3 << 20)}, {attest.EventLog: logOf(3 << 20)}},
		"two":               {{attest.CCEL: logOf(1 << 20), attest.EventLog: logOf(3 << 20)}, nil},
		"whole chunks":      {{attest.CCEL: logOf(2 * logChunk)}, nil},
	} {
		node, coordinator, seen := logged(t, f, tc[0], tc[1])
		n, s := meet(t, client(t, node), server(t, coordinator))
		if n.err != nil || s.err != nil {
			t.Errorf("%s: node %v, coordinator %v", name, n.err, s.err)
			continue
		}
		for _, of := range []struct {
			session Session
			logs    map[string][]byte
			seen    map[string][]byte
		}{{n.session, tc[1], seen.logs[0]}, {s.session, tc[0], seen.logs[len(seen.logs)-1]}} {
			r, err := attest.ParseRecord(of.session.Record)
			if err != nil || !equalLogs(r.Evidence.Endorsements, of.logs) || !equalLogs(of.seen, of.logs) {
				t.Errorf("%s: another log arrived: %v", name, err)
			}
		}
	}
}

func equalLogs(a, b map[string][]byte) bool {
	for name := range b {
		if !bytes.Equal(a[name], b[name]) {
			return false
		}
	}
	return len(a) == len(b)
}

// TestEventLogBounds: what is too long, or not as it was announced, is refused before it is read; the peer hears the code.
func TestEventLogBounds(t *testing.T) {
	f := newFederation(t)
	for name, logs := range map[string]map[string][]byte{
		"5 MiB":         {attest.CCEL: logOf(5 << 20)},
		"two of 2.5":    {attest.CCEL: logOf(5 << 19), attest.EventLog: logOf(5 << 19)},
		"one byte more": {attest.CCEL: logOf(attest.MaxEventLog + 1)},
	} {
		node, coordinator, _ := logged(t, f, logs, nil)
		n, s := meet(t, client(t, node), server(t, coordinator))
		if r, ok := errors.AsType[attest.Reason](n.err); !ok || r.Code != attest.CodeParseLength || s.err == nil {
			t.Errorf("%s: the node's own error is %v, the coordinator's %v", name, n.err, s.err)
		}
	}

	record := func(logs map[string][]byte) func(*hostile) {
		return func(p *hostile) { p.forge = func(r *attest.Record) { r.Evidence.Endorsements = logs } }
	}
	part := func(n int) frame { return frame{Log: &Log{Part: logOf(n)}} }
	for _, tc := range []struct {
		name   string
		change func(*hostile)
		logs   map[string]uint64
		frames []frame
		codes  []string // nil: the connection breaks
	}{
		{"5 MiB", record(nil), map[string]uint64{attest.CCEL: 5 << 20}, nil, []string{attest.CodeParseLength}},
		{"more than there is", record(nil), map[string]uint64{attest.CCEL: 1<<64 - 1, attest.EventLog: 2}, nil, []string{attest.CodeParseLength}},
		{"another endorsement", record(nil), map[string]uint64{"vcek": 3}, nil, []string{CodeProof}},
		{"nothing", record(nil), map[string]uint64{attest.CCEL: 0}, nil, []string{CodeProof}},
		{"inside too", record(map[string][]byte{attest.CCEL: {1}}), map[string]uint64{attest.EventLog: 3}, nil, []string{CodeProof}},
		{"whose evidence is nobody's", func(p *hostile) {
			p.forge = func(r *attest.Record) { r.Evidence.Statement[len(r.Evidence.Statement)-1] ^= 1 }
		}, map[string]uint64{attest.CCEL: 3 << 20}, nil, []string{attest.CodeSignature}},
		{"whose evidence is another session's", func(p *hostile) { p.change = func(r *attest.Record) { r.Binding.Exporter[0] ^= 1 } }, map[string]uint64{attest.CCEL: 3 << 20}, nil, []string{"binding.exporter", attest.CodeBindingMismatch}},
		{"whose evidence is of another nonce, and says not so", func(p *hostile) {
			p.change, p.forge = func(r *attest.Record) { r.Binding.Nonce[0] ^= 1 }, func(r *attest.Record) { r.Binding.Nonce[0] ^= 1 }
		}, map[string]uint64{attest.CCEL: 3 << 20}, nil, []string{attest.CodeBindingMismatch}},
		{"a byte less", record(nil), map[string]uint64{attest.CCEL: 3}, []frame{part(2), part(1)}, nil},
		{"a byte more", record(nil), map[string]uint64{attest.CCEL: 3}, []frame{part(4)}, nil},
		{"a small chunk", record(nil), map[string]uint64{attest.CCEL: 2 * logChunk}, []frame{part(logChunk - 1), part(logChunk), part(1)}, nil},
		{"an empty one", record(nil), map[string]uint64{attest.CCEL: 3}, []frame{part(0), part(3)}, nil},
		{"another frame", record(nil), map[string]uint64{attest.CCEL: 3}, []frame{{Verdict: &Verdict{OK: true}}}, nil},
	} {
		node, coordinator, _ := logged(t, f, nil, nil)
		p := hostile{config: node}
		tc.change(&p)
		clientEnd, serverEnd := wire(t)
		var s ended
		var wg sync.WaitGroup
		wg.Go(func() { s = serve(server(t, coordinator), serverEnd) })
		heard, err := p.announce(clientEnd, tc.logs, tc.frames)
		wg.Wait()
		if tc.codes == nil {
			if s.err == nil || reasonCodes(s.err, attest.RoleCoordinator) != nil {
				t.Errorf("%s: %v", tc.name, s.err)
			}
			continue
		}
		wantCodes(t, s.err, attest.RoleCoordinator, tc.codes...)
		if err != nil || heard == nil || heard.OK || heard.Reasons[0].Code != tc.codes[0] || heard.Reasons[0].Got != "" {
			t.Errorf("%s: the peer heard %+v, %v", tc.name, heard, err)
		}
	}
}

// TestUnwantedLogs: a node whose evidence nobody vouches for hears so while it sends its event log.
func TestUnwantedLogs(t *testing.T) {
	f := newFederation(t)
	node, coordinator, seen := logged(t, f, map[string][]byte{attest.CCEL: logOf(attest.MaxEventLog)}, nil)
	coordinator.Peer = func([32]byte) (Expect, error) {
		e := f.expect(attest.RoleNode)
		e.Trust = newFederation(t).trust
		return e, nil
	}
	n, s := meet(t, client(t, node), server(t, coordinator))
	wantCodes(t, s.err, attest.RoleCoordinator, attest.CodeSignature)
	wantCodes(t, n.err, attest.RoleCoordinator, attest.CodeSignature)
	if len(seen.logs[len(seen.logs)-1]) > 0 {
		t.Error("the log was read")
	}
}

// announce plays a node that announces event logs, says frames and hears the verdict.
func (p hostile) announce(raw net.Conn, logs map[string]uint64, frames []frame) (*Verdict, error) {
	defer raw.Close() //nolint:errcheck // the test is over it
	h, err := p.knock(raw)
	if err != nil {
		return nil, err
	}
	f, err := readFrame(h.tls, MaxFrame)
	if err != nil {
		return nil, err
	}
	record, err := p.record(context.Background(), h, f.Proof.Nonce)
	if err != nil {
		return nil, err
	}
	for _, f := range append([]frame{{Proof: &Proof{Record: record, Logs: logs}}}, frames...) {
		if err := writeFrame(h.tls, f); err != nil {
			return nil, err
		}
	}
	if f, err = readFrame(h.tls, MaxFrame); err != nil {
		return nil, err
	}
	return f.Verdict, nil
}

// knock shakes hands by TLS and says hello.
func (p hostile) knock(raw net.Conn) (*handshake, error) {
	h := p.state()
	h.session.Study = p.config.Study
	if err := h.startTLS(context.Background(), raw, "x"); err != nil {
		return nil, err
	}
	return h, writeFrame(h.tls, frame{Hello: &Hello{Version: version, Role: attest.RoleNode, Study: p.config.Study, Nonce: h.nonce}})
}

// counting counts what is read of a connection.
type counting struct {
	net.Conn
	n *atomic.Int64
}

func (c counting) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.n.Add(int64(n))
	return n, err
}

// TestHostileLogs: 512 peers hold as much of the coordinator's memory as they can, by proofs that never end and, those with
// evidence that is genuine, by event logs that never do.
func TestHostileLogs(t *testing.T) {
	if testing.Short() {
		t.Skip("it makes 512 connections")
	}
	f := newFederation(t)
	node, coordinator, _ := logged(t, f, nil, nil)
	coordinator.Timeout = 2 * time.Minute
	s := server(t, coordinator)
	const brought = 2 * logPlaces // with event logs: half of them wait
	const bound = 288 << 20
	var read atomic.Int64
	before := live()
	var served, played sync.WaitGroup
	var ends []net.Conn
	half := framed(make([]byte, MaxFrame))[:MaxFrame]
	part := frame{Log: &Log{Part: logOf(logChunk)}}
	for i := range DefaultMaxHandshakes {
		clientEnd, serverEnd := wire(t)
		ends = append(ends, clientEnd, serverEnd)
		served.Go(func() { serve(s, counting{serverEnd, &read}) })
		played.Go(func() {
			p := hostile{config: node}
			h, err := p.knock(clientEnd)
			if err != nil {
				t.Error(err)
				return
			}
			hello, err := readFrame(h.tls, MaxFrame)
			if err != nil {
				t.Error(err)
				return
			}
			if i >= brought {
				_, _ = h.tls.Write(half)
				return
			}
			record, err := p.record(t.Context(), h, hello.Proof.Nonce)
			if err != nil {
				t.Error(err)
				return
			}
			_ = writeFrame(h.tls, frame{Proof: &Proof{Record: record, Logs: map[string]uint64{attest.CCEL: attest.MaxEventLog}}})
			for range attest.MaxEventLog / logChunk { // and the rest never
				if writeFrame(h.tls, part) != nil {
					return
				}
			}
		})
	}
	want := int64(DefaultMaxHandshakes-brought)*MaxFrame + logPlaces*int64(attest.MaxEventLog/logChunk*logChunk)
	for end := time.Now().Add(40 * time.Second); read.Load() < want && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
	held := live() - before
	s.logs.mu.Lock()
	running, waiting := s.logs.running, len(s.logs.waiting)
	s.logs.mu.Unlock()
	t.Logf("512 peers: %d MiB read, %d MiB held, want at most %d; %d event logs at once, %d wait", read.Load()>>20, held>>20, bound>>20, running, waiting)
	if read.Load() < want || running != logPlaces || waiting != brought-logPlaces {
		t.Errorf("they did not come to hold what they could: %d bytes of %d", read.Load(), want)
	}
	if held > bound {
		t.Errorf("%d bytes are held, want at most %d", held, bound)
	}
	for _, c := range slices.Backward(ends) {
		_ = c.Close()
	}
	played.Wait()
	served.Wait()
}

// live is the heap in use.
func live() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
