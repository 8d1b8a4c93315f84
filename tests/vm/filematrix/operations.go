package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// operation is one thing that programs do to an open file.
type operation struct {
	name    string
	changes bool // tried before and behind those by a mapping
	common  bool // tried with every way to open a file
	do      func(*file) string
}

func operations() []operation {
	return append(append(append(writing(), mapping()...), sizing()...), naming()...)
}

// aligned is memory that a descriptor opened with O_DIRECT takes.
func aligned(size int) []byte {
	b := make([]byte, size+page)
	skip := page - int(uintptr(unsafe.Pointer(&b[0]))%page)
	return b[skip : skip+size : skip+size]
}

// data is what is written: of whole pages where it must be.
func (f *file) data(size int) []byte {
	if f.direct {
		size = (size + page - 1) / page * page
	}
	b := aligned(size)
	copy(b, pattern('0', size))
	return b
}

// at is an offset that the descriptor takes.
func (f *file) at(offset int64) int64 {
	if f.direct {
		return offset / page * page
	}
	return offset
}

func count(n int, err error) string {
	if err != nil {
		return result(err)
	}
	return fmt.Sprint(n)
}

// offset is where the descriptor stands.
func (f *file) offset() string {
	at, err := unix.Seek(f.fd, 0, unix.SEEK_CUR)
	if err != nil {
		return result(err)
	}
	return fmt.Sprintf("at %d", at)
}

