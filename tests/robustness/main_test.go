// Package robustness_test injects faults into a running cluster and checks what must hold through them. Each fault is
// one test named TestFault…; `make robustness FAULT=name` runs those whose name contains it. README.md keeps the
// record of the bugs each one found.
//
// It needs root and `make build`; without /dev/kvm the microVMs run under emulation. With -short, as in `make test`,
// faults are fewer and smaller.
package robustness_test

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/nodeless/nodeless/tests/testbed"
	"github.com/nodeless/nodeless/tests/testcluster"
)

// shared is the cluster of the faults that need none of their own; started by the first that asks for it.
var shared *testcluster.Cluster

func TestMain(m *testing.M) {
	testbed.Reexec()
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	defer func() {
		if shared == nil {
			return
		}
		if err := shared.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "stop shared cluster:", err)
			code = 1
		}
	}()
	return m.Run()
}

// sharedCluster gives the cluster that faults use one after the other, each in a namespace of its own, and leave
// running. One whose server has ended is replaced.
func sharedCluster(t *testing.T) *testcluster.Cluster {
	t.Helper()
	if shared != nil && shared.Ended() {
		t.Logf("the shared cluster's server had ended; a new cluster takes its place\n%s", shared.Server.Tail(10))
		if err := shared.Close(); err != nil {
			t.Log(err)
		}
		shared = nil
	}
	if shared == nil {
		shared = startCluster(t, testbed.Options{}, "--snapshot-interval=5s")
	}
	return shared
}

// newCluster gives a cluster for this test alone. Its server has the flags.
func newCluster(t *testing.T, opts testbed.Options, flags ...string) *testcluster.Cluster {
	t.Helper()
	c := startCluster(t, opts, flags...)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("stop cluster: %v", err)
		}
	})
	return c
}

func startCluster(t *testing.T, opts testbed.Options, flags ...string) *testcluster.Cluster {
	t.Helper()
	host := newHost(t, opts)
	c := &testcluster.Cluster{Host: host, Flags: flags}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(errors.Join(err, c.Close()))
	}
	return c
}

// newHost makes a host and skips the test where none can be made.
func newHost(t *testing.T, opts testbed.Options) *testbed.Host {
	t.Helper()
	host, err := testbed.New(opts)
	if errors.Is(err, testbed.ErrNeeds) {
		t.Skip("skipped:", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return host
}

// count is n, or few with -short.
func count(n, few int) int {
	if testing.Short() {
		return few
	}
	return n
}
