/*
 * append.so is loaded before the libraries of QEMU's virtiofsd and mends how that daemon writes to files opened with O_APPEND.
 *
 * The daemon passes O_APPEND on to the host, where pwrite(2) to such a descriptor appends whatever its offset says. That is right for
 * what a program of the guest writes: the host finds the end, which another guest may have moved. It is wrong for what the guest's
 * kernel writes out of its page cache, the pages of a shared mapping, which belong where they were mapped: each write-out made the
 * file grow, and the pages themselves stayed as they were.
 *
 * Here no file is opened with O_APPEND. Each write says for itself whether it appends (RWF_APPEND, Linux 4.16), as the FUSE request
 * tells: it has the flags of the open file, which fcntl(2) may have changed since, and a mark on what comes from the page cache. The
 * Rust daemon does the same.
 *
 * The request is in the buffer that the thread has allocated for it: the only one so large, of a megabyte or, for a guest that knows
 * nothing of such, of 132 KiB. A buffer that holds something else
 * than the write at hand is refused with EIO, and the test of the bundle's daemon fails.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <seccomp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef RWF_APPEND
#define RWF_APPEND 0x10
#endif

enum { REQUEST_BUFFER = 1 << 17 };

/* request is the buffer of the request that this thread serves. */
static __thread char *request;

void *g_malloc(size_t size)
{
	static void *(*next)(size_t);
	if (!next)
		next = dlsym(RTLD_NEXT, "g_malloc");
	char *block = next(size);
	if (size >= REQUEST_BUFFER)
		request = block;
	return block;
}

void g_free(void *block)
{
	static void (*next)(void *);
	if (!next)
		next = dlsym(RTLD_NEXT, "g_free");
	if (block && block == request)
		request = NULL;
	next(block);
}

int openat64(int dir, const char *path, int flags, ...)
{
	mode_t mode = 0;
	if (__OPEN_NEEDS_MODE(flags)) {
		va_list rest;
		va_start(rest, flags);
		mode = va_arg(rest, mode_t);
		va_end(rest);
	}
	return syscall(SYS_openat, dir, path, flags & ~O_APPEND, mode);
}

int __openat64_2(int dir, const char *path, int flags)
{
	return openat64(dir, path, flags);
}

ssize_t pwritev64(int fd, const struct iovec *vector, int count, off64_t offset)
{
	const struct fuse_in_header *header = (void *)request;
	const struct fuse_write_in *write = (void *)(header + 1);
	if (!header || header->opcode != FUSE_WRITE || write->offset != (uint64_t)offset) {
		errno = EIO;
		return -1;
	}
	int flags = (write->flags & O_APPEND) && !(write->write_flags & FUSE_WRITE_CACHE) ? RWF_APPEND : 0;
	return syscall(SYS_pwritev2, fd, vector, count, offset, 0, flags);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset)
{
	struct iovec one = {(void *)data, size};
	return pwritev64(fd, &one, 1, offset);
}

/* seccomp_load adds the one system call that the daemon's own list lacks. */
int seccomp_load(const scmp_filter_ctx filter)
{
	int (*add)(scmp_filter_ctx, uint32_t, int, unsigned int, ...) = dlsym(RTLD_NEXT, "seccomp_rule_add");
	int (*next)(const scmp_filter_ctx) = dlsym(RTLD_NEXT, "seccomp_load");
	int failed = add((scmp_filter_ctx)filter, SCMP_ACT_ALLOW, SCMP_SYS(pwritev2), 0);
	return failed ? failed : next(filter);
}
