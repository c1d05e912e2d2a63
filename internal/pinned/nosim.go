//go:build nosim

package pinned

import (
	"errors"

	"github.com/consilium-fl/consilium/attest"
)

func simulated() []attest.Verifier { return nil }

func simAttester(string, attest.Role, string) (attest.Attester, error) {
	return nil, errors.New("this program was built without simulated TEEs")
}
