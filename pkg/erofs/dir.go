package erofs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// FromDir writes to out, which must be empty, the image of a directory as an overlay's upper layer: its whiteouts and
// opaque marks are kept, sockets are left out. Nobody may write to the directory meanwhile.
func FromDir(ctx context.Context, dir string, out *os.File, limits Limits) error {
	s := scanner{ctx: ctx, tree: newTree(limits), w: newWriter(out, limits.Bytes), links: map[uint64]*node{}}
	root, err := s.scan(dir, 0)
	if err != nil {
		return fmt.Errorf("make image of %s: %w", dir, err)
	}
	return s.w.finish(root)
}

type scanner struct {
	ctx   context.Context
	tree  *tree
	w     *writer
	links map[uint64]*node // inodes of several names, by number
}

// scan reads one file or directory. It returns nil for a socket.
func (s *scanner) scan(path string, depth int) (*node, error) {
	if err := s.ctx.Err(); err != nil {
		return nil, err
	}
	if depth > maxDepth {
		return nil, fmt.Errorf("%.40q… is deeper than %d: %w", path, maxDepth, ErrTooLarge)
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	if n := s.links[st.Ino]; n != nil {
		return n, nil
	}
	n := &node{
		mode: uint16(st.Mode), uid: st.Uid, gid: st.Gid, rdev: deviceNumber(unix.Major(st.Rdev), unix.Minor(st.Rdev)),
		mtime: time.Unix(st.Mtim.Unix()),
	}
	if n.kind() == typeSocket {
		return nil, nil
	}
	if err := s.tree.pay(len(filepath.Base(path))); err != nil {
		return nil, err
	}
	if err := n.readXattrs(path); err != nil {
		return nil, err
	}
	if !n.isDir() && st.Nlink > 1 {
		s.links[st.Ino] = n
	}
	return n, s.fill(n, path, depth)
}

// fill reads what a file or directory has inside.
func (s *scanner) fill(n *node, path string, depth int) (err error) {
	switch n.kind() {
	case typeSymlink:
		n.target, err = os.Readlink(path)
		return err
	case typeRegular:
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		return s.w.file(s.ctx, n, f, info.Size())
	case typeDir:
		entries, err := os.ReadDir(path)
		if err != nil {
			return err
		}
		for _, entry := range entries {
			child, err := s.scan(filepath.Join(path, entry.Name()), depth+1)
			if err != nil {
				return err
			}
			if child != nil {
				n.set(entry.Name(), child)
			}
		}
	}
	return nil
}

// readXattrs reads a file's attributes. Those of overlayfs that say "look elsewhere for the rest of me" cannot be kept.
func (n *node) readXattrs(path string) error {
	names, err := growing(func(b []byte) (int, error) { return unix.Llistxattr(path, b) })
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "listxattr", Path: path, Err: err}
	}
	for _, raw := range bytes.Split(bytes.TrimRight(names, "\x00"), []byte{0}) {
		name := string(raw)
		if name == xattrOverlay+"redirect" || name == xattrOverlay+"metacopy" {
			return fmt.Errorf("%s has %s, which an image cannot keep: %w", path, name, ErrFormat)
		}
		if _, _, ok := splitXattr(name); !ok || strings.HasPrefix(name, xattrOverlay) && name != xattrOpaque {
			continue
		}
		value, err := growing(func(b []byte) (int, error) { return unix.Lgetxattr(path, name, b) })
		if err != nil {
			return &os.PathError{Op: "getxattr " + name, Path: path, Err: err}
		}
		n.loadXattr(name, string(value))
	}
	return n.checkXattrs()
}

// growing calls get with more and more room until it is enough.
func growing(get func([]byte) (int, error)) ([]byte, error) {
	for size := 1 << 10; ; size *= 4 {
		b := make([]byte, size)
		n, err := get(b)
		if err == nil {
			return b[:n], nil
		}
		if !errors.Is(err, unix.ERANGE) || size > 1<<20 {
			return nil, err
		}
	}
}
