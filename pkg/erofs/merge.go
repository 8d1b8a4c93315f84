package erofs

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// Merge writes to out, which must be empty, the one image that a container would see of the layers, lowest first, if an overlay were
// mounted over them. Whiteouts are applied and gone. Opaque directories hide what is below. Hard links stay what they are, also those to
// files of a layer below.
//
// In one thing it is better than an overlay, in a directory that a layer's tar only implied: it does not change the attributes of the one
// below it. If there is a symlink to a directory below it, what the layer has there goes to that directory.
func Merge(ctx context.Context, layers []*os.File, out *os.File, limits Limits) error {
	t := newTree(limits)
	for _, layer := range layers {
		root, err := t.load(ctx, layer)
		if err == nil {
			err = t.link(root)
		}
		if err == nil {
			err = t.add(root)
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
		if err := w.fromImage(ctx, n, out); err != nil {
			return fmt.Errorf("merge layers: %w", err)
		}
	}
	return w.finish(t.root)
}

// detour is a directory that a layer implies where the layers below have a symlink.
type detour struct {
	dir, upper *node
	name, path string
}

// add lays a layer over the tree.
func (t *tree) add(layer *node) error {
	detours := overlay(t.root, layer, "/")
	// Only now is everything there that the symlinks may lead to.
	for len(detours) > 0 {
		d := detours[0]
		target, err := t.dir(d.path)
		if errors.Is(err, ErrTooLarge) {
			return err
		}
		if err != nil { // it leads to no directory
			target = newImpliedDir()
			d.dir.set(d.name, target)
		}
		detours = append(detours[1:], overlay(target, d.upper, d.path+"/")...)
	}
	return nil
}

// overlay lays a directory of an upper layer over one of the tree and returns what it had to leave for later. path is the
// way to dst from the root.
func overlay(dst, src *node, path string) (detours []detour) {
	if src.opaque {
		dst.entries = nil
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
			dst.set(name, upper)
			continue
		case upper.implied && !upper.opaque && lower != nil && lower.kind() == typeSymlink:
			detours = append(detours, detour{dst, upper, name, path + name})
			continue
		case lower == nil || !lower.isDir():
			lower = newImpliedDir()
			dst.set(name, lower)
		}
		detours = append(detours, overlay(lower, upper, path+name+"/")...)
	}
	return detours
}
