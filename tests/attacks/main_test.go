// Package attacks_test tries what the threat list (docs/security.md) names, from within Pods in microVMs and with tenants' kubeconfigs.
// What it attacks is the product as built, in a test host of its own, with its default settings but for keptContainers. It needs root and
// `make build`.
//
// Attacks that need no microVM are tests beside what they attack: pkg/server, pkg/worker, tests/netns and others, by the name TestAttack….
package attacks_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/nodeless/nodeless/tests/testbed"
	"github.com/nodeless/nodeless/tests/testcluster"
	"github.com/nodeless/nodeless/tests/testregistry"
)

// The server and the registry that the tests share, set by TestMain. Each test keeps to namespaces of its own.
var (
	shared   = &testcluster.Cluster{Flags: []string{fmt.Sprint("--kubelet-arg=maximum-dead-containers=", keptContainers)}}
	registry *testregistry.Registry
)

func TestMain(m *testing.M) {
	testbed.Reexec()
	os.Exit(testcluster.Main(m, shared, func(h *testbed.Host) (_ *testregistry.Registry, err error) {
		registry, err = newRegistry(h)
		return registry, err
	}))
}
