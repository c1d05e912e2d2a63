package terms

import (
	"crypto/ed25519"
	"fmt"
	"sync"
	"time"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/study"
)

// Keyring checks members by a consortium file and the coordinator by the protocol key that its evidence
// bound. It implements aggregate.Keyring.
type Keyring struct {
	Consortium *study.Consortium
	Protocol   ed25519.PublicKey
	At         func() time.Time
	// Known remembers enrolment files that were good: every member checks every other's each round. May be
	// nil.
	Known *Known
}

// Coordinator returns the protocol key.
func (k Keyring) Coordinator() ed25519.PublicKey { return k.Protocol }

// Member checks an enrolment file.
func (k Keyring) Member(enrolment []byte) (aggregate.MemberID, ed25519.PublicKey, error) {
	at, digest := k.At(), signed.Digest(enrolment)
	e, ok := k.Known.get(digest)
	if !ok {
		var err error
		if e, err = k.Consortium.ParseEnrolment(enrolment, at); err != nil {
			return "", nil, err
		}
		k.Known.put(digest, e)
	}
	if !at.Before(e.Until) {
		return "", nil, fmt.Errorf("the enrolment of node %q of %q ended at %s", e.Node, e.Hospital, e.Until.UTC().Format(time.RFC3339))
	}
	return aggregate.MemberID(e.Hospital), e.NodeKey, nil
}

// Known is a memory of good enrolment files by digest, for one consortium. Whether they have ended is
// asked each time.
type Known struct {
	mu    sync.Mutex
	files map[[32]byte]study.Enrolment
}

// mostKnown bounds the memory: far more than there are members, of several enrolments each.
const mostKnown = 1024

func (k *Known) get(digest [32]byte) (study.Enrolment, bool) {
	if k == nil {
		return study.Enrolment{}, false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	e, ok := k.files[digest]
	return e, ok
}

func (k *Known) put(digest [32]byte, e study.Enrolment) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.files == nil || len(k.files) >= mostKnown {
		k.files = map[[32]byte]study.Enrolment{}
	}
	k.files[digest] = e
}
