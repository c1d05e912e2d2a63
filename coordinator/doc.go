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
// order. A Persist is in the Store before any effect of another sort happens.
//
// Under Config.State:
//
//	keys/            protocol, receipt, issuer and log keys, 0600
//	log/             the consortium's log (tlog-tiles)
//	studies/<hex>/   log/ ledger models/ evidence/ rounds/0001/… out/
//
// rounds/<member>.words holds a member's vector of the newest round (masked words are uniformly random, so any
// disk may hold them), and a round's folder sum.bin once a sum was opened: int64s, little endian. The signed messages of a round are
// in the Store, and in the output folder as rounds/0001/{plan,committee,roster,proposal,certificate,result}.cbor,
// each the CBOR of an aggregate.Signed: those that the round got to.
package coordinator
