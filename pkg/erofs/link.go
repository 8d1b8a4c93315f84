package erofs

import (
	"bytes"
	"fmt"
	"io"
	"path"
)

const (
	volumeName = 64 // where a superblock has it, and its size
	volumeSize = 16
	// labelLinks is the volume name of a layer's image that has hard links to files of layers below.
	labelLinks = "links below"
)

// LinksBelow says whether an image has hard links to files of layers below it, without which it cannot be.
func LinksBelow(image io.ReaderAt) (bool, error) {
	name := make([]byte, volumeSize)
	if _, err := image.ReadAt(name, superOffset+volumeName); err != nil {
		return false, fmt.Errorf("read superblock: %w", err)
	}
	return bytes.HasPrefix(name, []byte(labelLinks)), nil
}

// find looks for what has a name in the tree, without changing it; a symlink there is found and not followed. Where the tree says nothing
// about the name, below is the path by which layers below know it: symlinks of this tree have been followed then. Where it says that there
// is nothing, both are empty.
func (t *tree) find(name string) (n *node, below string, err error) {
	parent, base := path.Split(path.Clean("/" + name))
	at := map[*node]string{t.root: ""} // the directories on the way
	hides := map[*node]bool{t.root: t.root.opaque}
	dir, err := t.follow(parent, func(dir *node, name string) (*node, error) {
		next := dir.entries[name]
		switch {
		case next == nil:
			next = newImpliedDir()
		case next.whiteout():
			next = newImpliedDir()
			next.opaque = true
		case !next.isDir() && next.kind() != typeSymlink:
			return nil, fmt.Errorf("%q is not a directory: %w", name, ErrFormat)
		}
		at[next], hides[next] = at[dir]+"/"+name, hides[dir] || next.opaque
		return next, nil
	})
	if err != nil {
		return nil, "", err
	}
	switch n := dir.entries[base]; {
	case n == nil && !hides[dir]:
		return nil, at[dir] + "/" + base, checkName(base)
	case n == nil || n.whiteout():
		return nil, "", nil
	default:
		return n, "", nil
	}
}

// link puts the files of the tree in for those of a layer above it that stand for them.
func (t *tree) link(layer *node) error {
	for _, name := range layer.names() {
		n := layer.entries[name]
		if n.isDir() {
			if err := t.link(n); err != nil {
				return err
			}
		}
		if n.link == "" {
			continue
		}
		target, _, err := t.find(n.link)
		switch {
		case err != nil:
			return fmt.Errorf("hard link %.200q: %w", name, err)
		case target == nil:
			return fmt.Errorf("hard link %.200q to %.200q, which no layer below has: %w", name, n.link, ErrFormat)
		case target.isDir():
			return fmt.Errorf("hard link %.200q to the directory %.200q: %w", name, n.link, ErrFormat)
		}
		layer.set(name, target)
	}
	return nil
}
