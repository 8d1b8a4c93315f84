package testcluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/nodeless/nodeless/tests/testbed"
	"github.com/nodeless/nodeless/tests/testregistry"
)

const (
	// RegistryPort is where ServeRegistry serves, at the host's address.
	RegistryPort = "5443"
	// RegistryCA is the host's file of who vouches for that registry.
	RegistryCA = "/etc/nodeless/registry-ca.pem"
)

// Main runs a package's tests with one server that they share, in a host that it makes, and returns the exit code. prepare is called
// before the server is started, and leaves in the host what the server reads. The registry that it gives is closed at the end. On a
// machine that lacks what hosts need it runs no test, and says so.
func Main(m *testing.M, c *Cluster, prepare func(*testbed.Host) (*testregistry.Registry, error)) (code int) {
	stop, err := c.start(prepare)
	if errors.Is(err, testbed.ErrNeeds) {
		fmt.Println("skipped:", err)
		return 0
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "start cluster:", err)
		return 1
	}
	defer func() {
		if err := stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stop cluster:", err)
			code = 1
		}
	}()
	return m.Run()
}

func (c *Cluster) start(prepare func(*testbed.Host) (*testregistry.Registry, error)) (stop func() error, err error) {
	if c.Host, err = testbed.Attach(); err != nil {
		return nil, err
	}
	if c.Host != nil {
		return c.Close, c.Start(context.Background())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	if c.Host, err = testbed.New(testbed.Options{}); err != nil {
		return nil, err
	}
	registry, err := prepare(c.Host)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	stop = func() error { return errors.Join(registry.Close(), c.Close()) }
	if err := c.Start(ctx); err != nil {
		return nil, errors.Join(err, stop())
	}
	return stop, nil
}

// ServeRegistry serves a registry inside a host's network and tells the host about it: its names, who vouches for it, and the operator's
// file of registries.
func ServeRegistry(h *testbed.Host, r *testregistry.Registry, file string, names string) error {
	space, err := ns.GetNS(fmt.Sprintf("/proc/%d/ns/net", h.Pid()))
	if err != nil {
		return err
	}
	defer space.Close()
	var l net.Listener
	err = space.Do(func(ns.NetNS) (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(testbed.NodeIP, RegistryPort))
		return err
	})
	if err != nil {
		return err
	}
	r.Serve(l, false)
	hosts, err := os.ReadFile(h.Path("/etc/hosts"))
	if err != nil {
		return err
	}
	return errors.Join(
		os.MkdirAll(h.Path("/etc/nodeless"), 0o755),
		os.WriteFile(h.Path("/etc/hosts"), append(hosts, testbed.NodeIP+" "+names+"\n"...), 0o644),
		os.WriteFile(h.Path(RegistryCA), r.CA, 0o644),
		os.WriteFile(h.Path("/etc/nodeless/registries.yaml"), []byte(file), 0o600),
	)
}
