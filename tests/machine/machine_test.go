// Package machine_test holds what only a whole machine shows: KVM, cgroup v2, systemd. The product is installed in the machine that
// NODELESS_MACHINE names; scripts/machine.sh makes one and calls these tests (docs/machine.md).
//
// Tests named TestVMM need a bundle that is laid out, and so does TestMachineDevicePassThrough; the others named TestMachine need a server.
package machine_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nodeless/nodeless/tests/testbed"
	"github.com/nodeless/nodeless/tests/testcluster"
)

// host is the machine, set by TestMain.
var host *testbed.Host

func TestMain(m *testing.M) {
	var err error
	if host, err = testbed.Attach(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if host == nil {
		fmt.Printf("skipped: %s names no machine; `make machine` makes one\n", testbed.MachineEnv)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// newSpace makes a namespace for a test in the machine's cluster.
func newSpace(t *testing.T, timeout time.Duration) *testcluster.Space {
	t.Helper()
	c := &testcluster.Cluster{Host: host}
	if err := c.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	return testcluster.NewSpace(t, c, timeout)
}

// onHost runs a shell script in the machine and gives what it prints, without the space around it.
func onHost(t *testing.T, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), host.Patience(2*time.Minute))
	defer cancel()
	out, err := host.Exec(ctx, "sh", "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// processes gives the command lines of the machine's processes that have a text, by their pids.
func processes(t *testing.T, text string) map[int]string {
	t.Helper()
	all, err := host.Processes()
	if err != nil {
		t.Fatal(err)
	}
	found := map[int]string{}
	for pid, line := range all {
		if strings.Contains(line, text) {
			found[pid] = line
		}
	}
	return found
}
