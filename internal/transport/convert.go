package transport

import (
	"fmt"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/consilium-fl/consilium/aggregate"
	consiliumv1 "github.com/consilium-fl/consilium/proto/consilium/v1"
)

// Bounds of what travels. Every message is at most MaxMessage; the rest keeps one field from filling it.
const (
	MaxMessage = 8 << 20 // bytes of one gRPC message, either way
	maxChunk   = 512 << 10
	maxName    = 256 // a member, a kind, a hospital
	maxEpoch   = 64
	maxText    = 4 << 10
	maxFile    = 1 << 20 // a study, an approval, an enrolment, a checkpoint
	maxItems   = 4 << 10 // promises in an item, studies in a list
	// maxChunks is far above any vector: 2^32 words of 64 bits.
	maxChunks = 1 << 17
)

func digestIn(what string, b []byte) ([32]byte, error) {
	if len(b) != 32 {
		return [32]byte{}, fmt.Errorf("reading %s: got %d bytes, want 32: %w", what, len(b), ErrBadInput)
	}
	d := [32]byte(b)
	if d == ([32]byte{}) {
		return d, fmt.Errorf("reading %s: all zero: %w", what, ErrBadInput)
	}
	return d, nil
}

func bounded(what string, n, most int) error {
	if n > most {
		return fmt.Errorf("reading %s: %d bytes, want at most %d: %w", what, n, most, ErrBadInput)
	}
	return nil
}

func signedOut(m aggregate.Signed) *consiliumv1.SignedMessage {
	return &consiliumv1.SignedMessage{From: string(m.From), Kind: m.Kind, Payload: m.Payload, Signature: m.Signature}
}

