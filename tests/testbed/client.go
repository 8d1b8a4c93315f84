package testbed

import (
	"context"
	"fmt"
	"net"

	"github.com/containernetworking/plugins/pkg/ns"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Dial connects from inside the host's network, as a process of the host would.
func (h *Host) Dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	if h.machine != nil {
		return h.machine.dial(addr)
	}
	netns, err := ns.GetNS(fmt.Sprintf("/proc/%d/ns/net", h.Pid()))
	if err != nil {
		return nil, err
	}
	defer netns.Close()
	err = netns.Do(func(ns.NetNS) error {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// RESTConfig is the administrator's access to the host's cluster, from outside of the host.
func (h *Host) RESTConfig() (*rest.Config, error) {
	file, dial := "", h.Dial
	if h.machine != nil {
		file, dial = h.machine.kubeconfig(), nil // by the forwarded port
	} else {
		file = h.Path("/etc/nodeless/kubeconfig")
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil {
		return nil, err
	}
	cfg.Dial = dial
	cfg.QPS, cfg.Burst = 1000, 1000
	return cfg, nil
}
