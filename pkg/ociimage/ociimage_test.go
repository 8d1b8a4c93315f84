package ociimage_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"io/fs"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeless/nodeless/pkg/ociimage"
)

var example = ociimage.Image{
	Name:   "docker.io/nodeless/x:1",
	Config: v1.ImageConfig{Entrypoint: []string{"/bin/x"}},
	Layers: [][]ociimage.File{{
		{Path: "/bin/x", Mode: 0o755 | fs.ModeSetuid, Data: []byte("program"), UID: 70000},
		{Path: "/bin/y", Mode: fs.ModeSymlink | 0o777, Link: "x"},
		{Path: "/tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
	}},
}

func members(t *testing.T, r io.Reader) (map[string]*tar.Header, map[string][]byte) {
	t.Helper()
	headers, data := map[string]*tar.Header{}, map[string][]byte{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return headers, data
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		headers[h.Name], data[h.Name] = h, b
	}
}

func TestArchiveIsWholeAndItsDigestsHold(t *testing.T) {
	var out, again bytes.Buffer
	for _, b := range []*bytes.Buffer{&out, &again} {
		if err := ociimage.Write(b, example); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(out.Bytes(), again.Bytes()) {
		t.Error("two builds differ")
	}
	_, data := members(t, &out)
	blob := func(d v1.Descriptor) []byte {
		b := data["blobs/sha256/"+d.Digest.Encoded()]
		if digest.FromBytes(b) != d.Digest || int64(len(b)) != d.Size {
			t.Errorf("blob %s does not match its descriptor", d.Digest)
		}
		return b
	}
	var index v1.Index
	var manifest v1.Manifest
	var config v1.Image
	for _, err := range []error{
		json.Unmarshal(data["index.json"], &index),
		json.Unmarshal(blob(index.Manifests[0]), &manifest),
		json.Unmarshal(blob(manifest.Config), &config),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := index.Manifests[0].Annotations["io.containerd.image.name"]; got != example.Name {
		t.Errorf("name = %q", got)
	}
	if diff := cmp.Diff(example.Config, config.Config); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
	if config.RootFS.DiffIDs[0] != digest.FromBytes(blob(manifest.Layers[0])) {
		t.Error("diff id is not the layer's")
	}
	headers, content := members(t, bytes.NewReader(blob(manifest.Layers[0])))
	if h := headers["bin/x"]; h == nil || h.Mode != 0o4755 || h.Uid != 70000 || string(content["bin/x"]) != "program" {
		t.Errorf("bin/x = %+v", h)
	}
	if h := headers["bin/y"]; h == nil || h.Linkname != "x" {
		t.Errorf("bin/y = %+v", h)
	}
	if h := headers["tmp/"]; h == nil || h.Mode != 0o1777 {
		t.Errorf("tmp = %+v", h)
	}
	if headers["bin/"] == nil {
		t.Error("the parent folder is missing")
	}
}

func TestBadPathsAreRefused(t *testing.T) {
	for _, files := range [][]ociimage.File{
		{{Path: "relative"}}, {{Path: "/a/../b"}}, {{Path: "/"}}, {{Path: "/a"}, {Path: "/a"}}, {{Path: "/dev/x", Mode: fs.ModeDevice}},
	} {
		if err := ociimage.Write(io.Discard, ociimage.Image{Layers: [][]ociimage.File{files}}); err == nil {
			t.Errorf("%+v was accepted", files)
		}
	}
}
