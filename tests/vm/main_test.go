// Package vm_test runs real Pods in real microVMs: the product as built, one server for all tests, in a test host
// of its own. It needs root and `make build`; without /dev/kvm the microVMs run under emulation (TCG).
package vm_test

import (
	"os"
	"testing"

	"github.com/nodeless/nodeless/tests/testbed"
	"github.com/nodeless/nodeless/tests/testcluster"
	"github.com/nodeless/nodeless/tests/testregistry"
)

// The server and the registry that the tests share, set by TestMain. Each test keeps to a namespace of its own; those that
// may, run beside others.
var (
	shared = &testcluster.Cluster{Flags: []string{ // what tests cannot do without; reservations have prices in CNY
		"--host-path=persistentvolumesoutlivetheirpods", "--spot-notice=20s", "--currency=CNY",
	}}
	registry *testregistry.Registry
)

func TestMain(m *testing.M) {
	testbed.Reexec()
	os.Exit(testcluster.Main(m, shared, func(h *testbed.Host) (_ *testregistry.Registry, err error) {
		registry, err = newRegistry(h)
		return registry, err
	}))
}
