package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"

	"google.golang.org/grpc"

	consiliumv1 "github.com/consilium-fl/consilium/proto/consilium/v1"
)

// The adapters between generated services and handlers. Each decodes, calls and encodes; what is decided
// was decided before, and errors become statuses behind them.

// pieceBytes is how much of a file one message carries.
const pieceBytes = 256 << 10

type identityRPC struct {
	consiliumv1.UnimplementedIdentityServiceServer
	h IdentityHandler
}

func (a identityRPC) IssueSVID(ctx context.Context, r *consiliumv1.IssueSVIDRequest) (*consiliumv1.IssueSVIDResponse, error) {
	s, err := a.h.IssueSVID(ctx, r.GetEnrolment())
	return &consiliumv1.IssueSVIDResponse{Certificate: s.Certificate, Issuer: s.Issuer}, err
}

func (a identityRPC) GetBundle(ctx context.Context, _ *consiliumv1.GetBundleRequest) (*consiliumv1.GetBundleResponse, error) {
	b, err := a.h.GetBundle(ctx)
	return &consiliumv1.GetBundleResponse{Issuer: b}, err
}

type studyRPC struct {
	consiliumv1.UnimplementedStudyServiceServer
	h StudyHandler
}

func (a studyRPC) CreateStudy(ctx context.Context, r *consiliumv1.CreateStudyRequest) (*consiliumv1.CreateStudyResponse, error) {
	d, err := a.h.CreateStudy(ctx, r.GetStudy(), r.GetSignature())
	return &consiliumv1.CreateStudyResponse{Digest: d[:]}, err
}

func (a studyRPC) GetStudy(ctx context.Context, r *consiliumv1.GetStudyRequest) (*consiliumv1.GetStudyResponse, error) {
	d, err := digestIn("a study", r.GetDigest())
	if err != nil {
		return nil, err
	}
	s, err := a.h.GetStudy(ctx, d)
	return &consiliumv1.GetStudyResponse{Study: studyOut(s)}, err
}

func (a studyRPC) ListStudies(ctx context.Context, _ *consiliumv1.ListStudiesRequest) (*consiliumv1.ListStudiesResponse, error) {
	all, err := a.h.ListStudies(ctx)
	r := &consiliumv1.ListStudiesResponse{}
	for _, s := range all {
		r.Studies = append(r.Studies, studyOut(s))
	}
	return r, err
}

func (a studyRPC) ApproveStudy(ctx context.Context, r *consiliumv1.ApproveStudyRequest) (*consiliumv1.ApproveStudyResponse, error) {
	all, err := a.h.ApproveStudy(ctx, r.GetApproval())
	return &consiliumv1.ApproveStudyResponse{Approvals: all}, err
}

func (a studyRPC) CancelStudy(ctx context.Context, r *consiliumv1.CancelStudyRequest) (*consiliumv1.CancelStudyResponse, error) {
	d, err := digestIn("a study", r.GetDigest())
	if err != nil {
		return nil, err
	}
	return &consiliumv1.CancelStudyResponse{}, a.h.CancelStudy(ctx, d, clean(r.GetWhy()))
}

func (a studyRPC) WatchStudy(r *consiliumv1.WatchStudyRequest, s grpc.ServerStreamingServer[consiliumv1.WatchStudyResponse]) error {
	d, err := digestIn("a study", r.GetDigest())
	if err != nil {
		return err
	}
	return a.h.WatchStudy(s.Context(), d, r.GetCursor(), func(e WatchEvent) error { return s.Send(eventOut(e)) })
}

type roundRPC struct {
	consiliumv1.UnimplementedRoundServiceServer
	h RoundHandler
}

func (a roundRPC) Follow(r *consiliumv1.FollowRequest, s grpc.ServerStreamingServer[consiliumv1.FollowResponse]) error {
	p, err := positionIn(r)
	if err != nil {
		return err
	}
	return a.h.Follow(s.Context(), p, func(i FollowItem) error { return s.Send(itemOut(i)) })
}

func (a roundRPC) Send(ctx context.Context, r *consiliumv1.SendRequest) (*consiliumv1.SendResponse, error) {
	d, err := digestIn("a study", r.GetStudy())
	if err != nil {
		return nil, err
	}
	m, err := signedIn(r.GetMessage())
	if err != nil {
		return nil, err
	}
	return &consiliumv1.SendResponse{}, a.h.Send(ctx, d, m)
}

func (a roundRPC) Upload(s grpc.ClientStreamingServer[consiliumv1.UploadRequest, consiliumv1.UploadResponse]) error {
	first, err := s.Recv()
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("reading an upload: no message: %w", ErrBadInput)
	}
	if err != nil {
		return err
	}
	v, err := vectorIn(first)
	if err != nil {
		return err
	}
	held, err := a.h.Upload(s.Context(), v, chunksOf(first, s.Recv))
	if err != nil {
		return err
	}
	return s.SendAndClose(&consiliumv1.UploadResponse{Held: held.Bits, Whole: held.Whole})
}

