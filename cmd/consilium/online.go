package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/consilium-fl/consilium/internal/person"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/terms"
	"github.com/consilium-fl/consilium/internal/transport"
)

// onlineFlags are of every command that speaks to the coordinator.
func (a *app) onlineFlags(c *cobra.Command) {
	c.Flags().StringVar(&a.config, "config", "consilium.yaml", "configuration `FILE`: coordinator, consortium, trust, person, key")
	c.Flags().DurationVar(&a.wait, "wait", 0, "how long to try a coordinator that cannot be reached")
}

// dial connects for one study, or, with a zero digest, for the consortium.
func (a *app) dial(ctx context.Context, digest [32]byte) (*person.Person, *transport.Client, error) {
	c, err := person.ReadConfig(a.config)
	if err != nil {
		return nil, nil, hint(badInput{err}, "--config names the file that says where the coordinator is and who you are; deploy/samples/consilium.yaml is one")
	}
	p, err := person.Open(c)
	if err != nil {
		return nil, nil, badInput{fmt.Errorf("%s: %w", a.config, err)}
	}
	if digest == ([32]byte{}) {
		digest = p.Consortium.Digest
	}
	client, err := p.Dial(digest)
	if err != nil {
		return nil, nil, err
	}
	if err := a.reach(ctx, client); err != nil {
		return nil, nil, errors.Join(err, client.Close())
	}
	return p, client, nil
}

// reach waits, as long as it was told to, for a coordinator that cannot be reached yet.
func (a *app) reach(ctx context.Context, client *transport.Client) error {
	if a.wait <= 0 {
		return nil
	}
	last := a.now().Add(a.wait)
	for {
		err := client.Healthy(ctx)
		if !errors.Is(err, transport.ErrUnreachable) {
			return err
		}
		if !pause(ctx, 100*time.Millisecond) || a.now().After(last) {
			return fmt.Errorf("waiting %s for the coordinator: %w", a.wait, err)
		}
	}
}

// pause waits, and reports false when ctx ended before.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// online connects and does one thing.
func (a *app) online(ctx context.Context, digest [32]byte, do func(*person.Person, *transport.Client) error) (err error) {
	p, client, err := a.dial(ctx, digest)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	return do(p, client)
}

// statusResult is how a study stands, by the coordinator's word.
type statusResult struct {
	Study         string   `json:"study"`
	Title         string   `json:"title"`
	State         string   `json:"state"`
	Why           string   `json:"why,omitempty"`
	Members       []string `json:"members"`
	Approvals     []string `json:"approvals"`
	Needed        int      `json:"approvals_needed"`
	Rounds        int      `json:"rounds"`
	RoundsClosed  uint64   `json:"rounds_closed"`
	RoundsCharged uint64   `json:"rounds_charged"`
}

// status reads the study's file from what the coordinator sent, and believes it only by its digest.
func status(i transport.StudyInfo) (statusResult, *study.Study, error) {
	if signed.Digest(i.File) != i.Digest {
		return statusResult{}, nil, fmt.Errorf("reading study %s: the coordinator sent another file: %w", study.Short(i.Digest), transport.ErrInternal)
	}
	s, err := study.Parse(i.File)
	if err != nil {
		return statusResult{}, nil, fmt.Errorf("reading study %s: %w", study.Short(i.Digest), err)
	}
	return statusResult{
		Study: signed.DigestText(i.Digest), Title: s.Title, State: i.State, Why: i.Why, Members: s.Members,
		Approvals: i.Approvals, Needed: s.Approvals, Rounds: s.Strategy.Rounds, RoundsClosed: i.RoundsClosed, RoundsCharged: i.RoundsCharged,
	}, s, nil
}

func (r statusResult) String() string {
	var b strings.Builder
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-12s%s\n", name, fmt.Sprintf(format, args...))
	}
	row("study", "%s", r.Title)
	row("digest", "%s", r.Study)
	row("state", "%s", r.says())
	row("approvals", "%d of %d: %s", len(r.Approvals), r.Needed, strings.Join(r.Approvals, ", "))
	row("rounds", "%d of %d closed, %d charged", r.RoundsClosed, r.Rounds, r.RoundsCharged)
	return b.String()
}

func (r statusResult) says() string {
	if r.Why == "" {
		return r.State
	}
	return r.State + ": " + r.Why
}

