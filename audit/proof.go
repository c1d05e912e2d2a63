package audit

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// maxResource bounds what is read of one resource, in bytes: a full bundle of the largest leaves
// takes 256·(2+MaxLeaf).
const maxResource = 512 << 10

const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
)

// Reader reads the resources of C2SP tlog-tiles: "checkpoint", "tile/0/000", "tile/0/001.p/7",
// "tile/entries/000": a folder, or the coordinator by RPC. What it returns is not trusted. A
// resource that does not exist is an error.
type Reader interface {
	Read(ctx context.Context, resource string) ([]byte, error)
}

// DirReader reads a folder. Only resources that tlog-tiles names can be read, never another file.
type DirReader string

// Read returns the bytes of one resource, at most 512 KiB.
func (d DirReader) Read(ctx context.Context, resource string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if resource != "checkpoint" {
		if _, err := parseResource(resource); err != nil {
			return nil, fmt.Errorf("reading log: %w", err)
		}
	}
	f, err := os.OpenInRoot(string(d), resource)
	if err != nil {
		return nil, fmt.Errorf("reading log: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxResource+1))
	if err == nil && len(b) > maxResource {
		err = fmt.Errorf("more than %d bytes", maxResource)
	}
	if err != nil {
		return nil, fmt.Errorf("reading log: resource %q: %w", resource, err)
	}
	return b, nil
}

// parseResource reads a tile or bundle path. It goes through x/mod's parser, whose paths carry the
// height and say "data" for entries; that parser takes only what its own Path prints.
func parseResource(resource string) (tlog.Tile, error) {
	bad := fmt.Errorf("resource %q, want \"checkpoint\", \"tile/<level>/<n>\" or \"tile/entries/<n>\"", resource)
	level, rest, ok := strings.Cut(strings.TrimPrefix(resource, "tile/"), "/")
	if !ok || level == "data" || !strings.HasPrefix(resource, "tile/") || len(resource) > 64 {
		return tlog.Tile{}, bad
	}
	if level == "entries" {
		level = "data"
	}
	t, err := tlog.ParseTilePath("tile/8/" + level + "/" + rest)
	if err != nil || t.L > 5 {
		return tlog.Tile{}, bad
	}
	return t, nil
}

// resource undoes parseResource.
func resource(t tlog.Tile) string {
	p := strings.TrimPrefix(t.Path(), "tile/8/")
	if t.L < 0 {
		return "tile/entries" + strings.TrimPrefix(p, "data")
	}
	return "tile/" + p
}

// readTile reads a hash tile or, with level -1, an entry bundle, of exactly the width asked for. A
// log may drop a partial tile once the full one exists: then the full one is cut.
func readTile(ctx context.Context, r Reader, t tlog.Tile) ([]byte, error) {
	b, err := r.Read(ctx, resource(t))
	if err == nil {
		return cut(t, t.W, b)
	}
	if t.W < tileWidth && ctx.Err() == nil {
		full := t
		full.W = tileWidth
		if b, fullErr := r.Read(ctx, resource(full)); fullErr == nil {
			return cut(full, t.W, b)
		}
	}
	return nil, err
}

// cut checks that b is tile t, and returns its first w hashes or entries.
func cut(t tlog.Tile, w int, b []byte) ([]byte, error) {
	if t.L >= 0 {
		if len(b) != t.W*tlog.HashSize {
			return nil, fmt.Errorf("resource %q has %d bytes, want %d", resource(t), len(b), t.W*tlog.HashSize)
		}
		return b[:w*tlog.HashSize], nil
	}
	n, have := 0, 0
	for e, err := range entries(b) {
		if err != nil {
			return nil, fmt.Errorf("resource %q: %w", resource(t), err)
		}
		if have < w {
			n += 2 + len(e)
		}
		have++
	}
	if have != t.W {
		return nil, fmt.Errorf("resource %q has %d entries, want %d", resource(t), have, t.W)
	}
	return b[:n], nil
}

// entries iterates over a bundle: each entry with its length before it, 16 bits, big endian.
func entries(b []byte) func(yield func([]byte, error) bool) {
	return func(yield func([]byte, error) bool) {
		for len(b) > 0 {
			if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
				yield(nil, fmt.Errorf("an entry ends after the bundle"))
				return
			}
			n := 2 + int(binary.BigEndian.Uint16(b))
			if !yield(b[2:n], nil) {
				return
			}
			b = b[n:]
		}
	}
}

// A tree gives authenticated hashes of the log at one checkpoint: x/mod checks each tile that it
// reads against the root before it answers. It is made for one check and holds its context.
type tree struct {
	ctx    context.Context
	r      Reader
	at     Checkpoint
	read   map[tlog.Tile][]byte // not yet authenticated
	leaves map[int64][]byte     // level 0, authenticated, by tile number
}

func newTree(ctx context.Context, r Reader, at Checkpoint) *tree {
	return &tree{ctx: ctx, r: r, at: at, read: map[tlog.Tile][]byte{}, leaves: map[int64][]byte{}}
}

// Height implements tlog.TileReader.
func (t *tree) Height() int { return tileHeight }

// ReadTiles implements tlog.TileReader.
func (t *tree) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for i, tile := range tiles {
		b, ok := t.read[tile]
		if !ok {
			var err error
			if b, err = readTile(t.ctx, t.r, tile); err != nil {
				return nil, err
			}
			t.read[tile] = b
		}
		data[i] = b
	}
	return data, nil
}

