package transport

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/consilium-fl/consilium/attest/channel"
	consiliumv1 "github.com/consilium-fl/consilium/proto/consilium/v1"
)

// What a call can end with, on both sides of the wire.
var (
	ErrBadInput    = errors.New("bad input")
	ErrNotFound    = errors.New("not found")
	ErrConflict    = errors.New("conflicts with what is stored")
	ErrTooLate     = errors.New("too late")
	ErrUnreachable = errors.New("unreachable")
	// ErrSessionOver asks for a new attested connection: the client has dropped the old one, and its next
	// call makes it.
	ErrSessionOver = errors.New("session over")
	// ErrInternal is a fault of the other side, which knows more about it than it says.
	ErrInternal = errors.New("fault of the peer")
)

// Refused is a no, with all its reasons. A refused handshake is one too and unwraps to *channel.Refused.
type Refused struct {
	Reasons []string
	Cause   error // may be nil
}

func (r *Refused) Error() string {
	if len(r.Reasons) == 0 && r.Cause != nil {
		return "refused: " + r.Cause.Error()
	}
	return "refused: " + strings.Join(r.Reasons, "; ")
}

func (r *Refused) Unwrap() error { return r.Cause }

// maxReasons and maxReason bound what a peer may have us print.
const (
	maxReasons = 64
	maxReason  = 1 << 10
)

// wire is the one table of what travels. The text of what is not ours stays here: it may hold a path.
var wire = []struct {
	is   error
	kind string
	code codes.Code
	ours bool
}{
	{ErrBadInput, "bad-input", codes.InvalidArgument, true},
	{ErrNotFound, "not-found", codes.NotFound, true},
	{ErrConflict, "conflict", codes.Aborted, true},
	{ErrTooLate, "too-late", codes.FailedPrecondition, true},
	{ErrSessionOver, "session-over", codes.Unavailable, true},
	{ErrUnreachable, "unreachable", codes.Unavailable, true},
	{fs.ErrNotExist, "not-found", codes.NotFound, false},
	{context.DeadlineExceeded, "", codes.DeadlineExceeded, false},
	{context.Canceled, "", codes.Canceled, false},
}

// known reports whether err says something that a client can act on; any other is logged.
func known(err error) bool {
	if _, ok := errors.AsType[*Refused](err); ok {
		return true
	}
	for _, w := range wire {
		if errors.Is(err, w.is) {
			return true
		}
	}
	return false
}

// toStatus is the only way from an error to the wire.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	if r, ok := errors.AsType[*Refused](err); ok {
		return newStatus(codes.PermissionDenied, err.Error(), &consiliumv1.ErrorDetail{Kind: "refused", Reasons: r.Reasons})
	}
	for _, w := range wire {
		if errors.Is(err, w.is) {
			text := err.Error()
			if !w.ours {
				text = w.is.Error()
			}
			return newStatus(w.code, text, &consiliumv1.ErrorDetail{Kind: w.kind})
		}
	}
	return status.Error(codes.Internal, "internal error")
}

func newStatus(c codes.Code, text string, d *consiliumv1.ErrorDetail) error {
	s, err := status.New(c, clean(text)).WithDetails(d)
	if err != nil {
		return status.Error(c, clean(text))
	}
	return s.Err()
}

// fromStatus is the only way back. handshake is how the connection's handshake last failed, nil when it
// never did: gRPC reports it as text alone.
func fromStatus(err, handshake error) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	kind, reasons := detail(s)
	text := clean(s.Message())
	switch s.Code() {
	case codes.PermissionDenied, codes.Unauthenticated:
		if len(reasons) == 0 {
			reasons = []string{text}
		}
		return &Refused{Reasons: reasons}
	case codes.Unavailable:
		if kind == "session-over" {
			return said(ErrSessionOver, text)
		}
		return unavailable(text, handshake)
	case codes.DeadlineExceeded:
		return said(context.DeadlineExceeded, text)
	case codes.Canceled:
		return said(context.Canceled, text)
	}
	for _, w := range wire {
		if s.Code() == w.code {
			return said(w.is, text)
		}
	}
	if s.Code() == codes.ResourceExhausted {
		return said(ErrBadInput, text)
	}
	return said(ErrInternal, s.Code().String()+": "+text)
}

func unavailable(text string, handshake error) error {
	// The handshake remembered may be older than what failed now.
	if handshake == nil || !strings.Contains(text, "authentication handshake failed") {
		return said(ErrUnreachable, text)
	}
	if r, ok := errors.AsType[*channel.Refused](handshake); ok {
		reasons := make([]string, 0, len(r.Reasons))
		for _, x := range r.Reasons {
			reasons = append(reasons, x.Error())
		}
		return &Refused{Reasons: reasons, Cause: handshake}
	}
	return fmt.Errorf("%w: %w", ErrUnreachable, handshake)
}

// said keeps the sentinel for errors.Is and the peer's own text, which already names it most times.
func said(is error, text string) error {
	if text == "" || text == is.Error() {
		return is
	}
	return &peerError{is: is, text: text}
}

type peerError struct {
	is   error
	text string
}

func (e *peerError) Error() string {
	if strings.Contains(e.text, e.is.Error()) {
		return e.text
	}
	return e.is.Error() + ": " + e.text
}

func (e *peerError) Unwrap() error { return e.is }

func detail(s *status.Status) (kind string, reasons []string) {
	for _, d := range s.Details() {
		e, ok := d.(*consiliumv1.ErrorDetail)
		if !ok {
			continue
		}
		for _, r := range e.GetReasons()[:min(len(e.GetReasons()), maxReasons)] {
			reasons = append(reasons, clean(r))
		}
		return e.GetKind(), reasons
	}
	return "", nil
}

// clean makes a peer's text one bounded line without control characters, fit for a terminal.
func clean(s string) string {
	s = s[:min(len(s), maxReason)]
	return strings.Map(func(r rune) rune {
		if r < ' ' || (r >= 0x7f && r < 0xa0) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// isStatus tells an error of a call from one of the caller's own.
func isStatus(err error) bool {
	_, ok := status.FromError(err)
	return ok
}
