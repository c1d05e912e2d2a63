// Package confspace attests and verifies containers in Google's Confidential Space, by the token that Google's
// attestation service signs after it has looked at the machine:
//
//	verifiers := attest.NewVerifiers(confspace.NewVerifier(), confspace.NewOIDCVerifier())
//	evidence, err := confspace.NewAttester(confspace.Socket, "https://coordinator.example").Attest(ctx, binding)
//
// A PKI token (gcp-cs-pki/1) brings its chain of three certificates, whose root has to lie in the trust snapshot;
// no network is needed to verify it, and it is the one to ask for. An OIDC token (gcp-cs-oidc/1) is verified by a JWKS
// in the snapshot, which has to follow Google's keys: keep no other issuer's there, for a set does not say whose it is.
//
// The token is Google's word. On Intel machines Google has verified a TDX quote before it gave it. On AMD machines
// Confidential Space runs on SEV without SNP, and there is no quote to look at: see [attest.WorkloadPolicy]. The
// route that needs no trust in Google's verifier, a TDX quote over the launcher's own event log (POST /v1/evidence),
// is not implemented.
package confspace
