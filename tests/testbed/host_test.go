package testbed_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodeless/nodeless/tests/testbed"
)

func TestMain(m *testing.M) {
	testbed.Reexec()
	os.Exit(m.Run())
}

func newHost(t *testing.T) *testbed.Host {
	t.Helper()
	h, err := testbed.New(testbed.Options{Program: "/bin/true"})
	if errors.Is(err, testbed.ErrNeeds) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestHostIsApartFromTheMachine(t *testing.T) {
	h := newHost(t)
	defer func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}()
	ctx := t.Context()
	links, err := h.Exec(ctx, "ip", "-o", "addr")
	if err != nil || !strings.Contains(links, testbed.NodeIP) {
		t.Errorf("addresses = %q, %v; want %s", links, err, testbed.NodeIP)
	}
	if _, err := h.Exec(ctx, "sh", "-c", "mkdir -p /etc/nodeless && echo x > /etc/nodeless/made && echo y > /var/lib/nodeless/made && echo z > /run/made"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/etc/nodeless/made"); err == nil {
		t.Error("a file written inside the host appeared on the machine")
	}
	if got, err := os.ReadFile(filepath.Join(h.Root, "data", "made")); err != nil || string(got) != "y\n" {
		t.Errorf("data dir on the machine = %q, %v", got, err)
	}
	if got, err := os.ReadFile(h.Path("/run/made")); err != nil || string(got) != "z\n" {
		t.Errorf("Path = %q, %v", got, err)
	}
}

func TestExecCarriesCodeAndStderr(t *testing.T) {
	h := newHost(t)
	defer h.Close()
	_, err := h.Exec(t.Context(), "sh", "-c", "echo why >&2; exit 7")
	var ce *testbed.CommandError
	if !errors.As(err, &ce) || ce.Code != 7 || ce.Stderr != "why\n" {
		t.Errorf("Exec = %v, want code 7 and the reason", err)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	h := newHost(t)
	// A daemon that nobody waits for must go with the host.
	if _, err := h.Exec(context.Background(), "sh", "-c", "sleep 1000 >/dev/null 2>&1 &"); err != nil {
		t.Fatal(err)
	}
	root := h.Root
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(root); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", root, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), root) {
		t.Errorf("mounts of the host are left on the machine: %v", err)
	}
}

func TestLeftoversSeesPlantedOnes(t *testing.T) {
	h := newHost(t)
	defer h.Close()
	ctx := t.Context()
	if left, err := h.Leftovers(ctx); err != nil || len(left) != 0 {
		t.Fatalf("empty host: %q, %v", left, err)
	}
	for _, plant := range []string{
		"mkdir -p /run/vc/vm/abc /run/netns && touch /run/netns/cni-1",
		"ip link add nl1234abcd type bridge",
		"mkdir -p /var/lib/nodeless/agent/scratch && touch /var/lib/nodeless/agent/scratch/abc.ext4",
		"mkdir -p /run/kata-containers/x && mount -t tmpfs x /run/kata-containers/x",
		"mkdir -p /run/containerd/s && touch /run/containerd/s/abcd",
		"mkdir -p /var/lib/nodeless/agent/cni/nodeless && cd /var/lib/nodeless/agent/cni/nodeless && touch 10.42.0.9 last_reserved_ip.0 lock",
	} {
		if _, err := h.Exec(ctx, "sh", "-c", plant); err != nil {
			t.Fatal(err)
		}
	}
	left, err := h.Leftovers(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(strings.Join(left, "\n"), "last_reserved_ip") {
		t.Errorf("the address store's own file counts as left: %q", left)
	}
	for _, want := range []string{"/run/vc/vm/abc", "netns/cni-1", "nl1234abcd", "abc.ext4", "mount /run/kata-containers/x", "/run/containerd/s/abcd", "cni/nodeless/10.42.0.9"} {
		if !strings.Contains(strings.Join(left, "\n"), want) {
			t.Errorf("Leftovers misses %s: %q", want, left)
		}
	}
}

func TestPowerCutIsANewBootOnTheSameDisks(t *testing.T) {
	h, err := testbed.New(testbed.Options{Program: "/bin/true", Hostname: "alpha"})
	if errors.Is(err, testbed.ErrNeeds) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}()
	look := func() string {
		t.Helper()
		out, err := h.Exec(t.Context(), "sh", "-c", "hostname; cat /proc/sys/kernel/random/boot_id")
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	before := look()
	if _, err := h.Exec(t.Context(), "sh", "-c", "echo d > /var/lib/nodeless/f; echo e > /etc/f; echo r > /run/f; sleep 100 >/dev/null 2>&1 &"); err != nil {
		t.Fatal(err)
	}
	if err := h.PowerCut(); err != nil {
		t.Fatal(err)
	}
	after := look()
	if !strings.HasPrefix(after, "alpha\n") || after == before {
		t.Errorf("host name and boot are %q, before %q", after, before)
	}
	if out, err := h.Exec(t.Context(), "sh", "-c", "cat /var/lib/nodeless/f /etc/f; ls /run"); err != nil || out != "d\ne\n" {
		t.Errorf("files after the cut: %q, %v", out, err)
	}
	all, err := h.Processes()
	if err != nil {
		t.Fatal(err)
	}
	for pid, line := range all {
		if strings.Contains(line, "sleep") {
			t.Errorf("process %d lived on: %s", pid, line)
		}
	}
}
