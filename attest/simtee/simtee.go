package simtee

import (
	"context"
	"crypto/ecdsa"
	"fmt"
	"time"

	"github.com/consilium-fl/consilium/attest"
)

// Codes of this format's own reasons.
const (
	CodeParse     = "parse.statement"
	CodeAnchor    = "chain"       // no root to verify by
	CodeSignature = "sig.invalid" // not by that root
	CodeTime      = "cert.time"   // not valid yet
)

// A statement holds for a day, as a chip's certificate holds for years: what ends a session is
// the policy. skew lets a verifier's clock be behind.
const (
	validity = 24 * time.Hour
	skew     = 5 * time.Minute
)

type attester struct {
	root    *ecdsa.PrivateKey
	role    attest.Role
	machine string
}

// NewAttester makes the TEE of one machine ("chip:…") that runs the code of role. It reads the
// wall clock, as a machine does.
func NewAttester(root *ecdsa.PrivateKey, role attest.Role, machine string) attest.Attester {
	return &attester{root: root, role: role, machine: machine}
}

// Attest makes one quote for one binding.
func (a *attester) Attest(ctx context.Context, b attest.Binding) (attest.Evidence, error) {
	if err := ctx.Err(); err != nil {
		return attest.Evidence{}, fmt.Errorf("attesting by a simulated TEE: %w", err)
	}
	data, err := b.ReportData(nil)
	if err != nil {
		return attest.Evidence{}, fmt.Errorf("attesting by a simulated TEE: %w", err)
	}
	now := time.Now()
	st, err := statement{
		Magic: magic, Measurement: Measurement(a.role), ReportData: data, Machine: a.machine,
		NotBefore: now.Add(-skew).Unix(), NotAfter: now.Add(validity).Unix(),
	}.sign(a.root)
	if err != nil {
		return attest.Evidence{}, fmt.Errorf("attesting by a simulated TEE: %w", err)
	}
	return attest.Evidence{Format: Format, Statement: st}, nil
}

type verifier struct{}

// NewVerifier makes the verifier of sim/1. It finds the root in the snapshot, under AnchorFile.
func NewVerifier() attest.Verifier { return verifier{} }

func (verifier) Format() attest.Format { return Format }

// Verify authenticates one quote by the root.
func (verifier) Verify(e attest.Evidence, in attest.Inputs) (attest.Unappraised, error) {
	s, q, err := parse(e.Statement)
	if err != nil {
		return attest.Unappraised{}, attest.Reason{Code: CodeParse, Path: "statement", Got: err.Error()}
	}
	if len(e.Endorsements) != 0 {
		return attest.Unappraised{}, attest.Reason{Code: CodeParse, Path: "endorsements", Got: fmt.Sprint(len(e.Endorsements)), Want: "none"}
	}
	file, ok := in.Trust.File(AnchorFile)
	if !ok {
		return attest.Unappraised{}, attest.Reason{Code: CodeAnchor, Path: AnchorFile, Got: "absent", Want: "the simulated root"}
	}
	root, err := ParseAnchor(file)
	if err != nil {
		return attest.Unappraised{}, attest.Reason{Code: CodeAnchor, Path: AnchorFile, Got: err.Error()}
	}
	if !q.signedBy(root) {
		return attest.Unappraised{}, attest.Reason{Code: CodeSignature, Path: "statement"}
	}
	if from := time.Unix(s.NotBefore, 0); in.Now.Before(from) {
		return attest.Unappraised{}, attest.Reason{Code: CodeTime, Path: "not_before", Got: from.UTC().Format(time.RFC3339), Want: "at most " + in.Now.UTC().Format(time.RFC3339)}
	}
	return attest.Unappraise(attest.Claims{
		Format: Format, Measurement: attest.SHA256Measurement(s.Measurement), Machine: s.Machine, Debug: s.Debug,
		Simulated: true, NotAfter: time.Unix(s.NotAfter, 0).UTC(), ReportData: s.ReportData,
	}), nil
}
