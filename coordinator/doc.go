// Package coordinator runs studies: it keeps who approved what, drives each running study's rounds,
// keeps their transparency logs, and hands over what a study released. It never sees a hospital's
// update: only masked words, and the noised sum of a round that its members certified.
//
//	c, err := coordinator.New(config, deps)
//	l, err := net.Listen("tcp", config.Listen)
//	err = c.Serve(ctx, l) // until ctx ends
//
// Every running study has one goroutine, its driver, which owns the study's aggregate.Round: handlers,
// timers and the log hand it functions over one channel, and it carries out the machine's effects in
// order. A Persist is in the Store before any later effect happens.
//
// Under Config.State:
//
//	keys/            protocol, receipt, issuer and log keys, 0600
//	log/             the consortium's log (tlog-tiles)
//	studies/<hex>/   log/ ledger models/ evidence/ rounds/0001/… out/
//
// A round's folder holds the signed messages as CBOR of aggregate.Signed (plan.cbor, committee.cbor,
// roster.cbor, proposal.cbor, certificate.cbor, result.cbor: those that the round got to), and sum.bin
// once a sum was opened: int64s, little endian. While the round runs <member>.words are there too: masked
// words are uniformly random, so any disk may hold them.
package coordinator
