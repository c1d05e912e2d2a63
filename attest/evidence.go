package attest

import (
	"context"
	"strconv"
	"strings"
)

// Format names how evidence is written and verified, with a version: "sim/1".
type Format string

// TEE is the kind of machine that makes evidence of this format, as a Posture names it: the format without its
// version.
func (f Format) TEE() string {
	kind, _, _ := strings.Cut(string(f), "/")
	return kind
}

// MaxEvidence bounds one Evidence, all its parts together, in bytes.
const MaxEvidence = 256 << 10

// maxPath bounds the Merkle path: one quote answers at most 2^16 bindings.
const maxPath = 16

// Evidence is what a TEE says about itself, with hints for whoever verifies it.
type Evidence struct {
	Format    Format `cbor:"1,keyasint"`
	Statement []byte `cbor:"2,keyasint"` // what the hardware signed
	// Path leads from one Binding to the Merkle root that the statement carries; empty when
	// the statement answers one binding.
	Path [][32]byte `cbor:"3,keyasint"`
	// Endorsements are certificates and the like, by name. They are hints: a verifier trusts
	// them after a chain to its own Snapshot.
	Endorsements map[string][]byte `cbor:"4,keyasint"`
}

// EventLog and CCEL name among Evidence.Endorsements the log of what was measured, by a TPM or into the registers of
// a TD. It has a bound of its own, MaxEventLog; on a connection that is for both together.
const (
	EventLog    = "event-log"
	CCEL        = "ccel"
	MaxEventLog = 4 << 20 // bytes
)

// size counts the bytes that the bound is about.
func (e Evidence) size() int {
	n := len(e.Format) + len(e.Statement) + 32*len(e.Path)
	for name, b := range e.Endorsements {
		if name != EventLog && name != CCEL {
			n += len(name) + len(b)
		}
	}
	return n
}

func (e Evidence) check() []Reason {
	var rs []Reason
	if n := e.size(); n > MaxEvidence {
		rs = append(rs, Reason{Code: CodeParseLength, Path: "evidence", Got: strconv.Itoa(n), Want: "at most " + strconv.Itoa(MaxEvidence)})
	}
	for _, name := range []string{EventLog, CCEL} {
		if n := len(e.Endorsements[name]); n > MaxEventLog {
			rs = append(rs, Reason{Code: CodeParseLength, Path: "evidence.endorsements." + name, Got: strconv.Itoa(n), Want: "at most " + strconv.Itoa(MaxEventLog)})
		}
	}
	if n := len(e.Path); n > maxPath {
		rs = append(rs, Reason{Code: CodeParseLength, Path: "evidence.path", Got: strconv.Itoa(n), Want: "at most " + strconv.Itoa(maxPath)})
	}
	return rs
}

// Role is what a party is on a connection.
type Role string

// The roles. A person never attests; it only appraises.
const (
	RoleCoordinator Role = "coordinator"
	RoleNode        Role = "node"
	RolePerson      Role = "person"
)

// Attester makes evidence inside a TEE. It takes a Binding and no raw report data, so that
// nothing unbound can be attested.
type Attester interface {
	Attest(ctx context.Context, b Binding) (Evidence, error)
}

// Finding is one thing that the probe of a TEE looked at on this machine, in a sentence for people.
type Finding struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	Text string `json:"text"`
}
