// Command filematrix does the same to files in two folders and prints where the two differ. It tries the ways to open a file with the
// ways to use and change it, and changes by a mapping before and behind all others. Tests run it in a Pod, with a volume as one folder
// and a local file system as the other.
//
// Usage: filematrix [-pairs|-few] VOLUME LOCAL, or filematrix -read-only VOLUME/FILE LOCAL/FILE
package main

import (
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	pairs := flag.Bool("pairs", false, "changes by a mapping with each other change as well")
	few := flag.Bool("few", false, "only files that are open for both, to append")
	readOnly := flag.Bool("read-only", false, "compare two files with the same content that cannot be changed")
	flag.Parse()
	if flag.NArg() != 2 {
		fmt.Fprintln(os.Stderr, "usage: filematrix [-pairs|-few] VOLUME LOCAL, or filematrix -read-only VOLUME/FILE LOCAL/FILE")
		os.Exit(2)
	}
	tries, differ := 0, 0
	for _, c := range cases(*pairs, *readOnly) {
		if *few && c.open.name != appending {
			continue
		}
		volume, local := c.run(flag.Arg(0)), c.run(flag.Arg(1))
		tries++
		if volume != local {
			differ++
			fmt.Printf("%s: %s, locally %s\n", c.name(), volume, local)
		}
	}
	fmt.Printf("%d tries, %d differ\n", tries, differ)
}

// page is what kernels cache and map files by.
const page = 4096

// opening is one way to open a file.
type opening struct {
	name  string
	flags int
	full  bool // to be tried with every operation
}

// trial is a file that is opened in one way, and what is done to it then.
type trial struct {
	open     opening
	steps    []operation
	readOnly bool
}

func (c trial) name() string {
	names := []string{c.open.name}
	for _, s := range c.steps {
		names = append(names, s.name)
	}
	return strings.Join(names, " ")
}

// cases are every operation on files that are open to read, for both, and for both to append. Files that are open in any other way have
// some operations. Then come pairs of operations of which one is by a mapping.
func cases(pairs, readOnly bool) []trial {
	var all []trial
	for _, o := range openings() {
		for _, op := range operations() {
			if op.common || o.full {
				all = append(all, trial{o, []operation{op}, readOnly})
			}
		}
	}
	if !pairs {
		return all
	}
	open := opening{appending, unix.O_RDWR | unix.O_APPEND, true}
	for _, a := range mapping() {
		for _, b := range operations() {
			if a.changes && b.changes {
				all = append(all, trial{open, []operation{a, b}, false}, trial{open, []operation{b, a}, false})
			}
		}
	}
	return all
}

// appending is the way to open a file in which most can differ.
const appending = "rdwr+append"

func openings() []opening {
	const both, app = unix.O_RDWR, unix.O_RDWR | unix.O_APPEND
	return []opening{
		{"rdonly", unix.O_RDONLY, true}, {"rdwr", both, true}, {appending, app, true},
		{"rdonly+trunc", unix.O_RDONLY | unix.O_TRUNC, false}, {"rdonly+append", unix.O_RDONLY | unix.O_APPEND, false},
		{"wronly", unix.O_WRONLY, false}, {"wronly+append", unix.O_WRONLY | unix.O_APPEND, false},
		{"rdwr+trunc", both | unix.O_TRUNC, false}, {"rdwr+append+trunc", app | unix.O_TRUNC, false},
		{"rdwr+append+creat", app | unix.O_CREAT, false}, {"rdwr+creat+excl", both | unix.O_CREAT | unix.O_EXCL, false},
		{"rdwr+sync", both | unix.O_SYNC, false}, {"rdwr+append+dsync", app | unix.O_DSYNC, false},
		{"rdwr+direct", both | unix.O_DIRECT, false}, {"rdwr+append+direct", app | unix.O_DIRECT, false},
		{"rdwr+directory", both | unix.O_DIRECTORY, false}, {"path", unix.O_PATH, false}, {"tmpfile", both | unix.O_TMPFILE, false},
	}
}

// run does it in a folder, or to a file, and tells how each step ended and what is in the folder afterwards.
func (c trial) run(dir string) string {
	f := file{dir: dir, path: filepath.Join(dir, "file")}
	if c.readOnly {
		f = file{dir: filepath.Dir(dir), path: dir}
	} else {
		if err := f.lay(); err != nil {
			return "cannot be laid out: " + err.Error()
		}
	}
	path := f.path
	if c.open.flags&unix.O_TMPFILE == unix.O_TMPFILE {
		path = f.dir
	}
	if c.open.flags&(unix.O_CREAT|unix.O_APPEND) == unix.O_CREAT|unix.O_APPEND {
		path = filepath.Join(f.dir, "new") // creating goes another way through the layers than opening
	}
	fd, err := unix.Open(path, c.open.flags|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return "open: " + result(err)
	}
	f.fd, f.direct = fd, c.open.flags&unix.O_DIRECT != 0
	if c.open.flags&unix.O_TMPFILE != unix.O_TMPFILE {
		f.path = path
	}
	var told []string
	for _, s := range c.steps {
		told = append(told, s.do(&f))
	}
	told = append(told, "open file "+f.content())
	if err := unix.Close(fd); err != nil {
		told = append(told, "close: "+result(err))
	}
	if !c.readOnly {
		told = append(told, tree(dir))
	}
	return strings.Join(told, "; ")
}

// file is the one at hand.
type file struct {
	dir, path string
	fd        int
	direct    bool
}

// lay makes the folder as it is before each trial: a file of some pages and a bit, another one, a link.
func (f *file) lay() error {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(f.dir, e.Name())); err != nil {
			return err
		}
	}
	return errors.Join(
		os.WriteFile(f.path, pattern('a', 3*page+100), 0o644),
		os.WriteFile(filepath.Join(f.dir, "other"), pattern('A', 2*page), 0o644),
	)
}

// pattern is bytes of which no two pages are alike.
func pattern(first byte, size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = first + byte((i+i/page)%23)
	}
	return b
}

// content is what a descriptor gives, by its size and a sum, whatever its offset is.
func (f *file) content() string {
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return "stat: " + result(err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Sprintf("mode %o", st.Mode)
	}
	sum := sha256.New()
	b := aligned(64 << 10)
	for at := int64(0); ; {
		n, err := unix.Pread(f.fd, b, at)
		if err != nil {
			return fmt.Sprintf("%d bytes, read: %s", st.Size, result(err))
		}
		if n == 0 {
			return fmt.Sprintf("%d bytes %x, %d links", st.Size, sum.Sum(nil)[:4], st.Nlink)
		}
		sum.Write(b[:n])
		at += int64(n)
	}
}

// tree is what a folder holds, read by name.
func tree(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "readdir: " + result(err)
	}
	var told []string
	for _, e := range entries {
		told = append(told, e.Name()+" "+whole(filepath.Join(dir, e.Name())))
	}
	sort.Strings(told)
	return strings.Join(told, ", ")
}

func whole(path string) string {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return result(err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Sprintf("mode %o", st.Mode)
	}
	r, err := os.Open(path)
	if err != nil {
		return result(err)
	}
	defer r.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, r); err != nil {
		return result(err)
	}
	return fmt.Sprintf("%o %d bytes %x", st.Mode&0o7777, st.Size, sum.Sum(nil)[:4])
}

// result is the name of an error, without where it was.
func result(err error) string {
	var no unix.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &no):
		return unix.ErrnoName(no)
	}
	return err.Error()
}
