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

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/nodeless/nodeless/tests/testbed"
	"github.com/nodeless/nodeless/tests/testregistry"
)

// cluster is the server that the tests share.
type cluster struct {
	host     *testbed.Host
	server   *testbed.Server // replaced by the test that kills it
	rest     *rest.Config
	registry *testregistry.Registry
	client   *kubernetes.Clientset
}

// shared is set by TestMain. Tests run one after the other and keep to namespaces of their own.
var shared *cluster

func TestMain(m *testing.M) {
	testbed.Reexec()
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	var err error
	shared, err = startCluster()
	if errors.Is(err, testbed.ErrNeeds) {
		fmt.Println("skipped:", err)
		return 0
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "start cluster:", err)
		return 1
	}
	defer func() {
		if err := shared.stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stop cluster:", err)
			code = 1
		}
	}()
	return m.Run()
}

func startCluster() (_ *cluster, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	c := &cluster{}
	if c.host, err = testbed.New(testbed.Options{}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.host.Close())
		}
	}()
	if c.registry, err = newRegistry(c.host); err != nil {
		return nil, err
	}
	if err := c.startServer(ctx); err != nil {
		return nil, err
	}
	if c.rest, err = c.host.RESTConfig(); err != nil {
		return nil, err
	}
	c.client, err = kubernetes.NewForConfig(c.rest)
	return c, err
}

// startServer starts the server, the first or a next one, and waits for the Node and for what Pods need.
func (c *cluster) startServer(ctx context.Context) (err error) {
	if c.server, err = c.host.StartServer(); err != nil {
		return err
	}
	if err := c.server.UntilNodeReady(ctx); err != nil {
		return err
	}
	return c.server.UntilOutput(ctx, "default", "get", "serviceaccount", "default", "-o", "jsonpath={.metadata.name}")
}

func (c *cluster) stop() error {
	return errors.Join(c.server.Stop(), c.registry.Close(), c.host.Close())
}
