package erofs

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// mergeAll converts the layers and merges them.
func mergeAll(t *testing.T, layers [][]member) (*os.File, error) {
	t.Helper()
	var images []*os.File
	for _, members := range layers {
		image := tempFile(t)
		if err := Convert(t.Context(), bytes.NewReader(makeTar(t, members...)), image, DefaultLimits()); err != nil {
			return nil, err
		}
		images = append(images, image)
	}
	out := tempFile(t)
	return out, Merge(t.Context(), images, out, DefaultLimits())
}

func TestHardLinksToLayersBelow(t *testing.T) {
	one := "100644 0:0" + aStamp + content("1")
	for _, tt := range []struct {
		name   string
		layers [][]member
		want   map[string]string // nil: refused
	}{
		{"a file", [][]member{{file("a", "1")}, {link("b", "a")}}, map[string]string{"/a": one + " same as /a,/b", "/b": one + " same as /a,/b"}},
		{"a link to such a link", [][]member{{file("a", "1")}, {link("b", "a"), link("c", "b")}},
			map[string]string{"/a": one + " same as /a,/b,/c", "/b": one + " same as /a,/b,/c", "/c": one + " same as /a,/b,/c"}},
		{"over layers", [][]member{{file("a", "1")}, {link("b", "a")}, {file("x", "")}, {link("c", "b")}},
			map[string]string{"/a": one + " same as /a,/b,/c", "/b": one + " same as /a,/b,/c", "/c": one + " same as /a,/b,/c", "/x": "100644 0:0" + aStamp + content("")}},
		{"the file goes in the same layer", [][]member{{file("a", "1")}, {link("b", "a"), file(".wh.a", "")}}, map[string]string{"/b": one}},
		{"the file is replaced in the same layer", [][]member{{file("a", "1")}, {link("b", "a"), file("a", "22")}},
			map[string]string{"/a": "100644 0:0" + aStamp + content("22"), "/b": one}},
		{"the file goes in a layer above", [][]member{{file("a", "1")}, {link("b", "a")}, {file(".wh.a", "")}}, map[string]string{"/b": one}},
		{"over the file's own name", [][]member{{file("a", "1")}, {link("a", "a")}}, map[string]string{"/a": one}},
		{"a file over the link", [][]member{{file("a", "1")}, {link("b", "a"), file("b", "22")}},
			map[string]string{"/a": one, "/b": "100644 0:0" + aStamp + content("22")}},
		{"a symlink", [][]member{{symlink("a", "nowhere")}, {link("b", "a")}},
			map[string]string{"/a": "120777 0:0" + aStamp + " -> nowhere same as /a,/b", "/b": "120777 0:0" + aStamp + " -> nowhere same as /a,/b"}},
		{"through a symlink below", [][]member{{file("d/a", "1"), symlink("l", "d")}, {link("b", "l/a")}}, map[string]string{
			"/d": "40755 0:0 0.000000000", "/d/a": one + " same as /b,/d/a", "/b": one + " same as /b,/d/a", "/l": "120777 0:0" + aStamp + " -> d"}},
		{"through a symlink of the layer", [][]member{{file("d/a", "1")}, {symlink("l", "/d"), link("b", "l/a")}}, map[string]string{
			"/d": "40755 0:0 0.000000000", "/d/a": one + " same as /b,/d/a", "/b": one + " same as /b,/d/a", "/l": "120777 0:0" + aStamp + " -> /d"}},
		{"leaves the attributes of the file's directory", [][]member{{dir("d").with(func(h *tar.Header) { h.Mode = 0o700 }), file("d/a", "1")}, {link("b", "d/a")}},
			map[string]string{"/d": "40700 0:0" + aStamp, "/d/a": one + " same as /b,/d/a", "/b": one + " same as /b,/d/a"}},
		{"nothing below", [][]member{{file("a", "1")}, {link("b", "c")}}, nil},
		{"a directory below", [][]member{{dir("d")}, {link("b", "d")}}, nil},
		{"below a file below", [][]member{{file("a", "1")}, {link("b", "a/c")}}, nil},
		{"gone in a layer between", [][]member{{file("a", "1")}, {file(".wh.a", "")}, {link("b", "a")}}, nil},
		{"gone before in the same layer", [][]member{{file("a", "1")}, {file(".wh.a", ""), link("b", "a")}}, nil},
		{"its directory gone before in the same layer", [][]member{{file("d/e/a", "1")}, {file(".wh.d", ""), link("b", "d/e/a")}}, nil},
		{"its directory emptied before in the same layer", [][]member{{file("d/e/a", "1")}, {file("d/.wh..wh..opq", ""), link("b", "d/e/a")}}, nil},
		{"all gone before in the same layer", [][]member{{file("a", "1")}, {file(".wh..wh..opq", ""), link("b", "a")}}, nil},
		{"in the lowest layer", [][]member{{link("b", "a")}, {file("a", "1")}}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			image, err := mergeAll(t, tt.layers)
			if tt.want == nil {
				if !errors.Is(err, ErrFormat) {
					t.Errorf("got error %v, want %v", err, ErrFormat)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if links, err := LinksBelow(image); links || err != nil {
				t.Errorf("the merged image is said to have links below: %v, %v", links, err)
			}
			if diff := cmp.Diff(tt.want, map[string]string(listImage(t, image))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
