// Package ociimage builds small container images as OCI archives (one tar in the OCI image layout), the same bytes
// from the same input. bundle/images makes the images that nodeless carries with it; tests make hostile ones.
//
// Source: OCI image specification v1.1, image-layout.md and config.md.
package ociimage

import (
	"archive/tar"
	"bytes"
	_ "crypto/sha256" // go-digest finds it by registration
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sort"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// nameAnnotation tells containerd's import the image's full name.
const nameAnnotation = "io.containerd.image.name"

// File is one entry of an image's root file system.
type File struct {
	Path string      // absolute; missing parents are made with mode 0755
	Mode fs.FileMode // type and permission; setuid, setgid and sticky by their fs bits
	Data []byte      // content of a regular file
	Link string      // target of a symbolic link
	UID  int
	GID  int
}

// Image is what to build.
type Image struct {
	Name   string // full reference, such as "docker.io/nodeless/pause:1"
	Config v1.ImageConfig
	Layers [][]File // the lowest first
}

// Write writes the archive.
func Write(out io.Writer, img Image) error {
	blobs := map[digest.Digest][]byte{}
	add := func(mediaType string, data []byte) v1.Descriptor {
		d := digest.FromBytes(data)
		blobs[d] = data
		return v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
	}
	config := v1.Image{Platform: v1.Platform{Architecture: "amd64", OS: "linux"}, Config: img.Config, RootFS: v1.RootFS{Type: "layers"}}
	var layers []v1.Descriptor
	for _, files := range img.Layers {
		data, err := layer(files)
		if err != nil {
			return fmt.Errorf("build layer of %s: %w", img.Name, err)
		}
		desc := add(v1.MediaTypeImageLayer, data)
		layers = append(layers, desc)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, desc.Digest)
	}
	configJSON, err := json.Marshal(config)
	if err != nil {
		return err
	}
	manifest := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: add(v1.MediaTypeImageConfig, configJSON), Layers: layers,
	}
	manifestJSON, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	desc := add(v1.MediaTypeImageManifest, manifestJSON)
	desc.Platform = &config.Platform
	desc.Annotations = map[string]string{nameAnnotation: img.Name, v1.AnnotationRefName: tag(img.Name)}
	return writeLayout(out, desc, blobs)
}

func writeLayout(out io.Writer, manifest v1.Descriptor, blobs map[digest.Digest][]byte) error {
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{manifest}}
	indexJSON, err := json.Marshal(index)
	if err != nil {
		return err
	}
	layoutJSON, err := json.Marshal(v1.ImageLayout{Version: v1.ImageLayoutVersion})
	if err != nil {
		return err
	}
	entries := map[string][]byte{v1.ImageLayoutFile: layoutJSON, v1.ImageIndexFile: indexJSON}
	for d, data := range blobs {
		entries[path.Join(v1.ImageBlobsDir, d.Algorithm().String(), d.Encoded())] = data
	}
	names := make([]string, 0, len(entries))
	for name := range entries {
		names = append(names, name)
	}
	sort.Strings(names)
	tw := tar.NewWriter(out)
	for _, name := range names {
		if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(entries[name])), Format: tar.FormatPAX}); err != nil {
			return err
		}
		if _, err := tw.Write(entries[name]); err != nil {
			return err
		}
	}
	return tw.Close()
}

// layer makes the tar of one layer: entries in order of their paths, parents first, all times zero.
func layer(files []File) ([]byte, error) {
	byPath := map[string]File{}
	for _, f := range files {
		if !path.IsAbs(f.Path) || path.Clean(f.Path) != f.Path || f.Path == "/" {
			return nil, fmt.Errorf("path %q is not absolute and clean", f.Path)
		}
		if _, twice := byPath[f.Path]; twice {
			return nil, fmt.Errorf("path %q is there twice", f.Path)
		}
		byPath[f.Path] = f
		for dir := path.Dir(f.Path); dir != "/"; dir = path.Dir(dir) {
			if _, ok := byPath[dir]; !ok {
				byPath[dir] = File{Path: dir, Mode: fs.ModeDir | 0o755}
			}
			if !byPath[dir].Mode.IsDir() {
				return nil, fmt.Errorf("path %q is below %q, which is no directory", f.Path, dir)
			}
		}
	}
	paths := make([]string, 0, len(byPath))
	for p := range byPath {
		paths = append(paths, p)
	}
	sort.Strings(paths)
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, p := range paths {
		if err := writeEntry(tw, byPath[p]); err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
	}
	if err := tw.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func writeEntry(tw *tar.Writer, f File) error {
	h := &tar.Header{
		Name: strings.TrimPrefix(f.Path, "/"), Mode: int64(f.Mode.Perm()), Uid: f.UID, Gid: f.GID,
		ModTime: time.Unix(0, 0), Format: tar.FormatPAX,
	}
	for bit, value := range map[fs.FileMode]int64{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if f.Mode&bit != 0 {
			h.Mode |= value
		}
	}
	switch {
	case f.Mode.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
	case f.Mode&fs.ModeSymlink != 0:
		h.Typeflag, h.Linkname = tar.TypeSymlink, f.Link
	case f.Mode.IsRegular():
		h.Typeflag, h.Size = tar.TypeReg, int64(len(f.Data))
	default:
		return fmt.Errorf("file type %s is not supported", f.Mode.Type())
	}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err := tw.Write(f.Data)
	return err
}

// tag is what stands behind the last colon of a reference, if that is a tag and not a port.
func tag(name string) string {
	if i := strings.LastIndex(name, ":"); i > strings.LastIndex(name, "/") {
		return name[i+1:]
	}
	return "latest"
}
