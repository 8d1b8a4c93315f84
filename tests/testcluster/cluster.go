// Package testcluster runs the product's server in a test host, replaces it when a test has ended it, and gives each test
// a namespace of its own in it.
package testcluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/nodeless/nodeless/tests/testbed"
)

// startTimeout is how long a server may take from its start to a Ready node.
const startTimeout = 2 * time.Minute

// Cluster is a server in a test host, or the service of another machine. Make it with its Host and Flags, then Start it.
type Cluster struct {
	Host   *testbed.Host
	Flags  []string // of the server, each time it starts; a service has those of its installation
	Server *testbed.Server
	REST   *rest.Config
	Client *kubernetes.Clientset
}

// Start starts the server, the first or a next one, and waits for the Node and for what Pods need.
func (c *Cluster) Start(ctx context.Context) error {
	if err := c.Launch(); err != nil {
		return err
	}
	return c.UntilUsable(ctx)
}

// Launch starts the server and waits for nothing. A machine's service runs already.
func (c *Cluster) Launch() (err error) {
	if c.Host.IsMachine() {
		c.Server = c.Host.Service()
		return nil
	}
	c.Server, err = c.Host.StartServer(c.Flags...)
	return err
}

// UntilUsable waits until the server that was launched takes Pods, and connects to it.
func (c *Cluster) UntilUsable(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.Host.Patience(startTimeout))
	defer cancel()
	if err := c.Server.UntilNodeReady(ctx); err != nil {
		return err
	}
	if err := c.Server.UntilOutput(ctx, "default", "get", "serviceaccount", "default", "-o", "jsonpath={.metadata.name}"); err != nil {
		return err
	}
	return c.connect()
}

// connect makes the clients. Their certificates stay valid over restarts of the server.
func (c *Cluster) connect() (err error) {
	if c.REST, err = c.Host.RESTConfig(); err != nil {
		return err
	}
	c.Client, err = kubernetes.NewForConfig(c.REST)
	return err
}

// Kill ends the server by SIGKILL and waits until it is dead.
func (c *Cluster) Kill(ctx context.Context) error {
	if err := c.Server.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := c.Server.Wait(ctx); errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("kill server: still there: %w", err)
	}
	return nil
}

// Ended tells whether the server has ended, by itself or by a fault, or was never started.
func (c *Cluster) Ended() bool {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return c.Server == nil || !errors.Is(c.Server.Wait(ctx), context.Canceled)
}

// Close stops the server and removes the host. A machine and its service are left as they are.
func (c *Cluster) Close() error {
	var err error
	if !c.Host.IsMachine() && !c.Ended() {
		err = c.Server.Stop()
	}
	return errors.Join(err, c.Host.Close())
}

// OwnHost skips a test that looks at its host in ways that a machine reached by ssh does not offer. why names them.
func (c *Cluster) OwnHost(t *testing.T, why string) {
	t.Helper()
	if c.Host.IsMachine() {
		t.Skipf("skipped: needs a test host on this machine: %s", why)
	}
}

// Processes gives the pids of the host's processes whose command line has the text, as Host.Kill wants them.
func (c *Cluster) Processes(t *testing.T, text string) []int {
	t.Helper()
	all, err := c.Host.Processes()
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for pid, line := range all {
		if strings.Contains(line, text) {
			pids = append(pids, pid)
		}
	}
	return pids
}
