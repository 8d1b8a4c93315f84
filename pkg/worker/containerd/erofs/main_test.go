package erofs

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/converter"
)

// inOwnNamespace is set in the environment of the test program once it has a mount namespace of its own.
const inOwnNamespace = "NODELESS_TEST_OWN_MOUNTS"

// TestMain moves the test program into a mount namespace of its own, so that what tests mount is gone with it.
// It is the program that converts layers, too.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "convert" || os.Args[1] == "merge") {
		os.Exit(converter.Main(os.Args[1:]))
	}
	if os.Getuid() == 0 && os.Getenv(inOwnNamespace) == "" {
		runtime.LockOSThread()
		if err := moveAndRestart(); err != nil {
			fmt.Fprintln(os.Stderr, "no mount namespace of our own:", err)
		}
		runtime.UnlockOSThread()
	}
	os.Exit(m.Run())
}

func moveAndRestart() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	return unix.Exec("/proc/self/exe", os.Args, append(os.Environ(), inOwnNamespace+"=1"))
}

// works is the memory of conversions, where so much is for all of them.
func works(limit int64) *memory {
	return newMemory(&converter.Runner{Program: "/proc/self/exe", Bound: limit})
}

// needMounts skips a test where no image can be mounted.
func needMounts(t *testing.T) {
	t.Helper()
	if os.Getenv(inOwnNamespace) == "" {
		t.Skip("skipped: mounting needs root and a mount namespace of our own")
	}
	known, err := os.ReadFile("/proc/filesystems")
	if err != nil || !strings.Contains(string(known), "\terofs\n") {
		t.Skip("skipped: this kernel has no erofs")
	}
}
