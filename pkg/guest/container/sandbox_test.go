package container

import (
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

func TestSandboxBoundsLeaveTheAgentItsShare(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   guestSize
		want bounds
	}{
		{"a small guest", guestSize{available: 200 << 20, threads: 2000}, bounds{168 << 20, 1744}},
		{"a large guest", guestSize{available: 64 << 30, threads: 500_000}, bounds{64<<30 - 32<<20, 499_744}},
		{"hardly anything", guestSize{available: 40 << 20, threads: 100}, bounds{20 << 20, 50}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.in.bounds(); got != tt.want {
				t.Errorf("bounds = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestSandboxCgroupGrowsWithTheGuest(t *testing.T) {
	proc, dir := t.TempDir(), filepath.Join(t.TempDir(), "pod")
	size := func(total, available string) {
		t.Helper()
		text := "MemTotal:      " + total + " kB\nMemFree:  1 kB\nMemAvailable:  " + available + " kB\n"
		if err := os.WriteFile(filepath.Join(proc, "meminfo"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	memory := func() int {
		t.Helper()
		raw, err := os.ReadFile(filepath.Join(dir, "memory.max"))
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(string(raw))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if err := os.MkdirAll(filepath.Join(proc, "sys/kernel"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(proc, "sys/kernel/threads-max"), []byte("2000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	size("300000", "200000")
	s, err := newSandboxCgroup(dir, proc, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := memory(), 200000<<10-32<<20; got != want {
		t.Errorf("memory.max = %d, want %d", got, want)
	}
	for _, step := range []struct{ total, available string }{
		{"431072", "150000"}, // 128 MiB more, and the containers use some
		{"400000", "150000"}, // the balloon takes some
	} {
		size(step.total, step.available)
		if err := s.grow(); err != nil {
			t.Fatal(err)
		}
		if got, want := memory(), 200000<<10-32<<20+128<<20; got != want {
			t.Errorf("memory.max of a guest with %s kB = %d, want %d", step.total, got, want)
		}
	}
}

func TestMeminfoWithoutTheLineIsAnError(t *testing.T) {
	if _, err := memoryLine("MemTotal: 1 kB\n", "MemAvailable:"); err == nil {
		t.Error("a missing line was read")
	}
}
