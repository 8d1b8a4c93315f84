package erofs

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"strings"
	"time"
)

// Limits bounds what one image may ask for.
type Limits struct {
	Bytes    int64 // of the image, holes included, and of the tar it is made of
	Names    int64 // of files, directories and all else, each of which is held in memory
	Metadata int64 // bytes of paths, link targets and attributes, which are held in memory too
	// Grow, if set, is called once, when an image turns out to need more memory than SmallNames and SmallMetadata stand for. It may
	// wait until there is as much as the limits allow, and its error ends the work.
	Grow func() error
}

// An image with less than these is small: most layers are, and they need not wait for the large ones.
const (
	SmallNames    = 16 << 10
	SmallMetadata = 4 << 20
)

// DefaultLimits are far above every sane image and keep an insane one from filling memory and from taking for ever. At
// its peak a conversion or a merge needs 450 bytes for each name, 800 if all of them are directories, and four times the metadata.
func DefaultLimits() Limits { return Limits{Bytes: 256 << 30, Names: 512 << 10, Metadata: 96 << 20} }

const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	whiteoutMeta   = ".wh..wh." // aufs' own files, of no meaning to anybody else
	paxXattr       = "SCHILY.xattr."
)

// Convert writes the EROFS image of one layer to out, which must be empty, from the layer's uncompressed tar.
//
// Whiteouts become what overlayfs knows them as: ".wh.x" a character device 0:0 named x, ".wh..wh..opq" the attribute
// trusted.overlay.opaque of its directory. A hard link to a file of a layer below becomes an empty file that says so to Merge. The tar is
// read to its end mark and not beyond.
func Convert(ctx context.Context, r io.Reader, out *os.File, limits Limits) error {
	c := converter{tree: newTree(limits), w: newWriter(out, limits.Bytes), src: &source{ctx: ctx, r: r, left: limits.Bytes}}
	tr := tar.NewReader(c.src)
	for {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) && c.src.err == nil {
			break
		}
		if err != nil {
			return c.src.blame(err)
		}
		if err := c.add(ctx, hdr, tr); err != nil {
			return fmt.Errorf("convert %.200q: %w", hdr.Name, err)
		}
	}
	return c.w.finish(c.tree.root)
}

// source is where a tar comes from. It remembers why it ended, for archive/tar has errors of its own for what is wrong
// with the tar, and not all of them can be told from those of the source.
type source struct {
	ctx  context.Context
	r    io.Reader
	left int64 // bytes that may still come
	err  error // other than io.EOF
}

func (s *source) Read(p []byte) (int, error) {
	if s.err == nil && s.left <= 0 {
		s.err = fmt.Errorf("it does not end within the bytes that are allowed: %w", ErrTooLarge)
	}
	if s.err == nil {
		s.err = context.Cause(s.ctx)
	}
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.r.Read(p[:min(int64(len(p)), s.left)])
	s.left -= int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// blame says whose fault err is, the tar's or its source's. A source that ends too soon is a tar that is cut off.
func (s *source) blame(err error) error {
	if s.err == nil || errors.Is(s.err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("read tar: %w: %w", ErrFormat, err)
	}
	return fmt.Errorf("read tar: %w", s.err)
}

type converter struct {
	tree *tree
	w    *writer
	src  *source
}

func (c *converter) add(ctx context.Context, hdr *tar.Header, content io.Reader) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if len(hdr.Name) > maxPath {
		return fmt.Errorf("path has %d bytes, more than %d: %w", len(hdr.Name), maxPath, ErrTooLarge)
	}
	name := path.Clean("/" + hdr.Name)
	if name == "/" {
		return nil // as containerd does: the root of a container is not the layer's to shape
	}
	if err := c.pay(hdr); err != nil {
		return err
	}
	dirName, base := path.Split(name)
	if err := checkName(base); err != nil {
		return err
	}
	dir, err := c.tree.dir(dirName)
	if err != nil {
		return err
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		return addWhiteout(dir, base)
	}
	if hdr.Typeflag == tar.TypeLink {
		return c.link(ctx, dir, base, hdr.Linkname)
	}
	n, err := nodeOf(hdr)
	if err != nil {
		return err
	}
	if n.kind() == typeRegular {
		if err := c.w.file(ctx, n, content, hdr.Size); err != nil {
			if errors.Is(err, errRead) {
				err = c.src.blame(err)
			}
			return err
		}
	}
	dir.put(base, n)
	return nil
}

