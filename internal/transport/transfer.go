package transport

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"

	"github.com/consilium-fl/consilium/aggregate"
	consiliumv1 "github.com/consilium-fl/consilium/proto/consilium/v1"
)

// Follow hands each item after p to take, in order, until the coordinator ends the stream (nil: call
// again with the last item's sequence and epoch), ctx ends, or take fails, whose error it returns.
func (c *Client) Follow(ctx context.Context, p Position, take func(FollowItem) error) error {
	s, cancel, err := open(ctx, c.round.Follow, &consiliumv1.FollowRequest{
		Study: p.Study[:], Cursor: p.Cursor, Boot: p.Boot[:], Epoch: p.Epoch,
	})
	if err != nil {
		return c.failed(err)
	}
	defer cancel()
	return each(c, s, func(r *consiliumv1.FollowResponse) error {
		i, err := itemIn(r)
		if err != nil {
			return err
		}
		return take(i)
	})
}

// WatchStudy hands each event after cursor to take, until the study is over or the coordinator ends the
// stream (nil: call again with the last event's sequence), ctx ends, or take fails.
func (c *Client) WatchStudy(ctx context.Context, study [32]byte, cursor uint64, take func(WatchEvent) error) error {
	s, cancel, err := open(ctx, c.study.WatchStudy, &consiliumv1.WatchStudyRequest{Digest: study[:], Cursor: cursor})
	if err != nil {
		return c.failed(err)
	}
	defer cancel()
	return each(c, s, func(r *consiliumv1.WatchStudyResponse) error {
		e, err := eventIn(r)
		if err != nil {
			return err
		}
		return take(e)
	})
}

// open starts a stream that ends with cancel at the latest.
func open[Q, R any](ctx context.Context, call func(context.Context, *Q, ...grpc.CallOption) (grpc.ServerStreamingClient[R], error), q *Q,
) (grpc.ServerStreamingClient[R], context.CancelFunc, error) {
	ctx, cancel := context.WithCancel(ctx)
	s, err := call(ctx, q)
	if err != nil {
		cancel()
		return nil, nil, err
	}
	return s, cancel, nil
}

// each hands what a stream brings to take. An error of take is returned as it is.
func each[R any](c *Client, s grpc.ServerStreamingClient[R], take func(*R) error) error {
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return c.failed(err)
		}
		if err := take(r); err != nil {
			return err
		}
	}
}

// uploadTries is how often Upload asks what is still missing.
const uploadTries = 4

// Upload sends a masked vector of size bytes: it asks what is held and sends the rest, until all is.
// sent, which may be nil, hears how many bytes are held so far. After an error the same call goes on
// where it stopped.
func (c *Client) Upload(ctx context.Context, v Vector, words io.ReaderAt, size int64, sent func(int64)) error {
	chunks := (size + aggregate.ChunkBytes - 1) / aggregate.ChunkBytes
	if size <= 0 || chunks > maxChunks {
		return fmt.Errorf("uploading a vector: %d bytes: %w", size, ErrBadInput)
	}
	if sent == nil {
		sent = func(int64) {}
	}
	var held Held
	var err error
	if chunks > 1 { // one chunk is not worth the question
		if held, err = c.upload(ctx, v, nil); err != nil {
			return fmt.Errorf("asking which chunks are held: %w", err)
		}
	}
	for range uploadTries {
		if held.Whole || held.all(chunks) {
			break
		}
		held, err = c.upload(ctx, v, func(put func(Chunk) error) error {
			return missing(held, words, size, sent, put)
		})
		if err != nil {
			return fmt.Errorf("uploading a vector: %w", err)
		}
	}
	if held.Whole {
		sent(size)
		return nil
	}
	return fmt.Errorf("uploading a vector: the coordinator has all %d chunks and not the whole, or loses them: %w", chunks, ErrInternal)
}

// all reports whether each of n chunks is held.
func (h Held) all(n int64) bool {
	for i := range uint32(n) {
		if !h.Has(i) {
			return false
		}
	}
	return true
}

// missing puts the chunks that are not held, in order.
func missing(held Held, words io.ReaderAt, size int64, sent func(int64), put func(Chunk) error) error {
	var done int64
	for i := uint32(0); int64(i)*aggregate.ChunkBytes < size; i++ {
		offset := int64(i) * aggregate.ChunkBytes
		n := min(aggregate.ChunkBytes, size-offset)
		if !held.Has(i) {
			b := make([]byte, n)
			if k, err := words.ReadAt(b, offset); int64(k) < n {
				return fmt.Errorf("reading chunk %d: %w", i, err)
			}
			if err := put(Chunk{i, b}); err != nil {
				return err
			}
		}
		done += n
		sent(done)
	}
	return nil
}

// upload is one stream: without put it only asks.
func (c *Client) upload(ctx context.Context, v Vector, put func(func(Chunk) error) error) (Held, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := c.round.Upload(ctx)
	if err != nil {
		return Held{}, c.failed(err)
	}
	send := func(x Chunk) error { return s.Send(chunkOut(v, x)) }
	if put == nil {
		err = send(Chunk{})
	} else {
		err = put(send)
	}
	if err != nil && !errors.Is(err, io.EOF) { // EOF: the coordinator ended the stream, and says why below
		if isStatus(err) {
			err = c.failed(err)
		}
		return Held{}, err
	}
	r, err := s.CloseAndRecv()
	if err != nil {
		return Held{}, c.failed(err)
	}
	return heldIn(r)
}

