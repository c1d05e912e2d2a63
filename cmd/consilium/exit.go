package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/consilium-fl/consilium/attest/channel"
	"github.com/consilium-fl/consilium/dp"
	"github.com/consilium-fl/consilium/internal/simulation"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/transport"
)

// The exit codes of all three commands.
const (
	exitDone        = 0
	exitOurs        = 1
	exitUsage       = 2
	exitBadInput    = 3
	exitRefused     = 4
	exitUnverified  = 5
	exitUnreachable = 6
	exitShort       = 7
	exitInterrupted = 130
)

// usageError is about the command line.
type usageError struct {
	command string
	err     error
}

func (u usageError) Error() string { return u.err.Error() }

func (u usageError) Unwrap() error { return u.err }

func usage(c *cobra.Command, format string, args ...any) error {
	return usageError{c.CommandPath(), fmt.Errorf(format, args...)}
}

// badInput is what a person has to mend in a file.
type badInput struct{ error }

func (b badInput) Unwrap() error { return b.error }

func bad(format string, args ...any) error { return badInput{fmt.Errorf(format, args...)} }

var (
	errUnverified = errors.New("verification failed")
	errShort      = errors.New("the study ended before its last round")
	errRefused    = errors.New("refused")
	errVendor     = errors.New("a vendor's service did not answer")
)

// hinted carries the next step beside an error.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

func hint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return hinted{err, fmt.Sprintf(format, args...)}
}

// exits is the one table from errors to exit codes, with the next step where the error brings none. The first line that holds
// counts.
var exits = []struct {
	code int
	is   func(error) bool
	hint string
}{
	{exitUsage, isA[usageError], ""},
	{exitUnverified, is(errUnverified), "do not use the model: keep the folder as it is, and show the lines above to the hospitals and the operator"},
	{exitShort, is(errShort, simulation.ErrShort), "the last released model can be used within its receipt; a new study spends new privacy"},
	{exitRefused, is(study.ErrApprovals), "each hospital signs with `consilium study approve`"},
	{exitRefused, is(dp.ErrBudget), "the registry's lifetime budget is in the hospital's node.yaml"},
	{exitBadInput, unknownStudy, knownStudies},
	{exitRefused, isA[*channel.Refused], "compare consortium.yaml, its pinned digest, the trust folder and the manifests of reference values with what the other side runs"},
	{exitRefused, isA[*transport.Refused], "the reasons above are the other side's; the log has the refusal too"},
	{exitRefused, is(transport.ErrConflict, errRefused), ""},
	{exitBadInput, isA[study.Problems], "mend the lines named above and run the command again"},
	{exitBadInput, isA[badInput], ""},
	{exitBadInput, isA[simulation.BadInput], ""},
	{exitBadInput, is(transport.ErrBadInput), ""},
	{exitBadInput, is(transport.ErrNotFound), knownStudies},
	{exitBadInput, is(syscall.EADDRINUSE), "another process listens there: choose another address with --listen"},
	{exitBadInput, is(fs.ErrNotExist, fs.ErrExist, fs.ErrPermission), ""},
	{exitUnreachable, is(errVendor), ""},
	{exitUnreachable, is(transport.ErrUnreachable, transport.ErrSessionOver), "check the coordinator's address and that it runs; --wait 1m keeps trying"},
	{exitUnreachable, is(transport.ErrTooLate, context.DeadlineExceeded), ""},
}

const knownStudies = "`consilium study list` shows what the coordinator knows"

// unknownStudy is the refusal of a connection for a study that the coordinator does not have.
func unknownStudy(err error) bool {
	r, ok := errors.AsType[*channel.Refused](err)
	return ok && len(r.Reasons) == 1 && r.Reasons[0].Code == channel.CodeStudyUnknown
}

func is(targets ...error) func(error) bool {
	return func(err error) bool {
		for _, t := range targets {
			if errors.Is(err, t) {
				return true
			}
		}
		return false
	}
}

func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// judge returns the exit code of an error and the next step.
func judge(ctx context.Context, err error) (code int, next string) {
	if err == nil {
		return exitDone, ""
	}
	if ctx.Err() != nil { // whatever failed because of it
		return exitInterrupted, ""
	}
	if h, ok := errors.AsType[hinted](err); ok {
		next = h.hint
	}
	for _, e := range exits {
		if e.is(err) {
			if next == "" {
				next = e.hint
			}
			return e.code, next
		}
	}
	if next == "" {
		next = "this is a fault of consilium: please report it with the command that you ran"
	}
	return exitOurs, next
}

// explain prints the message and the next step, and returns the exit code.
func (a *app) explain(ctx context.Context, err error) int {
	code, next := judge(ctx, err)
	if err == nil {
		return code
	}
	if code == exitInterrupted {
		a.tell("consilium: interrupted; what was not finished was removed")
		return code
	}
	name := "consilium"
	if u, ok := errors.AsType[usageError](err); ok {
		name, next = u.command, "`"+u.command+" --help` has the flags and an example"
		if h, ok := errors.AsType[hinted](err); ok {
			next = h.hint
		}
	}
	text := " " + strings.TrimSpace(err.Error())
	if strings.Contains(text, "\n") { // many problems: each on a line of its own
		text = "\n " + strings.ReplaceAll(text, "\n", "\n  ")
	}
	a.tell("%s:%s", name, text)
	if next != "" {
		a.tell("hint: %s", next)
	}
	return code
}
