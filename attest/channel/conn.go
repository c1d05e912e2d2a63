package channel

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"
)

// ErrExpired ends the reads and writes of a connection whose session is over. A new connection
// attests anew.
var ErrExpired = errors.New("the attested session has expired")

// conn is an attested connection that ends with its session.
type conn struct {
	*tls.Conn
	now     func() time.Time
	session Session // as it began
	forget  func(*conn)

	mu    sync.Mutex
	until time.Time
	cause error // why it ended before
	timer *time.Timer
}

func newConn(h *handshake, forget func(*conn)) *conn {
	c := &conn{Conn: h.tls, now: h.config.Now, session: h.session, forget: forget, until: h.session.Until}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timer = time.AfterFunc(c.until.Sub(c.now()), func() { _ = c.Close() })
	return c
}

// Read and Write ask the clock too: timers stand still while a machine is suspended. What was being read when the
// session ended is not handed on.

func (c *conn) Read(b []byte) (int, error) {
	if err := c.over(); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(b)
	if over := c.over(); over != nil {
		return 0, over
	}
	return n, err
}

func (c *conn) Write(b []byte) (int, error) {
	if err := c.over(); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

func (c *conn) Close() error {
	c.retire(net.ErrClosed)
	return c.Conn.Close()
}

// end ends the session now, and reports whether it still ran. It says no goodbye, which a peer that does not read
// could hold up.
func (c *conn) end(cause error) bool {
	ran := c.retire(cause)
	_ = c.NetConn().Close()
	return ran
}

func (c *conn) retire(cause error) bool {
	c.forget(c)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return false
	}
	c.timer.Stop()
	if c.cause = cause; !c.now().Before(c.until) {
		c.cause = ErrExpired
	}
	return true
}

func (c *conn) over() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return c.cause
	}
	if !c.now().Before(c.until) {
		return ErrExpired
	}
	return nil
}

// shorten moves the end of the session forward.
func (c *conn) shorten(until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == nil && until.Before(c.until) {
		c.until = until
		c.timer.Reset(until.Sub(c.now()))
	}
}
