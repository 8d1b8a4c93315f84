package erofs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	goerofs "github.com/erofs/go-erofs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	image "github.com/nodeless/nodeless/pkg/erofs"
)

func store(t *testing.T, mediaType string, blob []byte) (content.Store, ocispec.Descriptor) {
	t.Helper()
	cs, err := local.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(blob), Size: int64(len(blob))}
	if err := content.WriteBlob(t.Context(), cs, desc.Digest.String(), bytes.NewReader(blob), desc); err != nil {
		t.Fatal(err)
	}
	return cs, desc
}

func compress(t *testing.T, data []byte, how compression.Compression) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := compression.CompressStream(&buf, how)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func aTar(t *testing.T) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	if err := tw.WriteHeader(&tar.Header{Name: "hello", Mode: 0o644, Size: 5}); err != nil {
		t.Fatal(err)
	}
	if _, err := tw.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return append(buf.Bytes(), make([]byte, 8192)...) // as GNU tar pads
}

func TestApplyReadsEveryCompression(t *testing.T) {
	plain := aTar(t)
	for mediaType, blob := range map[string][]byte{
		ocispec.MediaTypeImageLayer:                         plain,
		ocispec.MediaTypeImageLayerGzip:                     compress(t, plain, compression.Gzip),
		ocispec.MediaTypeImageLayerZstd:                     compress(t, plain, compression.Zstd),
		"application/vnd.docker.image.rootfs.diff.tar.gzip": compress(t, plain, compression.Gzip),
	} {
		t.Run(mediaType, func(t *testing.T) {
			s := newSnapshotter(t)
			cs, desc := store(t, mediaType, blob)
			got, err := newDiffer(cs, works(0)).Apply(t.Context(), desc, prepare(t, s, "extract", ""))
			if err != nil {
				t.Fatal(err)
			}
			want := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(plain), Size: int64(len(plain))}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if err := s.Commit(t.Context(), "layer", "extract"); err != nil {
				t.Fatal(err)
			}
			if layer := prepare(t, s, "c", "layer")[0].Source; !bytes.Contains(read(t, layer), []byte("hello")) {
				t.Error("the committed layer is not the one applied")
			}
		})
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestApplyLeavesOthersTheirBusiness(t *testing.T) {
	s := newSnapshotter(t)
	mounts := prepare(t, s, "extract", "")
	for _, tt := range []struct {
		name      string
		mediaType string
		mounts    []mount.Mount
		is        func(error) bool
	}{
		{"another snapshotter's mounts", ocispec.MediaTypeImageLayer, []mount.Mount{{Type: "bind", Source: t.TempDir()}}, errdefs.IsNotImplemented},
		{"no mounts", ocispec.MediaTypeImageLayer, nil, errdefs.IsNotImplemented},
		{"a kind of layer we do not know", "application/x-other", mounts, errdefs.IsNotImplemented},
		{"a snapshot that cannot be written", ocispec.MediaTypeImageLayer,
			[]mount.Mount{{Type: "bind", Source: mounts[0].Source, Options: []string{"ro"}}}, errdefs.IsFailedPrecondition},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cs, desc := store(t, tt.mediaType, aTar(t))
			if _, err := newDiffer(cs, works(0)).Apply(t.Context(), desc, tt.mounts); !tt.is(err) {
				t.Errorf("got error %v", err)
			}
		})
	}
	if _, err := newDiffer(nil, works(0)).Compare(t.Context(), nil, nil); !errdefs.IsNotImplemented(err) {
		t.Errorf("Compare: got error %v", err)
	}
}

func TestApplyOfAHostileLayerLeavesNothing(t *testing.T) {
	s := newSnapshotter(t)
	noise := bytes.Repeat([]byte("no tar, just noise "), 1000)
	for name, layer := range map[string]struct {
		blob []byte
		kind error
	}{
		"noise":              {compress(t, noise, compression.Gzip), image.ErrFormat},
		"cut short":          {compress(t, aTar(t), compression.Gzip)[:40], image.ErrFormat},
		"much behind an end": {compress(t, append(aTar(t), make([]byte, 64<<20)...), compression.Gzip), image.ErrTooLarge},
	} {
		cs, desc := store(t, ocispec.MediaTypeImageLayerGzip, layer.blob)
		mounts := prepare(t, s, name, "")
		if _, err := newDiffer(cs, works(0)).Apply(t.Context(), desc, mounts); !errors.Is(err, layer.kind) {
			t.Errorf("%s: got error %v, want %v", name, err, layer.kind)
		}
		dir, err := snapshotDir(mounts)
		if err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 3 { // fs, work, the marker
			t.Errorf("%s: left %v, %v", name, entries, err)
		}
	}
}

