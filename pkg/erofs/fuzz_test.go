package erofs

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// memFile is a file in memory, for thousands in a second.
func memFile(t *testing.T) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("image", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "image")
	t.Cleanup(func() { f.Close() })
	return f
}

const tarBlock = 512

// repaired gives every header of a tar the checksum it ought to have, so that mutations of one get beyond it.
func repaired(data []byte) []byte {
	data = bytes.Clone(data)
	for at := 0; at+tarBlock <= len(data); {
		head := data[at : at+tarBlock]
		at += tarBlock
		if bytes.Equal(head, make([]byte, tarBlock)) {
			continue
		}
		copy(head[148:156], "        ")
		sum := 0
		for _, b := range head {
			sum += int(b)
		}
		copy(head[148:156], fmt.Sprintf("%06o\x00 ", sum))
		size, err := strconv.ParseInt(strings.Trim(string(head[124:136]), " \x00"), 8, 64)
		if err != nil || size < 0 || size > int64(len(data)-at) {
			continue // whatever follows is content, or more headers
		}
		at += (int(size) + tarBlock - 1) / tarBlock * tarBlock
	}
	return data
}

// pieces are what the names and targets of members are made of: few, so that members meet.
var pieces = []string{"a", "b", "c", "/", "..", ".", "", ".wh.a", ".wh.b", ".wh.", ".wh..wh..opq", ".wh..wh.plnk", ".wh...",
	strings.Repeat("n", 255), strings.Repeat("n", 256), "\xff\xfe", "a/b/c"}

// anACL gives its owner all, and its group and others nothing.
const anACL = "\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x04\x00\x00\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff"

