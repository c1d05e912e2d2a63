// Package refresh keeps a trust snapshot up to date from the services of the vendors, in the background: the one
// package below attest that asks the network, and only by the transport that it is given. A verifier never waits for
// it; it takes the [Refresher.Snapshot] of the moment.
//
//	kds, pcs := refresh.NewKDS(nil, "", time.Now), refresh.NewPCS(nil, "", time.Now)
//	crl, err := kds.CRL("Genoa", attest.SignerVCEK)
//	info, err := pcs.TCBInfo("00806f050000")
//	r, err := refresh.New(refresh.Config{
//		Dir:     "/var/lib/consilium/endorsements",
//		Base:    func() (*endorse.Snapshot, error) { return endorse.Load("/etc/consilium/trust") },
//		Sources: []refresh.Source{crl, info, pcs.QEIdentity(), pcs.RootCRL()},
//		Now:     time.Now, After: time.After, Random: rand.Reader,
//	})
//	go r.Run(ctx)
//	for {
//		changed := r.Changed()
//		appraise(r.Snapshot())
//		<-changed
//	}
//
// # What is trusted
//
// Anchors come from Base alone, which is a folder, an imported bundle, or the vendors' roots. What a source gives, and
// what the cache holds, is taken if it is signed by a chain to one of those, is what was asked for, and is not older,
// in evaluation number or date of issue, than what was ever taken from anywhere: that is kept on disk too. A root in
// an answer is refused unless it is installed; the one exception has a pinned fingerprint
// ([NewConfidentialSpaceRoot]). So whoever speaks for a service can withhold, and no more.
//
// # When a source is away
//
// What was fetched stays in the snapshot however old it becomes: refusing is not done here but by the policy, when a
// verifier says with which revocation lists and documents it worked (attest.Claims.Dated) and Check holds them against
// their end, the policy's grace and its endorsement_age. So one rule judges the steward's files, an imported bundle and
// what was fetched, and a receipt can be judged again by it. [Refresher.Status] says what is late and why. Chips'
// certificates have no age.
//
// A failure is followed by a wait that doubles from half a minute to an hour, half of it by chance; what a service says
// in Retry-After is kept to, by all that ask it. Of one source one fetch runs at a time, for all who [Refresher.Want]
// it. AMD's service is asked once in 10 seconds.
//
// # What was tested against what
//
// The tests speak to a server on this machine, over TLS under the services' names, that answers as the services are
// documented to: AMD 57230 (VCEK Certificate and KDS Interface Specification), Intel's PCS API v4, Azure's THIM and
// instance metadata, Confidential Space's token endpoints. Collateral and certificates that the real services gave are
// among what it serves. Nothing here was run against the services themselves: that the addresses, header names and
// rates are right rests on those documents and on recorded answers.
package refresh
