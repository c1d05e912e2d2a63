//go:build !nosim

package pinned

import (
	"fmt"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/simtee"
	"github.com/consilium-fl/consilium/internal/store"
)

// simulated is the verifier of simulated evidence. Built with the tag nosim, a binary has none, and no policy and no
// flag makes it take such evidence.
func simulated() []attest.Verifier { return []attest.Verifier{simtee.NewVerifier()} }

func simAttester(rootFile string, role attest.Role, machine string) (attest.Attester, error) {
	b, err := store.ReadPrivate(rootFile)
	if err != nil {
		return nil, fmt.Errorf("reading the simulated root key: %w", err)
	}
	root, err := simtee.ParseRoot(b)
	if err != nil {
		return nil, fmt.Errorf("reading the simulated root key: %w", err)
	}
	return simtee.NewAttester(root, role, machine), nil
}