// spoken makes a tar of a few members that a byte string describes, four bytes for each and then its path, one for a piece.
func spoken(t *testing.T, code []byte) []byte {
	t.Helper()
	next := func() byte {
		if len(code) == 0 {
			return 0
		}
		b := code[0]
		code = code[1:]
		return b
	}
	name := func(n byte) string {
		var parts []string
		for range n % 6 {
			parts = append(parts, pieces[int(next())%len(pieces)])
		}
		return strings.Join(parts, "/")
	}
	kinds := []byte{tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo, tar.TypeReg}
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for len(code) > 0 {
		kind, size, attr, lengths := next(), next(), next(), next()
		hdr := tar.Header{Typeflag: kinds[kind%8], Mode: int64(attr) * 17, Uid: int(attr), Gid: int(size), ModTime: aTime, Format: tar.FormatPAX,
			Name: name(lengths), Linkname: name(lengths >> 4), Devmajor: int64(attr % 3), Devminor: int64(size % 3)}
		if attr%4 == 1 && (hdr.Typeflag == tar.TypeReg || hdr.Typeflag == tar.TypeDir) { // the kernel shows none of others
			hdr.PAXRecords = map[string]string{"SCHILY.xattr.user." + strings.Repeat("k", int(size)): strings.Repeat("v", int(kind)*30),
				"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.system.posix_acl_access": anACL[:len(anACL)-int(size)/200]}
		}
		var body []byte
		if hdr.Typeflag == tar.TypeReg {
			body = bytes.Repeat([]byte{attr}, int(size)*int(size)*2)
			hdr.Size = int64(len(body))
		}
		if tw.WriteHeader(&hdr) != nil {
			return buf.Bytes() // a header that no tar can have ends it
		}
		if _, err := tw.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// converted does what Convert does and keeps what it thinks it has written: the tree, and a checksum of each file.
func converted(t *testing.T, data []byte, out *os.File, limits Limits) (root *node, sums map[*node][32]byte, err error) {
	t.Helper()
	c := converter{tree: newTree(limits), w: newWriter(out, limits.Bytes), src: &source{ctx: t.Context(), r: bytes.NewReader(data), left: limits.Bytes}}
	sums = map[*node][32]byte{}
	tr := tar.NewReader(c.src)
	for {
		hdr, err := tr.Next()
		if err != nil {
			break // Convert has told already
		}
		sum := sha256.New()
		dir, base := path.Split(path.Clean("/" + hdr.Name))
		at, _ := c.tree.dir(dir) // before the member is there: it may replace a link that leads to its own place
		if err := c.add(t.Context(), hdr, io.TeeReader(tr, sum)); err != nil {
			return nil, nil, err
		}
		if at != nil && at.entries[base] != nil && at.entries[base].kind() == typeRegular && hdr.Typeflag != tar.TypeLink {
			sums[at.entries[base]] = [32]byte(sum.Sum(nil))
		}
	}
	return c.tree.root, sums, c.w.finish(c.tree.root)
}

// compared checks that an image that was read back holds exactly what was written, and nothing that no directory can hold.
type compared struct {
	t    *testing.T
	sums map[*node][32]byte
	same map[*node]*node // of what was written, what was read
	sum  hash.Hash
}

func (c *compared) check(path string, want, got *node) {
	c.t.Helper()
	if twin, ok := c.same[want]; ok {
		if twin != got {
			c.t.Errorf("%q is no longer the same file as its other name", path)
		}
		return
	}
	c.same[want] = got
	type plain struct {
		mode, uid, gid, rdev uint64
		time, size           int64
		target, link         string
		implied, opaque      bool
		xattrs               map[string]string
	}
	of := func(n *node) plain {
		p := plain{mode: uint64(n.mode), link: n.link, uid: uint64(n.uid), gid: uint64(n.gid), time: n.mtime.UnixNano(), target: n.target, implied: n.implied, opaque: n.opaque}
		switch n.kind() {
		case typeChar, typeBlock:
			p.rdev = uint64(n.rdev)
		case typeRegular:
			p.size = n.size
		}
		if len(n.xattrs) > 0 {
			p.xattrs = n.xattrs
		}
		return p
	}
	if w, g := of(want), of(got); !reflect.DeepEqual(w, g) {
		c.t.Errorf("%q was written as %+v and reads %+v", path, w, g)
	}
	if got.kind() == typeRegular {
		c.sum.Reset()
		if n, err := io.Copy(c.sum, got.reader()); err != nil || n != got.size {
			c.t.Fatalf("%q of %d bytes: %d read, %v", path, got.size, n, err)
		}
		if sum, ok := c.sums[want]; ok && sum != [32]byte(c.sum.Sum(nil)) {
			c.t.Errorf("%q has another content", path)
		}
	}
	if w, g := want.names(), got.names(); !slices.Equal(w, g) {
		c.t.Fatalf("names in %q were written as %q and read %q", path, w, g)
	}
	for name, child := range want.entries {
		if err := checkName(name); err != nil {
			c.t.Errorf("in %q: %v", path, err)
		}
		c.check(path+"/"+name, child, got.entries[name])
	}
}

// marks counts what only a layer has: whiteouts and flags.
func marks(n *node) (found int) {
	if n.whiteout() || n.opaque || n.implied {
		found++
	}
	for _, child := range n.entries {
		found += marks(child)
	}
	return found
}

// FuzzConvert is the layer of a hostile image: it is refused with a reason, or its image holds what the tar says, stays
// within the limits, and can be merged.
func FuzzConvert(f *testing.F) {
	f.Add(makeTar(f, dir("d"), file("d/x", "content"), link("y", "d/x"), symlink("l", "d"), file("l/z", ""), file("d/.wh.w", ""), file("d/.wh..wh..opq", "")), false)
	f.Add(makeTar(f, file("a", strings.Repeat("x", 5000)), dir("a"), file("a/b", "").with(func(h *tar.Header) {
		h.PAXRecords = map[string]string{"SCHILY.xattr.user.a": "b"}
	})), false)
	f.Add(makeTar(f, file("../../etc/passwd", "root"), symlink("s", "/../.."), file("s/etc/shadow", "x"), link("h", "../etc/passwd"), symlink("loop", "loop")), false)
	f.Add(makeTar(f, file("old", "x").with(func(h *tar.Header) { h.Format, h.ModTime = tar.FormatGNU, aTime.Truncate(1e9) }), link("old", "old"), dir("old")), false)
	f.Add(sparse("1.0"), false)
	f.Add(sparse("0.1"), false)
	f.Add([]byte("no tar"), false)
	for _, seed := range []string{"\x00\x30\x01\x01\x00\x03\x00\x00\x11\x01\x00", "\x01\x00\x00\x01\x00\x02\x00\x00\x11\x01\x00\x00\x20\x00\x02\x01\x02",
		"\x03\x00\x00\x11\x00\x00", "\x04\x00\x00\x01\x00\x00\x09\x05\x02\x00\x02", "\x00\x10\x00\x01\x07\x00\x10\x00\x01\x0a"} {
		f.Add([]byte(seed), true)
	}
	f.Fuzz(func(t *testing.T, data []byte, spell bool) {
		if spell {
			data = spoken(t, data)
		} else {
			data = repaired(data)
		}
		limits := Limits{Bytes: 1 << 22, Names: 1 << 12, Metadata: 1 << 20}
		layer := memFile(t)
		if err := Convert(t.Context(), bytes.NewReader(data), layer, limits); err != nil {
			if !errors.Is(err, ErrFormat) && !errors.Is(err, ErrTooLarge) {
				t.Errorf("an error that does not say whose fault it is: %v", err)
			}
			if _, err := newTree(limits).load(t.Context(), layer); err == nil {
				t.Error("what was refused left an image")
			}
			return
		}
		if info, err := layer.Stat(); err != nil || info.Size() > limits.Bytes+blockSize {
			t.Errorf("the image has %d bytes, more than %d (%v)", info.Size(), limits.Bytes, err)
		}
		again := memFile(t)
		root, sums, err := converted(t, data, again, limits)
		if err != nil {
			t.Fatalf("converted once and not twice: %v", err)
		}
		c := compared{t: t, sums: sums, same: map[*node]*node{}, sum: sha256.New()}
		c.check("", root, readBack(t, layer))

		// Merging one layer, or a layer with itself, only takes whiteouts and marks away.
		merged := memFile(t)
		err = Merge(t.Context(), []*os.File{layer, again}, merged, Limits{Bytes: 1 << 24, Names: 1 << 14, Metadata: 1 << 23})
		if links, err2 := LinksBelow(layer); err2 != nil || links && errors.Is(err, ErrFormat) {
			return // it cannot be without a layer below
		}
		if err != nil {
			t.Fatalf("merge what was converted: %v", err)
		}
		if n := marks(readBack(t, merged)); n > 0 {
			t.Errorf("%d whiteouts and marks are left in the merged image", n)
		}
	})
}

// below lists the paths below a node.
func below(n *node, path string) (all []string) {
	for name, child := range n.entries {
		all = append(append(all, path+"/"+name), below(child, path+"/"+name)...)
	}
	slices.Sort(all)
	return all
}

// The kernel, which is who reads images in the end, finds in those of odd tars what our reader finds.
func TestTheKernelReadsImagesOfOddTars(t *testing.T) {
	needMounts(t)
	mounted := 0
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 3))
		code := make([]byte, 8+r.IntN(80))
		for i := range code {
			code[i] = byte(r.Uint32())
		}
		image := tempFile(t)
		if Convert(t.Context(), bytes.NewReader(spoken(t, code)), image, DefaultLimits()) != nil {
			continue
		}
		mounted++
		want, got := below(readBack(t, image), ""), slices.Sorted(maps.Keys(listImage(t, image)))
		if !slices.Equal(want, got) {
			t.Errorf("tar of %x: the kernel finds %q, our reader %q", code, got, want)
		}
	}
	if mounted < 5 {
		t.Errorf("only %d of 60 tars made an image", mounted)
	}
}