// What containerd itself would unpack, layer over layer into one directory, is what a container must see: directories
// that a layer only implies and symlinks below them included.
func TestTheChainIsWhatContainerdUnpacks(t *testing.T) {
	needMounts(t)
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 2))
			s := newSnapshotter(t)
			dir, at, parent := t.TempDir(), t.TempDir(), ""
			for i := range 2 + r.IntN(5) {
				layer := randomTar(t, r, dir, i == 0)
				cs, desc := store(t, ocispec.MediaTypeImageLayer, layer)
				key, name := fmt.Sprint("extract-", i), fmt.Sprint("layer-", i)
				mounts, err := s.Prepare(t.Context(), key, parent, snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotRef: name}))
				if err != nil {
					t.Fatal(err)
				}
				if _, err := newDiffer(cs, works(0)).Apply(t.Context(), desc, mounts); err != nil {
					t.Fatal(err)
				}
				if err := s.Commit(t.Context(), name, key); err != nil {
					t.Fatal(err)
				}
				parent = name
			}
			view, err := s.View(t.Context(), "view", parent)
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount(view[0].Source, at, "erofs", unix.MS_RDONLY, ""); err != nil {
				t.Fatal(err)
			}
			defer unix.Unmount(at, 0)
			if diff := cmp.Diff(tree(t, dir), tree(t, at)); diff != "" {
				t.Errorf("(-containerd +ours):\n%s", diff)
			}
		})
	}
}

// randomTar makes a layer that fits on what is in dir, and unpacks it there as containerd does.
func randomTar(t *testing.T, r *rand.Rand, dir string, first bool) []byte {
	t.Helper()
	names := []string{"a", "b", "c"}
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	add := func(hdr tar.Header, body string) {
		hdr.Size, hdr.Format = int64(len(body)), tar.FormatPAX
		if err := tw.WriteHeader(&hdr); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, body); err != nil {
			t.Fatal(err)
		}
	}
	used := map[string]bool{}
	for range 12 {
		path := names[r.IntN(3)]
		for r.IntN(2) == 0 {
			path += "/" + names[r.IntN(3)]
		}
		if clash(used, path) {
			continue
		}
		used[path] = true
		mode := int64(0o700 | r.IntN(0o1000))
		parent, base := filepath.Split(path)
		switch kind := r.IntN(7); {
		case kind == 0:
			add(tar.Header{Typeflag: tar.TypeDir, Name: path, Mode: mode, Uid: r.IntN(9)}, "")
		case kind == 1:
			add(tar.Header{Typeflag: tar.TypeSymlink, Name: path, Linkname: "/" + names[r.IntN(3)]}, "")
		case kind == 2 && !first:
			add(tar.Header{Name: parent + ".wh." + base, Mode: 0o600}, "")
		default:
			hdr := tar.Header{Name: path, Mode: mode, Gid: r.IntN(9), ModTime: time.Unix(1700000000, int64(r.IntN(1e9)))}
			add(hdr, strings.Repeat("x", r.IntN(9000)))
			if r.IntN(3) == 0 { // with the attributes of its target, as whatever makes tars does
				hdr.Typeflag, hdr.Name, hdr.Linkname = tar.TypeLink, path+"-link", path
				add(hdr, "")
			}
		}
	}
	for i, hdr := range linksTo(t, dir) {
		// A link is left out where the layer itself has something with other attributes.
		if i%3 == 0 && !strings.HasPrefix(hdr.Linkname, "link") && !clash(used, strings.TrimSuffix(hdr.Linkname, "-link")) {
			hdr.Name = fmt.Sprint("link", i%4)
			add(hdr, "")
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	if !applies(t, dir, buf.Bytes()) {
		return randomTar(t, r, dir, first)
	}
	return buf.Bytes()
}

// linksTo are headers of hard links to all that is in dir, with its attributes.
func linksTo(t *testing.T, dir string) (links []tar.Header) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		hdr, err := tar.FileInfoHeader(info, "")
		if err == nil {
			hdr.Typeflag, hdr.Linkname = tar.TypeLink, strings.TrimPrefix(path, dir+"/")
			links = append(links, *hdr)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return links
}

// clash says whether a path is above or below one that the layer has already: in which order the two are met would then
// matter, and an image of the layer alone cannot know what its parts meet below.
func clash(used map[string]bool, path string) bool {
	for other := range used {
		if strings.HasPrefix(other+"/", path+"/") || strings.HasPrefix(path+"/", other+"/") {
			return true
		}
	}
	return false
}

// applies unpacks a layer over dir if containerd can.
func applies(t *testing.T, dir string, layer []byte) bool {
	t.Helper()
	trial := t.TempDir()
	copyTree(t, dir, trial)
	if _, err := archive.Apply(context.Background(), trial, bytes.NewReader(layer)); err != nil {
		return false
	}
	if _, err := archive.Apply(context.Background(), dir, bytes.NewReader(layer)); err != nil {
		t.Fatal(err)
	}
	return true
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	var buf bytes.Buffer
	if err := archive.WriteDiff(context.Background(), &buf, "", from); err != nil {
		t.Fatal(err)
	}
	if _, err := archive.Apply(context.Background(), to, &buf); err != nil {
		t.Fatal(err)
	}
}

// tree lists a directory. Times of directories are left out: unpacking over what is there changes some.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	list := map[string]string{}
	inodes := map[uint64][]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		rel := path[len(root):]
		desc := fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid)
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			desc += " -> " + target
		case d.Type().IsRegular():
			desc += fmt.Sprintf(" %d %d links %d", st.Size, st.Mtim.Nsec, st.Nlink)
			inodes[st.Ino] = append(inodes[st.Ino], rel)
		}
		list[rel] = desc
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, same := range inodes {
		slices.Sort(same)
		for _, rel := range same {
			list[rel] += " " + strings.Join(same, "=")
		}
	}
	return list
}

