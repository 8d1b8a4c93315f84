package erofs

import (
	"archive/tar"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestMergeAppliesLayersLikeAnOverlay(t *testing.T) {
	mode := func(mode int64) func(*tar.Header) { return func(h *tar.Header) { h.Mode = mode } }
	for _, tt := range []struct {
		name   string
		layers [][]member
		want   map[string]string // path → how its description begins
	}{
		{"a whiteout removes and is gone", [][]member{{file("a", "1"), file("b", "")}, {file(".wh.a", "")}}, map[string]string{"/b": "100644"}},
		{"a whiteout of nothing is gone too", [][]member{{file("a", "")}, {file(".wh.b", ""), file("d/.wh.c", "")}}, map[string]string{"/a": "100644", "/d": "40755"}},
		{"a whiteout in the lowest layer is gone", [][]member{{file(".wh.a", ""), dir("d")}}, map[string]string{"/d": "40755 0:0" + aStamp}},
		{"an opaque directory hides what is below", [][]member{{file("d/a", ""), file("d/e/b", "")}, {dir("d"), file("d/.wh..wh..opq", ""), file("d/c", "")}},
			map[string]string{"/d": "40755 0:0" + aStamp, "/d/c": "100644"}},
		{"an opaque root hides all", [][]member{{file("a", "")}, {file(".wh..wh..opq", ""), file("b", "")}}, map[string]string{"/b": "100644"}},
		{"a directory over a directory", [][]member{{dir("d"), file("d/a", "")}, {dir("d").with(mode(0o700)), file("d/b", "")}},
			map[string]string{"/d": "40700", "/d/a": "100644", "/d/b": "100644"}},
		{"a file over a directory and back", [][]member{{file("d/a", "")}, {file("d", "")}, {file("d/b", "")}},
			map[string]string{"/d": "40755", "/d/b": "100644"}},
		{"removed and made again", [][]member{{file("d/a", "")}, {file(".wh.d", "")}, {dir("d"), file("d/b", "")}},
			map[string]string{"/d": "40755 0:0" + aStamp, "/d/b": "100644"}},
		{"hard links stay links", [][]member{{file("a", "1"), link("b", "a"), link("d/c", "a")}, {file("x", "")}}, map[string]string{
			"/a": "100644 0:0" + aStamp + content("1") + " same as /a,/b,/d/c", "/b": "100644 0:0" + aStamp + content("1") + " same as /a,/b,/d/c",
			"/d": "40755", "/d/c": "100644 0:0" + aStamp + content("1") + " same as /a,/b,/d/c", "/x": "100644"}},
		{"a hard link loses one of its names", [][]member{{file("a", "1"), link("b", "a"), link("c", "a")}, {file(".wh.a", "")}, {file("b", "2")}},
			map[string]string{"/b": "100644 0:0" + aStamp + content("2"), "/c": "100644 0:0" + aStamp + content("1")}},
		{"an implied directory leaves the one below as it is", [][]member{{dir("tmp").with(mode(0o1777))}, {file("tmp/x", "")}},
			map[string]string{"/tmp": "41777", "/tmp/x": "100644"}},
		{"an implied directory goes through a symlink below", [][]member{{dir("usr/bin"), symlink("bin", "usr/bin")}, {file("bin/sh", "")}},
			map[string]string{"/usr": "40755", "/usr/bin": "40755", "/usr/bin/sh": "100644", "/bin": "120777 0:0" + aStamp + " -> usr/bin"}},
		{"a named directory replaces a symlink below", [][]member{{dir("usr/bin"), symlink("bin", "usr/bin")}, {dir("bin"), file("bin/sh", "")}},
			map[string]string{"/usr": "40755", "/usr/bin": "40755", "/bin": "40755", "/bin/sh": "100644"}},
		{"a symlink below that leads out leads back in", [][]member{{symlink("out", "../../../x")}, {file("out/a", "")}},
			map[string]string{"/out": "120777", "/x": "40755", "/x/a": "100644"}},
		{"a symlink below that leads nowhere is replaced", [][]member{{symlink("l", "l")}, {file("l/a", "")}}, map[string]string{"/l": "40755", "/l/a": "100644"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var layers []*os.File
			for _, members := range tt.layers {
				layers = append(layers, convert(t, makeTar(t, members...)))
			}
			got := map[string]string{}
			for path, desc := range listImage(t, merge(t, layers...)) {
				got[path] = desc
				if want, ok := tt.want[path]; ok && strings.HasPrefix(desc, want) && !strings.Contains(desc, "same as") && !strings.Contains(desc, "trusted") {
					got[path] = want
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestMergeCountsLinks(t *testing.T) {
	image := merge(t, convert(t, makeTar(t, file("a", "1"), link("b", "a"), link("c", "a"), dir("d/e"))), convert(t, makeTar(t, file(".wh.a", ""))))
	at := t.TempDir()
	inMounts(t, func() error {
		if err := mountImage(image.Name(), at); err != nil {
			return err
		}
		for path, want := range map[string]uint64{"": 3, "/b": 2, "/c": 2, "/d": 3, "/d/e": 2} {
			var st unix.Stat_t
			if err := unix.Lstat(at+path, &st); err != nil {
				return err
			}
			if uint64(st.Nlink) != want {
				t.Errorf("%q has %d links, want %d", path, st.Nlink, want)
			}
		}
		return nil
	})
}

func TestMergeRefusesWhatIsNoImage(t *testing.T) {
	good := convert(t, makeTar(t, file("a", "1")))
	bad := tempFile(t)
	if _, err := bad.WriteString(strings.Repeat("no image ", 1000)); err != nil {
		t.Fatal(err)
	}
	if err := Merge(t.Context(), []*os.File{good, bad}, tempFile(t), DefaultLimits()); !errors.Is(err, ErrFormat) {
		t.Errorf("got error %v, want %v", err, ErrFormat)
	}
	if err := Merge(t.Context(), []*os.File{good}, tempFile(t), Limits{Bytes: 1 << 30, Names: 1, Metadata: 1 << 20}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got error %v, want %v", err, ErrTooLarge)
	}
}

// randomLayer makes changes to a tree that names the same few places again and again, so that layers meet. It names every
// directory: for what a layer only implies, Merge means to differ from an overlay.
func randomLayer(r *rand.Rand, first bool) []member {
	names := []string{"a", "b", "c", "d"}
	var members []member
	named := map[string]bool{}
	var fill func(prefix string, depth int)
	fill = func(prefix string, depth int) {
		for _, name := range names {
			path := prefix + name
			if r.IntN(3) == 0 || named[path] {
				continue
			}
			named[path] = true
			change := func(h *tar.Header) { h.Mode, h.Uid, h.Gid = int64(r.IntN(0o10000)), r.IntN(100000), r.IntN(100000) }
			switch kind := r.IntN(8); {
			case kind < 3 && depth < 4:
				members = append(members, dir(path).with(change))
				if !first && r.IntN(4) == 0 {
					members = append(members, file(path+"/.wh..wh..opq", ""))
				}
				fill(path+"/", depth+1)
			case kind == 3 && !first:
				members = append(members, file(prefix+".wh."+name, ""))
			case kind == 4:
				members = append(members, symlink(path, names[r.IntN(4)]))
			case kind == 5:
				members = append(members, member{tar.Header{Typeflag: tar.TypeFifo, Name: path, Mode: 0o600}, ""})
			default:
				size := r.IntN(3) * r.IntN(9000)
				members = append(members, file(path, strings.Repeat(string(rune('a'+r.IntN(26))), size)).with(change).with(func(h *tar.Header) {
					if r.IntN(3) == 0 {
						h.PAXRecords = map[string]string{"SCHILY.xattr.user.x": strings.Repeat("v", r.IntN(300)), "SCHILY.xattr.user.y": ""}
					}
				}))
			}
		}
	}
	fill("", 0)
	return members
}

// The kernel's overlay over the layers is what the merged image must look like.
func TestMergeIsWhatAnOverlayShows(t *testing.T) {
	needMounts(t)
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 1))
			count := 2 + r.IntN(6)
			if seed == 0 {
				count = 60
			}
			var layers []*os.File
			for i := range count {
				layers = append(layers, convert(t, makeTar(t, randomLayer(r, i == 0)...)))
			}
			got := listImage(t, merge(t, layers...))
			want := listOverlay(t, layers)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-overlay +merged):\n%s", diff)
			}
		})
	}
}

