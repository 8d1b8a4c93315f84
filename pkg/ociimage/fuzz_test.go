package ociimage

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"
	"testing"
)

// FuzzWrite builds an image of files with any path: it is refused, or each entry of its layer has a clean path inside, its
// parent before it, and the archive is the same the second time.
func FuzzWrite(f *testing.F) {
	f.Add("docker.io/x:1", "/a/b", "/a", "../../etc", uint32(0o755))
	f.Add(":", "/../etc/passwd", "//x", "", uint32(fs.ModeSymlink))
	f.Add("x/y:z@w", "/a/", "/.", "\x00", uint32(fs.ModeDir|fs.ModeSticky))
	f.Add("", "/\xff", strings.Repeat("/d", 300), "t", uint32(fs.ModeDevice))
	f.Fuzz(func(t *testing.T, name, one, two, link string, mode uint32) {
		img := Image{Name: name, Layers: [][]File{{
			{Path: one, Mode: fs.FileMode(mode), Link: link, UID: int(mode)}, {Path: two, Data: []byte(link), Mode: 0o644},
		}}}
		var out, again bytes.Buffer
		if Write(&out, img) != nil {
			return
		}
		if err := Write(&again, img); err != nil || !bytes.Equal(out.Bytes(), again.Bytes()) {
			t.Errorf("the same image is another archive the second time: %v", err)
		}
		data, err := layer(img.Layers[0])
		if err != nil {
			t.Fatal(err)
		}
		dirs := map[string]bool{".": true}
		for r := tar.NewReader(bytes.NewReader(data)); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("the layer cannot be read: %v", err)
			}
			clean := strings.TrimSuffix(h.Name, "/")
			if clean != path.Clean(clean) || strings.HasPrefix(clean, "/") || clean == ".." || strings.HasPrefix(clean, "../") {
				t.Errorf("entry %q", h.Name)
			}
			if !dirs[path.Dir(clean)] {
				t.Errorf("entry %q comes before its parent, or below what is no directory", h.Name)
			}
			if h.Typeflag == tar.TypeDir {
				dirs[clean] = true
			}
		}
	})
}
