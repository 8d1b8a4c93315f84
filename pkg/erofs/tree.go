package erofs

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Kinds of errors. The first two mean that the input is at fault.
var (
	ErrFormat   = errors.New("not a valid layer")
	ErrTooLarge = errors.New("layer is too large")
	ErrDiskFull = errors.New("disk is too full for the layer")
)

// Unix file types and the bits of a mode that are permissions.
const (
	typeMask    = 0o170000
	typeSocket  = 0o140000
	typeSymlink = 0o120000
	typeRegular = 0o100000
	typeBlock   = 0o060000
	typeDir     = 0o040000
	typeChar    = 0o020000
	typeFifo    = 0o010000
	permMask    = 0o7777
)

const (
	maxName    = 255      // bytes of one name, as in the kernel
	maxPath    = 4095     // bytes of a path or a symlink's target
	maxDepth   = 256      // directories below each other
	maxSymlink = 40       // symlinks followed on the way to one directory
	maxSteps   = 64 << 20 // names followed on the way to all directories together
)

const (
	xattrOverlay = "trusted.overlay."
	xattrOpaque  = "trusted.overlay.opaque"
	// xattrImplied marks a directory that the tar never named, only something below it. Merge leaves the attributes of
	// the directory (or the symlink to one) that it finds below such a name. Overlays show nothing of this prefix.
	xattrImplied = "trusted.overlay.nodeless.implied"
	// xattrLink makes a file stand for one of the layers below, at the path that is its value: a hard link to it, which Merge makes.
	xattrLink = "trusted.overlay.nodeless.link"
)

// node is one inode. Several names may lead to the same node: these are hard links.
type node struct {
	mode     uint16
	uid, gid uint32
	rdev     uint32
	mtime    time.Time
	xattrs   map[string]string

	target  string           // of a symlink
	entries map[string]*node // of a directory; nil until there is one
	size    int64            // of a regular file
	extents []extent         // where a regular file's content lies, if not at blk of the image being written

	link    string // the path of a file below, which this one stands for
	implied bool   // the directory is there only because something below it is
	opaque  bool   // the directory hides what lower layers have at its name

	// The image writer's bookkeeping.
	inline  bool
	written bool   // with its content, before finish
	seen    bool   // by collect
	blk     uint32 // first block of content that is not inline
	nlink   uint32
	nid     uint64
	parent  *node // of a directory
}

func newDir(perm uint16) *node {
	return &node{mode: typeDir | perm&permMask, mtime: time.Unix(0, 0)}
}

func newImpliedDir() *node {
	n := newDir(0o755)
	n.implied = true
	return n
}

func newWhiteout() *node { return &node{mode: typeChar, mtime: time.Unix(0, 0)} }

func (n *node) kind() uint16   { return n.mode & typeMask }
func (n *node) isDir() bool    { return n.kind() == typeDir }
func (n *node) whiteout() bool { return n.kind() == typeChar && n.rdev == 0 }

// names returns the directory's names in byte order.
func (n *node) names() []string { return slices.Sorted(maps.Keys(n.entries)) }

// put gives a name of the directory to a node, as unpacking a tar over what is there would do: a directory over a
// directory changes its attributes only, everything else replaces.
func (n *node) put(name string, child *node) {
	old := n.entries[name]
	if old == nil || !child.isDir() {
		n.set(name, child)
		return
	}
	if old.isDir() {
		child.entries, child.opaque = old.entries, old.opaque
	} else {
		child.opaque = true // what was here had hidden the lower layers
	}
	n.set(name, child)
}

// set gives a name of the directory to a node, whatever was there.
func (n *node) set(name string, child *node) {
	if n.entries == nil {
		n.entries = map[string]*node{}
	}
	n.entries[name] = child
}

// remove records that the lower layers' entry of this name is gone. What this layer itself has there stays.
func (n *node) remove(name string) {
	switch old := n.entries[name]; {
	case old == nil:
		n.set(name, newWhiteout())
	case old.isDir():
		old.opaque = true
	}
}

