package kubelet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/tests/attack"
)

// TestAttackAVolumeThatCannotBeRemoved: a guest leaves folders below each other, more than a process may have open.
func TestAttackAVolumeThatCannotBeRemoved(t *testing.T) {
	var had unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &had); err != nil {
		t.Fatal(err)
	}
	few := had
	few.Cur = min(1024, had.Max)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &had); err != nil {
			t.Error(err)
		}
	}()
	attack.Try(t, "T4", "ten thousand folders below each other", func(t *testing.T) attack.Outcome {
		root, outside := t.TempDir(), filepath.Join(t.TempDir(), "precious")
		if err := os.WriteFile(outside, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		fd := tall(t, root, 10_000)
		defer unix.Close(fd)
		if err := errors.Join(unix.Symlinkat(filepath.Dir(outside), fd, "link"), unix.Mkfifoat(fd, "fifo", 0o600), os.Symlink(outside, filepath.Join(root, "link"))); err != nil {
			t.Fatal(err)
		}
		if err := empty(root); err != nil {
			t.Errorf("empty: %v", err)
		}
		left, err := os.ReadDir(root)
		if err != nil || len(left) > 0 {
			t.Errorf("left %v, %v", left, err)
		}
		if _, err := os.Stat(outside); err != nil {
			t.Errorf("behind a link: %v", err)
		}
		return attack.Contained
	})
}

func TestEmptyOfNothing(t *testing.T) {
	if err := empty(filepath.Join(t.TempDir(), "none")); err != nil {
		t.Error(err)
	}
	root := t.TempDir()
	for i := range 3000 {
		if err := os.Mkdir(filepath.Join(root, fmt.Sprint(i)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := empty(root); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(root); err != nil || len(left) > 0 {
		t.Errorf("left %d, %v", len(left), err)
	}
}
