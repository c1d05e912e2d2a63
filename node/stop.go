package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/consilium-fl/consilium/internal/store"
	"github.com/consilium-fl/consilium/internal/study"
)

// stopFile holds the signed stop of a node that was told to stop for good: it never starts again.
const stopFile = "stop.json"

// Stop is a node's last act: it signs that it charges no more and where its ledger ends. What is returned
// goes into the enrolment of its successor, which takes the ledger over. The same node asked again gives the
// same statement.
//
// If the process dies before the file is written the node has not stopped; after it, New refuses.
func Stop(c Config, d Deps) (statement []byte, err error) {
	n, err := open(c, d)
	if err != nil {
		return nil, fmt.Errorf("stopping node %s/%s: %w", c.Hospital, c.Node, err)
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	if statement, err = n.stop(); err != nil {
		return nil, fmt.Errorf("stopping node %s/%s: %w", c.Hospital, c.Node, err)
	}
	return statement, nil
}

func (n *Node) stop() ([]byte, error) {
	if b, err := n.stopped(); b != nil || err != nil {
		return b, err
	}
	if len(n.ledgers) != 1 {
		return nil, fmt.Errorf("the configuration names %d registries, and a stop names the end of one ledger", len(n.ledgers))
	}
	e, err := n.deps.Consortium.ParseEnrolment(n.deps.Enrolment, n.deps.Now())
	if err != nil {
		return nil, err
	}
	var head [32]byte
	for _, l := range n.ledgers {
		head = l.Head()
	}
	s, err := study.NewStop(n.deps.Consortium.Name, n.config.Hospital, n.config.Node, e.Serial, head, n.deps.NodeKey)
	if err != nil {
		return nil, err
	}
	b := s.Encode()
	return b, store.WriteFile(filepath.Join(n.config.State, stopFile), b, 0o600)
}

// stopped is the node's signed stop, nil while it has none.
func (n *Node) stopped() ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(n.config.State, stopFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}