// SaveTiles implements tlog.TileReader: what comes here has been checked against the root.
func (t *tree) SaveTiles(tiles []tlog.Tile, data [][]byte) {
	for i, tile := range tiles {
		if tile.L == 0 {
			t.leaves[tile.N] = data[i]
		}
	}
}

// ReadHashes implements tlog.HashReader.
func (t *tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	if len(indexes) == 0 {
		return nil, nil
	}
	return tlog.TileHashReader(t.at.tree(), t).ReadHashes(indexes)
}

// rootAt is the root that the first size leaves of this tree have.
func (t *tree) rootAt(size uint64) ([32]byte, error) {
	h, err := tlog.TreeHash(int64(size), t)
	if err != nil {
		return h, fmt.Errorf("reading log %q at size %d: %w", t.at.Origin, t.at.Size, err)
	}
	return h, nil
}

// leafHashes are the leaf hashes at the given indexes, each below the tree's size.
func (t *tree) leafHashes(indexes []uint64) ([]tlog.Hash, error) {
	stored := make([]int64, len(indexes))
	for i, x := range indexes {
		stored[i] = tlog.StoredHashIndex(0, int64(x))
	}
	hs, err := t.ReadHashes(stored)
	if err != nil {
		return nil, fmt.Errorf("reading log %q at size %d: %w", t.at.Origin, t.at.Size, err)
	}
	return hs, nil
}

// CheckInclusion checks that the log at checkpoint c holds a leaf of that hash at index. A
// difference is [ErrForked]; tiles that cannot be read, or are not of that checkpoint, are another
// error.
func CheckInclusion(ctx context.Context, r Reader, c Checkpoint, index uint64, leaf [32]byte) error {
	if index >= c.Size {
		return fmt.Errorf("checking inclusion in %q: index %d, want below the size %d", c.Origin, index, c.Size)
	}
	hs, err := newTree(ctx, r, c).leafHashes([]uint64{index})
	if err != nil {
		return fmt.Errorf("checking inclusion in %q: %w", c.Origin, err)
	}
	if hs[0] != tlog.Hash(leaf) {
		return fmt.Errorf("checking inclusion in %q: leaf %d is %x, want %x: %w", c.Origin, index, hs[0][:], leaf, ErrForked)
	}
	return nil
}

// CheckConsistency checks that the log at the later checkpoint begins with the log at the earlier
// one. A difference is [ErrForked], a later one that is smaller [ErrRewound].
func CheckConsistency(ctx context.Context, r Reader, earlier, later Checkpoint) error {
	return consistent(earlier, later, newTree(ctx, r, later))
}

