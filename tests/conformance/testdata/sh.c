// The shell of the busybox image. Upstream's is busybox's own, which keeps environment variables whose names no shell takes ("a.b").
// Debian's busybox drops them, bash keeps them, and tests look at the very words of the former's errors.
#include <ctype.h>
#include <unistd.h>

extern char **environ;

static int odd(const char *v) {
	if (!isalpha((unsigned char)*v) && *v != '_')
		return 1;
	for (; *v && *v != '='; v++)
		if (!isalnum((unsigned char)*v) && *v != '_')
			return 1;
	return 0;
}

int main(int argc, char **argv) {
	for (char **e = environ; *e; e++)
		if (odd(*e)) {
			execv("/bin/bash", argv);
			return 127;
		}
	execv("/bin/busybox", argv);
	return 127;
}
