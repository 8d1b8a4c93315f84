package testregistry

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	_ "crypto/sha256" // go-digest finds it by registration
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is what to push.
type Image struct {
	Arch   string // empty: amd64
	Config v1.ImageConfig
	Layers []Layer // the lowest first
}

// Layer is a layer's tar and how it travels.
type Layer struct {
	Tar    []byte
	Format string        // "", "gzip" or "zstd"
	Digest digest.Digest // what the manifest says; empty: the truth
	DiffID digest.Digest // what the configuration says of the tar; empty: the truth
}

// Tar makes a tar of entries. Each is a header with its content, whose size is put in.
func Tar(entries ...Entry) []byte {
	var out bytes.Buffer
	tw := tar.NewWriter(&out)
	for _, e := range entries {
		e.Size, e.ModTime, e.Format = int64(len(e.Data)), time.Unix(1e9, 0), tar.FormatPAX
		if e.Typeflag == 0 {
			e.Typeflag = tar.TypeReg
		}
		if err := tw.WriteHeader(&e.Header); err != nil {
			panic(err) // a test that asks for what tar cannot say
		}
		if _, err := tw.Write(e.Data); err != nil {
			panic(err)
		}
	}
	if err := tw.Close(); err != nil {
		panic(err)
	}
	return out.Bytes()
}

// Entry is one entry of a tar.
type Entry struct {
	tar.Header
	Data []byte
}

// File, Dir, Symlink and Hardlink are the usual entries.
func File(name string, mode int64, data string) Entry {
	return Entry{tar.Header{Name: name, Mode: mode}, []byte(data)}
}

// Dir is a directory.
func Dir(name string, mode int64) Entry {
	return Entry{tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}, nil}
}

// Symlink is a symbolic link.
func Symlink(name, target string) Entry {
	return Entry{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, nil}
}

// Hardlink is another name of a file that the layer has already.
func Hardlink(name, target string) Entry {
	return Entry{tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}, nil}
}

// Sparse is a tar of one file of the size, of which only the tail is there; it is an old GNU sparse entry.
func Sparse(name string, size int64, tail string) []byte {
	h := make([]byte, 512)
	octal := func(at, width int, v int64) {
		text := fmt.Sprintf("%0*o\x00", width-1, v)
		if len(text) > width { // as GNU writes what has too many digits: binary
			text = string(append([]byte{0x80, 0, 0, 0}, binary.BigEndian.AppendUint64(nil, uint64(v))...))
		}
		copy(h[at:], text)
	}
	copy(h, name)
	octal(100, 8, 0o644)
	octal(108, 8, 0)
	octal(116, 8, 0)
	octal(124, 12, int64(len(tail)))
	octal(136, 12, 1e9)
	h[156] = tar.TypeGNUSparse
	copy(h[257:], "ustar  \x00")
	octal(386, 12, size-int64(len(tail)))
	octal(398, 12, int64(len(tail)))
	octal(410, 12, size)
	octal(422, 12, 0)
	octal(483, 12, size)
	copy(h[148:], "        ")
	sum := 0
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	body := make([]byte, (len(tail)+511)/512*512)
	copy(body, tail)
	return append(append(h, body...), make([]byte, 1024)...)
}

// pack gives the bytes that travel and their media type.
func (l Layer) pack() ([]byte, string, error) {
	var out bytes.Buffer
	switch l.Format {
	case "gzip":
		w, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
		if err != nil {
			return nil, "", err
		}
		if _, err := w.Write(l.Tar); err != nil {
			return nil, "", err
		}
		err = w.Close()
		return out.Bytes(), v1.MediaTypeImageLayerGzip, err
	case "zstd":
		w, err := zstd.NewWriter(nil)
		if err != nil {
			return nil, "", err
		}
		return w.EncodeAll(l.Tar, nil), v1.MediaTypeImageLayerZstd, nil
	}
	return l.Tar, v1.MediaTypeImageLayer, nil
}

// Push puts an image into the registry and returns the digest of its manifest.
func (r *Registry) Push(repository, tag string, img Image) (digest.Digest, error) {
	desc, err := r.push(repository, tag, img)
	return desc.Digest, err
}

// PushIndex puts an index of images into the registry and returns its digest.
func (r *Registry) PushIndex(repository, tag string, images ...Image) (digest.Digest, error) {
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex}
	for i, img := range images {
		desc, err := r.push(repository, tag+"-"+strconv.Itoa(i), img)
		if err != nil {
			return "", err
		}
		index.Manifests = append(index.Manifests, desc)
	}
	desc, err := r.manifest(repository, tag, v1.MediaTypeImageIndex, index)
	return desc.Digest, err
}

func (r *Registry) push(repository, tag string, img Image) (v1.Descriptor, error) {
	if img.Arch == "" {
		img.Arch = "amd64"
	}
	platform := v1.Platform{Architecture: img.Arch, OS: "linux"}
	config := v1.Image{Platform: platform, Config: img.Config, RootFS: v1.RootFS{Type: "layers"}}
	var layers []v1.Descriptor
	for _, l := range img.Layers {
		data, mediaType, err := l.pack()
		if err != nil {
			return v1.Descriptor{}, err
		}
		if l.Digest == "" {
			l.Digest = digest.FromBytes(data)
		}
		if l.DiffID == "" {
			l.DiffID = digest.FromBytes(l.Tar)
		}
		r.blobs.put(l.Digest.String(), data)
		layers = append(layers, v1.Descriptor{MediaType: mediaType, Digest: l.Digest, Size: int64(len(data))})
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.DiffID)
	}
	raw, err := json.Marshal(config)
	if err != nil {
		return v1.Descriptor{}, err
	}
	configDesc := v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	r.blobs.put(configDesc.Digest.String(), raw)
	desc, err := r.manifest(repository, tag, v1.MediaTypeImageManifest, v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Config: configDesc, Layers: layers,
	})
	desc.Platform = &platform
	return desc, err
}

func (r *Registry) manifest(repository, tag, mediaType string, content any) (v1.Descriptor, error) {
	raw, err := json.Marshal(content)
	if err != nil {
		return v1.Descriptor{}, err
	}
	req := httptest.NewRequest(http.MethodPut, "/v2/"+repository+"/manifests/"+tag, bytes.NewReader(raw))
	req.Header.Set("Content-Type", mediaType)
	res := httptest.NewRecorder()
	r.store.ServeHTTP(res, req)
	if res.Code != http.StatusCreated {
		return v1.Descriptor{}, fmt.Errorf("put manifest %s:%s: status %d: %s", repository, tag, res.Code, res.Body)
	}
	return v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}, nil
}

// Get is what a registry answers to a request of somebody who may see all.
func (r *Registry) Get(req *http.Request) []byte {
	res := httptest.NewRecorder()
	r.store.ServeHTTP(res, req)
	return res.Body.Bytes()
}

// PutManifest gives a manifest the tag 1, whether or not the registry has what it names.
func (r *Registry) PutManifest(t interface{ Fatal(...any) }, repository string, m v1.Manifest) {
	if _, err := r.manifest(repository, "1", v1.MediaTypeImageManifest, m); err != nil {
		t.Fatal(err)
	}
}