func consistent(earlier, later Checkpoint, t *tree) error {
	var got [32]byte
	switch {
	case later.Size < earlier.Size:
		return fmt.Errorf("checking consistency of %q: size %d after size %d: %w", later.Origin, later.Size, earlier.Size, ErrRewound)
	case later.Size == earlier.Size:
		got = later.Root
	case earlier.Size == 0:
		return nil
	default:
		var err error
		if got, err = t.rootAt(earlier.Size); err != nil {
			return fmt.Errorf("checking consistency: %w", err)
		}
	}
	if got != earlier.Root {
		return fmt.Errorf("checking consistency of %q: size %d had root %x, and in the log of size %d it has %x: %w",
			later.Origin, earlier.Size, earlier.Root, later.Size, got, ErrForked)
	}
	return nil
}

// readLeaves calls f with the leaves [from, to) of the log at c, each checked against its root.
func readLeaves(ctx context.Context, r Reader, c Checkpoint, from, to uint64, f func(index uint64, l Leaf) error) error {
	t := newTree(ctx, r, c)
	for from < to {
		first := from - from%tileWidth
		bundle := tlog.Tile{H: tileHeight, L: -1, N: int64(first / tileWidth), W: int(min(tileWidth, c.Size-first))}
		b, err := readTile(ctx, r, bundle)
		if err != nil {
			return err
		}
		end := min(to, first+tileWidth)
		var at []uint64
		for i := from; i < end; i++ {
			at = append(at, i)
		}
		want, err := t.leafHashes(at)
		if err != nil {
			return err
		}
		clear(t.read)
		i := first
		for e, err := range entries(b) {
			if err != nil {
				return err
			}
			if i >= from && i < end {
				if got := LeafHash(e); got != [32]byte(want[i-from]) {
					return fmt.Errorf("entry %d has leaf hash %x, want %x", i, got, want[i-from][:])
				}
				l, err := readLeaf(e, i, c.Origin)
				if err == nil {
					err = f(i, l)
				}
				if err != nil {
					return err
				}
			}
			i++
		}
		from = end
	}
	return nil
}

func readLeaf(e []byte, index uint64, origin string) (Leaf, error) {
	l, err := ParseLeaf(e)
	if err == nil {
		err = l.CheckOrigin(origin)
	}
	if err != nil {
		return Leaf{}, fmt.Errorf("entry %d: %w", index, err)
	}
	return l, nil
}

// maxWhole bounds the logs that are read as a whole, in leaves.
const maxWhole = 1 << 24

// Resources lists what a stored log of that size, at most 2^24 leaves, consists of, the checkpoint
// first: nothing is missing and nothing else is part of it.
func Resources(size uint64) ([]string, error) {
	ts, err := tiles(size)
	if err != nil {
		return nil, fmt.Errorf("listing resources: %w", err)
	}
	rs := []string{"checkpoint"}
	for _, t := range ts {
		rs = append(rs, resource(t))
	}
	return rs, nil
}

// tiles are the bundles and hash tiles of a log of that size, bundles first, then level by level.
func tiles(size uint64) ([]tlog.Tile, error) {
	if size > maxWhole {
		return nil, fmt.Errorf("log of %d leaves, want at most %d", size, maxWhole)
	}
	var ts []tlog.Tile
	for _, t := range tlog.NewTiles(tileHeight, 0, int64(size)) {
		if t.L == 0 {
			bundle := t
			bundle.L = -1
			ts = append(ts, bundle)
		}
	}
	return append(ts, tlog.NewTiles(tileHeight, 0, int64(size))...), nil
}

