package tdx_test

import (
	"testing"
)

func BenchmarkCheck(b *testing.B) {
	for name, r := range map[string]file{"phala": phala(b), "gcp": gcp(b)} {
		p := exact(r.quote)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r.check(p)
			}
		})
	}
}
