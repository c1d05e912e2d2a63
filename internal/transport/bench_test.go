package transport

import (
	"context"
	"crypto/tls"
	"io"
	"iter"
	"net"
	"testing"

	"github.com/consilium-fl/consilium/aggregate"
)

const benchBytes = 64 * aggregate.ChunkBytes // 16 MiB: a vector of 2^22 words of 32 bits

// sink takes chunks and keeps none.
type sink struct{ *world }

func (sink) Upload(_ context.Context, _ Vector, chunks iter.Seq2[Chunk, error]) (Held, error) {
	n := 0
	for c, err := range chunks {
		if err != nil {
			return Held{}, err
		}
		n += len(c.Words)
	}
	return Held{Whole: n == benchBytes}, nil
}

// BenchmarkUpload compares chunks through every layer with the same bytes through bare TLS, in one run.
func BenchmarkUpload(b *testing.B) {
	words := pattern(benchBytes)
	b.Run("transport", func(b *testing.B) {
		w := newWorld(b)
		_, dial := w.serveWith(Handlers{w, w, sink{w}, w, w}, later(), nil)
		c := dial(heart)
		b.SetBytes(benchBytes)
		for b.Loop() {
			if err := c.Upload(b.Context(), Vector{Study: heart, Round: 1, Roster: heart}, readerAt(func(p []byte, off int64) (int, error) {
				return copy(p, words[off:]), nil
			}), benchBytes, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("tls", func(b *testing.B) {
		st, ct := newTLS(b)
		l, err := tls.Listen("tcp", "127.0.0.1:0", st)
		if err != nil {
			b.Fatal(err)
		}
		defer l.Close()
		go echoCounts(l)
		conn, err := tls.Dial("tcp", l.Addr().String(), ct)
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		b.SetBytes(benchBytes)
		for b.Loop() {
			for off := 0; off < benchBytes; off += aggregate.ChunkBytes {
				if _, err := conn.Write(words[off : off+aggregate.ChunkBytes]); err != nil {
					b.Fatal(err)
				}
			}
			if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// echoCounts answers each benchBytes with one byte.
func echoCounts(l net.Listener) {
	conn, err := l.Accept()
	if err != nil {
		return
	}
	defer conn.Close()
	for {
		if _, err := io.CopyN(io.Discard, conn, benchBytes); err != nil {
			return
		}
		if _, err := conn.Write([]byte{1}); err != nil {
			return
		}
	}
}

// BenchmarkSend is the smallest request, decision and handler included.
func BenchmarkSend(b *testing.B) {
	w := newWorld(b)
	_, dial := w.serve(later(), nil)
	c := dial(heart)
	m := aggregate.Signed{From: "va", Kind: "vote", Payload: pattern(64), Signature: pattern(64)}
	for b.Loop() {
		if err := c.Send(b.Context(), heart, m); err != nil {
			b.Fatal(err)
		}
	}
}
