// Package attacks_test tries, from within Pods in microVMs and with tenants' kubeconfigs, what the threat list (docs/security.md) names: the
// product as built, with its default settings, in a test host of its own. It needs root and `make build`.
//
// Attacks that need no microVM are tests beside what they attack: pkg/server, pkg/worker, tests/netns and others, by the name TestAttack….
package attacks_test

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

// The server and the registry that the tests share, set by TestMain. Each test keeps to namespaces of its own.
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

func startShared() (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	host, err := testbed.New(testbed.Options{})
	if err != nil {
		return err
	}
	shared = &testcluster.Cluster{Host: host}
	if registry, err = newRegistry(host); err != nil {
		return errors.Join(err, shared.Close())
	}
	if err := shared.Start(ctx); err != nil {
		return errors.Join(err, registry.Close(), shared.Close())
	}
	return nil
}
