// Package channel attests both ends of a connection before the first byte of HTTP/2. It is a
// pair of gRPC transport credentials, so a silent reconnect goes through it as the first
// connection did, and an impostor that takes over an address sees no request.
//
//	creds, err := channel.NewClient(channel.Config{
//		Role: attest.RoleNode, Study: study, Certificate: leaf, Attester: tee, Keys: witness,
//		Posture: posture, Verifiers: verifiers, Peer: expectCoordinator,
//	})
//	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(creds))
//
// and in a handler of the server, whose credentials NewServer makes:
//
//	p, _ := peer.FromContext(ctx)
//	session := p.AuthInfo.(channel.Session)
//
// After a TLS 1.3 handshake (never resumed, both sides with a leaf) these frames follow, each a
// length of four bytes, big endian, and strict CBOR of at most 256 KiB:
//
//	client       Hello    version, role, study, nonce
//	coordinator  Proof    evidence, role keys, posture, the log key's signature; nonce
//	client       Proof    a node: evidence, role keys, posture; a person: empty
//	coordinator  Verdict  admitted until when, or the codes of the reasons
//
// The coordinator proves first: a node that does not accept it hangs up after its Hello. Each
// verifier computes the other's [attest.Binding] from its own view of the connection: the nonce
// it drew, the TLS exporter (label "EXPORTER-consilium-v1", context the prover's role, 32 bytes),
// the leaf it was shown, its own leaf, and the study that the Hello named.
//
// A session ends with its [Session].Until, an hour at most, and before that when policy or trust no longer take the
// peer: whoever changes them calls [Credentials.Reappraise]. Either way the next connection attests anew.
//
// A coordinator runs a bounded number of handshakes at once. Who finds no place waits for half the time of one, and
// comes again; who finds one has all of it. Its attester is to answer windows (attest/window): then a thousand nodes
// that join at once cost it a few quotes.
//
// The leaf's issuer is not judged here. Which leaf may call what is the business of whoever
// serves: a leaf signed by the node's own key may come this far too.
package channel
