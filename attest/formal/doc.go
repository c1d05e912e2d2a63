// Package formal holds no code, but a model of the attested handshake of attest/channel
// (binding.maude) and the test that searches it: over all fields of attest.Binding no attack is
// found, and over all but one of them there is one, whichever is left out. README.md tells which.
package formal