// signedIn checks form alone. Whether the signature holds is for who knows the keys.
func signedIn(m *consiliumv1.SignedMessage) (aggregate.Signed, error) {
	if m == nil {
		return aggregate.Signed{}, fmt.Errorf("reading a signed message: none there: %w", ErrBadInput)
	}
	if err := firstOf(
		bounded("a sender", len(m.GetFrom()), maxName),
		bounded("a kind", len(m.GetKind()), maxName),
		bounded("a signature", len(m.GetSignature()), maxName),
	); err != nil {
		return aggregate.Signed{}, err
	}
	return aggregate.Signed{
		From: aggregate.MemberID(m.GetFrom()), Kind: m.GetKind(), Payload: m.GetPayload(), Signature: m.GetSignature(),
	}, nil
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func positionIn(r *consiliumv1.FollowRequest) (Position, error) {
	study, err := digestIn("a study", r.GetStudy())
	if err != nil {
		return Position{}, err
	}
	if len(r.GetBoot()) != 16 || [16]byte(r.GetBoot()) == ([16]byte{}) {
		return Position{}, fmt.Errorf("reading boot: got %d bytes, want 16 random ones: %w", len(r.GetBoot()), ErrBadInput)
	}
	if err := bounded("an epoch", len(r.GetEpoch()), maxEpoch); err != nil {
		return Position{}, err
	}
	return Position{Study: study, Cursor: r.GetCursor(), Boot: [16]byte(r.GetBoot()), Epoch: r.GetEpoch()}, nil
}

func itemOut(i FollowItem) *consiliumv1.FollowResponse {
	r := &consiliumv1.FollowResponse{Sequence: i.Sequence, Epoch: i.Epoch, Promises: i.Promises, Checkpoint: i.Checkpoint, Enrolments: i.Enrolments}
	if i.Message != nil {
		r.Message = signedOut(*i.Message)
	}
	return r
}

func itemIn(r *consiliumv1.FollowResponse) (FollowItem, error) {
	i := FollowItem{Sequence: r.GetSequence(), Epoch: r.GetEpoch(), Promises: r.GetPromises(), Checkpoint: r.GetCheckpoint(), Enrolments: r.GetEnrolments()}
	if err := firstOf(
		bounded("an epoch", len(i.Epoch), maxEpoch),
		bounded("promises", len(i.Promises), maxItems),
		bounded("a checkpoint", len(i.Checkpoint), maxFile),
		bounded("enrolments", len(i.Enrolments), maxItems),
	); err != nil {
		return FollowItem{}, err
	}
	if r.GetMessage() != nil {
		m, err := signedIn(r.GetMessage())
		if err != nil {
			return FollowItem{}, err
		}
		i.Message = &m
	}
	return i, nil
}

func vectorIn(r *consiliumv1.UploadRequest) (Vector, error) {
	study, err := digestIn("a study", r.GetStudy())
	if err != nil {
		return Vector{}, err
	}
	roster, err := digestIn("a roster", r.GetRoster())
	if err != nil {
		return Vector{}, err
	}
	return Vector{Study: study, Round: r.GetRound(), Roster: roster}, nil
}

func chunkOut(v Vector, c Chunk) *consiliumv1.UploadRequest {
	return &consiliumv1.UploadRequest{Study: v.Study[:], Round: v.Round, Roster: v.Roster[:], Index: c.Index, Words: c.Words}
}

func chunkIn(r *consiliumv1.UploadRequest) (Chunk, error) {
	if n := len(r.GetWords()); n == 0 || n > aggregate.ChunkBytes {
		return Chunk{}, fmt.Errorf("reading chunk %d: %d bytes, want 1 to %d: %w", r.GetIndex(), n, aggregate.ChunkBytes, ErrBadInput)
	}
	if r.GetIndex() >= maxChunks {
		return Chunk{}, fmt.Errorf("reading a chunk: index %d, want less than %d: %w", r.GetIndex(), maxChunks, ErrBadInput)
	}
	return Chunk{Index: r.GetIndex(), Words: r.GetWords()}, nil
}

func heldIn(r *consiliumv1.UploadResponse) (Held, error) {
	if err := bounded("what is held", len(r.GetHeld()), maxChunks/8); err != nil {
		return Held{}, err
	}
	return Held{Bits: r.GetHeld(), Whole: r.GetWhole()}, nil
}

func studyOut(s StudyInfo) *consiliumv1.Study {
	return &consiliumv1.Study{
		Digest: s.Digest[:], File: s.File, State: s.State, Approvals: s.Approvals,
		RoundsClosed: s.RoundsClosed, RoundsCharged: s.RoundsCharged, Why: s.Why,
	}
}

func studyIn(s *consiliumv1.Study) (StudyInfo, error) {
	d, err := digestIn("a study's digest", s.GetDigest())
	if err != nil {
		return StudyInfo{}, err
	}
	if err := firstOf(
		bounded("a study", len(s.GetFile()), maxFile),
		bounded("approvals", len(s.GetApprovals()), maxItems),
	); err != nil {
		return StudyInfo{}, err
	}
	return StudyInfo{
		Digest: d, File: s.GetFile(), State: clean(s.GetState()), Approvals: cleanAll(s.GetApprovals()),
		RoundsClosed: s.GetRoundsClosed(), RoundsCharged: s.GetRoundsCharged(), Why: clean(s.GetWhy()),
	}, nil
}

func eventOut(e WatchEvent) *consiliumv1.WatchStudyResponse {
	return &consiliumv1.WatchStudyResponse{
		Sequence: e.Sequence, Time: timestamppb.New(e.Time), Kind: e.Kind, Round: e.Round,
		Phase: e.Phase, Hospital: e.Hospital, Bytes: e.Bytes, Text: e.Text,
	}
}

func eventIn(r *consiliumv1.WatchStudyResponse) (WatchEvent, error) {
	if err := bounded("an event", len(r.GetText()), maxText); err != nil {
		return WatchEvent{}, err
	}
	if err := r.GetTime().CheckValid(); err != nil {
		return WatchEvent{}, fmt.Errorf("reading an event's time: %w: %w", ErrBadInput, err)
	}
	return WatchEvent{
		Sequence: r.GetSequence(), Time: r.GetTime().AsTime(), Kind: clean(r.GetKind()), Round: r.GetRound(),
		Phase: clean(r.GetPhase()), Hospital: clean(r.GetHospital()), Bytes: r.GetBytes(), Text: clean(r.GetText()),
	}, nil
}

func cleanAll(s []string) []string {
	out := make([]string, len(s))
	for i, x := range s {
		out[i] = clean(x)
	}
	return out
}