func (a *app) showOnline(ctx context.Context, arg string) error {
	digest, err := digestOf(arg)
	if err != nil {
		return err
	}
	return a.online(ctx, digest, func(_ *person.Person, client *transport.Client) error {
		i, err := client.GetStudy(ctx, digest)
		if err != nil {
			return fmt.Errorf("asking for study %s: %w", study.Short(digest), err)
		}
		r, _, err := status(i)
		if err != nil {
			return err
		}
		return a.print(r, r.String())
	})
}

func (a *app) studySubmit() *cobra.Command {
	c := &cobra.Command{
		Use:     "submit FILE",
		Short:   "Submit a study to the coordinator, signed by its lead",
		Example: "  consilium study submit study.yaml --config consilium.yaml",
		Args:    takes("FILE"),
		RunE:    func(c *cobra.Command, args []string) error { return a.submit(c.Context(), args[0]) },
	}
	a.onlineFlags(c)
	return c
}

func (a *app) submit(ctx context.Context, file string) error {
	s, err := readStudy(file)
	if err != nil {
		return err
	}
	return a.online(ctx, [32]byte{}, func(p *person.Person, client *transport.Client) error {
		if err := s.Check(p.Consortium, a.now()); err != nil {
			return place(file, err)
		}
		if _, err := terms.New(p.Consortium, s); err != nil {
			return place(file, err)
		}
		if s.Lead != p.Name {
			return bad("submitting %s: its lead is %q, %s is the configuration of %q", file, s.Lead, a.config, p.Name)
		}
		signature, err := study.SignStudy(s.Raw, p.Key)
		if err != nil {
			return err
		}
		digest, err := client.CreateStudy(ctx, s.Raw, signature)
		if err != nil {
			return fmt.Errorf("submitting %s: %w", file, err)
		}
		if digest != s.Digest {
			return fmt.Errorf("submitting %s: the coordinator answered with study %s: %w", file, signed.DigestText(digest), transport.ErrInternal)
		}
		a.tell("next: %d of %s sign with `consilium study approve`", s.Approvals, strings.Join(s.Members, ", "))
		text := signed.DigestText(digest)
		return a.print(map[string]any{"study": text, "approvals_needed": s.Approvals}, text+"\n")
	})
}

func (a *app) studyList() *cobra.Command {
	c := &cobra.Command{
		Use:     "list",
		Short:   "List the studies of the coordinator",
		Example: "  consilium study list --config consilium.yaml",
		Args:    takes(),
		RunE:    func(c *cobra.Command, _ []string) error { return a.list(c.Context()) },
	}
	a.onlineFlags(c)
	return c
}

func (a *app) list(ctx context.Context) error {
	return a.online(ctx, [32]byte{}, func(_ *person.Person, client *transport.Client) error {
		infos, err := client.ListStudies(ctx)
		if err != nil {
			return fmt.Errorf("listing studies: %w", err)
		}
		all := []statusResult{}
		t := grid{head: []string{"state", "approvals", "rounds", "title", "digest"}}
		for _, i := range infos {
			r, _, err := status(i)
			if err != nil {
				return err
			}
			all = append(all, r)
			t.add(r.State, fmt.Sprintf("%d of %d", len(r.Approvals), r.Needed), fmt.Sprintf("%d of %d", r.RoundsClosed, r.Rounds), r.Title, r.Study)
		}
		return a.print(all, t.String())
	})
}

func (a *app) studyCancel() *cobra.Command {
	var why string
	c := &cobra.Command{
		Use:     "cancel DIGEST|FILE --why TEXT",
		Short:   "End a study before its rounds are done",
		Long:    "Ends a study for good: what was charged stays charged, and no model is released afterwards. The reason goes into the log's words for all members.",
		Example: "  consilium study cancel study.yaml --why \"the ethics board has withdrawn its approval\"",
		Args:    takes("DIGEST|FILE"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := required(c, "why"); err != nil {
				return err
			}
			return a.cancel(c.Context(), args[0], why)
		},
	}
	c.Flags().StringVar(&why, "why", "", "`TEXT` that all members will read")
	a.onlineFlags(c)
	return c
}

func (a *app) cancel(ctx context.Context, arg, why string) error {
	digest, err := digestOf(arg)
	if err != nil {
		return err
	}
	return a.online(ctx, digest, func(_ *person.Person, client *transport.Client) error {
		if err := client.CancelStudy(ctx, digest, why); err != nil {
			return fmt.Errorf("cancelling study %s: %w", study.Short(digest), err)
		}
		text := signed.DigestText(digest)
		return a.print(map[string]string{"study": text, "state": transport.StateCancelled}, "cancelled "+text+"\n")
	})
}
