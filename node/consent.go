package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/consilium-fl/consilium/internal/policy"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/transport"
)

// maxApproval bounds an approval file, in bytes.
const maxApproval = 64 << 10

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
		case a.Until.Before(n.deps.Now()):
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
	a, err := n.deps.Consortium.ParseApproval(b)
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

// complain logs an approval file that does not count, once a change.
func (n *Node) complain(file string, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.complaints[file] == err.Error() {
		return
	}
	n.complaints[file] = err.Error()
	n.log.Warn("approval does not count", "file", file, "error", err)
}

// consents says whether this hospital still takes part in the study, in a round under this session: its
// approval is there and its own policy does not object. Any doubt is a refusal.
func (s *serving) consents(ctx context.Context) error {
	as, err := s.node.approvals()
	if err != nil {
		return err
	}
	a, ok := as[s.digest]
	if !ok {
		return fmt.Errorf("this hospital's approval of study %s is not in the approvals folder any more", study.Short(s.digest))
	}
	d, err := s.node.deps.Gate.Decide(ctx, s.request(a))
	if err != nil {
		return fmt.Errorf("asking the hospital's own policy: %w", err)
	}
	if !d.Allow {
		return fmt.Errorf("the hospital's own policy refuses: %s", strings.Join(d.Reasons, "; "))
	}
	return nil
}

func (s *serving) request(a study.Approval) policy.Request {
	st, session := s.terms.Study, s.conn.attested()
	return policy.Request{
		Method: policy.MethodTrain,
		Now:    s.node.deps.Now(),
		Session: policy.Session{
			Study: signed.DigestText(session.Study), Status: string(session.Result.Status),
			Simulated: session.Result.Claims.Simulated, Until: session.Until,
		},
		Target: policy.Target{Study: signed.DigestText(s.digest), Exists: true, State: transport.StateRunning, Members: st.Members, Lead: st.Lead, Release: st.Release.To, Hospitals: st.Release.Hospitals},
		Study: policy.Study{
			Hospital: s.node.config.Hospital, Approved: a.Study == s.digest, ApprovedUntil: a.Until,
			Dataset: a.Dataset, Registry: st.Data.Registry,
			From: st.From, Until: st.Until, EthicsUntil: st.Ethics.Until, Budget: s.affordable(),
			Title: st.Title, Board: st.Ethics.Board, Rounds: st.Strategy.Rounds,
			Epsilon: st.Privacy.Epsilon, Delta: st.Privacy.Delta, Noise: st.Privacy.Noise, Mode: st.Aggregation.Mode,
		},
	}
}

// affordable says whether the ledger still covers a charge of this study: the charge itself decides, this
// only lets the hospital say no before it trains.
func (s *serving) affordable() bool {
	if n := s.ledger.Charges(s.digest); n > 0 {
		return n < uint64(s.terms.Charges)
	}
	life, used := s.node.config.Registries[s.approval.Dataset].Budget, s.ledger.Reserved()
	p := s.terms.Study.Privacy
	return used.Epsilon+p.Epsilon <= life.Epsilon && used.Delta+p.Delta <= life.Delta
}
