package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/consilium-fl/consilium/internal/policy"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/transport"
)

// maxApproval bounds an approval file, in bytes.
const maxApproval = 64 << 10

// maxVerified bounds the approvals remembered.
const maxVerified = 256

// approvals reads the approvals folder: what the own governance key has signed, by study. A file that is
// no approval of this hospital is reported and counts for nothing. Removing a file is the veto.
func (n *Node) approvals() (map[[32]byte]study.Approval, error) {
	entries, err := os.ReadDir(n.config.Approvals)
	if err != nil {
		return nil, fmt.Errorf("reading the approvals folder: %w", err)
	}
	found := map[[32]byte]study.Approval{}
	for _, e := range entries {
		if e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		a, err := n.approval(filepath.Join(n.config.Approvals, e.Name()))
		switch {
		case errors.Is(err, fs.ErrNotExist): // removed meanwhile
		case err != nil:
			n.complain(e.Name(), err)
		case !n.deps.Now().Before(a.Until):
			n.complain(e.Name(), fmt.Errorf("the approval of study %s ended %s", study.Short(a.Study), a.Until.Format("2006-01-02")))
		default:
			found[a.Study] = a
		}
	}
	return found, nil
}

func (n *Node) approval(path string) (study.Approval, error) {
	info, err := os.Stat(path)
	if err != nil {
		return study.Approval{}, err
	}
	if info.Size() > maxApproval {
		return study.Approval{}, fmt.Errorf("the file has %d bytes, want at most %d", info.Size(), maxApproval)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return study.Approval{}, err
	}
	a, err := n.parseApproval(b)
	if err != nil {
		return study.Approval{}, err
	}
	if a.Hospital != n.config.Hospital {
		return study.Approval{}, fmt.Errorf("the approval is of hospital %q, want %q", a.Hospital, n.config.Hospital)
	}
	if _, ok := n.config.Registries[a.Dataset]; !ok {
		return study.Approval{}, fmt.Errorf("the approval is for registry %q, which this node's configuration does not name", a.Dataset)
	}
	return a, nil
}

// parseApproval verifies the same bytes once: each round reads them.
func (n *Node) parseApproval(b []byte) (study.Approval, error) {
	digest := signed.Digest(b)
	n.mu.Lock()
	a, ok := n.verified[digest]
	n.mu.Unlock()
	if ok {
		return a, nil
	}
	a, err := n.deps.Consortium.ParseApproval(b)
	if err != nil {
		return a, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.verified == nil || len(n.verified) == maxVerified {
		n.verified = map[[32]byte]study.Approval{}
	}
	n.verified[digest] = a
	return a, nil
}

// complain logs an approval file that does not count, or for "" the folder, once a change.
func (n *Node) complain(file string, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.complaints[file] == err.Error() {
		return
	}
	n.complaints[file] = err.Error()
	n.log.Warn("approval does not count", "file", file, "error", err)
}

// errVeto says that this hospital does not take part, by its steward or by its own policy. The node leaves:
// were it to stay connected, the others would wait for its answer until the deadline.
var errVeto = errors.New("not taking part")

// consents says whether this hospital takes part in a round under the session at hand: its approval is
// there and its own policy does not object. Any doubt is a refusal.
func (r *runner) consents(ctx context.Context) error {
	a, err := r.approved()
	if err != nil {
		return fmt.Errorf("%w: %w", errVeto, err)
	}
	return r.ask(ctx, r.request(a))
}

// approved finds this hospital's approval of the study.
func (r *runner) approved() (study.Approval, error) {
	as, err := r.node.approvals()
	if err != nil {
		return study.Approval{}, err
	}
	a, ok := as[r.digest]
	if !ok {
		return study.Approval{}, fmt.Errorf("this hospital's approval of study %s is not in the approvals folder any more", study.Short(r.digest))
	}
	return a, nil
}

func (r *runner) ask(ctx context.Context, q policy.Request) error {
	d, err := r.node.deps.Gate.Decide(ctx, q)
	switch {
	case err != nil:
		return fmt.Errorf("%w: asking the hospital's own policy: %w", errVeto, err)
	case !d.Allow:
		return fmt.Errorf("%w: the hospital's own policy refuses: %s", errVeto, strings.Join(d.Reasons, "; "))
	}
	return nil
}

func (r *runner) request(a study.Approval) policy.Request {
	st, session := r.terms.Study, r.attested
	return policy.Request{
		Method: policy.MethodTrain,
		Now:    r.node.deps.Now(),
		Session: policy.Session{
			Study: signed.DigestText(session.Study), Status: string(session.Result.Status),
			Simulated: session.Result.Claims.Simulated, Until: session.Until, Attestation: transport.Claims(session),
		},
		Target: policy.Target{Study: signed.DigestText(r.digest), Exists: true, State: transport.StateRunning, Members: st.Members, Lead: st.Lead, Release: st.Release.To, Hospitals: st.Release.Hospitals},
		Study: policy.Study{
			Hospital: r.node.config.Hospital, Approved: a.Study == r.digest, ApprovedUntil: a.Until,
			Dataset: a.Dataset, Registry: st.Data.Registry,
			From: st.From, Until: st.Until, EthicsUntil: st.Ethics.Until,
			Budget: affords(r.ledger, r.node.config.Registries[st.Data.Registry].Budget, r.terms),
			Title:  st.Title, Board: st.Ethics.Board, Rounds: st.Strategy.Rounds,
			Epsilon: st.Privacy.Epsilon, Delta: st.Privacy.Delta, Noise: st.Privacy.Noise, Mode: st.Aggregation.Mode,
		},
	}
}

// mayJoin says whether the node may connect for the study at all; of the study it knows the approval alone.
func (r *runner) mayJoin(ctx context.Context) error {
	a, err := r.approved()
	if err != nil {
		return fmt.Errorf("%w: %w", errVeto, err)
	}
	text := signed.DigestText(r.digest)
	if err := r.ask(ctx, policy.Request{
		Method: policy.MethodJoin, Now: r.node.deps.Now(),
		Session: policy.Session{Study: text}, Target: policy.Target{Study: text},
		Study: policy.Study{Hospital: r.node.config.Hospital, Approved: a.Study == r.digest, ApprovedUntil: a.Until, Dataset: a.Dataset, Registry: a.Dataset},
	}); err != nil {
		return err
	}
	r.approval, r.ledger = a, r.node.ledgers[a.Dataset].Ledger
	return nil
}

// awaitApproval waits until the node may join.
func (r *runner) awaitApproval(ctx context.Context) error {
	return r.until(ctx, func() bool { return false }, r.mayJoin)
}

// sitOut waits until the hospital consents again, or the session that its policy judged is over and
// another has to be judged.
func (r *runner) sitOut(ctx context.Context) error {
	return r.until(ctx, func() bool { return !r.node.deps.Now().Before(r.attested.Until) }, r.consents)
}

// until asks once a rescan, and logs each answer that is new.
func (r *runner) until(ctx context.Context, enough func() bool, allows func(context.Context) error) error {
	said := ""
	for {
		err := allows(ctx)
		if err == nil || enough() {
			return nil
		}
		if ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			r.log.Warn("away until the hospital consents", "error", err)
		}
		t := time.NewTimer(rescan)
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-t.C:
		}
	}
}
