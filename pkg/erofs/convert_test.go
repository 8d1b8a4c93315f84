package erofs

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const aStamp = " 1700000000.123456789"

func content(s string) string { return fmt.Sprintf(" %d %x", len(s), sha256.Sum256([]byte(s))) }

func TestConvertKeepsAllThatATarCanSay(t *testing.T) {
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	acl := "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x06\x00\x39\x30\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x06\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff"
	long := strings.Repeat("n", 255)
	big := strings.Repeat("0123456789abcdef", 20000) + "end"
	image := convert(t, makeTar(t,
		dir("./"),
		dir("etc/"),
		file("etc/empty", ""),
		file("etc/hosts", "127.0.0.1 localhost\n").with(func(h *tar.Header) { h.Uid, h.Gid = 70000, 4294967294 }),
		file("etc/caps", "x").with(func(h *tar.Header) {
			h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": capability, "SCHILY.xattr.user.note": "a\nb",
				"SCHILY.xattr.system.posix_acl_access": acl, "SCHILY.xattr.com.apple.junk": "gone", "SCHILY.xattr.trusted.overlay.redirect": "/etc/shadow"}
		}),
		file("etc/old", "old").with(func(h *tar.Header) { h.ModTime = time.Unix(-5, 0) }),
		file("etc/setuid", "s").with(func(h *tar.Header) { h.Mode = 0o6755 }),
		dir("tmp").with(func(h *tar.Header) { h.Mode = 0o1777 }),
		file("big", big),
		file(long+"/"+long+"/"+long, "deep"),
		symlink("link", "etc/hosts"),
		symlink("longlink", strings.Repeat("t/", 2000)+"x"),
		link("again", "etc/hosts"), link("linkagain", "link"),
		member{tar.Header{Typeflag: tar.TypeChar, Name: "dev/null", Mode: 0o666, Devmajor: 1, Devminor: 3}, ""},
		member{tar.Header{Typeflag: tar.TypeBlock, Name: "dev/disk", Mode: 0o660, Devmajor: 259, Devminor: 70001}, ""},
		member{tar.Header{Typeflag: tar.TypeFifo, Name: "dev/fifo", Mode: 0o600}, ""},
		file("utf/Főtanúsítvány", "u"), file("latin/\xe4\xf6", "l").with(func(h *tar.Header) { h.Format, h.ModTime = tar.FormatGNU, time.Unix(1, 0) }),
	))
	hosts := "100644 70000:4294967294" + aStamp + content("127.0.0.1 localhost\n") + " same as /again,/etc/hosts"
	implied := `40755 0:0 0.000000000 trusted.overlay.nodeless.implied="y"`
	want := listing{
		"/etc": "40755 0:0" + aStamp, "/etc/empty": "100644 0:0" + aStamp + content(""), "/etc/hosts": hosts, "/again": hosts,
		"/etc/caps": "100644 0:0" + aStamp + content("x") + fmt.Sprintf(" security.capability=%q", capability) +
			fmt.Sprintf(" system.posix_acl_access=%q", acl) + ` user.note="a\nb"`,
		"/etc/old": "100644 0:0 -5.000000000" + content("old"), "/etc/setuid": "106755 0:0" + aStamp + content("s"),
		"/tmp": "41777 0:0" + aStamp, "/big": "100644 0:0" + aStamp + content(big),
		"/" + long: implied, "/" + long + "/" + long: implied, "/" + long + "/" + long + "/" + long: "100644 0:0" + aStamp + content("deep"),
		"/link": "120777 0:0" + aStamp + " -> etc/hosts same as /link,/linkagain", "/linkagain": "120777 0:0" + aStamp + " -> etc/hosts same as /link,/linkagain",
		"/longlink": "120777 0:0" + aStamp + " -> " + strings.Repeat("t/", 2000) + "x",
		"/dev":      implied, "/dev/null": "20666 0:0" + aStamp + " 1,3", "/dev/disk": "60660 0:0" + aStamp + " 259,70001", "/dev/fifo": "10600 0:0" + aStamp,
		"/utf": implied, "/utf/Főtanúsítvány": "100644 0:0" + aStamp + content("u"), "/latin": implied, "/latin/\xe4\xf6": "100644 0:0 1.000000000" + content("l"),
	}
	if diff := cmp.Diff(want, listImage(t, image)); diff != "" {
		t.Errorf("mounted image differs from tar (-want +got):\n%s", diff)
	}
}

