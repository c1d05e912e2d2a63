package refresh_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"log"
	"os"
	"time"

	"github.com/consilium-fl/consilium/attest/endorse"
	"github.com/consilium-fl/consilium/attest/endorse/bundle"
	"github.com/consilium-fl/consilium/attest/endorse/refresh"
	"github.com/consilium-fl/consilium/attest/endorse/roots"
)

// What some evidence needs is fetched once, and carried into a hospital that has no way out.
func Example_bundle() {
	var report, quote []byte // as they come from the machines
	var key ed25519.PrivateKey

	dir, err := os.MkdirTemp("", "endorsements")
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	r, err := refresh.New(refresh.Config{
		Dir: dir, Base: func() (*endorse.Snapshot, error) { return roots.Snapshot(), nil },
		Now: time.Now, After: time.After, Random: rand.Reader,
	})
	if err != nil {
		log.Fatal(err)
	}
	go r.Run(ctx)

	forReport, err := refresh.NewKDS(nil, "", time.Now).ForReport(report)
	if err != nil {
		log.Fatal(err)
	}
	forQuote, err := refresh.NewPCS(nil, refresh.IntelPCS, time.Now).ForQuote(quote)
	if err != nil {
		log.Fatal(err)
	}
	for _, s := range append(forReport, forQuote...) {
		if err := r.Want(ctx, s); err != nil {
			log.Print(err) // a bundle may lack it, and say so
		}
	}
	b, err := bundle.Export(r.Snapshot(), 1, time.Now(), time.Now().AddDate(0, 1, 0), key)
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile("trust-1.tar", b, 0o600); err != nil {
		log.Fatal(err)
	}
}
