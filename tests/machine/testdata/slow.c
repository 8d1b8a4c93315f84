/*
 * Slows the clock of the program that it is loaded into: SLOW seconds of the world are one of the program's.
 *
 * scripts/machine.sh loads it into QEMU on a busy machine. What runs in the emulated machine then has as much processor time in each of its
 * seconds as it would have on a quiet one, and the time limits of Kubernetes hold as they are.
 *
 * Clocks go slower from the moment at which the program started, and waits last longer. Nothing is changed where SLOW is not above one.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { SECOND = 1000000000 };

/* A wait is never longer than an hour before it is made longer, so that nothing overflows. */
static const int64_t LONGEST = INT64_C(3600) * SECOND;

static int64_t factor = 1;
static int64_t monotonic_start, realtime_start;

static int64_t nanoseconds(const struct timespec *t)
{
	return (int64_t)t->tv_sec * SECOND + t->tv_nsec;
}

static struct timespec as_timespec(int64_t ns)
{
	struct timespec t = { .tv_sec = ns / SECOND, .tv_nsec = ns % SECOND };
	return t;
}

/* world reads a clock as it is. */
static int64_t world(clockid_t clock)
{
	struct timespec t;
	syscall(SYS_clock_gettime, clock, &t);
	return nanoseconds(&t);
}

/* own reads a clock as the program is to see it. */
static int64_t own(clockid_t clock)
{
	int64_t start = clock == CLOCK_REALTIME ? realtime_start : monotonic_start;
	return start + (world(CLOCK_MONOTONIC) - monotonic_start) / factor;
}

__attribute__((constructor)) static void begin(void)
{
	const char *text = getenv("SLOW");
	monotonic_start = world(CLOCK_MONOTONIC);
	realtime_start = world(CLOCK_REALTIME);
	if (text && atoi(text) > 1)
		factor = atoi(text);
}

int clock_gettime(clockid_t clock, struct timespec *t)
{
	switch (clock) {
	case CLOCK_REALTIME:
	case CLOCK_REALTIME_COARSE:
		*t = as_timespec(own(CLOCK_REALTIME));
		return 0;
	case CLOCK_MONOTONIC:
	case CLOCK_MONOTONIC_RAW:
	case CLOCK_MONOTONIC_COARSE:
	case CLOCK_BOOTTIME:
		*t = as_timespec(own(CLOCK_MONOTONIC));
		return 0;
	}
	return syscall(SYS_clock_gettime, clock, t); /* processor time of a thread or process */
}

int gettimeofday(struct timeval *restrict tv, void *restrict zone)
{
	int64_t now = own(CLOCK_REALTIME);
	(void)zone;
	tv->tv_sec = now / SECOND;
	tv->tv_usec = now % SECOND / 1000;
	return 0;
}

time_t time(time_t *where)
{
	time_t now = own(CLOCK_REALTIME) / SECOND;
	if (where)
		*where = now;
	return now;
}

int ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask)
{
	struct timespec longer;
	if (timeout) {
		int64_t wait = nanoseconds(timeout);
		longer = as_timespec((wait > LONGEST ? LONGEST : wait) * factor);
	}
	return syscall(SYS_ppoll, fds, count, timeout ? &longer : NULL, mask, 8); /* bytes of the kernel's own sigset_t */
}

/*
 * deadline is the moment of the world's monotonic clock at which the program's clock shows t. The interface does not tell of which clock t
 * is; it is the one that is nearer: they are decades apart.
 */
static struct timespec deadline(const struct timespec *t)
{
	int64_t by_realtime = nanoseconds(t) - own(CLOCK_REALTIME);
	int64_t by_monotonic = nanoseconds(t) - own(CLOCK_MONOTONIC);
	int64_t wait = llabs(by_realtime) < llabs(by_monotonic) ? by_realtime : by_monotonic;
	if (wait < 0)
		wait = 0;
	if (wait > LONGEST)
		wait = LONGEST;
	return as_timespec(world(CLOCK_MONOTONIC) + wait * factor);
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until)
{
	struct timespec end = deadline(until);
	return sem_clockwait(semaphore, CLOCK_MONOTONIC, &end);
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex, const struct timespec *restrict until)
{
	struct timespec end = deadline(until);
	return pthread_cond_clockwait(condition, mutex, CLOCK_MONOTONIC, &end);
}
