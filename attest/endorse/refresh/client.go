package refresh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Bounds of one exchange.
const (
	maxBody   = 1 << 20 // the largest real answer is a TCB info of some 10 KiB
	maxHeader = 16 << 10
	timeout   = 30 * time.Second
)

// metadata is the one address that is asked without TLS: the host's own service, a link-local hop away.
const metadata = "169.254.169.254"

// StatusError is an answer other than 200.
type StatusError struct {
	URL  string
	Code int
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s answers %d (%s), want 200", e.URL, e.Code, http.StatusText(e.Code))
}

// client asks one service, no more often than its bucket has tokens, and not while the service has said to wait.
type client struct {
	http  http.Client
	limit *rate.Limiter
	now   func() time.Time

	mu   sync.Mutex
	wait time.Time // when the service may be asked again
}

// newClient follows no redirect: what an address gives, another may not give in its place.
func newClient(t http.RoundTripper, now func() time.Time, every time.Duration, burst int) *client {
	return &client{
		http: http.Client{
			Transport:     t,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Timeout:       timeout,
		},
		limit: rate.NewLimiter(rate.Every(every), burst), now: now,
	}
}

// get asks for one address.
func (c *client) get(ctx context.Context, address string, header ...string) (body []byte, h http.Header, err error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, nil, err
	}
	if u.Scheme != "https" && (u.Scheme != "http" || u.Host != metadata) {
		return nil, nil, fmt.Errorf("asking %s: want https", address)
	}
	if err := c.admit(); err != nil {
		return nil, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, nil, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, nil, c.refused(address, resp)
	}
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		return nil, nil, fmt.Errorf("reading %s: %w", address, err)
	}
	if len(body) > maxBody {
		return nil, nil, fmt.Errorf("reading %s: more than %d bytes", address, maxBody)
	}
	return body, resp.Header, nil
}

// admit takes a token, or says when there is one.
func (c *client) admit() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if now.Before(c.wait) {
		return &Later{Wait: c.wait.Sub(now), Own: true, Err: errors.New("the service asked to wait")}
	}
	r := c.limit.ReserveN(now, 1)
	if d := r.DelayFrom(now); d > 0 {
		r.CancelAt(now)
		return &Later{Wait: d, Own: true, Err: errors.New("our own limit of requests")}
	}
	return nil
}

// refused keeps to what the service says about the next request (RFC 9110, section 10.2.3), for all that ask it.
func (c *client) refused(address string, resp *http.Response) error {
	err := &StatusError{address, resp.StatusCode}
	wait := retryAfter(resp.Header.Get("Retry-After"), c.now())
	if wait == 0 && resp.StatusCode != http.StatusTooManyRequests {
		return err
	}
	wait = min(wait, longestLater)
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable {
		c.mu.Lock()
		if until := c.now().Add(wait); until.After(c.wait) {
			c.wait = until
		}
		c.mu.Unlock()
	}
	return &Later{Wait: wait, Err: err}
}

func retryAfter(s string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(s, 10, 32); err == nil {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(s); err == nil && t.After(now) {
		return t.Sub(now)
	}
	return 0
}

// chain is the issuers' certificates that Intel's service puts into a header, URL-escaped.
func chain(h http.Header, name string) ([]byte, error) {
	s := h.Get(name)
	if s == "" || len(s) > maxHeader {
		return nil, fmt.Errorf("header %s of %d bytes, want 1 to %d", name, len(s), maxHeader)
	}
	return []byte(s), nil
}
