// Package vm_test runs real Pods in real microVMs: the product as built, one server for all tests, in a test host
// of its own. It needs root and `make build`; without /dev/kvm the microVMs run under emulation (TCG).
package vm_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/nodeless/nodeless/tests/testbed"
	"github.com/nodeless/nodeless/tests/testcluster"
	"github.com/nodeless/nodeless/tests/testregistry"
)

// The server and the registry that the tests share, set by TestMain. Each test keeps to a namespace of its own; those that
// may, run beside others.
var (
	shared   *testcluster.Cluster
	registry *testregistry.Registry
)

func TestMain(m *testing.M) {
	testbed.Reexec()
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	err := startShared()
	if errors.Is(err, testbed.ErrNeeds) {
		fmt.Println("skipped:", err)
		return 0
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "start cluster:", err)
		return 1
	}
	defer func() {
		if err := errors.Join(registry.Close(), shared.Close()); err != nil {
			fmt.Fprintln(os.Stderr, "stop cluster:", err)
			code = 1
		}
	}()
	return m.Run()
}

// startShared starts the registry before the server, which reads of it at its start.
func startShared() (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	host, err := testbed.New(testbed.Options{})
	if err != nil {
		return err
	}
	shared = &testcluster.Cluster{Host: host, Flags: []string{"--host-path=persistentvolumesoutlivetheirpods", "--spot-notice=20s", "--currency=CNY"}} // what tests cannot do without; reservations have prices in CNY
	if registry, err = newRegistry(host); err != nil {
		return errors.Join(err, shared.Close())
	}
	if err := shared.Start(ctx); err != nil {
		return errors.Join(err, registry.Close(), shared.Close())
	}
	return nil
}
