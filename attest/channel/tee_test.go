package channel

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/consilium-fl/consilium/attest"
	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/attest/window"
)

// chip is hardware as far as a channel can tell: a P-384 key that the snapshot knows by the machine's name, quotes
// that take their time, one after the other, and a revocation list.
type chip struct {
	t       testing.TB
	key     *ecdsa.PrivateKey
	machine string
	takes   time.Duration
}

const chipFormat attest.Format = "chip/1"

func newChip(t testing.TB, machine string, takes time.Duration) *chip {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &chip{t: t, key: key, machine: machine, takes: takes}
}

func (c *chip) quote(ctx context.Context, data [64]byte) (attest.Evidence, error) {
	select {
	case <-time.After(c.takes):
	case <-ctx.Done():
		return attest.Evidence{}, context.Cause(ctx)
	}
	digest := sha512.Sum384(append(data[:], c.machine...))
	sig, err := ecdsa.SignASN1(rand.Reader, c.key, digest[:])
	return attest.Evidence{Format: chipFormat, Statement: append(data[:], c.machine...), Endorsements: map[string][]byte{"signature": sig}}, err
}

func (c *chip) attester() *window.Attester {
	a := window.New(c.quote)
	c.t.Cleanup(func() { _ = a.Close() })
	return a
}

// trusting is a snapshot that endorses chips and revokes machines.
func trusting(t testing.TB, revoked []string, chips ...*chip) *endorse.Snapshot {
	t.Helper()
	files := map[string][]byte{"revoked": []byte(strings.Join(revoked, "\n"))}
	for _, c := range chips {
		der, err := x509.MarshalPKIXPublicKey(c.key.Public())
		if err != nil {
			t.Fatal(err)
		}
		files[c.machine] = der
	}
	s, err := endorse.New(files)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

type chipVerifier struct{}

func (chipVerifier) Format() attest.Format { return chipFormat }

func (chipVerifier) Verify(e attest.Evidence, in attest.Inputs) (attest.Unappraised, error) {
	machine := string(e.Statement[64:])
	der, ok := in.Trust.File(machine)
	if !ok {
		return attest.Unappraised{}, attest.Reason{Code: attest.CodeChain, Path: "machine"}
	}
	key, err := x509.ParsePKIXPublicKey(der)
	digest := sha512.Sum384(e.Statement)
	if err != nil || !ecdsa.VerifyASN1(key.(*ecdsa.PublicKey), digest[:], e.Endorsements["signature"]) {
		return attest.Unappraised{}, attest.Reason{Code: attest.CodeSignature, Path: "signature"}
	}
	list, _ := in.Trust.File("revoked")
	if slices.Contains(strings.Split(string(list), "\n"), machine) {
		return attest.Unappraised{}, attest.Reason{Code: attest.CodeRevoked, Path: "machine"}
	}
	return attest.Unappraise(attest.Claims{
		Format: chipFormat, Measurement: image, Machine: "chip:" + machine, Generation: "test",
		NotAfter: in.Now.Add(24 * time.Hour), ReportData: [64]byte(e.Statement),
	}), nil
}

var image = attest.SHA256Measurement([32]byte{1})

// onChips is a federation whose coordinator and nodes run on chips that it endorses.
func (f *federation) onChips(trust func() *endorse.Snapshot, policy func() attest.Policy) func(testing.TB, attest.Role, *chip) Config {
	posture := attest.Posture{Consortium: f.consortium, Policy: f.rego, TEE: "chip"}
	return func(t testing.TB, role attest.Role, c *chip) Config {
		config := f.config(t, role)
		config.Attester = c.attester()
		config.Posture = func([32]byte) (attest.Posture, error) { return posture, nil }
		config.Verifiers = attest.NewVerifiers(chipVerifier{})
		config.Peer = func([32]byte) (Expect, error) {
			p := policy()
			p.Role = attest.RoleCoordinator
			if role == attest.RoleCoordinator {
				p.Role = attest.RoleNode
			}
			e := f.expect(p.Role)
			e.Policies, e.Trust, e.Posture.Insecure, e.Posture.TEE = []attest.Policy{p}, trust(), nil, []string{"chip"}
			return e, nil
		}
		return config
	}
}

func anyChip() attest.Policy {
	return attest.Policy{Accept: []attest.Format{chipFormat}, Measurements: attest.SetOf(image), Machines: attest.AnySet()}
}