// A layer may hold nothing but another name for a file of the layer below it; the lowest has none below.
func TestAHardLinkToTheLayerBelow(t *testing.T) {
	for _, unpacking := range []string{"in turn", "at once"} {
		t.Run(unpacking, func(t *testing.T) {
			s := newSnapshotter(t)
			apply := func(key, parent string, tar []byte) {
				cs, desc := store(t, ocispec.MediaTypeImageLayer, tar)
				if _, err := newDiffer(cs, works(0)).Apply(t.Context(), desc, prepare(t, s, key, parent)); err != nil {
					t.Fatal(err)
				}
			}
			var links bytes.Buffer
			tw := tar.NewWriter(&links)
			if err := errors.Join(tw.WriteHeader(&tar.Header{Typeflag: tar.TypeLink, Name: "again", Linkname: "hello"}), tw.Close()); err != nil {
				t.Fatal(err)
			}
			apply("one", "", aTar(t))
			if err := s.Commit(t.Context(), "below", "one"); err != nil {
				t.Fatal(err)
			}
			parent, opts := "below", []snapshots.Opt{}
			if unpacking == "at once" { // containerd then names the parent at the end
				parent, opts = "", []snapshots.Opt{snapshots.WithParent("below")}
			}
			apply("two", parent, links.Bytes())
			if err := s.Commit(t.Context(), "above", "two", opts...); err != nil {
				t.Fatal(err)
			}
			names := []string{}
			merged, err := goerofs.Open(bytes.NewReader(read(t, prepare(t, s, "container", "above")[0].Source)))
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"hello", "again"} {
				if content, err := fs.ReadFile(merged, name); err == nil && string(content) == "hello" {
					names = append(names, name)
				}
			}
			if !slices.Equal(names, []string{"hello", "again"}) {
				t.Errorf("the file is there as %q, want both its names", names)
			}
			apply("alone", "", links.Bytes())
			if err := s.Commit(t.Context(), "lowest", "alone"); !errors.Is(err, image.ErrFormat) {
				t.Errorf("a lowest layer with a link to nothing: got error %v, want %v", err, image.ErrFormat)
			}
		})
	}
}
