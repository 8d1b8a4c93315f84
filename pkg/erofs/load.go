package erofs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	erofs "github.com/erofs/go-erofs"
)

// loader reads one image into nodes.
type loader struct {
	ctx   context.Context
	tree  *tree
	src   io.ReaderAt
	img   fs.ReadLinkFS
	links map[int64]*node // inodes of several names, by number
}

// load reads the names and attributes of an image and notes where its content is.
func (t *tree) load(ctx context.Context, src io.ReaderAt) (*node, error) {
	img, err := erofs.Open(src)
	if err != nil {
		return nil, fmt.Errorf("open image: %w: %w", ErrFormat, err)
	}
	readable, ok := img.(fs.ReadLinkFS)
	if !ok {
		return nil, errors.New("open image: the reader cannot read symlinks")
	}
	l := loader{ctx: ctx, tree: t, src: src, img: readable, links: map[int64]*node{}}
	info, err := fs.Stat(img, ".")
	if err != nil {
		return nil, fmt.Errorf("read root: %w", err)
	}
	return l.node("/", info, 0)
}

func (l *loader) node(path string, info fs.FileInfo, depth int) (*node, error) {
	if err := l.ctx.Err(); err != nil {
		return nil, err
	}
	st, ok := info.Sys().(*erofs.Stat)
	if !ok || depth > maxDepth {
		return nil, fmt.Errorf("read %q: %w", path, ErrFormat)
	}
	if n := l.links[st.Ino]; n != nil {
		return n, nil
	}
	n := &node{
		mode: unixMode(st.Mode), uid: st.UID, gid: st.GID, rdev: st.Rdev,
		mtime: time.Unix(int64(st.Mtime), int64(st.MtimeNs)),
	}
	cost := len(info.Name())
	for name, value := range st.Xattrs {
		n.loadXattr(name, value)
		cost += len(name) + len(value) + xattrCost
	}
	if err := errors.Join(l.tree.pay(cost), l.tree.walk(depth)); err != nil {
		return nil, err
	}
	if !n.isDir() && st.Nlink > 1 {
		l.links[st.Ino] = n
	}
	var err error
	switch n.kind() {
	case typeDir:
		err = l.entries(n, path, depth)
	case typeSymlink:
		n.target, err = l.img.ReadLink(path)
	case typeRegular:
		err = l.extents(n, info)
	}
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", path, err)
	}
	return n, nil
}

func (l *loader) entries(dir *node, path string, depth int) error {
	entries, err := fs.ReadDir(l.img, path)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := checkName(entry.Name()); err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		n, err := l.node(path+entry.Name()+sep(entry), info, depth+1)
		if err != nil {
			return err
		}
		dir.set(entry.Name(), n)
	}
	return nil
}

func sep(entry fs.DirEntry) string {
	if entry.IsDir() {
		return "/"
	}
	return ""
}

// extents notes where a file's content is in its image.
func (l *loader) extents(n *node, info fs.FileInfo) error {
	n.size = info.Size()
	ranger, ok := info.(interface{ DataRange() []erofs.DataRange })
	if !ok {
		return fmt.Errorf("unknown place of content: %w", ErrFormat)
	}
	var total int64
	for _, r := range ranger.DataRange() {
		if r.Device != 0 || r.Size < 0 {
			return fmt.Errorf("content on another device: %w", ErrFormat)
		}
		e := extent{src: l.src, offset: r.Offset, size: r.Size}
		if r.Offset < 0 {
			e.src = nil
		}
		n.extents = append(n.extents, e)
		total += r.Size
	}
	if total != n.size {
		return fmt.Errorf("compressed content: %w", ErrFormat)
	}
	return nil
}

// loadXattr takes an attribute as the image has it, flags included.
func (n *node) loadXattr(name, value string) {
	switch name {
	case xattrOpaque:
		n.opaque = value == "y"
	case xattrImplied:
		n.implied = true
	case xattrLink:
		n.link = value
	case "system.posix_acl_access.", "system.posix_acl_default.": // as go-erofs spells them
		n.setXattr(name[:len(name)-1], value)
	default:
		n.setXattr(name, value)
	}
}

// reader reads a file's content from the image it is in.
func (n *node) reader() io.Reader {
	var parts []io.Reader
	for _, e := range n.extents {
		if e.src == nil {
			parts = append(parts, io.LimitReader(zeroReader{}, e.size))
		} else {
			parts = append(parts, io.NewSectionReader(e.src, e.offset, e.size))
		}
	}
	return io.MultiReader(parts...)
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// unixMode turns Go's idea of a mode into the kernel's.
func unixMode(m fs.FileMode) uint16 {
	mode := uint16(m.Perm())
	for bit, flag := range map[fs.FileMode]uint16{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if m&bit != 0 {
			mode |= flag
		}
	}
	switch m.Type() {
	case fs.ModeDir:
		return mode | typeDir
	case fs.ModeSymlink:
		return mode | typeSymlink
	case fs.ModeDevice | fs.ModeCharDevice:
		return mode | typeChar
	case fs.ModeDevice:
		return mode | typeBlock
	case fs.ModeNamedPipe:
		return mode | typeFifo
	case fs.ModeSocket:
		return mode | typeSocket
	}
	return mode | typeRegular
}
