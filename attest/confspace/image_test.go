package confspace

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/consilium-fl/consilium/attest"
)

// TestKnownManifest has the manifest and the digest of the OCI image specification's own example of a manifest's
// parts, hashed by sha256sum.
func TestKnownManifest(t *testing.T) {
	const known = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:b5b2b2c507a0944348e0303114d8d93aaaa081732b86451d9bce1f432a537bc7","size":7023},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:9834876dcfb05cb167a5c24953eba58c4ac89b1adf57f28f2f9d09af107ee8f0","size":32654}]}`
	img, err := ImageDigestOfManifest([]byte(known))
	if err != nil || img.Digest != "sha256:ead8068ab4c695c6e6be68ab5745502dbb8836564dd084f2f4f18d1b99499180" || img.Platform != img.Digest || img.ID != "sha256:b5b2b2c507a0944348e0303114d8d93aaaa081732b86451d9bce1f432a537bc7" {
		t.Errorf("got %+v, %v", img, err)
	}
}

// layout is an OCI layout that is made for a test.
type layout fstest.MapFS

func (l layout) blob(t testing.TB, v any) descriptor {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	digits := fmt.Sprintf("%x", sha256.Sum256(b))
	l["blobs/sha256/"+digits] = &fstest.MapFile{Data: b}
	return descriptor{Digest: "sha256:" + digits, Size: int64(len(b))}
}

func (l layout) image(t testing.TB, layer string) descriptor {
	t.Helper()
	config := l.blob(t, map[string]string{"architecture": "amd64", "layer": layer})
	return l.blob(t, manifest{Schema: 2, MediaType: manifestTypes[1], Config: config, Layers: []descriptor{{MediaType: layer, Digest: config.Digest}}})
}

const gzipped = "application/vnd.oci.image.layer.v1.tar+gzip"

func (l layout) index(t testing.TB, ds ...descriptor) layout {
	t.Helper()
	b, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": ds})
	if err != nil {
		t.Fatal(err)
	}
	l["index.json"] = &fstest.MapFile{Data: b}
	return l
}

func tagged(d descriptor, ref string) descriptor {
	d.Annotations = map[string]string{"org.opencontainers.image.ref.name": ref}
	return d
}

func platform(t testing.TB, d descriptor, os, arch string) descriptor {
	t.Helper()
	if err := json.Unmarshal(fmt.Appendf(nil, `{"platform":{"os":%q,"architecture":%q}}`, os, arch), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func (l layout) several(t testing.TB) (index, amd64 descriptor) {
	t.Helper()
	amd64 = l.image(t, gzipped)
	arm64 := l.blob(t, manifest{Schema: 2, Config: amd64})
	return l.blob(t, map[string]any{"schemaVersion": 2, "mediaType": indexTypes[1], "manifests": []descriptor{
		platform(t, arm64, "linux", "arm64"), platform(t, amd64, "linux", "amd64"), platform(t, l.blob(t, "provenance"), "unknown", "unknown"),
	}}), amd64
}

// TestImageDigest: the digest is that of what the layout's index points to: for several platforms, of their index.
func TestImageDigest(t *testing.T) {
	l := layout{}
	one := l.image(t, gzipped)
	index, amd64 := l.several(t)
	l.index(t, tagged(one, "v1"), tagged(one, "latest"), tagged(index, "all"))
	for ref, w := range map[string][2]string{"v1": {one.Digest, one.Digest}, "latest": {one.Digest, one.Digest}, "all": {index.Digest, amd64.Digest}} {
		img, err := ImageDigest(fstest.MapFS(l), ref)
		if err != nil || string(img.Digest) != w[0] || string(img.Platform) != w[1] || img.ID == "" {
			t.Errorf("%s: %+v, %v; want %q", ref, img, err, w)
		}
		packed, err := ImageDigestOfArchive(bytes.NewReader(l.tar(t)), ref)
		if err != nil || packed != img {
			t.Errorf("%s packed: %+v, %v; want %+v", ref, packed, err, img)
		}
	}
	if img, err := ImageDigest(fstest.MapFS(layout{}.with(l).index(t, one, one)), ""); err != nil || string(img.Digest) != one.Digest {
		t.Errorf("two tags of one image: %+v, %v", img, err)
	}
	raw, err := fs.ReadFile(fstest.MapFS(l), "blobs/sha256/"+strings.TrimPrefix(index.Digest, "sha256:"))
	if err != nil {
		t.Fatal(err)
	}
	if img, err := ImageDigestOfManifest(raw); err != nil || img != (Image{Digest: attest.Measurement(index.Digest), Platform: attest.Measurement(amd64.Digest)}) {
		t.Errorf("an index alone: %+v, %v", img, err)
	}
}

func (l layout) with(o layout) layout { maps.Copy(l, o); return l }

func (l layout) tar(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(l)) {
		data := l[name].Data
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "./" + name, Size: int64(len(data)), Mode: 0o600}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestImageDigestErrors(t *testing.T) {
	base := layout{}
	one := base.image(t, gzipped)
	plain := base.image(t, "application/vnd.oci.image.layer.v1.tar")
	index, _ := base.several(t)
	other := base.blob(t, manifest{Schema: 2, Config: one, Layers: []descriptor{}})
	nested := base.blob(t, map[string]any{"schemaVersion": 2, "manifests": []descriptor{platform(t, index, "linux", "amd64")}})
	arm := base.blob(t, map[string]any{"schemaVersion": 2, "manifests": []descriptor{platform(t, one, "linux", "arm64")}})
	fresh := func() layout { return layout{}.with(base) }
	forged := fresh().index(t, one)
	forged["blobs/sha256/"+strings.TrimPrefix(one.Digest, "sha256:")] = &fstest.MapFile{Data: []byte("{}")}
	absent := fresh().index(t, one)
	delete(absent, "blobs/sha256/"+strings.TrimPrefix(one.Digest, "sha256:"))
	for name, tc := range map[string]struct {
		layout layout
		ref    string
		want   string
	}{
		"empty":              {layout{}, "", "file does not exist"},
		"two images":         {fresh().index(t, one, other), "", "2 images in index.json, want one"},
		"no such tag":        {fresh().index(t, tagged(one, "v1")), "v2", `0 images tagged "v2"`},
		"a forged blob":      {forged, "", "has the digest"},
		"an absent blob":     {absent, "", "file does not exist"},
		"another algorithm":  {fresh().index(t, descriptor{Digest: "sha384:" + strings.Repeat("a", 96)}), "", "want one of SHA-256"},
		"a path for digest":  {fresh().index(t, descriptor{Digest: "sha256:../../../etc/passwd"}), "", "want one of SHA-256"},
		"layers that change": {fresh().index(t, plain), "", "take the manifest from the registry"},
		"an index in one":    {fresh().index(t, nested), "", "configuration"},
		"another platform":   {fresh().index(t, arm), "", "0 images for linux/amd64"},
		"no JSON":            {fresh().index(t, one).with(layout{"index.json": {Data: []byte("x")}}), "", "index.json"},
		"schema version 1":   {layout{"index.json": {Data: []byte(`{"schemaVersion":1,"manifests":[]}`)}}, "", "schema version 1"},
		"a long file":        {layout{"index.json": {Data: make([]byte, maxManifest+1)}}, "", "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			if img, err := ImageDigest(fstest.MapFS(tc.layout), tc.ref); err == nil || !strings.Contains(err.Error(), tc.want) || img != (Image{}) {
				t.Errorf("%+v, %v; want %q", img, err, tc.want)
			}
			if img, err := ImageDigestOfArchive(bytes.NewReader(tc.layout.tar(t)), tc.ref); err == nil || img != (Image{}) {
				t.Errorf("packed: %+v, %v", img, err)
			}
		})
	}
	if _, err := ImageDigestOfArchive(bytes.NewReader(layout{"manifest.json": {Data: []byte(`[{"Config":"x.json"}]`)}}.tar(t)), ""); !errors.Is(err, errUnpushed) {
		t.Errorf("what docker saves: %v", err)
	}
	for name, b := range map[string]string{
		"nothing": "", "a list": "[]", "neither": `{"schemaVersion":2}`, "both": `{"schemaVersion":2,"config":{"digest":"x"},"manifests":[]}`,
		"another type": `{"schemaVersion":2,"mediaType":"application/vnd.docker.plugin.v1+json","config":{"digest":"x"}}`, "an odd configuration": `{"schemaVersion":2,"config":{"digest":"x"}}`,
	} {
		if img, err := ImageDigestOfManifest([]byte(b)); err == nil || img != (Image{}) {
			t.Errorf("%s: %+v, %v", name, img, err)
		}
	}
}

func TestArchiveBounds(t *testing.T) {
	l := layout{}
	for i := range maxKept/maxManifest + 1 {
		l[fmt.Sprintf("blobs/sha256/%d", i)] = &fstest.MapFile{Data: fmt.Appendf(nil, "%q", strings.Repeat("a", maxManifest-2))}
	}
	if _, err := ImageDigestOfArchive(bytes.NewReader(l.tar(t)), ""); err == nil || !strings.Contains(err.Error(), "of manifests") {
		t.Errorf("many manifests: %v", err)
	}
	twice := layout{"index.json": {Data: []byte("{}")}}.tar(t)
	twice = append(twice[:len(twice)-1024], twice...)
	if _, err := ImageDigestOfArchive(bytes.NewReader(twice), ""); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("a file twice: %v", err)
	}
}

func FuzzImage(f *testing.F) {
	l := layout{}
	index, _ := l.several(f)
	l.index(f, index)
	for _, file := range l {
		f.Add(file.Data)
	}
	f.Add(l.tar(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		if img, err := ImageDigestOfManifest(b); err == nil && img.Digest != attest.SHA256Measurement(sha256.Sum256(b)) {
			t.Fatalf("%q has the digest %s", b, img.Digest)
		}
		if _, err := ImageDigest(fstest.MapFS{"index.json": {Data: b}}, ""); err == nil {
			t.Fatalf("%q names an image that is not there", b)
		}
		_, _ = ImageDigestOfArchive(bytes.NewReader(b), "")
	})
}
