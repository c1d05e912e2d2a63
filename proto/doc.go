// Package proto is the root of the wire format: one folder a package and version, the .proto files
// beside the Go code generated from them. Only internal/transport and files named rpc*.go import
// that code; everything else speaks in domain types.
//
//	go generate ./proto    # lints, then regenerates; needs npm the first time
package proto

//go:generate ../tools/gen/generate