func TestConvertAppliesMembersInOrder(t *testing.T) {
	for _, tt := range []struct {
		name    string
		members []member
		want    map[string]string // path → how its description begins
	}{
		{"the last of two files wins", []member{file("a", "1"), file("a", "22")}, map[string]string{"/a": "100644 0:0" + aStamp + content("22")}},
		{"a directory named twice keeps its entries", []member{dir("d"), file("d/x", ""), dir("d").with(func(h *tar.Header) { h.Mode = 0o700 })},
			map[string]string{"/d": "40700", "/d/x": "100644"}},
		{"a file replaces a directory", []member{file("d/x", ""), file("d", "")}, map[string]string{"/d": "100644"}},
		{"a directory replaces a file and what the file hid", []member{file("d", ""), dir("d")},
			map[string]string{"/d": "40755 0:0" + aStamp + ` trusted.overlay.opaque="y"`}},
		{"a replaced file leaves its other name alone", []member{file("a", "1"), link("b", "a"), file("a", "2")},
			map[string]string{"/a": "100644 0:0" + aStamp + content("2"), "/b": "100644 0:0" + aStamp + content("1")}},
		{"whiteouts become devices 0:0", []member{dir("d"), file("d/.wh.x", "")}, map[string]string{"/d": "40755", "/d/x": "20000 0:0 0.000000000 0,0"}},
		{"opaque marks become an attribute", []member{dir("d"), file("d/.wh..wh..opq", "")},
			map[string]string{"/d": "40755 0:0" + aStamp + ` trusted.overlay.opaque="y"`}},
		{"an opaque mark may come before its directory", []member{file("d/.wh..wh..opq", ""), dir("d")},
			map[string]string{"/d": "40755 0:0" + aStamp + ` trusted.overlay.opaque="y"`}},
		{"a whiteout hides no file of its own layer", []member{file("x", "1"), file(".wh.x", "")}, map[string]string{"/x": "100644"}},
		{"a whiteout and a directory make it opaque", []member{file(".wh.d", ""), dir("d")}, map[string]string{"/d": "40755 0:0" + aStamp + ` trusted.overlay.opaque="y"`}},
		{"aufs' own files are nothing", []member{file(".wh..wh.plnk", ""), file("a", "")}, map[string]string{"/a": "100644"}},
		{"dots and slashes stay inside", []member{file("../../etc/passwd", "p"), file("//abs//olute", ""), file("x/../y", "")},
			map[string]string{"/etc": "40755", "/etc/passwd": "100644", "/abs": "40755", "/abs/olute": "100644", "/y": "100644"}},
		{"symlink parents are followed inside the layer", []member{symlink("up", "../../../out"), symlink("abs", "/etc"), file("up/a", ""), file("abs/b", "")},
			map[string]string{"/up": "120777", "/abs": "120777", "/out": "40755", "/out/a": "100644", "/etc": "40755", "/etc/b": "100644"}},
		{"a hard link through a symlinked directory", []member{symlink("l", "d"), file("d/a", "1"), link("x", "l/a")},
			map[string]string{"/l": "120777", "/d": "40755", "/d/a": "100644", "/x": "100644 0:0" + aStamp + content("1") + " same as /d/a,/x"}},
		{"a link to itself", []member{file("a", "1"), link("a", "a")}, map[string]string{"/a": "100644 0:0" + aStamp + content("1")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := map[string]string{}
			for path, desc := range listImage(t, convert(t, makeTar(t, tt.members...))) {
				got[path] = desc
				if want, ok := tt.want[path]; ok && strings.HasPrefix(desc, want) {
					got[path] = want
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestConvertRefuses(t *testing.T) {
	huge := makeTar(t, file("a", "x"))
	for _, tt := range []struct {
		name string
		data []byte
		kind error
	}{
		{"garbage", bytes.Repeat([]byte("garbage "), 100), ErrFormat},
		{"a tar cut off in a file", makeTar(t, file("a", strings.Repeat("x", 5000)))[:2000], ErrFormat},
		{"a tar cut off in a header", huge[:300], ErrFormat},
		{"a link to a directory", makeTar(t, dir("d"), link("a", "d")), ErrFormat},
		{"a link to a whiteout", makeTar(t, file(".wh.b", ""), link("a", "b")), ErrFormat},
		{"a file below a file", makeTar(t, file("a", ""), file("a/b", "")), ErrFormat},
		{"symlinks that go round", makeTar(t, symlink("a", "b"), symlink("b", "a"), file("a/x", "")), ErrFormat},
		{"a name of 256 bytes", makeTar(t, file(strings.Repeat("x", 256), "")), ErrFormat},
		{"a whiteout of nothing", makeTar(t, file("d/.wh.", "")), ErrFormat},
		{"a whiteout of the parent", makeTar(t, file("d/.wh...", "")), ErrFormat},
		{"a path of 8000 bytes", makeTar(t, file(strings.Repeat("d/", 4000)+"x", "")), ErrTooLarge},
		{"directories nested too deep", makeTar(t, file(strings.Repeat("d/", 300)+"x", "")), ErrTooLarge},
		{"a path that symlinks make too long", longBySymlinks(t), ErrTooLarge},
		{"an owner of 33 bits", makeTar(t, file("a", "").with(func(h *tar.Header) { h.Uid = 1 << 32 })), ErrFormat},
		{"an attribute too long for the kernel", makeTar(t, file("a", "").with(func(h *tar.Header) {
			h.PAXRecords = map[string]string{"SCHILY.xattr.user.a": strings.Repeat("x", 65536)}
		})), ErrTooLarge},
		{"directories made by following symlinks again and again", deepBySymlinks(t), ErrTooLarge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := Convert(t.Context(), bytes.NewReader(tt.data), tempFile(t), DefaultLimits()); !errors.Is(err, tt.kind) {
				t.Errorf("got error %v, want %v", err, tt.kind)
			}
		})
	}
}

// deepBySymlinks nests directories far deeper than any one path of the tar is long.
func deepBySymlinks(t *testing.T) []byte {
	var members []member
	path := strings.Repeat("d/", 100)
	for i := range 10 {
		members = append(members, symlink(fmt.Sprintf("s%d", i), fmt.Sprintf("s%d/%s", i-1, path)))
	}
	return makeTar(t, append(members, file("s9/x", ""))...)
}

// longBySymlinks makes a path of few names that are all long.
func longBySymlinks(t *testing.T) []byte {
	t.Helper()
	path := strings.Repeat(strings.Repeat("d", 255)+"/", 14)
	return makeTar(t, dir(path), symlink("s", path), file("s/"+path+"x", ""))
}

// With a list the kernel would not have set it denies all access, to root too: such a layer is refused.
func TestAccessControlListsAreChecked(t *testing.T) {
	const owner, user, group, groups, mask, other = "\x01\x00\x07\x00\xff\xff\xff\xff", "\x02\x00\x06\x00\x39\x30\x00\x00", "\x04\x00\x04\x00\xff\xff\xff\xff",
		"\x08\x00\x04\x00\x39\x30\x00\x00", "\x10\x00\x06\x00\xff\xff\xff\xff", "\x20\x00\x04\x00\xff\xff\xff\xff"
	const version = "\x02\x00\x00\x00"
	for _, tt := range []struct {
		name, acl string
		want      error
	}{
		{"the least there is", version + owner + group + other, nil},
		{"all there is", version + owner + user + user + group + groups + mask + other, nil},
		{"a mask nobody needs", version + owner + group + mask + other, nil},
		{"nothing", version, nil},
		{"no list", "x", ErrFormat},
		{"an unknown version", "\x03\x00\x00\x00" + owner + group + other, ErrFormat},
		{"half an entry", version + owner + group + other[:4], ErrFormat},
		{"no others", version + owner + group, ErrFormat},
		{"the owner alone", version + owner, ErrFormat},
		{"a wrong order", version + group + owner + other, ErrFormat},
		{"a user and no mask", version + owner + user + group + other, ErrFormat},
		{"nobody as a user", version + owner + "\x02\x00\x06\x00\xff\xff\xff\xff" + group + mask + other, ErrFormat},
		{"permissions there are none", version + "\x01\x00\x08\x00\xff\xff\xff\xff" + group + other, ErrFormat},
		{"an unknown tag", version + owner + group + "\x40\x00\x04\x00\xff\xff\xff\xff" + other, ErrFormat},
	} {
		t.Run(tt.name, func(t *testing.T) {
			data := makeTar(t, dir("d").with(func(h *tar.Header) {
				h.PAXRecords = map[string]string{"SCHILY.xattr.system.posix_acl_access": tt.acl, "SCHILY.xattr.system.posix_acl_default": tt.acl}
			}))
			image := tempFile(t)
			err := Convert(t.Context(), bytes.NewReader(data), image, DefaultLimits())
			if !errors.Is(err, tt.want) {
				t.Fatalf("got error %v, want %v", err, tt.want)
			}
			if err == nil && len(tt.acl) > len(version) && len(listImage(t, image)) != 1 {
				t.Error("the kernel does not list the directory")
			}
		})
	}
}

func TestConvertKeepsToItsLimits(t *testing.T) {
	var names []member
	for i := range 200 {
		names = append(names, file(fmt.Sprint(i), ""))
	}
	for _, tt := range []struct {
		name   string
		data   []byte
		limits Limits
	}{
		{"bytes", makeTar(t, file("a", strings.Repeat("x", 100000))), Limits{Bytes: 50000, Names: 10, Metadata: 1 << 20}},
		{"names", makeTar(t, names...), Limits{Bytes: 1 << 30, Names: 150, Metadata: 1 << 20}},
		{"the same name again and again", makeTar(t, slices.Repeat(names[:1], 200)...), Limits{Bytes: 1 << 30, Names: 150, Metadata: 1 << 20}},
		{"implied directories", makeTar(t, file(strings.Repeat("d/", 200)+"x", "")), Limits{Bytes: 1 << 30, Names: 150, Metadata: 1 << 20}},
		{"long names", makeTar(t, file(strings.Repeat("x", 200), ""), file(strings.Repeat("y", 200), "")), Limits{Bytes: 1 << 30, Names: 10, Metadata: 300}},
		{"attributes", makeTar(t, file("a", "").with(func(h *tar.Header) {
			h.PAXRecords = map[string]string{"SCHILY.xattr.user.a": strings.Repeat("x", 1000)}
		})), Limits{Bytes: 1 << 30, Names: 10, Metadata: 300}},
		{"headers that describe nothing", bytes.Repeat(globalHeader(t), 200), Limits{Bytes: 100000, Names: 10, Metadata: 1 << 20}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := Convert(t.Context(), bytes.NewReader(tt.data), tempFile(t), tt.limits); !errors.Is(err, ErrTooLarge) {
				t.Errorf("got error %v, want %v", err, ErrTooLarge)
			}
		})
	}
}

func TestAnImageDoesNotFillTheDisk(t *testing.T) {
	w := newWriter(tempFile(t), 1<<40)
	w.spare = func() error { return ErrDiskFull }
	if err := w.file(t.Context(), newDir(0), &endless{bytes.NewReader(nil)}, spareCheck-blockSize); err != nil {
		t.Errorf("a small file: %v", err)
	}
	if err := w.file(t.Context(), newDir(0), &endless{bytes.NewReader(nil)}, spareCheck); !errors.Is(err, ErrDiskFull) {
		t.Errorf("a large file: %v, want %v", err, ErrDiskFull)
	}
	if err := newWriter(tempFile(t), 0).spare(); err != nil {
		t.Errorf("this very disk: %v", err)
	}
}

// globalHeader is a record that applies to all that follow it, without the end of a tar.
func globalHeader(t *testing.T) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	if err := errors.Join(tw.WriteHeader(&tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}), tw.Flush()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestConvertStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := Convert(ctx, bytes.NewReader(makeTar(t, file("a", "x"))), tempFile(t), DefaultLimits())
	if !errors.Is(err, context.Canceled) || errors.Is(err, ErrFormat) {
		t.Errorf("got error %v, want %v and nothing else", err, context.Canceled)
	}
}

func TestAHalfWrittenImageCannotBeMounted(t *testing.T) {
	out := tempFile(t)
	data := makeTar(t, file("a", strings.Repeat("x", 100000)), file("b", "x"))
	if err := Convert(t.Context(), bytes.NewReader(data[:100*512]), out, DefaultLimits()); err == nil {
		t.Fatal("a cut off tar was converted")
	}
	if _, err := newTree(DefaultLimits()).load(t.Context(), out); !errors.Is(err, ErrFormat) {
		t.Errorf("got error %v, want %v", err, ErrFormat)
	}
}

func TestConvertIsDeterministic(t *testing.T) {
	data := makeTar(t, file("a/b", "x"), dir("c"), file("c/d", "y").with(func(h *tar.Header) {
		h.PAXRecords = map[string]string{"SCHILY.xattr.user.a": "1", "SCHILY.xattr.user.b": "2"}
	}))
	var sums [2][32]byte
	for i := range sums {
		b, err := os.ReadFile(convert(t, data).Name())
		if err != nil {
			t.Fatal(err)
		}
		sums[i] = sha256.Sum256(b)
	}
	if sums[0] != sums[1] {
		t.Error("the same tar made two different images")
	}
}

// GNU tar writes what archive/tar cannot: old sparse files, long names of its own kind.
func TestConvertAgainstGNUTar(t *testing.T) {
	needMounts(t)
	if _, err := exec.LookPath("tar"); err != nil {
		t.Skip("skipped: no tar program here")
	}
	src := t.TempDir()
	sparse, err := os.Create(filepath.Join(src, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer sparse.Close()
	for _, at := range []int64{1 << 20, 50 << 20} {
		if _, err := sparse.WriteAt([]byte("data"), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := sparse.Truncate(64 << 20); err != nil {
		t.Fatal(err)
	}
	deep := filepath.Join(src, strings.Repeat("long-directory-name/", 12))
	if err := os.MkdirAll(deep, 0o750); err != nil {
		t.Fatal(err)
	}
	for i := range 500 { // a directory of several blocks
		if err := os.WriteFile(filepath.Join(deep, fmt.Sprintf("file-of-a-big-directory-%d", i)), []byte{byte(i)}, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	want, err := seen(src)
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"gnu", "oldgnu", "pax"} {
		t.Run(format, func(t *testing.T) {
			data, err := exec.Command("tar", "-C", src, "--sparse", "--format="+format, "-cf", "-", ".").Output()
			if err != nil {
				t.Fatal(err)
			}
			image := convert(t, data)
			got := listImage(t, image)
			if diff := cmp.Diff(withoutFractions(want, format), withoutFractions(got, format)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if used := blocksOf(t, image); used > 8<<20 {
				t.Errorf("the image of a sparse file takes %d bytes", used)
			}
		})
	}
}

func blocksOf(t *testing.T, f *os.File) int64 {
	t.Helper()
	var total int64
	out, err := exec.Command("stat", "-c", "%b", f.Name()).Output()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Sscan(string(out), &total)
	return total * 512
}

// withoutFractions cuts the times to seconds, as the old formats do.
func withoutFractions(list listing, format string) listing {
	if format == "pax" {
		return list
	}
	cut := listing{}
	for path, desc := range list {
		fields := strings.Fields(desc)
		fields[2], _, _ = strings.Cut(fields[2], ".")
		cut[path] = strings.Join(fields, " ")
	}
	return cut
}

// endless is a file that never ends, in 512 bytes of tar header.
type endless struct{ head io.Reader }

func (e *endless) Read(p []byte) (int, error) {
	if n, err := e.head.Read(p); err == nil {
		return n, nil
	}
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

func TestConvertHoldsNoContentInMemory(t *testing.T) {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	const size = 256 << 20
	if err := tw.WriteHeader(&tar.Header{Name: "big", Size: size, Mode: 0o600}); err != nil {
		t.Fatal(err)
	}
	tail := bytes.NewReader(make([]byte, 1024))
	allocated := testing.AllocsPerRun(1, func() {
		stream := io.MultiReader(io.LimitReader(&endless{bytes.NewReader(buf.Bytes())}, 512+size), tail)
		if err := Convert(context.Background(), stream, tempFile(t), DefaultLimits()); err != nil {
			t.Fatal(err)
		}
	})
	if allocated > 500 {
		t.Errorf("converting one file made %.0f allocations", allocated)
	}
}

// TestALargeLayerAsksForMemory: once, when it is no longer small, and the answer counts.
func TestALargeLayerAsksForMemory(t *testing.T) {
	var names []member
	for i := range SmallNames + 100 {
		names = append(names, file(fmt.Sprintf("%05d", i), ""))
	}
	refused := errors.New("no memory")
	for _, tt := range []struct {
		name  string
		data  []byte
		asked int
	}{
		{"small", makeTar(t, names[:SmallNames]...), 0},
		{"many names", makeTar(t, names...), 1},
		{"much metadata", makeTar(t, slices.Repeat([]member{symlink("l", strings.Repeat("x", 4000))}, SmallMetadata/4000+2)...), 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			asked := 0
			limits := DefaultLimits()
			limits.Grow = func() error { asked++; return nil }
			image := tempFile(t)
			if err := Convert(t.Context(), bytes.NewReader(tt.data), image, limits); err != nil || asked != tt.asked {
				t.Errorf("asked %d times, %v; want %d", asked, err, tt.asked)
			}
			if tt.asked == 0 {
				return
			}
			limits.Grow = func() error { return refused }
			if err := Convert(t.Context(), bytes.NewReader(tt.data), tempFile(t), limits); !errors.Is(err, refused) {
				t.Errorf("convert = %v, want what the memory's keeper said", err)
			}
			if err := Merge(t.Context(), []*os.File{image}, tempFile(t), limits); tt.name == "many names" && !errors.Is(err, refused) {
				t.Errorf("merge = %v, want what the memory's keeper said", err)
			}
		})
	}
}