// Export calls put with the tiles and bundles, cut to size, of which a stored log of that size
// consists: what [Resources] lists, without the checkpoint.
func Export(ctx context.Context, r Reader, size uint64, put func(resource string, b []byte) error) error {
	ts, err := tiles(size)
	if err != nil {
		return fmt.Errorf("exporting log: %w", err)
	}
	for _, t := range ts {
		b, err := readTile(ctx, r, t)
		if err == nil {
			err = put(resource(t), b)
		}
		if err != nil {
			return fmt.Errorf("exporting log: %w", err)
		}
	}
	return nil
}

// VerifyLog checks a whole stored log against a checkpoint: every entry is a good leaf of this log,
// every tile holds the hashes that the entries give, and they give the root. It returns all leaves.
// The error names the resource that differs.
func VerifyLog(ctx context.Context, r Reader, c Checkpoint) ([]Leaf, error) {
	ls, err := verifyLog(ctx, r, c)
	if err != nil {
		return nil, fmt.Errorf("verifying log %q of size %d: %w", c.Origin, c.Size, err)
	}
	return ls, nil
}

func verifyLog(ctx context.Context, r Reader, c Checkpoint) ([]Leaf, error) {
	ts, err := tiles(c.Size)
	if err != nil {
		return nil, err
	}
	var leaves []Leaf
	var hashes []byte // of level 0, then of the subtrees that fill a tile, level by level
	good := map[tlog.Tile][]byte{}
	level := 0
	for _, t := range ts {
		b, err := readTile(ctx, r, t)
		if err != nil {
			return nil, err
		}
		if t.L < 0 {
			for e, err := range entries(b) {
				if err != nil {
					return nil, err
				}
				l, err := readLeaf(e, uint64(len(leaves)), c.Origin)
				if err != nil {
					return nil, fmt.Errorf("resource %q: %w", resource(t), err)
				}
				h := LeafHash(e)
				leaves, hashes = append(leaves, l), append(hashes, h[:]...)
			}
			continue
		}
		if t.L > level {
			hashes, level = parents(hashes), t.L
		}
		want := hashes[t.N*tileWidth*tlog.HashSize:][:t.W*tlog.HashSize]
		if !bytes.Equal(b, want) {
			return nil, mismatch(t)
		}
		good[t] = b
	}
	return leaves, checkRoot(c, good)
}

// mismatch names the tile, and the bundle below it: either may be what was altered. Above level 0
// it is the tile.
func mismatch(t tlog.Tile) error {
	if t.L > 0 {
		return fmt.Errorf("resource %q does not hold the hashes of the tiles below it", resource(t))
	}
	bundle := t
	bundle.L = -1
	return fmt.Errorf("resource %q does not hold the hashes of the entries in %q", resource(t), resource(bundle))
}

// parents are the hashes of the full tiles that the given hashes make.
func parents(hashes []byte) []byte {
	var up []byte
	const full = tileWidth * tlog.HashSize
	for ; len(hashes) >= full; hashes = hashes[full:] {
		level := bytes.Clone(hashes[:full])
		for len(level) > tlog.HashSize {
			var next []byte
			for i := 0; i < len(level); i += 2 * tlog.HashSize {
				h := tlog.NodeHash(tlog.Hash(level[i:i+32]), tlog.Hash(level[i+32:i+64]))
				next = append(next, h[:]...)
			}
			level = next
		}
		up = append(up, level...)
	}
	return up
}

func checkRoot(c Checkpoint, tiles map[tlog.Tile][]byte) error {
	if c.Size == 0 {
		return nil
	}
	t := newTree(context.Background(), readerFunc(func(context.Context, string) ([]byte, error) {
		return nil, errors.New("not among the tiles")
	}), c)
	t.read = tiles
	got, err := t.rootAt(c.Size)
	if err == nil && got != c.Root {
		err = fmt.Errorf("root %x, want %x", got, c.Root)
	}
	if err != nil {
		return fmt.Errorf("the entries do not give the root of the checkpoint: %w", err)
	}
	return nil
}

type readerFunc func(ctx context.Context, resource string) ([]byte, error)

func (f readerFunc) Read(ctx context.Context, resource string) ([]byte, error) {
	return f(ctx, resource)
}
