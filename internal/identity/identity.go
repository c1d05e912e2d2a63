// Package identity names nodes by SPIFFE ids and makes the certificates that carry them: X.509-SVIDs
// of one hour (SPIFFE, "X.509-SVID") from an issuer whose key is made inside the coordinator's TEE,
// and self-signed leaves for keys that have none yet. All keys are Ed25519.
//
//	issuer, err := identity.NewIssuer("heart.example", key, now)
//	…
//	der, err := issuer.Issue(identity.NodeID{Consortium: "heart.example", Hospital: "va", Node: "1"}, nodeKey, now)
//	…
//	id, err := issuer.Check(leaf, now) // at the next connection
//
// An SVID opens the coordinator's door, and nothing else: hospitals check each other's enrolments,
// which their governance keys sign, so that a coordinator that mints a node is refused.
//
// Nothing here reads the clock.
package identity

import (
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// maxID bounds a SPIFFE id, in bytes (SPIFFE-ID, section 2.3).
const maxID = 2048

// NodeID is spiffe://<consortium>/hospital/<name>/node/<id>. Each part is one name: the consortium a
// trust domain (lower-case letters, digits, dots, dashes and underscores), the others one segment
// (upper-case letters too).
type NodeID struct{ Consortium, Hospital, Node string }

// String is the id as a URI. A NodeID whose parts are no such names gives a text that is no URI, and
// so equals no id.
func (n NodeID) String() string {
	id, err := n.id()
	if err != nil {
		return fmt.Sprintf("no node id: %v", err)
	}
	return id.String()
}

func (n NodeID) id() (spiffeid.ID, error) {
	td, err := trustDomain(n.Consortium)
	if err != nil {
		return spiffeid.ID{}, err
	}
	id, err := spiffeid.FromSegments(td, "hospital", n.Hospital, "node", n.Node)
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("hospital %q, node %q: %w", n.Hospital, n.Node, err)
	}
	if len(id.String()) > maxID {
		return spiffeid.ID{}, fmt.Errorf("%d bytes, want at most %d", len(id.String()), maxID)
	}
	return id, nil
}

// trustDomain takes a bare name. TrustDomainFromString would take the front of a whole id too.
func trustDomain(name string) (spiffeid.TrustDomain, error) {
	td, err := spiffeid.TrustDomainFromString(name)
	if err == nil && (td.Name() != name || len(name) > 255) {
		err = fmt.Errorf("want at most 255 bytes and no more than a name")
	}
	if err != nil {
		return spiffeid.TrustDomain{}, fmt.Errorf("consortium %q: %w", name, err)
	}
	return td, nil
}

// ParseNodeID reads what String wrote, and nothing else.
func ParseNodeID(uri string) (NodeID, error) {
	if len(uri) > maxID {
		return NodeID{}, fmt.Errorf("parsing node id: %d bytes, want at most %d", len(uri), maxID)
	}
	id, err := spiffeid.FromString(uri)
	if err != nil {
		return NodeID{}, fmt.Errorf("parsing node id %q: %w", uri, err)
	}
	s := strings.Split(id.Path(), "/")
	if len(s) != 5 || s[1] != "hospital" || s[3] != "node" {
		return NodeID{}, fmt.Errorf("parsing node id %q: want spiffe://CONSORTIUM/hospital/NAME/node/ID", uri)
	}
	n := NodeID{Consortium: id.TrustDomain().Name(), Hospital: s[2], Node: s[4]}
	if n.String() != uri {
		return NodeID{}, fmt.Errorf("parsing node id %q: written again it is %q", uri, n)
	}
	return n, nil
}
