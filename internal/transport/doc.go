// Package transport carries Consilium's five services over gRPC between attested peers. A server is
// five handlers in domain types, behind one decision a request; a client is methods in the same types.
// The generated protocol buffers stay in here.
//
//	s, err := transport.NewServer(creds, transport.Handlers{Identity: c, Study: c, Round: c, Release: c, Audit: c},
//		transport.Options{Facts: c, Gate: gate, Logger: log})
//	err = s.Serve(ctx, listener)
//
//	c, err := transport.Dial("coordinator.heart.example:443", creds)
//	err = c.Follow(ctx, transport.Position{Study: study, Boot: boot}, func(i transport.FollowItem) error { … })
//
// In order, for each request: TLS 1.3 and the attested session (attest/channel, handed in as
// credentials), the session's end, the study that the connection serves, one Gate decision, the
// handler. A stream is decided on its first message, which its handler sees only afterwards.
package transport
