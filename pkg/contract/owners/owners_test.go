package owners

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const self = "/proc/self/exe"

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == Hold {
		Holder(os.Stdin, os.Stdout)
		return
	}
	if where := os.Getenv("NODELESS_TEST_HIDDEN"); where != "" { // in a mount namespace of its own
		err := unix.Mount("/etc/hostname", where, "", unix.MS_BIND, "")
		if err == nil {
			_, err = New(self)
		}
		fmt.Print(errors.Is(err, ErrUnknown), " ", err)
		return
	}
	os.Exit(m.Run())
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: only root gives users away")
	}
}

func TestTrees(t *testing.T) {
	for value, want := range map[string][2]int{"": {}, "4,5": {4, 5}, "5,4": {5, 4}} {
		programs, share, err := Trees(value)
		if err != nil || programs != want[0] || share != want[1] {
			t.Errorf("Trees(%q) = %d, %d, %v", value, programs, share, err)
		}
	}
	for _, value := range []string{"4", "4,", ",5", "4,4", "2,5", "4,-1", "a,b"} {
		if programs, share, err := Trees(value); err == nil {
			t.Errorf("Trees(%q) = %d, %d, want an error", value, programs, share)
		}
	}
}

// TestWhatCanBeShown: a file system in memory can, /proc cannot, and what is not there is not missed.
func TestWhatCanBeShown(t *testing.T) {
	needRoot(t)
	for folder, unknown := range map[string]bool{"/dev/shm": false, "/proc": true, "/no/such": false} {
		users, err := For(self, folder)
		if errors.Is(err, ErrUnknown) != unknown || !unknown && err != nil {
			t.Errorf("%s: %v, want ErrUnknown: %v", folder, err, unknown)
		}
		if err := users.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestNoUsersWithoutAJail: where a part of the host's /proc is hidden they could have none of their own.
func TestNoUsersWithoutAJail(t *testing.T) {
	needRoot(t)
	cmd := exec.Command(self)
	cmd.Env = []string{"NODELESS_TEST_HIDDEN=/proc/version"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS} // and its mounts are private
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "true ") || !strings.Contains(string(out), "hides") {
		t.Errorf("New = %s (%v), want ErrUnknown, and why", out, err)
	}
}

// TestMapIsForGood: what belongs to root belongs to the Pod's own user outside, and a mapped mount is not mapped again.
func TestMapIsForGood(t *testing.T) {
	needRoot(t)
	users, err := New(self)
	if err != nil {
		t.Fatal(err)
	}
	defer users.Close()
	dir := t.TempDir()
	for name, uid := range map[string]int{"root": 0, "one": 1, "last": lastUser} {
		if err := errors.Join(os.WriteFile(filepath.Join(dir, name), nil, 0o600), os.Chown(filepath.Join(dir, name), uid, uid)); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := users.Show(dir, true)
	if errors.Is(err, ErrUnknown) {
		t.Skipf("skipped: temporary files are on a file system that cannot be mapped: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	for name, want := range map[string]uint32{"root": First + uint32(os.Getpid()), "one": others, "last": others + lastUser - 1} {
		var st unix.Stat_t
		if err := unix.Fstatat(int(tree.Fd()), name, &st, 0); err != nil || st.Uid != want || st.Gid != want {
			t.Errorf("%s belongs to %d:%d, %v; want %d", name, st.Uid, st.Gid, err, want)
		}
	}
	if err := users.Map(int(tree.Fd())); !errors.Is(err, ErrUnknown) {
		t.Errorf("a second Map = %v", err)
	}
	var nobody *Users
	if err := errors.Join(nobody.Map(-1), nobody.Close()); err != nil {
		t.Errorf("no users: %v", err)
	}
}
