package coordinator

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/consilium-fl/consilium/aggregate"
	"github.com/consilium-fl/consilium/internal/signed"
	"github.com/consilium-fl/consilium/internal/store"
	"github.com/consilium-fl/consilium/internal/transport"
)

// vectors are the masked vectors of one round: a file a member, filled chunk by chunk. What is held of a
// vector that is not whole is known to this process alone: after a restart it is sent again.
//
// Each round writes over the files of the one before, for new ones cost the disk several times as much. A
// file counts by its trailer, which is written last: the roster and the digest of the words.
type vectors struct {
	dir    string
	round  uint64
	roster [32]byte
	width  int64                                         // bytes of a word
	size   int64                                         // bytes of a whole vector
	saw    func(member aggregate.MemberID, words []byte) // may be nil

	mu      sync.Mutex
	members map[aggregate.MemberID]*vector // of the roster
	closed  bool
}

// vector is one member's. Its mutex is held while a chunk is written, so that two streams of one member
// cannot mix; that of vectors only guards the map.
type vector struct {
	mu     sync.Mutex
	file   *os.File // nil before the first use and after close
	closed bool
	held   []byte   // one bit a chunk, least significant first
	left   int      // chunks not held
	digest [32]byte // of all words, once none is missing
}

const trailerBytes = 64

// errVector says that a stored vector is not the one that was signed. It is the one refusal after which the
// same message may come again, once the vector was sent again.
var errVector = refused("the stored vector is missing or not the one of the upload: send it again")

// openVectors takes over what a process before left: whole vectors count, parts do not.
func openVectors(dir string, p aggregate.Plan, roster [32]byte, members []aggregate.MemberID) (*vectors, error) {
	v := &vectors{
		dir: dir, round: p.Round.Number, roster: roster,
		width: int64(p.WordBits / 8), size: int64(p.Dim) * int64(p.WordBits/8), members: map[aggregate.MemberID]*vector{},
	}
	for _, m := range members {
		x := v.fresh()
		v.members[m] = x
		whole, err := v.wasWhole(m, x)
		if err != nil {
			v.close()
			return nil, fmt.Errorf("opening the vectors of round %d: %w", v.round, err)
		}
		if whole {
			for i := range v.chunks() {
				x.held[i/8] |= 1 << (i % 8)
			}
			x.left = 0
		}
	}
	return v, nil
}