// checkName refuses names that no directory can have.
func checkName(name string) error {
	switch {
	case name == "" || name == "." || name == "..":
		return fmt.Errorf("name %q: %w", name, ErrFormat)
	case len(name) > maxName:
		return fmt.Errorf("name %.20q… has %d bytes, more than %d: %w", name, len(name), maxName, ErrFormat)
	case strings.ContainsAny(name, "/\x00"):
		return fmt.Errorf("name %q has a character no name can have: %w", name, ErrFormat)
	}
	return nil
}

// tree is what an image will hold: the names of one layer, or of several merged.
type tree struct {
	root   *node
	limits Limits
	left   Limits // of names and metadata
	steps  int    // that may still be taken from one directory to the next
	grown  bool   // it was asked for more memory than a small image needs
}

func newTree(limits Limits) *tree {
	return &tree{root: newImpliedDir(), limits: limits, left: limits, steps: maxSteps}
}

// pay takes one name and its strings off the budget.
func (t *tree) pay(bytes int) error {
	if t.left.Names--; t.left.Names < 0 {
		return fmt.Errorf("more than %d names: %w", t.limits.Names, ErrTooLarge)
	}
	if t.left.Metadata -= int64(bytes); t.left.Metadata < 0 {
		return fmt.Errorf("more than %d bytes of names, link targets and attributes: %w", t.limits.Metadata, ErrTooLarge)
	}
	small := t.limits.Names-t.left.Names <= SmallNames && t.limits.Metadata-t.left.Metadata <= SmallMetadata
	if small || t.grown || t.limits.Grow == nil {
		return nil
	}
	t.grown = true
	return t.limits.Grow()
}

// walk takes steps off what all paths together may have: many names far below the root, or behind many symlinks, are more
// work than their number tells.
func (t *tree) walk(steps int) error {
	if t.steps -= steps; t.steps < 0 {
		return fmt.Errorf("paths with more than %d names in all: %w", maxSteps, ErrTooLarge)
	}
	return nil
}

// dir walks from root to a directory. Symlinks on the way are followed inside root, ".." stops at root, and what is
// missing is made, so that nothing in a layer can lead outside of it.
func (t *tree) dir(path string) (*node, error) { return t.follow(path, t.enter) }

// follow is dir with enter for what each step does.
func (t *tree) follow(path string, enter func(dir *node, name string) (*node, error)) (*node, error) {
	stack, lengths := []*node{t.root}, []int{0} // the directories on the way, and how long the path to each is
	todo := strings.Split(path, "/")
	links := 0
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		if err := t.walk(1); err != nil {
			return nil, err
		}
		top := len(stack) - 1
		switch name {
		case "", ".":
			continue
		case "..":
			top = max(top, 1)
			stack, lengths = stack[:top], lengths[:top]
			continue
		}
		next, err := enter(stack[top], name)
		if err != nil {
			return nil, fmt.Errorf("directory %.200q: %w", path, err)
		}
		if next.kind() == typeSymlink {
			if links++; links > maxSymlink {
				return nil, fmt.Errorf("directory %.200q: more than %d symlinks: %w", path, maxSymlink, ErrFormat)
			}
			if strings.HasPrefix(next.target, "/") {
				stack, lengths = stack[:1], lengths[:1]
			}
			todo = append(strings.Split(next.target, "/"), todo...)
			continue
		}
		length := lengths[top] + len(name) + 1
		if stack, lengths = append(stack, next), append(lengths, length); len(stack) > maxDepth || length > maxPath {
			return nil, fmt.Errorf("directory %.40q… is deeper than %d or its path longer than %d: %w", path, maxDepth, maxPath, ErrTooLarge)
		}
	}
	return stack[len(stack)-1], nil
}

// enter returns the directory or symlink of that name, making a directory where there is none.
func (t *tree) enter(dir *node, name string) (*node, error) {
	next := dir.entries[name]
	switch {
	case next == nil || next.whiteout():
		if err := checkName(name); err != nil {
			return nil, err
		}
		if err := t.pay(len(name)); err != nil {
			return nil, err
		}
		next = newImpliedDir()
		dir.put(name, next)
	case !next.isDir() && next.kind() != typeSymlink:
		return nil, fmt.Errorf("%q is not a directory: %w", name, ErrFormat)
	}
	return next, nil
}
