package study

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"time"

	"github.com/consilium-fl/consilium/internal/signed"
)

// encodeStatement writes the JSON of a statement in its one form: fields in the order of the struct, no spaces.
func encodeStatement(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic("study: a statement of strings and integers always encodes: " + err.Error())
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// decodeStatement refuses every text but the one that encodeStatement writes, so that unknown, duplicate,
// reordered and differently cased keys are all errors.
func decodeStatement(payload []byte, v any) error {
	if err := json.Unmarshal(payload, v); err != nil {
		return err
	}
	if !bytes.Equal(encodeStatement(v), payload) {
		return fmt.Errorf("the statement is not in canonical form (unknown, repeated or reordered keys, spaces, escapes)")
	}
	return nil
}

func signStatement(payloadType string, v any, key ed25519.PrivateKey) ([]byte, error) {
	e, err := signed.SignEnvelope(payloadType, encodeStatement(v), key)
	if err != nil {
		return nil, err
	}
	return e.Encode(), nil
}

// onlySignedBy wants exactly one signature, that of key.
func onlySignedBy(e signed.Envelope, key ed25519.PublicKey) error {
	if len(e.Signatures) != 1 {
		return fmt.Errorf("got %d signatures, want one", len(e.Signatures))
	}
	return allGood(e, map[string]ed25519.PublicKey{signed.KeyID(key): key})
}

// stamp is the text of a time in statements: UTC, whole seconds.
func stamp(t time.Time) string { return t.UTC().Truncate(time.Second).Format(time.RFC3339) }

func parseStamp(s string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil || stamp(t) != s {
		return time.Time{}, fmt.Errorf("time %s, want UTC in whole seconds such as 2027-05-01T00:00:00Z", quote(s))
	}
	return t.UTC(), nil
}
