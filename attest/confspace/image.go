package confspace

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/consilium-fl/consilium/attest"
)

// Bounds of what is read of an image. Manifests and indexes are a few KiB; registries refuse more than 4 MiB.
const (
	maxManifest = 4 << 20   // bytes of one
	maxKept     = 16 << 20  // bytes of all that an archive makes us keep
	maxArchive  = 256 << 10 // files in an archive
)

// errUnpushed is about an image whose digest does not follow from what is at hand.
var errUnpushed = errors.New("its manifest is made when it is pushed: take the manifest from the registry then")

// Image is how a token will name a container image. The launcher reports what its reference resolves to in the
// registry (containerd's image target), so the digest depends on how tee-image-reference names the image.
type Image struct {
	// Digest is image_digest where the reference is a tag, or this digest. For an image of several platforms that is
	// the digest of the index, and not of a manifest in it.
	Digest attest.Measurement
	// Platform is the digest of the manifest for linux/amd64. It is image_digest where the reference names it; it
	// equals Digest for an image of one platform, and is empty where a lone index file says nothing of it.
	Platform attest.Measurement
	// ID is image_id: the digest of the image's configuration. Empty where the manifest is not at hand.
	ID attest.Measurement
}

// ImageDigest reads an image in an OCI layout: a folder as buildah, skopeo or `docker buildx --output type=oci` write
// it, or the file system of one. Where it holds several images, ref is the tag (org.opencontainers.image.ref.name) of
// the one that is meant; else it may be empty. Every file that counts is hashed and compared with its name.
func ImageDigest(layout fs.FS, ref string) (Image, error) {
	img, err := layoutImage(func(name string) ([]byte, error) { return readBounded(layout, name) }, ref)
	if err != nil {
		return Image{}, fmt.Errorf("computing the digest of an image layout: %w", err)
	}
	return img, nil
}

// ImageDigestOfArchive reads the same from a tar archive. What `docker save` writes has a digest only if Docker keeps
// its images in containerd: else the manifest is made, and the layers are compressed, when the image is pushed.
func ImageDigestOfArchive(r io.Reader, ref string) (Image, error) {
	files, err := readArchive(r)
	if err != nil {
		return Image{}, fmt.Errorf("computing the digest of an image archive: %w", err)
	}
	if files["index.json"] == nil && files["manifest.json"] != nil {
		return Image{}, fmt.Errorf("computing the digest of an image archive: no index.json in it, so %w", errUnpushed)
	}
	img, err := layoutImage(func(name string) ([]byte, error) {
		if b := files[name]; b != nil {
			return b, nil
		}
		return nil, fmt.Errorf("reading %q: %w", name, fs.ErrNotExist)
	}, ref)
	if err != nil {
		return Image{}, fmt.Errorf("computing the digest of an image archive: %w", err)
	}
	return img, nil
}

// ImageDigestOfManifest computes it from the exact bytes of a manifest or index as the registry has them, such as
// `skopeo inspect --raw` prints.
func ImageDigestOfManifest(b []byte) (Image, error) {
	img, err := manifestImage(b, nil)
	if err != nil {
		return Image{}, fmt.Errorf("computing the digest of an image manifest: %w", err)
	}
	return img, nil
}

// descriptor and manifest are the parts of the OCI image specification (manifest.md, image-index.md) and of Docker's
// manifest version 2, schema 2, that say which image is meant.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations"`
	Platform    *struct {
		Architecture string `json:"architecture"`
		OS           string `json:"os"`
	} `json:"platform"`
}

type manifest struct {
	Schema    int          `json:"schemaVersion"`
	MediaType string       `json:"mediaType"`
	Config    descriptor   `json:"config"`
	Layers    []descriptor `json:"layers"`
	Manifests []descriptor `json:"manifests"`
}

// The media types of manifests and of indexes. OCI's may be left out of the document.
var (
	manifestTypes = []string{"", "application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"}
	indexTypes    = []string{"", "application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"}
)

func parseManifest(b []byte) (m manifest, err error) {
	if err := json.Unmarshal(b, &m); err != nil {
		return m, err
	}
	types := manifestTypes
	if m.Manifests != nil {
		types = indexTypes
	}
	switch {
	case m.Schema != 2:
		return m, fmt.Errorf("schema version %d, want 2", m.Schema)
	case !slices.Contains(types, m.MediaType):
		return m, fmt.Errorf("media type %.80q, want a manifest or an index", m.MediaType)
	case (m.Manifests != nil) == (m.Config.Digest != ""):
		return m, errors.New("want either a manifest with its configuration, or an index with its manifests")
	}
	return m, nil
}

