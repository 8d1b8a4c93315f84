package erofs

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var aTime = time.Unix(1700000000, 123456789)

// member is one entry of a test's tar.
type member struct {
	tar.Header
	content string
}

func file(name, content string) member {
	return member{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, content}
}

func dir(name string) member {
	return member{tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}, ""}
}

func symlink(name, target string) member {
	return member{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, ""}
}

func link(name, target string) member {
	return member{tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}, ""}
}

func (m member) with(change func(*tar.Header)) member {
	change(&m.Header)
	return m
}

func makeTar(t testing.TB, members ...member) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, m := range members {
		hdr := m.Header
		hdr.Size = int64(len(m.content))
		if hdr.ModTime.IsZero() {
			hdr.ModTime = aTime
		}
		if hdr.Format == 0 {
			hdr.Format = tar.FormatPAX
		}
		if err := tw.WriteHeader(&hdr); err != nil {
			t.Fatalf("write header of %s: %v", m.Name, err)
		}
		if _, err := tw.Write([]byte(m.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func tempFile(t testing.TB) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "*.erofs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func convert(t testing.TB, data []byte) *os.File {
	t.Helper()
	out := tempFile(t)
	if err := Convert(t.Context(), bytes.NewReader(data), out, DefaultLimits()); err != nil {
		t.Fatalf("convert: %v", err)
	}
	return out
}

func merge(t testing.TB, layers ...*os.File) *os.File {
	t.Helper()
	out := tempFile(t)
	if err := Merge(t.Context(), layers, out, DefaultLimits()); err != nil {
		t.Fatalf("merge: %v", err)
	}
	return out
}

// needMounts skips a test where nothing can be mounted.
func needMounts(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("skipped: mounting needs root")
	}
	known, err := os.ReadFile("/proc/filesystems")
	if err != nil || !bytes.Contains(known, []byte("\terofs\n")) {
		t.Skip("skipped: this kernel has no erofs")
	}
}

// inMounts runs f in a mount namespace of its own, which ends with it. f must not start goroutines that look at files.
func inMounts(t testing.TB, f func() error) {
	t.Helper()
	needMounts(t)
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and the namespace with the thread
		err := unix.Unshare(unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOTBLK) {
		t.Skipf("skipped: cannot mount a file as erofs here: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
}

func mountImage(image, at string) error {
	if err := unix.Mount(image, at, "erofs", unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mount %s: %w", image, err)
	}
	return nil
}

// listing maps every path below a directory to all that can be seen of it.
type listing map[string]string

// seen makes the listing of a mounted image or a directory.
func seen(root string) (listing, error) {
	list := listing{}
	byInode := map[uint64][]string{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(path, root)
		if rel == "" {
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); errors.Is(err, unix.ENOENT) {
			return nil // an overlay lists the whiteouts of directories that only one layer has, and then denies them
		} else if err != nil {
			return &os.PathError{Op: "lstat", Path: path, Err: err}
		}
		desc, err := describe(path, st)
		if err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			byInode[st.Ino] = append(byInode[st.Ino], rel)
		}
		list[rel] = desc
		return nil
	})
	for _, names := range byInode {
		if len(names) > 1 {
			slices.Sort(names)
			for _, name := range names {
				list[name] += " same as " + strings.Join(names, ",")
			}
		}
	}
	return list, err
}

func describe(path string, st unix.Stat_t) (string, error) {
	mode := uint32(st.Mode)
	desc := fmt.Sprintf("%o %d:%d %d.%09d", mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		b, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		desc += fmt.Sprintf(" %d %x", st.Size, sha256.Sum256(b))
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		if err != nil {
			return "", err
		}
		desc += " -> " + target
	case unix.S_IFCHR, unix.S_IFBLK:
		desc += fmt.Sprintf(" %d,%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	xattrs, err := xattrsOf(path)
	return desc + xattrs, err
}

func xattrsOf(path string) (string, error) {
	names, err := growing(func(b []byte) (int, error) { return unix.Llistxattr(path, b) })
	if err != nil && !errors.Is(err, unix.ENOTSUP) {
		return "", &os.PathError{Op: "listxattr", Path: path, Err: err}
	}
	var all []string
	for name := range bytes.SplitSeq(bytes.TrimRight(names, "\x00"), []byte{0}) {
		if len(name) == 0 {
			continue
		}
		value, err := growing(func(b []byte) (int, error) { return unix.Lgetxattr(path, string(name), b) })
		if err != nil {
			return "", fmt.Errorf("getxattr %s of %s: %w", name, path, err)
		}
		all = append(all, fmt.Sprintf(" %s=%q", name, value))
	}
	sort.Strings(all)
	return strings.Join(all, ""), nil
}

// listImage mounts an image and lists it.
func listImage(t testing.TB, image *os.File) listing {
	t.Helper()
	var list listing
	at := t.TempDir()
	inMounts(t, func() (err error) {
		if err = mountImage(image.Name(), at); err != nil {
			return err
		}
		list, err = seen(at)
		return err
	})
	return list
}

// readBack is what our own reader finds in an image, for machines without erofs.
func readBack(t testing.TB, image *os.File) *node {
	t.Helper()
	tree := newTree(DefaultLimits())
	root, err := tree.load(context.Background(), image)
	if err != nil {
		t.Fatalf("read image back: %v", err)
	}
	return root
}