// maxModel bounds a model's file, in bytes: 2^27 weights.
const maxModel = 1 << 30

// Download returns the model of this digest.
func (c *Client) Download(ctx context.Context, study, model [32]byte) ([]byte, error) {
	b, err := c.resume(ctx, func(ctx context.Context, offset uint64, piece pieceFunc) error {
		s, err := c.round.Download(ctx, &consiliumv1.DownloadRequest{Study: study[:], Model: model[:], Offset: offset})
		if err != nil {
			return c.failed(err)
		}
		return each(c, s, func(r *consiliumv1.DownloadResponse) error {
			return piece(r.GetOffset(), r.GetTotal(), r.GetData())
		})
	})
	if err != nil {
		return nil, fmt.Errorf("downloading model %x: %w", model, err)
	}
	if got := sha256.Sum256(b); got != model {
		return nil, fmt.Errorf("downloading model %x: the bytes sent are %x: %w", model, got, ErrBadInput)
	}
	return b, nil
}

// DownloadModel returns the released model.safetensors. Its digest is in the receipt, which the caller
// compares.
func (c *Client) DownloadModel(ctx context.Context, study [32]byte) ([]byte, error) {
	b, err := c.resume(ctx, func(ctx context.Context, offset uint64, piece pieceFunc) error {
		s, err := c.release.DownloadModel(ctx, &consiliumv1.DownloadModelRequest{Study: study[:], Offset: offset})
		if err != nil {
			return c.failed(err)
		}
		return each(c, s, func(r *consiliumv1.DownloadModelResponse) error {
			err := piece(offset, r.GetTotal(), r.GetData())
			offset += uint64(len(r.GetData()))
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("downloading the released model: %w", err)
	}
	return b, nil
}

type pieceFunc func(offset, total uint64, data []byte) error

// resume collects a file whose pieces get brings from an offset on. A lost connection is made again as
// long as each brings something.
func (c *Client) resume(ctx context.Context, get func(ctx context.Context, offset uint64, piece pieceFunc) error) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var b bytes.Buffer
	for {
		start, total := b.Len(), uint64(0)
		err := get(ctx, uint64(start), func(offset, all uint64, data []byte) error {
			if offset != uint64(b.Len()) || all > maxModel || uint64(b.Len()+len(data)) > all {
				return fmt.Errorf("piece of %d bytes at %d of %d, want it at %d, of %d at most: %w", len(data), offset, all, b.Len(), maxModel, ErrBadInput)
			}
			total = all
			b.Write(data)
			return nil
		})
		switch {
		case err == nil && uint64(b.Len()) == total:
			return b.Bytes(), nil
		case err == nil:
			err = fmt.Errorf("got %d bytes of %d: %w", b.Len(), total, ErrUnreachable)
		}
		lost := errors.Is(err, ErrUnreachable) || errors.Is(err, ErrSessionOver)
		if !lost || b.Len() == start {
			return nil, err
		}
	}
}

// maxReceiptFile and maxReceipt bound one file of an output folder and all of them, in bytes.
const (
	maxReceiptFile = 64 << 20
	maxReceipt     = 1 << 30
)

// GetReceipt hands each file of the output folder but the model to take, whole and in order. Paths stay
// inside the folder and come once. Nothing is verified here: internal/verify does that.
func (c *Client) GetReceipt(ctx context.Context, study [32]byte, take func(path string, data []byte) error) error {
	s, cancel, err := open(ctx, c.release.GetReceipt, &consiliumv1.GetReceiptRequest{Study: study[:]})
	if err != nil {
		return c.failed(err)
	}
	defer cancel()
	f := files{take: take, seen: map[string]bool{}}
	if err := each(c, s, func(r *consiliumv1.GetReceiptResponse) error { return f.add(r.GetPath(), r.GetData()) }); err != nil {
		return err
	}
	return f.flush()
}

// files puts pieces together.
type files struct {
	take  func(string, []byte) error
	seen  map[string]bool
	path  string // of the file being read; empty before the first
	data  []byte
	total int
}

func (f *files) add(path string, data []byte) error {
	if err := checkPath(path); err != nil {
		return err
	}
	if path != f.path {
		if err := f.flush(); err != nil {
			return err
		}
		if f.seen[path] {
			return fmt.Errorf("reading a receipt's files: %q comes twice: %w", path, ErrBadInput)
		}
		f.seen[path], f.path, f.data = true, path, nil
	}
	f.total += len(data)
	if len(f.data)+len(data) > maxReceiptFile || f.total > maxReceipt {
		return fmt.Errorf("reading a receipt's files: %q: more than %d bytes, or %d in all: %w", path, maxReceiptFile, maxReceipt, ErrBadInput)
	}
	f.data = append(f.data, data...)
	return nil
}

func (f *files) flush() error {
	if f.path == "" {
		return nil
	}
	return f.take(f.path, f.data)
}
