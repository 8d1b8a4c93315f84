package erofs

import (
	"context"
	"fmt"
	"os"
)

// Merge writes to out, which must be empty, the one image that a container would see of the layers, lowest first, if an
// overlay were mounted over them: whiteouts are applied and gone, opaque directories hide what is below, hard links stay
// what they are.
//
// One thing it does better than an overlay: a directory that a layer's tar only implied does not change the attributes of
// the one below it, and if there is a symlink to a directory below it, what the layer has there goes to that directory.
func Merge(ctx context.Context, layers []*os.File, out *os.File, limits Limits) error {
	t := newTree(limits)
	for _, layer := range layers {
		root, err := t.load(ctx, layer)
		if err == nil {
			err = t.overlay(t.root, root, "/")
		}
		if err != nil {
			return fmt.Errorf("merge layer %s: %w", layer.Name(), err)
		}
	}
	w := newWriter(out, limits.Bytes)
	for _, n := range collect(t.root) {
		n.implied = false // nothing is below this image
		if n.kind() != typeRegular {
			continue
		}
		blk, err := w.content(ctx, n.reader(), n.size)
		if err != nil {
			return fmt.Errorf("merge layers: %w", err)
		}
		n.blk = blk
	}
	return w.finish(t.root)
}

// overlay lays a directory of an upper layer over one of the merged tree. path is the way to dst from the root.
func (t *tree) overlay(dst, src *node, path string) error {
	if src.opaque {
		dst.entries = map[string]*node{}
	}
	if !src.implied {
		dst.mode, dst.uid, dst.gid, dst.mtime, dst.xattrs, dst.implied = src.mode, src.uid, src.gid, src.mtime, src.xattrs, false
	}
	for _, name := range src.names() {
		upper, lower := src.entries[name], dst.entries[name]
		switch {
		case upper.whiteout():
			delete(dst.entries, name)
			continue
		case !upper.isDir():
			dst.entries[name] = upper
			continue
		}
		target := lower
		if lower != nil && lower.kind() == typeSymlink && upper.implied {
			if dir, err := t.dir(path + name); err == nil {
				target = dir
			}
		}
		if target == nil || !target.isDir() {
			target = newImpliedDir()
			dst.entries[name] = target
		}
		if err := t.overlay(target, upper, path+name+"/"); err != nil {
			return err
		}
	}
	return nil
}