// sparse is a tar with one sparse file in one of GNU's PAX formats: eight bytes at 4096 of a million.
func sparse(version string) []byte {
	record := func(k, v string) string {
		body := " " + k + "=" + v + "\n"
		n := len(body) + 2
		return fmt.Sprint(n) + body
	}
	var pax, content string
	if version == "1.0" {
		pax = record("GNU.sparse.major", "1") + record("GNU.sparse.minor", "0") + record("GNU.sparse.name", "s") + record("GNU.sparse.realsize", "1000000")
		content = fmt.Sprintf("%-512s", "1\n4096\n8\n")
		content = strings.ReplaceAll(content, " ", "\x00") + "12345678"
	} else {
		pax = record("GNU.sparse.map", "4096,8") + record("GNU.sparse.size", "1000000") + record("GNU.sparse.name", "s")
		content = "12345678"
	}
	var b bytes.Buffer
	entry := func(name string, kind byte, body string) {
		head := make([]byte, tarBlock)
		copy(head, name)
		copy(head[100:], "0000644\x000000000\x000000000\x00")
		copy(head[124:], fmt.Sprintf("%011o\x0000000000000\x00", len(body)))
		head[156] = kind
		copy(head[257:], "ustar\x0000")
		b.Write(head)
		b.WriteString(body)
		b.Write(make([]byte, (tarBlock-len(body)%tarBlock)%tarBlock))
	}
	entry("pax", tar.TypeXHeader, pax)
	entry("GNUSparseFile.0/s", tar.TypeReg, content)
	b.Write(make([]byte, 2*tarBlock))
	return repaired(b.Bytes())
}

// FuzzMerge feeds the reader of images: those of an upgrade or of a damaged disk are not to be trusted.
func FuzzMerge(f *testing.F) {
	layer := convert(f, makeTar(f, dir("d"), file("d/x", "content"), link("y", "d/x"), symlink("l", "d"), file("z", "").with(func(h *tar.Header) {
		h.PAXRecords = map[string]string{"SCHILY.xattr.user.a": "b"}
	})))
	data, err := os.ReadFile(layer.Name())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		damaged := memFile(t)
		if _, err := damaged.Write(data); err != nil {
			t.Fatal(err)
		}
		_ = Merge(t.Context(), []*os.File{damaged}, memFile(t), Limits{Bytes: 1 << 22, Names: 1 << 12, Metadata: 1 << 20})
	})
}