func listOverlay(t *testing.T, layers []*os.File) listing {
	t.Helper()
	root := t.TempDir()
	at := filepath.Join(root, "o")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	lower := make([]string, len(layers))
	for i := range layers {
		lower[i] = fmt.Sprint(i)
		if err := os.Mkdir(filepath.Join(root, lower[i]), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var list listing
	inMounts(t, func() error {
		if err := os.MkdirAll("/tmp", 0o777); err != nil {
			return err
		}
		stack := ""
		for i, layer := range layers {
			if err := mountImage(layer.Name(), filepath.Join(root, lower[i])); err != nil {
				return err
			}
			stack = ":" + lower[i] + stack // the topmost comes first; relative names keep the options short
		}
		if err := unix.Chdir(root); err != nil { // this thread's only: Unshare has parted it from the others
			return err
		}
		if err := unix.Mount("overlay", at, "overlay", unix.MS_RDONLY, "lowerdir="+stack[1:]); err != nil {
			return fmt.Errorf("mount overlay: %w", err)
		}
		var err error
		list, err = seen(at)
		return err
	})
	for path, desc := range list {
		list[path], _, _ = strings.Cut(desc, " same as ") // numbers of different layers may be the same
	}
	return list
}

func TestFromDirIsAnUpperLayer(t *testing.T) {
	needMounts(t)
	dir := t.TempDir()
	image := tempFile(t)
	inMounts(t, func() error {
		// An overlay makes its own whiteouts and marks.
		for _, name := range []string{"lower/gone", "lower/d/hidden", "upper", "work", "at"} {
			if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
				return err
			}
		}
		if err := unix.Mount("tmpfs", filepath.Join(dir, "upper"), "tmpfs", 0, ""); err != nil {
			return err
		}
		for _, name := range []string{"up", "work"} {
			if err := os.Mkdir(filepath.Join(dir, "upper", name), 0o755); err != nil {
				return err
			}
		}
		upper, at := filepath.Join(dir, "upper/up"), filepath.Join(dir, "at")
		options := "lowerdir=" + filepath.Join(dir, "lower") + ",upperdir=" + upper + ",workdir=" + filepath.Join(dir, "upper/work")
		if err := unix.Mount("overlay", at, "overlay", 0, options); err != nil {
			return err
		}
		err := errors.Join(os.Remove(at+"/gone"), os.RemoveAll(at+"/d"), os.Mkdir(at+"/d", 0o755), os.WriteFile(at+"/f", []byte("f"), 0o600),
			os.Link(at+"/f", at+"/g"), os.Symlink("f", at+"/s"), unix.Setxattr(at+"/f", "user.x", []byte("y"), 0), unix.Mknod(at+"/sock", unix.S_IFSOCK|0o600, 0))
		if err != nil {
			return err
		}
		if err := unix.Unmount(at, 0); err != nil {
			return err
		}
		want, err := seen(upper)
		if err != nil {
			return err
		}
		delete(want, "/sock")
		if err := FromDir(t.Context(), upper, image, DefaultLimits()); err != nil {
			return err
		}
		if err := mountImage(image.Name(), at); err != nil {
			return err
		}
		got, err := seen(at)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if !strings.HasPrefix(got["/gone"], "20000") || !strings.Contains(got["/d"], xattrOpaque) {
			t.Errorf("no whiteout or opaque mark: %v", got)
		}
		return err
	})
}