func (f *file) other() (int, error) {
	return unix.Open(filepath.Join(f.dir, "other"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
}

func writing() []operation {
	pwrite := func(offset int64, size int) func(*file) string {
		return func(f *file) string {
			return count(unix.Pwrite(f.fd, f.data(size), f.at(offset))) + " " + f.offset()
		}
	}
	return []operation{
		{"read", false, true, func(f *file) string {
			b := aligned(page)
			n, err := unix.Read(f.fd, b)
			return count(n, err) + fmt.Sprintf(" %x ", sha256.Sum256(b[:max(n, 0)]))[:9] + f.offset()
		}},
		{"write", true, true, func(f *file) string { return count(unix.Write(f.fd, f.data(10))) + " " + f.offset() }},
		{"write-much", false, true, func(f *file) string { return count(unix.Write(f.fd, f.data(2<<20+5000))) + " " + f.offset() }},
		{"writev", false, false, func(f *file) string { return count(unix.Writev(f.fd, [][]byte{f.data(10), f.data(page)})) }},
		{"pwrite-begin", true, true, pwrite(0, 10)},
		{"pwrite-over-pages", true, false, pwrite(page-5, page+10)},
		{"pwrite-beyond", true, false, pwrite(5*page+7, 10)},
		{"seek-end-write", true, false, func(f *file) string {
			at, err := unix.Seek(f.fd, 0, unix.SEEK_END)
			if err != nil {
				return result(err)
			}
			return fmt.Sprintf("end %d ", at) + count(unix.Write(f.fd, f.data(10))) + " " + f.offset()
		}},
		{"set-append-write", true, true, func(f *file) string {
			flags, err := unix.FcntlInt(uintptr(f.fd), unix.F_GETFL, 0)
			if err != nil {
				return result(err)
			}
			if _, err := unix.FcntlInt(uintptr(f.fd), unix.F_SETFL, flags|unix.O_APPEND); err != nil {
				return result(err)
			}
			return count(unix.Write(f.fd, f.data(10))) + " " + f.offset()
		}},
		{"clear-append-write", true, false, func(f *file) string {
			flags, err := unix.FcntlInt(uintptr(f.fd), unix.F_GETFL, 0)
			if err != nil {
				return result(err)
			}
			if _, err := unix.FcntlInt(uintptr(f.fd), unix.F_SETFL, flags&^unix.O_APPEND); err != nil {
				return result(err)
			}
			return count(unix.Write(f.fd, f.data(10))) + " " + f.offset()
		}},
		{"append-by-another", true, false, func(f *file) string {
			fd, err := unix.Open(f.path, unix.O_WRONLY|unix.O_APPEND|unix.O_CLOEXEC, 0)
			if err != nil {
				return result(err)
			}
			defer unix.Close(fd)
			return count(unix.Write(fd, []byte("by another")))
		}},
		{"sendfile-out", false, false, func(f *file) string {
			return pipe(func(r, w int) string {
				var at int64 = page
				n, err := unix.Sendfile(w, f.fd, &at, page)
				b := make([]byte, max(n, 0))
				if n > 0 {
					_, _ = unix.Read(r, b)
				}
				return count(n, err) + fmt.Sprintf(" %x", sha256.Sum256(b))[:9]
			})
		}},
		{"sendfile-in", true, false, func(f *file) string {
			in, err := f.other()
			if err != nil {
				return result(err)
			}
			defer unix.Close(in)
			return count(unix.Sendfile(f.fd, in, nil, page)) + " " + f.offset()
		}},
		{"splice-in", true, false, func(f *file) string {
			return pipe(func(r, w int) string {
				_, _ = unix.Write(w, f.data(page))
				n, err := unix.Splice(r, nil, f.fd, nil, page, 0)
				return count(int(n), err) + " " + f.offset()
			})
		}},
		{"copy-from-other", true, false, func(f *file) string {
			in, err := f.other()
			if err != nil {
				return result(err)
			}
			defer unix.Close(in)
			return count(unix.CopyFileRange(in, nil, f.fd, nil, page, 0)) + " " + f.offset()
		}},
		{"copy-within", true, true, func(f *file) string {
			var from, to int64 = 0, 2 * page
			return count(unix.CopyFileRange(f.fd, &from, f.fd, &to, page, 0))
		}},
		{"fsync", false, false, func(f *file) string { return result(unix.Fsync(f.fd)) + " " + result(unix.Fdatasync(f.fd)) }},
	}
}

func pipe(do func(r, w int) string) string {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return result(err)
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	return do(p[0], p[1])
}

func mapping() []operation {
	mapped := func(size int, prot, flags int, do func([]byte) error) func(*file) string {
		return func(f *file) string {
			b, err := unix.Mmap(f.fd, 0, size, prot, flags)
			if err != nil {
				return "mmap: " + result(err)
			}
			var st unix.Stat_t // a page behind the end is a fault and not an error
			if err := unix.Fstat(f.fd, &st); err != nil || st.Size < int64(size) {
				return fmt.Sprintf("%d bytes, too few to touch %s, unmap %s", st.Size, result(err), result(unix.Munmap(b)))
			}
			done := do(b)
			return result(done) + " unmap " + result(unix.Munmap(b))
		}
	}
	both := unix.PROT_READ | unix.PROT_WRITE
	scribble := func(b []byte) { copy(b, "1234"); copy(b[len(b)-4:], "5678") }
	return []operation{
		{"mmap-read", false, false, mapped(2*page, unix.PROT_READ, unix.MAP_SHARED, func(b []byte) error {
			if bytes.Equal(b[:page], b[page:2*page]) && b[0] != 0 {
				return unix.EIO
			}
			return nil
		})},
		{"mmap-shared", true, true, mapped(2*page, both, unix.MAP_SHARED, func(b []byte) error { scribble(b); return unix.Msync(b, unix.MS_SYNC) })},
		{"mmap-shared-async", true, false, mapped(page+10, both, unix.MAP_SHARED, func(b []byte) error { scribble(b); return unix.Msync(b, unix.MS_ASYNC) })},
		{"mmap-shared-no-sync", true, false, mapped(page+10, both, unix.MAP_SHARED, func(b []byte) error { scribble(b); return nil })},
		{"mmap-private", false, false, mapped(page, both, unix.MAP_PRIVATE, func(b []byte) error { scribble(b); return nil })},
		{"grow-and-mmap", true, false, func(f *file) string {
			if err := unix.Ftruncate(f.fd, 1<<20); err != nil {
				return result(err)
			}
			return mapped(1<<20, both, unix.MAP_SHARED, func(b []byte) error { scribble(b); return unix.Msync(b, unix.MS_SYNC) })(f)
		}},
	}
}

func sizing() []operation {
	truncate := func(size int64) func(*file) string {
		return func(f *file) string { return result(unix.Ftruncate(f.fd, size)) }
	}
	fallocate := func(mode uint32, at, size int64) func(*file) string {
		return func(f *file) string { return result(unix.Fallocate(f.fd, mode, at, size)) }
	}
	seek := func(at int64, whence int) func(*file) string {
		return func(f *file) string {
			got, err := unix.Seek(f.fd, at, whence)
			return count(int(got), err)
		}
	}
	return []operation{
		{"truncate-0", true, false, truncate(0)},
		{"truncate-less", true, true, truncate(page + 100)},
		{"truncate-more", true, false, truncate(1 << 18)},
		{"truncate-by-name", true, false, func(f *file) string { return result(unix.Truncate(f.path, 2*page)) }},
		{"fallocate", true, true, fallocate(0, 2*page, 4*page)},
		{"fallocate-keep", false, false, fallocate(unix.FALLOC_FL_KEEP_SIZE, 2*page, 4*page)},
		{"punch-hole", true, false, fallocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 100, 2*page)},
		{"zero-range", true, false, fallocate(unix.FALLOC_FL_ZERO_RANGE, 100, 5*page)},
		{"collapse-range", true, false, fallocate(unix.FALLOC_FL_COLLAPSE_RANGE, 0, page)},
		{"insert-range", true, false, fallocate(unix.FALLOC_FL_INSERT_RANGE, page, page)},
		{"seek-data", false, false, seek(0, unix.SEEK_DATA)},
		{"seek-hole", false, false, seek(0, unix.SEEK_HOLE)},
		{"seek-hole-beyond", false, false, seek(1<<30, unix.SEEK_HOLE)},
	}
}

func naming() []operation {
	in := func(do func(old, new string) error) func(*file) string {
		return func(f *file) string { return result(do(f.path, filepath.Join(f.dir, "named"))) }
	}
	rename := func(flags uint) func(old, new string) error {
		return func(old, _ string) error {
			return unix.Renameat2(unix.AT_FDCWD, old, unix.AT_FDCWD, filepath.Join(filepath.Dir(old), "other"), flags)
		}
	}
	return []operation{
		{"rename", true, false, in(unix.Rename)},
		{"rename-over", true, false, in(rename(0))},
		{"rename-noreplace", false, false, in(rename(unix.RENAME_NOREPLACE))},
		{"rename-exchange", true, false, in(rename(unix.RENAME_EXCHANGE))},
		{"link", true, false, in(unix.Link)},
		{"link-descriptor", false, false, func(f *file) string {
			return result(unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.fd), unix.AT_FDCWD, filepath.Join(f.dir, "named"), unix.AT_SYMLINK_FOLLOW))
		}},
		{"unlink", true, true, func(f *file) string { return result(unix.Unlink(f.path)) }},
		{"symlink", false, false, in(unix.Symlink)},
		{"mkdir-rmdir", false, false, func(f *file) string {
			dir := filepath.Join(f.dir, "named")
			err := unix.Mkdir(dir, 0o2755)
			return result(err) + " " + result(os.WriteFile(filepath.Join(dir, "in"), nil, 0o600)) + " " + result(unix.Rmdir(dir)) +
				" " + result(os.RemoveAll(dir))
		}},
		{"long-name", false, false, func(f *file) string {
			return result(unix.Mkdir(filepath.Join(f.dir, string(bytes.Repeat([]byte("x"), 255))), 0o755)) + " " +
				result(unix.Mkdir(filepath.Join(f.dir, string(bytes.Repeat([]byte("x"), 256))), 0o755))
		}},
		{"fifo", false, false, in(func(_, new string) error { return unix.Mkfifo(new, 0o640) })},
		{"device", false, false, in(func(_, new string) error { return unix.Mknod(new, unix.S_IFCHR|0o600, 1<<8|3) })},
		{"chmod", true, false, func(f *file) string { return result(unix.Fchmod(f.fd, 0o600)) }},
		{"chmod-setuid-write", false, false, func(f *file) string {
			return result(unix.Fchmod(f.fd, 0o6755)) + " " + count(unix.Write(f.fd, f.data(10)))
		}},
		{"chown", false, false, func(f *file) string { return result(unix.Fchown(f.fd, 12, 34)) }},
		{"times", false, false, func(f *file) string {
			err := unix.UtimesNanoAt(unix.AT_FDCWD, f.path, []unix.Timespec{{Sec: 1, Nsec: 5}, {Sec: 2, Nsec: 6}}, 0)
			var st unix.Stat_t
			_ = unix.Stat(f.path, &st)
			if err != nil {
				return result(err)
			}
			return fmt.Sprint(st.Mtim)
		}},
		{"xattr", false, false, func(f *file) string { return result(unix.Fsetxattr(f.fd, "user.colour", []byte("blue"), 0)) }},
		{"flock", false, false, func(f *file) string { return result(unix.Flock(f.fd, unix.LOCK_EX|unix.LOCK_NB)) }},
		{"lock-record", false, false, func(f *file) string {
			return result(unix.FcntlFlock(uintptr(f.fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Len: 10}))
		}},
		{"lease", false, false, func(f *file) string {
			_, err := unix.FcntlInt(uintptr(f.fd), unix.F_SETLEASE, unix.F_RDLCK)
			return result(err)
		}},
	}
}
