package node

import (
	"cmp"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/store"
	"github.com/consilium-fl/consilium/internal/study"
	"github.com/consilium-fl/consilium/internal/terms"
)

// newest remembers, over restarts and for all studies, the enrolment of highest serial of each hospital:
// one node a hospital lives. A coordinator that brings back the key of a machine that was lost or replaced
// is refused by every node that saw the newer one.
type newest struct {
	consortium *study.Consortium

	mu    sync.Mutex
	cell  *store.Cell
	known map[string]serial          // by hospital
	good  map[string]study.Enrolment // by hospital: the file of known, once it was checked by this process
}

type serial struct {
	Hospital string   `cbor:"1,keyasint"`
	Serial   uint64   `cbor:"2,keyasint"`
	File     [32]byte `cbor:"3,keyasint"` // digest
}

func openNewest(path string, c *study.Consortium) (*newest, error) {
	cell, err := store.OpenCell(path)
	if err != nil {
		return nil, err
	}
	n := &newest{consortium: c, cell: cell, known: map[string]serial{}, good: map[string]study.Enrolment{}}
	b, err := cell.Load()
	var all []serial
	if err == nil && b != nil {
		err = signed.Decode(b, &all)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("reading the enrolments seen: %w", err), cell.Close())
	}
	for _, s := range all {
		n.known[s.Hospital] = s
	}
	return n, nil
}

// admit checks an enrolment file and that no newer one was seen. A newer one is durable before it counts.
// Every member checks every other's each round, so that a file is parsed once.
func (n *newest) admit(file []byte, at time.Time) (study.Enrolment, error) {
	digest := signed.Digest(file)
	n.mu.Lock()
	defer n.mu.Unlock()
	for hospital, e := range n.good {
		if n.known[hospital].File == digest && at.Before(e.Until) {
			return e, nil
		}
	}
	e, err := n.consortium.ParseEnrolment(file, at)
	if err != nil {
		return study.Enrolment{}, err
	}
	switch k := n.known[e.Hospital]; {
	case e.Serial < k.Serial:
		err = fmt.Errorf("serial %d was seen: another node has taken its place", k.Serial)
	case e.Serial == k.Serial && digest != k.File:
		err = errors.New("another file with this serial was seen")
	case e.Serial > k.Serial:
		err = n.remember(serial{Hospital: e.Hospital, Serial: e.Serial, File: digest})
	}
	if err != nil {
		return study.Enrolment{}, fmt.Errorf("admitting the enrolment of node %q of %q with serial %d: %w", e.Node, e.Hospital, e.Serial, err)
	}
	n.good[e.Hospital] = e
	return e, nil
}

func (n *newest) remember(s serial) error {
	next := maps.Clone(n.known)
	next[s.Hospital] = s
	b, err := signed.Encode(slices.SortedFunc(maps.Values(next), func(x, y serial) int { return cmp.Compare(x.Hospital, y.Hospital) }))
	if err == nil {
		err = n.cell.Store(b)
	}
	if err != nil {
		return err
	}
	n.known = next
	return nil
}

// keyring is the study's keyring with a memory.
type keyring struct {
	terms.Keyring
	newest *newest
}

// Member checks an enrolment file, and that it is the newest of its hospital.
func (k keyring) Member(enrolment []byte) (aggregate.MemberID, ed25519.PublicKey, error) {
	e, err := k.newest.admit(enrolment, k.At())
	if err != nil {
		return "", nil, err
	}
	return aggregate.MemberID(e.Hospital), e.NodeKey, nil
}

// succeed holds a node to the ledger of the one that it replaces. Where a stop names the ledger's final
// head, this node's first start has to find a ledger that ends there; without one nothing is known of
// what was charged, and each study whose log shows a charge is closed when the node reads it.
func (n *Node) succeed(e study.Enrolment) error {
	if e.Predecessor == nil {
		if e.Serial > 1 && n.unused() {
			n.log.Warn("the ledger begins anew: what the node before spent is known from the logs alone, so keep the approvals of its studies until this node has read them")
		}
		return nil
	}
	mark := filepath.Join(n.config.State, fmt.Sprintf("succeeded-%d", e.Predecessor.Serial))
	if _, err := os.Stat(mark); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, l := range n.ledgers {
		if l.Head() == e.Predecessor.Head {
			return store.WriteFile(mark, e.Predecessor.Head[:], 0o600)
		}
	}
	return fmt.Errorf("the enrolment says that node %q stopped with ledger head %x, and no ledger in the state folder ends there: copy the ledgers of that node, or enrol this one without its stop", e.Predecessor.Node, e.Predecessor.Head)
}

// unused says that nothing was ever charged here.
func (n *Node) unused() bool {
	for _, l := range n.ledgers {
		if l.Head() != ([32]byte{}) {
			return false
		}
	}
	return true
}