// manifestImage names an image by its manifest or index. blob reads what an index points to; without it the document
// is the registry's own.
func manifestImage(b []byte, blob func(descriptor) ([]byte, error)) (Image, error) {
	m, err := parseManifest(b)
	if err != nil {
		return Image{}, err
	}
	d := attest.SHA256Measurement(sha256.Sum256(b))
	if m.Manifests == nil {
		return m.image(d, blob == nil)
	}
	here, err := one(m.Manifests, "for linux/amd64", func(d descriptor) bool {
		return d.Platform != nil && d.Platform.OS == "linux" && d.Platform.Architecture == "amd64"
	})
	if err != nil {
		return Image{}, err
	}
	platform, err := attest.ParseMeasurement(here.Digest)
	if err != nil || blob == nil {
		return Image{Digest: d, Platform: platform}, err
	}
	inner, err := blob(here)
	if err != nil {
		return Image{}, err
	}
	if m, err = parseManifest(inner); err != nil {
		return Image{}, err
	}
	img, err := m.image(platform, false)
	img.Digest = d
	return img, err
}

// image names the image of one platform, whose manifest has digest d. One that no registry has seen yet has to have
// compressed layers: the common tools compress others as they push, which makes another manifest.
func (m manifest) image(d attest.Measurement, pushed bool) (Image, error) {
	plain := func(l descriptor) bool { return strings.HasSuffix(l.MediaType, ".tar") }
	if !pushed && slices.ContainsFunc(m.Layers, plain) {
		return Image{}, fmt.Errorf("layers that are not compressed, so %w", errUnpushed)
	}
	id, err := attest.ParseMeasurement(m.Config.Digest)
	if err != nil {
		return Image{}, fmt.Errorf("configuration: %w", err)
	}
	return Image{Digest: d, Platform: d, ID: id}, nil
}

// layoutImage follows index.json to the image. The index of a layout is no index of the registry: what it points to
// is what was pushed.
func layoutImage(read func(name string) ([]byte, error), ref string) (Image, error) {
	b, err := read("index.json")
	if err != nil {
		return Image{}, err
	}
	index, err := parseManifest(b)
	if err != nil {
		return Image{}, fmt.Errorf("index.json: %w", err)
	}
	what := "in index.json"
	if ref != "" {
		what = fmt.Sprintf("tagged %q", ref)
	}
	d, err := one(index.Manifests, what, func(d descriptor) bool {
		return ref == "" || d.Annotations["org.opencontainers.image.ref.name"] == ref
	})
	if err != nil {
		return Image{}, err
	}
	blob := func(d descriptor) ([]byte, error) { return readBlob(read, d) }
	if b, err = blob(d); err != nil {
		return Image{}, err
	}
	img, err := manifestImage(b, blob)
	if err != nil {
		return Image{}, fmt.Errorf("%s: %w", d.Digest, err)
	}
	return img, nil
}

// one wants a single descriptor that fits: which of two is meant, nobody here can know. Two tags of one image are one.
func one(ds []descriptor, what string, fits func(descriptor) bool) (descriptor, error) {
	ds = slices.DeleteFunc(slices.Clone(ds), func(d descriptor) bool { return !fits(d) })
	ds = slices.CompactFunc(ds, func(a, b descriptor) bool { return a.Digest == b.Digest })
	if len(ds) != 1 {
		return descriptor{}, fmt.Errorf("%d images %s, want one", len(ds), what)
	}
	return ds[0], nil
}

// readBlob reads what a descriptor names, and holds it against that.
func readBlob(read func(name string) ([]byte, error), d descriptor) ([]byte, error) {
	m, err := attest.ParseMeasurement(d.Digest)
	digits, isSHA256 := strings.CutPrefix(string(m), "sha256:")
	if err != nil || !isSHA256 {
		return nil, fmt.Errorf("digest %.80q, want one of SHA-256", d.Digest)
	}
	b, err := read("blobs/sha256/" + digits)
	if err != nil {
		return nil, err
	}
	if got := attest.SHA256Measurement(sha256.Sum256(b)); got != m {
		return nil, fmt.Errorf("file of %s has the digest %s", m, got)
	}
	return b, nil
}

func readBounded(layout fs.FS, name string) (_ []byte, err error) {
	f, err := layout.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err == nil && len(b) > maxManifest {
		err = fmt.Errorf("reading %q: more than %d bytes", name, maxManifest)
	}
	return b, err
}

// readArchive keeps the small files of a tar archive: manifests, and no layers.
func readArchive(r io.Reader) (map[string][]byte, error) {
	files, kept := map[string][]byte{}, 0
	t := tar.NewReader(r)
	for range maxArchive {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		name := path.Clean(h.Name)
		small := h.Typeflag == tar.TypeReg && h.Size <= maxManifest
		if !small || name != "index.json" && name != "manifest.json" && !strings.HasPrefix(name, "blobs/sha256/") {
			continue
		}
		b := make([]byte, h.Size)
		if _, err := io.ReadFull(t, b); err != nil {
			return nil, fmt.Errorf("reading %.80q: %w", name, err)
		}
		if !json.Valid(b) { // a small layer
			continue
		}
		if _, twice := files[name]; twice {
			return nil, fmt.Errorf("file %.80q twice", name)
		}
		if kept += len(b); kept > maxKept {
			return nil, fmt.Errorf("more than %d bytes of manifests", maxKept)
		}
		files[name] = b
	}
	return nil, fmt.Errorf("more than %d files", maxArchive)
}
