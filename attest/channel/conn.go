package channel

import (
	"crypto/tls"
	"errors"
	"net"
	"time"
)

// ErrExpired ends the reads and writes of a connection whose session is over. A new connection
// attests anew.
var ErrExpired = errors.New("the attested session has expired")

// conn is an attested connection that ends with its session.
type conn struct {
	*tls.Conn
	until time.Time
	now   func() time.Time
	timer *time.Timer
}

func expiring(c *tls.Conn, until time.Time, now func() time.Time) net.Conn {
	e := &conn{Conn: c, until: until, now: now}
	e.timer = time.AfterFunc(until.Sub(now()), func() { _ = c.Close() })
	return e
}

// Read and Write ask the clock too: timers stand still while a machine is suspended.

func (c *conn) Read(b []byte) (int, error) {
	if c.expired() {
		return 0, ErrExpired
	}
	return c.Conn.Read(b)
}

func (c *conn) Write(b []byte) (int, error) {
	if c.expired() {
		return 0, ErrExpired
	}
	return c.Conn.Write(b)
}

func (c *conn) Close() error {
	c.timer.Stop()
	return c.Conn.Close()
}

func (c *conn) expired() bool { return !c.now().Before(c.until) }