// chunksOf yields first, unless it only asks, and what recv brings until io.EOF.
func chunksOf(first *consiliumv1.UploadRequest, recv func() (*consiliumv1.UploadRequest, error)) iter.Seq2[Chunk, error] {
	return func(yield func(Chunk, error) bool) {
		r, err := first, error(nil)
		if len(first.GetWords()) == 0 {
			r, err = recv()
		}
		for ; !errors.Is(err, io.EOF); r, err = recv() {
			var c Chunk
			if err == nil {
				c, err = chunkIn(r)
			}
			if !yield(c, err) || err != nil {
				return
			}
		}
	}
}

func (a roundRPC) Download(r *consiliumv1.DownloadRequest, s grpc.ServerStreamingServer[consiliumv1.DownloadResponse]) error {
	study, err := digestIn("a study", r.GetStudy())
	if err != nil {
		return err
	}
	model, err := digestIn("a model", r.GetModel())
	if err != nil {
		return err
	}
	b, err := a.h.Download(s.Context(), study, model, r.GetOffset())
	if err != nil {
		return err
	}
	offset := r.GetOffset()
	return pieces(b, func(p []byte) error {
		err := s.Send(&consiliumv1.DownloadResponse{Offset: offset, Data: p, Total: b.Total})
		offset += uint64(len(p))
		return err
	})
}

type releaseRPC struct {
	consiliumv1.UnimplementedReleaseServiceServer
	h ReleaseHandler
}

func (a releaseRPC) GetReceipt(r *consiliumv1.GetReceiptRequest, s grpc.ServerStreamingServer[consiliumv1.GetReceiptResponse]) error {
	study, err := digestIn("a study", r.GetStudy())
	if err != nil {
		return err
	}
	return a.h.GetReceipt(s.Context(), study, func(path string, data io.Reader) error {
		if err := checkPath(path); err != nil {
			return err
		}
		return pieces(io.NopCloser(data), func(p []byte) error {
			return s.Send(&consiliumv1.GetReceiptResponse{Path: path, Data: p})
		})
	})
}

func (a releaseRPC) DownloadModel(r *consiliumv1.DownloadModelRequest, s grpc.ServerStreamingServer[consiliumv1.DownloadModelResponse]) error {
	study, err := digestIn("a study", r.GetStudy())
	if err != nil {
		return err
	}
	b, err := a.h.DownloadModel(s.Context(), study, r.GetOffset())
	if err != nil {
		return err
	}
	return pieces(b, func(p []byte) error {
		return s.Send(&consiliumv1.DownloadModelResponse{Data: p, Total: b.Total})
	})
}

var scratch = sync.Pool{New: func() any { return new([pieceBytes]byte) }}

// pieces sends what r holds, at least one piece, and closes r. Each has its own bytes: gRPC may look at
// a message after it was sent.
func pieces(r io.ReadCloser, send func([]byte) error) (err error) {
	defer func() {
		if e := r.Close(); err == nil && e != nil {
			err = fmt.Errorf("closing a file: %w", e)
		}
	}()
	buf := scratch.Get().(*[pieceBytes]byte)
	defer scratch.Put(buf)
	for first := true; ; first = false {
		n, err := io.ReadFull(r, buf[:])
		end := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !end {
			return fmt.Errorf("reading a file: %w", err)
		}
		if n > 0 || first {
			if err := send(bytes.Clone(buf[:n])); err != nil {
				return err
			}
		}
		if end {
			return nil
		}
	}
}

type auditRPC struct {
	consiliumv1.UnimplementedAuditServiceServer
	h AuditHandler
}

func (a auditRPC) ReadLog(ctx context.Context, r *consiliumv1.ReadLogRequest) (*consiliumv1.ReadLogResponse, error) {
	var study [32]byte
	if len(r.GetStudy()) > 0 {
		var err error
		if study, err = digestIn("a study", r.GetStudy()); err != nil {
			return nil, err
		}
	}
	if err := checkPath(r.GetResource()); err != nil {
		return nil, err
	}
	b, err := a.h.ReadLog(ctx, study, r.GetResource())
	return &consiliumv1.ReadLogResponse{Data: b}, err
}

func (a auditRPC) CosignCheckpoint(ctx context.Context, r *consiliumv1.CosignCheckpointRequest) (*consiliumv1.CosignCheckpointResponse, error) {
	study, err := digestIn("a study", r.GetStudy())
	if err != nil {
		return nil, err
	}
	b, err := a.h.CosignCheckpoint(ctx, study, r.GetSize(), r.GetCosignature())
	return &consiliumv1.CosignCheckpointResponse{Counted: b}, err
}
