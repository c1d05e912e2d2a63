package aggregate

import "fmt"

// VerifyPrefix checks a Plan and what answers it, as far as there is any, up to a Certificate: what
// VerifyTranscript checks before a Result. Called with one message more at a time it finds the first
// that does not hold.
func VerifyPrefix(messages []Signed, keys Keyring) error {
	if _, err := checkChain(messages, keys); err != nil {
		return fmt.Errorf("verifying the start of a transcript: %w", err)
	}
	return nil
}