// wasWhole says whether a file holds a vector of this round. One that is not there is made at its first chunk.
func (v *vectors) wasWhole(m aggregate.MemberID, x *vector) (bool, error) {
	f, err := os.OpenFile(v.path(m), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	x.file = f
	var trailer [trailerBytes]byte
	if _, err := f.ReadAt(trailer[:], v.size); errors.Is(err, io.EOF) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	if [32]byte(trailer[:32]) != v.roster {
		return false, nil // of another round
	}
	x.digest, err = v.digestOf(f)
	return x.digest == [32]byte(trailer[32:]), err
}

func (v *vectors) digestOf(f *os.File) ([32]byte, error) {
	return aggregate.VectorDigest(io.NewSectionReader(f, 0, v.size))
}

func (v *vectors) chunks() int {
	return int((v.size + aggregate.ChunkBytes - 1) / aggregate.ChunkBytes)
}

func (v *vectors) fresh() *vector {
	return &vector{held: make([]byte, (v.chunks()+7)/8), left: v.chunks()}
}

func (v *vectors) path(m aggregate.MemberID) string { return filepath.Join(v.dir, string(m)+".words") }

func (v *vectors) of(m aggregate.MemberID, round uint64, roster [32]byte) (*vector, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	x := v.members[m]
	switch {
	case round != v.round || roster != v.roster:
		return nil, fmt.Errorf("%w: vector of round %d, want round %d under its roster", transport.ErrTooLate, round, v.round)
	case x == nil:
		return nil, refused("%q did not deal in round %d", m, v.round)
	case v.closed:
		return nil, v.late()
	}
	return x, nil
}

func (v *vectors) late() error {
	return fmt.Errorf("%w: round %d takes no more vectors", transport.ErrTooLate, v.round)
}

// heldOf tells what is stored of a member's vector.
func (v *vectors) heldOf(m aggregate.MemberID, round uint64, roster [32]byte) (held []byte, whole bool, err error) {
	x, err := v.of(m, round, roster)
	if err != nil {
		return nil, false, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return bytes.Clone(x.held), x.left == 0, nil
}

// put stores one chunk. The last one missing makes the vector whole, and durable.
func (v *vectors) put(m aggregate.MemberID, round uint64, roster [32]byte, index uint32, words []byte) error {
	x, err := v.of(m, round, roster)
	if err != nil {
		return err
	}
	off := int64(index) * aggregate.ChunkBytes
	if int64(index) >= int64(v.chunks()) {
		return refused("chunk %d of a vector of %d", index, v.chunks())
	}
	if want := min(aggregate.ChunkBytes, v.size-off); int64(len(words)) != want {
		return refused("chunk %d has %d bytes, want %d", index, len(words), want)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return v.late()
	}
	if x.held[index/8]&(1<<(index%8)) != 0 {
		return v.same(x, off, words)
	}
	if err := v.openFile(m, x); err != nil {
		return fmt.Errorf("storing a vector: %w", err)
	}
	if _, err := x.file.WriteAt(words, off); err != nil {
		return fmt.Errorf("storing a vector: %w", err)
	}
	x.held[index/8] |= 1 << (index % 8)
	x.left--
	if v.saw != nil {
		v.saw(m, words)
	}
	if x.left == 0 {
		return v.seal(x)
	}
	return nil
}

// openFile makes the file that is not there yet.
func (v *vectors) openFile(m aggregate.MemberID, x *vector) (err error) {
	if x.file != nil {
		return nil
	}
	if x.file, err = os.OpenFile(v.path(m), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return err
	}
	return store.SyncDir(v.dir)
}

// same refuses other words under an index that is held: two masked versions of one vector would show
// their difference.
func (v *vectors) same(x *vector, off int64, words []byte) error {
	have := make([]byte, len(words))
	if _, err := x.file.ReadAt(have, off); err != nil {
		return fmt.Errorf("comparing a chunk: %w", err)
	}
	if !bytes.Equal(have, words) {
		return refused("chunk %d is held with other words", off/aggregate.ChunkBytes)
	}
	return nil
}

// seal makes a vector durable. A crash before the sync returns leaves a trailer of another roster, or one that
// does not fit the words, or a whole vector, which the next process takes over.
func (v *vectors) seal(x *vector) error {
	var err error
	if x.digest, err = v.digestOf(x.file); err == nil {
		_, err = x.file.WriteAt(slices.Concat(v.roster[:], x.digest[:]), v.size)
	}
	if err == nil {
		err = store.Datasync(x.file)
	}
	if err != nil {
		x.held, x.left = make([]byte, len(x.held)), v.chunks()
		return fmt.Errorf("storing a vector: %w", err)
	}
	return nil
}

// check compares a member's stored vector with the digest that it signed. One that differs is dropped, so
// that it can be sent again.
func (v *vectors) check(m aggregate.MemberID, want [32]byte) error {
	x, err := v.of(m, v.round, v.roster)
	if err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case x.closed:
		return v.late()
	case x.left != 0:
		return errVector
	case x.digest == want:
		return nil
	}
	if _, err := x.file.WriteAt(make([]byte, trailerBytes), v.size); err != nil {
		return fmt.Errorf("dropping the vector of %q: %w", m, err)
	}
	x.held, x.left = make([]byte, len(x.held)), v.chunks()
	return errVector
}

// each reads a member's vector window by window, whole words at a time; offset counts words. In the end it
// wants the digest that the member signed: words are added to a sum, so that whoever owns the disk and
// adds to them adds to the sum.
func (v *vectors) each(m aggregate.MemberID, want [32]byte, f func(offset int, words []byte) error) (err error) {
	r, err := os.Open(v.path(m))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	h := aggregate.NewVectorHash()
	buf := make([]byte, min(aggregate.ChunkBytes/v.width*v.width, v.size))
	for off := int64(0); off < v.size; off += int64(len(buf)) {
		b := buf[:min(int64(len(buf)), v.size-off)]
		if _, err := io.ReadFull(r, b); err != nil {
			return err
		}
		if _, err := h.Write(b); err != nil {
			return err
		}
		if err := f(int(off/v.width), b); err != nil {
			return err
		}
	}
	if got := h.Sum(); got != want {
		return fmt.Errorf("its digest is %s, want %s of the upload: it has changed on disk", signed.DigestText(got), signed.DigestText(want))
	}
	return nil
}

// close takes nothing more.
func (v *vectors) close() {
	v.mu.Lock()
	v.closed = true
	members := v.members
	v.mu.Unlock()
	for _, x := range members {
		x.mu.Lock()
		x.closed = true
		if x.file != nil {
			_ = x.file.Close() // what counts was synced
			x.file = nil
		}
		x.mu.Unlock()
	}
}

// removeWords deletes what the last round of a study left.
func removeWords(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.words"))
	errs := []error{err}
	for _, f := range files {
		errs = append(errs, os.Remove(f))
	}
	return errors.Join(errs...)
}
