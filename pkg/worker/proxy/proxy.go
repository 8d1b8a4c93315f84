// Package proxy runs kube-proxy in this process, in nftables mode: it makes Service addresses work on this host.
// pkg/worker starts it once the Node object exists. It needs the nft program in PATH.
//
// It uses kube-proxy's options rather than its command: the command would redirect all logging of the process and
// ignore the end of its context.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"

	"github.com/spf13/pflag"
	"k8s.io/component-base/configz"
	proxyapp "k8s.io/kubernetes/cmd/kube-proxy/app"

	"github.com/nodeless/nodeless/pkg/kube"
	"github.com/nodeless/nodeless/pkg/kube/kubeflags"
	"github.com/nodeless/nodeless/pkg/run"
)

const (
	healthzAddress = "127.0.0.1:10256"
	metricsAddress = "127.0.0.1:10249"
	// configzName is what kube-proxy registers its settings under.
	configzName = "kubeproxy.config.k8s.io"
)

// Config is what kube-proxy needs to know.
type Config struct {
	Kubeconfig  string
	NodeName    string
	ClusterCIDR netip.Prefix
	// NodePortsAt are the addresses of the host that node ports are open at, besides the Node's own, which is the gateway of its Pods.
	NodePortsAt []netip.Prefix
	ExtraArgs   []string // an operator's "name=value", on top of everything
}

// Validate reports all faults at once.
func (c Config) Validate() error {
	var errs []error
	if c.Kubeconfig == "" {
		errs = append(errs, errors.New("proxy: no kubeconfig"))
	}
	if c.NodeName == "" {
		errs = append(errs, errors.New("proxy: no node name"))
	}
	if !c.ClusterCIDR.IsValid() {
		errs = append(errs, errors.New("proxy: no cluster range"))
	}
	return errors.Join(errs...)
}

// Args are the arguments of kube-proxy for c. The conntrack settings and the OOM score belong to the whole host
// and the whole process: they are not kube-proxy's to change here.
func Args(c Config) []string {
	return append([]string{
		"--bind-address-hard-fail=true",
		"--cluster-cidr=" + c.ClusterCIDR.String(),
		"--conntrack-max-per-core=0",
		"--conntrack-tcp-timeout-close-wait=0s",
		"--conntrack-tcp-timeout-established=0s",
		"--healthz-bind-address=" + healthzAddress,
		"--hostname-override=" + c.NodeName,
		"--iptables-min-sync-period=100ms", // of every mode but ipvs, whatever its name says
		"--kubeconfig=" + c.Kubeconfig,
		"--metrics-bind-address=" + metricsAddress,
		"--nodeport-addresses=" + nodePorts(c.NodePortsAt),
		"--oom-score-adj=0",
		"--proxy-mode=nftables",
	}, kubeflags.Extra(c.ExtraArgs)...)
}

// nodePorts is primary, the Node's own address, and the ranges. All of IPv4 is whatever address the host has at the moment but its
// loopback.
func nodePorts(at []netip.Prefix) string {
	out := []string{"primary"}
	for _, p := range at {
		out = append(out, p.String())
	}
	return strings.Join(out, ",")
}

// Proxy is the component.
type Proxy struct {
	cfg Config
	log *slog.Logger
}

var (
	_ run.Component = (*Proxy)(nil)
	_ run.Readier   = (*Proxy)(nil)
)

// New gives a proxy that has not touched the host yet.
func New(cfg Config, log *slog.Logger) *Proxy { return &Proxy{cfg: cfg, log: log} }

// Name is "proxy".
func (p *Proxy) Name() string { return "proxy" }

// Run keeps Service rules until ctx ends. kube-proxy itself never returns; what is left of it ends with the process.
// The rules stay: Pods run on without us and need them.
func (p *Proxy) Run(ctx context.Context) error {
	if err := p.cfg.Validate(); err != nil {
		return err
	}
	opts := proxyapp.NewOptions()
	flags := pflag.NewFlagSet("kube-proxy", pflag.ContinueOnError)
	opts.AddFlags(flags)
	if err := flags.Parse(Args(p.cfg)); err != nil {
		return fmt.Errorf("set options of kube-proxy: %w", err)
	}
	if err := opts.Complete(flags); err != nil {
		return fmt.Errorf("complete options of kube-proxy: %w", err)
	}
	if err := opts.Validate(); err != nil {
		return fmt.Errorf("check options of kube-proxy: %w", err)
	}
	defer configz.Delete(configzName)
	ended := make(chan error, 2)
	go func() { ended <- opts.Run(ctx) }()
	go func() {
		if p.Ready(ctx) != nil {
			return // over
		}
		fault := func(err error) {
			select {
			case ended <- err:
			default: // one is enough
			}
		}
		if !stay(managerOf(opts), p.cfg.NodeName, fault) {
			p.log.Warn("kube-proxy would end the server if the host's Node were deleted: this version is not known")
		}
	}()
	select {
	case <-ctx.Done():
		return nil
	case err := <-ended:
		if err != nil {
			return fmt.Errorf("run kube-proxy: %w", err)
		}
		return nil
	}
}

// Ready waits until kube-proxy says it is healthy.
func (p *Proxy) Ready(ctx context.Context) error {
	return kube.Wait(ctx, "kube-proxy's healthz", func(ctx context.Context) (bool, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+healthzAddress+"/livez", nil)
		if err != nil {
			return false, kube.Permanent(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return false, err
		}
		if err := res.Body.Close(); err != nil {
			return false, err
		}
		if res.StatusCode != http.StatusOK {
			return false, fmt.Errorf("status %s", res.Status)
		}
		return true, nil
	})
}
