package robustness_test

import (
	"context"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeless/nodeless/tests/testbed"
	"github.com/nodeless/nodeless/tests/testcluster"
)

// traces are all that a product may leave on a host.
type traces struct {
	Processes, Mounts, Links, Addresses, Routes, Rules, Cgroups, Files, Leftovers []string
}

// settle waits until the host's own links have their IPv6 addresses, and makes what mount(8) makes on every machine.
func settle(t *testing.T, c *testcluster.Cluster) {
	t.Helper()
	const settled = `mkdir -p /run/mount; until ip -6 -o addr show dev eth0 scope link | grep -q . && ! ip -6 addr | grep -q tentative; do sleep 0.1; done`
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := c.Host.Exec(ctx, "sh", "-c", settled); err != nil {
		t.Fatal(err)
	}
}

// TestFaultPodUninstall: after a life with killed and hanging Pods and a killed server, `nodeless uninstall` leaves a
// host that differs in nothing from the one before.
func TestFaultPodUninstall(t *testing.T) {
	full(t)
	c := &testcluster.Cluster{Host: newHost(t, testbed.Options{})}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("stop cluster: %v", err)
		}
	})
	settle(t, c)
	before := tracesOf(t, c)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := newSpace(t, c, 10*time.Minute)
	for _, kind := range []string{"", qemu, shim} {
		p := s.admit("p"+kind, nurse("p"+kind, "Always", false))
		p.within(replaced, "runs", alive)
		switch kind {
		case qemu:
			p.signal(kind, syscall.SIGSTOP)
		case shim:
			p.signal(kind, syscall.SIGKILL)
		}
	}
	s.admit("late", nurse("late", "Always", false)).await(vmm)
	if err := s.Kill(s.Ctx); err != nil {
		t.Fatal(err)
	}
	out, err := c.Host.Nodeless(s.Ctx, "uninstall", "--yes", "--cgroup-root="+c.Host.Cgroup)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, tracesOf(t, c)); diff != "" {
		t.Errorf("the host differs from before (-before +after):\n%s\nuninstall said:\n%s", diff, out)
	}
}

// tracesOf looks at the whole host.
func tracesOf(t *testing.T, c *testcluster.Cluster) traces {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	must := func(list []string, err error) []string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(list)
		return list
	}
	lines := func(args ...string) []string {
		out, err := c.Host.Exec(ctx, args...)
		return must(strings.Split(out, "\n"), err)
	}
	processes, err := c.Host.Processes()
	var commands []string
	for _, line := range processes {
		commands = append(commands, line)
	}
	return traces{
		Processes: must(commands, err),
		Mounts:    must(c.Host.Mounts()),
		Links:     must(c.Host.Links(ctx)),
		Addresses: lines("ip", "-o", "-4", "addr"),
		Routes:    lines("ip", "route", "show", "table", "all"),
		Rules:     must(c.Host.Rules(ctx)),
		Cgroups:   must(c.Host.Cgroups()),
		Files:     must(filesIn(c, "/etc", "/run", "/var", "/usr/local")),
		Leftovers: must(c.Host.Leftovers(ctx)),
	}
}

// filesIn lists every file below the folders of the host.
func filesIn(c *testcluster.Cluster, dirs ...string) ([]string, error) {
	var found []string
	root := c.Host.Path("/")
	for _, dir := range dirs {
		err := filepath.WalkDir(c.Host.Path(dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			found = append(found, d.Type().String()+" "+strings.TrimPrefix(path, root))
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}