// pay takes an entry's cost off the budget.
func (c *converter) pay(hdr *tar.Header) error {
	cost := len(hdr.Name) + len(hdr.Linkname)
	for k, v := range hdr.PAXRecords {
		if strings.HasPrefix(k, paxXattr) { // of others nothing is kept
			cost += len(k) + len(v) + xattrCost
		}
	}
	return c.tree.pay(cost)
}

func addWhiteout(dir *node, base string) error {
	if base == whiteoutOpaque {
		dir.opaque = true
		return nil
	}
	if strings.HasPrefix(base, whiteoutMeta) {
		return nil
	}
	hidden := strings.TrimPrefix(base, whiteoutPrefix)
	if err := checkName(hidden); err != nil {
		return err
	}
	dir.remove(hidden)
	return nil
}

func (c *converter) link(ctx context.Context, dir *node, base, target string) error {
	if len(target) > maxPath {
		return fmt.Errorf("link target has %d bytes, more than %d: %w", len(target), maxPath, ErrTooLarge)
	}
	n, below, err := c.tree.find(target)
	switch {
	case err != nil:
		return err
	case n == nil && below != "":
		n = &node{mode: typeRegular, mtime: time.Unix(0, 0), link: below}
		if err := c.w.file(ctx, n, strings.NewReader(""), 0); err != nil {
			return err
		}
	case n == nil:
		return fmt.Errorf("hard link to %.200q, which this layer has removed: %w", target, ErrFormat)
	case n.isDir():
		return fmt.Errorf("hard link to the directory %.200q: %w", target, ErrFormat)
	}
	dir.put(base, n)
	return nil
}

// nodeOf makes the node that a header describes.
func nodeOf(hdr *tar.Header) (*node, error) {
	n := &node{mode: uint16(hdr.Mode & permMask), mtime: hdr.ModTime}
	if hdr.Uid < 0 || hdr.Gid < 0 || hdr.Uid > math.MaxUint32 || hdr.Gid > math.MaxUint32 {
		return nil, fmt.Errorf("owner %d:%d: %w", hdr.Uid, hdr.Gid, ErrFormat)
	}
	n.uid, n.gid = uint32(hdr.Uid), uint32(hdr.Gid)
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont, 0:
		n.mode |= typeRegular
	case tar.TypeDir:
		n.mode |= typeDir
	case tar.TypeSymlink:
		n.mode = typeSymlink | 0o777 // as every Linux file system has it
		if n.target = hdr.Linkname; n.target == "" || len(n.target) > maxPath || strings.Contains(n.target, "\x00") {
			return nil, fmt.Errorf("symlink target %.40q: %w", n.target, ErrFormat)
		}
	case tar.TypeChar, tar.TypeBlock:
		if hdr.Devmajor < 0 || hdr.Devmajor > 0xfff || hdr.Devminor < 0 || hdr.Devminor > 0xfffff {
			return nil, fmt.Errorf("device %d:%d: %w", hdr.Devmajor, hdr.Devminor, ErrFormat)
		}
		if n.mode |= typeBlock; hdr.Typeflag == tar.TypeChar {
			n.mode = n.mode&permMask | typeChar
		}
		n.rdev = deviceNumber(uint32(hdr.Devmajor), uint32(hdr.Devminor))
	case tar.TypeFifo:
		n.mode |= typeFifo
	default:
		return nil, fmt.Errorf("entry of type %q: %w", hdr.Typeflag, ErrFormat)
	}
	for key, value := range hdr.PAXRecords {
		if name, ok := strings.CutPrefix(key, paxXattr); ok {
			n.setXattr(name, value)
		}
	}
	return n, n.checkXattrs()
}

// deviceNumber packs a device number as the kernel's new_encode_dev does.
func deviceNumber(major, minor uint32) uint32 {
	return minor&0xff | major<<8 | minor&^0xff<<12
}
