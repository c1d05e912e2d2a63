// Package rules has no code of its own: its tests are the import rules of the repository, each with its
// reason, and hold cmd/consilium-node/links.txt and cmd/consilium-coordinator/links.txt to what the
// daemons link.
//
//	go generate ./internal/rules   # writes the lists anew
package rules

//go:generate go test -count=1 -run TestLinks . -args -write
