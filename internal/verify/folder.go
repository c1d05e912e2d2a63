package verify

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// Bounds of a folder. A file that is parsed has a smaller bound of its own.
const (
	maxFiles = 1 << 20
	maxFile  = 1 << 31 // bytes: a sum of 2^27 words with room to spare
	maxDepth = 8
)

// Files of a folder with names of their own.
const (
	receiptFile    = "receipt.json"
	consortiumFile = "consortium.yaml"
	signaturesFile = "consortium.sigs.json"
	studyFile      = "study.yaml"
	modelFile      = "model.safetensors"
	checkpointFile = "log/checkpoint"
)

// views are made by the simulation for people. Nobody signs them.
var views = []string{"report.html", "summary.json"}

// folder is an output folder whose files were all digested once. What is read later must still have that
// digest, so that no check sees another file than the one that the receipt was compared with.
type folder struct {
	root  *os.Root
	files map[string]entry // by path with slashes, the views excepted
	odd   []Problem        // what is neither a file nor a folder
	views []string         // that are there
}

type entry struct {
	size   int64
	digest [32]byte
}

func openFolder(ctx context.Context, dir string) (*folder, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	f := &folder{root: root, files: map[string]entry{}}
	err = fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		return f.note(path, d)
	})
	if err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (f *folder) close() { _ = f.root.Close() } // nothing was written

// note takes up one entry of the walk. A link is not followed: what it leads to may change without a byte
// of this folder changing.
func (f *folder) note(path string, d fs.DirEntry) error {
	switch {
	case d.IsDir():
		if strings.Count(path, "/") >= maxDepth {
			return fmt.Errorf("folder %q lies deeper than %d folders", path, maxDepth)
		}
		return nil
	case slices.Contains(views, path):
		f.views = append(f.views, path)
		return nil
	case !d.Type().IsRegular():
		f.odd = append(f.odd, Problem{Object: path, Reason: fmt.Sprintf("is no regular file (%s), and nothing else belongs into this folder", d.Type())})
		return nil
	case len(f.files) == maxFiles:
		return fmt.Errorf("more than %d files", maxFiles)
	}
	h := sha256.New()
	size, err := f.copy(h, path, maxFile)
	if err != nil {
		return err
	}
	f.files[path] = entry{size: size, digest: [32]byte(h.Sum(nil))}
	return nil
}

func (f *folder) copy(w io.Writer, path string, limit int64) (n int64, err error) {
	r, err := f.root.Open(path)
	if err != nil {
		return 0, err
	}
	defer r.Close() //nolint:errcheck // opened for reading
	if n, err = io.Copy(w, io.LimitReader(r, limit+1)); err != nil {
		return 0, fmt.Errorf("reading %q: %w", path, err)
	}
	if n > limit {
		return 0, fmt.Errorf("reading %q: more than %d bytes", path, limit)
	}
	return n, nil
}

// errAbsent says that a file is not in the folder.
var errAbsent = errors.New("is missing")

// read returns a file of at most limit bytes.
func (f *folder) read(path string, limit int64) ([]byte, error) {
	e, ok := f.files[path]
	switch {
	case !ok:
		return nil, errAbsent
	case e.size > limit:
		return nil, fmt.Errorf("has %d bytes, want at most %d", e.size, limit)
	}
	var b strings.Builder
	b.Grow(int(e.size))
	if _, err := f.copy(&b, path, limit); err != nil {
		return nil, err
	}
	out := []byte(b.String())
	if sha256.Sum256(out) != e.digest {
		return nil, errors.New("changed while it was being verified")
	}
	return out, nil
}

// under lists the files of a folder with all its subfolders, sorted, by their whole paths.
func (f *folder) under(dir string) []string {
	var out []string
	for path := range f.files {
		if strings.HasPrefix(path, dir+"/") {
			out = append(out, path)
		}
	}
	slices.Sort(out)
	return out
}

// byDigest finds the file of a folder that has a digest.
func (f *folder) byDigest(dir string, d [32]byte) (string, bool) {
	for _, path := range f.under(dir) {
		if f.files[path].digest == d {
			return path, true
		}
	}
	return "", false
}

// resources lets package audit read the log of the folder.
type resources struct{ *folder }

// maxResource is the largest bundle of leaves that package audit takes.
const maxResource = 512 << 10

func (r resources) Read(ctx context.Context, resource string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b, err := r.read("log/"+resource, maxResource)
	if err != nil {
		return nil, fmt.Errorf("log/%s %w", resource, err)
	}
	return b, nil
}
